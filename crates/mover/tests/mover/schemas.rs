//! Schemas that a tenant cannot be taken out of, or put into, as they are: each is named with its remedy.

use crate::common::{self, Two};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle, Side, TableName};

/// What stands in the way where both sides have the usual schema and this.
async fn refused(more: &str, change: impl FnOnce(&mut MoveSpec)) -> Vec<Obstacle> {
    let two = Two::shared(&format!("{}{more}", common::SCHEMA)).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.execute("insert into customers values ($1, 'T')", &[&two.tenant]).await.unwrap();
    let mut spec = two.spec();
    change(&mut spec);
    match berth_mover::plan(&spec).await {
        Err(MoveError::Obstacles(all)) => all,
        planned => panic!("{more}: {planned:#?}"),
    }
}

fn table(name: &str) -> TableName {
    TableName::parse(name)
}

#[tokio::test]
async fn rows_that_lie_in_other_tables_are_refused() {
    let as_timescale = "create schema _timescaledb_catalog;
        create table _timescaledb_catalog.hypertable (id int primary key, schema_name name, table_name name);
        insert into _timescaledb_catalog.hypertable values (1, 'public', 'positions');
        create schema _timescaledb_internal;
        create table _timescaledb_internal._hyper_1_1_chunk (primary key (id)) inherits (positions);";
    let all = refused(as_timescale, |_| ()).await;
    assert_eq!(all, [Obstacle::Hypertable { table: table("positions") }]);
    assert!(all[0].to_string().contains("`positions` is a hypertable") && all[0].hint().contains("data.leave_out"));

    let all = refused("create table old_positions (primary key (id)) inherits (positions);", |_| ()).await;
    assert_eq!(all, [Obstacle::Inherits { child: table("old_positions"), parent: table("positions") }]);
    assert!(all[0].hint().starts_with("ALTER TABLE old_positions NO INHERIT positions"), "{}", all[0].hint());
}

#[tokio::test]
async fn what_the_stream_does_not_carry_is_refused() {
    let all = refused("alter table vehicles add picture oid;", |_| ()).await;
    assert_eq!(all, [Obstacle::LargeObjects { table: table("vehicles") }]);

    let by_another = "alter table vehicles add serial text unique;
        create table repairs (id int primary key, vehicle text references vehicles (serial));";
    let all = refused(by_another, |_| ()).await;
    assert!(all.contains(&Obstacle::LinkKey { table: table("repairs"), to: table("vehicles") }), "{all:?}");

    let inexact = "create table lots (id numeric primary key, customer_id uuid not null references customers);
        create table bids (id int primary key, lot numeric references lots);";
    let all = refused(inexact, |_| ()).await;
    let (column, type_name) = ("lot".into(), "numeric".into());
    assert_eq!(all, [Obstacle::LinkType { table: table("bids"), column, type_name }]);

    let paths = "create extension ltree; create table folders (
        customer_id uuid not null references customers, path ltree, primary key (customer_id, path));";
    let all = refused(paths, |_| ()).await;
    let (column, type_name) = ("path".into(), "public.ltree".into());
    assert_eq!(all, [Obstacle::KeyType { table: table("folders"), column, type_name }]);
    assert!(all[0].hint().starts_with("give `folders` a primary key without `path`"), "{}", all[0].hint());

    let made = "create table tags (id uuid, customer_id uuid not null references customers, label text,
        name text generated always as (lower(label)) stored, primary key (id, name));";
    let all = refused(made, |_| ()).await;
    assert_eq!(all, [Obstacle::KeyGenerated { table: table("tags"), column: "name".into() }]);
    assert!(all[0].hint().starts_with("give `tags` a primary key without `name`"), "{}", all[0].hint());

    let parts = "create table trips (id uuid, vehicle_id uuid references vehicles, at date, primary key (id, at))
            partition by range (at);
        create table trips_20s partition of trips for values from ('2020-01-01') to ('2030-01-01');";
    let all = refused(parts, |_| ()).await;
    assert_eq!(all, [Obstacle::PartsWithoutColumn { table: table("trips"), column: "customer_id".into() }]);
}

#[tokio::test]
async fn a_key_that_postgres_takes_for_no_identity_is_refused_with_the_remedy() {
    let repairs =
        "create table repairs (id int primary key deferrable, customer_id uuid not null references customers);";
    let all = refused(repairs, |_| ()).await;
    assert_eq!(all, [Obstacle::NoIdentity { table: table("repairs") }]);
    assert!(all[0].hint().contains("a deferrable one REPLICA IDENTITY FULL"), "{}", all[0].hint());
    let two = Two::shared(&format!("{}{repairs} alter table repairs replica identity full", common::SCHEMA)).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.execute("insert into customers values ($1, 'T')", &[&two.tenant]).await.unwrap();
    let spec = MoveSpec { way_back: true, ..two.spec() };
    berth_mover::plan(&spec).await.unwrap();
    // On the way back the target is what is followed.
    let target = two.client(&two.target, Role::Owner).await;
    target.batch_execute("alter table repairs replica identity default").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    assert!(
        matches!(&all[..], [Obstacle::SchemaDiffers { difference, .. }] if difference.contains("there is no way back")),
        "{all:?}"
    );
    berth_mover::plan(&two.spec()).await.unwrap();
}

#[tokio::test]
async fn tables_of_unlike_shapes_are_compared_with_no_words_of_sql() {
    let two = Two::shared(common::SCHEMA).await;
    let target = two.client(&two.target, Role::Owner).await;
    let change =
        "alter table positions drop column note; alter table vehicles alter label type varchar(90), add wheels int;
        drop table counters";
    target.batch_execute(change).await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::compare(&two.spec()).await else { panic!("they were compared") };
    let said: Vec<String> = all.iter().map(ToString::to_string).collect();
    for word in ["lacks column `note`", "`label` is text here", "`counters`"] {
        assert_eq!(said.iter().filter(|said| said.contains(word)).count(), 1, "{word}: {said:?}");
    }
    assert_eq!(said.len(), 3, "{said:?}");
}

#[tokio::test]
async fn what_only_one_side_has_besides_is_no_reason_not_to_compare() {
    let two = Two::filled(10).await;
    for (database, change) in [
        (&two.target, "alter table vehicles add wheels int"),
        (&two.source, "alter table vehicles add upper_label text generated always as (upper(label)) stored"),
    ] {
        two.client(database, Role::Owner).await.batch_execute(change).await.unwrap();
    }
    let compared = berth_mover::compare(&two.spec()).await.unwrap();
    let vehicles = compared.iter().find(|table| table.table.name == "vehicles").unwrap();
    assert!(vehicles.source_rows > 0 && vehicles.target_rows == 0, "{vehicles:?}");
    assert_eq!(vehicles.differing, vehicles.source_rows);
}

#[tokio::test]
async fn a_partition_that_is_otherwise_than_its_table_is_refused_by_its_own_name() {
    let parts = "create table readings (customer_id uuid not null references customers, day int, primary key (customer_id, day))
            partition by range (day);
        create table readings_1 partition of readings for values from (0) to (10);
        create table readings_2 partition of readings for values from (10) to (20) partition by range (day);
        create table readings_2a partition of readings_2 for values from (10) to (20);
        create function tell() returns trigger language plpgsql as 'begin return new; end';
        create trigger tells after insert on readings_2a for each row execute function tell();";
    let unlogged = Obstacle::Unlogged { table: table("readings_2a") };
    let all = refused(&format!("{parts} alter table readings_2a set unlogged"), |_| ()).await;
    assert!(matches!(&all[..], [first, Obstacle::SchemaDiffers { .. }] if *first == unlogged), "{all:?}");
    let all = refused(&format!("{parts} alter table readings_1 replica identity nothing"), |_| ()).await;
    assert_eq!(all, [Obstacle::NoIdentity { table: table("readings_1") }]);
    let all = refused(&format!("{parts} alter table readings_2a enable always trigger tells"), |_| ()).await;
    assert_eq!(all, [Obstacle::AlwaysTrigger { table: table("readings_2a"), trigger: "tells".into() }]);

    // In the source alone it does nothing before the mover writes there, on the way back.
    let two = Two::shared(&format!("{}{parts}", common::SCHEMA)).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.execute("insert into customers values ($1, 'T')", &[&two.tenant]).await.unwrap();
    source.batch_execute("alter table readings_2a enable always trigger tells").await.unwrap();
    berth_mover::plan(&two.spec()).await.unwrap();
    let back = MoveSpec { way_back: true, ..two.spec() };
    let Err(MoveError::Obstacles(found)) = berth_mover::plan(&back).await else { panic!("a plan was made") };
    assert_eq!(found, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_a_column_has_by_its_default_alone_moves_ahead_too() {
    let invoices = "create sequence invoice_numbers;
        create table invoices (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
            number int not null default nextval('invoice_numbers'));";
    let two = Two::shared(&format!("{}{invoices}", common::SCHEMA)).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    source.execute("insert into customers values ($1, 'T')", &[&two.tenant]).await.unwrap();
    let one = "insert into invoices (customer_id) values ($1) returning number";
    for _ in 0..3 {
        source.execute(one, &[&two.tenant]).await.unwrap();
    }
    let owner = two.client(&two.target, Role::Owner).await;
    owner.batch_execute("alter table invoices alter number drop default").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    let difference = "the target does not fill column `number` by sequence `invoice_numbers`".to_owned();
    assert_eq!(all, [Obstacle::SchemaDiffers { table: table("invoices"), difference }]);
    owner.batch_execute("alter table invoices alter number set default nextval('invoice_numbers')").await.unwrap();
    owner.batch_execute("alter table counters alter nth set generated by default").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    let difference = "column `nth` is an identity always here and an identity by default there".to_owned();
    assert_eq!(all, [Obstacle::SchemaDiffers { table: table("counters"), difference }]);
    owner.batch_execute("alter table counters alter nth set generated always").await.unwrap();

    let spec = two.spec();
    common::run_move(&spec, &common::MemoryOwnership::new()).await.unwrap();
    let number: i32 = target.query_one(one, &[&two.tenant]).await.unwrap().get(0);
    assert!(number > 3, "{number} was given out before");
}

#[tokio::test]
async fn a_sequence_without_room_to_jump_is_refused_with_its_end() {
    let codes = "create table codes (id smallserial primary key, customer_id uuid not null references customers);";
    let all = refused(codes, |_| ()).await;
    let [ends @ Obstacle::SequenceEnds { sequence, column, last: 1, end: 32_767, .. }] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!((sequence, column.as_str()), (&table("codes_id_seq"), "id"));
    assert!(ends.hint().contains("ALTER TABLE codes ALTER COLUMN id TYPE bigint"), "{}", ends.hint());
    let old = codes.replace("smallserial", "serial") + "select setval('codes_id_seq', 2147400000);";
    let all = refused(&old, |_| ()).await;
    assert!(matches!(all[..], [Obstacle::SequenceEnds { last: 2_147_400_000, .. }]), "{all:?}");
}

#[tokio::test]
async fn a_table_that_says_nowhere_whose_a_row_without_tenant_is_is_asked_for() {
    let notes = "create table notes (id uuid primary key, customer_id uuid references customers);";
    let two = Two::shared(&format!("{}{notes}", common::SCHEMA)).await;
    let spec = two.spec();
    let found = berth_mover::discover(&spec.source, &spec.rules).await.unwrap();
    let [unsure] = &found.unsure[..] else { panic!("{found:#?}") };
    assert_eq!(unsure.line, "links: [{ table: notes, column: COLUMN, to: TABLE }]");
    assert!(unsure.says.contains("`customer_id` is null"), "{}", unsure.says);
}

#[tokio::test]
async fn what_would_be_done_twice_or_is_said_otherwise_is_refused() {
    let fires = "create function tell() returns trigger language plpgsql as 'begin return new; end';
        create trigger tells after insert on vehicles for each row execute function tell();
        alter table vehicles enable always trigger tells;";
    let all = refused(fires, |_| ()).await;
    assert_eq!(all, [Obstacle::AlwaysTrigger { table: table("vehicles"), trigger: "tells".into() }]);

    let kinds = "create table kinds (id int primary key, best uuid references vehicles);
        alter table vehicles add kind int references kinds;";
    let all = refused(kinds, |spec| spec.rules.shared = vec![table("kinds")]).await;
    assert!(all.contains(&Obstacle::SharedBelongs { table: table("kinds"), to: table("vehicles") }), "{all:?}");

    let mut stored = String::new();
    let all = refused("", |spec| {
        stored = spec.tenant.to_string();
        spec.tenant = berth_domain::TenantKey::new(stored.to_uppercase()).unwrap();
    })
    .await;
    assert_eq!(all, [Obstacle::KeyForm { given: stored.to_uppercase(), stored }]);

    let all = refused("", |spec| spec.target = spec.source.clone()).await;
    assert!(all.contains(&Obstacle::SameDatabase), "{all:?}");
}

#[tokio::test]
async fn a_server_without_room_for_the_movers_sessions_is_refused_with_the_figure() {
    let two = Two::filled(10).await;
    let admin = two.client(&two.source, Role::Mover).await;
    admin.batch_execute("alter system set max_connections = 13").await.unwrap();
    drop(admin);
    two.pg.restart().await;
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    let full = |side| {
        all.iter().any(|it| matches!(it, Obstacle::NoFree { side: found, what, most: 13, .. } if *found == side && what == "12 connections"))
    };
    assert!(full(Side::Source) && full(Side::Target), "{all:?}");
}
