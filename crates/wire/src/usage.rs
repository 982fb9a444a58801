//! What tenants use, what is left of their quotas, and proposals that wait for a person.

use crate::{Decision, MoveLeft, schema};
use berth_domain::{
    ApprovalId, ApprovalState, CellClass, Cents, OperationId, PlanLimits, PlanName, TenantName, UsagePeriod,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One measured amount, of `POST /v1/usage`. Under an equal key it counts once, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageEvent {
    /// Equal on every retry. Another tenant's equal key is another key.
    #[schema(min_length = 1, max_length = 200)]
    pub key: String,
    /// A name, an id, or `key:` and the tenant's key in the application's root table.
    pub tenant: String,
    /// As limits are named: a limit `gps_points_per_day` is compared with the metric `gps_points`.
    #[schema(min_length = 1, max_length = 40)]
    pub metric: String,
    pub amount: u64,
    /// A metric has one unit: the one that it was first reported in.
    #[serde(default)]
    #[schema(required = false)]
    pub unit: Option<String>,
    /// When it was used; absent: now. Not older than 35 days.
    #[serde(default)]
    #[schema(schema_with = schema::time_or_none, required = false)]
    pub at: Option<Timestamp>,
}

/// What became of events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageCounted {
    /// Counted now.
    pub counted: u64,
    /// Counted before under the same key.
    pub known: u64,
    /// Keys of those whose content differs from what was counted: it stays as it was counted first.
    pub differing: Vec<String>,
}

/// What one metric of a tenant came to in one period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    pub metric: String,
    /// Empty: never said.
    pub unit: String,
    #[schema(schema_with = schema::usage_period)]
    pub period: UsagePeriod,
    /// In UTC.
    #[schema(schema_with = schema::time)]
    pub starts_at: Timestamp,
    /// Of what flows, such as GPS points.
    pub total: u64,
    /// Of a level, such as vehicles: the greatest and the last reported.
    pub greatest: u64,
    pub latest: u64,
    pub events: u64,
}

/// A quantity of the plan, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    pub quantity: String,
    pub metric: String,
    pub limit: u64,
    /// Absent: nothing was ever reported of it.
    pub used: Option<u64>,
    pub left: Option<u64>,
    /// When what is used begins at 0 again; absent for a level.
    #[schema(schema_with = schema::time_or_none)]
    pub resets_at: Option<Timestamp>,
}

/// `GET /v1/tenants/{tenant}/usage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantUsage {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    pub quotas: Vec<QuotaOutlook>,
    /// Oldest first by metric.
    pub usage: Vec<Usage>,
    /// What is wrong with how it is served where it is.
    pub issues: Vec<String>,
    /// What the last judgement came to; absent: nobody has judged yet.
    pub says: Option<String>,
    #[schema(schema_with = schema::time_or_none)]
    pub judged_at: Option<Timestamp>,
}

/// A quota and where it is going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuotaOutlook {
    #[serde(flatten)]
    pub quota: Quota,
    /// `calm`, `over` or `under`, as the last judgement had it.
    pub signal: String,
    /// Absent: fewer than seven days are known.
    pub forecast: Option<UsageForecast>,
}

/// A robust line through the days there are, with its 95 % prediction interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageForecast {
    pub days_known: u64,
    pub per_day: f64,
    /// Of the amount in 30 days: how wrong it may be.
    pub error_percent: u32,
    /// In how many days the limit is passed; absent: not within two years.
    pub over_in_days: Option<u32>,
    pub over_earliest_days: Option<u32>,
    pub over_latest_days: Option<u32>,
}

/// `GET /v1/tenants/{tenant}/entitlements`: what the application lets the tenant have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Entitlements {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    #[schema(value_type = Object)]
    pub limits: PlanLimits,
    /// Each of the limit's quantities with what is used and left.
    pub quotas: Vec<Quota>,
}

/// `POST /v1/tenants/{tenant}/plan-purge`: what is older than the plan keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PurgePlan {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    /// Tables with a history. None: the plan or the stack file keeps everything.
    pub tables: Vec<MoveLeft>,
    /// It is archived before it goes.
    pub archived: bool,
}

/// Where a tenant is, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalPlace {
    pub plan: String,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    /// Absent: a new one.
    pub cell: Option<String>,
    /// Of the plan, a month.
    #[schema(schema_with = schema::cents)]
    pub price_cents: Cents,
}

/// A proposal to put a tenant elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    #[schema(schema_with = schema::id)]
    pub id: ApprovalId,
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::approval_state)]
    pub state: ApprovalState,
    /// `upgrade`, `downgrade` or `across`.
    pub direction: String,
    pub now: ApprovalPlace,
    pub then: ApprovalPlace,
    pub because: Vec<String>,
    pub decision: Decision,
    /// Nobody was asked: the stack file's rule agreed.
    pub unattended: bool,
    #[schema(schema_with = schema::time)]
    pub made_at: Timestamp,
    #[schema(schema_with = schema::time)]
    pub expires_at: Timestamp,
    #[schema(schema_with = schema::time_or_none)]
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<String>,
    /// Why it was rejected, or failed.
    pub reason: Option<String>,
    /// The move that carries it out.
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
}

/// `POST /v1/approvals/{approval}/reject`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalReject {
    #[serde(default)]
    #[schema(required = false)]
    pub reason: Option<String>,
}
