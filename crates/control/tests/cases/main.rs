//! Use cases and workflows on a real control database, with a provider that counts what it really made.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cells;
mod certificates;
mod constraints;
mod costs;
mod crash;
mod crash_roll;
mod edges;
mod fleet;
mod hooks;
mod hosts;
mod maintained;
mod modes;
mod orders;
mod recover;
mod regions;
mod registries;
mod releases;
mod restarts;
mod tenants;
mod upkeep;
mod ways;
mod world;
