//! A tenant's rows leave a database that others live in: a batch at a time, however they refer to each other.

use crate::common::{self, MemoryOwnership, Two, Watch, cut_over, rows_of, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle, TableName};
use berth_testkit::wait_until;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
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

/// `metrics` is left out; what happens when an order goes is the schema's.
async fn moved_beside(more: &str) -> (Two, MoveSpec, berth_mover::MovePlan, MemoryOwnership) {
    let schema = "create table customers (id uuid primary key);
        create table audit (id uuid primary key default gen_random_uuid(), customer_id uuid, said text);
        create table orders (id int primary key, customer_id uuid not null references customers);
        create table metrics (customer_id uuid references customers on delete cascade, value int);";
    let two = Two::shared(&format!("{schema}{more}")).await;
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(&format!(
            "insert into customers values ('{0}'); insert into orders select n, '{0}' from generate_series(1, 20) n;
             insert into audit (customer_id, said) values ('{0}', 'made')",
            two.tenant
        ))
        .await
        .unwrap();
    let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
    spec.rules.leave_out = vec![TableName::parse("metrics")];
    let measured = format!("insert into metrics values ('{}', 1)", two.tenant);
    source.batch_execute(&measured).await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    let [refers @ Obstacle::LeftOutRefers { table, rows: 1, .. }] = &all[..] else { panic!("{all:?}") };
    assert!(
        table.name == "metrics" && refers.hint().contains("drop its foreign key to `customers`"),
        "{}",
        refers.hint()
    );
    source.batch_execute("delete from metrics").await.unwrap();
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    (two, spec, plan, ownership)
}

async fn rows_in(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_not_taken_along_by_a_cascade() {
    let (two, spec, plan, ownership) = moved_beside("").await;
    let source = two.client(&two.source, Role::Mover).await;
    source.execute("insert into metrics values ($1, 1)", &[&two.tenant]).await.unwrap();
    let released = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await;
    assert!(matches!(released, Err(MoveError::ReferredTo { rows: 1, .. })), "{released:?}");
    assert_eq!((rows_in(&source, "metrics").await, rows_in(&source, "orders").await), (1, 20), "nothing has gone");
    // One that comes while others go is in time too.
    source
        .batch_execute(
            "delete from metrics;
             create function measured() returns trigger language plpgsql as
                 'begin insert into metrics values (old.customer_id, 2); return null; end';
             create trigger measured after delete on orders for each row execute function measured();",
        )
        .await
        .unwrap();
    let released = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await;
    assert!(matches!(released, Err(MoveError::ReferredTo { rows: 20, .. })), "{released:?}");
    assert_eq!((rows_in(&source, "metrics").await, rows_in(&source, "customers").await), (20, 1));
    source.batch_execute("alter table metrics drop constraint metrics_customer_id_fkey").await.unwrap();
    berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert_eq!((rows_in(&source, "metrics").await, rows_in(&source, "customers").await), (20, 0));
    common::nothing_of_berth(&two, &two.source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_makes_while_others_go_go_too() {
    let told = "create function told() returns trigger language plpgsql as
            $$ begin insert into audit (customer_id, said) values (old.customer_id, 'gone'); return null; end $$;
        create trigger told after delete on orders for each row execute function told();";
    let (two, spec, plan, ownership) = moved_beside(told).await;
    let source = two.client(&two.source, Role::Mover).await;
    let gone = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert_eq!((gone, rows_in(&source, "audit").await), (1 + 20 + 1 + 20, 0));
    common::nothing_of_berth(&two, &two.source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_keeps_stay_fenced_and_are_named() {
    let (two, spec, plan, ownership) = moved_beside("").await;
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(
            "create function kept() returns trigger language plpgsql as 'begin return null; end';
             create trigger kept before delete on audit for each row execute function kept();",
        )
        .await
        .unwrap();
    let stay = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap_err();
    assert!(matches!(&stay, MoveError::RowsStay { table, rows: 1 } if table.name == "audit"), "{stay:?}");
    assert!(stay.hint().contains("BEFORE DELETE"), "{}", stay.hint());
    let app = two.client(&two.source, Role::App).await;
    let refused = app.batch_execute("update audit set said = 'changed'").await.unwrap_err();
    assert_eq!(refused.code().map(SqlState::code), Some("BF001"));
    source.batch_execute("drop trigger kept on audit").await.unwrap();
    berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert_eq!(rows_in(&source, "audit").await, 0);
    common::nothing_of_berth(&two, &two.source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_makes_of_each_that_goes_are_not_removed_for_ever() {
    let (two, spec, plan, ownership) = moved_beside("").await;
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(&format!(
            "insert into audit (customer_id, said) select '{}', 'made' from generate_series(1, 500);
             create function made() returns trigger language plpgsql as
                 $$ begin insert into audit (customer_id, said) values (old.customer_id, 'gone'); return null; end $$;
             create trigger made after delete on audit for each row execute function made();",
            two.tenant
        ))
        .await
        .unwrap();
    let stay = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap_err();
    assert!(matches!(&stay, MoveError::RowsStay { table, rows: 501 } if table.name == "audit"), "{stay:?}");
    source.batch_execute("drop trigger made on audit").await.unwrap();
    berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap();
    assert_eq!(rows_in(&source, "audit").await, 0);
    common::nothing_of_berth(&two, &two.source).await;
}
