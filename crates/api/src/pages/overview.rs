//! `/`: is everybody served, what is moving, what needs a person, what does the month cost.

use super::{
    failure::{Failure, html},
    operations::OperationRow,
    session::Session,
    shown::{Frame, State, When, money, or_unknown, state},
};
use askama::Template;
use axum::response::Response;
use berth_wire::{Attention, Operation, Overview};
use jiff::Timestamp;

#[derive(Template)]
#[template(path = "pages/overview.html")]
struct OverviewPage {
    frame: Frame,
    stack: Option<String>,
    revision: String,
    tenants: u32,
    /// `18 active, 1 moving`.
    tenants_by_state: String,
    served: State,
    cells: u32,
    members: String,
    open: Vec<OperationRow>,
    attention: Vec<Attention>,
    edges: Vec<EdgeRow>,
    revenue: String,
    cost: String,
    reads_only: bool,
    version: String,
    at: When,
}

struct EdgeRow {
    name: String,
    state: State,
    version: String,
    behind: String,
    seen: Option<When>,
}

pub async fn page(session: Session) -> Result<Response, Failure> {
    let overview: Overview = session.get("/v1/status").await?;
    let open: Vec<Operation> = session.list("/v1/operations?open=true", 50).await?;
    let now = Timestamp::now();
    let counts = overview.tenants;
    let by_state = [
        (counts.active, "active"),
        (counts.moving, "moving"),
        (counts.provisioning, "provisioning"),
        (counts.suspended, "suspended"),
        (counts.failed, "failed"),
    ];
    let by_state: Vec<String> =
        by_state.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n}\u{a0}{word}")).collect();
    let edges: Vec<EdgeRow> = overview
        .edges
        .iter()
        .map(|edge| EdgeRow {
            name: edge.name.to_string(),
            state: if edge.alive { state("alive", "good") } else { state("silent", "bad") },
            version: or_unknown(edge.version.as_ref(), ToString::to_string),
            behind: if edge.behind == 0 { "up to date".to_owned() } else { format!("{} changes behind", edge.behind) },
            seen: edge.seen_at.map(|at| When::new(at, now)),
        })
        .collect();
    html(&OverviewPage {
        frame: Frame::of(&session, "overview"),
        served: served(&overview),
        stack: overview.stack,
        revision: or_unknown(overview.stack_revision, |n| n.to_string()),
        tenants: counts.total,
        tenants_by_state: by_state.join(", "),
        cells: overview.cells.total,
        members: format!("{} of {} members healthy", overview.cells.members_healthy, overview.cells.members),
        open: open.iter().map(|operation| OperationRow::new(operation, now)).collect(),
        attention: overview.attention,
        edges,
        revenue: money(overview.revenue_month_cents),
        cost: or_unknown(overview.cost_month_cents, money),
        reads_only: overview.reads_only,
        version: overview.version,
        at: When::new(overview.at, now),
    })
}

/// One word for the founder. Only what was seen counts: no edge heard of is no service proven.
fn served(overview: &Overview) -> State {
    let counts = overview.tenants;
    let sick = overview.cells.members > overview.cells.members_healthy;
    if counts.total == 0 {
        state("nobody to serve yet", "off")
    } else if overview.edges.iter().all(|edge| !edge.alive) {
        state("no edge heard of", "bad")
    } else if counts.failed > 0 || sick {
        state("not everybody", "bad")
    } else if counts.moving + counts.provisioning > 0 {
        state("yes, some move", "busy")
    } else {
        state("yes", "good")
    }
}
