//! Contracts of infrastructure: what Berth asks of a place where cells live, whoever runs it.
//!
//! A caller chooses a resource's name, writes it down, and only then asks for the resource. The name is the
//! idempotency key: `ensure_` twice under one name is one thing, also when the first answer was lost. So nothing
//! paid for can exist that no row names, and [`Compute::list_members`] and [`Database::list_databases`] let a sweep
//! find what a lost row left behind.
//!
//! This crate never decides what should exist and never restarts anything: that is `control`. It holds no adapter
//! either, except [`fake`], whose failures are chosen by a test.

mod adapter;
pub mod conformance;
mod contract;
mod error;
pub mod fake;
mod name;
mod origin;
mod outside;
mod spec;
mod unreliable;

pub use adapter::{Adapter, Provider};
pub use contract::{ByteStream, Compute, Database, Observed, Reach, ReachTarget, Stream};
pub use error::{ErrorKind, ProviderError};
pub use name::{BadResourceName, DatabaseName, MemberName};
pub use origin::Origin;
pub use outside::{
    AnswerWay, Asking, AuthorityAt, AuthorityError, AuthorityFault, NothingSeen, Ordered, Outside, ToAnswer,
};
pub use spec::{
    CellDatabase, CellSpec, Confinement, EnvVar, Health, Listed, Login, Machine, Member, MemberLoad, MemberSpec,
    RedisUse, RegistryLogin, Role, RunOutcome, RunSpec, Shape, Source, Way,
};
pub use unreliable::{Call, Fault, Faults, unreliable};
