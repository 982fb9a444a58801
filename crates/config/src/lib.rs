//! The stack file `berth.yaml` and the environment it draws on, parsed once into plain types.
//!
//! A file is either a [`Stack`] in which every name resolves, or the complete list of its [`Mistakes`], each with its
//! key, its line and what to write instead. Never reads a file or the process environment itself (the binary hands
//! over text, a way to read hook files, and an [`Environment`]), and never knows a provider's own settings.

mod answers;
mod bytes;
mod cluster;
mod diff;
mod edge;
mod environment;
mod facts;
mod hosts;
mod mistake;
mod modes;
mod over;
mod places;
mod read;
mod releases;
mod secrets;
mod section;
mod show;
mod span;
mod stack;
pub mod tree;

/// JSON Schema of the stack file, for editors.
pub const SCHEMA: &str = include_str!("stack.schema.json");

pub use answers::{AnswerHeaders, Compress, CompressWay, Frame, Referrer};
pub use bytes::{NotText, text_of};
pub use cluster::{Cluster, Place, RegionRouting, Residence, Tenants};
pub use diff::{Change, Difference, diff};
pub use edge::{EdgeCheck, Eject, ServiceEdge, unfit_signature_key};
pub use environment::{Environment, MissingVariable, Template};
pub use facts::{Alert, Alerts, Backups, Budget, Failover, Poll, Quota, Silence};
pub use hosts::{Acme, AcmeChallenge, HostProofs, Hosts, Https};
pub use mistake::{Mistake, Mistakes, Problem};
pub use modes::{ModeProfile, Modes};
pub use over::{find, json, over};
pub use places::place_of;
pub use releases::{RegistryAccount, Releases, Smoke, Workers};
pub use secrets::{is_secret, may_be_secret};
pub use section::{FILE_BYTES_MAX, Files, is_section, no_files, parse, parse_layers};
pub use show::{Layer, MASK, Shown, show};
pub use span::{BadSpan, Span};
pub use stack::{
    Arch, Archives, Cell, Check, Data, DataLink, DataObjects, DataRedis, HoldPolicy, Hook, Hooks, Plan, Provider,
    Purge, Run, S3Place, Scale, Server, Service, Shape, Stack, TableRef, UsageRules,
};
