//! What a cell's database is busy with.

use crate::schema;
use berth_domain::CellName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/cells/{cell}/database/top`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseTop {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// Sessions in a statement or a transaction, the oldest first.
    pub statements: Vec<DatabaseStatement>,
    /// The largest first.
    pub tables: Vec<DatabaseTable>,
    /// Of the whole database; absent where it does not tell.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Replication slots of this database, the one that keeps most first.
    #[serde(default)]
    pub slots: Vec<DatabaseSlot>,
}

/// `POST /v1/cells/{cell}/database/maintain` and `…/maintain/plan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintainAsk {
    /// Indexes that are mostly air are built anew beside themselves; otherwise they are only listed.
    #[serde(default)]
    #[schema(required = false)]
    pub reindex: bool,
}

/// What maintenance would do in a cell's database, and what it only points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintainPlan {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// Those that need it, the one with the most dead rows first.
    pub tables: Vec<MaintainTable>,
    /// Mostly air, or left over by a rebuild that broke off.
    pub indexes: Vec<MaintainIndex>,
    /// Replication slots that nobody reads: each keeps the server's log until the disk is full.
    pub slots: Vec<MaintainSlot>,
    /// Fences of tenants that do not live here and have no way back here.
    pub fences: Vec<MaintainFence>,
    /// Tables that the cell's owner does not own.
    pub left_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintainTable {
    pub table: String,
    /// With its indexes.
    pub bytes: u64,
    pub rows: u64,
    pub dead_rows: u64,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintainIndex {
    pub index: String,
    pub table: String,
    pub bytes: u64,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintainSlot {
    pub slot: String,
    /// Of the log; absent where the slot keeps nothing yet.
    pub bytes: Option<u64>,
    pub why: String,
    /// What takes it away, where nobody needs it.
    pub remedy: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MaintainFence {
    /// The tenant's key in the application.
    pub key: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseStatement {
    pub pid: i32,
    pub role: String,
    /// What the session calls itself.
    pub application: String,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// Of its transaction, else of its statement.
    pub age_s: f64,
    /// As Postgres calls it: `Lock transactionid`, `IO DataFileRead`, …
    pub waits_for: Option<String>,
    /// Sessions that hold a lock which it waits for.
    pub blocked_by: Vec<i32>,
    /// Without the values in it.
    pub statement: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseTable {
    pub table: String,
    /// With its indexes.
    pub bytes: u64,
    /// As the server estimates.
    pub rows: u64,
    /// Gone and not yet cleaned away, as the server estimates.
    pub dead_rows: u64,
}

/// A replication slot: the server's log is kept for whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseSlot {
    pub slot: String,
    /// Somebody reads it now.
    pub read: bool,
    /// Of the log, that is kept for it; absent: nothing yet.
    pub bytes: Option<u64>,
}
