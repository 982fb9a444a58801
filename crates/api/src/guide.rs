//! The guides' own paths. Each translates body and answer to one call of `/v1`, and holds no rule.

use crate::{
    Api,
    auth::By,
    extract::Body,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, decide};
use berth_domain::{Mode, TenantName};
use berth_wire::{Decision, DecisionAsk, Profile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The WebHost guide's question, with its names and defaults.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The tenant's name. Of one that there is, the current placement is shown.
    customer_id: String,
    /// Dollars a month.
    #[serde(default = "budget_usual")]
    budget: u64,
    #[serde(default = "one")]
    vehicle_count: u64,
    #[serde(default)]
    compliance_requirements: Vec<String>,
    /// Milliseconds.
    #[serde(default = "latency_usual")]
    latency_requirement: u64,
    #[serde(default = "here")]
    geographic_distribution: Vec<String>,
}

const fn budget_usual() -> u64 {
    50
}
const fn one() -> u64 {
    1
}
const fn latency_usual() -> u64 {
    100
}
fn here() -> Vec<String> {
    vec!["US".to_owned()]
}

#[derive(Serialize, ToSchema)]
pub struct Evaluated {
    customer_id: String,
    current_deployment: Option<Deployment>,
    /// Absent where nothing fits.
    recommended: Option<Recommended>,
    /// What the guide fills with constants: nobody measured it here.
    usage_metrics: Option<BTreeMap<String, f64>>,
}

#[derive(Serialize, ToSchema)]
struct Deployment {
    cell: String,
}

#[derive(Serialize, ToSchema)]
struct Recommended {
    mode: String,
    infrastructure: String,
    plan: String,
    reason: String,
    confidence: f64,
    alternatives: Vec<Alternative>,
}

#[derive(Serialize, ToSchema)]
struct Alternative {
    reason: String,
}

/// The WebHost guide's `evaluate`: `POST /v1/decisions` under its names.
#[utoipa::path(post, path = "/api/admin/deployment/evaluate", tag = "guide", request_body = Evaluate,
    responses((status = 200, body = Evaluated), Problems))]
pub async fn evaluate(
    State(api): State<Api>,
    By(caller): By,
    Body(asked): Body<Evaluate>,
) -> ApiResult<Json<Evaluated>> {
    let permit = caller.may(Read)?;
    let profile = Profile {
        budget_cents: Some(asked.budget.saturating_mul(100)),
        quantities: BTreeMap::from([("vehicles".to_owned(), asked.vehicle_count)]),
        // One entry is where its users are; more are as many regions, as the guide's score counts them.
        regions: u32::try_from(asked.geographic_distribution.len().max(1)).ok(),
        locations: asked.geographic_distribution.clone(),
        compliance: asked.compliance_requirements,
        latency_ms: Some(asked.latency_requirement),
        ..Profile::default()
    };
    // A customer that is not there yet is asked about all the same, as at the guide's sign-up.
    let name = TenantName::new(&asked.customer_id).ok();
    let known = match &name {
        Some(name) => decide::profile(&api.app, &permit, name.as_str()).await.ok(),
        None => None,
    };
    let tenant = name.filter(|_| known.is_some());
    let question = DecisionAsk { tenant, profile: Some(profile) };
    let decision = decide::decide(&api.app, &permit, &question).await?;
    Ok(Json(Evaluated {
        customer_id: asked.customer_id,
        current_deployment: known.and_then(|profile| profile.cell).map(|cell| Deployment { cell }),
        recommended: recommended(&decision),
        usage_metrics: None,
    }))
}

fn recommended(decision: &Decision) -> Option<Recommended> {
    let alternative = |flip: &berth_wire::Flip| Alternative {
        reason: format!("with {} {} instead of {}: {}", flip.field, flip.to, flip.from, flip.then),
    };
    Some(Recommended {
        mode: decision.mode.map(|mode: Mode| mode.to_string())?,
        infrastructure: decision.provider.clone()?,
        plan: decision.plan.clone()?,
        reason: decision.reasons.join("; "),
        confidence: decision.confidence,
        alternatives: decision.flip.iter().map(alternative).collect(),
    })
}
