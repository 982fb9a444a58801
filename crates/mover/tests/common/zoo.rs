//! Schemas as people have them, in one: every type, partition, constraint and trigger that a tenant's rows may meet.

use tokio_postgres::Client;
use uuid::Uuid;

pub const ZOO: &str = r#"
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
pub const ZOO_TABLES: &[&str] =
    &["readings", "edges", "bookings", "chain", "orders", "audit", "secrets", "by_index", "by_all", "\"select\""];

pub fn zoo_rows(t: Uuid) -> String {
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
pub fn zoo_writes(t: Uuid, n: u64) -> Vec<String> {
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

pub async fn rows(client: &Client, tables: &[&str], tenant: Uuid) -> Vec<String> {
    client.batch_execute("set row_security = off; set timezone = 'UTC'; set extra_float_digits = 1").await.unwrap();
    let mut all = Vec::new();
    for (table, column) in tables.iter().map(|table| (*table, "customer_id")).chain([("customers", "id")]) {
        let sql = format!("select q::text from {table} q where {column} = $1 order by 1");
        let found = client.query(&sql, &[&tenant]).await.unwrap();
        all.extend(found.iter().map(|row| format!("{table} {}", row.get::<_, String>(0))));
    }
    all
}
