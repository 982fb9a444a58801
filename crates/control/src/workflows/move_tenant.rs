//! A tenant moves to another cell while its users keep working: `berth-mover`'s steps in the journal.
//!
//! The steps are the mover's own, each safe to run twice. What may be believed after a crash is decided by the mover's
//! tokens and its control row, never by this journal: the step that cuts over looks at the row and goes on from there.

use super::{MoveTenant, done, provision_cell, store, tenant::tenant};
use crate::{App, archives, move_edges::TenantEdges, moves, ways_back::Unwatched};
use async_trait::async_trait;
use berth_domain::{CellId, MoveId, MovePhase, TenantEvent, TenantId, WayBackState};
use berth_mover::{CutOver, Fault, MoveError, MovePlan, MoveSpec, Ownership, Phase, Progress, Side, Watcher, Way};
use berth_store::{MoveFigures, MoveOutcome, MovePhaseTime, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Cancelled, Reporter, Retry, Run, Step, StepError, TxStep};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) async fn run(run: &mut Run<App>, input: MoveTenant) -> Result<OperationResult, StepError> {
    let id = MoveId::new(run.operation().uuid());
    run.tx(ReserveMove { tenant: input.tenant, id }).await?;
    if input.new_cell {
        provision_cell(run, input.target).await?;
    }
    run.step(AwaitTurn { id }).await?;
    let part = Arc::new(Part {
        input,
        id,
        of: id,
        way: Way::There,
        reporter: run.reporter(),
        cancelled: run.cancelled(),
        phase: Mutex::default(),
        ahead: berth_mover::ReadAhead::default(),
    });
    let plan = Arc::new(run.step(PlanMove { part: Arc::clone(&part) }).await?);
    run.step(Prepare { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    run.step(Copy { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    run.step(Build { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    // The owner changes inside this step: from its record on nobody can give the move up, and what is asked before
    // that is decided by the owner, in the undo of `Prepare`.
    let cut = run.step_of_no_return(CutOverStep { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    // Before there is a way back whose end would take them away.
    if let Some(since) = cut.late_objects_since {
        run.step(BringLateObjects { part: Arc::clone(&part), plan: Arc::clone(&plan), since }).await?;
    }
    let days = run.step(Retention).await?;
    let way_back = WayBackRow { cells: (part.input.source, part.input.target), plan: Arc::clone(&plan), days };
    run.tx(RecordMove { tenant: part.input.tenant, id, way_back }).await?;
    run.step(Retire { part: Arc::clone(&part), plan: Arc::clone(&plan) }).await?;
    if plan.tables.iter().any(|table| table.kept.is_some()) {
        run.step(ArchiveLeftBehind { part: Arc::clone(&part), plan }).await?;
    }
    let then = if days > 0 { format!("; it can be undone for {days} days") } else { String::new() };
    Ok(outcome(&part, &cut, "the tenant has moved", &then))
}

/// What a person reads at the end, and the figures.
pub(super) fn outcome(part: &Part, cut: &CutOver, what: &str, then: &str) -> OperationResult {
    let parts: Vec<String> = cut.timeline.iter().map(|(what, ms)| format!("{what} {ms:.1}")).collect();
    tracing::info!(
        tenant.id = %part.input.tenant, generation = %cut.generation,
        "tenant {} cut over to generation {} at attempt {}; ms: {}", part.input.tenant, cut.generation, cut.attempts, parts.join(", ")
    );
    let mut result = done(match cut.hold {
        Some(hold) => format!("{what}; its writers waited {:.0} ms{then}", hold.pause_ms),
        None => format!("{what}{then}"),
    });
    if let Value::Object(figures) = json!({
        "generation": cut.generation, "rows_verified": cut.rows_verified, "attempts": cut.attempts,
        "closed_ms": cut.closed_ms, "timeline_ms": cut.timeline, "pause_ms": cut.hold.map(|h| h.pause_ms), "held_requests": cut.hold.map(|h| h.held_requests),
    }) {
        result.figures = figures;
    }
    result
}

/// What every step of one move is given.
pub(super) struct Part {
    pub input: MoveTenant,
    /// Whose figures are noted.
    pub id: MoveId,
    /// The move in the databases: another one when that is undone.
    pub of: MoveId,
    pub way: Way,
    pub reporter: Reporter,
    pub cancelled: Cancelled,
    /// Which phase was last told of, and since when: for the rate.
    pub phase: Mutex<Option<(Phase, Instant)>>,
    pub ahead: berth_mover::ReadAhead,
}

impl Part {
    pub async fn spec(&self, app: &App) -> Result<MoveSpec, StepError> {
        let tenant = tenant(app, self.input.tenant).await?;
        let (source, target) = (app.cell(self.input.source).await?, app.cell(self.input.target).await?);
        let spec = moves::spec(app, self.of, &tenant, &source, &target).await?;
        let spec = if self.way == Way::Back { spec.back() } else { spec };
        Ok(MoveSpec { ahead: self.ahead.clone(), ..spec })
    }

    /// The owner had changed before anybody asked to give up. Users are served first; then this undo stops for good,
    /// because what would be undone after it is the cell in which the tenant now lives.
    pub async fn too_late(&self, app: &App, plan: &Arc<MovePlan>, spec: &MoveSpec) -> Result<StepError, StepError> {
        let tenant = self.input.tenant;
        let ownership = app.store().ownership(tenant);
        let edges = TenantEdges::new(app.store().clone(), tenant);
        let forward = berth_mover::cut_over(spec, plan, &ownership, &edges, self).await;
        let cut = forward.map_err(|error| failed(&error))?;
        if let Some(since) = cut.late_objects_since {
            berth_mover::bring_late_objects(spec, plan, since).await.map_err(|error| failed(&error))?;
        }
        let in_force = app.stack().await?;
        let mut tx = app.store().begin().await.map_err(store)?;
        tx.move_end(self.id, MoveOutcome::Moved, None).await.map_err(store)?;
        match self.way {
            Way::There => {
                let days = Some(in_force.stack.data.way_back_days).filter(|days| *days > 0);
                let cells = (self.input.source, self.input.target);
                tx.way_back_open(self.id, tenant, cells, plan, days).await.map_err(store)?;
            }
            Way::Back => {
                tx.way_back_turn(self.of, WayBackState::Undoing, WayBackState::Undone, None).await.map_err(store)?;
            }
        }
        // Refused where it is recorded already.
        let _recorded = tx.tenant_apply(tenant, TenantEvent::CutOver).await.map_err(store)?;
        tx.commit().await.map_err(store)?;
        let row = berth_mover::take(&ownership).await.map_err(|error| failed(&error))?;
        berth_mover::retire(spec, plan, true, row.token).await.map_err(|error| failed(&error))?;
        if self.way == Way::Back {
            // Nobody comes after this one who would.
            berth_mover::release(spec, plan, &ownership, &Unwatched).await.map_err(|error| failed(&error))?;
            berth_mover::disarm(spec, Side::Target, &ownership).await.map_err(|error| failed(&error))?;
        }
        Ok(StepError::permanent("moved_already", "the tenant had moved before the move was given up")
            .hint("it is served at its new cell; `berth operation abandon --force` closes this operation"))
    }

    /// Runs one phase and notes when it began and ended, for people; a note that is lost costs nothing.
    pub async fn timed<T>(
        &self,
        app: &App,
        phase: Phase,
        work: Pin<Box<dyn Future<Output = Result<T, MoveError>> + Send + '_>>,
        figures: impl FnOnce(&T, &mut MoveFigures) + Send,
    ) -> Result<T, StepError> {
        let started_at = Timestamp::now();
        self.note(app, |f| {
            f.phases.retain(|p| p.phase != phase.as_str());
            f.phases.push(MovePhaseTime { phase: phase.as_str().to_owned(), started_at, ended_at: None });
        })
        .await;
        let outcome = answered(&self.spec(app).await?, work).await.map_err(|error| failed(&error))?;
        self.note(app, |f| {
            for known in f.phases.iter_mut().filter(|p| p.phase == phase.as_str()) {
                known.ended_at = Some(Timestamp::now());
            }
            figures(&outcome, f);
        })
        .await;
        Ok(outcome)
    }

    async fn note(&self, app: &App, change: impl FnOnce(&mut MoveFigures)) {
        let Ok(Some(known)) = app.store().move_get(self.id).await else { return };
        let mut figures = known.figures;
        change(&mut figures);
        if let Err(error) = app.store().move_measured(self.id, &figures).await {
            tracing::warn!(%error, "figures of move {} were not stored", self.id);
        }
    }
}

/// `work`, unless one of the two servers answers nobody meanwhile.
pub(super) async fn answered<T>(
    spec: &MoveSpec,
    work: Pin<Box<dyn Future<Output = Result<T, MoveError>> + Send + '_>>,
) -> Result<T, MoveError> {
    tokio::select! {
        outcome = work => outcome,
        silent = berth_mover::silence(spec, berth_mover::Patience::default()) => Err(silent),
    }
}

impl Watcher for Part {
    /// The figures have the names of the API's `Progress`.
    fn progress(&self, progress: Progress) {
        let message = match &progress.note {
            Some(note) => format!("{}: {note}", progress.phase.as_str()),
            None => progress.phase.as_str().to_owned(),
        };
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if phase.is_none_or(|(known, _)| known != progress.phase) {
            *phase = Some((progress.phase, Instant::now()));
        }
        let elapsed = phase.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
        let rate = progress.rows_done.filter(|_| elapsed > 0.5).map(|rows| rows as f64 / elapsed);
        let left = progress.rows_total.zip(progress.rows_done).map(|(total, rows)| total.saturating_sub(rows) as f64);
        let remaining = left.zip(rate).filter(|(_, rate)| *rate > 0.0).map(|(left, rate)| left / rate);
        let fraction = progress.rows_done.zip(progress.rows_total).filter(|(_, total)| *total > 0);
        let figures = json!({
            "phase": message, "rows_done": progress.rows_done, "rows_total": progress.rows_total,
            "rows_per_s": rate, "remaining_s": remaining,
        });
        self.reporter.report(berth_workflow::Progress {
            fraction: fraction.map(|(rows, total)| (rows as f64 / total as f64).min(1.0)),
            message,
            figures,
        });
    }
    fn cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

pub(super) fn failed(error: &MoveError) -> StepError {
    let message = StepError::chain(error);
    let step = match error.fault() {
        Fault::Passing => StepError::retryable(error.code(), message),
        Fault::Caller | Fault::Ours => StepError::permanent(error.code(), message),
    };
    step.hint(error.hint())
}

/// The rows were made with the request; this step is what frees the tenant when all else is undone.
struct ReserveMove {
    tenant: TenantId,
    id: MoveId,
}

#[async_trait]
impl TxStep<App> for ReserveMove {
    const NAME: &'static str = "reserve_move";
    type Output = ();

    async fn run(&self, _tx: &mut Tx) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.move_end(self.id, MoveOutcome::GivenUp, None).await.map_err(store)?;
        let stayed = tx.tenant_apply(self.tenant, TenantEvent::MoveAbandoned).await.map_err(store)?;
        stayed.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    fn input(&self) -> Value {
        json!({ "tenant": self.tenant })
    }
}

/// Waits until few enough moves go on in its cells.
struct AwaitTurn {
    id: MoveId,
}

#[async_trait]
impl Step<App> for AwaitTurn {
    const NAME: &'static str = "await_turn";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        moves::await_turn(app, self.id).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        // Half a day of others' turns.
        Retry { ceiling: Duration::from_secs(2), attempts: 20_000, ..Retry::default() }
    }
}

/// Finds what belongs to the tenant and everything that stands in the way. Touches nothing.
struct PlanMove {
    part: Arc<Part>,
}

#[async_trait]
impl Step<App> for PlanMove {
    const NAME: &'static str = "plan_move";
    type Output = MovePlan;

    async fn run(&self, app: &App) -> Result<MovePlan, StepError> {
        let (source, target) = (app.cell(self.part.input.source).await?, app.cell(self.part.input.target).await?);
        moves::must_have_beside(app, [&source, &target]).await?;
        let spec = self.part.spec(app).await?;
        self.part.progress(Progress::of(Phase::Plan));
        if spec.keep_from.is_some() && !spec.rules.retention.is_empty() {
            // What stays behind has to go there: found out before anything is touched.
            berth_mover::probe(&app.archives().await?).await.map_err(|error| failed(&error))?;
        }
        self.part
            .timed(app, Phase::Plan, Box::pin(berth_mover::plan(&spec)), |plan, figures| {
                figures.rows = Some(plan.rows);
                figures.bytes = Some(plan.bytes);
            })
            .await
    }
    async fn undo(&self, _app: &App, _made: Option<MovePlan>) -> Result<(), StepError> {
        Ok(())
    }
}

/// Fences, triggers, publication. Undone by giving the move up: the steps after this one have nothing of their own
/// to undo, because what they leave behind goes here.
struct Prepare {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for Prepare {
    const NAME: &'static str = "prepare";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        self.part.progress(Progress::of(Phase::Prepare));
        let work = async {
            let row = berth_mover::begin(&spec, &ownership).await?;
            berth_mover::prepare(&spec, &self.plan, row, &ownership).await
        };
        self.part.timed(app, Phase::Prepare, Box::pin(work), |(), _| {}).await
    }

    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        if let Err(error) = answered(&spec, Box::pin(berth_mover::give_up(&spec, &ownership))).await {
            let moved = ownership.read().await.is_some_and(|row| row.owner == self.part.input.target);
            return Err(if moved { self.part.too_late(app, &self.plan, &spec).await? } else { failed(&error) });
        }
        let work = async {
            let row = berth_mover::take(&ownership).await?;
            berth_mover::retire(&spec, &self.plan, false, row.token).await?;
            berth_mover::unfence(&spec, Side::Target, &ownership).await
        };
        answered(&spec, Box::pin(work)).await.map(drop).map_err(|error| failed(&error))
    }

    fn retry(&self) -> Retry {
        patient()
    }
}

struct Copy {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for Copy {
    const NAME: &'static str = "copy";
    type Output = berth_mover::Copied;

    async fn run(&self, app: &App) -> Result<berth_mover::Copied, StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let work = async {
            let row = berth_mover::begin(&spec, &ownership).await?;
            berth_mover::copy(&spec, &self.plan, row.token, &*self.part).await
        };
        self.part
            .timed(app, Phase::Copy, Box::pin(work), |copied, figures| {
                figures.rows = i64::try_from(copied.rows).ok();
                figures.bytes = i64::try_from(copied.bytes).ok();
            })
            .await
    }
    async fn undo(&self, _app: &App, _made: Option<berth_mover::Copied>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct Build {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for Build {
    const NAME: &'static str = "build";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let work = async {
            let row = berth_mover::begin(&spec, &ownership).await?;
            berth_mover::build(&spec, &self.plan, row.token, &*self.part).await
        };
        self.part.timed(app, Phase::Build, Box::pin(work), |(), _| {}).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// Objects that were written in the last moment before the cut-over and could not be listed within it.
pub(super) struct BringLateObjects {
    pub part: Arc<Part>,
    pub plan: Arc<MovePlan>,
    /// When they were last listed.
    pub since: Timestamp,
}

#[async_trait]
impl Step<App> for BringLateObjects {
    const NAME: &'static str = "bring_late_objects";
    type Output = u64;

    async fn run(&self, app: &App) -> Result<u64, StepError> {
        let spec = self.part.spec(app).await?;
        berth_mover::bring_late_objects(&spec, &self.plan, self.since).await.map_err(|error| failed(&error))
    }
    async fn undo(&self, _app: &App, _made: Option<u64>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// Follows, compares, changes the owner, opens the target and lets the edges go.
pub(super) struct CutOverStep {
    pub part: Arc<Part>,
    pub plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for CutOverStep {
    const NAME: &'static str = "cut_over";
    type Output = CutOver;

    async fn run(&self, app: &App) -> Result<CutOver, StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let edges = TenantEdges::new(app.store().clone(), self.part.input.tenant);
        let work = Box::pin(berth_mover::cut_over(&spec, &self.plan, &ownership, &edges, &*self.part));
        let cut = self
            .part
            .timed(app, Phase::CutOver, work, |cut, figures| {
                figures.attempts = i32::try_from(cut.attempts).unwrap_or(i32::MAX);
                // A worker that took over after the commit point has not compared anything itself.
                figures.rows_verified = i64::try_from(cut.rows_verified).ok().filter(|rows| *rows > 0);
                figures.pause_ms = cut.hold.map(|hold| hold.pause_ms);
                figures.held_requests = cut.hold.and_then(|hold| i64::try_from(hold.held_requests).ok());
            })
            .await;
        match cut {
            Err(error) if ownership.read().await.is_some_and(|row| row.phase == MovePhase::Committed) => {
                Err(StepError::retryable("committed", error.to_string()).after(Duration::from_millis(200)))
            }
            other => other,
        }
    }
    async fn undo(&self, _app: &App, _made: Option<CutOver>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        // Between the commit point and the opened target users wait: short pauses, and no end.
        Retry {
            first: Duration::from_millis(100),
            ceiling: Duration::from_secs(3),
            attempts: 1_200,
            ..Retry::default()
        }
    }
}

/// How long the move can be undone, as the stack file says now. In days.
struct Retention;

#[async_trait]
impl Step<App> for Retention {
    const NAME: &'static str = "retention";
    type Output = u32;

    async fn run(&self, app: &App) -> Result<u32, StepError> {
        Ok(app.stack().await?.stack.data.way_back_days)
    }
    async fn undo(&self, _app: &App, _made: Option<u32>) -> Result<(), StepError> {
        Ok(())
    }
}

struct WayBackRow {
    cells: (CellId, CellId),
    plan: Arc<MovePlan>,
    days: u32,
}

struct RecordMove {
    tenant: TenantId,
    id: MoveId,
    way_back: WayBackRow,
}

#[async_trait]
impl TxStep<App> for RecordMove {
    const NAME: &'static str = "record_move";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.move_end(self.id, MoveOutcome::Moved, None).await.map_err(store)?;
        let (way, days) = (&self.way_back, Some(self.way_back.days).filter(|days| *days > 0));
        tx.way_back_open(self.id, self.tenant, way.cells, &way.plan, days).await.map_err(store)?;
        let moved = tx.tenant_apply(self.tenant, TenantEvent::CutOver).await.map_err(store)?;
        moved.map(drop).map_err(|illegal| StepError::permanent("tenant_state", illegal.to_string()))
    }
    /// Never called: it comes after the point of no return.
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}

/// Slot and publication go. The source's rows stay behind its closed fence until nobody can go back to them.
struct Retire {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for Retire {
    const NAME: &'static str = "retire";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        let ownership = app.store().ownership(self.part.input.tenant);
        let work = async {
            let row = berth_mover::take(&ownership).await?;
            berth_mover::retire(&spec, &self.plan, true, row.token).await
        };
        self.part.timed(app, Phase::Keep, Box::pin(work), |(), _| {}).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

/// What the tenant's plan does not keep is written to the archives, from the closed source.
struct ArchiveLeftBehind {
    part: Arc<Part>,
    plan: Arc<MovePlan>,
}

#[async_trait]
impl Step<App> for ArchiveLeftBehind {
    const NAME: &'static str = "archive_left_behind";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let spec = self.part.spec(app).await?;
        Ok(archives::left_behind(app, self.part.id, &spec, &self.plan, &*self.part).await?)
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// A database that restarts is back within this; the tenant is served from its old cell meanwhile.
pub(super) fn patient() -> Retry {
    Retry { first: Duration::from_millis(200), ceiling: Duration::from_secs(5), attempts: 60, ..Retry::default() }
}
