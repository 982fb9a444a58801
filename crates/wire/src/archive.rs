//! Archives of a tenant's rows.

use crate::schema;
use berth_domain::{OperationId, TenantName};
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
