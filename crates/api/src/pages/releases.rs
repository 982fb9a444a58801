//! `/releases` and `/releases/{n}`: what runs where, how far the last release is, and what its migrations wrote.

use super::{
    failure::{Failure, html},
    session::{Change, Session, once},
    shown::{Frame, State, When, state},
};
use askama::Template;
use axum::{
    extract::Path,
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{RollCellState, RollState};
use berth_wire::{BackAsk, Page, PlannedCell, Release, ReleaseShown, ReleaseStatus, Roll, RollAsk, RollCell, RollPlan};
use jiff::Timestamp;

fn said(release: u32) -> String {
    if release == 0 { "stack file".to_owned() } else { format!("r{release}") }
}

struct ReleaseRow {
    number: u32,
    current: bool,
    services: Vec<(String, String)>,
    cells: String,
    by: String,
    made: When,
}

impl ReleaseRow {
    fn new(release: &Release, now: Timestamp) -> Self {
        Self {
            number: release.number,
            current: release.current,
            services: release.services.iter().map(|(name, it)| (name.to_string(), it.clone())).collect(),
            cells: release.cells.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            by: release.created_by.clone(),
            made: When::new(release.created_at, now),
        }
    }
}

struct CellRow {
    wave: u32,
    cell: String,
    state: State,
    before: String,
    runs: String,
    why: String,
    operation: Option<String>,
    output: String,
}

impl CellRow {
    fn new(cell: &RollCell) -> Self {
        let look = match cell.state {
            RollCellState::Waiting => state("waits", "off"),
            RollCellState::Rolling => state("rolling", "busy"),
            RollCellState::Done => state("has it", "good"),
            RollCellState::Failed => state("failed", "bad"),
        };
        Self {
            wave: cell.wave,
            cell: cell.cell.to_string(),
            state: look,
            before: said(cell.before),
            runs: said(cell.release),
            why: cell.reason.clone().unwrap_or_default(),
            operation: cell.operation.map(|id| id.to_string()),
            output: cell.output.clone().unwrap_or_default(),
        }
    }
}

struct RollShown {
    what: String,
    state: State,
    rolling: bool,
    reason: String,
    next_wave: String,
    by: String,
    begun: When,
    cells: Vec<CellRow>,
}

impl RollShown {
    fn new(roll: &Roll, now: Timestamp) -> Self {
        let look = match roll.state {
            RollState::Rolling => state("rolling", "busy"),
            RollState::Done => state("done", "good"),
            RollState::Stopped => state("stopped", "bad"),
        };
        let way = if roll.back { "back to " } else { "" };
        Self {
            what: format!("{way}{}", said(roll.release)),
            state: look,
            rolling: roll.state == RollState::Rolling,
            reason: roll.reason.clone().unwrap_or_default(),
            next_wave: roll.next_wave_at.map(|at| at.strftime("%H:%M:%S UTC").to_string()).unwrap_or_default(),
            by: roll.asked_by.clone(),
            begun: When::new(roll.started_at, now),
            cells: roll.cells.iter().map(CellRow::new).collect(),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/releases.html")]
struct ReleasesPage {
    frame: Frame,
    current: String,
    roll: Option<RollShown>,
    rows: Vec<ReleaseRow>,
}

/// `GET /releases`
pub async fn list(session: Session) -> Result<Response, Failure> {
    let all: Page<Release> = session.get("/v1/releases").await?;
    let status: ReleaseStatus = session.get("/v1/rollout").await?;
    let now = Timestamp::now();
    html(&ReleasesPage {
        frame: Frame::of(&session, "releases"),
        current: said(status.current),
        roll: status.roll.as_ref().map(|roll| RollShown::new(roll, now)),
        rows: all.items.iter().map(|release| ReleaseRow::new(release, now)).collect(),
    })
}

#[derive(Template)]
#[template(path = "pages/release.html")]
struct ReleasePage {
    frame: Frame,
    row: ReleaseRow,
    /// What a roll would do now.
    waves: Vec<String>,
    rolls: Vec<RollShown>,
}

/// `GET /releases/{number}`
pub async fn one(session: Session, Path(number): Path<u32>) -> Result<Response, Failure> {
    let found: ReleaseShown = session.get(&format!("/v1/releases/{number}")).await?;
    let ask = RollAsk { release: number, to: Vec::new() };
    let plan: RollPlan = session.send(Method::POST, "/v1/rollout/plan", &ask, &once()).await?;
    let wave = |wave: &Vec<PlannedCell>| {
        let cells = wave.iter().map(|cell| format!("{} ({})", cell.cell, said(cell.before)));
        cells.collect::<Vec<_>>().join(", ")
    };
    let now = Timestamp::now();
    html(&ReleasePage {
        frame: Frame::of(&session, "releases"),
        row: ReleaseRow::new(&found.release, now),
        waves: plan.waves.iter().map(wave).collect(),
        rolls: found.rolls.iter().map(|roll| RollShown::new(roll, now)).collect(),
    })
}

/// `POST /releases/{number}/roll`
pub async fn roll(Path(number): Path<u32>, change: Change) -> Result<Response, Failure> {
    let ask = RollAsk { release: number, to: Vec::new() };
    let _: Roll = change.session.send(Method::POST, "/v1/rollout", &ask, &change.once()).await?;
    Ok(Redirect::to("/releases").into_response())
}

/// `POST /releases/back`
pub async fn back(change: Change) -> Result<Response, Failure> {
    let ask = BackAsk::default();
    let _: Roll = change.session.send(Method::POST, "/v1/rollout/back", &ask, &change.once()).await?;
    Ok(Redirect::to("/releases").into_response())
}
