//! `/cells/{cell}/maintain`: what its database needs and what lies about there, and the button that does the first.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, bytes, count, or_unknown},
    tenants::follow,
};
use askama::Template;
use axum::{extract::Path, http::Method, response::Response};
use berth_wire::{MaintainAsk, MaintainPlan, Operation};

struct TableRow {
    table: String,
    size: String,
    rows: String,
    dead: String,
    why: String,
}

#[derive(Template)]
#[template(path = "pages/maintain.html")]
struct MaintainPage {
    frame: Frame,
    cell: String,
    tables: Vec<TableRow>,
    /// With size and reason.
    indexes: Vec<(String, String, String)>,
    left_out: Vec<String>,
    /// What nobody needs or may need, and what takes it away, where that is sure.
    lies_about: Vec<(String, Option<String>)>,
}

/// `GET /cells/{cell}/maintain`
pub async fn page(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let path = format!("/v1/cells/{}/database/maintain/plan", escaped(&name));
    let ask = MaintainAsk { reindex: true };
    let plan: MaintainPlan = session.send(Method::POST, &path, &ask, &super::session::once()).await?;
    let slots = plan
        .slots
        .into_iter()
        .map(|it| (format!("slot {} keeps {}: {}", it.slot, or_unknown(it.bytes, bytes), it.why), it.remedy));
    let fences = plan.fences.into_iter().map(|it| (format!("fence of key {}: {}", it.key, it.why), None));
    html(&MaintainPage {
        frame: Frame::of(&session, "cells"),
        cell: plan.cell.to_string(),
        tables: plan
            .tables
            .into_iter()
            .map(|it| TableRow {
                table: it.table,
                size: bytes(it.bytes),
                rows: count(it.rows),
                dead: count(it.dead_rows),
                why: it.why,
            })
            .collect(),
        indexes: plan.indexes.into_iter().map(|it| (it.index, bytes(it.bytes), it.why)).collect(),
        left_out: plan.left_out,
        lies_about: slots.chain(fences).collect(),
    })
}

/// `POST /cells/{cell}/maintain`
pub async fn start(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/cells/{}/database/maintain", escaped(&name));
    let ask = MaintainAsk { reindex: change.field("reindex").is_some() };
    let operation: Operation = change.session.send(Method::POST, &path, &ask, &change.once()).await?;
    Ok(follow(&operation))
}
