//! A damaged copy is found before it opens, whatever the type and however small the damage.

use crate::common::{MemoryOwnership, NoEdges, Two, Watch, cut_over, until_built};
use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, Token};
use berth_infra::Role;
use berth_mover::{EdgeTrouble, Edges, HoldFigures, MoveError};
use berth_testkit::wait_until;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

const SCHEMA: &str = "
    create extension hstore; create extension citext;
    create type mood as enum ('sad', 'happy'); create type pair as (a int, b text);
    create domain plate as text check (value <> '');
    create table customers (id uuid primary key);
    create table wide (
        id bigint generated always as identity primary key, customer_id uuid not null references customers,
        n numeric, f float8, f4 float4, t text, j jsonb, js json, b bytea, ia int[], ta text[], m mood, ma mood[], d plate,
        ts timestamptz, tsn timestamp, iv interval, bo boolean, c char(5), ip inet, u uuid, r int4range,
        h hstore, ci citext, da date, ti time, tz timetz, vb varbit, x xml, tv tsvector, mac macaddr8, p point,
        mr int4multirange, co pair, cos pair[], i2 smallint, i4 int, i8 bigint, vc varchar(10), bi bit(4),
        un uuid not null default '00000000-0000-0000-0000-000000000001', um uuid not null default '00000000-0000-0000-0000-000000000002',
        fn float8 not null default 0, fm float8 not null default 5, gn float4 not null default 1.5);
    create table numbered (customer_id uuid not null references customers, nr int not null, note text);
    create unique index numbered_nr on numbered (customer_id, nr);
    alter table numbered replica identity using index numbered_nr;
";

/// Column, what the source has, what the target is given instead. `null` stands for null.
const DAMAGE: &[(&str, &str, &str)] = &[
    ("n", "1.0", "1.00"),
    ("n", "1", "1.0"),
    ("n", "12345678901234567890.1", "12345678901234567890.2"),
    ("n", "NaN", "null"),
    ("f", "0", "-0"),
    ("f", "0.1", "0.10000000000000002"),
    ("f", "Infinity", "-Infinity"),
    ("f", "null", "0"),
    ("f4", "0", "-0"),
    ("f4", "1.1", "1.1000001"),
    ("t", "", "null"),
    ("t", "a", "a "),
    ("t", "a", "A"),
    ("t", "\u{e9}", "e\u{301}"),
    ("t", "a,b", "\"a,b\""),
    ("t", "a\\b", "a\\\\b"),
    ("j", "{\"a\": 1}", "{\"a\": 1.0}"),
    ("j", "{\"a\": null}", "{}"),
    ("j", "[1, 2]", "[2, 1]"),
    ("j", "\"null\"", "null"),
    ("js", "{\"a\":1}", "{ \"a\":1}"),
    ("b", "\\x00", "\\x0000"),
    ("b", "", "null"),
    ("b", "\\xff", "\\xfe"),
    ("ia", "{}", "null"),
    ("ia", "{1,2}", "{2,1}"),
    ("ia", "{NULL}", "{}"),
    ("ia", "{1}", "[0:0]={1}"),
    ("ta", "{a}", "{\"a \"}"),
    ("ta", "{NULL}", "{\"NULL\"}"),
    ("m", "sad", "happy"),
    ("m", "null", "sad"),
    ("ma", "{sad}", "{happy}"),
    ("d", "x", "y"),
    ("ts", "2024-01-01 00:00:00.000001+00", "2024-01-01 00:00:00.000002+00"),
    ("ts", "infinity", "null"),
    ("tsn", "2024-03-31 02:30:00", "2024-03-31 03:30:00"),
    ("iv", "1 day", "24 hours"),
    ("iv", "1 month", "30 days"),
    ("bo", "true", "false"),
    ("bo", "null", "false"),
    ("c", "ab", "abc"),
    ("ip", "10.0.0.1", "10.0.0.1/31"),
    ("u", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"),
    ("r", "[1,5)", "[1,6)"),
    ("h", "a=>1", "a=>NULL"),
    ("h", "a=>1", "a=>1, b=>2"),
    ("ci", "MiXed", "mixed"),
    ("da", "2024-02-29", "2024-03-01"),
    ("da", "infinity", "null"),
    ("ti", "24:00:00", "00:00:00"),
    ("tz", "12:00:00+01", "11:00:00+00"),
    ("vb", "1011", "10110"),
    ("x", "<a/>", "<a></a>"),
    ("tv", "fat:1", "fat:1A"),
    ("mac", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"),
    ("p", "(0,1)", "(-0,1)"),
    ("p", "(NaN,1)", "(1,NaN)"),
    ("mr", "{[1,3)}", "{[1,2),[2,4)}"),
    ("co", "(1,a)", "(1,b)"),
    ("co", "(,)", "null"),
    ("cos", "{}", "{NULL}"),
    ("i2", "1", "-1"),
    ("i2", "null", "0"),
    ("i4", "2147483647", "-2147483648"),
    ("i4", "12", "21"),
    // What the server's own hash of a bigint takes for the same.
    ("i8", "1", "4294967296"),
    ("i8", "-1", "4294967295"),
    ("i8", "9223372036854775807", "9223372036854775806"),
    ("vc", "a", "a "),
    ("vc", "", "null"),
    ("bi", "1010", "0101"),
    ("bi", "0000", "null"),
    // Not null: these go into the hash as they are, not as text.
    ("un", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000003"),
    ("un", "10000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000010"),
    ("um", "ffffffff-ffff-ffff-ffff-ffffffffffff", "ffffffff-ffff-ffff-7fff-ffffffffffff"),
    ("fn", "-0", "0"),
    ("fn", "NaN", "0"),
    ("fn", "4.9e-324", "0"),
    ("fm", "0", "-0"),
    ("gn", "1.1", "1.1000001"),
    ("gn", "0", "-0"),
];

fn literal(value: &str) -> String {
    if value == "null" { "null".into() } else { format!("'{}'", value.replace('\'', "''")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_damage_in_the_target_is_found_before_it_opens() {
    let two = Two::shared(SCHEMA).await;
    let tenant = two.tenant;
    let source = two.client(&two.source, Role::Owner).await;
    let mut fill = format!("insert into customers values ('{tenant}');");
    for (column, ours, _) in DAMAGE {
        fill.extend([format!("insert into wide (customer_id, {column}) values ('{tenant}', {});", literal(ours))]);
    }
    fill.extend([format!("insert into numbered select '{tenant}', n, 'note' from generate_series(1, 20) n;")]);
    source.batch_execute(&fill).await.unwrap();
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let target = two.client(&two.target, Role::Mover).await;
    let caught = async |what: &str, table: &str, damage: &str, repair: &str| {
        target.batch_execute(damage).await.unwrap();
        let cut = cut_over(&spec, &plan, &ownership).await;
        let Err(MoveError::Differs { table: found, rows: 1, .. }) = cut else { panic!("{what}: {cut:?}") };
        assert_eq!(found.name, table, "{what}");
        assert_eq!(ownership.row().owner, spec.source_cell, "{what}");
        target.batch_execute(repair).await.unwrap();
    };
    for (nth, (column, ours, theirs)) in DAMAGE.iter().enumerate() {
        let set = |value: &str| format!("update wide set {column} = {} where id = {}", literal(value), nth + 1);
        caught(&format!("{column}: {ours} -> {theirs}"), "wide", &set(theirs), &set(ours)).await;
    }
    // Of the numbers one is 0, of which the server's own hash is its seed.
    for (one, other) in [("un", "um"), ("fn", "fm")] {
        let swap = format!("update wide set {one} = {other}, {other} = {one} where id = 1");
        caught("two values that changed places", "wide", &swap, &swap).await;
    }
    let row = |nr: i32| format!("insert into numbered values ('{tenant}', {nr}, 'note')");
    let gone = |nr: i32| format!("delete from numbered where nr = {nr}");
    caught("a missing row", "numbered", &gone(7), &row(7)).await;
    caught("an extra row", "numbered", &row(21), &gone(21)).await;
    let twice = format!("drop index numbered_nr; {}", row(3));
    let once = format!("{}; {}; create unique index numbered_nr on numbered (customer_id, nr)", gone(3), row(3));
    caught("a doubled row", "numbered", &twice, &once).await;
    // And what was repaired is let through: none of the refusals above was for something else.
    let cut = cut_over(&spec, &plan, &ownership).await.unwrap();
    assert_eq!(cut.rows_verified, 1 + DAMAGE.len() as u64 + 20);
}

/// When a row is changed in the source and, as soon as the change has arrived, damaged in the target.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// After the comparison of all rows.
    Gate,
    /// After the last look before the pause.
    Hold,
}

struct Damaging<'t> {
    at: At,
    source: &'t Client,
    target: &'t Client,
    change: String,
    applied: String,
    damage: String,
    gates: AtomicU32,
    holds: AtomicU32,
}

impl Damaging<'_> {
    async fn at(&self, at: At, before: u32) {
        if at == self.at && before == 0 {
            self.source.batch_execute(&self.change).await.unwrap();
            let arrived = || async { self.target.query_one(&self.applied, &[]).await.unwrap().get::<_, i64>(0) };
            wait_until("the change arrives", arrived, |n| *n == 1).await;
            self.target.batch_execute(&self.damage).await.unwrap();
        }
    }
}

#[async_trait]
impl Edges for Damaging<'_> {
    async fn all_alive(&self) -> Result<(), EdgeTrouble> {
        self.at(At::Gate, self.gates.fetch_add(1, Ordering::SeqCst)).await;
        NoEdges.all_alive().await
    }
    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble> {
        self.at(At::Hold, self.holds.fetch_add(1, Ordering::SeqCst)).await;
        NoEdges.wait_held(token, limit).await
    }
    async fn wait_routed(&self, generation: Generation, limit: Duration) -> Vec<EdgeName> {
        NoEdges.wait_routed(generation, limit).await
    }
    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures> {
        NoEdges.hold_figures(token, limit).await
    }
}

/// Rows that change while they are compared, or afterwards, are compared by themselves: before the pause and in it.
#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_row_that_changed_after_the_comparison_is_found_before_the_target_opens() {
    let two = Two::shared(SCHEMA).await;
    let tenant = two.tenant;
    let (source, target) = (two.client(&two.source, Role::Owner).await, two.client(&two.target, Role::Mover).await);
    let fill = format!(
        "insert into customers values ('{tenant}'); insert into numbered select '{tenant}', n, 'note' from generate_series(1, 20) n"
    );
    source.batch_execute(&fill).await.unwrap();
    let (mut spec, ownership) = (two.spec(), MemoryOwnership::new());
    // However slow the machine is: the first pause comes to its end.
    spec.tuning.pause_most_ms = 20_000;
    let (plan, _) = until_built(&spec, &ownership).await;
    let again = "create unique index numbered_nr on numbered (customer_id, nr);
        alter table numbered replica identity using index numbered_nr";
    let mut nr = 0;
    for at in [At::Gate, At::Hold] {
        for kind in ["changed", "missing", "doubled"] {
            nr += 1;
            let row = format!("insert into numbered values ('{tenant}', {nr}, 'note!')");
            let gone = format!("delete from numbered where nr = {nr}");
            let (damage, repair) = match kind {
                "changed" => (
                    format!("update numbered set note = 'note! ' where nr = {nr}"),
                    format!("update numbered set note = 'note!' where nr = {nr}"),
                ),
                "missing" => (gone, row),
                _ => (format!("drop index numbered_nr; {row}"), format!("{gone}; {row}; {again}")),
            };
            let damaging = Damaging {
                at,
                source: &source,
                target: &target,
                change: format!("update numbered set note = 'note!' where nr = {nr}"),
                applied: format!("select count(*) from numbered where nr = {nr} and note = 'note!'"),
                damage,
                gates: AtomicU32::new(0),
                holds: AtomicU32::new(0),
            };
            let cut = berth_mover::cut_over(&spec, &plan, &ownership, &damaging, &Watch::default()).await;
            assert!(
                matches!(&cut, Err(MoveError::Differs { table, rows: 1, first_key })
                    if table.name == "numbered" && first_key.contains(&format!("{nr}"))),
                "{kind} at {at:?}: {cut:?}"
            );
            let holds = damaging.holds.load(Ordering::SeqCst);
            assert_eq!(holds, u32::from(at == At::Hold), "{kind} at {at:?}: found where it was to be");
            assert_eq!((ownership.row().owner, ownership.row().holding), (spec.source_cell, false), "{kind} at {at:?}");
            target.batch_execute(&repair).await.unwrap();
        }
    }
    assert_eq!(cut_over(&spec, &plan, &ownership).await.unwrap().rows_verified, 21);
}

/// Cases in `scripts/test`; `scripts/soak corruption` asks for a thousand.
const CASES: u32 = 200;

#[expect(clippy::disallowed_methods, reason = "how long a soak is comes from its script")]
fn asked(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// xorshift64*: repeatable, and good enough to choose.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seeded_damage_of_one_row_is_found_before_the_target_opens() {
    let (cases, seed) = (asked("BERTH_CORRUPTION_CASES", CASES), asked("BERTH_SEED", 1));
    let two = Two::shared(SCHEMA).await;
    let tenant = two.tenant;
    let source = two.client(&two.source, Role::Owner).await;
    let mut dice = Dice(u64::from(seed) + 0x9e37_79b9_7f4a_7c15);
    // Every value of the table above, on either side of it, somewhere.
    let columns: Vec<&str> =
        DAMAGE.iter().map(|(column, ..)| *column).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let values = |column: &str| -> Vec<&str> {
        let of_column = DAMAGE.iter().filter(|(c, ..)| *c == column);
        of_column.flat_map(|(_, ours, theirs)| [*ours, *theirs]).collect()
    };
    let mut fill = format!("insert into customers values ('{tenant}');");
    let rows = 120;
    for _ in 0..rows {
        let row: Vec<String> = columns
            .iter()
            .map(|column| {
                let pool = values(column);
                literal(pool[dice.roll(pool.len())])
            })
            .collect();
        fill.extend([format!(
            "insert into wide (customer_id, {}) values ('{tenant}', {});",
            columns.join(", "),
            row.join(", ")
        )]);
    }
    fill.extend([format!("insert into numbered select '{tenant}', n, 'note' || n from generate_series(1, {rows}) n;")]);
    source.batch_execute(&fill).await.unwrap();
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let target = two.client(&two.target, Role::Mover).await;
    target
        .batch_execute(
            "create table whole_wide as select * from wide; create table whole_numbered as select * from numbered",
        )
        .await
        .unwrap();

    let mut kinds = [0_u32; 4];
    for case in 0..cases {
        let id = dice.roll(rows) + 1;
        let kind = [0, 0, 0, 0, 0, 0, 0, 1, 2, 3][dice.roll(10)];
        // Each column once, then by chance.
        let column = columns.get(case as usize).copied().unwrap_or_else(|| columns[dice.roll(columns.len())]);
        let (table, damage, repair) = match if (case as usize) < columns.len() { 0 } else { kind } {
            0 => {
                let pool = values(column);
                let first = dice.roll(pool.len());
                // The first value from there on that is not the one that stands there, as text.
                let mut damage = None;
                for n in 0..pool.len() {
                    let value = literal(pool[(first + n) % pool.len()]);
                    let other = format!(
                        "update wide set {column} = {value} where id = {id}
                         and concat({column} is null, {column}) <> (select concat(v is null, v) from (select {value}::{} as v) x)",
                        type_of(column)
                    );
                    if target.execute(&other, &[]).await.unwrap() == 1 {
                        damage = Some(other);
                        break;
                    }
                }
                assert!(damage.is_some(), "no other value for {column}");
                let repair = format!("update wide w set {column} = b.{column} from whole_wide b where b.id = w.id and w.id = {id}");
                ("wide", String::new(), repair)
            }
            1 => ("numbered", format!("delete from numbered where nr = {id}"), format!("insert into numbered select * from whole_numbered where nr = {id}")),
            2 => ("numbered", format!("insert into numbered values ('{tenant}', {id} + 1000, 'extra')"), "delete from numbered where nr > 1000".to_owned()),
            _ => (
                "numbered",
                format!("drop index numbered_nr; insert into numbered select * from whole_numbered where nr = {id}"),
                format!(
                    "delete from numbered where nr = {id}; insert into numbered select * from whole_numbered where nr = {id};
                     create unique index numbered_nr on numbered (customer_id, nr); alter table numbered replica identity using index numbered_nr"
                ),
            ),
        };
        kinds[if damage.is_empty() { 0 } else { kind }] += 1;
        target.batch_execute(&damage).await.unwrap();
        let cut = cut_over(&spec, &plan, &ownership).await;
        let Err(MoveError::Differs { table: found, rows: 1, .. }) = cut else {
            panic!("seed {seed}, case {case}: {table}.{column} of row {id}, {damage}: {cut:?}")
        };
        assert_eq!(found.name, table, "seed {seed}, case {case}");
        assert_eq!(ownership.row().owner, spec.source_cell, "seed {seed}, case {case}");
        target.batch_execute(&repair).await.unwrap();
    }
    assert!(kinds.iter().all(|n| *n > 0) || cases < CASES, "changed, missing, extra, doubled: {kinds:?}");
    cut_over(&spec, &plan, &ownership).await.unwrap();
}

fn type_of(column: &str) -> &'static str {
    match column {
        "n" => "numeric",
        "f" | "fn" | "fm" => "float8",
        "f4" | "gn" => "float4",
        "t" => "text",
        "j" => "jsonb",
        "js" => "json",
        "b" => "bytea",
        "ia" => "int[]",
        "ta" => "text[]",
        "m" => "mood",
        "ma" => "mood[]",
        "d" => "plate",
        "ts" => "timestamptz",
        "tsn" => "timestamp",
        "iv" => "interval",
        "bo" => "boolean",
        "c" => "char(5)",
        "ip" => "inet",
        "u" | "un" | "um" => "uuid",
        "r" => "int4range",
        "h" => "hstore",
        "ci" => "citext",
        "da" => "date",
        "ti" => "time",
        "tz" => "timetz",
        "vb" => "varbit",
        "x" => "xml",
        "tv" => "tsvector",
        "mac" => "macaddr8",
        "p" => "point",
        "mr" => "int4multirange",
        "co" => "pair",
        "cos" => "pair[]",
        "i2" => "smallint",
        "i4" => "int",
        "i8" => "bigint",
        "vc" => "varchar(10)",
        "bi" => "bit(4)",
        other => panic!("{other}: add its type here"),
    }
}
