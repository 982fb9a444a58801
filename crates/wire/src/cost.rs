//! What a month cost, who bore it, and what is left.

use crate::schema;
use berth_domain::{CellClass, CellName, Cents, PlanName, ProviderName, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/costs`: one month. Amounts are cents of US dollars. What tenants bore and what stood idle add up to
/// `cost_cents`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Costs {
    /// `2026-11`
    pub month: String,
    /// Until when it is counted: its end, or now.
    #[schema(schema_with = schema::time)]
    pub until: Timestamp,
    /// It is over: nothing of it changes any more but by an imported invoice.
    pub over: bool,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
    /// Places that nobody had.
    #[schema(schema_with = schema::cents)]
    pub idle_cents: Cents,
    /// Of the costs: what belongs to no cell, and was borne by everybody.
    #[schema(schema_with = schema::cents)]
    pub common_cents: Cents,
    /// Cells that nobody knows a price of: they are in none of the sums.
    #[schema(value_type = Vec<String>)]
    pub unknown: Vec<CellName>,
    pub invoices: Vec<CostInvoice>,
    /// Dearest first.
    pub tenants: Vec<CostRow>,
    pub cells: Vec<CostCell>,
    pub providers: Vec<CostRow>,
    pub plans: Vec<CostRow>,
    pub forecast: CostForecast,
    pub budget: Option<CostBudget>,
    pub advice: Vec<CostAdvice>,
    /// What the figures rest on.
    pub assumptions: Vec<String>,
}

/// What one provider's month cost, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostInvoice {
    pub provider: String,
    /// `computed` from prices and hours, or `imported`.
    pub source: String,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    /// In its own currencies: `83.81 EUR`.
    pub amounts: Vec<String>,
    pub lines: u64,
    /// The day of the exchange rates.
    pub rates_of: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostRow {
    pub name: String,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
    /// Of a provider: what of its costs stood idle. 0 for tenants and plans, which bear what they used.
    #[schema(schema_with = schema::cents)]
    pub idle_cents: Cents,
    /// How many tenants are behind it.
    pub tenants: u64,
    /// The plan that a tenant was on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The cell that a tenant was in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub cell: Option<CellName>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostCell {
    #[schema(schema_with = schema::name)]
    pub name: CellName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    pub provider: String,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub idle_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
    /// Of its places' time, in percent.
    pub taken_percent: f64,
    pub tenants: u64,
    pub places: u64,
    /// What its tenants' shares were reckoned by: `places` or `usage`.
    pub shared_by: String,
    /// A whole month of it; absent where nobody knows.
    #[schema(schema_with = schema::cents_or_none)]
    pub month_cents: Option<Cents>,
    /// How many tenants pay for it, at what those in it pay on average, else at the cheapest plan of its class.
    pub break_even: Option<u64>,
}

/// The month's end, if everything stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostForecast {
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
}

/// In the budget's currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostBudget {
    pub currency: String,
    pub amount_cents: i64,
    pub forecast_cents: i64,
    pub left_cents: i64,
    /// `within`, `warning`, `critical` or `over`.
    pub level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostAdvice {
    pub code: String,
    /// `cell fra-1`, `tenant acme`, `fleet`
    pub about: String,
    pub says: String,
    /// A month.
    #[schema(schema_with = schema::cents_or_none)]
    pub saves_cents: Option<Cents>,
    pub command: Option<String>,
}

/// One month among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CostMonth {
    pub month: String,
    pub over: bool,
    #[schema(schema_with = schema::cents)]
    pub cost_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub revenue_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub margin_cents: Cents,
    #[schema(schema_with = schema::cents)]
    pub idle_cents: Cents,
    pub tenants: u64,
    /// Cells whose price nobody knows.
    pub unknown: u64,
}

/// `GET /v1/costs/tenants`: what one tenant uses of its plan, and what it cost and left of this month so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantFigures {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    /// Of what its plan limits, the quantity nearest to its limit; absent: its plan limits none.
    pub quantity: Option<String>,
    /// Absent: nothing was ever reported of any of them.
    pub used: Option<u64>,
    pub limit: Option<u64>,
    /// Absent: it lived in no cell this month, or in one that nobody knows a price of.
    #[schema(schema_with = schema::cents_or_none)]
    pub cost_cents: Option<Cents>,
    /// What its plan brought less that.
    #[schema(schema_with = schema::cents_or_none)]
    pub margin_cents: Option<Cents>,
}

/// `PUT /v1/costs/invoices`: what a provider billed. Takes the place of what was imported for that month before, and of
/// what Berth computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceImport {
    /// `2026-10`
    #[schema(pattern = "^[0-9]{4}-[0-9]{2}$")]
    pub month: String,
    #[schema(schema_with = schema::name)]
    pub provider: ProviderName,
    #[schema(min_items = 1, max_items = 10_000)]
    pub lines: Vec<InvoiceLine>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceLine {
    /// A cell that was there in that month; absent: it belongs to none and is borne by everybody.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub cell: Option<CellName>,
    #[schema(min_length = 1, max_length = 200)]
    pub part: String,
    /// `83.81`, with at most six decimals; negative for a credit.
    #[schema(pattern = "^-?[0-9]{1,9}(\\.[0-9]{1,6})?$")]
    pub amount: String,
    /// Of the catalogue's exchange rates, or USD.
    #[schema(pattern = "^[A-Z]{3}$")]
    pub currency: String,
}

/// What another plan would cost and bring, a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanPrice {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    pub now: PlanSide,
    pub then: PlanSide,
    /// The tenant has to move for it.
    pub moves: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanSide {
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    /// What the customer pays.
    #[schema(schema_with = schema::cents)]
    pub price_cents: Cents,
    /// Where it lives, or would.
    #[schema(schema_with = schema::name_or_none)]
    pub cell: Option<CellName>,
    /// The cell would be made for it.
    pub new_cell: bool,
    /// What its place costs: the whole of a dedicated cell, a share of any other at the planned fill.
    #[schema(schema_with = schema::cents_or_none)]
    pub cost_cents: Option<Cents>,
    #[schema(schema_with = schema::cents_or_none)]
    pub margin_cents: Option<Cents>,
}

/// `POST /v1/costs/phase`: whether it is time for the next growth phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseAsk {
    /// 1 to 5. Absent: the one that the month's cost belongs to.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 5)]
    pub phase: Option<u8>,
    /// By trigger: `cpu_percent`, `memory_percent`, `active_users`, `concurrent_jobs`, `database_gib`,
    /// `requests_per_minute`, `revenue_euro`, `p95_s`, `error_percent`. What is absent is what was measured, else unknown.
    #[serde(default)]
    pub figures: std::collections::BTreeMap<String, f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseAnswer {
    pub phase: u8,
    /// Who says that it is this one.
    #[serde(default)]
    pub phase_from: String,
    pub infrastructure: String,
    pub euro_cents: i64,
    /// Absent in the last one.
    pub next: Option<u8>,
    pub next_infrastructure: Option<String>,
    pub next_euro_cents: Option<i64>,
    pub triggers: Vec<PhaseTrigger>,
    pub held: u64,
    pub unknown: u64,
    /// Three or more hold.
    pub go: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseTrigger {
    pub trigger: String,
    pub threshold: f64,
    pub has: Option<f64>,
    pub holds: Option<bool>,
    /// Where the figure comes from.
    #[serde(default)]
    pub from: Option<String>,
}
