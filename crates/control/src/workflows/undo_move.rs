//! A move is undone: the tenant goes back to its old cell with everything that was written since. The same cut-over with
//! its sides exchanged, and the same pause.

use super::{
    MoveTenant, UndoMove,
    move_tenant::{BringLateObjects, CutOverStep, Part, answered, failed, outcome, patient},
    store,
};
use crate::{App, ways_back::Unwatched};
use async_trait::async_trait;
use berth_domain::{MoveId, TenantEvent, TenantId, WayBackState};
use berth_mover::{MovePlan, Ownership, Phase, Progress, Side, Watcher, Way};
use berth_store::{MoveOutcome, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Retry, Run, Step, StepError, TxStep};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

pub(super) async fn run(run: &mut Run<App>, input: UndoMove) -> Result<OperationResult, StepError> {
    let id = MoveId::new(run.operation().uuid());
    run.tx(ReserveUndo { tenant: input.tenant, id, of: input.of }).await?;
    let way = run.step(ReadWay { tenant: input.tenant, of: input.of }).await?;
    let plan = Arc::new(way.plan);
    let part = Arc::new(Part {
        input: way.moved,
        id,
        of: input.of,
        way: Way::Back,
        reporter: run.reporter(),
        cancelled: run.cancelled(),
        phase: Mutex::default(),
        ahead: berth_mover::ReadAhead::default(),
    });
    run.step(BeginUndo { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    let cut = run.step_of_no_return(CutOverStep { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    if let Some(since) = cut.late_objects_since {
        run.step(BringLateObjects { part: Arc::clone(&part), plan: Arc::clone(&plan), since }).await?;
    }
    run.tx(RecordUndo { tenant: input.tenant, id, of: input.of }).await?;
    run.step(ClearNewSide { part: Arc::clone(&part), plan }).await?;
    Ok(outcome(&part, &cut, "the tenant is back where it was", ""))
}

/// The rows were changed with the request; this step is what sets them back when all else is undone.
struct ReserveUndo {
    tenant: TenantId,
    id: MoveId,
    of: MoveId,
}

#[async_trait]
impl TxStep<App> for ReserveUndo {
    const NAME: &'static str = "reserve_undo";
    type Output = ();

    async fn run(&self, _tx: &mut Tx) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.move_end(self.id, MoveOutcome::GivenUp, None).await.map_err(store)?;
        tx.way_back_turn(self.of, WayBackState::Undoing, WayBackState::Open, None).await.map_err(store)?;
        let stayed = tx.tenant_apply(self.tenant, TenantEvent::MoveAbandoned).await.map_err(store)?;
        stayed.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    fn input(&self) -> Value {
        json!({ "of": self.of })
    }
}

/// The move as it was, and its plan.
#[derive(Serialize, Deserialize)]
struct Undone {
    moved: MoveTenant,
    plan: MovePlan,
}

struct ReadWay {
    tenant: TenantId,
    of: MoveId,
}

#[async_trait]
impl Step<App> for ReadWay {
    const NAME: &'static str = "read_way_back";
    type Output = Undone;

    async fn run(&self, app: &App) -> Result<Undone, StepError> {
        let ways = app.store().ways_back_unfinished(Some(self.tenant)).await.map_err(store)?;
        let gone = || StepError::permanent("no_way_back", "the way back of this move is closed");
        let way = ways.into_iter().find(|way| way.id == self.of).ok_or_else(gone)?;
        let moved = MoveTenant {
            tenant: way.tenant,
            source: way.old_cell,
            target: way.new_cell,
            new_cell: false,
            asked_by: String::new(),
        };
        Ok(Undone { moved, plan: way.plan })
    }
    async fn undo(&self, _app: &App, _made: Option<Undone>) -> Result<(), StepError> {
        Ok(())
    }
}

/// Takes the control row. Undone by giving up: the tenant stays where it is, and its way back stays open.
struct BeginUndo {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for BeginUndo {
    const NAME: &'static str = "begin_undo";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        self.part.progress(Progress::of(Phase::Prepare));
        berth_mover::begin(&spec, &ownership).await.map(drop).map_err(|error| failed(&error))
    }

    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let Err(error) = answered(&spec, Box::pin(berth_mover::give_up(&spec, &ownership))).await else {
            return Ok(());
        };
        let back = ownership.read().await.is_some_and(|row| row.owner == spec.target_cell);
        Err(if back { self.part.too_late(app, &self.plan, &spec).await? } else { failed(&error) })
    }

    fn retry(&self) -> Retry {
        patient()
    }
}

struct RecordUndo {
    tenant: TenantId,
    id: MoveId,
    of: MoveId,
}

#[async_trait]
impl TxStep<App> for RecordUndo {
    const NAME: &'static str = "record_undo";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.move_end(self.id, MoveOutcome::Moved, None).await.map_err(store)?;
        tx.way_back_turn(self.of, WayBackState::Undoing, WayBackState::Undone, None).await.map_err(store)?;
        let moved = tx.tenant_apply(self.tenant, TenantEvent::CutOver).await.map_err(store)?;
        moved.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    /// Never called: it comes after the point of no return.
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}

/// Slot and publication go, the rows in the cell that the tenant has left again, and the triggers in the one where it is.
struct ClearNewSide {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for ClearNewSide {
    const NAME: &'static str = "clear_new_side";
    type Output = u64;

    async fn run(&self, app: &App) -> Result<u64, StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let work = async {
            let row = ownership.read().await.ok_or(berth_mover::MoveError::ControlSilent)?;
            berth_mover::retire(&spec, &self.plan, true, row.token).await?;
            // It is past the point of no return: who asked to give up was told so.
            let gone = berth_mover::release(&spec, &self.plan, &ownership, &Unwatched).await?;
            berth_mover::disarm(&spec, Side::Target, &ownership).await?;
            Ok(gone)
        };
        self.part.timed(app, Phase::Keep, Box::pin(work), |_, _| {}).await
    }
    async fn undo(&self, _app: &App, _made: Option<u64>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}
