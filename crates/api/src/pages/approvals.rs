//! `/approvals` and `/approvals/{id}`: proposals that wait for a person, with what speaks for each, and the answer.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, State, When, money, state},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{ApprovalId, ApprovalState};
use berth_wire::{Approval, ApprovalPlace, ApprovalReject, Page};
use jiff::Timestamp;
use serde::Deserialize;

struct ApprovalRow {
    id: String,
    tenant: String,
    what: String,
    now: String,
    then: String,
    sure: String,
    why: String,
    state: State,
    made: When,
}

impl ApprovalRow {
    fn new(approval: &Approval, now: Timestamp) -> Self {
        Self {
            id: approval.id.to_string(),
            tenant: approval.tenant.to_string(),
            what: approval.direction.clone(),
            now: place(&approval.now),
            then: place(&approval.then),
            sure: format!("{:.0}\u{a0}%", approval.decision.confidence * 100.0),
            why: approval.because.first().cloned().unwrap_or_default(),
            state: approval_state(approval.state),
            made: When::new(approval.made_at, now),
        }
    }
}

fn place(place: &ApprovalPlace) -> String {
    let cell = place.cell.as_deref().unwrap_or("a new cell");
    format!("{} ({} a month), {cell}, {}", place.plan, money(place.price_cents), place.class)
}

const fn approval_state(it: ApprovalState) -> State {
    use ApprovalState as S;
    let look = match it {
        S::CarriedOut => "good",
        S::Open | S::Approved => "busy",
        S::Rejected | S::Expired | S::Superseded => "off",
        S::Failed => "bad",
    };
    let word = match it {
        S::CarriedOut => "carried out",
        other => other.as_str(),
    };
    state(word, look)
}

#[derive(Template)]
#[template(path = "pages/approvals.html")]
struct ApprovalsPage {
    frame: Frame,
    all: bool,
    rows: Vec<ApprovalRow>,
}

#[derive(Debug, Deserialize)]
pub struct Which {
    #[serde(default)]
    all: bool,
}

/// `GET /approvals?all=`
pub async fn list(session: Session, Query(which): Query<Which>) -> Result<Response, Failure> {
    let mut found: Vec<Approval> = Vec::new();
    // What is agreed to and not carried out yet waits too, and can be taken back.
    let paths: &[&str] =
        if which.all { &["/v1/approvals"] } else { &["/v1/approvals?state=open", "/v1/approvals?state=approved"] };
    for path in paths {
        found.extend(session.get::<Page<Approval>>(path).await?.items);
    }
    let now = Timestamp::now();
    html(&ApprovalsPage {
        frame: Frame::of(&session, "approvals"),
        all: which.all,
        rows: found.iter().map(|approval| ApprovalRow::new(approval, now)).collect(),
    })
}

#[derive(Template)]
#[template(path = "pages/approval.html")]
struct ApprovalPage {
    frame: Frame,
    row: ApprovalRow,
    because: Vec<String>,
    reasons: Vec<String>,
    difference: String,
    flip: String,
    open: bool,
    /// Agreed to, and not carried out yet.
    agreed: bool,
    ends: String,
    decided: Option<(String, When)>,
    reason: String,
    operation: Option<String>,
}

/// `GET /approvals/{approval}`
pub async fn one(session: Session, Path(id): Path<ApprovalId>) -> Result<Response, Failure> {
    let approval: Approval = session.get(&format!("/v1/approvals/{id}")).await?;
    let now = Timestamp::now();
    let difference = approval.then.price_cents - approval.now.price_cents;
    let sign = if difference.get() > 0 { "+" } else { "" };
    let flip = approval.decision.flip.as_ref();
    html(&ApprovalPage {
        frame: Frame::of(&session, "approvals"),
        row: ApprovalRow::new(&approval, now),
        difference: format!("{sign}{}", money(difference)),
        flip: flip.map(|f| format!("{} {} instead of {}: {}", f.field, f.to, f.from, f.then)).unwrap_or_default(),
        open: approval.state == ApprovalState::Open,
        agreed: approval.state == ApprovalState::Approved,
        ends: approval.expires_at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        decided: approval.decided_by.zip(approval.decided_at).map(|(by, at)| (by, When::new(at, now))),
        reason: approval.reason.unwrap_or_default(),
        operation: approval.operation.map(|id| id.to_string()),
        because: approval.because,
        reasons: approval.decision.reasons,
    })
}

/// `POST /approvals/{approval}/{answer}`
pub async fn answer(Path((id, answer)): Path<(ApprovalId, String)>, change: Change) -> Result<Response, Failure> {
    if !matches!(answer.as_str(), "approve" | "reject") {
        return Err(Failure::NotThere);
    }
    let said = ApprovalReject { reason: change.field("reason").map(str::to_owned) };
    let path = format!("/v1/approvals/{id}/{}", escaped(&answer));
    let done: Approval = change.session.send(Method::POST, &path, &said, &change.once()).await?;
    let to = done.operation.map_or_else(|| format!("/approvals/{id}"), |id| format!("/operations/{id}"));
    Ok(Redirect::to(&to).into_response())
}
