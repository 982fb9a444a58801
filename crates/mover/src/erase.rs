//! A tenant's rows leave the database in which it lives, all of them and for good: looked at first, deleted in small
//! batches with foreign keys enforced and the application's triggers firing, and looked for once more at the end.
//!
//! Never deletes a row of somebody else: what others refer to is refused by name before anything goes.

use crate::back::children_first;
use crate::catalog::catalogue;
use crate::closure::{Closure, closure};
use crate::fence;
use crate::leaving::{Leaving, delete_rows};
use crate::outside::{self, Which};
use crate::prepare::existing;
use crate::sql::{Doing, connect};
use crate::survey::{Stray, count_strays};
use crate::{MoveError, MovePlan, MoveSpec, PlannedTable, Side, TableName, Watcher};
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
pub(crate) const ROUNDS: usize = 10;

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
    outside::refuse(spec, plan, client, Which::Holding).await
}

async fn plan(spec: &MoveSpec, client: &Client) -> Result<MovePlan, MoveError> {
    let Closure { tables, shared, inner, unsure } =
        closure(&spec.rules, &catalogue(client, Side::Source).await?, &mut Vec::new());
    Ok(MovePlan { tables, shared, inner, unsure, ..MovePlan::default() })
}

/// What is left of the tenant, table by table.
pub(crate) async fn counted(spec: &MoveSpec, plan: &MovePlan, client: &Client) -> Result<Vec<RowsOf>, MoveError> {
    let mut found = Vec::new();
    for table in &plan.tables {
        let rows = count(spec, plan, table, client).await?;
        if rows > 0 {
            found.push(RowsOf { table: table.table.clone(), rows });
        }
    }
    Ok(found)
}

/// And of one table.
pub(crate) async fn count(
    spec: &MoveSpec,
    plan: &MovePlan,
    table: &PlannedTable,
    client: &Client,
) -> Result<u64, MoveError> {
    let sql = format!("select count(*) from {} where {}", table.table.sql(), plan.filter(table, &spec.tenant));
    let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Source, "counting the tenant's rows")?.get(0);
    Ok(rows.unsigned_abs())
}
