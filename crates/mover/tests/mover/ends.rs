//! Moves that end early: killed anywhere, overtaken by another worker, or met by a change that cannot be followed.

use crate::common::{MemoryOwnership, NoEdges, SCHEMA, Two, Watch, cut_over, rows_of, until_built};
use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, MovePhase, Token};
use berth_infra::Role;
use berth_mover::{
    Change, Control, EdgeTrouble, Edges, HoldFigures, MoveError, MovePlan, MoveSpec, Ownership, Refusal, Verdict,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// Lets a worker hang for ever at the nth thing that it asks of the world outside, before or after it is done: whoever
/// drops it then has killed it there.
struct Deadly<'o> {
    ownership: &'o MemoryOwnership,
    calls: AtomicUsize,
    at: usize,
    after: bool,
    reached: Notify,
}

impl Deadly<'_> {
    async fn come_by<T>(&self, act: impl Future<Output = T>) -> T {
        let fatal = self.calls.fetch_add(1, Ordering::SeqCst) == self.at;
        let outcome = if fatal && !self.after { None } else { Some(act.await) };
        match outcome {
            Some(outcome) if !fatal => outcome,
            _ => {
                self.reached.notify_one();
                std::future::pending().await
            }
        }
    }
}

#[async_trait]
impl Ownership for Deadly<'_> {
    async fn read(&self) -> Option<Control> {
        self.ownership.read().await
    }
    async fn change(&self, held: Token, change: Change) -> Verdict {
        self.come_by(self.ownership.change(held, change)).await
    }
}

#[async_trait]
impl Edges for Deadly<'_> {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        self.come_by(NoEdges.all_alive()).await
    }
    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble> {
        self.come_by(NoEdges.wait_held(token, limit)).await
    }
    async fn wait_routed(&self, generation: Generation, limit: Duration) -> Vec<EdgeName> {
        self.come_by(NoEdges.wait_routed(generation, limit)).await
    }
    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures> {
        self.come_by(NoEdges.hold_figures(token, limit)).await
    }
}

async fn fill(two: &Two, tenant: Uuid) {
    fill_in(two, &two.source, tenant).await;
}

async fn fill_in(two: &Two, database: &str, tenant: Uuid) {
    let client = two.client(database, Role::Mover).await;
    let sql = format!(
        "insert into customers values ('{tenant}', 'T');
         insert into vehicles (customer_id, label) select '{tenant}', 'v' || n from generate_series(1, 5) n;
         insert into counters (customer_id, amount) select '{tenant}', n from generate_series(1, 5) n;"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// The refusal's code, or none when the write was taken.
async fn write(two: &Two, database: &str, tenant: Uuid) -> Option<String> {
    let app = two.client(database, Role::App).await;
    let written = app.execute("update customers set name = name || '.' where id = $1", &[&tenant]).await;
    match written {
        Ok(rows) => {
            assert_eq!(rows, 1, "nothing was there to be written");
            None
        }
        Err(error) => Some(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_anywhere_in_the_cut_over_leaves_one_owner_and_the_next_one_finishes() {
    let two = Two::shared(SCHEMA).await;
    let mut kills = 0;
    'points: for at in 0.. {
        for after in [false, true] {
            let tenant = Uuid::new_v4();
            fill(&two, tenant).await;
            let (spec, ownership) = (two.spec_of(tenant), MemoryOwnership::new());
            let (plan, _) = until_built(&spec, &ownership).await;
            // Written after the copy, so that it has to come through the stream.
            assert_eq!(write(&two, &two.source, tenant).await, None);
            let source = two.client(&two.source, Role::Mover).await;
            let before = rows_of(&source, tenant).await;
            if !killed(&spec, &plan, &ownership, at, after).await {
                break 'points; // the last thing that it asks is behind us
            }
            kills += 1;
            let what = format!("killed at {at}, after it: {after}");
            let stale = ownership.row().token;
            let (here, there) = (write(&two, &two.source, tenant).await, write_if_there(&two, tenant).await);
            assert!(here.is_some() || there != Some(None), "{what}: two owners");
            let mut wanted = rows_of(&source, tenant).await;
            let cut = cut_over(&spec, &plan, &ownership).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let row = ownership.row();
            assert_eq!((row.owner, row.phase, row.holding), (spec.target_cell, MovePhase::Idle, false), "{what}");
            assert_eq!(cut.generation.get(), 2, "{what}");
            assert_eq!(write(&two, &two.source, tenant).await.as_deref(), Some("BF001"), "{what}");
            let target = two.client(&two.target, Role::Mover).await;
            if there == Some(None) {
                wanted = rows_of(&target, tenant).await; // it was open already, and has been written above
            }
            assert_eq!(rows_of(&target, tenant).await, wanted, "{what}");
            assert_eq!(wanted.len(), before.len(), "{what}");
            assert_eq!(write(&two, &two.target, tenant).await, None, "{what}");
            refuses_the_dead(&spec, &plan, &ownership, stale, &what).await;
            assert_eq!(rows_of(&target, tenant).await.len(), before.len(), "{what}");
            berth_mover::retire(&spec, &plan, true, row.token).await.unwrap();
        }
    }
    assert!(kills >= 14, "only {kills} points: the worker asks for more than that");
}

/// Cuts over, and dies at that point; false when it came to its end before.
async fn killed(spec: &MoveSpec, plan: &MovePlan, ownership: &MemoryOwnership, at: usize, after: bool) -> bool {
    let deadly = Deadly { ownership, calls: AtomicUsize::new(0), at, after, reached: Notify::new() };
    let watch = Watch::default();
    tokio::select! {
        whole = berth_mover::cut_over(spec, plan, &deadly, &deadly, &watch) => { whole.unwrap(); false }
        () = deadly.reached.notified() => true
    }
}

/// The first one anywhere; the second one, which finds what that left, at a point that differs from time to time.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_killed_on_the_way_leaves_one_owner_too() {
    let two = Two::shared(SCHEMA).await;
    let mut kills = 0;
    for first in 0..14 {
        let (tenant, after) = (Uuid::new_v4(), first % 2 == 0);
        fill(&two, tenant).await;
        let (spec, ownership) = (two.spec_of(tenant), MemoryOwnership::new());
        let (plan, _) = until_built(&spec, &ownership).await;
        let source = two.client(&two.source, Role::Mover).await;
        let rows = rows_of(&source, tenant).await.len();
        for (at, after) in [(first, after), (first * 5 % 9, !after), (first * 3 % 7, after)] {
            kills += u32::from(killed(&spec, &plan, &ownership, at, after).await);
            let (here, there) = (write(&two, &two.source, tenant).await, write_if_there(&two, tenant).await);
            assert!(here.is_some() || there != Some(None), "{first}, then {at}: two owners");
        }
        cut_over(&spec, &plan, &ownership).await.unwrap_or_else(|error| panic!("{first}: {error:?}"));
        let row = ownership.row();
        assert_eq!((row.owner, row.phase, row.holding), (spec.target_cell, MovePhase::Idle, false), "{first}");
        assert_eq!(row.generation.get(), 2, "{first}");
        assert_eq!(write(&two, &two.source, tenant).await.as_deref(), Some("BF001"), "{first}");
        assert_eq!(write(&two, &two.target, tenant).await, None, "{first}");
        let target = two.client(&two.target, Role::Mover).await;
        assert_eq!(rows_of(&target, tenant).await.len(), rows, "{first}");
        berth_mover::retire(&spec, &plan, true, row.token).await.unwrap();
    }
    assert!(kills >= 18, "only {kills} of 42 were killed");
}

/// As [`write`], in the target; none when the tenant is not there to be written.
async fn write_if_there(two: &Two, tenant: Uuid) -> Option<Option<String>> {
    let client = two.client(&two.target, Role::Mover).await;
    let there = client.query("select from customers where id = $1", &[&tenant]).await.unwrap();
    if there.is_empty() { None } else { Some(write(two, &two.target, tenant).await) }
}

/// What a worker that was killed still had on its way arrives now.
async fn refuses_the_dead(spec: &MoveSpec, plan: &MovePlan, ownership: &MemoryOwnership, stale: Token, what: &str) {
    for change in [Change::Hold, Change::Commit, Change::Release, Change::Abort, Change::Finish] {
        let verdict = ownership.change(stale, change).await;
        assert!(matches!(verdict, Verdict::Refused(Refusal::OldToken { .. })), "{what}: {change:?}: {verdict:?}");
    }
    let copy = berth_mover::copy(spec, plan, stale, &Watch::default()).await;
    // The one that died after its last write has a token as good as any, and meets the open fence.
    assert!(matches!(copy, Err(MoveError::Fenced { .. } | MoveError::AlreadyMoved)), "{what}: {copy:?}");
    let given_up = berth_mover::give_up(spec, ownership).await;
    assert!(matches!(given_up, Err(MoveError::AlreadyMoved)), "{what}: {given_up:?}");
    let retired = berth_mover::retire(spec, plan, false, ownership.row().token).await;
    assert!(retired.is_err(), "{what}: somebody who does not ask who owns the tenant cleared its home");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_followed_ends_the_move_and_the_source_is_open_again() {
    cannot_be_followed(true).await;
}

/// The same on the way down: nothing of those who live in the target goes with what had arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_followed_ends_a_move_into_a_shared_database_too() {
    cannot_be_followed(false).await;
}

async fn cannot_be_followed(alone: bool) {
    type Right = fn(&MoveError) -> bool;
    let schema_changed: Right = |e| matches!(e, MoveError::SchemaChanged { .. });
    let truncated: Right = |e| matches!(e, MoveError::Truncated { .. });
    let tenant_changed: Right = |e| matches!(e, MoveError::TenantChanged { .. });
    let tenant_cleared: Right = |e| {
        matches!(e, MoveError::TenantCleared { table, column } if table.name == "Parted" && column == "customer_id")
            && e.hint().contains("ALTER TABLE \"public\".\"Parted\" ALTER COLUMN \"customer_id\" SET NOT NULL")
    };
    for (statement, right) in [
        ("alter table vehicles add column colour text", schema_changed),
        ("alter table vehicles alter column label type varchar(90)", schema_changed),
        ("alter table vehicles disable trigger user", schema_changed),
        ("do $$ declare t name; begin select tgname into t from pg_trigger where tgrelid = 'vehicles'::regclass and tgname like 'berth%' limit 1;
          execute format('drop trigger %I on vehicles', t); end $$", schema_changed),
        ("truncate positions", truncated),
        ("update counters set customer_id = 'NEIGHBOUR', amount = -1 where customer_id = 'TENANT' and amount = 3", tenant_changed),
        ("update \"Parted\" set customer_id = 'NEIGHBOUR' where customer_id = 'TENANT'", tenant_changed),
        ("update \"Parted\" set customer_id = null where customer_id = 'TENANT'", tenant_cleared),
    ] {
        let parted = "create table \"Parted\" (id int, day int, customer_id uuid, primary key (id, day)) partition by range (day);
                      create table parted_1 partition of \"Parted\" for values from (0) to (9);";
        let two = Two::shared(&format!("{SCHEMA}{parted}")).await;
        for tenant in [two.tenant, two.neighbour] {
            fill(&two, tenant).await;
        }
        let owner = two.client(&two.source, Role::Mover).await;
        owner.execute("insert into \"Parted\" values (1, 1, $1)", &[&two.tenant]).await.unwrap();
        owner.execute("select setval('counters_nth_seq', 1000)", &[]).await.unwrap();
        let (target, settled) = (two.client(&two.target, Role::Mover).await, Uuid::new_v4());
        if !alone {
            fill_in(&two, &two.target, settled).await;
        }
        let theirs = rows_of(&target, settled).await;
        let (spec, ownership) = (MoveSpec { alone, ..two.spec() }, MemoryOwnership::new());
        let (plan, _) = until_built(&spec, &ownership).await;
        let statement = statement.replace("TENANT", &two.tenant.to_string());
        let statement = statement.replace("NEIGHBOUR", &two.neighbour.to_string());
        // As the tables' owner, whom the fence does not hold back; what the mover's role does is the mover's own.
        let migration = two.client(&two.source, Role::Owner).await;
        migration.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let cut = cut_over(&spec, &plan, &ownership).await.unwrap_err();
        assert!(right(&cut), "{statement}: {cut:?}");
        assert!(!cut.hint().is_empty());
        let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
        berth_mover::retire(&spec, &plan, false, token).await.unwrap();
        let row = ownership.row();
        assert_eq!((row.owner, row.phase, row.holding), (spec.source_cell, MovePhase::Idle, false), "{statement}");
        assert_eq!(write(&two, &two.source, two.tenant).await, None, "{statement}");
        assert!(rows_of(&target, two.tenant).await.is_empty(), "{statement}");
        assert_eq!(rows_of(&target, settled).await, theirs, "{statement}");
        let left = "select (select count(*) from pg_replication_slots where database = current_database()) + (select count(*) from pg_publication)";
        assert_eq!(owner.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "{statement}");
    }
}

/// Ends all sessions of the mover in the target at the moment at which the owner has changed.
struct Severing<'o> {
    ownership: &'o MemoryOwnership,
    target: tokio_postgres::Client,
}

#[async_trait]
impl Ownership for Severing<'_> {
    async fn read(&self) -> Option<Control> {
        self.ownership.read().await
    }
    async fn change(&self, held: Token, change: Change) -> Verdict {
        let verdict = self.ownership.change(held, change).await;
        if change == Change::Commit {
            let sql = "select pg_terminate_backend(pid, 2000) from pg_stat_activity
                where datname = current_database() and application_name like 'berth-%' and pid <> pg_backend_pid()";
            self.target.execute(sql, &[]).await.unwrap();
        }
        verdict
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_sessions_end_at_the_commit_opens_all_the_same() {
    let two = Two::shared(SCHEMA).await;
    fill(&two, two.tenant).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let severing = Severing { ownership: &ownership, target: two.client(&two.target, Role::Mover).await };
    cut_over(&spec, &plan, &severing).await.unwrap();
    assert_eq!(write(&two, &two.target, two.tenant).await, None);
    assert_eq!(write(&two, &two.source, two.tenant).await.as_deref(), Some("BF001"));
    berth_mover::retire(&spec, &plan, true, ownership.row().token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_after_the_plan_is_told_and_not_waited_for() {
    let two = Two::filled(10).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let plan = berth_mover::plan(&spec).await.unwrap();
    let owner = two.client(&two.source, Role::Owner).await;
    owner.batch_execute("alter table counters rename to tallies").await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    let error = berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap_err();
    let MoveError::Statement { doing, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*doing, "making the fence's triggers");
    assert!(source.to_string().contains("counters") || format!("{source:?}").contains("counters"), "{source:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_what_a_move_makes_is_told_and_not_asked_for_ever() {
    let two = Two::filled(10).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let plan = berth_mover::plan(&spec).await.unwrap();
    let frozen = "create function frozen() returns event_trigger language plpgsql as
                      $$ begin raise exception 'no changes until the release is out'; end $$;
                  create event trigger frozen on ddl_command_start execute function frozen();
                  alter event trigger frozen enable always";
    two.client(&two.source, Role::Mover).await.batch_execute(frozen).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    let error = berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap_err();
    let MoveError::Statement { doing, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*doing, "installing the fence");
    assert!(format!("{source:?}").contains("until the release is out"), "{source:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_gone_is_said_to_be_lost() {
    let two = Two::shared(SCHEMA).await;
    fill(&two, two.tenant).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let source = two.client(&two.source, Role::Mover).await;
    let drop =
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()";
    assert_eq!(source.execute(drop, &[]).await.unwrap(), 1);
    let cut = cut_over(&spec, &plan, &ownership).await;
    assert!(matches!(cut, Err(MoveError::SlotLost { .. })), "{cut:?}");
    assert_eq!(write(&two, &two.source, two.tenant).await, None, "the source takes writes");
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert_eq!(ownership.row().owner, spec.source_cell);
}

/// A server makes no slot before it; without a limit the move would wait for as long, and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_keeps_a_slot_from_being_made_is_named_and_waited_for_again() {
    let two = Two::filled(200).await;
    let ownership = MemoryOwnership::new();
    let spec = MoveSpec { way_back: true, ..two.spec() };
    let mut hasty = spec.clone();
    hasty.tuning.slot_wait_ms = 300;
    let watch = Watch::default();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    let named = |met: MoveError| {
        let MoveError::Stream(why) = &met else { panic!("{met:?}") };
        assert!(why.to_string().contains("it waits for session"), "{why}");
        assert_eq!(met.fault(), berth_mover::Fault::Passing);
    };
    for (database, way) in [(&two.source, "there"), (&two.target, "back")] {
        let writer = two.client(database, Role::Mover).await;
        writer.batch_execute("begin; create temp table held (id int)").await.unwrap();
        if way == "there" {
            named(berth_mover::copy(&hasty, &plan, row.token, &watch).await.unwrap_err());
        } else {
            named(berth_mover::build(&hasty, &plan, row.token, &watch).await.unwrap_err());
        }
        writer.batch_execute("rollback").await.unwrap();
        // What waits in the server for the slot of before is ended by who asks again.
        if way == "there" {
            berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
        } else {
            berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
        }
    }
    cut_over(&spec, &plan, &ownership).await.unwrap();
    assert_eq!(ownership.row().owner, spec.target_cell);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_another_session_reads_is_not_taken_for_lost() {
    let two = Two::filled(200).await;
    let ownership = MemoryOwnership::new();
    let spec = two.spec();
    let (plan, _) = until_built(&spec, &ownership).await;
    let source = two.client(&two.source, Role::Mover).await;
    let slot: String = source.query_one("select slot_name from pg_replication_slots", &[]).await.unwrap().get(0);
    let Some(program) = berth_testkit::postgres_program("pg_recvlogical") else {
        eprintln!("skipped: `pg_recvlogical` is not installed here");
        return;
    };
    let endpoint = two.endpoint(&two.source);
    let mut reader = std::process::Command::new(program)
        .args(["-h", &endpoint.host, "-p", &endpoint.port.to_string(), "-U", &endpoint.user, "-d", &endpoint.database])
        .args(["-S", &slot, "--start", "--no-loop", "-f", "/dev/null", "-o", "proto_version=1"])
        .args(["-o", &format!("publication_names={slot}")])
        .env("PGPASSWORD", secrecy::ExposeSecret::expose_secret(&endpoint.password))
        .spawn()
        .unwrap();
    let active = "select active from pg_replication_slots";
    berth_testkit::wait_until(
        "the slot is read",
        async || source.query_one(active, &[]).await.unwrap().get::<_, bool>(0),
        |active| *active,
    )
    .await;
    let met = cut_over(&spec, &plan, &ownership).await.unwrap_err();
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(matches!(&met, MoveError::StreamRefused { code, .. } if code == "55006"), "{met:?}");
    assert_eq!(met.fault(), berth_mover::Fault::Passing);
    let freed = async || !source.query_one(active, &[]).await.unwrap().get::<_, bool>(0);
    berth_testkit::wait_until("the slot is free", freed, |free| *free).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_may_be_retired_again_when_somebody_dropped_the_bookkeeping() {
    let two = Two::filled(50).await;
    let ownership = MemoryOwnership::new();
    let spec = two.spec();
    let (plan, _) = until_built(&spec, &ownership).await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    let source = two.client(&two.source, Role::Mover).await;
    let refuse =
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
                  create trigger refuse before delete on berth.deferred execute function refuse()";
    source.batch_execute(refuse).await.unwrap();
    let error = berth_mover::retire(&spec, &plan, false, token).await.unwrap_err();
    assert!(format!("{error:?}").contains("not now"), "only what is gone already needs no clearing: {error:?}");
    source.batch_execute("drop trigger refuse on berth.deferred").await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    source.batch_execute("drop schema berth cascade").await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_moves_leave_each_others_sessions_alone() {
    let two = Two::filled(300).await;
    let (one, other) = (
        two.spec(),
        MoveSpec { tenant: berth_domain::TenantKey::new(two.neighbour.to_string()).unwrap(), ..two.spec() },
    );
    let (one, other) = (MoveSpec { alone: false, ..one }, MoveSpec { alone: false, ..other });
    let (first, second) = (MemoryOwnership::new(), MemoryOwnership::new());
    let (plan, _) = until_built(&one, &first).await;
    let (plan_of_other, _) = until_built(&other, &second).await;
    // Each takes its move up once more while the other is at it, which ends the sessions of its own earlier worker only.
    let (a, b) = tokio::join!(cut_over(&one, &plan, &first), async {
        let row = berth_mover::begin(&other, &second).await?;
        berth_mover::prepare(&other, &plan_of_other, row, &second).await?;
        cut_over(&other, &plan_of_other, &second).await
    });
    assert_eq!((a.unwrap().generation.get(), b.unwrap().generation.get()), (2, 2));
}

/// The undo is a cut-over with the sides exchanged, and dies as often: once at each point, and whoever follows at another.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_killed_before_anything_that_it_asks_leaves_one_owner_and_loses_nothing() {
    undo_killed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_killed_after_anything_that_it_asked_leaves_one_owner_and_loses_nothing() {
    undo_killed(true).await;
}

async fn undo_killed(after: bool) {
    let two = Two::shared(SCHEMA).await;
    let mut kills = 0;
    'points: for at in 0.. {
        let tenant = Uuid::new_v4();
        fill(&two, tenant).await;
        let (spec, ownership) = (MoveSpec { way_back: true, ..two.spec_of(tenant) }, MemoryOwnership::new());
        let (plan, token) = until_built(&spec, &ownership).await;
        cut_over(&spec, &plan, &ownership).await.unwrap();
        berth_mover::retire(&spec, &plan, true, token).await.unwrap();
        // Written since, so that it has to come through the stream of the way back.
        assert_eq!(write(&two, &two.target, tenant).await, None);
        let (back, mut acknowledged, mut stale) = (spec.back(), 1, None);
        for (at, after) in [(at, after), (at * 5 % 9, !after)] {
            if !killed(&back, &plan, &ownership, at, after).await {
                if stale.is_none() {
                    break 'points; // the last thing that it asks is behind us
                }
                break;
            }
            kills += 1;
            stale = Some(ownership.row().token);
            let (there, home) = (write(&two, &two.target, tenant).await, write(&two, &two.source, tenant).await);
            assert!(there.is_some() || home.is_some(), "killed at {at}, after it: {after}: two owners");
            acknowledged += usize::from(there.is_none()) + usize::from(home.is_none());
        }
        let what = format!("killed at {at}, after it: {after}");
        cut_over(&back, &plan, &ownership).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let row = ownership.row();
        assert_eq!((row.owner, row.phase, row.holding), (spec.source_cell, MovePhase::Idle, false), "{what}");
        assert_eq!(row.generation.get(), 3, "{what}");
        assert_eq!(write(&two, &two.target, tenant).await.as_deref(), Some("BF001"), "{what}");
        let home = two.client(&two.source, Role::Mover).await;
        let name = home.query_one("select name from customers where id = $1", &[&tenant]).await.unwrap();
        assert_eq!(name.get::<_, String>(0), format!("T{}", ".".repeat(acknowledged)), "{what}");
        assert_eq!(rows_of(&home, tenant).await.len(), 1 + 5 + 5, "{what}");
        assert_eq!(write(&two, &two.source, tenant).await, None, "{what}");
        for change in [Change::Hold, Change::Commit, Change::Release, Change::Abort, Change::Finish] {
            let verdict = ownership.change(stale.unwrap(), change).await;
            assert!(matches!(verdict, Verdict::Refused(Refusal::OldToken { .. })), "{what}: {change:?}: {verdict:?}");
        }
        berth_mover::retire(&back, &plan, true, row.token).await.unwrap();
    }
    assert!(kills >= 9, "only {kills} were killed");
}

/// Everything before the cut-over, by a plan that was made before.
async fn built(spec: &MoveSpec, plan: &MovePlan, ownership: &MemoryOwnership) -> Result<Token, MoveError> {
    let watch = Watch::default();
    let row = berth_mover::begin(spec, ownership).await?;
    berth_mover::prepare(spec, plan, row, ownership).await?;
    berth_mover::copy(spec, plan, row.token, &watch).await?;
    berth_mover::build(spec, plan, row.token, &watch).await?;
    Ok(row.token)
}

/// At moments that no call marks. What is asked afterwards holds wherever that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_time_before_the_cut_over_leaves_the_tenant_where_it_is() {
    let two = Two::shared(SCHEMA).await;
    for nth in 0..12 {
        let tenant = Uuid::new_v4();
        fill(&two, tenant).await;
        let (spec, ownership) = (MoveSpec { way_back: true, ..two.spec_of(tenant) }, MemoryOwnership::new());
        let plan = berth_mover::plan(&spec).await.unwrap();
        for limit_ms in [nth * 40, nth * 70 % 400] {
            let limit = Duration::from_millis(limit_ms);
            let _killed = tokio::time::timeout(limit, Box::pin(built(&spec, &plan, &ownership))).await;
            assert_eq!(write(&two, &two.source, tenant).await, None, "killed after {limit_ms} ms");
            assert_ne!(write_if_there(&two, tenant).await, Some(None), "killed after {limit_ms} ms: two owners");
        }
        let mut tries = 0;
        let token = loop {
            match built(&spec, &plan, &ownership).await {
                Ok(token) => break token,
                Err(error) if error.fault() == berth_mover::Fault::Passing && tries < 20 => tries += 1,
                Err(error) => panic!("{nth}: {error:?}"),
            }
        };
        cut_over(&spec, &plan, &ownership).await.unwrap();
        let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
        assert_eq!(rows_of(&target, tenant).await, rows_of(&source, tenant).await, "{nth}");
        berth_mover::retire(&spec, &plan, true, token).await.unwrap();
        berth_mover::close_way_back(&spec).await.unwrap();
    }
}
