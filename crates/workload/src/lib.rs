//! Traffic with a ledger, and the checker that looks for every acknowledged write afterwards.
//!
//! [`seed`](mod@seed) fills a tenant, [`load`] offers requests and writes down what was acknowledged, [`check`](mod@check) reads the
//! databases, [`verdict`] says in one table and one line how it went. Demo, benches, soak and tests use it.
//!
//! Never shares code with what it judges: no mover, no edge, no application. It knows the fleet application's
//! paths and tables as any customer's developer would, from the outside.

pub mod check;
pub mod ledger;
pub mod load;
pub mod seed;
pub mod verdict;

pub use check::{CheckError, Findings, Stock, TenantPlace, check, check_stock, foreign_rows, take_stock};
pub use ledger::{FenceWrite, Ledger, LedgerError, Write};
pub use load::{Class, Failure, Latencies, Load, LoadConfig, LoadError, LoadHandle, Phase, Report, Target};
pub use seed::{Amounts, SeedError, Seeded, seed, vehicle_ids};
pub use verdict::{LatencyTable, LedgerFigures, MoveFigures, Quantiles, Verdict};
