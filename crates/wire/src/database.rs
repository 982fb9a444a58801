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
