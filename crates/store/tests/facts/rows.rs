//! Names that are taken, writes that rest on what is no longer so, and what is kept for a while only.

use crate::common::{World, host, new_tenant, open};
use berth_domain::{KeyId, OperationId, PlanName, TenantEvent, TenantState};
use berth_infra::Role;
use berth_store::{Idempotency, MoveFigures, MoveOutcome, NewKey, Scope, StoreError, Taken, WorldAhead};
use berth_workflow::{Journal as _, Workflow};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn names_keys_and_hosts_have_one_owner_until_it_is_gone() {
    let world = World::new().await;
    let acme = world.tenant("acme").await;
    let mut tx = world.store.begin().await.unwrap();
    let taken = tx.tenant_insert(&new_tenant("acme")).await;
    assert!(matches!(taken, Err(StoreError::Taken(Taken::TenantName))), "{taken:?}");
    drop(tx);
    let mut tx = world.store.begin().await.unwrap();
    let mut other = new_tenant("other");
    other.key = new_tenant("acme").key;
    let taken = tx.tenant_insert(&other).await;
    assert!(matches!(taken, Err(StoreError::Taken(Taken::TenantKey))), "{taken:?}");
    drop(tx);
    let other = world.tenant("other").await;
    let mut tx = world.store.begin().await.unwrap();
    let taken = tx.hosts_replace(other, &[host("acme.test")]).await;
    assert!(matches!(taken, Err(StoreError::Taken(Taken::Host))), "{taken:?}");
    drop(tx);
    let near = world.store.begin().await.unwrap().hosts_near(&[host("acme.test").into()], other).await.unwrap();
    assert_eq!(near, [(host("acme.test").into(), acme)]);

    for event in [TenantEvent::DeleteStarted, TenantEvent::DeleteFinished] {
        let mut tx = world.store.begin().await.unwrap();
        tx.tenant_apply(acme, event).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }
    world.tenant("acme").await; // the name, the key and the host are free again
}

#[tokio::test]
async fn a_write_that_rests_on_an_old_reading_is_stale() {
    let world = World::new().await;
    let id = world.tenant("acme").await;
    let read = world.store.tenant_get(id).await.unwrap().unwrap().version;
    let plan = PlanName::new("hobby").unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.tenant_set_plan(id, read, &plan).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    assert!(matches!(tx.tenant_set_plan(id, read, &plan).await, Err(StoreError::Stale("tenant"))));
}

#[tokio::test]
async fn a_state_changes_only_along_its_table() {
    let world = World::new().await;
    let id = world.tenant("acme").await;
    let mut tx = world.store.begin().await.unwrap();
    assert!(tx.tenant_apply(id, TenantEvent::Resume).await.unwrap().is_err());
    assert_eq!(tx.tenant_apply(id, TenantEvent::MoveStarted).await.unwrap(), Ok(TenantState::Moving));
    assert!(tx.tenant_apply(id, TenantEvent::DeleteStarted).await.unwrap().is_err(), "a moving tenant is not deleted");
}

#[tokio::test]
async fn a_dump_holds_no_password() {
    let world = World::new().await;
    world.store.cell_set_access(world.cell, &SecretString::from("postgres://u:hunter2@h/d")).await.unwrap();
    let opened = world.store.cell_access(world.cell).await.unwrap().unwrap();
    assert_eq!(opened.expose_secret(), "postgres://u:hunter2@h/d");
    let client = world.database.connect(Role::Owner).await;
    let row = client.query_one("SELECT access_sealed FROM cells", &[]).await.unwrap();
    let stored: Vec<u8> = row.get(0);
    assert!(!stored.windows(7).any(|w| w == b"hunter2"));
    // Another key file does not open it.
    let other = open(&world.database).await;
    assert!(matches!(other.cell_access(world.cell).await, Err(StoreError::Seal(_))));
}

#[tokio::test]
async fn a_revoked_key_is_unknown() {
    let world = World::new().await;
    let new = NewKey {
        id: KeyId::new(Uuid::now_v7()),
        name: "ci".into(),
        prefix: "bk_abc".into(),
        digest: [7; 32],
        scope: Scope::Tenant(world.tenant("acme").await),
        created_by: "test".into(),
    };
    let mut tx = world.store.begin().await.unwrap();
    tx.key_insert(&new).await.unwrap();
    tx.commit().await.unwrap();
    let known = world.store.key_by_digest(&[7; 32]).await.unwrap().unwrap();
    assert_eq!((known.scope, known.revoked_at), (new.scope, None));
    assert!(world.store.key_by_digest(&[8; 32]).await.unwrap().is_none());
    let mut tx = world.store.begin().await.unwrap();
    assert!(tx.key_revoke(new.id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(world.store.key_by_digest(&[7; 32]).await.unwrap().is_none());
    assert!(world.store.key_list().await.unwrap()[0].revoked_at.is_some());
}

#[tokio::test]
async fn a_request_under_one_key_is_carried_out_once() {
    let world = World::new().await;
    let begin = async |caller, hash: &[u8]| world.store.idempotency_begin(caller, "k", hash).await.unwrap();
    assert_eq!(begin("a", b"one").await, Idempotency::Fresh);
    assert_eq!(begin("a", b"one").await, Idempotency::UnderWay);
    assert_eq!(begin("b", b"one").await, Idempotency::Fresh, "another caller's key is another key");
    world.store.idempotency_finish("a", "k", Some((202, &json!({ "id": 1 })))).await.unwrap();
    assert_eq!(begin("a", b"one").await, Idempotency::Answered { status: 202, body: json!({ "id": 1 }) });
    assert_eq!(begin("a", b"two").await, Idempotency::OtherRequest);
    world.store.idempotency_finish("b", "k", None).await.unwrap();
    assert_eq!(begin("b", b"one").await, Idempotency::Fresh, "a request that we failed may be tried again");
    let client = world.database.connect(Role::Owner).await;
    client.batch_execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'").await.unwrap();
    assert_eq!(begin("a", b"two").await, Idempotency::Fresh, "a day later the key is free");
}

#[tokio::test]
async fn a_lease_has_one_holder_and_passes_on_when_it_ends() {
    let world = World::new().await;
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let long = Duration::from_mins(1);
    let first = world.store.lease_take("members", one, long).await.unwrap().expect("nobody has it");
    assert_eq!(world.store.lease_take("members", one, long).await.unwrap(), Some(first), "renewed");
    assert_eq!(world.store.lease_take("members", two, long).await.unwrap(), None);
    world.store.lease_release("members", one).await.unwrap();
    let second = world.store.lease_take("members", two, long).await.unwrap().expect("it was let go");
    assert!(second.token > first.token);
}

#[tokio::test]
async fn what_a_dead_server_held_is_free_at_once_and_nobody_elses() {
    let world = World::new().await;
    let workflow = Workflow::<()>::named("w_v1");
    for _ in 0..2 {
        let mut tx = world.store.begin().await.unwrap();
        let id = OperationId::new(Uuid::now_v7());
        world.store.insert(&mut tx, &workflow.with(id, &())).await.unwrap();
        tx.commit().await.unwrap();
    }
    let (names, long) = (["w_v1".to_owned()], Duration::from_mins(1));
    let claim = async |who: &str| world.store.claim(who, &names, long).await.unwrap();
    let dead = claim("server-a-1").await.expect("there are two").operation.id;
    claim("server-ab-1").await.expect("there are two");
    assert!(claim("server-a-2").await.is_none(), "both are held");
    assert_eq!(world.store.operations_let_go("server-a-").await.unwrap(), 1);
    assert_eq!(claim("server-a-2").await.map(|claim| claim.operation.id), Some(dead));
    assert!(claim("server-a-2").await.is_none(), "another server's");
}

#[tokio::test]
async fn a_figure_that_was_measured_is_not_lost_to_one_that_was_not() {
    let world = World::new().await;
    let tenant = world.tenant("acme").await;
    let target = crate::common::new_cell(&world.store, "shared-2").await;
    let id = berth_domain::MoveId::new(Uuid::now_v7());
    let mut tx = world.store.begin().await.unwrap();
    tx.move_insert(id, tenant, "across", world.cell, target).await.unwrap();
    tx.commit().await.unwrap();
    let copied = MoveFigures { rows: Some(10), bytes: Some(100), ..MoveFigures::default() };
    world.store.move_measured(id, &copied).await.unwrap();
    let paused = MoveFigures { pause_ms: Some(4.5), attempts: 2, ..MoveFigures::default() };
    world.store.move_measured(id, &paused).await.unwrap();
    let mut tx = world.store.begin().await.unwrap();
    tx.move_end(id, MoveOutcome::Moved, None).await.unwrap();
    tx.move_end(id, MoveOutcome::GivenUp, Some("too late")).await.unwrap();
    tx.commit().await.unwrap();
    let stored = world.store.move_get(id).await.unwrap().unwrap();
    let figures = &stored.figures;
    assert_eq!((figures.rows, figures.bytes, figures.pause_ms, figures.attempts), (Some(10), Some(100), Some(4.5), 2));
    assert_eq!((stored.outcome, stored.reason), (Some(MoveOutcome::Moved), None));
}

#[tokio::test]
async fn what_is_ahead_stays_written_until_it_is_cleared() {
    let world = World::new().await;
    assert!(!world.store.world_ahead_any().await.unwrap());
    let seen = |revision| WorldAhead {
        source: "edge e1".into(),
        revision: berth_domain::Revision::new(revision),
        fence: None,
    };
    world.store.world_ahead_add(&seen(50)).await.unwrap();
    world.store.world_ahead_add(&seen(40)).await.unwrap();
    let found = world.store.world_ahead().await.unwrap();
    assert_eq!(found.iter().map(|(seen, _)| seen.revision.get()).collect::<Vec<_>>(), [50], "the highest counts");
    let mut tx = world.store.begin().await.unwrap();
    tx.recover_revision(berth_domain::Revision::new(50), 10).await.unwrap();
    tx.world_ahead_clear().await.unwrap();
    tx.commit().await.unwrap();
    assert!(world.store.route_head().await.unwrap().get() > 50);
    assert!(!world.store.world_ahead_any().await.unwrap());
}
