//! Operations: long work as its caller sees it.

use crate::schema;
use berth_domain::{CellName, OperationId, OperationState, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A workflow: what it is about, how far it is, how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    #[schema(schema_with = schema::id)]
    pub id: OperationId,
    /// `create_tenant`, `move_tenant`, …
    pub kind: String,
    #[schema(schema_with = schema::operation_state)]
    pub state: OperationState,
    #[schema(schema_with = schema::name_or_none)]
    pub tenant: Option<TenantName>,
    #[schema(schema_with = schema::name_or_none)]
    pub cell: Option<CellName>,
    /// Steps so far, oldest first; the last one is where it stands. Empty in lists.
    pub steps: Vec<StepView>,
    pub progress: Option<Progress>,
    /// It can no longer be undone, only finished.
    pub past_return: bool,
    /// Why it failed, waits or is stuck.
    pub fault: Option<Fault>,
    /// What came out, once it succeeded.
    pub result: Option<OperationResult>,
    /// The key that asked for it; absent where Berth itself did.
    pub asked_by: Option<String>,
    #[schema(schema_with = schema::time)]
    pub created_at: Timestamp,
    #[schema(schema_with = schema::time)]
    pub updated_at: Timestamp,
    #[schema(schema_with = schema::time_or_none)]
    pub ended_at: Option<Timestamp>,
}

/// One recorded part of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    pub name: String,
    pub state: StepState,
    /// How often it was begun.
    pub attempts: u32,
    #[schema(schema_with = schema::time)]
    pub started_at: Timestamp,
    #[schema(schema_with = schema::time_or_none)]
    pub ended_at: Option<Timestamp>,
    pub fault: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Running,
    Done,
    Failed,
    Undoing,
    Undone,
}

/// How far a long step is. What is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// In words for people: `copy`, `follow`, `compare`, …
    pub phase: String,
    pub rows_done: Option<u64>,
    pub rows_total: Option<u64>,
    pub bytes_done: Option<u64>,
    pub rows_per_s: Option<f64>,
    pub remaining_s: Option<f64>,
    /// How much of the source's changes is not applied yet.
    pub lag_bytes: Option<u64>,
}

/// Why an operation is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    pub code: String,
    pub detail: String,
    pub hint: Option<String>,
    pub retryable: bool,
}

/// Figures of an operation that ended well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationResult {
    /// One sentence for people.
    pub summary: Option<String>,
    /// By name, each with its unit at the end: `rows`, `pause_ms`, …
    #[schema(value_type = Object)]
    pub figures: serde_json::Map<String, serde_json::Value>,
}

/// `POST /v1/operations/{operation}/abandon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Abandon {
    /// Why, for the audit trail.
    #[serde(default)]
    #[schema(max_length = 500)]
    pub reason: Option<String>,
    /// Leave the world as it is, for what cannot be undone any more.
    #[serde(default)]
    #[schema(required = false)]
    pub force: bool,
}

/// One event of `GET /v1/operations/{operation}/events`: the whole operation, whenever it changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationEvent {
    pub event: OperationEventKind,
    pub operation: Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationEventKind {
    Changed,
    /// The last one: nothing more will happen by itself.
    Ended,
}
