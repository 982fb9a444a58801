//! `/tenants/{tenant}/access`: which hosts lead to a tenant, whose clients it serves, and how many of their requests.
//!
//! One form for each change. What takes something away is asked for on a page of its own.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, State, bytes, count, state},
    tenants::{AskPage, typed},
};
use askama::Template;
use axum::{
    extract::Path,
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::{EdgeLimits, Network, TenantHost};
use berth_wire::{Host, HostAdd, HostVerify, Tenant, TenantAllow, TenantLimits, TenantLimitsSet};
use serde_json::json;

const SHOWN: usize = 2000;

struct HostRow {
    host: String,
    state: State,
    proof: String,
    /// Name and value of the record that would prove it.
    record: Option<(String, String)>,
    url: String,
    trouble: String,
    may_verify: bool,
    /// As a path names it.
    place: String,
}

/// A class of requests, or the size of a body.
struct LimitRow {
    /// Of its field in the form.
    field: String,
    what: String,
    in_force: String,
    of_plan: String,
    /// Its own; empty: as the plan says.
    own: String,
}

#[derive(Template)]
#[template(path = "pages/access.html")]
struct AccessPage {
    frame: Frame,
    name: String,
    version: u64,
    hosts: Vec<HostRow>,
    networks: String,
    open: bool,
    plan: String,
    limits: Vec<LimitRow>,
    has_own: bool,
}

/// `GET /tenants/{tenant}/access`
pub async fn page(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let of = escaped(&name);
    let tenant: Tenant = session.get(&format!("/v1/tenants/{of}")).await?;
    let hosts: Vec<Host> = session.list(&format!("/v1/hosts?tenant={of}"), SHOWN).await?;
    let limits: TenantLimits = session.get(&format!("/v1/tenants/{of}/limits")).await?;
    html(&AccessPage {
        frame: Frame::of(&session, "tenants"),
        name: tenant.name.to_string(),
        version: tenant.version,
        hosts: hosts.iter().map(host_row).collect(),
        networks: tenant.allow.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        open: tenant.allow.is_empty(),
        plan: tenant.plan.to_string(),
        limits: limit_rows(&limits),
        has_own: !limits.own.is_empty(),
    })
}

fn host_row(host: &Host) -> HostRow {
    let show = host.show.as_ref();
    HostRow {
        host: host.host.to_string(),
        state: if host.served { state("routed", "good") } else { state("not routed", "off") },
        proof: host.proof.map_or_else(|| "not proved".to_owned(), |proof| proof.as_str().to_owned()),
        record: show.map(|show| (show.txt_name.clone(), show.txt_value.clone())),
        url: show.and_then(|show| show.url.clone()).unwrap_or_default(),
        trouble: host.trouble.clone().unwrap_or_default(),
        may_verify: show.is_some(),
        place: escaped(&host.host.to_string()),
    }
}

/// Classes that somebody limits, and those that edges know anyway.
fn classes(limits: &TenantLimits) -> Vec<String> {
    let mut classes: Vec<String> = limits.in_force.requests_per_minute.keys().cloned().collect();
    classes.extend(["api", "upload", "gps"].map(str::to_owned));
    classes.sort_unstable();
    classes.dedup();
    classes
}

fn limit_rows(limits: &TenantLimits) -> Vec<LimitRow> {
    let class = |class: String| {
        let of = |of: &EdgeLimits| of.requests_per_minute.get(&class).copied();
        let said = |n: Option<u64>| n.map_or_else(|| "not limited".to_owned(), count);
        LimitRow {
            field: format!("class-{class}"),
            what: format!("{class} requests per minute"),
            in_force: said(of(&limits.in_force)),
            of_plan: said(of(&limits.of_plan)),
            own: of(&limits.own).map(|n| n.to_string()).unwrap_or_default(),
        }
    };
    let size = |n: Option<u64>| n.map_or_else(|| "not limited".to_owned(), bytes);
    let body = LimitRow {
        field: "body_bytes".to_owned(),
        what: "bytes of a request body".to_owned(),
        in_force: size(limits.in_force.body_bytes),
        of_plan: size(limits.of_plan.body_bytes),
        own: limits.own.body_bytes.map(|n| n.to_string()).unwrap_or_default(),
    };
    classes(limits).into_iter().map(class).chain([body]).collect()
}

fn back(name: &str) -> Response {
    Redirect::to(&format!("/tenants/{}/access", escaped(name))).into_response()
}

/// `POST /tenants/{tenant}/hosts`: one of the stack's own is routed now, any other waits for its proof.
pub async fn add_host(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let host: TenantHost = typed(&change, "host", "a host, as in `shop.acme.com` or `*.acme.com`")?;
    let wanted = HostAdd { tenant: name.clone(), host };
    let _added: Host = change.session.send(Method::POST, "/v1/hosts", &wanted, &change.once()).await?;
    Ok(back(&name))
}

/// `GET /tenants/{tenant}/hosts/{host}/remove`
pub async fn ask_host(session: Session, Path((name, host)): Path<(String, String)>) -> Result<Response, Failure> {
    let of = escaped(&name);
    let hosts: Vec<Host> = session.list(&format!("/v1/hosts?tenant={of}"), SHOWN).await?;
    let known = hosts.iter().find(|known| known.host.to_string() == host).ok_or(Failure::NotThere)?;
    html(&AskPage {
        frame: Frame::of(&session, "tenants"),
        title: format!("Take {host} away from {}?", known.tenant),
        what_happens: "Requests to it are answered 404 by every edge, and a certificate that Berth got for it goes. Added again, it has to be proved anew.",
        action: format!("/tenants/{of}/hosts/{}/remove", escaped(&host)),
        button: "Take away",
        dangerous: true,
        typed: None,
        back: format!("/tenants/{of}/access"),
    })
}

/// `POST /tenants/{tenant}/hosts/{host}/verify`: looks for the proof now.
pub async fn verify_host(Path((name, host)): Path<(String, String)>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/hosts/{}/verify", escaped(&host));
    let whose = HostVerify { tenant: Some(name.clone()) };
    let _proved: Host = change.session.send(Method::POST, &path, &whose, &change.once()).await?;
    Ok(back(&name))
}

/// `POST /tenants/{tenant}/hosts/{host}/remove`
pub async fn remove_host(Path((name, host)): Path<(String, String)>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/hosts/{}?tenant={}", escaped(&host), escaped(&name));
    let _gone: Host = change.session.send(Method::DELETE, &path, &json!({}), &change.once()).await?;
    Ok(back(&name))
}

/// The version that the form was made from: who changed the tenant meanwhile is not overwritten.
fn version(change: &Change) -> Result<u64, Failure> {
    typed(change, "version", "what the page gave it")
}

/// `POST /tenants/{tenant}/networks`
pub async fn set_networks(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let typed_in = change.field("networks").unwrap_or_default();
    let each = typed_in.split([',', ' ', '\r', '\n']).filter(|network| !network.is_empty());
    let networks: Vec<Network> = each
        .map(|network| {
            network.parse().map_err(|bad| Failure::Field {
                detail: format!("`{network}` is no network: {bad}"),
                hint: "write `203.0.113.0/24`, `2001:db8::/32` or one address, a line each".to_owned(),
            })
        })
        .collect::<Result<_, _>>()?;
    if networks.is_empty() && change.field("everybody").is_none() {
        return Err(Failure::Field {
            detail: format!("without a network {name} would be open to everybody"),
            hint: "tick `everybody` to say so".to_owned(),
        });
    }
    let path = format!("/v1/tenants/{}/allow", escaped(&name));
    let at = Some(version(&change)?);
    let _now: Tenant =
        change.session.send_at(Method::PUT, &path, &TenantAllow { networks }, &change.once(), at).await?;
    Ok(back(&name))
}

/// `POST /tenants/{tenant}/limits`
pub async fn set_limits(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}/limits", escaped(&name));
    let at = Some(version(&change)?);
    if change.field("clear").is_some() {
        let _now: TenantLimits = change.session.send_at(Method::DELETE, &path, &json!({}), &change.once(), at).await?;
        return Ok(back(&name));
    }
    let now: TenantLimits = change.session.get(&path).await?;
    let mut wanted = TenantLimitsSet::default();
    for class in classes(&now) {
        if let Some(most) = number(&change, &format!("class-{class}"))? {
            wanted.requests_per_minute.insert(class, most);
        }
    }
    wanted.body_bytes = number(&change, "body_bytes")?;
    let _now: TenantLimits = change.session.send_at(Method::PUT, &path, &wanted, &change.once(), at).await?;
    Ok(back(&name))
}

fn number(change: &Change, field: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = change.field(field) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Failure::Field {
        detail: format!("`{text}` is no whole number"),
        hint: "write digits alone; leave it empty for what the plan says".to_owned(),
    })
}
