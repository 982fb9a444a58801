//! Leases, retries, the way back and the operator's verbs, on a clock that the test moves.

mod support;

use async_trait::async_trait;
use berth_domain::{OperationId, OperationState as State};
use berth_workflow::{
    Abandoned, Cancelled, Filter, Journal, JournalError, MemoryTx, Options, Outcome, Refusal, Registry, Reserve, Run,
    Step, StepError, Worker, kind, testing,
};
use std::{sync::Arc, time::Duration};
use support::{CREATE, Cx, Ensure, Input, WAITING, World, eventually};
use testing::TestWorld;
use tokio::{sync::oneshot, time::advance};

const LEASE: Duration = Duration::from_secs(15);

fn busy() -> StepError {
    StepError::retryable("busy", "the provider is busy")
}
fn broken() -> StepError {
    StepError::permanent("broken", "the provider refuses")
}
async fn turn(world: &World, name: &str) -> Outcome {
    world.worker(Options::named(name)).turn().await.expect("the journal answers").expect("an operation is due").1
}

#[tokio::test(start_paused = true)]
async fn a_workflow_runs_to_its_end_and_its_result_is_kept() {
    let world = World::create();
    let id = world.start().await;
    assert!(matches!(turn(&world, "a").await, Outcome::Succeeded));
    world.assert_done().await;
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.result), (State::Succeeded, Some("made:acme-1".into())));
    assert_eq!(operation.no_return, Some(3));
    assert!(operation.lease_until.is_none() && operation.finished_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn recorded_steps_are_read_back_and_not_run_again() {
    let world = World::create();
    let id = world.start().await;
    let faults = berth_workflow::Faults::crash(5); // after the count was recorded
    let worker = world.worker(Options { faults: faults.clone(), ..Options::named("a") });
    assert!(matches!(worker.turn().await.unwrap(), Some((_, Outcome::Crashed))));
    let before = world.provider.calls();
    testing::make_due(&*world.journal(), id).await;
    assert!(matches!(turn(&world, "b").await, Outcome::Succeeded));
    let after = world.provider.calls();
    assert_eq!(before, ["ensure acme-1"]);
    assert_eq!(after, ["ensure acme-1", "ensure acme-2", "ensure acme-3"]);
    world.assert_done().await; // the count is 1, so the transaction step was not repeated either
}

/// A worker that is suspended past its lease (here: not polled at all) comes back after another has finished.
#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_after_its_lease_records_nothing() {
    let world = World::waiting();
    let shut = world.gate.clone().acquire_owned().await.unwrap();
    let id = world.start().await;
    let late = world.worker(Options::named("late"));
    let mut late = Box::pin(late.turn());
    // Polled until it waits inside its step, and then left alone.
    while world.provider.calls().is_empty() {
        assert!(futures_poll(&mut late).await.is_none());
    }
    advance(LEASE + Duration::from_secs(1)).await;
    drop(shut);
    world.gate.add_permits(1); // the one just freed is promised to the late worker, who stands first in the queue
    assert!(matches!(turn(&world, "other").await, Outcome::Succeeded));
    let finished = world.operation(id).await;
    let steps = world.journal().show(id).await.unwrap().unwrap().1;

    let (_, outcome) = late.await.unwrap().unwrap();
    assert!(matches!(outcome, Outcome::Lost), "{outcome:?}");
    assert_eq!(world.operation(id).await, finished);
    assert_eq!(world.journal().show(id).await.unwrap().unwrap().1, steps);
    world.assert_done().await;
}

/// One poll of a future, from inside a test.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let once = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    });
    let value = once.await;
    tokio::task::yield_now().await;
    value
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_drops_the_step_at_its_next_await() {
    let world = World::waiting();
    let _shut = world.gate.clone().acquire_owned().await.unwrap();
    let id = world.start().await;
    let worker = world.worker(Options::named("a"));
    let turn = tokio::spawn(async move { worker.turn().await.unwrap().unwrap().1 });
    eventually("the step to begin", async || match world.provider.calls() {
        calls if calls.is_empty() => Err(calls),
        _ => Ok(()),
    })
    .await;
    world.abandon(id, true).await.unwrap(); // fences the worker; the gate stays shut
    let outcome = turn.await.unwrap();
    assert!(matches!(outcome, Outcome::Lost), "{outcome:?}");
    let (operation, steps) = world.journal().show(id).await.unwrap().unwrap();
    assert_eq!(operation.state, State::Abandoned);
    assert_eq!(steps[0].state.as_str(), "started");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_a_step_takes() {
    let world = World::waiting();
    let shut = world.gate.clone().acquire_owned().await.unwrap();
    let id = world.start().await;
    let worker = world.worker(Options::named("a"));
    let first = tokio::spawn(async move { worker.turn().await.unwrap().unwrap().1 });
    for _ in 0..20 {
        tokio::time::sleep(LEASE / 3).await;
        assert!(world.worker(Options::named("b")).turn().await.unwrap().is_none(), "taken from a living worker");
    }
    drop(shut);
    assert!(matches!(first.await.unwrap(), Outcome::Succeeded));
    assert_eq!(world.operation(id).await.epoch.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retryable_failure_is_tried_again_with_growing_pauses() {
    let world = World::create();
    world.provider.will_answer("ensure", [busy(), busy().after(Duration::from_secs(30))]);
    let id = world.start().await;
    let Outcome::Waiting(first) = turn(&world, "a").await else { panic!("not waiting") };
    assert!((Duration::from_millis(125)..=Duration::from_millis(250)).contains(&first), "{first:?}");
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.attempts), (State::Queued, 1));
    assert_eq!(operation.error, Some(busy()));
    assert!(world.worker(Options::named("b")).turn().await.unwrap().is_none(), "claimed before it was due");
    advance(first).await;
    let Outcome::Waiting(second) = turn(&world, "b").await else { panic!("not waiting") };
    assert_eq!(second, Duration::from_secs(30), "the provider named a time");
    advance(second).await;
    assert!(matches!(turn(&world, "c").await, Outcome::Succeeded));
    world.assert_done().await;
    let (operation, steps) = world.journal().show(id).await.unwrap().unwrap();
    assert_eq!((operation.error, steps[0].attempts), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn retries_that_run_out_before_the_point_of_no_return_are_undone() {
    let world = World::create();
    let id = world.start().await;
    world.provider.will_answer("ensure", [busy(), busy(), busy()]); // three tries, as `Ensure` says
    for _ in 0..2 {
        assert!(matches!(turn(&world, "a").await, Outcome::Waiting(_)));
        testing::make_due(&*world.journal(), id).await;
    }
    assert!(matches!(turn(&world, "a").await, Outcome::Undone));
    world.assert_as_before().await;
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.error), (State::Failed, Some(busy())));
}

#[tokio::test(start_paused = true)]
async fn past_the_point_of_no_return_every_failure_is_repeated_and_then_stuck_for_a_person() {
    let world = World::create();
    let id = world.start().await;
    let worker = world.worker(Options { faults: crash_after_return().await, ..Options::named("a") });
    assert!(matches!(worker.turn().await.unwrap(), Some((_, Outcome::Crashed))));
    testing::make_due(&*world.journal(), id).await;
    world.provider.will_answer("ensure", [broken(), broken(), broken(), broken()]); // four tries, as `Ensure` says
    for _ in 0..3 {
        assert!(matches!(turn(&world, "a").await, Outcome::Waiting(_)));
        testing::make_due(&*world.journal(), id).await;
    }
    assert!(matches!(turn(&world, "a").await, Outcome::Stuck(_)));
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.error), (State::Stuck, Some(broken())));
    assert!(world.worker(Options::named("b")).turn().await.unwrap().is_none(), "stuck waits for a person");

    let refused = world.abandon(id, false).await;
    assert!(matches!(refused, Err(JournalError::Refused(Refusal::PastReturn))), "{refused:?}");
    world.retry(id).await.unwrap();
    assert!(matches!(turn(&world, "a").await, Outcome::Succeeded));
    world.assert_done().await;
    let refused = world.retry(id).await;
    assert!(matches!(refused, Err(JournalError::Refused(Refusal::NothingToRetry { .. }))), "{refused:?}");
}

async fn crash_after_return() -> berth_workflow::Faults {
    let points = testing::points(&async || World::create()).await;
    let at = points.iter().position(|passed| passed.point == berth_workflow::Point::AfterNoReturn);
    berth_workflow::Faults::crash(at.expect("`create` has a point of no return"))
}

#[tokio::test(start_paused = true)]
async fn undo_goes_backward_is_retried_and_gets_stuck_when_it_fails_for_good() {
    let world = World::create();
    let id = world.start().await;
    let faults = berth_workflow::Faults::fail(2, berth_workflow::Failing::AfterRun);
    world.provider.will_answer("remove", [busy(), broken()]);
    let worker = || world.worker(Options { faults: faults.clone(), ..Options::named("a") });
    assert!(matches!(worker().turn().await.unwrap(), Some((_, Outcome::Waiting(_)))));
    assert_eq!(world.operation(id).await.state, State::Undoing);
    testing::make_due(&*world.journal(), id).await;
    assert!(matches!(worker().turn().await.unwrap(), Some((_, Outcome::Stuck(_)))));
    let refused = world.abandon(id, false).await;
    assert!(matches!(refused, Err(JournalError::Refused(Refusal::UndoStuck))), "{refused:?}");

    world.retry(id).await.unwrap();
    assert!(matches!(worker().turn().await.unwrap(), Some((_, Outcome::Undone))));
    world.assert_as_before().await;
    let calls = world.provider.calls();
    let removed: Vec<_> = calls.iter().filter(|call| call.starts_with("remove")).map(String::as_str).collect();
    assert_eq!(removed, ["remove acme-2", "remove acme-2", "remove acme-2", "remove acme-1"]);
}

#[tokio::test(start_paused = true)]
async fn abandoning_a_waiting_operation_undoes_it() {
    let world = World::create();
    let id = world.start().await;
    world.provider.will_answer("ensure", [busy()]);
    assert!(matches!(turn(&world, "a").await, Outcome::Waiting(_)));
    world.abandon(id, false).await.unwrap();
    assert!(matches!(turn(&world, "a").await, Outcome::Undone), "due at once, and not at its next try");
    world.assert_as_before().await;
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.error.unwrap().kind.as_ref()), (State::Abandoned, kind::ABANDONED));
    let refused = world.abandon(id, false).await;
    assert!(matches!(refused, Err(JournalError::Refused(Refusal::Over { .. }))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn abandoning_a_running_operation_undoes_it_before_its_next_step() {
    let world = World::waiting();
    let shut = world.gate.clone().acquire_owned().await.unwrap();
    let id = world.start().await;
    let worker = world.worker(Options::named("a"));
    let turn = tokio::spawn(async move { worker.turn().await.unwrap().unwrap().1 });
    eventually("the step to begin", async || match world.provider.calls() {
        calls if calls.is_empty() => Err(calls),
        _ => Ok(()),
    })
    .await;
    world.abandon(id, false).await.unwrap();
    drop(shut);
    assert!(matches!(turn.await.unwrap(), Outcome::Undone));
    world.assert_as_before().await;
    let second = world.provider.calls().into_iter().filter(|call| call == "ensure acme-2").count();
    assert_eq!((world.operation(id).await.state, second), (State::Abandoned, 0));
}

/// A step that lasts until it hears of the cancellation, saying meanwhile how far it is.
struct Patient {
    cancelled: Cancelled,
    reporter: berth_workflow::Reporter,
}

#[async_trait]
impl Step<Cx> for Patient {
    const NAME: &'static str = "patient";
    type Output = ();
    async fn run(&self, _: &Cx) -> Result<(), StepError> {
        self.reporter.at(0.5, "half of it");
        self.cancelled.clone().wait().await;
        Err(StepError::retryable("left", "left early"))
    }
    async fn undo(&self, _: &Cx, made: Option<()>) -> Result<(), StepError> {
        assert!(made.is_none(), "it never ended");
        Ok(())
    }
}

async fn patient(run: &mut Run<Cx>, _: Input) -> Result<(), StepError> {
    let step = Patient { cancelled: run.cancelled(), reporter: run.reporter() };
    run.step(step).await
}

#[tokio::test(start_paused = true)]
async fn a_long_step_reports_progress_and_hears_of_its_cancellation() {
    let world = World::create();
    let id = world.start().await;
    let worker = with(&world, Registry::new().with(&CREATE, patient));
    let turn = tokio::spawn(async move { worker.turn().await.unwrap().unwrap().1 });
    eventually("progress", async || {
        let progress = world.operation(id).await.progress;
        if progress.as_ref().and_then(|p| p.fraction) == Some(0.5) { Ok(()) } else { Err(progress) }
    })
    .await;
    world.abandon(id, false).await.unwrap();
    assert!(matches!(turn.await.unwrap(), Outcome::Undone));
    assert_eq!(world.operation(id).await.state, State::Abandoned);
}

fn with(world: &World, registry: Registry<Cx>) -> Worker<Cx> {
    Worker::new(world.journal(), Arc::new(registry), world.cx(), Options::named("w"))
}

async fn other_steps(run: &mut Run<Cx>, _: Input) -> Result<(), StepError> {
    run.step(Ensure("somebody-else".into())).await.map(drop)
}
async fn fewer_steps(_: &mut Run<Cx>, _: Input) -> Result<(), StepError> {
    Ok(())
}
async fn refuses_now(_: &mut Run<Cx>, _: Input) -> Result<(), StepError> {
    Err(broken())
}

#[tokio::test(start_paused = true)]
async fn an_edited_workflow_is_stuck_and_touches_nothing() {
    for registry in [
        Registry::new().with(&CREATE, other_steps),
        Registry::new().with(&CREATE, fewer_steps),
        Registry::new().with(&CREATE, refuses_now),
        Registry::new().with(&CREATE, patient),
    ] {
        let world = World::create();
        let id = world.start().await;
        let faults = crash_after_return().await;
        let worker = world.worker(Options { faults, ..Options::named("a") });
        assert!(matches!(worker.turn().await.unwrap(), Some((_, Outcome::Crashed))));
        testing::make_due(&*world.journal(), id).await;
        let before = world.provider.calls();
        let outcome = with(&world, registry).turn().await.unwrap().unwrap().1;
        assert!(matches!(&outcome, Outcome::Stuck(error) if error.kind == kind::JOURNAL_MISMATCH), "{outcome:?}");
        assert_eq!(world.provider.calls(), before);
        world.retry(id).await.unwrap(); // by a program that has the right one
        assert!(matches!(turn(&world, "b").await, Outcome::Succeeded));
        world.assert_done().await;
    }
}

async fn swallows(run: &mut Run<Cx>, input: Input) -> Result<(), StepError> {
    let _ = run.step(Ensure(format!("{}-1", input.name))).await;
    let _ = run.step(Ensure(format!("{}-2", input.name))).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_swallows_an_error_is_undone_all_the_same() {
    let world = World::create();
    let id = world.start().await;
    world.provider.will_answer("ensure", [broken()]);
    let worker = with(&world, Registry::new().with(&CREATE, swallows));
    assert!(matches!(worker.turn().await.unwrap(), Some((_, Outcome::Undone))));
    assert_eq!(world.operation(id).await.state, State::Failed);
    world.assert_as_before().await;
    assert_eq!(world.provider.calls(), ["ensure acme-1", "remove acme-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_workflows_own_refusal_undoes_its_steps() {
    async fn changes_its_mind(run: &mut Run<Cx>, input: Input) -> Result<(), StepError> {
        run.step(Ensure(input.name)).await?;
        Err(broken())
    }
    let world = World::create();
    let id = world.start().await;
    let worker = with(&world, Registry::new().with(&CREATE, changes_its_mind));
    assert!(matches!(worker.turn().await.unwrap(), Some((_, Outcome::Undone))));
    world.assert_as_before().await;
    assert_eq!(world.operation(id).await.error, Some(broken()));
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_queue_and_stop_when_told() {
    let world = World::create();
    let mut ids = Vec::new();
    for n in 0..30 {
        let id = OperationId::new(uuid::Uuid::now_v7());
        let mut tx = world.journal.begin().await.unwrap();
        world.journal.start(&mut tx, CREATE.with(id, &Input { name: format!("t{n}") })).await.unwrap();
        world.journal.commit(tx).await.unwrap();
        ids.push(id);
    }
    world.provider.will_answer("ensure", (0..10).map(|_| busy()));
    let mut stops = Vec::new();
    let mut workers = Vec::new();
    for name in ["a", "b"] {
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = world.worker(Options::named(name));
        workers.push(tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await }));
        stops.push(stop);
    }
    eventually("all to succeed", async || {
        let done = Filter { states: vec![State::Succeeded], ..Filter::default() };
        let done = world.journal.list(&done).await.unwrap().len();
        if done == ids.len() { Ok(()) } else { Err(done) }
    })
    .await;
    stops.into_iter().for_each(drop);
    for worker in workers {
        worker.await.unwrap();
    }
    let created = world.provider.created.lock().unwrap().clone();
    assert_eq!(created.len(), 90);
    assert!(created.values().all(|n| *n == 1), "{created:?}");
}

#[tokio::test(start_paused = true)]
async fn what_has_places_kept_for_it_does_not_wait_for_the_others() {
    let world = World::create();
    let shut = world.gate.clone().acquire_owned().await.unwrap();
    let mut tx = world.journal.begin().await.unwrap();
    for (workflow, name) in [(WAITING, "w1"), (WAITING, "w2"), (CREATE, "c1"), (CREATE, "c2")] {
        let new = workflow.with(OperationId::new(uuid::Uuid::now_v7()), &Input { name: name.to_owned() });
        world.journal.start(&mut tx, new).await.unwrap();
    }
    world.journal.commit(tx).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    const KEPT: &[&str] = &[CREATE.name()];
    let reserve = Reserve { workflows: KEPT, places: 1 };
    let worker = world.worker(Options { concurrency: 1, reserve, ..Options::named("a") });
    let running = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
    let done = async || {
        let filter = Filter { states: vec![State::Succeeded], ..Filter::default() };
        world.journal.list(&filter).await.unwrap()
    };
    let until_done = async |many: usize| {
        eventually("so many to succeed", async || match done().await.len() {
            n if n == many => Ok(()),
            n => Err(n),
        })
        .await;
    };
    until_done(2).await;
    assert!(done().await.iter().all(|operation| operation.workflow == CREATE.name()));
    let waits = world.provider.calls().into_iter().filter(|call| call.starts_with("wait")).count();
    assert_eq!(waits, 1, "the kept place was taken by another workflow");
    drop(shut);
    until_done(4).await;
    drop(stop);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_go_of_a_step_that_does_not_end() {
    let world = World::waiting();
    let shut = world.gate.clone().acquire_owned().await.unwrap();
    let id = world.start().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = world.worker(Options::named("a"));
    let running = tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await });
    eventually("the step to begin", async || match world.provider.calls() {
        calls if calls.is_empty() => Err(calls),
        _ => Ok(()),
    })
    .await;
    drop(stop);
    running.await.unwrap();
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.lease_until), (State::Queued, None));
    drop(shut);
    assert!(matches!(turn(&world, "b").await, Outcome::Succeeded), "at once, without waiting for the lease");
    world.assert_done().await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_cannot_be_read_fails_before_any_step() {
    let world = World::create();
    let id = OperationId::new(uuid::Uuid::now_v7());
    let mut tx: MemoryTx = world.journal.begin().await.unwrap();
    let mut new = WAITING.with(id, &Input { name: "acme".into() });
    new.input = serde_json::json!({"nme": 1});
    world.journal.start(&mut tx, new).await.unwrap();
    world.journal.commit(tx).await.unwrap();
    assert!(matches!(turn(&world, "a").await, Outcome::Undone));
    let operation = world.operation(id).await;
    assert_eq!((operation.state, operation.error.unwrap().kind.as_ref()), (State::Failed, kind::BAD_INPUT));
    world.assert_as_before().await;
}

#[tokio::test(start_paused = true)]
async fn forcing_ends_an_operation_as_it_is() {
    let world = World::create();
    let id = world.start().await;
    world.provider.will_answer("ensure", [busy()]);
    assert!(matches!(turn(&world, "a").await, Outcome::Waiting(_)));
    let mut tx = world.journal.begin().await.unwrap();
    let (operation, how) = world.journal.abandon(&mut tx, id, true).await.unwrap();
    world.journal.commit(tx).await.unwrap();
    assert_eq!((operation.state, how), (State::Abandoned, Abandoned::AsItIs));
    assert!(world.worker(Options::named("b")).turn().await.unwrap().is_none());
}
