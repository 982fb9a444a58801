//! What a mode's profile says reaches processes and databases.

use crate::world::{STACK, World};
use berth_config::Environment;
use berth_control::{App, WorkerOptions, serve};
use berth_infra::{CellDatabase, MemberName, Role, fake::Fake};
use berth_testkit::{TestDatabase, TestPg, wait_until};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

async fn shown(world: &World, setting: &str) -> String {
    let client = world.tenants.connect(Role::App).await;
    client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0)
}

fn told(world: &World, member: &str) -> BTreeMap<String, String> {
    let env = world.fake.member_env(&MemberName::new(member).unwrap());
    env.into_iter().map(|var| (var.name, var.value.expose_secret().to_owned())).collect()
}

#[tokio::test]
async fn without_a_word_a_cell_has_the_guides_column() {
    let world = World::new().await;
    let env = told(&world, "shared-1.web.0");
    for (name, value) in [
        ("SHARED_DATABASE_POOL_SIZE", "20"),
        ("POOL_SIZE", "20"),
        ("AUTOSCALING_ENABLED", "false"),
        ("DATABASE_QUEUE_TARGET_MS", "5000"),
        ("PGAPPNAME", "webhost_multi_tenant"),
        ("MAX_CUSTOMERS_PER_SERVER", "2"),
        ("TENANT_ISOLATION", "database_level"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}: {env:?}");
    }
    assert_eq!(env.get("SHARED_DATABASE_URL"), env.get("DATABASE_URL"));
    for absent in ["DEDICATED_DATABASE_POOL_SIZE", "REDIS_HOST", "PRIMARY_REGION", "MIN_INSTANCES"] {
        assert!(!env.contains_key(absent), "{absent}: {env:?}");
    }
    // What would end statements of an application that nobody asked is not set unasked.
    assert_eq!(
        (
            shown(&world, "statement_timeout").await.as_str(),
            shown(&world, "idle_in_transaction_session_timeout").await.as_str()
        ),
        ("0", "0")
    );
}

#[tokio::test]
async fn a_profile_of_ones_own_acts_and_a_service_has_the_last_word() {
    let world = World::bare().await;
    let modes = "modes:\n  multi_tenant: { pool_size: 7, statement_timeout: 45s, application_name: parcels, env: { REGION: eu, COLOUR: red } }\n";
    let own = STACK.replace("copies: 2 }", "env: { COLOUR: blue }, scale: { max: 4 } }") + modes;
    world.apply(&own).await.unwrap();
    world.finish().await;
    let env = told(&world, "shared-1.web.0");
    let of = |name: &str| env.get(name).map(String::as_str);
    assert_eq!(
        (
            of("AUTOSCALING_ENABLED"),
            of("MIN_INSTANCES"),
            of("MAX_INSTANCES"),
            of("CPU_THRESHOLD"),
            of("MEMORY_THRESHOLD")
        ),
        (Some("true"), Some("1"), Some("4"), Some("70"), Some("80"))
    );
    assert_eq!(
        (of("SHARED_DATABASE_POOL_SIZE"), of("PGAPPNAME"), of("REGION"), of("COLOUR")),
        (Some("7"), Some("parcels"), Some("eu"), Some("blue"))
    );
    assert_eq!(shown(&world, "statement_timeout").await, "45s");
    assert_eq!(shown(&world, "idle_in_transaction_session_timeout").await, "0", "nobody spoke of it");
    // Migrations, hooks and the mover take as long as they take.
    let owner = world.tenants.connect(Role::Owner).await;
    assert_eq!(owner.query_one("SHOW statement_timeout", &[]).await.unwrap().get::<_, String>(0), "0");

    // Another revision reaches a cell that stands already.
    world.apply(&own.replace("statement_timeout: 45s", "statement_timeout: 20s")).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let app = world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    wait_until("the new timeout is set", || shown(&world, "statement_timeout"), |now| now == "20s").await;
    stop.send_replace(true);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cell_that_somebody_else_runs_keeps_its_timeouts_and_its_copies() {
    let mut world = World::bare().await;
    // A cell beside it that Berth runs: when that one has the new settings, the other one had its turn.
    let (theirs, ours, second) = (world.fake.clone(), Fake::new(), TestDatabase::new().await);
    let server = TestPg::shared().await;
    ours.stand_on(CellDatabase { database: second.name().to_owned(), ..server.cell().clone() });
    let app = |foreign: bool| {
        let (theirs, ours) = (theirs.clone(), ours.clone());
        let build = move |adapter: &str, _: &serde_json::Value| {
            let provider = match adapter {
                "fake" => berth_infra::Provider { foreign, ..theirs.provider() },
                "ours" => ours.provider(),
                _ => return None,
            };
            Some(Ok(provider))
        };
        let open = |_: Option<&berth_config::Archives>, _: &Environment| -> Result<berth_mover::Archives, _> {
            Ok(Arc::new(object_store::memory::InMemory::new()))
        };
        let environment = Environment::from_iter(Vec::<(String, String)>::new());
        App::new(world.store.clone(), environment, Box::new(build), Box::new(open))
    };
    world.app = app(false);
    let two = STACK.replace("fake: { adapter: fake }", "fake: { adapter: fake }\n  ours: { adapter: ours }")
        + "  shared-2: { class: shared, provider: ours, max_tenants: 2 }\n";
    world.apply(&two).await.unwrap();
    world.finish().await;

    let scaled = two.replace(
        "copies: 2 }",
        "copies: 2, scale: { min: 1, max: 4, cooldown_s: 0 }, shape: { cpu_millis: 1000, memory_mib: 512 } }",
    ) + "modes:\n  multi_tenant: { statement_timeout: 20s }\n";
    world.apply(&scaled).await.unwrap();
    let wanted = async || {
        let members = world.store.member_list(None).await.unwrap();
        let cells = world.store.cell_list().await.unwrap();
        let of = |name: &str| {
            let cell = cells.iter().find(|cell| cell.name.as_str() == name).unwrap().id;
            members.iter().filter(|member| member.cell == cell && member.wanted).count()
        };
        (of("shared-1"), of("shared-2"))
    };
    assert_eq!(wanted().await, (2, 2));
    // As much work in both: for four copies at 70 %.
    for fake in [&theirs, &ours] {
        fake.set_load(1400, 64 << 20);
    }
    let (stop, stopped) = watch::channel(false);
    let app = app(true);
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    // A session keeps the settings that it began with, so each look is a new one.
    let timeout = async || {
        let client = second.connect(Role::App).await;
        client.query_one("SHOW statement_timeout", &[]).await.unwrap().get::<_, String>(0)
    };
    wait_until("the new timeout is set where Berth runs the cell", timeout, |now| now == "20s").await;
    wait_until("it has the copies that its work asks for", wanted, |(_, ours)| *ours == 4).await;
    assert_eq!(wanted().await.0, 2, "how many run there is decided by whoever runs it");
    assert_eq!(shown(&world, "statement_timeout").await, "0", "and so is what its login may do");
    stop.send_replace(true);
    server.await.unwrap().unwrap();
}

/// The guide's column of a deployment of one's own, in a cell of one's own, with its Redis.
#[tokio::test]
async fn a_cell_of_ones_own_has_the_other_column() {
    let world = World::bare().await;
    let server = TestPg::shared().await;
    let redis = SecretString::from("redis://:secret@10.0.0.5:6379/0".to_owned());
    world.fake.stand_on(CellDatabase {
        database: world.tenants.name().to_owned(),
        redis: Some(redis),
        ..server.cell().clone()
    });
    world
        .apply(&STACK.replace("class: shared, provider: fake, max_tenants: 2", "class: dedicated, provider: fake"))
        .await
        .unwrap();
    world.finish().await;
    let env = told(&world, "shared-1.web.0");
    for (name, value) in [
        ("DEPLOYMENT_MODE", "single_tenant"),
        ("DEDICATED_DATABASE_POOL_SIZE", "10"),
        ("POOL_SIZE", "10"),
        ("REDIS_POOL_SIZE", "5"),
        ("REDIS_HOST", "10.0.0.5"),
        ("REDIS_PORT", "6379"),
        ("DATABASE_QUEUE_TARGET_MS", "1000"),
        ("PGAPPNAME", "webhost_single_tenant"),
        ("MAX_CUSTOMERS", "1"),
        ("MAX_CUSTOMERS_PER_SERVER", "1"),
        ("TENANT_ISOLATION", "infrastructure_level"),
        ("AUTOSCALING_ENABLED", "false"),
        ("AUTO_SCALING_ENABLED", "false"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}: {env:?}");
    }
    assert_eq!(env.get("DEDICATED_DATABASE_URL"), env.get("DATABASE_URL"));
    assert!(!env.contains_key("SHARED_DATABASE_POOL_SIZE"), "{env:?}");
}

/// What Postgres calls why it ended a statement or a session.
async fn ended_by(client: &tokio_postgres::Client, statement: &str) -> Option<String> {
    let error = client.batch_execute(statement).await.err()?;
    Some(error.code().map_or_else(|| format!("{error}"), |code| code.code().to_owned()))
}

/// Both columns: the database itself ends what is longer than the profile of the cell's mode lets it be, for the
/// application's role alone.
#[tokio::test]
async fn the_database_ends_statements_and_idle_transactions_as_the_cells_mode_says() {
    for (class, mode) in [("class: shared", "multi_tenant"), ("class: dedicated", "single_tenant")] {
        let world = World::bare().await;
        let own = STACK.replace("class: shared, provider: fake, max_tenants: 2", &format!("{class}, provider: fake"));
        let other = if mode == "multi_tenant" { "single_tenant" } else { "multi_tenant" };
        let modes = format!(
            "modes:\n  {mode}: {{ statement_timeout: 300ms, idle_in_transaction_timeout: 200ms }}\n  {other}: {{ statement_timeout: 1h, \
             idle_in_transaction_timeout: 1h }}\n"
        );
        world.apply(&(own + &modes)).await.unwrap();
        world.finish().await;
        let app = world.tenants.connect(Role::App).await;
        assert_eq!(ended_by(&app, "SELECT pg_sleep(30)").await.as_deref(), Some("57014"), "{mode}: cancelled");
        app.batch_execute("BEGIN; SELECT 1").await.unwrap();
        wait_until("the session is ended", async || app.is_closed(), |closed| *closed).await;
        let owner = world.tenants.connect(Role::Owner).await;
        assert_eq!(
            ended_by(&owner, "BEGIN; SELECT pg_sleep(0.6); COMMIT").await,
            None,
            "{mode}: the owner has its time"
        );
    }
}
