//! Keys of the tenant that rows of others in the target have already: numbers from a sequence, addresses that are
//! unique in the whole table. Looked for before anything is touched.
//!
//! Keys with a uuid or with the tenant in them cannot collide and are not looked at. What only a type's own notion of
//! equality would call equal is compared by that: the target's index decides.

use crate::sql::Doing;
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, PlannedTable, Side};
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::Client;

/// A unique index that might refuse the tenant's rows.
struct Unique {
    /// Its columns or expressions.
    keys: Vec<String>,
    /// Only rows that satisfy this are in it.
    only: Option<String>,
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
            if let (rows, Some(first_key)) = taken(spec, plan, table, &unique, source, target).await? {
                let (table, columns) = (table.table.clone(), unique.keys.join(", "));
                obstacles.push(Obstacle::KeyTaken { table, columns, rows, first_key });
            }
        }
    }
    Ok(())
}

async fn uniques(table: &PlannedTable, target: &Client) -> Result<Vec<Unique>, MoveError> {
    let rows = target
        .query(
            "select array(select pg_get_indexdef(i.indexrelid, n, true) from generate_series(1, i.indnkeyatts) n),
                    pg_get_expr(i.indpred, i.indrelid),
                    exists (select from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey)
                            and (a.atttypid = 'uuid'::regtype or a.attname::text = $2))
             from pg_index i where i.indrelid = $1::text::regclass and i.indisunique and i.indisvalid",
            &[&table.table.sql(), &table.tenant_column.as_deref().unwrap_or_default()],
        )
        .await
        .doing(Side::Target, "reading the unique indexes")?;
    let open = rows.iter().filter(|row| !row.get::<_, bool>(2));
    Ok(open.map(|row| Unique { keys: row.get(0), only: row.get(1) }).collect())
}

/// How many of the tenant's rows find their key in the target, and the least of them.
async fn taken(
    spec: &MoveSpec,
    plan: &MovePlan,
    table: &PlannedTable,
    unique: &Unique,
    source: &Client,
    target: &mut Client,
) -> Result<(i64, Option<String>), MoveError> {
    let stopped = |source| MoveError::Copy { table: table.table.clone(), source };
    let what = "looking for keys that are taken";
    let name = table.table.sql();
    let keys = unique.keys.join(", ");
    let only = unique.only.as_ref().map(|only| format!(" and ({only})")).unwrap_or_default();
    let columns: Vec<String> = (1..=unique.keys.len()).map(|n| format!("k{n}")).collect();
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
    let out =
        format!("copy (select {keys} from {name} where {}{only}) to stdout", plan.travelling(table, &spec.tenant));
    let rows = source.copy_out(&out).await.map_err(stopped)?;
    let sink = tx.copy_in::<_, Bytes>("copy pg_temp.berth_keys from stdin").await.map_err(stopped)?;
    tokio::pin!(rows, sink);
    while let Some(chunk) = rows.try_next().await.map_err(stopped)? {
        sink.feed(chunk).await.map_err(stopped)?;
    }
    sink.as_mut().finish().await.map_err(stopped)?;
    source.batch_execute("commit").await.doing(Side::Source, what)?;
    tx.batch_execute("analyze pg_temp.berth_keys").await.doing(Side::Target, what)?;
    let found = tx
        .query_one(
            &format!(
                "select count(*), (array_agg(concat_ws(', ', {columns}) order by {columns}))[1]
                 from pg_temp.berth_keys where exists (select from {name} where ({keys}) = ({columns}){only})"
            ),
            &[],
        )
        .await
        .doing(Side::Target, what)?;
    tx.rollback().await.doing(Side::Target, what)?;
    Ok((found.get(0), found.get(1)))
}
