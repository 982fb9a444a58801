//! The two tests that every workflow has: it survives a crash anywhere, and undoing it leaves the world as it was.
//!
//! [`crash_tests!`](crate::crash_tests) makes them from a [`TestWorld`]. Never used outside of tests.

use crate::{Context, Failing, Faults, Journal, Locked, Options, Outcome, Passed, Point, Registry, Worker};
use async_trait::async_trait;
use berth_domain::{OperationId, OperationState};
use std::{sync::Arc, time::Duration};

/// A world in which one operation of the workflow under test can be carried out. Each try has a fresh one.
#[async_trait]
pub trait TestWorld: Send + Sync + Sized {
    type Cx: Context;

    fn journal(&self) -> Arc<dyn Journal<Tx = <Self::Cx as Context>::Tx>>;
    fn registry(&self) -> Arc<Registry<Self::Cx>>;
    /// What a worker is given. Asked for after each crash: what a dead process held in memory must not come back.
    fn cx(&self) -> Arc<Self::Cx>;
    /// Starts the operation (journal row, control rows), and commits.
    async fn start(&self) -> OperationId;
    /// Panics unless the world holds exactly what the workflow promises.
    async fn assert_done(&self);
    /// Panics unless the world is as it was before the operation.
    async fn assert_as_before(&self);
    /// Steps whose change itself is the point of no return: one that fails *after* its change can neither be recorded
    /// nor undone, and where that ends is a test of the workflow's own.
    fn cannot_be_undone(_step: &str) -> bool {
        false
    }
}

/// More turns than any test needs: what goes on longer goes in circles.
const TURNS: usize = 200;

/// Carries an operation to its end as a row of workers would, each new one starting where a crash ended the last.
/// Leases and pauses are ended by hand instead of waited for.
pub async fn carry_out<W: TestWorld>(world: &W, id: OperationId, faults: &Faults) -> OperationState {
    for turn in 0..TURNS {
        // Ended by hand below: a machine that stands still for a while must not end it instead.
        let lease = Duration::from_mins(10);
        let options = Options { faults: faults.clone(), lease, ..Options::named(format!("turn-{turn}")) };
        let worker = Worker::new(world.journal(), world.registry(), world.cx(), options);
        let taken = worker.turn().await.expect("the test's journal answers");
        if let Some((_, Outcome::Lost | Outcome::Unreachable(_))) = taken {
            panic!("a lone worker lost its operation: {taken:?}");
        }
        let state = make_due(&*world.journal(), id).await;
        if state.is_final() || state == OperationState::Stuck {
            return state;
        }
    }
    panic!("no end after {TURNS} turns: {:?}", world.journal().show(id).await);
}

/// Ends lease and pause of an operation, as time would.
pub async fn make_due<Tx: Send + 'static>(journal: &dyn Journal<Tx = Tx>, id: OperationId) -> OperationState {
    let mut tx = journal.begin().await.expect("the test's journal answers");
    let locked = journal.lock(&mut tx, id).await.expect("the test's journal answers");
    let Locked { mut operation, .. } = locked.expect("the operation was started");
    operation.worker = None;
    operation.lease_until = None;
    operation.retry_at = None;
    journal.save(&mut tx, &operation).await.expect("the test's journal answers");
    journal.commit(tx).await.expect("the test's journal answers");
    operation.state
}

/// Every point that a run without faults comes by, from a dry run in a world of its own.
pub async fn points<W: TestWorld>(fresh: &(impl AsyncFn() -> W + Sync)) -> Vec<Passed> {
    let (world, faults) = (fresh().await, Faults::counting());
    let id = world.start().await;
    let state = carry_out(&world, id, &faults).await;
    assert_eq!(state, OperationState::Succeeded, "without faults: {:?}", world.journal().show(id).await);
    world.assert_done().await;
    faults.passed()
}

/// Crashes once at each point, and each time expects the whole result, once.
pub async fn survives_a_crash_at_every_point<W: TestWorld>(fresh: impl AsyncFn() -> W + Sync) {
    for (nth, point) in points(&fresh).await.iter().enumerate() {
        let (world, faults) = (fresh().await, Faults::crash(nth));
        let id = world.start().await;
        let state = carry_out(&world, id, &faults).await;
        assert_eq!(faults.crashes(), 1, "no crash at {point}");
        assert_eq!(state, OperationState::Succeeded, "crash at {point}: {:?}", world.journal().show(id).await);
        world.assert_done().await;
    }
}

/// Lets each step fail for good, before and after its change, and expects the world as before; past the point of
/// no return the failure must be got over instead.
pub async fn undoes_a_failure_of_every_step<W: TestWorld>(fresh: impl AsyncFn() -> W + Sync) {
    for (seq, when, ends) in failures::<W>(&points(&fresh).await) {
        let (world, faults) = (fresh().await, Faults::fail(seq, when));
        let id = world.start().await;
        let state = carry_out(&world, id, &faults).await;
        assert_eq!(state, ends, "step {seq} failing {when:?}: {:?}", world.journal().show(id).await);
        assert_world(&world, ends).await;
    }
}

/// The same, with a crash at each point that such a failure comes by, on the way back too.
pub async fn undo_survives_a_crash_at_every_point<W: TestWorld>(fresh: impl AsyncFn() -> W + Sync) {
    for when in [Failing::BeforeRun, Failing::AfterRun] {
        undo_survives_a_crash_at_every_point_after(when, &fresh).await;
    }
}

/// One half of it, for workflows whose tries take long.
pub async fn undo_survives_a_crash_at_every_point_after<W: TestWorld>(
    when: Failing,
    fresh: impl AsyncFn() -> W + Sync,
) {
    let points = points(&fresh).await;
    for (seq, _, ends) in failures::<W>(&points).into_iter().filter(|(_, failing, _)| *failing == when) {
        // A crash before the failing step is one of `survives_a_crash_at_every_point`.
        let first = points.iter().position(|passed| passed.seq == seq).expect("the step that fails came by a point");
        let mut nth = first;
        loop {
            let (world, faults) = (fresh().await, Faults::fail(seq, when).and_crash(nth));
            let id = world.start().await;
            let state = carry_out(&world, id, &faults).await;
            if faults.crashes() == 0 {
                break; // the last point is behind us
            }
            let passed = faults.passed();
            let at = &passed[nth];
            // A crash before the failure was recorded makes it as if it never was: the step is simply run again.
            let forgotten = at.point == Point::BeforeFailureRecord;
            let expected = if forgotten { OperationState::Succeeded } else { ends };
            assert_eq!(
                state,
                expected,
                "step {seq} failing {when:?}, crash at {at}: {:?}",
                world.journal().show(id).await
            );
            assert_world(&world, expected).await;
            nth += 1;
        }
        assert!(nth > first, "step {seq} failing {when:?} came by no point");
    }
}

async fn assert_world<W: TestWorld>(world: &W, state: OperationState) {
    if state == OperationState::Succeeded {
        world.assert_done().await;
    } else {
        world.assert_as_before().await;
    }
}

/// Each step that a run comes by, failing before and after its change, and where that has to end.
fn failures<W: TestWorld>(points: &[Passed]) -> Vec<(u32, Failing, OperationState)> {
    let mut past = false;
    let mut found = Vec::new();
    for (nth, passed) in points.iter().enumerate() {
        past |= passed.point == Point::AfterNoReturn;
        if passed.point == Point::BeforeRun {
            let ends = if past { OperationState::Succeeded } else { OperationState::Failed };
            found.push((passed.seq, Failing::BeforeRun, ends));
            if !W::cannot_be_undone(passed.step) {
                found.push((passed.seq, Failing::AfterRun, ends));
            }
        }
        assert!(nth < 10_000, "a workflow of this many points is a loop");
    }
    found
}

/// One line per workflow: `crash_tests!(create_tenant, async || CreateTenantWorld::new().await);` makes a module of
/// that name with the three tests.
#[macro_export]
macro_rules! crash_tests {
    ($workflow:ident, $fresh:expr) => {
        mod $workflow {
            #[allow(unused_imports)] // the world may be named by path
            use super::*;

            #[tokio::test]
            async fn survives_a_crash_at_every_point() {
                $crate::testing::survives_a_crash_at_every_point($fresh).await;
            }
            #[tokio::test]
            async fn undoes_a_failure_of_every_step() {
                $crate::testing::undoes_a_failure_of_every_step($fresh).await;
            }
            #[tokio::test]
            async fn undo_survives_a_crash_at_every_point() {
                $crate::testing::undo_survives_a_crash_at_every_point($fresh).await;
            }
        }
    };
}
