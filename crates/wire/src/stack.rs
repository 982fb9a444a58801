//! The stack file, as it is applied and as it stands.

use crate::schema;
use berth_domain::{CellClass, Cents, OperationId, PlanLimits, PlanName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /v1/stack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StackApply {
    /// The text of `berth.yaml`.
    pub file: String,
    /// The files that it names, by their path relative to it.
    #[serde(default)]
    #[schema(required = false)]
    pub files: BTreeMap<String, String>,
    /// Show the difference, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What applying did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StackApplied {
    /// The revision that is in force now.
    pub revision: u64,
    pub dry_run: bool,
    /// Empty: the file says what is in force already, and no revision was made.
    pub differences: Vec<Difference>,
    /// Long work that this began.
    #[schema(value_type = Vec<String>)]
    pub operations: Vec<OperationId>,
    /// What is in force or would be, and unwise all the same.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One thing that differs between two revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub kind: DifferenceKind,
    /// Where in the file: `plans.starter.price_cents`.
    pub path: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    Added,
    Changed,
    Removed,
}

/// The stack file in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stack {
    pub name: String,
    pub revision: u64,
    pub file: String,
    #[schema(schema_with = schema::time)]
    pub applied_at: Timestamp,
    pub applied_by: Option<String>,
}

/// One plan of the stack file, and how many are on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    #[schema(schema_with = schema::name)]
    pub name: PlanName,
    /// Per month.
    #[schema(schema_with = schema::cents)]
    pub price_cents: Cents,
    /// Where a tenant of this plan belongs.
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    #[schema(value_type = Object)]
    pub limits: PlanLimits,
    pub tenants: u64,
}
