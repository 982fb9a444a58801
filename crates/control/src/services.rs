//! Services of cells, restarted. What a restart does is `workflows/restart_service.rs`.
//!
//! A restart and a release in one cell exclude each other. Both ask with the cell's row locked.

use crate::{
    App, Change, ControlError, Permit, Read, ReleaseError, audited, cells,
    operations::{self, Begun},
    tenants, views,
    workflows::{RESTART_SERVICE, RestartService, is_restarted},
};
use berth_config::Service;
use berth_domain::{CellState, ServiceName, ServiceRole};
use berth_store::Cell;
use berth_wire as wire;
use serde_json::json;

/// What `restart` would do.
pub async fn plan_restart(
    app: &App,
    _permit: &Permit<Read>,
    cell: &str,
    service: &str,
) -> Result<wire::RestartPlan, ControlError> {
    let cell = cells::known(app, cell).await?;
    let (name, service) = restartable(app, &cell, service).await?;
    let members = app.store().member_list(Some(cell.id)).await?;
    let own = members.iter().filter(|it| it.service == name && it.release == cell.release && is_restarted(it)).count();
    Ok(wire::RestartPlan {
        cell: cell.name,
        members: u32::try_from(own).unwrap_or(u32::MAX),
        spare: own > 0 && service.role == ServiceRole::Web,
        service: name,
    })
}

/// Starts its members again, one by one. Asked for again while it is at it, it is the same operation.
pub async fn restart(
    app: &App,
    permit: &Permit<Change>,
    cell: &str,
    service: &str,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let cell = cells::known(app, cell).await?;
    let (service, _) = restartable(app, &cell, service).await?;
    let mut tx = app.store().begin().await?;
    tx.cell_lock(cell.id).await?;
    if let Some(release) = tx.cell_rolling(cell.id).await? {
        return Err(ReleaseError::InCell { release, cell: cell.name }.into());
    }
    if let Some(open) = tx.cell_restarting(&cell.name).await? {
        drop(tx);
        let open = operations::known(app, open).await?;
        if open.input.get("service").and_then(|it| it.as_str()) == Some(service.as_str()) {
            return Ok(views::operation(open, Vec::new()));
        }
        return Err(ReleaseError::Restarting(cell.name).into());
    }
    let input = RestartService { cell: cell.id, service: service.clone(), asked_by: permit.caller().name.clone() };
    let operation = RESTART_SERVICE.with(tenants::fresh(), &input).about(operations::about_cell(&cell.name));
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "service": service, "operation": started.id });
    audited(&mut tx, permit, "service.restart", &format!("cell/{}", cell.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

async fn restartable(app: &App, cell: &Cell, service: &str) -> Result<(ServiceName, Service), ControlError> {
    let in_force = app.stack().await?;
    let unknown = || ControlError::from(ReleaseError::NoService(service.to_owned()));
    let name = ServiceName::new(service).map_err(|_| unknown())?;
    let service = in_force.stack.services.get(&name).ok_or_else(unknown)?;
    if !matches!(cell.state, CellState::Ready | CellState::Draining) {
        return Err(ControlError::CellState { cell: cell.name.clone(), state: cell.state });
    }
    if app.is_foreign(cell).await? {
        return Err(ReleaseError::NotOurs(cell.name.clone()).into());
    }
    // One more of it could not stand beside.
    if service.role == ServiceRole::Web && service.port.is_some() {
        return Err(ReleaseError::PortTaken(name).into());
    }
    Ok((name, service.clone()))
}
