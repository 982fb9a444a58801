//! What `berth check` finds, asked of a server.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckAsk {
    /// The files, looked at together; none: the stack file in force.
    #[serde(default)]
    #[schema(required = false, max_items = 200)]
    pub files: Vec<CheckFile>,
    /// These rules alone.
    #[serde(default)]
    #[schema(required = false, max_items = 200)]
    pub only: Vec<String>,
}

/// One file. Its name says what it is: `berth.yaml`, `.env`, `docker-compose.yml`, `nginx.conf`, `fly.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckFile {
    #[schema(min_length = 1, max_length = 300)]
    pub path: String,
    pub text: String,
}

/// All that was found, by file and line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    pub files: Vec<CheckLooked>,
    pub findings: Vec<CheckFinding>,
    pub silenced: Vec<CheckSilenced>,
    /// What the stack file states and Berth does not carry out, a sentence for each section.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stated: Vec<String>,
}

/// A file and what it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckLooked {
    pub path: String,
    pub kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckFinding {
    pub rule: String,
    /// `error` or `warning`.
    pub severity: String,
    pub file: String,
    /// Counted from 1.
    #[serde(default)]
    pub line: Option<u64>,
    /// `services.db.ports`; empty where the format has no keys.
    #[serde(default)]
    pub key: String,
    pub message: String,
    pub remedy: String,
}

/// A finding that the stack file lets stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckSilenced {
    #[serde(flatten)]
    pub finding: CheckFinding,
    pub reason: String,
}
