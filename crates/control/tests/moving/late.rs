//! Those who come too late: a person who gives up a move that has happened, and a worker that was taken for dead.

use crate::try_move::{Try, rows};
use crate::world::change;
use berth_control::{moves, operations};
use berth_domain::OperationState;
use berth_infra::Role;
use berth_mover::Tuning;
use berth_testkit::wait_until;
use berth_workflow::{
    Failing, Faults, Options, Outcome, Worker,
    testing::{self, TestWorld},
};

/// The failure that cannot be undone: the world has changed, and the journal is told that it failed for good.
#[tokio::test]
async fn a_failure_after_the_owner_changed_takes_nothing_from_the_tenant() {
    let cut_over = testing::points(&async || Try::new().await).await;
    let cut_over = cut_over.iter().find(|passed| passed.step == "cut_over").unwrap().seq;
    let world = Try::new().await;
    let id = world.start().await;
    let state = testing::carry_out(&world, id, &Faults::fail(cut_over, Failing::AfterRun)).await;
    assert_eq!(state, OperationState::Stuck, "a person is told");
    world.assert_done().await;
    let (operation, _) = world.journal().show(id).await.unwrap().unwrap();
    let error = operation.error.unwrap();
    assert_eq!(error.kind, "moved_already");
    assert!(error.hint.unwrap().contains("--force"));
    let app = &world.moving.world.app;
    operations::abandon(app, &change(), id, None, true).await.unwrap();
    world.assert_done().await;
}

#[tokio::test]
async fn giving_up_before_the_owner_changed_leaves_the_tenant_where_it_was() {
    let points = testing::points(&async || Try::new().await).await;
    // After each step before the cut-over: a worker dies, a person gives up, another worker comes.
    for (nth, passed) in points.iter().enumerate().take_while(|(_, passed)| passed.step != "cut_over") {
        if passed.point != berth_workflow::Point::AfterRecord {
            continue;
        }
        let world = Try::new().await;
        let id = world.start().await;
        let options = Options { faults: Faults::crash(nth), ..Options::named("dies") };
        let worker = Worker::new(world.journal(), world.registry(), world.cx(), options);
        let turn = worker.turn().await.unwrap();
        assert!(matches!(turn, Some((_, Outcome::Crashed))), "{turn:?}");
        testing::make_due(&*world.journal(), id).await;
        operations::abandon(&world.moving.world.app, &change(), id, None, false).await.unwrap();
        let state = testing::carry_out(&world, id, &Faults::none()).await;
        assert_eq!(state, OperationState::Abandoned, "after {passed}");
        world.assert_as_before().await;
    }
}

#[tokio::test]
async fn giving_up_after_the_owner_changed_is_refused() {
    let points = testing::points(&async || Try::new().await).await;
    let nth = points.iter().position(|p| p.step == "cut_over" && p.point == berth_workflow::Point::AfterRecord);
    let world = Try::new().await;
    let id = world.start().await;
    let options = Options { faults: Faults::crash(nth.unwrap()), ..Options::named("dies") };
    Worker::new(world.journal(), world.registry(), world.cx(), options).turn().await.unwrap();
    testing::make_due(&*world.journal(), id).await;
    let refused = operations::abandon(&world.moving.world.app, &change(), id, None, false).await.unwrap_err();
    assert_eq!(refused.code(), "past_point_of_no_return");
    assert_eq!(testing::carry_out(&world, id, &Faults::none()).await, OperationState::Succeeded);
    world.assert_done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_on_one_move_the_stale_one_is_refused() {
    let world = Try::new().await;
    let target = world.moving.target.connect(Role::Mover).await;
    // What keeps the first worker in its copy for as long as the test wants. Both sides have the same rule, and only one
    // of them waits for it.
    let same = "CREATE FUNCTION gate() RETURNS boolean LANGUAGE sql AS 'SELECT true';
                ALTER TABLE vehicles ADD CHECK (gate()) NOT VALID";
    world.moving.world.tenants.connect(Role::Mover).await.batch_execute(same).await.unwrap();
    target
        .batch_execute(
            "CREATE FUNCTION gate() RETURNS boolean LANGUAGE sql AS 'SELECT true FROM pg_catalog.pg_advisory_xact_lock_shared(7)';
             ALTER TABLE vehicles ADD CHECK (gate()) NOT VALID;
             SELECT pg_advisory_lock(7)",
        )
        .await
        .unwrap();
    let id = world.start().await;
    let worker =
        |name: &str| Worker::new(world.journal(), world.registry(), world.cx(), Options::named(name.to_owned()));
    let first = worker("first");
    let first = tokio::spawn(async move { first.turn().await.unwrap() });
    let look = world.moving.target.connect(Role::Mover).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                 AND query ILIKE 'copy %vehicles%'";
    let waiting = async || look.query_one(waits, &[]).await.unwrap().get::<_, i64>(0);
    wait_until("the first worker copies", waiting, |n| *n == 1).await;
    let token = async || {
        let token = "SELECT token FROM berth.fence WHERE tenant = $1";
        look.query_one(token, &[&world.tenant.key.as_str()]).await.unwrap().get::<_, i64>(0)
    };
    let seen = token().await;
    // Its lease ends, as it would after a pause of its machine, and another takes the move.
    testing::make_due(&*world.journal(), id).await;
    let second = worker("second");
    let second = tokio::spawn(async move { second.turn().await.unwrap() });
    wait_until("the second worker is known in the target", token, |now| *now > seen).await;
    target.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    let first = first.await.unwrap();
    assert!(matches!(first, Some((_, Outcome::Lost))), "{first:?}");
    let second = second.await.unwrap();
    assert!(matches!(second, Some((_, Outcome::Succeeded))), "{second:?}");
    world.assert_done().await;
}

/// Between two tries, or while an operation waits for a person, no worker looks at what its slot holds back.
#[tokio::test]
async fn a_move_that_nobody_works_on_loses_its_slot_and_its_tenant_stays() {
    let points = testing::points(&async || Try::new().await).await;
    let nth = points.iter().position(|p| p.step == "copy" && p.point == berth_workflow::Point::AfterRecord);
    let world = Try::alone().await;
    let id = world.start().await;
    let options = Options { faults: Faults::crash(nth.unwrap()), ..Options::named("dies") };
    Worker::new(world.journal(), world.registry(), world.cx(), options).turn().await.unwrap();
    let app = &world.moving.world.app;
    let source = world.moving.world.tenants.connect(Role::Mover).await;
    let slots = async || {
        let count = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        source.query_one(count, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!((moves::bound_logs(app, &Tuning::default()).await.unwrap(), slots().await), (0, 1));
    let nothing = Tuning { move_wal_bytes: 0, ..Tuning::default() };
    // As long as the server has not noticed that the worker is gone, it is one that looks itself.
    let bound = async || moves::bound_logs(app, &nothing).await.unwrap();
    wait_until("the slot is taken away", bound, |ended| *ended == 1).await;
    assert_eq!(slots().await, 0);
    testing::make_due(&*world.journal(), id).await;
    assert_eq!(testing::carry_out(&world, id, &Faults::none()).await, OperationState::Failed);
    world.assert_as_before().await;
}

#[tokio::test]
async fn a_tenant_that_was_given_up_once_moves_the_second_time() {
    let world = Try::new().await;
    let id = world.start().await;
    operations::abandon(&world.moving.world.app, &change(), id, None, false).await.unwrap();
    testing::carry_out(&world, id, &Faults::none()).await;
    world.assert_as_before().await;
    let to = "shared-2".parse().unwrap();
    let again = moves::start(&world.moving.world.app, &change(), world.tenant.name.as_str(), Some(&to)).await.unwrap();
    assert_eq!(testing::carry_out(&world, again.id, &Faults::none()).await, OperationState::Succeeded);
    let client = world.moving.target.connect(Role::Mover).await;
    assert_eq!(rows(&client, &world.tenant).await.len(), 4);
}
