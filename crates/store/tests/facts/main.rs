//! What the control database promises, shown on a real Postgres.

mod common;
mod journal;
mod routes;
mod rows;
mod schema;
