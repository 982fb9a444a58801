//! The trail of every change: who, what, when, about what.

use crate::schema;
use berth_domain::OperationId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One change. Entries are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    pub id: u64,
    #[schema(schema_with = schema::time)]
    pub at: Timestamp,
    /// The key's name, or `berth` where nobody asked.
    pub actor: String,
    /// `tenant.create`, `key.revoke`, …
    pub action: String,
    /// What was changed: `tenant acme`.
    pub subject: String,
    /// What else there is to know; never a secret.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    pub request_id: Option<String>,
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
}
