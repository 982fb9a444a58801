//! Which tenant a host name belongs to.
//!
//! Pure: never touches a socket, a clock or a disk. [`Table`] decides which changes are taken; [`Index`] is a core's own
//! look-up of the tenants it has met, changed tenant by tenant and never rebuilt.

use crate::routes::{Packed, Routes};
use berth_domain::{Revision, TenantId, Token};
use berth_wire::edge::{RouteState, TenantRoute};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

/// A `Host` header that names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHost;

/// The host name as routes spell it: without port and trailing dot, lower case.
pub fn normal_host(header: &[u8]) -> Result<Cow<'_, str>, BadHost> {
    let text = std::str::from_utf8(header).map_err(|_| BadHost)?;
    let name = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            if !port.bytes().all(|b| b.is_ascii_digit()) {
                return Err(BadHost);
            }
            name
        }
        _ => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let literal = name.starts_with('[') && name.ends_with(']');
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b) || (literal && b":[]".contains(&b));
    if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
        return Err(BadHost);
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// The path with those octets decoded that need no escape (RFC 3986, 6.2.2.2): whoever serves it reads both spellings as the
/// same. Decoded once, so `%2575` stays what it is, and so do `%2F` and all else that has a meaning of its own.
pub fn plain_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let (mut plain, mut rest) = (String::with_capacity(path.len()), path);
    while let Some((before, escaped)) = rest.split_once('%') {
        plain.push_str(before);
        let octet = escaped.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(octet) = octet.filter(|octet| octet.is_ascii_alphanumeric() || b"-._~".contains(octet)) {
            plain.push(char::from(octet));
            rest = &escaped[2..];
        } else {
            plain.push('%');
            rest = escaped;
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// One tenant's part of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Arc<TenantRoute>),
    Remove(TenantId),
}

impl Change {
    pub fn tenant(&self) -> TenantId {
        match self {
            Self::Put(route) => route.tenant,
            Self::Remove(tenant) => *tenant,
        }
    }
}

/// What an event comes to. Nothing is changed yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub revision: Revision,
    pub changes: Vec<Change>,
    /// Holds ordered again under the same token: the same hold, to be reported again.
    pub repeated: Vec<(TenantId, Token)>,
    /// Routes older than what we have.
    pub refused: Vec<TenantId>,
}

/// All routes, and the revision that is in force and on disk.
#[derive(Debug, Default)]
pub struct Table {
    pub revision: Revision,
    pub routes: Arc<Routes>,
}

/// The token of the hold that a route orders.
pub fn hold_token(route: &TenantRoute) -> Option<Token> {
    match &route.state {
        RouteState::Held { hold } => Some(hold.token),
        RouteState::Serving | RouteState::Suspended | RouteState::Gone | RouteState::Draining { .. } => None,
    }
}

impl Table {
    pub fn get(&self, tenant: TenantId) -> Option<Arc<Packed>> {
        self.routes.get(tenant)
    }

    /// All routes, oldest change first: a host that two tenants claim goes to the later one on every load.
    pub fn oldest_first(&self) -> Vec<Arc<Packed>> {
        let mut all = self.routes.all();
        all.sort_unstable_by_key(|p| (p.revision, p.tenant));
        all
    }

    /// The same routes, to be read by another thread.
    pub fn of(other: &Self) -> Self {
        Self { revision: other.revision, routes: Arc::clone(&other.routes) }
    }

    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// `None`: the event is from before what we have, so the control plane lost its memory; we keep ours.
    pub fn plan(&self, full: bool, revision: Revision, routes: Vec<TenantRoute>) -> Option<Plan> {
        if revision < self.revision {
            return None;
        }
        let mut plan = Plan { revision, ..Plan::default() };
        let mut named = HashSet::new();
        // Later lines of one event win over earlier ones, as they would in two events.
        let mut newest: HashMap<TenantId, Arc<TenantRoute>> = HashMap::new();
        for route in routes {
            let tenant = route.tenant;
            if full {
                named.insert(tenant);
            }
            let (generation, known_revision, token, same) = if let Some(known) = newest.get(&tenant) {
                (known.generation, known.revision, hold_token(known), **known == route)
            } else if let Some(known) = self.get(tenant) {
                (known.generation, known.revision, known.hold_token(), known.is(&route))
            } else {
                let route = Arc::new(route);
                newest.insert(tenant, Arc::clone(&route));
                plan.changes.push(Change::Put(route));
                continue;
            };
            if route.generation < generation || route.revision < known_revision {
                plan.refused.push(tenant);
                continue;
            }
            if let Some(ordered) = hold_token(&route)
                && token == Some(ordered)
            {
                plan.repeated.push((tenant, ordered));
            }
            if !same {
                let route = Arc::new(route);
                newest.insert(tenant, Arc::clone(&route));
                plan.changes.push(Change::Put(route));
            }
        }
        if full {
            let gone = self.routes.all().into_iter().map(|p| p.tenant).filter(|t| !named.contains(t));
            plan.changes.extend(gone.map(Change::Remove));
        }
        Some(plan)
    }

    pub fn apply(&self, change: &Change) {
        match change {
            Change::Put(route) => {
                // A refusal belongs to its hold: the same order again is still refused, any other starts anew.
                let lifted = hold_token(route).and_then(|token| {
                    self.get(route.tenant).filter(|known| known.hold_token() == Some(token))?.lifted()
                });
                self.routes.put(route, lifted);
            }
            Change::Remove(tenant) => self.routes.remove(*tenant),
        }
    }

    /// Remembers that the tenant's hold was refused. A hold that has been followed by another route is not touched.
    pub fn lift(&self, tenant: TenantId, token: Token, in_flight: u32) {
        if let Some(known) = self.get(tenant)
            && known.hold_token() == Some(token)
        {
            self.routes.put(&known.route(), Some(in_flight));
        }
    }
}

/// Hosts that are remembered although only a pattern says whose they are: anybody can think of more.
const ALIASES_MAX: usize = 20_000;

/// A core's own look-up: host name to tenant. `T` is what the core keeps of a tenant.
#[derive(Debug)]
pub struct Index<T> {
    tenants: HashMap<TenantId, (Vec<Box<str>>, Rc<T>)>,
    /// Hosts and patterns as routes say them.
    hosts: HashMap<Box<str>, Named<T>>,
    /// Hosts that were found by a pattern, for as long as no route changes that could say otherwise.
    aliases: HashMap<Box<str>, (TenantId, u64)>,
}

/// Whose a host is.
#[derive(Debug)]
struct Named<T> {
    tenant: TenantId,
    kept: Rc<T>,
    /// The count of divisions under which the host alone says it, see [`Routes::divisions`].
    whole_at: u64,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), hosts: HashMap::new(), aliases: HashMap::new() }
    }
}

impl<T> Index<T> {
    /// Whose host this is, where the host alone says it under this count of divisions.
    pub fn lookup(&self, host: &str, divisions: u64) -> Option<&Rc<T>> {
        if let Some(named) = self.hosts.get(host) {
            return (named.whole_at == divisions).then_some(&named.kept);
        }
        if self.aliases.is_empty() {
            return None;
        }
        let (tenant, whole_at) = *self.aliases.get(host)?;
        if whole_at == divisions { self.tenant(tenant) } else { None }
    }

    /// Remembers that paths do not divide this host. `exact`: it was found by its own name and not by a pattern.
    pub fn whole(&mut self, host: &str, tenant: TenantId, exact: bool, divisions: u64) {
        if let Some(named) = self.hosts.get_mut(host) {
            if named.tenant == tenant {
                named.whole_at = divisions;
            }
        } else if !exact {
            if self.aliases.len() >= ALIASES_MAX {
                self.aliases.clear();
            }
            self.aliases.insert(host.into(), (tenant, divisions));
        }
    }

    /// A route came or went that may say otherwise, or a tenant went whose hosts may be among them: all of them go, for
    /// looking for one tenant's takes as long, and a core forgets tenants by the thousand.
    pub fn forget_aliases(&mut self) {
        if !self.aliases.is_empty() {
            self.aliases.clear();
        }
    }

    pub fn tenant(&self, tenant: TenantId) -> Option<&Rc<T>> {
        self.tenants.get(&tenant).map(|(_, kept)| kept)
    }

    pub fn tenants(&self) -> impl Iterator<Item = &Rc<T>> {
        self.tenants.values().map(|(_, kept)| kept)
    }

    /// Gives the tenant exactly these hosts. A host that was another's becomes this one's.
    pub fn put<'a>(&mut self, tenant: TenantId, kept: &Rc<T>, hosts: impl Iterator<Item = &'a str>) {
        let hosts: Vec<Box<str>> = hosts.map(Box::from).collect();
        if let Some((old, _)) = self.tenants.remove(&tenant) {
            self.forget(tenant, old.iter().filter(|h| !hosts.contains(h)));
        }
        for host in &hosts {
            self.aliases.remove(host);
            self.hosts.insert(host.clone(), Named { tenant, kept: Rc::clone(kept), whole_at: 0 });
        }
        self.tenants.insert(tenant, (hosts, Rc::clone(kept)));
    }

    /// Whether any of these hosts is known here, whoever has it.
    pub fn knows_any<'a>(&self, mut hosts: impl Iterator<Item = &'a str>) -> bool {
        hosts.any(|host| self.hosts.contains_key(host) || self.aliases.contains_key(host))
    }

    /// All tenants met, to be looked at a few at a time.
    pub fn ids(&self) -> Vec<TenantId> {
        self.tenants.keys().copied().collect()
    }

    /// Removes the tenant, if nobody but this look-up has it in hand and this is true of it. What patterns found stays until
    /// [`Index::forget_aliases`]: nobody is found by it meanwhile.
    pub fn remove_unused(&mut self, tenant: TenantId, also: impl FnOnce(&T) -> bool) -> Option<Rc<T>> {
        let (hosts, kept) = self.tenants.get(&tenant)?;
        let unused = also(kept) && Rc::strong_count(kept) <= 1 + hosts.len();
        if unused { self.take(tenant) } else { None }
    }

    /// Tenants met.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    pub fn remove(&mut self, tenant: TenantId) -> Option<Rc<T>> {
        let kept = self.take(tenant)?;
        self.forget_aliases();
        Some(kept)
    }

    fn take(&mut self, tenant: TenantId) -> Option<Rc<T>> {
        let (hosts, kept) = self.tenants.remove(&tenant)?;
        self.forget(tenant, hosts.iter());
        Some(kept)
    }

    fn forget<'a>(&mut self, tenant: TenantId, hosts: impl Iterator<Item = &'a Box<str>>) {
        for host in hosts {
            if self.hosts.get(host).is_some_and(|named| named.tenant == tenant) {
                self.hosts.remove(host);
            }
        }
    }
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
