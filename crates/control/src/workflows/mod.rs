//! Long operations: which there are, and what each is given.
//!
//! A released workflow is not edited but followed by `…_v2`; the old one stays until no journal names it. Rules about
//! retry, undo and leases are in `berth-workflow`; nothing here keeps state of its own.

mod archive;
mod cell;
mod create_cell;
mod create_tenant;
mod delete_tenant;
mod erase_tenant;
mod fetch;
mod healthy;
mod import_tenant;
mod maintain_cell;
mod measure_cell;
mod member_way;
mod move_tenant;
mod plan_tenant;
mod purge;
mod remove_cell;
mod restart_service;
mod roll_cell;
mod socket;
mod suspend_tenant;
mod tenant;
mod undo_move;

pub use archive::{ArchiveInput, EXPORT_TENANT, RESTORE_ARCHIVE};
pub(crate) use cell::provision_cell;
pub use create_cell::CREATE_CELL;
pub use create_tenant::{CREATE_TENANT, CREATE_TENANT_IN_CELL, CreateTenant};
pub use delete_tenant::DELETE_TENANT;
pub use erase_tenant::{ERASE_TENANT, ERASE_TENANT_V1};
pub use import_tenant::{IMPORT_TENANT, IMPORT_TENANT_V1, ImportTenant};
pub use maintain_cell::{MAINTAIN_CELL, MaintainCell};
pub use measure_cell::MEASURE_CELL;
pub(crate) use measure_cell::measured;
pub use plan_tenant::PLAN_TENANT;
pub use purge::PURGE_TENANT;
pub use remove_cell::REMOVE_CELL;
pub(crate) use restart_service::is_restarted;
pub use restart_service::{RESTART_SERVICE, RestartService};
pub use roll_cell::{ROLL_CELL, RollCell};
pub use suspend_tenant::{RESUME_TENANT, SUSPEND_TENANT};

use crate::App;
use berth_domain::{CellId, MoveId, TenantId};
use berth_wire::OperationResult;
use berth_workflow::{Registry, StepError, Workflow};
use serde::{Deserialize, Serialize};

/// What a workflow on a cell is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellInput {
    pub cell: CellId,
    /// Who asked; shown with the operation.
    pub asked_by: String,
}

/// What a workflow on a tenant is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantInput {
    pub tenant: TenantId,
    pub asked_by: String,
}

/// What a move is given. Its id is the operation's: figures and protocol speak of the same move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveTenant {
    pub tenant: TenantId,
    pub source: CellId,
    pub target: CellId,
    /// The target was reserved for this move and has to be made first.
    pub new_cell: bool,
    pub asked_by: String,
}

/// What the undo of a move is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoMove {
    pub tenant: TenantId,
    /// The move that is undone.
    pub of: MoveId,
    pub asked_by: String,
}

pub const UNDO_MOVE: Workflow<UndoMove> = Workflow::named("undo_move_v1");
pub const MOVE_TENANT: Workflow<MoveTenant> = Workflow::named("move_tenant_v1");

/// First steps that stand for rows which the starting transaction has written: their names and inputs, as that
/// transaction records them. What is reserved is undone by the steps of these names.
pub(crate) mod reserved {
    use berth_domain::{CellId, MoveId, OperationId, TenantId};
    use serde_json::{Value, json};

    pub const CELL: &str = "reserve_cell";
    pub const TENANT: &str = "reserve_tenant";
    pub const MOVE: &str = "reserve_move";
    pub const UNDO: &str = "reserve_undo";
    pub const ROLL: &str = "reserve_roll";
    pub const UPLOAD: &str = "hold_upload";

    pub fn cell(cell: CellId) -> (&'static str, Value) {
        (CELL, json!({ "cell": cell }))
    }
    /// What was brought for an import: let go of when it is undone, also before it ran.
    pub fn upload(archive: OperationId) -> (&'static str, Value) {
        (UPLOAD, json!({ "archive": archive }))
    }
    pub fn tenant(tenant: TenantId) -> (&'static str, Value) {
        (TENANT, json!({ "tenant": tenant }))
    }
    pub fn roll(roll: i32, cell: CellId) -> (&'static str, Value) {
        (ROLL, json!({ "roll": roll, "cell": cell }))
    }
    pub fn undo(of: MoveId) -> (&'static str, Value) {
        (UNDO, json!({ "of": of }))
    }
    pub fn a_move(tenant: TenantId) -> (&'static str, Value) {
        (MOVE, json!({ "tenant": tenant }))
    }
}

/// Over in moments, and waited for by customers.
pub const SHORT: &[&str] =
    &[CREATE_TENANT_IN_CELL.name(), SUSPEND_TENANT.name(), RESUME_TENANT.name(), PLAN_TENANT.name()];

/// Every workflow that a server can carry out.
pub fn registry() -> Registry<App> {
    Registry::new()
        .with(&CREATE_CELL, create_cell::run)
        .with(&REMOVE_CELL, remove_cell::run)
        .with(&ROLL_CELL, roll_cell::run)
        .with(&MEASURE_CELL, measure_cell::run)
        .with(&MAINTAIN_CELL, maintain_cell::run)
        .with(&RESTART_SERVICE, restart_service::run)
        .with(&CREATE_TENANT, create_tenant::run)
        .with(&CREATE_TENANT_IN_CELL, create_tenant::run)
        .with(&DELETE_TENANT, delete_tenant::run)
        .with(&SUSPEND_TENANT, suspend_tenant::suspend)
        .with(&RESUME_TENANT, suspend_tenant::resume)
        .with(&PLAN_TENANT, plan_tenant::run)
        .with(&MOVE_TENANT, move_tenant::run)
        .with(&UNDO_MOVE, undo_move::run)
        .with(&EXPORT_TENANT, archive::export)
        .with(&RESTORE_ARCHIVE, archive::restore)
        .with(&PURGE_TENANT, purge::run)
        .with(&IMPORT_TENANT, import_tenant::run)
        .with(&IMPORT_TENANT_V1, import_tenant::run_v1)
        .with(&ERASE_TENANT, erase_tenant::run)
        .with(&ERASE_TENANT_V1, erase_tenant::run_v1)
}

/// A result of one sentence.
pub(crate) fn done(summary: impl Into<String>) -> OperationResult {
    OperationResult { summary: Some(summary.into()), figures: serde_json::Map::new() }
}

/// Errors of the store inside a [`berth_workflow::TxStep`].
pub(crate) fn store(error: berth_store::StoreError) -> StepError {
    crate::ControlError::from(error).into()
}
