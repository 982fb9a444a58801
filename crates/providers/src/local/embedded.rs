//! The control plane's own Postgres when it is given none: the same kind of cluster as a cell's, in its data folder.
//! Never holds a tenant.

use super::{
    cluster::{Clusters, Wanted},
    files::Root,
};
use berth_infra::{CellDatabase, DatabaseName, ProviderError, Role, Shape};
use secrecy::SecretString;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

const NAME: &str = "control";

/// A running private server. Dropping this leaves it running: it outlives a killed `berth serve`, and the next one
/// finds it.
#[derive(Clone)]
pub struct EmbeddedPostgres {
    clusters: Clusters,
    database: CellDatabase,
    shape: Shape,
}

/// How an embedded server is run.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// `None`: the newest of this machine.
    pub postgres_bin: Option<PathBuf>,
    pub shape: Shape,
    /// Off only in tests: a power cut may then lose what was acknowledged.
    pub durable: bool,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { postgres_bin: None, shape: Shape { memory_mb: 128, ..Shape::default() }, durable: true }
    }
}

impl EmbeddedPostgres {
    /// Makes it on the first call, starts it where it stands still, and returns when it accepts connections.
    /// Two callers with one folder get the same server.
    pub async fn start(dir: &Path, database: &str) -> Result<Self, ProviderError> {
        Self::start_with(dir, database, EmbeddedOptions::default()).await
    }

    pub async fn start_with(dir: &Path, database: &str, options: EmbeddedOptions) -> Result<Self, ProviderError> {
        let EmbeddedOptions { postgres_bin, shape, durable } = options;
        let clusters = Clusters {
            root: Root::open(dir)?,
            bin_dir: postgres_bin,
            durable,
            member_user: None,
            address: Ipv4Addr::LOCALHOST,
            unix_sockets: true,
        };
        let name = DatabaseName::new(NAME).expect("the constant is a name");
        let database =
            clusters.ensure(Wanted { name: &name, label: NAME, database, shape, redis: None, objects: false }).await?;
        Ok(Self { clusters, database, shape })
    }

    /// As the owner of the database.
    pub fn url(&self) -> SecretString {
        self.database.url(Role::Owner)
    }

    /// Ports, logins and version.
    pub fn database(&self) -> &CellDatabase {
        &self.database
    }

    /// Starts it again if it has ended, on the same port and data. Answers whether it had.
    pub async fn keep_up(&self) -> Result<bool, ProviderError> {
        if self.clusters.running(&self.database.name).is_some() {
            return Ok(false);
        }
        let CellDatabase { name, database, .. } = &self.database;
        self.clusters
            .ensure(Wanted { name, label: NAME, database, shape: self.shape, redis: None, objects: false })
            .await?;
        Ok(true)
    }

    /// Ends it in order; its data stays.
    pub async fn stop(&self) -> Result<(), ProviderError> {
        self.clusters.stop(&self.database.name).await
    }
}
