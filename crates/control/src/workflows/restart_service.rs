//! The members of one service in one cell are started again, one after the other, and nobody outside notices: where they
//! take requests, one more copy is started beside them first and serves until the last of them is back. It is the proof
//! that what is to be started again starts at all; when it does not come up, nothing has happened.
//!
//! Never changes what they run: the same release, the stack file and variables as they are now.

use super::{
    done,
    move_tenant::patient,
    roll_cell::{EDGES_LIMIT, EDGES_UNDO_LIMIT, Planned, SPARE_COPY, edges_follow, end, gate, start},
    store,
};
use crate::App;
use async_trait::async_trait;
use berth_domain::{CellId, MemberId, ServiceName, ServiceRole};
use berth_store::{Member, NewMember, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Retry, Run, Step, StepError, TxStep, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

const NOT_BEGUN: &str = "nothing was restarted: the members that serve go on; the stack file's `releases.healthy_limit` is how \
                         long one may take to be healthy";
const ONE_LESS: &str = "the others serve, and one more copy beside them; `berth operation retry` tries this one again";

/// What the workflow is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartService {
    pub cell: CellId,
    pub service: ServiceName,
    pub asked_by: String,
}

pub const RESTART_SERVICE: Workflow<RestartService> = Workflow::named("restart_service_v1");

pub(super) async fn run(run: &mut Run<App>, input: RestartService) -> Result<OperationResult, StepError> {
    let RestartService { cell, service, .. } = input;
    let plan = run.step(PlanRestart { cell, service: service.clone() }).await?;
    if let Some(spare) = &plan.spare {
        run.tx(ReserveSpare { cell, spare: spare.clone() }).await?;
        run.step(StartSpare { cell, spare: spare.clone() }).await?;
        run.tx(SpareServes { cell, spare: spare.clone() }).await?;
    }
    run.point_of_no_return().await?;
    for member in &plan.members {
        run.tx(TakeOut { cell, member: member.clone() }).await?;
        run.step(StartAgain { cell, member: member.clone() }).await?;
        run.tx(PutBack { cell, member: member.clone() }).await?;
    }
    if let Some(spare) = &plan.spare {
        run.tx(TakeOut { cell, member: spare.clone() }).await?;
        run.step(EndSpare { cell, spare: spare.clone() }).await?;
        run.tx(ForgetSpare { member: spare.id }).await?;
    }
    Ok(done(format!("{} of service `{service}` were started again", plan.members.len())))
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Members {
    members: Vec<Planned>,
    /// Only where they take requests.
    spare: Option<Planned>,
}

struct PlanRestart {
    cell: CellId,
    service: ServiceName,
}

#[async_trait]
impl Step<App> for PlanRestart {
    const NAME: &'static str = "plan_restart";
    type Output = Members;

    async fn run(&self, app: &App) -> Result<Members, StepError> {
        let cell = app.cell(self.cell).await?;
        let all = app.store().member_list(Some(cell.id)).await.map_err(store)?;
        let own = all.iter().filter(|member| member.service == self.service && member.release == cell.release);
        // One that a restart left behind which was given up is taken up again.
        let left = own.clone().find(|member| member.copy == SPARE_COPY).map(Planned::of);
        // So is a member that it had taken out.
        let members: Vec<Planned> = own.filter(|member| is_restarted(member)).map(Planned::of).collect();
        let new = members.first().filter(|member| member.role == ServiceRole::Web).map(|like| Planned {
            id: MemberId::new(Uuid::now_v7()),
            copy: SPARE_COPY,
            ..like.clone()
        });
        // Whoever serves alone goes on.
        let spare = if members.is_empty() { None } else { left.or(new) };
        Ok(Members { members, spare })
    }
    async fn undo(&self, _app: &App, _made: Option<Members>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "service": self.service })
    }
}

/// Of those of the cell's release.
pub(crate) fn is_restarted(member: &Member) -> bool {
    (member.wanted || member.arriving) && member.copy != SPARE_COPY
}

struct ReserveSpare {
    cell: CellId,
    spare: Planned,
}

#[async_trait]
impl TxStep<App> for ReserveSpare {
    const NAME: &'static str = "reserve_spare";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        let new = NewMember {
            id: self.spare.id,
            cell: self.cell,
            service: self.spare.service.clone(),
            copy: self.spare.copy,
            service_role: self.spare.role,
            release: self.spare.release,
            arriving: true,
        };
        tx.member_ensure(&new).await.map_err(store)
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_forget(&[self.spare.id]).await.map_err(store)
    }
}

struct StartSpare {
    cell: CellId,
    spare: Planned,
}

#[async_trait]
impl Step<App> for StartSpare {
    const NAME: &'static str = "start_spare";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        start(app, self.cell, self.spare.release, std::slice::from_ref(&self.spare)).await?;
        gate(app, &app.cell(self.cell).await?, std::slice::from_ref(&self.spare), NOT_BEGUN).await
    }
    async fn undo(&self, app: &App, made: Option<()>) -> Result<(), StepError> {
        // Once it was well it may have been given requests: it ends when no edge sends to it any more.
        if made.is_some() {
            edges_follow(app, EDGES_UNDO_LIMIT).await?;
        }
        end(app, self.cell, std::slice::from_ref(&self.spare)).await
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, ..Retry::default() }
    }
}

struct SpareServes {
    cell: CellId,
    spare: Planned,
}

#[async_trait]
impl TxStep<App> for SpareServes {
    const NAME: &'static str = "spare_serves";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.spare.release, &[self.spare.id], &[], false).await.map_err(store)
    }
    async fn undo(&self, tx: &mut Tx, (): ()) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.spare.release, &[self.spare.id], &[], true).await.map_err(store)
    }
}

/// It gets nothing new, and nobody but this workflow starts or ends it.
struct TakeOut {
    cell: CellId,
    member: Planned,
}

#[async_trait]
impl TxStep<App> for TakeOut {
    const NAME: &'static str = "take_out";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.member.release, &[], &[self.member.id], false).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "member": self.member.id })
    }
}

/// When no edge sends to it any more it is told to end, with its provider's grace for what is open, and started.
struct StartAgain {
    cell: CellId,
    member: Planned,
}

#[async_trait]
impl Step<App> for StartAgain {
    const NAME: &'static str = "start_again";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let member = std::slice::from_ref(&self.member);
        if self.member.role == ServiceRole::Web {
            edges_follow(app, EDGES_LIMIT).await?;
        }
        end(app, self.cell, member).await?;
        start(app, self.cell, self.member.release, member).await?;
        gate(app, &app.cell(self.cell).await?, member, ONE_LESS).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "member": self.member.id })
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct PutBack {
    cell: CellId,
    member: Planned,
}

#[async_trait]
impl TxStep<App> for PutBack {
    const NAME: &'static str = "put_back";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_switch(self.cell, self.member.release, &[self.member.id], &[], false).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "member": self.member.id })
    }
}

struct EndSpare {
    cell: CellId,
    spare: Planned,
}

#[async_trait]
impl Step<App> for EndSpare {
    const NAME: &'static str = "end_spare";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        edges_follow(app, EDGES_LIMIT).await?;
        end(app, self.cell, std::slice::from_ref(&self.spare)).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn retry(&self) -> Retry {
        patient()
    }
}

struct ForgetSpare {
    member: MemberId,
}

#[async_trait]
impl TxStep<App> for ForgetSpare {
    const NAME: &'static str = "forget_spare";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_forget(&[self.member]).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
