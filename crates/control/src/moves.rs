//! Moves: planned, started, listed. What a move does, step by step, is `workflows/move_tenant.rs`.

use crate::{
    App, Change, ControlError, Permit, Read, ReadTenant, archives, audited, cell_access,
    costs::prices,
    decide,
    operations::{self, Begun},
    placing::{self, Decided, Place, Wanted},
    releases, tenants, views, ways_back,
    workflows::{MOVE_TENANT, MoveTenant, reserved},
};
use berth_domain::{
    CellClass, CellName, MoveId, OperationId, OperationState, PlanName, TenantEvent, TenantKey, WayBackState,
};
use berth_infra::CellDatabase;
use berth_mover::{
    Beside, DataRules, KeysBeside, LinkRule, MoveError, MoveSpec, ObjectsBeside, TableName, Tuning, Way,
};
use berth_store::{Cell, Tenant};
use berth_wire as wire;
use berth_workflow::{Journal, StepError};
use serde_json::json;
use tracing::warn;

/// What a move would do. Nothing is changed to find out.
pub async fn plan(
    app: &App,
    permit: &Permit<ReadTenant>,
    who: &str,
    to: Option<&CellName>,
) -> Result<wire::MovePlan, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let in_force = app.stack().await?;
    let source = app.cell(tenant.cell).await?;
    let plan = app.store().plan_get(&tenant.plan).await?.ok_or_else(|| ControlError::NoPlan(tenant.plan.clone()))?;
    let profile = decide::profile_of(&tenant)?;
    let wanted = Wanted {
        class: plan.plan.class,
        plan: &tenant.plan,
        tenant: &tenant.name,
        profile: &profile,
        named: to,
        from: Some(&source),
        decided: None,
    };
    let (place, lacks) = placing::look(app, &in_force, &wanted).await?;
    let (price_before_cents, price_after_cents) = prices::before_and_after(app, &in_force, &source, &place).await?;
    let mut shown = wire::MovePlan {
        tenant: tenant.name.clone(),
        from: source.name.clone(),
        to: source.name.clone(),
        rows: None,
        bytes: None,
        duration_s: None,
        price_before_cents,
        price_after_cents,
        tables: Vec::new(),
        shared: Vec::new(),
        unsure: Vec::new(),
        notes: Vec::new(),
        neighbours: Vec::new(),
        left_behind: Vec::new(),
        beside: Vec::new(),
        archived_to: None,
        blockers: Vec::new(),
    };
    shown.blockers.extend(lacks.map(|error| blocker(error.code(), error.to_string(), error.hint())));
    if let Err(source) = tenant.state.after(TenantEvent::MoveStarted) {
        let error = tenants::wrong_state(app, &tenant, source).await?;
        shown.blockers.push(blocker(error.code(), error.to_string(), error.hint()));
    }
    let target = match place {
        Place::Existing(id) => app.cell(id).await?,
        Place::New(new) => {
            // A cell that does not exist yet has nothing to compare with; sizes are read when it is there.
            shown.to = new.name;
            let database = cell_access::endpoint(&app.cell_database(&source).await?);
            let found = berth_mover::discover(&database, &rules(&in_force.stack.data)).await?;
            belonging(&mut shown, &found.tables, &found.shared, found.unsure, false);
            shown.blockers.extend(found.obstacles.iter().map(obstacle));
            // Counted where they are: the other side does not exist yet.
            let known = app.cell_database(&source).await?;
            let here = beside(app, &in_force.stack.data, &known, (&known, true))?;
            let (counted, obstacles) = berth_mover::count_beside(&here, &tenant.key).await?;
            shown.beside = counted.iter().map(beside_shown).collect();
            shown.blockers.extend(obstacles.iter().map(obstacle));
            return Ok(shown);
        }
    };
    shown.to = target.name.clone();
    if let Err(error) = ways_back::must_not_hold(app, &tenant, &Place::Existing(target.id)).await {
        shown.blockers.push(blocker(error.code(), error.to_string(), error.hint()));
        return Ok(shown);
    }
    let id = MoveId::new(tenants::fresh().uuid());
    must_have_beside(app, [&source, &target]).await?;
    let spec = spec(app, id, &tenant, &source, &target).await?;
    match berth_mover::plan(&spec).await {
        Ok(found) => {
            let whole = |n: i64| u64::try_from(n).ok();
            shown.rows = whole(found.rows);
            shown.bytes = whole(found.bytes);
            shown.duration_s = Some(found.estimated_s);
            shown.notes.clone_from(&found.notes);
            shown.neighbours.clone_from(&found.neighbours);
            left_behind(app, &in_force.stack, &mut shown, &found.tables).await?;
            shown.beside = found.beside.iter().map(beside_shown).collect();
            belonging(&mut shown, &found.tables, &found.shared, found.unsure, true);
        }
        Err(MoveError::Obstacles(obstacles)) => {
            let found = berth_mover::discover(&spec.source, &spec.rules).await?;
            belonging(&mut shown, &found.tables, &found.shared, found.unsure, false);
            shown.blockers.extend(obstacles.iter().map(obstacle));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(shown)
}

/// What of the database is the tenant's, into what is shown. `counted`: the rows and bytes are those of this tenant.
fn belonging(
    shown: &mut wire::MovePlan,
    tables: &[berth_mover::PlannedTable],
    shared: &[berth_mover::SharedTable],
    unsure: Vec<berth_mover::Unsure>,
    counted: bool,
) {
    let figure = |n: i64| u64::try_from(n).ok().filter(|_| counted);
    let ours = tables.iter().map(|table| wire::MovePlanTable {
        table: table.table.to_string(),
        belongs: belongs(table),
        rows: figure(table.rows),
        bytes: figure(table.bytes),
    });
    shown.tables = ours.collect();
    let along = shared.iter().map(|table| wire::MovePlanTable {
        table: table.table.to_string(),
        belongs: "nobody, referred to".to_owned(),
        rows: figure(table.rows),
        bytes: None,
    });
    shown.shared = along.collect();
    let unsure =
        unsure.into_iter().map(|u| wire::MoveUnsure { table: u.table.to_string(), says: u.says, line: u.line });
    shown.unsure = unsure.collect();
}

fn beside_shown(found: &berth_mover::BesidePlan) -> wire::MoveBeside {
    let what = match found.what {
        berth_mover::BesideKind::RedisKeys => "redis_keys",
        berth_mover::BesideKind::Objects => "objects",
    };
    wire::MoveBeside {
        what: what.to_owned(),
        prefix: found.prefix.clone(),
        found: found.found,
        bytes: found.bytes,
        says: found.what.says().to_owned(),
    }
}

/// What the tenant's plan does not keep, and where it goes; that it can go there is tried.
async fn left_behind(
    app: &App,
    stack: &berth_config::Stack,
    shown: &mut wire::MovePlan,
    tables: &[berth_mover::PlannedTable],
) -> Result<(), ControlError> {
    let left = tables.iter().filter_map(|table| {
        let kept = table.kept.as_ref()?;
        Some(wire::MoveLeft {
            table: table.table.to_string(),
            column: kept.column.clone(),
            before: kept.from.to_string(),
            rows: u64::try_from(kept.left_rows).unwrap_or(0),
        })
    });
    shown.left_behind = left.collect();
    if shown.left_behind.is_empty() {
        return Ok(());
    }
    shown.archived_to = Some(archives::described(stack));
    let tried = match app.archives().await {
        Ok(place) => berth_mover::probe(&place).await.map_err(ControlError::from),
        Err(error) => Err(error),
    };
    if let Err(error) = tried {
        shown.blockers.push(blocker(error.code(), error.full(), error.hint()));
    }
    Ok(())
}

fn obstacle(obstacle: &berth_mover::Obstacle) -> wire::MoveBlocker {
    let code = serde_json::to_value(obstacle).ok();
    let code = code.as_ref().and_then(|o| o.get("code")).and_then(|c| c.as_str()).unwrap_or("obstacle");
    blocker(code, obstacle.to_string(), Some(obstacle.hint()))
}

/// How a table's rows are known to be the tenant's.
fn belongs(table: &berth_mover::PlannedTable) -> String {
    let column = table.tenant_column.iter().map(|column| format!("column {column}"));
    let through = table.through.iter().map(|link| format!("through {}", link.to));
    column.chain(through).collect::<Vec<_>>().join(", ")
}

fn blocker(code: &str, detail: String, hint: Option<String>) -> wire::MoveBlocker {
    wire::MoveBlocker { code: code.to_owned(), detail, hint }
}

/// Marks the tenant as moving, takes the place, and starts the operation that moves it: all or nothing.
pub async fn start(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    to: Option<&CellName>,
) -> Result<wire::Operation, ControlError> {
    start_on(app, permit, who, to, None, None).await
}

/// The same, and puts the tenant on another plan with it: neither happens without the other. `decided`: where a cell is
/// made, if one is made.
pub(crate) async fn start_on(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    to: Option<&CellName>,
    on: Option<&PlanName>,
    decided: Option<Decided<'_>>,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    // Before a cell is looked for: a second move of a moving tenant is told so, whatever cells there are.
    if let Err(source) = tenant.state.after(TenantEvent::MoveStarted) {
        return Err(tenants::wrong_state(app, &tenant, source).await?);
    }
    let in_force = app.stack().await?;
    let source = app.cell(tenant.cell).await?;
    // What was agreed to is better than where it is, and not only no worse.
    let agreed = on.is_some();
    let on = on.filter(|plan| **plan != tenant.plan);
    let name = on.unwrap_or(&tenant.plan);
    let plan = app.store().plan_get(name).await?.ok_or_else(|| ControlError::NoPlan(name.clone()))?;
    if on.is_some() && plan.retired {
        return Err(ControlError::PlanRetired(name.clone()));
    }
    let mut profile = decide::profile_of(&tenant)?;
    if agreed {
        profile.cell = None;
    }
    let wanted = Wanted {
        class: plan.plan.class,
        plan: name,
        tenant: &tenant.name,
        profile: &profile,
        named: to,
        from: Some(&source),
        decided,
    };
    let place = placing::choose(app, &in_force, &wanted).await?;
    let (class, name) = match &place {
        Place::Existing(id) => {
            let cell = app.cell(*id).await?;
            (cell.class, cell.name)
        }
        Place::New(new) => (new.class, new.name.clone()),
    };
    ways_back::must_not_hold(app, &tenant, &place).await?;
    let mut tx = app.store().begin().await?;
    let existing = match &place {
        Place::Existing(target) => vec![source.id, *target],
        Place::New(_) => vec![source.id],
    };
    releases::must_not_roll(&mut tx, &existing).await?;
    if let Some(plan) = on {
        let calls = in_force.stack.data.hooks.plan.is_some();
        tenants::put_on_plan(app, &mut tx, permit, &tenant, tenant.version, plan, calls).await?;
    }
    if let Err(source) = tx.tenant_apply(tenant.id, TenantEvent::MoveStarted).await? {
        drop(tx);
        return Err(tenants::wrong_state(app, &tenant, source).await?);
    }
    let cell = placing::take(&mut tx, &place, &wanted).await?;
    // Its row is held: a profile that was set since the cell was chosen is seen here, and a later one comes after the move.
    if tx.tenant_profile(tenant.id).await? != tenant.settings.get("profile").cloned() {
        return Err(ControlError::Stale("tenant"));
    }
    let id = tenants::fresh();
    let kind = kind(source.class, class);
    tx.move_insert(MoveId::new(id.uuid()), tenant.id, kind, source.id, cell).await?;
    tx.ways_back_close(tenant.id, "the tenant moved on").await?;
    let input = MoveTenant {
        tenant: tenant.id,
        source: source.id,
        target: cell,
        new_cell: matches!(place, Place::New(_)),
        asked_by: permit.caller().name.clone(),
    };
    let operation = MOVE_TENANT.with(id, &input).about(operations::about_tenant(&tenant.name));
    let mut rows = vec![reserved::a_move(tenant.id)];
    rows.extend(input.new_cell.then(|| reserved::cell(cell)));
    let started = operations::start(app, &mut tx, operation, Begun::Reserved(rows)).await?;
    let after = json!({ "kind": kind, "from": source.name, "to": name, "operation": started.id });
    audited(&mut tx, permit, "tenant.move", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

const fn kind(from: CellClass, to: CellClass) -> &'static str {
    use CellClass as C;
    match (from, to) {
        (C::Shared | C::Pool, C::Dedicated) => "upgrade",
        (C::Dedicated, C::Shared | C::Pool) => "downgrade",
        _ => "across",
    }
}

/// Moves that go on at the same time out of one cell or into it. Each costs its servers a slot, up to 12 connections, and
/// write bandwidth; more of them end no sooner.
const AT_ONCE: usize = 4;

/// Moves that are looked at for that, newest first.
const RECENT: i64 = 1_000;

/// A move that would be one too many for a cell waits until an earlier one is over: without a worker of its own, and
/// before anything of it is in a database.
pub(crate) async fn await_turn(app: &App, id: MoveId) -> Result<(), StepError> {
    let stored = |error: berth_store::StoreError| StepError::from(ControlError::from(error));
    let Some(this) = app.store().move_get(id).await.map_err(stored)? else { return Ok(()) };
    let recent = app.store().move_list(None, RECENT).await.map_err(stored)?;
    // Ids begin with a time: who came first goes first.
    let earlier: Vec<_> = recent.iter().filter(|other| other.outcome.is_none() && other.id < id).collect();
    for cell in [&this.source, &this.target] {
        let there = earlier.iter().filter(|other| other.source == *cell || other.target == *cell).count();
        if there >= AT_ONCE {
            let why = format!("waits its turn: {there} earlier moves out of cell `{cell}` or into it are under way");
            return Err(StepError::retryable("waits_its_turn", why).after(std::time::Duration::from_millis(500)));
        }
    }
    Ok(())
}

/// Ends what moves that nobody works on hold back of their cells' write-ahead log, where it is more than `most` lets them.
/// Returns of how many: each ends at its next try, and its tenant stays.
pub async fn bound_logs(app: &App, most: &Tuning) -> Result<u32, ControlError> {
    let mut ended = 0;
    let recent = app.store().move_list(None, RECENT).await?;
    for it in recent.into_iter().filter(|it| it.outcome.is_none()) {
        // An undo reads the slot of the move that it undoes.
        let undone = app.store().ways_back_unfinished(Some(it.tenant)).await?;
        let undone = undone.iter().find(|way| way.state == WayBackState::Undoing);
        let (id, way) = undone.map_or((it.id, Way::There), |way| (way.id, Way::Back));
        let Some(source) = app.store().cell_by_name(&it.source).await? else { continue };
        // Who works on it meets a cell that does not answer, and says so.
        let Ok(database) = app.cell_database(&source).await else { continue };
        if let Err(error @ (MoveError::TooMuchWal { .. } | MoveError::WayBackOver { .. })) =
            berth_mover::bound_log(&cell_access::endpoint(&database), id, way, most).await
        {
            warn!(%id, tenant = %it.tenant_name, %error, "the slot of move {id} is taken away: {error}");
            ended += 1;
        }
    }
    Ok(ended)
}

/// Everything that the mover needs to know of one move.
pub(crate) async fn spec(
    app: &App,
    id: MoveId,
    tenant: &Tenant,
    source: &Cell,
    target: &Cell,
) -> Result<MoveSpec, ControlError> {
    let in_force = app.stack().await?;
    let data = &in_force.stack.data;
    let source_database = app.cell_database(source).await?;
    let target_database = app.cell_database(target).await?;
    // A provider that does not say how much room there is leaves that check to the copy itself.
    let observed = app.database_of(target).await?.observe_database(&target_database.name).await;
    let free = observed.ok().and_then(berth_infra::Observed::present).and_then(|database| database.free_disk_bytes);
    Ok(MoveSpec {
        id,
        keep_from: keep_from(app, tenant, source, target).await?,
        tenant: tenant.key.clone(),
        rules: rules(data),
        source: cell_access::endpoint(&source_database),
        target: cell_access::endpoint(&target_database),
        source_cell: source.id,
        target_cell: target.id,
        target_free_bytes: free,
        alone: target.class == CellClass::Dedicated,
        way_back: data.way_back_days > 0,
        way: Way::There,
        beside: beside(app, data, &source_database, (&target_database, target.class == CellClass::Dedicated))?,
        tuning: Tuning { drain_ms: crate::HOLD_DRAIN_MS, ..Tuning::default() },
        ahead: berth_mover::ReadAhead::default(),
    })
}

/// A tenant in one cell, as if it moved to where it is: for what reads, brings or removes all of its rows.
pub(crate) async fn spec_in(app: &App, id: MoveId, key: &TenantKey, cell: &Cell) -> Result<MoveSpec, ControlError> {
    let in_force = app.stack().await?;
    let data = &in_force.stack.data;
    let database = app.cell_database(cell).await?;
    let observed = app.database_of(cell).await?.observe_database(&database.name).await;
    let free = observed.ok().and_then(berth_infra::Observed::present).and_then(|found| found.free_disk_bytes);
    let (endpoint, alone) = (cell_access::endpoint(&database), cell.class == CellClass::Dedicated);
    Ok(MoveSpec {
        id,
        keep_from: None,
        tenant: key.clone(),
        rules: rules(data),
        source: endpoint.clone(),
        target: endpoint,
        source_cell: cell.id,
        target_cell: cell.id,
        target_free_bytes: free,
        alone,
        way_back: false,
        way: Way::There,
        beside: beside(app, data, &database, (&database, alone))?,
        tuning: Tuning::default(),
        ahead: berth_mover::ReadAhead::default(),
    })
}

/// The places of keys and objects in both cells, and the stack file's prefixes. A move goes on with those of its plan, so
/// that a stack file applied meanwhile changes nothing of it.
pub(crate) fn beside(
    app: &App,
    data: &berth_config::Data,
    from: &CellDatabase,
    (to, alone): (&CellDatabase, bool),
) -> Result<Beside, ControlError> {
    let keys = from.redis.clone().zip(to.redis.clone()).map(|(source, target)| KeysBeside {
        source,
        target,
        prefixes: data.redis.as_ref().map(|redis| redis.prefixes.clone()).unwrap_or_default(),
        store: data.redis.as_ref().is_some_and(|redis| redis.store),
        alone,
    });
    let objects = match (&from.objects, &to.objects) {
        (Some(source), Some(target)) => Some(ObjectsBeside {
            source: app.objects_at(source)?,
            target: app.objects_at(target)?,
            prefixes: data.objects.as_ref().map(|objects| objects.prefixes.clone()).unwrap_or_default(),
        }),
        _ => None,
    };
    Ok(Beside { keys, objects })
}

/// Refuses a plan between cells of which one lacks what the stack file asks for.
pub(crate) async fn must_have_beside(app: &App, cells: [&Cell; 2]) -> Result<(), ControlError> {
    let in_force = app.stack().await?;
    let data = &in_force.stack.data;
    for cell in cells {
        let known = app.cell_database(cell).await?;
        let lacks = |what| Err(ControlError::LacksBeside { cell: cell.name.clone(), what });
        if data.redis.is_some() && known.redis.is_none() {
            return lacks("Redis");
        }
        if data.objects.is_some() && known.objects.is_none() {
            return lacks("place for objects");
        }
        if let Some(folder) = known.objects.as_deref().and_then(|url| url.strip_prefix("file://"))
            && let Some(path) = odd_name(folder.to_owned()).await
        {
            return Err(ControlError::OddObject { cell: cell.name.clone(), path });
        }
    }
    Ok(())
}

/// A file that a listing of objects would pass over or fail at: links, names that are not text, and those with only
/// digits after a `#`, which are how parts of files are called while they are written.
async fn odd_name(folder: String) -> Option<String> {
    fn find(folder: &std::path::Path) -> Option<std::path::PathBuf> {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let name = entry.file_name();
            let plain = name.to_str().is_some_and(|name| {
                let part = name
                    .split_once('#')
                    .is_some_and(|(_, rest)| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
                !part && !name.chars().any(char::is_control)
            });
            let kind = entry.file_type().ok()?;
            if !plain || kind.is_symlink() {
                return Some(entry.path());
            }
            let below = if kind.is_dir() { find(&entry.path()) } else { None };
            if below.is_some() {
                return below;
            }
        }
        None
    }
    let found = tokio::task::spawn_blocking(move || find(std::path::Path::new(&folder))).await;
    found.ok().flatten().map(|path| path.display().to_string())
}

/// The first day that the tenant's plan keeps; none where it keeps everything, and on any way but down.
async fn keep_from(
    app: &App,
    tenant: &Tenant,
    source: &Cell,
    target: &Cell,
) -> Result<Option<jiff::civil::Date>, ControlError> {
    if kind(source.class, target.class) != "downgrade" {
        return Ok(None);
    }
    kept_from(app, tenant).await
}

/// The same, whatever way it goes.
pub(crate) async fn kept_from(app: &App, tenant: &Tenant) -> Result<Option<jiff::civil::Date>, ControlError> {
    let plan = app.store().plan_get(&tenant.plan).await?.ok_or_else(|| ControlError::NoPlan(tenant.plan.clone()))?;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let days = plan.plan.limits.retention_days.map(|days| jiff::Span::new().days(i64::from(days)));
    // Before our era nothing was recorded: everything is kept.
    Ok(days.and_then(|days| today.checked_sub(days).ok()).filter(|day| day.year() > 0))
}

/// What the stack file says of whose rows are whose.
pub fn rules(data: &berth_config::Data) -> DataRules {
    let table = |table: &berth_config::TableRef| TableName::new(table.schema.clone(), table.table.clone());
    DataRules {
        root: table(&data.root),
        key_column: data.key.clone(),
        tenant_column: data.tenant_column.clone(),
        tenant_columns: data.tenant_columns.iter().map(|(t, column)| (t.to_string(), column.clone())).collect(),
        leave_out: data.leave_out.iter().map(table).collect(),
        shared: data.shared.iter().map(table).collect(),
        links: data
            .links
            .iter()
            .map(|link| LinkRule {
                table: table(&link.table),
                columns: link.columns.clone(),
                to: table(&link.to),
                when: link.when.clone(),
            })
            .collect(),
        retention: data.retention.iter().map(|(table, column)| (table.to_string(), column.clone())).collect(),
    }
}

/// Newest first, of one tenant or of all.
pub async fn list(
    app: &App,
    _permit: &Permit<Read>,
    tenant: Option<&str>,
    limit: u32,
) -> Result<wire::Page<wire::Move>, ControlError> {
    let tenant = match tenant {
        Some(who) => Some(tenants::known(app, who).await?.id),
        None => None,
    };
    let mut items = Vec::new();
    for found in app.store().move_list(tenant, i64::from(limit.clamp(1, 1000))).await? {
        let operation = app.store().show(OperationId::new(found.id.uuid())).await?;
        // The journal keeps operations as long as their figures; should it ever not, the figures say how it ended.
        let state = match (operation, found.outcome) {
            (Some((operation, _)), _) => operation.state,
            (None, Some(berth_store::MoveOutcome::Moved)) => OperationState::Succeeded,
            (None, _) => OperationState::Failed,
        };
        items.push(views::a_move(found, state));
    }
    Ok(wire::Page::whole(items))
}

/// One move, by its operation.
pub async fn show(app: &App, _permit: &Permit<Read>, id: OperationId) -> Result<wire::Move, ControlError> {
    shown(app, id).await
}

pub(crate) async fn shown(app: &App, id: OperationId) -> Result<wire::Move, ControlError> {
    let found = app.store().move_get(MoveId::new(id.uuid())).await?.ok_or(ControlError::NoOperation(id))?;
    let (operation, _) = app.store().show(id).await?.ok_or(ControlError::NoOperation(id))?;
    Ok(views::a_move(found, operation.state))
}
