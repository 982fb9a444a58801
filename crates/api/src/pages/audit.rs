//! `/audit`: who changed what, and when.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::Session,
    shown::{Frame, When, words},
};
use askama::Template;
use axum::{extract::Query, response::Response};
use berth_wire::AuditEntry;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

const SHOWN: usize = 200;

#[derive(Template)]
#[template(path = "pages/audit.html")]
struct AuditPage {
    frame: Frame,
    tenant: String,
    rows: Vec<AuditRow>,
    shown: usize,
}

pub struct AuditRow {
    pub at: When,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
    pub operation: Option<String>,
}

impl AuditRow {
    pub fn new(entry: &AuditEntry, now: Timestamp) -> Self {
        Self {
            at: When::new(entry.at, now),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            detail: detail(&entry.detail),
            operation: entry.operation.map(|id| id.to_string()),
        }
    }
}

/// What changed, in a line: `plan hobby → starter, hosts acme.example`. Details are `{"before": …, "after": …}`, either of
/// which may be absent; anything else is shown as it is.
fn detail(value: &Value) -> String {
    let (before, after) = match value {
        Value::Object(map) if map.keys().all(|key| key == "before" || key == "after") => {
            (&value["before"], &value["after"])
        }
        other => (&Value::Null, other),
    };
    let (Some(before), Some(after)) = (fields(before), fields(after)) else { return plain(after) };
    let mut parts = Vec::new();
    // The operation has a link of its own.
    for (name, now) in after.iter().filter(|(name, _)| *name != "operation") {
        match before.get(name) {
            Some(old) if old == now => {}
            Some(old) => parts.push(format!("{} {} → {}", words(name), plain(old), plain(now))),
            None if now.is_null() => {}
            None => parts.push(format!("{} {}", words(name), plain(now))),
        }
    }
    let gone = before.iter().filter(|(name, old)| !after.contains_key(*name) && !old.is_null());
    parts.extend(gone.map(|(name, old)| format!("{} was {}", words(name), plain(old))));
    parts.join(", ")
}

fn fields(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Null => Some(Map::new()),
        Value::Object(map) => Some(map.clone()),
        _ => None,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            let said = map.iter().filter(|(_, value)| !value.is_null());
            said.map(|(name, value)| format!("{} {}", words(name), plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    #[serde(default)]
    tenant: String,
}

pub async fn list(session: Session, Query(filter): Query<Filter>) -> Result<Response, Failure> {
    let tenant = filter.tenant.trim().to_owned();
    let path =
        if tenant.is_empty() { "/v1/audit".to_owned() } else { format!("/v1/audit?tenant={}", escaped(&tenant)) };
    let entries: Vec<AuditEntry> = session.list(&path, SHOWN).await?;
    let now = Timestamp::now();
    html(&AuditPage {
        frame: Frame::of(&session, "audit"),
        tenant,
        rows: entries.iter().map(|entry| AuditRow::new(entry, now)).collect(),
        shown: SHOWN,
    })
}

#[cfg(test)]
mod tests {
    use super::detail;
    use serde_json::json;

    #[test]
    fn a_detail_is_a_line_of_what_changed() {
        for (value, line) in [
            (json!(null), ""),
            (json!({}), ""),
            (
                json!({ "after": { "plan": "hobby", "hosts": ["a.test", "b.test"], "key": null, "operation": "x" } }),
                "hosts a.test b.test, plan hobby",
            ),
            (
                json!({ "before": { "plan": "hobby", "cell": "a" }, "after": { "plan": "starter", "cell": "a" } }),
                "plan hobby → starter",
            ),
            (json!({ "before": { "name": "ci" } }), "name was ci"),
            (json!({ "before": null, "after": { "max_tenants": 12 } }), "max tenants 12"),
            (json!({ "from": "a", "to": "b" }), "from a, to b"),
            (json!("free text"), "free text"),
        ] {
            assert_eq!(detail(&value), line, "{value}");
        }
    }
}
