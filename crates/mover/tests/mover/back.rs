//! The way back: the old side is kept up to date after the cut-over, a move is undone, and what is left behind goes.

use crate::common::{MemoryOwnership, Two, Watch, cut_over, nothing_of_berth, rows_of, until_built};
use berth_domain::MovePhase;
use berth_infra::Role;
use berth_mover::{Change, MoveError, MovePlan, MoveSpec, Ownership, Tuning, Verdict};
use berth_testkit::wait_until;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Moved, with the way back open.
async fn moved(two: &Two, ownership: &MemoryOwnership) -> (MoveSpec, MovePlan) {
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let (plan, token) = until_built(&spec, ownership).await;
    cut_over(&spec, &plan, ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    (spec, plan)
}

/// Keeps the old side up to date beside the test, until the test lets it go.
struct Keeper {
    watch: Arc<Watch>,
    task: tokio::task::JoinHandle<Result<(), MoveError>>,
}

impl Keeper {
    fn start(spec: &MoveSpec, plan: &MovePlan, ownership: &Arc<MemoryOwnership>) -> Self {
        let watch = Arc::new(Watch::default());
        let (spec, plan, ownership, watching) = (spec.clone(), plan.clone(), Arc::clone(ownership), Arc::clone(&watch));
        let task = tokio::spawn(async move { berth_mover::keep(&spec, &plan, &*ownership, &*watching).await });
        Self { watch, task }
    }
    async fn stop(self) -> Result<(), MoveError> {
        self.watch.cancel.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn change_everything(two: &Two, database: &str) {
    let app = two.client(database, Role::App).await;
    let sql = "update customers set settings = '{\"a\": 1}' where id = 'T';
         insert into vehicles (customer_id, label) select 'T', 'later' || n from generate_series(1, 50) n;
         update vehicles set odometer = odometer + 1 where customer_id = 'T';
         delete from positions where customer_id = 'T' and length(note) < 10;
         insert into counters (customer_id, amount) values ('T', 99);
         update counters set amount = amount + 1 where customer_id = 'T'";
    app.batch_execute(&sql.replace('T', &two.tenant.to_string())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_undone_with_everything_that_was_written_since() {
    let two = Two::filled(2_000).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let neighbour = rows_of(&source, two.neighbour).await;
    change_everything(&two, &two.target).await;
    let keeper = Keeper::start(&spec, &plan, &ownership);
    let now = rows_of(&target, two.tenant).await;
    wait_until("the old side follows", async || rows_of(&source, two.tenant).await, |rows| *rows == now).await;
    // A restart of the keeper goes on where it was; one change falls between.
    keeper.stop().await.unwrap();
    change_everything_again(&two, &two.target).await;
    let keeper = Keeper::start(&spec, &plan, &ownership);
    let now = rows_of(&target, two.tenant).await;
    wait_until("it follows again", async || rows_of(&source, two.tenant).await, |rows| *rows == now).await;
    // Undone beside a keeper that nobody told: it loses, and says so.
    change_everything_again(&two, &two.target).await;
    let back = spec.back();
    let cut = cut_over(&back, &plan, &*ownership).await.unwrap();
    assert!(keeper.stop().await.is_err());
    let row = ownership.row();
    assert_eq!((row.owner, row.phase, row.generation.get()), (spec.source_cell, MovePhase::Idle, 3));
    assert_eq!(rows_of(&source, two.tenant).await, rows_of(&target, two.tenant).await);
    assert!(cut.rows_verified > 1_000);
    // The old home takes writes, the other refuses them; identities go on beyond what the other has handed out.
    change_everything_again(&two, &two.source).await;
    let refused = two.client(&two.target, Role::App).await;
    let error = refused.execute("update customers set name = 'x' where id = $1", &[&two.tenant]).await.unwrap_err();
    assert_eq!(error.code().map(|c| c.code().to_owned()).as_deref(), Some("BF001"));
    berth_mover::retire(&back, &plan, true, row.token).await.unwrap();
    let watch = Watch::default();
    let gone = berth_mover::release(&back, &plan, &*ownership, &watch).await.unwrap();
    assert!(gone > 1_000);
    assert!(rows_of(&target, two.tenant).await.is_empty());
    assert_eq!(rows_of(&source, two.neighbour).await, neighbour);
    nothing_of_berth(&two, &two.target).await;
}

async fn change_everything_again(two: &Two, database: &str) {
    let app = two.client(database, Role::App).await;
    let sql = "update vehicles set label = label || '.' where customer_id = 'T';
         insert into counters (customer_id, amount) values ('T', 7);
         delete from vehicles where customer_id = 'T' and label like 'later1.%'";
    app.batch_execute(&sql.replace('T', &two.tenant.to_string())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_past_the_edge_lose_nothing_when_a_move_is_undone() {
    let two = Arc::new(Two::filled(1_000).await);
    let ownership = Arc::new(MemoryOwnership::new());
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..3 {
        let (two, stop) = (Arc::clone(&two), Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let clients = [two.client(&two.source, Role::App).await, two.client(&two.target, Role::App).await];
            let (mut at, mut written, mut refused) = (0, Vec::new(), 0_u32);
            while !stop.load(Ordering::SeqCst) {
                let event = Uuid::new_v4();
                let insert = "insert into positions (customer_id, vehicle_id, event_id, lat)
                     select $1, id, $2, -1 from vehicles where customer_id = $1 order by label limit 1";
                match clients[at].execute(insert, &[&two.tenant, &event]).await {
                    Ok(1) => written.push(event),
                    Ok(_) => at = 1 - at,
                    Err(error) if error.code().is_some_and(|c| c.code() == "BF001") => {
                        refused += 1;
                        at = 1 - at;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            (written, refused)
        }));
    }
    let (spec, plan) = moved(&two, &ownership).await;
    let keeper = Keeper::start(&spec, &plan, &ownership);
    let target = two.client(&two.target, Role::Mover).await;
    let count = async || {
        let rows = target.query_one("select count(*) from positions where lat = -1", &[]).await.unwrap();
        rows.get::<_, i64>(0)
    };
    let at_cut = count().await;
    wait_until("they write at the new home", &count, |now| *now > at_cut + 100).await;
    cut_over(&spec.back(), &plan, &*ownership).await.unwrap();
    let _lost_to_the_undo = keeper.stop().await;
    let source = two.client(&two.source, Role::Mover).await;
    let home = async || {
        let rows = source.query_one("select count(*) from positions where lat = -1", &[]).await.unwrap();
        rows.get::<_, i64>(0)
    };
    let at_undo = home().await;
    wait_until("they write at the old home", &home, |now| *now > at_undo + 100).await;
    stop.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for writer in writers {
        let (written, refusals) = writer.await.unwrap();
        acknowledged.extend(written);
        refused += refusals;
    }
    let rows = source.query("select event_id from positions where lat = -1", &[]).await.unwrap();
    let mut found: Vec<Uuid> = rows.iter().map(|r| r.get(0)).collect();
    found.sort_unstable();
    acknowledged.sort_unstable();
    assert!(found == acknowledged, "{} there, {} acknowledged", found.len(), acknowledged.len());
    assert!(refused >= 2, "no writer met a fence");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_left_behind_go_and_the_tenants_own_do_not() {
    let two = Two::filled(3_000).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let (neighbour, here) = (rows_of(&source, two.neighbour).await, rows_of(&target, two.tenant).await);
    let watch = Watch::default();
    // The side that owns the tenant is refused, whoever asks.
    let refused = berth_mover::release(&spec.back(), &plan, &*ownership, &watch).await;
    assert!(matches!(refused, Err(MoveError::LivesThere)), "{refused:?}");
    // And by the fence alone, should the control row be wrong about it.
    let lying = MemoryOwnership::new();
    while lying.row().token < ownership.row().token {
        assert!(matches!(lying.change(lying.row().token, Change::Take).await, Verdict::Changed(_)));
    }
    let refused = berth_mover::release(&spec.back(), &plan, &lying, &watch).await;
    assert!(matches!(refused, Err(MoveError::Fenced { .. })), "{refused:?}");
    assert_eq!(rows_of(&target, two.tenant).await, here);

    berth_mover::close_way_back(&spec).await.unwrap();
    let gone = berth_mover::release(&spec, &plan, &*ownership, &watch).await.unwrap();
    assert_eq!(gone, 3_000 + 10 + 5 + 1);
    assert!(rows_of(&source, two.tenant).await.is_empty());
    assert_eq!(rows_of(&source, two.neighbour).await, neighbour);
    assert_eq!(rows_of(&target, two.tenant).await, here);
    nothing_of_berth(&two, &two.source).await;
    // Again: nothing is there any more, and nothing is wrong with that.
    assert_eq!(berth_mover::release(&spec, &plan, &*ownership, &watch).await.unwrap(), 0);
    berth_mover::close_way_back(&spec).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_is_given_up_leaves_the_way_back_open() {
    let two = Two::filled(300).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;
    let back = spec.back();
    berth_mover::begin(&back, &*ownership).await.unwrap();
    berth_mover::give_up(&back, &*ownership).await.unwrap();
    assert_eq!((ownership.row().owner, ownership.row().phase), (spec.target_cell, MovePhase::Idle));
    change_everything(&two, &two.target).await;
    cut_over(&back, &plan, &*ownership).await.unwrap();
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    assert_eq!(rows_of(&source, two.tenant).await, rows_of(&target, two.tenant).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_given_up_leaves_no_way_back_behind() {
    let two = Two::filled(300).await;
    let ownership = MemoryOwnership::new();
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let (plan, _) = until_built(&spec, &ownership).await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    let look = two.client(&two.target, Role::Mover).await;
    let slots: i64 = look.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, 0);
    // And a second try finds the place free.
    let again = MoveSpec { id: berth_domain::MoveId::new(Uuid::now_v7()), ..spec };
    let (plan, token) = until_built(&again, &ownership).await;
    cut_over(&again, &plan, &ownership).await.unwrap();
    berth_mover::retire(&again, &plan, true, token).await.unwrap();
}

/// Writes of others, which a slot holds back that stands still.
async fn write_ahead(two: &Two) {
    let others = two.client(&two.source, Role::Mover).await;
    for _ in 0..3 {
        let bulk = "insert into vehicles (customer_id, label) select $1, gen_random_uuid()::text from generate_series(1, 20000)";
        others.execute(bulk, &[&two.neighbour]).await.unwrap();
        others.batch_execute("select pg_switch_wal()").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_holds_back_too_much_ends_while_the_old_side_follows() {
    let two = Two::filled(300).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;
    let spec = MoveSpec { tuning: Tuning { way_back_wal_bytes: 24 << 20, ..spec.tuning.clone() }, ..spec };
    // A transaction that stays open: all before it is confirmed, and what came since is held for it.
    let open = two.client(&two.target, Role::Mover).await;
    open.batch_execute("begin; insert into customers values (gen_random_uuid(), 'open')").await.unwrap();
    change_everything(&two, &two.target).await;
    let keeper = Keeper::start(&spec, &plan, &ownership);
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let now = rows_of(&target, two.tenant).await;
    wait_until("the old side follows", async || rows_of(&source, two.tenant).await, |rows| *rows == now).await;
    assert!(keeper.watch.seen.lock().unwrap().iter().any(|p| p.bytes_behind.is_some()), "it is said how far it is");
    write_ahead(&two).await;
    wait_until("the keeper ends", async || keeper.task.is_finished(), |ended| *ended).await;
    let ended = keeper.stop().await;
    assert!(matches!(ended, Err(MoveError::WayBackOver { most_mb: 24, .. })), "{ended:?}");
    open.batch_execute("rollback").await.unwrap();
    berth_mover::close_way_back(&spec).await.unwrap();
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(target.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is held back any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_whose_old_side_is_gone_does_not_hold_back_for_ever() {
    let two = Two::filled(300).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (mut spec, plan) = moved(&two, &ownership).await;
    spec.tuning.way_back_wal_bytes = 24 << 20;
    // Nobody listens there.
    spec.source.port = 1;
    let watch = Watch::default();
    let failed = berth_mover::keep(&spec, &plan, &*ownership, &watch).await;
    assert!(matches!(failed, Err(MoveError::Connect { .. })), "{failed:?}");
    write_ahead(&two).await;
    let over = berth_mover::keep(&spec, &plan, &*ownership, &watch).await;
    assert!(matches!(over, Err(MoveError::WayBackOver { .. })), "{over:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_meets_a_neighbours_row_ends_instead_of_trying_for_ever() {
    let two = Two::filled(300).await;
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;
    let (old, new) = (two.client(&two.source, Role::App).await, two.client(&two.target, Role::App).await);
    let keeper = Keeper::start(&spec, &plan, &ownership);
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    change_everything(&two, &two.target).await;
    let now = rows_of(&target, two.tenant).await;
    wait_until("the old side follows", async || rows_of(&source, two.tenant).await, |rows| *rows == now).await;

    // As if another worker had come further meanwhile: what stands there then may be its own, and is no verdict.
    let further = "update berth.fence set applied = applied + 1::numeric";
    let met = "insert into vehicles (id, customer_id, label) values ($1, $2, 'met')";
    let id = Uuid::new_v4();
    old.execute(met, &[&id, &two.neighbour]).await.unwrap();
    source.batch_execute(further).await.unwrap();
    new.execute(met, &[&id, &two.tenant]).await.unwrap();
    wait_until("the keeper ends", async || keeper.task.is_finished(), |ended| *ended).await;
    let ended = keeper.stop().await;
    assert!(matches!(ended, Err(MoveError::Fenced { .. })), "{ended:?}");

    source.batch_execute(&further.replace('+', "-")).await.unwrap();
    // The server may not have noticed yet that the first one left.
    let keep = async || berth_mover::keep(&spec, &plan, &*ownership, &Watch::default()).await.unwrap_err();
    let is_over =
        |error: &MoveError| matches!(error, MoveError::WayBackBarred { why } if why.contains("vehicles_pkey"));
    let ended = wait_until("the way back ends", keep, is_over).await;
    assert!(ended.hint().contains("goes on where it is"), "{}", ended.hint());
    // An undo says the same, and leaves the tenant where it is.
    let undo = cut_over(&spec.back(), &plan, &*ownership).await;
    assert!(matches!(undo, Err(MoveError::WayBackBarred { .. })), "{undo:?}");
    berth_mover::give_up(&spec.back(), &*ownership).await.unwrap();
    berth_mover::close_way_back(&spec).await.unwrap();
    let left = "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)";
    assert_eq!(target.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is held back any more");
    change_everything_again(&two, &two.target).await;
    let theirs = old.query_one("select customer_id from vehicles where id = $1", &[&id]).await.unwrap();
    assert_eq!(theirs.get::<_, Uuid>(0), two.neighbour);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_the_old_side_lacks_is_waited_for() {
    let days = "create table customers (id uuid primary key);
        create table visits (customer_id uuid not null references customers, day int, primary key (customer_id, day)) partition by range (day);
        create table visits_1 partition of visits for values from (0) to (10);
        create table visits_2 partition of visits for values from (10) to (20);";
    let two = Two::shared(days).await;
    let (source, owner) = (two.client(&two.source, Role::Mover).await, two.client(&two.source, Role::Owner).await);
    source.execute("insert into customers values ($1)", &[&two.tenant]).await.unwrap();
    let visit = "insert into visits values ($1, $2)";
    source.execute(visit, &[&two.tenant, &1]).await.unwrap();
    let ownership = Arc::new(MemoryOwnership::new());
    let (spec, plan) = moved(&two, &ownership).await;

    owner.batch_execute("drop table visits_2").await.unwrap();
    let keeper = Keeper::start(&spec, &plan, &ownership);
    two.client(&two.target, Role::App).await.execute(visit, &[&two.tenant, &11]).await.unwrap();
    wait_until("the keeper stops", async || keeper.task.is_finished(), |ended| *ended).await;
    let lacks = keeper.stop().await.unwrap_err();
    assert!(matches!(lacks, MoveError::Statement { .. }) && !lacks.ends_the_way_back(), "{lacks:?}");

    owner.batch_execute("create table visits_2 partition of visits for values from (10) to (20)").await.unwrap();
    let watch = Arc::new(Watch::default());
    let keeping = {
        let (watch, ownership) = (Arc::clone(&watch), Arc::clone(&ownership));
        tokio::spawn(async move {
            // The server may not have noticed yet that the first keeper left.
            while let Err(error) = berth_mover::keep(&spec, &plan, &*ownership, &*watch).await {
                assert!(!error.ends_the_way_back(), "{error:?}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
    };
    let visits = async || source.query_one("select count(*) from visits", &[]).await.unwrap().get::<_, i64>(0);
    wait_until("the row comes", visits, |rows| *rows == 2).await;
    watch.cancel.store(true, Ordering::SeqCst);
    keeping.await.unwrap();
}
