//! The whole fleet: planned, carried out a few moves at a time, grown on paper.
//!
//! Applying starts moves as anybody else would, with everything that a move checks. It never makes or removes a paid
//! cell: that is said, and a person does it.

use crate::{App, Change, ControlError, Permit, Read, cells, decide, moves};
use berth_domain::{CellName, Cents, TenantState};
use berth_placement::fleet::{self, Fleet, PlacedTenant};
use berth_wire as wire;
use std::collections::BTreeSet;

/// Moves that are started at once unless the caller says how many.
const MOVES_USUAL: u32 = 4;
/// What a move has to save a month, in cents, when nothing is known of what it costs.
const MOVE_WORTH_CENTS: i64 = 25;

pub async fn plan(app: &App, _permit: &Permit<Read>) -> Result<wire::FleetPlan, ControlError> {
    let (fleet, _) = known(app).await?;
    Ok(serde_json::from_value(serde_json::to_value(fleet::plan(&fleet))?)?)
}

/// Starts the first moves of the plan whose target exists; says what is in the way of the others.
pub async fn apply(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::FleetApply,
) -> Result<wire::FleetApplied, ControlError> {
    app.writable().await?;
    let (fleet, _) = known(app).await?;
    let planned = fleet::plan(&fleet);
    let most = wanted.moves.unwrap_or(MOVES_USUAL).clamp(1, 1000) as usize;
    let mut done = wire::FleetApplied::default();
    let there: BTreeSet<&str> = fleet.cells.iter().map(|cell| cell.name.as_str()).collect();
    for step in &planned.steps {
        done.needs.extend(step.opens.iter().map(|opened| wire::FleetOpened {
            cell: opened.cell.clone(),
            offer: opened.offer.clone(),
            price_cents: opened.price_cents,
        }));
        // A cell that is empty now may go; one that this step empties may go after it.
        if step.moves.is_empty() {
            done.removable.extend(step.closes.iter().cloned());
        }
        for name in step.closes.iter().filter(|_| !step.moves.is_empty() && done.started.len() < most) {
            cells::drain(app, permit, name).await?;
        }
        for moved in &step.moves {
            if done.started.len() >= most || !there.contains(moved.to.as_str()) {
                done.left += 1;
                continue;
            }
            let begun = moves::start(app, permit, &moved.tenant, Some(&CellName::new(&moved.to)?)).await;
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
async fn known(app: &App) -> Result<(Fleet, Vec<Cents>), ControlError> {
    let engine = decide::engine(app).await?;
    let mut tenants = Vec::new();
    let mut after = None;
    loop {
        let page = app.store().tenant_list(after.as_ref(), None, 1000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        for tenant in &page {
            if matches!(tenant.state, TenantState::Active | TenantState::Moving | TenantState::Suspended) {
                tenants.push(PlacedTenant {
                    name: tenant.name.to_string(),
                    plan: tenant.plan.to_string(),
                    profile: decide::profile_of(tenant)?,
                });
            }
        }
    }
    let built = engine.fleet(&tenants, Cents::new(MOVE_WORTH_CENTS));
    built.map_err(|(_, faults)| ControlError::BadProfile(faults))
}
