//! `/audit`: who changed what, and when.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::Session,
    shown::{Frame, When},
};
use askama::Template;
use axum::{extract::Query, response::Response};
use berth_wire::AuditEntry;
use jiff::Timestamp;
use serde::Deserialize;

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

/// `plan hobby, cell shared-1`.
fn detail(value: &serde_json::Value) -> String {
    let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::Object(map) => {
            let parts: Vec<String> = map
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{} {}", super::shown::words(name), plain(value)))
                .collect();
            parts.join(", ")
        }
        other => plain(other),
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
