//! The steps that make a cell out of a reserved row, shared by every workflow that needs a new one.
//!
//! All names are derived from the row, which was stored before anything was asked for: a step that runs twice, or
//! an undo that does not know how far its step came, finds the same database and members.

use super::{healthy::await_healthy, reserved, store};
use crate::{App, ControlError, cell_access, member_spec, mode_settings, programs::Programs};
use async_trait::async_trait;
use berth_domain::{CellId, CellState, MemberId, OperationId, ServiceRole};
use berth_infra::{DatabaseName, ProviderError};
use berth_mover::{MoveError, Obstacle};
use berth_store::{Member, NewMember, Tx};
use berth_workflow::{Retry, Run, Step, StepError, TxStep};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// How long members may take to answer their health path for the first time.
const HEALTHY_LIMIT: Duration = Duration::from_mins(2);
/// Lines of a `migrate` that failed, shown with the failure.
const LOG_LINES: usize = 20;

/// Brings a reserved cell to `ready`, or undoes all of it.
pub(crate) async fn provision_cell(run: &mut Run<App>, cell: CellId) -> Result<(), StepError> {
    run.tx(ReserveCell { cell }).await?;
    run.step(EnsureDatabase { cell }).await?;
    let operation = run.operation();
    run.step(Migrate { cell, operation }).await?;
    let members = run.step(PlanMembers { cell }).await?;
    run.tx(ReserveMembers { cell, members }).await?;
    run.step(StartMembers { cell }).await?;
    run.step(AwaitHealthy { cell }).await?;
    run.step(Fingerprint { cell }).await?;
    run.tx(MarkReady { cell }).await
}

/// Recorded as done by who reserved the row; its undo makes the row `failed` when all else is undone.
struct ReserveCell {
    cell: CellId,
}

#[async_trait]
impl TxStep<App> for ReserveCell {
    const NAME: &'static str = reserved::CELL;
    type Output = ();

    async fn run(&self, _tx: &mut Tx) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.cell_clear_access(self.cell).await.map_err(store)?;
        tx.cell_set_state(self.cell, CellState::Creating, CellState::Failed).await.map_err(store)
    }
    fn input(&self) -> Value {
        reserved::cell(self.cell).1
    }
}

/// Gives the cell its Postgres. What it answers is sealed at once: the passwords never pass through the journal.
struct EnsureDatabase {
    cell: CellId,
}

#[async_trait]
impl Step<App> for EnsureDatabase {
    const NAME: &'static str = "ensure_database";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let spec = member_spec::cell_spec(&cell, &app.stack().await?.stack.data)?;
        let database = app.database_of(&cell).await?.ensure_database(&spec).await;
        let database = database.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
        app.store().cell_set_access(cell.id, &cell_access::write(&database)?).await.map_err(store)
    }
    async fn undo(&self, app: &App, made: Option<()>) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let (database, name) = (app.database_of(&cell).await?, DatabaseName::of(&cell.name));
        match database.remove_database(&name).await {
            // A provider that has no place for the cell made nothing for it, and refuses this as it refused that.
            Err(ProviderError::Refused { .. })
                if made.is_none() && database.observe_database(&name).await.is_ok_and(|seen| seen.is_absent()) =>
            {
                Ok(())
            }
            removed => Ok(removed.map_err(|source| ControlError::Provider { cell: cell.name, source })?),
        }
    }
}

/// Brings the schema up to date, as its owner. Nothing to undo: it goes with the database.
struct Migrate {
    cell: CellId,
    operation: OperationId,
}

#[async_trait]
impl Step<App> for Migrate {
    const NAME: &'static str = "migrate";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        if app.is_foreign(&cell).await? {
            return Ok(());
        }
        let in_force = app.stack().await?;
        let database = app.cell_database(&cell).await?;
        // Before anybody connects as the application.
        mode_settings::ensure(app, &cell, &database).await?;
        let compute = app.compute_of(&cell).await?;
        let programs = Programs::load(app, cell.release).await?;
        for (name, service) in &in_force.stack.services {
            let service = (name, service);
            let spec =
                member_spec::migrate_spec(app, &in_force, &programs, &cell, &database, service, self.operation).await?;
            let Some(spec) = spec else { continue };
            let outcome = compute
                .run_once(&spec)
                .await
                .map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
            if !outcome.succeeded() {
                let how = match outcome.exit_code {
                    _ if outcome.timed_out => "took too long".to_owned(),
                    Some(code) => format!("ended with {code}"),
                    None => "was killed".to_owned(),
                };
                let tail: Vec<&str> = outcome.output.lines().rev().take(LOG_LINES).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                let message = format!("{} {how}; its last lines: {}", spec.what, tail.join(" | "));
                return Err(StepError::permanent("migrate_failed", message)
                    .hint("run it by hand against an empty database; nothing was kept"));
            }
        }
        Ok(())
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 4, ..Retry::default() }
    }
}

/// A member to be reserved. Its id is chosen in a step of its own, so that it is in the journal before the row is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PlannedMember {
    id: MemberId,
    service: berth_domain::ServiceName,
    copy: i32,
    role: ServiceRole,
    /// Journals of before there were releases do not name it.
    #[serde(default)]
    release: u32,
}

/// Reads the stack file once: what is decided here is what the following steps make, also when somebody applies
/// another file meanwhile.
struct PlanMembers {
    cell: CellId,
}

#[async_trait]
impl Step<App> for PlanMembers {
    const NAME: &'static str = "plan_members";
    type Output = Vec<PlannedMember>;

    async fn run(&self, app: &App) -> Result<Vec<PlannedMember>, StepError> {
        let in_force = app.stack().await?;
        let cell = app.cell(self.cell).await?;
        let foreign = app.is_foreign(&cell).await?;
        // Of what somebody else runs only the address is known, and only web services have one.
        let known = |role: ServiceRole| !foreign || role == ServiceRole::Web;
        let services = in_force.stack.services.iter().filter(|(_, what)| known(what.role));
        let copies = services.flat_map(|(service, what)| {
            let copies = if foreign { 1 } else { i32::from(what.copies) };
            (0..copies).map(move |copy| PlannedMember {
                id: MemberId::new(Uuid::now_v7()),
                service: service.clone(),
                copy,
                role: what.role,
                release: cell.release,
            })
        });
        Ok(copies.collect())
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<PlannedMember>>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "cell": self.cell })
    }
}

struct ReserveMembers {
    cell: CellId,
    members: Vec<PlannedMember>,
}

#[async_trait]
impl TxStep<App> for ReserveMembers {
    const NAME: &'static str = "reserve_members";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        for member in &self.members {
            let new = NewMember {
                id: member.id,
                cell: self.cell,
                service: member.service.clone(),
                copy: member.copy,
                service_role: member.role,
                release: member.release,
                arriving: false,
            };
            tx.member_ensure(&new).await.map_err(store)?;
        }
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_delete(self.cell).await.map_err(store)
    }
}

struct StartMembers {
    cell: CellId,
}

#[async_trait]
impl Step<App> for StartMembers {
    const NAME: &'static str = "start_members";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let in_force = app.stack().await?;
        let database = app.cell_database(&cell).await?;
        let compute = app.compute_of(&cell).await?;
        let programs = Programs::load(app, cell.release).await?;
        for member in app.store().member_list(Some(cell.id)).await.map_err(store)? {
            let Some(service) = in_force.stack.services.get(&member.service) else { continue };
            let spec = member_spec::member_spec(app, &in_force, &programs, &cell, &database, &member, service).await?;
            let started = compute.ensure_member(&spec).await;
            started.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
        }
        Ok(())
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        stop_members(app, self.cell).await
    }
}

/// Ends all members that are reserved for a cell. Absent ones are gone already.
pub(super) async fn stop_members(app: &App, cell: CellId) -> Result<(), StepError> {
    let cell = app.cell(cell).await?;
    let compute = app.compute_of(&cell).await?;
    for member in app.store().member_list(Some(cell.id)).await.map_err(store)? {
        let removed = compute.remove_member(&member_spec::member_name(&cell.name, &member)).await;
        removed.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
    }
    Ok(())
}

/// Waits until every member that listens has answered its health path once. What is seen is stored, so that routes
/// to the cell are complete from their first moment.
struct AwaitHealthy {
    cell: CellId,
}

#[async_trait]
impl Step<App> for AwaitHealthy {
    const NAME: &'static str = "await_healthy";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let members = app.store().member_list(Some(cell.id)).await.map_err(store)?;
        let named = |member: &Member| (member.id, member_spec::member_name(&cell.name, member));
        let members: Vec<_> = members.iter().map(named).collect();
        let hint = "its command, health path and environment come from the stack file";
        await_healthy(app, &cell, &members, HEALTHY_LIMIT, hint).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, ..Retry::default() }
    }
}

/// Reads what the cell's schema looks like, and notes it. Of a database that is no PostgreSQL there is nothing to note: where
/// somebody else runs one, its tenants are routed and limited, and a move is refused by what it asks of both sides.
pub(super) async fn fingerprint(app: &App, cell: CellId) -> Result<String, StepError> {
    let cell = app.cell(cell).await?;
    let database = app.cell_database(&cell).await?;
    let read = berth_mover::schema_fingerprint(&cell_access::endpoint(&database)).await;
    if let Err(MoveError::Obstacles(found)) = &read
        && matches!(found.as_slice(), [Obstacle::NotPostgres { .. }])
        && app.is_foreign(&cell).await?
    {
        return Ok(String::new());
    }
    let fingerprint = read.map_err(ControlError::from)?;
    app.store().cell_set_fingerprint(cell.id, &fingerprint).await.map_err(store)?;
    Ok(fingerprint)
}

/// Notes what the cell's schema looks like: tenants go only between cells that have the same.
struct Fingerprint {
    cell: CellId,
}

#[async_trait]
impl Step<App> for Fingerprint {
    const NAME: &'static str = "fingerprint_schema";
    type Output = String;

    async fn run(&self, app: &App) -> Result<String, StepError> {
        fingerprint(app, self.cell).await
    }
    async fn undo(&self, _app: &App, _made: Option<String>) -> Result<(), StepError> {
        Ok(())
    }
}

struct MarkReady {
    cell: CellId,
}

#[async_trait]
impl TxStep<App> for MarkReady {
    const NAME: &'static str = "mark_ready";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.cell_set_state(self.cell, CellState::Creating, CellState::Ready).await.map_err(store)
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.cell_set_state(self.cell, CellState::Ready, CellState::Creating).await.map_err(store)
    }
    fn input(&self) -> Value {
        json!({ "cell": self.cell })
    }
}
