//! The scratch Postgres that a dump is restored into: a server of its own on this machine, as the cells of the adapter `local` have. It
//! ends with the command, and by a janitor should the command be killed.
//!
//! From when the dump runs nobody is let in but a role that is no superuser: whoever reads a database may run what its owner left
//! there, in a cast, a policy or an index. Passwords go by the environment.

use super::restore::lost;
use crate::{cli::CliError, janitor};
use berth_infra::{CellDatabase, ProviderError, Role};
use berth_mover::{DataRules, Endpoint};
use berth_providers::local::{Afterwards, EmbeddedOptions, EmbeddedPostgres, end_all, postgres_programs};
use secrecy::ExposeSecret as _;
use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

const DATABASE: &str = "scratch";
/// Who restores and who reads.
const READER: Role = Role::Owner;

pub struct Scratch {
    folder: PathBuf,
    programs: PathBuf,
    postgres: EmbeddedPostgres,
}

/// What is to be known of the server to work in it.
#[derive(Clone, Copy)]
pub struct Server<'s> {
    pub database: &'s CellDatabase,
    /// Where its programs are.
    pub programs: &'s Path,
    /// Goes with it.
    pub folder: &'s Path,
}

fn failed(error: ProviderError) -> CliError {
    CliError::request(error.to_string(), error.hint().unwrap_or_default())
}

impl Scratch {
    pub async fn start(under: Option<&Path>) -> Result<Self, CliError> {
        let programs = postgres_programs().map_err(failed)?;
        let under = under.map_or_else(std::env::temp_dir, Path::to_owned);
        let folder = under.join(format!("berth-import-{}", Uuid::new_v4().simple()));
        // The server runs as another user where we are root: it has to get through, and nobody has to look.
        let made = fs::DirBuilder::new().mode(0o711).create(&folder);
        made.map_err(|source| CliError::Write { path: folder.clone(), source })?;
        let at = folder.join("postgres");
        janitor::hire(&[at.clone(), folder.clone()])
            .map_err(|failure| CliError::request(failure.screen(), "nothing was changed"))?;
        // What a power cut takes is made again by running the command again.
        let options = EmbeddedOptions { durable: false, ..EmbeddedOptions::default() };
        match EmbeddedPostgres::start_with(&at, DATABASE, options).await {
            Ok(postgres) => Ok(Self { folder, programs, postgres }),
            Err(error) => {
                let _left = end_all(&at, Afterwards::Delete);
                let _left = fs::remove_dir_all(&folder);
                Err(failed(error))
            }
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn server(&self) -> Server<'_> {
        Server { database: self.postgres.database(), programs: &self.programs, folder: &self.folder }
    }

    /// Nothing of it stays. What cannot be removed now the janitor removes when this process is gone.
    pub async fn end(self) {
        let _stopped = self.postgres.stop().await;
        let _left = end_all(&self.folder.join("postgres"), Afterwards::Delete);
        let _left = fs::remove_dir_all(&self.folder);
    }
}

impl Server<'_> {
    /// For whoever looks at it and takes a tenant's rows out.
    pub fn endpoint(&self) -> Endpoint {
        let login = self.database.login(READER);
        Endpoint {
            host: self.database.host.clone(),
            port: self.database.port,
            database: self.database.database.clone(),
            user: login.user.clone(),
            password: login.password.clone(),
            tls: None,
        }
    }

    pub(super) async fn connect(&self, role: Role) -> Result<Client, CliError> {
        let url = self.database.url(role);
        let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.map_err(lost)?;
        // Ends with the client.
        tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    /// Keys of the root table, one more than `most`; or the one that is asked for.
    pub async fn keys(&self, rules: &DataRules, only: Option<&str>, most: usize) -> Result<Vec<String>, CliError> {
        let key = format!("\"{}\"", rules.key_column.replace('"', "\"\""));
        let sql = format!(
            "select {key}::text from {} where $1::text is null or {key}::text = $1 order by {key} limit {}",
            rules.root.sql(),
            most + 1
        );
        let rows = self.connect(READER).await?.query(&sql, &[&only]).await.map_err(lost)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
