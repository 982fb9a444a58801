//! Cells: created, shown, drained, removed; and what their members wrote.

use crate::{
    App, Change, ControlError, Permit, Read, ReleaseError,
    app::StackInForce,
    audited,
    costs::prices,
    decide, member_spec,
    operations::{self, Begun, open_operation},
    placing, tenants, views,
    workflows::{CREATE_CELL, CellInput, MEASURE_CELL, REMOVE_CELL, reserved},
};
use berth_config::Shape;
use berth_domain::{CellClass, CellId, CellName, CellState};
use berth_store::{Cell, NewCell, Tx};
use berth_wire as wire;
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

/// Tenants of a shared cell when nobody says how many: the guides' `MAX_CUSTOMERS_PER_SERVER`.
pub const MAX_CUSTOMERS_PER_SERVER: u32 = 150;

pub async fn create(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::CellCreate,
) -> Result<wire::Operation, ControlError> {
    create_at(app, permit, wanted, Shape::default(), Shape::default()).await
}

/// The same of a cell that has to be so large at least, in a place that has so much, where that is known: the cell asks for
/// no more.
pub(crate) async fn create_at(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::CellCreate,
    least: Shape,
    has: Shape,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let in_force = app.stack().await?;
    let providers = &in_force.stack.providers;
    let provider = match (&wanted.provider, providers.len()) {
        (Some(named), _) if providers.contains_key(named) => named.clone(),
        (Some(named), _) => return Err(ControlError::NoProvider(named.to_string())),
        (None, 1) => providers.keys().next().cloned().expect("there is one"),
        (None, many) => return Err(ControlError::WhichProvider(many)),
    };
    let (class, region) = (wanted.class, wanted.region);
    let mut new = like_others(&in_force, wanted.name, class, provider.to_string(), region, wanted.max_tenants)?;
    new.shape = serde_json::to_value(within(larger(serde_json::from_value(new.shape)?, least), has))?;
    let mut tx = app.store().begin().await?;
    let started = reserve(app, &mut tx, permit, &new).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The larger of both, one by one.
pub(crate) fn larger(one: Shape, other: Shape) -> Shape {
    Shape {
        cpu_millis: one.cpu_millis.max(other.cpu_millis),
        memory_mib: one.memory_mib.max(other.memory_mib),
        disk_gib: one.disk_gib.max(other.disk_gib),
    }
}

fn within(wanted: Shape, has: Shape) -> Shape {
    let less = |wanted: Option<u32>, has: Option<u32>| wanted.map(|wanted| wanted.min(has.unwrap_or(u32::MAX)));
    Shape {
        cpu_millis: less(wanted.cpu_millis, has.cpu_millis),
        memory_mib: less(wanted.memory_mib, has.memory_mib),
        disk_gib: less(wanted.disk_gib, has.disk_gib),
    }
}

/// A new cell. What is not said of it is what the stack file says of a cell of this name, else of another one of its
/// class.
pub(crate) fn like_others(
    in_force: &StackInForce,
    name: CellName,
    class: CellClass,
    provider: String,
    region: Option<String>,
    max_tenants: Option<u32>,
) -> Result<NewCell, ControlError> {
    let cells = &in_force.stack.cells;
    let model = cells.get(&name).filter(|model| model.class == class);
    let model = model.or_else(|| cells.values().find(|model| model.class == class));
    let most = match class {
        CellClass::Dedicated => 1,
        CellClass::Shared | CellClass::Pool => {
            max_tenants.or_else(|| model.map(|model| model.max_tenants)).unwrap_or(MAX_CUSTOMERS_PER_SERVER)
        }
    };
    Ok(NewCell {
        id: CellId::new(Uuid::now_v7()),
        name,
        class,
        provider,
        region: region.or_else(|| model.and_then(|model| model.region.clone())),
        max_tenants: i32::try_from(most).unwrap_or(i32::MAX),
        shape: serde_json::to_value(model.map(|model| model.shape).unwrap_or_default())?,
        stack_revision: in_force.revision,
    })
}

/// The row that gives the cell its name, and the operation that makes the cell: one does not exist without the other.
pub(crate) async fn reserve(
    app: &App,
    tx: &mut Tx,
    permit: &Permit<Change>,
    new: &NewCell,
) -> Result<berth_workflow::Operation, ControlError> {
    tx.cell_insert(new).await.map_err(|error| placing::exists(error, &new.name))?;
    let input = CellInput { cell: new.id, asked_by: permit.caller().name.clone() };
    let operation = CREATE_CELL.with(tenants::fresh(), &input).about(operations::about_cell(&new.name));
    let rows = Begun::Reserved(vec![reserved::cell(new.id)]);
    let started = operations::start(app, tx, operation, rows).await?;
    let after = json!({
        "class": new.class, "provider": new.provider, "max_tenants": new.max_tenants, "operation": started.id,
    });
    audited(tx, permit, "cell.create", &format!("cell/{}", new.name), None, Some(after)).await?;
    Ok(started)
}

/// A cell as the stack file declares it.
pub(crate) fn declared(
    in_force: &StackInForce,
    name: &CellName,
    cell: &berth_config::Cell,
) -> Result<NewCell, ControlError> {
    Ok(NewCell {
        id: CellId::new(Uuid::now_v7()),
        name: name.clone(),
        class: cell.class,
        provider: cell.provider.to_string(),
        region: cell.region.clone(),
        max_tenants: i32::try_from(cell.max_tenants).unwrap_or(i32::MAX),
        shape: serde_json::to_value(cell.shape)?,
        stack_revision: in_force.revision,
    })
}

pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::Cell>, ControlError> {
    let cells = app.store().cell_list().await?;
    let mut members = app.store().member_list(None).await?;
    let mut figures = app.store().cell_figures(None).await?;
    let prices = prices::of_cells(app).await?;
    let stack = stack_if_any(app).await?;
    let mut items = Vec::with_capacity(cells.len());
    for cell in cells {
        let own = members.extract_if(.., |member| member.cell == cell.id).collect();
        let price = prices.get(&cell.name).copied();
        let own_figures = figures.extract_if(.., |figure| figure.cell == cell.id).collect();
        items.push(views::cell(cell, own, own_figures, None, price, stack.as_deref().map(|it| &it.stack))?);
    }
    Ok(wire::Page::whole(items))
}

pub async fn show(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::Cell, ControlError> {
    let cell = known(app, who).await?;
    view(app, cell).await
}

async fn view(app: &App, cell: Cell) -> Result<wire::Cell, ControlError> {
    let members = app.store().member_list(Some(cell.id)).await?;
    let operation = open_operation(app, &operations::about_cell(&cell.name)).await?;
    let figures = app.store().cell_figures(Some(cell.id)).await?;
    let price = prices::of_cells(app).await?.get(&cell.name).copied();
    let stack = stack_if_any(app).await?;
    let claimed = stack.as_deref().map(|it| claims(it, &cell)).transpose()?.unwrap_or_default();
    let shown = views::cell(cell, members, figures, operation, price, stack.as_deref().map(|it| &it.stack))?;
    Ok(wire::Cell { claimed, ..shown })
}

/// What the catalogue has of benchmarks for the cell's place.
fn claims(in_force: &StackInForce, cell: &Cell) -> Result<Vec<wire::CellClaim>, ControlError> {
    let (catalogue, _) = decide::settings(&in_force.stack)?;
    let (provider, sites) = decide::place(&in_force.stack, &catalogue, &cell.provider, cell.region.as_deref());
    let known = sites.first().and_then(|site| Some((site, catalogue.providers.get(&provider)?.sites.get(site)?)));
    let Some((site, known)) = known else { return Ok(Vec::new()) };
    let claim = |(what, unit): &(&str, &str)| {
        let amount = known.benchmarks.get(*what)?;
        let value = amount.0 as f64 / 1_000_000.0;
        Some(wire::CellClaim {
            what: (*what).to_owned(),
            value,
            unit: (*unit).to_owned(),
            of: format!("{provider} {site}"),
        })
    };
    Ok(berth_placement::BENCHMARKS.iter().filter_map(claim).collect())
}

async fn stack_if_any(app: &App) -> Result<Option<Arc<StackInForce>>, ControlError> {
    match app.stack().await {
        Ok(stack) => Ok(Some(stack)),
        Err(ControlError::NoStack) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Finds out what the cell does, as an operation. Its tenants share it with the measurement for some seconds.
pub async fn measure(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let cell = known(app, who).await?;
    if !matches!(cell.state, CellState::Ready | CellState::Draining) {
        return Err(ControlError::CellState { cell: cell.name, state: cell.state });
    }
    let input = CellInput { cell: cell.id, asked_by: permit.caller().name.clone() };
    let operation = MEASURE_CELL.with(tenants::fresh(), &input).about(operations::about_cell(&cell.name));
    let mut tx = app.store().begin().await?;
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, "cell.measure", &format!("cell/{}", cell.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// No new tenants from now on; those in it stay until they are moved. Done twice it is done once.
pub async fn drain(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Cell, ControlError> {
    turn(app, permit, who, (CellState::Ready, CellState::Draining), "cell.drain").await
}

/// It takes new tenants again. Done twice it is done once.
pub async fn undrain(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Cell, ControlError> {
    turn(app, permit, who, (CellState::Draining, CellState::Ready), "cell.undrain").await
}

async fn turn(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    (from, to): (CellState, CellState),
    action: &str,
) -> Result<wire::Cell, ControlError> {
    app.writable().await?;
    let found = known(app, who).await?;
    let mut tx = app.store().begin().await?;
    let cell = tx.cell_lock(found.id).await?.ok_or_else(|| ControlError::NoCell(who.to_owned()))?;
    if cell.state == to {
        return view(app, found).await;
    }
    if cell.state != from {
        return Err(ControlError::CellState { cell: cell.name, state: cell.state });
    }
    tx.cell_set_state(cell.id, from, to).await?;
    let (before, after) = (json!({ "state": from }), json!({ "state": to }));
    audited(&mut tx, permit, action, &format!("cell/{}", cell.name), Some(before), Some(after)).await?;
    tx.commit().await?;
    view(app, app.cell(cell.id).await?).await
}

/// Only an empty cell goes, with its database and everything in it.
pub async fn remove(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    remove_in(app, permit, who, &[CellState::Ready, CellState::Draining]).await
}

/// Only one that takes no tenants any more: one that does may be meant for somebody.
pub(crate) async fn remove_drained(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
) -> Result<wire::Operation, ControlError> {
    remove_in(app, permit, who, &[CellState::Draining]).await
}

async fn remove_in(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    states: &[CellState],
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let found = known(app, who).await?;
    let mut tx = app.store().begin().await?;
    let cell = tx.cell_lock(found.id).await?.ok_or_else(|| ControlError::NoCell(who.to_owned()))?;
    if let Some(release) = tx.cell_rolling(cell.id).await? {
        return Err(ReleaseError::InCell { release, cell: cell.name }.into());
    }
    if tx.cell_restarting(&cell.name).await?.is_some() {
        return Err(ReleaseError::Restarting(cell.name).into());
    }
    if cell.tenants > 0 {
        return Err(ControlError::CellNotEmpty { cell: cell.name, tenants: cell.tenants });
    }
    let kept = tx.ways_back_into(cell.id).await?;
    if kept > 0 {
        return Err(ControlError::CellKeeps { cell: cell.name, tenants: kept });
    }
    if !states.contains(&cell.state) {
        return Err(ControlError::CellState { cell: cell.name, state: cell.state });
    }
    tx.cell_set_state(cell.id, cell.state, CellState::Removing).await?;
    tx.members_unwant(cell.id).await?;
    let input = CellInput { cell: cell.id, asked_by: permit.caller().name.clone() };
    let operation = REMOVE_CELL.with(tenants::fresh(), &input).about(operations::about_cell(&cell.name));
    let started = operations::start(app, &mut tx, operation, Begun::ForGood).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, "cell.remove", &format!("cell/{}", cell.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The last lines of each member, oldest first. A member whose provider does not answer is left out.
pub async fn logs(
    app: &App,
    _permit: &Permit<Read>,
    who: &str,
    service: Option<&str>,
    last: u32,
) -> Result<Vec<wire::LogLine>, ControlError> {
    let cell = known(app, who).await?;
    let compute = app.compute_of(&cell).await?;
    let mut lines = Vec::new();
    for member in app.store().member_list(Some(cell.id)).await? {
        if service.is_some_and(|service| service != member.service.as_str()) {
            continue;
        }
        let name = member_spec::member_name(&cell.name, &member);
        let written = match compute.member_logs(&name, last.clamp(1, 10_000) as usize).await {
            Ok(written) => written,
            Err(berth_infra::ProviderError::Absent { .. }) => continue,
            Err(source) => return Err(ControlError::Provider { cell: cell.name, source }),
        };
        lines.extend(written.into_iter().map(|line| wire::LogLine {
            cell: cell.name.clone(),
            service: member.service.clone(),
            member: member.id,
            line,
        }));
    }
    Ok(lines)
}

/// By name, or by id.
pub(crate) async fn known(app: &App, who: &str) -> Result<Cell, ControlError> {
    let by_name = match CellName::new(who) {
        Ok(name) => app.store().cell_by_name(&name).await?,
        Err(_) => None,
    };
    let found = match (by_name, who.parse::<CellId>()) {
        (None, Ok(id)) => app.store().cell_get(id).await?,
        (found, _) => found,
    };
    found.ok_or_else(|| ControlError::NoCell(who.to_owned()))
}
