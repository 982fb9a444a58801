//! Servers that are reached over SSH, and the cells on them.

use crate::{edge::Hidden, schema};
use berth_domain::{CellClass, CellName, CellState, ProviderName};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

const fn ssh_port() -> u16 {
    22
}

/// `POST /v1/servers/look`: what a server shows before anything is done there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerLook {
    #[schema(min_length = 1, max_length = 253)]
    pub host: String,
    /// Of its SSH.
    #[serde(default = "ssh_port")]
    pub port: u16,
    /// A user with root's rights there.
    #[schema(min_length = 1, max_length = 32)]
    pub user: String,
    /// A private key that lets that user in, in OpenSSH's form. Never answered.
    #[schema(min_length = 1, max_length = 8000)]
    pub key: String,
    /// A provider of the stack file with the adapter `ssh`; absent: its only one.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub provider: Option<ProviderName>,
}

impl fmt::Debug for ServerLook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLook").field("host", &self.host).field("user", &self.user).finish_non_exhaustive()
    }
}

/// What it showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerSeen {
    /// The fingerprint of its host key: compare it with what the server itself prints.
    pub host_key: String,
}

/// `POST /v1/servers`: a cell that is made on a server reached over SSH.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerAdd {
    #[schema(schema_with = schema::name)]
    pub name: CellName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    #[schema(min_length = 1, max_length = 253)]
    pub host: String,
    /// Of its SSH.
    #[serde(default = "ssh_port")]
    pub port: u16,
    /// A user with root's rights there.
    #[schema(min_length = 1, max_length = 32)]
    pub user: String,
    /// A private key that lets that user in, in OpenSSH's form. Kept sealed, and never answered.
    #[schema(min_length = 1, max_length = 8000)]
    pub key: String,
    /// The fingerprint of its host key, `SHA256:…`. Whoever shows another one is not spoken to.
    #[schema(min_length = 1, max_length = 100)]
    pub host_key: String,
    /// A provider of the stack file with the adapter `ssh`; absent: its only one.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub provider: Option<ProviderName>,
    #[serde(default)]
    #[schema(max_length = 40)]
    pub region: Option<String>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_tenants: Option<u32>,
}

impl fmt::Debug for ServerAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAdd").field("name", &self.name).field("host", &self.host).finish_non_exhaustive()
    }
}

/// `GET /v1/servers`: the server of one cell, looked at now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    #[schema(schema_with = schema::cell_state)]
    pub state: CellState,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub host_key: Option<String>,
    /// Absent: it did not answer, and `because` says why.
    pub machine: Option<Machine>,
    pub because: Option<String>,
}

/// What a server is and has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// The distribution, as it names itself.
    pub system: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
    /// Where the cells' data lies.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    /// Processes that ran or waited to, on average over the last minute.
    pub load_1m: f64,
}

/// `GET /v1/edges/{edge}/ways?open=CELL:PORT,…`: how an edge gets to members that stand on servers reached over SSH. It says
/// which ways it has open, and a release waits for that; one that says nothing is an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeWay {
    pub cell: CellName,
    /// For the adapter `ssh`, with a key that opens nothing but the members' ports.
    pub settings: Hidden,
    /// Of the cell's members.
    pub ports: Vec<u16>,
}
