//! Where tenants belong: profiles, decisions, fleet plans.

use crate::schema;
use berth_domain::{CellClass, Cents, Mode, OperationId, TenantName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a tenant needs. What is absent is not required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// What the customer pays at most, a month. Reported, never weighed against a requirement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_cents: Option<u64>,
    /// What the plans limit: `vehicles`, `users`, …
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quantities: BTreeMap<String, u64>,
    /// Locations of the catalogue, or countries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compliance: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_percent_per_month: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forecast_error_percent: BTreeMap<String, u32>,
    /// The cell that it lives in; filled in for a tenant that there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
}

/// `POST /v1/decisions`. With a tenant, what is absent in the profile is taken from the one it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionAsk {
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub tenant: Option<TenantName>,
    #[serde(default)]
    pub profile: Option<Profile>,
}

/// Where a tenant belongs. Without a class nothing fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    pub tenant: String,
    #[schema(schema_with = schema::mode_or_none)]
    pub mode: Option<Mode>,
    #[schema(schema_with = schema::cell_class_or_none)]
    pub class: Option<CellClass>,
    pub provider: Option<String>,
    /// The home of the Postgres first.
    pub regions: Vec<String>,
    pub plan: Option<String>,
    /// Absent: a new cell, see the reasons.
    pub cell: Option<String>,
    #[schema(schema_with = schema::cents_or_none)]
    pub monthly_cost_cents: Option<Cents>,
    pub currency: String,
    #[schema(schema_with = schema::cents_or_none)]
    pub margin_cents: Option<Cents>,
    /// The share of 200 neighbours of the profile that get the same answer.
    pub confidence: f64,
    pub reasons: Vec<String>,
    pub refused: Vec<Refusal>,
    pub flip: Option<Flip>,
    /// Other plans that would hold it, the cheapest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub alternatives: Vec<Alternative>,
}

/// Another plan that keeps every constraint, with its best place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alternative {
    #[schema(schema_with = schema::mode)]
    pub mode: Mode,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    pub plan: String,
    pub provider: String,
    pub regions: Vec<String>,
    /// Absent: a new cell.
    pub cell: Option<String>,
    /// Of the plan, a month.
    #[schema(schema_with = schema::cents)]
    pub price_cents: Cents,
    #[schema(schema_with = schema::cents_or_none)]
    pub monthly_cost_cents: Option<Cents>,
    /// What the tenant would cost more than with the answer.
    #[schema(schema_with = schema::cents_or_none)]
    pub cost_change_cents: Option<Cents>,
    pub reason: String,
}

/// A place that breaks a constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    pub constraint: String,
    pub wanted: String,
    pub has: String,
}

/// The smallest change of one field that changes the answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Flip {
    pub field: String,
    pub from: Value,
    pub to: Value,
    pub then: String,
}

/// `GET /v1/fleet/plan`: all tenants to cells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetPlan {
    /// Each leaves the fleet better than it was.
    pub steps: Vec<FleetStep>,
    #[schema(schema_with = schema::cents)]
    pub before_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub after_cents: Cents,
    /// Nothing that keeps every constraint costs less.
    #[schema(schema_with = schema::cents)]
    pub bound_cents: Cents,
    pub gap_percent: f64,
    pub moves: u64,
    pub cells_before: u64,
    pub cells_after: u64,
    /// Tenants whose place breaks a constraint.
    pub wrong_before: u64,
    pub wrong_after: u64,
    /// Those for whom nothing is right, the first few.
    pub nowhere: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetStep {
    /// `constraint`, `empty` or `replace`.
    pub why: String,
    pub opens: Vec<FleetOpened>,
    pub moves: Vec<FleetMove>,
    pub closes: Vec<String>,
    #[schema(schema_with = schema::cents)]
    pub saves_cents: Cents,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetOpened {
    pub cell: String,
    pub offer: String,
    #[schema(schema_with = schema::cents)]
    pub price_cents: Cents,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetMove {
    pub tenant: String,
    pub from: Option<String>,
    pub to: String,
}

/// `POST /v1/fleet/apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetApply {
    /// How many moves to start at most; 4 otherwise.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub moves: Option<u32>,
    /// Make the cells that the plan needs, and remove those that it has emptied; otherwise that is a person's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub cells: bool,
    /// Only who lives in these cells is moved, and only these go; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub only: Vec<String>,
}

/// What was begun. The rest of the plan is made anew the next time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetApplied {
    pub started: Vec<FleetStarted>,
    /// Cells that the plan needs and that are not made yet: a person has to, or what stands in `cells`.
    pub needs: Vec<FleetOpened>,
    /// Cells that are empty and can be removed.
    pub removable: Vec<String>,
    /// Cells that are being made and removed, where that was asked for.
    #[serde(default)]
    pub cells: Vec<FleetCell>,
    /// Moves of the plan that were not started now.
    pub left: u64,
}

/// A cell that an applied plan makes or removes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetCell {
    pub cell: String,
    /// It is removed, else made.
    pub removed: bool,
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
    /// Why it could not be.
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetStarted {
    pub tenant: String,
    pub to: String,
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
    /// Why it could not be started.
    pub trouble: Option<String>,
}

/// `POST /v1/fleet/simulate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetSimulate {
    #[schema(minimum = 0, maximum = 100)]
    pub growth_percent: u32,
    #[schema(minimum = 1, maximum = 60)]
    pub months: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FleetMonth {
    pub month: u32,
    pub tenants: u64,
    pub cells: u64,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
    pub moves: u64,
    pub nowhere: u64,
    pub gap_percent: f64,
}
