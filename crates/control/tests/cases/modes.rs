//! What a mode's profile says reaches processes and databases.

use crate::world::{STACK, World};
use berth_control::{WorkerOptions, serve};
use berth_infra::{MemberName, Role};
use berth_testkit::wait_until;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
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
