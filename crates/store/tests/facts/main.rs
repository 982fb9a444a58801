//! What the control database promises, shown on a real Postgres.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
mod costs;
mod journal;
mod routes;
mod rows;
mod schema;
mod usage;
