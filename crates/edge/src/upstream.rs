//! One core's connections to members: made, kept, checked before they are used again.
//!
//! Never sends twice what may be sent once only: a kept connection that died before hyper wrote to it gives the
//! request back, and that is the only way in which a writing request is ever sent on another connection.

use crate::{
    Limits,
    balance::Wish,
    body::SendBody,
    dial::{self, Manner, OnThisCore, Stream, Target, Trust, Unreached, Way},
    headers,
    health::{Vital, Vitals},
    late::Waiting,
    pool::{Busy, Pool},
};
use berth_domain::{MemberId, Signer, Speaks};
use berth_wire::edge::{EdgeSettings, MemberAddress, ServiceSettings};
use futures_util::future::Either;
use http::{Request, Response};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};
/// Kept connections per member and core.
const KEPT_MAX: usize = 256;
/// An HTTP/2 connection with requests on it is asked so often whether its member is there, and given up after the other.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIME: Duration = Duration::from_secs(5);
/// Requests at once on one connection of HTTP/2 to a member: common servers take 100 or 128.
const STREAMS_MAX: u32 = 64;
/// What a member may send of one answer before its client has taken it. All streams together fit into the connection's
/// window: a client that reads nothing holds up its own answer and nobody else's.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// A request could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The tenant's cell has no member that is well.
    NoMember,
    /// No member took a connection. Nothing was sent.
    Connect,
}

/// One member's address and the connections kept to it.
#[derive(Debug)]
pub struct Member {
    address: Box<str>,
    target: Target,
    /// What is spoken there, as it was said and ready for use.
    way: RefCell<(Manner, Way)>,
    kept: RefCell<Vec<Kept>>,
    /// Connections of HTTP/2 that requests share.
    shared: RefCell<Vec<Shared>>,
    failed_at: Cell<Option<Instant>>,
    vital: Arc<Vital>,
    /// Requests and tunnels that it has from this core.
    pub busy: Cell<u32>,
    /// Requests of this core that it has answered.
    pub answers: Cell<u64>,
}

type Driven = http1::Connection<TokioIo<Stream>, SendBody>;

/// One connection to a member.
enum Wire {
    /// Whoever has a request on it drives it too, in the client's own task: handing every request to a task of the
    /// connection's and back costs two turns of the scheduler.
    Http1 {
        sender: http1::SendRequest<SendBody>,
        /// `None`: it has ended, or drives itself because it may be upgraded.
        connection: Option<Pin<Box<Driven>>>,
    },
    /// Many requests at once, and driven by a task of its own.
    Http2(http2::SendRequest<SendBody>, Counted),
}

/// One connection of HTTP/2. Beyond [`STREAMS_MAX`] requests the next ones get another: a member that takes no more makes
/// all of them wait, whosever they are.
#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<SendBody>,
    streams: Rc<Cell<u32>>,
    since: Instant,
}

/// A request on such a connection, counted while this lives.
struct Counted(Rc<Cell<u32>>);

impl Counted {
    fn on(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Http2(..)) { "Http2" } else { "Http1" })
    }
}

impl Wire {
    /// Lets the connection do what it can. Its error is the error of the request on it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Http1 { connection: slot, .. } = self
            && let Some(connection) = slot
            && connection.as_mut().poll(cx).is_ready()
        {
            *slot = None;
        }
    }

    /// Nobody waits for it, so it is asked instead whether its member has closed it.
    fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        match self {
            Self::Http1 { sender, connection } => connection.is_some() && sender.is_ready(),
            Self::Http2(sender, _) => !sender.is_closed(),
        }
    }
}

#[derive(Debug)]
struct Kept {
    wire: Wire,
    since: Instant,
}

/// A connection in use. Dropped: closed. Given back: kept for the next request.
#[derive(Debug)]
pub struct Lease {
    busy: Busy,
    wire: Wire,
    /// Never used before.
    new: bool,
    /// Its request had no body, so that nothing of it can be on its way when the answer is whole.
    bodiless: bool,
}

impl Lease {
    fn new(busy: Busy, wire: Wire, new: bool) -> Self {
        Self { busy, wire, new, bodiless: false }
    }

    /// Lets the connection do what it can, for whoever waits for an answer's body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.wire.drive(cx);
    }

    /// Whose connection it is.
    pub fn member(&self) -> MemberId {
        self.busy.id()
    }

    /// What that member is shown that a request came through here.
    pub fn signer(&self) -> Option<Rc<Signer>> {
        self.busy.signer()
    }

    /// What remains of it when the connection has become a tunnel's.
    pub fn into_busy(self) -> Busy {
        self.busy
    }

    pub fn give_back(mut self) {
        // It is asked before it is used again in any case; what is left of a body has to be told now.
        let alive = self.bodiless || self.wire.is_alive();
        if let Wire::Http2(_, Counted(streams)) = &self.wire {
            let mut all = self.busy.member().shared.borrow_mut();
            if let Some(shared) = all.iter_mut().find(|shared| Rc::ptr_eq(&shared.streams, streams)) {
                shared.since = Instant::now();
            }
            return;
        }
        let mut kept = self.busy.member().kept.borrow_mut();
        if alive && kept.len() < KEPT_MAX {
            kept.push(Kept { wire: self.wire, since: Instant::now() });
        }
    }
}

impl Member {
    fn new(address: &str, vital: Arc<Vital>, trust: &Trust) -> Self {
        let target = Target::new(address);
        let manner = target.manner(&ServiceSettings::default());
        Self {
            address: address.into(),
            way: RefCell::new((manner.clone(), trust.way(&manner))),
            target,
            kept: RefCell::default(),
            shared: RefCell::default(),
            failed_at: Cell::default(),
            vital,
            busy: Cell::new(0),
            answers: Cell::new(0),
        }
    }

    /// Speaks as its service says from now on. Connections that were made otherwise are kept no longer.
    pub fn set(&self, service: &ServiceSettings, trust: &Trust) {
        let manner = self.target.manner(service);
        if self.way.borrow().0 == manner {
            return;
        }
        let way = trust.way(&manner);
        *self.way.borrow_mut() = (manner, way);
        self.kept.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    fn is_secure(&self) -> bool {
        self.way.borrow().0.speaks == Speaks::Https
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn vital(&self) -> &Arc<Vital> {
        &self.vital
    }

    /// Its last connect failed, not longer ago than this.
    pub fn failed_within(&self, time: Duration) -> bool {
        self.failed_at.get().is_some_and(|at| at.elapsed() < time)
    }

    /// The kept connection used last, if it was used within `age` and is alive and idle.
    fn take_kept(&self, age: Duration, now: Instant) -> Option<Wire> {
        let mut all = self.shared.borrow_mut();
        let usable = |shared: &&mut Shared| {
            !shared.sender.is_closed() && shared.streams.get() < STREAMS_MAX && now.duration_since(shared.since) <= age
        };
        if let Some(shared) = all.iter_mut().find(usable) {
            shared.since = now;
            return Some(Wire::Http2(shared.sender.clone(), Counted::on(&shared.streams)));
        }
        drop(all);
        let mut kept = self.kept.borrow_mut();
        while let Some(mut last) = kept.pop() {
            if last.wire.is_alive() {
                if now.duration_since(last.since) > age {
                    kept.push(last);
                    return None;
                }
                return Some(last.wire);
            }
        }
        None
    }

    fn close_idle(&self, age: Duration) {
        self.kept.borrow_mut().retain_mut(|k| k.since.elapsed() < age && k.wire.is_alive());
        self.shared
            .borrow_mut()
            .retain(|shared| !shared.sender.is_closed() && (shared.streams.get() > 0 || shared.since.elapsed() < age));
    }

    async fn connect(&self, limits: &Limits, upgrades: bool) -> Result<Wire, Unreached> {
        let way = self.way.borrow().1.clone();
        let connected = dial::dial(&self.target, &way, upgrades, limits.connect_time).await;
        let (stream, http2) = connected.inspect_err(|_| self.failed_at.set(Some(Instant::now())))?;
        let stream = TokioIo::new(stream);
        if http2 {
            let (sender, connection) = http2::Builder::new(OnThisCore)
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIME)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .handshake(stream)
                .await
                .map_err(Unreached::Handshake)?;
            // Its error is the error of the requests on it.
            tokio::task::spawn_local(async move { drop(connection.await) });
            self.failed_at.set(None);
            let streams = Rc::default();
            let wire = Wire::Http2(sender.clone(), Counted::on(&streams));
            self.shared.borrow_mut().push(Shared { sender, streams, since: Instant::now() });
            return Ok(wire);
        }
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(16 * 1024))
            .handshake(stream)
            .await
            .map_err(Unreached::Handshake)?;
        self.failed_at.set(None);
        let connection = if upgrades {
            // It becomes the tunnel's, which is a task of its own.
            tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
            None
        } else {
            Some(Box::pin(connection))
        };
        Ok(Wire::Http1 { sender, connection })
    }
}

/// All members that this core sends to.
#[derive(Debug)]
pub struct Upstreams {
    members: RefCell<HashMap<Box<str>, Weak<Member>>>,
    pools: RefCell<HashMap<Vec<MemberAddress>, Weak<Pool>>>,
    settings: RefCell<Arc<EdgeSettings>>,
    vitals: Arc<Vitals>,
    pub trust: Arc<Trust>,
    epoch: Instant,
}

impl Upstreams {
    pub fn new(vitals: Arc<Vitals>, trust: Arc<Trust>, epoch: Instant) -> Self {
        let (members, pools) = (RefCell::default(), RefCell::default());
        Self { members, pools, settings: RefCell::default(), vitals, trust, epoch }
    }

    /// The member at an address, the same for all tenants who share it.
    pub fn member(&self, address: &str) -> Rc<Member> {
        let mut members = self.members.borrow_mut();
        if let Some(member) = members.get(address).and_then(Weak::upgrade) {
            return member;
        }
        let member = Rc::new(Member::new(address, self.vitals.of(address), &self.trust));
        members.insert(address.into(), Rc::downgrade(&member));
        member
    }

    /// The pool of these members, the same for all tenants of their cell.
    pub fn pool(&self, members: &[MemberAddress]) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(members).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = Rc::new(Pool::new(members, self, self.epoch));
        pool.set(&self.settings.borrow(), &self.trust);
        pools.insert(members.to_vec(), Rc::downgrade(&pool));
        pool
    }

    /// Puts settings in force for the pools there are and those to come.
    pub fn set(&self, settings: Arc<EdgeSettings>) {
        for pool in self.pools.borrow().values().filter_map(Weak::upgrade) {
            pool.set(&settings, &self.trust);
        }
        *self.settings.borrow_mut() = settings;
    }

    /// Closes what has been idle for too long, and forgets members that no route names.
    pub fn tidy(&self, age: Duration) {
        self.members.borrow_mut().retain(|_, member| {
            let Some(member) = member.upgrade() else { return false };
            member.close_idle(age);
            true
        });
        self.pools.borrow_mut().retain(|_, pool| pool.strong_count() > 0);
    }
}

/// What the sender of a request knows about it.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// May be carried out twice.
    pub idempotent: bool,
    /// Wants a connection of its own, to be upgraded.
    pub upgrade: bool,
}

/// A connection that is ready for a request, and whether it had been used before.
pub async fn lease(
    pool: &Rc<Pool>,
    wish: Wish,
    limits: &Limits,
    sending: Sending,
    now: Instant,
    mut random: impl FnMut() -> u64,
) -> Result<(Lease, bool), SendError> {
    let age = if sending.idempotent { limits.upstream_idle } else { limits.upstream_fresh };
    let mut tried = Vec::new();
    loop {
        let Some(busy) = pool.choose(wish, &tried, &mut random) else {
            return Err(if tried.is_empty() { SendError::NoMember } else { SendError::Connect });
        };
        if !sending.upgrade
            && let Some(wire) = busy.member().take_kept(age, now)
        {
            return Ok((Lease::new(busy, wire, false), true));
        }
        match Box::pin(busy.member().connect(limits, sending.upgrade)).await {
            Ok(wire) => return Ok((Lease::new(busy, wire, true), false)),
            Err(why) => {
                busy.failed(&why);
                tried.push(busy.place());
            }
        }
    }
}

/// How one attempt on one connection ended.
pub enum Attempt {
    Answered(Response<Incoming>, Lease),
    /// The connection had gone before anything was written: the request is whole.
    Unsent(Request<SendBody>),
    /// Something was written, and there was no answer.
    Broken,
    /// There was none in time. With whom it was, where the member had all of it and has answered nobody since.
    Late(Option<Busy>),
}

/// Sends on one connection. The future owns everything, so that it can outlive the client who asked.
pub fn send(
    mut lease: Lease,
    mut request: Request<SendBody>,
    until: Instant,
    waiting: &Rc<Waiting>,
) -> impl Future<Output = Attempt> + use<> {
    lease.bodiless = request.body().is_end_stream();
    // It has all of the request at once: if no answer comes, it is not the client who makes it wait.
    let whole = matches!(request.body(), SendBody::Whole(..));
    let answers = lease.busy.member().answers.get();
    let waiting = Rc::clone(waiting);
    let sent = match &mut lease.wire {
        Wire::Http1 { sender, .. } => {
            headers::fit_http1(&mut request);
            Either::Left(sender.try_send_request(request))
        }
        Wire::Http2(sender, _) => {
            headers::fit_http2(&mut request, lease.busy.member().is_secure());
            Either::Right(sender.try_send_request(request))
        }
    };
    async move {
        let mut sent = pin!(sent);
        let answered = poll_fn(|cx| {
            lease.wire.drive(cx);
            sent.as_mut().poll(cx)
        });
        match Waiting::within(&waiting, until, answered).await {
            Some(Ok(answer)) => {
                lease.busy.answered();
                Attempt::Answered(answer, lease)
            }
            Some(Err(mut error)) => {
                // A kept connection may end at any time; a new one that ends without a word is a fault.
                if lease.new {
                    lease.busy.failed(error.error());
                }
                error.take_message().map_or(Attempt::Broken, Attempt::Unsent)
            }
            None => {
                // One that answers others is slow with this request, not with all.
                let hangs = whole && lease.busy.member().answers.get() == answers;
                Attempt::Late(hangs.then(|| lease.into_busy()))
            }
        }
    }
}
