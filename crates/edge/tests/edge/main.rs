//! The edge with real sockets on all sides.

#![allow(clippy::unwrap_used, reason = "clippy sees tests only in functions marked so, and all of this is a test")]

mod echo;
mod world;

mod answers;
mod balance;
#[cfg(feature = "cluster")]
mod cluster_refusals;
#[cfg(feature = "cluster")]
mod clusters;
mod disk;
mod drains;
mod handovers;
mod holds;
mod hosts;
mod limits;
mod members;
mod mmdb;
mod program_log;
mod raw;
mod regions;
mod restarts;
mod secure_control;
mod secure_tunnels;
mod serving;
mod shuffled;
mod signatures;
mod streams;
mod tls;
mod tunnels;
