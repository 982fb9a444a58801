//! One core's connections to members: kept, checked, balanced.
//!
//! Never sends twice what may be sent once only: a kept connection that died before hyper wrote to it gives the
//! request back, and that is the only way in which a writing request is ever sent on another connection.

use crate::{Limits, body::SendBody};
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
    task::{Context, Waker},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// A member whose connect failed is passed over for this long while others are there.
const PASSED_OVER: Duration = Duration::from_secs(1);
/// Kept connections per member and core.
const KEPT_MAX: usize = 256;

/// A request could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// The tenant's cell has no member.
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
    member: Rc<Member>,
    wire: Wire,
}

impl Lease {
    /// Lets the connection do what it can, for whoever waits for an answer's body.
    pub fn drive(&mut self, cx: &mut Context<'_>) {
        self.wire.drive(cx);
    }

    pub fn give_back(mut self) {
        let alive = self.wire.is_alive();
        let mut kept = self.member.kept.borrow_mut();
        if alive && kept.len() < KEPT_MAX {
            kept.push(Kept { wire: self.wire, since: Instant::now() });
        }
    }
}

impl Member {
    fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            socket: address.parse().ok(),
            kept: RefCell::default(),
            failed_at: Cell::default(),
        }
    }

    fn passed_over(&self, now: Instant) -> bool {
        self.failed_at.get().is_some_and(|at| now.saturating_duration_since(at) < PASSED_OVER)
    }

    /// The kept connection used last, if it was used within `age` and is alive and idle.
    fn take_kept(self: &Rc<Self>, age: Duration) -> Option<Lease> {
        let mut kept = self.kept.borrow_mut();
        while let Some(mut last) = kept.pop() {
            if last.wire.is_alive() {
                if last.since.elapsed() > age {
                    kept.push(last);
                    return None;
                }
                return Some(Lease { member: Rc::clone(self), wire: last.wire });
            }
        }
        None
    }

    fn close_idle(&self, age: Duration) {
        self.kept.borrow_mut().retain_mut(|k| k.since.elapsed() < age && k.wire.is_alive());
    }

    async fn connect(self: &Rc<Self>, limits: &Limits, upgrades: bool) -> Option<Lease> {
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
        Some(Lease { member: Rc::clone(self), wire: Wire { sender, connection } })
    }
}

/// All members that this core sends to.
#[derive(Debug, Default)]
pub struct Upstreams {
    members: RefCell<HashMap<Box<str>, Weak<Member>>>,
}

impl Upstreams {
    /// The member at an address, the same for all tenants who share it.
    pub fn member(&self, address: &str) -> Rc<Member> {
        let mut members = self.members.borrow_mut();
        if let Some(member) = members.get(address).and_then(Weak::upgrade) {
            return member;
        }
        let member = Rc::new(Member::new(address));
        members.insert(address.into(), Rc::downgrade(&member));
        member
    }

    /// Closes what has been idle for too long, and forgets members that no route names.
    pub fn tidy(&self, age: Duration) {
        self.members.borrow_mut().retain(|_, member| {
            let Some(member) = member.upgrade() else { return false };
            member.close_idle(age);
            true
        });
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

/// The members in the order they are tried: round robin, those that just failed last.
pub fn order(members: &[Rc<Member>], next: &Cell<usize>) -> impl Iterator<Item = Rc<Member>> {
    let start = next.get();
    next.set(start.wrapping_add(1));
    let turn = move |i: usize| start.wrapping_add(i) % members.len();
    let now = Instant::now();
    let fresh = (0..members.len()).map(turn).filter(move |i| !members[*i].passed_over(now));
    let failed = (0..members.len()).map(turn).filter(move |i| members[*i].passed_over(now));
    fresh.chain(failed).map(|i| Rc::clone(&members[i]))
}

/// A connection that is ready for a request, and whether it had been used before.
pub async fn lease(
    members: &[Rc<Member>],
    next: &Cell<usize>,
    limits: &Limits,
    sending: Sending,
) -> Result<(Lease, bool), SendError> {
    if members.is_empty() {
        return Err(SendError::NoMember);
    }
    let age = if sending.idempotent { limits.upstream_idle } else { limits.upstream_fresh };
    for member in order(members, next) {
        if !sending.upgrade
            && let Some(lease) = member.take_kept(age)
        {
            return Ok((lease, true));
        }
        if let Some(lease) = member.connect(limits, sending.upgrade).await {
            return Ok((lease, false));
        }
    }
    Err(SendError::Connect)
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
            Ok(Ok(answer)) => Attempt::Answered(answer, lease),
            Ok(Err(mut error)) => error.take_message().map_or(Attempt::Broken, Attempt::Unsent),
            Err(_) => Attempt::Late,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Member, order};
    use std::{cell::Cell, rc::Rc, time::Instant};

    #[test]
    fn members_take_turns_and_one_that_just_failed_comes_last() {
        let members: Vec<_> = ["a:1", "b:1", "c:1"].iter().map(|a| Rc::new(Member::new(a))).collect();
        let next = Cell::new(0);
        let turn = || order(&members, &next).map(|m| m.address.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!([turn(), turn(), turn(), turn()], ["a:1 b:1 c:1", "b:1 c:1 a:1", "c:1 a:1 b:1", "a:1 b:1 c:1"]);
        members[1].failed_at.set(Some(Instant::now()));
        assert_eq!([turn(), turn()], ["c:1 a:1 b:1", "c:1 a:1 b:1"]);
    }
}
