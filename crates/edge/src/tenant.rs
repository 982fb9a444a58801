//! What one core keeps of one tenant: its route in the form that requests need, its gate, its counters.
//!
//! Never shared between cores: everything here is a plain cell.

use crate::{
    body::TenantKeeping,
    hold::{Gate, HoldOrder, Room, Stopped},
    limits::{Buckets, TenantLimits},
    meter::Meter,
    pool::Pool,
    upstream::Upstreams,
};
use berth_domain::{CellName, Generation, MemberId, Network, TenantId, TenantName};
use berth_wire::edge::{RouteState, TenantRoute};
use http::HeaderValue;
use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Served,
    /// Nothing new; what is under way goes on.
    Draining,
    Suspended,
    Gone,
}

/// What a core makes its routes with.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    pub upstreams: &'a Upstreams,
    pub buckets: &'a Buckets,
    pub stop: &'a CancellationToken,
}

/// A route, ready for use.
#[derive(Debug)]
pub struct Route {
    pub name: TenantName,
    pub key: HeaderValue,
    pub plan: HeaderValue,
    pub generation: Generation,
    pub generation_text: HeaderValue,
    pub standing: Standing,
    pub pool: Rc<Pool>,
    pub body_bytes: Option<u64>,
    pub limits: TenantLimits,
    /// Whose requests are served; none: everybody's.
    allow: Box<[Network]>,
    cell: CellName,
    /// Long-lived connections end within this time.
    draining_ms: Option<u32>,
    /// Cancelled when the tenant is elsewhere: long-lived connections to this cell end.
    pub left: CancellationToken,
}

impl Route {
    fn new(from: &TenantRoute, maker: Maker<'_>, left: CancellationToken) -> Self {
        // A key may hold what a header may not (control characters are excluded already, so this is belt and braces).
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap_or(HeaderValue::from_static(""));
        Self {
            name: from.name.clone(),
            key: value(from.key.as_str()),
            plan: value(from.plan.as_str()),
            generation: from.generation,
            generation_text: HeaderValue::from(from.generation.get()),
            standing: match from.state {
                RouteState::Serving | RouteState::Held { .. } => Standing::Served,
                RouteState::Draining { .. } => Standing::Draining,
                RouteState::Suspended => Standing::Suspended,
                RouteState::Gone => Standing::Gone,
            },
            pool: maker.upstreams.pool(&from.members),
            body_bytes: from.body_bytes,
            limits: maker.buckets.of(from.tenant, &from.limits),
            allow: from.allow.as_slice().into(),
            cell: from.cell.clone(),
            draining_ms: match from.state {
                RouteState::Draining { grace_ms } => Some(grace_ms),
                RouteState::Serving | RouteState::Held { .. } | RouteState::Suspended | RouteState::Gone => None,
            },
            left,
        }
    }
}

impl Route {
    /// Whether the tenant serves this client. The address is asked for only where it matters; one that nobody knows is
    /// not allowed.
    pub fn allows(&self, client: impl FnOnce() -> Option<IpAddr>) -> bool {
        self.allow.is_empty() || client().is_some_and(|client| self.allow.iter().any(|net| net.contains(client)))
    }

    /// Within this time a long-lived connection to this member is to end, because it or the tenant is drained.
    pub fn draining_ms(&self, member: MemberId) -> Option<u32> {
        self.draining_ms.or_else(|| self.pool.draining_ms(member))
    }
}

#[derive(Debug)]
pub struct Tenant {
    pub id: TenantId,
    route: RefCell<Rc<Route>>,
    pub gate: RefCell<Gate>,
    /// Told when the route or the gate changed, so that the parked look again.
    pub changed: Notify,
    /// Told when a request left, while a hold waits for that.
    pub finished: Notify,
    /// Told when a hold begins, and when it waits, on all cores, for uploads alone that have had their time, so that they make way.
    pub held: Notify,
    /// Holds that have ended here: a request that the fence refused under one of them may try again after it.
    pub releases: Cell<u64>,
    /// Asked for since it was looked at last.
    pub used: Cell<bool>,
    /// Of bodies of its requests that this core keeps.
    pub keeping: TenantKeeping,
    meter: RefCell<Option<Box<Meter>>>,
}

impl Tenant {
    pub fn new(from: &TenantRoute, maker: Maker<'_>) -> Self {
        Self {
            id: from.tenant,
            route: RefCell::new(Rc::new(Route::new(from, maker, maker.stop.child_token()))),
            gate: RefCell::default(),
            changed: Notify::new(),
            finished: Notify::new(),
            held: Notify::new(),
            releases: Cell::new(0),
            used: Cell::new(true),
            keeping: TenantKeeping::default(),
            meter: RefCell::default(),
        }
    }

    pub fn route(&self) -> Rc<Route> {
        Rc::clone(&self.route.borrow())
    }

    /// Replaces the route. Tunnels and streams into a cell that the tenant has left are told to end, and all of them when
    /// fewer addresses are allowed: whose they are was asked when they began.
    pub fn set_route(&self, from: &TenantRoute, maker: Maker<'_>) {
        let old = self.route();
        let stays = old.cell == from.cell
            && old.generation == from.generation
            && (from.allow.is_empty() || *old.allow == *from.allow)
            && matches!(from.state, RouteState::Serving | RouteState::Held { .. } | RouteState::Draining { .. });
        let left = if stays { old.left.clone() } else { maker.stop.child_token() };
        *self.route.borrow_mut() = Rc::new(Route::new(from, maker, left));
        if !stays {
            old.left.cancel();
        }
        self.changed.notify_waiters();
    }

    /// The tenant is no longer routed: whoever still has it in hand finds it gone.
    pub fn leave(&self) {
        let old = self.route();
        let gone = Route {
            name: old.name.clone(),
            key: old.key.clone(),
            plan: old.plan.clone(),
            generation: old.generation,
            generation_text: old.generation_text.clone(),
            standing: Standing::Gone,
            pool: Rc::clone(&old.pool),
            body_bytes: None,
            limits: old.limits.clone(),
            allow: old.allow.clone(),
            cell: old.cell.clone(),
            draining_ms: None,
            left: old.left.clone(),
        };
        *self.route.borrow_mut() = Rc::new(gone);
        old.left.cancel();
        self.changed.notify_waiters();
    }

    /// Nothing of it is under way, nothing is to be parked, and no token is owed.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        let gate = self.gate.borrow();
        gate.holding().is_none() && gate.is_quiet() && self.route.borrow().limits.are_full(now_ns)
    }

    pub fn hold(&self, order: HoldOrder) {
        self.gate.borrow_mut().hold(order);
        self.held.notify_waiters();
    }

    /// Parks under the hold in force or, refused by the fence without one, within the tenant's budget all the same.
    pub fn park_fenced(&self, bytes: u64, limits: &crate::Limits, room: &Arc<Room>, now: Instant) -> Stopped {
        if let Some(stopped) = self.gate.borrow().park(bytes, now) {
            return stopped;
        }
        let budget = room.budget(self.id, limits.park_requests, limits.park_bytes);
        Gate::park_unordered(&budget, bytes, limits.fence_park, now)
    }

    pub fn count(&self, status: u16, time: Duration) {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.metered(|m| m.count(status, time_us));
    }

    pub fn metered(&self, change: impl FnOnce(&mut Meter)) {
        change(self.meter.borrow_mut().get_or_insert_default());
    }

    /// What was counted since it was taken last. `None`: nothing.
    pub fn take_meter(&self) -> Option<Box<Meter>> {
        self.meter.take()
    }
}

/// A request under way. Dropped when it can change nothing any more.
#[derive(Debug)]
pub struct Ticket {
    tenant: Rc<Tenant>,
    safe: bool,
    upload: Option<Rc<Streaming>>,
}

impl Ticket {
    /// `None`: the tenant is held, and this request is to be parked.
    pub fn take(tenant: &Rc<Tenant>, safe: bool) -> Option<Self> {
        tenant.gate.borrow_mut().enter(safe).then(|| Self { tenant: Rc::clone(tenant), safe, upload: None })
    }

    /// The request's body streams.
    pub fn streams(&mut self) -> Rc<Streaming> {
        let (tenant, counts) = (Rc::clone(&self.tenant), Cell::new(true));
        let upload = Rc::new(Streaming { tenant, safe: self.safe, counts, overdue: Cell::new(false) });
        self.upload = Some(Rc::clone(&upload));
        upload
    }

    pub fn is_safe(&self) -> bool {
        self.safe
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let overdue = self.upload.as_ref().is_some_and(|upload| upload.leave());
        let mut gate = self.tenant.gate.borrow_mut();
        gate.finish(self.safe, overdue);
        if gate.holding().is_some() && gate.busy() == 0 {
            self.tenant.finished.notify_waiters();
        }
    }
}

/// The body of a request under way, which streams.
#[derive(Debug)]
pub struct Streaming {
    pub tenant: Rc<Tenant>,
    safe: bool,
    /// Its request has its ticket, and its body has not come to its end.
    counts: Cell<bool>,
    /// It is among those that have had their time.
    overdue: Cell<bool>,
}

impl Streaming {
    /// A hold waits for it.
    pub fn is_waited_for(&self) -> bool {
        self.counts.get() && self.tenant.gate.borrow().waits_for(self.safe)
    }

    /// A hold waits for it, and it has had its time. `true`: for nothing but such ones, so that it makes way.
    pub fn makes_way(&self) -> bool {
        let mut gate = self.tenant.gate.borrow_mut();
        if !self.overdue.replace(true) {
            gate.set_overdue(self.safe, true);
        }
        gate.waits_for_overdue_alone()
    }

    /// The body is at its end; its request may be under way still.
    pub fn ended(&self) {
        if self.leave() {
            self.tenant.gate.borrow_mut().set_overdue(self.safe, false);
        }
    }

    /// `true`: it was among those that have had their time.
    fn leave(&self) -> bool {
        self.counts.set(false);
        self.overdue.replace(false)
    }
}
