//! Servers that a tenant cannot leave or enter as they are: said with the remedy, before anything is touched.

use crate::common::{self, MemoryOwnership, Two, until_built};
use berth_infra::Role;
use berth_mover::{Fault, LinkRule, MoveError, MoveSpec, Obstacle, Side, TableName};

async fn obstacles(spec: &MoveSpec) -> Vec<Obstacle> {
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(spec).await else { panic!("a plan was made") };
    assert!(all.iter().all(|obstacle| !obstacle.hint().is_empty()), "{all:?}");
    all
}

#[tokio::test]
async fn a_server_without_logical_wal_or_a_free_slot_is_refused_with_the_remedy() {
    let two = Two::filled(10).await;
    let spec = MoveSpec { target_free_bytes: Some(1 << 20), ..two.spec() };
    let all = obstacles(&spec).await;
    assert!(matches!(all[..], [Obstacle::Disk { free_mb: 1, needed_mb: 64.. }]), "{all:?}");
    let unknown = MoveSpec { target_free_bytes: None, ..two.spec() };
    let notes = berth_mover::plan(&unknown).await.unwrap().notes;
    assert!(matches!(&notes[..], [note] if note.contains("was not looked at") && note.contains(" MB")), "{notes:?}");

    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("alter system set max_replication_slots = 1").await.unwrap();
    admin.batch_execute("alter system set wal_level = 'replica'").await.unwrap();
    drop(admin);
    two.pg.restart().await;
    let admin = two.client(&two.source, Role::Mover).await;
    let slot = "select from pg_create_physical_replication_slot('taken')";
    admin.execute(slot, &[]).await.unwrap();
    let all = obstacles(&two.spec()).await;
    assert_eq!(
        all,
        [
            Obstacle::WalLevel { side: Side::Source, found: "replica".into() },
            Obstacle::NoFree { side: Side::Source, what: "replication slots".into(), used: 1, most: 1 }
        ]
    );
    let touched = "select to_regclass('berth.fence') is not null or exists (select from pg_publication)";
    assert!(!admin.query_one(touched, &[]).await.unwrap().get::<_, bool>(0));
}

/// The way back needs them in the target, which is the same server here.
#[tokio::test]
async fn servers_without_a_free_wal_sender_are_refused_both() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("alter system set max_wal_senders = 0").await.unwrap();
    drop(admin);
    two.pg.restart().await;
    let full = |side| Obstacle::NoFree { side, what: "WAL senders".into(), used: 0, most: 0 };
    assert_eq!(obstacles(&two.spec()).await, [full(Side::Source)]);
    let back = MoveSpec { way_back: true, ..two.spec() };
    assert_eq!(obstacles(&back).await, [full(Side::Source), full(Side::Target)]);
}

/// Fences let the mover's role through: what such a session writes after the last comparison would be lost.
#[tokio::test]
async fn a_session_of_somebody_else_under_the_movers_own_login_is_refused() {
    let two = Two::filled(10).await;
    let mut config = two.pg.config(Role::Mover, &two.source);
    config.application_name("rails");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let all = obstacles(&two.spec()).await;
    let role = Role::Mover.user().to_owned();
    assert_eq!(all, [Obstacle::SharedLogin { side: Side::Source, role, sessions: 1, workers: Vec::new() }]);
    assert!(all[0].to_string().starts_with("1 sessions in the source that are not Berth's"), "{}", all[0]);
    drop(client);
    connection.await.unwrap().unwrap();
    let spec = two.spec();
    berth_testkit::wait_until("the session's end", async || berth_mover::plan(&spec).await, Result::is_ok)
        .await
        .unwrap();
}

/// What it brings is written in its owner's name, by a worker that is no client.
#[tokio::test]
async fn a_subscription_that_is_the_movers_own_is_refused_by_name() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.target, Role::Mover).await;
    // Nobody answers there: its worker comes and goes.
    let make = "create subscription incoming connection 'host=/nowhere dbname=app' publication all_of_it with (connect = false)";
    admin.batch_execute(make).await.unwrap();
    berth_mover::plan(&two.spec()).await.unwrap();
    admin.batch_execute("alter subscription incoming enable").await.unwrap();
    let all = obstacles(&two.spec()).await;
    let [found @ Obstacle::SharedLogin { side: Side::Target, sessions: 0, workers, .. }] = &all[..] else {
        panic!("{all:?}")
    };
    assert!(workers.contains(&"subscription `incoming`".to_owned()), "{workers:?}");
    assert!(found.to_string().contains("subscription `incoming` in the target"), "{found}");
    assert!(found.hint().contains("ALTER SUBSCRIPTION"), "{}", found.hint());
}

#[tokio::test]
async fn a_stopped_server_is_named_by_its_side() {
    let two = Two::shared(common::SCHEMA).await;
    let nobody = berth_testkit::free_port();
    for side in [Side::Source, Side::Target] {
        let mut spec = two.spec();
        let end = if side == Side::Source { &mut spec.source } else { &mut spec.target };
        end.port = nobody;
        let error = berth_mover::plan(&spec).await.unwrap_err();
        assert!(matches!(error, MoveError::Connect { side: found, .. } if found == side), "{error:?}");
        assert!(error.hint().contains("berth cell show"), "{}", error.hint());
    }
}

#[tokio::test]
async fn a_key_that_no_tenant_can_have_is_no_tenant() {
    let two = Two::shared(common::SCHEMA).await;
    let spec = MoveSpec { tenant: berth_domain::TenantKey::new("not-a-uuid").unwrap(), ..two.spec() };
    let all = obstacles(&spec).await;
    assert!(all.iter().all(|o| matches!(o, Obstacle::NoTenant { key, .. } if key == "not-a-uuid")), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_others_have_there_are_refused_and_others_are_not() {
    let counted = "create table customers (id uuid primary key);
        create table notes (id int primary key, customer_id uuid not null references customers, body text)";
    let two = Two::shared(counted).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let fill = |tenant, from: i32, to: i32| {
        format!(
            "insert into customers values ('{tenant}');
             insert into notes select n, '{tenant}', 'x' from generate_series({from}, {to}) n"
        )
    };
    source.batch_execute(&fill(two.tenant, 100, 200)).await.unwrap();
    target.batch_execute(&fill(two.neighbour, 1, 102)).await.unwrap();
    let spec = MoveSpec { alone: false, ..two.spec() };
    let all = obstacles(&spec).await;
    let [Obstacle::KeyTaken { table, rows: 3, first_key, .. }] = &all[..] else { panic!("{all:?}") };
    assert_eq!((table.name.as_str(), first_key.as_str()), ("notes", "100"));
    target.batch_execute("update notes set id = id + 1000 where id >= 100").await.unwrap();
    assert_eq!(berth_mover::plan(&spec).await.unwrap().rows, 102);
}

/// A uuid that an index only carries along tells nobody apart, and an exclusion is as good as a unique index.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_there_is_refused_by_the_columns_that_are_unique() {
    let two = Two::shared(
        "create table customers (id uuid primary key);
         create table bills (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
             number int not null, unique (number) include (id));
         create table bookings (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
             days int4range not null, exclude using gist (days with &&));",
    )
    .await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    let fill = |tenant, days: &str| {
        format!(
            "insert into customers values ('{tenant}'); insert into bills (customer_id, number) values ('{tenant}', 7);
             insert into bookings (customer_id, days) values ('{tenant}', '{days}')"
        )
    };
    source.batch_execute(&fill(two.tenant, "[1,5]")).await.unwrap();
    target.batch_execute(&fill(two.neighbour, "[5,9]")).await.unwrap();
    let spec = MoveSpec { alone: false, ..two.spec() };
    let taken: Vec<(String, String)> = obstacles(&spec)
        .await
        .into_iter()
        .map(|obstacle| match obstacle {
            Obstacle::KeyTaken { table, columns, rows: 1, .. } => (table.name, columns),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(taken, [("bills", "number"), ("bookings", "days")].map(|(t, c)| (t.to_owned(), c.to_owned())));
    target.batch_execute("update bills set number = 8; update bookings set days = '[6,9]'").await.unwrap();
    assert_eq!(berth_mover::plan(&spec).await.unwrap().rows, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_by_text_to_a_uuid_is_refused_with_the_column_to_change() {
    let two = Two::filled(1).await;
    for database in [&two.source, &two.target] {
        let schema = "create table remarks (id int primary key, about text)";
        two.client(database, Role::Owner).await.batch_execute(schema).await.unwrap();
    }
    let mut spec = two.spec();
    spec.rules.links = vec![LinkRule {
        table: TableName::parse("remarks"),
        columns: vec!["about".into()],
        to: TableName::parse("vehicles"),
        when: None,
    }];
    let all = obstacles(&spec).await;
    assert!(matches!(&all[..], [Obstacle::LinkTypes { key_type, .. }] if key_type == "uuid"), "{all:?}");
    assert!(all[0].hint().contains("ALTER COLUMN about TYPE uuid"), "{}", all[0].hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_refuses_for_good_is_not_tried_again() {
    let two = Two::filled(10).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = until_built(&spec, &ownership).await;
    // A target that got another schema behind everybody's back.
    let target = two.client(&two.target, Role::Owner).await;
    target.batch_execute("alter table vehicles rename column odometer to mileage").await.unwrap();
    let copied = berth_mover::copy(&spec, &plan, token, &common::Watch::default()).await.unwrap_err();
    assert_eq!(copied.fault(), Fault::Ours, "{copied:?}");
}

#[tokio::test]
async fn rows_that_are_left_out_have_to_be_in_the_target_when_they_are_referred_to() {
    let two = Two::with(
        "create table countries (code text, region int, name text, primary key (code, region));
         create table customers (id uuid primary key);
         create table sites (id bigint generated always as identity primary key, customer_id uuid not null references customers,
            country text, region int, foreign key (country, region) references countries)",
    )
    .await;
    let client = two.client(&two.source, Role::Mover).await;
    let sites = "insert into countries values ('de', 1, 'here'), ('fr', 1, 'there'), ('it', 2, 'unused');
         insert into customers values ('T');
         insert into sites (customer_id, country, region) values ('T', 'fr', 1), ('T', 'de', 1), ('T', 'fr', 1), ('T', null, 1)";
    client.batch_execute(&sites.replace("'T'", &format!("'{}'", two.tenant))).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    target.batch_execute("insert into countries values ('de', 1, 'here'), ('fr', 2, 'another')").await.unwrap();
    let mut spec = two.spec();
    spec.rules.leave_out = vec![TableName::parse("countries")];
    for alone in [true, false] {
        let all = obstacles(&MoveSpec { alone, ..spec.clone() }).await;
        let missing = Obstacle::LeftOutMissing {
            table: TableName::parse("sites"),
            columns: "country, region".into(),
            to: TableName::parse("countries"),
            rows: 1,
            first_key: "fr, 1".into(),
        };
        assert_eq!(all, [missing]);
    }
    target.batch_execute("insert into countries values ('fr', 1, 'there')").await.unwrap();
    berth_mover::plan(&spec).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_is_refused() {
    let two = Two::filled(10).await;
    // What the target says to whoever asks it for the time.
    let target = two.client(&two.target, Role::Mover).await;
    let wrong = "set allow_system_table_mods = on;
        alter function pg_catalog.clock_timestamp() rename to right_timestamp;
        create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile
            as $$ select pg_catalog.right_timestamp() + interval '1 hour' $$";
    target.batch_execute(wrong).await.unwrap();
    let all = obstacles(&two.spec()).await;
    let [Obstacle::Clocks { ahead_ms }] = all[..] else { panic!("{all:?}") };
    assert!((3_590_000..=3_610_000).contains(&ahead_ms), "{ahead_ms}");
    assert!(
        all[0].to_string().ends_with("ms ahead of the source's") && all[0].hint().contains("set-ntp true"),
        "{all:?}"
    );
}

#[tokio::test]
async fn retention_that_no_table_can_have_is_refused_by_the_column() {
    let two = Two::filled(10).await;
    let refused = async |table: &str, column: &str| {
        let mut spec = MoveSpec { keep_from: Some(jiff::civil::date(2026, 1, 1)), ..two.spec() };
        spec.rules.retention.insert(format!("public.{table}"), column.to_owned());
        obstacles(&spec).await
    };
    let table = |name| TableName::parse(name);
    let at = |column: &str| column.to_owned();
    assert_eq!(
        refused("positions", "seen_at").await,
        [Obstacle::NoColumn { table: table("positions"), column: at("seen_at") }]
    );
    let type_name = "text".to_owned();
    assert_eq!(
        refused("positions", "note").await,
        [Obstacle::RetentionType { table: table("positions"), column: at("note"), type_name }]
    );
    for database in [&two.source, &two.target] {
        let owner = two.client(database, Role::Owner).await;
        owner.batch_execute("alter table vehicles add bought date").await.unwrap();
    }
    assert_eq!(
        refused("vehicles", "bought").await,
        [Obstacle::RetentionReferred { table: table("vehicles"), by: table("positions") }]
    );
}

/// A reference that names the tenant too leads to no neighbour's row, and to one that stays behind all the same; so does one that
/// only the stack file tells of.
#[tokio::test]
async fn retention_of_a_table_that_others_refer_to_in_whatever_way_is_refused() {
    let two = Two::filled(10).await;
    for database in [&two.source, &two.target] {
        let owner = two.client(database, Role::Owner).await;
        owner
            .batch_execute(
                "alter table counters add made date;
                 create table alarms (id uuid primary key, customer_id uuid not null references customers, nth bigint,
                    foreign key (customer_id, nth) references counters (customer_id, nth));
                 create table remarks (id uuid primary key, customer_id uuid not null references customers, on_type text, on_id uuid)",
            )
            .await
            .unwrap();
    }
    let table = |name| TableName::parse(name);
    let mut spec = MoveSpec { keep_from: Some(jiff::civil::date(2026, 1, 1)), ..two.spec() };
    spec.rules.links = vec![LinkRule {
        table: table("remarks"),
        columns: vec!["on_id".to_owned()],
        to: table("positions"),
        when: Some(("on_type".to_owned(), "Position".to_owned())),
    }];
    berth_mover::plan(&spec).await.unwrap();
    for (kept, column, by) in [("counters", "made", "alarms"), ("positions", "at", "remarks")] {
        spec.rules.retention = [(format!("public.{kept}"), column.to_owned())].into();
        let found = obstacles(&spec).await;
        assert_eq!(found, [Obstacle::RetentionReferred { table: table(kept), by: table(by) }]);
    }
}
