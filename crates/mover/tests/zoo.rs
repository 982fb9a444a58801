//! Schemas as people have them, moved up into an empty database and down into one that others live in, while the tenant
//! writes. What each writes it writes where it lives, so afterwards both sides hold the same rows, to the letter.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use berth_domain::CellId;
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Obstacle};
use berth_testkit::wait_until;
use common::{MemoryOwnership, Two, run_move};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

const ZOO: &str = r#"
    create extension hstore; create extension citext; create extension btree_gist;
    create table customers (id uuid primary key, name citext not null, tags hstore);
    create table readings (customer_id uuid not null references customers, day date, kind text, id int, v int,
        primary key (customer_id, day, kind, id)) partition by range (day);
    create table readings_1 partition of readings for values from ('2024-01-01') to ('2024-02-01') partition by list (kind);
    create table readings_1_a partition of readings_1 for values in ('a');
    create table readings_1_rest partition of readings_1 default;
    create table readings_2 partition of readings for values from ('2024-02-01') to ('2024-03-01') partition by hash (id);
    create table readings_2_even partition of readings_2 for values with (modulus 2, remainder 0);
    create table readings_2_odd partition of readings_2 for values with (modulus 2, remainder 1);
    create table edges (customer_id uuid not null references customers, id int, at timestamptz, ts timestamp, d date, t time, tz timetz,
        iv interval, n numeric, f8 float8, f4 float4, b bytea, txt text, js json, p point, bits varbit, tags hstore, ci citext,
        x xml, tsv tsvector, mac macaddr8, net cidr, many citext[][], primary key (customer_id, id));
    create table bookings (customer_id uuid not null references customers, id int, room int, during tstzrange, seats int4range,
        gaps int4multirange, price numrange, primary key (customer_id, id),
        exclude using gist (customer_id with =, room with =, during with &&));
    create table chain (customer_id uuid not null references customers, id int, next_id int, pos int, primary key (customer_id, id),
        foreign key (customer_id, next_id) references chain deferrable initially deferred,
        unique (customer_id, pos) deferrable initially deferred);
    create table orders (customer_id uuid not null references customers, id int, stamp uuid, total numeric, primary key (customer_id, id));
    create table audit (id bigint generated always as identity primary key, customer_id uuid not null references customers, what text,
        at timestamptz not null default clock_timestamp());
    create function stamped() returns trigger language plpgsql as $$ begin new.stamp := gen_random_uuid(); return new; end $$;
    create function noted() returns trigger language plpgsql as $$ begin
        insert into audit (customer_id, what) values (coalesce(new.customer_id, old.customer_id), tg_op || coalesce(new.id, old.id)); return null; end $$;
    create trigger stamp before insert or update on orders for each row execute function stamped();
    create trigger note after insert or update or delete on orders for each row execute function noted();
    create table secrets (customer_id uuid not null references customers, id int, body text, primary key (customer_id, id));
    alter table secrets enable row level security; alter table secrets force row level security;
    create policy mine on secrets using (customer_id::text = current_setting('app.tenant', true));
    create table by_index (customer_id uuid not null references customers, nr int not null, body text);
    create unique index by_index_nr on by_index (nr, customer_id); alter table by_index replica identity using index by_index_nr;
    create table by_all (customer_id uuid not null references customers, id int primary key generated always as identity, body text);
    alter table by_all replica identity full;
    create table "select" (customer_id uuid not null references customers, "Order" int, "a""b" text, "from" text, primary key (customer_id, "Order"));
"#;

/// One of each; the tenant's rows of every table.
const ZOO_TABLES: &[&str] =
    &["readings", "edges", "bookings", "chain", "orders", "audit", "secrets", "by_index", "by_all", "\"select\""];

fn zoo_rows(t: Uuid) -> String {
    format!(
        r#"insert into customers values ('{t}', 'Name', 'a=>1, b=>NULL, "c d"=>"e\"f"');
        insert into readings select '{t}', date '2024-01-10' + n, case n % 3 when 0 then 'a' else 'k' || n end, n, n from generate_series(1, 40) n;
        insert into edges (customer_id, id, at, ts, d, t, tz, iv, n, f8, f4) values
            ('{t}', 1, 'infinity', '-infinity', 'infinity', '24:00', '23:59:59-15:59', '178000000 years', 'NaN', 'NaN', '-0'),
            ('{t}', 2, '-infinity', 'infinity', '-infinity', '00:00', '00:00:00+15:59', '-178000000 years', 'Infinity', '5e-324', '1e-45'),
            ('{t}', 3, '4714-11-24 00:00:00+00 BC', '4714-11-24 00:00:00 BC', '4714-11-24 BC', '00:00:00.000001', '12:00+00',
                '1 month -1 day 1 us', '-Infinity', '1.7976931348623157e308', '3.4028235e38'),
            ('{t}', 4, '294276-12-31 23:59:59.999999+00', '294276-12-31 23:59:59.999999', '5874897-12-31', '12:00', '12:00+05:30',
                '00:00:00', ('1' || repeat('0', 131000))::numeric, '-Infinity', 'Infinity'),
            ('{t}', 5, '2024-10-27 02:30:00+02', '2024-03-31 02:30', '2024-02-29', '12:00', '12:00+01', '-1 days +23:59:59.999999',
                ('0.' || repeat('0', 16000) || '1')::numeric, '-0', 'NaN'),
            ('{t}', 6, null, null, null, null, null, null, null, null, null);
        update edges set b = decode(repeat('00ff0a5c27', 900), 'hex'), txt = E'\t\\N\n\r𝄞 e\u0301 \U0010FFFF ''"', js = '{{"a" : 1,"a":2}}',
            p = '(NaN,-0)', bits = b'1011', tags = '""=>""', ci = 'MiXed', x = '<a b="c">d</a>', tsv = 'fat:1 cat:2A', mac = '08:00:2b:01:02:03:04:05',
            net = '10.0.0.0/8', many = '{{{{A,b}},{{NULL,"x,y"}}}}' where customer_id = '{t}' and id < 4;
        insert into bookings select '{t}', n, n % 3, tstzrange(timestamptz '2024-01-01' + n * interval '1 hour', timestamptz '2024-01-01' + (n + 1) * interval '1 hour'),
            int4range(n, null), int4multirange(int4range(n, n + 2), int4range(n + 5, n + 6)), numrange(n, n + 0.50, '(]') from generate_series(1, 30) n;
        insert into bookings values ('{t}', 100, 9, 'empty', '(,)', '{{}}', '[1.10,1.1]');
        begin; insert into chain select '{t}', n, n % 10 + 1, n from generate_series(1, 10) n; commit;
        insert into orders select '{t}', n, null, n * 1.10 from generate_series(1, 20) n;
        insert into by_index select '{t}', n, 'b' || n from generate_series(1, 10) n;
        insert into by_all (customer_id, body) select '{t}', 'b' || n from generate_series(1, 10) n;
        insert into "select" select '{t}', n, 'v' || n, null from generate_series(1, 10) n;
        set app.tenant = '{t}'; insert into secrets select '{t}', n, 's' || n from generate_series(1, 10) n;"#
    )
}

/// The nth round of writing: each statement is a transaction of its own.
fn zoo_writes(t: Uuid, n: u64) -> Vec<String> {
    let k = n % 10 + 1;
    let new = 1_000 + n;
    vec![
        format!("update customers set tags = tags || hstore('n', '{n}'), name = name || '' where id = '{t}'"),
        format!("insert into readings values ('{t}', date '2024-01-05' + {}, 'a', {new}, {n})", n % 50),
        // Into another partition, and another branch of them.
        format!(
            "update readings set day = date '2024-01-01' + ((day - date '2024-01-01') + 17) % 60 where customer_id = '{t}' and id = {k}"
        ),
        format!(
            "update edges set at = at, f4 = -f4, txt = txt || '𝄞' where customer_id = '{t}' and id = {}",
            n % 6 + 1
        ),
        format!("insert into edges (customer_id, id, at, iv) values ('{t}', {new}, '-infinity', '-178000000 years')"),
        format!("update bookings set room = room + 3, during = during where customer_id = '{t}' and id = {k}"),
        format!(
            "begin; update chain set pos = 11 - pos where customer_id = '{t}'; update chain set next_id = {k} where customer_id = '{t}' and id = {k}; commit"
        ),
        format!("insert into orders values ('{t}', {new}, null, {n})"),
        format!("update orders set total = total + 0.10 where customer_id = '{t}' and id = {k}"),
        format!("delete from orders where customer_id = '{t}' and id = {new}"),
        format!("update secrets set body = body || '.' where customer_id = '{t}' and id = {k}"),
        format!(
            "update by_index set nr = {new}, body = null where customer_id = '{t}' and nr = (select min(nr) from by_index where customer_id = '{t}')"
        ),
        format!("insert into by_all (customer_id, body) values ('{t}', '{n}')"),
        format!("delete from by_all where id = (select min(id) from by_all where customer_id = '{t}')"),
        format!(
            "update \"select\" set \"a\"\"b\" = \"a\"\"b\" || '\"', \"Order\" = -\"Order\" where customer_id = '{t}' and abs(\"Order\") = {k}"
        ),
    ]
}

async fn rows(client: &Client, tables: &[&str], tenant: Uuid) -> Vec<String> {
    client.batch_execute("set row_security = off; set timezone = 'UTC'; set extra_float_digits = 1").await.unwrap();
    let mut all = Vec::new();
    for (table, column) in tables.iter().map(|table| (*table, "customer_id")).chain([("customers", "id")]) {
        let sql = format!("select q::text from {table} q where {column} = $1 order by 1");
        let found = client.query(&sql, &[&tenant]).await.unwrap();
        all.extend(found.iter().map(|row| format!("{table} {}", row.get::<_, String>(0))));
    }
    all
}

type Writes = fn(Uuid, u64) -> Vec<String>;

/// Writes where the tenant lives until it lives there no more; a refused write is tried again, in case the attempt was
/// given up. Returns the rounds of writing, and whether the fence was met.
async fn writes(client: Client, tenant: Uuid, what: Writes, over: Arc<AtomicBool>, rounds: Arc<AtomicU64>) -> bool {
    client.batch_execute(&format!("set app.tenant = '{tenant}'")).await.unwrap();
    loop {
        for sql in what(tenant, rounds.fetch_add(1, Ordering::SeqCst)) {
            while let Err(error) = client.batch_execute(&sql).await {
                assert_eq!(error.code(), Some(&SqlState::from_code("BF001")), "{sql}: {error:?}");
                client.batch_execute("rollback").await.unwrap();
                if over.load(Ordering::SeqCst) {
                    return true;
                }
                tokio::task::yield_now().await;
            }
        }
        if over.load(Ordering::SeqCst) {
            return false;
        }
    }
}

/// Moves the tenant while it writes, and compares what both sides hold afterwards.
async fn moved(two: &Two, spec: &MoveSpec, ownership: &MemoryOwnership, tables: &[&str], what: Writes, first: u64) {
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
    let app = two.client(&spec.source.database, Role::App).await;
    let writer = tokio::spawn(writes(app, two.tenant, what, Arc::clone(&over), Arc::clone(&rounds)));
    wait_until("the tenant writes", async || rounds.load(Ordering::SeqCst), |n| *n > first + 1).await;
    let cut = run_move(spec, ownership).await.unwrap();
    over.store(true, Ordering::SeqCst);
    assert!(writer.await.unwrap(), "the source took writes after the move");
    let source = two.client(&spec.source.database, Role::Mover).await;
    let target = two.client(&spec.target.database, Role::Mover).await;
    let (left, arrived) = (rows(&source, tables, two.tenant).await, rows(&target, tables, two.tenant).await);
    let differs = left.iter().zip(&arrived).find(|(left, arrived)| left != arrived);
    assert_eq!((left.len(), differs), (arrived.len(), None));
    assert!(cut.rows_verified > 0);
}

/// Up into a database of its own and down into a third one, where somebody else lives already.
async fn up_and_down(two: &Two, schema: &str, settle: fn(Uuid) -> String, tables: &[&str], what: Writes) {
    let ownership = MemoryOwnership::new();
    let up = two.spec();
    moved(two, &up, &ownership, tables, what, 0).await;
    let shared = two.pg.database(&format!("shared_{}", Uuid::new_v4().simple())).await;
    two.client(&shared, Role::Owner).await.batch_execute(schema).await.unwrap();
    let there = two.client(&shared, Role::Mover).await;
    there.batch_execute(&settle(two.neighbour)).await.unwrap();
    let theirs = rows(&there, tables, two.neighbour).await;
    let down = MoveSpec {
        source: up.target,
        target: two.endpoint(&shared),
        source_cell: up.target_cell,
        target_cell: CellId::new(Uuid::from_u128(3)),
        alone: false,
        ..two.spec()
    };
    moved(two, &down, &ownership, tables, what, 500_000).await;
    assert_eq!(rows(&there, tables, two.neighbour).await, theirs);
    // Each goes on writing there: no key, trigger or identity is missing, and nobody is in anybody's way.
    let app = two.client(&shared, Role::App).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn shapes_and_places_of_postgis_arrive_where_it_is_installed() {
    let two = Two::shared("create table customers (id uuid primary key)").await;
    let available = "select count(*) from pg_available_extensions where name = 'postgis'";
    let mover = two.client(&two.source, Role::Mover).await;
    if mover.query_one(available, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        println!("skipped: PostGIS is not installed (postgresql-15-postgis-3)");
        return;
    }
    for database in [&two.source, &two.target] {
        two.client(database, Role::Mover).await.batch_execute("create extension postgis").await.unwrap();
        let schema = "create table sites (customer_id uuid not null references customers, id int, g geometry(Point, 4326), any_g geometry,
                gg geography, box box3d, primary key (customer_id, id));
            create index on sites using gist (g)";
        two.client(database, Role::Owner).await.batch_execute(schema).await.unwrap();
    }
    let t = two.tenant;
    mover
        .batch_execute(&format!(
            "insert into customers values ('{t}');
             insert into sites select '{t}', n, st_setsrid(st_makepoint(n * 0.1, -n), 4326),
                 st_geomfromtext('MULTIPOLYGON Z (((0 0 1, 4 0 1, 4 4 1, 0 0 1)))', 3857), st_makepoint(n, n)::geography, 'BOX3D(1 2 3,4 5 6)'
               from generate_series(1, 30) n;
             insert into sites values ('{t}', 100, 'SRID=4326;POINT EMPTY', 'GEOMETRYCOLLECTION EMPTY', null, null)"
        ))
        .await
        .unwrap();
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = common::until_built(&spec, &ownership).await;
    mover
        .batch_execute("update sites set g = st_setsrid(st_translate(g, 0.1, 0), 4326), any_g = st_makeline(g, g) where id < 9; delete from sites where id = 10")
        .await
        .unwrap();
    common::cut_over(&spec, &plan, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, true, token).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    let arrived = rows(&target, &["sites"], t).await;
    assert_eq!(arrived.len(), 31);
    assert_eq!(arrived, rows(&mover, &["sites"], t).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_says_nothing_of_its_deleted_rows_is_refused_by_name() {
    let two = Two::shared(ZOO).await;
    let source = two.client(&two.source, Role::Mover).await;
    source.batch_execute(&zoo_rows(two.tenant)).await.unwrap();
    source.batch_execute("alter table orders replica identity nothing").await.unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    assert!(matches!(&all[..], [Obstacle::NoIdentity { table }] if table.name == "orders"), "{all:?}");
    assert!(
        all[0].hint().contains("REPLICA IDENTITY") || all[0].hint().contains("replica identity"),
        "{}",
        all[0].hint()
    );
}

/// `BERTH_ZOO_ROWS=1000000` makes it a large one.
#[expect(clippy::disallowed_methods, reason = "a test has no binary that could resolve it")]
#[tokio::test(flavor = "multi_thread")]
async fn transactions_of_very_many_rows_at_the_size_of_the_machine_arrive_whole() {
    let rows = std::env::var("BERTH_ZOO_ROWS").ok().and_then(|n| n.parse::<i64>().ok()).unwrap_or(30_000);
    let two = Arc::new(Two::filled(100).await);
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, token) = common::until_built(&spec, &ownership).await;
    let one_transaction = |tenant: Uuid| {
        format!(
            "insert into positions (customer_id, vehicle_id, event_id, lat)
             select '{tenant}', (select id from vehicles where customer_id = '{tenant}' order by label limit 1), gen_random_uuid(), n from generate_series(1, {rows}) n"
        )
    };
    // The neighbour's is still running when the pause comes.
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
