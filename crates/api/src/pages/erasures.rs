//! `/erasures` and `/tenants/{tenant}/erase`: what an erasure would take away, the name that has to be typed in for it, and
//! the documents of those that were: what went where, what was kept and why. Never anything personal: the documents hold
//! ids and numbers.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session, once},
    shown::{Frame, When, count},
    tenants::{follow, named_again},
};
use askama::Template;
use axum::{extract::Path, http::Method, response::Response};
use berth_wire::{Erasure, Operation, Page, Tenant};
use jiff::Timestamp;
use serde_json::json;

pub struct ErasureRow {
    tenant: String,
    operation: Option<String>,
    at: Option<When>,
    /// How many of what, where.
    pub erased: Vec<(String, String, String)>,
    pub kept: Vec<(String, String)>,
}

impl ErasureRow {
    pub fn new(erasure: &Erasure, now: Timestamp) -> Self {
        Self {
            tenant: erasure.tenant.to_string(),
            operation: erasure.operation.map(|id| id.to_string()),
            at: erasure.at.map(|at| When::new(at, now)),
            erased: erasure.erased.iter().map(|it| (count(it.many), it.what.clone(), it.place.clone())).collect(),
            kept: erasure.kept.iter().map(|it| (it.what.clone(), it.why.clone())).collect(),
        }
    }

    /// The document that an erasure ends with.
    pub fn of_result(operation: &Operation, now: Timestamp) -> Option<Self> {
        let document = operation.result.as_ref()?.figures.get(FIGURE)?;
        let erasure: Erasure = serde_json::from_value(document.clone()).ok()?;
        Some(Self::new(&erasure, now))
    }
}

/// As the operation's result calls it.
pub const FIGURE: &str = "erasure";

#[derive(Template)]
#[template(path = "pages/erasures.html")]
struct ErasuresPage {
    frame: Frame,
    rows: Vec<ErasureRow>,
}

/// `GET /erasures`
pub async fn page(session: Session) -> Result<Response, Failure> {
    let all: Page<Erasure> = session.get("/v1/erasures").await?;
    let now = Timestamp::now();
    let rows = all.items.iter().map(|erasure| ErasureRow::new(erasure, now)).collect();
    html(&ErasuresPage { frame: Frame::of(&session, "tenants"), rows })
}

#[derive(Template)]
#[template(path = "pages/erase.html")]
struct ErasePage {
    frame: Frame,
    name: String,
    row: ErasureRow,
}

/// `GET /tenants/{tenant}/erase`: what would go, and what would not. Changes nothing.
pub async fn ask(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}", escaped(&name));
    let tenant: Tenant = session.get(&path).await?;
    let plan: Erasure = session.send(Method::POST, &format!("{path}/plan-erase"), &json!({}), &once()).await?;
    html(&ErasePage {
        frame: Frame::of(&session, "tenants"),
        name: tenant.name.to_string(),
        row: ErasureRow::new(&plan, Timestamp::now()),
    })
}

/// `POST /tenants/{tenant}/erase`: follows the operation, which ends with its document.
pub async fn erase(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    named_again(&change, &name)?;
    let path = format!("/v1/tenants/{}/erase", escaped(&name));
    let operation: Operation = change.session.send(Method::POST, &path, &json!({}), &change.once()).await?;
    Ok(follow(&operation))
}
