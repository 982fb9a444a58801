//! Every route of this edge, once per process and packed: what a million tenants cost is decided here.
//!
//! Written by the coordinator alone; read by a core when it meets a tenant for the first time, and never on a
//! request's way after that. Cut into shards, so that a change touches one of them and a table that grows moves a few
//! thousand entries and not a million. Never touches a socket, a clock or a disk.

use berth_domain::{
    CellName, Generation, HostPattern, Hostname, Network, PATTERN_PARTS_MAX, PlanName, Revision, TenantId, TenantKey,
    TenantName, Token,
};
use berth_wire::edge::{Hold, MemberAddress, RouteLimit, RouteState, TenantRoute};
use hashbrown::{HashTable, hash_table::Entry as Slot};
use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

const SHARDS: usize = 256;
/// What tenants have in common is looked through for what nobody has any more when there is twice as much of it.
const SWEEP_FROM: usize = 1024;

/// What many tenants have in common, kept once: where their cell is and what their plan allows.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Common {
    pub cell: CellName,
    pub plan: PlanName,
    pub members: Vec<MemberAddress>,
    pub body_bytes: Option<u64>,
    pub limits: Vec<RouteLimit>,
    pub allow: Vec<Network>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Suspended,
    Gone,
    Draining(u32),
    /// With the number of requests in flight when the hold was refused: then nothing is parked.
    Held(Box<(Hold, Option<u32>)>),
}

/// One tenant's route.
#[derive(Debug)]
pub struct Packed {
    pub tenant: TenantId,
    pub generation: Generation,
    pub revision: Revision,
    pub common: Arc<Common>,
    state: State,
    /// Name, key, hosts and patterns of hosts, a line each: none of them may hold a line's end.
    text: Box<str>,
}

impl Packed {
    pub fn name(&self) -> &str {
        self.text.split('\n').next().unwrap_or_default()
    }

    fn hosts(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n').skip(2)
    }

    /// The token of the hold that the route orders.
    pub fn hold_token(&self) -> Option<Token> {
        match &self.state {
            State::Held(hold) => Some(hold.0.token),
            State::Serving | State::Suspended | State::Gone | State::Draining(_) => None,
        }
    }

    /// The hold that the route orders was refused, with that many requests in flight.
    pub fn lifted(&self) -> Option<u32> {
        match &self.state {
            State::Held(hold) => hold.1,
            State::Serving | State::Suspended | State::Gone | State::Draining(_) => None,
        }
    }

    /// The route as it was sent.
    pub fn route(&self) -> TenantRoute {
        let mut lines = self.text.split('\n');
        let (name, key) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let packed = "was one when it was packed";
        TenantRoute {
            tenant: self.tenant,
            name: TenantName::new(name).expect(packed),
            key: TenantKey::new(key).expect(packed),
            plan: self.common.plan.clone(),
            cell: self.common.cell.clone(),
            generation: self.generation,
            revision: self.revision,
            hosts: lines.clone().filter(|l| !is_pattern(l)).map(|l| Hostname::new(l).expect(packed)).collect(),
            patterns: lines.filter(|l| is_pattern(l)).map(|l| HostPattern::new(l).expect(packed)).collect(),
            state: match &self.state {
                State::Serving => RouteState::Serving,
                State::Suspended => RouteState::Suspended,
                State::Gone => RouteState::Gone,
                State::Draining(grace_ms) => RouteState::Draining { grace_ms: *grace_ms },
                State::Held(hold) => RouteState::Held { hold: hold.0.clone() },
            },
            members: self.common.members.clone(),
            body_bytes: self.common.body_bytes,
            limits: self.common.limits.clone(),
            allow: self.common.allow.clone(),
        }
    }

    /// Whether it is this route, without unpacking it.
    pub fn is(&self, route: &TenantRoute) -> bool {
        let same_state = match (&self.state, &route.state) {
            (State::Held(held), RouteState::Held { hold }) => held.0 == *hold,
            (State::Draining(known), RouteState::Draining { grace_ms }) => known == grace_ms,
            (State::Serving, RouteState::Serving)
            | (State::Suspended, RouteState::Suspended)
            | (State::Gone, RouteState::Gone) => true,
            _ => false,
        };
        same_state
            && (self.tenant, self.generation, self.revision) == (route.tenant, route.generation, route.revision)
            && *self.text == *text(route)
            && *self.common == common(route)
    }
}

fn text(route: &TenantRoute) -> String {
    let mut text = format!("{}\n{}", route.name.as_str(), route.key.as_str());
    for host in keys(route) {
        text.push('\n');
        text.push_str(host);
    }
    text
}

/// Hosts and patterns of hosts, under which the tenant is found.
pub fn keys(route: &TenantRoute) -> impl Iterator<Item = &str> {
    route.hosts.iter().map(Hostname::as_str).chain(route.patterns.iter().map(HostPattern::as_str))
}

pub fn is_pattern(key: &str) -> bool {
    key.starts_with('*') || has_path(key)
}

fn has_path(key: &str) -> bool {
    key.contains('/')
}

fn common(route: &TenantRoute) -> Common {
    Common {
        cell: route.cell.clone(),
        plan: route.plan.clone(),
        members: route.members.clone(),
        body_bytes: route.body_bytes,
        limits: route.limits.clone(),
        allow: route.allow.clone(),
    }
}

/// A host's owner. The hash is kept, because a table that grows asks for it.
#[derive(Debug)]
struct Owned {
    hash: u64,
    owner: Arc<Packed>,
}

impl Owned {
    fn is(&self, hash: u64, host: &str) -> bool {
        self.hash == hash && self.owner.hosts().any(|own| own == host)
    }
}

#[derive(Debug)]
pub struct Routes {
    tenants: Vec<RwLock<HashTable<Arc<Packed>>>>,
    hosts: Vec<RwLock<HashTable<Owned>>>,
    shared: Mutex<Shared>,
    number: AtomicUsize,
    /// Patterns there are, and those of them with a path.
    patterns: AtomicUsize,
    paths: AtomicUsize,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shared {
    all: HashSet<Arc<Common>>,
    sweep_at: usize,
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            tenants: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hosts: (0..SHARDS).map(|_| RwLock::default()).collect(),
            shared: Mutex::default(),
            number: AtomicUsize::new(0),
            patterns: AtomicUsize::new(0),
            paths: AtomicUsize::new(0),
            hasher: RandomState::new(),
        }
    }
}

/// Bits that the tables themselves do not look at first.
fn shard<T>(shards: &[RwLock<T>], hash: u64) -> &RwLock<T> {
    &shards[(hash >> 40) as usize % SHARDS]
}

// A lock is poisoned only by a panic of its holder, and each holder leaves a table whole at every step.
macro_rules! read {
    ($lock:expr) => {
        $lock.read().unwrap_or_else(PoisonError::into_inner)
    };
}
macro_rules! write {
    ($lock:expr) => {
        $lock.write().unwrap_or_else(PoisonError::into_inner)
    };
}

impl Routes {
    pub fn len(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    pub fn get(&self, tenant: TenantId) -> Option<Arc<Packed>> {
        let hash = self.hasher.hash_one(tenant);
        read!(shard(&self.tenants, hash)).find(hash, |p| p.tenant == tenant).cloned()
    }

    /// Whose key this is: a host or a pattern, as it was given.
    fn owner(&self, key: &str) -> Option<Arc<Packed>> {
        let hash = self.hasher.hash_one(key);
        read!(shard(&self.hosts, hash)).find(hash, |o| o.is(hash, key)).map(|o| Arc::clone(&o.owner))
    }

    /// Some host is divided by paths, so that a host alone does not say whose a request is.
    pub fn has_paths(&self) -> bool {
        self.paths.load(Ordering::Relaxed) > 0
    }

    /// Whose request to this host and path is: of the host itself before all names beside it, and of each by the longest
    /// beginning of the path. And whether that was said by the exact host.
    pub fn find(&self, host: &str, path: &str) -> Option<(Arc<Packed>, bool)> {
        if self.patterns.load(Ordering::Relaxed) == 0 {
            return self.owner(host).map(|owner| (owner, true));
        }
        if let Some(owner) = self.below(host, path) {
            return Some((owner, true));
        }
        let (_, parent) = host.split_once('.')?;
        self.below(&format!("*.{parent}"), path).map(|owner| (owner, false))
    }

    fn below(&self, host: &str, path: &str) -> Option<Arc<Packed>> {
        if self.has_paths() {
            let mut key = format!("{host}{path}");
            let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/').map(|(at, _)| at);
            let ends: Vec<usize> = ends.chain([path.len()]).take(PATTERN_PARTS_MAX).collect();
            for end in ends.into_iter().rev() {
                key.truncate(host.len() + end);
                if end > 1
                    && let Some(owner) = self.owner(&key)
                {
                    return Some(owner);
                }
            }
        }
        self.owner(host)
    }

    /// The members of the cells that tenants are in, one for each address.
    pub fn members(&self) -> Vec<MemberAddress> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let used = shared.all.iter().filter(|common| Arc::strong_count(common) > 1);
        let mut members: Vec<_> = used.flat_map(|common| common.members.iter().cloned()).collect();
        members.sort_unstable_by(|one, other| one.address.cmp(&other.address));
        members.dedup_by(|one, other| one.address == other.address);
        members
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Packed>> {
        let mut all = Vec::with_capacity(self.len());
        for shard in &self.tenants {
            all.extend(read!(shard).iter().cloned());
        }
        all
    }

    /// Gives the tenant exactly this route. A host that was another's becomes this one's.
    pub fn put(&self, route: &TenantRoute, lifted: Option<u32>) {
        let packed = Arc::new(Packed {
            tenant: route.tenant,
            generation: route.generation,
            revision: route.revision,
            common: self.common(common(route)),
            state: match &route.state {
                RouteState::Serving => State::Serving,
                RouteState::Suspended => State::Suspended,
                RouteState::Gone => State::Gone,
                RouteState::Draining { grace_ms } => State::Draining(*grace_ms),
                RouteState::Held { hold } => State::Held(Box::new((hold.clone(), lifted))),
            },
            text: text(route).into(),
        });
        let old = self.replace(&packed);
        if packed.state != State::Gone {
            for host in packed.hosts() {
                self.own(host, &packed);
            }
        }
        if let Some(old) = old {
            let gone = packed.state == State::Gone;
            self.disown(old.hosts().filter(|host| gone || !packed.hosts().any(|own| own == *host)), old.tenant);
        }
    }

    pub fn remove(&self, tenant: TenantId) {
        let hash = self.hasher.hash_one(tenant);
        let mut shard = write!(shard(&self.tenants, hash));
        let removed = shard.find_entry(hash, |p| p.tenant == tenant).map(|slot| slot.remove().0).ok();
        drop(shard);
        if let Some(old) = removed {
            self.number.fetch_sub(1, Ordering::Relaxed);
            self.disown(old.hosts(), tenant);
        }
    }

    fn replace(&self, packed: &Arc<Packed>) -> Option<Arc<Packed>> {
        let hash = self.hasher.hash_one(packed.tenant);
        let mut shard = write!(shard(&self.tenants, hash));
        let rehash = |p: &Arc<Packed>| self.hasher.hash_one(p.tenant);
        match shard.entry(hash, |p| p.tenant == packed.tenant, rehash) {
            Slot::Occupied(mut slot) => Some(std::mem::replace(slot.get_mut(), Arc::clone(packed))),
            Slot::Vacant(slot) => {
                slot.insert(Arc::clone(packed));
                self.number.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    fn own(&self, host: &str, owner: &Arc<Packed>) {
        let hash = self.hasher.hash_one(host);
        let mut shard = write!(shard(&self.hosts, hash));
        match shard.entry(hash, |o| o.is(hash, host), |o| o.hash) {
            Slot::Occupied(mut slot) => slot.get_mut().owner = Arc::clone(owner),
            Slot::Vacant(slot) => {
                slot.insert(Owned { hash, owner: Arc::clone(owner) });
                self.patterns.fetch_add(usize::from(is_pattern(host)), Ordering::Relaxed);
                self.paths.fetch_add(usize::from(has_path(host)), Ordering::Relaxed);
            }
        }
    }

    /// A host leaves only with its owner.
    fn disown<'a>(&self, hosts: impl Iterator<Item = &'a str>, owner: TenantId) {
        for host in hosts {
            let hash = self.hasher.hash_one(host);
            let mut shard = write!(shard(&self.hosts, hash));
            if let Ok(slot) = shard.find_entry(hash, |o| o.is(hash, host) && o.owner.tenant == owner) {
                slot.remove();
                self.patterns.fetch_sub(usize::from(is_pattern(host)), Ordering::Relaxed);
                self.paths.fetch_sub(usize::from(has_path(host)), Ordering::Relaxed);
            }
        }
    }

    fn common(&self, common: Common) -> Arc<Common> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shared.all.get(&common) {
            return Arc::clone(known);
        }
        if shared.all.len() >= shared.sweep_at {
            shared.all.retain(|common| Arc::strong_count(common) > 1);
            shared.sweep_at = shared.all.len() * 2 + SWEEP_FROM;
        }
        let common = Arc::new(common);
        shared.all.insert(Arc::clone(&common));
        common
    }
}
