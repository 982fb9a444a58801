//! The API as its callers meet it: real sockets, real control, real Postgres.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_client::Drainable;
use berth_control::Scope;
use berth_domain::{EdgeId, MemberId, MemberState, OperationId, OperationState, Revision, TenantState};
use berth_testkit::wait_until;
use berth_wire::{
    CellCreate, DrainAsk, KeyCreate, Member, OperationEventKind, TenantAllow, TenantChange, TenantCreate, TenantHosts,
    TenantMove, TenantSync,
    edge::{EdgeAck, EdgeEvent, Presence, RouteState},
};
use std::time::Duration;
use uuid::Uuid;
use world::{STACK, World, apply, refused};

fn tenant(name: &str) -> TenantCreate {
    TenantCreate {
        name: name.parse().unwrap(),
        plan: "starter".parse().unwrap(),
        hosts: vec![format!("{name}.test").parse().unwrap()],
        key: None,
        cell: None,
        profile: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_created_shown_changed_and_deleted() {
    let world = World::new().await;
    let client = world.client();
    let begun = client.tenant_create(&tenant("acme")).await.unwrap();
    world.finishes(begun.id).await;

    let acme = client.tenant("acme").await.unwrap();
    assert_eq!((acme.state, acme.generation.get()), (TenantState::Active, 1));
    assert_eq!(acme.cell.as_ref().map(ToString::to_string).as_deref(), Some("shared-1"));
    assert_eq!(client.tenant(&acme.id.to_string()).await.unwrap().name, acme.name, "by id as well as by name");
    assert_eq!(client.tenants(None).await.unwrap().len(), 1);
    assert_eq!(client.cell("shared-1").await.unwrap().tenants, 1);
    assert_eq!(client.plan("starter").await.unwrap().tenants, 1);

    let suspended = client.tenant_suspend("acme").await.unwrap();
    world.finishes(suspended.id).await;
    assert_eq!(client.tenant("acme").await.unwrap().state, TenantState::Suspended);
    let resumed = client.tenant_resume("acme").await.unwrap();
    world.finishes(resumed.id).await;

    let deleted = client.tenant_delete("acme").await.unwrap();
    world.finishes(deleted.id).await;
    let entries = client.audit(&berth_client::AuditFilter::default()).await.unwrap();
    for action in ["stack.apply", "tenant.create", "tenant.suspend", "tenant.resume", "tenant.delete"] {
        let entry = entries.iter().find(|entry| entry.action == action);
        let entry = entry.unwrap_or_else(|| panic!("{action} left no trace in {entries:?}"));
        assert_eq!(entry.actor, "test");
        assert!(entry.request_id.is_some(), "{action} says by which request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_followed_to_its_end() {
    let world = World::new().await;
    let client = world.client();
    let begun = client.tenant_create(&tenant("acme")).await.unwrap();
    let mut events = client.operation_events(begun.id).await.unwrap();
    let mut last = None;
    while let Some(event) = events.next().await.unwrap() {
        last = Some(event);
    }
    let last = last.expect("the first event is the operation as it is");
    assert_eq!(last.event, OperationEventKind::Ended);
    assert_eq!(last.operation.state, OperationState::Succeeded);
    assert!(!last.operation.steps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_with_the_right_status_and_changes_nothing() {
    let world = World::new().await;
    let client = world.client();
    let begun = client.tenant_create(&tenant("acme")).await.unwrap();
    world.finishes(begun.id).await;
    let before = client.tenant("acme").await.unwrap();

    let expect = |problem: berth_wire::Problem, status: u16, code: &str| {
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{problem:?}");
        assert!(!problem.detail.is_empty() && !problem.request_id.is_empty(), "{problem:?}");
        assert!(problem.hint.is_some(), "{code} says what to do next");
    };
    expect(refused(client.tenant("nobody").await), 404, "no_tenant");
    expect(refused(client.tenant_create(&tenant("acme")).await), 409, "tenant_exists");
    let same_host = TenantCreate { hosts: before.hosts.clone(), ..tenant("other") };
    expect(refused(client.tenant_create(&same_host).await), 409, "host_taken");
    let no_plan = TenantCreate { plan: "gold".parse().unwrap(), ..tenant("other") };
    expect(refused(client.tenant_create(&no_plan).await), 422, "no_plan");
    let no_cell = TenantCreate { cell: Some("moon".parse().unwrap()), ..tenant("other") };
    expect(refused(client.tenant_create(&no_cell).await), 404, "no_cell");
    let to = |cell: &str| TenantMove { to: Some(cell.parse().unwrap()) };
    expect(refused(client.tenant_move("acme", &to("shared-1")).await), 422, "same_cell");
    expect(refused(client.tenant_move("acme", &to("moon")).await), 404, "no_cell");
    expect(refused(client.tenant_move("nobody", &to("moon")).await), 404, "no_tenant");
    expect(refused(client.cell_remove("shared-1").await), 409, "cell_not_empty");
    expect(refused(client.cell("moon").await), 404, "no_cell");
    let twice = CellCreate {
        name: "shared-1".parse().unwrap(),
        class: berth_domain::CellClass::Shared,
        provider: None,
        region: None,
        max_tenants: None,
    };
    expect(refused(client.cell_create(&twice).await), 409, "cell_exists");
    let bad_scope = KeyCreate { name: "k".into(), scope: "root".into() };
    expect(refused(client.key_create(&bad_scope).await), 422, "bad_scope");
    let sync = TenantSync { cell: "shared-1".parse().unwrap(), take_in: None };
    expect(refused(client.tenant_sync(&sync).await), 409, "no_root_table");
    expect(refused(client.operation(OperationId::new(Uuid::nil())).await), 404, "no_operation");
    expect(refused(client.stack_apply(&apply("stack: fleet\nservces: {}\n")).await), 422, "bad_stack_file");
    let other_stack = STACK.replace("stack: fleet", "stack: other");
    expect(refused(client.stack_apply(&apply(&other_stack)).await), 422, "other_stack");

    assert_eq!(client.tenant("acme").await.unwrap(), before, "the tenant is untouched");
    assert_eq!(client.tenants(None).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cell_is_said_before_anything_is_made() {
    let world = World::new().await;
    let client = world.client();
    for name in ["a", "b", "c"] {
        let begun = client.tenant_create(&tenant(name)).await.unwrap();
        world.finishes(begun.id).await;
    }
    let fourth = TenantCreate { cell: Some("shared-1".parse().unwrap()), ..tenant("d") };
    assert_eq!(refused(client.tenant_create(&fourth).await).code, "cell_full");
    assert_eq!(refused(client.tenant_create(&tenant("d")).await).code, "no_room");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_told_what_is_wrong() {
    let world = World::new().await;
    let json = "Content-Type: application/json";
    let large = vec![b' '; 5 << 20];
    let cases: &[(&str, &[u8], u16, &str)] = &[
        ("POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json", b"{", 400, "not_json"),
        ("POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json", b"[1]", 422, "bad_body"),
        ("POST /v1/tenants HTTP/1.1", b"{}", 415, "not_json_type"),
        ("POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json", &large, 413, "too_large"),
        (
            "POST /v1/keys HTTP/1.1\r\nContent-Type: application/json",
            br#"{"name":"a\u0000","scope":"read"}"#,
            422,
            "bad_body",
        ),
        ("GET /v1/tenants?colour=red HTTP/1.1", b"", 422, "bad_query"),
        ("GET /v1/tenants?like=%00 HTTP/1.1", b"", 422, "bad_query"),
        ("GET /v1/tenants?after=%2F HTTP/1.1", b"", 422, "bad_cursor"),
        ("GET /v1/operations/7 HTTP/1.1", b"", 404, "no_path"),
        ("GET /v1/nothing HTTP/1.1", b"", 404, "no_path"),
        ("PUT /v1/tenants HTTP/1.1", b"", 405, "no_method"),
        ("GET /v1/tenants/%FF HTTP/1.1", b"", 400, "bad_path"),
        ("POST /v1/tenants/a/suspend HTTP/1.1\r\nIdempotency-Key: ", b"", 400, "bad_idempotency_key"),
    ];
    for (head, body, status, code) in cases {
        let (got, answer) = world.raw(head, body).await;
        assert_eq!(got, *status, "{head}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{head}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("application/problem+json"), "{head}: {answer}");
    }
    let unknown = br#"{"name":"a","plan":"starter","colour":"red"}"#;
    let (status, answer) = world.raw(&format!("POST /v1/tenants HTTP/1.1\r\n{json}"), unknown).await;
    assert_eq!(status, 422);
    assert!(answer.contains("unknown field `colour`"), "{answer}");
    let bad_name = br#"{"name":"A!","plan":"starter"}"#;
    let (status, answer) = world.raw(&format!("POST /v1/tenants HTTP/1.1\r\n{json}"), bad_name).await;
    assert_eq!(status, 422);
    assert!(answer.contains("`A!` is not a name"), "{answer}");
    let (status, answer) = world.raw("GET /v1/status HTTP/1.1\r\nX-Request-Id: mine-7", b"").await;
    assert_eq!(status, 200);
    assert!(answer.contains("x-request-id: mine-7"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_sent_twice_under_one_key_happens_once() {
    let world = World::new().await;
    let head = "POST /v1/tenants HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: once-1";
    let body = br#"{"name":"acme","plan":"starter","hosts":["acme.test"]}"#;
    let (first, one) = world.raw(head, body).await;
    let (second, two) = world.raw(head, body).await;
    assert_eq!((first, second), (202, 202), "{one}\n{two}");
    let answer = |text: &str| text.split("\r\n\r\n").nth(1).map(str::to_owned);
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(&answer(text).unwrap()).unwrap();
    assert_eq!(parsed(&one), parsed(&two), "the same operation");
    assert!(two.contains("idempotent-replayed: true") && two.contains("location: /v1/operations/"), "{two}");
    assert_eq!(world.client().tenants(None).await.unwrap().len(), 1);

    let (other, answer) = world.raw(head, br#"{"name":"b","plan":"starter"}"#).await;
    assert_eq!(other, 422, "{answer}");
    assert!(answer.contains("idempotency_key_reused"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_shown_once_also_to_who_asks_twice() {
    let world = World::new().await;
    let head = "POST /v1/keys HTTP/1.1\r\nContent-Type: application/json\r\nIdempotency-Key: once-2";
    let body = br#"{"name":"ci","scope":"read"}"#;
    let (first, one) = world.raw(head, body).await;
    assert_eq!(first, 201, "{one}");
    assert!(one.contains("\"secret\":\"bk_"), "{one}");
    let (second, two) = world.raw(head, body).await;
    assert_eq!(second, 409, "{two}");
    assert!(two.contains("key_shown_already") && !two.contains("bk_"), "{two}");
    assert_eq!(world.client().keys().await.unwrap().iter().filter(|key| key.name == "ci").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_what_changed_meanwhile_is_refused() {
    let world = World::new().await;
    let client = world.client();
    let begun = client.tenant_create(&tenant("acme")).await.unwrap();
    world.finishes(begun.id).await;
    let read = client.tenant("acme").await.unwrap();
    let two = TenantHosts { hosts: vec!["acme.test".parse().unwrap(), "two.test".parse().unwrap()] };
    let changed = client.tenant_set_hosts("acme", &two, Some(read.version)).await.unwrap();
    assert!(changed.version > read.version);
    let stale = refused(client.tenant_set_hosts("acme", &two, Some(read.version)).await);
    assert_eq!((stale.status, stale.code.as_str()), (412, "stale"));
    let plan = TenantChange { plan: "business".parse().unwrap() };
    assert_eq!(refused(client.tenant_change("acme", &plan, Some(read.version)).await).status, 412);
    let changed = client.tenant_change("acme", &plan, Some(changed.version)).await.unwrap();
    assert_eq!(changed.plan.as_str(), "business");
    assert_eq!(client.tenant_entitlements("acme").await.unwrap().plan.as_str(), "business");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_scope_opens_its_own_doors_and_no_others() {
    let world = World::new().await;
    for name in ["acme", "other"] {
        let begun = world.client().tenant_create(&tenant(name)).await.unwrap();
        world.finishes(begun.id).await;
    }
    let acme = world.client().tenant("acme").await.unwrap();

    let reader = world.client_with(&world.key(Scope::Read).await);
    assert_eq!(reader.tenants(None).await.unwrap().len(), 2);
    assert_eq!(refused(reader.tenant_suspend("acme").await).status, 403);

    let own = world.client_with(&world.key(Scope::Tenant(acme.id)).await);
    assert_eq!(own.tenants(None).await.unwrap().len(), 1);
    assert_eq!(own.tenant("acme").await.unwrap().id, acme.id);
    assert_eq!(refused(own.tenant("other").await).status, 404, "it does not learn that others exist");
    assert_eq!(refused(own.status().await).status, 403);
    assert_eq!(refused(own.cells().await).status, 403);

    let edge = world.client_with(&world.key(Scope::Edge).await);
    assert_eq!(refused(edge.tenants(None).await).status, 403);

    let stranger = world.client_with(&"bk_000000000000000000000000000000000000".to_owned().into());
    let problem = refused(stranger.status().await);
    assert_eq!((problem.status, problem.code.as_str()), (401, "unknown_key"));
    let nobody = berth_client::Client::new(&format!("http://{}", world.address), None).unwrap();
    assert_eq!(refused(nobody.status().await).code, "no_key_sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_opens_nothing_at_this_server() {
    let world = World::new().await;
    let client = world.client();
    let made = client.key_create(&KeyCreate { name: "ci".into(), scope: "read".into() }).await.unwrap();
    let ci = world.client_with(&made.secret.clone().into());
    ci.status().await.unwrap();
    client.key_revoke(made.key.id).await.unwrap();
    assert_eq!(refused(ci.status().await).status, 401, "also when it was used a moment ago");
    assert_eq!(refused(client.key_revoke(made.key.id).await).code, "no_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_follows_routes_and_says_how_far_it_is() {
    let world = World::new().await;
    let client = world.client_with(&world.key(Scope::Edge).await);
    let (name, instance) = ("fra".parse().unwrap(), EdgeId::new(Uuid::now_v7()));
    let mut lines = client.edge_routes(&name, instance, Revision::default()).await.unwrap();
    let first: EdgeEvent = lines.next_json().await.unwrap().unwrap();
    assert!(matches!(&first, EdgeEvent::Routes { full: true, routes, .. } if routes.is_empty()), "{first:?}");

    let begun = world.client().tenant_create(&tenant("acme")).await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match lines.next_json::<EdgeEvent>().await.unwrap().unwrap() {
                EdgeEvent::Routes { routes, revision, .. } if !routes.is_empty() => return (routes, revision),
                _ => {}
            }
        }
    });
    let (routes, revision) = next.await.expect("the new tenant's route arrives");
    assert_eq!(routes[0].name.as_str(), "acme");
    assert_eq!(routes[0].state, RouteState::Serving);
    assert_eq!(routes[0].hosts[0].as_str(), "acme.test");
    let answer = client
        .edge_ack(&name, &EdgeAck { instance, revision, holds: vec![], presence: Presence::Serving, challenges: 0 })
        .await
        .unwrap();
    assert!(answer.revision >= revision);
    world.finishes(begun.id).await;

    let read = world.client().tenant("acme").await.unwrap();
    assert_eq!(read.allow, []);
    let office = TenantAllow { networks: vec!["203.0.113.0/24".parse().unwrap(), "::1".parse().unwrap()] };
    let closed = world.client().tenant_set_allow("acme", &office, Some(read.version)).await.unwrap();
    assert_eq!(closed.allow, office.networks);
    assert_eq!(refused(world.client().tenant_set_allow("acme", &office, Some(read.version)).await).status, 412);
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let EdgeEvent::Routes { routes, .. } = lines.next_json::<EdgeEvent>().await.unwrap().unwrap()
                && let Some(route) = routes.into_iter().find(|route| !route.allow.is_empty())
            {
                return (route.allow, route.state);
            }
        }
    });
    // This one does not say that it keeps to such lists.
    assert_eq!(told.await.expect("edges are told of it"), (office.networks, RouteState::Suspended));
    let bad = r#"{"networks":["203.0.113.0/33"]}"#;
    let head = "PUT /v1/tenants/acme/allow HTTP/1.1\r\ncontent-type: application/json";
    let (status, text) = world.raw(head, bad.as_bytes()).await;
    assert!(status == 422 || status == 400, "{status} {text}");

    let edges = world.client().edges().await.unwrap();
    assert_eq!((edges.len(), edges[0].alive, edges[0].behind), (1, true, 1), "the list's change is not acknowledged");
    let admin_only = refused(client.edges().await);
    assert_eq!(admin_only.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_that_neither_double_nor_skip() {
    let world = World::new().await;
    for name in ["a", "b", "c"] {
        let begun = world.client().tenant_create(&tenant(name)).await.unwrap();
        world.finishes(begun.id).await;
    }
    let mut seen = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let (status, answer) = world.raw(&format!("GET /v1/tenants?{query} HTTP/1.1"), b"").await;
        assert_eq!(status, 200);
        let page: berth_wire::Page<berth_wire::Tenant> =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        seen.extend(page.items.into_iter().map(|tenant| tenant.name.to_string()));
        match page.next {
            Some(next) => query = format!("limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stack_file_the_answer_says_what_to_do_first() {
    let world = World::empty().await;
    let problem = refused(world.client().tenant_create(&tenant("acme")).await);
    assert_eq!((problem.status, problem.code.as_str()), (409, "no_stack"));
    assert!(problem.hint.unwrap().contains("berth apply"));
    let mut wanted = apply(STACK);
    wanted.dry_run = true;
    let shown = world.client().stack_apply(&wanted).await.unwrap();
    assert!(!shown.differences.is_empty() && shown.operations.is_empty());
    assert!(world.client().cells().await.unwrap().is_empty(), "a dry run changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_drain_domains_and_status_are_calls_of_v1() {
    let world = World::new().await;
    let begun = world.client().tenant_create(&tenant("acme")).await.unwrap();
    world.finishes(begun.id).await;
    let ask = async |head: &str, body: &str| {
        let head = format!("{head} HTTP/1.1\r\nContent-Type: application/json");
        let (status, answer) = world.raw(&head, body.as_bytes()).await;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
        (status, serde_json::from_str::<serde_json::Value>(&body).unwrap_or_else(|_| panic!("{answer}")))
    };
    let (status, shown) = ask("GET /api/tenants/acme/status", "").await;
    assert_eq!((status, shown["status"].as_str(), shown["mode"].as_str()), (200, Some("active"), Some("shared")));

    let (status, drained) = ask("POST /api/tenants/acme/drain", "").await;
    assert_eq!(status, 200, "{drained}");
    assert!(["draining", "drained"].contains(&drained["status"].as_str().unwrap()), "{drained}");
    let drain = world.client().drain_show(&Drainable::Tenant("acme".into())).await.unwrap();
    assert_eq!((drain.draining, drain.grace_s), (true, Some(30)));
    assert_ne!(ask("GET /api/tenants/acme/status", "").await.1["status"], "active");
    assert_eq!(ask("DELETE /api/tenants/acme/drain", "").await.1["status"], "active");
    assert_eq!(ask("GET /api/tenants/acme/drain", "").await.1["status"], "active");

    let (status, set) = ask("PUT /api/tenants/acme/domains", r#"{"domains":["api.acme.test"],"mode":"shared"}"#).await;
    assert_eq!((status, &set["domains"]), (200, &serde_json::json!(["api.acme.test"])));
    let (status, refused) =
        ask("PUT /api/tenants/acme/domains", r#"{"domains":["api.acme.test"],"mode":"dedicated"}"#).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("other_mode")), "{refused}");
    assert_eq!(ask("PUT /api/tenants/acme/domains", r#"{"domains":[],"mode":"mixed"}"#).await.0, 422);

    let (status, none) = ask("POST /admin/drain", "").await;
    assert_eq!((status, none["code"].as_str()), (422, Some("which_edge")), "{none}");
    let edge = world.client_with(&world.key(Scope::Edge).await);
    let _lines =
        edge.edge_routes(&"fra".parse().unwrap(), EdgeId::new(Uuid::now_v7()), Revision::default()).await.unwrap();
    assert_eq!(
        ask("POST /admin/drain", "").await,
        (
            200,
            serde_json::json!({
                "status": "draining", "message": "nothing new comes in; what is open is ending"
            })
        )
    );
    let fra = Drainable::Edge("fra".parse().unwrap());
    assert!(world.client().drain_show(&fra).await.unwrap().draining);
    let far = ask("GET /admin/drain", "").await;
    assert_eq!((far.0, far.1["status"].as_str()), (200, Some("draining")), "{}", far.1);
    assert_eq!(ask("DELETE /admin/drain?node=fra", "").await.1["status"], "active");
    assert_eq!(ask("GET /admin/drain?node=fra", "").await.1["status"], "active");
    assert_eq!(ask("DELETE /admin/drain?node=hel", "").await.0, 404);
    assert!(!world.client().drain_show(&fra).await.unwrap().draining);
    assert!(!world.client().drain_undo(&fra).await.unwrap().draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_drained_looked_at_and_taken_back_unless_it_is_the_last_one() {
    let world = World::of(&STACK.replace("health: /health }", "health: /health, copies: 2 }")).await;
    let client = world.client();
    let look = || async { client.cell("shared-1").await.unwrap().members };
    let both = |members: &Vec<Member>| members.iter().filter(|it| it.state == MemberState::Healthy).count() == 2;
    let members = wait_until("both members are healthy", look, both).await;
    let (one, other) = (members[0].id, members[1].id);
    let ask = async |method: &str, member: MemberId, body: &str| {
        let path = format!("/v1/cells/shared-1/members/{member}/drain");
        let head = format!("{method} {path} HTTP/1.1\r\nContent-Type: application/json");
        let (status, answer) = world.raw(&head, body.as_bytes()).await;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        (status, serde_json::from_str::<serde_json::Value>(body).unwrap_or_else(|_| panic!("{answer}")))
    };
    let (status, drain) = ask("GET", one, "").await;
    assert_eq!((status, drain["draining"].as_bool()), (200, Some(false)), "{drain}");
    let (status, drain) = ask("POST", one, r#"{"grace_s":600}"#).await;
    assert_eq!(
        (status, drain["draining"].as_bool(), drain["grace_s"].as_u64()),
        (200, Some(true), Some(600)),
        "{drain}"
    );
    assert_eq!(ask("GET", one, "").await, (200, drain.clone()));
    let listed = client.drains().await.unwrap();
    assert_eq!(listed.iter().map(|it| it.member).collect::<Vec<_>>(), [Some(one)]);

    let (status, problem) = ask("POST", other, "").await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("last_member")), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("`copies`"), "{problem}");
    assert_eq!(ask("GET", other, "").await.1["draining"], false, "who is refused is not drained");

    let (status, drain) = ask("DELETE", one, "").await;
    assert_eq!((status, drain["draining"].as_bool()), (200, Some(false)), "{drain}");
    let (status, drain) = ask("POST", other, "").await;
    assert_eq!((status, drain["grace_s"].as_u64()), (200, Some(30)), "{drain}");
    let (status, problem) = ask("POST", MemberId::new(Uuid::nil()), "").await;
    assert_eq!((status, problem["code"].as_str()), (404, Some("no_member")), "{problem}");
    let reader = world.client_with(&world.key(Scope::Read).await);
    let what = Drainable::Member { cell: "shared-1".into(), member: other };
    assert!(reader.drain_show(&what).await.unwrap().draining);
    assert_eq!(refused(reader.drain(&what, &DrainAsk::default()).await).status, 403);
}
