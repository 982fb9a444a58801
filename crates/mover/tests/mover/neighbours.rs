//! Neighbours of a tenant that moves wait for no lock of the move longer than the move may wait for theirs.

use crate::common::{self, MemoryOwnership, Two, Watch, rows_of};
use berth_domain::TenantKey;
use berth_infra::Role;
use berth_testkit::wait_until;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_postgres::Client;
use uuid::Uuid;

/// What a neighbour puts up with: far below what it would wait for a transaction that stays open, and far above what the
/// mover keeps it waiting, on any machine. How long that is the mover's own statement says: see [`queued`].
const PATIENCE: &str = "set lock_timeout = '400ms'";

/// The most that a neighbour may wait for a lock of a move.
const PROMISED_MS: u64 = 20;

/// For how long the mover stands in the queue that it is in, with everybody behind it; none while it is in none.
async fn queued(look: &Client) -> Option<u64> {
    let waits = "select a.query from pg_locks l join pg_stat_activity a on a.pid = l.pid
        where not l.granted and l.mode = 'ShareRowExclusiveLock' and a.application_name like 'berth-%'";
    let row = look.query(waits, &[]).await.unwrap().pop()?;
    let query: String = row.get(0);
    let (_, limit) = query.split_once("set local lock_timeout = ").unwrap_or_else(|| panic!("no limit in {query}"));
    Some(limit.split(';').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_waits_for_one_neighbour_keeps_no_other_waiting() {
    let two = Arc::new(Two::filled(200).await);
    let spec = two.spec();
    let ownership = Arc::new(MemoryOwnership::new());
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &*ownership).await.unwrap();
    // A neighbour's transaction that has written each table and stays open: no trigger can be made meanwhile.
    let open = two.client(&two.source, Role::App).await;
    let touch = "begin; update customers set name = 'open' where id = 'NEIGHBOUR';
                 update vehicles set odometer = 1 where customer_id = 'NEIGHBOUR' and label = 'v1';
                 update counters set amount = 7 where customer_id = 'NEIGHBOUR' and amount = 1";
    open.batch_execute(&touch.replace("NEIGHBOUR", &two.neighbour.to_string())).await.unwrap();

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (two, stop, written) = (Arc::clone(&two), Arc::clone(&stop), Arc::clone(&written));
        tokio::spawn(async move {
            let app = two.client(&two.source, Role::App).await;
            app.batch_execute(PATIENCE).await.unwrap();
            while !stop.load(Ordering::SeqCst) {
                let insert = "insert into vehicles (customer_id, label) values ($1, gen_random_uuid()::text)";
                app.execute(insert, &[&two.neighbour]).await?;
                let update = "update customers set settings = '{}' where id = $1";
                app.execute(update, &[&two.tenant]).await?;
                written.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<(), tokio_postgres::Error>(())
        })
    };
    let preparing = {
        let (spec, plan, ownership) = (spec.clone(), plan.clone(), Arc::clone(&ownership));
        tokio::spawn(async move { berth_mover::prepare(&spec, &plan, row, &*ownership).await })
    };
    // The mover has stood in the queue: seen in the server, waiting for a lock that conflicts with all writers.
    let look = two.client(&two.source, Role::Mover).await;
    let limit_ms = wait_until("the mover waits for the neighbour", async || queued(&look).await, Option::is_some).await;
    assert!((1..=spec.tuning.lock_wait_ms).contains(&limit_ms.unwrap()), "{limit_ms:?}");
    assert!(spec.tuning.lock_wait_ms <= PROMISED_MS);
    let seen = written.load(Ordering::SeqCst);
    wait_until("others write on", async || written.load(Ordering::SeqCst), |now| *now > seen + 100).await;
    assert!(!preparing.is_finished(), "the triggers were made beside an open writer");
    open.batch_execute("commit").await.unwrap();
    preparing.await.unwrap().unwrap();
    // The copy beside the same writers.
    let watch = Watch::default();
    berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
    common::cut_over(&spec, &plan, &*ownership).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    let ended = writer.await.unwrap();
    // The one that also writes the moved tenant ends at its fence, and at nothing else.
    if let Err(error) = ended {
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("BF001"), "{error:?}");
    }
    let target = two.client(&two.target, Role::Mover).await;
    assert!(rows_of(&target, two.neighbour).await.is_empty());
}

/// An autovacuum steps aside for who has waited for `deadlock_timeout`, which the mover never does. What it holds the whole
/// time is held here by somebody else, so that it is held long enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_waits_for_a_vacuum_in_moments_and_not_in_one_go() {
    let two = Two::filled(200).await;
    let (spec, ownership) = (two.spec(), Arc::new(MemoryOwnership::new()));
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &*ownership).await.unwrap();
    let vacuum = two.client(&two.source, Role::Mover).await;
    vacuum.batch_execute("begin; lock table vehicles in share update exclusive mode").await.unwrap();
    let preparing = {
        let (spec, plan, ownership) = (spec.clone(), plan.clone(), Arc::clone(&ownership));
        tokio::spawn(async move { berth_mover::prepare(&spec, &plan, row, &*ownership).await })
    };
    let look = two.client(&two.source, Role::Mover).await;
    let app = two.client(&two.source, Role::App).await;
    app.batch_execute(PATIENCE).await.unwrap();
    for _ in 0..5 {
        let limit_ms = wait_until("the mover waits for it", async || queued(&look).await, Option::is_some).await;
        assert!((1..=PROMISED_MS).contains(&limit_ms.unwrap()), "{limit_ms:?}");
        // Past the vacuum, and past the mover in the queue.
        let insert = "insert into vehicles (customer_id, label) values ($1, gen_random_uuid()::text)";
        app.execute(insert, &[&two.neighbour]).await.unwrap();
    }
    assert!(!preparing.is_finished(), "the triggers were made beside a vacuum");
    vacuum.batch_execute("commit").await.unwrap();
    preparing.await.unwrap().unwrap();
}

/// Moves of several tenants at once count their tokens alike; what one writes into the stream is not for the others.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_move_at_once_do_not_take_each_others_markers() {
    const TENANTS: usize = 4;
    let two = Arc::new(Two::with(common::SCHEMA).await);
    let source = two.client(&two.source, Role::Mover).await;
    let tenants: Vec<Uuid> = (0..TENANTS).map(|_| Uuid::new_v4()).collect();
    for tenant in &tenants {
        let fill = format!(
            "insert into customers values ('{tenant}', 'T');
             insert into vehicles (customer_id, label) select '{tenant}', 'v' || n from generate_series(1, 300) n"
        );
        source.batch_execute(&fill).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for tenant in tenants.clone() {
        let (two, stop) = (Arc::clone(&two), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let app = two.client(&two.source, Role::App).await;
            let mut written = 0_i64;
            while !stop.load(Ordering::SeqCst) {
                let insert = "insert into vehicles (customer_id, label) values ($1, gen_random_uuid()::text)";
                match app.execute(insert, &[&tenant]).await {
                    Ok(_) => written += 1,
                    Err(error) if error.code().is_some_and(|c| c.code() == "BF001") => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            written
        }));
    }
    let mut moves = Vec::new();
    for (nth, tenant) in tenants.iter().enumerate() {
        let mut spec = two.spec();
        spec.tenant = TenantKey::new(tenant.to_string()).unwrap();
        let target = two.pg.database(&format!("target{nth}")).await;
        two.client(&target, Role::Owner).await.batch_execute(common::SCHEMA).await.unwrap();
        spec.target = two.endpoint(&target);
        moves.push(tokio::spawn(async move {
            common::run_move(&spec, &MemoryOwnership::new()).await.unwrap();
            target
        }));
    }
    let mut targets = Vec::new();
    for one in moves {
        targets.push(one.await.unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    for ((writer, tenant), target) in writers.into_iter().zip(tenants).zip(targets) {
        let written = writer.await.unwrap();
        assert!(written > 0);
        let client = two.client(&target, Role::Mover).await;
        let there = client.query_one("select count(*) from vehicles where customer_id = $1", &[&tenant]).await.unwrap();
        assert_eq!(there.get::<_, i64>(0), 300 + written);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_the_target_cannot_touch_rows_that_only_arrive() {
    let two = Two::filled(200).await;
    let spec = two.spec();
    let ownership = MemoryOwnership::new();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    berth_mover::copy(&spec, &plan, row.token, &Watch::default()).await.unwrap();
    let worker = two.client(&two.target, Role::App).await;
    let see = "select count(*) from counters where customer_id = $1";
    assert_eq!(worker.query_one(see, &[&two.tenant]).await.unwrap().get::<_, i64>(0), 5, "what it polls is there");
    for sql in [
        "update counters set amount = 100 where customer_id = $1",
        "delete from counters where customer_id = $1",
        "insert into counters (customer_id) values ($1)",
    ] {
        let refused = worker.execute(sql, &[&two.tenant]).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "BF001", "{sql}");
    }
    // And the move goes on as if nobody had tried.
    berth_mover::build(&spec, &plan, row.token, &Watch::default()).await.unwrap();
    let moved = berth_mover::cut_over(&spec, &plan, &ownership, &common::NoEdges, &Watch::default()).await;
    assert_eq!(moved.unwrap().rows_verified, plan.rows as u64);
}
