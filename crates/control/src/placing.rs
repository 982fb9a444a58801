//! Which cell a tenant goes to: the one that somebody named, or the one that the placement engine ranks first among the
//! ready cells of the plan's class with room, in the tenant's region where the stack file gives it one. None of them
//! breaks what the tenant needs, named or not. Never chooses a class or a plan: those are the tenant's.
//!
//! A plan of the dedicated class has a cell made for it when no empty one stands ready (`placing/making.rs`), so that an
//! upgrade is one command; the workflow that needs the cell provisions it first and takes it away again when it does not
//! succeed.

mod making;

use crate::{App, ControlError, ReleaseError, app::StackInForce, decide};
use berth_domain::{CellClass, CellId, CellName, CellState, PlanName, TenantName};
use berth_placement::{Engine, Profile, Refusal};
use berth_store::{Cell, NewCell, Tx};

/// Where to.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Existing(CellId),
    /// Reserved in the transaction that decides; see `provision_cell`.
    New(NewCell),
}

/// What a decision is made from.
pub(crate) struct Wanted<'a> {
    pub class: CellClass,
    pub plan: &'a PlanName,
    pub tenant: &'a TenantName,
    /// What the tenant needs, as far as it is known.
    pub profile: &'a Profile,
    /// A cell that somebody named.
    pub named: Option<&'a CellName>,
    /// Where it is now, for a move.
    pub from: Option<&'a Cell>,
    /// Where a decision that was agreed to has a cell made.
    pub decided: Option<Decided<'a>>,
}

/// A provider as the catalogue names it, and where it stands there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decided<'a> {
    pub provider: &'a str,
    pub region: &'a str,
}

/// Decides, without reserving: [`take`] does that in the caller's transaction, on the locked cell.
pub(crate) async fn choose(app: &App, in_force: &StackInForce, wanted: &Wanted<'_>) -> Result<Place, ControlError> {
    match look(app, in_force, wanted).await? {
        (place, None) => Ok(place),
        (_, Some(lacks)) => Err(lacks),
    }
}

/// The same for whoever wants to see all that is in the way: a named cell comes with what it lacks.
pub(crate) async fn look(
    app: &App,
    in_force: &StackInForce,
    wanted: &Wanted<'_>,
) -> Result<(Place, Option<ControlError>), ControlError> {
    let residence = in_force.stack.residence(wanted.tenant);
    if let Some(name) = wanted.named {
        let cell = app.store().cell_by_name(name).await?.ok_or_else(|| ControlError::NoCell(name.to_string()))?;
        fits(&cell, wanted)?;
        // A default yields to whoever names a cell; what the map says of a tenant does not.
        if let Some(home) = residence.filter(|home| home.bound && cell.region.as_deref() != Some(home.region)) {
            let (tenant, region) = (wanted.tenant.clone(), home.region.to_owned());
            return Err(ControlError::OtherRegion { tenant, region, cell: cell.name });
        }
        let lacks = decide::engine(app).await?.lacks(cell.name.as_str(), wanted.plan.as_str(), wanted.profile);
        let lacks = lacks.map_err(ControlError::BadProfile)?;
        return Ok((
            Place::Existing(cell.id),
            lacks.map(|lacks| unfit(wanted, format!("cell `{}`", cell.name), lacks)),
        ));
    }
    let engine = decide::engine(app).await?;
    if let Some(refused) = engine.class_lacks(wanted.class, wanted.profile).map_err(ControlError::BadProfile)? {
        return Err(unfit(wanted, format!("a {} cell", wanted.class), refused));
    }
    let ranked =
        engine.cells_for(wanted.class, wanted.plan.as_str(), wanted.profile).map_err(ControlError::BadProfile)?;
    let cells = app.store().cell_list().await?;
    let region = residence.map(|home| home.region);
    let best = ranked
        .iter()
        .filter_map(|name| cells.iter().find(|cell| cell.name.as_str() == *name))
        .find(|cell| (region.is_none() || cell.region.as_deref() == region) && fits(cell, wanted).is_ok());
    match best {
        Some(cell) => Ok((Place::Existing(cell.id), None)),
        None if wanted.class == CellClass::Dedicated => {
            Ok((Place::New(making::dedicated(in_force, &engine, &cells, wanted)?), None))
        }
        None => Err(none_left(&engine, &cells, wanted, region)),
    }
}

/// Why no cell of the class is left: what one with room lacks, or that none has room.
fn none_left(engine: &Engine, cells: &[Cell], wanted: &Wanted<'_>, region: Option<&str>) -> ControlError {
    let there = |cell: &&Cell| cell.class == wanted.class && (region.is_none() || cell.region.as_deref() == region);
    let mut open = cells.iter().filter(there).filter(|cell| fits(cell, wanted).is_ok());
    let lacks = open.find_map(|cell| {
        let refused = engine.lacks(cell.name.as_str(), wanted.plan.as_str(), wanted.profile).ok()??;
        Some(unfit(wanted, format!("cell `{}`", cell.name), refused))
    });
    lacks.unwrap_or_else(|| match region {
        Some(region) => {
            let (tenant, region) = (wanted.tenant.clone(), region.to_owned());
            ControlError::NoRoomInRegion { class: wanted.class, tenant, region }
        }
        None => {
            let already_in = wanted.from.filter(|cell| cell.class == wanted.class).map(|cell| cell.name.clone());
            ControlError::NoRoom { class: wanted.class, already_in }
        }
    })
}

fn unfit(wanted: &Wanted<'_>, place: String, refused: Refusal) -> ControlError {
    ControlError::Unfit { tenant: wanted.tenant.clone(), place, refused: Box::new(refused) }
}

/// Holds the place: from here on nobody else gets it. The cell is looked at again under its lock.
pub(crate) async fn take(tx: &mut Tx, place: &Place, wanted: &Wanted<'_>) -> Result<CellId, ControlError> {
    match place {
        Place::Existing(id) => {
            let cell = tx.cell_lock(*id).await?.ok_or_else(|| ControlError::NoCell(id.to_string()))?;
            fits(&cell, wanted)?;
            Ok(*id)
        }
        Place::New(new) => {
            tx.cell_insert(new).await.map_err(|error| exists(error, &new.name))?;
            Ok(new.id)
        }
    }
}

pub(crate) fn exists(error: berth_store::StoreError, name: &CellName) -> ControlError {
    match error {
        berth_store::StoreError::Taken(berth_store::Taken::CellName) => ControlError::CellExists(name.clone()),
        other => other.into(),
    }
}

fn fits(cell: &Cell, wanted: &Wanted<'_>) -> Result<(), ControlError> {
    if let Some(from) = wanted.from {
        if from.id == cell.id {
            return Err(ControlError::SameCell { tenant: wanted.tenant.clone(), cell: cell.name.clone() });
        }
        let both = from.schema_fingerprint.as_ref().zip(cell.schema_fingerprint.as_ref());
        if both.is_some_and(|(here, there)| here != there) {
            if from.release != cell.release {
                return Err(ReleaseError::BehindRelease {
                    from: from.name.clone(),
                    from_release: from.release,
                    to: cell.name.clone(),
                    to_release: cell.release,
                }
                .into());
            }
            return Err(ControlError::OtherSchema { from: from.name.clone(), to: cell.name.clone() });
        }
    }
    if cell.state != CellState::Ready {
        return Err(ControlError::CellNotReady { cell: cell.name.clone(), state: cell.state });
    }
    if cell.tenants >= i64::from(cell.max_tenants) {
        return Err(ControlError::CellFull { cell: cell.name.clone(), tenants: cell.tenants, most: cell.max_tenants });
    }
    Ok(())
}
