//! What a session that loads does not look at is asked again: rows that the tenant writes while it moves collide with nobody's and
//! refer to nothing that is not there.

use crate::common::{MemoryOwnership, Two, Watch, cut_over, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle, ReadAhead, TableName};
use uuid::Uuid;

const SCHEMA: &str = "
    create table countries (code text primary key);
    create table customers (id uuid primary key);
    create table orders (id uuid primary key, customer_id uuid not null references customers, country text references countries);
    create table lines (id uuid primary key, customer_id uuid not null references customers, order_id uuid references orders);
    create table r (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
        code text not null, unique (code) deferrable initially deferred);
    create table stays (id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers,
        room int4range not null, exclude using gist (room with &&) deferrable initially deferred);";

/// What the move says when these are written on its two sides before it is compared. `read_ahead`: whether the source's rows were read
/// under the copy's snapshot.
async fn refused(in_source: &str, in_target: &str, read_ahead: bool) -> Obstacle {
    refused_after("", in_source, in_target, read_ahead).await
}

/// `before_copy` is written in the source when the move has been planned.
async fn refused_after(before_copy: &str, in_source: &str, in_target: &str, read_ahead: bool) -> Obstacle {
    let two = Two::shared(SCHEMA).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    for tenant in [two.tenant, two.neighbour] {
        let rows = format!(
            "insert into customers values ('{tenant}'); insert into orders values ('{tenant}', '{tenant}', null)"
        );
        source.batch_execute(&rows).await.unwrap();
    }
    let settled = Uuid::new_v4();
    target.execute("insert into customers values ($1)", &[&settled]).await.unwrap();
    let mut spec = MoveSpec { alone: false, ..two.spec() };
    spec.rules.leave_out = vec![TableName::parse("countries")];
    let ownership = MemoryOwnership::new();
    let named = |sql: &str| {
        sql.replace("OURS", &two.tenant.to_string())
            .replace("NEIGHBOUR", &two.neighbour.to_string())
            .replace("SETTLED", &settled.to_string())
    };
    let watch = Watch::default();
    let plan = berth_mover::plan(&spec).await.unwrap();
    source.batch_execute(&named(before_copy)).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
    two.client(&two.target, Role::App).await.batch_execute(&named(in_target)).await.unwrap();
    source.batch_execute(&named(in_source)).await.unwrap();
    if !read_ahead {
        spec.ahead = ReadAhead::default();
    }
    let cut = cut_over(&spec, &plan, &ownership).await;
    let Err(MoveError::Obstacles(all)) = cut else { panic!("{before_copy}{in_source}: {cut:?}") };
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    let left: i64 = target.query_one("select count(*) from orders", &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "what had come was taken away");
    assert!(all.len() == 1 && !all[0].hint().is_empty(), "{all:?}");
    all.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferrable_key_that_a_neighbour_took_meanwhile_is_not_there_twice() {
    let sql = |tenant: &str| format!("insert into r (customer_id, code) values ('{tenant}', 'X')");
    for read_ahead in [true, false] {
        let found = refused(&sql("OURS"), &sql("SETTLED"), read_ahead).await;
        assert!(
            matches!(&found, Obstacle::KeyTaken { table, rows: 1, first_key, .. } if table.name == "r" && first_key == "X"),
            "{found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferrable_exclusion_holds_too() {
    let sql = |tenant: &str, room: &str| format!("insert into stays (customer_id, room) values ('{tenant}', '{room}')");
    let found = refused(&sql("OURS", "[1,5]"), &sql("SETTLED", "[5,9]"), true).await;
    assert!(matches!(&found, Obstacle::KeyTaken { table, rows: 1, .. } if table.name == "stays"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_comes_to_refer_to_what_is_not_in_the_target_is_refused() {
    let country = "insert into countries values ('nl'); update orders set country = 'nl' where id = 'OURS'";
    let line = "insert into lines values (gen_random_uuid(), 'OURS', 'NEIGHBOUR')";
    for read_ahead in [true, false] {
        let found = refused(country, "", read_ahead).await;
        assert!(
            matches!(&found, Obstacle::LeftOutMissing { table, to, first_key, .. }
                if table.name == "orders" && to.name == "countries" && first_key == "nl"),
            "{found:?}"
        );
        let found = refused(line, "", read_ahead).await;
        assert!(
            matches!(&found, Obstacle::TwoTenants { table, to, rows: 1, .. } if table.name == "lines" && to.name == "orders"),
            "{found:?}"
        );
    }
}

/// The target makes its foreign keys after the load, and looks at every row then: those that change afterwards are asked about, and
/// so is who refers to them.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_that_was_made_after_the_load_holds_for_what_came_later() {
    for (in_source, table, to) in [
        (
            "insert into countries values ('nl'); update orders set country = 'nl' where id = 'OURS'",
            "orders",
            "countries",
        ),
        ("set session_replication_role = replica; delete from orders where id = 'OURS'", "lines", "orders"),
    ] {
        let two = Two::shared(SCHEMA).await;
        let source = two.client(&two.source, Role::Mover).await;
        let rows = "insert into customers values ('OURS'); insert into orders values ('OURS', 'OURS', null);
            insert into lines values ('OURS', 'OURS', 'OURS')";
        let named = |sql: &str| sql.replace("OURS", &two.tenant.to_string());
        source.batch_execute(&named(rows)).await.unwrap();
        let mut spec = MoveSpec { alone: true, ..two.spec() };
        spec.rules.leave_out = vec![TableName::parse("countries")];
        spec.tuning.bare_load_rows = 1;
        let ownership = MemoryOwnership::new();
        let (plan, _) = until_built(&spec, &ownership).await;
        source.batch_execute(&named(in_source)).await.unwrap();
        let cut = cut_over(&spec, &plan, &ownership).await;
        let Err(MoveError::Obstacles(all)) = cut else { panic!("{in_source}: {cut:?}") };
        let found = match &all[..] {
            [Obstacle::LeftOutMissing { table, to, rows: 1, .. } | Obstacle::TwoTenants { table, to, rows: 1, .. }] => {
                (table.name.as_str(), to.name.as_str())
            }
            _ => panic!("{in_source}: {all:?}"),
        };
        assert_eq!(found, (table, to));
    }
}

/// Nothing of it changes afterwards, so that it would never be asked about as one that did.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_copied_and_refers_to_a_neighbours_is_refused_too() {
    let line = "insert into lines values (gen_random_uuid(), 'OURS', 'NEIGHBOUR')";
    for read_ahead in [true, false] {
        let found = refused_after(line, "", "", read_ahead).await;
        assert!(
            matches!(&found, Obstacle::TwoTenants { table, to, rows: 1, .. } if table.name == "lines" && to.name == "orders"),
            "{found:?}"
        );
    }
}

/// In a shared cell the server makes them in its own time: one that reads a table whole would cost the neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_made_of_the_large_tables_in_a_cell_of_the_tenants_own_and_of_no_others() {
    for alone in [true, false] {
        let two = Two::filled(1_500).await;
        let spec = MoveSpec { alone, ..two.spec() };
        let ownership = MemoryOwnership::new();
        let (plan, _) = until_built(&spec, &ownership).await;
        cut_over(&spec, &plan, &ownership).await.unwrap();
        let target = two.client(&two.target, Role::Mover).await;
        let analysed = "select coalesce(string_agg(relname, ', '), '') from pg_stat_user_tables
             where analyze_count > 0 and schemaname = 'public'";
        let named: String = target.query_one(analysed, &[]).await.unwrap().get(0);
        assert_eq!(named, if alone { "positions" } else { "" });
    }
}
