//! Keys in the cell's Redis and objects in its storage: listed by the plan, moved, undone, and deleted with their tenant.

use crate::try_move::{CUSTOMERS, VEHICLES};
use crate::world::{STACK, World, change, read_tenant, wanted};
use berth_control::{cells, moves, tenants, ways_back};
use berth_domain::{CellClass, OperationState};
use berth_infra::{CellDatabase, Role};
use berth_testkit::{TestDatabase, TestPg, TestRedis};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use std::path::Path;

async fn connect(redis: &TestRedis) -> MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn value(redis: &TestRedis, key: &str) -> Option<String> {
    connect(redis).await.get(key).await.unwrap()
}

fn read(folder: &Path, at: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(at)).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_objects_are_planned_travel_come_back_and_go_with_their_tenant() {
    let Some(one) = TestRedis::start(&[]).await else { return };
    let two = TestRedis::start(&[]).await.unwrap();
    let folders = tempfile::tempdir().unwrap();
    let (here, there) = (folders.path().join("one"), folders.path().join("two"));
    let (world, target) = (World::bare().await, TestDatabase::new().await);
    world.tenants.connect(Role::Owner).await.batch_execute(VEHICLES).await.unwrap();
    target.connect(Role::Owner).await.batch_execute(&format!("{CUSTOMERS};{VEHICLES}")).await.unwrap();
    let server = TestPg::shared().await;
    let place = |redis: &TestRedis, folder: &Path, database: &str| CellDatabase {
        database: database.to_owned(),
        redis: Some(redis.url().into()),
        objects: Some(format!("file://{}", folder.display())),
        ..server.cell().clone()
    };
    world.fake.stand_on(place(&one, &here, world.tenants.name()));
    let file = STACK.replace("max_tenants: 2", "max_tenants: 90").replace(
        "  hooks:",
        "  redis: { prefixes: [\"t:{tenant}:\"] }\n  objects: { prefixes: [\"files/{tenant}/\"] }\n  hooks:",
    );
    world.apply(&file).await.unwrap();
    world.finish().await;
    world.fake.stand_on(place(&two, &there, target.name()));
    let new = berth_wire::CellCreate {
        name: "shared-2".parse().unwrap(),
        class: CellClass::Shared,
        provider: None,
        region: None,
        max_tenants: Some(90),
    };
    cells::create(&world.app, &change(), new).await.unwrap();
    world.finish().await;
    let mut acme = wanted("acme", "hobby");
    acme.cell = Some("shared-1".parse().unwrap());
    let made = tenants::create(&world.app, &change(), acme).await.unwrap();
    assert_eq!(world.carry_out(made.id).await, OperationState::Succeeded);
    let tenant = world.store.tenant_by_name(&"acme".parse().unwrap()).await.unwrap().unwrap();
    let (key, at) = (format!("t:{}:cart", tenant.key), format!("files/{}/a.txt", tenant.key));
    let () = connect(&one).await.set(&key, "three").await.unwrap();
    let () = connect(&one).await.set("t:other:cart", "theirs").await.unwrap();
    std::fs::create_dir_all(here.join(&at).parent().unwrap()).unwrap();
    std::fs::write(here.join(&at), "a").unwrap();

    let to = "shared-2".parse().unwrap();
    let plan = moves::plan(&world.app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    let said: Vec<_> = plan.beside.iter().map(|it| (it.what.as_str(), it.found, it.bytes)).collect();
    assert_eq!(said, [("redis_keys", 1, None), ("objects", 1, Some(1))]);
    assert!(plan.beside.iter().all(|it| it.says.contains("not fenced")));
    assert!(value(&two, &key).await.is_none(), "a plan changes nothing");

    let moved = moves::start(&world.app, &change(), "acme", Some(&to)).await.unwrap();
    assert_eq!(world.carry_out(moved.id).await, OperationState::Succeeded);
    assert_eq!((value(&two, &key).await.as_deref(), read(&there, &at).as_deref()), (Some("three"), Some("a")));
    assert!(value(&two, "t:other:cart").await.is_none());
    let () = connect(&two).await.set(&key, "four").await.unwrap();
    std::fs::write(there.join(&at), "b").unwrap();

    let undone = ways_back::undo(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(world.carry_out(undone.id).await, OperationState::Succeeded);
    assert_eq!((value(&one, &key).await.as_deref(), read(&here, &at).as_deref()), (Some("four"), Some("b")));
    assert!(value(&two, &key).await.is_none() && read(&there, &at).is_none(), "nothing stays in the other cell");

    let deleted = tenants::delete(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(world.carry_out(deleted.id).await, OperationState::Succeeded);
    assert!(value(&one, &key).await.is_none() && read(&here, &at).is_none(), "they went with their tenant");
    assert_eq!(value(&one, "t:other:cart").await.as_deref(), Some("theirs"));
}
