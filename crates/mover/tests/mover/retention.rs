//! A plan that keeps less: what is too old stays behind, is archived, and can be brought back. Nothing of it is lost
//! on any way, and nobody else's rows are touched.

use crate::common::{MemoryOwnership, Two, Watch, cut_over, rows_of, until_built};
use berth_infra::Role;
use berth_mover::{Archives, Contents, MoveError, MoveSpec, Obstacle};
use object_store::{ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use std::sync::Arc;
use tokio_postgres::Client;
use uuid::Uuid;

/// A tenant with positions on both sides of 2026-10-01, values that CSV could get wrong among them.
async fn aged() -> (Two, MoveSpec) {
    let two = Two::filled(2_000).await;
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(&format!(
            "update positions set at = '2026-09-30 23:59:59.999999+00', note = E'old, \"quoted\"\\nand \\\\N'
              where customer_id = '{0}' and lat::bigint % 4 = 1;
             update positions set at = '2026-10-01 00:00:00+00', note = '' where customer_id = '{0}' and lat::bigint % 4 = 2;
             update positions set at = '-infinity', note = null where customer_id = '{0}' and lat::bigint % 4 = 3 and lat < 100;
             update positions set at = '0044-03-15 12:00:00 BC' where customer_id = '{0}' and lat = 7",
            two.tenant
        ))
        .await
        .unwrap();
    let mut spec =
        MoveSpec { alone: false, way_back: true, keep_from: Some(jiff::civil::date(2026, 10, 1)), ..two.spec() };
    spec.rules.retention.insert("public.positions".into(), "at".into());
    (two, spec)
}

const OLD: &str = "select count(*) from positions where customer_id = $1 and at < '2026-10-01 00:00:00+00'";

async fn count(client: &Client, sql: &str, tenant: Uuid) -> i64 {
    client.query_one(sql, &[&tenant]).await.unwrap().get(0)
}

async fn insert(client: &Client, two: &Two, at: &str, note: &str) {
    client
        .execute(
            "insert into positions (customer_id, vehicle_id, event_id, at, lat, note)
             select $1, id, gen_random_uuid(), $2::text::timestamptz, 1, $3 from vehicles where customer_id = $1 limit 1",
            &[&two.tenant, &at, &note],
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_stays_behind_is_archived_and_comes_back() {
    let (two, spec) = aged().await;
    let ownership = MemoryOwnership::new();
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let app = two.client(&two.source, Role::App).await;
    let before = rows_of(&source, two.tenant).await;
    let old = count(&source, OLD, two.tenant).await;
    let (plan, token) = until_built(&spec, &ownership).await;
    assert_eq!(plan.left_rows(), old, "the plan says how many");
    assert!(old > 500, "{old}");
    // While the move follows: an old one comes, an old one goes, a young one grows old, another one changes, and two grow young,
    // one of them under another key.
    insert(&app, &two, "2020-01-01", "late").await;
    for change in [
        "delete from positions where customer_id = $1 and at = '-infinity' and lat = 3",
        "update positions set at = '2026-01-01' where customer_id = $1 and lat = 2",
        "update positions set note = 'young' where customer_id = $1 and lat = 6",
        "update positions set note = 'still old' where customer_id = $1 and lat = 5",
        "update positions set at = '2026-11-01' where customer_id = $1 and lat = 9",
        "update positions set at = '2026-11-02', id = gen_random_uuid() where customer_id = $1 and lat = 13",
        "update positions set id = gen_random_uuid() where customer_id = $1 and lat = 10",
    ] {
        assert_eq!(app.execute(change, &[&two.tenant]).await.unwrap(), 1, "{change}");
    }
    let whole = rows_of(&source, two.tenant).await;
    assert_ne!(whole, before);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    assert_eq!(count(&target, OLD, two.tenant).await, 0);
    let there = rows_of(&target, two.tenant).await;
    let left = count(&source, OLD, two.tenant).await;
    assert_eq!(there.len() as i64, whole.len() as i64 - left);
    assert_eq!(left, old - 1, "one came, one went, one grew old, two grew young");

    let folder = tempfile::tempdir().unwrap();
    let store: Archives = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let at = Path::from("acme/first");
    berth_mover::probe(&store).await.unwrap();
    let made = berth_mover::archive(&spec, &plan, Contents::LeftBehind, &store, &at, &Watch::default()).await.unwrap();
    assert_eq!(made.rows() as i64, left);
    assert_eq!(made.tables.len(), 1, "only of the table that leaves rows behind");
    let again = berth_mover::archive(&spec, &plan, Contents::LeftBehind, &store, &at, &Watch::default()).await.unwrap();
    assert_eq!(again, made, "what is finished is not made again");

    // The source's rows go for good, and everything is there again after the restore.
    berth_mover::close_way_back(&spec).await.unwrap();
    berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert!(rows_of(&source, two.tenant).await.is_empty(), "what stayed behind goes with the rest");
    let to = two.endpoint(&two.target);
    let watch = Watch::default();
    let restored = berth_mover::restore(&to, &spec.rules, &spec.tenant, &store, &at, &watch).await.unwrap();
    assert_eq!((restored.rows as i64, restored.there_already), (left, 0));
    let told = watch.seen.lock().unwrap().last().map(|p| (p.rows_done, p.rows_total));
    assert_eq!(told, Some((Some(made.rows()), Some(made.rows()))));
    assert_eq!(rows_of(&target, two.tenant).await, whole, "every value as it was");
    let restored = berth_mover::restore(&to, &spec.rules, &spec.tenant, &store, &at, &Watch::default()).await.unwrap();
    assert_eq!((restored.rows, restored.there_already as i64), (0, left), "a second time changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_finds_what_stayed_behind_and_what_was_brought_back() {
    let (two, spec) = aged().await;
    let ownership = MemoryOwnership::new();
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let store: Archives = Arc::new(InMemory::new());
    let at = Path::from("a");
    berth_mover::archive(&spec, &plan, Contents::LeftBehind, &store, &at, &Watch::default()).await.unwrap();
    let to = two.endpoint(&two.target);
    berth_mover::restore(&to, &spec.rules, &spec.tenant, &store, &at, &Watch::default()).await.unwrap();
    // In the new place: an old one comes, one that was brought back changes, another one goes.
    let app = two.client(&two.target, Role::App).await;
    insert(&app, &two, "2020-01-01", "late").await;
    for change in [
        "update positions set note = 'changed' where customer_id = $1 and lat = 5",
        "delete from positions where customer_id = $1 and lat = 9",
    ] {
        assert_eq!(app.execute(change, &[&two.tenant]).await.unwrap(), 1, "{change}");
    }
    let now = rows_of(&target, two.tenant).await;
    cut_over(&spec.back(), &plan, &ownership).await.unwrap();
    assert_eq!(rows_of(&source, two.tenant).await, now, "nothing of it is lost by going back");
    let (second, watch) = (Path::from("b"), Watch::default());
    let refused = berth_mover::archive(&spec, &plan, Contents::LeftBehind, &store, &second, &watch).await.unwrap_err();
    assert!(matches!(refused, MoveError::LivesThere), "a source that is written again is no archive's: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_row_with_a_key_of_the_tenants_is_not_written_over_on_the_way_back() {
    let (two, spec) = aged().await;
    let ownership = MemoryOwnership::new();
    let source = two.client(&two.source, Role::Mover).await;
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let place = "insert into positions (id, customer_id, vehicle_id, event_id, lat)
                 select '00000000-0000-4000-8000-000000077000', customer_id, id, gen_random_uuid(), 5 from vehicles where customer_id = $1 limit 1";
    source.execute(place, &[&two.neighbour]).await.unwrap();
    let before = rows_of(&source, two.neighbour).await;
    two.client(&two.target, Role::Mover).await.execute(place, &[&two.tenant]).await.unwrap();
    let met = berth_mover::keep(&spec, &plan, &ownership, &Watch::default()).await;
    assert!(matches!(&met, Err(MoveError::WayBackBarred { why }) if why.contains("`positions` met 0 rows")), "{met:?}");
    assert_eq!(rows_of(&source, two.neighbour).await, before);
}

/// A table that says by its parent alone whose a row is, and leaves its old rows behind.
async fn logged() -> (Two, MoveSpec) {
    let two = Two::shared(
        "create table customers (id uuid primary key);
         create table vehicles (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers);
         create table logs (id int primary key, vehicle_id uuid not null references vehicles, at timestamptz not null default now(), note text)",
    )
    .await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        let rows = format!(
            "insert into customers values ('{tenant}'); insert into vehicles (customer_id) values ('{tenant}')"
        );
        source.batch_execute(&rows).await.unwrap();
    }
    let keep_from = Some(jiff::civil::date(2026, 10, 1));
    let mut spec = MoveSpec { alone: false, way_back: true, keep_from, ..two.spec() };
    spec.rules.retention.insert("public.logs".into(), "at".into());
    (two, spec)
}

/// The same where a table says whose a row is by its parent alone.
#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_of_a_table_without_the_tenants_column() {
    let (two, spec) = logged().await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let log = "insert into logs (id, vehicle_id, note) select $2, id, $3 from vehicles where customer_id = $1";
    let old = "insert into logs (id, vehicle_id, at, note) select 1, id, '2026-01-01', 'old' from vehicles where customer_id = $1";
    assert_eq!(source.execute(old, &[&two.tenant]).await.unwrap(), 1);
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    assert_eq!(plan.left_rows(), 1);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    // What stayed behind comes again, which is ours; what a neighbour wrote meanwhile is not.
    source.execute(log, &[&two.neighbour, &7_i32, &"theirs"]).await.unwrap();
    target.execute(log, &[&two.tenant, &1_i32, &"again"]).await.unwrap();
    let note = async |id: i32| -> String {
        source.query_one("select note from logs where id = $1", &[&id]).await.unwrap().get(0)
    };
    let watch = Watch::default();
    let later = async {
        while note(1).await != "again" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        target.execute(log, &[&two.tenant, &7_i32, &"ours"]).await.unwrap();
    };
    let (met, ()) = tokio::join!(berth_mover::keep(&spec, &plan, &ownership, &watch), later);
    assert!(matches!(&met, Err(MoveError::WayBackBarred { why }) if why.contains("`logs` met 0 rows")), "{met:?}");
    assert_eq!((note(1).await, note(7).await), ("again".to_owned(), "theirs".to_owned()));
}

/// The keys of what stays behind are not remembered, and it is the tenant's all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_behind_of_such_a_table_changes_and_does_not_change_its_tenant() {
    let (two, spec) = logged().await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let old = "insert into logs (id, vehicle_id, at, note) select n, id, '2026-01-01', 'old' from vehicles, generate_series(1, 4) n
               where customer_id = $1";
    assert_eq!(source.execute(old, &[&two.tenant]).await.unwrap(), 4);
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    assert_eq!(plan.left_rows(), 4);
    let app = two.client(&two.source, Role::App).await;
    for change in [
        "update logs set note = 'still old' where id = 1",
        "update logs set at = '2026-11-01' where id = 2",
        "update logs set at = '2026-11-02', id = 30 where id = 3",
        "update logs set note = 'young' where id = 2",
        "update logs set note = 'gone' where id = 4",
        "delete from logs where id = 4",
    ] {
        assert_eq!(app.execute(change, &[]).await.unwrap(), 1, "{change}");
    }
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let logs = async |client: &Client| -> Vec<(i32, String)> {
        let rows = client.query("select id, note from logs order by id", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let named = |all: &[(i32, &str)]| all.iter().map(|(id, note)| (*id, (*note).to_owned())).collect::<Vec<_>>();
    assert_eq!(logs(&target).await, named(&[(2, "young"), (30, "old")]), "two grew young");
    assert_eq!(logs(&source).await, named(&[(1, "still old"), (2, "young"), (30, "old")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_damaged_or_another_tenants_brings_nothing() {
    let (two, spec) = aged().await;
    let plan = berth_mover::plan(&spec).await.unwrap();
    let store: Archives = Arc::new(InMemory::new());
    let at = Path::from("whole");
    let made = berth_mover::archive(&spec, &plan, Contents::Everything, &store, &at, &Watch::default()).await.unwrap();
    assert_eq!(made.rows() as i64, plan.rows + plan.left_rows());
    let to = two.endpoint(&two.source);
    let source = two.client(&two.source, Role::Mover).await;
    let before = rows_of(&source, two.tenant).await;
    let restore = async |tenant: Uuid| {
        let spec = two.spec_of(tenant);
        berth_mover::restore(&to, &spec.rules, &spec.tenant, &store, &at, &Watch::default()).await
    };
    let refused = restore(two.neighbour).await.unwrap_err();
    assert_eq!(refused.code(), "archive_unfit", "{refused}");
    // A file of the neighbour's rows under the tenant's manifest.
    let theirs = MoveSpec { keep_from: None, ..two.spec_of(two.neighbour) };
    let their_plan = berth_mover::plan(&theirs).await.unwrap();
    let other = Path::from("other");
    berth_mover::archive(&theirs, &their_plan, Contents::Everything, &store, &other, &Watch::default()).await.unwrap();
    let file = at.clone().join("public.vehicles.csv.zst");
    let kept = store.get(&file).await.unwrap().bytes().await.unwrap();
    store.copy(&other.clone().join("public.vehicles.csv.zst"), &file).await.unwrap();
    source.execute("delete from vehicles where customer_id = $1", &[&two.tenant]).await.unwrap();
    let refused = restore(two.tenant).await.unwrap_err();
    assert!(refused.to_string().contains("damaged or changed"), "{refused}");
    for damage in [kept.slice(..kept.len() / 2), bytes::Bytes::new()] {
        store.put(&file, damage.into()).await.unwrap();
        restore(two.tenant).await.unwrap_err();
    }
    store.put(&file, kept.into()).await.unwrap();
    restore(two.tenant).await.unwrap();
    assert_eq!(rows_of(&source, two.tenant).await, before, "the right one brings them back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_would_tear_rows_apart_is_refused() {
    let (two, spec) = aged().await;
    let source = two.client(&two.source, Role::Mover).await;
    for (table, column, code) in [
        ("public.positions", "lat", "retention_type"),
        ("public.positions", "when", "no_column"),
        ("public.vehicles", "made_at", "retention_referred"),
    ] {
        for database in [&two.source, &two.target] {
            let owner = two.client(database, Role::Owner).await;
            owner.batch_execute("alter table vehicles add column if not exists made_at date").await.unwrap();
        }
        let mut spec = spec.clone();
        spec.rules.retention.clear();
        spec.rules.retention.insert(table.into(), column.into());
        let refused = berth_mover::plan(&spec).await.unwrap_err();
        let MoveError::Obstacles(all) = &refused else { panic!("{refused}") };
        let codes: Vec<String> =
            all.iter().map(|o| serde_json::to_value(o).unwrap()["code"].as_str().unwrap().to_owned()).collect();
        assert_eq!(codes, [code], "{refused}");
        assert!(all.iter().all(|o| !Obstacle::hint(o).is_empty()));
    }
    assert!(count(&source, OLD, two.tenant).await > 0, "nothing was touched");
}

/// In a cell that others live in as well: what a neighbour has by now does not count as the tenant's row.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_one_keeps_out_is_named_and_not_left_out_in_silence() {
    let two = Two::shared(
        "create table customers (id uuid primary key);
         create table members (id int primary key, customer_id uuid not null references customers, email text not null unique)",
    )
    .await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        source.execute("insert into customers values ($1)", &[&tenant]).await.unwrap();
    }
    let add = "insert into members values ($1, $2, $3)";
    source.execute(add, &[&1_i32, &two.tenant, &"a@b.c"]).await.unwrap();
    source.execute(add, &[&2_i32, &two.tenant, &"d@e.f"]).await.unwrap();
    let (spec, store, at): (_, Archives, _) = (two.spec(), Arc::new(InMemory::new()), Path::from("all"));
    berth_mover::export(&spec, &store, &at, &Watch::default()).await.unwrap();
    let restore = async || {
        let to = two.endpoint(&two.source);
        berth_mover::restore(&to, &spec.rules, &spec.tenant, &store, &at, &Watch::default()).await
    };
    let members = async || {
        let sql = "select id, customer_id, email from members order by id";
        let row = |row: &tokio_postgres::Row| (row.get::<_, i32>(0), row.get::<_, Uuid>(1), row.get::<_, String>(2));
        source.query(sql, &[]).await.unwrap().iter().map(row).collect::<Vec<_>>()
    };
    for (id, email, first) in [(2, "new@b.c", "2"), (9, "a@b.c", "1")] {
        source.batch_execute("delete from members").await.unwrap();
        source.execute(add, &[&id, &two.neighbour, &email]).await.unwrap();
        let refused = restore().await.unwrap_err();
        assert_eq!(refused.code(), "archive_unfit", "{refused}");
        let said = format!(
            "1 rows of `members` are not here as they came: other rows have their keys or unique values, or a trigger keeps them out or gives them another key or tenant; the first has key {first}"
        );
        assert!(refused.to_string().contains(&said), "{refused}");
        assert_eq!(members().await, [(id, two.neighbour, email.to_owned())], "nothing of it came in");
    }
    source.batch_execute("delete from members").await.unwrap();
    source.execute(add, &[&1_i32, &two.tenant, &"a@b.c"]).await.unwrap();
    let restored = restore().await.unwrap();
    assert_eq!((restored.rows, restored.there_already), (1, 2), "the customer was there as well");
    assert_eq!(members().await.len(), 2);
}
