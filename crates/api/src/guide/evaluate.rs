//! The WebHost guide's evaluation of a customer, under its names. Holds no rule.

use crate::{
    Api,
    auth::By,
    extract::Body,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{
    Read,
    evaluate::{self, Metrics},
};
use berth_domain::{CellName, Cents, Mode, PlanName};
use berth_wire::{Decision, Profile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The guide's question, with its names. What is left out is the customer's own where there is one, else the guide's
/// default: a budget of 50, one vehicle, 100 ms, the United States.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The tenant's name. Of one that there is, what it needs and what was measured is used.
    customer_id: String,
    /// Dollars a month.
    budget: Option<u64>,
    vehicle_count: Option<u64>,
    compliance_requirements: Option<Vec<String>>,
    /// Milliseconds.
    latency_requirement: Option<u64>,
    geographic_distribution: Option<Vec<String>>,
    /// In place of what was measured.
    usage_metrics: Option<UsageMetrics>,
}

/// The guide's metrics. `null`: nobody measured it.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct UsageMetrics {
    vehicle_count: Option<u64>,
    gps_points_today: Option<u64>,
    api_calls_today: Option<u64>,
    storage_used_mb: Option<u64>,
    peak_concurrent_users: Option<u64>,
    /// Over the last day.
    average_response_time_ms: Option<f64>,
    /// A share: 0.05 is one in twenty.
    error_rate: Option<f64>,
    /// Percent a month.
    growth_rate: Option<f64>,
    resource_utilization: ResourceUtilization,
}

/// Shares of what its cell's members are promised.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct ResourceUtilization {
    cpu: Option<f64>,
    memory: Option<f64>,
}

impl From<UsageMetrics> for Metrics {
    fn from(said: UsageMetrics) -> Self {
        Self {
            vehicles: said.vehicle_count,
            gps_points_today: said.gps_points_today,
            requests_today: said.api_calls_today,
            storage_mb: said.storage_used_mb,
            peak_users: said.peak_concurrent_users,
            response_ms: said.average_response_time_ms,
            error_share: said.error_rate,
            growth: said.growth_rate,
            cpu_share: said.resource_utilization.cpu,
            memory_share: said.resource_utilization.memory,
        }
    }
}

impl From<Metrics> for UsageMetrics {
    fn from(known: Metrics) -> Self {
        Self {
            vehicle_count: known.vehicles,
            gps_points_today: known.gps_points_today,
            api_calls_today: known.requests_today,
            storage_used_mb: known.storage_mb,
            peak_concurrent_users: known.peak_users,
            average_response_time_ms: known.response_ms,
            error_rate: known.error_share,
            growth_rate: known.growth,
            resource_utilization: ResourceUtilization { cpu: known.cpu_share, memory: known.memory_share },
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct Evaluated {
    customer_id: String,
    /// Absent of a customer that is not there yet.
    current_deployment: Option<Deployment>,
    /// Absent where nothing fits.
    recommended: Option<Recommended>,
    usage_metrics: UsageMetrics,
    /// What the guide calls a performance issue; absent where there is none.
    performance_issue: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Deployment {
    mode: Option<String>,
    infrastructure: Option<String>,
    #[schema(value_type = String)]
    plan: PlanName,
    #[schema(value_type = Option<String>)]
    cell: Option<CellName>,
}

#[derive(Serialize, ToSchema)]
struct Recommended {
    mode: String,
    infrastructure: String,
    plan: String,
    /// Dollars a month that the place costs; absent where no price is known.
    estimated_cost: Option<f64>,
    reason: String,
    confidence: f64,
    alternatives: Vec<Alternative>,
}

#[derive(Serialize, ToSchema)]
struct Alternative {
    mode: String,
    plan: String,
    reason: String,
    /// Dollars a month; absent where no price is known.
    estimated_cost: Option<f64>,
    /// More than what is recommended.
    estimated_cost_change: Option<f64>,
}

/// The WebHost guide's `evaluate`: `POST /v1/decisions` under its names, with its usage metrics.
#[utoipa::path(post, path = "/api/admin/deployment/evaluate", tag = "guide", request_body = Evaluate,
    responses((status = 200, body = Evaluated), Problems))]
pub async fn evaluate(
    State(api): State<Api>,
    By(caller): By,
    Body(asked): Body<Evaluate>,
) -> ApiResult<Json<Evaluated>> {
    let permit = caller.may(Read)?;
    let places = asked.geographic_distribution.unwrap_or_default();
    let wanted = Profile {
        budget_cents: asked.budget.map(|dollars| dollars.saturating_mul(100)),
        quantities: asked.vehicle_count.map(|count| ("vehicles".to_owned(), count)).into_iter().collect(),
        // One entry is where its users are; more are as many regions, as the guide's score counts them.
        regions: u32::try_from(places.len()).ok().filter(|places| *places > 0),
        locations: places,
        compliance: asked.compliance_requirements.unwrap_or_default(),
        latency_ms: asked.latency_requirement,
        ..Profile::default()
    };
    let usual = Profile {
        budget_cents: Some(5000),
        quantities: BTreeMap::from([("vehicles".to_owned(), 1)]),
        locations: vec!["US".to_owned()],
        latency_ms: Some(100),
        ..Profile::default()
    };
    let said = asked.usage_metrics.unwrap_or_default().into();
    let found = evaluate::evaluate(&api.app, &permit, &asked.customer_id, wanted, usual, said).await?;
    let provider = found.provider;
    let current = found.tenant.map(|tenant| Deployment {
        mode: tenant.mode.map(|mode| mode.to_string()),
        infrastructure: provider,
        plan: tenant.plan,
        cell: tenant.cell,
    });
    Ok(Json(Evaluated {
        customer_id: asked.customer_id,
        current_deployment: current,
        recommended: recommended(&found.decision),
        usage_metrics: found.metrics.into(),
        performance_issue: found.issue,
    }))
}

fn recommended(decision: &Decision) -> Option<Recommended> {
    let dollars = |cents: Option<Cents>| cents.map(|cents| cents.get() as f64 / 100.0);
    let alternative = |other: &berth_wire::Alternative| Alternative {
        mode: other.mode.to_string(),
        plan: other.plan.clone(),
        reason: other.reason.clone(),
        estimated_cost: dollars(other.monthly_cost_cents),
        estimated_cost_change: dollars(other.cost_change_cents),
    };
    Some(Recommended {
        mode: decision.mode.map(|mode: Mode| mode.to_string())?,
        infrastructure: decision.provider.clone()?,
        plan: decision.plan.clone()?,
        estimated_cost: dollars(decision.monthly_cost_cents),
        reason: decision.reasons.join("; "),
        confidence: decision.confidence,
        alternatives: decision.alternatives.iter().map(alternative).collect(),
    })
}
