//! Every route of this edge, once per process and packed: what a million tenants cost is decided here.
//!
//! Written by the coordinator alone; read by a core when it meets a tenant for the first time, and on a request's way
//! after that only where paths divide its host. Cut into shards, so that a change touches one of them and a table that grows moves a few
//! thousand entries and not a million. Never touches a socket, a clock or a disk.

use crate::routing::plain_path;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_domain::{
    CellName, Generation, HostPattern, Hostname, Network, PATTERN_PARTS_MAX, PlanName, Revision, TenantId, TenantKey,
    TenantName, Token,
};
use berth_wire::edge::{Hold, MemberAddress, RouteLimit, RouteState, TenantRoute};
use hashbrown::{HashTable, hash_table::Entry as Slot};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use uuid::{Uuid, fmt::Hyphenated};

/// A table's room doubles when it is full: of this many shards each is nearly full when a million hosts are in all of them.
const SHARDS: usize = 320;
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

/// What most tenants are not.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Suspended,
    Gone,
    Draining(u32),
    /// With the number of requests in flight when the hold was refused: then nothing is parked.
    Held(Hold, Option<u32>),
}

impl State {
    /// `None`: serving.
    fn of(state: &RouteState, lifted: Option<u32>) -> Option<Box<Self>> {
        Some(Box::new(match state {
            RouteState::Serving => return None,
            RouteState::Suspended => Self::Suspended,
            RouteState::Gone => Self::Gone,
            RouteState::Draining { grace_ms } => Self::Draining(*grace_ms),
            RouteState::Held { hold } => Self::Held(hold.clone(), lifted),
        }))
    }

    fn shown(state: Option<&Self>) -> RouteState {
        match state {
            None => RouteState::Serving,
            Some(Self::Suspended) => RouteState::Suspended,
            Some(Self::Gone) => RouteState::Gone,
            Some(Self::Draining(grace_ms)) => RouteState::Draining { grace_ms: *grace_ms },
            Some(Self::Held(hold, _)) => RouteState::Held { hold: hold.clone() },
        }
    }
}

/// One tenant's route.
#[derive(Debug)]
pub struct Packed {
    pub tenant: TenantId,
    pub generation: Generation,
    pub revision: Revision,
    pub common: Arc<Common>,
    /// `None`: serving. In a box, for a word is all that a million of them can spare.
    state: Option<Box<State>>,
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
        match self.state.as_deref() {
            Some(State::Held(hold, _)) => Some(hold.token),
            None | Some(State::Suspended | State::Gone | State::Draining(_)) => None,
        }
    }

    /// The hold that the route orders was refused, with that many requests in flight.
    pub fn lifted(&self) -> Option<u32> {
        match self.state.as_deref() {
            Some(State::Held(_, lifted)) => *lifted,
            None | Some(State::Suspended | State::Gone | State::Draining(_)) => None,
        }
    }

    /// The route as it was sent.
    pub fn route(&self) -> TenantRoute {
        let mut lines = self.text.split('\n');
        let (name, key) = (lines.next().unwrap_or_default(), unpacked(lines.next().unwrap_or_default()));
        let packed = "was one when it was packed";
        TenantRoute {
            tenant: self.tenant,
            name: TenantName::new(name).expect(packed),
            key: TenantKey::new(&*key).expect(packed),
            plan: self.common.plan.clone(),
            cell: self.common.cell.clone(),
            generation: self.generation,
            revision: self.revision,
            hosts: lines.clone().filter(|l| !is_pattern(l)).map(|l| Hostname::new(l).expect(packed)).collect(),
            patterns: lines.filter(|l| is_pattern(l)).map(|l| HostPattern::new(l).expect(packed)).collect(),
            state: State::shown(self.state.as_deref()),
            members: self.common.members.clone(),
            body_bytes: self.common.body_bytes,
            limits: self.common.limits.clone(),
            allow: self.common.allow.clone(),
        }
    }

    /// Whether it is this route, without unpacking it.
    pub fn is(&self, route: &TenantRoute) -> bool {
        State::shown(self.state.as_deref()) == route.state
            && (self.tenant, self.generation, self.revision) == (route.tenant, route.generation, route.revision)
            && *self.text == *text(route)
            && *self.common == common(route)
    }
}

fn text(route: &TenantRoute) -> String {
    let mut text = format!("{}\n{}", route.name.as_str(), packed(route.key.as_str()));
    for host in keys(route) {
        text.push('\n');
        text.push_str(host);
    }
    text
}

/// Stands before a key that is a UUID: no key has it.
const UUID: char = '\u{1}';

/// A key that is a UUID, as many are, in two thirds of its length.
fn packed(key: &str) -> Cow<'_, str> {
    let uuid = (key.len() == Hyphenated::LENGTH).then(|| Uuid::try_parse(key).ok()).flatten();
    match uuid {
        Some(uuid) if uuid.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]) == key => {
            format!("{UUID}{}", URL_SAFE_NO_PAD.encode(uuid.as_bytes())).into()
        }
        _ => key.into(),
    }
}

fn unpacked(key: &str) -> Cow<'_, str> {
    let uuid = key.strip_prefix(UUID).and_then(|packed| Uuid::from_slice(&URL_SAFE_NO_PAD.decode(packed).ok()?).ok());
    uuid.map_or(key.into(), |uuid| uuid.to_string().into())
}

/// Hosts and patterns of hosts, under which the tenant is found.
pub fn keys(route: &TenantRoute) -> impl Iterator<Item = &str> {
    route.hosts.iter().map(Hostname::as_str).chain(route.patterns.iter().map(HostPattern::as_str))
}

pub fn is_pattern(key: &str) -> bool {
    key.starts_with('*') || key.contains('/')
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
    /// Hosts, and `*.` before what they have in common, with the number of paths that divide each.
    divided: RwLock<HashMap<Box<str>, u32>>,
    /// Rises with every path that comes or goes.
    divisions: AtomicU64,
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
            divided: RwLock::default(),
            divisions: AtomicU64::new(0),
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
    fn has_paths(&self) -> bool {
        self.paths.load(Ordering::Relaxed) > 0
    }

    /// A number that is another one after a path has come to divide a host or does so no longer. What is read here
    /// before [`Self::is_divided`] is asked tells how long its answer holds.
    pub fn divisions(&self) -> u64 {
        self.divisions.load(Ordering::Acquire)
    }

    /// Whether requests to this host go by their paths. `exact`: it was found by its own name.
    pub fn is_divided(&self, host: &str, exact: bool) -> bool {
        if !self.has_paths() {
            return false;
        }
        let divided = read!(self.divided);
        let beside = || {
            let (_, parent) = host.split_once('.')?;
            divided.get(format!("*.{parent}").as_str())
        };
        divided.contains_key(host) || (!exact && beside().is_some())
    }

    /// A key came or went. Paths are counted after the table of hosts is as it is to be, see [`Self::divisions`].
    fn count(&self, key: &str, came: bool) {
        if !is_pattern(key) {
            return;
        }
        let change = |number: &AtomicUsize| {
            if came {
                number.fetch_add(1, Ordering::Relaxed)
            } else {
                number.fetch_sub(1, Ordering::Relaxed)
            };
        };
        change(&self.patterns);
        let Some((host, _)) = key.split_once('/') else { return };
        change(&self.paths);
        let mut divided = write!(self.divided);
        if came {
            *divided.entry(host.into()).or_default() += 1;
        } else if let Some(number) = divided.get_mut(host) {
            *number -= 1;
            if *number == 0 {
                divided.remove(host);
            }
        }
        drop(divided);
        self.divisions.fetch_add(1, Ordering::Release);
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
            let path = plain_path(path);
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
            state: State::of(&route.state, lifted),
            text: text(route).into(),
        });
        let old = self.replace(&packed);
        let gone = packed.state.as_deref() == Some(&State::Gone);
        if !gone {
            for host in packed.hosts() {
                self.own(host, &packed);
            }
        }
        if let Some(old) = old {
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
                drop(shard);
                self.count(host, true);
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
                drop(shard);
                self.count(host, false);
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

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
