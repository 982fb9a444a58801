//! The whole at a glance: is everybody served, what moves, what needs a person.

use crate::schema;
use berth_domain::{CellName, Cents, EdgeId, EdgeName, Generation, OperationId, Revision, TenantName, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// The server's version.
    pub version: String,
    /// The stack's name; absent before the first `berth apply`.
    pub stack: Option<String>,
    pub stack_revision: Option<u64>,
    pub tenants: TenantCounts,
    pub cells: CellCounts,
    /// Operations that are not at their end.
    pub operations_open: u32,
    /// What waits for a person. Empty: nothing does.
    pub attention: Vec<Attention>,
    pub edges: Vec<EdgeView>,
    /// What the plans of all tenants bring in a month.
    #[schema(schema_with = schema::cents)]
    pub revenue_month_cents: Cents,
    /// What the cells cost a month; absent when the price of one is not known.
    #[schema(schema_with = schema::cents_or_none)]
    pub cost_month_cents: Option<Cents>,
    /// The control database is behind the world: only reads are answered until `berth recover`.
    pub reads_only: bool,
    #[schema(schema_with = schema::time)]
    pub at: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantCounts {
    pub total: u32,
    pub active: u32,
    pub moving: u32,
    pub provisioning: u32,
    pub suspended: u32,
    pub failed: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CellCounts {
    pub total: u32,
    pub ready: u32,
    pub members: u32,
    pub members_healthy: u32,
}

/// Something that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    pub code: String,
    /// `cell shared-1`, `operation …`.
    pub subject: String,
    pub detail: String,
    pub hint: Option<String>,
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
}

/// An edge, as control last heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeView {
    #[schema(schema_with = schema::name)]
    pub name: EdgeName,
    #[schema(schema_with = schema::id_or_none)]
    pub instance: Option<EdgeId>,
    /// What it has in force.
    #[schema(schema_with = schema::counter)]
    pub revision: Revision,
    /// How many revisions it is behind.
    pub behind: u64,
    /// Heard of lately.
    pub alive: bool,
    /// Another process of its name takes new connections; this one serves those it has.
    #[serde(default)]
    #[schema(required = false)]
    pub leaving: bool,
    /// Absent: it is of a version that does not say so.
    #[serde(default)]
    #[schema(value_type = Option<String>, required = false)]
    pub version: Option<Version>,
    #[schema(schema_with = schema::time_or_none)]
    pub seen_at: Option<Timestamp>,
}

/// `GET /v1/recovery` and `POST /v1/recovery`: how a restored control database compares with the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Somebody out there holds a higher number than this database.
    pub world_is_ahead: bool,
    /// Counters were raised above everything that was seen.
    pub recovered: bool,
    #[schema(schema_with = schema::counter)]
    pub revision: Revision,
    /// What was seen higher than known here.
    pub seen: Vec<EdgeSeen>,
}

/// One number found higher in the world than in the control database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeSeen {
    /// Where it was seen: `edge fra`, `cell shared-1`.
    pub subject: String,
    #[schema(schema_with = schema::name_or_none)]
    pub tenant: Option<TenantName>,
    #[schema(schema_with = schema::name_or_none)]
    pub cell: Option<CellName>,
    #[schema(schema_with = schema::counter_or_none)]
    pub generation: Option<Generation>,
    #[schema(schema_with = schema::counter_or_none)]
    pub revision: Option<Revision>,
}
