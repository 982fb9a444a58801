//! Cells and their members.

use crate::schema;
use berth_domain::{
    CellClass, CellId, CellName, CellState, Cents, MemberId, MemberRole, MemberState, OperationId, ProviderName,
    ServiceName, ServiceRole,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// `POST /v1/cells`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CellCreate {
    #[schema(schema_with = schema::name)]
    pub name: CellName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    /// A provider of the stack file; absent: its only one.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub provider: Option<ProviderName>,
    #[serde(default)]
    #[schema(max_length = 40)]
    pub region: Option<String>,
    /// How many tenants fit; absent: what the stack file says for the class.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    pub max_tenants: Option<u32>,
}

/// `POST /v1/endpoints`: a cell that exists already and is run by somebody else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointAdd {
    #[schema(schema_with = schema::name)]
    pub name: CellName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    /// Where its application answers: scheme, host and port.
    #[schema(min_length = 1, max_length = 300)]
    pub url: String,
    /// Its Postgres as a connection string with the password. Kept sealed, and never answered.
    #[schema(min_length = 1, max_length = 2000)]
    pub database: String,
    /// The path that proves that the application is well; absent: that of the stack's web service.
    #[serde(default)]
    #[schema(max_length = 1024)]
    pub health: Option<String>,
    /// A provider of the stack file with the adapter `endpoint`; absent: its only one.
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

impl fmt::Debug for EndpointAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointAdd").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// `GET /v1/cells/{cell}/abilities`: what a cell's database lets Berth do, tried at that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CellAbilities {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    pub items: Vec<CellAbility>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CellAbility {
    /// A stable word, such as `reads_changes`.
    pub ability: String,
    /// What it is for.
    pub means: String,
    pub can: bool,
    /// What follows from it where it cannot.
    #[serde(default)]
    pub without: Option<String>,
    /// Why not.
    pub because: Option<String>,
    /// What gives it.
    pub remedy: Option<String>,
}

/// A cell as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cell {
    #[schema(schema_with = schema::id)]
    pub id: CellId,
    #[schema(schema_with = schema::name)]
    pub name: CellName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    #[schema(schema_with = schema::cell_state)]
    pub state: CellState,
    #[schema(schema_with = schema::name)]
    pub provider: ProviderName,
    pub region: Option<String>,
    /// Tenants that live here now.
    pub tenants: u32,
    pub max_tenants: u32,
    /// What it costs a month; absent where nobody has said.
    #[schema(schema_with = schema::cents_or_none)]
    pub price_cents: Option<Cents>,
    /// Size of its database when last seen.
    pub database_bytes: Option<u64>,
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
    pub members: Vec<Member>,
    /// What was measured in it last, see `berth cell measure`; empty: nobody did.
    #[serde(default)]
    pub measured: Vec<CellFigure>,
    /// What the catalogue says that somebody says of such a place: in the units of `measured`, and no more than a word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed: Vec<CellClaim>,
    #[schema(schema_with = schema::time)]
    pub created_at: Timestamp,
}

/// One figure of a cell, measured by the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CellFigure {
    /// `api`, `socket`, `websocket`, `query_simple`, `query_complex`, `ingest`, `upload_10_mib` or `backup_1_gib`.
    pub what: String,
    pub value: f64,
    /// `ms`, `s` or `rows_per_s`.
    pub unit: String,
    pub samples: u32,
    #[schema(schema_with = schema::time)]
    pub at: Timestamp,
}

/// One figure that somebody claims of a place like a cell's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CellClaim {
    /// As in `measured`.
    pub what: String,
    pub value: f64,
    pub unit: String,
    /// Provider and region of the catalogue.
    pub of: String,
}

/// One running copy of one service in a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    #[schema(schema_with = schema::id)]
    pub id: MemberId,
    #[schema(schema_with = schema::name)]
    pub service: ServiceName,
    /// What the service does: only web members receive requests.
    #[schema(schema_with = schema::service_role)]
    pub service_role: ServiceRole,
    #[schema(schema_with = schema::member_role)]
    pub role: MemberRole,
    /// What was last seen of it.
    #[schema(schema_with = schema::member_state)]
    pub state: MemberState,
    pub address: Option<String>,
    #[schema(schema_with = schema::time_or_none)]
    pub seen_at: Option<Timestamp>,
    /// Processor time of the last half minute, in percent of what it is promised; absent where its provider does not tell.
    #[serde(default)]
    pub cpu_percent: Option<f64>,
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// It is spoken to without TLS over a public network, where others can read along: edges send it requests only where the
    /// stack file has `https.members_over_plain_http: true`.
    #[serde(default)]
    pub in_the_open: bool,
}

/// `POST /v1/cells/{cell}/services/{service}/restart/plan`: what a restart would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestartPlan {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    #[schema(schema_with = schema::name)]
    pub service: ServiceName,
    /// Started again one after the other.
    pub members: u32,
    /// One more serves beside them meanwhile.
    pub spare: bool,
}

/// One line that a member wrote, of `GET /v1/cells/{cell}/logs`: each member's last ones, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    #[schema(schema_with = schema::name)]
    pub service: ServiceName,
    #[schema(schema_with = schema::id)]
    pub member: MemberId,
    pub line: String,
}
