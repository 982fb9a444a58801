//! The `local` adapter: cells on this very machine, each a Postgres cluster of its own and one process per member.
//!
//! Everything lies under one folder and lives on when we die; what runs is written down there, and whoever comes next
//! finds it. Nothing is restarted here: `control` sees that a member died and asks for it again.

mod beside;
mod binaries;
mod cgroup;
mod cluster;
mod container;
mod embedded;
mod files;
mod health;
mod janitor;
mod member;
mod process;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;

pub use binaries::newest as postgres_programs;
pub use embedded::{EmbeddedOptions, EmbeddedPostgres};
pub use janitor::{Afterwards, end_all, record_program, run_janitor, start_program};

use async_trait::async_trait;
use berth_domain::{Artifact, CellName};
use berth_infra::{
    Adapter, CellDatabase, CellSpec, Compute, Database, DatabaseName, Listed, Member, MemberLoad, MemberName,
    MemberSpec, Observed, Provider, ProviderError, Reach, ReachTarget, RunOutcome, RunSpec, Source, Stream,
};
use cluster::{Clusters, Wanted};
use files::Root;
use member::Members;
use serde::Deserialize;
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpStream;

pub const ADAPTER: Adapter = Adapter { name: "local", build };

/// The application's database in every cell.
const DATABASE: &str = "app";

/// The adapter's section of the stack file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalOptions {
    /// The folder that everything lies under. The `postgres` user must be able to walk to it.
    #[serde(default = "default_root")]
    pub root: PathBuf,
    /// `None`: the newest Postgres of this machine.
    #[serde(default)]
    pub postgres_bin: Option<PathBuf>,
    /// Between SIGTERM and SIGKILL for a member.
    #[serde(default = "default_grace_ms")]
    pub stop_grace_ms: u64,
    /// The user that members and runs are, where we are root ourselves. It must be able to read their programs.
    /// `None`: as ourselves.
    #[serde(default)]
    pub member_user: Option<String>,
    /// Options of podman for every call, such as `[--runtime, runc]`. It runs services from images.
    #[serde(default)]
    pub podman: Vec<String>,
    /// Off only in tests: a power cut may then lose what was acknowledged.
    #[serde(default = "default_durable")]
    pub durable: bool,
    /// Where databases listen: an address of loopback.
    #[serde(default = "default_address")]
    pub address: Ipv4Addr,
    /// Whether Berth itself comes over Unix sockets, which saves a copy of every row. Off: over TCP, as to servers elsewhere.
    #[serde(default = "default_unix_sockets")]
    pub unix_sockets: bool,
}

fn default_address() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

fn default_root() -> PathBuf {
    PathBuf::from("/var/lib/berth/local")
}
fn default_grace_ms() -> u64 {
    30_000
}
fn default_durable() -> bool {
    true
}
fn default_unix_sockets() -> bool {
    true
}

impl LocalOptions {
    /// The defaults under this folder.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            postgres_bin: None,
            stop_grace_ms: default_grace_ms(),
            member_user: None,
            podman: Vec::new(),
            durable: default_durable(),
            address: default_address(),
            unix_sockets: default_unix_sockets(),
        }
    }
}

/// Cells of this machine. A clone is the same adapter, and so is another process with the same folder.
#[derive(Clone)]
pub struct Local {
    clusters: Clusters,
    members: Members,
}

fn build(section: &serde_json::Value) -> Result<Provider, ProviderError> {
    let options = LocalOptions::deserialize(section).map_err(|error| ProviderError::Refused {
        what: "the section of provider `local`".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Local::new(options)?.provider())
}

impl Local {
    pub fn new(options: LocalOptions) -> Result<Self, ProviderError> {
        let user = match &options.member_user {
            None => None,
            Some(name) => Some(process::User::named(name).ok_or_else(|| ProviderError::Refused {
                what: "`member_user` of provider `local`".to_owned(),
                reason: format!("this machine has no user `{name}`"),
            })?),
        };
        if !options.address.is_loopback() {
            return Err(ProviderError::Refused {
                what: "`address` of provider `local`".to_owned(),
                reason: format!("{} is no address of loopback, and a database is not published", options.address),
            });
        }
        let root = Root::open(&options.root)?;
        let containers = container::Containers { root: root.clone(), options: options.podman, user };
        let members = Members {
            containers,
            groups: cgroup::Groups::of(root.id()),
            root: root.clone(),
            stop_grace: Duration::from_millis(options.stop_grace_ms),
            user,
        };
        let LocalOptions { postgres_bin: bin_dir, durable, address, unix_sockets, .. } = options;
        let clusters = Clusters { root, bin_dir, durable, member_user: user, address, unix_sockets };
        Ok(Self { clusters, members })
    }

    pub fn provider(&self) -> Provider {
        Provider {
            database: Some(Arc::new(self.clone())),
            compute: Some(Arc::new(self.clone())),
            reach: Some(Arc::new(self.clone())),
            foreign: false,
        }
    }
}

#[async_trait]
impl Database for Local {
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError> {
        let CellSpec { name, cell, shape, redis, objects } = spec;
        let (redis, objects) = (*redis, *objects);
        let label = cell.as_str();
        // One that is there is started, however little there is left. Throw-away ones of tests are small.
        if self.clusters.durable && self.clusters.port(name)?.is_none() {
            files::room(self.clusters.root.path(), &format!("the database of cell {cell}"))?;
        }
        self.clusters.ensure(Wanted { name, label, database: DATABASE, shape: *shape, redis, objects }).await
    }
    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        self.clusters.observe(name).await
    }
    async fn remove_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        self.members.forget_runs(name.as_str())?;
        self.clusters.remove(name).await
    }
    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        self.clusters.stop(name).await
    }
    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError> {
        let listed = |(name, label): (DatabaseName, String)| {
            let cell = CellName::new(label).map_err(|error| ProviderError::Damaged {
                what: format!("database {name}"),
                reason: error.to_string(),
            })?;
            Ok(Listed { name, cell })
        };
        self.clusters.list()?.into_iter().map(listed).collect()
    }
}

#[async_trait]
impl Compute for Local {
    async fn ensure_source(&self, _cell: &CellName, source: &Source) -> Result<(), ProviderError> {
        self.members.ensure_source(source).await
    }
    async fn remove_image(&self, _cell: &CellName, image: &Artifact) -> Result<bool, ProviderError> {
        self.members.containers.remove_image(image).await
    }
    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        self.members.ensure(spec).await
    }
    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        self.members.observe(name).await
    }
    async fn remove_member(&self, name: &MemberName) -> Result<(), ProviderError> {
        self.members.remove(name).await
    }
    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        self.members.list()
    }
    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        self.members.run_once(spec).await
    }
    async fn member_logs(&self, name: &MemberName, lines: usize) -> Result<Vec<String>, ProviderError> {
        self.members.logs(name, lines)
    }
    async fn member_load(&self, name: &MemberName) -> Result<Option<MemberLoad>, ProviderError> {
        Ok(self.members.load(name))
    }
}

/// Everything is on loopback already, so a stream is a connection.
#[async_trait]
impl Reach for Local {
    async fn reach(&self, target: ReachTarget<'_>, port: u16) -> Result<Stream, ProviderError> {
        let (what, own) = match target {
            ReachTarget::Member(name) => (format!("member {name}"), self.members.port(name)?),
            ReachTarget::Database(name) => (format!("database {name}"), self.clusters.port(name)?),
        };
        let own = own.ok_or_else(|| ProviderError::Absent { what: what.clone() })?;
        let port = if port == 0 { own } else { port };
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(ProviderError::io(format!("connecting to {what} on port {port}")))?;
        stream.set_nodelay(true).map_err(ProviderError::io(format!("connecting to {what}")))?;
        Ok(Box::new(stream))
    }
}
