//! Host names to tenants, changes in any order, and which of two routes wins. Tables, no socket.

use super::{BadHost, Change, Index, Plan, Table, normal_host, plain_path};
use berth_domain::{CellName, Generation, Hostname, PlanName, Revision, TenantId, TenantKey, TenantName, Token};
use berth_wire::edge::{Hold, HoldPolicy, RouteState, TenantRoute};
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

fn route(tenant: u128, generation: u64, revision: u64) -> TenantRoute {
    TenantRoute {
        tenant: TenantId::new(uuid::Uuid::from_u128(tenant)),
        name: TenantName::new("acme").unwrap(),
        key: TenantKey::new("7").unwrap(),
        plan: PlanName::new("starter").unwrap(),
        cell: CellName::new("shared").unwrap(),
        generation: Generation::new(generation),
        revision: Revision::new(revision),
        hosts: vec![Hostname::new("acme.test").unwrap()],
        patterns: Vec::new(),
        state: RouteState::Serving,
        members: Vec::new(),
        body_bytes: None,
        limits: Vec::new(),
        allow: Vec::new(),
    }
}

fn held(token: u64, mut from: TenantRoute) -> TenantRoute {
    let hold = Hold { token: Token::new(token), policy: HoldPolicy::Unsafe, drain_ms: 50, park_ms: 2000 };
    from.state = RouteState::Held { hold };
    from
}

fn commit(table: &mut Table, plan: &Plan) {
    for change in &plan.changes {
        table.apply(change);
    }
    table.revision = plan.revision;
}

/// A table that has taken these routes in one event.
fn table(revision: u64, routes: Vec<TenantRoute>) -> Table {
    let mut table = Table::default();
    let plan = table.plan(true, Revision::new(revision), routes).unwrap();
    commit(&mut table, &plan);
    table
}

#[test]
fn a_host_header_is_read_as_routes_spell_it_or_refused() {
    for (header, host) in [
        ("acme.test", "acme.test"),
        ("ACME.Test", "acme.test"),
        ("acme.test:8080", "acme.test"),
        ("acme.test.", "acme.test"),
        ("acme.test.:80", "acme.test"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("a_b.test", "a_b.test"),
    ] {
        assert_eq!(normal_host(header.as_bytes()).as_deref(), Ok(host), "{header}");
    }
    for header in ["", ":80", ".", "acme.test:http", "acme test", "acme.test/x", "a@b", "a,b", "::1", "a\u{e4}.test"] {
        assert_eq!(normal_host(header.as_bytes()), Err(BadHost), "{header}");
    }
    assert_eq!(normal_host(&[0xff]), Err(BadHost));
    assert_eq!(normal_host("a".repeat(254).as_bytes()), Err(BadHost));
}

#[test]
fn a_path_is_decoded_once_and_only_where_both_spellings_mean_the_same() {
    for (path, plain) in [
        ("/", "/"),
        ("/api/uploads", "/api/uploads"),
        ("/api/%75ploads", "/api/uploads"),
        ("/%75%70%6c%6F%61ds", "/uploads"),
        ("/%2E%2d%5f%7E%30", "/.-_~0"),
        ("/a%2Fb%2fc", "/a%2Fb%2fc"),
        ("/%2575ploads", "/%2575ploads"),
        ("/%25%37%35", "/%2575"),
        ("/%00%20%3F%C3%A4", "/%00%20%3F%C3%A4"),
        ("/%", "/%"),
        ("/%7", "/%7"),
        ("/%7%75", "/%7u"),
        ("/%+5%zz\u{e4}%\u{e4}", "/%+5%zz\u{e4}%\u{e4}"),
    ] {
        assert_eq!(plain_path(path), plain, "{path}");
    }
}

#[test]
fn a_route_is_taken_only_when_neither_its_generation_nor_its_revision_is_lower() {
    for (generation, revision, taken) in
        [(5, 10, false), (5, 11, true), (6, 11, true), (6, 10, true), (4, 11, false), (5, 9, false), (6, 9, false)]
    {
        let table = table(10, vec![route(1, 5, 10)]);
        let plan = table.plan(false, Revision::new(11), vec![route(1, generation, revision)]).unwrap();
        assert_eq!(!plan.changes.is_empty(), taken, "generation {generation}, revision {revision}");
        let lower = generation < 5 || revision < 10;
        assert_eq!(!plan.refused.is_empty(), lower, "generation {generation}, revision {revision}");
    }
}

#[test]
fn an_event_older_than_the_table_changes_nothing() {
    let table = table(10, vec![route(1, 5, 10)]);
    assert_eq!(table.plan(true, Revision::new(9), vec![route(2, 9, 9)]), None);
}

#[test]
fn a_full_event_removes_who_is_not_in_it_and_an_ordinary_one_does_not() {
    let table = table(10, vec![route(1, 5, 10), route(2, 5, 10)]);
    let removed = |full| table.plan(full, Revision::new(11), vec![route(1, 4, 11)]).unwrap().changes;
    assert_eq!(removed(false), []);
    assert_eq!(removed(true), [Change::Remove(route(2, 0, 0).tenant)], "a refused route is not a missing one");
}

#[test]
fn the_later_of_two_lines_for_one_tenant_wins() {
    let mut table = Table::default();
    let plan = table.plan(false, Revision::new(3), vec![route(1, 2, 2), route(1, 3, 3), route(1, 1, 1)]).unwrap();
    commit(&mut table, &plan);
    assert_eq!(table.get(route(1, 0, 0).tenant).unwrap().generation, Generation::new(3));
    assert_eq!(plan.refused.len(), 1);
}

#[test]
fn a_refused_hold_stays_refused_until_another_order_comes() {
    let tenant = route(1, 0, 0).tenant;
    for (next, stays) in [(held(7, route(1, 5, 11)), true), (held(8, route(1, 5, 11)), false), (route(1, 5, 11), false)]
    {
        let mut table = table(10, vec![held(7, route(1, 5, 10))]);
        table.lift(tenant, Token::new(6), 1);
        assert_eq!(table.get(tenant).unwrap().lifted(), None, "another hold's refusal");
        table.lift(tenant, Token::new(7), 3);
        let plan = table.plan(false, Revision::new(11), vec![next.clone()]).unwrap();
        assert_eq!(plan.repeated.len(), usize::from(stays));
        commit(&mut table, &plan);
        assert_eq!(table.get(tenant).unwrap().lifted().is_some(), stays, "{:?}", next.state);
    }
}

#[test]
fn a_change_is_shared_with_the_cores_and_not_copied() {
    let table = table(10, vec![route(1, 5, 10)]);
    let plan = table.plan(false, Revision::new(11), vec![route(1, 5, 11)]).unwrap();
    let [Change::Put(change)] = &plan.changes[..] else { panic!("{plan:?}") };
    assert_eq!(Arc::strong_count(change), 1);
}

#[test]
fn a_host_belongs_to_who_was_given_it_last_and_leaves_only_with_its_owner() {
    let (one, other) = (route(1, 0, 0).tenant, route(2, 0, 0).tenant);
    let mut index = Index::default();
    index.put(one, &Rc::new("one"), ["a.test", "b.test"].into_iter());
    index.put(other, &Rc::new("other"), ["b.test", "c.test"].into_iter());
    index.put(one, &Rc::new("one"), ["a.test"].into_iter());
    let seen = |index: &Index<&'static str>| ["a.test", "b.test", "c.test"].map(|h| index.lookup(h, 0).map(|t| **t));
    assert_eq!(seen(&index), [Some("one"), Some("other"), Some("other")]);
    index.remove(one);
    assert_eq!(seen(&index), [None, Some("other"), Some("other")]);
    index.put(other, &Rc::new("other"), std::iter::empty());
    assert_eq!(seen(&index), [None, None, None]);
    assert!(index.tenant(other).is_some());
}

#[test]
fn a_host_is_remembered_for_as_long_as_no_path_divides_any_anew() {
    let (one, other) = (route(1, 0, 0).tenant, route(2, 0, 0).tenant);
    let mut index = Index::default();
    index.put(one, &Rc::new("one"), ["a.test", "*.b.test"].into_iter());
    let seen =
        |index: &Index<&'static str>, divisions| ["a.test", "x.b.test"].map(|h| index.lookup(h, divisions).is_some());
    assert_eq!(seen(&index, 0), [true, false]);
    index.whole("x.b.test", one, false, 0);
    assert_eq!((seen(&index, 0), seen(&index, 1)), ([true, true], [false, false]), "somebody has to be asked again");
    index.whole("a.test", one, true, 1);
    index.whole("x.b.test", one, false, 1);
    assert_eq!(seen(&index, 1), [true, true]);
    // The routes of all may be ahead of this core: what they say of another tenant's host is not this one's.
    index.put(one, &Rc::new("one"), ["a.test"].into_iter());
    index.whole("a.test", other, true, 1);
    assert_eq!(index.lookup("a.test", 1), None);
}

#[test]
fn a_tenant_is_forgotten_in_no_time_however_many_hosts_a_pattern_found() {
    let tenants: Vec<_> = (1..=10_000).map(|n| route(n, 0, 0).tenant).collect();
    let mut index = Index::default();
    for (n, tenant) in tenants.iter().enumerate() {
        index.put(*tenant, &Rc::new(n), [format!("t{n}.test").as_str()].into_iter());
    }
    for n in 0..19_999 {
        index.whole(&format!("x{n}.b.test"), tenants[n % tenants.len()], false, 0);
    }
    assert!(index.lookup("x7.b.test", 0).is_some());
    let held = Rc::clone(index.tenant(tenants[3]).unwrap());
    let begun = Instant::now();
    for tenant in &tenants {
        index.remove_unused(*tenant, |_| true);
    }
    assert!(index.lookup("x7.b.test", 0).is_none(), "it is not there any more");
    index.forget_aliases();
    // Looking through the hosts for each of them is two hundred million steps.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((index.len(), index.ids()), (1, vec![tenants[3]]), "somebody has it in hand");
    drop(held);
    assert!(index.remove_unused(tenants[3], |_| false).is_none(), "it is in use");
    // Whoever is met again is not found by what was remembered before.
    index.put(tenants[7], &Rc::new(7), ["t7.test"].into_iter());
    assert!(index.lookup("x7.b.test", 0).is_none() && index.lookup("t7.test", 0).is_some());
}
