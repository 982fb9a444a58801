//! The trail of every change, and how use cases write it: in the transaction that makes the change.

use crate::{App, ControlError, Permit, Read};
use berth_store::{NewAudit, Tx};
use berth_wire as wire;
use serde_json::{Value, json};

/// Newest first. `tenant`: only what was done to this one.
pub async fn list(
    app: &App,
    _permit: &Permit<Read>,
    tenant: Option<&str>,
    after: Option<u64>,
    limit: u32,
) -> Result<wire::Page<wire::AuditEntry>, ControlError> {
    let limit = i64::from(limit.clamp(1, 1000));
    let target = tenant.map(|name| format!("tenant/{name}"));
    let before = after.map(|id| i64::try_from(id).unwrap_or(i64::MAX));
    let mut found = app.store().audit_list(before, target.as_deref(), limit + 1).await?;
    let more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|last| last.id.to_string());
    let items = found
        .into_iter()
        .map(|entry| {
            let after = entry.after.unwrap_or(Value::Null);
            let operation = after.get("operation").and_then(Value::as_str).and_then(|id| id.parse().ok());
            wire::AuditEntry {
                id: u64::try_from(entry.id).unwrap_or(0),
                at: entry.at,
                actor: entry.caller,
                action: entry.action,
                subject: entry.target.replacen('/', " ", 1),
                detail: json!({ "before": entry.before, "after": after }),
                request_id: entry.request_id,
                operation,
            }
        })
        .collect();
    Ok(wire::Page { items, next })
}

/// `before` and `after` are summaries, without secrets.
pub(crate) async fn audited<A>(
    tx: &mut Tx,
    permit: &Permit<A>,
    action: &str,
    target: &str,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<(), ControlError> {
    let caller = permit.caller();
    let entry =
        NewAudit { caller: &caller.name, request_id: caller.request_id.as_deref(), action, target, before, after };
    Ok(tx.audit_insert(&entry).await?)
}
