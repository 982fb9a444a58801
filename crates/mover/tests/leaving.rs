//! A tenant's rows leave a database that others live in: a batch at a time, however they refer to each other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec};
use berth_testkit::wait_until;
use common::{MemoryOwnership, Two, Watch, cut_over, rows_of, until_built};
use tokio_postgres::Client;
use uuid::Uuid;

/// A tree, a chain that is checked at the commit, pairs, a ring, and two tables that refer to each other.
const CIRCLES: &str = "
    create table customers (id uuid primary key);
    create table trees (id bigint primary key, customer_id uuid not null references customers, parent bigint references trees);
    create table chains (id bigint primary key, customer_id uuid not null references customers,
        before bigint references chains deferrable initially deferred);
    create table pairs (id bigint primary key, customer_id uuid not null references customers,
        mate bigint not null references pairs deferrable initially deferred);
    create table rings (id bigint primary key, customer_id uuid not null references customers, next bigint not null references rings);
    create table orders (id bigint primary key, customer_id uuid not null references customers on delete cascade, current bigint);
    create table versions (id bigint primary key, customer_id uuid not null references customers on delete cascade,
        of_order bigint not null references orders on delete cascade);
    alter table orders add foreign key (current) references versions deferrable initially deferred;";
const TABLES: [&str; 6] = ["trees", "chains", "pairs", "rings", "orders", "versions"];
const ALL: i64 = 1 + 3_500 + 2_500 + 1_200 + 1_500 + 600 + 1_800;

fn circles(tenant: Uuid, from: i64) -> String {
    format!(
        "insert into customers values ('{tenant}');
         insert into trees select {from} + n, '{tenant}', case when n > 2 then {from} + n / 3 end from generate_series(1, 3500) n;
         insert into chains select {from} + n, '{tenant}', case when n > 1 then {from} + n - 1 end from generate_series(1, 2500) n;
         insert into pairs select {from} + n, '{tenant}', {from} + (n # 1) from generate_series(0, 1199) n;
         insert into rings select {from} + n, '{tenant}', {from} + (n + 1) % 1500 from generate_series(0, 1499) n;
         insert into orders select {from} + n, '{tenant}', null from generate_series(1, 600) n;
         insert into versions select {from} + n, '{tenant}', {from} + (n - 1) / 3 + 1 from generate_series(1, 1800) n;
         update orders set current = {from} + (id - {from}) * 3 where customer_id = '{tenant}';"
    )
}

async fn counted(client: &Client, tenant: Uuid) -> i64 {
    let counts = TABLES.map(|table| format!("(select count(*) from {table} where customer_id = $1)"));
    let sql = format!("select {} + (select count(*) from customers where id = $1)", counts.join(" + "));
    client.query_one(&sql, &[&tenant]).await.unwrap().get(0)
}

/// From now on the database notes what is deleted from these tables, and in which transaction, also when the application's
/// triggers are off.
async fn note_deletions(client: &Client, tables: &[&str], after: &str) {
    client
        .batch_execute(&format!(
            "create table deletions (tx xid8, \"table\" text, rows bigint);
             create function noted() returns trigger language plpgsql as $$ begin
                 insert into public.deletions select pg_current_xact_id(), tg_table_name, count(*) from gone; {after} return null; end $$;"
        ))
        .await
        .unwrap();
    for table in tables {
        client
            .batch_execute(&format!(
                "create trigger noted after delete on {table} referencing old table as gone for each statement execute function noted();
                 alter table {table} enable always trigger noted"
            ))
            .await
            .unwrap();
    }
}

/// The most rows that one transaction has deleted, and all of them; `which`: of which transactions.
async fn deleted(client: &Client, which: &str) -> (i64, i64) {
    let sql = format!(
        "select coalesce(max(n), 0)::bigint, coalesce(sum(n), 0)::bigint
         from (select sum(rows) n from deletions group by tx having {which}) x"
    );
    let row = client.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

const RINGS: &str = "bool_and(\"table\" = 'rings')";
const OTHERS: &str = "not bool_and(\"table\" = 'rings')";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refer_to_each_other_leave_a_batch_at_a_time() {
    let two = Two::shared(CIRCLES).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute(&circles(two.tenant, 0)).await.unwrap();
    source.batch_execute(&circles(two.neighbour, 1_000_000)).await.unwrap();
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    note_deletions(&source, &TABLES, "").await;
    let gone = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert_eq!(gone, ALL as u64);
    assert_eq!((counted(&source, two.tenant).await, counted(&source, two.neighbour).await), (0, ALL));
    let (most, all) = deleted(&source, OTHERS).await;
    assert!(most <= 1_000, "{most} rows in one transaction");
    assert_eq!(all, ALL - 1 - 1_500);
    // Whoever refers to each other all around goes together.
    assert_eq!(deleted(&source, RINGS).await, (1_500, 1_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_rows_refer_to_each_other_is_erased() {
    let two = Two::shared(CIRCLES).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute(&circles(two.tenant, 0)).await.unwrap();
    source.batch_execute(&circles(two.neighbour, 1_000_000)).await.unwrap();
    note_deletions(&source, &TABLES, "").await;
    let gone = berth_mover::erase_rows(&two.spec(), &Watch::default()).await.unwrap();
    assert_eq!(gone.iter().map(|of| of.rows).sum::<u64>(), ALL as u64);
    assert_eq!((counted(&source, two.tenant).await, counted(&source, two.neighbour).await), (0, ALL));
    assert!(deleted(&source, OTHERS).await.0 <= 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_move_that_is_given_up_brought_leaves_a_shared_database_a_batch_at_a_time() {
    let two = Two::filled(3_500).await;
    let spec = MoveSpec { alone: false, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, _) = until_built(&spec, &ownership).await;
    let target = two.client(&two.target, Role::Mover).await;
    note_deletions(&target, &["positions"], "").await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert!(rows_of(&target, two.tenant).await.is_empty());
    assert_eq!(deleted(&target, "true").await, (1_000, 3_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_taken_for_dead_deletes_no_further_batch() {
    let two = Two::filled(3_500).await;
    let spec = MoveSpec { alone: false, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, _) = until_built(&spec, &ownership).await;
    let target = two.client(&two.target, Role::Mover).await;
    // Slow enough for its successor to come in between.
    note_deletions(&target, &["positions"], "perform pg_sleep(0.5);").await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    let clearing = {
        let (spec, plan) = (spec.clone(), plan.clone());
        tokio::spawn(async move { berth_mover::retire(&spec, &plan, false, token).await })
    };
    wait_until("the first batch", async || deleted(&target, "true").await.1, |rows| *rows > 0).await;
    target.execute("update berth.fence set token = token + 1", &[]).await.unwrap();
    let seen = deleted(&target, "true").await.1;
    let refused = clearing.await.unwrap();
    assert!(matches!(refused, Err(MoveError::Fenced { .. })), "{refused:?}");
    assert_eq!(deleted(&target, "true").await.1, seen);
    assert!(seen < 3_500, "all of them were gone before");
}
