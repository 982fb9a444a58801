//! Into a database that others live in: their rows, keys and writes are left alone, whatever becomes of the move.

use crate::common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, rows_of, until_built};
use berth_infra::Role;
use berth_mover::MoveSpec;
use tokio_postgres::Client;
use uuid::Uuid;

async fn settler(client: &Client, rows: i64) -> Uuid {
    let tenant = Uuid::new_v4();
    client
        .batch_execute(&format!(
            "insert into customers values ('{tenant}', 'S');
             insert into vehicles (customer_id, label) values ('{tenant}', 'v');
             insert into positions (customer_id, vehicle_id, event_id, lat)
             select '{tenant}', id, gen_random_uuid(), n from vehicles, generate_series(1, {rows}::bigint) n where customer_id = '{tenant}'"
        ))
        .await
        .unwrap();
    tenant
}

const KEYS: &str = "select count(*) from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'public'::regnamespace";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_comes_into_a_database_that_others_live_in() {
    let two = Two::filled(3_000).await;
    let spec = MoveSpec { alone: false, way_back: true, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let settled = settler(&target, 500).await;
    let theirs = rows_of(&target, settled).await;
    let keys: i64 = target.query_one(KEYS, &[]).await.unwrap().get(0);
    let (plan, token) = until_built(&spec, &ownership).await;
    // They write under all of their keys while the tenant comes in.
    let app = two.client(&two.target, Role::App).await;
    let twice = "insert into vehicles (customer_id, label) values ($1, 'v')";
    let refused = app.execute(twice, &[&settled]).await.unwrap_err();
    assert_eq!(refused.code().map(|c| c.code().to_owned()).as_deref(), Some("23505"));
    app.execute("update positions set note = 'theirs' where customer_id = $1 and lat = 7", &[&settled]).await.unwrap();
    let theirs_now = rows_of(&target, settled).await;
    assert_ne!(theirs_now, theirs);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    assert_eq!(rows_of(&target, two.tenant).await, rows_of(&source, two.tenant).await);
    assert_eq!(rows_of(&target, settled).await, theirs_now);
    assert_eq!(target.query_one(KEYS, &[]).await.unwrap().get::<_, i64>(0), keys);
    // Up again, and what it left in the shared one goes: of theirs nothing.
    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    berth_mover::release(&back, &plan, &ownership, &Watch::default()).await.unwrap();
    assert!(rows_of(&target, two.tenant).await.is_empty());
    assert_eq!(rows_of(&target, settled).await, theirs_now);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_starts_again_leaves_those_who_came_meanwhile() {
    let two = Two::filled(3_000).await;
    let target = two.client(&two.target, Role::Mover).await;
    let first = MoveSpec { alone: false, ..two.spec() };
    let second = MoveSpec { alone: false, ..two.spec_of(two.neighbour) };
    let (one, other) = (MemoryOwnership::new(), MemoryOwnership::new());
    // Both find an empty database; the first one's worker dies after the second one has come in.
    let plan = berth_mover::plan(&first).await.unwrap();
    let row = berth_mover::begin(&first, &one).await.unwrap();
    berth_mover::prepare(&first, &plan, row, &one).await.unwrap();
    berth_mover::copy(&first, &plan, row.token, &Watch::default()).await.unwrap();
    let (their_plan, token) = until_built(&second, &other).await;
    cut_over(&second, &their_plan, &other).await.unwrap();
    berth_mover::retire(&second, &their_plan, true, token).await.unwrap();
    let theirs = rows_of(&target, two.neighbour).await;
    let row = berth_mover::begin(&first, &one).await.unwrap();
    berth_mover::copy(&first, &plan, row.token, &Watch::default()).await.unwrap();
    assert_eq!(rows_of(&target, two.neighbour).await, theirs);
    berth_mover::build(&first, &plan, row.token, &Watch::default()).await.unwrap();
    cut_over(&first, &plan, &one).await.unwrap();
    assert_eq!(rows_of(&target, two.neighbour).await, theirs);
    let source = two.client(&two.source, Role::Mover).await;
    assert_eq!(rows_of(&target, two.tenant).await, rows_of(&source, two.tenant).await);
    // A schema of its own, and with all of its keys.
    let expected = two.pg.database(&format!("keys_{}", Uuid::new_v4().simple())).await;
    let plain = two.client(&expected, Role::Owner).await;
    plain.batch_execute(SCHEMA).await.unwrap();
    let keys: i64 = plain.query_one(KEYS, &[]).await.unwrap().get(0);
    assert_eq!(target.query_one(KEYS, &[]).await.unwrap().get::<_, i64>(0), keys);
}

const NUMBERED: &str = "
    create table customers (id uuid primary key, name text not null);
    create table invoices (id bigint generated by default as identity primary key, customer_id uuid not null references customers,
        number text not null, email text, voided boolean not null default false);
    create unique index on invoices (number) where not voided;
    create unique index on invoices (lower(email));
    create unique index on invoices (customer_id, number);";

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_others_have_already_are_found_before_anything_is_touched() {
    let two = Two::with(NUMBERED).await;
    let spec = MoveSpec { alone: false, ..two.spec() };
    let other = Uuid::new_v4();
    for (database, tenant, ids, mark) in [(&two.source, two.tenant, 1, "a"), (&two.target, other, 8, "b")] {
        let client = two.client(database, Role::Mover).await;
        client
            .batch_execute(&format!(
                "insert into customers values ('{tenant}', 'C');
                 insert into invoices (id, customer_id, number, email) select n, '{tenant}', '{mark}' || n, '{mark}@' || n from generate_series({ids}, {ids} + 9) n"
            ))
            .await
            .unwrap();
    }
    let taken = async || match berth_mover::plan(&spec).await {
        Ok(_) => Vec::new(),
        Err(berth_mover::MoveError::Obstacles(all)) => all
            .into_iter()
            .map(|obstacle| match obstacle {
                berth_mover::Obstacle::KeyTaken { columns, rows, .. } => (columns, rows),
                other => panic!("{other}"),
            })
            .collect(),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(taken().await, [("id".to_owned(), 3)], "8, 9 and 10");
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute("update invoices set id = id + 100").await.unwrap();
    assert!(taken().await.is_empty());
    source.batch_execute("update invoices set email = 'B@9' where number = 'a1'").await.unwrap();
    assert_eq!(taken().await, [("lower(email)".to_owned(), 1)]);
    source
        .batch_execute("update invoices set email = null; update invoices set number = 'b8' where number = 'a2'")
        .await
        .unwrap();
    assert_eq!(taken().await, [("number".to_owned(), 1)]);
    source.batch_execute("update invoices set voided = true where number = 'b8'").await.unwrap();
    assert!(taken().await.is_empty(), "a row that is not in the index is not in the way");
}

const NUMBERED_BY_EACH: &str = "
    create table customers (id uuid primary key, name text not null);
    create table items (customer_id uuid not null references customers, nr int, what text, primary key (customer_id, nr));
    create table marks (id int primary key, customer_id uuid not null references customers, what text);
    create table stamps (mark_id int references marks, nr int, what text, primary key (mark_id, nr));";

fn numbered(t: Uuid, first_mark: i32) -> String {
    format!(
        "insert into customers values ('{t}', 'C');
         insert into items select '{t}', n, 'i' || n from generate_series(1, 12) n;
         insert into marks select {first_mark} + n, '{t}', 'm' || n from generate_series(1, 12) n;
         insert into stamps select {first_mark} + n, 1, 's' || n from generate_series(1, 12) n"
    )
}

/// Rows of each table, by keys that others have too: gone, changed, and under another key.
fn renumbered(t: Uuid, first_mark: i32, nth: i32) -> String {
    let (a, b, c) = (nth, nth + 1, nth + 2);
    let mark = |n: i32| first_mark + n;
    format!(
        "delete from items where customer_id = '{t}' and nr = {a};
         update items set what = 'changed' where customer_id = '{t}' and nr = {b};
         update items set nr = nr + 100 where customer_id = '{t}' and nr = {c};
         delete from stamps where mark_id = {ma}; delete from marks where id = {ma};
         update marks set what = 'changed' where id = {mb}; update stamps set what = 'changed' where mark_id = {mb};
         update stamps set nr = 7 where mark_id = {mc}; insert into items values ('{t}', 200 + {nth}, 'new')",
        ma = mark(a),
        mb = mark(b),
        mc = mark(c),
    )
}

async fn numbered_rows(client: &Client, tenant: Uuid) -> Vec<String> {
    let sql = "select 'c' || c::text from customers c where id = $1
         union all select 'i' || i::text from items i where customer_id = $1
         union all select 'm' || m::text from marks m where customer_id = $1
         union all select 's' || s::text from stamps s where mark_id in (select id from marks where customer_id = $1)
         order by 1";
    client.query(sql, &[&tenant]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A deletion comes with its key alone. The neighbour whose rows go in the source, as what an earlier move of its own left
/// there does, has the same keys in the target, where it lives; and so the other way round on the way back.
#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_neighbours_row_becomes_of_no_row_with_the_same_key_on_the_other_side() {
    let two = Two::with(NUMBERED_BY_EACH).await;
    let (t, both, there) = (two.tenant, two.neighbour, Uuid::new_v4());
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    for (client, rows) in [(&source, [(t, 0), (both, 100)]), (&target, [(there, 200), (both, 100)])] {
        for (tenant, first_mark) in rows {
            client.batch_execute(&numbered(tenant, first_mark)).await.unwrap();
        }
    }
    target.execute("update marks set what = 'lived in' where customer_id = $1", &[&both]).await.unwrap();
    let spec = MoveSpec { alone: false, way_back: true, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    let theirs = [numbered_rows(&target, both).await, numbered_rows(&target, there).await];
    for (tenant, first_mark) in [(t, 0), (both, 100)] {
        source.batch_execute(&renumbered(tenant, first_mark, 2)).await.unwrap();
    }
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    assert_eq!(numbered_rows(&target, t).await, numbered_rows(&source, t).await);
    assert_eq!([numbered_rows(&target, both).await, numbered_rows(&target, there).await], theirs);

    let left = numbered_rows(&source, both).await;
    for (tenant, first_mark) in [(t, 0), (both, 100), (there, 200)] {
        target.batch_execute(&renumbered(tenant, first_mark, 6)).await.unwrap();
    }
    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    assert_eq!(numbered_rows(&source, t).await, numbered_rows(&target, t).await);
    assert_eq!(numbered_rows(&source, both).await, left);
    // And what the tenant leaves in the target is its own.
    let theirs = [numbered_rows(&target, both).await, numbered_rows(&target, there).await];
    berth_mover::release(&back, &plan, &ownership, &Watch::default()).await.unwrap();
    assert!(numbered_rows(&target, t).await.is_empty());
    assert_eq!([numbered_rows(&target, both).await, numbered_rows(&target, there).await], theirs);
}
