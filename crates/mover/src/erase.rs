//! A tenant's rows leave the database in which it lives, all of them and for good: looked at first, deleted in small
//! batches with foreign keys enforced and the application's triggers firing, and looked for once more at the end.
//!
//! Never deletes a row of somebody else: what others refer to is refused by name before anything goes.

use crate::back::children_first;
use crate::catalog::catalogue;
use crate::closure::{Closure, closure};
use crate::fence;
use crate::leaving::{Leaving, delete_rows};
use crate::prepare::existing;
use crate::sql::{Doing, connect, idents};
use crate::survey::{Stray, count_strays};
use crate::{MoveError, MovePlan, MoveSpec, Side, TableName, Watcher};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_postgres::Client;

/// The tenant's rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsOf {
    pub table: TableName,
    pub rows: u64,
}

/// Looks this often for rows that triggers and late writers make while others go.
const ROUNDS: usize = 10;

/// The tenant's rows in the source of `spec`, table by table; tables without any are left out. Changes nothing.
pub async fn count_rows(spec: &MoveSpec) -> Result<Vec<RowsOf>, MoveError> {
    let client = connect(&spec.source, Side::Source, "berth-count").await?;
    let plan = plan(spec, &client).await?;
    counted(spec, &plan, &client).await
}

/// Deletes them, and the tenant's fence with them. Returns what went. Safe to run again.
pub async fn erase_rows(spec: &MoveSpec, watcher: &dyn Watcher) -> Result<Vec<RowsOf>, MoveError> {
    let mut client = connect(&spec.source, Side::Source, "berth-erase").await?;
    let plan = plan(spec, &client).await?;
    unreferred(spec, &plan, &client).await?;
    let first = counted(spec, &plan, &client).await?;
    let mut left = first.clone();
    for _ in 0..ROUNDS {
        if left.is_empty() {
            break;
        }
        let order = children_first(&client, &plan).await?;
        delete_rows(&Leaving { left: spec, guard: None }, &plan, &order, &mut client, watcher).await?;
        left = counted(spec, &plan, &client).await?;
    }
    if let Some(still) = left.first() {
        let (table, to) = (still.table.clone(), spec.rules.root.clone());
        return Err(MoveError::ReferredTo { table, to, rows: i64::try_from(still.rows).unwrap_or(i64::MAX) });
    }
    if let Some(fence) = existing(&client, Side::Source, spec).await? {
        fence.remove_triggers(&client, Duration::from_millis(spec.tuning.lock_wait_ms)).await?;
        fence::remove(&mut client, &fence).await?;
    }
    Ok(first)
}

/// Whether all of the tenant can go: its rows, keys and objects. Asked before its route is taken away, for afterwards there is
/// no way back. Changes nothing.
pub async fn may_be_erased(spec: &MoveSpec) -> Result<(), MoveError> {
    let client = connect(&spec.source, Side::Source, "berth-erase").await?;
    let plan = plan(spec, &client).await?;
    unreferred(spec, &plan, &client).await?;
    crate::may_be_removed(&spec.source, &spec.rules, &spec.beside, &spec.tenant).await
}

/// Rows of nobody else hold on to the tenant's.
async fn unreferred(spec: &MoveSpec, plan: &MovePlan, client: &Client) -> Result<(), MoveError> {
    for reference in &plan.inner {
        let rows = count_strays(spec, plan, reference, Stray::Others, client, Side::Source).await?;
        if rows > 0 {
            let (table, to) = (reference.table.clone(), reference.to.clone());
            return Err(MoveError::ReferredTo { table, to, rows });
        }
    }
    outside(spec, plan, client).await
}

async fn plan(spec: &MoveSpec, client: &Client) -> Result<MovePlan, MoveError> {
    let Closure { tables, shared, inner, unsure } =
        closure(&spec.rules, &catalogue(client, Side::Source).await?, &mut Vec::new());
    Ok(MovePlan { tables, shared, inner, unsure, ..MovePlan::default() })
}

/// Rows of tables that belong to no tenant and hold on to the tenant's by a foreign key that neither cascades nor lets go.
async fn outside(spec: &MoveSpec, plan: &MovePlan, client: &Client) -> Result<(), MoveError> {
    let what = "looking at references from outside";
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
             where c.contype = 'f' and c.conparentid = 0 and c.confdeltype in ('a', 'r')
               and c.conrelid not in (select oid from t)",
            &[&names],
        )
        .await
        .doing(Side::Source, what)?;
    for row in rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let to = &plan.tables[row.get::<_, i32>(2) as usize];
        let (columns, keys): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let sql = format!(
            "select count(*) from {} where ({}) in (select {} from {} where {})",
            table.sql(),
            idents(&columns),
            idents(&keys),
            to.table.sql(),
            plan.filter(to, &spec.tenant)
        );
        let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Source, what)?.get(0);
        if rows > 0 {
            return Err(MoveError::ReferredTo { table, to: to.table.clone(), rows });
        }
    }
    Ok(())
}

async fn counted(spec: &MoveSpec, plan: &MovePlan, client: &Client) -> Result<Vec<RowsOf>, MoveError> {
    let mut found = Vec::new();
    for table in &plan.tables {
        let sql = format!("select count(*) from {} where {}", table.table.sql(), plan.filter(table, &spec.tenant));
        let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Source, "counting the tenant's rows")?.get(0);
        if rows > 0 {
            found.push(RowsOf { table: table.table.clone(), rows: rows.unsigned_abs() });
        }
    }
    Ok(found)
}
