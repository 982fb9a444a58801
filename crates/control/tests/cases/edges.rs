//! What an edge follows.

use crate::world::{SIGNATURE_KEY, STACK, World, change, follow, read, read_tenant, speaks};
use berth_control::{
    cells, drains,
    edges::{self, Takes},
    limits, stack, status, tenants, upgrade,
};
use berth_domain::{Balance, EdgeId, EdgeName, Revision, ServiceName, Speaks, Version};
use berth_store::ProcessRole;
use berth_wire::{
    DrainAsk, StackApply, TenantLimitsSet,
    edge::{
        ClusterSettings, Compression, CompressionWay, EdgeAck, EdgeEvent, EdgeSettings, Ejection, GeoSettings,
        HealthCheck, Hidden, HttpsSettings, MemberAddress, Presence, RouteState, ServiceSettings, TenantRoute,
    },
};
use futures_util::{Stream, StreamExt};
use std::{collections::BTreeMap, pin::Pin, time::Duration};
use uuid::Uuid;

struct Following(Pin<Box<dyn Stream<Item = Result<EdgeEvent, berth_control::ControlError>> + Send>>);

impl Following {
    async fn new(world: &World, after: Revision) -> Self {
        let instance = EdgeId::new(Uuid::now_v7());
        Self(Box::pin(edges::routes(&world.app, &follow(), edge(), instance, after, speaks(1)).await.unwrap()))
    }

    /// The next event; certificates have tests of their own.
    async fn next(&mut self) -> EdgeEvent {
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), self.0.next()).await;
            match event.expect("an edge hears something every five seconds").unwrap().unwrap() {
                EdgeEvent::Certificates { .. } => {}
                event => return event,
            }
        }
    }

    /// The next change; pings are passed over.
    async fn routes(&mut self) -> (bool, Revision, Vec<TenantRoute>) {
        loop {
            if let EdgeEvent::Routes { full, revision, routes } = self.next().await {
                return (full, revision, routes);
            }
        }
    }
}

fn edge() -> EdgeName {
    "edge-1".parse().unwrap()
}

#[tokio::test]
async fn an_edge_gets_the_whole_then_each_change_and_goes_on_where_it_was() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let mut following = Following::new(&world, Revision::default()).await;
    let (full, first, routes) = following.routes().await;
    assert!(full);
    let route = &routes[0];
    assert_eq!((routes.len(), route.name.as_str(), route.cell.as_str()), (1, "acme", "shared-1"));
    assert_eq!((route.state.clone(), route.members.len()), (RouteState::Serving, 2));

    tenants::suspend(&world.app, &change(), "acme").await.unwrap();
    let (full, second, routes) = following.routes().await;
    assert!(!full && second > first);
    assert_eq!(routes[0].state, RouteState::Suspended);

    // A restarted edge that has the first revision is told what it missed, and no more.
    let mut again = Following::new(&world, first).await;
    let (full, at, routes) = again.routes().await;
    assert_eq!((full, at, routes.len()), (false, second, 1));
    // One that has everything is told so at once.
    let mut current = Following::new(&world, second).await;
    assert_eq!(current.next().await, EdgeEvent::Ping { revision: second });
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_for_an_edge_that_knew_it_and_never_was_for_a_new_one() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let mut following = Following::new(&world, Revision::default()).await;
    following.routes().await;
    tenants::delete(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(following.routes().await.2[0].state, RouteState::Gone);
    let (full, revision, routes) = Following::new(&world, Revision::default()).await.routes().await;
    assert!(full && routes.is_empty() && revision == world.store.route_head().await.unwrap());
}

#[tokio::test]
async fn a_deletion_waits_for_the_edge_and_goes_on_when_it_answers() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let instance = EdgeId::new(Uuid::now_v7());
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), speaks(1)).await.unwrap();
    let mut following = Following(Box::pin(stream));
    following.routes().await;
    let operation = tenants::delete(&world.app, &change(), "acme").await.unwrap();
    let answers = async {
        let (_, revision, _) = following.routes().await;
        let rows = world.root_rows().await;
        assert_eq!(rows.len(), 1, "the rows went before the edge had heard");
        let ack = EdgeAck { instance, revision, holds: Vec::new(), presence: Presence::Serving, challenges: 0 };
        edges::acknowledge(&world.app, &follow(), edge(), ack).await.unwrap();
    };
    let ((), state) = tokio::join!(answers, world.carry_out(operation.id));
    assert_eq!(state, berth_domain::OperationState::Succeeded);
    assert!(world.root_rows().await.is_empty());
    let seen = status::overview(&world.app, &read()).await.unwrap().edges;
    assert!(seen[0].alive && seen[0].revision > Revision::default());
}

#[tokio::test]
async fn an_edge_that_understands_settings_gets_them_first_and_again_when_the_stack_file_changes_them() {
    let world = World::new().await;
    let (instance, web) = (EdgeId::new(Uuid::now_v7()), ServiceName::new("web").unwrap());
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), speaks(2)).await.unwrap();
    let mut following = Following(Box::pin(stream));
    let EdgeEvent::Settings { settings: first } = following.next().await else { panic!("settings come first") };
    assert_eq!(first.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["web"]);
    assert_eq!((first.services[&web].balance, first.cookie_key.expose().len()), (Balance::RoundRobin, 64));
    assert!(matches!(following.next().await, EdgeEvent::Routes { full: true, .. }));

    // A change that edges see nothing of is not told.
    let other = STACK.replace("price: 15", "price: 16");
    world.apply(&other).await.unwrap();
    let sticky = other.replace("copies: 2 }", "copies: 2, edge: { balance: sticky, eject: { failures: 0 } } }");
    assert_ne!(sticky, other);
    world.apply(&sticky).await.unwrap();
    let second = loop {
        match following.next().await {
            EdgeEvent::Settings { settings } => break settings,
            EdgeEvent::Routes { routes, .. } => assert!(routes.is_empty()),
            EdgeEvent::Certificates { .. } | EdgeEvent::Challenges { .. } | EdgeEvent::Ping { .. } => {}
        }
    };
    assert_eq!((second.services[&web].balance, second.services[&web].eject), (Balance::Sticky, None));
    assert_eq!(second.cookie_key, first.cookie_key);
}

/// Everything at once, each with another value than the usual one.
#[tokio::test]
async fn what_a_stack_file_says_to_edges_reaches_them_as_it_stands_there() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let web = "copies: 2, edge: { balance: weighted, weight: 7, region: eu-west, speaks: https, ca: ca.pem, \
               server_name: web.internal, signature_key: '${SIGNATURE_KEY}', \
               check: { path: /ready, every: 2s, timeout: 700ms, rise: 4, fall: 6, status: 204 }, \
               eject: { failures: 9, for: 45s } } }";
    let more = "edges: [edge-1, edge-2]
https: { redirect: true, hsts: 30d, port: 8443 }
headers: { csp: \"default-src 'self'\", frame: same_origin, nosniff: true, referrer: strict-origin }
compression: { ways: [gzip, br], from_bytes: 2048, types: [text/html, image/svg+xml] }
cluster:
  redis_address: 'rediss://a:1,b:2'
  redis_cluster_mode: true
  redis_master: main
  redis_user: edges
  redis_password: '${PULL_PASSWORD}'
  redis_ca: ca.pem
  geo_routing: true
  regions: { eu-west: 48.1 11.6 }
tenants: { region_routing: { tenant_region_mapping: { other: eu-west } } }
";
    let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_owned();
    let file = STACK.replace("copies: 2 }", web) + more;
    assert!(file.contains(web));
    let files = BTreeMap::from([("ca.pem".to_owned(), pem.clone())]);
    stack::apply(&world.app, &change(), &StackApply { file, files, dry_run: false }).await.unwrap();

    let instance = EdgeId::new(Uuid::now_v7());
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), speaks(2)).await.unwrap();
    let mut following = Following(Box::pin(stream));
    let EdgeEvent::Settings { settings } = following.next().await else { panic!("settings come first") };
    let web = ServiceSettings {
        balance: Balance::Weighted,
        weight: 7,
        check: Some(HealthCheck {
            path: "/ready".to_owned(),
            every_ms: 2_000,
            timeout_ms: 700,
            rise: 4,
            fall: 6,
            status: Some(204),
        }),
        eject: Some(Ejection { failures: 9, for_ms: 45_000 }),
        region: Some("eu-west".to_owned()),
        speaks: Speaks::Https,
        ca_pem: Some(pem.clone()),
        server_name: Some("web.internal".to_owned()),
        signature_key: Some(Hidden::new(SIGNATURE_KEY.to_owned())),
        tls_outside: true,
    };
    let headers = [
        ("content-security-policy", "default-src 'self'"),
        ("referrer-policy", "strict-origin"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
    ];
    // The one word that is no stack file's.
    let cookie_key = settings.cookie_key.clone();
    assert_eq!(cookie_key.expose().len(), 64);
    let expected = EdgeSettings {
        services: BTreeMap::from([(ServiceName::new("web").unwrap(), web)]),
        cookie_key,
        draining_ms: None,
        https: HttpsSettings { redirect: true, hsts: Some("max-age=2592000".to_owned()), port: Some(8443) },
        cluster: Some(ClusterSettings {
            stack: "parcels".parse().unwrap(),
            redis_address: "rediss://a:1,b:2".to_owned(),
            several: true,
            master: Some("main".to_owned()),
            user: Some("edges".to_owned()),
            password: Hidden::new("planted-three".to_owned()),
            ca_pem: Some(pem),
            edges: 2,
        }),
        geo: Some(GeoSettings { regions: BTreeMap::from([("eu-west".to_owned(), (48.1, 11.6))]) }),
        residences: BTreeMap::from([("other".parse().unwrap(), "eu-west".to_owned())]),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        compression: Some(Compression {
            ways: vec![CompressionWay::Gzip, CompressionWay::Br],
            from_bytes: 2048,
            types: vec!["text/html".to_owned(), "image/svg+xml".to_owned()],
        }),
    };
    assert_eq!(settings, expected);

    let mut members = following.routes().await.2.remove(0).members;
    members.sort_by_key(|member| member.member);
    let cell = cells::show(&world.app, &read(), "shared-1").await.unwrap();
    let wire = cell.members.into_iter().map(|member| MemberAddress {
        member: member.id,
        service: member.service,
        address: member.address.unwrap(),
        draining_ms: None,
    });
    let mut expected: Vec<_> = wire.collect();
    expected.sort_by_key(|member| member.member);
    assert_eq!((members.len(), members), (2, expected));
}

#[tokio::test]
async fn the_key_that_edges_sign_with_reaches_them_and_nothing_else_and_not_where_others_read_along() {
    let world = World::new().await;
    let web = ServiceName::new("web").unwrap();
    let signed = STACK.replace("copies: 2 }", "copies: 2, edge: { signature_key: '${SIGNATURE_KEY}' } }");
    assert_ne!(signed, STACK);
    let key = async |in_the_open: bool| {
        let takes = Takes { in_the_open, ..speaks(2) };
        let instance = EdgeId::new(Uuid::now_v7());
        let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), takes).await.unwrap();
        let EdgeEvent::Settings { settings } = Following(Box::pin(stream)).next().await else { panic!("no settings") };
        assert!(!format!("{settings:?}").contains(SIGNATURE_KEY), "{settings:?}");
        settings.services[&web].signature_key.as_ref().map(|key| key.expose().to_owned())
    };
    assert_eq!(key(false).await, None);
    world.apply(&signed).await.unwrap();
    assert_eq!((key(false).await.as_deref(), key(true).await), (Some(SIGNATURE_KEY), None));
    let owner = world.control.connect(berth_infra::Role::Owner).await;
    for table in ["stack_revisions", "audit"] {
        let row = owner.query_one(&format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t"), &[]).await;
        let text: String = row.unwrap().get(0);
        assert!(!text.contains(SIGNATURE_KEY), "{table} has the key");
    }
}

#[tokio::test]
async fn a_drain_of_a_tenant_reaches_edges_in_words_that_they_know_and_is_taken_back() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let instance = EdgeId::new(Uuid::now_v7());
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), speaks(2)).await.unwrap();
    let mut new = Following(Box::pin(stream));
    let mut old = Following::new(&world, Revision::default()).await;
    new.routes().await;
    old.routes().await;

    let asked = DrainAsk { grace_s: Some(0) };
    let drain = drains::tenant(&world.app, &change(), "acme", &asked).await.unwrap();
    assert!(drain.draining && !drain.done, "{drain:?}");
    assert_eq!(drain.waiting_for, [edge()]);
    let (_, revision, routes) = new.routes().await;
    assert_eq!(routes[0].state, RouteState::Draining { grace_ms: 0 });
    assert_eq!(old.routes().await.2[0].state, RouteState::Suspended);
    let ack = EdgeAck { instance, revision, holds: Vec::new(), presence: Presence::Serving, challenges: 0 };
    edges::acknowledge(&world.app, &follow(), edge(), ack).await.unwrap();
    let shown = drains::show_tenant(&world.app, &read_tenant(), "acme").await.unwrap();
    assert!(shown.done && shown.waiting_for.is_empty(), "{shown:?}");

    let undone = drains::undo_tenant(&world.app, &change(), "acme").await.unwrap();
    assert!(!undone.draining);
    assert_eq!(new.routes().await.2[0].state, RouteState::Serving);
    assert!(!drains::undo_tenant(&world.app, &change(), "acme").await.unwrap().draining, "twice is once");
}

#[tokio::test]
async fn a_member_is_drained_unless_it_is_the_last_one() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let instance = EdgeId::new(Uuid::now_v7());
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), speaks(2)).await.unwrap();
    let mut following = Following(Box::pin(stream));
    let members = following.routes().await.2.remove(0).members;
    let (one, other) = (members[0].member, members[1].member);
    let asked = DrainAsk::default();
    drains::member(&world.app, &change(), "shared-1", one, &asked).await.unwrap();
    let draining: Vec<_> = following.routes().await.2[0].members.iter().map(|m| m.draining_ms).collect();
    assert_eq!(draining, [Some(30_000), None]);
    let mut old = Following::new(&world, Revision::default()).await;
    assert_eq!(old.routes().await.2[0].members.len(), 1, "an edge of an older version does not see it");
    let refused = drains::member(&world.app, &change(), "shared-1", other, &asked).await.unwrap_err();
    assert_eq!(refused.code(), "last_member");
    drains::undo_member(&world.app, &change(), "shared-1", one).await.unwrap();
    assert!(following.routes().await.2[0].members.iter().all(|m| m.draining_ms.is_none()));
    drains::member(&world.app, &change(), "shared-1", other, &asked).await.unwrap();
}

#[tokio::test]
async fn one_edge_is_drained_and_the_others_hear_nothing_of_it() {
    let world = World::new().await;
    let stream = |name: &str| {
        let (name, instance) = (name.parse().unwrap(), EdgeId::new(Uuid::now_v7()));
        let app = world.app.clone();
        async move { edges::routes(&app, &follow(), name, instance, Revision::default(), speaks(2)).await.unwrap() }
    };
    let mut one = Following(Box::pin(stream("one").await));
    assert!(matches!(one.next().await, EdgeEvent::Settings { settings } if settings.draining_ms.is_none()));
    one.next().await;
    // Without a name it is the only one there is; with two it has to be said.
    let drain = drains::edge(&world.app, &change(), None, &DrainAsk { grace_s: Some(7) }).await.unwrap();
    assert_eq!((drain.draining, drain.grace_s), (true, Some(7)));
    assert!(matches!(one.next().await, EdgeEvent::Settings { settings } if settings.draining_ms == Some(7_000)));
    let mut two = Following(Box::pin(stream("two").await));
    assert!(matches!(two.next().await, EdgeEvent::Settings { settings } if settings.draining_ms.is_none()));
    let refused = drains::edge(&world.app, &change(), None, &DrainAsk::default()).await.unwrap_err();
    assert_eq!(refused.code(), "which_edge");
    let nobody = drains::edge(&world.app, &change(), Some(&edge()), &DrainAsk::default()).await.unwrap_err();
    assert_eq!(nobody.code(), "no_edge");
    drains::undo_edge(&world.app, &change(), Some(&"one".parse().unwrap())).await.unwrap();
    assert!(matches!(one.next().await, EdgeEvent::Settings { settings } if settings.draining_ms.is_none()));
}

#[tokio::test]
async fn the_end_of_an_upgrade_tells_edges_again_of_limits_that_an_older_server_does_not_know() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    world.create("nova", "hobby").await;
    let own = TenantLimitsSet { requests_per_minute: [("api".to_owned(), 7)].into(), body_bytes: None };
    limits::set(&world.app, &change(), "acme", own, None).await.unwrap();
    // An edge has it all, as a server of the version before tells it.
    let head = world.store.route_head().await.unwrap();
    let (older, version) = (Uuid::now_v7(), "0.0.1".parse().unwrap());
    world.store.process_seen(older, ProcessRole::Serve, "south", &version).await.unwrap();
    upgrade::finish(&world.app, &change()).await.unwrap();
    assert_eq!(world.store.route_head().await.unwrap(), head, "it would tell it as before");
    world.store.process_gone(older).await.unwrap();
    upgrade::finish(&world.app, &change()).await.unwrap();
    let (full, _, routes) = Following::new(&world, head).await.routes().await;
    assert_eq!((full, routes.len(), routes[0].name.as_str()), (false, 1, "acme"), "and of nobody else");
    let limit = routes[0].limits.iter().find(|limit| limit.class == "api").unwrap();
    assert_eq!(limit.requests, 7);
}

#[tokio::test]
async fn an_edge_that_says_no_version_is_named_to_people() {
    let world = World::new().await;
    let (instance, takes) = (EdgeId::new(Uuid::now_v7()), speaks(1));
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), takes).await.unwrap();
    Following(Box::pin(stream)).routes().await;
    let seen = status::overview(&world.app, &read()).await.unwrap();
    let named = seen.attention.iter().find(|it| it.code == "version_mixed").unwrap();
    assert_eq!(named.subject, format!("edge {}", edge()));
    assert!(named.detail.starts_with("it runs ?, and the server"), "{}", named.detail);
}

#[tokio::test]
async fn an_edge_of_another_version_is_named_to_people_and_stands_in_the_way_when_it_is_far() {
    let world = World::new().await;
    let (instance, far): (_, Version) = (EdgeId::new(Uuid::now_v7()), "77.0.0".parse().unwrap());
    let takes = Takes { version: Some(far.clone()), ..speaks(1) };
    let stream = edges::routes(&world.app, &follow(), edge(), instance, Revision::default(), takes).await.unwrap();
    Following(Box::pin(stream)).routes().await;
    let seen = status::overview(&world.app, &read()).await.unwrap();
    assert_eq!(seen.edges[0].version, Some(far));
    let named = seen.attention.iter().find(|it| it.code == "version_mixed").unwrap();
    assert_eq!(named.subject, format!("edge {}", edge()));
    let plan = upgrade::plan(&world.app, &read(), &upgrade::program()).await.unwrap();
    assert_eq!((plan.steps.len(), plan.refused[0].code.as_str()), (1, "not_adjacent"));
    assert!(
        plan.refused[0].why.contains("edge `") && plan.refused[0].why.contains("77.0.0"),
        "{}",
        plan.refused[0].why
    );
}
