//! The inbox: proposals to put a tenant elsewhere, agreed to or not by a person, and carried out when they are.
//!
//! What is agreed to is a row first and a move second: a server that dies between the two leaves a row that another one
//! carries out. Never proposes anything: `judge` does.

use crate::{
    App, Caller, Change, ControlError, Kind, Permit, Read, Scope, audited, decide, moves, placing::Decided, tenants,
};
use berth_domain::{ApprovalId, ApprovalState, CellClass, CellName, CellState, OperationId, PlanName, TenantState};
use berth_placement::Profile;
use berth_store::{Approval, ApprovalFilter, Cell, Tenant};
use berth_usage::Place;
use berth_wire as wire;
use serde_json::json;

/// Longest list.
const LIST_MOST: i64 = 1000;

/// Newest first. `state`: only those in this one.
pub async fn list(
    app: &App,
    _permit: &Permit<Read>,
    tenant: Option<&str>,
    state: Option<ApprovalState>,
) -> Result<wire::Page<wire::Approval>, ControlError> {
    let tenant = match tenant {
        Some(who) => Some(tenants::known(app, who).await?.id),
        None => None,
    };
    let found = app.store().approval_list(&ApprovalFilter { tenant, state, id: None }, LIST_MOST).await?;
    Ok(wire::Page::whole(found.into_iter().map(view).collect::<Result<_, _>>()?))
}

pub async fn show(app: &App, _permit: &Permit<Read>, id: ApprovalId) -> Result<wire::Approval, ControlError> {
    view(known(app, id).await?)
}

/// Agrees. The plan is changed and the move begins at once where that is possible, and otherwise as soon as it is.
pub async fn approve(app: &App, permit: &Permit<Change>, id: ApprovalId) -> Result<wire::Approval, ControlError> {
    app.writable().await?;
    let approval = known(app, id).await?;
    turn(app, permit, &approval, ApprovalState::Open, ApprovalState::Approved, None).await?;
    let approval = known(app, id).await?;
    carry_out(app, &approval).await?;
    view(known(app, id).await?)
}

/// Does not agree; the same is not proposed again for a month, unless its place breaks a standard, its residency or its
/// number of regions. One that is agreed to and waits for a place can still be taken back.
pub async fn reject(
    app: &App,
    permit: &Permit<Change>,
    id: ApprovalId,
    reason: Option<&str>,
) -> Result<wire::Approval, ControlError> {
    app.writable().await?;
    let approval = known(app, id).await?;
    let from = if approval.state == ApprovalState::Approved { approval.state } else { ApprovalState::Open };
    turn(app, permit, &approval, from, ApprovalState::Rejected, reason).await?;
    view(known(app, id).await?)
}

async fn known(app: &App, id: ApprovalId) -> Result<Approval, ControlError> {
    let filter = ApprovalFilter { id: Some(id), ..ApprovalFilter::default() };
    app.store().approval_list(&filter, 1).await?.pop().ok_or(ControlError::NoApproval(id))
}

async fn turn(
    app: &App,
    permit: &Permit<Change>,
    approval: &Approval,
    from: ApprovalState,
    to: ApprovalState,
    reason: Option<&str>,
) -> Result<(), ControlError> {
    if approval.state != from {
        return Err(ControlError::ApprovalState { tenant: approval.tenant_name.clone(), state: approval.state });
    }
    let mut tx = app.store().begin().await?;
    tx.approval_turn(approval.id, from, to, Some(&permit.caller().name), reason).await?;
    let action = if to == ApprovalState::Approved { "approval.approve" } else { "approval.reject" };
    let after = json!({ "approval": approval.id, "direction": approval.direction, "then": approval.place_then, "reason": reason });
    audited(&mut tx, permit, action, &format!("tenant/{}", approval.tenant_name), None, Some(after)).await?;
    Ok(tx.commit().await?)
}

/// Puts the tenant on the plan and starts its move. What cannot be done now is left as it is, with the reason, and is
/// tried again; what can never be done ends it.
pub(crate) async fn carry_out(app: &App, approval: &Approval) -> Result<(), ControlError> {
    match attempt(app, approval).await {
        Ok(Attempt::Done(operation)) => {
            let mut tx = app.store().begin().await?;
            match tx.approval_carried_out(approval.id, operation).await {
                Ok(()) => Ok(tx.commit().await?),
                // It ended or was rejected in the moment in which its move began; the move stands in the trail.
                Err(berth_store::StoreError::Stale(_)) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Ok(Attempt::Later(why)) => note(app, approval, ApprovalState::Approved, &why).await,
        Ok(Attempt::Over(why)) => note(app, approval, ApprovalState::Superseded, &why).await,
        Err(error) => match error.kind() {
            Kind::Conflict | Kind::Full | Kind::Provider | Kind::Unavailable | Kind::Stale => {
                note(app, approval, ApprovalState::Approved, &error.full()).await
            }
            _ => note(app, approval, ApprovalState::Failed, &error.full()).await,
        },
    }
}

enum Attempt {
    Done(Option<OperationId>),
    Later(String),
    /// Somebody decided otherwise meanwhile.
    Over(String),
}

async fn attempt(app: &App, approval: &Approval) -> Result<Attempt, ControlError> {
    let (now, then): (Place, Place) =
        (serde_json::from_value(approval.place_now.clone())?, serde_json::from_value(approval.place_then.clone())?);
    let gone = || ControlError::NoTenant(approval.tenant_name.to_string());
    let tenant = app.store().tenant_get(approval.tenant).await?.ok_or_else(gone)?;
    match tenant.state {
        TenantState::Active => {}
        TenantState::Deleting | TenantState::Deleted | TenantState::Failed => return Err(gone()),
        state => return Ok(Attempt::Later(format!("the tenant is {state}"))),
    }
    let name = approval.decided_by.clone().unwrap_or_else(|| "berth".to_owned());
    let permit = Caller { name, scope: Scope::Admin, request_id: None }.may(Change)?;
    let who = tenant.id.to_string();
    let plan = PlanName::new(&then.plan)?;
    if tenant.plan != plan && tenant.plan.as_str() != now.plan {
        return Ok(Attempt::Over(format!("the tenant was put on the plan {} meanwhile", tenant.plan)));
    }
    // A place of the right class that breaks what the tenant needs is left all the same.
    let decision: berth_placement::Decision = serde_json::from_value(approval.decision.clone())?;
    let breaks = decision.refused.iter().any(|r| r.cell.is_some() && r.cell == now.cell && r.constraint != "capacity");
    // A cell of its own is made where none stands; a shared one is not.
    let has_place = then.cell.is_some() || then.class == CellClass::Dedicated;
    let leaves = approval.direction == "across" || (breaks && has_place);
    let here = now.cell.as_deref() == Some(tenant.cell_name.as_str());
    if tenant.cell_class == then.class && !(leaves && here) {
        if tenant.plan != plan {
            tenants::set_plan(app, &permit, &who, &plan, None).await?;
        }
        return Ok(Attempt::Done(None));
    }
    // The cell of the decision, if it is still there and takes tenants; else whichever of its class does.
    let named = match then.cell.as_ref().map(CellName::new).transpose()? {
        Some(name) => app.store().cell_by_name(&name).await?.filter(|cell| {
            cell.state == CellState::Ready && cell.tenants < i64::from(cell.max_tenants) && cell.id != tenant.cell
        }),
        None => None,
    };
    if let Some(cell) = named.as_ref().filter(|_| then.class != CellClass::Dedicated) {
        // What the tenant has to meet may be more by now than when this was proposed.
        let engine = decide::engine(app).await?;
        let needs = Profile { cell: None, ..crate::judge::profile(app, &engine, &tenant).await? };
        let ranked = engine.cells_for(then.class, plan.as_str(), &needs).map_err(ControlError::BadProfile)?;
        if !ranked.contains(&cell.name.as_str()) {
            return Ok(Attempt::Over(format!("cell {} no longer meets what the tenant needs", cell.name)));
        }
    }
    let named = match named {
        None if then.class != CellClass::Dedicated => match better(app, &tenant, &plan, then.class, &decision).await? {
            Better::Any => None,
            Better::Cell(cell) => Some(*cell),
            Better::None => {
                return Ok(Attempt::Later(format!("no {} cell that would serve it better has room", then.class)));
            }
        },
        named => named,
    };
    // The plan comes with the move or not at all: without a place it would be a dear plan in a cheap one, or a small one
    // that keeps less.
    let to = named.as_ref().map(|cell| &cell.name);
    let decided = decision.provider.as_deref().zip(decision.regions.first());
    let decided = decided.map(|(provider, region)| Decided { provider, region });
    let operation = moves::start_on(app, &permit, &who, to, Some(&plan), decided).await?;
    Ok(Attempt::Done(Some(operation.id)))
}

/// Which cell of a class serves a tenant better that is served badly.
enum Better {
    /// It is not about that.
    Any,
    Cell(Box<Cell>),
    None,
}

/// The first cell with room that is not among those where it would be served as badly.
async fn better(
    app: &App,
    tenant: &Tenant,
    plan: &PlanName,
    class: CellClass,
    decision: &berth_placement::Decision,
) -> Result<Better, ControlError> {
    let bad: Vec<&str> =
        decision.refused.iter().filter(|r| r.constraint == "service").filter_map(|r| r.cell.as_deref()).collect();
    if bad.is_empty() {
        return Ok(Better::Any);
    }
    let engine = decide::engine(app).await?;
    let needs = Profile { cell: None, ..decide::needs_of(&app.stack().await?.stack, tenant)? };
    let ranked = engine.cells_for(class, plan.as_str(), &needs).map_err(ControlError::BadProfile)?;
    let Some(name) = ranked.into_iter().find(|name| !bad.contains(name)) else { return Ok(Better::None) };
    let cell = app.store().cell_by_name(&CellName::new(name)?).await?;
    Ok(cell.map_or(Better::None, |cell| Better::Cell(Box::new(cell))))
}

async fn note(app: &App, approval: &Approval, to: ApprovalState, why: &str) -> Result<(), ControlError> {
    if to == approval.state && approval.reason.as_deref() == Some(why) {
        return Ok(());
    }
    tracing::warn!(approval = %approval.id, tenant = %approval.tenant_name, why, "what was agreed for tenant {} is not carried out: {why}", approval.tenant_name);
    let mut tx = app.store().begin().await?;
    match tx.approval_turn(approval.id, ApprovalState::Approved, to, None, Some(why)).await {
        Ok(()) => Ok(tx.commit().await?),
        // Another server was faster.
        Err(berth_store::StoreError::Stale(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn view(approval: Approval) -> Result<wire::Approval, ControlError> {
    Ok(wire::Approval {
        id: approval.id,
        tenant: approval.tenant_name,
        state: approval.state,
        direction: approval.direction,
        now: serde_json::from_value(approval.place_now)?,
        then: serde_json::from_value(approval.place_then)?,
        because: serde_json::from_value(approval.because)?,
        decision: serde_json::from_value(approval.decision)?,
        unattended: approval.unattended,
        made_at: approval.made_at,
        expires_at: approval.expires_at,
        decided_at: approval.decided_at,
        decided_by: approval.decided_by,
        reason: approval.reason,
        operation: approval.operation,
    })
}
