//! What a move may take of its servers, and what it does when that is not enough.

use crate::common::{MemoryOwnership, Two, Watch, cut_over, rows_of, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Progress, Tuning, Watcher};
use berth_testkit::wait_until;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Remembers what was said.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Watcher for Notes {
    fn progress(&self, progress: Progress) {
        self.0.lock().unwrap().extend(progress.note);
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_rests_while_its_neighbours_commit_slowly() {
    let two = Two::filled(200_000).await;
    let spec = MoveSpec { alone: false, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    let (stop, notes) = (AtomicBool::new(false), Notes::default());
    let neighbour = async {
        let app = two.client(&two.source, Role::App).await;
        while !stop.load(Ordering::SeqCst) {
            let write = "update vehicles set odometer = odometer + 1 where customer_id = $1 and label = 'v1'";
            app.execute(write, &[&two.neighbour]).await.unwrap();
        }
    };
    // Again and again every commit of the server waits: what a disk that is too busy does.
    let slow = async {
        let admin = two.client(&two.source, Role::Mover).await;
        let mut seen = false;
        while !stop.load(Ordering::SeqCst) {
            seen |= has_slot(&admin).await;
            if seen {
                admin.batch_execute("alter system set synchronous_standby_names = 'nobody'").await.unwrap();
                admin.batch_execute("select pg_reload_conf()").await.unwrap();
                tokio::time::sleep(Duration::from_millis(60)).await;
                admin.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
                admin.batch_execute("select pg_reload_conf()").await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(seen, "the copy was over before its slot was seen");
    };
    let copy = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let copied = berth_mover::copy(&spec, &plan, row.token, &notes).await.unwrap();
        stop.store(true, Ordering::SeqCst);
        copied
    };
    let (copied, (), ()) = tokio::join!(copy, neighbour, slow);
    assert!(copied.rested_ms > 0, "{copied:?}");
    let source = two.client(&two.source, Role::Mover).await;
    let target = two.client(&two.target, Role::Mover).await;
    assert_eq!(rows_of(&target, two.tenant).await, rows_of(&source, two.tenant).await);
}

/// Whether the copy's slot is there.
async fn has_slot(client: &tokio_postgres::Client) -> bool {
    client.query_one("select exists (select from pg_replication_slots)", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_neighbours_never_rests() {
    let two = Two::filled(5_000).await;
    let spec =
        MoveSpec { alone: false, tuning: Tuning { neighbours_slowdown: 1.001, ..two.spec().tuning }, ..two.spec() };
    let ownership = MemoryOwnership::new();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    // Whoever filled the databases has been silent for longer than a look goes back.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let copied = berth_mover::copy(&spec, &plan, row.token, &Watch::default()).await.unwrap();
    assert_eq!(copied.rested_ms, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_at_once_in_one_server_have_one_measurement() {
    let two = Two::filled(100_000).await;
    let specs = [two.spec(), two.spec_of(two.neighbour)].map(|spec| MoveSpec { alone: false, ..spec });
    let mut ready = Vec::new();
    for spec in specs {
        let ownership = MemoryOwnership::new();
        let plan = berth_mover::plan(&spec).await.unwrap();
        let row = berth_mover::begin(&spec, &ownership).await.unwrap();
        berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
        ready.push((spec, plan, row.token));
    }
    let stop = AtomicBool::new(false);
    let look = async {
        let client = two.client(&two.source, Role::Mover).await;
        let measuring = "select count(*) from pg_stat_activity where application_name = 'berth-pace'";
        let mut most = 0;
        while !stop.load(Ordering::SeqCst) {
            most = most.max(client.query_one(measuring, &[]).await.unwrap().get::<_, i64>(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        most
    };
    let watch = Watch::default();
    let copies = async {
        let copies = ready.iter().map(|(spec, plan, token)| berth_mover::copy(spec, plan, *token, &watch));
        let copied = futures_util::future::join_all(copies).await;
        stop.store(true, Ordering::SeqCst);
        copied
    };
    let (copied, most) = tokio::join!(copies, look);
    for copied in copied {
        assert!(copied.unwrap().rows > 100_000);
    }
    assert_eq!(most, 1);
}

/// More of the server's log than the bound of these tests, written by a neighbour.
async fn much_is_written(two: &Two, source: &tokio_postgres::Client) {
    for _ in 0..3 {
        let bulk = "insert into vehicles (customer_id, label) select $1, gen_random_uuid()::text from generate_series(1, 20000)";
        source.execute(bulk, &[&two.neighbour]).await.unwrap();
        source.batch_execute("select pg_switch_wal()").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_slot_holds_back_is_looked_at_while_keys_are_built_too() {
    let two = Two::filled(1_000).await;
    let mut spec = two.spec();
    spec.tuning.move_wal_bytes = 8 << 20;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    // Builds for 50 s, unless it is ended.
    let slow = "create function slow(v double precision) returns double precision language plpgsql immutable as
                    'begin perform pg_sleep(0.05); return v; end';
                create index on positions (public.slow(lat))";
    target.batch_execute(slow).await.unwrap();
    let ownership = MemoryOwnership::new();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    let watch = Watch::default();
    berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    let write = async {
        let building =
            "select count(*) from pg_stat_activity where query ilike '%create index%slow%' and pid <> pg_backend_pid()";
        let building = async || target.query_one(building, &[]).await.unwrap().get::<_, i64>(0);
        wait_until("keys are built", building, |n| *n > 0).await;
        much_is_written(&two, &source).await;
    };
    let (built, ()) = tokio::join!(berth_mover::build(&spec, &plan, row.token, &watch), write);
    let ended = built.unwrap_err();
    assert!(matches!(ended, MoveError::TooMuchWal { most_mb: 8, .. }), "{ended}");
    target.batch_execute("create or replace function slow(v double precision) returns double precision language sql immutable as 'select v'").await.unwrap();
    berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, ownership.row().token).await.unwrap();
    assert!(!has_slot(&source).await, "nothing is held back any more");
}

/// A worker looks itself; where none lives the slot goes rather than the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_works_with_is_taken_away_at_the_bound() {
    let two = Two::filled(100).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &ownership).await;
    let source = two.client(&two.source, Role::Mover).await;
    much_is_written(&two, &source).await;
    let tuning = Tuning { move_wal_bytes: 8 << 20, ..Tuning::default() };
    let bound = async |tuning: &Tuning| berth_mover::bound_log(&spec.source, spec.id, spec.way, tuning).await;
    bound(&Tuning::default()).await.unwrap();
    let worker = two.client(&two.source, Role::Mover).await;
    let hex = spec.id.uuid().simple().to_string();
    worker.batch_execute(&format!("set application_name = 'berth-move-{}-{token}'", &hex[12..])).await.unwrap();
    bound(&tuning).await.unwrap();
    assert!(has_slot(&source).await, "a worker's slot was taken away");
    drop(worker);
    let ended = async || bound(&tuning).await.err().map(|error| error.code());
    wait_until("the slot is taken away", ended, |code| *code == Some("too_much_wal")).await;
    assert!(!has_slot(&source).await);
    let ended = cut_over(&spec, &plan, &ownership).await.unwrap_err();
    assert!(matches!(ended, MoveError::SlotLost { .. }), "{ended}");
}

#[tokio::test]
async fn a_server_that_bounds_no_slot_is_said_in_the_plan() {
    let two = Two::filled(10).await;
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let notes = async || {
        let notes = berth_mover::plan(&spec).await.unwrap().notes;
        notes.into_iter().filter(|note| note.contains("max_slot_wal_keep_size")).collect::<Vec<_>>()
    };
    assert_eq!(notes().await, Vec::<String>::new());
    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("alter system set max_slot_wal_keep_size = -1").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let said = wait_until("the plan says it of both sides", notes, |notes| notes.len() == 2).await;
    assert!(said[0].starts_with("the source bounds no replication slot") && said[0].contains("= '16GB'"), "{said:?}");
    assert!(said[1].starts_with("the target bounds no replication slot") && said[1].contains("= '4GB'"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_back_too_much_ends_the_move_and_not_the_disk() {
    let two = Two::filled(500).await;
    let mut spec = two.spec();
    let ownership = MemoryOwnership::new();
    let (plan, _) = until_built(&spec, &ownership).await;
    let source = two.client(&two.source, Role::Mover).await;
    let before = rows_of(&source, two.tenant).await;
    // A transaction that stays open keeps the slot where it is, while others write.
    let open = two.client(&two.source, Role::Mover).await;
    open.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    spec.tuning.move_wal_bytes = 8 << 20;
    much_is_written(&two, &source).await;
    let ended = cut_over(&spec, &plan, &ownership).await.unwrap_err();
    assert!(matches!(ended, MoveError::TooMuchWal { most_mb: 8, .. }), "{ended}");
    open.batch_execute("rollback").await.unwrap();
    berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, ownership.row().token).await.unwrap();
    assert!(!has_slot(&source).await, "nothing is held back any more");
    assert_eq!(rows_of(&source, two.tenant).await, before);
    let app = two.client(&two.source, Role::App).await;
    let write = "update customers set name = 'writes on' where id = $1";
    assert_eq!(app.execute(write, &[&two.tenant]).await.unwrap(), 1, "the tenant stays where it was");
}
