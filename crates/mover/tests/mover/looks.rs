//! Which table has one row per tenant, guessed from the catalogues of applications of different shapes.

use crate::common;
use berth_infra::Role;
use berth_testkit::TestDatabase;

/// The first guess: root, key, tenant column, tables that belong.
async fn guessed(schema: &str) -> (String, String, String, usize) {
    let database = TestDatabase::new().await;
    database.connect(Role::Owner).await.batch_execute(schema).await.unwrap();
    let pg = berth_testkit::TestPg::shared().await;
    let look = berth_mover::look(&common::endpoint(&pg, database.name())).await.unwrap();
    assert!(look.server.superuser && look.server.wal_level == "logical", "{:?}", look.server);
    let root = look.roots.first().unwrap();
    (root.table.to_string(), root.key.clone(), root.tenant_column.clone(), root.covers)
}

#[tokio::test]
async fn a_lookup_table_that_everybody_refers_to_is_no_tenant() {
    let schema = "
        create table currencies (code text primary key);
        create table shops (id int primary key, currency_code text references currencies);
        create table products (id int primary key, shop_id int references shops, currency_code text references currencies);
        create table orders (id int primary key, shop_id int references shops, currency_code text references currencies);
        create table order_lines (id int primary key, order_id int references orders, currency_code text references currencies)";
    assert_eq!(guessed(schema).await, ("shops".into(), "id".into(), "shop_id".into(), 4));
}

#[tokio::test]
async fn people_who_own_everything_are_not_the_tenant_where_a_workspace_is() {
    let schema = "
        create table users (id int primary key);
        create table workspaces (id int primary key, owner_id int references users);
        create table boards (id int primary key, workspace_id int references workspaces, user_id int references users);
        create table cards (id int primary key, board_id int references boards, user_id int references users);
        create table comments (id int primary key, card_id int references cards, user_id int references users)";
    assert_eq!(guessed(schema).await, ("workspaces".into(), "id".into(), "workspace_id".into(), 4));
}

#[tokio::test]
async fn a_root_is_found_by_the_names_of_columns_where_no_foreign_key_is_declared() {
    let schema = "
        create table companies (id uuid primary key);
        create table machines (id uuid primary key, company_id uuid);
        create table readings (id uuid primary key, company_id uuid, machine_id uuid)";
    assert_eq!(guessed(schema).await, ("companies".into(), "id".into(), "company_id".into(), 3));
}

#[tokio::test]
async fn one_user_each_is_the_tenant_where_nothing_else_is() {
    let schema = "
        create table users (id int primary key);
        create table diaries (id int primary key, user_id int references users);
        create table entries (id int primary key, diary_id int references diaries)";
    assert_eq!(guessed(schema).await, ("users".into(), "id".into(), "user_id".into(), 3));
}
