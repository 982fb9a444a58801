//! A control database that was restored from an older copy does not know what it has forgotten. The world does: edges
//! have revisions and cells have fences. Compares the two when a server starts, and brings the database level.
//!
//! Never gives a tenant an owner that the world does not show: a cell whose fence is open under the highest generation
//! accepts the tenant's writes, so it is the owner; without any fence the row stands.

use crate::{App, Change, ControlError, Permit, Read, audited, cell_access};
use berth_domain::{CellId, Generation, Revision, TenantId, Token};
use berth_mover::Side;
use berth_store::{Placement, SeenFence, WorldAhead};
use berth_wire as wire;
use serde_json::json;
use std::collections::BTreeMap;
use tracing::{error, info, warn};

/// Revisions that may have been given out and that nobody was seen to have.
const ROOM: i64 = 1000;

/// Looks at every cell's fences; what is ahead is stored, and changes are refused from then on. Edges say by
/// themselves how far they are, when they connect.
pub async fn check(app: &App) -> Result<bool, ControlError> {
    for seen in look(app).await? {
        error!(
            what = seen.source,
            "{} is ahead of this control database: only reads until `berth recover`", seen.source
        );
        app.store().world_ahead_add(&seen).await?;
    }
    Ok(app.store().world_ahead_any().await?)
}

/// Every fence that shows what this database does not know.
async fn look(app: &App) -> Result<Vec<WorldAhead>, ControlError> {
    let placements: BTreeMap<TenantId, Placement> =
        app.store().placement_list().await?.into_iter().map(|p| (p.tenant, p)).collect();
    let mut ahead = Vec::new();
    for (tenant, fences) in fences(app).await? {
        let Some(known) = placements.get(&tenant).map(|p| p.control) else { continue };
        for (source, fence) in fences {
            let newer = fence.generation > known.generation || fence.token > known.token;
            // The same numbers, and yet another cell is open: the owner changed and the row forgot it.
            let elsewhere = fence.open && fence.cell != known.owner && fence.generation >= known.generation;
            if newer || elsewhere {
                ahead.push(WorldAhead { source, revision: Revision::default(), fence: Some(fence) });
            }
        }
    }
    Ok(ahead)
}

/// Every tenant's fences in all cells. A cell that does not answer says nothing; its fences are compared at the next
/// start, and a move to or from it meets them itself.
async fn fences(app: &App) -> Result<BTreeMap<TenantId, Vec<(String, SeenFence)>>, ControlError> {
    let mut found: BTreeMap<TenantId, Vec<(String, SeenFence)>> = BTreeMap::new();
    let by_key = app.store().tenant_ids_by_key().await?;
    for cell in app.store().cell_list().await? {
        let Ok(database) = app.cell_database(&cell).await else { continue };
        let fences = match berth_mover::fences(&cell_access::endpoint(&database), Side::Source).await {
            Ok(fences) => fences,
            Err(error) => {
                warn!(cell = %cell.name, %error, "the fences of cell {} could not be compared", cell.name);
                continue;
            }
        };
        for (key, open, generation, token) in fences {
            let Some((tenant, name)) = by_key.get(&key) else { continue };
            let fence = SeenFence { tenant: *tenant, cell: cell.id, generation, token, open };
            found.entry(*tenant).or_default().push((format!("cell {} tenant {name}", cell.name), fence));
        }
    }
    Ok(found)
}

/// How the database compares with the world.
pub async fn show(app: &App, _permit: &Permit<Read>) -> Result<wire::Recovery, ControlError> {
    view(app, false).await
}

/// Raises every counter above what was seen, gives each tenant the owner that the world shows, and lets changes in again.
pub async fn recover(app: &App, permit: &Permit<Change>) -> Result<wire::Recovery, ControlError> {
    check(app).await?;
    let seen = app.store().world_ahead().await?;
    if seen.is_empty() {
        return view(app, false).await;
    }
    let before = view(app, true).await?;
    let highest = seen.iter().map(|(seen, _)| seen.revision).max().unwrap_or_default();
    let fences = fences(app).await?;
    let mut tx = app.store().begin().await?;
    for known in app.store().placement_list().await? {
        let own = fences.get(&known.tenant).map(Vec::as_slice).unwrap_or_default();
        let (owner, generation, token) = verdict(known.control.owner, own.iter().map(|(_, fence)| *fence));
        tx.recover_placement(known.tenant, owner, generation, token).await?;
        if owner != known.control.owner {
            info!(tenant.id = %known.tenant, cell = %owner, "tenant {} is in the cell that accepts its writes", known.tenant);
        }
    }
    let what: Vec<&str> = seen.iter().map(|(seen, _)| seen.source.as_str()).collect();
    audited(&mut tx, permit, "control.recover", "control", Some(json!({ "ahead": what })), None).await?;
    tx.world_ahead_clear().await?;
    tx.recover_revision(highest, ROOM).await?;
    tx.routes_publish_all().await?;
    tx.commit().await?;
    Ok(wire::Recovery { revision: app.store().route_head().await?, ..before })
}

/// The owner as the world shows it, and the counters to be passed.
fn verdict(row: CellId, fences: impl Iterator<Item = SeenFence> + Clone) -> (CellId, Generation, Token) {
    let generation = fences.clone().map(|fence| fence.generation).max().unwrap_or_default();
    let token = fences.clone().map(|fence| fence.token).max().unwrap_or_default();
    let open = fences.filter(|fence| fence.open && fence.generation == generation).map(|fence| fence.cell);
    // Several are open only where nothing was ever fenced under that generation: then the row is as good as any.
    let open: Vec<CellId> = open.collect();
    let owner = if open.contains(&row) { row } else { open.first().copied().unwrap_or(row) };
    (owner, generation, token)
}

async fn view(app: &App, recovered: bool) -> Result<wire::Recovery, ControlError> {
    let seen = app.store().world_ahead().await?;
    let cells = app.store().cell_list().await?;
    let mut shown = Vec::new();
    for (what, _) in &seen {
        let tenant = match what.fence {
            Some(fence) => app.store().tenant_get(fence.tenant).await?.map(|tenant| tenant.name),
            None => None,
        };
        let cell = what.fence.and_then(|fence| cells.iter().find(|cell| cell.id == fence.cell));
        shown.push(wire::EdgeSeen {
            subject: what.source.clone(),
            tenant,
            cell: cell.map(|cell| cell.name.clone()),
            generation: what.fence.map(|fence| fence.generation),
            revision: (what.revision > Revision::default()).then_some(what.revision),
        });
    }
    Ok(wire::Recovery {
        world_is_ahead: !seen.is_empty() && !recovered,
        recovered,
        revision: app.store().route_head().await?,
        seen: shown,
    })
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use berth_domain::{CellId, Generation, TenantId, Token};
    use berth_store::SeenFence;

    fn fence(cell: u128, generation: u64, open: bool) -> SeenFence {
        SeenFence {
            tenant: TenantId::new(uuid::Uuid::from_u128(9)),
            cell: CellId::new(uuid::Uuid::from_u128(cell)),
            generation: Generation::new(generation),
            token: Token::new(generation + 10),
            open,
        }
    }

    #[test]
    fn the_owner_is_the_cell_that_accepts_writes_under_the_highest_generation() {
        let cell = |n: u128| CellId::new(uuid::Uuid::from_u128(n));
        for (row, fences, owner) in [
            (1, vec![], 1),
            (1, vec![fence(1, 1, true)], 1),
            (1, vec![fence(1, 1, false), fence(2, 2, true)], 2),
            // The move was committed and the target not opened yet: nobody accepts writes, the row stands.
            (1, vec![fence(1, 1, false), fence(2, 1, false)], 1),
            // A restored cell with an open fence of an old generation is no owner.
            (2, vec![fence(1, 1, true), fence(2, 2, true)], 2),
        ] {
            let (found, generation, token) = verdict(cell(row), fences.clone().into_iter());
            assert_eq!(found, cell(owner), "{fences:?}");
            assert!(fences.iter().all(|f| f.generation <= generation && f.token <= token));
        }
    }
}
