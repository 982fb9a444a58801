//! Rows that are too old for a tenant's plan leave the cell in which it lives, archived first where that is wanted.
//!
//! What goes is decided by a day and by a snapshot: rows that were written after it stay until the next time, so that
//! no row is deleted which the archive does not have. Deleted in small batches, for the neighbours. Never touches a
//! table that others refer to, as on a move: see [`crate::retention`].

use crate::archive::{self, Archive, Archives, Contents};
use crate::back::APPLICATIONS_PATH;
use crate::catalog::catalogue;
use crate::closure::{Closure, closure};
use crate::leaving::BATCH_ROWS;
use crate::sql::{Doing, connect};
use crate::{MoveError, MovePlan, MoveSpec, Phase, Progress, Side, TableName, Watcher, retention};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use tokio_postgres::Client;

/// What is too old is told by this machine's clock. Where the cell's own says another day, nothing is too old.
const CLOCKS_APART_S: u64 = 12 * 3600;

/// What of one table is too old.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldRows {
    pub table: TableName,
    pub column: String,
    /// The first day that is kept.
    pub before: jiff::civil::Date,
    pub rows: i64,
}

/// Old rows, as they were at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    pub tables: Vec<OldRows>,
    /// Transactions from this one on are not in it.
    horizon: String,
}

impl Old {
    pub fn rows(&self) -> i64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// What is older than `spec.keep_from`, and into an archive with it where one is given. Changes nothing in the database,
/// and may run again: the archive is written anew.
pub async fn old_rows(
    spec: &MoveSpec,
    archives: Option<(&Archives, &Path)>,
    watcher: &dyn Watcher,
) -> Result<Old, MoveError> {
    let client = connect(&spec.source, Side::Source, "berth-purge").await?;
    let mut plan = plan(spec, &client).await?;
    let begin = "begin isolation level repeatable read read only";
    client.batch_execute(begin).await.doing(Side::Source, "taking a snapshot")?;
    if archive::is_closed(spec, &client).await? {
        return Err(MoveError::LivesElsewhere);
    }
    let horizon = client
        .query_one("select pg_snapshot_xmin(pg_current_snapshot())::text", &[])
        .await
        .doing(Side::Source, "taking a snapshot")?
        .get(0);
    let there: i64 = client
        .query_one("select extract(epoch from clock_timestamp())::bigint", &[])
        .await
        .doing(Side::Source, "asking for the time")?
        .get(0);
    let here = jiff::Timestamp::now().as_second();
    if here.abs_diff(there) > CLOCKS_APART_S {
        return Err(MoveError::ClocksApart { ahead_s: here - there });
    }
    retention::measure(spec, &mut plan, &client).await?;
    let tables = plan.tables.iter().filter_map(|table| {
        let kept = table.kept.as_ref()?;
        let (column, before) = (kept.column.clone(), kept.from);
        Some(OldRows { table: table.table.clone(), column, before, rows: kept.left_rows })
    });
    let old = Old { tables: tables.collect(), horizon };
    if let (Some((store, at)), true) = (archives, old.rows() > 0) {
        let made = Archive::begun(spec, Contents::LeftBehind, crate::schema_fingerprint(&spec.source).await?);
        archive::write(&client, spec, &plan, made, store, at, watcher).await?;
    }
    client.batch_execute("commit").await.doing(Side::Source, "ending a snapshot")?;
    Ok(old)
}

/// Deletes what [`old_rows`] found, in the same cell. Returns how many rows went; those that went before count for nothing.
pub async fn purge(spec: &MoveSpec, old: &Old, watcher: &dyn Watcher) -> Result<u64, MoveError> {
    let what = "removing old rows";
    let mut client = connect(&spec.source, Side::Source, "berth-purge").await?;
    let plan = plan(spec, &client).await?;
    let mut gone = 0;
    for table in &plan.tables {
        let Some(left) = plan.left_behind(table, &spec.tenant) else { continue };
        let known = old.tables.iter().any(|old| {
            let same_day = table.kept.as_ref().is_some_and(|kept| kept.from == old.before && kept.column == old.column);
            old.table == table.table && same_day
        });
        if !known {
            continue;
        }
        let name = table.table.sql();
        // A row that was written before the snapshot is older than every transaction that was under way then. Said twice:
        // a ctid is a place in one partition, and in the others somebody else's row has the same.
        let is_old = format!("{left} and age(xmin) > age($1::text::xid8::xid)");
        let sql = format!(
            "delete from {name} where {is_old} and ctid = any (array(select ctid from {name} where {is_old} limit {BATCH_ROWS}))"
        );
        loop {
            if watcher.cancelled() {
                return Err(MoveError::Cancelled);
            }
            let began = Instant::now();
            let tx = client.transaction().await.doing(Side::Source, what)?;
            // The mover's role passes every fence, and the tenant may have moved on since the last batch.
            archive::pass_the_fence(&tx, Side::Source, &spec.tenant).await?;
            tx.batch_execute(APPLICATIONS_PATH).await.doing(Side::Source, what)?;
            let rows = tx.execute(&sql, &[&old.horizon]).await.doing(Side::Source, what)?;
            tx.commit().await.doing(Side::Source, what)?;
            gone += rows;
            watcher.progress(Progress { rows_done: Some(gone), ..Progress::of(Phase::Keep) });
            if rows < u64::from(BATCH_ROWS) {
                break;
            }
            // As long idle as busy.
            tokio::time::sleep(began.elapsed()).await;
        }
    }
    Ok(gone)
}

async fn plan(spec: &MoveSpec, client: &Client) -> Result<MovePlan, MoveError> {
    let mut obstacles = Vec::new();
    let Closure { tables, shared, unsure, inner } =
        closure(&spec.rules, &catalogue(client, Side::Source).await?, &mut obstacles);
    let mut plan = MovePlan { tables, shared, inner, unsure, ..MovePlan::default() };
    retention::plan(spec, &mut plan, &mut obstacles);
    if obstacles.is_empty() { Ok(plan) } else { Err(MoveError::Obstacles(obstacles)) }
}
