//! The fence of tables without a tenant column: a trigger that looks at all rows of a statement at once.
//!
//! There is nothing for a `WHEN`, so each statement of every tenant asks whose its rows are. Row by row that would
//! cost a neighbour's `COPY` three times as much (the design's measurement: 868 ms against 286, without 61).
//!
//! The function looks with the rights of `berth_fence`, who may read the parents and passes row security: a policy
//! that hid a row would let its writer through.

use crate::fence::Fence;
use crate::sql::{Doing, ident, idents, literal};
use crate::{MoveError, MovePlan, PlannedTable, TableName};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// Serialises grants: two at once on one table fail in Postgres.
const GRANT_LOCK: i64 = 0x4245_5254_4802;

/// The trigger function of one tenant's fence on one table, quoted.
pub(crate) fn function(number: i32, table: &TableName) -> String {
    // A name of its own within 63 bytes, whatever the table's is.
    format!("berth.{}", ident(&format!("rows_{number}_{:016x}", crate::hash::text(table.sql().as_bytes(), 0))))
}

/// Makes the function, and lets it read what it has to. Takes no lock on the table.
pub(crate) async fn ensure_function(
    fence: &Fence,
    client: &Client,
    plan: &MovePlan,
    table: &PlannedTable,
) -> Result<(), MoveError> {
    let what = "making the fence's functions";
    let mut parents = BTreeSet::new();
    let mut open = vec![table];
    while let Some(next) = open.pop() {
        for parent in next.through.iter().filter_map(|link| plan.table(&link.to)) {
            if parents.insert(&parent.table) {
                open.push(parent);
            }
        }
    }
    let row = client.query_one("select quote_literal(session_user)", &[]).await.doing(fence.side, what)?;
    let mover: String = row.get(0);
    let mut sql = format!("begin; select pg_advisory_xact_lock({GRANT_LOCK});");
    for parent in parents {
        let may: bool = client
            .query_one(
                "select has_table_privilege('berth_fence', $1, 'select') and has_schema_privilege('berth_fence', $2, 'usage')",
                &[&parent.sql(), &parent.schema],
            )
            .await
            .doing(fence.side, what)?
            .get(0);
        if !may {
            let schema = idents(&[&parent.schema]);
            sql.extend([format!(
                "grant usage on schema {schema} to berth_fence; grant select on {} to berth_fence;",
                parent.sql()
            )]);
        }
    }
    let ours = plan.filter(table, &fence.tenant);
    // What is written may name a row that an old snapshot does not show; what goes was the tenant's by one that it does.
    let written = plan.filter_widely(table, &fence.tenant);
    let name = function(fence.number, &table.table);
    let body = format!(
        "begin
             if session_user = {mover} then
                 return null;
             end if;
             if tg_op = 'INSERT' then
                 if not exists (select from new_rows where {written}) then return null; end if;
             elsif tg_op = 'DELETE' then
                 if not exists (select from old_rows where {ours}) then return null; end if;
             elsif not exists (select from old_rows where {ours}) and not exists (select from new_rows where {written}) then
                 return null;
             end if;
             perform berth.pass({}, {}, {});
             return null;
         end",
        fence.number,
        fence.sequence_oid,
        literal(fence.tenant.as_str())
    );
    sql.extend([format!(
        "create or replace function {name}() returns trigger language plpgsql volatile security definer
             set search_path = pg_catalog set row_security = off as {};
         alter function {name}() owner to berth_fence; revoke all on function {name}() from public; commit",
        literal(&body)
    )]);
    if let Err(source) = client.batch_execute(&sql).await {
        let _rolled_back = client.batch_execute("rollback").await;
        return Err(MoveError::Statement { side: fence.side, doing: what, source });
    }
    Ok(())
}

/// Their triggers are gone already.
pub(crate) async fn remove_functions(fence: &Fence, tx: &tokio_postgres::Transaction<'_>) -> Result<(), MoveError> {
    let what = "removing the fence's functions";
    let found = tx
        .query(
            "select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
             where n.nspname = 'berth' and p.proname like $1",
            &[&format!("rows\\_{}\\_%", fence.number)],
        )
        .await
        .doing(fence.side, what)?;
    for row in found {
        tx.batch_execute(&format!("drop function {}", row.get::<_, String>(0))).await.doing(fence.side, what)?;
    }
    Ok(())
}
