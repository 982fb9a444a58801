//! Operations: listed, shown, watched, retried, abandoned.

use crate::{App, Change, ControlError, Permit, ReadTenant, audited, tenants, views};
use berth_domain::{CellName, OperationId, OperationState, TenantName};
use berth_store::{Nudge, Tx};
use berth_wire as wire;
use berth_workflow::{Filter, Journal, NewOperation, Operation, StepRecord, StepState};
use futures_util::Stream;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// Progress is written four times a second at most; who watches looks again at least this often, should a
/// notification be lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const OPEN: &[OperationState] =
    &[OperationState::Queued, OperationState::Running, OperationState::Undoing, OperationState::Stuck];

/// Which operations to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    pub tenant: Option<TenantName>,
    pub cell: Option<CellName>,
    pub state: Option<OperationState>,
    /// Only those that are not at their end.
    pub open: bool,
    /// The cursor: the last operation of the page before.
    pub after: Option<OperationId>,
    /// 0: a hundred.
    pub limit: u32,
}

pub(crate) fn about_tenant(name: &TenantName) -> String {
    format!("tenant/{name}")
}

pub(crate) fn about_cell(name: &CellName) -> String {
    format!("cell/{name}")
}

pub async fn list(
    app: &App,
    permit: &Permit<ReadTenant>,
    filter: &OperationFilter,
) -> Result<wire::Page<wire::Operation>, ControlError> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit.min(1000) };
    let subject = match (&filter.tenant, &filter.cell) {
        (Some(tenant), _) => Some(about_tenant(tenant)),
        (None, Some(cell)) => Some(about_cell(cell)),
        (None, None) => own_subject(app, permit).await?,
    };
    if let (Some(tenant), Some(_)) = (&filter.tenant, own_subject(app, permit).await?) {
        tenants::find(app, permit, tenant.as_str()).await?;
    }
    let states = match filter.state {
        Some(state) => vec![state],
        None if filter.open => OPEN.to_vec(),
        None => Vec::new(),
    };
    let asked = Filter { states, workflow: None, subject, before: filter.after, limit: limit + 1 };
    let mut found = app.store().list(&asked).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(wire::Page { items: found.into_iter().map(|o| views::operation(o, Vec::new())).collect(), next })
}

/// What a tenant's own key is limited to.
async fn own_subject(app: &App, permit: &Permit<ReadTenant>) -> Result<Option<String>, ControlError> {
    let berth_store::Scope::Tenant(own) = permit.caller().scope else { return Ok(None) };
    let tenant = app.store().tenant_get(own).await?.ok_or_else(|| ControlError::NoTenant(own.to_string()))?;
    Ok(Some(about_tenant(&tenant.name)))
}

pub async fn show(app: &App, permit: &Permit<ReadTenant>, id: OperationId) -> Result<wire::Operation, ControlError> {
    let (operation, steps) = app.store().show(id).await?.ok_or(ControlError::NoOperation(id))?;
    if let Some(own) = own_subject(app, permit).await?
        && operation.subject.as_deref() != Some(&own)
    {
        return Err(ControlError::NoOperation(id));
    }
    Ok(views::operation(operation, steps))
}

/// The operation now, and again whenever it changes, until it is at its end. A stuck one is not at its end: a person
/// can retry it while others watch.
pub async fn watch(
    app: &App,
    permit: &Permit<ReadTenant>,
    id: OperationId,
) -> Result<impl Stream<Item = Result<wire::OperationEvent, ControlError>> + Send + use<>, ControlError> {
    // Subscribed before the first look, so that no change falls between.
    let nudges = app.store().hub().subscribe();
    show(app, permit, id).await?;
    let state = Watching { app: app.clone(), permit: permit.clone(), id, nudges, last: None, ended: false };
    Ok(futures_util::stream::unfold(state, |mut watching| async move {
        let event = watching.next().await.transpose()?;
        watching.ended |= event.is_err();
        Some((event, watching))
    }))
}

struct Watching {
    app: App,
    permit: Permit<ReadTenant>,
    id: OperationId,
    nudges: Receiver<Nudge>,
    last: Option<wire::Operation>,
    ended: bool,
}

impl Watching {
    async fn next(&mut self) -> Result<Option<wire::OperationEvent>, ControlError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if self.last.is_some() {
                self.changed().await;
            }
            let operation = show(&self.app, &self.permit, self.id).await?;
            if self.last.as_ref() == Some(&operation) {
                continue;
            }
            self.last = Some(operation.clone());
            self.ended = operation.state.is_final();
            let event = if self.ended { wire::OperationEventKind::Ended } else { wire::OperationEventKind::Changed };
            return Ok(Some(wire::OperationEvent { event, operation }));
        }
    }

    /// Returns when it may have changed.
    async fn changed(&mut self) {
        let heard = async {
            loop {
                match self.nudges.recv().await {
                    Ok(Nudge::Operation(id)) if id == self.id => return,
                    Ok(Nudge::Missed) | Err(RecvError::Lagged(_)) => return,
                    Ok(_) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        // The time limit is for a nudge that was lost; both are a reason to look.
        tokio::time::timeout(LOOK_EVERY, heard).await.ok();
    }
}

/// A stuck operation, or one that waits, is tried again now.
pub async fn retry(app: &App, permit: &Permit<Change>, id: OperationId) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let mut tx = app.store().begin().await?;
    let operation = Journal::retry(app.store(), &mut tx, id).await?;
    audited(&mut tx, permit, "operation.retry", &format!("operation/{id}"), None, Some(json!({ "operation": id })))
        .await?;
    tx.commit().await?;
    Ok(views::operation(operation, Vec::new()))
}

/// Given up: what was done is undone. `force` leaves the world as it is, for what cannot be undone any more.
pub async fn abandon(
    app: &App,
    permit: &Permit<Change>,
    id: OperationId,
    reason: Option<&str>,
    force: bool,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let mut tx = app.store().begin().await?;
    let (operation, _) = Journal::abandon(app.store(), &mut tx, id, force).await?;
    let after = json!({ "operation": id, "reason": reason, "force": force });
    audited(&mut tx, permit, "operation.abandon", &format!("operation/{id}"), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(operation, Vec::new()))
}

/// What the transaction that starts an operation has done for it already.
pub(crate) enum Begun {
    /// Rows that its first steps stand for, by their names and inputs: recorded as done in this very transaction, so
    /// that they are undone even if the operation is given up before it ran at all.
    Reserved(Vec<(&'static str, Value)>),
    /// Something that is not taken back: the operation is past its point of no return from the start.
    ForGood,
    /// Nothing: it may be given up without a trace.
    Nothing,
}

/// Starts an operation within the caller's transaction: it exists exactly if the caller's own change does.
pub(crate) async fn start(app: &App, tx: &mut Tx, new: NewOperation, begun: Begun) -> Result<Operation, ControlError> {
    let mut operation = app.store().start(tx, new).await?;
    let reserved = match begun {
        Begun::Reserved(steps) => steps,
        Begun::ForGood => {
            operation.no_return = Some(0);
            app.store().save(tx, &operation).await?;
            Vec::new()
        }
        Begun::Nothing => Vec::new(),
    };
    for (seq, (name, input)) in (0..).zip(reserved) {
        let done = StepRecord {
            seq,
            name: name.to_owned(),
            input,
            state: StepState::Done,
            output: Some(Value::Null),
            error: None,
            attempts: 0,
            started_at: operation.created_at,
            updated_at: operation.created_at,
        };
        app.store().save_step(tx, operation.id, &done).await?;
    }
    Ok(operation)
}

/// The unfinished operation of one kind that works on this.
pub(crate) async fn open_of(app: &App, workflow: &str, subject: &str) -> Result<Option<Operation>, ControlError> {
    let (workflow, subject) = (Some(workflow.to_owned()), Some(subject.to_owned()));
    let filter = Filter { states: OPEN.to_vec(), workflow, subject, limit: 1, ..Filter::default() };
    Ok(app.store().list(&filter).await?.into_iter().next())
}

/// One that a row or a lock has named: it is there.
pub(crate) async fn known(app: &App, id: OperationId) -> Result<Operation, ControlError> {
    Ok(app.store().show(id).await?.ok_or(ControlError::NoOperation(id))?.0)
}

/// The operation that works on this now.
pub(crate) async fn open_operation(app: &App, subject: &str) -> Result<Option<OperationId>, ControlError> {
    let filter = Filter { states: OPEN.to_vec(), subject: Some(subject.to_owned()), limit: 1, ..Filter::default() };
    Ok(app.store().list(&filter).await?.first().map(|operation| operation.id))
}
