//! Reads what the catalogue says of tables, keys and references. Decides nothing and changes nothing.

use crate::parts::{self, Part};
use crate::sql::{Doing, connect};
use crate::{Endpoint, MoveError, PlannedTable, Side, TableName};
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// Types with an id from here on were made in the database itself, so their binary image means nothing elsewhere.
const FIRST_OWN_TYPE: u32 = 16_384;

pub(crate) struct Table {
    pub name: TableName,
    pub unlogged: bool,
    pub partitioned: bool,
    /// It and a table that inherits from it, or one that it inherits from: child and parent.
    pub inherits: Option<(TableName, TableName)>,
    /// TimescaleDB keeps its rows in tables of its own.
    pub hypertable: bool,
    pub bytes: i64,
    pub total_rows: f64,
    pub columns: Vec<Column>,
    pub key: Vec<String>,
    pub has_identity: bool,
    /// Its identity would be a primary key that is deferrable, which Postgres does not take for one.
    pub deferrable_key: bool,
    pub always_trigger: Option<String>,
    /// What holds its rows where it is partitioned.
    pub parts: Vec<Part>,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// Generated columns are computed by the target.
    pub fn travelling(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|c| !c.generated)
    }
}

pub(crate) struct Column {
    pub name: String,
    pub type_name: String,
    pub own_type: bool,
    pub large_object: bool,
    pub not_null: bool,
    pub generated: bool,
    /// As the catalogue says it: `a` always, `d` by default, else nothing.
    pub identity: String,
    /// Two of its values are equal only when their texts are.
    pub exact: bool,
    /// The collation that it names; none where it has that of its type or of the database.
    pub collation: Option<String>,
}

pub(crate) struct ForeignKey {
    pub from: u32,
    pub to: u32,
    pub deferrable: bool,
    pub columns: Vec<String>,
    pub to_columns: Vec<String>,
}

pub(crate) struct Catalogue {
    pub tables: BTreeMap<u32, Table>,
    pub references: Vec<ForeignKey>,
}

impl Catalogue {
    pub fn find(&self, name: &TableName) -> Option<(u32, &Table)> {
        self.tables.iter().find(|(_, t)| t.name == *name).map(|(id, t)| (*id, t))
    }
}

/// Where the extension is there, by its own catalogue.
async fn hypertables(client: &Client, side: Side) -> Result<Vec<TableName>, MoveError> {
    let doing = "reading TimescaleDB's tables";
    let there = "select to_regclass('_timescaledb_catalog.hypertable') is not null";
    if !client.query_one(there, &[]).await.doing(side, doing)?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let all = "select schema_name::text, table_name::text from _timescaledb_catalog.hypertable";
    let rows = client.query(all, &[]).await.doing(side, doing)?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

pub(crate) async fn catalogue(client: &Client, side: Side) -> Result<Catalogue, MoveError> {
    let mut tables = BTreeMap::new();
    let rows = client
        .query(
            "select c.oid, n.nspname::text, c.relname::text, c.relpersistence = 'u', c.relkind = 'p', pg_total_relation_size(c.oid),
                    greatest(c.reltuples, 0)::float8, c.relreplident::text,
                    (select t.tgname::text from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal
                        and t.tgenabled in ('A', 'R') and t.tgname not like 'berth\\_%' limit 1),
                    (select array[cn.nspname::text, child.relname::text, pn.nspname::text, parent.relname::text]
                     from pg_inherits i join pg_class child on child.oid = i.inhrelid join pg_class parent on parent.oid = i.inhparent
                     join pg_namespace cn on cn.oid = child.relnamespace join pg_namespace pn on pn.oid = parent.relnamespace
                     where c.relkind = 'r' and c.oid in (i.inhparent, i.inhrelid) limit 1),
                    c.relreplident = 'd' and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary and not i.indimmediate)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p') and not c.relispartition
               and n.nspname not in ('pg_catalog', 'information_schema', 'berth', 'berth_control') and n.nspname not like 'pg\\_%'
               and n.nspname not like '\\_timescaledb\\_%'
               and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')",
            &[],
        )
        .await
        .doing(side, "reading the tables")?;
    for row in rows {
        let identity: String = row.get(7);
        tables.insert(
            row.get::<_, u32>(0),
            Table {
                name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
                unlogged: row.get(3),
                partitioned: row.get(4),
                bytes: row.get(5),
                total_rows: row.get(6),
                columns: Vec::new(),
                key: Vec::new(),
                has_identity: identity != "n",
                deferrable_key: row.get(10),
                always_trigger: row.get(8),
                inherits: row.get::<_, Option<Vec<String>>>(9).map(|names| {
                    let table = |at: usize| TableName::new(names[at].clone(), names[at + 1].clone());
                    (table(0), table(2))
                }),
                hypertable: false,
                parts: Vec::new(),
            },
        );
    }
    for name in hypertables(client, side).await? {
        for table in tables.values_mut().filter(|table| table.name == name) {
            table.hypertable = true;
        }
    }
    for (of, part) in parts::all(client, side).await? {
        if let Some(table) = tables.get_mut(&of) {
            table.parts.push(part);
        }
    }
    let columns = client
        .query(
            "select a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
                    coalesce(nullif(t.typelem, 0), nullif(t.typbasetype, 0), t.oid), t.oid,
                    coalesce((select e.typname from pg_type e where e.oid = t.typelem), b.typname)::text like 'reg%',
                    t.typname::text in ('oid', 'lo'), a.attidentity::text,
                    (b.typtype = 'e' or b.typname::text in ('int2', 'int4', 'int8', 'uuid', 'text', 'varchar', 'date', 'bool', 'timestamp', 'timestamptz'))
                        and coalesce((select l.collisdeterministic from pg_collation l where l.oid = a.attcollation), true),
                    (select l.collname::text from pg_collation l where l.oid = a.attcollation and a.attcollation <> t.typcollation)
             from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
             join pg_class c on c.oid = a.attrelid
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
                // The image of a regclass is a number too.
                own_type: row.get::<_, u32>(5) >= FIRST_OWN_TYPE
                    || row.get::<_, u32>(6) >= FIRST_OWN_TYPE
                    || row.get(7),
                large_object: row.get(8),
                identity: row.get(9),
                exact: row.get(10),
                collation: row.get(11),
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
        .query(
            "select c.conrelid, c.confrelid, c.condeferrable,
                    (select array_agg(a.attname::text order by k.nth) from unnest(c.conkey) with ordinality k(num, nth)
                     join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num),
                    (select array_agg(a.attname::text order by k.nth) from unnest(c.confkey) with ordinality k(num, nth)
                     join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num)
             from pg_constraint c where c.contype = 'f' and c.conparentid = 0 order by c.conrelid, c.conname",
            &[],
        )
        .await
        .doing(side, "reading the foreign keys")?
        .into_iter()
        .map(|row| ForeignKey {
            from: row.get(0),
            to: row.get(1),
            deferrable: row.get(2),
            columns: row.get(3),
            to_columns: row.get(4),
        })
        .collect();
    Ok(Catalogue { tables, references })
}

/// Everything about the closure that a schema change in the middle of a move would alter and that must be the
/// same on both sides: columns, types and rules. Keys and indexes are left out, because a bare load rebuilds them; which
/// partitions there are and what lies in them is a side's own: see [`crate::stands`].
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
            tenant_column: None,
            through: Vec::new(),
            refers: Vec::new(),
            columns: Vec::new(),
            key: t.key,
            rows: 0,
            bytes: 0,
            binary: false,
            kept: None,
        })
        .collect();
    fingerprint(&client, Side::Target, &tables).await
}

/// What the schema's fingerprint is made of, readable: `table.column` to type and rules.
pub(crate) async fn shape(client: &Client, side: Side) -> Result<BTreeMap<String, String>, MoveError> {
    let rows = client
        .query(
            "select case n.nspname when 'public' then '' else n.nspname || '.' end || c.relname || '.' || a.attname,
                    concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                        case when a.attgenerated <> '' then 'generated' end,
                        case a.attidentity when 'a' then 'identity always' when 'd' then 'identity' end)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
             where c.relkind in ('r', 'p') and not c.relispartition
               and n.nspname not in ('pg_catalog', 'information_schema', 'berth', 'berth_control') and n.nspname not like 'pg\\_%'
               and n.nspname not like '\\_timescaledb\\_%'
               and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')",
            &[],
        )
        .await
        .doing(side, "reading the schema")?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether the same tables belong to the tenant, in the same ways.
pub(crate) async fn is_as_planned(
    client: &Client,
    spec: &crate::MoveSpec,
    plan: &crate::MovePlan,
) -> Result<bool, MoveError> {
    let now = crate::closure::closure(&spec.rules, &catalogue(client, Side::Source).await?, &mut Vec::new());
    let ways = |tables: &[PlannedTable]| -> Vec<_> {
        tables.iter().map(|t| (t.table.clone(), t.tenant_column.clone(), t.through.clone())).collect()
    };
    Ok(ways(&now.tables) == ways(&plan.tables))
}

/// All of the source that says which tables belong to a tenant, hashed: columns that are named as the rules name the tenant's and
/// links', and references from and to the tables of the plan, by which every other one comes to it. What others make besides
/// does not count. Quick enough for the pause, where a transaction that made a table after the gate may have been committed.
pub(crate) async fn outline(
    client: &Client,
    spec: &crate::MoveSpec,
    plan: &crate::MovePlan,
) -> Result<String, MoveError> {
    let rules = &spec.rules;
    let of_links = rules.links.iter().flat_map(|l| l.columns.iter().chain(l.when.as_ref().map(|(column, _)| column)));
    let named: Vec<&str> =
        rules.tenant_columns.values().chain([&rules.tenant_column]).chain(of_links).map(String::as_str).collect();
    let tables: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let row = client
        .query_one(
            "with t as (select to_regclass(name)::oid as oid from unnest($2::text[]) name)
             select md5(concat(
                 (select string_agg(concat_ws('|', c.oid, c.relnamespace, c.relname, a.attnum, a.attname, a.attnotnull), E'\\n' order by c.oid, a.attnum)
                  from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  join pg_attribute a on a.attrelid = c.oid and a.attname::text = any($1::text[]) and a.attnum > 0 and not a.attisdropped
                  where c.relkind in ('r', 'p') and not c.relispartition
                    and n.nspname not in ('pg_catalog', 'information_schema', 'berth', 'berth_control') and n.nspname not like 'pg\\_%'
                    and n.nspname not like '\\_timescaledb\\_%'), E'\\n\\n',
                 (select string_agg(concat_ws('|', c.oid, r.relnamespace, r.relname, c.conrelid, c.confrelid, c.conkey, c.confkey, c.condeferrable),
                                    E'\\n' order by c.oid)
                  from pg_constraint c join pg_class r on r.oid = c.conrelid
                  where c.contype = 'f' and c.conparentid = 0 and exists (select from t where t.oid in (c.conrelid, c.confrelid)))))",
            &[&named, &tables],
        )
        .await
        .doing(Side::Source, "looking at which tables there are")?;
    Ok(row.get(0))
}
