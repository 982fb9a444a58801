//! Keys of the tenant that rows of others in the target have already: numbers from a sequence, addresses that are
//! unique in the whole table; and keys of rows that stay behind and are not in the target. Looked for before anything is
//! touched.
//!
//! Keys with a uuid or with the tenant in them cannot collide and are not looked at. What only a type's own notion of
//! equality would call equal is compared by that: the target's index decides.

use crate::sql::{Doing, ident, idents};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, PlannedTable, Side, TableName};
use berth_domain::TenantKey;
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::{Client, Transaction};

/// A unique index or an exclusion that might refuse the tenant's rows.
pub(crate) struct Unique {
    /// Its columns or expressions.
    pub keys: Vec<String>,
    /// By which of them two rows are in each other's way: equality, or what an exclusion says.
    operators: Vec<String>,
    /// Only rows that satisfy this are in it.
    pub only: Option<String>,
    /// Whether it is looked at when a row is written, also in a session that loads.
    pub immediate: bool,
}

impl Unique {
    /// Whether a row is in the way of one whose keys have these names.
    pub fn meets(&self, brought: &[String]) -> String {
        let each = self.keys.iter().zip(&self.operators).zip(brought);
        each.map(|((key, by), name)| format!("({key}) {by} {name}")).collect::<Vec<_>>().join(" and ")
    }
}

/// Adds an obstacle for each unique index of the target in which rows of others stand in the way.
pub(crate) async fn keys(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    target: &mut Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    if spec.alone {
        return Ok(());
    }
    for table in &plan.tables {
        for unique in uniques(table, target).await? {
            let only = unique.only.as_ref().map(|only| format!(" and ({only})")).unwrap_or_default();
            let name = table.table.sql();
            let question =
                |brought: &[String]| format!("exists (select from {name} where {}{only})", unique.meets(brought));
            let ours = Keys { table, columns: &unique.keys, which: &only, distinct: false };
            if let (rows, Some(first_key)) = ours.asked(spec, plan, source, target, question).await? {
                let (table, columns) = (table.table.clone(), unique.keys.join(", "));
                obstacles.push(Obstacle::KeyTaken { table, columns, rows, first_key });
            }
        }
    }
    Ok(())
}

pub(crate) async fn uniques(table: &PlannedTable, target: &Client) -> Result<Vec<Unique>, MoveError> {
    let rows = target
        .query(
            "select array(select pg_get_indexdef(i.indexrelid, n, true) from generate_series(1, i.indnkeyatts) n),
                    array(select case when o.oid is null then '=' else format('operator(%I.%s)', s.nspname, o.oprname) end
                          from generate_series(1, i.indnkeyatts) n
                          left join pg_operator o on o.oid = coalesce(
                              (select c.conexclop[n] from pg_constraint c where c.conindid = i.indexrelid and c.conexclop is not null),
                              (select f.amopopr from pg_opclass k join pg_amop f on f.amopmethod = k.opcmethod and f.amopfamily = k.opcfamily
                                   and f.amopstrategy = 3 and f.amoplefttype = k.opcintype and f.amoprighttype = k.opcintype
                               where k.oid = i.indclass[n - 1]))
                          left join pg_namespace s on s.oid = o.oprnamespace order by n),
                    pg_get_expr(i.indpred, i.indrelid), i.indimmediate
             from pg_index i
             where i.indrelid = $1::text::regclass and (i.indisunique or i.indisexclusion) and i.indisvalid
               and not exists (select from unnest(i.indkey::int2[]) with ordinality k(num, nth)
                               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
                               where k.nth <= i.indnkeyatts and (a.atttypid = 'uuid'::regtype or a.attname::text = $2)
                                 and coalesce((select o.oprname = '=' from pg_constraint c join pg_operator o on o.oid = c.conexclop[k.nth::int4]
                                               where c.conindid = i.indexrelid and c.conexclop is not null), true))",
            &[&table.table.sql(), &table.tenant_column.as_deref().unwrap_or_default()],
        )
        .await
        .doing(Side::Target, "reading the unique indexes")?;
    let unique = |row: &tokio_postgres::Row| Unique {
        keys: row.get(0),
        operators: row.get(1),
        only: row.get(2),
        immediate: row.get(3),
    };
    Ok(rows.iter().map(unique).collect())
}

/// Adds an obstacle for each foreign key to a table that is left out, by which the tenant's rows name rows that the target
/// does not have: rows are loaded there without their foreign keys being looked at.
pub(crate) async fn left_out(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    target: &mut Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let left_out: Vec<String> = spec.rules.leave_out.iter().map(TableName::sql).collect();
    for table in &plan.tables {
        let rows = target
            .query(
                "select n.nspname, t.relname,
                        array(select a.attname::text from unnest(c.conkey) with ordinality k(num, nth)
                              join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num order by nth),
                        array(select a.attname::text from unnest(c.confkey) with ordinality k(num, nth)
                              join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num order by nth)
                 from pg_constraint c join pg_class t on t.oid = c.confrelid join pg_namespace n on n.oid = t.relnamespace
                 where c.contype = 'f' and c.conrelid = $1::text::regclass
                   and c.confrelid in (select to_regclass(name)::oid from unnest($2::text[]) name)",
                &[&table.table.sql(), &left_out],
            )
            .await
            .doing(Side::Target, "reading references to what is left out")?;
        for row in rows {
            let to = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let (columns, to_columns): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
            let keys: Vec<String> = columns.iter().map(|c| ident(c)).collect();
            let named = keys.iter().map(|key| format!("{key} is not null")).collect::<Vec<_>>().join(" and ");
            let there = idents(&to_columns);
            let question = |brought: &[String]| {
                format!("not exists (select from {} where ({there}) = ({}))", to.sql(), brought.join(", "))
            };
            let from = Keys { table, columns: &keys, which: &format!(" and {named}"), distinct: true };
            if let (rows, Some(first_key)) = from.asked(spec, plan, source, target, question).await? {
                let (table, columns) = (table.table.clone(), columns.join(", "));
                obstacles.push(Obstacle::LeftOutMissing { table, columns, to, rows, first_key });
            }
        }
    }
    Ok(())
}

/// After a restore, which passes over what is there: a row that did not come in because another one has its number or its name is
/// not there already, nor is one that a trigger made another's.
pub(crate) async fn all_are_there(
    tx: &Transaction<'_>,
    plan: &MovePlan,
    table: &PlannedTable,
    key: &[String],
    tenant: &TenantKey,
) -> Result<(), MoveError> {
    let same: Vec<String> = key.iter().map(|k| format!("t.{0} = r.{0}", ident(k))).collect();
    let key: Vec<String> = key.iter().map(|k| format!("r.{}", ident(k))).collect();
    let sql = format!(
        "select count(*), min(concat_ws(', ', {})) from pg_temp.berth_restore r
         where not exists (select from {} t where {} and {})",
        key.join(", "),
        table.table.sql(),
        same.join(" and "),
        plan.filter(table, tenant)
    );
    let row = tx.query_one(&sql, &[]).await.doing(Side::Target, "restoring rows")?;
    let (rows, first): (i64, Option<String>) = (row.get(0), row.get(1));
    let (name, first) = (&table.table, first.unwrap_or_default());
    let why = format!(
        "{rows} rows of `{name}` are not here as they came: other rows have their keys or unique values, or a trigger keeps them out or gives them another key or tenant; the first has key {first}"
    );
    if rows > 0 { Err(MoveError::ArchiveUnfit { why }) } else { Ok(()) }
}

/// Keys of the tenant's rows, to be asked about in the target.
struct Keys<'k> {
    table: &'k PlannedTable,
    /// Or expressions.
    columns: &'k [String],
    /// A further condition, beginning with ` and `, or nothing.
    which: &'k str,
    distinct: bool,
}

impl Keys<'_> {
    /// Of how many keys the target says yes to `question`, which is given the names of the key's columns; and the first,
    /// as texts are sorted: not every type that an exclusion compares is.
    async fn asked(
        &self,
        spec: &MoveSpec,
        plan: &MovePlan,
        source: &Client,
        target: &mut Client,
        question: impl Fn(&[String]) -> String,
    ) -> Result<(i64, Option<String>), MoveError> {
        let Self { table, which, .. } = *self;
        let stopped = |source| MoveError::Copy { table: table.table.clone(), source };
        let what = "looking for keys in the target";
        let name = table.table.sql();
        let keys = self.columns.join(", ");
        let columns: Vec<String> = (1..=self.columns.len()).map(|n| format!("k{n}")).collect();
        let brought: Vec<String> = columns.iter().map(|k| format!("berth_keys.{k}")).collect();
        let columns = columns.join(", ");
        // The application's functions in an index may be named without their schema.
        source.batch_execute("begin read only").await.doing(Side::Source, what)?;
        source.batch_execute(crate::back::APPLICATIONS_PATH).await.doing(Side::Source, what)?;
        let tx = target.transaction().await.doing(Side::Target, what)?;
        tx.batch_execute(crate::back::APPLICATIONS_PATH).await.doing(Side::Target, what)?;
        tx.batch_execute(&format!(
            "create temporary table berth_keys ({columns}) on commit drop as select {keys} from {name} with no data"
        ))
        .await
        .doing(Side::Target, what)?;
        let distinct = if self.distinct { "distinct " } else { "" };
        let travelling = plan.travelling(table, &spec.tenant);
        let out = format!("copy (select {distinct}{keys} from {name} where {travelling}{which}) to stdout");
        let rows = source.copy_out(&out).await.map_err(stopped)?;
        let sink = tx.copy_in::<_, Bytes>("copy pg_temp.berth_keys from stdin").await.map_err(stopped)?;
        tokio::pin!(rows, sink);
        while let Some(chunk) = rows.try_next().await.map_err(stopped)? {
            sink.feed(chunk).await.map_err(stopped)?;
        }
        sink.as_mut().finish().await.map_err(stopped)?;
        source.batch_execute("commit").await.doing(Side::Source, what)?;
        tx.batch_execute("analyze pg_temp.berth_keys").await.doing(Side::Target, what)?;
        let sql = format!(
            "select count(*), min(concat_ws(', ', {columns}))
             from pg_temp.berth_keys where {}",
            question(&brought)
        );
        let found = tx.query_one(&sql, &[]).await.doing(Side::Target, what)?;
        tx.rollback().await.doing(Side::Target, what)?;
        Ok((found.get(0), found.get(1)))
    }
}
