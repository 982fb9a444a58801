//! A move down: what the smaller plan does not keep is listed before, archived, and comes back when it is asked for.

use crate::try_move::{Moving, rows};
use crate::world::{STACK, change, read, read_tenant};
use berth_control::{archives, cells, moves, operations, purge, ways_back, workflows};
use berth_domain::{CellClass, OperationId, OperationState};
use berth_infra::{CellDatabase, Role};
use berth_testkit::{TestDatabase, TestPg};
use berth_workflow::{Failing, Faults, Options, Worker};
use std::{path::Path, sync::Arc};

/// `acme`, small by now, in `own-1` with a vehicle of each of so many days.
pub async fn shrunk(days: i32) -> (Moving, TestDatabase) {
    let (moving, own) = (Moving::new().await, TestDatabase::new().await);
    let schema = format!("{};{}", crate::try_move::CUSTOMERS, crate::try_move::VEHICLES);
    own.connect(Role::Owner).await.batch_execute(&schema).await.unwrap();
    let file = STACK
        .replace("max_tenants: 2", "max_tenants: 90")
        .replace("  hooks:", "  retention: { vehicles: made_at }\n  hooks:")
        .replace("class: shared }", "class: shared, limits: { retention_days: 30 } }");
    moving.world.apply(&file).await.unwrap();
    moving.world.finish().await;
    let database = CellDatabase { database: own.name().to_owned(), ..TestPg::shared().await.cell().clone() };
    moving.world.fake.stand_on(database);
    let new = berth_wire::CellCreate {
        name: "own-1".parse().unwrap(),
        class: CellClass::Dedicated,
        provider: None,
        region: None,
        max_tenants: None,
    };
    cells::create(&moving.world.app, &change(), new).await.unwrap();
    moving.world.finish().await;
    let tenant = moving.created("acme", "own-1").await;
    own.connect(Role::App)
        .await
        .execute(
            "INSERT INTO vehicles (customer_id, label, made_at)
             SELECT $1, 'v' || n, now() - make_interval(days => n) FROM generate_series(0, $2 - 1) n",
            &[&tenant.key.as_str(), &days],
        )
        .await
        .unwrap();
    (moving, own)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_smaller_plan_does_not_keep_is_listed_archived_and_restored() {
    let (moving, own) = Box::pin(shrunk(100)).await;
    let app = &moving.world.app;
    let tenant = moving.known("acme").await;
    let whole = rows(&own.connect(Role::Mover).await, &tenant).await;
    let to = "shared-1".parse().unwrap();
    let plan = moves::plan(app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    let [left] = &plan.left_behind[..] else { panic!("{:?}", plan.left_behind) };
    assert_eq!((left.table.as_str(), left.column.as_str()), ("vehicles", "made_at"));
    assert!((69..=70).contains(&left.rows), "{}", left.rows);
    assert_eq!(plan.archived_to.as_deref(), Some("the server's own folder"));
    assert!(archives::list(app, &read_tenant(), "acme").await.unwrap().items.is_empty(), "a plan changes nothing");

    let started = moves::start(app, &change(), "acme", Some(&to)).await.unwrap();
    assert_eq!(moving.world.carry_out(started.id).await, OperationState::Succeeded);
    let target = moving.world.tenants.connect(Role::Mover).await;
    assert_eq!(rows(&target, &tenant).await.len() as u64, whole.len() as u64 - left.rows);
    let made = archives::list(app, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!(made.iter().map(|a| (a.id, a.rows)).collect::<Vec<_>>(), [(started.id, left.rows)]);

    ways_back::settle(app, &change(), "acme").await.unwrap();
    ways_back::clear_settled(app, &change()).await.unwrap();
    assert!(rows(&own.connect(Role::Mover).await, &tenant).await.is_empty(), "nothing stays in the old cell");

    let none = archives::restore(app, &change(), "acme", OperationId::new(uuid::Uuid::nil())).await;
    assert_eq!(none.unwrap_err().code(), "no_archive");
    let back = archives::restore(app, &change(), "acme", started.id).await.unwrap();
    assert_eq!(moving.world.carry_out(back.id).await, OperationState::Succeeded);
    assert_eq!(rows(&target, &tenant).await, whole, "every row is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_not_cleared_before_their_archive_is_made() {
    let (moving, own) = Box::pin(shrunk(100)).await;
    let app = &moving.world.app;
    let to = "shared-1".parse().unwrap();
    let started = moves::start(app, &change(), "acme", Some(&to)).await.unwrap();
    moving.world.carry_out(started.id).await;
    // The place is lost with all that was in it; another server has a new one.
    let other = moving.world.another();
    assert!(archives::list(&other, &read_tenant(), "acme").await.unwrap().items.is_empty());
    ways_back::settle(&other, &change(), "acme").await.unwrap();
    ways_back::clear_settled(&other, &change()).await.unwrap();
    let made = archives::list(&other, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!(made.len(), 1, "made again from the rows that were still there");
    assert!(made[0].rows >= 69);
    assert!(rows(&own.connect(Role::Mover).await, &moving.known("acme").await).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_tenants_rows_are_exported_and_come_back() {
    let (moving, own) = Box::pin(shrunk(100)).await;
    let app = &moving.world.app;
    let tenant = moving.known("acme").await;
    let client = own.connect(Role::Mover).await;
    let whole = rows(&client, &tenant).await;
    let exported = archives::export(app, &change(), "acme").await.unwrap();
    assert_eq!(moving.world.carry_out(exported.id).await, OperationState::Succeeded);
    let made = archives::list(app, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!((made[0].contents.as_str(), made[0].rows), ("everything", whole.len() as u64));
    client.execute("DELETE FROM vehicles WHERE customer_id = $1", &[&tenant.key.as_str()]).await.unwrap();
    let back = archives::restore(app, &change(), "acme", exported.id).await.unwrap();
    assert_eq!(moving.world.carry_out(back.id).await, OperationState::Succeeded);
    assert_eq!(rows(&client, &tenant).await, whole);
}

/// All files of a folder, by name.
fn files_in(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .map(|all| all.map(|entry| entry.unwrap()))
        .into_iter()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_given_up_leaves_no_file_and_touches_no_other_archive() {
    let (moving, place) = (Moving::new().await, tempfile::tempdir().unwrap());
    let app = &moving.world.app;
    let file = STACK.replace("max_tenants: 2", "max_tenants: 90000");
    moving.world.apply(&format!("{file}archives: {{ directory: {} }}\n", place.path().display())).await.unwrap();
    moving.world.finish().await;
    let tenant = moving.tenant("acme").await;
    let of = |id: OperationId| place.path().join(format!("tenants/{}/{id}", tenant.id));
    let whole = archives::export(app, &change(), "acme").await.unwrap();
    assert_eq!(moving.world.carry_out(whole.id).await, OperationState::Succeeded);
    let before = files_in(&of(whole.id));
    assert!(before.len() >= 3, "{before:?}");

    let half = archives::export(app, &change(), "acme").await.unwrap();
    // Of a control plane that ended in the middle of it; and something is in the way of a table's file.
    std::fs::create_dir_all(of(half.id).join("public.vehicles.csv.zst")).unwrap();
    std::fs::write(of(half.id).join("public.earlier.csv.zst"), "half").unwrap();
    moving.world.turn().await;
    let left = files_in(&of(half.id));
    assert!(
        left.contains(&"public.earlier.csv.zst".to_owned()) && !left.contains(&"manifest.json".to_owned()),
        "{left:?}"
    );
    operations::abandon(app, &change(), half.id, None, false).await.unwrap();
    assert_eq!(moving.world.carry_out(half.id).await, OperationState::Abandoned);
    assert_eq!(files_in(&of(half.id)), Vec::<String>::new(), "what was half written");
    assert_eq!(files_in(&of(whole.id)), before, "an archive that was finished");
    let listed = archives::list(app, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!(listed.iter().map(|archive| archive.id).collect::<Vec<_>>(), [whole.id]);
}

/// One turn of a worker whose step goes wrong.
async fn failing(moving: &Moving, faults: Faults) {
    let options = Options { faults, ..Options::named("failing") };
    let (store, registry) = (Arc::new(moving.world.store.clone()), Arc::new(workflows::registry()));
    Worker::new(store, registry, Arc::new(moving.world.app.clone()), options).turn().await.unwrap();
}

/// It was given up in the moment in which its manifest was there already.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_finished_stays_when_its_export_fails_afterwards() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    moving.tenant("acme").await;
    let begun = archives::export(app, &change(), "acme").await.unwrap();
    failing(&moving, Faults::fail(0, Failing::AfterRun)).await;
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Failed);
    let listed = archives::list(app, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!(listed.iter().map(|archive| archive.id).collect::<Vec<_>>(), [begun.id]);
}

/// The bucket is gone, or its key is another's: an undo that waited for it would never end.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_failed_ends_where_the_place_of_archives_cannot_be_read() {
    let (moving, place) = (Moving::new().await, tempfile::tempdir().unwrap());
    let app = &moving.world.app;
    let file = STACK.replace("max_tenants: 2", "max_tenants: 90000");
    moving.world.apply(&format!("{file}archives: {{ directory: {} }}\n", place.path().display())).await.unwrap();
    moving.world.finish().await;
    moving.tenant("acme").await;
    let begun = archives::export(app, &change(), "acme").await.unwrap();
    std::fs::write(place.path().join("tenants"), "no folder").unwrap();
    let read = archives::file(app, &read_tenant(), "acme", begun.id, "manifest.json").await;
    assert_eq!(read.err().unwrap().code(), "archive_unreachable");
    failing(&moving, Faults::fail(0, Failing::BeforeRun)).await;
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_plan_keeps_is_archived_and_goes_where_the_tenant_lives() {
    let moving = Moving::new().await;
    let file = STACK
        .replace("max_tenants: 2", "max_tenants: 90")
        .replace("  hooks:", "  retention: { vehicles: made_at }\n  purge: archive\n  hooks:")
        .replace("class: shared }", "class: shared, limits: { retention_days: 30 } }");
    moving.world.apply(&file).await.unwrap();
    moving.world.finish().await;
    let app = &moving.world.app;
    let (tenant, other) = (moving.created("acme", "shared-1").await, moving.created("nova", "shared-1").await);
    let write = "INSERT INTO vehicles (customer_id, label, made_at)
                 SELECT $1, 'v' || n, now() - make_interval(days => n) FROM generate_series(0, 99) n";
    let database = moving.world.tenants.connect(Role::App).await;
    for tenant in [&tenant, &other] {
        database.execute(write, &[&tenant.key.as_str()]).await.unwrap();
    }
    let look = moving.world.tenants.connect(Role::Mover).await;
    let (whole, others) = (rows(&look, &tenant).await, rows(&look, &other).await);
    let plan = purge::plan(app, &read(), "acme").await.unwrap();
    let [old] = &plan.tables[..] else { panic!("{plan:?}") };
    assert!((69..=70).contains(&old.rows) && plan.archived, "{plan:?}");
    assert_eq!(rows(&look, &tenant).await, whole, "a plan changes nothing");

    let begun = purge::start(app, &change(), "acme").await.unwrap();
    let again = purge::start(app, &change(), "acme").await.unwrap();
    assert_eq!(again.id, begun.id, "one is enough: a second would archive the same rows again");
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(rows(&look, &tenant).await.len() as u64, whole.len() as u64 - old.rows);
    assert_eq!(rows(&look, &other).await, others, "nobody else's");
    let made = archives::list(app, &read_tenant(), "acme").await.unwrap().items;
    assert_eq!(made.iter().map(|a| (a.id, a.rows)).collect::<Vec<_>>(), [(begun.id, old.rows)]);
    assert_eq!(purge::plan(app, &read(), "acme").await.unwrap().tables[0].rows, 0);

    let back = archives::restore(app, &change(), "acme", begun.id).await.unwrap();
    assert_eq!(moving.world.carry_out(back.id).await, OperationState::Succeeded);
    assert_eq!(rows(&look, &tenant).await, whole, "every row is back");
}
