//! Usage is counted once, whoever reports it how often and at the same time, and adds up as the pure rules say.

use crate::common::World;
use berth_domain::{ApprovalId, ApprovalState, EdgeId, EdgeName, TenantId, UsagePeriod};
use berth_infra::Role;
use berth_store::{ApprovalFilter, EdgeMeter, NewApproval, NewUsageEvent, Spent, Store, StoreError, UsageRow};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn event(tenant: TenantId, key: &str, amount: i64) -> NewUsageEvent {
    NewUsageEvent { tenant, key: key.to_owned(), metric: "gps_points".to_owned(), amount, at: at(0), dated: true }
}

fn row(tenant: TenantId, amount: i64, second: i64) -> UsageRow {
    UsageRow {
        tenant,
        metric: "gps_points".into(),
        period: UsagePeriod::Day,
        starts_at: at(0),
        total: amount,
        greatest: amount,
        latest: amount,
        latest_at: at(second),
        events: 1,
    }
}

async fn count(store: &Store, events: &[NewUsageEvent]) -> usize {
    let mut tx = store.begin().await.unwrap();
    let fresh = tx.usage_events_insert(events).await.unwrap();
    let mut rows: BTreeMap<TenantId, UsageRow> = BTreeMap::new();
    for event in events.iter().filter(|event| fresh.contains(&(event.tenant, event.key.clone()))) {
        let new = row(event.tenant, event.amount, event.amount);
        let sum = rows.entry(event.tenant).or_insert_with(|| UsageRow { total: 0, events: 0, ..new.clone() });
        sum.total += new.total;
        sum.events += 1;
        sum.greatest = sum.greatest.max(new.greatest);
        (sum.latest_at, sum.latest) = (sum.latest_at, sum.latest).max((new.latest_at, new.latest));
    }
    tx.usage_add(&rows.into_values().collect::<Vec<_>>()).await.unwrap();
    tx.commit().await.unwrap();
    fresh.len()
}

async fn total(world: &World, tenant: TenantId) -> (i64, i64, i64, i64) {
    let rows = world.store.usage_list(tenant, UsagePeriod::Day, at(-1), at(1)).await.unwrap();
    rows.first().map_or((0, 0, 0, 0), |row| (row.total, row.greatest, row.latest, row.events))
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_count_once_also_when_they_are_reported_at_the_same_time() {
    let world = World::new().await;
    let (acme, nova) = (world.tenant("acme").await, world.tenant("nova").await);
    let events: Vec<NewUsageEvent> =
        (1..=50).flat_map(|n| [event(acme, &format!("k{n}"), n), event(nova, &format!("k{n}"), n)]).collect();
    // Four reporters with the same events, each in another order.
    let mut tasks = Vec::new();
    for turn in 0..4 {
        let mut own = events.clone();
        own.rotate_left(turn * 23);
        let store = world.store.clone();
        tasks.push(tokio::spawn(async move {
            let mut fresh = 0;
            for part in own.chunks(9) {
                fresh += count(&store, part).await;
            }
            fresh
        }));
    }
    let mut fresh = 0;
    for task in tasks {
        fresh += task.await.unwrap();
    }
    assert_eq!(fresh, 100);
    let sum = (1..=50).sum::<i64>();
    assert_eq!(total(&world, acme).await, (sum, 50, 50, 50));
    assert_eq!(total(&world, nova).await, (sum, 50, 50, 50));
    let mut tx = world.store.begin().await.unwrap();
    let differing = tx.usage_events_differing(&[event(acme, "k1", 1), event(acme, "k2", 3)]).await.unwrap();
    assert_eq!(differing, ["k2"], "the same again is no difference");
}

#[tokio::test]
async fn a_report_that_is_not_committed_counts_nothing_and_may_be_sent_again() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.usage_events_insert(&[event(acme, "a", 5)]).await.unwrap().len(), 1);
    tx.usage_add(&[row(acme, 5, 0)]).await.unwrap();
    drop(tx);
    assert_eq!(total(&world, acme).await, (0, 0, 0, 0));
    assert_eq!(count(&world.store, &[event(acme, "a", 5)]).await, 1);
    assert_eq!(count(&world.store, &[event(acme, "a", 5)]).await, 0);
    assert_eq!(total(&world, acme).await, (5, 5, 5, 1));
}

#[tokio::test]
async fn sums_stop_at_the_largest_number_that_everybody_reads() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let mut tx = world.store.begin().await.unwrap();
    tx.usage_add(&[row(acme, (1 << 53) - 2, 5)]).await.unwrap();
    tx.usage_add(&[row(acme, 1 << 50, 3)]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        total(&world, acme).await,
        ((1 << 53) - 1, (1 << 53) - 2, (1 << 53) - 2, 2),
        "the later one is the latest"
    );
}

#[tokio::test]
async fn a_metric_keeps_the_unit_it_was_first_counted_in() {
    let world = World::new().await;
    let said = |unit: &str| [("m".to_owned(), unit.to_owned())].into();
    let mut tx = world.store.begin().await.unwrap();
    assert_eq!(tx.usage_units_fix(&said("bytes")).await.unwrap(), said("bytes"));
    assert_eq!(tx.usage_units_fix(&said("MB")).await.unwrap(), said("bytes"));
    tx.commit().await.unwrap();
    assert_eq!(world.store.usage_units().await.unwrap(), said("bytes"));
}

#[tokio::test]
async fn an_edges_counters_count_by_how_far_they_rose_in_each_of_its_lives() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let edge = EdgeName::new("north").unwrap();
    let (first, second) = (EdgeId::new(Uuid::from_u128(1)), EdgeId::new(Uuid::from_u128(2)));
    let says = async |life: EdgeId, requests: i64| {
        let meter = EdgeMeter { requests, ..EdgeMeter::default() };
        let stranger = TenantId::new(Uuid::from_u128(7));
        let mut tx = world.store.begin().await.unwrap();
        let rose = tx.edge_meters_advance(&edge, life, &[(acme, meter), (stranger, meter)]).await.unwrap();
        tx.commit().await.unwrap();
        rose.map(|rose| rose.iter().map(|(_, meter)| meter.requests).sum::<i64>())
    };
    assert_eq!(says(first, 10).await, Some(10));
    assert_eq!(says(first, 10).await, Some(0), "said again");
    assert_eq!(says(first, 25).await, Some(15));
    assert_eq!(says(first, 20).await, Some(0), "late");
    assert_eq!(says(second, 4).await, Some(4), "another life begins at 0");
    assert_eq!(says(first, 26).await, Some(1), "what the first one left on disk");
    let client = world.database.connect(Role::Owner).await;
    client.batch_execute("UPDATE edge_epochs SET seen_at = now() - interval '31 days'").await.unwrap();
    assert!(!world.store.usage_clear(1.0).await.unwrap());
    assert_eq!(says(first, 40).await, None, "its counters are forgotten, so nothing of it counts");
}

#[tokio::test]
async fn the_newest_of_a_metric_is_found_for_every_tenant_however_long_ago_it_was() {
    let world = World::new().await;
    let (acme, nova) = (world.tenant("acme").await, world.tenant("nova").await);
    world.tenant("silent").await;
    let on = |tenant, day: i64, amount| UsageRow { starts_at: at(day * 86_400), ..row(tenant, amount, day * 86_400) };
    let other = UsageRow { metric: "vehicles".into(), ..on(acme, 0, 9) };
    let mut tx = world.store.begin().await.unwrap();
    tx.usage_add(&[on(acme, 0, 1), on(acme, 400, 2), on(nova, 0, 3), other.clone()]).await.unwrap();
    tx.commit().await.unwrap();
    let newest = async |metrics: &[&str]| {
        let metrics: Vec<String> = metrics.iter().map(|metric| (*metric).to_owned()).collect();
        let mut rows = world.store.usage_newest_of_all(UsagePeriod::Day, &metrics).await.unwrap();
        rows.sort_by_key(|row| row.latest);
        rows
    };
    assert_eq!(newest(&["gps_points"]).await, [on(acme, 400, 2), on(nova, 0, 3)]);
    assert_eq!(newest(&["vehicles", "nothing"]).await, [other]);
    assert_eq!(newest(&[]).await, []);
    assert_eq!(world.store.usage_newest_of_all(UsagePeriod::Month, &["vehicles".to_owned()]).await.unwrap(), []);
}

#[tokio::test]
async fn keys_are_forgotten_only_after_their_time() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    assert_eq!(count(&world.store, &[event(acme, "old", 1), event(acme, "new", 1)]).await, 2);
    let client = world.database.connect(Role::Owner).await;
    client
        .batch_execute("UPDATE usage_events SET counted_at = now() - interval '41 days' WHERE key = 'old'")
        .await
        .unwrap();
    world.store.usage_clear(40.0 * 86_400.0).await.unwrap();
    assert_eq!(count(&world.store, &[event(acme, "old", 1), event(acme, "new", 1)]).await, 1);
}

#[tokio::test]
async fn a_tenant_has_one_proposal_under_way_and_two_who_decide_are_told_apart() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let new = |days| NewApproval {
        id: ApprovalId::new(Uuid::now_v7()),
        tenant: acme,
        direction: "upgrade",
        place_now: json!({}),
        place_then: json!({}),
        decision: json!({}),
        because: json!(["b"]),
        confidence: 1.0,
        unattended: false,
        days,
    };
    let put = async |new: &NewApproval| {
        let mut tx = world.store.begin().await.unwrap();
        let put = tx.approval_insert(new).await.unwrap();
        tx.commit().await.unwrap();
        put
    };
    let first = new(14);
    assert!(put(&first).await);
    assert!(!put(&new(14)).await, "one at a time");
    let mut tx = world.store.begin().await.unwrap();
    let (open, approved) = (ApprovalState::Open, ApprovalState::Approved);
    tx.approval_turn(first.id, open, approved, Some("ann"), None).await.unwrap();
    let second = tx.approval_turn(first.id, open, ApprovalState::Rejected, Some("bob"), None).await;
    assert!(matches!(second, Err(StoreError::Stale("approval"))), "{second:?}");
    tx.approval_carried_out(first.id, None).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.store.approval_under_way(acme).await.unwrap(), None);
    assert!(put(&new(0)).await, "the next one may come");
    assert_eq!(world.store.approvals_expire().await.unwrap(), 1);
    let all = world.store.approval_list(&ApprovalFilter::default(), 10).await.unwrap();
    let states: Vec<ApprovalState> = all.iter().map(|approval| approval.state).collect();
    assert_eq!(states, [ApprovalState::Expired, ApprovalState::CarriedOut]);
    assert_eq!(all[1].decided_by.as_deref(), Some("ann"));
}

#[tokio::test]
async fn edges_are_told_of_a_spent_quota_and_of_its_end() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let limits = async || {
        let changes = world.store.routes_after(berth_domain::Revision::default()).await.unwrap();
        changes.routes[0].spent.clone()
    };
    assert!(limits().await.is_empty());
    let replace = async |spent: &[Spent]| {
        let before = world.store.route_head().await.unwrap();
        let mut tx = world.store.begin().await.unwrap();
        tx.spent_replace(acme, spent).await.unwrap();
        tx.commit().await.unwrap();
        assert!(world.store.route_head().await.unwrap() > before);
    };
    let spent = |quantity: &str, until_s| Spent {
        tenant: acme,
        quantity: quantity.into(),
        class: "gps".into(),
        until: at(until_s),
    };
    let both = [spent("gps_points_per_day", 86_400), spent("gps_points_per_month", 2_592_000)];
    replace(&both).await;
    assert_eq!(limits().await, [("gps".to_owned(), at(2_592_000))].into(), "until the last of them ends");
    assert_eq!(world.store.spent_list().await.unwrap(), both);
    replace(&[]).await;
    assert!(limits().await.is_empty());
}
