//! Usage, entitlements and approvals as their callers meet them: real sockets, real control, real Postgres.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_control::Scope;
use berth_domain::{ApprovalState, EdgeId, EdgeName, UsagePeriod};
use berth_testkit::wait_until;
use berth_wire::{
    ApprovalReject, UsageEvent,
    edge::{EdgeMeters, TenantMeter},
};
use world::{World, refused};

const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  hobby: { price: 15.00, class: shared, limits: { quantities: { vehicles: 5, gps_points_per_day: 50000 } } }
  crew: { price: 29.00, class: shared, limits: { quantities: { vehicles: 10, gps_points_per_day: 100000 } } }
  starter: { price: 49.00, class: dedicated, limits: { quantities: { vehicles: 25, gps_points_per_day: 500000 } } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3, price: 90.00 }
  own-1: { class: dedicated, max_tenants: 1, price: 20.00 }
usage: { stop: { gps_points_per_day: gps } }
";

async fn world() -> World {
    let world = World::of(STACK).await;
    for name in ["acme", "nova"] {
        world.tenant(name, "hobby", &format!("{name}.test"), None).await;
    }
    world
}

fn event(tenant: &str, key: &str, metric: &str, amount: u64) -> UsageEvent {
    UsageEvent { key: key.into(), tenant: tenant.into(), metric: metric.into(), amount, unit: None, at: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_count_once_and_a_report_with_a_mistake_counts_nothing() {
    let world = world().await;
    let reporter = world.client_with(&world.key(Scope::Usage).await);
    let client = world.client();
    let key = client.tenant("acme").await.unwrap().key.unwrap();
    let mut first = event("acme", "a", "gps_points", 30_000);
    first.at = Some(jiff::Timestamp::now());
    let report = vec![first.clone(), event(&format!("key:{key}"), "b", "vehicles", 4)];
    let counted = reporter.usage_record(&report).await.unwrap();
    assert_eq!((counted.counted, counted.known), (2, 0));

    // The same again, from many at once, and beside something new.
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (reporter, first) = (reporter.clone(), first.clone());
        tasks.push(tokio::spawn(async move {
            reporter.usage_record(&[first, event("acme", &format!("c{}", n % 4), "gps_points", 10)]).await.unwrap()
        }));
    }
    let mut fresh = 0;
    for task in tasks {
        fresh += task.await.unwrap().counted;
    }
    assert_eq!(fresh, 4);
    let entitlements = reporter.tenant_entitlements(&format!("key:{key}")).await.unwrap();
    let quota = |name: &str| entitlements.quotas.iter().find(|quota| quota.quantity == name).unwrap().clone();
    assert_eq!((quota("gps_points_per_day").used, quota("gps_points_per_day").left), (Some(30_040), Some(19_960)));
    assert!(quota("gps_points_per_day").resets_at.unwrap() > jiff::Timestamp::now());
    assert_eq!((quota("vehicles").used, quota("vehicles").left, quota("vehicles").resets_at), (Some(4), Some(1), None));
    let other = client.tenant_entitlements("nova").await.unwrap();
    assert!(other.quotas.iter().all(|quota| quota.used.is_none()), "nothing is known, which is not 0: {other:?}");

    let mut changed = first.clone();
    changed.amount = 1;
    let counted = reporter.usage_record(&[changed]).await.unwrap();
    assert_eq!((counted.counted, counted.differing), (0, vec!["a".to_owned()]));

    let mut old = event("acme", "old", "gps_points", 1);
    old.at = Some("2020-01-01T00:00:00Z".parse().unwrap());
    let mut other_unit = event("acme", "u", "storage", 1);
    other_unit.unit = Some("MB".into());
    reporter
        .usage_record(&[UsageEvent { unit: Some("bytes".into()), ..event("acme", "s", "storage", 1) }])
        .await
        .unwrap();
    for (bad, says) in [
        (old, "event 2: `at` is older than 35 days"),
        (event("nobody", "x", "gps_points", 1), "event 2: there is no tenant `nobody`"),
        (event("acme", "x", "GPS", 1), "event 2: `metric` is 1 to 40"),
        (event("acme", "x", "requests", 1), "event 2: `requests` is counted by the edges"),
        (other_unit, "event 2: `metric` is counted in `bytes`, not in `MB`"),
    ] {
        let problem = refused(reporter.usage_record(&[event("acme", "good", "gps_points", 7), bad]).await);
        assert_eq!((problem.status, problem.code.as_str()), (422, "bad_usage"));
        assert!(problem.detail.contains(says), "{}", problem.detail);
    }
    let usage = client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
    assert_eq!(usage.usage.iter().find(|row| row.metric == "gps_points").unwrap().total, 30_040, "nothing of those");
    assert!(client.usage(UsagePeriod::Month).await.unwrap().iter().any(|row| row.total == 30_040));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_reports_usage_does_nothing_else() {
    let world = world().await;
    let reporter = world.client_with(&world.key(Scope::Usage).await);
    for status in [
        refused(reporter.tenants(None).await).status,
        refused(reporter.tenant("acme").await).status,
        refused(reporter.tenant_usage("acme", UsagePeriod::Day).await).status,
        refused(reporter.approvals(None, None).await).status,
        refused(reporter.tenant_suspend("acme").await).status,
    ] {
        assert_eq!(status, 403);
    }
    let own = world.client_with(&world.key(Scope::Tenant(world.client().tenant("acme").await.unwrap().id)).await);
    assert!(own.tenant_usage("acme", UsagePeriod::Day).await.is_ok());
    assert_eq!(refused(own.tenant_usage("nova", UsagePeriod::Day).await).status, 404);
    assert_eq!(refused(own.usage_record(&[event("acme", "a", "m", 1)]).await).status, 403);
    // Nor does a customer's key see what a place costs, or have the cell count its history.
    assert_eq!(refused(own.tenant_plan_purge("acme").await).status, 403);
    let told = own.tenant_plan_price("acme", "crew").await.unwrap();
    let known = world.client().tenant_plan_price("acme", "crew").await.unwrap();
    for (theirs, ours) in [(told.now, known.now), (told.then, known.then)] {
        assert_eq!((theirs.cell, theirs.cost_cents, theirs.margin_cents), (None, None, None));
        assert_eq!(theirs.price_cents, ours.price_cents, "its own price it may know");
        assert!(ours.cell.is_some() && ours.cost_cents.is_some(), "{ours:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_edges_carry_becomes_usage_of_their_tenants() {
    let world = world().await;
    let client = world.client();
    let tenant = client.tenant("acme").await.unwrap().id;
    let edge: EdgeName = "edge-1".parse().unwrap();
    let life = |n| EdgeId::new(uuid::Uuid::from_u128(n));
    let said = |n, requests| EdgeMeters {
        instance: life(n),
        tenants: vec![TenantMeter {
            tenant,
            requests,
            failed_requests: 0,
            limited_requests: 0,
            received_bytes: requests * 10,
            sent_bytes: requests * 100,
            request_time_us: requests * 1000,
        }],
    };
    let edges = world.client_with(&world.key(Scope::Edge).await);
    for (life, requests) in [(1, 5), (1, 5), (1, 9), (2, 3), (1, 9)] {
        edges.edge_meters(&edge, &said(life, requests)).await.unwrap();
    }
    let usage = client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
    let total = |metric: &str| usage.usage.iter().find(|row| row.metric == metric).map(|row| row.total);
    assert_eq!((total("requests"), total("sent_bytes"), total("failed_requests")), (Some(12), Some(1200), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_quota_is_refused_at_the_edge_until_there_is_room_again() {
    let world = world().await;
    let client = world.client();
    client.usage_record(&[event("acme", "a", "gps_points", 50_000)]).await.unwrap();
    let gps = || async {
        let changes = world.app.store().routes_after(berth_domain::Revision::default()).await.unwrap();
        changes.routes.iter().find(|r| r.name.as_str() == "acme").unwrap().spent.get("gps").copied()
    };
    let until = wait_until("edges refuse the class", gps, Option::is_some).await.unwrap();
    // The end travels with it: an edge that control cannot reach lets the next day's requests through.
    let usage = client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
    let quota = usage.quotas.iter().find(|outlook| outlook.quota.quantity == "gps_points_per_day").unwrap();
    assert_eq!(quota.quota.resets_at, Some(until));
    let wanted = berth_wire::TenantChange { plan: "crew".parse().unwrap() };
    client.tenant_change("acme", &wanted, None).await.unwrap();
    wait_until("a larger plan has room", gps, Option::is_none).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_stop_when_the_application_has_reported_as_many_as_the_plan_sells() {
    let stack = STACK
        .replace("gps_points_per_day: 50000 }", "gps_points_per_day: 50000, uploads_per_day: 3 }")
        .replace("{ gps_points_per_day: gps }", "{ gps_points_per_day: gps, uploads_per_day: upload }");
    let world = World::of(&stack).await;
    let client = world.client();
    world.tenant("acme", "hobby", "acme.test", None).await;
    let refused = || async {
        let changes = world.app.store().routes_after(berth_domain::Revision::default()).await.unwrap();
        let acme = changes.routes.iter().find(|r| r.name.as_str() == "acme").unwrap();
        acme.spent.keys().cloned().collect::<Vec<String>>()
    };
    client.usage_record(&[event("acme", "a", "uploads", 2), event("acme", "b", "gps_points", 50_000)]).await.unwrap();
    // Of both it was looked at together: two of three uploads are no reason.
    assert_eq!(wait_until("positions are spent", refused, |classes: &Vec<_>| !classes.is_empty()).await, ["gps"]);
    client.usage_record(&[event("acme", "c", "uploads", 1)]).await.unwrap();
    wait_until("uploads are spent", refused, |classes: &Vec<String>| *classes == ["gps", "upload"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_over_a_threshold_asks_a_person_who_may_agree_or_not() {
    let world = world().await;
    let client = world.client();
    // The guide's figure: 40 000 of 50 000 says nothing, one more does.
    client.usage_record(&[event("acme", "a", "gps_points", 40_000)]).await.unwrap();
    let judged = || async { client.tenant_usage("acme", UsagePeriod::Day).await.unwrap() };
    let usage = wait_until("it is judged", judged, |usage: &berth_wire::TenantUsage| usage.judged_at.is_some()).await;
    assert!(usage.quotas.iter().all(|outlook| outlook.signal == "calm"), "{usage:?}");
    assert!(client.approvals(None, None).await.unwrap().is_empty());
    client.usage_record(&[event("acme", "b", "gps_points", 1)]).await.unwrap();
    let look = || async { client.approvals(None, Some(ApprovalState::Open)).await.unwrap() };
    let open = wait_until("a proposal", look, |all: &Vec<_>| !all.is_empty()).await;
    let approval = &open[0];
    assert_eq!((approval.tenant.as_str(), approval.direction.as_str()), ("acme", "upgrade"));
    assert_eq!((approval.now.plan.as_str(), approval.then.plan.as_str()), ("hobby", "crew"));
    assert!(approval.because.iter().any(|reason| reason.contains("80 % of 50000")), "{:?}", approval.because);
    assert!(approval.because.iter().any(|reason| reason.starts_with("a person is asked")), "{:?}", approval.because);

    // The larger plan is of the same class: agreeing changes the plan and moves nobody.
    let done = client.approval_approve(approval.id).await.unwrap();
    assert_eq!((done.state, done.operation), (ApprovalState::CarriedOut, None), "{done:?}");
    assert_eq!(client.tenant("acme").await.unwrap().plan.as_str(), "crew");
    assert_eq!(refused(client.approval_approve(approval.id).await).code, "approval_state");
    let entries = client.audit(&berth_client::AuditFilter::default()).await.unwrap();
    for action in ["approval.ask", "approval.approve", "tenant.plan"] {
        assert!(entries.iter().any(|entry| entry.action == action), "{action} is missing");
    }

    // From there it takes a cell of its own; a person who does not agree is not asked again at once.
    client.usage_record(&[event("acme", "c", "gps_points", 60_000)]).await.unwrap();
    let open = wait_until("the next one", look, |all: &Vec<_>| !all.is_empty()).await;
    assert_eq!((open[0].then.plan.as_str(), open[0].then.class.as_str()), ("starter", "dedicated"));
    let said = ApprovalReject { reason: Some("they leave next week".into()) };
    let done = client.approval_reject(open[0].id, &said).await.unwrap();
    assert_eq!((done.state, done.reason.as_deref()), (ApprovalState::Rejected, Some("they leave next week")));
    client.usage_record(&[event("acme", "d", "vehicles", 10)]).await.unwrap();
    let judged = || async { client.tenant_usage("acme", UsagePeriod::Day).await.unwrap() };
    wait_until("it is judged again", judged, |usage: &berth_wire::TenantUsage| {
        usage.quotas.iter().all(|outlook| outlook.signal == "over")
    })
    .await;
    assert!(look().await.is_empty(), "it was rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_comes_with_its_move_or_not_at_all_and_a_later_decision_goes_before_it() {
    const POOLS: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  hobby: { price: 15.00, class: shared, limits: { quantities: { gps_points_per_day: 50000 } } }
  crew: { price: 29.00, class: pool, limits: { quantities: { gps_points_per_day: 100000 } } }
  fleet: { price: 99.00, class: pool, limits: { quantities: { gps_points_per_day: 1000000 } } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3, price: 90.00 }
  pool-1: { class: pool, max_tenants: 3, price: 90.00 }
";
    let world = World::of(POOLS).await;
    let client = world.client();
    world.tenant("acme", "hobby", "acme.test", None).await;
    client.usage_record(&[event("acme", "a", "gps_points", 45_000)]).await.unwrap();
    let look = async || client.approvals(None, Some(ApprovalState::Open)).await.unwrap();
    let open = wait_until("a proposal", look, |all: &Vec<_>| !all.is_empty()).await;
    assert_eq!((open[0].then.plan.as_str(), open[0].then.class.as_str()), ("crew", "pool"));

    // There is no room any more when a person agrees: it waits, and nobody pays for a place that is not there.
    client.cell_drain("pool-1", true).await.unwrap();
    let waits = client.approval_approve(open[0].id).await.unwrap();
    assert_eq!(waits.state, ApprovalState::Approved, "{waits:?}");
    assert!(waits.reason.as_deref().is_some_and(|why| why.contains("no pool cell has room")), "{waits:?}");
    assert_eq!(client.tenant("acme").await.unwrap().plan.as_str(), "hobby");
    let attention = client.status().await.unwrap().attention;
    let held = attention.iter().find(|it| it.code == "approval_held").unwrap();
    assert!(held.subject == "tenant acme" && held.detail.contains("no pool cell has room"), "{held:?}");

    let other = berth_wire::TenantChange { plan: "fleet".parse().unwrap() };
    client.tenant_change("acme", &other, None).await.unwrap();
    let look = async || client.approval(open[0].id).await.unwrap();
    let over = wait_until("it is over", look, |it: &berth_wire::Approval| it.state != ApprovalState::Approved).await;
    assert_eq!(over.state, ApprovalState::Superseded, "{over:?}");
    assert!(over.reason.as_deref().is_some_and(|why| why.contains("put on the plan fleet")), "{over:?}");
    assert_eq!(client.tenant("acme").await.unwrap().plan.as_str(), "fleet", "what was decided last stands");
}
