//! Schemas as people have them, moved up into an empty database and down into one that others live in, while the tenant
//! writes. What each writes it writes where it lives, so afterwards both sides hold the same rows, to the letter.

use crate::common::zoo::{Writes, ZOO, ZOO_TABLES, moved_while_it_writes, rows, zoo_rows, zoo_writes};
use crate::common::{self, MemoryOwnership, Two};
use berth_domain::CellId;
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle};
use uuid::Uuid;

/// Moves the tenant while it writes, and compares what both sides hold afterwards.
async fn moved(two: &Two, spec: &MoveSpec, ownership: &MemoryOwnership, tables: &[&str], what: Writes, first: u64) {
    let cut = moved_while_it_writes(two, spec, ownership, what, first).await;
    println!("moved at attempt {}, closed for {:?} ms: {:?}", cut.attempts, cut.closed_ms, cut.timeline);
    let source = two.client(&spec.source.database, Role::Mover).await;
    let target = two.client(&spec.target.database, Role::Mover).await;
    let (left, arrived) = (rows(&source, tables, two.tenant).await, rows(&target, tables, two.tenant).await);
    let differs = left.iter().zip(&arrived).find(|(left, arrived)| left != arrived);
    assert_eq!((left.len(), differs), (arrived.len(), None));
    assert!(cut.rows_verified > 0);
}

/// Up into a database of its own and down into a third one, where somebody else lives already.
async fn up_and_down(two: &Two, schema: &str, settle: fn(Uuid) -> String, tables: &[&str], what: Writes) {
    let shared = third(two).await;
    two.client(&shared, Role::Owner).await.batch_execute(schema).await.unwrap();
    up_and_down_into(two, &shared, settle, tables, what).await;
}

async fn third(two: &Two) -> String {
    two.pg.database(&format!("shared_{}", Uuid::new_v4().simple())).await
}

/// As [`up_and_down`], where the third database has its schema already.
async fn up_and_down_into(two: &Two, shared: &str, settle: fn(Uuid) -> String, tables: &[&str], what: Writes) {
    let ownership = MemoryOwnership::new();
    let up = two.spec();
    moved(two, &up, &ownership, tables, what, 0).await;
    let there = two.client(shared, Role::Mover).await;
    there.batch_execute(&settle(two.neighbour)).await.unwrap();
    let theirs = rows(&there, tables, two.neighbour).await;
    let down = MoveSpec {
        source: up.target,
        target: two.endpoint(shared),
        source_cell: up.target_cell,
        target_cell: CellId::new(Uuid::from_u128(3)),
        alone: false,
        ..two.spec()
    };
    moved(two, &down, &ownership, tables, what, 500_000).await;
    assert_eq!(rows(&there, tables, two.neighbour).await, theirs);
    // Each goes on writing there: no key, trigger or identity is missing, and nobody is in anybody's way.
    let app = two.client(shared, Role::App).await;
    for tenant in [two.tenant, two.neighbour] {
        app.batch_execute(&format!("set app.tenant = '{tenant}'")).await.unwrap();
        for sql in what(tenant, 1_000_000) {
            app.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zoo_goes_up_and_down_while_it_is_written() {
    let two = Two::shared(ZOO).await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        source.batch_execute(&zoo_rows(tenant)).await.unwrap();
    }
    // Numbers that two databases hand out are the same ones: these begin elsewhere, or the way down is refused.
    let elsewhere =
        format!("{ZOO} alter table audit alter id restart 50000000; alter table by_all alter id restart 50000000;");
    up_and_down(&two, &elsewhere, zoo_rows, ZOO_TABLES, zoo_writes).await;
}

const MANY: usize = 150;

fn many_names() -> Vec<String> {
    (0..MANY).map(|n| format!("t_{n:03}")).collect()
}

/// Each refers to the one before it, so that the order matters.
fn many_schema() -> String {
    let table = |(n, name): (usize, String)| {
        let parent = n.checked_sub(1).map_or_else(String::new, |before| {
            format!(", foreign key (customer_id, id) references t_{before:03} on delete cascade")
        });
        format!(
            "create table {name} (customer_id uuid not null references customers, id int, v int, primary key (customer_id, id){parent});
             create index on {name} (v);"
        )
    };
    let tables: Vec<String> = many_names().into_iter().enumerate().map(table).collect();
    format!("create table customers (id uuid primary key, name text); {}", tables.concat())
}

fn many_rows(t: Uuid) -> String {
    let row = |name: String| format!("insert into {name} select '{t}', n, n from generate_series(1, 3) n;");
    let rows: Vec<String> = many_names().into_iter().map(row).collect();
    format!("insert into customers values ('{t}', 'T'); {}", rows.concat())
}

fn many_writes(t: Uuid, n: u64) -> Vec<String> {
    let table = format!("t_{:03}", n % MANY as u64);
    vec![
        format!("update {table} set v = v + 1 where customer_id = '{t}' and id = 2"),
        format!("insert into t_000 values ('{t}', {}, 1)", 100 + n),
        format!("delete from t_149 where customer_id = '{t}' and id = 3"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_fifty_tables_go_up_and_down_while_they_are_written() {
    let (schema, names) = (many_schema(), many_names());
    let two = Two::shared(&schema).await;
    let source = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        source.batch_execute(&many_rows(tenant)).await.unwrap();
    }
    let tables: Vec<&str> = names.iter().map(String::as_str).collect();
    up_and_down(&two, &schema, many_rows, &tables, many_writes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_as_many_columns_as_there_can_be_moves() {
    // 1,600 is the most that Postgres takes.
    let columns: Vec<String> = (0..1_597).map(|n| format!(", c{n} smallint")).collect();
    let columns = columns.concat();
    let schema = format!(
        "create table customers (id uuid primary key);
         create table wide (customer_id uuid not null references customers, id int, c text{columns}, primary key (customer_id, id))"
    );
    let two = Two::shared(&schema).await;
    let source = two.client(&two.source, Role::Mover).await;
    let values = ", 7".repeat(1_597);
    let t = two.tenant;
    source
        .batch_execute(&format!(
            "insert into customers values ('{t}'); insert into wide select '{t}', n, 'x'{values} from generate_series(1, 20) n"
        ))
        .await
        .unwrap();
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = common::until_built(&spec, &ownership).await;
    source
        .batch_execute("update wide set c1596 = id, c = null where id < 9; delete from wide where id = 10")
        .await
        .unwrap();
    common::cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    let arrived = rows(&target, &["wide"], t).await;
    assert_eq!(arrived.len(), 20);
    assert_eq!(arrived, rows(&source, &["wide"], t).await);
}

fn sites_rows(t: Uuid) -> String {
    format!(
        "insert into customers values ('{t}');
         insert into sites select '{t}', n, st_setsrid(st_makepoint(n * 0.1, -n), 4326),
             st_geomfromtext('MULTIPOLYGON Z (((0 0 1, 4 0 1, 4 4 1, 0 0 1)))', 3857), st_makepoint(n, n)::geography, 'BOX3D(1 2 3,4 5 6)'
           from generate_series(1, 30) n;
         insert into sites values ('{t}', 100, 'SRID=4326;POINT EMPTY', 'GEOMETRYCOLLECTION EMPTY', null, null)"
    )
}

fn sites_writes(t: Uuid, n: u64) -> Vec<String> {
    let (k, new) = (n % 20 + 1, 1_000 + n);
    vec![
        format!(
            "update sites set g = st_setsrid(st_translate(g, 0.1, 0), 4326), any_g = st_makeline(g, g) where customer_id = '{t}' and id = {k}"
        ),
        format!(
            "insert into sites values ('{t}', {new}, 'SRID=4326;POINT EMPTY', 'GEOMETRYCOLLECTION EMPTY', st_makepoint({k}, 1)::geography, null)"
        ),
        format!("delete from sites where customer_id = '{t}' and id > 100 and id < {new} - 5"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_and_places_of_postgis_go_up_and_down_where_it_is_installed() {
    let two = Two::shared("create table customers (id uuid primary key)").await;
    let available = "select count(*) from pg_available_extensions where name = 'postgis'";
    let mover = two.client(&two.source, Role::Mover).await;
    if mover.query_one(available, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        println!("skipped: PostGIS is not installed (postgresql-15-postgis-3)");
        return;
    }
    let shared = third(&two).await;
    let customers = "create table customers (id uuid primary key)";
    two.client(&shared, Role::Owner).await.batch_execute(customers).await.unwrap();
    for database in [&two.source, &two.target, &shared] {
        two.client(database, Role::Mover).await.batch_execute("create extension postgis").await.unwrap();
        let schema = "create table sites (customer_id uuid not null references customers, id int, g geometry(Point, 4326), any_g geometry,
                gg geography, box box3d, primary key (customer_id, id));
            create index on sites using gist (g)";
        two.client(database, Role::Owner).await.batch_execute(schema).await.unwrap();
    }
    for tenant in [two.tenant, two.neighbour] {
        mover.batch_execute(&sites_rows(tenant)).await.unwrap();
    }
    up_and_down_into(&two, &shared, sites_rows, &["sites"], sites_writes).await;
    let version = "select extversion from pg_extension where extname = 'postgis'";
    println!("ran: PostGIS {}", mover.query_one(version, &[]).await.unwrap().get::<_, String>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_says_nothing_of_its_deleted_rows_is_refused_by_name() {
    let two = Two::shared(ZOO).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute(&zoo_rows(two.tenant)).await.unwrap();
    source.batch_execute("alter table orders replica identity nothing").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    assert!(matches!(&all[..], [Obstacle::NoIdentity { table }] if table.name == "orders"), "{all:?}");
    // What it says is the remedy.
    let hint = all[0].hint();
    let (_, remedy) = hint.split_once("where it has one: ").unwrap();
    two.client(&two.source, Role::Owner).await.batch_execute(remedy).await.unwrap();
    berth_mover::plan(&two.spec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_very_many_rows_at_the_size_of_the_machine_arrive_whole() {
    let two = Two::filled(100).await;
    very_many(&two, two.spec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_very_many_rows_at_the_size_of_the_machine_arrive_where_others_live_too() {
    let two = Two::filled(100).await;
    let settler = Uuid::new_v4();
    let target = two.client(&two.target, Role::Mover).await;
    let settle = format!(
        "insert into customers values ('{settler}', 'S'); insert into vehicles (customer_id, label) values ('{settler}', 'v')"
    );
    target.batch_execute(&settle).await.unwrap();
    let theirs = common::rows_of(&target, settler).await;
    very_many(&two, MoveSpec { alone: false, way_back: true, ..two.spec() }).await;
    assert_eq!(common::rows_of(&target, settler).await, theirs);
}

/// The tenant and a neighbour each write as many rows in one transaction while the tenant moves. `BERTH_ZOO_ROWS=1000000` makes
/// them large ones.
#[expect(clippy::disallowed_methods, reason = "a test has no binary that could resolve it")]
async fn very_many(two: &Two, spec: MoveSpec) {
    let rows = std::env::var("BERTH_ZOO_ROWS").ok().and_then(|n| n.parse::<i64>().ok()).unwrap_or(30_000);
    let ownership = MemoryOwnership::new();
    let (plan, token) = common::until_built(&spec, &ownership).await;
    let one_transaction = |tenant: Uuid| {
        format!(
            "insert into positions (customer_id, vehicle_id, event_id, lat)
             select '{tenant}', (select id from vehicles where customer_id = '{tenant}' order by label limit 1), gen_random_uuid(), n from generate_series(1, {rows}) n"
        )
    };
    // The neighbour's may still be running when the pause comes.
    let mut writers = Vec::new();
    for tenant in [two.tenant, two.neighbour] {
        let (sql, app) = (one_transaction(tenant), two.client(&two.source, Role::App).await);
        writers.push(tokio::spawn(async move { app.batch_execute(&sql).await.unwrap() }));
    }
    let cut = common::cut_over(&spec, &plan, &ownership).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    let count = "select count(*), coalesce(sum(lat), 0)::int8 from positions where customer_id = $1 and note is null";
    let found = target.query_one(count, &[&two.tenant]).await.unwrap();
    assert_eq!((found.get::<_, i64>(0), found.get::<_, i64>(1)), (rows, rows * (rows + 1) / 2));
    assert_eq!(target.query_one(count, &[&two.neighbour]).await.unwrap().get::<_, i64>(0), 0);
    println!(
        "{rows} rows in a transaction of the tenant and of a neighbour; {} attempts, closed for {:?} ms",
        cut.attempts, cut.closed_ms
    );
}
