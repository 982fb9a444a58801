//! Moves as a workflow, on real Postgres: crashes and failures at every point, and two workers on one move.
//! What a move promises inside the databases is tested in `berth-mover`; here it is what the journal adds to that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod archived;
mod beside;
mod brought;
mod crash;
mod crash_archive;
mod judged;
mod kept;
mod late;
mod refused;
mod try_move;
mod vectors;
#[allow(dead_code, reason = "the use cases' tests use the rest of it")]
#[path = "../cases/world.rs"]
mod world;
