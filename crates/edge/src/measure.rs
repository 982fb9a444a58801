//! How long it takes to find whose host it is, for `scripts/bench lookup`. Never on a request's way.

use crate::{routes::Routes, routing::Index};
use berth_domain::{CellName, Generation, HostPattern, Hostname, PlanName, Revision, TenantId, TenantKey, TenantName};
use berth_wire::edge::{RouteState, TenantRoute};
use std::{
    hint::black_box,
    iter,
    rc::Rc,
    time::{Duration, Instant},
};

/// Of each kind, in an order that no cache foresees.
const ASKED: usize = 200_000;
/// Tenants that a core remembers.
const REMEMBERED: usize = 20_000;

/// The mean of one look-up.
#[derive(Debug)]
pub struct Lookups {
    /// Of a host that the core remembers, as with nearly every request.
    pub remembered_ns: f64,
    /// Of a host among all routes, as with the first request to it.
    pub found_ns: f64,
    /// Of a host below a pattern.
    pub pattern_ns: f64,
    /// Of a host that nobody has.
    pub unknown_ns: f64,
    /// Look-ups that found anything but what is there.
    pub wrong: usize,
}

fn tenant(number: usize) -> TenantId {
    TenantId::new(uuid::Uuid::from_u128(number as u128 + 1))
}

pub(crate) fn route(number: usize, pattern: Option<&str>) -> TenantRoute {
    let made = "is written as it has to be";
    TenantRoute {
        tenant: tenant(number),
        name: TenantName::new(format!("t{number}")).expect(made),
        key: TenantKey::new(format!("key-{number}")).expect(made),
        plan: PlanName::new("starter").expect(made),
        cell: CellName::new("shared-1").expect(made),
        generation: Generation::new(1),
        revision: Revision::new(1),
        hosts: vec![Hostname::new(host(number)).expect(made)],
        patterns: pattern.map(|pattern| HostPattern::new(pattern).expect(made)).into_iter().collect(),
        state: RouteState::Serving,
        members: Vec::new(),
        body_bytes: None,
        limits: Vec::new(),
        allow: Vec::new(),
    }
}

fn host(number: usize) -> String {
    format!("tenant-{number}.example.com")
}

/// The numbers below this one, drawn anew each time.
fn drawn(below: usize) -> impl Iterator<Item = usize> {
    let below = below.max(1) as u64;
    let mixed = (0..ASKED as u64).map(move |n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17) % below);
    mixed.map(|number| usize::try_from(number).unwrap_or_default())
}

/// Nanoseconds of each, and how many were wrong.
fn each_ns(asked: &[(String, Option<TenantId>)], look: impl Fn(&str) -> Option<TenantId>) -> (f64, usize) {
    let (began, mut wrong) = (Instant::now(), 0);
    for (host, owner) in asked {
        wrong += usize::from(black_box(look(black_box(host.as_str()))) != *owner);
    }
    let took: Duration = began.elapsed();
    (took.as_secs_f64() * 1e9 / asked.len() as f64, wrong)
}

/// Looks hosts up with so many routes in force.
pub fn lookups(routes: usize) -> Lookups {
    let all = Routes::default();
    for number in 0..routes {
        all.put(&route(number, None), None);
    }
    let mut index = Index::default();
    let remembered = routes.min(REMEMBERED);
    for number in 0..remembered {
        let name = host(number);
        index.put(tenant(number), &Rc::new(tenant(number)), iter::once(name.as_str()));
    }
    let hosts = |below| drawn(below).map(|number| (host(number), Some(tenant(number)))).collect::<Vec<_>>();
    let find = |host: &str| all.find(host, "/").map(|(owner, _)| owner.tenant);
    let (remembered_ns, first) = each_ns(&hosts(remembered), |host| index.lookup(host, 0).map(|kept| **kept));
    let (found_ns, second) = each_ns(&hosts(routes), find);
    let nobodys: Vec<_> = drawn(routes).map(|number| (format!("nobody-{number}.example.com"), None)).collect();
    let (unknown_ns, third) = each_ns(&nobodys, find);
    // Last, for with a pattern every look-up that finds no host asks for one.
    all.put(&route(routes, Some("*.wild.example.com")), None);
    let below = drawn(routes).map(|number| (format!("x{number}.wild.example.com"), Some(tenant(routes))));
    let (pattern_ns, fourth) = each_ns(&below.collect::<Vec<_>>(), find);
    Lookups { remembered_ns, found_ns, pattern_ns, unknown_ns, wrong: first + second + third + fourth }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_measured_finds_what_is_there() {
        let lookups = super::lookups(3_000);
        assert_eq!(lookups.wrong, 0);
        assert!(lookups.remembered_ns > 0.0 && lookups.found_ns > 0.0, "{lookups:?}");
    }
}
