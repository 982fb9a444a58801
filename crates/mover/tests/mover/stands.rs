//! What empties, exchanges or rewrites a part of a table while a tenant moves, and what takes a part of its fence away: no
//! word of it is in the change stream.

use crate::common::{MemoryOwnership, NoEdges, Two, Watch, cut_over, nothing_of_berth, until_built};
use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, Token};
use berth_infra::Role;
use berth_mover::{EdgeTrouble, Edges, HoldFigures, MoveError, MoveSpec, ReadAhead, Side};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const PARTED: &str = "
    create table customers (id uuid primary key, name text not null default '');
    create table readings (customer_id uuid not null references customers, day int, id int, body text, primary key (customer_id, day, id))
        partition by range (day);
    create table readings_1 partition of readings for values from (0) to (10);
    create table readings_2 partition of readings for values from (10) to (20) partition by range (id);
    create table readings_2a partition of readings_2 for values from (0) to (1000);";

/// Takes the tenant's own trigger off a table; what came to a partition from its table goes with that.
const UNFENCED: &str = "do $$ declare t name; begin
    select tgname into t from pg_trigger where tgrelid = 'TABLE'::regclass and tgname like 'berth%truncate';
    execute format('drop trigger %I on TABLE', t); end $$";

async fn world() -> Two {
    let two = Two::shared(PARTED).await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        let rows = format!(
            "insert into customers values ('{tenant}');
             insert into readings select '{tenant}', n, n, 'r' from generate_series(1, 19) n"
        );
        source.batch_execute(&rows).await.unwrap();
    }
    two
}

async fn rows(two: &Two, database: &str) -> i64 {
    let client = two.client(database, Role::Mover).await;
    let count = "select count(*) from readings where customer_id = $1";
    client.query_one(count, &[&two.tenant]).await.unwrap().get(0)
}

/// The refusal's code, or none when the write was taken.
async fn written(client: &Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).await.err()?;
    Some(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
}

/// Given up, the tenant lives on where it was, and nothing is left of the move.
async fn stays(two: &Two, spec: &MoveSpec, plan: &berth_mover::MovePlan, ownership: &MemoryOwnership) {
    let token = berth_mover::give_up(spec, ownership).await.unwrap();
    berth_mover::retire(spec, plan, false, token).await.unwrap();
    assert_eq!((ownership.row().owner, ownership.row().holding), (spec.source_cell, false));
    let app = two.client(&two.source, Role::App).await;
    let name = format!("update customers set name = 'still here' where id = '{}'", two.tenant);
    assert_eq!(written(&app, &name).await, None);
    assert_eq!(rows(two, &two.target).await, 0);
    let left =
        "select (select count(*) from pg_publication) + (select count(*) from pg_trigger where tgname like 'berth%')";
    assert_eq!(app.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_part_of_a_table_ends_the_move_and_names_the_table() {
    let attached = "create table readings_2b (like readings_2 including all);
        insert into readings_2b select id, 15, 1500, 'late' from customers;
        alter table readings_2 attach partition readings_2b for values from (1000) to (2000)";
    let unfenced = UNFENCED.replace("TABLE", "readings");
    for (sql, table) in [
        ("truncate readings_2a", "readings"),
        ("drop table readings_1", "readings"),
        ("alter table readings_2 detach partition readings_2a", "readings"),
        (attached, "readings"),
        ("vacuum full customers", "customers"),
        (unfenced.as_str(), "readings"),
    ] {
        let two = world().await;
        let (spec, ownership) = (two.spec(), MemoryOwnership::new());
        let (plan, _) = until_built(&spec, &ownership).await;
        two.client(&two.source, Role::Owner).await.batch_execute(sql).await.unwrap();
        // The worker that copied, or another one that knows only what the databases say.
        for worker in [spec.clone(), MoveSpec { ahead: ReadAhead::default(), ..spec.clone() }] {
            let met = cut_over(&worker, &plan, &ownership).await.unwrap_err();
            let MoveError::SchemaChanged { what } = &met else { panic!("{sql}: {met:?}") };
            assert!(
                what.starts_with(&format!("`{table}` does not stand")) && what.contains("VACUUM FULL"),
                "{sql}: {what}"
            );
            assert!(met.hint().starts_with("move again"), "{sql}: {}", met.hint());
        }
        stays(&two, &spec, &plan, &ownership).await;
    }
}

/// What another login's rights take drops it, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_for_schema_changes_that_goes_ends_the_move_and_a_later_one_looks_closely() {
    for sql in ["drop event trigger berth_ddl", "alter event trigger berth_ddl disable"] {
        let two = world().await;
        let (spec, ownership) = (two.spec(), MemoryOwnership::new());
        let (plan, _) = until_built(&spec, &ownership).await;
        two.client(&two.source, Role::Mover).await.batch_execute(sql).await.unwrap();
        let met = cut_over(&spec, &plan, &ownership).await;
        assert!(
            matches!(&met, Err(MoveError::SchemaChanged { what }) if what.contains("`berth_ddl` of the source")),
            "{sql}: {met:?}"
        );
        stays(&two, &spec, &plan, &ownership).await;
        if !sql.ends_with("disable") {
            continue;
        }
        let spec = two.spec();
        let (plan, _) = until_built(&spec, &ownership).await;
        let renamed = "alter table customers rename name to other; alter table customers rename other to name";
        two.client(&two.source, Role::Owner).await.batch_execute(renamed).await.unwrap();
        let met = cut_over(&spec, &plan, &ownership).await;
        assert!(
            matches!(&met, Err(MoveError::SchemaChanged { what }) if what.starts_with("`customers` does not stand")),
            "{met:?}"
        );
        stays(&two, &spec, &plan, &ownership).await;
    }
}

/// Changes something when the gate has let an attempt through and users are held already.
struct Sudden {
    owner: Client,
    sql: String,
    times: AtomicU32,
}

#[async_trait]
impl Edges for Sudden {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        NoEdges.all_alive().await
    }
    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble> {
        self.times.fetch_add(1, Ordering::SeqCst);
        self.owner.batch_execute(&self.sql).await.unwrap();
        NoEdges.wait_held(token, limit).await
    }
    async fn wait_routed(&self, generation: Generation, limit: Duration) -> Vec<EdgeName> {
        NoEdges.wait_routed(generation, limit).await
    }
    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures> {
        NoEdges.hold_figures(token, limit).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_between_the_gate_and_the_pause_is_seen_in_the_pause() {
    for (side, sql) in [
        (Side::Source, "truncate readings_1".to_owned()),
        (Side::Source, UNFENCED.replace("TABLE", "customers")),
        (Side::Source, UNFENCED.replace("TABLE", "readings")),
        (Side::Target, "truncate readings_1".to_owned()),
        (Side::Target, "drop table readings_2a".to_owned()),
    ] {
        let two = world().await;
        let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
        // However slow the machine is: the first attempt comes to its end.
        spec.tuning.pause_most_ms = 20_000;
        let (plan, _) = until_built(&spec, &ownership).await;
        let database = if side == Side::Source { &two.source } else { &two.target };
        let owner = two.client(database, Role::Owner).await;
        let sudden = Sudden { owner, sql: sql.clone(), times: AtomicU32::new(0) };
        let met = berth_mover::cut_over(&spec, &plan, &ownership, &sudden, &Watch::default()).await;
        assert!(
            matches!(&met, Err(MoveError::SchemaChanged { what }) if what.contains(&format!("does not stand in the {side}"))),
            "{sql}: {met:?}"
        );
        assert_eq!(sudden.times.load(Ordering::SeqCst), 1, "{sql}");
        stays(&two, &spec, &plan, &ownership).await;
    }
}

/// Committed after the gate has looked, and no fence is on it: its rows would stay, and be written on in the old cell.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_tenant_that_is_made_between_the_gate_and_the_pause_ends_the_move() {
    let two = world().await;
    let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
    spec.tuning.pause_most_ms = 20_000;
    let (plan, _) = until_built(&spec, &ownership).await;
    let made = "create table notes (id uuid primary key default gen_random_uuid(), customer_id uuid not null);
        insert into notes (customer_id) select id from customers";
    let owner = two.client(&two.source, Role::Owner).await;
    let sudden = Sudden { owner, sql: made.to_owned(), times: AtomicU32::new(0) };
    let met = berth_mover::cut_over(&spec, &plan, &ownership, &sudden, &Watch::default()).await;
    assert!(
        matches!(&met, Err(MoveError::SchemaChanged { what }) if what.starts_with("other tables belong to the tenant")),
        "{met:?}"
    );
    assert_eq!(sudden.times.load(Ordering::SeqCst), 1);
    stays(&two, &spec, &plan, &ownership).await;
}

/// What users are held for is decided by the tenant's own tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_others_that_is_made_between_the_gate_and_the_pause_does_not_matter() {
    let two = world().await;
    let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
    spec.tuning.pause_most_ms = 20_000;
    let (plan, _) = until_built(&spec, &ownership).await;
    let made = "create table if not exists boards (id int primary key);
        create table if not exists pins (id int primary key, board int references boards);
        alter table boards add column if not exists body text";
    let owner = two.client(&two.source, Role::Owner).await;
    let sudden = Sudden { owner, sql: made.to_owned(), times: AtomicU32::new(0) };
    berth_mover::cut_over(&spec, &plan, &ownership, &sudden, &Watch::default()).await.unwrap();
    assert_eq!(sudden.times.load(Ordering::SeqCst), 1, "users were held once");
}

/// As it does where a reference alone says that a table is the tenant's.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_comes_to_refer_to_the_tenants_between_the_gate_and_the_pause_ends_the_move() {
    let two = world().await;
    let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
    spec.tuning.pause_most_ms = 20_000;
    let (plan, _) = until_built(&spec, &ownership).await;
    let made = "create table labels (id uuid primary key, customer uuid not null references customers)";
    let owner = two.client(&two.source, Role::Owner).await;
    let sudden = Sudden { owner, sql: made.to_owned(), times: AtomicU32::new(0) };
    let met = berth_mover::cut_over(&spec, &plan, &ownership, &sudden, &Watch::default()).await;
    assert!(
        matches!(&met, Err(MoveError::SchemaChanged { what }) if what.starts_with("other tables belong to the tenant")),
        "{met:?}"
    );
    stays(&two, &spec, &plan, &ownership).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewritten_before_the_copy_or_before_an_undo_is_no_reason_to_end_it() {
    let two = world().await;
    let (spec, ownership) = (MoveSpec { way_back: true, ..two.spec() }, MemoryOwnership::new());
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    two.client(&two.source, Role::Owner).await.batch_execute("vacuum full readings_1").await.unwrap();
    let watch = Watch::default();
    berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, row.token).await.unwrap();
    assert_eq!(rows(&two, &two.target).await, 19);
    two.client(&two.target, Role::Owner).await.batch_execute("vacuum full readings_1").await.unwrap();
    let back = spec.back();
    cut_over(&back, &plan, &ownership).await.unwrap();
    assert_eq!(ownership.row().owner, spec.source_cell);
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    berth_mover::release(&back, &plan, &ownership, &watch).await.unwrap();
    assert_eq!((rows(&two, &two.source).await, rows(&two, &two.target).await), (19, 0));
}

/// A retention job drops a month where the tenant lives now; no word of it comes to the cell that it has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_goes_in_the_new_cell_is_named_by_the_undo_that_it_stops() {
    let two = world().await;
    let (spec, ownership) = (MoveSpec { way_back: true, ..two.spec() }, MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &ownership).await;
    assert!(plan.notes.iter().any(|note| note.starts_with("partitioned: `readings`. While")), "{:?}", plan.notes);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    two.client(&two.target, Role::Owner).await.batch_execute("drop table readings_1").await.unwrap();
    let back = spec.back();
    let refused = cut_over(&back, &plan, &ownership).await.unwrap_err();
    assert!(
        matches!(&refused, MoveError::OldSideDiffers { table, rows: 9, .. } if table.name == "readings"),
        "{refused:?}"
    );
    assert!(
        refused.hint().contains("do the same in the database that it has left, and undo again"),
        "{}",
        refused.hint()
    );
    assert_eq!(rows(&two, &two.source).await, 19, "nothing is taken away for it");
    two.client(&two.source, Role::Owner).await.batch_execute("drop table readings_1").await.unwrap();
    cut_over(&back, &plan, &ownership).await.unwrap();
    assert_eq!((ownership.row().owner, rows(&two, &two.source).await), (spec.source_cell, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_fence_refuses_to_empty_a_table_and_leaves_partitions_to_their_owner() {
    let two = world().await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &ownership).await;
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let owner = two.client(&two.source, Role::Owner).await;
    assert_eq!(written(&owner, "truncate readings").await.as_deref(), Some("BF001"));
    // It may be a neighbour's alone.
    let own = "create table readings_9 partition of readings for values from (90) to (91); truncate readings_9";
    assert_eq!(written(&owner, own).await, None);
    let theirs = format!("insert into readings values ('{}', 5, 500, 'n')", two.neighbour);
    assert_eq!(written(&owner, &theirs).await, None);
    assert_eq!(rows(&two, &two.source).await, 19);
    assert_eq!(berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap(), 20);
    nothing_of_berth(&two, &two.source).await;
    assert_eq!(written(&owner, "truncate readings_1").await, None);
}
