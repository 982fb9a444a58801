//! The audit trail: every change, by whom, from what to what. Written in the transaction that makes the change.

use crate::{Store, StoreError, Tx, moment::Moment};
use jiff::Timestamp;
use serde_json::Value;

#[derive(Clone, Debug)]
pub struct NewAudit<'a> {
    pub caller: &'a str,
    pub request_id: Option<&'a str>,
    /// `tenant.create`, `key.revoke`, …
    pub action: &'a str,
    /// `tenant/acme`, `cell/fra-1`, …
    pub target: &'a str,
    /// Summaries, without secrets.
    pub before: Option<Value>,
    pub after: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub id: i64,
    pub at: Timestamp,
    pub caller: String,
    pub request_id: Option<String>,
    pub action: String,
    pub target: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Store {
    /// Newest first: those older than `before`, of one target or of all.
    pub async fn audit_list(
        &self,
        before: Option<i64>,
        target: Option<&str>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, at AS "at: Moment", caller, request_id, action, target, before, after FROM audit
               WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR target = $2)
               ORDER BY id DESC LIMIT $3"#,
            before,
            target,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| AuditEntry {
                id: r.id,
                at: r.at.0,
                caller: r.caller,
                request_id: r.request_id,
                action: r.action,
                target: r.target,
                before: r.before,
                after: r.after,
            })
            .collect())
    }
}

impl Tx {
    pub async fn audit_insert(&mut self, new: &NewAudit<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO audit (caller, request_id, action, target, before, after) VALUES ($1, $2, $3, $4, $5, $6)",
            new.caller,
            new.request_id,
            new.action,
            new.target,
            new.before,
            new.after
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
