//! One core's connections to members: made, kept, checked before they are used again.
//!
//! Never sends twice what may be sent once only: a kept connection that died before hyper wrote to it gives the
//! request back, and that is the only way in which a writing request is ever sent on another connection.

use crate::{
    Limits,
    balance::Wish,
    body::SendBody,
    health::{Vital, Vitals},
    pool::{Busy, Pool},
};
use berth_domain::MemberId;
use berth_wire::edge::{EdgeSettings, MemberAddress};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// Kept connections per member and core.
const KEPT_MAX: usize = 256;

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
    /// Known without asking a resolver.
    socket: Option<SocketAddr>,
    kept: RefCell<Vec<Kept>>,
    failed_at: Cell<Option<Instant>>,
    vital: Arc<Vital>,
    /// Requests and tunnels that it has from this core.
    pub busy: Cell<u32>,
}

type Driven = Connection<TokioIo<TcpStream>, SendBody>;

/// One connection to a member. Whoever has a request on it drives it too, in the client's own task: handing every
/// request to a task of the connection's and back costs two turns of the scheduler.
struct Wire {
    sender: SendRequest<SendBody>,
    /// `None`: it has ended, or drives itself because it may be upgraded.
    connection: Option<Pin<Box<Driven>>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("driven", &self.connection.is_some()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Lets the connection do what it can. Its error is the error of the request on it.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    /// Nobody waits for it, so it is asked instead whether its member has closed it.
    fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
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
}

impl Lease {
    /// Lets the connection do what it can, for whoever waits for an answer's body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.wire.drive(cx);
    }

    /// Whose connection it is.
    pub fn member(&self) -> MemberId {
        self.busy.id()
    }

    /// What remains of it when the connection has become a tunnel's.
    pub fn into_busy(self) -> Busy {
        self.busy
    }

    pub fn give_back(mut self) {
        let alive = self.wire.is_alive();
        let mut kept = self.busy.member().kept.borrow_mut();
        if alive && kept.len() < KEPT_MAX {
            kept.push(Kept { wire: self.wire, since: Instant::now() });
        }
    }
}

impl Member {
    fn new(address: &str, vital: Arc<Vital>) -> Self {
        Self {
            address: address.into(),
            socket: address.parse().ok(),
            kept: RefCell::default(),
            failed_at: Cell::default(),
            vital,
            busy: Cell::new(0),
        }
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
    fn take_kept(&self, age: Duration) -> Option<Wire> {
        let mut kept = self.kept.borrow_mut();
        while let Some(mut last) = kept.pop() {
            if last.wire.is_alive() {
                if last.since.elapsed() > age {
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
    }

    async fn connect(&self, limits: &Limits, upgrades: bool) -> Option<Wire> {
        let connected = timeout(limits.connect_time, async {
            match self.socket {
                Some(socket) => TcpStream::connect(socket).await,
                None => TcpStream::connect(&*self.address).await,
            }
        });
        let Ok(Ok(stream)) = connected.await else {
            self.failed_at.set(Some(Instant::now()));
            return None;
        };
        // Without it a small request waits for the acknowledgement of the one before; with an error nothing is lost.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(16 * 1024))
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        self.failed_at.set(None);
        let connection = if upgrades {
            // It becomes the tunnel's, which is a task of its own.
            tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
            None
        } else {
            Some(Box::pin(connection))
        };
        Some(Wire { sender, connection })
    }
}

/// All members that this core sends to.
#[derive(Debug)]
pub struct Upstreams {
    members: RefCell<HashMap<Box<str>, Weak<Member>>>,
    pools: RefCell<HashMap<Vec<MemberAddress>, Weak<Pool>>>,
    settings: RefCell<Arc<EdgeSettings>>,
    vitals: Arc<Vitals>,
    epoch: Instant,
}

impl Upstreams {
    pub fn new(vitals: Arc<Vitals>, epoch: Instant) -> Self {
        let (members, pools) = (RefCell::default(), RefCell::default());
        Self { members, pools, settings: RefCell::default(), vitals, epoch }
    }

    /// The member at an address, the same for all tenants who share it.
    pub fn member(&self, address: &str) -> Rc<Member> {
        let mut members = self.members.borrow_mut();
        if let Some(member) = members.get(address).and_then(Weak::upgrade) {
            return member;
        }
        let member = Rc::new(Member::new(address, self.vitals.of(address)));
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
        pool.set(&self.settings.borrow());
        pools.insert(members.to_vec(), Rc::downgrade(&pool));
        pool
    }

    /// Puts settings in force for the pools there are and those to come.
    pub fn set(&self, settings: Arc<EdgeSettings>) {
        for pool in self.pools.borrow().values().filter_map(Weak::upgrade) {
            pool.set(&settings);
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
    mut random: impl FnMut() -> u64,
) -> Result<(Lease, bool), SendError> {
    let age = if sending.idempotent { limits.upstream_idle } else { limits.upstream_fresh };
    let mut tried = Vec::new();
    loop {
        let Some(busy) = pool.choose(wish, &tried, &mut random) else {
            return Err(if tried.is_empty() { SendError::NoMember } else { SendError::Connect });
        };
        if !sending.upgrade
            && let Some(wire) = busy.member().take_kept(age)
        {
            return Ok((Lease { busy, wire, new: false }, true));
        }
        if let Some(wire) = busy.member().connect(limits, sending.upgrade).await {
            return Ok((Lease { busy, wire, new: true }, false));
        }
        busy.failed();
        tried.push(busy.place());
    }
}

/// How one attempt on one connection ended.
pub enum Attempt {
    Answered(Response<Incoming>, Lease),
    /// The connection had gone before anything was written: the request is whole.
    Unsent(Request<SendBody>),
    /// Something was written, and there was no answer.
    Broken,
    Late,
}

/// Sends on one connection. The future owns everything, so that it can outlive the client who asked.
pub fn send(
    mut lease: Lease,
    request: Request<SendBody>,
    answer_time: Duration,
) -> impl Future<Output = Attempt> + 'static {
    let sent = lease.wire.sender.try_send_request(request);
    async move {
        let mut sent = pin!(sent);
        let answered = poll_fn(|cx| {
            lease.wire.drive(cx);
            sent.as_mut().poll(cx)
        });
        match timeout(answer_time, answered).await {
            Ok(Ok(answer)) => {
                lease.busy.answered();
                Attempt::Answered(answer, lease)
            }
            Ok(Err(mut error)) => {
                // A kept connection may end at any time; a new one that ends without a word is a fault.
                if lease.new {
                    lease.busy.failed();
                }
                error.take_message().map_or(Attempt::Broken, Attempt::Unsent)
            }
            Err(_) => Attempt::Late,
        }
    }
}
