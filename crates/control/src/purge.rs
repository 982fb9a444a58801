//! Rows that are too old for a tenant's plan: counted, and removed as the stack file says.

use crate::{
    App, Change, ControlError, Permit, Read, audited, moves,
    operations::{self, Begun},
    tenants, views,
    workflows::{ArchiveInput, PURGE_TENANT},
};
use berth_domain::{MoveId, TenantState};
use berth_mover::{MoveSpec, Old, Progress, Watcher};
use berth_store::Tenant;
use berth_wire as wire;
use serde_json::json;

/// Nobody looks on.
struct Unseen;

impl Watcher for Unseen {
    fn progress(&self, _: Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// What would go. Changes nothing, and counts the cell's history for it: not for a tenant's own key.
pub async fn plan(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::PurgePlan, ControlError> {
    let tenant = tenants::known(app, who).await?;
    let archived = app.stack().await?.stack.data.purge != Some(berth_config::Purge::Delete);
    let old = match spec(app, MoveId::new(tenants::fresh().uuid()), &tenant).await? {
        Some(spec) => found(&spec).await?.tables,
        None => Vec::new(),
    };
    let tables = old.into_iter().map(|table| wire::MoveLeft {
        table: table.table.to_string(),
        column: table.column,
        before: table.before.to_string(),
        rows: u64::try_from(table.rows).unwrap_or(0),
    });
    Ok(wire::PurgePlan { tenant: tenant.name, tables: tables.collect(), archived })
}

/// Removes what is too old, as an operation. Archived first where the stack file says so.
pub async fn start(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    if !matches!(tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(ControlError::NotNow { tenant: tenant.name, state: tenant.state });
    }
    let about = operations::about_tenant(&tenant.name);
    // One is enough: a second would find the same rows, and archive them again.
    if let Some(under_way) = operations::open_of(app, PURGE_TENANT.name(), &about).await? {
        return Ok(views::operation(under_way, Vec::new()));
    }
    let id = tenants::fresh();
    let input = ArchiveInput { tenant: tenant.id, archive: id, asked_by: permit.caller().name.clone() };
    let operation = PURGE_TENANT.with(id, &input).about(about);
    let mut tx = app.store().begin().await?;
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, "tenant.purge", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

pub(crate) async fn found(spec: &MoveSpec) -> Result<Old, ControlError> {
    Ok(berth_mover::old_rows(spec, None, &Unseen).await?)
}

/// The tenant where it lives, with the first day that its plan keeps; none where it keeps everything.
pub(crate) async fn spec(app: &App, id: MoveId, tenant: &Tenant) -> Result<Option<MoveSpec>, ControlError> {
    let cell = app.cell(tenant.cell).await?;
    let keep_from = moves::kept_from(app, tenant).await?;
    let spec = moves::spec(app, id, tenant, &cell, &cell).await?;
    if keep_from.is_none() || spec.rules.retention.is_empty() {
        return Ok(None);
    }
    Ok(Some(MoveSpec { keep_from, ..spec }))
}
