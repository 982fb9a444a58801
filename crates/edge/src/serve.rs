//! One request, from its head to the head of its answer.
//!
//! The order of the steps is the design; what may be sent twice, and what never, is decided here and nowhere else.

use crate::{
    Limits,
    answers::Refusal,
    balance::Wish,
    body::{self, AnswerBody, Relayed, SendBody, Upload, UploadLimits},
    core::{Connected, Core},
    drain,
    headers::{self, Origin},
    hold::{Parked, Stopped},
    limits::Taken,
    routing,
    tenant::{Route, Standing, Tenant, Ticket},
    tunnel,
    upstream::{self, Attempt, Lease, SendError, Sending},
};
use berth_domain::{Balance, MemberId};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
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
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A large body may take its time; its own idle limit watches it.
const STREAMED_ANSWER_TIME: Duration = Duration::from_hours(1);

/// A request's own side: who sent it, on which connection.
#[derive(Debug)]
pub struct Client {
    /// Address of who is at the other end, as `X-Forwarded-For` says it.
    pub address: HeaderValue,
    /// What it says about its own client is believed.
    pub trusted: bool,
    /// Over TLS, begun for this name.
    secure: Option<Box<str>>,
    /// Requests on this connection so far, and the first whose framing was doubtful.
    requests: Cell<u64>,
    doubtful: Arc<AtomicU64>,
}

impl Client {
    pub fn new(peer: IpAddr, limits: &Limits, doubtful: Arc<AtomicU64>, secure: Option<Box<str>>) -> Self {
        let address = HeaderValue::from_str(&peer.to_string()).expect("an address in text form is a header value");
        let trusted = limits.trusted_peers.iter().any(|network| network.contains(peer));
        Self { address, trusted, secure, requests: Cell::new(0), doubtful }
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
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = core.request_id().hyphenated().encode_lower(&mut id);
    let id = HeaderValue::from_str(id).expect("hexadecimal digits and dashes are a header value");
    let (parts, body) = request.into_parts();
    let manner = Manner {
        http2: parts.version == Version::HTTP_2,
        asked_to_switch: parts.headers.contains_key(header::UPGRADE),
    };
    let tenant = match find(core, client, &parts) {
        Ok(tenant) => tenant,
        Err(refusal) => return manner.of(refusal.answer(&id)),
    };
    if let Some(answer) = redirect(core, client, &parts, &id) {
        tenant.count(answer.status().as_u16(), started.elapsed());
        return manner.of(answer);
    }
    let mut answer = exchange(core, client, &tenant, &id, started, parts, body).await.unwrap_or_else(|r| r.answer(&id));
    tenant.count(answer.status().as_u16(), started.elapsed());
    if client.secure.is_some()
        && let Some(hsts) = core.hsts()
    {
        answer.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert(hsts);
    }
    manner.of(answer)
}

/// What a request says about how its answer goes over the connection.
#[derive(Clone, Copy)]
struct Manner {
    http2: bool,
    asked_to_switch: bool,
}

impl Manner {
    fn of(self, mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
        if self.http2 {
            // It has no header that speaks of the connection.
            answer.headers_mut().remove(header::CONNECTION);
        } else if self.asked_to_switch && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // What follows is not watched any more: for all that the watch knows it is another protocol.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// A plain request for a host that has a certificate, where the stack file wants such to come over TLS.
fn redirect(core: &Core, client: &Client, parts: &Parts, id: &HeaderValue) -> Option<Response<AnswerBody>> {
    if !core.redirects() || client.secure.is_some() || (client.trusted && headers::said_https(&parts.headers)) {
        return None;
    }
    let host = routing::normal_host(headers::host(parts)?).ok()?;
    core.common.certificates.find(&host)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = HeaderValue::from_str(&format!("https://{host}{path}")).ok()?;
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
fn find(core: &Core, client: &Client, parts: &Parts) -> Result<Rc<Tenant>, Refusal> {
    let refuse = |refusal| {
        core.refused.set(core.refused.get() + 1);
        refusal
    };
    if client.is_doubtful() {
        return Err(refuse(Refusal::BadFraming));
    }
    if parts.method == Method::CONNECT {
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
    core.lookup(&host).ok_or_else(|| {
        core.unknown_hosts.set(core.unknown_hosts.get() + 1);
        Refusal::UnknownHost
    })
}

fn standing(route: &Route) -> Result<(), Refusal> {
    match route.standing {
        Standing::Served => Ok(()),
        Standing::Draining => Err(Refusal::Draining),
        Standing::Suspended => Err(Refusal::Suspended),
        Standing::Gone => Err(Refusal::UnknownHost),
    }
}

/// Takes one of the tenant's tokens.
async fn within_limits(core: &Core, tenant: &Tenant, route: &Route, path: &str, now: Instant) -> Result<(), Refusal> {
    let Some(limit) = route.limits.of(path) else { return Ok(()) };
    let Some(rate) = &limit.rate else {
        tenant.metered(|m| m.limited += 1);
        return Err(Refusal::Forbidden);
    };
    let cluster = &core.common.cluster;
    let taken = if cluster.is_on() {
        cluster.take(&limit.bucket, rate, || core.ns(Instant::now())).await
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
    // Before the body is read: refusing must stay cheap.
    within_limits(core, tenant, &route, parts.uri.path(), started).await?;
    let limits = UploadLimits {
        keep_bytes: core.limits().resend_bytes,
        body_bytes: route.body_bytes.unwrap_or(core.limits().body_bytes),
        idle: core.limits().body_idle,
        whole: core.limits().body_time,
    };
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
    let upload = body::read(body, limits).await?;
    let sending = Sending { idempotent: headers::idempotent(&parts.method), upgrade: client_side.is_some() };
    let safe = headers::safe(&parts.method);
    let mut call = Call { core, tenant, sending, safe, parked: None, deadline: None, cookie: None };
    let (answer, lease, ticket, route) = match upload {
        Upload::Whole(bytes) => {
            if !bytes.is_empty() {
                tenant.metered(|m| m.received_bytes += bytes.len() as u64);
            }
            call.send_whole(parts, &bytes).await?
        }
        Upload::Longer(prefix, rest) => call.send_streamed(parts, prefix, rest, limits).await?,
    };
    let mut answer = relay(core, tenant, &route, id, answer, lease, ticket, client_side);
    if let Some(cookie) = call.cookie {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// One request's way to a member.
struct Call<'a> {
    core: &'a Rc<Core>,
    tenant: &'a Rc<Tenant>,
    sending: Sending,
    safe: bool,
    parked: Option<Parked>,
    /// Parked at most until then, however often.
    deadline: Option<tokio::time::Instant>,
    /// Tells the client which member it has from now on.
    cookie: Option<HeaderValue>,
}

type Answered = (Response<Incoming>, Lease, Ticket, Rc<Route>);

impl Call<'_> {
    async fn send_whole(&mut self, parts: Parts, body: &Bytes) -> Result<Answered, Refusal> {
        let mut fenced = false;
        let mut broken = false;
        loop {
            let (ticket, route) = self.admit(body.len() as u64).await?;
            let releases = self.tenant.releases.get();
            let request = Request::from_parts(parts.clone(), SendBody::whole(body));
            let (answer, lease, ticket) =
                match self.attempt(&route, request, ticket, self.core.limits().answer_time).await? {
                    Some(answered) => answered,
                    // A kept connection that ends without a word is how servers close idle ones.
                    None if self.sending.idempotent && !broken => {
                        broken = true;
                        continue;
                    }
                    None => return Err(Refusal::NoAnswer),
                };
            let Some(moved_to) = fenced_at(&answer) else { return Ok((answer, lease, ticket, route)) };
            if fenced {
                return Err(Refusal::Fenced);
            }
            fenced = true;
            // Nothing was committed, so nothing is in flight.
            drop((answer, lease, ticket));
            self.wait_for_generation(moved_to, releases, body.len() as u64).await?;
        }
    }

    async fn send_streamed(
        &mut self,
        parts: Parts,
        prefix: Bytes,
        rest: Incoming,
        limits: UploadLimits,
    ) -> Result<Answered, Refusal> {
        let (ticket, route) = self.admit(prefix.len() as u64).await?;
        let failed = Rc::new(Cell::new(None));
        let body = SendBody::streamed(prefix, rest, limits, Rc::clone(&failed), Rc::clone(self.tenant));
        let sent = self.attempt(&route, Request::from_parts(parts, body), ticket, STREAMED_ANSWER_TIME).await;
        if let Some(error) = failed.get() {
            return Err(error.into());
        }
        let Some((answer, lease, ticket)) = sent? else { return Err(Refusal::NoAnswer) };
        if fenced_at(&answer).is_some() {
            return Err(Refusal::Fenced);
        }
        Ok((answer, lease, ticket, route))
    }

    /// Waits until the tenant's gate lets the request through, with the route that is in force then.
    async fn admit(&mut self, bytes: u64) -> Result<(Ticket, Rc<Route>), Refusal> {
        loop {
            let route = self.tenant.route();
            standing(&route)?;
            if let Some(ticket) = Ticket::take(self.tenant, self.safe) {
                return Ok((ticket, route));
            }
            if self.parked.is_none() {
                let stopped = self.tenant.gate.borrow().park(bytes, Instant::now());
                self.park(stopped)?;
            }
            let changed = self.tenant.changed.notified();
            self.before_deadline(changed).await?;
        }
    }

    fn park(&mut self, stopped: Option<Stopped>) -> Result<(), Refusal> {
        match stopped {
            None => Ok(()),
            Some(Stopped::Full) => Err(Refusal::ParkFull),
            Some(Stopped::Parked { parked, park }) => {
                self.tenant.metered(|m| m.parked += 1);
                self.parked = Some(parked);
                self.deadline.get_or_insert_with(|| tokio::time::Instant::now() + park);
                Ok(())
            }
        }
    }

    async fn before_deadline(&mut self, event: impl Future<Output = ()>) -> Result<(), Refusal> {
        let Some(deadline) = self.deadline else {
            event.await;
            return Ok(());
        };
        if tokio::time::timeout_at(deadline, event).await.is_ok() {
            return Ok(());
        }
        if let Some(parked) = self.parked.take() {
            parked.expired();
        }
        Err(Refusal::ParkOver)
    }

    /// Parks a request that the fence refused, until the tenant's new place is known here, or the hold under which it
    /// was refused has ended without a move.
    async fn wait_for_generation(&mut self, moved_to: u64, releases: u64, bytes: u64) -> Result<(), Refusal> {
        let stopped = self.tenant.park_fenced(bytes, self.core.limits(), Instant::now());
        self.park(Some(stopped))?;
        loop {
            let changed = self.tenant.changed.notified();
            let known = self.tenant.route().generation.get() >= moved_to;
            if known || self.tenant.releases.get() != releases {
                return Ok(());
            }
            self.before_deadline(changed).await?;
        }
    }

    /// What the way of balancing wants to know of the client.
    fn wish(&self, route: &Route, headers: &HeaderMap) -> Wish {
        let mut wish = match route.pool.balance() {
            Balance::ClientAddress => Wish { client: headers::client_digest(headers), ..Wish::default() },
            Balance::Sticky => {
                let named = self.core.cookies().and_then(|cookies| cookies.read(self.tenant.id, headers));
                Wish { sticky: named.and_then(|member| route.pool.place(member)), ..Wish::default() }
            }
            _ => Wish::default(),
        };
        if route.pool.is_spread() {
            let settings = self.core.common.settings.load();
            wish.only = settings.residences.get(&route.name).map(|region| route.pool.region(region));
            if settings.geo.is_some() {
                wish.spot = headers::client_address(headers).and_then(|at| self.core.common.places.find(at).spot);
            }
        }
        wish
    }

    /// `None`: the client has the right one already, or needs none.
    fn new_cookie(&self, route: &Route, wish: Wish, member: MemberId, secure: bool) -> Option<HeaderValue> {
        if route.pool.balance() != Balance::Sticky || wish.sticky == route.pool.place(member) {
            return None;
        }
        Some(self.core.cookies()?.give(self.tenant.id, member, secure))
    }

    /// Sends until something is written, once. `None`: written, and the connection ended without an answer.
    async fn attempt(
        &mut self,
        route: &Rc<Route>,
        mut request: Request<SendBody>,
        mut ticket: Ticket,
        answer_time: Duration,
    ) -> Result<Option<(Response<Incoming>, Lease, Ticket)>, Refusal> {
        let limits = self.core.limits();
        let headers = request.headers_mut();
        headers.insert(headers::BERTH_TENANT, route.key.clone());
        headers.insert(headers::BERTH_PLAN, route.plan.clone());
        headers.insert(headers::BERTH_GENERATION, route.generation_text.clone());
        if self.core.common.places.is_known()
            && let Some(country) =
                headers::client_address(headers).and_then(|at| self.core.common.places.find(at).country)
            && let Ok(country) = HeaderValue::from_bytes(&country)
        {
            headers.insert(headers::BERTH_COUNTRY, country);
        }
        let wish = self.wish(route, headers);
        let secure = route.pool.balance() == Balance::Sticky
            && headers.get(headers::FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let mut hung_up = false;
        loop {
            let leased = upstream::lease(&route.pool, wish, limits, self.sending, || self.core.random()).await;
            let (lease, kept) = leased.map_err(refusal)?;
            if let Some(parked) = self.parked.take() {
                parked.sent_on(Instant::now());
            }
            let send = upstream::send(lease, request, answer_time);
            let attempt = if self.safe {
                send.await
            } else {
                let (attempt, back) = Sent::new(send, ticket).await;
                ticket = back;
                attempt
            };
            match attempt {
                Attempt::Answered(answer, lease) => {
                    self.cookie = self.new_cookie(route, wish, lease.member(), secure);
                    return Ok(Some((answer, lease, ticket)));
                }
                Attempt::Unsent(whole) if kept || !hung_up => {
                    // A new connection that is closed before a word was said: once is a restart, twice is its habit.
                    hung_up |= !kept;
                    request = whole;
                }
                Attempt::Unsent(_) => return Err(Refusal::NoAnswer),
                Attempt::Broken => return Ok(None),
                Attempt::Late => return Err(Refusal::AnswerLate),
            }
        }
    }
}

fn refusal(error: SendError) -> Refusal {
    match error {
        SendError::NoMember => Refusal::NoMember,
        SendError::Connect => Refusal::Unreachable,
    }
}

/// The generation that the fence names, when it refused the request.
fn fenced_at(answer: &Response<Incoming>) -> Option<u64> {
    if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    answer.headers().get(headers::BERTH_FENCED)?.to_str().ok()?.trim().parse().ok()
}

type UnderWay = Pin<Box<dyn Future<Output = Attempt>>>;

/// A request that may write and has been sent. When its client goes away it is still in flight: it goes on in a task of its own
/// until the member has answered, and only then may a hold count it as done.
struct Sent {
    under_way: Option<(UnderWay, Ticket)>,
}

impl Sent {
    fn new(send: impl Future<Output = Attempt> + 'static, ticket: Ticket) -> Self {
        Self { under_way: Some((Box::pin(send), ticket)) }
    }
}

impl Future for Sent {
    type Output = (Attempt, Ticket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (send, _) = self.under_way.as_mut().expect("a future is not polled after it is ready");
        let attempt = std::task::ready!(send.as_mut().poll(cx));
        let (_, ticket) = self.under_way.take().expect("it was there a line ago");
        Poll::Ready((attempt, ticket))
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some((send, ticket)) = self.under_way.take() {
            tokio::task::spawn_local(async move {
                drop(send.await);
                drop(ticket);
            });
        }
    }
}

/// Turns a member's answer into the client's.
#[expect(clippy::too_many_arguments, reason = "everything an answer keeps alive, handed over once")]
fn relay(
    core: &Rc<Core>,
    tenant: &Rc<Tenant>,
    route: &Rc<Route>,
    id: &HeaderValue,
    mut answer: Response<Incoming>,
    lease: Lease,
    ticket: Ticket,
    client_side: Option<OnUpgrade>,
) -> Response<AnswerBody> {
    *answer.version_mut() = Version::HTTP_11;
    let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching && let Some(client_side) = client_side {
        let websocket =
            answer.headers().get(header::UPGRADE).is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let member_side = hyper::upgrade::on(&mut answer);
        let ends = tunnel::Ends { client: client_side, member: member_side, websocket };
        let open = Connected::new(core);
        let busy = lease.into_busy();
        let farewell = drain::farewell(Rc::clone(core), Rc::clone(tenant), busy.id(), route.left.clone());
        tokio::task::spawn_local(tunnel::run(ends, Rc::clone(tenant), farewell, open, busy));
        headers::answer(answer.headers_mut(), id, true);
        return answer.map(|_| AnswerBody::empty());
    }
    if switching {
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
    let member = lease.member();
    answer.map(|incoming| {
        AnswerBody::relayed(Relayed {
            incoming,
            lease: Some(lease),
            // A safe request is over when its answer has begun; one that may write, when it is complete.
            ticket: (!ticket.is_safe()).then_some(ticket),
            tenant: Rc::clone(tenant),
            left: stream.then(|| -> Pin<Box<dyn Future<Output = ()>>> {
                let left = route.left.clone();
                Box::pin(drain::farewell(Rc::clone(core), Rc::clone(tenant), member, left))
            }),
        })
    })
}
