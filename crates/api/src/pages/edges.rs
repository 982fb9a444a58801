//! `/edges`: edges and how far each is, what is drained and how to take that back, certificates and when they end, how
//! hosts come by theirs, and hosts that wait for their proof.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, State, When, or_unknown, state, words},
    tenants::AskPage,
};
use askama::Template;
use axum::{
    extract::Path,
    http::{HeaderMap, Method},
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::OrderState;
use berth_wire::{Certificate, CertificateOrder, Drain, Drained, DrainedKind, EdgeView, Host};
use jiff::Timestamp;
use serde_json::json;

const SHOWN: usize = 2000;
/// A certificate that ends within this wants somebody's eye.
const SOON_DAYS: i64 = 14;
const DAY_S: i64 = 86_400;

struct EdgeRow {
    name: String,
    state: State,
    version: String,
    revision: String,
    behind: u64,
    seen: Option<When>,
    may_drain: bool,
}

struct DrainRow {
    kind: &'static str,
    name: String,
    cell: String,
    /// Of the thing's own page, where it has one.
    page: Option<String>,
    state: State,
    says: String,
    since: Option<When>,
    /// As the paths below name it.
    place: String,
}

struct CertificateRow {
    id: String,
    names: String,
    issuer: String,
    state: State,
    ends: String,
}

struct OrderRow {
    host: String,
    state: State,
    says: String,
    next: String,
}

/// A host that is not proved.
struct HostRow {
    host: String,
    tenant: String,
    served: bool,
    /// Name and value of the record that would prove it.
    record: Option<(String, String)>,
    trouble: String,
}

#[derive(Template)]
#[template(path = "pages/edges.html")]
struct EdgesPage {
    frame: Frame,
    edges: Vec<EdgeRow>,
    drains: Vec<DrainRow>,
    certificates: Vec<CertificateRow>,
    orders: Vec<OrderRow>,
    hosts: Vec<HostRow>,
}

/// `GET /edges`
pub async fn page(session: Session, headers: HeaderMap) -> Result<Response, Failure> {
    let edges: Vec<EdgeView> = session.list("/v1/edges", SHOWN).await?;
    let drains: Vec<Drained> = session.list("/v1/drains", SHOWN).await?;
    let certificates: Vec<Certificate> = session.list("/v1/certificates", SHOWN).await?;
    let orders: Vec<CertificateOrder> = session.list("/v1/certificates/orders", SHOWN).await?;
    // There may be very many, and they stand outside of what the page asks for every few seconds.
    let hosts: Vec<Host> =
        if headers.contains_key("hx-request") { Vec::new() } else { session.list("/v1/hosts", SHOWN).await? };
    let now = Timestamp::now();
    let drained = |edge: &EdgeView| drains.iter().any(|d| d.kind == DrainedKind::Edge && d.name == edge.name.as_str());
    html(&EdgesPage {
        frame: Frame::of(&session, "edges"),
        edges: edges.iter().map(|edge| edge_row(edge, drained(edge), now)).collect(),
        drains: drains.iter().map(|drained| drain_row(drained, now)).collect(),
        certificates: certificates.iter().map(|certificate| certificate_row(certificate, now)).collect(),
        orders: orders.iter().map(order_row).collect(),
        hosts: hosts.iter().filter(|host| host.proof.is_none()).map(host_row).collect(),
    })
}

fn edge_row(edge: &EdgeView, drained: bool, now: Timestamp) -> EdgeRow {
    EdgeRow {
        name: edge.name.to_string(),
        state: match (edge.alive, edge.leaving, drained) {
            (false, ..) => state("silent", "bad"),
            (true, true, _) => state("leaving", "busy"),
            (true, false, true) => state("drained", "busy"),
            (true, false, false) => state("alive", "good"),
        },
        version: or_unknown(edge.version.as_ref(), ToString::to_string),
        revision: edge.revision.to_string(),
        behind: edge.behind,
        seen: edge.seen_at.map(|at| When::new(at, now)),
        may_drain: !edge.leaving && !drained,
    }
}

fn drain_row(drained: &Drained, now: Timestamp) -> DrainRow {
    let cell = drained.cell.as_ref().map(ToString::to_string).unwrap_or_default();
    let (kind, page, place) = match drained.kind {
        DrainedKind::Tenant => ("tenant", Some(format!("/tenants/{}", escaped(&drained.name))), drained.name.clone()),
        DrainedKind::Edge => ("edge", None, drained.name.clone()),
        DrainedKind::Member => {
            let member = drained.member.map(|member| member.to_string()).unwrap_or_default();
            ("member", Some(format!("/cells/{}", escaped(&cell))), format!("{cell}:{member}"))
        }
    };
    let waiting: Vec<String> = drained.drain.waiting_for.iter().map(ToString::to_string).collect();
    let (state, says) = match (drained.drain.done, waiting.is_empty()) {
        (true, _) => (state("done", "good"), "what was open has been closed".to_owned()),
        (false, true) => {
            let grace_s = drained.drain.grace_s.unwrap_or_default();
            (state("ending", "busy"), format!("open connections are closed over {grace_s} s"))
        }
        (false, false) => (state("waiting", "busy"), format!("not acknowledged yet by {}", waiting.join(", "))),
    };
    DrainRow {
        kind,
        name: drained.name.clone(),
        cell,
        page,
        state,
        says,
        since: drained.drain.since.map(|at| When::new(at, now)),
        place,
    }
}

fn certificate_row(certificate: &Certificate, now: Timestamp) -> CertificateRow {
    let left_s = certificate.not_after.as_second() - now.as_second();
    CertificateRow {
        id: certificate.id.to_string(),
        names: certificate.names.join(", "),
        issuer: certificate.issuer.clone(),
        state: match left_s {
            ..=0 => state("over", "bad"),
            1.. if left_s < SOON_DAYS * DAY_S => state("ends soon", "bad"),
            _ => state("good", "good"),
        },
        ends: {
            let (date, days) = (certificate.not_after.strftime("%Y-%m-%d"), (left_s / DAY_S).abs());
            if left_s > 0 { format!("{date}, in {days} d") } else { format!("{date}, {days} d ago") }
        },
    }
}

fn order_row(order: &CertificateOrder) -> OrderRow {
    let look = match order.state {
        OrderState::Served => "good",
        OrderState::Waiting | OrderState::Ordered => "busy",
        OrderState::Failed => "bad",
    };
    let trouble = order.trouble.map(|trouble| words(trouble.as_str()));
    OrderRow {
        host: order.host.to_string(),
        state: state(order.state.as_str(), look),
        says: [trouble, order.detail.clone()].into_iter().flatten().collect::<Vec<_>>().join(": "),
        next: order.next_at.strftime("%Y-%m-%d %H:%M").to_string(),
    }
}

fn host_row(host: &Host) -> HostRow {
    HostRow {
        host: host.host.to_string(),
        tenant: host.tenant.to_string(),
        served: host.served,
        record: host.show.as_ref().map(|show| (show.txt_name.clone(), show.txt_value.clone())),
        trouble: host.trouble.clone().unwrap_or_default(),
    }
}

/// What a path names, and where `/v1` has its drain.
struct Place {
    path: String,
    title: String,
    happens: &'static str,
    back: String,
}

/// `tenant/acme`, `edge/fra-1`, `member/shared-1:ID`.
fn place(kind: &str, name: &str) -> Result<Place, Failure> {
    let place =
        |path: String, title: String, happens, back| Place { path: format!("/v1/{path}/drain"), title, happens, back };
    match kind {
        "tenant" => Ok(place(
            format!("tenants/{}", escaped(name)),
            format!("tenant {name}"),
            "New requests are answered 503. What is under way is finished; WebSockets and event streams are closed within 30 s.",
            format!("/tenants/{}", escaped(name)),
        )),
        "edge" => Ok(place(
            format!("edges/{}", escaped(name)),
            format!("edge {name}"),
            "It answers on and keeps no connection after an answer, so that whoever stands in front sends clients elsewhere.",
            "/edges".to_owned(),
        )),
        "member" => {
            let (cell, member) = name.split_once(':').ok_or(Failure::NotThere)?;
            Ok(place(
                format!("cells/{}/members/{}", escaped(cell), escaped(member)),
                format!("a member of cell {cell}"),
                "New requests go to the cell's other members. What is under way is finished.",
                format!("/cells/{}", escaped(cell)),
            ))
        }
        _ => Err(Failure::NotThere),
    }
}

/// `GET /drains/{kind}/{name}/{change}`: says what would happen, and asks.
pub async fn ask(
    session: Session,
    Path((kind, name, verb)): Path<(String, String, String)>,
) -> Result<Response, Failure> {
    let place = place(&kind, &name)?;
    // Who has no key is asked for one, and what is not there is not asked about.
    let _now: Drain = session.get(&place.path).await?;
    let (title, what_happens, button) = match verb.as_str() {
        "begin" => (format!("Drain {}?", place.title), place.happens, "Drain"),
        "undo" => (format!("Take back the drain of {}?", place.title), "It gets new requests again.", "Take back"),
        _ => return Err(Failure::NotThere),
    };
    html(&AskPage {
        frame: Frame::of(&session, "edges"),
        title,
        what_happens,
        action: format!("/drains/{}/{}/{verb}", escaped(&kind), escaped(&name)),
        button,
        dangerous: verb == "begin",
        typed: None,
        back: if verb == "begin" { place.back } else { "/edges".to_owned() },
    })
}

/// `POST /drains/{kind}/{name}/{change}`
pub async fn change(
    Path((kind, name, verb)): Path<(String, String, String)>,
    change: Change,
) -> Result<Response, Failure> {
    let method = match verb.as_str() {
        "begin" => Method::POST,
        "undo" => Method::DELETE,
        _ => return Err(Failure::NotThere),
    };
    let path = place(&kind, &name)?.path;
    let _drain: Drain = change.session.send(method, &path, &json!({}), &change.once()).await?;
    Ok(Redirect::to("/edges").into_response())
}
