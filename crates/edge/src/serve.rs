//! One request, from its head to the head of its answer.
//!
//! The order of the steps is the design. Never decides what may be sent twice: `call` does.

use crate::{
    Limits,
    answers::Refusal,
    body::{self, AnswerBody, Relayed, Upload, UploadLimits},
    call::Call,
    core::{Connected, Core},
    drain,
    headers::{self, Origin},
    limits::Taken,
    pack,
    pulse::Pulse,
    request_log::{Entry, Logger},
    routing,
    tenant::{Route, Standing, Tenant, Ticket},
    tunnel,
    upstream::{Lease, Sending},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use jiff::Timestamp;
use std::{
    cell::Cell,
    future::Future,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// A request's own side: who sent it, on which connection.
#[derive(Debug)]
pub struct Client {
    peer: IpAddr,
    /// Address of who is at the other end, as `X-Forwarded-For` says it.
    pub address: HeaderValue,
    /// What it says about its own client is believed.
    pub trusted: bool,
    /// Over TLS, begun for this name.
    secure: Option<Box<str>>,
    /// Requests on this connection so far, and the first whose framing was doubtful.
    requests: Cell<u64>,
    doubtful: Arc<AtomicU64>,
    pulse: Rc<Pulse>,
}

impl Client {
    pub fn new(
        peer: IpAddr,
        limits: &Limits,
        doubtful: Arc<AtomicU64>,
        secure: Option<Box<str>>,
        pulse: &Rc<Pulse>,
    ) -> Self {
        let address = HeaderValue::from_str(&peer.to_string()).expect("an address in text form is a header value");
        let trusted = limits.trusted_peers.iter().any(|network| network.contains(peer));
        Self { peer, address, trusted, secure, requests: Cell::new(0), doubtful, pulse: Rc::clone(pulse) }
    }

    /// Whether the request now begun is the doubtful one, or comes after it.
    fn is_doubtful(&self) -> bool {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        let doubtful = self.doubtful.load(Ordering::Relaxed);
        doubtful != 0 && number >= doubtful
    }
}

pub async fn serve(core: &Rc<Core>, client: &Client, request: Request<Incoming>) -> Response<AnswerBody> {
    let started = Instant::now();
    let id = core.request_id();
    let (parts, body) = request.into_parts();
    let manner = Manner {
        http2: parts.version == Version::HTTP_2,
        asked_to_switch: parts.headers.contains_key(header::UPGRADE),
    };
    let log = core.common.request_log.as_ref().filter(|log| log.takes(core.random()));
    let entry = log.map(|log| (log, Entry::new(&id, client.peer, &parts.method, &parts.uri, parts.version)));
    let mut account = Account { entry, tenant: None, started, status: CLIENT_LEFT };
    let mut answer = 'answered: {
        let doubtful = client.is_doubtful();
        // Before the tenant: a host is proved before it is anybody's.
        if !doubtful && let Some(answer) = core.common.certificates.challenges.page(&parts, &id) {
            break 'answered answer;
        }
        let tenant = match find(core, client, &parts, doubtful) {
            Ok(tenant) => tenant,
            Err(refusal) => break 'answered refused(refusal, &id).await,
        };
        account.tenant = Some(Rc::clone(&tenant));
        if let Some(answer) = redirect(core, client, &parts, &id) {
            break 'answered answer;
        }
        let mut answer = match exchange(core, client, &tenant, &id, started, parts, body).await {
            Ok(answer) => answer,
            Err(refusal) => refused(refusal, &id).await,
        };
        core.dress(answer.headers_mut(), client.secure.is_some());
        answer
    };
    account.status = answer.status().as_u16();
    drop(account);
    manner.fit(&mut answer);
    answer
}

/// Who is refused waits until this core has looked after those who are served: a tenant far beyond its limit would
/// have its refusals written before its neighbours' requests are read.
async fn refused(refusal: Refusal, id: &HeaderValue) -> Response<AnswerBody> {
    tokio::task::yield_now().await;
    refusal.answer(id)
}

/// What is counted and written of a client that did not wait for its answer.
const CLIENT_LEFT: u16 = 499;

/// One request's line and count, made when it is over, however that came.
struct Account<'a> {
    entry: Option<(&'a Logger, Entry)>,
    tenant: Option<Rc<Tenant>>,
    started: Instant,
    status: u16,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let time = self.started.elapsed();
        if let Some(tenant) = &self.tenant {
            tenant.count(self.status, time);
        }
        if let Some((log, entry)) = self.entry.take() {
            log.put(entry, self.tenant.as_ref().map(|tenant| tenant.id), self.status, time);
        }
    }
}

/// What a request says about how its answer goes over the connection.
#[derive(Clone, Copy)]
struct Manner {
    http2: bool,
    asked_to_switch: bool,
}

impl Manner {
    fn fit(self, answer: &mut Response<AnswerBody>) {
        if self.http2 {
            // It has no header that speaks of the connection.
            answer.headers_mut().remove(header::CONNECTION);
        } else if self.asked_to_switch && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // What follows is not watched any more: for all that the watch knows it is another protocol.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// A plain request for a host that has a certificate, where the stack file wants such to come over TLS.
fn redirect(core: &Core, client: &Client, parts: &Parts, id: &HeaderValue) -> Option<Response<AnswerBody>> {
    if !core.redirects() || client.secure.is_some() || (client.trusted && headers::said_https(&parts.headers)) {
        return None;
    }
    let host = routing::normal_host(headers::host(parts)?).ok()?;
    if !core.common.certificates.is_served(&host) {
        return None;
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = match core.https_port() {
        None => format!("https://{host}{path}"),
        Some(port) => format!("https://{host}:{port}{path}"),
    };
    let location = HeaderValue::from_str(&location).ok()?;
    let mut answer = Response::new(AnswerBody::empty());
    // Not 301: that lets a client turn a POST into a GET.
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer.headers_mut().insert(header::LOCATION, location);
    answer.headers_mut().insert(headers::REQUEST_ID, id.clone());
    if !parts.method.is_safe() {
        // Its body is not read.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Some(answer)
}

/// First of all: without a tenant there is nothing to hold, to count or to send to.
fn find(core: &Core, client: &Client, parts: &Parts, doubtful: bool) -> Result<Rc<Tenant>, Refusal> {
    let refuse = |refusal| {
        core.refused.set(core.refused.get() + 1);
        refusal
    };
    if doubtful {
        return Err(refuse(Refusal::BadFraming));
    }
    // One connection carries many requests, each of which keeps some memory: a bound on connections alone bounds little.
    if parts.version == Version::HTTP_2 && core.streams.get() > core.limits().connections {
        return Err(refuse(Refusal::Busy));
    }
    if parts.method == Method::CONNECT && !headers::websocket_over_http2(parts) {
        return Err(refuse(Refusal::Tunnel));
    }
    let host = headers::host(parts).ok_or_else(|| refuse(Refusal::BadHost))?;
    let host = routing::normal_host(host).map_err(|_| refuse(Refusal::BadHost))?;
    // A certificate speaks for its own names; a connection begun for one tenant is no way to another.
    if let Some(name) = &client.secure
        && **name != *host
        && !core.common.certificates.same(name, &host)
    {
        return Err(refuse(Refusal::Misdirected));
    }
    core.lookup(&host, parts.uri.path()).ok_or_else(|| {
        core.unknown_hosts.set(core.unknown_hosts.get() + 1);
        Refusal::UnknownHost
    })
}

pub fn standing(route: &Route) -> Result<(), Refusal> {
    match route.standing {
        Standing::Served => Ok(()),
        Standing::Draining => Err(Refusal::Draining),
        Standing::Suspended => Err(Refusal::Suspended),
        Standing::Gone => Err(Refusal::UnknownHost),
    }
}

/// Takes one of the tenant's tokens.
async fn within_limits(core: &Core, tenant: &Tenant, route: &Route, path: &str, now: Instant) -> Result<(), Refusal> {
    let Some(limit) = route.limits.of(path, Timestamp::now) else { return Ok(()) };
    let Some(rate) = &limit.rate else {
        tenant.metered(|m| m.limited += 1);
        return Err(limit.until.map_or(Refusal::Forbidden, |until| Refusal::Spent { until }));
    };
    let cluster = &core.common.cluster;
    let taken = if cluster.is_on() {
        // In a box, as all that few requests need: what every request carries about is as large as its largest branch.
        Box::pin(cluster.take(&limit.bucket, rate, || core.ns(Instant::now()))).await
    } else {
        limit.bucket.take(rate, core.ns(now))
    };
    match taken {
        // Nobody knows only until somebody has answered.
        Taken::Token { .. } | Taken::Unknown => Ok(()),
        Taken::Empty { wait_ns } => {
            tenant.metered(|m| m.limited += 1);
            Err(Refusal::Limited { requests: rate.requests, per_s: rate.per_s, wait_ns })
        }
    }
}

async fn exchange(
    core: &Rc<Core>,
    client: &Client,
    tenant: &Rc<Tenant>,
    id: &HeaderValue,
    started: Instant,
    mut parts: Parts,
    body: Incoming,
) -> Result<Response<AnswerBody>, Refusal> {
    let route = tenant.route();
    standing(&route)?;
    if !route.allows(|| headers::named_client(&parts.headers, client.peer, |peer| core.trusts(peer))) {
        return Err(Refusal::NotAllowed);
    }
    // Before the body is read: refusing must stay cheap.
    within_limits(core, tenant, &route, parts.uri.path(), started).await?;
    let limits = UploadLimits {
        keep_bytes: core.limits().resend_bytes,
        body_bytes: route.body_bytes.unwrap_or(core.limits().body_bytes),
        idle: core.limits().body_idle,
        whole: core.limits().body_time,
        unsaid: core.limits().unsaid_time,
    };
    let packing = core.compression().map(|settings| (pack::wanted(&settings, &parts), settings));
    let over_http2 = headers::websocket_over_http2(&parts);
    if over_http2 {
        headers::ask_for_websocket(&mut parts, websocket_key(core));
    }
    let protocol = headers::upgrade(&parts.headers);
    if protocol.is_some() && !body.is_end_stream() {
        // Where its body ends and the other protocol begins is nobody's to guess.
        return Err(Refusal::BadFraming);
    }
    let client_side = parts.extensions.remove::<OnUpgrade>().filter(|_| protocol.is_some());
    headers::forward(
        &mut parts,
        &Origin {
            client: &client.address,
            trusted: client.trusted,
            secure: client.secure.is_some(),
            request_id: id,
            upgrade: protocol.as_ref(),
        },
    );
    // Before anything is in flight: a slow upload must not stand in the way of a cut-over.
    let upload = if body.is_end_stream() {
        Upload::Whole(Bytes::new(), None)
    } else {
        Box::pin(body::read(body, limits, &core.keeping, &tenant.keeping)).await?
    };
    let sending = Sending { idempotent: headers::idempotent(&parts.method), upgrade: client_side.is_some() };
    let safe = headers::safe(&parts.method);
    let mut call = Call::new(core, tenant, sending, safe);
    let (answer, lease, ticket, route) = match upload {
        Upload::Whole(bytes, after) => {
            if !bytes.is_empty() {
                tenant.metered(|m| m.received_bytes += bytes.len() as u64);
            }
            if let Some(after) = &after {
                headers::announce(&mut parts.headers, after);
            }
            call.send_whole(parts, &bytes, after.as_ref()).await?
        }
        Upload::Longer(prefix, rest) => {
            tenant.metered(|m| m.received_bytes += prefix.len() as u64);
            Box::pin(call.send_streamed(parts, prefix, rest, limits)).await?
        }
    };
    let cookie = call.cookie.take();
    let mut answer = if let Some(client_side) = client_side {
        switch(core, client, tenant, &route, id, answer, lease, ticket, Switch { client_side, over_http2 })
    } else {
        relay(core, tenant, &route, id, answer, lease, ticket)
    };
    if let Some((wanted, settings)) = packing
        && matches!(answer.body(), AnswerBody::Relayed(_))
    {
        let status = answer.status();
        if let Some(way) = pack::mark(&settings, wanted, status, answer.headers_mut()) {
            answer = answer.map(|body| body.packed(way, &core.packing));
        }
    }
    if let Some(cookie) = cookie {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// What HTTP/1.1 asks for with a WebSocket; HTTP/2 has none.
fn websocket_key(core: &Core) -> HeaderValue {
    let key = [core.random().to_be_bytes(), core.random().to_be_bytes()].concat();
    HeaderValue::from_str(&STANDARD.encode(key)).expect("base64 is a header value")
}

/// The client's side of a WebSocket that is asked for.
struct Switch {
    client_side: OnUpgrade,
    over_http2: bool,
}

/// Turns a member's answer to somebody who asked for a WebSocket into the client's.
#[expect(clippy::too_many_arguments, reason = "everything an answer keeps alive, handed over once")]
fn switch(
    core: &Rc<Core>,
    client: &Client,
    tenant: &Rc<Tenant>,
    route: &Rc<Route>,
    id: &HeaderValue,
    mut answer: Response<Incoming>,
    lease: Lease,
    ticket: Ticket,
    how: Switch,
) -> Response<AnswerBody> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        if how.over_http2 && answer.status().is_success() {
            // There it would mean that the WebSocket is open.
            return Refusal::NoAnswer.answer(id);
        }
        return relay(core, tenant, route, id, answer, lease, ticket);
    }
    let websocket =
        answer.headers().get(header::UPGRADE).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let ends = tunnel::Ends { client: how.client_side, member: hyper::upgrade::on(&mut answer), websocket };
    let kept = Pulse::tunnel(&client.pulse);
    let open = Connected::new(core);
    let busy = lease.into_busy();
    let farewell = drain::farewell(Rc::clone(core), Rc::clone(tenant), busy.id(), route.left.clone());
    tokio::task::spawn_local(tunnel::run(ends, Rc::clone(tenant), farewell, open, busy, kept));
    *answer.version_mut() = Version::HTTP_11;
    headers::answer(answer.headers_mut(), id, !how.over_http2);
    if how.over_http2 {
        *answer.status_mut() = StatusCode::OK;
        answer.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    answer.map(|_| AnswerBody::empty())
}

/// Turns a member's answer into the client's.
fn relay(
    core: &Rc<Core>,
    tenant: &Rc<Tenant>,
    route: &Rc<Route>,
    id: &HeaderValue,
    mut answer: Response<Incoming>,
    lease: Lease,
    ticket: Ticket,
) -> Response<AnswerBody> {
    *answer.version_mut() = Version::HTTP_11;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it.
        return Refusal::NoAnswer.answer(id);
    }
    let stream =
        answer.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
    headers::answer(answer.headers_mut(), id, false);
    if core.is_going() {
        // Nobody is to follow on this connection.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (member, may_write) = (lease.member(), !ticket.is_safe());
    answer.map(|incoming| {
        AnswerBody::relayed(Relayed {
            incoming,
            lease: Some(lease),
            // A safe request is over when its answer has begun; one that may write, when it is complete. An event stream may
            // never be: what its member writes after its time the fence refuses.
            ticket: may_write.then_some(ticket),
            may_write,
            waited_for: (may_write && stream).then(|| Box::pin(tokio::time::sleep(core.limits().body_time))),
            tenant: Rc::clone(tenant),
            counts: true,
            left: stream.then(|| -> Pin<Box<dyn Future<Output = ()>>> {
                let left = route.left.clone();
                Box::pin(drain::farewell(Rc::clone(core), Rc::clone(tenant), member, left))
            }),
        })
    })
}
