//! Finds from the catalogue what belongs to a tenant, and everything that stands in the way of moving it.
//!
//! Never from a hand-kept list, and it changes nothing.

use crate::sql::{Doing, connect};
use crate::{
    DataRules, Endpoint, MoveError, MovePlan, MoveSpec, Obstacle, PlannedColumn, PlannedSequence, PlannedTable, Side,
    TableName,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// Types with an id from here on were made in the database itself, so their binary image means nothing elsewhere.
const FIRST_OWN_TYPE: u32 = 16_384;
/// Rows a second that a move of fleet rows reached on two cores (`scripts/bench moves`); only for the estimate.
const ESTIMATED_ROWS_PER_S: f64 = 60_000.0;

struct Table {
    name: TableName,
    unlogged: bool,
    bytes: i64,
    total_rows: f64,
    columns: Vec<Column>,
    key: Vec<String>,
    has_identity: bool,
    always_trigger: Option<String>,
}

struct Column {
    name: String,
    type_name: String,
    own_type: bool,
    large_object: bool,
    not_null: bool,
    generated: bool,
    always_identity: bool,
}

struct Catalogue {
    tables: BTreeMap<u32, Table>,
    /// (referring table, referred table).
    references: Vec<(u32, u32)>,
}

/// Makes the plan, or says everything that stands in the way at once.
pub async fn plan(spec: &MoveSpec) -> Result<MovePlan, MoveError> {
    let source = connect(&spec.source, Side::Source, &format!("{}plan", spec.session_prefix())).await?;
    let target = connect(&spec.target, Side::Target, &format!("{}plan", spec.session_prefix())).await?;
    let mut obstacles = Vec::new();
    servers(spec, &source, &target, &mut obstacles).await?;
    let ours = catalogue(&source, Side::Source).await?;
    let theirs = catalogue(&target, Side::Target).await?;
    let (tables, closure) = closure(&spec.rules, &ours, &mut obstacles);
    for id in &closure {
        compare_shapes(&ours.tables[id], &theirs, &mut obstacles);
    }
    let mut planned = Vec::new();
    for table in tables {
        planned.push(measure(spec, table, &source, &target, &theirs, &mut obstacles).await?);
    }
    if let Some(root) = planned.iter().find(|t| t.table == spec.rules.root)
        && root.rows == 0
    {
        obstacles.push(Obstacle::NoTenant { table: root.table.clone(), key: spec.tenant.to_string() });
    }
    let rows: i64 = planned.iter().map(|t| t.rows).sum();
    let bytes: i64 = planned.iter().map(|t| t.bytes).sum();
    if let Some(free) = spec.target_free_bytes {
        // Rows and indexes, and as much again for the sorts that build the indexes.
        let needed = u64::try_from(bytes).unwrap_or(0).saturating_mul(2).saturating_add(64 << 20);
        if free < needed {
            obstacles.push(Obstacle::Disk { free_mb: free >> 20, needed_mb: needed >> 20 });
        }
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    let sequences = sequences(&source, &planned).await?;
    let fingerprint = fingerprint(&source, Side::Source, &planned).await?;
    Ok(MovePlan {
        rows,
        bytes,
        fingerprint,
        estimated_s: 1.0 + rows as f64 / ESTIMATED_ROWS_PER_S,
        tables: planned,
        sequences,
    })
}

async fn servers(
    spec: &MoveSpec,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let facts = source
        .query_one(
            "select current_setting('wal_level'), pg_is_in_recovery(),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint,
                    (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::bigint,
                    (select system_identifier::text from pg_control_system()), current_database()::text,
                    (select rolsuper from pg_roles where rolname = session_user), session_user::text,
                    pg_postmaster_start_time()::text, current_setting('data_directory')",
            &[],
        )
        .await
        .doing(Side::Source, "looking at the server")?;
    let wal_level: String = facts.get(0);
    if wal_level != "logical" {
        obstacles.push(Obstacle::WalLevel { side: Side::Source, found: wal_level });
    }
    if facts.get(1) {
        obstacles.push(Obstacle::Standby { side: Side::Source });
    }
    // A slot of this very move, left by an earlier try, is used again.
    for (what, used, most) in [
        ("replication slots", facts.get::<_, i64>(2), facts.get::<_, i64>(3)),
        ("WAL senders", facts.get(4), facts.get(5)),
    ] {
        if used >= most {
            obstacles.push(Obstacle::NoFree { side: Side::Source, what: what.into(), used, most });
        }
    }
    if !facts.get::<_, bool>(8) {
        obstacles.push(Obstacle::Rights { side: Side::Source, role: facts.get(9), right: "SUPERUSER".into() });
    }
    let other = target
        .query_one(
            "select pg_is_in_recovery(), (select system_identifier::text from pg_control_system()), current_database()::text,
                    (select rolsuper from pg_roles where rolname = session_user), session_user::text,
                    pg_postmaster_start_time()::text, current_setting('data_directory'), current_setting('wal_level'),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint",
            &[],
        )
        .await
        .doing(Side::Target, "looking at the server")?;
    if spec.way_back {
        let (found, used, most): (String, i64, i64) = (other.get(7), other.get(8), other.get(9));
        if found != "logical" {
            obstacles.push(Obstacle::WalLevel { side: Side::Target, found });
        }
        if used >= most {
            obstacles.push(Obstacle::NoFree { side: Side::Target, what: "replication slots".into(), used, most });
        }
    }
    if other.get(0) {
        obstacles.push(Obstacle::Standby { side: Side::Target });
    }
    if !other.get::<_, bool>(3) {
        obstacles.push(Obstacle::Rights { side: Side::Target, role: other.get(4), right: "SUPERUSER".into() });
    }
    // Clusters made from one template share the system identifier; start time and directory tell them apart.
    let same = |a: usize, b: usize| facts.get::<_, String>(a) == other.get::<_, String>(b);
    if same(6, 1) && same(7, 2) && same(10, 5) && same(11, 6) {
        obstacles.push(Obstacle::SameDatabase);
    }
    Ok(())
}

async fn catalogue(client: &Client, side: Side) -> Result<Catalogue, MoveError> {
    let mut tables = BTreeMap::new();
    let rows = client
        .query(
            "select c.oid, n.nspname::text, c.relname::text, c.relpersistence = 'u', pg_total_relation_size(c.oid),
                    greatest(c.reltuples, 0)::float8, c.relreplident::text,
                    (select t.tgname::text from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal
                        and t.tgenabled = 'A' and t.tgname not like 'berth\\_%' limit 1)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p') and not c.relispartition
               and n.nspname not in ('pg_catalog', 'information_schema', 'berth') and n.nspname not like 'pg\\_%'
               and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')",
            &[],
        )
        .await
        .doing(side, "reading the tables")?;
    for row in rows {
        let identity: String = row.get(6);
        tables.insert(
            row.get::<_, u32>(0),
            Table {
                name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                unlogged: row.get(3),
                bytes: row.get(4),
                total_rows: row.get(5),
                columns: Vec::new(),
                key: Vec::new(),
                has_identity: identity != "n",
                always_trigger: row.get(7),
            },
        );
    }
    let columns = client
        .query(
            "select a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
                    coalesce(nullif(t.typelem, 0), nullif(t.typbasetype, 0), t.oid), t.oid,
                    t.typname::text in ('oid', 'lo'), a.attidentity = 'a'
             from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_class c on c.oid = a.attrelid
             where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p')
             order by a.attrelid, a.attnum",
            &[],
        )
        .await
        .doing(side, "reading the columns")?;
    for row in columns {
        if let Some(table) = tables.get_mut(&row.get::<_, u32>(0)) {
            table.columns.push(Column {
                name: row.get(1),
                type_name: row.get(2),
                not_null: row.get(3),
                generated: row.get(4),
                own_type: row.get::<_, u32>(5) >= FIRST_OWN_TYPE || row.get::<_, u32>(6) >= FIRST_OWN_TYPE,
                large_object: row.get(7),
                always_identity: row.get(8),
            });
        }
    }
    let keys = client
        .query(
            "select i.indrelid, a.attname::text
             from pg_index i
             join pg_class c on c.oid = i.indrelid
             cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, nth)
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
             where i.indisvalid and k.nth <= i.indnkeyatts
               and case when c.relreplident = 'i' then i.indisreplident else i.indisprimary end
             order by i.indrelid, k.nth",
            &[],
        )
        .await
        .doing(side, "reading the keys")?;
    for row in keys {
        if let Some(table) = tables.get_mut(&row.get::<_, u32>(0)) {
            table.key.push(row.get(1));
        }
    }
    let references = client
        .query("select conrelid, confrelid from pg_constraint where contype = 'f' and conparentid = 0", &[])
        .await
        .doing(side, "reading the foreign keys")?
        .into_iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    Ok(Catalogue { tables, references })
}

/// The tables that carry the tenant column, and what reaches them through foreign keys only.
fn closure(
    rules: &DataRules,
    catalogue: &Catalogue,
    obstacles: &mut Vec<Obstacle>,
) -> (Vec<PlannedTable>, BTreeSet<u32>) {
    let left_out = |name: &TableName| rules.leave_out.contains(name);
    let tenant_column = |table: &Table| -> Option<String> {
        let column = if table.name == rules.root {
            &rules.key_column
        } else {
            rules.tenant_columns.get(&table.name.to_string()).unwrap_or(&rules.tenant_column)
        };
        table.columns.iter().any(|c| c.name == *column).then(|| column.clone())
    };
    let mut closure: BTreeSet<u32> = catalogue
        .tables
        .iter()
        .filter(|(_, t)| !left_out(&t.name) && tenant_column(t).is_some())
        .map(|(id, _)| *id)
        .collect();
    if !catalogue.tables.values().any(|t| t.name == rules.root) {
        obstacles.push(Obstacle::NoTable { side: Side::Source, table: rules.root.clone() });
    }
    loop {
        let reached: Vec<(u32, u32)> = catalogue
            .references
            .iter()
            .filter(|(from, to)| {
                closure.contains(to)
                    && !closure.contains(from)
                    && catalogue.tables.get(from).is_some_and(|t| !left_out(&t.name))
            })
            .copied()
            .collect();
        for (from, to) in &reached {
            if closure.insert(*from) {
                obstacles.push(Obstacle::NoTenantColumn {
                    table: catalogue.tables[from].name.clone(),
                    through: catalogue.tables[to].name.clone(),
                    column: rules.tenant_column.clone(),
                });
            }
        }
        if reached.is_empty() {
            break;
        }
    }
    for (from, to) in &catalogue.references {
        if closure.contains(from)
            && !closure.contains(to)
            && let Some(outside) = catalogue.tables.get(to)
            && !left_out(&outside.name)
        {
            obstacles.push(Obstacle::SharedRows {
                table: catalogue.tables[from].name.clone(),
                outside: outside.name.clone(),
            });
        }
    }
    let mut planned = Vec::new();
    for id in &closure {
        let table = &catalogue.tables[id];
        if table.unlogged {
            obstacles.push(Obstacle::Unlogged { table: table.name.clone() });
        }
        if !table.has_identity || table.key.is_empty() {
            obstacles.push(Obstacle::NoIdentity { table: table.name.clone() });
        }
        if table.columns.iter().any(|c| c.large_object) {
            obstacles.push(Obstacle::LargeObjects { table: table.name.clone() });
        }
        let Some(tenant_column) = tenant_column(table) else { continue };
        let travelling = || table.columns.iter().filter(|c| !c.generated);
        planned.push(PlannedTable {
            table: table.name.clone(),
            tenant_column,
            columns: travelling()
                .map(|c| PlannedColumn {
                    name: c.name.clone(),
                    type_name: c.type_name.clone(),
                    always_identity: c.always_identity,
                })
                .collect(),
            key: table.key.clone(),
            rows: 0,
            bytes: if table.total_rows > 0.0 { (table.bytes as f64 / table.total_rows).ceil() as i64 } else { 0 },
            binary: travelling().all(|c| !c.own_type),
        });
    }
    // The root first, for people who read the plan; the order means nothing to the copy.
    planned.sort_by_key(|t| (t.table != rules.root, t.table.clone()));
    (planned, closure)
}

fn compare_shapes(ours: &Table, theirs: &Catalogue, obstacles: &mut Vec<Obstacle>) {
    let Some(other) = theirs.tables.values().find(|t| t.name == ours.name) else {
        obstacles.push(Obstacle::NoTable { side: Side::Target, table: ours.name.clone() });
        return;
    };
    let mut differs = |difference: String| {
        obstacles.push(Obstacle::SchemaDiffers { table: ours.name.clone(), difference });
    };
    for column in &ours.columns {
        match other.columns.iter().find(|c| c.name == column.name) {
            None => differs(format!("the target lacks column `{}`", column.name)),
            Some(c) if c.type_name != column.type_name => {
                differs(format!("column `{}` is {} here and {} there", column.name, column.type_name, c.type_name));
            }
            Some(c) if c.not_null != column.not_null || c.generated != column.generated => {
                differs(format!("column `{}` has other rules there", column.name));
            }
            Some(_) => {}
        }
    }
    for column in &other.columns {
        if !ours.columns.iter().any(|c| c.name == column.name) {
            differs(format!("the source lacks column `{}`", column.name));
        }
    }
    if ours.key != other.key {
        differs("the keys are not the same".into());
    }
    if let Some(trigger) = &other.always_trigger {
        obstacles.push(Obstacle::AlwaysTrigger { table: ours.name.clone(), trigger: trigger.clone() });
    }
}

async fn measure(
    spec: &MoveSpec,
    mut table: PlannedTable,
    source: &Client,
    target: &Client,
    theirs: &Catalogue,
    obstacles: &mut Vec<Obstacle>,
) -> Result<PlannedTable, MoveError> {
    let count = format!("select count(*) from {} where {}", table.table.sql(), table.filter(&spec.tenant));
    match source.query_one(&count, &[]).await {
        Ok(row) => table.rows = row.get(0),
        Err(error) if is_bad_key(&error) => {
            obstacles.push(Obstacle::NoTenant { table: spec.rules.root.clone(), key: spec.tenant.to_string() });
            return Ok(table);
        }
        Err(error) => return Err(error).doing(Side::Source, "counting the tenant's rows"),
    }
    table.bytes *= table.rows;
    if theirs.tables.values().any(|t| t.name == table.table) {
        let there: i64 = match target.query_one(&count, &[]).await {
            Ok(row) => row.get(0),
            // A column that differs has been reported by `compare_shapes`.
            Err(_) => 0,
        };
        if there > 0 {
            obstacles.push(Obstacle::RowsInTarget { table: table.table.clone(), rows: there });
        }
    }
    Ok(table)
}

/// The key's text is no value of the key's type: no such tenant can exist.
fn is_bad_key(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

async fn sequences(source: &Client, tables: &[PlannedTable]) -> Result<Vec<PlannedSequence>, MoveError> {
    let rows = source
        .query(
            "select sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text
             from pg_depend d
             join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace sn on sn.oid = s.relnamespace
             join pg_class t on t.oid = d.refobjid join pg_namespace tn on tn.oid = t.relnamespace
             join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')",
            &[],
        )
        .await
        .doing(Side::Source, "reading the sequences")?;
    Ok(rows
        .into_iter()
        .map(|row| PlannedSequence {
            sequence: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            table: TableName::new(row.get::<_, String>(2), row.get::<_, String>(3)),
            column: row.get(4),
        })
        .filter(|s| tables.iter().any(|t| t.table == s.table))
        .collect())
}

/// Everything about the closure that a schema change in the middle of a move would alter and that must be the
/// same on both sides: columns, types and rules. Keys and indexes are left out, because a bare load rebuilds them.
pub(crate) async fn fingerprint(client: &Client, side: Side, tables: &[PlannedTable]) -> Result<String, MoveError> {
    let schemas: Vec<&str> = tables.iter().map(|t| t.table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.table.name.as_str()).collect();
    let row = client
        .query_one(
            "select md5(coalesce(string_agg(concat_ws('|', w.s, w.t, a.attname, format_type(a.atttypid, a.atttypmod),
                        a.attnotnull, a.attgenerated, a.attidentity), E'\\n' order by w.s collate \"C\", w.t collate \"C\", a.attname), ''))
             from unnest($1::text[], $2::text[]) w(s, t)
             join pg_namespace n on n.nspname = w.s join pg_class c on c.relnamespace = n.oid and c.relname = w.t
             join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped",
            &[&schemas, &names],
        )
        .await
        .doing(side, "reading the schema's fingerprint")?;
    Ok(row.get(0))
}

/// What a cell's schema looks like as a whole; cells with equal ones can exchange tenants.
pub async fn schema_fingerprint(endpoint: &Endpoint) -> Result<String, MoveError> {
    let client = connect(endpoint, Side::Target, "berth-fingerprint").await?;
    let all = catalogue(&client, Side::Target).await?;
    let tables: Vec<PlannedTable> = all
        .tables
        .into_values()
        .map(|t| PlannedTable {
            table: t.name,
            tenant_column: String::new(),
            columns: Vec::new(),
            key: t.key,
            rows: 0,
            bytes: 0,
            binary: false,
        })
        .collect();
    fingerprint(&client, Side::Target, &tables).await
}
