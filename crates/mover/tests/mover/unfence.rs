//! The end of a fence: nothing of Berth stays where the tenant lives, and nobody who comes late puts it up again.

use crate::common::{MemoryOwnership, SCHEMA, Two, Watch, cut_over, nothing_of_berth, rows_of, until_built};
use async_trait::async_trait;
use berth_domain::{Generation, MovePhase};
use berth_infra::Role;
use berth_mover::{Change, Control, MoveError, MovePlan, MoveSpec, Ownership, Side, Verdict, disarm, unfence};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;

/// Moved for good: the old side is empty.
async fn settled(two: &Two, ownership: &MemoryOwnership) -> (MoveSpec, MovePlan) {
    let spec = two.spec();
    let (plan, token) = until_built(&spec, ownership).await;
    cut_over(&spec, &plan, ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    berth_mover::release(&spec, &plan, ownership, &Watch::default()).await.unwrap();
    (spec, plan)
}

async fn fenced(two: &Two, database: &str) -> i64 {
    let client = two.client(database, Role::Mover).await;
    client.query_one("select count(*) from pg_trigger where tgname like 'berth%'", &[]).await.unwrap().get(0)
}

async fn writes(two: &Two, database: &str) {
    let app = two.client(database, Role::App).await;
    let sql = "update customers set name = name || '.' where id = $1";
    assert_eq!(app.execute(sql, &[&two.tenant]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_move_leaves_nothing_in_either_database() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let (spec, _) = settled(&two, &ownership).await;
    nothing_of_berth(&two, &two.source).await;
    assert!(fenced(&two, &two.target).await > 0);
    // A release called a table otherwise since: its triggers go all the same.
    let owner = two.client(&two.target, Role::Owner).await;
    owner.batch_execute("alter table counters rename to counted").await.unwrap();
    assert!(disarm(&spec, Side::Target, &ownership).await.unwrap());
    assert!(!disarm(&spec, Side::Target, &ownership).await.unwrap());
    assert_eq!(fenced(&two, &two.target).await, 0);
    writes(&two, &two.target).await;
    owner.batch_execute("alter table counted rename to counters").await.unwrap();
    // Who comes after an old backup of the control database finds the tenant by what stays.
    let known = berth_mover::fences(&spec.target, Side::Target).await.unwrap();
    assert_eq!(known, [(two.tenant.to_string(), true, Generation::new(2), ownership.row().token)]);
    assert!(unfence(&spec, Side::Target, &ownership).await.unwrap());
    nothing_of_berth(&two, &two.target).await;
    writes(&two, &two.target).await;
    // Again: there is nothing any more, and nothing is wrong with that.
    assert!(!unfence(&spec, Side::Target, &ownership).await.unwrap());
    // And the tenant moves on as if it had never moved.
    let source = two.client(&two.target, Role::Mover).await;
    let here = rows_of(&source, two.tenant).await;
    let back = MoveSpec {
        id: two.spec().id,
        source: spec.target.clone(),
        target: spec.source.clone(),
        source_cell: spec.target_cell,
        target_cell: spec.source_cell,
        alone: false,
        ..two.spec()
    };
    let (plan, _) = until_built(&back, &ownership).await;
    cut_over(&back, &plan, &ownership).await.unwrap();
    assert_eq!(rows_of(&two.client(&two.source, Role::Mover).await, two.tenant).await, here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_given_up_leaves_nothing_either() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let spec = two.spec();
    let (plan, _) = until_built(&spec, &ownership).await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    for side in [Side::Target, Side::Source] {
        assert!(unfence(&spec, side, &ownership).await.unwrap());
    }
    nothing_of_berth(&two, &two.source).await;
    nothing_of_berth(&two, &two.target).await;
    writes(&two, &two.source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_somebody_needs_stays() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let (plan, token) = until_built(&spec, &ownership).await;
    // Under way: neither side's.
    for side in [Side::Source, Side::Target] {
        assert!(!unfence(&spec, side, &ownership).await.unwrap());
    }
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    // Over, and the old side still has the rows: its fence keeps late writers out of them.
    assert!(!unfence(&spec, Side::Source, &ownership).await.unwrap());
    let late = two.client(&two.source, Role::App).await;
    let error = late.execute("update customers set name = 'x' where id = $1", &[&two.tenant]).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("BF001"));
}

/// What a worker sees that stood still for a long time after it had asked: the row of that time.
struct LongAgo {
    row: Control,
    asked: Notify,
    answered: Notify,
}

#[async_trait]
impl Ownership for LongAgo {
    async fn read(&self) -> Option<Control> {
        self.asked.notify_one();
        self.answered.notified().await;
        Some(self.row)
    }
    async fn change(&self, _held: berth_domain::Token, _change: Change) -> Verdict {
        Verdict::Unknown
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stood_still_meanwhile_does_not_fence_the_tenant_in_again() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let spec = two.spec();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    assert_eq!(row.phase, MovePhase::Running);
    let long_ago = Arc::new(LongAgo { row, asked: Notify::new(), answered: Notify::new() });
    let late = {
        let (spec, plan, long_ago) = (spec.clone(), plan.clone(), Arc::clone(&long_ago));
        tokio::spawn(async move { berth_mover::prepare(&spec, &plan, row, &*long_ago).await })
    };
    long_ago.asked.notified().await;
    // Another worker brings the move to its end, and everything of it goes.
    let (_, plan) = settled(&two, &ownership).await;
    assert!(unfence(&spec, Side::Target, &ownership).await.unwrap());
    // The first one wakes up with its answer, over sessions that it has had since then.
    long_ago.answered.notify_one();
    let ended = late.await.unwrap();
    assert!(ended.is_err(), "it went on");
    nothing_of_berth(&two, &two.target).await;
    writes(&two, &two.target).await;
    // One that asks only now learns that its token is old.
    let refused = berth_mover::prepare(&spec, &plan, row, &ownership).await;
    assert!(matches!(refused, Err(MoveError::Fenced { .. })), "{refused:?}");
    nothing_of_berth(&two, &two.target).await;
}

/// What a worker sees that stood still after it had raised the token, before the next one did.
struct JustBefore {
    row: Control,
    asked: Notify,
    answered: Notify,
}

#[async_trait]
impl Ownership for JustBefore {
    async fn read(&self) -> Option<Control> {
        Some(self.row)
    }
    async fn change(&self, _held: berth_domain::Token, _change: Change) -> Verdict {
        self.asked.notify_one();
        self.answered.notified().await;
        Verdict::Changed(self.row)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_a_fence_away_and_stood_still_leaves_that_of_the_next_move_alone() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let (spec, _) = settled(&two, &ownership).await;
    for whole in [false, true] {
        let row = berth_mover::take(&ownership).await.unwrap();
        let before = Arc::new(JustBefore { row, asked: Notify::new(), answered: Notify::new() });
        let late = {
            let (spec, before) = (spec.clone(), Arc::clone(&before));
            tokio::spawn(async move {
                if whole {
                    unfence(&spec, Side::Target, &*before).await
                } else {
                    disarm(&spec, Side::Target, &*before).await
                }
            })
        };
        before.asked.notified().await;
        let on = MoveSpec {
            id: two.spec().id,
            source: spec.target.clone(),
            target: spec.source.clone(),
            source_cell: spec.target_cell,
            target_cell: spec.source_cell,
            alone: false,
            ..two.spec()
        };
        let (plan, _) = until_built(&on, &ownership).await;
        before.answered.notify_one();
        assert!(late.await.unwrap().is_err(), "it went on");
        assert!(fenced(&two, &two.target).await > 0);
        let token = berth_mover::give_up(&on, &ownership).await.unwrap();
        berth_mover::retire(&on, &plan, false, token).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_fence_and_the_beginning_of_another_do_not_meet() {
    let two = Two::shared(SCHEMA).await;
    let tenants = [two.tenant, two.neighbour];
    let client = two.client(&two.source, Role::Mover).await;
    for tenant in tenants {
        client.execute("insert into customers values ($1, 'T')", &[&tenant]).await.unwrap();
    }
    // Each in turn is the only one with a fence, while the other's is made.
    let each = tenants.map(|tenant| {
        let spec = MoveSpec { alone: false, ..two.spec_of(tenant) };
        tokio::spawn(async move {
            for _ in 0..15 {
                let ownership = MemoryOwnership::new();
                let plan = berth_mover::plan(&spec).await?;
                let row = berth_mover::begin(&spec, &ownership).await?;
                berth_mover::prepare(&spec, &plan, row, &ownership).await?;
                let token = berth_mover::give_up(&spec, &ownership).await?;
                berth_mover::retire(&spec, &plan, false, token).await?;
                for side in [Side::Target, Side::Source] {
                    assert!(unfence(&spec, side, &ownership).await?);
                }
            }
            Ok::<_, MoveError>(())
        })
    });
    for task in each {
        task.await.unwrap().unwrap();
    }
    nothing_of_berth(&two, &two.source).await;
    nothing_of_berth(&two, &two.target).await;
}
