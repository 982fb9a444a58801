//! After a move, with a whole server at work: the old cell follows, what is in its way is said, and in the end it is clear.

use crate::try_move::{Moving, rows, write};
use crate::world::change;
use berth_control::{WorkerOptions, cells, moves, serve, tenants, ways_back};
use berth_domain::{OperationState, WayBackState};
use berth_infra::Role;
use berth_store::{Tenant, WayBackShown};
use berth_testkit::{TestDatabase, wait_until};
use berth_workflow::Journal;
use tokio::sync::watch;

async fn serving<T>(moving: &Moving, test: impl Future<Output = T>) -> T {
    let (stop, stopped) = watch::channel(false);
    let app = moving.world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let outcome = test.await;
    stop.send_replace(true);
    server.await.unwrap().unwrap();
    outcome
}

/// `acme`, moved from `shared-1` to `shared-2`.
async fn moved(moving: &Moving) -> Tenant {
    let tenant = moving.tenant("acme").await;
    let to = "shared-2".parse().unwrap();
    let operation = moves::start(&moving.world.app, &change(), "acme", Some(&to)).await.unwrap();
    moving.world.carry_out(operation.id).await;
    tenant
}

async fn way_back(moving: &Moving, tenant: &Tenant) -> WayBackShown {
    let found = moving.world.store.move_list(Some(tenant.id), 10).await.unwrap();
    let way = found.into_iter().find_map(|m| m.way_back).unwrap();
    if way.state == WayBackState::Open {
        assert_eq!(way.trouble, None);
    }
    way
}

async fn rows_in(database: &TestDatabase, tenant: &Tenant) -> Vec<String> {
    rows(&database.connect(Role::Mover).await, tenant).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_cell_follows_until_the_time_is_over_and_is_then_clear() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    let insert = format!("INSERT INTO vehicles (customer_id, label) VALUES ('{}', 'new')", tenant.key);
    moving.target.connect(Role::App).await.batch_execute(&insert).await.unwrap();
    let now = rows_in(&moving.target, &tenant).await;
    serving(&moving, async {
        let old = async || rows_in(&moving.world.tenants, &tenant).await;
        wait_until("the old cell has what was written since", old, |rows| *rows == now).await;
        let seen = async || way_back(&moving, &tenant).await.bytes_behind;
        wait_until("people see how far it is behind", seen, Option::is_some).await;

        let refused = cells::remove(&moving.world.app, &change(), "shared-1").await.unwrap_err();
        assert_eq!(refused.code(), "cell_keeps_rows");
        let to = "shared-1".parse().unwrap();
        let refused = moves::start(&moving.world.app, &change(), "acme", Some(&to)).await.unwrap_err();
        assert_eq!(refused.code(), "rows_left_behind");
        assert!(refused.hint().unwrap().contains("undo-move"), "{:?}", refused.hint());

        let over = "UPDATE ways_back SET until = now()";
        moving.world.control.connect(Role::Owner).await.batch_execute(over).await.unwrap();
        let state = async || way_back(&moving, &tenant).await.state;
        wait_until("its time is over", state, |state| *state == WayBackState::Closed).await;
    })
    .await;
    assert_eq!(rows_in(&moving.world.tenants, &tenant).await, Vec::<String>::new());
    assert_eq!(rows_in(&moving.target, &tenant).await, now);
    let late = ways_back::undo(&moving.world.app, &change(), "acme").await.unwrap_err();
    assert_eq!(late.code(), "no_way_back");
    cells::remove(&moving.world.app, &change(), "shared-1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_beside_the_server_that_keeps_the_old_cell_brings_everything_back() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    serving(&moving, async {
        let seen = async || way_back(&moving, &tenant).await.bytes_behind;
        wait_until("the old cell follows", seen, Option::is_some).await;
        let insert = format!("INSERT INTO vehicles (customer_id, label) VALUES ('{}', 'new')", tenant.key);
        moving.target.connect(Role::App).await.batch_execute(&insert).await.unwrap();
        let now = rows_in(&moving.target, &tenant).await;
        let undo = ways_back::undo(&moving.world.app, &change(), "acme").await.unwrap();
        let state = async || {
            let (operation, _) = moving.world.store.show(undo.id).await.unwrap().unwrap();
            (operation.state, operation.error)
        };
        wait_until("it is back", state, |(state, _)| state.is_final()).await;
        assert_eq!(state().await.0, OperationState::Succeeded);
        assert_eq!(moving.known("acme").await.cell_name.as_str(), "shared-1");
        assert_eq!(rows_in(&moving.world.tenants, &tenant).await, now);
        let new_cell = async || rows_in(&moving.target, &tenant).await;
        wait_until("the other cell is clear", new_cell, Vec::is_empty).await;
        assert_eq!(write(&moving.world.tenants.connect(Role::App).await, &tenant).await, Ok(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_deleted_leaves_nothing_in_the_cell_it_came_from() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    let operation = tenants::delete(&moving.world.app, &change(), "acme").await.unwrap();
    moving.world.carry_out(operation.id).await;
    assert_eq!(rows_in(&moving.world.tenants, &tenant).await, Vec::<String>::new());
    assert_eq!(rows_in(&moving.target, &tenant).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moves_on_gives_up_its_earlier_way_back() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    let third = TestDatabase::new().await;
    let schema = format!("{};{}", crate::try_move::CUSTOMERS, crate::try_move::VEHICLES);
    third.connect(Role::Owner).await.batch_execute(&schema).await.unwrap();
    let server = berth_testkit::TestPg::shared().await;
    let name = third.name().to_owned();
    moving.cell("shared-3", berth_infra::CellDatabase { database: name, ..server.cell().clone() }).await;
    let to = "shared-3".parse().unwrap();
    let operation = moves::start(&moving.world.app, &change(), "acme", Some(&to)).await.unwrap();
    moving.world.carry_out(operation.id).await;
    ways_back::clear_settled(&moving.world.app, &change()).await.unwrap();
    assert_eq!(rows_in(&moving.world.tenants, &tenant).await, Vec::<String>::new(), "where it was first");
    assert_eq!(rows_in(&moving.target, &tenant).await, rows_in(&third, &tenant).await, "where it can go back to");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_move_cannot_be_undone_is_said_also_while_its_rows_cannot_be_cleared_away() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    ways_back::settle(&moving.world.app, &change(), "acme").await.unwrap();
    let ways = moving.world.store.ways_back_unfinished(Some(tenant.id)).await.unwrap();
    moving.world.store.way_back_seen(ways[0].id, None, Some("the line broke")).await.unwrap();
    assert_eq!(way_back(&moving, &tenant).await.trouble.as_deref(), Some("the line broke"));
    let late = ways_back::undo(&moving.world.app, &change(), "acme").await.unwrap_err().to_string();
    assert!(late.ends_with("settled by a person"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_somebody_else_in_the_old_cell_ends_the_way_back_and_an_undo_says_so() {
    let moving = Moving::new().await;
    let tenant = moved(&moving).await;
    let id = uuid::Uuid::new_v4();
    let met = |whose: &str| format!("INSERT INTO vehicles (id, customer_id, label) VALUES ('{id}', '{whose}', 'met')");
    let old = moving.world.tenants.connect(Role::App).await;
    old.batch_execute(&format!("INSERT INTO customers (id, name) VALUES ('other', 'Other'); {}", met("other")))
        .await
        .unwrap();
    moving.target.connect(Role::App).await.batch_execute(&met(tenant.key.as_str())).await.unwrap();
    let now = rows_in(&moving.target, &tenant).await;
    serving(&moving, async {
        let state = async || way_back(&moving, &tenant).await.state;
        wait_until("it is over", state, |state| *state == WayBackState::Closed).await;
    })
    .await;
    let late = ways_back::undo(&moving.world.app, &change(), "acme").await.unwrap_err();
    assert_eq!(late.code(), "no_way_back");
    let said = late.to_string();
    assert!(said.contains("cannot be undone any more") && said.contains("vehicles_pkey"), "{said}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    let slots = moving.target.connect(Role::Mover).await.query_one(slots, &[]).await.unwrap();
    assert_eq!(slots.get::<_, i64>(0), 0, "nothing is held back any more");
    assert_eq!(rows_in(&moving.target, &tenant).await, now);
    assert_eq!(rows_in(&moving.world.tenants, &tenant).await, Vec::<String>::new());
    let theirs = old.query_one("SELECT customer_id FROM vehicles WHERE id = $1", &[&id]).await.unwrap();
    assert_eq!(theirs.get::<_, String>(0), "other");
}
