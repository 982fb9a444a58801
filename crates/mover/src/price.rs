//! What a move costs those who do not move, in figures of the servers as they are.

use crate::sql::{Doing, ident};
use crate::{MoveError, MovePlan, MoveSpec, Side};
use tokio_postgres::Client;

/// A sentence each. None where nobody else is.
pub(crate) async fn price(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    target: &Client,
) -> Result<Vec<String>, MoveError> {
    let mut price = Vec::new();
    if has_others(spec, plan, source).await? {
        let rate = wal_mb_per_s(source, Side::Source).await?;
        price.push(format!(
            "source: its write-ahead log, {rate:.1} MB/s on average, is decoded once more while the tenant moves"
        ));
        price.extend(fence(spec, plan, Side::Source));
    }
    if !spec.alone {
        if spec.way_back {
            let rate = wal_mb_per_s(target, Side::Target).await?;
            price.push(format!(
                "target: its write-ahead log, {rate:.1} MB/s on average, is decoded once more for as long as there is a way back"
            ));
        }
        price.extend(fence(spec, plan, Side::Target));
    }
    Ok(price)
}

fn fence(spec: &MoveSpec, plan: &MovePlan, side: Side) -> Vec<String> {
    let mut price = vec![format!(
        "{side}: a lock of {} ms at most on each of {} tables, to put the fence's triggers up and to take them away; one comparison for each row that anybody writes there meanwhile",
        spec.tuning.lock_wait_ms,
        plan.tables.len()
    )];
    let without: Vec<String> =
        plan.tables.iter().filter(|t| !t.through.is_empty()).map(|t| format!("`{}`", t.table)).collect();
    if !without.is_empty() {
        // The design's measurement, of a neighbour's COPY of 50,000 rows: 61 ms without, 286 with the look.
        price.push(format!(
            "{side}: {} without the tenant column: whose the rows of each statement are is looked up in other tables, which makes a COPY about five times as long",
            without.join(", ")
        ));
    }
    price
}

async fn has_others(spec: &MoveSpec, plan: &MovePlan, source: &Client) -> Result<bool, MoveError> {
    let Some(root) = plan.table(&spec.rules.root) else { return Ok(false) };
    let sql =
        format!("select exists (select from {} where {}::text <> $1)", root.table.sql(), ident(&spec.rules.key_column));
    let row = source.query_one(&sql, &[&spec.tenant.as_str()]).await;
    Ok(row.doing(Side::Source, "looking for other tenants")?.get(0))
}

/// Since its figures were last set back, or since it started.
async fn wal_mb_per_s(client: &Client, side: Side) -> Result<f64, MoveError> {
    let sql = "select (wal_bytes / greatest(extract(epoch from clock_timestamp() - coalesce(stats_reset, pg_postmaster_start_time())), 1) / 1048576)::float8
               from pg_stat_wal";
    let row = client.query_one(sql, &[]).await.doing(side, "reading how much is written")?;
    Ok(row.get::<_, Option<f64>>(0).unwrap_or(0.0))
}
