//! Ownership and routes: one owner, and edges that see every change in its order.

use crate::common::{World, host, new_cell};
use berth_domain::{CellState, EdgeLimits, MemberId, MemberState, Revision, ServiceName, ServiceRole, TenantId, Token};
use berth_mover::{Change, Control, Ownership, Refusal, Verdict};
use berth_store::{EdgeSaid, HoldSaid, HoldWent, NewMember, Nudge, Presence, Seen};
use std::sync::Arc;
use uuid::Uuid;

async fn changed(world: &World, tenant: TenantId, token: Token, change: Change) -> Control {
    match world.store.ownership(tenant).change(token, change).await {
        Verdict::Changed(row) => row,
        other => panic!("{change:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_move_changes_the_owner_once_and_edges_see_each_step_of_it() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let target = new_cell(&world.store, "shared-2").await;
    let ownership = world.store.ownership(tenant);
    let mut seen = world.store.route_head().await.unwrap();

    let token = changed(&world, tenant, Token::default(), Change::Take).await.token;
    changed(&world, tenant, token, Change::Begin { target }).await;
    assert!(world.store.routes_after(seen).await.unwrap().routes.is_empty(), "nothing that edges see has changed");

    // What edges see after each change: cell, generation, and whether they hold.
    let mut story = Vec::new();
    for change in [Change::Hold, Change::Release, Change::Hold, Change::Commit, Change::Finish] {
        changed(&world, tenant, token, change).await;
        let changes = world.store.routes_after(seen).await.unwrap();
        assert_eq!(changes.routes.len(), 1, "{change:?}");
        assert!(changes.revision > seen, "{change:?}");
        seen = changes.revision;
        let route = &changes.routes[0];
        assert!(route.hold.is_none_or(|hold| hold.token == token));
        story.push((route.cell.to_string(), route.generation.get(), route.hold.is_some()));
    }
    let story: Vec<(&str, u64, bool)> = story.iter().map(|(cell, g, hold)| (cell.as_str(), *g, *hold)).collect();
    assert_eq!(
        story,
        [
            ("shared-1", 1, true),
            ("shared-1", 1, false),
            ("shared-1", 1, true),
            ("shared-2", 2, true),
            ("shared-2", 2, false)
        ]
    );
    assert_eq!(ownership.read().await.unwrap().owner, target);
}

#[tokio::test]
async fn a_tenants_own_limit_stands_before_its_plans_in_its_route() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let set = async |limits: &EdgeLimits| {
        let mut tx = world.store.begin().await.unwrap();
        tx.tenant_set_limits(tenant, limits).await.unwrap();
        tx.routes_publish(&[tenant]).await.unwrap();
        tx.commit().await.unwrap();
    };
    let route = async || world.store.routes_after(Revision::default()).await.unwrap().routes.remove(0);
    set(&EdgeLimits::default()).await;
    let plans = route().await;
    let own =
        EdgeLimits { requests_per_minute: [("api".to_owned(), 7), ("gps".to_owned(), 0)].into(), body_bytes: Some(5) };
    set(&own).await;
    let now = route().await;
    let mut expected = plans.requests_per_minute.clone();
    expected.extend(own.requests_per_minute.clone());
    assert_eq!((now.requests_per_minute, now.body_bytes), (expected, Some(5)));
    assert_eq!(world.store.tenant_get(tenant).await.unwrap().unwrap().limits, own);
    set(&EdgeLimits::default()).await;
    let after = route().await;
    assert_eq!((after.requests_per_minute, after.body_bytes), (plans.requests_per_minute, plans.body_bytes));
}

#[tokio::test]
async fn a_worker_whose_token_is_old_changes_nothing() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let target = new_cell(&world.store, "shared-2").await;
    let old = changed(&world, tenant, Token::default(), Change::Take).await.token;
    changed(&world, tenant, old, Change::Begin { target }).await;
    changed(&world, tenant, old, Change::Hold).await;
    let new = changed(&world, tenant, Token::default(), Change::Take).await;
    for change in [Change::Commit, Change::Abort, Change::Release, Change::Finish] {
        let verdict = world.store.ownership(tenant).change(old, change).await;
        assert_eq!(verdict, Verdict::Refused(Refusal::OldToken { held: old, current: new.token }), "{change:?}");
    }
    assert_eq!(world.store.ownership(tenant).read().await, Some(new));
}

#[tokio::test]
async fn of_many_workers_at_once_each_gets_a_token_of_its_own() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let takes = (0..20).map(|_| {
        let ownership = world.store.ownership(tenant);
        tokio::spawn(async move { ownership.change(Token::default(), Change::Take).await })
    });
    let mut tokens = Vec::new();
    for take in takes.collect::<Vec<_>>() {
        let Verdict::Changed(row) = take.await.unwrap() else { panic!("a take was refused") };
        tokens.push(row.token.get());
    }
    tokens.sort_unstable();
    assert_eq!(tokens, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_does_not_answer_leaves_the_outcome_unknown() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    world.store.close().await;
    let ownership = world.store.ownership(tenant);
    assert_eq!(ownership.change(Token::default(), Change::Take).await, Verdict::Unknown);
    assert_eq!(ownership.read().await, None);
}

#[tokio::test]
async fn revisions_become_visible_in_their_order() {
    let world = World::new().await;
    let mut tenants = Vec::new();
    for n in 0..8 {
        tenants.push(world.tenant(&format!("t{n}")).await);
    }
    let start = world.store.route_head().await.unwrap();
    // Writers publish at once, each its own tenant, thirty times; a reader follows as an edge does.
    let writers: Vec<_> = tenants
        .iter()
        .map(|tenant| {
            let (store, tenant) = (world.store.clone(), *tenant);
            tokio::spawn(async move {
                for n in 0..30 {
                    let mut tx = store.begin().await.unwrap();
                    tx.hosts_replace(tenant, &[host(&format!("{n}.{tenant}.test"))]).await.unwrap();
                    tx.routes_publish(&[tenant]).await.unwrap();
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    let mut at = start;
    let mut last_seen = std::collections::BTreeMap::new();
    let end = Revision::new(start.get() + 8 * 30);
    while at < end {
        let changes = world.store.routes_after(at).await.unwrap();
        for route in changes.routes {
            assert!(route.revision > at, "a revision was given out below one that was seen");
            last_seen.insert(route.tenant, route.hosts);
        }
        at = changes.revision;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for tenant in tenants {
        assert_eq!(last_seen[&tenant], [host(&format!("29.{tenant}.test"))], "the reader missed a change");
    }
}

#[tokio::test]
async fn a_page_of_routes_ends_with_a_whole_revision() {
    let world = World::new().await;
    let start = world.store.route_head().await.unwrap();
    let mut tenants = Vec::new();
    for name in ["a", "b", "c"] {
        tenants.push(world.tenant(name).await);
    }
    let mut tx = world.store.begin().await.unwrap();
    tx.routes_publish(&tenants[..2]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.routes_publish(&tenants[2..]).await.unwrap();
    tx.commit().await.unwrap();
    let (mut at, mut pages) = (start, Vec::new());
    loop {
        let page = world.store.routes_page(at, 1).await.unwrap();
        at = page.revision;
        pages.push(page.routes.len());
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [2, 1, 0], "two that changed together are never parted");
}

#[tokio::test]
async fn edges_hear_of_a_member_that_comes_and_goes() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let member = MemberId::new(Uuid::now_v7());
    let new = NewMember {
        id: member,
        cell: world.cell,
        service: ServiceName::new("web").unwrap(),
        copy: 0,
        service_role: ServiceRole::Web,
        release: 0,
        arriving: false,
    };
    let mut tx = world.store.begin().await.unwrap();
    tx.member_ensure(&new).await.unwrap();
    tx.commit().await.unwrap();
    let mut at = world.store.route_head().await.unwrap();
    let seen = |state, address: &str| Seen { state, address: Some(address.into()), detail: None, restarted: false };
    for (state, address, members) in [
        (MemberState::Starting, "h:1", None), // edges see no difference: nothing is published
        (MemberState::Healthy, "h:1", Some(vec!["h:1"])),
        (MemberState::Healthy, "h:1", None),
        (MemberState::Healthy, "h:2", Some(vec!["h:2"])),
        (MemberState::Unhealthy, "h:2", Some(vec![])),
    ] {
        world.store.member_observed(member, &seen(state, address)).await.unwrap();
        let changes = world.store.routes_after(at).await.unwrap();
        at = changes.revision;
        let found: Option<Vec<String>> = changes.routes.first().map(|route| {
            assert_eq!(route.tenant, tenant);
            route.members.iter().map(|member| member.address.clone()).collect()
        });
        assert_eq!(found, members.map(|m| m.into_iter().map(str::to_owned).collect()), "{state} at {address}");
    }
}

#[tokio::test]
async fn an_acknowledgement_reaches_who_waits_here_and_who_waits_elsewhere() {
    let world = World::new().await;
    let other = crate::common::open(&world.database).await;
    let tenant = world.tenant("acme").await;
    let said = EdgeSaid {
        edge: "edge-1".parse().unwrap(),
        instance: berth_domain::EdgeId::new(Uuid::now_v7()),
        revision: world.store.route_head().await.unwrap(),
        holds: vec![HoldSaid {
            tenant,
            token: Token::new(3),
            went: HoldWent::Ended { pause_ms: 1.5, held_requests: 4, expired_requests: 0 },
        }],
        presence: Presence::Serving,
        challenges: 0,
    };
    let (mut here, mut there) = (world.store.hub().subscribe(), other.hub().subscribe());
    world.store.edge_said(said.clone()).await.unwrap();
    for waiting in [&mut here, &mut there] {
        let heard = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            loop {
                if let Nudge::Acked(heard) = waiting.recv().await.unwrap() {
                    return heard;
                }
            }
        });
        assert_eq!(heard.await.expect("nobody was told"), Arc::new(said.clone()));
    }
    let stored = other.hold_reports(tenant, Token::new(3)).await.unwrap();
    assert_eq!(stored.iter().map(|(_, _, hold)| hold).collect::<Vec<_>>(), [&said.holds[0]]);
    let edges = other.edge_list().await.unwrap();
    assert_eq!((edges.len(), edges[0].acked), (1, said.revision));
}

#[tokio::test]
async fn a_process_that_leaves_is_waited_for_beside_its_follower_until_it_has_gone() {
    let world = World::new().await;
    let instance = || berth_domain::EdgeId::new(Uuid::now_v7());
    let (edge, old, new): (berth_domain::EdgeName, _, _) = ("edge-1".parse().unwrap(), instance(), instance());
    let said = |instance, revision, presence| EdgeSaid {
        edge: edge.clone(),
        instance,
        revision: Revision::new(revision),
        holds: Vec::new(),
        presence,
        challenges: 0,
    };
    let known = async || {
        let edges = world.store.edge_list().await.unwrap();
        edges.into_iter().map(|e| (e.instance, e.acked.get(), e.leaving)).collect::<Vec<_>>()
    };
    world.store.edge_said(said(old, 0, Presence::Serving)).await.unwrap();
    world.store.edge_said(said(old, 0, Presence::Leaving)).await.unwrap();
    world.store.edge_seen(&edge, new, Revision::new(0), false).await.unwrap();
    // Whatever the old one says from now on changes nothing of the new one's.
    world.store.edge_seen(&edge, old, Revision::new(0), true).await.unwrap();
    assert_eq!(known().await, [(new, 0, false), (old, 0, true)]);
    world.store.edge_said(said(old, 0, Presence::Gone)).await.unwrap();
    assert_eq!(known().await, [(new, 0, false)]);
    // One whose follower did not come stays, and is there once.
    world.store.edge_said(said(new, 0, Presence::Leaving)).await.unwrap();
    world.store.edge_said(said(new, 0, Presence::Serving)).await.unwrap();
    assert_eq!(known().await, [(new, 0, false)]);
}

#[tokio::test]
async fn a_restarted_edge_is_as_far_as_it_says_and_no_further() {
    let world = World::new().await;
    let edge = "edge-1".parse().unwrap();
    let instance = || berth_domain::EdgeId::new(Uuid::now_v7());
    let acked = async || world.store.edge_list().await.unwrap()[0].acked.get();
    let first = instance();
    world.store.edge_seen(&edge, first, Revision::new(7), false).await.unwrap();
    world.store.edge_seen(&edge, first, Revision::new(0), false).await.unwrap();
    assert_eq!(acked().await, 7, "a ping takes nothing back");
    world.store.edge_seen(&edge, instance(), Revision::new(0), false).await.unwrap();
    assert_eq!(acked().await, 0, "a new process starts with what it says");
}

#[tokio::test]
async fn a_full_cell_is_seen_full_by_the_second_of_two_who_count() {
    let world = World::new().await;
    world.tenant("acme").await;
    let mut first = world.store.begin().await.unwrap();
    assert_eq!(first.cell_lock(world.cell).await.unwrap().unwrap().tenants, 1);
    let (store, cell) = (world.store.clone(), world.cell);
    let second = tokio::spawn(async move {
        let mut tx = store.begin().await.unwrap();
        tx.cell_lock(cell).await.unwrap().unwrap().tenants
    });
    let new = crate::common::new_tenant("second");
    first.tenant_insert(&new).await.unwrap();
    first.placement_insert(new.id, world.cell).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), 2);
    assert_eq!(world.store.cell_get(cell).await.unwrap().unwrap().state, CellState::Ready);
}
