//! `/erasures`: tenants that were erased: what went where, what was kept and why. Never anything personal: the documents
//! hold ids and numbers.

use super::{
    failure::{Failure, html},
    session::Session,
    shown::{Frame, When, count},
};
use askama::Template;
use axum::response::Response;
use berth_wire::{Erasure, Page};
use jiff::Timestamp;

pub struct ErasureRow {
    tenant: String,
    operation: Option<String>,
    at: Option<When>,
    /// How many of what, where.
    erased: Vec<(String, String, String)>,
    kept: Vec<(String, String)>,
}

impl ErasureRow {
    fn new(erasure: &Erasure, now: Timestamp) -> Self {
        Self {
            tenant: erasure.tenant.to_string(),
            operation: erasure.operation.map(|id| id.to_string()),
            at: erasure.at.map(|at| When::new(at, now)),
            erased: erasure.erased.iter().map(|it| (count(it.many), it.what.clone(), it.place.clone())).collect(),
            kept: erasure.kept.iter().map(|it| (it.what.clone(), it.why.clone())).collect(),
        }
    }
}

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
