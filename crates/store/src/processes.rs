//! Which version each server and each edge's process is.

use crate::{Store, StoreError};
use berth_domain::Version;
use uuid::Uuid;

/// A server says every few seconds that it is there; one that has been silent for longer is taken for gone.
pub(crate) const SERVER_SILENT_S: f64 = 15.0;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    Serve,
    Edge,
}

impl ProcessRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Edge => "edge",
        }
    }
    /// For the test that compares them with the table's CHECK.
    pub const WORDS: &'static [&'static str] = &["serve", "edge"];
}

/// A server that has been heard of lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    pub instance: Uuid,
    /// Its machine's.
    pub name: String,
    pub version: Version,
}

impl Store {
    /// A process is there, and says which version it is. What is long gone is forgotten.
    pub async fn process_seen(
        &self,
        instance: Uuid,
        role: ProcessRole,
        name: &str,
        version: &Version,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "WITH old AS (
                 DELETE FROM processes WHERE last_seen < now() - interval '1 day' AND instance <> $1
                     AND NOT EXISTS (SELECT FROM edges WHERE edges.instance = processes.instance)
                     AND NOT EXISTS (SELECT FROM edges_leaving WHERE edges_leaving.instance = processes.instance))
             INSERT INTO processes (instance, role, name, version) VALUES ($1, $2, $3, $4)
             ON CONFLICT (instance) DO UPDATE SET last_seen = now(), version = excluded.version",
            instance,
            role.as_str(),
            name,
            version.to_string()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A server has stopped in order.
    pub async fn process_gone(&self, instance: Uuid) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM processes WHERE instance = $1", instance).execute(&self.pool).await?;
        Ok(())
    }

    /// Servers on this database that have been heard of lately. Those of a version that does not say so are not known.
    pub async fn server_list(&self) -> Result<Vec<ServerProcess>, StoreError> {
        let rows = sqlx::query!(
            "SELECT instance, name, version FROM processes
             WHERE role = 'serve' AND last_seen > now() - make_interval(secs => $1) ORDER BY name, since",
            SERVER_SILENT_S
        )
        .fetch_all(&self.pool)
        .await?;
        let read = |row: String| row.parse().ok();
        let servers = rows.into_iter().filter_map(|row| {
            Some(ServerProcess { instance: row.instance, name: row.name, version: read(row.version)? })
        });
        Ok(servers.collect())
    }
}
