//! Moves one tenant between two Postgres servers: copy, follow, fence, compare, cut over.
//!
//! Never knows `store`: who owns a tenant is asked and changed through [`Ownership`], what edges do through its own trait.

mod ownership;

pub use ownership::{Change, Control, Ownership, Refusal, Verdict};
