//! The fence of tables without a tenant column: a trigger that looks at all rows of a statement at once.
//!
//! There is nothing for a `WHEN`, so each statement of every tenant asks whose its rows are. Row by row that would
//! cost a neighbour's `COPY` three times as much (the design's measurement: 868 ms against 286, without 61).
//!
//! The function looks with the rights of the fence's keeper, who may read the parents and passes row security: a policy
//! that hid a row would let its writer through. That is `berth_fence`, as whom nobody logs in; where the mover is no
//! superuser it is the mover's role, which may make no such role. It is given what it reads by name: a membership that
//! is taken away from it must not fail every writer.

use crate::fence::Fence;
use crate::sql::{Doing, ident, literal};
use crate::{MoveError, MovePlan, Obstacle, PlannedTable, Side, TableName};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// Serialises grants: two at once on one table fail in Postgres.
const GRANT_LOCK: i64 = 0x4245_5254_4802;

/// Who owns what the fence is made of, quoted: as it was installed, or as it is to be. The role is made where it is needed.
pub(crate) async fn ensure_keeper(tx: &tokio_postgres::Transaction<'_>, side: Side) -> Result<String, MoveError> {
    let what = "making the fence's role";
    let row = tx
        .query_one(
            "select (select pg_get_userbyid(p.proowner)::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                     where n.nspname = 'berth' and p.proname = 'fence'), rolname::text, rolsuper
             from pg_roles where rolname = session_user",
            &[],
        )
        .await
        .doing(side, what)?;
    let (keeper, role, is_superuser): (Option<String>, String, bool) = (row.get(0), row.get(1), row.get(2));
    let keeper = keeper.unwrap_or_else(|| if is_superuser { "berth_fence".to_owned() } else { role });
    if is_superuser && keeper == "berth_fence" {
        // Roles belong to the whole server: another database of it may have made this one at the same moment.
        tx.batch_execute(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = 'berth_fence') then create role berth_fence nologin bypassrls;
                 elsif not (select rolbypassrls from pg_roles where rolname = 'berth_fence') then alter role berth_fence bypassrls; end if;
             exception when duplicate_object or unique_violation then null; end $$",
        )
        .await
        .doing(side, what)?;
    }
    Ok(ident(&keeper))
}

/// Who owns the fence that is installed, quoted where that is needed.
pub(crate) async fn keeper(client: &impl tokio_postgres::GenericClient, side: Side) -> Result<String, MoveError> {
    let sql = "select quote_ident(pg_get_userbyid(proowner)) from pg_proc where oid = to_regprocedure('berth.fence()')";
    Ok(client.query_one(sql, &[]).await.doing(side, "looking at the fence's role")?.get(0))
}

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
    let keeper = keeper(client, fence.side).await?;
    let granted = begin_with_grants(fence, client, &parents, &keeper).await;
    if granted.is_err() {
        // The connection may be gone; then there is nothing to roll back either.
        let _rolled_back = client.batch_execute("rollback").await;
    }
    granted?;
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
    let sql = format!(
        "create or replace function {name}() returns trigger language plpgsql volatile security definer
             set search_path = pg_catalog set row_security = off as {};
         alter function {name}() owner to {keeper}; revoke all on function {name}() from public; commit",
        literal(&body)
    );
    if let Err(source) = client.batch_execute(&sql).await {
        let _rolled_back = client.batch_execute("rollback").await;
        return Err(MoveError::Statement { side: fence.side, doing: what, source });
    }
    Ok(())
}

/// Whether the fence lets another login through than this one, as SQL. Its functions say that: the schema's comment may have been
/// changed since, or be lost with a dump.
pub(crate) const IS_ANOTHERS: &str =
    "(coalesce(obj_description(to_regnamespace('berth'), 'pg_namespace') <> session_user, false)
    or exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
               where n.nspname = 'berth' and (p.proname = 'fence' or p.proname like 'rows\\_%')
                 and strpos(p.prosrc, 'session_user operator(pg_catalog.=) ' || quote_literal(session_user)) = 0
                 and strpos(p.prosrc, 'session_user = ' || quote_literal(session_user)) = 0))";

/// Lets this login through in the place of the one that the functions name. They stay their owner's, who may read what they read.
pub(crate) async fn let_through(tx: &tokio_postgres::Transaction<'_>, side: Side) -> Result<(), MoveError> {
    let what = "letting another login through the fence";
    let rows = tx
        .query(
            "select pg_get_functiondef(p.oid), quote_literal(session_user)
             from pg_proc p join pg_namespace n on n.oid = p.pronamespace
             where n.nspname = 'berth' and p.proname like 'rows\\_%'",
            &[],
        )
        .await
        .doing(side, what)?;
    let all: Vec<String> = rows.iter().filter_map(|row| naming(row.get(0), row.get(1))).collect();
    tx.batch_execute(&all.join(";\n")).await.doing(side, what)
}

/// A function's definition with this login, a quoted literal, for the one that it lets through; none where that is it already.
fn naming(definition: &str, login: &str) -> Option<String> {
    const BEFORE: &str = "session_user = ";
    let (before, literal) = definition.split_at(definition.find(BEFORE)? + BEFORE.len());
    // One with a backslash begins with an E.
    let mut end = literal.find('\'').filter(|begins| *begins <= 1)? + 1;
    loop {
        end += literal[end..].find('\'')? + 1;
        if !literal[end..].starts_with('\'') {
            break;
        }
        end += 1;
    }
    (literal[..end] != *login).then(|| format!("{before}{login}{}", &literal[end..]))
}

/// Begins a transaction that lets the fence's keeper read these tables by grants of its own, and looks whether it may.
async fn begin_with_grants(
    fence: &Fence,
    client: &Client,
    tables: &BTreeSet<&TableName>,
    keeper: &str,
) -> Result<(), MoveError> {
    let what = "letting the fence read";
    let begin = format!("begin; select pg_advisory_xact_lock({GRANT_LOCK})");
    client.batch_execute(&begin).await.doing(fence.side, what)?;
    let has = "with k as (select proowner as oid from pg_proc where oid = to_regprocedure('berth.fence()'))
        select c.relowner = k.oid or exists (select from aclexplode(c.relacl) a where a.grantee in (k.oid, 0::oid) and a.privilege_type = 'SELECT'),
               n.nspowner = k.oid or exists (select from aclexplode(n.nspacl) a where a.grantee in (k.oid, 0::oid) and a.privilege_type = 'USAGE'),
               has_table_privilege(k.oid, c.oid, 'select') and has_schema_privilege(k.oid, n.oid, 'usage'),
               not c.relrowsecurity or (pg_has_role(k.oid, c.relowner, 'usage') and not c.relforcerowsecurity)
                   or exists (select from pg_roles r where r.oid = k.oid and (r.rolsuper or r.rolbypassrls))
        from k, pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2";
    for table in tables {
        let before = client.query_one(has, &[&table.schema, &table.name]).await.doing(fence.side, what)?;
        let (name, schema) = (table.sql(), ident(&table.schema));
        let mut sql = String::new();
        if !before.get::<_, bool>(1) {
            sql.extend([format!("grant usage on schema {schema} to {keeper};")]);
        }
        if !before.get::<_, bool>(0) {
            sql.extend([format!("grant select on {name} to {keeper};")]);
        }
        client.batch_execute(&sql).await.doing(fence.side, what)?;
        // What a server does not let one grant it may only warn of.
        let now = client.query_one(has, &[&table.schema, &table.name]).await.doing(fence.side, what)?;
        if !now.get::<_, bool>(2) {
            return Err(MoveError::Obstacles(vec![Obstacle::Grant {
                side: fence.side,
                role: keeper.to_owned(),
                right: format!("SELECT on `{table}`, by which the fence knows whose a row is"),
                statement: format!("GRANT USAGE ON SCHEMA {schema} TO {keeper}; GRANT SELECT ON {name} TO {keeper}"),
            }]));
        }
        if !now.get::<_, bool>(3) {
            return Err(MoveError::Obstacles(vec![Obstacle::Grant {
                side: fence.side,
                role: keeper.to_owned(),
                right: format!("BYPASSRLS: the fence reads `{table}`, which has policies"),
                statement: format!("ALTER ROLE {keeper} BYPASSRLS"),
            }]));
        }
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

#[cfg(test)]
mod tests {
    use super::naming;

    #[test]
    fn whichever_login_a_function_lets_through_gives_way() {
        let body = |login: &str| format!("begin if session_user = {login} then return null; end if; perform 'x'; end");
        for former in ["'ann'", "'it''s'", "E'a\\\\b'", "'''quoted'''"] {
            assert_eq!(naming(&body(former), "'bea'"), Some(body("'bea'")), "{former}");
        }
        assert_eq!(naming(&body("'bea'"), "'bea'"), None);
        assert_eq!(naming("begin return null; end", "'bea'"), None);
    }
}
