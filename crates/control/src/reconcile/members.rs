//! Members and databases of cells stay up: what ended is started again, what stays unhealthy is replaced, and what is
//! seen is stored, so that edges send requests only where somebody answers.

use super::{Loop, seen};
use crate::{App, ControlError, cell_access, member_spec, operations, programs::Programs, workflows::RESTART_SERVICE};
use async_trait::async_trait;
use berth_domain::{CellId, CellState, MemberId, MemberState};
use berth_infra::{CellDatabase, CellSpec, DatabaseName, Observed};
use berth_store::{Cell, Member, Seen};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tracing::{info, warn};

/// Looks in a row at which a running member may be unhealthy before it is replaced. A database that comes back, or a
/// short stall, is over by then.
const PATIENCE: u32 = 10;

/// A look that shows nothing new is stored this often.
const SAID_AGAIN: SignedDuration = SignedDuration::from_secs(15);

/// What earlier looks showed.
#[derive(Default)]
pub(super) struct Members {
    /// Looks in a row at which a member was unhealthy.
    unhealthy: HashMap<MemberId, u32>,
    /// Cells whose last look failed: said once, not every second.
    failing: HashSet<CellId>,
}

#[async_trait]
impl Loop for Members {
    const NAME: &'static str = "members";
    const PAUSE: Duration = Duration::from_secs(1);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        round(app, self).await
    }
}

async fn round(app: &App, looks: &mut Members) -> Result<(), ControlError> {
    let members = app.store().member_list(None).await?;
    for cell in app.store().cell_list().await? {
        // While it is made or removed its workflow has it in hand.
        if !matches!(cell.state, CellState::Ready | CellState::Draining) {
            continue;
        }
        let own: Vec<&Member> = members.iter().filter(|member| member.cell == cell.id && member.wanted).collect();
        // One cell whose provider does not answer must not keep the others from being looked at.
        match keep(app, &cell, &own, looks).await {
            Ok(()) if looks.failing.remove(&cell.id) => info!(cell = %cell.name, "cell {} is kept up again", cell.name),
            Err(error) if looks.failing.insert(cell.id) => {
                warn!(cell = %cell.name, error = error.full(), "cell {} cannot be kept up; it goes on trying", cell.name);
            }
            // As before.
            Ok(()) | Err(_) => {}
        }
    }
    looks.unhealthy.retain(|id, _| members.iter().any(|member| member.id == *id));
    Ok(())
}

async fn keep(app: &App, cell: &Cell, members: &[&Member], looks: &mut Members) -> Result<(), ControlError> {
    database(app, cell).await?;
    let compute = app.compute_of(cell).await?;
    let foreign = app.is_foreign(cell).await?;
    let failed = |source| ControlError::Provider { cell: cell.name.clone(), source };
    for member in members {
        let name = member_spec::member_name(&cell.name, member);
        let observed = compute.observe_member(&name).await.map_err(failed)?;
        let mut now = seen(&observed, false);
        let unhealthy = looks.unhealthy.entry(member.id).or_default();
        *unhealthy = if now.state == MemberState::Unhealthy { *unhealthy + 1 } else { 0 };
        // What somebody else runs is theirs to start again.
        if !foreign
            && (now.state == MemberState::Stopped || *unhealthy >= PATIENCE)
            && still_wanted(app, cell.id, member.id).await?
        {
            // Told to the edges before anything is tried: starting again may take a while, or fail.
            app.store().member_observed(member.id, &now).await?;
            info!(cell = %cell.name, member = %name, why = now.detail, "member {name} is started again");
            now = start_again(app, cell, member, *unhealthy >= PATIENCE).await?;
            *unhealthy = 0;
            // A release that has ended it in this very moment must not find it again. A restart that took it out meanwhile ends and
            // starts it under the same name: what stands there may be the new one.
            if !restarting(app, cell).await?
                && !still_wanted(app, cell.id, member.id).await?
                && !restarting(app, cell).await?
            {
                compute.remove_member(&name).await.map_err(failed)?;
                continue;
            }
        }
        if differs(member, &now) {
            app.store().member_observed(member.id, &now).await?;
        }
    }
    Ok(())
}

/// The round's list may be many seconds old, and a release may have turned the members meanwhile.
async fn still_wanted(app: &App, cell: CellId, member: MemberId) -> Result<bool, ControlError> {
    let now = app.store().member_list(Some(cell)).await?;
    Ok(now.iter().any(|row| row.id == member && row.wanted && !row.arriving))
}

async fn restarting(app: &App, cell: &Cell) -> Result<bool, ControlError> {
    let about = operations::about_cell(&cell.name);
    Ok(operations::open_of(app, RESTART_SERVICE.name(), &about).await?.is_some())
}

async fn start_again(app: &App, cell: &Cell, member: &Member, replace: bool) -> Result<Seen, ControlError> {
    let in_force = app.stack().await?;
    let Some(service) = in_force.stack.services.get(&member.service) else {
        return Err(ControlError::NoService(member.service.to_string()));
    };
    let compute = app.compute_of(cell).await?;
    let database = app.cell_database(cell).await?;
    let programs = Programs::load(app, member.release).await?;
    let spec = member_spec::member_spec(app, &in_force, &programs, cell, &database, member, service).await?;
    let failed = |source| ControlError::Provider { cell: cell.name.clone(), source };
    if replace {
        compute.remove_member(&spec.name).await.map_err(failed)?;
    }
    let started = compute.ensure_member(&spec).await.map_err(failed)?;
    Ok(seen(&Observed::Present(started), true))
}

/// A database that stands still is started; one whose address changed is written down anew.
async fn database(app: &App, cell: &Cell) -> Result<(), ControlError> {
    let provider = app.database_of(cell).await?;
    let failed = |source| ControlError::Provider { cell: cell.name.clone(), source };
    let wanted = member_spec::cell_spec(cell, &app.stack().await?.stack.data)?;
    let found = match provider.observe_database(&DatabaseName::of(&cell.name)).await.map_err(failed)? {
        // The stack file has come to ask for a Redis or objects after the cell was made.
        Observed::Present(known) if lacks(&wanted, &known) => {
            info!(cell = %cell.name, "cell {} gets what the stack file asks for beside its database", cell.name);
            // Its members are looked after all the same.
            provider.ensure_database(&wanted).await.unwrap_or_else(|error| {
                warn!(cell = %cell.name, %error, "cell {} does not get it; moves out of it and into it are refused", cell.name);
                known
            })
        }
        Observed::Present(database) => database,
        Observed::Absent => {
            // Never made anew by itself: an empty database in place of a lost one would look like a cell that works.
            return Err(ControlError::NoDatabase(cell.name.clone()));
        }
        Observed::Unknown { reason } if app.is_foreign(cell).await? => {
            return Err(ControlError::ForeignSilent { cell: cell.name.clone(), reason });
        }
        Observed::Unknown { reason } => {
            info!(cell = %cell.name, why = reason, "the database of cell {} is started again", cell.name);
            provider.ensure_database(&wanted).await.map_err(failed)?
        }
    };
    let access = cell_access::write(&found)?;
    let known = app.store().cell_access(cell.id).await?;
    if known.is_none_or(|known| known.expose_secret() != access.expose_secret()) {
        app.store().cell_set_access(cell.id, &access).await?;
    }
    Ok(())
}

fn lacks(wanted: &CellSpec, known: &CellDatabase) -> bool {
    (wanted.redis.is_some() && known.redis.is_none()) || (wanted.objects && known.objects.is_none())
}

/// Whether it is worth a write: something changed, or the last look is so old that people would wonder.
fn differs(before: &Member, now: &Seen) -> bool {
    let stale = before.observed_at.is_none_or(|at| Timestamp::now().duration_since(at) > SAID_AGAIN);
    stale || now.restarted || before.state != now.state || before.address != now.address || before.detail != now.detail
}
