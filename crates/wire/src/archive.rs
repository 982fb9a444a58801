//! Archives of a tenant's rows.

use crate::{Profile, schema};
use berth_domain::{CellName, Hostname, OperationId, PlanName, TenantId, TenantKey, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/tenants/{tenant}/archives`: one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Archive {
    /// The operation that made it.
    #[schema(schema_with = schema::id)]
    pub id: OperationId,
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    /// `left_behind` by a move, or `everything`.
    pub contents: String,
    #[schema(schema_with = schema::time)]
    pub made_at: Timestamp,
    pub rows: u64,
    pub tables: Vec<ArchivedTable>,
    /// Its files, the manifest last.
    #[serde(default)]
    pub files: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchivedTable {
    pub table: String,
    pub rows: u64,
    /// As CSV, before it is compressed.
    pub bytes: u64,
    /// `recorded_at before 2026-10-22`, where only old rows are in it.
    pub before: Option<String>,
}

/// `POST /v1/imports`: an archive of everything becomes a tenant. Its key is the archive's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantImport {
    /// One that was uploaded under this id, or that lies in the place of archives.
    #[schema(schema_with = schema::id)]
    pub archive: OperationId,
    #[schema(schema_with = schema::name)]
    pub name: TenantName,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    #[serde(default)]
    #[schema(schema_with = schema::hosts)]
    pub hosts: Vec<Hostname>,
    /// Otherwise the best of the plan's class.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none)]
    pub cell: Option<CellName>,
    /// What the tenant needs, as its profile keeps it: no cell that breaks a constraint of it is chosen or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// `POST /v1/imports/plan`: what an import would bring, and where. Nothing was changed to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportPlan {
    #[schema(schema_with = schema::name)]
    pub name: TenantName,
    /// The tenant's key in the application's own root table.
    #[schema(schema_with = schema::key)]
    pub key: TenantKey,
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// The cell is made for it first; what the archive and it have in common is seen then.
    pub new_cell: bool,
    #[schema(schema_with = schema::time)]
    pub made_at: Timestamp,
    pub rows: u64,
    /// Of all files, before they are compressed.
    pub bytes: u64,
    pub keys: u64,
    pub objects: u64,
}

/// What was erased of a tenant, or would be. Nothing personal is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// That erased it; absent in a plan.
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
    #[schema(schema_with = schema::id)]
    pub tenant: TenantId,
    /// When it was complete; absent in a plan.
    #[schema(schema_with = schema::time_or_none)]
    pub at: Option<Timestamp>,
    pub erased: Vec<Erased>,
    pub kept: Vec<ErasureKept>,
}

/// So many of these at that place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Erased {
    /// `cell shared-1`, `place of archives`, `control database`.
    pub place: String,
    /// `rows of invoices`, `keys in Redis`, …
    pub what: String,
    pub many: u64,
}

/// What is not erased, and why it may stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErasureKept {
    pub what: String,
    pub why: String,
}
