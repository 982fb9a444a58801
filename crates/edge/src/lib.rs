//! The edge: takes every request of every tenant and sends it to the cell that holds the tenant.
//!
//! One current-thread runtime per core, each with its own listener, look-up, upstream connections and counters;
//! nothing is shared on a request's way. A coordinator beside them follows the control plane, writes routes and holds
//! to disk, and tells the cores. Never knows the store, and serves on from its last routes when all else is down.
//!
//! Pure parts, tested with tables: [`routing`], `routes`, `limits`, `shared`, `balance`, `health`, `sticky`, `hold`, `book`, `headers`,
//! `framing`, `geo`, `frames`, `meter`, `named`, `second_names`, `pack`, `pulse`, `seldom`, `late`. The shell around them: `serve` (one request), `call`, `pool`, `upstream`,
//! `dial`, `checks`, `request_log`, `tls`, `body`, `drain`, `tunnel`, `worker`, `feed`, `ledger`, `report`, `snapshot`, `settings`, `cluster`, `place`,
//! `handover`, `coordinator`. `measure` times look-ups for a bench.

mod admin;
mod answers;
mod balance;
mod body;
mod book;
mod call;
mod challenges;
mod checks;
mod cluster;
mod config;
mod coordinator;
mod core;
mod dial;
mod drain;
mod feed;
mod frames;
mod framing;
#[cfg(fuzzing)]
pub mod fuzz;
mod geo;
mod handover;
mod headers;
mod health;
mod hold;
mod late;
mod ledger;
mod limits;
#[doc(hidden)]
pub mod measure;
mod meter;
mod named;
mod pack;
mod place;
mod pool;
mod pulse;
mod report;
mod request_log;
mod routes;
mod routing;
mod second_names;
mod seldom;
mod serve;
mod settings;
mod shared;
mod snapshot;
mod sticky;
mod tenant;
mod tls;
mod tunnel;
mod upstream;
mod worker;

pub use config::{EdgeConfig, EdgeError, EdgeErrorKind, Limits, RequestLog};
pub use coordinator::{Edge, run};
pub use geo::{BadGeo, check as check_geo_database};
pub use handover::Sockets;
pub use snapshot::SnapshotError;
