//! The dashboard over the real `/v1` of a real control plane: each page answers, and shows a figure that was put there.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use axum::http::{Method, StatusCode};
use berth_domain::{ApprovalState, UsagePeriod};
use berth_infra::Role;
use berth_testkit::wait_until;
use berth_wire::{InvoiceImport, InvoiceLine, UsageEvent};
use world::{
    World,
    pages::{Dashboard, hidden},
};

const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health, env: { API_TOKEN: hunter2 } }
plans:
  hobby: { price: 15.00, class: shared, limits: { quantities: { vehicles: 5, gps_points_per_day: 50000 } } }
  crew: { price: 29.00, class: shared, limits: { quantities: { vehicles: 10, gps_points_per_day: 100000 } } }
  starter: { price: 49.00, class: dedicated, limits: { quantities: { vehicles: 25, gps_points_per_day: 500000 } } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3, price: 90.00 }
  shared-2: { class: shared, max_tenants: 3, price: 60.00 }
budget: { amount: 200, currency: USD }
";

async fn world() -> World {
    let world = World::of(STACK).await;
    for (name, cell) in [("acme", "shared-1"), ("nova", "shared-2")] {
        world.tenant(name, "hobby", &format!("{name}.test"), Some(cell)).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_stands_on_the_real_api_and_shows_what_is_there() {
    let world = world().await;
    let (client, dashboard) = (world.client(), Dashboard::of(&world));

    // Costs: an invoice to the cent, this month and as one of the months before.
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    let line = InvoiceLine {
        cell: Some("shared-1".parse().unwrap()),
        part: "server".into(),
        amount: "1234.56".into(),
        currency: "USD".into(),
    };
    let invoice = InvoiceImport { month: month.clone(), provider: "here".parse().unwrap(), lines: vec![line] };
    client.invoice_import(&invoice).await.unwrap();
    for path in ["/costs".to_owned(), format!("/costs?month={month}")] {
        dashboard.shows(&path, &["$1234.56", "imported", "acme", "hobby", "over"]).await;
    }
    let (status, _) = dashboard.ask(Method::GET, "/costs?month=yesterday", "").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    // Fleet: two half-empty cells, of which the dearer one can go.
    dashboard.shows("/fleet", &["$150.00", "$60.00", "shared-1", "moves acme to shared-2", "closes shared-1"]).await;

    // Usage: a figure and its share, then the proposal that follows from it.
    let event = |key: &str, metric: &str, amount| UsageEvent {
        key: key.into(),
        tenant: "acme".into(),
        metric: metric.into(),
        amount,
        unit: None,
        at: Some(jiff::Timestamp::now()),
    };
    client.usage_record(&[event("a", "gps_points", 45_678), event("b", "vehicles", 3)]).await.unwrap();
    dashboard.shows("/tenants/acme", &["45\u{202f}678", "50\u{202f}000", "91\u{a0}%", "60\u{a0}%"]).await;
    // In the list with what it cost, by the same books as the page of costs; the month goes on meanwhile.
    let cost = async || {
        let costs = client.costs(None).await.unwrap();
        costs.tenants.iter().find(|row| row.name == "acme").map(|row| row.cost_cents).unwrap()
    };
    let before = cost().await;
    let figures = client.tenant_figures().await.unwrap();
    let acme = figures.iter().find(|of| of.tenant.as_str() == "acme").unwrap();
    assert_eq!(
        (acme.quantity.as_deref(), acme.used, acme.limit),
        (Some("gps_points_per_day"), Some(45_678), Some(50_000))
    );
    assert!((before..=cost().await).contains(&acme.cost_cents.unwrap()), "{acme:?}");
    let nova = figures.iter().find(|of| of.tenant.as_str() == "nova").unwrap();
    assert_eq!(
        (nova.used, nova.cost_cents.is_some()),
        (None, true),
        "nothing was reported of it, and its cell has a price"
    );
    dashboard.shows("/tenants", &["91\u{a0}%", "gps points per day", "nearly used up", "$15.00"]).await;
    let open = async || client.approvals(None, Some(ApprovalState::Open)).await.unwrap();
    let approvals = wait_until("a proposal", open, |all: &Vec<_>| !all.is_empty()).await;
    let id = approvals[0].id;
    dashboard
        .shows("/approvals", &["acme", "upgrade", "gps_points_per_day stands at 45678, 91 % of 50000", "$29.00"])
        .await;
    let page = dashboard.shows(&format!("/approvals/{id}"), &["+$14.00", "a person is asked", "crew"]).await;
    dashboard.shows("/tenants/acme", &[&format!("/approvals/{id}")]).await;
    let usage = client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
    assert!(usage.judged_at.is_some());

    // The answer is given on the page as well.
    let form = format!("csrf={}&once={}", hidden(&page, "csrf"), hidden(&page, "once"));
    let (status, text) = dashboard.ask(Method::POST, &format!("/approvals/{id}/approve"), &form).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{text}");
    assert_eq!(client.tenant("acme").await.unwrap().plan.as_str(), "crew");
    dashboard.shows("/approvals?all=true", &["carried out"]).await;

    // Decision: by what was used, as the proposal was; with reasons and what was refused; and what another profile would get.
    let measured = "plan hobby holds 50000 gps_points_per_day";
    dashboard
        .shows("/tenants/acme/decision", &["plan crew", measured, "of its neighbours get the same answer", "Because"])
        .await;
    let refused = ["nothing fits", "compliance", "hipaa"];
    dashboard.shows("/tenants/acme/decision?compliance=hipaa", &refused).await;
    dashboard.shows("/tenants/acme/decision?latency_ms=1", &["latency_ms", "/cells/shared-1", "/cells/shared-2"]).await;
    dashboard
        .shows(
            "/tenants/nova/decision?quantities=vehicles%3D7",
            &["plan crew", "plan hobby holds 5 vehicles, 7 are needed"],
        )
        .await;
    let (status, _) = dashboard.ask(Method::GET, "/tenants/acme/decision?latency_ms=fast", "").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    // Another plan: its price first, then the change; a class that differs leads to the page of the move.
    dashboard.shows("/tenants/nova/plan", &["It is on hobby", "crew, $29.00 a month", "Nothing changes before"]).await;
    let page = dashboard
        .shows("/tenants/nova/plan?plan=crew", &["its customer pays $14.00 more a month", "it stays where it is"])
        .await;
    let form = format!("csrf={}&once={}&plan=crew", hidden(&page, "csrf"), hidden(&page, "once"));
    let (status, _) = dashboard.ask(Method::POST, "/tenants/nova/plan", &form).await;
    assert_eq!((status, client.tenant("nova").await.unwrap().plan.as_str()), (StatusCode::SEE_OTHER, "crew"));
    dashboard
        .shows("/tenants/nova/plan?plan=starter", &["$20.00 more a month", "the next page says what that would do"])
        .await;
    dashboard.shows("/tenants/nova/plan?plan=hobby", &["$14.00 less a month"]).await;

    // The fleet on paper, and a part of it; the growth phase by what is known here.
    dashboard.shows("/fleet?growth=20&months=3", &["Grown on paper", ">+3<", "<svg class=\"chart\""]).await;
    dashboard.shows("/fleet?only=shared-1", &["Of shared-1 alone"]).await;
    let (status, _) = dashboard.ask(Method::GET, "/fleet?growth=fast", "").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = dashboard.ask(Method::GET, "/fleet?only=nowhere", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    dashboard.shows("/costs", &["Growth phase", "by the month"]).await;
    let catalogue = client.catalogue().await.unwrap();
    assert!(catalogue.providers.iter().any(|it| it.name == "hetzner" && !it.shapes.is_empty()), "{catalogue:?}");
    assert!(!catalogue.offers.is_empty() && catalogue.rates.contains_key("EUR"));
    let of = |name: &str| catalogue.providers.iter().find(|it| it.name == name).unwrap();
    assert_eq!(of("hetzner").rate_limit.map(|limit| (limit.requests, limit.per_s)), Some((3600, 3600)));
    assert_eq!(
        (of("railway").credits[0].amount.as_str(), of("railway").credits[0].expires.as_str()),
        ("5.00", "monthly")
    );
    let shape = |provider: &str, name: &str| of(provider).shapes.iter().find(|it| it.name == name).unwrap().clone();
    assert!(shape("fly", "guide-starter-stack").source.unwrap().contains("guide"));
    assert_eq!(shape("koyeb", "egress-gib-asia").regions, ["sin"]);
    assert_eq!([shape("railway", "egress-gib").egress_gib, shape("hetzner", "cax21").egress_gib], [Some(1), None]);
    assert_eq!(
        [shape("hetzner", "cax21").arch.as_deref(), shape("hetzner", "lb11").arch.as_deref()],
        [Some("aarch64"), None]
    );
    let offer = catalogue.offers.iter().find(|it| it.name == "hetzner-shared").unwrap();
    assert_eq!((offer.throughput_per_s, offer.trust.as_str()), (Some(500), "claimed"));

    // Check: of what is in force, and of what somebody pastes.
    let page = dashboard.shows("/check", &["the stack file in force", "2 errors, 0 warnings", "secret-in-file"]).await;
    assert!(!page.contains("hunter2"), "a secret is never repeated: {page}");
    let compose = "services:\n  db:\n    image: postgres:15.8\n    ports: [\"5432:5432\"]\n";
    let text = compose.bytes().map(|b| format!("%{b:02X}")).collect::<Vec<_>>().concat();
    let form =
        format!("csrf={}&path0=compose.yaml&text0={text}&path1=&text1=&path2=.env&text2=A%3D1", hidden(&page, "csrf"));
    let (status, text) = dashboard.ask(Method::POST, "/check", &form).await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("published-database") && text.contains("compose.yaml:4"), "{text}");
    assert!(text.contains("compose.yaml (") && text.contains(".env ("), "both were looked at together: {text}");
    assert!(text.contains("name=\"path3\""), "there is room for more: {text}");

    // The rest answers, too.
    for path in [
        "/",
        "/tenants",
        "/tenants/new",
        "/tenants/acme/move",
        "/tenants/acme/suspend",
        "/tenants/acme/export",
        "/cells",
        "/cells/new",
        "/cells/shared-1/abilities",
        "/cells/shared-1/database",
        "/imports",
        "/releases",
        "/releases/new",
        "/servers",
        "/erasures",
        "/cells/shared-1",
        "/cells/shared-1/drain",
        "/cells/shared-1/measure",
        "/cells/shared-1/maintain",
        "/cells/shared-1/restart-web",
        "/operations",
        "/audit",
        "/audit?tenant=acme",
    ] {
        dashboard.shows(path, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_needs_is_kept_from_its_page_and_what_the_form_does_not_show_stays() {
    let world = world().await;
    let (client, dashboard) = (world.client(), Dashboard::of(&world));
    let before = berth_wire::Profile {
        budget_cents: Some(4950),
        compliance: vec!["gdpr".to_owned()],
        growth_percent_per_month: Some(3),
        ..berth_wire::Profile::default()
    };
    client.tenant_set_profile("nova", &before).await.unwrap();
    dashboard.shows("/tenants/nova", &["/tenants/nova/profile"]).await;
    let page = "/tenants/nova/profile";
    dashboard.shows(page, &["value=\"49.50\"", "value=\"gdpr\"", "growth_percent_per_month: 3"]).await;
    let typed = |quantities: &'static str, compliance: &'static str| {
        [("quantities", quantities), ("compliance", compliance), ("locations", "de"), ("budget", "60")]
    };
    let (status, leads) = dashboard.sends(page, page, &typed("vehicles=7", "")).await;
    assert_eq!((status, leads.as_str()), (StatusCode::SEE_OTHER, "/tenants/nova/decision"));
    // An empty field requires nothing.
    let kept = ["value=\"vehicles=7\"", "value=\"60.00\"", "value=\"de\"", "growth_percent_per_month: 3"];
    assert!(!dashboard.shows(page, &kept).await.contains("gdpr"));
    dashboard.shows("/tenants/nova/decision", &["plan crew"]).await;
    for (quantities, compliance) in [("seven", ""), ("", "iso9001")] {
        let (status, _) = dashboard.sends(page, page, &typed(quantities, compliance)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{quantities} {compliance}");
    }
    dashboard.shows(page, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_in_a_cell_stands_in_place_of_what_was_claimed() {
    let world = world().await;
    let (client, dashboard) = (world.client(), Dashboard::of(&world));
    assert!(client.cell("shared-1").await.unwrap().measured.is_empty(), "nobody measured yet");
    dashboard.shows("/cells/shared-1", &["what its provider claims stands"]).await;
    let done = world.finishes(client.cell_measure("shared-1").await.unwrap().id).await;
    let cell = client.cell("shared-1").await.unwrap();
    let figure = |what: &str| cell.measured.iter().find(|figure| figure.what == what).cloned();
    // Members of this world answer to nobody, so of API and socket nothing is known; that is not 0.
    assert_eq!((figure("api"), figure("socket")), (None, None));
    for (what, unit) in [
        ("query_simple", "ms"),
        ("query_complex", "ms"),
        ("ingest", "rows_per_s"),
        ("upload_10_mib", "s"),
        ("backup_1_gib", "s"),
    ] {
        let figure = figure(what).unwrap_or_else(|| panic!("{what} is missing: {cell:?}"));
        assert!(figure.unit == unit && figure.value > 0.0 && figure.samples > 0, "{figure:?}");
        assert!(jiff::Timestamp::now().duration_since(figure.at).as_secs() < 60, "{figure:?}");
    }
    assert!(figure("query_complex").unwrap().value > figure("query_simple").unwrap().value);
    // What is absent has its reason.
    let said = done.result.unwrap().summary.unwrap();
    assert!(said.starts_with("5 figures were measured; no api"), "{said}");
    dashboard.shows("/cells/shared-1", &["query simple", "rows/s"]).await;

    // Nobody promised any throughput here. Now the one that was measured counts, and the other cell's is still unknown.
    let asked = berth_wire::DecisionAsk {
        tenant: None,
        profile: Some(berth_wire::Profile { throughput_per_s: Some(1), ..berth_wire::Profile::default() }),
    };
    let decision = client.decide(&asked).await.unwrap();
    assert_eq!(decision.cell.as_deref(), Some("shared-1"), "{decision:?}");
    let unknown = |r: &berth_wire::Refusal| r.cell.as_deref() == Some("shared-2") && r.constraint == "throughput_per_s";
    assert!(decision.refused.iter().any(unknown), "{decision:?}");
    let entries = client.audit(&berth_client::AuditFilter::default()).await.unwrap();
    assert!(entries.iter().any(|entry| entry.action == "cell.measure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_maintained_from_its_page() {
    let world = world().await;
    let dashboard = Dashboard::of(&world);
    let owner = world.cells.connect(Role::Owner).await;
    let made = "create table journeys (id int primary key) with (autovacuum_enabled = false);
        insert into journeys select generate_series(1, 60000);
        delete from journeys where id % 4 <> 0;
        select pg_stat_force_next_flush();";
    owner.batch_execute(made).await.unwrap();
    let size =
        async || -> i64 { owner.query_one("select pg_relation_size('journeys_pkey')", &[]).await.unwrap().get(0) };
    let before = size().await;
    dashboard.shows("/cells/shared-1", &["href=\"/cells/shared-1/maintain\""]).await;
    // Dead rows first; that the index is mostly air shows when they are gone.
    for (shown, form) in [(&["journeys", "45\u{202f}000"], ""), (&["journeys_pkey", "None needs it"], "&reindex=yes")] {
        let page = dashboard.shows("/cells/shared-1/maintain", shown).await;
        let form = format!("csrf={}&once={}{form}", hidden(&page, "csrf"), hidden(&page, "once"));
        let (status, text) = dashboard.ask(Method::POST, "/cells/shared-1/maintain", &form).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{text}");
        let open = berth_client::OperationFilter { open: true, ..Default::default() };
        for operation in world.client().operations(&open).await.unwrap() {
            world.finishes(operation.id).await;
        }
        owner.execute("select pg_stat_force_next_flush()", &[]).await.unwrap();
    }
    assert!(size().await < before / 2, "the index was not built anew");
}
