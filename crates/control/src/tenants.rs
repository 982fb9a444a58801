//! Tenants: created, shown, changed, suspended, deleted. What takes longer is an operation that these start, in one
//! transaction with the rows that reserve what it needs.

use crate::{
    App, Change, ControlError, Permit, ReadTenant, StackInForce, audited, decide, hosts,
    operations::{self, Begun, open_operation},
    placing::{self, Place, Wanted},
    views,
    workflows::{
        self, CREATE_TENANT, CREATE_TENANT_IN_CELL, DELETE_TENANT, PLAN_TENANT, RESUME_TENANT, SUSPEND_TENANT,
        TenantInput, reserved,
    },
};
use berth_domain::{
    CellId, Hostname, Mode, Network, OperationId, PlanName, TenantEvent, TenantId, TenantKey, TenantName, TenantState,
};
use berth_placement::Profile;
use berth_store::{NewTenant, StoreError, Taken, Tenant, Tx};
use berth_wire as wire;
use berth_workflow::NewOperation;
use serde_json::json;
use uuid::Uuid;

/// Longest page of a list.
const PAGE_MOST: u32 = 1000;

/// Reserves name, key, hosts and a place, and starts the operation that provisions the tenant.
pub async fn create(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::TenantCreate,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let in_force = app.stack().await?;
    let plan = usable_plan(app, &wanted.plan).await?;
    let profile = match wanted.profile.clone() {
        Some(profile) => decide::checked(&decide::settings(&in_force.stack)?.0, profile)?,
        None => Profile::default(),
    };
    let place = Wanted {
        class: plan.class,
        plan: &wanted.plan,
        tenant: &wanted.name,
        profile: &profile,
        named: wanted.cell.as_ref(),
        from: None,
        decided: None,
    };
    let chosen = placing::choose(app, &in_force, &place).await?;

    let id = TenantId::new(Uuid::now_v7());
    let new = NewTenant {
        id,
        name: wanted.name.clone(),
        // Until the application answers with another one, it is known by our own id.
        key: wanted.key.clone().map_or_else(|| TenantKey::new(id.to_string()), Ok)?,
        plan: wanted.plan.clone(),
        settings: if wanted.profile.is_some() { json!({ "profile": profile }) } else { json!({}) },
    };
    let mut tx = app.store().begin().await?;
    let cell = placing::take(&mut tx, &chosen, &place).await?;
    reserve(&mut tx, &in_force, &new, cell, &wanted.hosts).await?;
    let input = workflows::CreateTenant {
        tenant: id,
        new_cell: matches!(chosen, Place::New(_)).then_some(cell),
        known_to_application: wanted.key.is_some(),
        asked_by: permit.caller().name.clone(),
    };
    let workflow = if input.new_cell.is_some() { CREATE_TENANT } else { CREATE_TENANT_IN_CELL };
    let operation = workflow.with(fresh(), &input).about(operations::about_tenant(&wanted.name));
    let mut rows = vec![reserved::tenant(id)];
    rows.extend(input.new_cell.map(reserved::cell));
    let started = operations::start(app, &mut tx, operation, Begun::Reserved(rows)).await?;
    audited(
        &mut tx,
        permit,
        "tenant.create",
        &format!("tenant/{}", wanted.name),
        None,
        Some(json!({
            "plan": wanted.plan, "hosts": wanted.hosts, "key": wanted.key, "profile": wanted.profile,
            "operation": started.id,
        })),
    )
    .await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// A tenant's rows in the transaction that starts its operation; the cell is taken already.
pub(crate) async fn reserve(
    tx: &mut Tx,
    in_force: &StackInForce,
    new: &NewTenant,
    cell: CellId,
    wanted: &[Hostname],
) -> Result<(), ControlError> {
    tx.tenant_insert(new).await.map_err(|error| taken(error, new))?;
    tx.placement_insert(new.id, cell).await?;
    hosts::replace(tx, &in_force.stack.hosts, new.id, wanted).await?;
    // What a request that reads writes to Redis in the pause is fenced by nothing; of a cache that is no loss.
    let holds_all = in_force.stack.data.redis.as_ref().is_some_and(|redis| redis.store)
        || in_force.stack.services.values().any(|service| service.hold == berth_config::HoldPolicy::All);
    Ok(tx.placement_set_hold(new.id, holds_all, crate::HOLD_DRAIN_MS, crate::HOLD_PARK_MS).await?)
}

/// In order of names, those after the cursor.
pub async fn list(
    app: &App,
    permit: &Permit<ReadTenant>,
    filter: &TenantFilter,
) -> Result<wire::Page<wire::Tenant>, ControlError> {
    let limit = filter.limit.clamp(1, PAGE_MOST);
    let mut after = filter.after.clone();
    let mut items = Vec::new();
    // Filters that the index does not know are applied here, page after page, until one is full.
    loop {
        let found = app.store().tenant_list(after.as_ref(), filter.like.as_deref(), i64::from(PAGE_MOST)).await?;
        let last_page = found.len() < PAGE_MOST as usize;
        for tenant in found {
            after = Some(tenant.name.clone());
            if permit.sees(tenant.id)
                && filter.state.is_none_or(|state| state == tenant.state)
                && filter.cell.as_ref().is_none_or(|cell| *cell == tenant.cell_name)
                && filter.plan.as_ref().is_none_or(|plan| *plan == tenant.plan)
            {
                if items.len() == limit as usize {
                    let next = items.last().map(|last: &wire::Tenant| last.name.to_string());
                    return Ok(wire::Page { items, next });
                }
                items.push(views::tenant(tenant, None));
            }
        }
        if last_page {
            return Ok(wire::Page { items, next: None });
        }
    }
}

/// Which tenants to list.
#[derive(Clone, Debug)]
pub struct TenantFilter {
    pub state: Option<TenantState>,
    pub cell: Option<berth_domain::CellName>,
    pub plan: Option<PlanName>,
    /// Part of a name or host.
    pub like: Option<String>,
    /// The cursor: the last name of the page before.
    pub after: Option<TenantName>,
    pub limit: u32,
}

impl Default for TenantFilter {
    fn default() -> Self {
        Self { state: None, cell: None, plan: None, like: None, after: None, limit: PAGE_MOST }
    }
}

/// `who`: a name or an id.
pub async fn show(app: &App, permit: &Permit<ReadTenant>, who: &str) -> Result<wire::Tenant, ControlError> {
    let tenant = find(app, permit, who).await?;
    let operation = open_operation(app, &operations::about_tenant(&tenant.name)).await?;
    Ok(views::tenant(tenant, operation))
}

/// The same as [`set_all_hosts`] for a caller who also says how the tenant is isolated: refused when it is not so yet.
pub async fn set_domains(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    hosts: &[Hostname],
    mode: Option<Mode>,
) -> Result<wire::Tenant, ControlError> {
    let tenant = known(app, who).await?;
    if let Some(wanted) = mode.filter(|wanted| *wanted != tenant.cell_class.mode()) {
        return Err(ControlError::OtherMode { tenant: tenant.name, is: tenant.cell_class.mode(), wanted });
    }
    set_all_hosts(app, permit, who, hosts, None).await
}

/// All its host names; those left out no longer route to it. `version`: the one that was read, if it matters.
pub async fn set_all_hosts(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    wanted: &[Hostname],
    version: Option<u64>,
) -> Result<wire::Tenant, ControlError> {
    app.writable().await?;
    let tenant = known(app, who).await?;
    let rules = hosts::rules(app).await?;
    let mut tx = app.store().begin().await?;
    let version = expected(&tenant, version)?;
    tx.tenant_lock(tenant.id).await?;
    tx.tenant_touch(tenant.id, version).await?;
    hosts::replace(&mut tx, &rules, tenant.id, wanted).await?;
    audited(
        &mut tx,
        permit,
        "tenant.hosts",
        &format!("tenant/{}", tenant.name),
        Some(json!({ "hosts": tenant.hosts })),
        Some(json!({ "hosts": wanted })),
    )
    .await?;
    if is_routed(tenant.state) {
        tx.routes_publish(&[tenant.id]).await?;
    }
    tx.commit().await?;
    again(app, tenant.id).await
}

/// Whose requests edges serve: of these networks, or of everybody with none. `version`: the one that was read.
pub async fn set_allow(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    networks: &[Network],
    version: Option<u64>,
) -> Result<wire::Tenant, ControlError> {
    app.writable().await?;
    let tenant = known(app, who).await?;
    let (before, version) = (tenant.allow()?, expected(&tenant, version)?);
    let mut tx = app.store().begin().await?;
    tx.tenant_lock(tenant.id).await?;
    tx.tenant_touch(tenant.id, version).await?;
    tx.tenant_set_allow(tenant.id, networks).await?;
    let about = format!("tenant/{}", tenant.name);
    let (before, after) = (json!({ "allow": before }), json!({ "allow": networks }));
    audited(&mut tx, permit, "tenant.allow", &about, Some(before), Some(after)).await?;
    if is_routed(tenant.state) {
        tx.routes_publish(&[tenant.id]).await?;
    }
    tx.commit().await?;
    again(app, tenant.id).await
}

/// Limits change at once; the tenant stays where it is until it is moved.
pub async fn set_plan(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    plan: &PlanName,
    version: Option<u64>,
) -> Result<wire::Tenant, ControlError> {
    app.writable().await?;
    let tenant = known(app, who).await?;
    usable_plan(app, plan).await?;
    let calls = app.stack().await?.stack.data.hooks.plan.is_some();
    let mut tx = app.store().begin().await?;
    put_on_plan(app, &mut tx, permit, &tenant, expected(&tenant, version)?, plan, calls).await?;
    tx.commit().await?;
    again(app, tenant.id).await
}

/// The plan with what follows from it, in one transaction: limits at the edges, the application's hook, the trail.
pub(crate) async fn put_on_plan(
    app: &App,
    tx: &mut Tx,
    permit: &Permit<Change>,
    tenant: &Tenant,
    version: i64,
    plan: &PlanName,
    calls: bool,
) -> Result<(), ControlError> {
    tx.tenant_set_plan(tenant.id, version, plan).await?;
    if calls && is_routed(tenant.state) {
        let input = TenantInput { tenant: tenant.id, asked_by: permit.caller().name.clone() };
        let operation = PLAN_TENANT.with(fresh(), &input).about(operations::about_tenant(&tenant.name));
        operations::start(app, tx, operation, Begun::ForGood).await?;
    }
    audited(
        tx,
        permit,
        "tenant.plan",
        &format!("tenant/{}", tenant.name),
        Some(json!({ "plan": tenant.plan })),
        Some(json!({ "plan": plan })),
    )
    .await?;
    if is_routed(tenant.state) {
        tx.routes_publish(&[tenant.id]).await?;
    }
    Ok(())
}

/// Requests are answered 403 from now on; the data stays.
pub async fn suspend(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    let input = |tenant, asked_by| TenantInput { tenant, asked_by };
    let event = Some(TenantEvent::Suspend);
    begin(app, permit, who, "tenant.suspend", event, |t, by| SUSPEND_TENANT.with(fresh(), &input(t, by))).await
}

pub async fn resume(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    let tenant = known(app, who).await?;
    // Takes effect at the workflow's end; whether it can is said now.
    if let Err(source) = tenant.state.after(TenantEvent::Resume) {
        return Err(wrong_state(app, &tenant, source).await?);
    }
    let input = |tenant, asked_by| TenantInput { tenant, asked_by };
    begin(app, permit, who, "tenant.resume", None, |t, by| RESUME_TENANT.with(fresh(), &input(t, by))).await
}

/// The route goes at once, the rows when the edges have heard of it.
pub async fn delete(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    must_be_idle(app, &known(app, who).await?).await?;
    let input = |tenant, asked_by| TenantInput { tenant, asked_by };
    let event = Some(TenantEvent::DeleteStarted);
    begin(app, permit, who, "tenant.delete", event, |t, by| DELETE_TENANT.with(fresh(), &input(t, by))).await
}

/// What brings rows back while others go would leave them where nobody looks for them.
pub(crate) async fn must_be_idle(app: &App, tenant: &Tenant) -> Result<(), ControlError> {
    match open_operation(app, &operations::about_tenant(&tenant.name)).await? {
        // A tenant that moves is told so, as everywhere.
        Some(operation) if matches!(tenant.state, TenantState::Active | TenantState::Suspended) => {
            Err(ControlError::TenantBusy { tenant: tenant.name.clone(), operation })
        }
        _ => Ok(()),
    }
}

/// Changes the tenant's state, publishes its route and starts an operation: all or nothing.
async fn begin(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    action: &str,
    event: Option<TenantEvent>,
    operation: impl FnOnce(TenantId, String) -> NewOperation,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = known(app, who).await?;
    let mut tx = app.store().begin().await?;
    if let Some(event) = event
        && let Err(source) = tx.tenant_apply(tenant.id, event).await?
    {
        drop(tx);
        return Err(wrong_state(app, &tenant, source).await?);
    }
    if event == Some(TenantEvent::DeleteStarted) {
        tx.keys_revoke_of(tenant.id).await?;
    }
    let new = operation(tenant.id, permit.caller().name.clone()).about(operations::about_tenant(&tenant.name));
    let begun = if event.is_some() { Begun::ForGood } else { Begun::Nothing };
    let started = operations::start(app, &mut tx, new, begun).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, action, &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    if event.is_some() {
        tx.routes_publish(&[tenant.id]).await?;
    }
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

pub(crate) async fn wrong_state(
    app: &App,
    tenant: &Tenant,
    source: berth_domain::IllegalTransition,
) -> Result<ControlError, ControlError> {
    let operation = open_operation(app, &operations::about_tenant(&tenant.name)).await?;
    Ok(match source.from {
        TenantState::Moving => ControlError::AlreadyMoving { tenant: tenant.name.clone(), operation },
        state => ControlError::TenantState { tenant: tenant.name.clone(), state, operation, source },
    })
}

/// The tenant, if it exists for this caller. By name, by id, or by `key:` and the application's key.
pub(crate) async fn find<A>(app: &App, permit: &Permit<A>, who: &str) -> Result<Tenant, ControlError> {
    let tenant = known(app, who).await?;
    if permit.sees(tenant.id) { Ok(tenant) } else { Err(ControlError::NoTenant(who.to_owned())) }
}

pub(crate) async fn known(app: &App, who: &str) -> Result<Tenant, ControlError> {
    if who.starts_with("key:") {
        let id = app.store().tenants_called(&[who.to_owned()]).await?.remove(who);
        let found = match id {
            Some(id) => app.store().tenant_get(id).await?,
            None => None,
        };
        return found.ok_or_else(|| ControlError::NoTenant(who.to_owned()));
    }
    let by_name = match TenantName::new(who) {
        Ok(name) => app.store().tenant_by_name(&name).await?,
        Err(_) => None,
    };
    let found = match (by_name, who.parse::<TenantId>()) {
        (None, Ok(id)) => app.store().tenant_get(id).await?,
        (found, _) => found,
    };
    found.ok_or_else(|| ControlError::NoTenant(who.to_owned()))
}

pub(crate) async fn usable_plan(app: &App, name: &PlanName) -> Result<berth_domain::Plan, ControlError> {
    let stored = app.store().plan_get(name).await?.ok_or_else(|| ControlError::NoPlan(name.clone()))?;
    if stored.retired { Err(ControlError::PlanRetired(name.clone())) } else { Ok(stored.plan) }
}

fn taken(error: StoreError, new: &NewTenant) -> ControlError {
    match error {
        StoreError::Taken(Taken::TenantName) => ControlError::TenantExists(new.name.clone()),
        StoreError::Taken(Taken::TenantKey) => ControlError::KeyTaken(new.key.to_string()),
        other => other.into(),
    }
}

pub(crate) fn expected(tenant: &Tenant, version: Option<u64>) -> Result<i64, ControlError> {
    match version {
        Some(version) if i64::try_from(version) != Ok(tenant.version) => Err(ControlError::Stale("tenant")),
        _ => Ok(tenant.version),
    }
}

/// Edges know of it.
pub(crate) fn is_routed(state: TenantState) -> bool {
    matches!(state, TenantState::Active | TenantState::Moving | TenantState::Suspended)
}

async fn again(app: &App, id: TenantId) -> Result<wire::Tenant, ControlError> {
    let tenant = app.store().tenant_get(id).await?.ok_or_else(|| ControlError::NoTenant(id.to_string()))?;
    let operation = open_operation(app, &operations::about_tenant(&tenant.name)).await?;
    Ok(views::tenant(tenant, operation))
}

pub(crate) fn fresh() -> OperationId {
    OperationId::new(Uuid::now_v7())
}
