//! Old rows leave the cell that their tenant lives in: those, and no row of anybody else, however the table is kept.

use crate::common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec};
use tokio_postgres::Client;

/// Each partition has rows of both tenants, and each tenant old and young ones: a row's place in one partition is
/// somebody else's in the other.
const BY_MONTH: &str = "
    create table readings (customer_id uuid not null, at timestamptz not null, nth bigint not null,
        primary key (customer_id, at, nth)) partition by range (at);
    create table readings_old partition of readings for values from (minvalue) to ('2026-10-15');
    create table readings_young partition of readings for values from ('2026-10-15') to (maxvalue);
    grant select, insert, update, delete on all tables in schema public to public;";
/// More than two batches of each kind.
const EACH: i64 = 2_500;

async fn partitioned() -> (Two, MoveSpec) {
    let two = Two::with(&format!("{SCHEMA}{BY_MONTH}")).await;
    let client = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        let insert =
            |at: &str| format!("insert into readings select '{tenant}', {at}, n from generate_series(1, {EACH}) n;");
        client
            .batch_execute(&format!(
                "insert into customers values ('{tenant}', 'T'); {}{}{}",
                insert("'2026-09-30 23:59:59+00'"),
                insert("'2026-10-01 00:00:00+00'"),
                insert("'2026-11-01 00:00:00+00'")
            ))
            .await
            .unwrap();
    }
    let mut spec = MoveSpec { keep_from: Some(jiff::civil::date(2026, 10, 1)), ..two.spec() };
    spec.rules.retention.insert("public.readings".into(), "at".into());
    (two, spec)
}

/// The neighbour's rows, the tenant's young ones, the tenant's old ones.
async fn counted(client: &Client, two: &Two) -> (i64, i64, i64) {
    let row = client
        .query_one(
            "select count(*) filter (where customer_id = $1),
                    count(*) filter (where customer_id = $2 and at >= '2026-10-01 00:00:00+00'),
                    count(*) filter (where customer_id = $2 and at < '2026-10-01 00:00:00+00') from readings",
            &[&two.neighbour, &two.tenant],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_a_partitioned_table_takes_the_tenants_old_rows_alone() {
    let (two, spec) = partitioned().await;
    let client = two.client(&two.source, Role::Mover).await;
    assert_eq!(counted(&client, &two).await, (3 * EACH, 2 * EACH, EACH));
    let old = berth_mover::old_rows(&spec, None, &Watch::default()).await.unwrap();
    assert_eq!(old.rows(), EACH);
    assert_eq!(berth_mover::purge(&spec, &old, &Watch::default()).await.unwrap(), EACH as u64);
    assert_eq!(counted(&client, &two).await, (3 * EACH, 2 * EACH, 0));
    assert_eq!(berth_mover::purge(&spec, &old, &Watch::default()).await.unwrap(), 0, "a second time finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_after_the_look_stays_until_the_next_purge() {
    let (two, spec) = partitioned().await;
    let client = two.client(&two.source, Role::Mover).await;
    let old = berth_mover::old_rows(&spec, None, &Watch::default()).await.unwrap();
    client.execute("insert into readings values ($1, '2026-09-01 00:00:00+00', 0)", &[&two.tenant]).await.unwrap();
    assert_eq!(berth_mover::purge(&spec, &old, &Watch::default()).await.unwrap(), EACH as u64);
    assert_eq!(counted(&client, &two).await, (3 * EACH, 2 * EACH, 1), "no archive has it");
    let old = berth_mover::old_rows(&spec, None, &Watch::default()).await.unwrap();
    assert_eq!(berth_mover::purge(&spec, &old, &Watch::default()).await.unwrap(), 1);
}

/// The mover's role passes every fence, so a purge asks for itself whether the tenant still lives here.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_nothing_from_the_cell_that_its_tenant_has_left() {
    let (two, purged) = partitioned().await;
    let client = two.client(&two.source, Role::Mover).await;
    let old = berth_mover::old_rows(&purged, None, &Watch::default()).await.unwrap();
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let refused = berth_mover::purge(&purged, &old, &Watch::default()).await.unwrap_err();
    assert!(matches!(refused, MoveError::LivesElsewhere), "{refused}");
    assert_eq!(counted(&client, &two).await, (3 * EACH, 2 * EACH, EACH));
}
