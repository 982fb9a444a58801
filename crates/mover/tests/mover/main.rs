//! The mover on real servers, a file a subject. One program, that a change of the mover is linked to once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod arrives;
mod back;
mod belongs;
mod beside;
mod budget;
mod common;
mod corruption;
mod down;
mod ends;
mod leaving;
mod loaded;
mod looks;
mod managed;
mod moves;
mod neighbours;
mod numbers;
mod portable;
mod purging;
mod refusals;
mod retention;
mod rules;
mod schemas;
mod sides;
mod standbys;
mod stands;
mod stuck;
mod tls;
mod traps;
mod unfence;
mod versions;
mod zoo;
