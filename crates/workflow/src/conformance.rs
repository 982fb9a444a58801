//! What every journal owes, as one suite: the one in memory and the one in Postgres pass the same.
//!
//! Never looks at how a journal stores. Time is real here (leases of a fraction of a second, waited out by asking again).

use crate::{Claim, Fenced, Filter, Journal, JournalError, NewOperation, Progress, StepError, StepRecord, StepState};
use berth_domain::{OperationId, OperationState};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs all claims, one after the other, on a journal that nobody else uses.
pub async fn journal<J: Journal>(journal: &J) {
    rows_come_back_as_stored(journal).await;
    a_dropped_transaction_leaves_nothing(journal).await;
    starting_twice_is_one_operation(journal).await;
    one_claim_per_operation(journal).await;
    a_locked_operation_is_passed_over(journal).await;
    a_stale_worker_is_refused(journal).await;
    a_lease_that_ran_out_is_refused(journal).await;
    what_is_not_due_is_not_claimed(journal).await;
    abandoning_by_force_fences_the_worker(journal).await;
    lists_are_newest_first_and_paged(journal).await;
    a_nudge_ends_the_wait(journal).await;
}

/// `journal_conformance!(name, async || MyJournal::fresh().await)`: one test that runs the suite.
#[macro_export]
macro_rules! journal_conformance {
    ($name:ident, $fresh:expr) => {
        #[tokio::test]
        async fn $name() {
            let fresh = $fresh;
            $crate::conformance::journal(&fresh().await).await;
        }
    };
}

fn new(workflow: &str) -> NewOperation {
    let id = OperationId::new(Uuid::now_v7());
    NewOperation {
        id,
        workflow: workflow.to_owned(),
        subject: Some("s".to_owned()),
        input: json!({"a": [1, null, "x"]}),
    }
}

async fn started<J: Journal>(journal: &J, workflow: &str) -> NewOperation {
    let new = new(workflow);
    let mut tx = journal.begin().await.expect("begin");
    journal.start(&mut tx, new.clone()).await.expect("start");
    journal.commit(tx).await.expect("commit");
    new
}

async fn claim<J: Journal>(journal: &J, workflow: &str, lease: Duration) -> Option<Claim> {
    journal.claim("tester", &[workflow.to_owned()], lease).await.expect("claim")
}

async fn claimed<J: Journal>(journal: &J, workflow: &str, lease: Duration) -> Claim {
    claim(journal, workflow, lease).await.expect("there is an operation to claim")
}

async fn wait_for_claim<J: Journal>(journal: &J, workflow: &str) -> Claim {
    let started = Instant::now();
    loop {
        if let Some(claim) = claim(journal, workflow, LONG).await {
            return claim;
        }
        assert!(started.elapsed() < PATIENCE, "nothing of `{workflow}` became due in {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn rows_come_back_as_stored<J: Journal>(journal: &J) {
    let new = started(journal, "rows").await;
    let claim = claimed(journal, "rows", LONG).await;
    let (mut tx, locked) = journal.fenced(&claim).await.expect("fenced");
    let (mut operation, now) = (locked.operation, locked.now);
    assert_eq!(operation.input, new.input);
    operation.undoing = true;
    operation.state = OperationState::Undoing;
    operation.no_return = Some(3);
    operation.abandon = true;
    operation.attempts = 7;
    operation.error = Some(StepError::retryable("k", "m").hint("h").after(Duration::from_millis(1500)));
    let figures = json!({"rows": 12, "share": 0.5});
    operation.progress = Some(Progress { fraction: Some(0.25), message: "half of half".into(), figures });
    operation.result = Some(Value::Null);
    let step = |seq: u32, output: Option<Value>, state| StepRecord {
        seq,
        name: format!("step_{seq}"),
        input: json!({"n": seq}),
        state,
        output,
        error: Some(StepError::permanent("k", "m")),
        attempts: 2,
        started_at: now,
        updated_at: now,
    };
    // Out of order, one twice, and the two kinds of nothing, which SQL and JSON tell apart.
    journal.save_step(&mut tx, new.id, &step(1, None, StepState::Started)).await.expect("save_step");
    journal.save_step(&mut tx, new.id, &step(0, Some(Value::Null), StepState::Done)).await.expect("save_step");
    journal.save_step(&mut tx, new.id, &step(1, None, StepState::Failed)).await.expect("save_step");
    journal.save_step(&mut tx, new.id, &step(2, Some(json!([1])), StepState::Undoing)).await.expect("save_step");
    journal.save(&mut tx, &operation).await.expect("save");
    journal.commit(tx).await.expect("commit");

    let (shown, steps) = journal.show(new.id).await.expect("show").expect("it exists");
    let moment = |at: Option<jiff::Timestamp>| at.map(jiff::Timestamp::as_microsecond);
    assert_eq!(moment(shown.lease_until), moment(operation.lease_until));
    assert_eq!(moment(Some(shown.created_at)), moment(Some(operation.created_at)));
    // Moments may be cut to microseconds; all else is equal.
    operation.lease_until = shown.lease_until;
    operation.created_at = shown.created_at;
    operation.updated_at = shown.updated_at;
    assert_eq!(shown, operation);
    let told: Vec<_> = steps.iter().map(|s| (s.seq, s.name.as_str(), s.output.clone(), s.state, s.attempts)).collect();
    assert_eq!(
        told,
        [
            (0, "step_0", Some(Value::Null), StepState::Done, 2),
            (1, "step_1", None, StepState::Failed, 2),
            (2, "step_2", Some(json!([1])), StepState::Undoing, 2),
        ]
    );
    assert_eq!(steps[1].input, json!({"n": 1}));
    assert_eq!(steps[1].error, Some(StepError::permanent("k", "m")));
    let mut tx = journal.begin().await.expect("begin");
    assert_eq!(journal.steps(&mut tx, new.id).await.expect("steps"), steps);
    assert!(journal.steps(&mut tx, OperationId::new(Uuid::now_v7())).await.expect("steps").is_empty());
}

async fn a_dropped_transaction_leaves_nothing<J: Journal>(journal: &J) {
    let new = new("dropped");
    let mut tx = journal.begin().await.expect("begin");
    journal.start(&mut tx, new.clone()).await.expect("start");
    drop(tx);
    assert!(journal.show(new.id).await.expect("show").is_none());

    started(journal, "dropped").await;
    let claim = claimed(journal, "dropped", LONG).await;
    let (mut tx, locked) = journal.fenced(&claim).await.expect("fenced");
    let mut operation = locked.operation;
    operation.attempts = 99;
    journal.save(&mut tx, &operation).await.expect("save");
    drop(tx);
    let (shown, _) = journal.show(operation.id).await.expect("show").expect("it exists");
    assert_eq!(shown.attempts, 0);
}

async fn starting_twice_is_one_operation<J: Journal>(journal: &J) {
    let new = started(journal, "twice").await;
    let claim = claimed(journal, "twice", LONG).await;
    let mut tx = journal.begin().await.expect("begin");
    let again = journal.start(&mut tx, new.clone()).await.expect("start again");
    assert_eq!((again.state, again.epoch), (OperationState::Running, claim.epoch), "the row that is there");
    let other = NewOperation { input: json!("other"), ..new.clone() };
    let refused = journal.start(&mut tx, other).await;
    assert!(matches!(refused, Err(JournalError::Conflict { operation }) if operation == new.id), "{refused:?}");
}

async fn one_claim_per_operation<J: Journal>(journal: &J) {
    let first = started(journal, "one").await;
    let second = started(journal, "one").await;
    assert!(claim(journal, "another", LONG).await.is_none(), "only workflows that were asked for");
    let (a, b) = tokio::join!(claim(journal, "one", LONG), claim(journal, "one", LONG));
    let mut got: Vec<_> = [a, b].into_iter().flatten().map(|claim| claim.operation.id).collect();
    got.sort();
    if got.len() < 2 {
        // The one may have been passed over while the other was looking at it; it is still there.
        got.push(claimed(journal, "one", LONG).await.operation.id);
        got.sort();
    }
    assert_eq!(got, [first.id, second.id]);
    assert!(claim(journal, "one", LONG).await.is_none());
}

async fn a_locked_operation_is_passed_over<J: Journal>(journal: &J) {
    started(journal, "locked").await;
    let mut tx = journal.begin().await.expect("begin");
    let held = journal.lock_next(&mut tx, &["locked".to_owned()]).await.expect("lock_next");
    assert!(held.is_some());
    // Passed over or waited for, but never given twice: a journal with one lock for all answers after `tx` has ended.
    let other = claim(journal, "locked", LONG);
    let held = tokio::time::timeout(SHORT, other).await.ok().flatten();
    assert!(held.is_none(), "claimed while locked: {held:?}");
    drop(tx);
    wait_for_claim(journal, "locked").await;
}

async fn a_stale_worker_is_refused<J: Journal>(journal: &J) {
    started(journal, "stale").await;
    let old = claimed(journal, "stale", SHORT).await;
    let new = wait_for_claim(journal, "stale").await;
    assert_eq!(new.operation.id, old.operation.id);
    assert!(new.epoch > old.epoch);
    let refused = journal.fenced(&old).await.map(drop);
    let is = matches!(refused, Err(JournalError::Fenced { reason: Fenced::ClaimedAgain, .. }));
    assert!(is, "{refused:?}");
    journal.fenced(&new).await.map(drop).expect("the newer one is in force");
}

async fn a_lease_that_ran_out_is_refused<J: Journal>(journal: &J) {
    started(journal, "ran_out").await;
    let claim = claimed(journal, "ran_out", SHORT).await;
    let started = Instant::now();
    loop {
        match journal.fenced(&claim).await.map(drop) {
            Err(JournalError::Fenced { reason: Fenced::LeaseRanOut, .. }) => break,
            other => assert!(started.elapsed() < PATIENCE, "still {other:?} after {PATIENCE:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
    wait_for_claim(journal, "ran_out").await;
}

async fn what_is_not_due_is_not_claimed<J: Journal>(journal: &J) {
    started(journal, "due").await;
    let change = async |pause| {
        let held = wait_for_claim(journal, "due").await;
        let (mut tx, locked) = journal.fenced(&held).await.expect("fenced");
        let mut operation = locked.operation;
        operation.retry_later(StepError::retryable("k", "m"), pause, locked.now);
        journal.save(&mut tx, &operation).await.expect("save");
        journal.commit(tx).await.expect("commit");
        operation.id
    };
    change(SHORT).await; // becomes due by itself: the next line waits for it
    let id = change(LONG).await;
    assert!(claim(journal, "due", LONG).await.is_none(), "its next try is a minute away");
    let mut tx = journal.begin().await.expect("begin");
    journal.retry(&mut tx, id).await.expect("a person may retry it now");
    journal.commit(tx).await.expect("commit");
    let held = claimed(journal, "due", LONG).await;
    let (mut tx, locked) = journal.fenced(&held).await.expect("fenced");
    let mut operation = locked.operation;
    operation.stick(StepError::permanent("k", "m"), locked.now);
    journal.save(&mut tx, &operation).await.expect("save");
    journal.commit(tx).await.expect("commit");
    assert!(claim(journal, "due", LONG).await.is_none(), "stuck is for a person");
}

async fn abandoning_by_force_fences_the_worker<J: Journal>(journal: &J) {
    started(journal, "forced").await;
    let claim = claimed(journal, "forced", LONG).await;
    let mut tx = journal.begin().await.expect("begin");
    journal.abandon(&mut tx, claim.operation.id, true).await.expect("abandon");
    journal.commit(tx).await.expect("commit");
    let refused = journal.fenced(&claim).await.map(drop);
    assert!(matches!(refused, Err(JournalError::Fenced { .. })), "{refused:?}");
    let mut tx = journal.begin().await.expect("begin");
    let missing = journal.retry(&mut tx, OperationId::new(Uuid::now_v7())).await;
    assert!(matches!(missing, Err(JournalError::Missing(_))), "{missing:?}");
}

async fn lists_are_newest_first_and_paged<J: Journal>(journal: &J) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(started(journal, "list").await.id);
    }
    let done = claimed(journal, "list", LONG).await;
    assert_eq!(done.operation.id, ids[0], "the oldest first");
    let of = |filter: Filter| async move {
        let listed = journal.list(&filter).await.expect("list");
        listed.into_iter().map(|operation| operation.id).collect::<Vec<_>>()
    };
    let all = Filter { workflow: Some("list".into()), ..Filter::default() };
    assert_eq!(of(all.clone()).await, [ids[2], ids[1], ids[0]]);
    assert_eq!(of(Filter { limit: 1, ..all.clone() }).await, [ids[2]]);
    assert_eq!(of(Filter { limit: 1, before: Some(ids[2]), ..all.clone() }).await, [ids[1]]);
    assert_eq!(of(Filter { states: vec![OperationState::Running], ..all.clone() }).await, [ids[0]]);
    assert!(of(Filter { subject: Some("nobody".into()), ..all }).await.is_empty());
}

async fn a_nudge_ends_the_wait<J: Journal>(journal: &J) {
    let patient = journal.wait_for_work(PATIENCE * 10);
    let nudge = async {
        loop {
            started(journal, "nudge").await; // again and again: the waiter may not have been listening yet
            sleep(Duration::from_millis(50)).await;
        }
    };
    let woken = async {
        tokio::select! { () = patient => true, () = nudge => false }
    };
    let woken = tokio::time::timeout(PATIENCE, woken).await;
    assert!(matches!(woken, Ok(true)), "a new operation woke nobody in {PATIENCE:?}");
}
