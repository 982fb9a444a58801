//! Keys that the tenant's rows have here and others' rows have there: two databases that count count alike.
//!
//! Only looked for where others live in the target, and only in keys without the tenant column: all others are the
//! tenant's own, and uuids do not meet.

use crate::sql::{Doing, ident};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, PlannedTable, Side};
use tokio_postgres::Client;

/// Keys that are asked for at once.
const AT_ONCE: i64 = 50_000;

pub(crate) async fn keys(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    for table in &plan.tables {
        if let Some(column) = counted(table).filter(|_| !spec.alone && table.rows > 0) {
            let (rows, first) = taken(spec, plan, table, &ident(column), source, target).await?;
            if let Some(first_key) = first {
                obstacles.push(Obstacle::KeyTaken { table: table.table.clone(), rows, first_key });
            }
        }
    }
    Ok(())
}

/// The one column of its key, if that is a number.
fn counted(table: &PlannedTable) -> Option<&str> {
    let [key] = &table.key[..] else { return None };
    let column = table.columns.iter().find(|column| column.name == *key)?;
    let number = ["smallint", "integer", "bigint"].contains(&column.type_name.as_str());
    (number && table.tenant_column.as_deref() != Some(key)).then_some(key)
}

/// How many are, and the least of them.
async fn taken(
    spec: &MoveSpec,
    plan: &MovePlan,
    table: &PlannedTable,
    key: &str,
    source: &Client,
    target: &Client,
) -> Result<(i64, Option<String>), MoveError> {
    let (name, doing) = (table.table.sql(), "looking for keys that are taken");
    let range = format!("select min({key})::int8, max({key})::int8 from {name}");
    let range = target.query_one(&range, &[]).await.doing(Side::Target, doing)?;
    // Mostly the tenant's numbers and theirs do not overlap, or nobody has any there.
    let (Some(least), Some(most)) = (range.get::<_, Option<i64>>(0), range.get::<_, Option<i64>>(1)) else {
        return Ok((0, None));
    };
    let ours = format!(
        "select {key}::int8 from {name} where ({}) and {key} >= $1::int8 and {key} <= $2::int8 order by 1 limit {AT_ONCE}",
        plan.filter(table, &spec.tenant)
    );
    let theirs = format!("select count(*), min({key})::text from {name} where {key} = any ($1::int8[])");
    let (mut from, mut rows, mut first) = (least, 0, None);
    loop {
        let keys = source.query(&ours, &[&from, &most]).await.doing(Side::Source, doing)?;
        let keys: Vec<i64> = keys.iter().map(|row| row.get(0)).collect();
        let found = target.query_one(&theirs, &[&keys]).await.doing(Side::Target, doing)?;
        rows += found.get::<_, i64>(0);
        first = first.or(found.get(1));
        match keys.last() {
            Some(last) if keys.len() as i64 == AT_ONCE && *last < most => from = last + 1,
            _ => return Ok((rows, first)),
        }
    }
}
