//! What belongs to one core: its look-up, its connections, its counters; and the orders it takes from the coordinator.
//!
//! Never waits for another core, and shares nothing with one while it serves.

use crate::{
    Limits,
    balance::{GOLDEN, mix},
    body::Keeping,
    cluster::Cluster,
    dial::Trust,
    geo::Places,
    health::Vitals,
    hold::{Account, HoldOrder, Room},
    late::Waiting,
    ledger::{Counted, Ledger},
    limits::Buckets,
    pack,
    request_log::Logger,
    routes::{self, Routes},
    routing::{Change, Index},
    sticky::Cookies,
    tenant::{Maker, Tenant},
    tls::Certificates,
    upstream::Upstreams,
};
use arc_swap::ArcSwap;
use berth_domain::{Signed, Signer, TenantId};
use berth_wire::edge::{Compression, EdgeSettings, RouteState, TenantRoute};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::{
    cell::{Cell, RefCell},
    collections::hash_map::Entry,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::{Notify, mpsc::UnboundedSender, oneshot};
use tokio_util::sync::CancellationToken;

/// A piece of memory for request ids.
const IDS_BYTES: usize = 4096;
/// Tenants that a core remembers although they have no requests.
const MET_MAX: usize = 20_000;
/// Tenants looked at in one go, where all are.
const SLICE: usize = 512;

/// The hosts under which the tenant is found.
fn hosts(route: &TenantRoute) -> impl Iterator<Item = &str> {
    routes::keys(route).filter(|_| !matches!(route.state, RouteState::Gone))
}

/// What all cores of an edge have in common.
#[derive(Debug)]
pub struct Common {
    pub limits: Limits,
    pub routes: Arc<Routes>,
    pub buckets: Buckets,
    /// Other edges give out of the same limits.
    pub cluster: Arc<Cluster>,
    pub vitals: Arc<Vitals>,
    /// Where clients are.
    pub places: Arc<Places>,
    pub settings: ArcSwap<EdgeSettings>,
    pub certificates: Arc<Certificates>,
    /// Connections are taken from then on: until it goes, the process before this one takes them.
    pub opened: CancellationToken,
    /// Another process takes new connections; those that are open are this one's to their end.
    pub leaving: CancellationToken,
    /// Open connections of all cores: while one has any, each hears of holds and routes, since a move waits for all.
    pub open: AtomicUsize,
    /// Who vouches for members.
    pub trust: Arc<Trust>,
    /// Of parked bodies.
    pub room: Arc<Room>,
    /// How much of bodies each core keeps.
    pub keep_bytes: u64,
    /// What was carried for whom.
    pub ledger: Arc<Ledger>,
    /// `None`: no request is written down.
    pub request_log: Option<Logger>,
    /// Nanoseconds are counted from here.
    pub epoch: Instant,
}

impl Common {
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What the coordinator asks of a core.
#[derive(Debug)]
pub enum Order {
    /// Puts changes in force; a hold stands beside the route that orders it. Answered when all of them are.
    Apply { changes: Vec<(Change, Option<HoldOrder>)>, done: oneshot::Sender<()> },
    /// Another core could not drain: lets everything of this hold go.
    Lift { tenant: TenantId, serial: u64 },
    /// The control plane has spoken: holds from disk are sure.
    Sure,
    /// The common settings have changed.
    Settings,
    /// Hands over to the ledger what was counted for tenants, and answers with the rest.
    Report(oneshot::Sender<CoreReport>),
}

/// What a core tells the coordinator, unasked.
#[derive(Debug)]
pub enum News {
    /// Nothing that may write is in flight here any more.
    Drained { serial: u64 },
    /// Something still was when the time was over; this core has let go.
    Slow { serial: u64, in_flight: u32 },
    /// The hold ended and its last request has left.
    Over { serial: u64, account: Account },
}

/// A core's own counters at one moment, when it has handed over those of tenants.
#[derive(Debug, Default)]
pub struct CoreReport {
    pub unknown_hosts: u64,
    pub refused: u64,
    pub connections: usize,
    /// Bytes of bodies that are kept.
    pub kept_bytes: u64,
}

/// One core.
pub struct Core {
    pub common: Arc<Common>,
    /// The tenants this core has met.
    index: RefCell<Index<Tenant>>,
    /// Tenants that are routed no more and of whom something may still be under way.
    departed: RefCell<Vec<Rc<Tenant>>>,
    /// Tenants without requests are being forgotten.
    sweeping: Cell<bool>,
    /// What was counted and is still to be handed over.
    counted: RefCell<Counted>,
    pub upstreams: Upstreams,
    /// This edge is drained: long-lived connections end within this time.
    draining_ms: Cell<Option<u32>>,
    /// Cancelled when the drain in force began; a new one when it was taken back.
    winding_down: RefCell<CancellationToken>,
    /// `None`: no member is remembered for anybody.
    cookies: RefCell<Option<Rc<Cookies>>>,
    /// Plain requests go to `https://` where there is a certificate.
    redirects: Cell<bool>,
    /// Where they go, when not to 443.
    https_port: Cell<Option<u16>>,
    hsts: RefCell<Option<HeaderValue>>,
    /// Of answers that have none of this name.
    headers: RefCell<Rc<[(HeaderName, HeaderValue)]>>,
    compression: RefCell<Option<Rc<Compression>>>,
    /// This core takes no new connection any more. The tokens that say so are all cores', and take a lock to look at.
    pub ending: Cell<bool>,
    /// Held by each answer that is being made smaller, and once by this.
    pub packing: Rc<()>,
    pub news: UnboundedSender<News>,
    /// The edge is going: long-lived connections end.
    pub stop: CancellationToken,
    pub unknown_hosts: Cell<u64>,
    /// Requests refused before their tenant was known.
    pub refused: Cell<u64>,
    connections: Cell<usize>,
    /// Requests under way and WebSockets on all connections of HTTP/2.
    pub streams: Rc<Cell<usize>>,
    /// Told when a connection has ended, for the listener that waits for room.
    pub room: Notify,
    random: Cell<u64>,
    /// Whom members owe an answer.
    pub waiting: Rc<Waiting>,
    /// Of bodies that are kept until they are there whole, and for sending once more.
    pub keeping: Arc<Keeping>,
    /// Where the next request ids and signatures are written.
    ids: RefCell<BytesMut>,
}

impl Core {
    pub fn new(common: Arc<Common>, news: UnboundedSender<News>, stop: CancellationToken) -> Self {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let core = Self {
            index: RefCell::default(),
            departed: RefCell::default(),
            sweeping: Cell::new(false),
            counted: RefCell::default(),
            upstreams: Upstreams::new(Arc::clone(&common.vitals), Arc::clone(&common.trust), common.epoch),
            draining_ms: Cell::new(None),
            winding_down: RefCell::default(),
            cookies: RefCell::default(),
            redirects: Cell::new(false),
            https_port: Cell::new(None),
            hsts: RefCell::default(),
            headers: RefCell::new(Rc::new([])),
            compression: RefCell::default(),
            ending: Cell::new(false),
            packing: Rc::new(()),
            keeping: Arc::new(Keeping::new(common.keep_bytes)),
            common,
            news,
            stop,
            unknown_hosts: Cell::new(0),
            refused: Cell::new(0),
            connections: Cell::new(0),
            streams: Rc::default(),
            room: Notify::new(),
            random: Cell::new(seed),
            waiting: Rc::default(),
            ids: RefCell::new(BytesMut::with_capacity(IDS_BYTES)),
        };
        core.set_settings();
        core
    }

    fn set_settings(&self) {
        let settings = self.common.settings.load_full();
        *self.cookies.borrow_mut() = Cookies::new(settings.cookie_key.expose()).map(Rc::new);
        self.redirects.set(settings.https.redirect);
        self.https_port.set(settings.https.port.filter(|port| *port != 443));
        let hsts = settings.https.hsts.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        *self.hsts.borrow_mut() = hsts;
        let headers = settings.headers.iter();
        *self.headers.borrow_mut() = headers.filter_map(|(n, v)| Some((n.parse().ok()?, v.parse().ok()?))).collect();
        *self.compression.borrow_mut() = settings.compression.clone().filter(|_| pack::CAN).map(Rc::new);
        let draining_ms = settings.draining_ms;
        self.upstreams.set(settings);
        let before = self.draining_ms.replace(draining_ms);
        if before.is_none() && draining_ms.is_some() {
            self.winding_down.borrow().cancel();
        } else if before.is_some() && draining_ms.is_none() {
            self.winding_down.take();
        }
        if before != draining_ms {
            for tenant in self.index.borrow().tenants() {
                tenant.changed.notify_waiters();
            }
        }
    }

    pub fn redirects(&self) -> bool {
        self.redirects.get()
    }

    /// The port of `https://`, when it has to be named.
    pub fn https_port(&self) -> Option<u16> {
        self.https_port.get()
    }

    /// Adds to an answer what the stack file says of all, and never over what the application says itself.
    pub fn dress(&self, headers: &mut HeaderMap, secure: bool) {
        if secure && let Some(hsts) = &*self.hsts.borrow() {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
        for (name, value) in &**self.headers.borrow() {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }

    pub fn compression(&self) -> Option<Rc<Compression>> {
        self.compression.borrow().clone().filter(|_| Rc::strong_count(&self.packing) <= pack::AT_ONCE)
    }

    pub fn draining_ms(&self) -> Option<u32> {
        self.draining_ms.get()
    }

    /// Cancelled when kept connections are to end with their request.
    pub fn winding_down(&self) -> CancellationToken {
        self.winding_down.borrow().clone()
    }

    /// Nobody is to follow on a connection that is answered now.
    pub fn is_going(&self) -> bool {
        self.draining_ms.get().is_some() || self.ending.get()
    }

    pub fn cookies(&self) -> Option<Rc<Cookies>> {
        self.cookies.borrow().clone()
    }

    /// A request id: unique, in order of time, not secret. The generator is this core's own (splitmix64), because
    /// the library's goes through a lock that all threads share; and a hundred ids lie in one piece of memory.
    pub fn request_id(&self) -> HeaderValue {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let (a, b) = (self.random().to_be_bytes(), self.random().to_be_bytes());
        let bytes = [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1]];
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid();
        let mut ids = self.ids.borrow_mut();
        ids.extend_from_slice(id.hyphenated().encode_lower(&mut [0; uuid::fmt::Hyphenated::LENGTH]).as_bytes());
        HeaderValue::from_maybe_shared(ids.split().freeze()).expect("hexadecimal digits and dashes are a header value")
    }

    /// A signature of now, written where request ids are.
    pub fn signature(&self, signer: &Signer, signed: Signed<'_>) -> HeaderValue {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut room = self.ids.borrow_mut();
        room.extend_from_slice(signer.sign(signed, since.as_secs()).as_bytes());
        HeaderValue::from_maybe_shared(room.split().freeze()).expect("digits, letters, `=` and `,` are a header value")
    }

    pub fn limits(&self) -> &Limits {
        &self.common.limits
    }

    /// What this peer says of its own client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.limits().trusted_peers.iter().any(|network| network.contains(peer))
    }

    /// A moment of the edge's own clock.
    pub fn ns(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.common.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn maker(&self) -> Maker<'_> {
        Maker { upstreams: &self.upstreams, buckets: &self.common.buckets, stop: &self.stop }
    }

    /// Whose request this is. A tenant met for the first time is made ready for requests.
    pub fn lookup(&self, host: &str, path: &str) -> Option<Rc<Tenant>> {
        // Where paths divide a host, only the routes of all know every division. Read first: a division that comes
        // while they are asked makes what is remembered old.
        let divisions = self.common.routes.divisions();
        if let Some(tenant) = self.index.borrow().lookup(host, divisions) {
            tenant.used.set(true);
            return Some(Rc::clone(tenant));
        }
        let (owner, exact) = self.common.routes.find(host, path)?;
        let known = self.index.borrow().tenant(owner.tenant).cloned();
        let tenant = known.unwrap_or_else(|| {
            let route = owner.route();
            let tenant = Rc::new(Tenant::new(&route, self.maker()));
            self.index.borrow_mut().put(route.tenant, &tenant, hosts(&route));
            tenant
        });
        if !self.common.routes.is_divided(host, exact) {
            self.index.borrow_mut().whole(host, owner.tenant, exact, divisions);
        }
        tenant.used.set(true);
        Some(tenant)
    }

    /// Forgets tenants without a request for a while, when more have been met than are worth their memory.
    pub fn forget_idle(self: &Rc<Self>) {
        if self.index.borrow().len() <= MET_MAX || self.sweeping.replace(true) {
            return;
        }
        let core = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let ids = core.index.borrow().ids();
            let mut aliases_are_known = true;
            for slice in ids.chunks(SLICE) {
                let now_ns = core.ns(Instant::now());
                for id in slice {
                    let idle = |tenant: &Tenant| !tenant.used.replace(false) && tenant.is_idle(now_ns);
                    let removed = core.index.borrow_mut().remove_unused(*id, idle);
                    if let Some(tenant) = removed {
                        core.gather(&tenant);
                        // Once: who is asked for after that, under whatever name, stays until the next sweep.
                        if std::mem::take(&mut aliases_are_known) {
                            core.index.borrow_mut().forget_aliases();
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
            core.sweeping.set(false);
        });
    }

    /// Takes from a tenant what was counted for it.
    fn gather(&self, tenant: &Tenant) {
        let Some(meter) = tenant.take_meter() else { return };
        match self.counted.borrow_mut().entry(tenant.id) {
            Entry::Occupied(mut kept) => **kept.get_mut() += &*meter,
            Entry::Vacant(slot) => {
                slot.insert(meter);
            }
        }
    }

    /// Hands over what was gathered; nothing of it is handed over again.
    fn hand_over(&self) -> CoreReport {
        self.common.ledger.hand(self.counted.take());
        CoreReport {
            unknown_hosts: self.unknown_hosts.get(),
            refused: self.refused.get(),
            connections: self.connections.get(),
            kept_bytes: self.keeping.bytes(),
        }
    }

    /// Hands over all that was counted, a few tenants at a time, between which requests have their turn.
    async fn report(&self) -> CoreReport {
        let ids = self.index.borrow().ids();
        for slice in ids.chunks(SLICE) {
            for id in slice {
                if let Some(tenant) = self.index.borrow().tenant(*id) {
                    self.gather(tenant);
                }
            }
            tokio::task::yield_now().await;
        }
        self.gather_departed();
        self.hand_over()
    }

    /// Who is in nobody's hand any more counts nothing more.
    fn gather_departed(&self) {
        self.departed.borrow_mut().retain(|tenant| {
            self.gather(tenant);
            Rc::strong_count(tenant) > 1
        });
    }

    /// Client connections open, tunnels among them.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    pub fn random(&self) -> u64 {
        let state = self.random.get();
        self.random.set(state.wrapping_add(GOLDEN));
        mix(state)
    }

    pub fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Apply { changes, done } => {
                for (change, hold) in changes {
                    self.apply(&change, hold);
                }
                // Nobody waits for the answer any more only when the edge is going.
                let _ = done.send(());
            }
            Order::Lift { tenant, serial } => {
                let tenant = self.index.borrow().tenant(tenant).cloned();
                if let Some(tenant) = tenant
                    && tenant.gate.borrow().holding() == Some(serial)
                {
                    self.release(&tenant);
                    tenant.changed.notify_waiters();
                }
            }
            Order::Sure => {
                for tenant in self.index.borrow().tenants() {
                    tenant.gate.borrow_mut().sure();
                    tenant.changed.notify_waiters();
                }
            }
            Order::Settings => self.set_settings(),
            Order::Report(answer) => {
                let core = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    // Who asked may have given up; what was counted is handed over all the same.
                    let _ = answer.send(core.report().await);
                });
            }
        }
    }

    fn apply(self: &Rc<Self>, change: &Change, hold: Option<HoldOrder>) {
        let route = match change {
            Change::Put(route) => route,
            Change::Remove(tenant) => {
                self.index.borrow_mut().forget_aliases();
                let removed = self.index.borrow_mut().remove(*tenant);
                if let Some(gone) = removed {
                    self.release(&gone);
                    gone.leave();
                    // What was carried was carried, and what is under way is counted when it ends.
                    self.departed.borrow_mut().push(gone);
                }
                return;
            }
        };
        let known = self.index.borrow().tenant(route.tenant).cloned();
        if known.is_some() || !route.patterns.is_empty() {
            self.index.borrow_mut().forget_aliases();
        }
        let met = known.is_some() || self.index.borrow().knows_any(hosts(route));
        if !met && hold.is_none() {
            // It is found in the routes of all when its first request comes.
            return;
        }
        let tenant = known.clone().unwrap_or_else(|| Rc::new(Tenant::new(route, self.maker())));
        self.index.borrow_mut().put(route.tenant, &tenant, hosts(route));
        match hold {
            Some(order) => self.hold(&tenant, order),
            None => self.release(&tenant),
        }
        // After the gate: whoever wakes by it finds both as they are to be.
        if known.is_some() {
            tenant.set_route(route, self.maker());
        }
    }

    fn hold(self: &Rc<Self>, tenant: &Rc<Tenant>, order: HoldOrder) {
        let (serial, drain, in_time) = (order.serial, order.drain, Arc::clone(&order.in_time));
        tenant.hold(order);
        let (core, tenant) = (Rc::clone(self), Rc::clone(tenant));
        tokio::task::spawn_local(async move {
            let drained = tokio::time::timeout(drain, async {
                loop {
                    let (finished, overdue_alone) = (tenant.finished.notified(), in_time.none_left.notified());
                    if tenant.gate.borrow().holding() != Some(serial) || tenant.gate.borrow().busy() == 0 {
                        return;
                    }
                    if in_time.is_over() {
                        // Those who found something else missing, on whichever core, look again.
                        tenant.held.notify_waiters();
                    }
                    tokio::select! {
                        () = finished => {}
                        () = overdue_alone => {}
                    }
                }
            });
            let drained = drained.await.is_ok();
            let (holding, in_flight) = (tenant.gate.borrow().holding(), tenant.gate.borrow().busy());
            if holding != Some(serial) {
                // Lifted because of another core, which adds up what was in flight; or followed, and nobody asks.
                let _ = core.news.send(News::Slow { serial, in_flight });
            } else if drained || in_flight == 0 {
                let _ = core.news.send(News::Drained { serial });
            } else {
                core.release(&tenant);
                tenant.changed.notify_waiters();
                let _ = core.news.send(News::Slow { serial, in_flight });
            }
        });
    }

    /// Opens the gate. The parked are woken by the caller, once the route is the right one.
    fn release(self: &Rc<Self>, tenant: &Rc<Tenant>) {
        let Some((serial, tally)) = tenant.gate.borrow_mut().release() else { return };
        tenant.releases.set(tenant.releases.get() + 1);
        tenant.finished.notify_waiters();
        let core = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let account = tally.settled().await;
            let _ = core.news.send(News::Over { serial, account });
        });
    }
}

impl Drop for Core {
    /// Hands over the rest: requests that were cut with their tasks have been counted by now, for each has the core in hand.
    fn drop(&mut self) {
        for tenant in self.index.borrow().tenants() {
            self.gather(tenant);
        }
        self.gather_departed();
        self.hand_over();
    }
}

/// Counts a client's connection while it lives.
pub struct Connected(Rc<Core>);

impl Connected {
    pub fn new(core: &Rc<Core>) -> Self {
        core.connections.set(core.connections.get() + 1);
        core.common.open.fetch_add(1, Ordering::AcqRel);
        Self(Rc::clone(core))
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.common.open.fetch_sub(1, Ordering::AcqRel);
        self.0.room.notify_one();
    }
}
