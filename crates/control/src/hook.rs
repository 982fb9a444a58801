//! Calls to the application when a tenant's life changes: SQL in the tenant's cell, or an HTTP request.
//!
//! A hook may be run twice, since an answer can be lost: it has to bear that, as the shipped ones do. SQL hooks run as
//! the schema's owner in one transaction; `:id`, `:slug` and `:plan` stand for quoted literals, so that no value can
//! end the text it stands in. They take as long as they take, but for a lock they wait as long as an HTTP hook has for
//! its answer: a migration that holds one is not to hold up the operations of other tenants too.

use crate::{
    App, ControlError,
    cell_access::{self, connect},
    hook_call::{self, Called},
};
use berth_config::Hook;
use berth_domain::{OperationId, PlanName, TenantKey, TenantName};
use berth_infra::Role;
use berth_store::Cell;
use tokio_postgres::{SimpleQueryMessage, error::SqlState};

/// For one lock. A hook that wants another bound sets it itself.
const LOCK_WAIT_MS: u64 = 10_000;
/// What another transaction did that has ended by the next try.
const PASSING: [SqlState; 3] =
    [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE];

/// The tenant as its application sees it.
#[derive(Clone, Debug)]
pub(crate) struct HookTenant {
    pub key: TenantKey,
    pub name: TenantName,
    pub plan: PlanName,
}

/// Runs a hook for an operation and answers with the tenant's key, if it gave one: the first column of the last row of SQL.
pub(crate) async fn run(
    app: &App,
    cell: &Cell,
    name: &'static str,
    hook: &Hook,
    operation: OperationId,
    tenant: &HookTenant,
) -> Result<Option<String>, ControlError> {
    match hook {
        Hook::Sql(sql) => run_sql(app, cell, name, sql, tenant).await,
        Hook::Url(url) => hook_call::call(app, cell, url, &Called { hook: name, operation, tenant }).await,
    }
}

async fn run_sql(
    app: &App,
    cell: &Cell,
    name: &'static str,
    sql: &str,
    tenant: &HookTenant,
) -> Result<Option<String>, ControlError> {
    let database = app.cell_database(cell).await?;
    let client = connect(&cell.name, &database, Role::Owner).await?;
    let text = bind(sql, tenant);
    let refused = |error: tokio_postgres::Error| {
        let Some(answer) = error.as_db_error() else { return cell_access::failed(&cell.name)(error) };
        let (cell, hook, message) = (cell.name.clone(), name, answer.message().to_owned());
        if PASSING.contains(answer.code()) {
            return ControlError::HookSilent { cell, hook, message };
        }
        ControlError::Hook { cell, hook, message }
    };
    let begin = format!("BEGIN; SET LOCAL standard_conforming_strings = on; SET LOCAL lock_timeout = {LOCK_WAIT_MS}");
    client.batch_execute(&begin).await.map_err(refused)?;
    let answers = client.simple_query(&text).await.map_err(refused)?;
    client.batch_execute("COMMIT").await.map_err(refused)?;
    let last = answers.iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten().map(str::to_owned)),
        _ => None,
    });
    Ok(last.flatten())
}

/// Whether it looks for the tenant by its name.
pub(crate) fn names_the_slug(hook: &Hook) -> bool {
    match hook {
        Hook::Sql(sql) => sql.contains(":slug"),
        Hook::Url(_) => true,
    }
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Puts the values in. Text in quotes, comments and `::` casts stay as they are.
fn bind(sql: &str, tenant: &HookTenant) -> String {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest);
        if length > 0 {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        if let Some(after) = rest.strip_prefix("::") {
            out.push_str("::");
            rest = after;
            continue;
        }
        if let Some(after) = rest.strip_prefix(':') {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            let value = match &after[..end] {
                "id" => Some(literal(tenant.key.as_str())),
                "slug" => Some(literal(tenant.name.as_str())),
                "plan" => Some(literal(tenant.plan.as_str())),
                _ => None,
            };
            if let Some(value) = value {
                out.push_str(&value);
                rest = &after[end..];
                continue;
            }
        }
        out.push(first);
        rest = &rest[first.len_utf8()..];
    }
    out
}

/// Length of the quoted text or comment that `sql` begins with; 0 for anything else. What is not closed goes to the end.
fn skipped(sql: &str) -> usize {
    let until = |from: usize, end: &str| sql[from..].find(end).map_or(sql.len(), |at| from + at + end.len());
    if sql.starts_with('\'') {
        return until(1, "'");
    }
    if sql.starts_with('"') {
        return until(1, "\"");
    }
    if sql.starts_with("--") {
        return until(2, "\n");
    }
    if sql.starts_with("/*") {
        return until(2, "*/");
    }
    if let Some(after) = sql.strip_prefix('$') {
        let tag = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        if after[tag..].starts_with('$') {
            let quote = &sql[..tag + 2];
            return until(quote.len(), quote);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::{HookTenant, bind};
    use berth_domain::{PlanName, TenantKey, TenantName};

    fn tenant(key: &str) -> HookTenant {
        HookTenant {
            key: TenantKey::new(key).unwrap(),
            name: TenantName::new("acme").unwrap(),
            plan: PlanName::new("hobby").unwrap(),
        }
    }

    #[test]
    fn values_stand_where_their_names_stood_and_nowhere_else() {
        for (sql, bound) in [
            ("select :id, :slug, :plan", "select '7', 'acme', 'hobby'"),
            ("select cast(:id as text)", "select cast('7' as text)"),
            ("select :id::uuid", "select '7'::uuid"),
            ("select x::id", "select x::id"),
            ("select ':id' || :id", "select ':id' || '7'"),
            ("select \":id\"", "select \":id\""),
            ("-- :id\nselect :id", "-- :id\nselect '7'"),
            ("/* :id */ :id", "/* :id */ '7'"),
            ("$$ :id $$ :id", "$$ :id $$ '7'"),
            ("$q$ :id $$ :id $q$ :id", "$q$ :id $$ :id $q$ '7'"),
            ("select :idea, :other", "select :idea, :other"),
            ("'it''s :id' :id", "'it''s :id' '7'"),
            ("'open :id", "'open :id"),
        ] {
            assert_eq!(bind(sql, &tenant("7")), bound);
        }
    }

    #[test]
    fn no_value_ends_the_text_it_stands_in() {
        assert_eq!(bind("select :id", &tenant("'; drop table x; --")), "select '''; drop table x; --'");
        assert_eq!(bind("select :id", &tenant("\\':slug")), "select '\\'':slug'");
    }
}
