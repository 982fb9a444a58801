//! References to the tenant's rows from tables that neither travel nor belong to a tenant: those that are left out, and those that came
//! after the plan. A deletion that cascades into them, or sets their columns, would change what is to stay as it is. Changes nothing.

use crate::sql::{Doing, idents};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, Side, TableName};
use tokio_postgres::Client;

const WHAT: &str = "looking at references from outside";

/// A foreign key of such a table.
pub(crate) struct Outside {
    pub table: TableName,
    pub columns: Vec<String>,
    pub to: TableName,
    pub to_columns: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that neither cascade nor let go: the others the application itself has said to follow a tenant that is deleted.
    Holding,
    Every,
}

pub(crate) async fn references(client: &Client, plan: &MovePlan, which: Which) -> Result<Vec<Outside>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = client
        .query(
            "with t as (select to_regclass(name)::oid as oid, nth::int from unnest($1::text[]) with ordinality u(name, nth))
             select n.nspname::text, f.relname::text, parent.nth - 1,
                    array(select a.attname::text from unnest(c.conkey) with ordinality k(num, nth)
                          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num order by k.nth),
                    array(select a.attname::text from unnest(c.confkey) with ordinality k(num, nth)
                          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num order by k.nth)
             from pg_constraint c join t parent on parent.oid = c.confrelid
             join pg_class f on f.oid = c.conrelid join pg_namespace n on n.oid = f.relnamespace
             where c.contype = 'f' and c.conparentid = 0 and ($2 or c.confdeltype in ('a', 'r'))
               and c.conrelid not in (select oid from t)
               and coalesce(pg_partition_root(c.conrelid)::oid, c.conrelid) not in (select oid from t)",
            &[&names, &(which == Which::Every)],
        )
        .await
        .doing(Side::Source, WHAT)?;
    let outside = |row: &tokio_postgres::Row| Outside {
        table: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
        columns: row.get(3),
        to: plan.tables[row.get::<_, i32>(2) as usize].table.clone(),
        to_columns: row.get(4),
    };
    Ok(rows.iter().map(outside).collect())
}

/// By which of them rows refer to the tenant's, and how many.
async fn counted(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &Client,
    which: Which,
) -> Result<Vec<(Outside, i64)>, MoveError> {
    let mut found = Vec::new();
    for from in references(client, plan, which).await? {
        let Some(to) = plan.table(&from.to) else { continue };
        let sql = format!(
            "select count(*) from {} where ({}) in (select {} from {} where {})",
            from.table.sql(),
            idents(&from.columns),
            idents(&from.to_columns),
            to.table.sql(),
            plan.filter(to, &spec.tenant)
        );
        let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Source, WHAT)?.get(0);
        if rows > 0 {
            found.push((from, rows));
        }
    }
    Ok(found)
}

/// Refuses to let the tenant's rows go while such rows refer to them.
pub(crate) async fn refuse(spec: &MoveSpec, plan: &MovePlan, client: &Client, which: Which) -> Result<(), MoveError> {
    match counted(spec, plan, client, which).await?.into_iter().next() {
        Some((Outside { table, to, .. }, rows)) => Err(MoveError::ReferredTo { table, to, rows }),
        None => Ok(()),
    }
}

/// The same before a move, whose end takes the tenant's rows out of the source.
pub(crate) async fn plan(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let found = counted(spec, plan, source, Which::Every).await?;
    obstacles.extend(found.into_iter().map(|(Outside { table, columns, to, .. }, rows)| Obstacle::LeftOutRefers {
        table,
        columns: columns.join(", "),
        to,
        rows,
    }));
    Ok(())
}
