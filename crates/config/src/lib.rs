//! The stack file `berth.yaml` and the environment it draws on, parsed once into plain types.
//!
//! A file is either a [`Stack`] in which every name resolves, or the complete list of its [`Mistakes`], each with its
//! key, its line and what to write instead. Never reads a file or the process environment itself (the binary hands
//! over text, a way to read hook files, and an [`Environment`]), and never knows a provider's own settings.

mod diff;
mod environment;
mod mistake;
mod read;
mod section;
mod stack;
mod tree;

pub use diff::{Change, Difference, diff};
pub use environment::{Environment, MissingVariable, Template};
pub use mistake::{Mistake, Mistakes, Problem};
pub use section::{FILE_BYTES_MAX, Files, no_files, parse};
pub use stack::{
    Archives, Cell, Data, DataLink, HoldPolicy, Hook, Hooks, Plan, Provider, Run, S3Place, Service, Shape, Stack,
    TableRef,
};
