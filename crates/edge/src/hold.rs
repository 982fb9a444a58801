//! Parking a tenant's requests for the length of a cut-over: what is counted, what is let through, when it is over.
//!
//! Pure: knows no socket, and no clock but the instants it is given. Each core has a [`Gate`] per tenant; what the
//! cores of one edge share is the [`Budget`], touched only by requests that are being parked, and [`InTime`], touched
//! only while a hold waits.

use berth_domain::TenantId;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// How many bytes of bodies one edge parks at once, on all cores and of all tenants together: many small pauses are one
/// large one.
#[derive(Debug)]
pub struct Room {
    bytes: AtomicU64,
    bytes_max: u64,
    /// For as long as something of the tenant is parked or held.
    budgets: Mutex<HashMap<TenantId, Weak<Budget>>>,
}

impl Room {
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max, budgets: Mutex::default() }
    }

    /// The tenant's budget: one for all cores, whether a hold or the fence has its requests parked.
    pub fn budget(self: &Arc<Self>, tenant: TenantId, requests_max: u32, bytes_max: u64) -> Arc<Budget> {
        // Whoever panicked while holding it had at most added or removed whole budgets.
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = budgets.get(&tenant).and_then(Weak::upgrade) {
            return known;
        }
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::new(Budget::new(requests_max, bytes_max, self));
        budgets.insert(tenant, Arc::downgrade(&budget));
        budget
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = held.saturating_add(bytes) <= self.bytes_max;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How much of one tenant may be parked at once, on all cores together.
#[derive(Debug)]
pub struct Budget {
    requests: AtomicU32,
    bytes: AtomicU64,
    requests_max: u32,
    bytes_max: u64,
    room: Arc<Room>,
}

impl Budget {
    pub fn new(requests_max: u32, bytes_max: u64, room: &Arc<Room>) -> Self {
        let room = Arc::clone(room);
        Self { requests: AtomicU32::new(0), bytes: AtomicU64::new(0), requests_max, bytes_max, room }
    }

    /// Takes room for one request, or leaves everything as it was.
    fn take(&self, bytes: u64) -> bool {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = requests < self.requests_max && held.saturating_add(bytes) <= self.bytes_max;
        let fits = fits && self.room.take(bytes);
        if !fits {
            self.free(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        self.free(bytes);
        self.room.give_back(bytes);
    }

    fn free(&self, bytes: u64) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one hold came to on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// When the first request was parked.
    pub first: Option<Instant>,
    /// When the last one was sent on.
    pub last: Option<Instant>,
    pub held: u32,
    pub expired: u32,
}

impl Account {
    /// The two of them as one: the earliest first, the latest last.
    pub fn and(self, other: Self) -> Self {
        let earliest = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            first: earliest(self.first, other.first),
            last: self.last.max(other.last),
            held: self.held + other.held,
            expired: self.expired + other.expired,
        }
    }

    /// From the first parked to the last sent on. Nothing sent on: there was no pause that ended.
    pub fn pause_ms(self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) => last.saturating_duration_since(first).as_secs_f64() * 1000.0,
            _ => 0.0,
        }
    }
}

/// The requests that one hold has parked on one core.
#[derive(Debug)]
pub struct Tally {
    account: RefCell<Account>,
    waiting: Cell<u32>,
    none_waiting: Notify,
}

impl Tally {
    fn new() -> Rc<Self> {
        Rc::new(Self { account: RefCell::default(), waiting: Cell::new(0), none_waiting: Notify::new() })
    }

    /// Waits until every parked request has been sent on, has expired, or lost its client.
    pub async fn settled(&self) -> Account {
        while self.waiting.get() > 0 {
            self.none_waiting.notified().await;
        }
        *self.account.borrow()
    }
}

/// One parked request. Dropped without a word (its client went away) it gives back its room and counts as held only.
#[derive(Debug)]
pub struct Parked {
    tally: Rc<Tally>,
    budget: Arc<Budget>,
    bytes: u64,
}

impl Parked {
    fn new(tally: &Rc<Tally>, budget: &Arc<Budget>, bytes: u64, now: Instant) -> Option<Self> {
        if !budget.take(bytes) {
            return None;
        }
        let mut account = tally.account.borrow_mut();
        account.held += 1;
        account.first.get_or_insert(now);
        tally.waiting.set(tally.waiting.get() + 1);
        Some(Self { tally: Rc::clone(tally), budget: Arc::clone(budget), bytes })
    }

    pub fn sent_on(self, now: Instant) {
        let mut account = self.tally.account.borrow_mut();
        account.last = account.last.max(Some(now));
    }

    pub fn expired(self) {
        self.tally.account.borrow_mut().expired += 1;
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
        let waiting = self.tally.waiting.get() - 1;
        self.tally.waiting.set(waiting);
        if waiting == 0 {
            self.tally.none_waiting.notify_one();
        }
    }
}

/// On how many cores a hold waits for more than uploads that have had their time. As long as it does on one, an upload that
/// is cut on another is cut for nothing.
#[derive(Debug)]
pub struct InTime {
    cores: AtomicUsize,
    /// Told when it does on none.
    pub none_left: Notify,
}

impl InTime {
    /// All of them, until each has looked.
    pub fn new(cores: usize) -> Self {
        Self { cores: AtomicUsize::new(cores), none_left: Notify::new() }
    }

    pub fn is_over(&self) -> bool {
        self.cores.load(Ordering::Acquire) == 0
    }

    fn set(&self, waits: bool) {
        if waits {
            self.cores.fetch_add(1, Ordering::AcqRel);
        } else if self.cores.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none_left.notify_waiters();
        }
    }
}

/// The order to park, as every core gets it.
#[derive(Clone, Debug)]
pub struct HoldOrder {
    /// Names this hold between the cores of this process. A mover's token may come back, a serial never does.
    pub serial: u64,
    /// Park safe methods too.
    pub all: bool,
    /// Found on disk by a new process, which cannot know whether the tenant has moved meanwhile: until the control
    /// plane has spoken, a read from the old cell could be older than a write that the new cell acknowledged.
    pub unsure: bool,
    pub drain: Duration,
    pub park: Duration,
    pub budget: Arc<Budget>,
    pub in_time: Arc<InTime>,
}

#[derive(Debug)]
struct Holding {
    order: HoldOrder,
    tally: Rc<Tally>,
    /// This core is among those of [`InTime`].
    in_time: bool,
}

/// What a core does with a tenant's requests, and how many it has in flight.
#[derive(Debug, Default)]
pub struct Gate {
    safe: u32,
    writing: u32,
    /// Of them those whose upload streams and has had its time.
    safe_overdue: u32,
    writing_overdue: u32,
    holding: Option<Holding>,
}

/// A request was not let through.
#[derive(Debug)]
pub enum Stopped {
    Parked {
        parked: Parked,
        park: Duration,
    },
    /// The tenant has as many parked as it may have.
    Full,
}

impl Gate {
    /// Lets a request through and counts it, until [`Gate::finish`]. `false`: it is to be parked.
    pub fn enter(&mut self, safe: bool) -> bool {
        if let Some(h) = &self.holding
            && (!safe || h.order.all || h.order.unsure)
        {
            return false;
        }
        *self.counter(safe) += 1;
        true
    }

    /// `overdue`: it was among the uploads that have had their time.
    pub fn finish(&mut self, safe: bool, overdue: bool) {
        *self.counter(safe) -= 1;
        if overdue {
            *self.overdue_counter(safe) -= 1;
        }
        self.look();
    }

    fn counter(&mut self, safe: bool) -> &mut u32 {
        if safe { &mut self.safe } else { &mut self.writing }
    }

    fn overdue_counter(&mut self, safe: bool) -> &mut u32 {
        if safe { &mut self.safe_overdue } else { &mut self.writing_overdue }
    }

    /// Parks a request under the hold in force. `None`: there is no hold any more.
    pub fn park(&self, bytes: u64, now: Instant) -> Option<Stopped> {
        let h = self.holding.as_ref()?;
        Some(match Parked::new(&h.tally, &h.order.budget, bytes, now) {
            Some(parked) => Stopped::Parked { parked, park: h.order.park },
            None => Stopped::Full,
        })
    }

    /// Parks a request that the fence refused although this edge was told to hold nothing.
    pub fn park_unordered(budget: &Arc<Budget>, bytes: u64, park: Duration, now: Instant) -> Stopped {
        match Parked::new(&Tally::new(), budget, bytes, now) {
            Some(parked) => Stopped::Parked { parked, park },
            None => Stopped::Full,
        }
    }

    /// Requests under way that the hold has to wait for.
    pub fn busy(&self) -> u32 {
        match &self.holding {
            Some(h) if h.order.all => self.writing + self.safe,
            _ => self.writing,
        }
    }

    /// A hold waits for requests of this kind.
    pub fn waits_for(&self, safe: bool) -> bool {
        self.holding.as_ref().is_some_and(|h| !safe || h.order.all)
    }

    /// The upload of a request under way has had its time, or has no part in it any more.
    pub fn set_overdue(&mut self, safe: bool, overdue: bool) {
        let counter = self.overdue_counter(safe);
        if overdue {
            *counter += 1;
        } else {
            *counter -= 1;
        }
        self.look();
    }

    /// Of those that the hold waits for.
    fn overdue(&self) -> u32 {
        match &self.holding {
            Some(h) if h.order.all => self.writing_overdue + self.safe_overdue,
            _ => self.writing_overdue,
        }
    }

    /// Tells the other cores when this one comes to wait for uploads that have had their time and nothing else, or for more again.
    fn look(&mut self) {
        let in_time = self.busy() > self.overdue();
        if let Some(h) = &mut self.holding
            && h.in_time != in_time
        {
            h.in_time = in_time;
            h.order.in_time.set(in_time);
        }
    }

    /// All that the hold waits for, on whichever core, are uploads that have had their time: were they gone, it would be in
    /// force. Some are here.
    pub fn waits_for_overdue_alone(&self) -> bool {
        self.overdue() > 0 && self.holding.as_ref().is_some_and(|h| h.order.in_time.is_over())
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.safe == 0 && self.writing == 0
    }

    /// Serial of the hold in force.
    pub fn holding(&self) -> Option<u64> {
        self.holding.as_ref().map(|h| h.order.serial)
    }

    /// Holds from now on. A hold already there goes on under the new order: its parked requests stay parked, and are
    /// counted where the new one ends, since for those who wait it is one pause.
    pub fn hold(&mut self, order: HoldOrder) {
        let (tally, budget) = match self.holding.take() {
            Some(h) => (h.tally, h.order.budget),
            None => (Tally::new(), Arc::clone(&order.budget)),
        };
        self.holding = Some(Holding { order: HoldOrder { budget, ..order }, tally, in_time: true });
        self.look();
    }

    /// Lets everything go, whoever was parked included; the caller wakes them.
    pub fn release(&mut self) -> Option<(u64, Rc<Tally>)> {
        self.holding.take().map(|h| (h.order.serial, h.tally))
    }

    /// The control plane has spoken, so a hold from disk is as good as one just ordered.
    pub fn sure(&mut self) {
        if let Some(h) = &mut self.holding {
            h.order.unsure = false;
        }
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
