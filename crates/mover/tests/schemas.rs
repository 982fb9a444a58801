//! Schemas that a tenant cannot be taken out of, or put into, as they are: each is named with its remedy.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle, Side, TableName};
use common::Two;

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

    let parts = "create table trips (id uuid, vehicle_id uuid references vehicles, at date, primary key (id, at))
            partition by range (at);
        create table trips_20s partition of trips for values from ('2020-01-01') to ('2030-01-01');";
    let all = refused(parts, |_| ()).await;
    assert_eq!(all, [Obstacle::PartsWithoutColumn { table: table("trips"), column: "customer_id".into() }]);
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
