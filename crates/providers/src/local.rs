//! The `local` adapter: cells on this very machine, each a Postgres cluster of its own and one process per member.
//!
//! Everything lies under one folder and lives on when we die; what runs is written down there, and whoever comes next
//! finds it. Nothing is restarted here: `control` sees that a member died and asks for it again.

mod binaries;
mod cgroup;
mod cluster;
mod embedded;
mod files;
mod janitor;
mod process;

pub use embedded::{EmbeddedOptions, EmbeddedPostgres};
pub use janitor::{Afterwards, end_all, record_program, run_janitor};
