//! Which cell a tenant goes to: the one that somebody named, or the one that the placement engine ranks first among the
//! ready cells of the plan's class with room, in the tenant's region where the stack file gives it one. Never chooses a class or a plan: those are the tenant's.
//!
//! A plan of the dedicated class has a cell made for it when no empty one stands ready, so that an upgrade is one
//! command; the workflow that needs the cell provisions it first and takes it away again when it does not succeed.

use crate::{App, ControlError, ReleaseError, app::StackInForce, decide};
use berth_domain::{CellClass, CellId, CellName, CellState, PlanName, TenantName};
use berth_placement::Profile;
use berth_store::{Cell, NewCell, Tx};
use uuid::Uuid;

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
}

/// Decides, without reserving: [`take`] does that in the caller's transaction, on the locked cell.
pub(crate) async fn choose(app: &App, in_force: &StackInForce, wanted: &Wanted<'_>) -> Result<Place, ControlError> {
    let residence = in_force.stack.residence(wanted.tenant);
    if let Some(name) = wanted.named {
        let cell = app.store().cell_by_name(name).await?.ok_or_else(|| ControlError::NoCell(name.to_string()))?;
        fits(&cell, wanted)?;
        // A default yields to whoever names a cell; what the map says of a tenant does not.
        if let Some(home) = residence.filter(|home| home.bound && cell.region.as_deref() != Some(home.region)) {
            let (tenant, region) = (wanted.tenant.clone(), home.region.to_owned());
            return Err(ControlError::OtherRegion { tenant, region, cell: cell.name });
        }
        return Ok(Place::Existing(cell.id));
    }
    let engine = decide::engine(app).await?;
    let ranked =
        engine.cells_for(wanted.class, wanted.plan.as_str(), wanted.profile).map_err(ControlError::BadProfile)?;
    let cells = app.store().cell_list().await?;
    let region = residence.map(|home| home.region);
    let best = ranked
        .iter()
        .filter_map(|name| cells.iter().find(|cell| cell.name.as_str() == *name))
        .find(|cell| (region.is_none() || cell.region.as_deref() == region) && fits(cell, wanted).is_ok());
    match (best, region) {
        (Some(cell), _) => Ok(Place::Existing(cell.id)),
        (None, _) if wanted.class == CellClass::Dedicated => {
            Ok(Place::New(dedicated(in_force, &cells, wanted, region)?))
        }
        (None, Some(region)) => {
            let (tenant, region) = (wanted.tenant.clone(), region.to_owned());
            Err(ControlError::NoRoomInRegion { class: wanted.class, tenant, region })
        }
        (None, None) => {
            let already_in = wanted.from.filter(|cell| cell.class == wanted.class).map(|cell| cell.name.clone());
            Err(ControlError::NoRoom { class: wanted.class, already_in })
        }
    }
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

/// A cell for one tenant: like the first dedicated cell of the stack file in the tenant's region, else like the first one
/// at all, else at the only provider.
fn dedicated(
    in_force: &StackInForce,
    cells: &[Cell],
    wanted: &Wanted<'_>,
    region: Option<&str>,
) -> Result<NewCell, ControlError> {
    let models = || in_force.stack.cells.values().filter(|cell| cell.class == CellClass::Dedicated);
    let model = models().find(|cell| region.is_some() && cell.region.as_deref() == region).or_else(|| models().next());
    let provider = match (model, in_force.stack.providers.len()) {
        (Some(model), _) => model.provider.clone(),
        (None, 1) => in_force.stack.providers.keys().next().cloned().expect("there is one"),
        (None, many) => return Err(ControlError::WhichProvider(many)),
    };
    // `acme-1`, `acme-2`: a name that people connect with the tenant. Cells of the stack file keep theirs.
    let stem: String = wanted.tenant.as_str().chars().take(34).collect();
    let taken = |name: &CellName| cells.iter().any(|c| c.name == *name) || in_force.stack.cells.contains_key(name);
    let name = (1..10_000)
        .filter_map(|n| CellName::new(format!("{}-{n}", stem.trim_end_matches('-'))).ok())
        .find(|name| !taken(name))
        .ok_or(ControlError::NoRoom { class: CellClass::Dedicated, already_in: None })?;
    Ok(NewCell {
        id: CellId::new(Uuid::now_v7()),
        name,
        class: CellClass::Dedicated,
        provider: provider.to_string(),
        region: region.map(str::to_owned).or_else(|| model.and_then(|model| model.region.clone())),
        max_tenants: 1,
        shape: serde_json::to_value(model.map(|model| model.shape).unwrap_or_default())?,
        stack_revision: in_force.revision,
    })
}
