//! What the application owes its platform and its customers, asked of the real process over HTTP.
//!
//! Never touches a database server that it did not start.

#![allow(clippy::unwrap_used, reason = "a helper of a test ends the test, like the test itself")]

mod common;
mod live;
mod requests;
mod tenants;
