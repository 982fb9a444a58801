//! `/operations` and `/operations/{id}`: everything that Berth did or is doing, and a move as it happens.

use super::{
    erasures::{self, ErasureRow},
    failure::{Failure, html},
    session::{Change, Session},
    shown::{Frame, State, When, bytes, count, millis, operation_state, or_unknown, seconds, short, title, words},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{OperationId, OperationState};
use berth_wire::{Abandon, Fault, Move, Operation, StepState};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

/// How far back a list goes.
const SHOWN: usize = 100;

pub struct OperationRow {
    pub id: String,
    pub short: String,
    pub what: String,
    pub tenant: Option<String>,
    pub cell: Option<String>,
    pub state: State,
    /// Where it stands, or why it stands there.
    pub now: String,
    pub begun: When,
}

impl OperationRow {
    pub fn new(operation: &Operation, now: Timestamp) -> Self {
        let phase = operation.progress.as_ref().map(|progress| words(&progress.phase));
        let fault = operation.fault.as_ref().map(|fault| fault.detail.clone());
        let result = operation.result.as_ref().and_then(|result| result.summary.clone());
        Self {
            id: operation.id.to_string(),
            short: short(operation.id),
            what: words(&operation.kind),
            tenant: operation.tenant.as_ref().map(ToString::to_string),
            cell: operation.cell.as_ref().map(ToString::to_string),
            state: operation_state(operation.state),
            now: fault.or(result).or(phase).unwrap_or_default(),
            begun: When::new(operation.created_at, now),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/operations.html")]
struct OperationsPage {
    frame: Frame,
    open_only: bool,
    rows: Vec<OperationRow>,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    #[serde(default)]
    open: bool,
}

/// `GET /operations`
pub async fn list(session: Session, Query(filter): Query<Filter>) -> Result<Response, Failure> {
    let path = if filter.open { "/v1/operations?open=true" } else { "/v1/operations" };
    let operations: Vec<Operation> = session.list(path, SHOWN).await?;
    let now = Timestamp::now();
    html(&OperationsPage {
        frame: Frame::of(&session, "operations"),
        open_only: filter.open,
        rows: operations.iter().map(|operation| OperationRow::new(operation, now)).collect(),
    })
}

/// The part of the page that changes while one looks at it.
#[derive(Template)]
#[template(path = "pages/operation_live.html")]
pub struct LivePart {
    state: State,
    phase: Option<String>,
    /// `412 000 of 1 000 000 rows, 210 000 rows/s, 3 s left`.
    pace: Vec<String>,
    /// Rows done of rows in all, for the bar.
    bar: Option<(u64, u64)>,
    steps: Vec<StepRow>,
    undo: &'static str,
    fault: Option<Fault>,
    summary: Option<String>,
    figures: Vec<(String, String)>,
    /// What was erased, where that was done.
    erasure: Option<ErasureRow>,
}

struct StepRow {
    name: String,
    state: State,
    took: String,
    attempts: u32,
    fault: Option<String>,
}

impl LivePart {
    /// `its_move`: figures of the move that this operation carries out, as far as they are known.
    pub fn new(operation: &Operation, its_move: Option<&Move>, now: Timestamp) -> Self {
        let progress = operation.progress.clone().filter(|_| !operation.state.is_final());
        let mut pace = Vec::new();
        let mut bar = None;
        if let Some(progress) = &progress {
            match (progress.rows_done, progress.rows_total) {
                (Some(done), Some(total)) => {
                    pace.push(format!("{} of {} rows", count(done), count(total)));
                    bar = (total > 0).then_some((done.min(total), total));
                }
                (Some(done), None) => pace.push(format!("{} rows", count(done))),
                _ => {}
            }
            pace.extend(progress.bytes_done.map(bytes));
            pace.extend(progress.rows_per_s.map(|rate| format!("{} rows/s", count(rate as u64))));
            pace.extend(progress.lag_bytes.map(|lag| format!("{} behind", bytes(lag))));
            pace.extend(progress.remaining_s.map(|left| format!("{} left", seconds(left))));
        }
        let mut figures = its_move.map(move_figures).unwrap_or_default();
        if let (Some(result), true) = (&operation.result, figures.is_empty()) {
            let others = result.figures.iter().filter(|(name, _)| name.as_str() != erasures::FIGURE);
            figures.extend(others.map(|(name, value)| (words(name), plain(value))));
        }
        Self {
            state: operation_state(operation.state),
            phase: progress.map(|progress| words(&progress.phase)).filter(|phase| !phase.is_empty()),
            pace,
            bar,
            steps: operation.steps.iter().map(|step| step_row(step, now)).collect(),
            undo: undo(operation),
            fault: operation.fault.clone(),
            summary: operation.result.as_ref().and_then(|result| result.summary.clone()),
            figures,
            erasure: ErasureRow::of_result(operation, now),
        }
    }
}

fn undo(operation: &Operation) -> &'static str {
    match (operation.state, operation.past_return) {
        (OperationState::Succeeded, _) => "Done.",
        (OperationState::Failed, _) => "Undone: everything is as it was before.",
        (OperationState::Abandoned, _) => "Given up by a person; what it had done was left as it was.",
        (OperationState::Undoing, _) => "What was done is being undone.",
        (_, true) => "Past the point of no return: it will be finished, not undone.",
        (_, false) => "Up to here everything can still be undone.",
    }
}

fn step_row(step: &berth_wire::StepView, now: Timestamp) -> StepRow {
    let state = match step.state {
        StepState::Running => super::shown::state("running", "busy"),
        StepState::Done => super::shown::state("done", "good"),
        StepState::Failed => super::shown::state("failed", "bad"),
        StepState::Undoing => super::shown::state("undoing", "busy"),
        StepState::Undone => super::shown::state("undone", "off"),
    };
    let took = step.ended_at.unwrap_or(now).as_millisecond() - step.started_at.as_millisecond();
    StepRow {
        name: words(&step.name),
        state,
        took: seconds(took.max(0) as f64 / 1000.0),
        attempts: step.attempts,
        fault: step.fault.clone(),
    }
}

fn move_figures(it: &Move) -> Vec<(String, String)> {
    let figures = [
        ("rows", or_unknown(it.rows, count)),
        ("verified rows", or_unknown(it.rows_verified, count)),
        ("size", or_unknown(it.bytes, bytes)),
        ("duration", or_unknown(it.duration_s, seconds)),
        ("rows per second", or_unknown(it.rows_per_s, |rate| count(rate as u64))),
        ("write pause, by the edge's clock", or_unknown(it.pause_ms, millis)),
        ("requests held", or_unknown(it.held_requests, count)),
    ];
    figures.map(|(name, value)| (name.to_owned(), value)).into()
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[derive(Template)]
#[template(path = "pages/operation.html")]
struct OperationPage {
    frame: Frame,
    id: String,
    what: String,
    tenant: Option<String>,
    cell: Option<String>,
    route: Option<(String, String)>,
    asked_by: String,
    begun: When,
    ended: Option<When>,
    /// Still changing: follow it.
    live: bool,
    may_retry: bool,
    may_abandon: bool,
    part: LivePart,
}

/// `GET /operations/{operation}`
pub async fn one(session: Session, Path(operation): Path<OperationId>) -> Result<Response, Failure> {
    let operation: Operation = session.get(&format!("/v1/operations/{operation}")).await?;
    let its_move = its_move(&session, &operation).await?;
    let now = Timestamp::now();
    let open = !operation.state.is_final();
    html(&OperationPage {
        frame: Frame::of(&session, "operations"),
        id: operation.id.to_string(),
        what: title(&operation.kind),
        tenant: operation.tenant.as_ref().map(ToString::to_string),
        cell: operation.cell.as_ref().map(ToString::to_string),
        route: its_move.as_ref().map(|it| (it.from.to_string(), it.to.to_string())),
        asked_by: operation.asked_by.clone().unwrap_or_else(|| "Berth itself".to_owned()),
        begun: When::new(operation.created_at, now),
        ended: operation.ended_at.map(|at| When::new(at, now)),
        live: open && operation.state != OperationState::Stuck,
        may_retry: matches!(operation.state, OperationState::Stuck | OperationState::Queued)
            && operation.fault.is_some(),
        may_abandon: operation.state == OperationState::Stuck,
        part: LivePart::new(&operation, its_move.as_ref(), now),
    })
}

/// The move that an operation carries out, if it is one.
pub async fn its_move(session: &Session, operation: &Operation) -> Result<Option<Move>, Failure> {
    let moves = matches!(operation.kind.as_str(), "move_tenant" | "undo_move");
    let Some(tenant) = operation.tenant.as_ref().filter(|_| moves) else {
        return Ok(None);
    };
    let moves: Vec<Move> = session.list(&format!("/v1/moves?tenant={tenant}"), SHOWN).await?;
    Ok(moves.into_iter().find(|it| it.operation == operation.id))
}

/// `POST /operations/{operation}/{change}`: `retry` or `abandon`.
pub async fn change(Path((operation, verb)): Path<(OperationId, String)>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/operations/{operation}/{verb}");
    let session = &change.session;
    let _: Operation = match verb.as_str() {
        "retry" => session.send(Method::POST, &path, &json!({}), &change.once()).await?,
        "abandon" => {
            let body = Abandon { reason: change.field("reason").map(str::to_owned), ..Abandon::default() };
            session.send(Method::POST, &path, &body, &change.once()).await?
        }
        _ => return Err(Failure::NotThere),
    };
    Ok(Redirect::to(&format!("/operations/{operation}")).into_response())
}
