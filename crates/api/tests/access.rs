//! Who reaches a tenant: its hosts, networks and limits, through `/v1`, at the edges, on the guide's path and on the pages.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use berth_api::Api;
use berth_control::Scope;
use berth_domain::{EdgeId, Revision};
use berth_wire::{
    HostAdd, TenantChange, TenantLimitsSet, UsageEvent,
    edge::{EdgeEvent, TenantRoute},
};
use std::time::Duration;
use tower::ServiceExt as _;
use uuid::Uuid;
use world::{
    World,
    pages::{Dashboard, form_of},
    refused,
};

const STACK: &str = "\
stack: fleet
hosts: { own: [fleet.test], proof: required }
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  starter: { price: 49.00, class: shared, limits: { requests_per_minute: { api: 100, upload: 10 }, body_bytes: 1000, quantities: { vehicles: 10, points_per_day: 50 } } }
  business: { price: 99.00, class: shared, limits: { requests_per_minute: { api: 1000, reports: 5 } } }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3 }
";

async fn world() -> World {
    let world = World::of(STACK).await;
    for name in ["acme", "nova"] {
        world.tenant(name, "starter", &format!("{name}.fleet.test"), None).await;
    }
    world
}

fn limits(of: &[(&str, u64)], body_bytes: Option<u64>) -> TenantLimitsSet {
    let requests_per_minute = of.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect();
    TenantLimitsSet { requests_per_minute, body_bytes }
}

/// Of a route, by class.
fn by_class(route: &TenantRoute) -> Vec<(String, u64)> {
    route.limits.iter().map(|limit| (limit.class.clone(), limit.requests)).collect()
}

fn pairs(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_own_limits_stand_before_its_plans_at_every_edge_until_they_are_cleared() {
    let world = world().await;
    let client = world.client();
    let edge = world.client_with(&world.key(Scope::Edge).await);
    let (name, instance) = ("fra".parse().unwrap(), EdgeId::new(Uuid::now_v7()));
    let mut lines = edge.edge_routes(&name, instance, Revision::default()).await.unwrap();
    let mut told = async |tenant: &str| {
        let next = async {
            loop {
                if let EdgeEvent::Routes { routes, .. } = lines.next_json::<EdgeEvent>().await.unwrap().unwrap()
                    && let Some(route) = routes.into_iter().find(|route| route.name.as_str() == tenant)
                {
                    return route;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), next).await.expect("edges are told")
    };
    let first = told("acme").await;
    assert_eq!((by_class(&first), first.body_bytes), (pairs(&[("api", 100), ("upload", 10)]), Some(1000)));

    // Its own, and what is left out as before. Under the version that was read.
    let read = client.tenant_limits("acme").await.unwrap();
    assert!(read.own.is_empty() && read.in_force == read.of_plan, "{read:?}");
    let wanted = limits(&[("api", 600), ("gps", 0)], None);
    let set = client.tenant_set_limits("acme", &wanted, Some(read.version)).await.unwrap();
    assert_eq!(
        set.in_force.requests_per_minute.into_iter().collect::<Vec<_>>(),
        pairs(&[("api", 600), ("gps", 0), ("upload", 10)])
    );
    let route = told("acme").await;
    assert_eq!((by_class(&route), route.body_bytes), (pairs(&[("api", 600), ("gps", 0), ("upload", 10)]), Some(1000)));
    assert_eq!(refused(client.tenant_set_limits("acme", &wanted, Some(read.version)).await).status, 412);
    assert_eq!(client.tenant("acme").await.unwrap().own_limits, set.own);
    assert_eq!(client.tenant_entitlements("acme").await.unwrap().limits.requests_per_minute["api"], 600);

    // They stay under another plan, whose other limits count.
    let business = TenantChange { plan: "business".parse().unwrap() };
    client.tenant_change("acme", &business, None).await.unwrap();
    let route = told("acme").await;
    assert_eq!((by_class(&route), route.body_bytes), (pairs(&[("api", 600), ("gps", 0), ("reports", 5)]), None));

    // What makes no sense is refused whole, with what helps.
    let bad =
        refused(client.tenant_set_limits("acme", &limits(&[("apii", 5), ("api", u64::MAX)], Some(0)), None).await);
    assert_eq!((bad.status, bad.code.as_str()), (422, "bad_limits"));
    assert!(
        bad.detail.contains("`apii`") && bad.detail.contains("`api` is over") && bad.detail.contains("0 bytes"),
        "{}",
        bad.detail
    );
    assert!(bad.hint.unwrap().contains("classes are api, gps, reports, upload;"));
    for body in [r#"{"requests_per_minute":{"api":-1}}"#, r#"{"requests_per_minute":{"api":"many"}}"#, r#"{"burst":5}"#]
    {
        let head = "PUT /v1/tenants/acme/limits HTTP/1.1\r\ncontent-type: application/json";
        let (status, text) = world.raw(head, body.as_bytes()).await;
        assert!(status == 422 || status == 400, "{body}: {status} {text}");
    }
    assert_eq!(refused(client.tenant_limits("nobody").await).status, 404);
    let reader = world.client_with(&world.key(Scope::Read).await);
    assert_eq!(refused(reader.tenant_clear_limits("acme").await).status, 403);
    assert_eq!(client.tenant_limits("acme").await.unwrap().own, set.own, "a refusal changes nothing");
    let nova = client.tenant("nova").await.unwrap().id;
    let others = world.client_with(&world.key(Scope::Tenant(nova)).await);
    assert_eq!(refused(others.tenant_limits("acme").await).status, 404, "another tenant's key does not see it");
    assert!(others.tenant_limits("nova").await.unwrap().own.is_empty());

    // Taken back, and all of it in the trail.
    let cleared = client.tenant_clear_limits("acme").await.unwrap();
    assert!(cleared.own.is_empty());
    assert_eq!(by_class(&told("acme").await), pairs(&[("api", 1000), ("reports", 5)]));
    let filter = berth_client::AuditFilter { tenant: Some("acme".into()), ..Default::default() };
    let trail = client.audit(&filter).await.unwrap();
    let changes: Vec<_> = trail.iter().filter(|entry| entry.action == "tenant.limits").collect();
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|entry| entry.actor == "test"), "{changes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_by_a_pattern_or_a_path_are_shown_wherever_a_tenants_hosts_are() {
    let world = world().await;
    let client = world.client();
    for host in ["*.acme.fleet.test", "fleet.test/acme"] {
        client.host_add(&HostAdd { tenant: "acme".into(), host: host.parse().unwrap() }).await.unwrap();
    }
    let acme = client.tenant("acme").await.unwrap();
    let all = ["acme.fleet.test", "*.acme.fleet.test", "fleet.test/acme"];
    assert_eq!(acme.routed(), all);
    assert_eq!(acme.hosts.len(), 1, "what `PUT …/hosts` replaces are the plain ones");
    let (status, text) = world.raw("GET /api/tenants/acme/status HTTP/1.1", b"").await;
    let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((status, &body["domains"]), (200, &serde_json::json!(all)));
    let page = Dashboard::of(&world).shows("/tenants/acme", &[]).await;
    assert!(page.contains("*.acme.fleet.test, fleet.test/acme"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_figures_have_the_guides_names_where_somebody_asks_for_them() {
    let world = world().await;
    let used = |metric: &str, amount| UsageEvent {
        key: format!("{metric}-1"),
        tenant: "acme".to_owned(),
        metric: metric.to_owned(),
        amount,
        unit: None,
        at: None,
    };
    world.client().usage_record(&[used("vehicles", 4), used("points", 20)]).await.unwrap();
    let page = async |second_names| {
        let router = berth_api::metrics_router_with(&Api::new(world.app.clone()), true, second_names);
        let answer = router.oneshot(Request::get("/metrics").body(Body::empty()).unwrap()).await.unwrap();
        String::from_utf8(to_bytes(answer.into_body(), 8 << 20).await.unwrap().to_vec()).unwrap()
    };
    let asked = page(true).await;
    for line in [
        "veloflux_tenant_billing_amount_total{tenant_id=\"acme\",period=\"month\"} 49.00",
        "veloflux_tenant_resource_usage{tenant_id=\"acme\",resource=\"vehicles\"} 4",
        "veloflux_tenant_resource_usage{tenant_id=\"acme\",resource=\"points_per_day\"} 20",
        "veloflux_tenant_resource_limit{tenant_id=\"nova\",resource=\"vehicles\"} 10",
        "veloflux_orchestration_pods_ready{tenant_id=\"acme\"} 1",
        "veloflux_orchestration_pods_total{tenant_id=\"nova\"} 1",
    ] {
        assert!(asked.lines().any(|other| other == line), "{line}: {asked}");
    }
    assert!(!asked.contains("usage{tenant_id=\"nova\""), "nobody reported anything of it: {asked}");
    let usual = page(false).await;
    assert!(usual.contains("berth_up 1") && !usual.contains("veloflux"), "{usual}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_networks_limits_and_certificates_are_changed_on_pages() {
    let world = world().await;
    let (client, pages) = (world.client(), Dashboard::of(&world));
    let here = "/tenants/acme/access";

    // One of the stack's own at once; any other says what proves it, and says what was found instead.
    let (status, _) = pages.sends(here, "/tenants/acme/hosts", &[("host", "*.acme.fleet.test")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let (status, _) = pages.sends(here, "/tenants/acme/hosts", &[("host", "shop.acme.invalid")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let page = pages.shows(here, &[]).await;
    for says in ["*.acme.fleet.test", "shop.acme.invalid", "_berth.shop.acme.invalid TXT berth-host=", "not proved"] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let verify = "/tenants/acme/hosts/shop%2Eacme%2Einvalid/verify";
    let (status, text) = pages.sends(here, verify, &[]).await;
    assert_eq!(status, StatusCode::CONFLICT, "{text}");
    assert!(text.contains("is not proved"), "{text}");
    let remove = "/tenants/acme/hosts/shop%2Eacme%2Einvalid/remove";
    assert_eq!(pages.sends(remove, remove, &[]).await.0, StatusCode::SEE_OTHER);
    let remove = "/tenants/acme/hosts/%2A%2Eacme%2Efleet%2Etest/remove";
    assert_eq!(pages.sends(remove, remove, &[]).await.0, StatusCode::SEE_OTHER);
    assert_eq!(client.tenant("acme").await.unwrap().routed(), ["acme.fleet.test"]);
    assert_eq!(pages.ask(Method::GET, remove, "").await.0, StatusCode::NOT_FOUND, "it is gone");
    let (status, text) = pages.sends(here, "/tenants/acme/hosts", &[("host", "no host")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");

    // Networks: never open to everybody by an empty field.
    let action = "/tenants/acme/networks";
    let (status, _) = pages.sends(here, action, &[("networks", "203.0.113.0/24\r\n2001:db8::/32\r\n")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(client.tenant("acme").await.unwrap().allow.len(), 2);
    let (status, text) = pages.sends(here, action, &[("networks", " \r\n")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("open to everybody"), "{text}");
    let (status, text) = pages.sends(here, action, &[("networks", "203.0.113.0/33")]).await;
    assert_eq!((status, text.contains("is no network")), (StatusCode::UNPROCESSABLE_ENTITY, true), "{text}");
    assert_eq!(client.tenant("acme").await.unwrap().allow.len(), 2, "a refusal changes nothing");
    let (status, _) = pages.sends(here, action, &[("networks", ""), ("everybody", "yes")]).await;
    assert_eq!((status, client.tenant("acme").await.unwrap().allow.len()), (StatusCode::SEE_OTHER, 0));

    // Limits: an empty field is the plan's.
    let action = "/tenants/acme/limits";
    let (status, _) =
        pages.sends(here, action, &[("class-api", "600"), ("class-upload", ""), ("body_bytes", "")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let own = client.tenant_limits("acme").await.unwrap().own;
    assert_eq!(own.requests_per_minute.into_iter().collect::<Vec<_>>(), pairs(&[("api", 600)]));
    assert!(pages.shows("/tenants/acme", &[]).await.contains("<dd>600, its own</dd>"));
    let (status, text) = pages.sends(here, action, &[("class-api", "many")]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    let (status, _) = pages.sends(here, action, &[("clear", "yes")]).await;
    assert_eq!((status, client.tenant_limits("acme").await.unwrap().own.is_empty()), (StatusCode::SEE_OTHER, true));

    // A form that somebody overtook is refused.
    let old = pages.shows(here, &[]).await;
    client.tenant_set_limits("acme", &limits(&[("api", 5)], None), None).await.unwrap();
    let field = |name: &str| {
        let form = old.split("action=\"/tenants/acme/networks\"").nth(1).unwrap();
        form.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let (csrf, once, version) = (field("csrf"), field("once"), field("version"));
    let form = form_of(&[("csrf", &csrf), ("once", &once), ("version", &version), ("everybody", "yes")]);
    assert_eq!(pages.ask(Method::POST, "/tenants/acme/networks", &form).await.0, StatusCode::PRECONDITION_FAILED);

    // A certificate with its key, and one that is none.
    let made = rcgen::generate_simple_self_signed(vec!["acme.fleet.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let new = "/certificates/new";
    let (status, text) = pages.sends(new, "/certificates", &[("chain", &chain), ("key", &key)]).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{text}");
    let all = client.certificates().await.unwrap();
    assert_eq!(all[0].names, ["acme.fleet.test"]);
    let other = rcgen::generate_simple_self_signed(vec!["acme.fleet.test".to_owned()]).unwrap();
    let secret = other.signing_key.serialize_pem();
    let (status, text) = pages.sends(new, "/certificates", &[("chain", &chain), ("key", &secret)]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    assert!(!text.contains("PRIVATE KEY"), "a key is never shown: {text}");
    assert!(!pages.shows("/edges", &[]).await.contains("PRIVATE KEY"));
}
