//! One request's way to a member: through the tenant's gate, parked if it has to be, and sent as often as it may be.
//!
//! What may be sent twice, and what never, is decided here and nowhere else. Never reads a body from the client itself.

use crate::{
    answers::Refusal,
    balance::Wish,
    body::{Course, SendBody, UploadLimits},
    core::Core,
    headers,
    hold::{Parked, Stopped},
    serve::standing,
    tenant::{Route, Tenant, Ticket},
    upstream::{self, Attempt, Lease, SendError, Sending},
};
use berth_domain::{Balance, MemberId, Signed};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A large body may take its time; its own idle limit watches it.
const STREAMED_ANSWER_TIME: Duration = Duration::from_hours(1);

/// One request's way to a member.
pub struct Call<'a> {
    core: &'a Rc<Core>,
    tenant: &'a Rc<Tenant>,
    sending: Sending,
    safe: bool,
    parked: Option<Parked>,
    /// Parked at most until then, however often.
    deadline: Option<tokio::time::Instant>,
    /// Tells the client which member it has from now on.
    pub cookie: Option<HeaderValue>,
}

pub type Answered = (Response<Incoming>, Lease, Ticket, Rc<Route>);

impl<'a> Call<'a> {
    pub fn new(core: &'a Rc<Core>, tenant: &'a Rc<Tenant>, sending: Sending, safe: bool) -> Self {
        Self { core, tenant, sending, safe, parked: None, deadline: None, cookie: None }
    }

    pub async fn send_whole(
        &mut self,
        parts: Parts,
        body: &Bytes,
        after: Option<&HeaderMap>,
    ) -> Result<Answered, Refusal> {
        let mut fenced = false;
        let mut broken = false;
        // The first attempt takes the head itself, which has room for what is put in; the copy is for another.
        let copy = parts.clone();
        let mut first = Some(parts);
        loop {
            let (ticket, route) = self.admit(body.len() as u64).await?;
            let releases = self.tenant.releases.get();
            let parts = first.take().unwrap_or_else(|| copy.clone());
            let request = Request::from_parts(parts, SendBody::whole(body, after));
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
            Box::pin(self.wait_for_generation(moved_to, releases, body.len() as u64)).await?;
        }
    }

    pub async fn send_streamed(
        &mut self,
        mut parts: Parts,
        prefix: Bytes,
        rest: Incoming,
        limits: UploadLimits,
    ) -> Result<Answered, Refusal> {
        let (mut ticket, route) = self.admit(prefix.len() as u64).await?;
        let followed = parts.headers.contains_key(header::TRAILER);
        if followed {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        let course = Rc::new(Course::default());
        let body = SendBody::streamed(prefix, rest, followed, limits, Rc::clone(&course), ticket.streams());
        let sent = self.attempt(&route, Request::from_parts(parts, body), ticket, STREAMED_ANSWER_TIME).await;
        course.answered.set(true);
        if let Some(error) = course.failed.get() {
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
            Box::pin(self.before_deadline(changed)).await?;
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
        let stopped = self.tenant.park_fenced(bytes, self.core.limits(), &self.core.common.room, Instant::now());
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
            Balance::ClientAddress => {
                Wish { client: headers::client_digest(headers, |peer| self.core.trusts(peer)), ..Wish::default() }
            }
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
                wish.spot = headers::client_address(headers, |peer| self.core.trusts(peer))
                    .and_then(|at| self.core.common.places.find(at).spot);
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

    /// Proves to the member what the request says of its tenant, where the member's service has a key. Made for each member
    /// that is tried: the next may be of another service, and the request may have waited for the one before.
    fn sign(&self, lease: &Lease, route: &Route, headers: &mut HeaderMap, signed: &mut bool) {
        let signer = lease.signer();
        if let (Some(signer), Some(request_id)) = (&signer, headers.get(headers::REQUEST_ID)) {
            let said = Signed {
                tenant: route.key.as_bytes(),
                generation: route.generation_text.as_bytes(),
                request_id: request_id.as_bytes(),
            };
            let signature = self.core.signature(signer, said);
            headers.insert(headers::BERTH_SIGNATURE, signature);
            *signed = true;
        } else if *signed {
            headers.remove(headers::BERTH_SIGNATURE);
            *signed = false;
        }
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
            && let Some(country) = headers::client_address(headers, |peer| self.core.trusts(peer))
                .and_then(|at| self.core.common.places.find(at).country)
            && let Ok(country) = HeaderValue::from_bytes(&country)
        {
            headers.insert(headers::BERTH_COUNTRY, country);
        }
        let wish = self.wish(route, headers);
        let secure = route.pool.balance() == Balance::Sticky
            && headers.get(headers::FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        let (mut hung_up, mut signed) = (false, false);
        loop {
            let now = Instant::now();
            let leased = upstream::lease(&route.pool, wish, limits, self.sending, now, || self.core.random()).await;
            let (lease, kept) = leased.map_err(refusal)?;
            let since = if kept { now } else { Instant::now() };
            if let Some(parked) = self.parked.take() {
                parked.sent_on(Instant::now());
            }
            self.sign(&lease, route, request.headers_mut(), &mut signed);
            let send = upstream::send(lease, request, since + answer_time, &self.core.waiting);
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
                Attempt::Late(hangs) => {
                    // Who asks for a WebSocket may wait for something of its own.
                    if let Some(busy) = hangs.filter(|_| !self.sending.upgrade) {
                        busy.late();
                    }
                    return Err(Refusal::AnswerLate);
                }
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
