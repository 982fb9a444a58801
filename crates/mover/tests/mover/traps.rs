//! What servers do to a move that nobody would think of: each has happened to somebody.

use crate::common::{self, MemoryOwnership, NoEdges, Two, Watch, cut_over, rows_of, until_built};
use async_trait::async_trait;
use berth_domain::Token;
use berth_infra::Role;
use berth_mover::{Change, Control, MoveError, Ownership, Verdict};
use berth_testkit::wait_until;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts how often users were made to wait.
struct Holds {
    ownership: MemoryOwnership,
    seen: AtomicU32,
}

#[async_trait]
impl Ownership for Holds {
    async fn read(&self) -> Option<Control> {
        self.ownership.read().await
    }
    async fn change(&self, held: Token, change: Change) -> Verdict {
        self.seen.fetch_add(u32::from(change == Change::Hold), Ordering::SeqCst);
        self.ownership.change(held, change).await
    }
}

/// It has passed the fence, no session belongs to it, and nobody knows when it ends: nobody is made to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_of_the_tenant_keeps_the_pause_off() {
    let two = Two::filled(200).await;
    let mut spec = two.spec();
    spec.tuning.attempts = 5;
    let holds = Holds { ownership: MemoryOwnership::new(), seen: AtomicU32::new(0) };
    let (plan, _) = until_built(&spec, &holds).await;
    let app = two.client(&two.source, Role::App).await;
    let prepare = format!(
        "begin; update customers set name = 'prepared' where id = '{}'; prepare transaction 'held'",
        two.tenant
    );
    app.batch_execute(&prepare).await.unwrap();
    let watch = Watch::default();
    let cut = berth_mover::cut_over(&spec, &plan, &holds, &NoEdges, &watch).await;
    assert!(matches!(cut, Err(MoveError::NoMoment { attempts: 5, .. })), "{cut:?}");
    let notes: Vec<String> = watch.seen.lock().unwrap().iter().filter_map(|seen| seen.note.clone()).collect();
    assert!(notes.iter().any(|note| note.contains("a transaction of this tenant has been open")), "{notes:?}");
    assert_eq!(holds.seen.load(Ordering::SeqCst), 0, "users were made to wait for it");
    let write = "update vehicles set odometer = odometer + 1 where customer_id = $1";
    assert_eq!(app.execute(write, &[&two.tenant]).await.unwrap(), 10);
    app.batch_execute("commit prepared 'held'").await.unwrap();
    cut_over(&spec, &plan, &holds).await.unwrap();
    assert!(holds.seen.load(Ordering::SeqCst) > 0);
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let arrived = rows_of(&target, two.tenant).await;
    assert!(arrived.iter().any(|row| row.contains("prepared")));
    assert_eq!(arrived, rows_of(&source, two.tenant).await);
}

/// Each of them ends a session, hides rows, makes texts differ or forgets a commit.
const HOSTILE: &[(&str, [&str; 2])] = &[
    ("idle_in_transaction_session_timeout", ["20ms", "10ms"]),
    ("idle_session_timeout", ["20ms", "10ms"]),
    ("statement_timeout", ["5ms", "3ms"]),
    ("lock_timeout", ["1ms", "1ms"]),
    ("synchronous_commit", ["off", "local"]),
    ("row_security", ["on", "on"]),
    ("datestyle", ["SQL, DMY", "German"]),
    ("timezone", ["Asia/Kathmandu", "America/St_Johns"]),
    ("intervalstyle", ["sql_standard", "iso_8601"]),
    ("extra_float_digits", ["-5", "-15"]),
    ("bytea_output", ["escape", "hex"]),
    ("default_transaction_isolation", ["serializable", "repeatable read"]),
    ("default_transaction_read_only", ["on", "on"]),
    ("search_path", ["nowhere", "elsewhere"]),
];

/// What `ALTER ROLE` and `ALTER DATABASE` say goes for every session that says nothing itself.
#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_database_and_of_the_role_change_nothing() {
    let schema = format!(
        "{} create table odd (customer_id uuid not null references customers, id int primary key, b bytea, iv interval, d date, f float8);",
        common::SCHEMA
    );
    let two = Two::with(&schema).await;
    let sides = [&two.source, &two.target];
    // Sessions that are there already keep what they have.
    let (source, target) = (two.client(sides[0], Role::Mover).await, two.client(sides[1], Role::Mover).await);
    let apps = [two.client(sides[0], Role::App).await, two.client(sides[1], Role::App).await];
    let fill = format!(
        "insert into customers values ('{0}', 'T');
         insert into vehicles (customer_id, label) select '{0}', 'v' || n from generate_series(1, 30) n;
         insert into odd select '{0}', n, '\\x00ff', interval '1 month -1 day' * n, date '2024-02-01' + n, n / 3.0 from generate_series(1, 30) n",
        two.tenant
    );
    source.batch_execute(&fill).await.unwrap();
    let spec = two.spec();
    for (name, values) in HOSTILE {
        for (database, value) in sides.iter().zip(values) {
            let defaults = format!(
                "alter database {database} set {name} = '{value}';
                 alter role \"{}\" in database {database} set {name} = '{value}'",
                spec.source.user
            );
            source.batch_execute(&defaults).await.unwrap_or_else(|error| panic!("{defaults}: {error:?}"));
        }
    }
    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    let write = "update odd set d = d + 1, iv = iv * 2, f = f / 7, b = b || b where customer_id = $1 and id % 2 = 0";
    assert_eq!(apps[0].execute(write, &[&two.tenant]).await.unwrap(), 15);
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let sql = "select o::text from odd o where customer_id = $1 order by id";
    let texts = async |client: &tokio_postgres::Client| -> Vec<String> {
        client.query(sql, &[&two.tenant]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let arrived = texts(&target).await;
    assert_eq!((arrived.len(), &arrived), (30, &texts(&source).await));
    assert_eq!(rows_of(&target, two.tenant).await, rows_of(&source, two.tenant).await);
    let refused = apps[0].execute(write, &[&two.tenant]).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code().to_owned()).as_deref(), Some("BF001"));
    assert_eq!(apps[1].execute(write, &[&two.tenant]).await.unwrap(), 15);
}

/// The server removes what the slot holds back: what was written since is nowhere any more, and the move ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_gave_up_ends_the_move_and_the_tenant_writes_where_it_was() {
    let two = Two::filled(200).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute("alter system set max_slot_wal_keep_size = '1MB'").await.unwrap();
    source.batch_execute("select pg_reload_conf()").await.unwrap();
    let given_up = async || {
        for sql in ["select pg_logical_emit_message(true, 'fills', 'it')", "select pg_switch_wal()", "checkpoint"] {
            source.batch_execute(sql).await.unwrap();
        }
        let sql = "select wal_status = 'lost' from pg_replication_slots";
        source.query_one(sql, &[]).await.unwrap().get::<_, Option<bool>>(0) == Some(true)
    };
    wait_until("the server gives the slot up", given_up, |lost| *lost).await;
    let cut = cut_over(&spec, &plan, &ownership).await;
    assert!(matches!(cut, Err(MoveError::SlotLost { .. })), "{cut:?}");
    assert!(!ownership.row().holding);
    let app = two.client(&two.source, Role::App).await;
    let write = "update customers set name = 'here' where id = $1";
    assert_eq!(app.execute(write, &[&two.tenant]).await.unwrap(), 1);
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert_eq!(ownership.row().owner, spec.source_cell);
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(source.query_one(slots, &[]).await.unwrap().get::<_, i64>(0), 0);
}
