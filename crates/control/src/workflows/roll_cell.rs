//! One cell gets a release: its images are fetched, its schema migrated, new members started beside those that serve;
//! when they are well the route is switched, and the old ones end. Up to the switch nobody outside notices, and
//! whatever fails takes away what was begun. What `migrate` did stays: it has to leave a schema that the release before
//! can work with.
//!
//! Decides nothing about other cells: `reconcile/releasing.rs` does.

use super::{cell::fingerprint, done, fetch::Fetch, healthy::await_healthy, move_tenant::patient, reserved, store};
use crate::{
    App, ControlError, edge_link::await_all, edge_settings, member_spec, programs::Programs, release_error::said,
    smoke, ways_open::await_open,
};
use async_trait::async_trait;
use berth_config::Workers;
use berth_domain::{CellId, MemberId, OperationId, RollCellState, ServiceName, ServiceRole};
use berth_infra::{MemberName, Observed};
use berth_store::{Cell, Member, NewMember, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Retry, Run, Step, StepError, TxStep, Workflow};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// What a restart puts beside the copies for its length has this number: no copy of a service, so that none is made for it.
pub(super) const SPARE_COPY: i32 = 9000;
/// Edges hear of a route within milliseconds. The old members are kept for one that has not taken it, whether it answers
/// control or is cut off from it and serves on; the sweep forgets one that says nothing.
pub(super) const EDGES_LIMIT: Duration = Duration::from_secs(30);
/// On the way back there are three tries: in these a silent edge is forgotten.
pub(super) const EDGES_UNDO_LIMIT: Duration = Duration::from_mins(5);
/// Of members that did not come up, or that a smoke check found wanting.
const NEVER_SERVED: &str = "they never served: the old members go on; the stack file's `releases.healthy_limit` is how long \
                            they may take, `releases.smoke` what is asked of them";
/// Lines of a `migrate` that failed, shown with the failure.
const LOG_LINES: usize = 20;

/// What the workflow is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollCell {
    pub roll: i32,
    pub cell: CellId,
    /// 0: what the stack file alone says.
    pub release: u32,
    /// Not on the way back.
    pub migrate: bool,
    pub asked_by: String,
}

pub const ROLL_CELL: Workflow<RollCell> = Workflow::named("roll_cell_v1");

pub(super) async fn run(run: &mut Run<App>, input: RollCell) -> Result<OperationResult, StepError> {
    let RollCell { roll, cell, release, migrate, .. } = input;
    run.tx(Begin { roll, cell }).await?;
    run.step(Fetch { roll, cell, release, wave: migrate }).await?;
    if migrate {
        let operation = run.operation();
        run.step(Migrate { roll, cell, release, operation }).await?;
    }
    let plan = run.step(Plan { cell, release }).await?;
    run.tx(Reserve { cell, release, members: plan.new.clone() }).await?;
    let first = plan.first();
    run.step(Start { cell, release, members: first.clone() }).await?;
    run.step(AwaitWell { cell, members: first.clone() }).await?;
    let old: Vec<MemberId> = plan.old.iter().map(|old| old.id).collect();
    run.tx(Switch { cell, release, new: ids(&first), old: old.clone() }).await?;
    let after = plan.after();
    if !after.is_empty() || plan.old.iter().any(|old| plan.waits(old)) {
        run.step(TurnWorkers { cell, release, old: plan.old_workers(), new: after.clone() }).await?;
        run.tx(SwitchWorkers { cell, release, new: ids(&after) }).await?;
    }
    run.point_of_no_return().await?;
    run.step(EndOld { cell, old: plan.old.clone() }).await?;
    run.tx(Finish { roll, cell, release, old }).await?;
    Ok(done(format!("the cell runs {}", said(release))))
}

fn ids(members: &[Planned]) -> Vec<MemberId> {
    members.iter().map(|member| member.id).collect()
}

/// A member that comes, or one that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) id: MemberId,
    pub(super) service: ServiceName,
    pub(super) copy: i32,
    pub(super) role: ServiceRole,
    pub(super) release: u32,
}

impl Planned {
    pub(super) fn of(member: &Member) -> Self {
        Self {
            id: member.id,
            service: member.service.clone(),
            copy: member.copy,
            role: member.service_role,
            release: member.release,
        }
    }

    fn name(&self, cell: &Cell) -> MemberName {
        let copy = u16::try_from(self.copy).unwrap_or(u16::MAX);
        MemberName::of_release(&cell.name, &self.service, copy, self.release)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Members {
    new: Vec<Planned>,
    old: Vec<Planned>,
    /// Services without a route start beside the old copies, not after them.
    beside: bool,
}

impl Members {
    fn waits(&self, member: &Planned) -> bool {
        !self.beside && member.role != ServiceRole::Web
    }
    /// Started while the old ones serve.
    fn first(&self) -> Vec<Planned> {
        self.new.iter().filter(|member| !self.waits(member)).cloned().collect()
    }
    /// Started when the old ones of their kind have ended.
    fn after(&self) -> Vec<Planned> {
        self.new.iter().filter(|member| self.waits(member)).cloned().collect()
    }
    fn old_workers(&self) -> Vec<Planned> {
        self.old.iter().filter(|member| self.waits(member)).cloned().collect()
    }
}

/// Recorded as done by who started this; its undo says that the cell keeps what it runs.
struct Begin {
    roll: i32,
    cell: CellId,
}

#[async_trait]
impl TxStep<App> for Begin {
    const NAME: &'static str = reserved::ROLL;
    type Output = ();

    async fn run(&self, _tx: &mut Tx) -> Result<(), StepError> {
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.roll_cell_end(self.roll, self.cell, RollCellState::Failed, None).await.map_err(store)
    }
    fn input(&self) -> Value {
        reserved::roll(self.roll, self.cell).1
    }
}

/// Brings the schema up to date, as its owner, and notes what it looks like then. What was written is kept, also of a
/// migration that failed. Its undo notes the fingerprint again: nobody knows how far a failed one came.
struct Migrate {
    roll: i32,
    cell: CellId,
    release: u32,
    /// Asked for again by the same one it is the same run: the answer of a run of minutes may get lost.
    operation: OperationId,
}

#[async_trait]
impl Step<App> for Migrate {
    const NAME: &'static str = "migrate";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let in_force = app.stack().await?;
        let database = app.cell_database(&cell).await?;
        let compute = app.compute_of(&cell).await?;
        let programs = Programs::load(app, self.release).await?;
        let mut written = String::new();
        for (name, service) in &in_force.stack.services {
            let service = (name, service);
            let spec =
                member_spec::migrate_spec(app, &in_force, &programs, &cell, &database, service, self.operation).await?;
            let Some(spec) = spec else { continue };
            let outcome = compute.run_once(&spec).await;
            let outcome = outcome.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
            written.push_str(&outcome.output);
            app.store().roll_cell_output(self.roll, self.cell, &written).await.map_err(store)?;
            if outcome.succeeded() {
                continue;
            }
            let tail: Vec<&str> = outcome.output.lines().rev().take(LOG_LINES).collect();
            let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
            if outcome.timed_out {
                let limit_s = spec.time_limit.as_secs();
                let message =
                    format!("{} had not ended after {limit_s} s and was stopped; its last lines: {tail}", spec.what);
                let hint = "look for what it waits for (`berth db top`, locks of a long transaction), or raise \
                            `releases.migrate_limit`; the old members go on serving";
                return Err(StepError::permanent("migrate_hung", message).hint(hint));
            }
            let how = outcome.exit_code.map_or("was killed".to_owned(), |code| format!("ended with {code}"));
            let message = format!("{} {how}; its last lines: {tail}", spec.what);
            let hint = "`berth release show` has all that it wrote; the old members go on serving";
            return Err(StepError::permanent("migrate_failed", message).hint(hint));
        }
        fingerprint(app, self.cell).await.map(drop)
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        fingerprint(app, self.cell).await.map(drop)
    }
    fn input(&self) -> Value {
        json!({ "release": self.release })
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

/// As many copies of each service as there are; of a service that is new, as many as the stack file says.
struct Plan {
    cell: CellId,
    release: u32,
}

#[async_trait]
impl Step<App> for Plan {
    const NAME: &'static str = "plan_members";
    type Output = Members;

    async fn run(&self, app: &App) -> Result<Members, StepError> {
        let in_force = app.stack().await?;
        let members = app.store().member_list(Some(self.cell)).await.map_err(store)?;
        let old: Vec<Planned> = members.iter().filter(|member| member.wanted).map(Planned::of).collect();
        let mut copies: BTreeMap<&ServiceName, i32> = BTreeMap::new();
        for member in old.iter().filter(|member| member.copy < SPARE_COPY) {
            let most = copies.entry(&member.service).or_default();
            *most = (*most).max(member.copy + 1);
        }
        let mut new = Vec::new();
        for (name, service) in &in_force.stack.services {
            for copy in 0..copies.get(name).copied().unwrap_or(i32::from(service.copies)) {
                new.push(Planned {
                    id: MemberId::new(Uuid::now_v7()),
                    service: name.clone(),
                    copy,
                    role: service.role,
                    release: self.release,
                });
            }
        }
        let beside = in_force.stack.releases.workers == Workers::Beside;
        Ok(Members { new, old, beside })
    }
    async fn undo(&self, _app: &App, _made: Option<Members>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "release": self.release })
    }
}

/// The rows of those that come: no route has them, and nobody but this workflow starts or ends them.
struct Reserve {
    cell: CellId,
    release: u32,
    members: Vec<Planned>,
}

#[async_trait]
impl TxStep<App> for Reserve {
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
                release: self.release,
                arriving: true,
            };
            tx.member_ensure(&new).await.map_err(store)?;
        }
        Ok(())
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_forget(&ids(&self.members)).await.map_err(store)
    }
}

pub(super) async fn start(app: &App, cell: CellId, release: u32, members: &[Planned]) -> Result<(), StepError> {
    let cell = app.cell(cell).await?;
    let in_force = app.stack().await?;
    let database = app.cell_database(&cell).await?;
    let compute = app.compute_of(&cell).await?;
    let programs = Programs::load(app, release).await?;
    let rows = app.store().member_list(Some(cell.id)).await.map_err(store)?;
    for row in rows.iter().filter(|row| members.iter().any(|member| member.id == row.id)) {
        let Some(service) = in_force.stack.services.get(&row.service) else { continue };
        let spec = member_spec::member_spec(app, &in_force, &programs, &cell, &database, row, service).await?;
        let started = compute.ensure_member(&spec).await;
        let started = started.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
        // Where it listens is known from here: edges open their ways to it before any route names it.
        let seen = crate::reconcile::seen(&Observed::Present(started), false);
        app.store().member_observed(row.id, &seen).await.map_err(store)?;
    }
    Ok(())
}

/// All at once: each has the adapter's grace to end its open requests.
pub(super) async fn end(app: &App, cell: CellId, members: &[Planned]) -> Result<(), StepError> {
    let cell = app.cell(cell).await?;
    let compute = app.compute_of(&cell).await?;
    let names: Vec<MemberName> = members.iter().map(|member| member.name(&cell)).collect();
    let ended = try_join_all(names.iter().map(|name| compute.remove_member(name))).await;
    ended.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
    Ok(())
}

/// Returns when every edge has the route as it is now: until then it sends to the members that are about to end.
pub(super) async fn edges_follow(app: &App, limit: Duration) -> Result<(), StepError> {
    let revision = app.store().route_head().await.map_err(store)?;
    let late = await_all(app, revision, limit).await?;
    if late.is_empty() {
        return Ok(());
    }
    let names = late.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let hint = "`berth edge list` shows them; members that they still send to are kept until they follow, or until an \
                edge that says nothing is forgotten after 10 min";
    Err(StepError::retryable("edges_late", format!("edges have not taken the new route: {names}")).hint(hint))
}

/// Returns when the edges have a way to every new member that takes requests: no route has them before.
async fn ways_are_open(app: &App, cell: &Cell, members: &[Planned]) -> Result<(), StepError> {
    let rows = app.store().member_list(Some(cell.id)).await.map_err(store)?;
    let web = rows.iter().filter(|row| row.service_role == ServiceRole::Web);
    let new = web.filter(|row| members.iter().any(|member| member.id == row.id));
    let ports: Vec<u16> = new.filter_map(|row| row.address.as_ref()?.rsplit(':').next()?.parse().ok()).collect();
    let late = await_open(app, &cell.name, &ports).await?;
    if late.is_empty() {
        return Ok(());
    }
    let names = late.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!("edges have no way to the new members of cell `{}`: {names}", cell.name);
    let hint = "the old members go on serving; the edges' logs say why no way into the cell could be opened";
    Err(StepError::retryable("edges_no_way", message).hint(hint))
}

async fn await_well(app: &App, cell: &Cell, members: &[Planned], hint: &'static str) -> Result<(), StepError> {
    let limit = Duration::from_millis(app.stack().await?.stack.releases.healthy_limit.ms());
    let members: Vec<_> = members.iter().map(|member| (member.id, member.name(cell))).collect();
    await_healthy(app, cell, &members, limit, hint).await
}

/// The gate: health path first, then the stack file's smoke checks, of every member by itself.
pub(super) async fn gate(app: &App, cell: &Cell, members: &[Planned], hint: &'static str) -> Result<(), StepError> {
    await_well(app, cell, members, hint).await?;
    let in_force = app.stack().await?;
    let reach = app.provider(&cell.provider).await?.reach;
    if let Some(reach) = &reach
        && let Ok(Some(_)) = reach.way(&cell.name).await
    {
        ways_are_open(app, cell, members).await?;
    }
    if in_force.stack.releases.smoke.is_empty() {
        return Ok(());
    }
    let missing = || ControlError::NotOffered { provider: cell.provider.clone(), what: "way to ask a member" };
    let reach = reach.ok_or_else(missing)?;
    for member in members {
        for check in in_force.stack.releases.smoke.iter().filter(|check| check.service == member.service) {
            let name = member.name(cell);
            let signer =
                in_force.stack.services.get(&check.service).and_then(|it| edge_settings::signer(app, &it.edge));
            if let Err(why) = smoke::ask(&*reach, &name, check, signer.as_ref()).await {
                let message = format!("a smoke check of member `{name}` failed: {why}");
                return Err(StepError::permanent("smoke_failed", message).hint(hint));
            }
        }
    }
    Ok(())
}

struct Start {
    cell: CellId,
    release: u32,
    members: Vec<Planned>,
}

#[async_trait]
impl Step<App> for Start {
    const NAME: &'static str = "start_members";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        start(app, self.cell, self.release, &self.members).await
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        end(app, self.cell, &self.members).await
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, ..Retry::default() }
    }
}

struct AwaitWell {
    cell: CellId,
    members: Vec<Planned>,
}

#[async_trait]
impl Step<App> for AwaitWell {
    const NAME: &'static str = "await_well";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        gate(app, &app.cell(self.cell).await?, &self.members, NEVER_SERVED).await
    }
    async fn undo(&self, app: &App, made: Option<()>) -> Result<(), StepError> {
        // Once all were well the route may have been switched to them: they end when no edge sends to them any more.
        match made {
            Some(()) => edges_follow(app, EDGES_UNDO_LIMIT).await,
            None => Ok(()),
        }
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, ..Retry::default() }
    }
}

/// From here the new members serve and the old ones get nothing new: one transaction, one revision of the routes. Its
/// undo is the same the other way round, and the old members still run.
struct Switch {
    cell: CellId,
    release: u32,
    new: Vec<MemberId>,
    old: Vec<MemberId>,
}

#[async_trait]
impl TxStep<App> for Switch {
    const NAME: &'static str = "switch_route";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.release, &self.new, &self.old, false).await.map_err(store)
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.release, &self.new, &self.old, true).await.map_err(store)
    }
}

/// Services without a route: the old copies are told to end, and when they have, the new ones start. Its undo ends the
/// new ones; the old are wanted again by the undo of the switch, and whoever keeps members up starts them.
struct TurnWorkers {
    cell: CellId,
    release: u32,
    old: Vec<Planned>,
    new: Vec<Planned>,
}

#[async_trait]
impl Step<App> for TurnWorkers {
    const NAME: &'static str = "turn_workers";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        end(app, self.cell, &self.old).await?;
        start(app, self.cell, self.release, &self.new).await?;
        await_well(app, &app.cell(self.cell).await?, &self.new, NEVER_SERVED).await
    }
    async fn undo(&self, app: &App, _made: Option<()>) -> Result<(), StepError> {
        end(app, self.cell, &self.new).await
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, ..Retry::default() }
    }
}

struct SwitchWorkers {
    cell: CellId,
    release: u32,
    new: Vec<MemberId>,
}

#[async_trait]
impl TxStep<App> for SwitchWorkers {
    const NAME: &'static str = "switch_workers";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.release, &self.new, &[], false).await.map_err(store)
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.release, &self.new, &[], true).await.map_err(store)
    }
}

/// The old members end when every live edge sends elsewhere: SIGTERM, and the adapter's grace for what is open.
struct EndOld {
    cell: CellId,
    old: Vec<Planned>,
}

#[async_trait]
impl Step<App> for EndOld {
    const NAME: &'static str = "end_old_members";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        edges_follow(app, EDGES_LIMIT).await?;
        end(app, self.cell, &self.old).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct Finish {
    roll: i32,
    cell: CellId,
    release: u32,
    old: Vec<MemberId>,
}

#[async_trait]
impl TxStep<App> for Finish {
    const NAME: &'static str = "finish";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_forget(&self.old).await.map_err(store)?;
        tx.cell_set_release(self.cell, self.release).await.map_err(store)?;
        tx.roll_cell_end(self.roll, self.cell, RollCellState::Done, None).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
