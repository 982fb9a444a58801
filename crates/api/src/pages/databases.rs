//! `/cells/{cell}/database`: what a cell's database is busy with and what it keeps. `/cells/{cell}/abilities`: what it lets
//! Berth do, tried now. Each a page of its own, since each asks the database itself; and a try waits for transactions that
//! write, which whoever looks for one of these cannot.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::Session,
    shown::{Frame, State, bytes, count, or_unknown, seconds, state, title},
};
use askama::Template;
use axum::{extract::Path, response::Response};
use berth_wire::{CellAbilities, CellAbility, DatabaseStatement, DatabaseTop};

struct AbilityRow {
    what: String,
    can: State,
    means: String,
    /// Where it cannot: why, what follows, and what gives it.
    because: String,
    follows: String,
    remedy: String,
}

impl AbilityRow {
    fn new(ability: &CellAbility) -> Self {
        Self {
            what: title(&ability.ability),
            can: if ability.can { state("yes", "good") } else { state("no", "bad") },
            means: ability.means.clone(),
            because: ability.because.clone().unwrap_or_default(),
            follows: ability.without.clone().unwrap_or_default(),
            remedy: ability.remedy.clone().unwrap_or_default(),
        }
    }
}

struct StatementRow {
    pid: i32,
    role: String,
    application: String,
    state: String,
    age: String,
    waits: String,
    statement: String,
}

impl StatementRow {
    fn new(one: &DatabaseStatement) -> Self {
        let blocked: Vec<String> = one.blocked_by.iter().map(ToString::to_string).collect();
        Self {
            pid: one.pid,
            role: one.role.clone(),
            application: one.application.clone(),
            state: one.state.clone(),
            age: seconds(one.age_s),
            waits: if blocked.is_empty() {
                one.waits_for.clone().unwrap_or_default()
            } else {
                format!("locks of {}", blocked.join(", "))
            },
            statement: one.statement.clone(),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/database.html")]
struct DatabasePage {
    frame: Frame,
    cell: String,
    size: String,
    statements: Vec<StatementRow>,
    /// With size, rows and dead rows.
    tables: Vec<(String, String, String, String)>,
    /// Whether somebody reads it, and how much of the log it keeps.
    slots: Vec<(String, State, String)>,
}

impl DatabasePage {
    fn new(frame: Frame, top: &DatabaseTop) -> Self {
        Self {
            frame,
            cell: top.cell.to_string(),
            size: or_unknown(top.bytes, bytes),
            statements: top.statements.iter().map(StatementRow::new).collect(),
            tables: top
                .tables
                .iter()
                .map(|it| (it.table.clone(), bytes(it.bytes), count(it.rows), count(it.dead_rows)))
                .collect(),
            slots: top
                .slots
                .iter()
                .map(|it| {
                    let read = if it.read { state("read now", "good") } else { state("read by nobody", "busy") };
                    (it.slot.clone(), read, or_unknown(it.bytes, bytes))
                })
                .collect(),
        }
    }
}

/// `GET /cells/{cell}/database`. Changes nothing.
pub async fn busy(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let top: DatabaseTop = session.get(&format!("/v1/cells/{}/database/top", escaped(&name))).await?;
    html(&DatabasePage::new(Frame::of(&session, "cells"), &top))
}

#[derive(Template)]
#[template(path = "pages/abilities.html")]
struct AbilitiesPage {
    frame: Frame,
    cell: String,
    rows: Vec<AbilityRow>,
}

/// `GET /cells/{cell}/abilities`. Changes nothing: what is tried is taken back.
pub async fn abilities(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let tried: CellAbilities = session.get(&format!("/v1/cells/{}/abilities", escaped(&name))).await?;
    html(&AbilitiesPage {
        frame: Frame::of(&session, "cells"),
        cell: tried.cell.to_string(),
        rows: tried.items.iter().map(AbilityRow::new).collect(),
    })
}
