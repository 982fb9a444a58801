//! The whole fleet: planned, carried out a few moves at a time, grown on paper.
//!
//! Applying starts moves as anybody else would, with everything that a move checks. It never makes or removes a paid
//! cell unless it is asked to: otherwise that is said, and a person does it.

use crate::{App, Change, ControlError, Permit, Read, cells, costs::prices, decide, judge, moves};
use berth_config::{Shape, Stack};
use berth_domain::{CellClass, CellName, CellState, Cents, ProviderName, TenantState};
use berth_placement::{
    Place,
    fleet::{self, Fleet, FleetPlan, Opened, PlacedTenant},
};
use berth_store::Cell;
use berth_wire as wire;
use std::collections::{BTreeMap, BTreeSet};

/// Moves that are started at once unless the caller says how many.
const MOVES_USUAL: u32 = 4;
/// What a move has to save a month, in cents, when nothing is known of what it costs.
const MOVE_WORTH_CENTS: i64 = 25;

pub async fn plan(app: &App, permit: &Permit<Read>) -> Result<wire::FleetPlan, ControlError> {
    plan_of(app, permit, &[]).await
}

/// For some cells alone; for all where none is named.
pub async fn plan_of(app: &App, _permit: &Permit<Read>, cells: &[String]) -> Result<wire::FleetPlan, ControlError> {
    let (fleet, _) = known(app).await?;
    let (_, planned) = planned(part(fleet, cells)?).await;
    Ok(serde_json::from_value(serde_json::to_value(planned)?)?)
}

/// Starts the first moves of the plan whose target exists; says what is in the way of the others.
pub async fn apply(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::FleetApply,
) -> Result<wire::FleetApplied, ControlError> {
    app.writable().await?;
    // Before the plan: a cell that is ready in between is taken for one that is being made, and never the other way round.
    let listed = app.store().cell_list().await?;
    let states: BTreeMap<&str, CellState> = listed.iter().map(|cell| (cell.name.as_str(), cell.state)).collect();
    let (fleet, _) = known(app).await?;
    let (fleet, planned) = planned(part(fleet, &wanted.only)?).await;
    let most = wanted.moves.unwrap_or(MOVES_USUAL).clamp(1, 1000) as usize;
    let mut done = wire::FleetApplied::default();
    let there: BTreeSet<&str> = fleet.cells.iter().map(|cell| cell.name.as_str()).collect();
    for step in &planned.steps {
        for opened in &step.opens {
            if wanted.cells {
                let made = open(app, permit, opened, &listed).await;
                done.cells.push(made.unwrap_or_else(|error| untouched(&opened.cell, false, &error)));
            } else {
                done.needs.push(wire::FleetOpened {
                    cell: opened.cell.clone(),
                    offer: opened.offer.clone(),
                    price_cents: opened.price_cents,
                });
            }
        }
        // A cell that is empty now may go; one that this step empties may go after it.
        if step.moves.is_empty() {
            for name in &step.closes {
                match states.get(name.as_str()) {
                    Some(CellState::Draining) if wanted.cells => done.cells.push(close(app, permit, name).await),
                    // One that takes tenants may have been made for those to come.
                    Some(CellState::Ready | CellState::Draining) => done.removable.push(name.clone()),
                    // Empty because it is being made or removed.
                    _ => {}
                }
            }
        }
        for name in step.closes.iter().filter(|_| !step.moves.is_empty() && done.started.len() < most) {
            if let Err(error) = cells::drain(app, permit, name).await {
                done.cells.push(untouched(name, true, &error));
            }
        }
        for moved in &step.moves {
            if done.started.len() >= most || !there.contains(moved.to.as_str()) {
                done.left += 1;
                continue;
            }
            let begun = match CellName::new(&moved.to) {
                Ok(to) => moves::start(app, permit, &moved.tenant, Some(&to)).await,
                Err(error) => Err(error.into()),
            };
            let (operation, trouble) = match begun {
                Ok(operation) => (Some(operation.id), None),
                Err(error) => (None, Some(error.to_string())),
            };
            done.started.push(wire::FleetStarted {
                tenant: moved.tenant.clone(),
                to: moved.to.clone(),
                operation,
                trouble,
            });
        }
    }
    Ok(done)
}

/// Seconds for a large fleet; other requests go on meanwhile.
async fn planned(fleet: Fleet) -> (Fleet, FleetPlan) {
    let work = tokio::task::spawn_blocking(move || {
        let planned = fleet::plan(&fleet);
        (fleet, planned)
    });
    work.await.expect("a plan does not panic")
}

fn part(fleet: Fleet, cells: &[String]) -> Result<Fleet, ControlError> {
    if let Some(unknown) = cells.iter().find(|name| !fleet.cells.iter().any(|cell| cell.name == **name)) {
        return Err(ControlError::NoCell(unknown.clone()));
    }
    Ok(if cells.is_empty() { fleet } else { fleet.only(&cells.iter().cloned().collect()) })
}

/// What was begun before stands, so that an error is a line of the answer.
fn untouched(cell: &str, removed: bool, error: &ControlError) -> wire::FleetCell {
    wire::FleetCell { cell: cell.to_owned(), removed, operation: None, trouble: Some(error.to_string()) }
}

/// Makes a cell from an offer of the catalogue at the provider of the stack file that sells it. Its moves come with the
/// next plan, when it stands.
///
/// `before`: the cells as they were when the plan was made, which may have taken one for missing that stands by now.
async fn open(
    app: &App,
    permit: &Permit<Change>,
    opened: &Opened,
    before: &[Cell],
) -> Result<wire::FleetCell, ControlError> {
    let in_force = app.stack().await?;
    let (catalogue, _) = decide::settings(&in_force.stack)?;
    let said = |operation, trouble| wire::FleetCell { cell: opened.cell.clone(), removed: false, operation, trouble };
    let is = |(offer, place): &(String, Place)| fleet::offer_name(offer, &place.sites) == opened.offer;
    let Some((_, place)) = catalogue.places().into_iter().find(is) else {
        return Ok(said(None, Some(format!("the catalogue has no offer {}", opened.offer))));
    };
    let sells = |name: &str| prices::adapter(&in_force.stack, name) == place.provider;
    let provider = in_force.stack.providers.keys().find(|name| sells(name.as_str())).cloned();
    let [region] = place.sites.as_slice() else {
        return Ok(said(None, Some("a cell that stands in several regions is made by hand".to_owned())));
    };
    let there = app.store().cell_list().await?;
    let same = there.iter().chain(before).find(|cell| {
        cell.state == CellState::Creating
            && cell.class == place.class
            && Some(cell.provider.as_str()) == provider.as_ref().map(ProviderName::as_str)
    });
    if let Some(cell) = same {
        return Ok(said(None, Some(format!("cell {} is being made", cell.name))));
    }
    // `shared-3`: what people call cells, and not what the plan called it.
    let name = (1..10_000)
        .filter_map(|n| CellName::new(format!("{}-{n}", place.class)).ok())
        .find(|name| !there.iter().any(|cell| cell.name == *name) && !in_force.stack.cells.contains_key(name));
    let Some(name) = name else { return Ok(said(None, Some("every name is taken".to_owned()))) };
    let create = wire::CellCreate {
        name: name.clone(),
        class: place.class,
        provider,
        region: Some(region.clone()),
        max_tenants: Some(place.places),
    };
    let amount = |has: u64| u32::try_from(has).ok().filter(|has| *has > 0);
    let has = Shape {
        cpu_millis: amount(place.cpu_millis),
        memory_mib: amount(place.memory_mib),
        disk_gib: amount(place.disk_gib),
    };
    let least = promised(&in_force.stack, place.class, has);
    Ok(match cells::create_at(app, permit, create, least, has).await {
        Ok(operation) => wire::FleetCell { cell: name.to_string(), ..said(Some(operation.id), None) },
        Err(error) => said(None, Some(error.to_string())),
    })
}

/// The most that a plan promises of such a cell, of those plans that the place holds: it is opened for one of them.
fn promised(stack: &Stack, class: CellClass, has: Shape) -> Shape {
    if class != CellClass::Dedicated {
        return Shape::default();
    }
    let holds = |shape: &Shape| {
        let enough = |promised: Option<u32>, has: Option<u32>| promised.unwrap_or(0) <= has.unwrap_or(0);
        enough(shape.cpu_millis, has.cpu_millis)
            && enough(shape.memory_mib, has.memory_mib)
            && enough(shape.disk_gib, has.disk_gib)
    };
    let plans = stack.plans.values().filter(|plan| plan.class == class).map(|plan| plan.shape);
    plans.filter(holds).fold(Shape::default(), cells::larger)
}

async fn close(app: &App, permit: &Permit<Change>, name: &str) -> wire::FleetCell {
    match cells::remove_drained(app, permit, name).await {
        Ok(operation) => {
            wire::FleetCell { cell: name.to_owned(), removed: true, operation: Some(operation.id), trouble: None }
        }
        Err(error) => untouched(name, true, &error),
    }
}

pub async fn simulate(
    app: &App,
    _permit: &Permit<Read>,
    wanted: &wire::FleetSimulate,
) -> Result<wire::Page<wire::FleetMonth>, ControlError> {
    let (fleet, prices) = known(app).await?;
    let (growth, months) = (wanted.growth_percent.min(100), wanted.months.clamp(1, 60));
    // Minutes at the far end of what may be asked for; other requests go on meanwhile.
    let grown = tokio::task::spawn_blocking(move || fleet::simulate(&fleet, &prices, growth, months));
    let grown = grown.await.expect("a simulation does not panic");
    Ok(wire::Page::whole(serde_json::from_value(serde_json::to_value(grown.months)?)?))
}

/// All tenants that live somewhere, where they live, and what may hold them.
///
/// What each of them needs is what the last judgement found, so that a plan of a hundred thousand asks once and not once
/// for each; who was never judged needs what its profile says.
async fn known(app: &App) -> Result<(Fleet, Vec<Cents>), ControlError> {
    let engine = decide::engine(app).await?;
    let in_force = app.stack().await?;
    let mut needs = app.store().judgement_needs().await?;
    let mut tenants = Vec::new();
    let mut after = None;
    loop {
        let page = app.store().tenant_list(after.as_ref(), None, 1000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for tenant in &page {
            if matches!(tenant.state, TenantState::Active | TenantState::Moving | TenantState::Suspended) {
                let mut profile = decide::needs_of(&in_force.stack, tenant)?;
                if let Some(needs) = needs.remove(&tenant.id) {
                    serde_json::from_value::<judge::Needs>(needs)?.add_to(&mut profile);
                }
                let (name, plan) = (tenant.name.to_string(), tenant.plan.to_string());
                tenants.push(PlacedTenant { name, plan, profile });
            }
        }
    }
    let built = engine.fleet(&tenants, Cents::new(MOVE_WORTH_CENTS));
    built.map_err(|(_, faults)| ControlError::BadProfile(faults))
}
