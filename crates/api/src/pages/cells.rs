//! `/cells` and `/cells/{cell}`: fill, health, price, tenants; drain and remove.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, State, When, bytes, cell_state, member_state, money, or_unknown, tenant_state},
    tenants::{AskPage, follow},
};
use askama::Template;
use axum::{
    extract::Path,
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{CellState, MemberState, ServiceRole};
use berth_wire::{Cell, Operation, Page, Registry, Tenant};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeSet;

const SHOWN: usize = 2000;
/// How many of a member's last lines a page shows.
const LOG_LINES: usize = 40;
/// Of a verb that names a service, as in `restart-web`.
const RESTART: &str = "restart-";

struct CellRow {
    name: String,
    class: &'static str,
    state: State,
    home: String,
    tenants: u32,
    max_tenants: u32,
    health: State,
    price: String,
}

#[derive(Template)]
#[template(path = "pages/cells.html")]
struct CellsPage {
    frame: Frame,
    rows: Vec<CellRow>,
}

/// `GET /cells`
pub async fn list(session: Session) -> Result<Response, Failure> {
    let cells: Vec<Cell> = session.list("/v1/cells", SHOWN).await?;
    let rows = cells.iter().map(row).collect();
    html(&CellsPage { frame: Frame::of(&session, "cells"), rows })
}

fn row(cell: &Cell) -> CellRow {
    CellRow {
        name: cell.name.to_string(),
        class: cell.class.as_str(),
        state: cell_state(cell.state),
        home: home(cell),
        tenants: cell.tenants,
        max_tenants: cell.max_tenants,
        health: health(cell),
        price: or_unknown(cell.price_cents, money),
    }
}

fn home(cell: &Cell) -> String {
    match &cell.region {
        Some(region) => format!("{}, {region}", cell.provider),
        None => cell.provider.to_string(),
    }
}

/// The worst of its members.
fn health(cell: &Cell) -> State {
    let worst = [MemberState::Unhealthy, MemberState::Stopped, MemberState::Unknown, MemberState::Starting]
        .into_iter()
        .find(|state| cell.members.iter().any(|member| member.state == *state));
    match (worst, cell.members.is_empty()) {
        (_, true) => member_state(MemberState::Unknown),
        (Some(state), _) => member_state(state),
        (None, _) => member_state(MemberState::Healthy),
    }
}

struct MemberRow {
    service: String,
    role: String,
    state: State,
    address: String,
    in_the_open: bool,
    seen: Option<When>,
    cpu: String,
    memory: String,
    /// Where it is drained: only members that take requests are.
    drain: Option<String>,
}

struct FigureRow {
    what: String,
    /// `?` where only a claim is known, or only a figure.
    figure: String,
    claimed: String,
    of: String,
    samples: Option<u32>,
    at: Option<When>,
}

/// What was measured beside what somebody claims of such a place.
fn figures(cell: &Cell, now: Timestamp) -> Vec<FigureRow> {
    let with_unit = |value: f64, unit: &str| format!("{value} {}", unit.replace("_per_", "/"));
    let claim = |what: &str| cell.claimed.iter().find(|claim| claim.what == what);
    let measured = cell.measured.iter().map(|figure| {
        let claim = claim(&figure.what);
        FigureRow {
            what: figure.what.replace('_', " "),
            figure: with_unit(figure.value, &figure.unit),
            claimed: or_unknown(claim, |claim| with_unit(claim.value, &claim.unit)),
            of: claim.map(|claim| claim.of.clone()).unwrap_or_default(),
            samples: Some(figure.samples),
            at: Some(When::new(figure.at, now)),
        }
    });
    let only = cell.claimed.iter().filter(|claim| cell.measured.iter().all(|figure| figure.what != claim.what));
    let only = only.map(|claim| FigureRow {
        what: claim.what.replace('_', " "),
        figure: "?".to_owned(),
        claimed: with_unit(claim.value, &claim.unit),
        of: claim.of.clone(),
        samples: None,
        at: None,
    });
    measured.chain(only).collect()
}

#[derive(Template)]
#[template(path = "pages/cell.html")]
struct CellPage {
    frame: Frame,
    cell: CellRow,
    database: String,
    created: When,
    operation: Option<String>,
    members: Vec<MemberRow>,
    /// Those that can be restarted here.
    services: Vec<String>,
    figures: Vec<FigureRow>,
    measured: bool,
    may_measure: bool,
    tenants: Vec<(String, String, State)>,
    /// Members' last lines; empty when this key may not read them or there are none.
    logs: Vec<String>,
    /// Hosts of registries whose images may be pulled here with an account. Names alone.
    registries: Vec<String>,
    may_drain: bool,
    may_undrain: bool,
    may_remove: bool,
}

/// `GET /cells/{cell}`
pub async fn one(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let path = format!("/v1/cells/{}", escaped(&name));
    let cell: Cell = session.get(&path).await?;
    let tenants: Vec<Tenant> = session.list("/v1/tenants", SHOWN).await?;
    let logs: Page<berth_wire::LogLine> =
        session.get(&format!("{path}/logs?last={LOG_LINES}")).await.unwrap_or(Page::whole(Vec::new()));
    let registries: Page<Registry> = session.get("/v1/registries").await.unwrap_or(Page::whole(Vec::new()));
    let now = Timestamp::now();
    let members = cell.members.iter().map(|member| MemberRow {
        service: member.service.to_string(),
        role: format!("{}, {}", member.service_role, member.role),
        state: member_state(member.state),
        address: member.address.clone().unwrap_or_else(|| "?".to_owned()),
        in_the_open: member.in_the_open,
        seen: member.seen_at.map(|at| When::new(at, now)),
        cpu: or_unknown(member.cpu_percent, |percent| format!("{percent:.0}\u{a0}%")),
        memory: or_unknown(member.memory_bytes, bytes),
        drain: (member.service_role == ServiceRole::Web)
            .then(|| format!("/drains/member/{}:{}/begin", cell.name, member.id)),
    });
    let here = tenants.iter().filter(|tenant| tenant.cell.as_ref() == Some(&cell.name));
    html(&CellPage {
        frame: Frame::of(&session, "cells"),
        database: or_unknown(cell.database_bytes, bytes),
        created: When::new(cell.created_at, now),
        operation: cell.operation.map(|id| id.to_string()),
        members: members.collect(),
        services: services(&cell),
        figures: figures(&cell, now),
        measured: !cell.measured.is_empty(),
        may_measure: matches!(cell.state, CellState::Ready | CellState::Draining),
        tenants: here.map(|it| (it.name.to_string(), it.plan.to_string(), tenant_state(it.state))).collect(),
        logs: logs.items.into_iter().map(|line| format!("{}  {}", line.service, line.line)).collect(),
        registries: registries.items.into_iter().map(|it| it.host).collect(),
        may_drain: cell.state == CellState::Ready,
        may_undrain: cell.state == CellState::Draining,
        may_remove: cell.tenants == 0
            && matches!(cell.state, CellState::Ready | CellState::Draining | CellState::Failed),
        cell: row(&cell),
    })
}

/// By name. None where somebody else runs them or the cell is made or removed.
fn services(cell: &Cell) -> Vec<String> {
    if !matches!(cell.state, CellState::Ready | CellState::Draining) {
        return Vec::new();
    }
    let names: BTreeSet<String> = cell.members.iter().map(|member| member.service.to_string()).collect();
    names.into_iter().collect()
}

/// `GET /cells/{cell}/{change}`: says what would happen, and asks.
pub async fn ask(session: Session, Path((name, verb)): Path<(String, String)>) -> Result<Response, Failure> {
    let (what_happens, button) = match verb.as_str() {
        "drain" => ("It takes no new tenants. Those that live here stay and are served until they are moved.", "Drain"),
        "undrain" => ("It takes new tenants again.", "Open"),
        "measure" => (
            "Its members, queries, writes and ways in and out are measured. Its tenants share it with that for some seconds.",
            "Measure",
        ),
        "remove" => {
            ("Its processes end and its database is deleted. It must be empty; this cannot be undone.", "Remove")
        }
        other if other.starts_with(RESTART) => (
            "Its members are ended and started again, one by one behind their health path. Where they take requests, one more copy \
             serves beside them meanwhile: nobody outside notices.",
            "Restart",
        ),
        _ => return Err(Failure::NotThere),
    };
    let cell: Cell = session.get(&format!("/v1/cells/{}", escaped(&name))).await?;
    let title = match verb.strip_prefix(RESTART) {
        Some(service) if services(&cell).iter().any(|known| known == service) => {
            format!("Restart {service} of cell {}?", cell.name)
        }
        Some(_) => return Err(Failure::NotThere),
        None => format!("{button} cell {}?", cell.name),
    };
    html(&AskPage {
        frame: Frame::of(&session, "cells"),
        title,
        what_happens,
        action: format!("/cells/{}/{verb}", cell.name),
        button,
        dangerous: verb == "remove",
        typed: None,
        back: format!("/cells/{}", cell.name),
    })
}

/// `POST /cells/{cell}/{change}`
pub async fn change(Path((name, verb)): Path<(String, String)>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/cells/{}", escaped(&name));
    let once = change.once();
    match verb.as_str() {
        "drain" | "undrain" => {
            let method = if verb == "drain" { Method::POST } else { Method::DELETE };
            let cell: Cell = change.session.send(method, &format!("{path}/drain"), &json!({}), &once).await?;
            Ok(Redirect::to(&format!("/cells/{}", cell.name)).into_response())
        }
        "measure" => {
            let operation: Operation =
                change.session.send(Method::POST, &format!("{path}/measure"), &json!({}), &once).await?;
            Ok(follow(&operation))
        }
        "remove" => {
            let operation: Operation = change.session.send(Method::DELETE, &path, &json!({}), &once).await?;
            Ok(follow(&operation))
        }
        other => {
            let service = other.strip_prefix(RESTART).ok_or(Failure::NotThere)?;
            let path = format!("{path}/services/{}/restart", escaped(service));
            let operation: Operation = change.session.send(Method::POST, &path, &json!({}), &once).await?;
            Ok(follow(&operation))
        }
    }
}
