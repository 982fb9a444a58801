//! The contracts themselves. Object safe, so that `control` holds them without knowing who stands behind.

use crate::{
    CellDatabase, CellSpec, DatabaseName, Listed, Machine, Member, MemberLoad, MemberName, MemberSpec, ProviderError,
    RunOutcome, RunSpec, Source, Way,
};
use async_trait::async_trait;
use berth_domain::{Artifact, CellName};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a look at a resource said. Unknown is an answer of its own: whoever takes it for absent makes a second one,
/// whoever takes it for present routes people to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed<T> {
    Present(T),
    Absent,
    /// The look itself failed, or the resource is between two states.
    Unknown {
        reason: String,
    },
}

impl<T> Observed<T> {
    pub fn present(self) -> Option<T> {
        match self {
            Self::Present(it) => Some(it),
            Self::Absent | Self::Unknown { .. } => None,
        }
    }
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// Writable Postgres servers.
#[async_trait]
pub trait Database: Send + Sync {
    /// Makes it, or starts it where it stands still, and returns when it accepts connections. The same name with
    /// another shape reshapes at the next start; data and passwords never change.
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError>;
    /// `Present` only when it accepts connections; one that exists and stands still is `Unknown` with the reason.
    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError>;
    /// Ends it and deletes its data. Absent is success.
    async fn remove_database(&self, name: &DatabaseName) -> Result<(), ProviderError>;
    /// Ends it in order and keeps its data; `ensure_database` starts it again. Absent is success.
    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError>;
    /// Everything that carries our label, running or not.
    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError>;
    /// Sees to it that this process can connect to the address in `database`. Cheap when it can already, and nothing
    /// to do where the address is one of this machine or network.
    async fn open_way(&self, _database: &CellDatabase) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// Places where members run.
#[async_trait]
pub trait Compute: Send + Sync {
    /// Has at hand and compared where the cell is what processes are to be made from: an image pulled, a program's digest
    /// looked at. Changes nothing that runs, so that whoever is about to replace members learns here that it cannot.
    async fn ensure_source(&self, _cell: &CellName, source: &Source) -> Result<(), ProviderError> {
        match source {
            Source::Host => Ok(()),
            Source::Artifact { artifact, .. } => Err(ProviderError::Refused {
                what: format!("`{artifact}`"),
                reason: "this provider runs nothing by its digest".to_owned(),
            }),
        }
    }
    /// Takes an image from the cell's host, and answers whether it is gone from there. `false`: something is made from
    /// it. Absent is success, and so it is where nothing runs from images.
    async fn remove_image(&self, _cell: &CellName, _image: &Artifact) -> Result<bool, ProviderError> {
        Ok(true)
    }
    /// Makes it, or starts it where it does not run, on the port it had if that is still free. Does not wait for
    /// health: a service that warms up for a minute must not hold a worker. Another command, environment or shape
    /// replaces the process.
    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError>;
    /// `Present` also for one that ended; [`crate::Health`] says so.
    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError>;
    /// Asks it to end, insists after the adapter's grace, forgets it. Absent is success.
    async fn remove_member(&self, name: &MemberName) -> Result<(), ProviderError>;
    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError>;
    /// Runs a command in the cell to its end or time limit. Not idempotent by itself: the command has to be.
    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError>;
    /// The last lines the member wrote, oldest first.
    async fn member_logs(&self, name: &MemberName, lines: usize) -> Result<Vec<String>, ProviderError>;
    /// What it has used. `None`: it does not run, or this provider does not tell.
    async fn member_load(&self, _name: &MemberName) -> Result<Option<MemberLoad>, ProviderError> {
        Ok(None)
    }
    /// By what the machine of a cell is recognised, also while nobody has said that it is the right one: the
    /// fingerprint of its SSH host key.
    async fn identity(&self, _cell: &CellName) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }
    /// The machine that a cell stands on, looked at now. `None`: this provider does not show one.
    async fn machine(&self, _cell: &CellName) -> Result<Option<Machine>, ProviderError> {
        Ok(None)
    }
}

/// Bytes to and from something inside a cell.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}
pub type Stream = Box<dyn ByteStream>;

#[derive(Clone, Copy, Debug)]
pub enum ReachTarget<'a> {
    Member(&'a MemberName),
    Database(&'a DatabaseName),
}

/// The only way into a cell for mover, checks and backup, so that no database port is ever published.
#[async_trait]
pub trait Reach: Send + Sync {
    /// `port` 0 is the port that the target itself was given.
    async fn reach(&self, target: ReachTarget<'_>, port: u16) -> Result<Stream, ProviderError>;
    /// What an edge needs to get to the members of a cell by itself. `None`: their addresses are all it needs.
    async fn way(&self, _cell: &CellName) -> Result<Option<Way>, ProviderError> {
        Ok(None)
    }
}
