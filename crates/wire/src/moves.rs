//! Moves: what one would do, and what one did.

use crate::schema;
use berth_domain::{CellName, Cents, Generation, MoveId, OperationId, OperationState, TenantName, WayBackState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/tenants/{tenant}/plan-move`: what a move would do. Nothing was changed to find out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MovePlan {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::name)]
    pub from: CellName,
    #[schema(schema_with = schema::name)]
    pub to: CellName,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    /// Computed from sizes and the speed of earlier moves; absent when nobody has measured one.
    pub duration_s: Option<f64>,
    #[schema(schema_with = schema::cents_or_none)]
    pub price_before_cents: Option<Cents>,
    #[schema(schema_with = schema::cents_or_none)]
    pub price_after_cents: Option<Cents>,
    /// Parents before those that belong to the tenant through them.
    pub tables: Vec<MovePlanTable>,
    /// Rows of no tenant that travel along, because the tenant's rows refer to them. Each cell has its own afterwards.
    #[serde(default)]
    pub shared: Vec<MovePlanTable>,
    /// Tables that stay, and look as if they should not.
    #[serde(default)]
    pub unsure: Vec<MoveUnsure>,
    /// What else a person has to know before the move.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What it costs the tenants that stay where they are.
    #[serde(default)]
    pub neighbours: Vec<String>,
    /// Rows that are too old for the tenant's plan: they stay behind and are archived. Empty: all travel.
    #[serde(default)]
    pub left_behind: Vec<MoveLeft>,
    /// Where they are archived.
    #[serde(default)]
    pub archived_to: Option<String>,
    /// What travels besides rows, and is not fenced. Empty: nothing does.
    #[serde(default)]
    pub beside: Vec<MoveBeside>,
    /// Why it cannot start. Empty: it can.
    pub blockers: Vec<MoveBlocker>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovePlanTable {
    pub table: String,
    /// How its rows are known to be the tenant's: `root`, `column customer_id`, `through vehicles`, …
    pub belongs: String,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

/// What of a table does not travel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveLeft {
    pub table: String,
    /// Says when a row is from.
    pub column: String,
    /// Rows from before this day, in UTC: `2026-10-22`.
    pub before: String,
    pub rows: u64,
}

/// Keys or objects of a tenant under one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveBeside {
    /// `redis_keys` or `objects`.
    pub what: String,
    pub prefix: String,
    pub found: u64,
    pub bytes: Option<u64>,
    /// What a person has to know before the move.
    pub says: String,
}

/// What the catalogue of the database does not say for sure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveUnsure {
    pub table: String,
    pub says: String,
    /// The line under `data` of the stack file that would say it.
    pub line: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveBlocker {
    pub code: String,
    pub detail: String,
    pub hint: Option<String>,
}

/// One move: under way, done or given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Move {
    #[schema(schema_with = schema::id)]
    pub id: MoveId,
    #[schema(schema_with = schema::id)]
    pub operation: OperationId,
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::name)]
    pub from: CellName,
    #[schema(schema_with = schema::name)]
    pub to: CellName,
    /// `upgrade` to a cell of its own, `downgrade` back to a shared one, `across` between equals.
    pub kind: String,
    #[schema(schema_with = schema::operation_state)]
    pub state: OperationState,
    /// Where it stands: a step of its operation.
    pub phase: Option<String>,
    /// The generation that the cut-over gave; absent before.
    #[schema(schema_with = schema::counter_or_none)]
    pub generation: Option<Generation>,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    pub duration_s: Option<f64>,
    pub rows_per_s: Option<f64>,
    /// From the first request that an edge parked to the last one it sent on, by the edge's clock.
    pub pause_ms: Option<f64>,
    pub held_requests: Option<u64>,
    /// Rows read from both databases and found equal.
    pub rows_verified: Option<u64>,
    #[schema(schema_with = schema::time)]
    pub started_at: Timestamp,
    #[schema(schema_with = schema::time_or_none)]
    pub ended_at: Option<Timestamp>,
    /// Whether it can still be undone; absent before the cut-over and for a move that was given up.
    #[serde(default)]
    pub way_back: Option<WayBack>,
}

/// After a move the old cell is kept up to date for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WayBack {
    /// `open`: the move can be undone. `closing`: it cannot, and the old cell's rows are going.
    #[schema(schema_with = schema::way_back_state)]
    pub state: WayBackState,
    #[schema(schema_with = schema::time)]
    pub until: Timestamp,
    /// What the old cell has not got yet, in bytes of write-ahead log.
    pub bytes_behind: Option<u64>,
    /// Why it is not kept up to date at the moment, or why it was closed.
    pub trouble: Option<String>,
}
