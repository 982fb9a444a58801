//! Rows that belong to a tenant without a column that says so, and rows of nobody that travel along.

use crate::common::zoo::moved_while_it_writes;
use crate::common::{self, MemoryOwnership, Two, Watch, cut_over, until_built};
use berth_domain::CellId;
use berth_infra::Role;
use berth_mover::{LinkRule, MoveError, MoveSpec, Obstacle, TableName};
use berth_testkit::wait_until;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_postgres::Client;
use uuid::Uuid;

const SCHEMA: &str = r#"
    create schema shop;
    create type subject as enum ('order', 'customer');
    create table plans (code text primary key, cents int not null);
    create table users (id uuid primary key, email text not null unique, manager uuid references users);
    create table customers (id uuid primary key, plan text not null references plans);
    create table memberships (customer_id uuid not null references customers on delete cascade, user_id uuid not null references users,
        role text, primary key (customer_id, user_id));
    create table shop.orders (id uuid primary key, customer_id uuid not null references customers on delete cascade,
        placed_by uuid references users, note text);
    create table shop.lines (order_id uuid not null references shop.orders on delete cascade on update cascade, nr int, what text,
        primary key (order_id, nr));
    create table shop."Line Notes" (id bigint generated always as identity primary key, order_id uuid not null, nr int not null, body text,
        foreign key (order_id, nr) references shop.lines on delete cascade on update cascade deferrable initially deferred);
    create table comments (id uuid primary key default gen_random_uuid(), subject_type subject not null, subject_id uuid not null, body text);
    create table documents (id uuid primary key default gen_random_uuid(), customer_id uuid references customers on delete cascade,
        order_id uuid references shop.orders on delete cascade on update cascade, title text);
    create table categories (id uuid primary key, customer_id uuid not null references customers on delete cascade,
        parent uuid references categories deferrable initially deferred, note text);
    create table teams (id uuid primary key, customer_id uuid not null references customers on delete cascade, lead uuid);
    create table people (id uuid primary key, customer_id uuid not null references customers on delete cascade,
        team uuid not null references teams on delete cascade);
    alter table teams add foreign key (lead) references people on delete set null deferrable initially deferred;
    create table migrations (version int);
    grant usage on schema shop to berth_app;
    grant select, insert, update, delete on all tables in schema shop to berth_app;
    alter table shop.orders enable row level security;
    alter table shop.orders force row level security;
    create policy mine on shop.orders using (customer_id::text = current_setting('app.tenant', true));
    alter table shop.lines enable row level security;
    alter table shop.lines force row level security;
    create policy mine on shop.lines using (exists (select from shop.orders o where o.id = order_id));
"#;

/// How each table's rows are found here, said independently of the mover.
const MINE: &[(&str, &str)] = &[
    ("customers", "id = $1"),
    ("memberships", "customer_id = $1"),
    ("shop.orders", "customer_id = $1"),
    ("shop.lines", "order_id in (select id from shop.orders where customer_id = $1)"),
    ("shop.\"Line Notes\"", "order_id in (select id from shop.orders where customer_id = $1)"),
    (
        "comments",
        "case subject_type when 'customer' then subject_id = $1
         else exists (select from shop.orders o where o.id = subject_id and o.customer_id = $1) end",
    ),
    (
        "documents",
        "coalesce(customer_id = $1, exists (select from shop.orders o where o.id = order_id and o.customer_id = $1))",
    ),
    ("categories", "customer_id = $1"),
    ("teams", "customer_id = $1"),
    ("people", "customer_id = $1"),
];

fn spec(two: &Two) -> MoveSpec {
    let mut spec = two.spec();
    spec.rules.leave_out = vec![TableName::parse("migrations")];
    spec.rules.shared = vec![TableName::parse("plans"), TableName::parse("users")];
    let link = |to: &str, kind: &str| LinkRule {
        table: TableName::parse("comments"),
        columns: vec!["subject_id".into()],
        to: TableName::parse(to),
        when: Some(("subject_type".into(), kind.into())),
    };
    spec.rules.links = vec![link("shop.orders", "order"), link("customers", "customer")];
    spec.way_back = true;
    spec
}

/// An id that both tenants' rows have in common but for the tenant.
fn id(tenant: Uuid, n: u32) -> String {
    let text = tenant.to_string();
    format!("{n:08x}{}", &text[8..])
}

const BOSS: &str = "00000000-0000-0000-0000-00000000000b";

/// Rows of nobody that every tenant's rows refer to.
const NOBODYS: &str = "insert into plans values ('free', 0), ('pro', 1500), ('unused', 1);
    insert into users values ('00000000-0000-0000-0000-00000000000b', 'boss@x', null)";

fn settled(t: Uuid, plan: &str) -> String {
    let i = |n: u32| id(t, n);
    format!(
        "begin;
         insert into users values ('{u1}', 'one@{t}', '{BOSS}'), ('{u2}', 'two@{t}', '{u1}'), ('{u3}', 'three@{t}', null);
         insert into customers values ('{t}', '{plan}');
         insert into memberships values ('{t}', '{u2}', 'owner'), ('{t}', '{BOSS}', 'guest');
         insert into shop.orders select (lpad(to_hex(n), 8, '0') || right('{t}', 28))::uuid, '{t}', null, 'o' || n from generate_series(100, 140) n;
         insert into shop.lines select o.id, n, 'l' || n from shop.orders o, generate_series(1, 3) n where customer_id = '{t}';
         insert into shop.\"Line Notes\" (order_id, nr, body) select order_id, nr, 'note' from shop.lines join shop.orders o on o.id = order_id where customer_id = '{t}';
         insert into comments (subject_type, subject_id, body) select 'order', id, 'c' from shop.orders where customer_id = '{t}';
         insert into comments (subject_type, subject_id, body) values ('customer', '{t}', 'about us');
         insert into documents (customer_id, order_id, title) select null, id, 'by order' from shop.orders where customer_id = '{t}';
         insert into documents (customer_id, title) values ('{t}', 'ours'), (null, 'nobody''s');
         insert into categories values ('{c1}', '{t}', '{c2}', 'child'), ('{c2}', '{t}', null, 'parent');
         insert into teams values ('{c1}', '{t}', '{c2}'); insert into people values ('{c2}', '{t}', '{c1}');
         commit",
        u1 = i(1),
        u2 = i(2),
        u3 = i(3),
        c1 = i(4),
        c2 = i(5),
    )
}

async fn world() -> Two {
    let two = Two::shared(SCHEMA).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute(NOBODYS).await.unwrap();
    for (t, plan) in [(two.tenant, "pro"), (two.neighbour, "free")] {
        source.batch_execute(&settled(t, plan)).await.unwrap();
    }
    two
}

async fn mine(client: &Client, tenant: Uuid) -> Vec<String> {
    let mut all = Vec::new();
    for (table, whose) in MINE {
        let sql = format!("select t::text from {table} t where {whose} order by 1");
        let rows = client.query(&sql, &[&tenant]).await.unwrap();
        all.extend(rows.iter().map(|r| format!("{table} {}", r.get::<_, String>(0))));
    }
    all
}

/// What the stream has to get right: a row before the one that it refers to, parents that go or change their key,
/// children that go alone, rows of nobody that change and that are new.
fn changes(t: Uuid, round: u32) -> String {
    let (order, new, user) = (|n: u32| id(t, 100 + round * 10 + n), id(t, 1_000 + round), id(t, 2_000 + round));
    format!(
        "set app.tenant = '{t}';
         begin; insert into shop.orders values ('{new}', '{t}', null, 'new');
             insert into shop.\"Line Notes\" (order_id, nr, body) values ('{new}', 7, 'before its line');
             insert into comments (subject_type, subject_id, body) values ('order', '{new}', 'new');
             insert into shop.lines values ('{new}', 7, 'new'); commit;
         begin; insert into shop.orders values ('{gone}', '{t}', null, 'never'); savepoint a;
             insert into shop.lines values ('{gone}', 1, 'never'); rollback to a; delete from shop.orders where id = '{gone}'; commit;
         delete from shop.orders where id = '{o1}';
         update shop.orders set id = '{o2_new}' where id = '{o2}';
         delete from shop.lines where order_id = '{o3}' and nr = 2;
         update shop.lines set what = 'changed' where order_id = '{o4}';
         update shop.\"Line Notes\" set nr = 3 where order_id = '{o4}' and nr = 1;
         delete from comments where subject_id in ('{o1}', '{o3}');
         update comments set subject_id = '{o5}' where subject_id = '{o4}';
         update documents set title = 'changed' where order_id = '{o4}';
         update documents set title = 'changed' where customer_id = '{t}';
         delete from documents where order_id = '{o5}';
         insert into users values ('{user}', 'new{round}@{t}', null);
         insert into memberships values ('{t}', '{user}', 'new');
         update shop.orders set placed_by = '{user}' where id = '{o4}';
         update categories set parent = null, note = note || '!' where customer_id = '{t}';",
        gone = id(t, 3_000 + round),
        o1 = order(1), o2 = order(2), o3 = order(3), o4 = order(4), o5 = order(5), o2_new = id(t, 4_000 + round),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_tenant_column_travel_with_the_rows_that_they_belong_to() {
    let two = world().await;
    let (spec, ownership) = (spec(&two), Arc::new(MemoryOwnership::new()));
    let (plan, token) = until_built(&spec, &*ownership).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    assert_eq!(mine(&target, two.tenant).await, mine(&source, two.tenant).await, "as copied");
    let rows: Vec<(String, i64)> = plan.shared.iter().map(|s| (s.table.to_string(), s.rows)).collect();
    assert_eq!(rows, [("plans".to_owned(), 1), ("users".to_owned(), 3)], "boss and one are managers of two");
    let app = two.client(&two.source, Role::App).await;
    for t in [two.tenant, two.neighbour] {
        app.batch_execute(&changes(t, 0)).await.unwrap();
    }
    source
        .batch_execute(&format!("update users set email = 'changed@x' where id = '{}'", id(two.tenant, 2)))
        .await
        .unwrap();
    let neighbour = mine(&source, two.neighbour).await;
    let cut = cut_over(&spec, &plan, &*ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let arrived = mine(&target, two.tenant).await;
    assert_eq!(arrived, mine(&source, two.tenant).await, "as followed");
    assert_eq!(cut.rows_verified, arrived.len() as u64);
    assert!(mine(&target, two.neighbour).await.is_empty());
    assert_eq!(mine(&source, two.neighbour).await, neighbour);
    let users = "select string_agg(email, ' ' order by email) from users";
    let users: String = target.query_one(users, &[]).await.unwrap().get(0);
    let t = two.tenant;
    assert_eq!(users, format!("boss@x changed@x new0@{t} one@{t}"));
    let nobodys: i64 =
        target.query_one("select count(*) from documents where title like 'nobody%'", &[]).await.unwrap().get(0);
    assert_eq!(nobodys, 0);

    // Every foreign key of the target holds, checked by the server itself.
    for row in target
        .query(
            "select format('alter table %s drop constraint %I, add constraint %2$I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
             from pg_constraint where contype = 'f'",
            &[],
        )
        .await
        .unwrap()
    {
        target.batch_execute(&row.get::<_, String>(0)).await.unwrap();
    }

    // And back, with what was written since.
    let keep = Arc::new(Watch::default());
    let keeper = {
        let (spec, plan, ownership, keep) = (spec.clone(), plan.clone(), Arc::clone(&ownership), Arc::clone(&keep));
        tokio::spawn(async move { berth_mover::keep(&spec, &plan, &*ownership, &*keep).await })
    };
    let app = two.client(&two.target, Role::App).await;
    app.batch_execute(&changes(t, 1)).await.unwrap();
    let now = mine(&target, t).await;
    wait_until("the old side follows", async || mine(&source, t).await, |rows| *rows == now).await;
    keep.cancel.store(true, Ordering::SeqCst);
    keeper.await.unwrap().unwrap();
    app.batch_execute(&changes(t, 2)).await.unwrap();
    let back = spec.back();
    cut_over(&back, &plan, &*ownership).await.unwrap();
    assert_eq!(mine(&source, t).await, mine(&target, t).await);
    berth_mover::retire(&back, &plan, true, ownership.row().token).await.unwrap();
    berth_mover::release(&back, &plan, &*ownership, &Watch::default()).await.unwrap();
    assert!(mine(&target, t).await.is_empty());
    assert_eq!(mine(&source, two.neighbour).await, neighbour);
    let left = "select (select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace where nspname = 'berth')
        + (select count(*) from pg_trigger where tgname like 'berth%') + (select count(*) from pg_namespace where nspname = 'berth')
        + (select count(*) from pg_class c, aclexplode(c.relacl) a where a.grantee = (select oid from pg_roles where rolname = 'berth_fence'))";
    assert_eq!(target.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "left in the cell that was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fence_stands_on_tables_without_the_column_too() {
    let two = world().await;
    let (spec, ownership) = (spec(&two), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    // Opened before the move ends, with a snapshot that will be old.
    let old = two.client(&two.source, Role::App).await;
    old.batch_execute(&format!(
        "set app.tenant = '{}'; begin isolation level repeatable read; select count(*) from shop.orders",
        two.tenant
    ))
    .await
    .unwrap();
    let newer = id(two.tenant, 9_000);
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(&format!(
            "insert into shop.orders values ('{newer}', '{}', null, 'after the snapshot')",
            two.tenant
        ))
        .await
        .unwrap();
    cut_over(&spec, &plan, &ownership).await.unwrap();
    let app = two.client(&two.source, Role::App).await;
    let before = mine(&source, two.tenant).await;
    let refused = async |client: &Client, sql: &str| {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().map(|c| c.code().to_owned()).as_deref(), Some("BF001"), "{sql}: {error:?}");
    };
    let write = |t: Uuid| {
        let order = id(t, 110);
        [
            format!("insert into shop.lines values ('{order}', 50, 'late')"),
            format!("update shop.lines set what = 'late' where order_id = '{order}'"),
            format!("delete from shop.lines where order_id = '{order}' and nr = 1"),
            format!("insert into shop.\"Line Notes\" (order_id, nr, body) values ('{order}', 2, 'late')"),
            format!("delete from shop.\"Line Notes\" where order_id = '{order}'"),
            format!(
                "insert into comments (subject_type, subject_id, body) values ('order', '{order}', 'late'), ('customer', '{t}', 'late')"
            ),
            format!("update comments set body = 'late' where subject_id = '{order}'"),
            format!("insert into documents (order_id, title) values ('{order}', 'late')"),
            format!("update documents set title = 'late' where customer_id = '{t}'"),
            format!("delete from documents where order_id = '{order}'"),
        ]
    };
    app.batch_execute(&format!("set app.tenant = '{}'", two.tenant)).await.unwrap();
    for sql in write(two.tenant) {
        refused(&app, &sql).await;
    }
    let steal = format!(
        "update comments set subject_id = '{}' where subject_id = '{}'",
        id(two.tenant, 110),
        id(two.neighbour, 110)
    );
    refused(&app, &steal).await;
    // It cannot see the order that it names: that may be the tenant's.
    refused(&old, &format!("insert into comments (subject_type, subject_id) values ('order', '{newer}')")).await;
    assert_eq!(mine(&source, two.tenant).await, before);
    app.batch_execute(&format!("set app.tenant = '{}'", two.neighbour)).await.unwrap();
    for sql in write(two.neighbour) {
        app.batch_execute(&sql).await.unwrap();
    }
    app.batch_execute("insert into documents (title) values ('nobody''s still')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_changes_hands_ends_the_move() {
    let (two, ownership) = (world().await, MemoryOwnership::new());
    for (from, to) in [(two.tenant, two.neighbour), (two.neighbour, two.tenant)] {
        let spec = spec(&two);
        let (plan, _) = until_built(&spec, &ownership).await;
        let source = two.client(&two.source, Role::Mover).await;
        let moved =
            format!("update comments set subject_id = '{}' where subject_id = '{}'", id(to, 120), id(from, 120));
        assert!(source.execute(&moved, &[]).await.unwrap() > 0);
        let cut = cut_over(&spec, &plan, &ownership).await;
        assert!(matches!(&cut, Err(MoveError::TenantChanged { table }) if table == "comments"), "{cut:?}");
        let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
        berth_mover::retire(&spec, &plan, false, token).await.unwrap();
        // Nothing is left of it, rows of nobody included.
        let target = two.client(&two.target, Role::Mover).await;
        assert!(mine(&target, two.tenant).await.is_empty());
        let users: i64 = target.query_one("select count(*) from users", &[]).await.unwrap().get(0);
        assert_eq!(users, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_becomes_the_tenants_when_its_parent_comes_is_not_left_behind() {
    let (two, ownership) = (world().await, MemoryOwnership::new());
    let spec = spec(&two);
    let source = two.client(&two.source, Role::Mover).await;
    let late = id(two.tenant, 7_777);
    source
        .batch_execute(&format!("insert into comments (subject_type, subject_id) values ('order', '{late}')"))
        .await
        .unwrap();
    let (plan, _) = until_built(&spec, &ownership).await;
    // Where every comparison is over, in the attempts at the cut-over: a transaction of the tenant keeps the first ones off.
    let holder = two.client(&two.source, Role::App).await;
    holder
        .batch_execute(&format!(
            "set app.tenant = '{0}'; begin; update customers set plan = plan where id = '{0}'",
            two.tenant
        ))
        .await
        .unwrap();
    let (seen, watch) = (spec.clone(), Arc::new(Watch::default()));
    let cutting = {
        let (plan, watch) = (plan.clone(), Arc::clone(&watch));
        let ownership = MemoryOwnership::from(ownership.row());
        tokio::spawn(async move { berth_mover::cut_over(&seen, &plan, &ownership, &common::NoEdges, &*watch).await })
    };
    let told = async || {
        watch.seen.lock().unwrap().iter().any(|p| p.note.as_deref().is_some_and(|n| n.contains("has been open")))
    };
    wait_until("an attempt was given up", told, |told| *told).await;
    source
        .batch_execute(&format!("insert into shop.orders values ('{late}', '{}', null, 'late')", two.tenant))
        .await
        .unwrap();
    holder.batch_execute("commit").await.unwrap();
    let cut = cutting.await.unwrap();
    assert!(matches!(&cut, Err(MoveError::Differs { table, rows: 1, .. }) if table.name == "comments"), "{cut:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_catalogue_cannot_say_is_asked_for_by_name() {
    let two = world().await;
    let mut spec = spec(&two);
    let discovered = berth_mover::discover(&spec.source, &spec.rules).await.unwrap();
    assert!(discovered.obstacles.is_empty() && discovered.unsure.is_empty(), "{discovered:?}");
    (spec.rules.shared, spec.rules.links) = (vec![], vec![]);
    let discovered = berth_mover::discover(&spec.source, &spec.rules).await.unwrap();
    let outside: Vec<String> = discovered
        .obstacles
        .iter()
        .map(|o| match o {
            Obstacle::SharedRows { table, outside } => format!("{table} -> {outside}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outside, ["customers -> plans", "memberships -> users", "shop.orders -> users"]);
    let unsure: Vec<&str> = discovered.unsure.iter().map(|u| u.line.as_str()).collect();
    assert_eq!(unsure, ["links: [{ table: comments, column: subject_id, to: TABLE, when: { subject_type: VALUE } }]"]);

    // A row of two tenants, and a row of nobody that is another one there.
    let spec = self::spec(&two);
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    target.batch_execute("insert into plans values ('pro', 1600)").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    assert!(matches!(&all[..], [Obstacle::SharedDiffers { rows: 1, first_key, .. }] if first_key == "pro"), "{all:?}");
    let steal = format!("update people set team = '{}' where customer_id = '{}'", id(two.neighbour, 4), two.tenant);
    source.batch_execute(&steal).await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    assert!(
        all.iter().any(|o| matches!(o, Obstacle::TwoTenants { table, rows: 1, .. } if table.name == "people")),
        "{all:?}"
    );
    assert!(all.iter().all(|o| !o.hint().is_empty()));
}

const REPLIES: &str = "
    create table customers (id uuid primary key);
    create table posts (id uuid primary key, customer_id uuid not null references customers on delete cascade);
    create table audit (said text);
    create table comments (id uuid primary key, post_id uuid references posts on delete cascade,
        parent_id uuid references comments on delete cascade);
    create table notes (id uuid primary key, customer_id uuid, body text);
    create function noted() returns trigger language plpgsql as $$ begin insert into audit values ('gone'); return null; end $$;
    create trigger noted after delete on posts for each row execute function noted();
";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_that_refer_to_the_tenants_are_never_taken_along() {
    let two = Two::shared(REPLIES).await;
    let mut spec = two.spec();
    spec.rules.leave_out = vec![TableName::parse("audit")];
    let (t, n) = (two.tenant, two.neighbour);
    let source = two.client(&two.source, Role::Mover).await;
    source
        .batch_execute(&format!(
            "insert into customers values ('{t}'), ('{n}'); insert into posts values ('{t}', '{t}'), ('{n}', '{n}');
             insert into comments values ('{t}', '{t}', null), ('{}', null, '{t}'); insert into notes values ('{n}', null, 'x')",
            id(t, 1)
        ))
        .await
        .unwrap();
    // A reply that only says what it replies to: it would stay, and go with the comment.
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&spec).await else { panic!("a plan was made") };
    assert!(matches!(&all[..], [Obstacle::OthersRefer { table, rows: 1, .. }] if table.name == "comments"), "{all:?}");
    source.batch_execute("delete from comments where post_id is null").await.unwrap();

    let ownership = MemoryOwnership::new();
    let (plan, token) = until_built(&spec, &ownership).await;
    // Nobody's row becomes the neighbour's: nothing to do with the tenant.
    source.batch_execute(&format!("update notes set customer_id = '{n}'")).await.unwrap();
    cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    // After the move a neighbour's comment comes to refer to the old copy of the tenant's.
    source.batch_execute(&format!("insert into comments values ('{n}', '{n}', '{t}')")).await.unwrap();
    let released = berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await;
    assert!(matches!(released, Err(MoveError::ReferredTo { rows: 1, .. })), "{released:?}");
    source.batch_execute(&format!("update comments set parent_id = null where id = '{n}'")).await.unwrap();
    assert_eq!(berth_mover::release(&spec, &plan, &ownership, &Watch::default()).await.unwrap(), 3);
    let left = "select (select count(*) from comments) + (select count(*) from posts) + (select count(*) from audit)";
    assert_eq!(
        source.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
        3,
        "the neighbour's two, and the trigger's row"
    );
}

/// References between the tenant's own rows are looked through for rows of two tenants; those by which a row belongs to
/// its tenant cannot lead to another's.
#[tokio::test(flavor = "multi_thread")]
async fn references_within_a_tenant_are_all_known_and_those_to_its_owner_are_not_among_them() {
    let two = Two::with(
        "create table customers (id uuid primary key);
         create table orders (id uuid primary key, customer_id uuid not null references customers);
         create table lines (id uuid primary key, order_id uuid not null references orders);
         create table notes (id uuid primary key, order_id uuid references orders, line_id uuid references lines);
         create table returns (id uuid primary key, customer_id uuid not null references customers, order_id uuid references orders);
         create table parts (id uuid primary key, line_id uuid not null references lines, goes_with uuid references parts)",
    )
    .await;
    let client = two.client(&two.source, Role::Mover).await;
    client.execute("insert into customers values ($1)", &[&two.tenant]).await.unwrap();
    let plan = berth_mover::plan(&two.spec()).await.unwrap();
    let mut inner: Vec<String> =
        plan.inner.iter().map(|r| format!("{}.{} {}", r.table, r.columns.join("+"), r.to)).collect();
    inner.sort();
    // A note is the tenant's by its order, which is nearer to the tenant than its line.
    assert_eq!(inner, ["notes.line_id lines", "parts.goes_with parts", "returns.order_id orders"]);
}

/// The nth round: rows that hang on others come, change their parent, its key and the way they belong, and go; rows that
/// refer to each other in a circle; now and then a row of nobody that is new, or changes.
fn writes(t: Uuid, n: u64) -> Vec<String> {
    let nth = u32::try_from(n).unwrap();
    let at = |place: u32| id(t, place * 10_000_000 + nth);
    let (new, renamed, never, team, one, user) = (at(1), at(2), at(3), at(4), at(5), at(6));
    let (o, c1, c2) = (id(t, 100 + nth % 40), id(t, 4), id(t, 5));
    let mut all = vec![
        format!(
            "begin; insert into shop.orders values ('{new}', '{t}', null, 'new');
             insert into shop.\"Line Notes\" (order_id, nr, body) values ('{new}', 7, 'before its line');
             insert into comments (subject_type, subject_id, body) values ('order', '{new}', 'new');
             insert into documents (order_id, title) values ('{new}', 'new');
             insert into shop.lines values ('{new}', 7, 'new'); commit"
        ),
        format!(
            "begin; insert into shop.orders values ('{never}', '{t}', null, 'never'); savepoint a;
             insert into shop.lines values ('{never}', 1, 'never'); rollback to a; delete from shop.orders where id = '{never}'; commit"
        ),
        format!("update shop.lines set what = what || '.' where order_id = '{o}'"),
        format!("update shop.\"Line Notes\" set nr = 4 - nr where order_id = '{o}'"),
        format!("update comments set body = body || '.' where subject_type = 'order' and subject_id = '{o}'"),
        format!("update documents set title = title || '.' where order_id = '{o}' or (customer_id = '{t}' and order_id is null)"),
        format!("update comments set subject_type = 'customer', subject_id = '{t}' where subject_id = '{new}'"),
        format!("delete from comments where subject_type = 'customer' and subject_id = '{t}' and body = 'new'"),
        format!("update shop.orders set id = '{renamed}' where id = '{new}'"),
        format!("update memberships set role = role || '.' where customer_id = '{t}' and user_id = '{BOSS}'"),
        format!(
            "begin; update categories set parent = '{c2}' where id = '{c1}';
             update categories set parent = '{c1}', note = note || '!' where id = '{c2}'; commit"
        ),
        format!("update categories set parent = null where customer_id = '{t}'"),
        format!(
            "begin; insert into teams values ('{team}', '{t}', '{one}'); insert into people values ('{one}', '{t}', '{team}'); commit"
        ),
    ];
    if !n.is_multiple_of(3) {
        all.push(format!("delete from shop.orders where id = '{renamed}'"));
        all.push(format!("delete from teams where id = '{team}'"));
    }
    match n % 40 {
        5 => all.push(format!(
            "begin; insert into users values ('{user}', 'new{n}@{t}', null); insert into memberships values ('{t}', '{user}', 'new');
             update shop.orders set placed_by = '{user}' where id = '{o}'; commit"
        )),
        25 => all.push(format!("update users set email = 'changed{n}@{t}' where id = '{}'", id(t, 2))),
        _ => {}
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_belong_by_others_go_up_and_down_while_they_are_written() {
    let (two, ownership) = (world().await, MemoryOwnership::new());
    let shared = two.pg.database(&format!("shared_{}", Uuid::new_v4().simple())).await;
    // Numbers that two databases hand out are the same ones: these begin elsewhere, or the way down is refused.
    let elsewhere = format!("{SCHEMA} alter table shop.\"Line Notes\" alter id restart 50000000;");
    two.client(&shared, Role::Owner).await.batch_execute(&elsewhere).await.unwrap();
    let there = two.client(&shared, Role::Mover).await;
    there.batch_execute(NOBODYS).await.unwrap();
    there.batch_execute(&settled(two.neighbour, "free")).await.unwrap();
    let theirs = mine(&there, two.neighbour).await;
    let up = MoveSpec { way_back: false, ..spec(&two) };
    let down = MoveSpec {
        source: up.target.clone(),
        target: two.endpoint(&shared),
        source_cell: up.target_cell,
        target_cell: CellId::new(Uuid::from_u128(3)),
        alone: false,
        way_back: false,
        ..spec(&two)
    };
    for (spec, first) in [(&up, 0), (&down, 500_000)] {
        let cut = moved_while_it_writes(&two, spec, &ownership, writes, first).await;
        let source = two.client(&spec.source.database, Role::Mover).await;
        let target = two.client(&spec.target.database, Role::Mover).await;
        let (left, arrived) = (mine(&source, two.tenant).await, mine(&target, two.tenant).await);
        let differs = left.iter().zip(&arrived).find(|(left, arrived)| left != arrived);
        assert_eq!((left.len(), differs), (arrived.len(), None));
        assert!(cut.rows_verified > 300);
    }
    assert_eq!(mine(&there, two.neighbour).await, theirs);
    let app = two.client(&shared, Role::App).await;
    for t in [two.tenant, two.neighbour] {
        app.batch_execute(&format!("set app.tenant = '{t}'")).await.unwrap();
        for sql in writes(t, 1_000_005) {
            app.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
}
