//! `/cells/{cell}/sync`: the application's root table beside what Berth knows of a cell, and the button that takes in what it
//! does not know. Never deletes: a person decides about what is missing on one side.

use super::{
    failure::{Failure, html},
    session::{Change, Session, once},
    shown::Frame,
    tenants::typed,
};
use askama::Template;
use axum::{extract::Path, http::Method, response::Response};
use berth_domain::CellName;
use berth_wire::{PlanView, SyncReport, TenantSync};

const PLANS_MOST: usize = 500;

#[derive(Template)]
#[template(path = "pages/sync.html")]
struct SyncPage {
    frame: Frame,
    cell: String,
    /// Keys in the application that Berth did not know, each with the tenant that it is now, or why it is none.
    unknown_here: Vec<(String, Option<String>, Option<String>)>,
    /// Tenants of this cell, with keys that the application does not have.
    unknown_there: Vec<(String, String)>,
    /// How many were taken in just now.
    taken_in: Option<u32>,
    plans: Vec<String>,
}

/// `GET /cells/{cell}/sync`: compares, and changes nothing.
pub async fn page(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let wanted = TenantSync { cell: cell(&name)?, take_in: None };
    shown(&session, &wanted, &once()).await
}

/// `POST /cells/{cell}/sync`: takes in what is unknown, each where it is.
pub async fn take_in(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let wanted = TenantSync { cell: cell(&name)?, take_in: Some(typed(&change, "plan", "a plan of the list")?) };
    shown(&change.session, &wanted, &change.once()).await
}

fn cell(name: &str) -> Result<CellName, Failure> {
    name.parse().map_err(|_| Failure::NotThere)
}

async fn shown(session: &Session, wanted: &TenantSync, once: &str) -> Result<Response, Failure> {
    let found: SyncReport = session.send(Method::POST, "/v1/tenants/sync", wanted, once).await?;
    let plans: Vec<PlanView> = session.list("/v1/plans", PLANS_MOST).await?;
    let name = |tenant: &berth_wire::SyncTenant| tenant.name.as_ref().map(ToString::to_string);
    html(&SyncPage {
        frame: Frame::of(session, "cells"),
        cell: wanted.cell.to_string(),
        unknown_here: found.unknown_here.iter().map(|it| (it.key.to_string(), name(it), it.why.clone())).collect(),
        unknown_there: found
            .unknown_there
            .iter()
            .map(|it| (name(it).unwrap_or_else(|| "?".to_owned()), it.key.to_string()))
            .collect(),
        taken_in: wanted.take_in.as_ref().map(|_| found.taken_in),
        plans: plans.iter().map(|plan| plan.name.to_string()).collect(),
    })
}
