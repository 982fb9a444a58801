//! Decisions and fleets as their callers meet them: real sockets, real control, real Postgres.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_domain::{CellClass, Cents};
use berth_wire::{DecisionAsk, FleetApply, FleetSimulate, Profile, TenantCreate, TenantMove};
use world::{World, apply, refused};

const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  hobby: { price: 15.00, class: shared, limits: { quantities: { vehicles: 5 } } }
  starter: { price: 49.00, class: dedicated, limits: { quantities: { vehicles: 25 } }, shape: { memory_mib: 512 } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3, price: 90.00 }
  shared-2: { class: shared, max_tenants: 3, price: 60.00 }
placement:
  policy: { planned_fill_percent: 100 }
";

async fn world() -> World {
    World::of(STACK).await
}

async fn tenant(world: &World, name: &str, cell: &str) {
    world.tenant(name, "hobby", &format!("{name}.test"), Some(cell)).await;
}

fn ask(profile: Profile) -> DecisionAsk {
    DecisionAsk { tenant: None, profile: Some(profile) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_decided_about_with_price_reasons_and_refusals() {
    let world = world().await;
    let client = world.client();
    let small = Profile { quantities: [("vehicles".to_owned(), 4)].into(), ..Profile::default() };
    let decision = client.decide(&ask(small)).await.unwrap();
    assert_eq!((decision.class, decision.plan.as_deref()), (Some(CellClass::Shared), Some("hobby")));
    // Both have room and are of one kind but for the price: 60 dollars over 3 tenants.
    assert_eq!((decision.cell.as_deref(), decision.monthly_cost_cents), (Some("shared-2"), Some(Cents::new(2000))));
    assert_eq!(decision.margin_cents, Some(Cents::new(-500)));
    assert_eq!(decision.flip.as_ref().unwrap().field, "vehicles", "{:?}", decision.flip);

    let large = Profile { quantities: [("vehicles".to_owned(), 30)].into(), ..Profile::default() };
    let decision = client.decide(&ask(large)).await.unwrap();
    assert_eq!((decision.class, decision.plan), (None, None), "no plan holds 30 vehicles");
    assert!(decision.refused.iter().any(|r| r.class.as_deref() == Some("dedicated") && r.constraint == "vehicles"));

    let wrong =
        Profile { compliance: vec!["iso9001".to_owned()], residency: Some("mars".to_owned()), ..Profile::default() };
    let problem = refused(client.decide(&ask(wrong)).await);
    assert_eq!((problem.status, problem.code.as_str()), (422, "bad_profile"));
    assert!(problem.detail.contains("iso9001") && problem.detail.contains("mars"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_profile_is_kept_and_the_guides_question_has_the_same_answer() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-1").await;
    let profile = Profile { quantities: [("vehicles".to_owned(), 4)].into(), ..Profile::default() };
    client.tenant_set_profile("acme", &profile).await.unwrap();
    let asked = DecisionAsk { tenant: Some("acme".parse().unwrap()), profile: None };
    let decision = client.decide(&asked).await.unwrap();
    assert_eq!(decision.cell.as_deref(), Some("shared-2"), "ten dollars a month are worth a move");
    let entries = client.audit(&berth_client::AuditFilter::default()).await.unwrap();
    assert!(entries.iter().any(|entry| entry.action == "tenant.profile"));

    // A tenant may begin with one.
    let wanted = TenantCreate {
        name: "born".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: Vec::new(),
        key: None,
        cell: Some("shared-1".parse().unwrap()),
        profile: Some(profile),
    };
    world.finishes(client.tenant_create(&wanted).await.unwrap().id).await;
    let born = DecisionAsk { tenant: Some("born".parse().unwrap()), profile: None };
    let reasons = client.decide(&born).await.unwrap().reasons.join("\n");
    assert!(!reasons.contains("no quantity is known"), "what it said is judged: {reasons}");

    let regulated = Profile { compliance: vec!["hipaa".to_owned()], ..Profile::default() };
    client.tenant_set_profile("acme", &regulated).await.unwrap();
    let decision = client.decide(&asked).await.unwrap();
    assert_eq!(decision.class, None, "nothing here is for regulated data: {decision:?}");

    let body = br#"{"customer_id": "nova", "vehicle_count": 3, "latency_requirement": 60000}"#;
    let head = "POST /api/admin/deployment/evaluate HTTP/1.1\r\nContent-Type: application/json";
    let (status, answer) = world.raw(head, body).await;
    assert_eq!(status, 200, "{answer}");
    // The provider of this world is in no catalogue, so its latency is unknown, and unknown is not fast enough.
    assert!(answer.contains(r#""recommended":null"#), "{answer}");
    let (status, _) = world.raw(head, br#"{"customer": "nova"}"#).await;
    assert_eq!(status, 422);
}

/// The guide's own providers: a shared cell in a region near the United States, and machines of one's own.
const GUIDE: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  hobby: { price: 15.00, class: shared, limits: { quantities: { vehicles: 5, gps_points_per_day: 50000, api_calls_per_day: 10000 } } }
  starter: { price: 49.00, class: dedicated, limits: { quantities: { vehicles: 25, gps_points_per_day: 500000, api_calls_per_day: 100000 } } }
  professional: { price: 149.00, class: dedicated, limits: { quantities: { vehicles: 100, gps_points_per_day: 2000000, api_calls_per_day: 1000000 } } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 150, price: 92.00, region: ash }
  shared-2: { class: shared, max_tenants: 150, price: 92.00, region: ash }
placement:
  catalogue:
    regions: { ash: { title: Ashburn, lat: 39, lon: -77.5, location: north-america, residency: [us] } }
    providers:
      fake:
        title: Fake
        currency: USD
        checked: 2026-11-21
        source: a test
        compliance: [gdpr, soc2, hipaa]
        regions: { ash: { region: ash, near_ms: 45, trust: claimed } }
        shapes: { own: { kind: server, price: 40, cpu_millis: 2000, memory_mib: 4096, disk_gib: 80 } }
    offers:
      own: { class: dedicated, provider: fake, at: [[ash]], parts: { own: 1 }, places: 1,
             promises: { throughput_per_s: 2000, users: 100, upload_mib: 50 } }
";

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_evaluation_answers_its_own_vectors_and_uses_its_metrics() {
    let world = World::empty().await;
    let client = world.client();
    for operation in client.stack_apply(&apply(GUIDE)).await.unwrap().operations {
        world.finishes(operation).await;
    }
    let head = "POST /api/admin/deployment/evaluate HTTP/1.1\r\nContent-Type: application/json";
    let evaluate = async |body: serde_json::Value| -> serde_json::Value {
        let (status, answer) = world.raw(head, body.to_string().as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
        let body = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
        serde_json::from_str(body).unwrap()
    };
    // Appendix A6, the first row: the guide and Berth agree.
    let small = serde_json::json!({ "customer_id": "small", "budget": 30, "vehicle_count": 3, "latency_requirement": 150,
                                    "geographic_distribution": ["US"] });
    let answer = evaluate(small.clone()).await;
    let recommended = &answer["recommended"];
    assert_eq!((&recommended["mode"], &recommended["plan"]), (&"multi_tenant".into(), &"hobby".into()), "{answer}");
    assert_eq!((recommended["confidence"].as_f64(), &recommended["infrastructure"]), (Some(1.0), &"fake".into()));
    // 92 dollars over four fifths of 150.
    assert_eq!(recommended["estimated_cost"].as_f64(), Some(0.77));
    let other = &recommended["alternatives"][0];
    assert_eq!((&other["mode"], &other["plan"]), (&"single_tenant".into(), &"starter".into()), "{answer}");
    assert_eq!((other["estimated_cost"].as_f64(), other["estimated_cost_change"].as_f64()), (Some(40.0), Some(39.23)));
    assert!(other["reason"].as_str().unwrap().contains("$49.00 a month instead of $15.00"), "{answer}");
    assert!(answer["current_deployment"].is_null() && answer["usage_metrics"]["vehicle_count"].is_null(), "{answer}");
    // The third row: the guide puts regulated data on the shared server.
    let mut regulated = small.clone();
    regulated["compliance_requirements"] = serde_json::json!(["hipaa"]);
    assert_eq!(evaluate(regulated).await["recommended"]["mode"], "single_tenant");

    // What is used goes before what is said at sign-up: 4 vehicles need room for a quarter more, 5 for more than 5.
    let mut used = small.clone();
    used["usage_metrics"] = serde_json::json!({ "vehicle_count": 4, "gps_points_today": 12000 });
    assert_eq!(evaluate(used.clone()).await["recommended"]["plan"], "hobby");
    used["usage_metrics"]["vehicle_count"] = 5.into();
    assert_eq!(evaluate(used.clone()).await["recommended"]["plan"], "starter");
    used["usage_metrics"] = serde_json::json!({ "gps_points_today": 40_001 });
    assert_eq!(evaluate(used.clone()).await["recommended"]["plan"], "starter", "A22");
    used["usage_metrics"] = serde_json::json!({ "average_response_time_ms": 250.0, "error_rate": 0.01 });
    let answer = evaluate(used.clone()).await;
    assert_eq!(answer["performance_issue"], "answers take 250 ms on average, more than 150");
    used["usage_metrics"] = serde_json::json!({ "api_calls_today": 8001 });
    assert_eq!(evaluate(used.clone()).await["recommended"]["plan"], "starter");
    for (wrong, says) in [("error_rate", "`usage_metrics.error_rate` is 1.5"), ("cpu_usage", "unknown field")] {
        let body = serde_json::json!({ "customer_id": "small", "usage_metrics": { wrong: 1.5 } }).to_string();
        let (status, answer) = world.raw(head, body.as_bytes()).await;
        assert!((status == 422 || status == 400) && answer.contains(says), "{status} {answer}");
    }

    // Of a customer that there is, what was measured is shown and used; one that is served slowly goes elsewhere.
    let wanted = TenantCreate {
        name: "acme".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec!["acme.test".parse().unwrap()],
        key: None,
        cell: Some("shared-1".parse().unwrap()),
        profile: None,
    };
    world.finishes(client.tenant_create(&wanted).await.unwrap().id).await;
    let event = |metric: &str, amount| berth_wire::UsageEvent {
        key: format!("{metric}-{amount}"),
        tenant: "acme".to_owned(),
        metric: metric.to_owned(),
        amount,
        unit: None,
        at: None,
    };
    client.usage_record(&[event("vehicles", 3), event("gps_points", 900)]).await.unwrap();
    let answer = evaluate(serde_json::json!({ "customer_id": "acme" })).await;
    let current = &answer["current_deployment"];
    assert_eq!((&current["plan"], &current["cell"]), (&"hobby".into(), &"shared-1".into()), "{answer}");
    assert_eq!(answer["usage_metrics"]["vehicle_count"], 3);
    assert_eq!(answer["usage_metrics"]["gps_points_today"], 900);
    assert!(answer["usage_metrics"]["error_rate"].is_null(), "nobody measured it: {answer}");
    assert_eq!(answer["recommended"]["plan"], "hobby");
    let slow = serde_json::json!({ "customer_id": "acme", "usage_metrics": { "average_response_time_ms": 450.0 } });
    let answer = evaluate(slow).await;
    let reason = answer["recommended"]["reason"].as_str().unwrap();
    assert!(reason.contains("plan hobby is kept") && reason.contains("shared-2"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_planned_carried_out_and_grown() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-1").await;
    tenant(&world, "nova", "shared-2").await;
    let plan = client.fleet_plan().await.unwrap();
    assert_eq!(
        (plan.before_cents, plan.after_cents, plan.bound_cents),
        (Cents::new(15000), Cents::new(6000), Cents::new(6000))
    );
    assert_eq!(plan.steps.len(), 1, "{plan:?}");
    let months = client.fleet_simulate(&FleetSimulate { growth_percent: 100, months: 1 }).await.unwrap();
    assert_eq!(
        (months[1].tenants, months[1].nowhere),
        (4, 1),
        "one cell is closed and nothing can be bought: {months:?}"
    );

    let done = client.fleet_apply(&FleetApply { moves: Some(1), cells: false, only: Vec::new() }).await.unwrap();
    let started = &done.started[0];
    assert_eq!((started.tenant.as_str(), started.to.as_str()), ("acme", "shared-2"));
    assert!(started.operation.is_some(), "{started:?}");
    assert_eq!(client.cell("shared-1").await.unwrap().state.to_string(), "draining");
    let again = client.tenant_move("acme", &TenantMove { to: None }).await;
    assert_eq!(refused(again).code, "already_moving");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_the_plan_needs_is_made_only_when_asked_to() {
    // The provider sells a small cell for less than the large one that stands, which nobody could have known before.
    let stack = STACK.replace("  shared-2: { class: shared, max_tenants: 3, price: 60.00 }\n", "")
        + r"  catalogue:
    regions: { here: { title: Here, lat: 50, lon: 10, location: europe, residency: [eu] } }
    providers:
      fake:
        title: Fake
        currency: USD
        checked: 2026-11-21
        source: a test
        regions: { here: { region: here, near_ms: 5, trust: claimed } }
        shapes: { small: { kind: server, price: 20, cpu_millis: 4000, memory_mib: 8192, disk_gib: 80 } }
    offers:
      small: { class: shared, provider: fake, at: [[here]], parts: { small: 1 }, places: 2 }
";
    let world = World::empty().await;
    let client = world.client();
    for operation in client.stack_apply(&apply(&stack)).await.unwrap().operations {
        world.finishes(operation).await;
    }
    tenant(&world, "acme", "shared-1").await;
    let apply = async |cells| client.fleet_apply(&FleetApply { moves: None, cells, only: Vec::new() }).await.unwrap();
    let said = apply(false).await;
    assert_eq!((said.needs.len(), said.cells.len(), said.left), (1, 0, 1), "unasked nothing is bought: {said:?}");
    assert_eq!(client.cells().await.unwrap().len(), 1);

    let first = apply(true).await;
    let [made] = &first.cells[..] else { panic!("{first:?}") };
    assert!(!made.removed && first.needs.is_empty() && first.started.is_empty(), "{first:?}");
    let again = apply(true).await;
    assert!(again.cells.iter().all(|cell| cell.operation.is_none()), "one is enough: {again:?}");
    world.finishes(made.operation.unwrap()).await;
    let cell = client.cell(&made.cell).await.unwrap();
    assert_eq!((cell.class, cell.max_tenants, cell.region.as_deref()), (CellClass::Shared, 2, Some("here")));

    let second = apply(true).await;
    let [moved] = &second.started[..] else { panic!("{second:?}") };
    assert_eq!((moved.tenant.as_str(), moved.to.as_str()), ("acme", made.cell.as_str()));
    assert!(moved.operation.is_some() && second.cells.is_empty(), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_that_the_plan_closes_is_removed_when_it_was_emptied_and_that_is_asked_for() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-2").await;
    let apply = async |cells| client.fleet_apply(&FleetApply { moves: None, cells, only: Vec::new() }).await.unwrap();
    let said = apply(false).await;
    assert_eq!((said.removable, said.cells), (vec!["shared-1".to_owned()], Vec::new()));
    let spare = apply(true).await;
    assert_eq!(
        (spare.removable, spare.cells),
        (vec!["shared-1".to_owned()], Vec::new()),
        "it may be for tenants to come"
    );
    client.cell_drain("shared-1", true).await.unwrap();
    client.cell_drain("shared-1", false).await.unwrap();
    assert_eq!(apply(true).await.cells, Vec::new(), "it takes tenants again");
    client.cell_drain("shared-1", true).await.unwrap();
    let done = apply(true).await;
    let [removed] = &done.cells[..] else { panic!("{done:?}") };
    assert_eq!((removed.cell.as_str(), removed.removed, done.removable.len()), ("shared-1", true, 0));
    world.finishes(removed.operation.unwrap()).await;
    let left: Vec<String> = client.cells().await.unwrap().iter().map(|cell| cell.name.to_string()).collect();
    assert_eq!(left, ["shared-2"]);
    assert!(client.fleet_plan().await.unwrap().steps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_hold_is_refused_when_it_is_applied() {
    let world = world().await;
    let gap = STACK.replace(
        "policy: { planned_fill_percent: 100 }",
        "policy: { rules: [{ name: small, when: { quantities: { vehicles: { at_most: 5 } } }, allow: [shared] }] }",
    );
    let problem = refused(world.client().stack_apply(&apply(&gap)).await);
    assert_eq!((problem.status, problem.code.as_str()), (422, "bad_placement"));
    assert!(problem.detail.contains("(vehicles 6)"), "{}", problem.detail);
    let negative = STACK.replace(
        "policy: { planned_fill_percent: 100 }",
        "catalogue: { providers: { fly: { shapes: { ipv4: { price: -2 } } } } }",
    );
    let problem = refused(world.client().stack_apply(&apply(&negative)).await);
    assert!(problem.detail.contains("`providers.fly.shapes.ipv4.price` is negative: -2"), "{}", problem.detail);
}
