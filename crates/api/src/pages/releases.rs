//! `/releases` and `/releases/{n}`: what runs where, how far the last release is, and what its migrations wrote; a release
//! made, rolled to all cells or some, and taken back, each with its plan before.

use super::{
    failure::{Failure, html},
    session::{Change, Session, once},
    shown::{Frame, State, When, state},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{CellName, RollCellState, RollState};
use berth_wire::{
    BackAsk, Cell, Page, Registry, Release, ReleaseCreate, ReleaseShown, ReleaseStatus, Roll, RollAsk, RollCell,
    RollPlan,
};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

const SHOWN: usize = 2000;
/// Of a box in a form, before the cell's name.
const ONLY: &str = "only-";

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

/// A cell and what it runs.
struct Runs {
    cell: String,
    release: String,
    /// The first letters of its schema's fingerprint: equal where the schemas are.
    schema: String,
}

#[derive(Template)]
#[template(path = "pages/releases.html")]
struct ReleasesPage {
    frame: Frame,
    current: String,
    roll: Option<RollShown>,
    runs: Vec<Runs>,
    rows: Vec<ReleaseRow>,
    /// Host, account, and who said it when. Never a password: the API tells none.
    registries: Vec<(String, String, String, When)>,
}

/// `GET /releases`
pub async fn list(session: Session) -> Result<Response, Failure> {
    let all: Page<Release> = session.get("/v1/releases").await?;
    let status: ReleaseStatus = session.get("/v1/rollout").await?;
    let registries: Page<Registry> = session.get("/v1/registries").await.unwrap_or_else(|_| Page::whole(Vec::new()));
    let now = Timestamp::now();
    let fingerprint = |text: &String| text.chars().take(8).collect::<String>();
    html(&ReleasesPage {
        frame: Frame::of(&session, "releases"),
        current: said(status.current),
        roll: status.roll.as_ref().map(|roll| RollShown::new(roll, now)),
        runs: status
            .cells
            .iter()
            .map(|it| Runs {
                cell: it.cell.to_string(),
                release: said(it.release),
                schema: it.schema.as_ref().map_or_else(|| "?".to_owned(), fingerprint),
            })
            .collect(),
        rows: all.items.iter().map(|release| ReleaseRow::new(release, now)).collect(),
        registries: registries
            .items
            .into_iter()
            .map(|it| (it.host, it.user, it.changed_by, When::new(it.changed_at, now)))
            .collect(),
    })
}

#[derive(Template)]
#[template(path = "pages/release_new.html")]
struct NewPage {
    frame: Frame,
    /// That cells run now: a release names some or all of them.
    services: Vec<String>,
    /// What the present release says of them, one a line.
    present: String,
}

/// `GET /releases/new`
pub async fn new(session: Session) -> Result<Response, Failure> {
    let cells: Vec<Cell> = session.list("/v1/cells", SHOWN).await?;
    let all: Page<Release> = session.get("/v1/releases").await?;
    let services: BTreeSet<String> =
        cells.iter().flat_map(|cell| &cell.members).map(|member| member.service.to_string()).collect();
    let present = all.items.iter().filter(|release| release.current).flat_map(|release| &release.services);
    html(&NewPage {
        frame: Frame::of(&session, "releases"),
        services: services.into_iter().collect(),
        present: present.map(|(name, artifact)| format!("{name}={artifact}\n")).collect::<Vec<_>>().concat(),
    })
}

/// `POST /releases`: the page of the release, which says what a roll would do. What is no digest `/v1` refuses, with the reason.
pub async fn create(change: Change) -> Result<Response, Failure> {
    let lines = change.whole("services").lines().map(str::trim).filter(|line| !line.is_empty());
    let mut services = BTreeMap::new();
    for line in lines {
        let wrong = |why: String| Failure::Field {
            detail: format!("`{line}`: {why}"),
            hint: "write SERVICE=NAME@sha256:…, a line each".to_owned(),
        };
        let (service, artifact) = line.split_once('=').ok_or_else(|| wrong("there is no `=` in it".to_owned()))?;
        let (service, artifact) = (service.trim().to_owned(), artifact.trim().to_owned());
        if services.insert(service.clone(), artifact).is_some() {
            return Err(wrong(format!("`{service}` is named twice")));
        }
    }
    let made: Release =
        change.session.send(Method::POST, "/v1/releases", &ReleaseCreate { services }, &change.once()).await?;
    Ok(Redirect::to(&format!("/releases/{}", made.number)).into_response())
}

/// What a roll or a way back would do.
struct PlanShown {
    waves: Vec<String>,
    notes: Vec<String>,
}

impl PlanShown {
    fn new(plan: &RollPlan) -> Self {
        let cell = |cell: &berth_wire::PlannedCell| {
            format!("{} ({} now, then {})", cell.cell, said(cell.before), said(cell.gets.unwrap_or(plan.release)))
        };
        let wave = |wave: &Vec<berth_wire::PlannedCell>| wave.iter().map(cell).collect::<Vec<_>>().join(", ");
        let mut notes = Vec::new();
        if let Some(pause) = plan.pause_ms.filter(|_| plan.waves.len() > 1) {
            notes.push(format!("{} between waves", super::shown::seconds(pause as f64 / 1000.0)));
        }
        notes.extend(plan.left_out.iter().map(|it| format!("cell {} is left out: {}", it.cell, it.why)));
        Self { waves: plan.waves.iter().map(wave).collect(), notes }
    }
}

#[derive(Template)]
#[template(path = "pages/release.html")]
struct ReleasePage {
    frame: Frame,
    row: ReleaseRow,
    plan: PlanShown,
    /// That would get it: each can be asked for alone.
    cells: Vec<String>,
    rolls: Vec<RollShown>,
}

/// `GET /releases/{number}`
pub async fn one(session: Session, Path(number): Path<u32>) -> Result<Response, Failure> {
    let found: ReleaseShown = session.get(&format!("/v1/releases/{number}")).await?;
    let ask = RollAsk { release: number, to: Vec::new() };
    let plan: RollPlan = session.send(Method::POST, "/v1/rollout/plan", &ask, &once()).await?;
    let now = Timestamp::now();
    html(&ReleasePage {
        frame: Frame::of(&session, "releases"),
        row: ReleaseRow::new(&found.release, now),
        plan: PlanShown::new(&plan),
        cells: plan.waves.iter().flatten().map(|it| it.cell.to_string()).collect(),
        rolls: found.rolls.iter().map(|roll| RollShown::new(roll, now)).collect(),
    })
}

/// `POST /releases/{number}/roll`: to the cells whose box is ticked, or to all.
pub async fn roll(Path(number): Path<u32>, change: Change) -> Result<Response, Failure> {
    let only = change.named(ONLY).map(|cell| {
        cell.parse::<CellName>().map_err(|_| Failure::Field {
            detail: format!("`{cell}` is no cell"),
            hint: "choose cells of the list".to_owned(),
        })
    });
    let ask = RollAsk { release: number, to: only.collect::<Result<_, _>>()? };
    let _: Roll = change.session.send(Method::POST, "/v1/rollout", &ask, &change.once()).await?;
    Ok(Redirect::to("/releases").into_response())
}

/// Where to, as a form says it: empty for what ran before.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackTo {
    to: String,
}

fn back_to(text: &str) -> Result<BackAsk, Failure> {
    let to = match text.trim() {
        "" => None,
        number => Some(number.parse::<u32>().map_err(|_| Failure::Field {
            detail: format!("`{number}` is no release"),
            hint: "choose one of the list".to_owned(),
        })?),
    };
    Ok(BackAsk { to })
}

#[derive(Template)]
#[template(path = "pages/release_back.html")]
struct BackPage {
    frame: Frame,
    to: String,
    plan: PlanShown,
    /// Others to go back to: number and name.
    others: Vec<(u32, String)>,
}

/// `GET /releases/back?to=`: which cells would get what. Changes nothing.
pub async fn ask_back(session: Session, Query(wanted): Query<BackTo>) -> Result<Response, Failure> {
    let ask = back_to(&wanted.to)?;
    let plan: RollPlan = session.send(Method::POST, "/v1/rollout/back/plan", &ask, &once()).await?;
    let all: Page<Release> = session.get("/v1/releases").await?;
    html(&BackPage {
        frame: Frame::of(&session, "releases"),
        to: wanted.to.trim().to_owned(),
        plan: PlanShown::new(&plan),
        others: all.items.iter().map(|it| it.number).chain([0]).map(|number| (number, said(number))).collect(),
    })
}

/// `POST /releases/back`
pub async fn back(change: Change) -> Result<Response, Failure> {
    let ask = back_to(change.field("to").unwrap_or_default())?;
    let _: Roll = change.session.send(Method::POST, "/v1/rollout/back", &ask, &change.once()).await?;
    Ok(Redirect::to("/releases").into_response())
}
