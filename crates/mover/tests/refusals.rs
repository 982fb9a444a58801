//! Servers that a tenant cannot leave or enter as they are: said with the remedy, before anything is touched.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle, Side};
use common::Two;

async fn obstacles(spec: &MoveSpec) -> Vec<Obstacle> {
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(spec).await else { panic!("a plan was made") };
    assert!(all.iter().all(|obstacle| !obstacle.hint().is_empty()), "{all:?}");
    all
}

#[tokio::test]
async fn a_server_without_logical_wal_or_a_free_slot_is_refused_with_the_remedy() {
    let two = Two::filled(10).await;
    let spec = MoveSpec { target_free_bytes: Some(1 << 20), ..two.spec() };
    let all = obstacles(&spec).await;
    assert!(matches!(all[..], [Obstacle::Disk { free_mb: 1, needed_mb: 64.. }]), "{all:?}");

    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("alter system set max_replication_slots = 1").await.unwrap();
    admin.batch_execute("alter system set wal_level = 'replica'").await.unwrap();
    drop(admin);
    two.pg.restart().await;
    let admin = two.client(&two.source, Role::Mover).await;
    let slot = "select from pg_create_physical_replication_slot('taken')";
    admin.execute(slot, &[]).await.unwrap();
    let all = obstacles(&two.spec()).await;
    assert_eq!(
        all,
        [
            Obstacle::WalLevel { side: Side::Source, found: "replica".into() },
            Obstacle::NoFree { side: Side::Source, what: "replication slots".into(), used: 1, most: 1 }
        ]
    );
    let touched = "select to_regclass('berth.fence') is not null or exists (select from pg_publication)";
    assert!(!admin.query_one(touched, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_stopped_server_is_named_by_its_side() {
    let two = Two::shared(common::SCHEMA).await;
    let nobody = berth_testkit::free_port();
    for side in [Side::Source, Side::Target] {
        let mut spec = two.spec();
        let end = if side == Side::Source { &mut spec.source } else { &mut spec.target };
        end.port = nobody;
        let error = berth_mover::plan(&spec).await.unwrap_err();
        assert!(matches!(error, MoveError::Connect { side: found, .. } if found == side), "{error:?}");
        assert!(error.hint().contains("berth cell show"), "{}", error.hint());
    }
}

#[tokio::test]
async fn a_key_that_no_tenant_can_have_is_no_tenant() {
    let two = Two::shared(common::SCHEMA).await;
    let spec = MoveSpec { tenant: berth_domain::TenantKey::new("not-a-uuid").unwrap(), ..two.spec() };
    let all = obstacles(&spec).await;
    assert!(all.iter().all(|o| matches!(o, Obstacle::NoTenant { key, .. } if key == "not-a-uuid")), "{all:?}");
}
