//! What people ask of tenants, and what they are told when it cannot be.

use crate::world::{STACK, World, change, read, read_tenant, wanted};
use berth_control::{Caller, ControlError, Kind, ReadTenant, Scope, audit, keys, moves, operations, sync, tenants};
use berth_domain::{OperationState, TenantState};
use berth_infra::Role;
use berth_wire as wire;

fn told(error: &ControlError) -> (&'static str, Kind) {
    assert!(error.hint().is_some(), "no hint: {error}");
    (error.code(), error.kind())
}

#[tokio::test]
async fn a_tenant_is_created_served_suspended_resumed_and_deleted() {
    let world = World::new().await;
    let acme = world.create("acme", "hobby").await;
    assert_eq!((acme.state, acme.cell.unwrap().as_str()), (TenantState::Active, "shared-1"));
    assert_eq!(acme.key.unwrap().as_str(), acme.id.to_string());
    assert_eq!(world.root_rows().await, [format!("{} acme", acme.id)]);

    let suspended = tenants::suspend(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(world.tenant("acme").await.state, TenantState::Suspended, "at once, before the application hears");
    assert_eq!(world.carry_out(suspended.id).await, OperationState::Succeeded);
    let client = world.tenants.connect(Role::Mover).await;
    let told: bool = client.query_one("SELECT suspended FROM customers", &[]).await.unwrap().get(0);
    assert!(told, "the application was not told");

    let resumed = tenants::resume(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(world.carry_out(resumed.id).await, OperationState::Succeeded);
    assert_eq!(world.tenant("acme").await.state, TenantState::Active);

    let deleted = tenants::delete(&world.app, &change(), &acme.id.to_string()).await.unwrap();
    assert_eq!(world.carry_out(deleted.id).await, OperationState::Succeeded);
    assert!(world.root_rows().await.is_empty());
    let gone = tenants::show(&world.app, &read_tenant(), "acme").await.unwrap_err();
    assert_eq!(told_code(&gone), ("no_tenant", Kind::NotFound));
    world.create("acme", "hobby").await; // its name and host are free again

    let trail = audit::list(&world.app, &read(), Some("acme"), None, 50).await.unwrap().items;
    let actions: Vec<&str> = trail.iter().rev().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["tenant.create", "tenant.suspend", "tenant.resume", "tenant.delete", "tenant.create"]);
}

fn told_code(error: &ControlError) -> (&'static str, Kind) {
    told(error)
}

#[tokio::test]
async fn what_is_taken_full_or_unknown_is_said_and_leaves_nothing() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let create = async |wanted| tenants::create(&world.app, &change(), wanted).await.unwrap_err();

    let error = create(wanted("acme", "hobby")).await;
    assert_eq!(told(&error), ("tenant_exists", Kind::Conflict));
    let mut same_host = wanted("other", "hobby");
    same_host.hosts = vec!["free.test".parse().unwrap(), "acme.test".parse().unwrap()];
    let error = create(same_host.clone()).await;
    assert_eq!(told(&error), ("host_taken", Kind::Conflict));
    assert!(error.to_string().contains("`acme.test`") && !error.to_string().contains("free.test"), "{error}");
    assert!(error.hint().unwrap().contains("take it from the other tenant first"), "{:?}", error.hint());
    let error = create(wanted("other", "gold")).await;
    assert_eq!(told(&error), ("no_plan", Kind::Invalid));
    let mut nowhere = wanted("other", "hobby");
    nowhere.cell = Some("atlantis".parse().unwrap());
    assert_eq!(told(&create(nowhere).await), ("no_cell", Kind::NotFound));

    world.create("beta", "hobby").await;
    assert_eq!(told(&create(wanted("gamma", "hobby")).await), ("no_room", Kind::Full));
    let mut full = wanted("gamma", "hobby");
    full.cell = Some("shared-1".parse().unwrap());
    assert_eq!(told(&create(full).await), ("cell_full", Kind::Full));
    let page = tenants::list(&world.app, &read_tenant(), &tenants::TenantFilter::default()).await.unwrap();
    let names: Vec<&str> = page.items.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["acme", "beta"]);
}

/// An application with keys of its own, whose hooks find a tenant by its name: `berth init` suggests such.
#[tokio::test]
async fn a_create_that_fails_deletes_nobody_who_was_there_before() {
    let world = World::bare().await;
    let by_name = STACK
        .replace(
            "INSERT INTO customers (id, name) VALUES (:id, :slug) ON CONFLICT (id) DO NOTHING; SELECT id FROM customers WHERE id = :id",
            "INSERT INTO customers (id, name) VALUES (''own-'' || :slug, :slug) ON CONFLICT (id) DO NOTHING; SELECT id FROM customers WHERE name = :slug || (CASE :slug WHEN ''twin'' THEN ''1'' ELSE '''' END)",
        )
        .replace("DELETE FROM customers WHERE id = :id", "DELETE FROM customers WHERE name = :slug");
    world.apply(&by_name).await.unwrap();
    world.finish().await;
    let client = world.tenants.connect(Role::Mover).await;
    let refuse = "ALTER TABLE customers ADD CHECK (name <> 'north') NOT VALID";
    client.batch_execute("INSERT INTO customers VALUES ('1', 'north')").await.unwrap();
    client.batch_execute(refuse).await.unwrap();
    let before = world.root_rows().await;
    let refused = tenants::create(&world.app, &change(), wanted("north", "hobby")).await.unwrap();
    assert_eq!(world.carry_out(refused.id).await, OperationState::Failed);
    assert_eq!(world.root_rows().await, before, "whoever had that name is there as before");

    // The hook answers with the key of somebody else's tenant.
    world.create("twin1", "hobby").await;
    let answered = tenants::create(&world.app, &change(), wanted("twin", "hobby")).await.unwrap();
    assert_eq!(world.carry_out(answered.id).await, OperationState::Failed);
    let rows = world.root_rows().await;
    assert!(rows.contains(&"own-twin1 twin1".to_owned()), "{rows:?}");
}

#[tokio::test]
async fn of_two_who_want_the_last_place_one_gets_it() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let (app, permit) = (&world.app, &change());
    let (one, two) = tokio::join!(
        tenants::create(app, permit, wanted("one", "hobby")),
        tenants::create(app, permit, wanted("two", "hobby"))
    );
    let refused = [one, two].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].kind(), Kind::Full);
}

#[tokio::test]
async fn a_moving_tenant_is_neither_moved_again_nor_deleted() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let moving = moves::start(&world.app, &change(), "acme", None).await;
    assert_eq!(told(&moving.unwrap_err()), ("no_room", Kind::Full), "its plan is shared, and that cell is its own");
    tenants::set_plan(&world.app, &change(), "acme", &"business".parse().unwrap(), None).await.unwrap();
    world.finish().await;
    let moving = moves::start(&world.app, &change(), "acme", None).await.unwrap();
    let before = world.tenant("acme").await;
    assert_eq!((before.state, before.operation), (TenantState::Moving, Some(moving.id)));
    for refused in [
        moves::start(&world.app, &change(), "acme", None).await.unwrap_err(),
        tenants::delete(&world.app, &change(), "acme").await.unwrap_err(),
        tenants::suspend(&world.app, &change(), "acme").await.unwrap_err(),
    ] {
        assert_eq!(told(&refused), ("already_moving", Kind::Conflict));
        assert_eq!(refused.operation(), Some(moving.id));
    }
    assert_eq!(world.tenant("acme").await, before, "the tenant was touched");
}

#[tokio::test]
async fn a_move_to_where_the_tenant_is_or_to_another_schema_is_refused() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let start = async |to: &str| {
        let to = to.parse().unwrap();
        moves::start(&world.app, &change(), "acme", Some(&to)).await.unwrap_err()
    };
    assert_eq!(told(&start("shared-1").await), ("same_cell", Kind::Invalid));
    assert_eq!(told(&start("atlantis").await), ("no_cell", Kind::NotFound));
    let file = format!("{STACK}  shared-2: {{ class: shared, provider: fake, max_tenants: 2 }}\n");
    world.apply(&file).await.unwrap();
    assert_eq!(told(&start("shared-2").await), ("cell_not_ready", Kind::Conflict));
    world.finish().await;
    let cell = world.store.cell_by_name(&"shared-2".parse().unwrap()).await.unwrap().unwrap();
    world.store.cell_set_fingerprint(cell.id, "of another release").await.unwrap();
    assert_eq!(told(&start("shared-2").await), ("schema_differs", Kind::Invalid));
    assert_eq!(world.tenant("acme").await.state, TenantState::Active);
}

#[tokio::test]
async fn a_tenants_own_key_sees_that_tenant_and_no_other() {
    let world = World::new().await;
    let acme = world.create("acme", "hobby").await;
    world.create("beta", "hobby").await;
    let new = wire::KeyCreate { name: "acme's".into(), scope: format!("tenant:{}", acme.id) };
    let made = keys::create(&world.app, &change(), &new).await.unwrap();
    let caller = keys::caller(&world.app, &made.secret.clone().into(), None).await.unwrap();
    assert_eq!(caller.scope, Scope::Tenant(acme.id));
    let permit = caller.may(ReadTenant).unwrap();
    assert!(tenants::show(&world.app, &permit, "acme").await.is_ok());
    let entitled = caller.may(berth_control::ReadEntitlements).unwrap();
    assert!(berth_control::usage::entitlements(&world.app, &entitled, "acme").await.is_ok());
    let hidden = tenants::show(&world.app, &permit, "beta").await.unwrap_err();
    assert_eq!(told(&hidden), ("no_tenant", Kind::NotFound), "as if it did not exist");
    let page = tenants::list(&world.app, &permit, &tenants::TenantFilter::default()).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let own = operations::list(&world.app, &permit, &operations::OperationFilter::default()).await.unwrap();
    assert!(!own.items.is_empty() && own.items.iter().all(|o| o.tenant.as_ref().is_some_and(|t| t.as_str() == "acme")));
    assert!(caller.may(berth_control::Change).is_err() && caller.may(berth_control::Read).is_err());

    keys::revoke(&world.app, &change(), made.key.id).await.unwrap();
    let refused = keys::caller(&world.app, &made.secret.into(), None).await.unwrap_err();
    assert_eq!(told(&refused), ("unknown_key", Kind::Unauthenticated));
}

#[tokio::test]
async fn an_edit_that_rests_on_an_old_reading_is_refused() {
    let world = World::new().await;
    let acme = world.create("acme", "hobby").await;
    let hosts = |name: &str| vec![name.parse().unwrap()];
    let edit =
        async |hosts: &[_], version| tenants::set_all_hosts(&world.app, &change(), "acme", hosts, Some(version)).await;
    let after = edit(&hosts("a.test"), acme.version).await.unwrap();
    assert!(after.version > acme.version);
    let stale = edit(&hosts("b.test"), acme.version).await.unwrap_err();
    assert_eq!(told(&stale), ("stale", Kind::Stale));
    assert_eq!(world.tenant("acme").await.hosts, hosts("a.test"));
}

#[tokio::test]
async fn a_tenant_that_the_application_made_is_taken_in() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let client = world.tenants.connect(Role::Mover).await;
    client.batch_execute("INSERT INTO customers VALUES ('born-there', 'x')").await.unwrap();
    let mut wanted = wire::TenantSync { cell: "shared-1".parse().unwrap(), take_in: None };
    let report = sync::run(&world.app, &change(), &wanted).await.unwrap();
    assert_eq!((report.unknown_here.len(), report.unknown_there.len(), report.taken_in), (1, 0, 0));
    wanted.take_in = Some("hobby".parse().unwrap());
    assert_eq!(sync::run(&world.app, &change(), &wanted).await.unwrap().taken_in, 1);
    assert_eq!(world.tenant("born-there").await.key.unwrap().as_str(), "born-there");
    client.batch_execute("DELETE FROM customers WHERE id = 'born-there'").await.unwrap();
    let report = sync::run(&world.app, &change(), &wanted).await.unwrap();
    assert_eq!(report.unknown_there.len(), 1, "a missing row is shown and nothing is deleted");
    assert_eq!(world.tenant("born-there").await.state, TenantState::Active);
}

#[tokio::test]
async fn who_is_not_taken_in_is_told_with_the_reason() {
    let world = World::new().await;
    let owner = world.control.connect(Role::Owner).await;
    // As it is of a cell that was adopted before, whose rows have integer keys too.
    let far =
        "INSERT INTO tenants (id, name, key, plan, state) VALUES (gen_random_uuid(), 'far', '7', 'hobby', 'active')";
    owner.batch_execute(far).await.unwrap();
    let client = world.tenants.connect(Role::Mover).await;
    client.batch_execute("INSERT INTO customers VALUES ('7', 'x'), ('Born', 'x'), ('born', 'x')").await.unwrap();
    let wanted = wire::TenantSync { cell: "shared-1".parse().unwrap(), take_in: Some("hobby".parse().unwrap()) };
    let report = sync::run(&world.app, &change(), &wanted).await.unwrap();
    let of = |key: &str| report.unknown_here.iter().find(|it| it.key.as_str() == key).unwrap();
    let name = |key: &str| of(key).name.as_ref().unwrap().as_str();
    assert_eq!((report.taken_in, name("Born")), (2, "born"));
    assert!(name("born").starts_with("t-"), "one whose name is taken has another: {report:?}");
    let why = of("7").why.as_deref().unwrap();
    assert!(of("7").name.is_none() && why.contains("tenant `far` of another cell has this key"), "{why}");
    owner.batch_execute("DELETE FROM tenants WHERE name = 'far'").await.unwrap();
}

#[tokio::test]
async fn a_dump_of_keys_opens_nothing() {
    let world = World::new().await;
    assert!(keys::none_yet(&world.app).await.unwrap());
    let secret = keys::create_for_berth(&world.app, "first", Scope::Admin).await.unwrap();
    let caller: Caller = keys::caller(&world.app, &secret, Some("r".into())).await.unwrap();
    assert_eq!((caller.name.as_str(), caller.scope), ("first", Scope::Admin));
    let client = world.control.connect(Role::Owner).await;
    let dump: String = client.query_one("SELECT api_keys::text FROM api_keys", &[]).await.unwrap().get(0);
    assert!(!dump.contains(secrecy::ExposeSecret::expose_secret(&secret)), "the key itself is stored");
}

/// More callers than the server has connections to its database, all after the same cell's lock. A use case that asks
/// the pool for a second connection inside its transaction would leave all of them waiting for each other.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_wait_for_the_cell_and_not_for_each_other() {
    let world = World::new().await;
    let mut asked = tokio::task::JoinSet::new();
    for nth in 0..32 {
        let app = world.app.clone();
        asked.spawn(async move { tenants::create(&app, &change(), wanted(&format!("t-{nth}"), "hobby")).await });
    }
    let mut made = 0;
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.kind(), Kind::Full, "{error}: {:?}", error.hint()),
        }
    }
    assert_eq!(made, 2, "the cell has room for two");
}
