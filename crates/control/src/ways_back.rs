//! What can be done about a move that is over: undo it, or settle that it stays.
//!
//! That the old cell follows meanwhile, and that its rows go in the end, is `reconcile/ways_back.rs`.

use crate::{
    App, Change, ControlError, Permit, archives, audited,
    operations::{self, Begun},
    placing::Place,
    releases, tenants, views,
    workflows::{UNDO_MOVE, UndoMove, reserved},
};
use berth_domain::{MoveId, OperationId, TenantEvent, TenantState, WayBackState};
use berth_mover::{MoveSpec, Progress, Side, Watcher};
use berth_store::{MoveOutcome, Tenant, WayBack};
use berth_wire as wire;
use serde_json::json;

/// How many of a tenant's last moves are looked through for one that was not given up.
const LOOKED_THROUGH: i64 = 20;

/// The tenant goes back to where it was before its last move, with everything that was written since.
pub async fn undo(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    if let Err(source) = tenant.state.after(TenantEvent::MoveStarted) {
        return Err(tenants::wrong_state(app, &tenant, source).await?);
    }
    let way = open(app, &tenant).await?;
    let mut tx = app.store().begin().await?;
    releases::must_not_roll(&mut tx, &[way.new_cell, way.old_cell]).await?;
    if let Err(source) = tx.tenant_apply(tenant.id, TenantEvent::MoveStarted).await? {
        drop(tx);
        return Err(tenants::wrong_state(app, &tenant, source).await?);
    }
    if !tx.way_back_turn(way.id, WayBackState::Open, WayBackState::Undoing, None).await? {
        drop(tx);
        return Err(none_open(app, &tenant).await?);
    }
    let id = tenants::fresh();
    tx.move_insert(MoveId::new(id.uuid()), tenant.id, "undo", way.new_cell, way.old_cell).await?;
    let input = UndoMove { tenant: tenant.id, of: way.id, asked_by: permit.caller().name.clone() };
    let operation = UNDO_MOVE.with(id, &input).about(operations::about_tenant(&tenant.name));
    let started = operations::start(app, &mut tx, operation, Begun::Reserved(vec![reserved::undo(way.id)])).await?;
    let after = json!({ "move": OperationId::new(way.id.uuid()), "operation": started.id });
    audited(&mut tx, permit, "tenant.undo_move", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The last move stays: what it left behind goes now instead of at the end of its time.
pub async fn settle(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Move, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    let way = open(app, &tenant).await?;
    let mut tx = app.store().begin().await?;
    let reason = Some("settled by a person");
    if !tx.way_back_turn(way.id, WayBackState::Open, WayBackState::Closing, reason).await? {
        drop(tx);
        return Err(none_open(app, &tenant).await?);
    }
    let after = json!({ "move": OperationId::new(way.id.uuid()) });
    audited(&mut tx, permit, "tenant.settle_move", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    crate::moves::shown(app, OperationId::new(way.id.uuid())).await
}

async fn open(app: &App, tenant: &Tenant) -> Result<WayBack, ControlError> {
    let ways = app.store().ways_back_unfinished(Some(tenant.id)).await?;
    match ways.into_iter().find(|way| way.state == WayBackState::Open && !way.over) {
        Some(open) => Ok(open),
        None => Err(none_open(app, tenant).await?),
    }
}

/// Why nothing can be undone, where the tenant's last move could be once.
async fn none_open(app: &App, tenant: &Tenant) -> Result<ControlError, ControlError> {
    let last = app.store().move_list(Some(tenant.id), LOOKED_THROUGH).await?;
    let last = last.into_iter().find(|it| it.outcome == Some(MoveOutcome::Moved)).and_then(|it| it.way_back);
    let ended = last.filter(|way| matches!(way.state, WayBackState::Closing | WayBackState::Closed));
    Ok(ControlError::NoWayBack { tenant: tenant.name.clone(), ended: ended.and_then(|way| way.ended_by) })
}

/// A move into a cell that still has the tenant's rows of an earlier one would find them there.
pub(crate) async fn must_not_hold(app: &App, tenant: &Tenant, place: &Place) -> Result<(), ControlError> {
    let Place::Existing(cell) = place else { return Ok(()) };
    let ways = app.store().ways_back_unfinished(Some(tenant.id)).await?;
    match ways.iter().find(|way| way.old_cell == *cell) {
        None => Ok(()),
        Some(way) => Err(ControlError::LeftBehind {
            tenant: tenant.name.clone(),
            cell: app.cell(*cell).await?.name,
            may_undo: way.state == WayBackState::Open,
        }),
    }
}

/// The move that this is the way back of.
pub(crate) async fn spec(app: &App, way: &WayBack) -> Result<MoveSpec, ControlError> {
    let tenant = app.store().tenant_get(way.tenant).await?;
    let tenant = tenant.ok_or_else(|| ControlError::NoTenant(way.tenant.to_string()))?;
    let (old_cell, new_cell) = (app.cell(way.old_cell).await?, app.cell(way.new_cell).await?);
    crate::moves::spec(app, way.id, &tenant, &old_cell, &new_cell).await
}

/// Clears away what nobody can go back to, now and here; a server that works does it by itself. Returns the rows.
pub async fn clear_settled(app: &App, _permit: &Permit<Change>) -> Result<u64, ControlError> {
    let mut gone = 0;
    for way in app.store().ways_back_unfinished(None).await? {
        if way.state == WayBackState::Closing {
            gone += clear(app, &way, &Unwatched).await?;
        }
    }
    Ok(gone)
}

pub(crate) struct Unwatched;

impl Watcher for Unwatched {
    fn progress(&self, _: Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
}

/// The old cell goes as a whole, so its rows need not go one by one.
pub(crate) async fn close_with_the_cell(app: &App, way: &WayBack) -> Result<(), ControlError> {
    let spec = spec(app, way).await?;
    archives::left_behind(app, way.id, &spec, &way.plan, &Unwatched).await?;
    berth_mover::close_way_back(&spec).await?;
    disarm_new_side(app, way, &spec).await?;
    let reason = Some("the cell was removed");
    app.store().way_back_turn(way.id, WayBackState::Closing, WayBackState::Closed, reason).await?;
    Ok(())
}

/// Where the tenant lives now nothing looks at its writes any more, unless another way back leads out of there.
async fn disarm_new_side(app: &App, way: &WayBack, spec: &MoveSpec) -> Result<(), ControlError> {
    let others = app.store().ways_back_unfinished(Some(way.tenant)).await?;
    if others.iter().all(|other| other.id == way.id || other.new_cell != way.new_cell) {
        berth_mover::disarm(spec, Side::Target, &app.store().ownership(way.tenant)).await?;
    }
    Ok(())
}

/// Nobody wants it any more: slot, publication and the rows of the old cell go, then the new one's
/// triggers. Safe to run again.
///
/// What the move left behind is archived before, except where the tenant is deleted.
pub(crate) async fn clear(app: &App, way: &WayBack, watcher: &dyn Watcher) -> Result<u64, ControlError> {
    let spec = spec(app, way).await?;
    berth_mover::close_way_back(&spec).await?;
    let deleted = app.store().tenant_get(way.tenant).await?.is_some_and(|t| t.state == TenantState::Deleting);
    if !deleted {
        // Before anything goes: what a move left behind is nowhere else.
        archives::left_behind(app, way.id, &spec, &way.plan, watcher).await?;
    }
    let ownership = app.store().ownership(way.tenant);
    let gone = berth_mover::release(&spec, &way.plan, &ownership, watcher).await?;
    disarm_new_side(app, way, &spec).await?;
    app.store().way_back_turn(way.id, WayBackState::Closing, WayBackState::Closed, None).await?;
    Ok(gone)
}
