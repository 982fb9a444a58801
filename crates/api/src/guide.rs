//! The guides' own paths. Each translates body and answer to one call of `/v1`, and holds no rule.

use crate::{
    Api,
    auth::By,
    extract::{Body, MaybeBody, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, ReadTenant, decide, drains, tenants};
use berth_domain::{CellName, EdgeName, Hostname, Mode, TenantName, TenantState};
use berth_wire::{Decision, DecisionAsk, Drain, DrainAsk, Profile, Tenant};
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

/// The VeloFlux guide's answer to what begins or ends a drain.
#[derive(Serialize, ToSchema)]
pub struct Drained {
    /// `draining`, `drained` or `active`.
    status: &'static str,
    message: String,
}

impl From<Drain> for Drained {
    fn from(drain: Drain) -> Self {
        let (status, message) = match drain {
            Drain { draining: false, .. } => ("active", "requests are taken".to_owned()),
            Drain { done: true, .. } => {
                ("drained", "nothing new comes in, and what was open has had its time".to_owned())
            }
            Drain { waiting_for, .. } if waiting_for.is_empty() => {
                ("draining", "nothing new comes in; what is open is ending".to_owned())
            }
            Drain { waiting_for, .. } => {
                let names: Vec<String> = waiting_for.iter().map(ToString::to_string).collect();
                ("draining", format!("waiting for {}", names.join(", ")))
            }
        };
        Self { status, message }
    }
}

/// Which edge; it may be left out where there is one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainEdge {
    #[schema(value_type = Option<String>)]
    node: Option<EdgeName>,
    /// Seconds.
    #[schema(minimum = 0, maximum = 3600)]
    grace_s: Option<u32>,
}

/// The VeloFlux guide's drain of a node: `POST /v1/edges/{edge}/drain`.
#[utoipa::path(post, path = "/admin/drain", tag = "guide", request_body = Option<DrainEdge>,
    responses((status = 200, body = Drained), Problems))]
pub async fn drain_edge(
    State(api): State<Api>,
    By(caller): By,
    MaybeBody(asked): MaybeBody<DrainEdge>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(Change)?;
    let grace = DrainAsk { grace_s: asked.grace_s };
    Ok(Json(drains::edge(&api.app, &permit, asked.node.as_ref(), &grace).await?.into()))
}

/// Which edge; it may be left out where there is one.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhichEdge {
    #[param(value_type = Option<String>)]
    node: Option<EdgeName>,
}

/// How far it is: `GET /v1/edges/{edge}/drain`.
#[utoipa::path(get, path = "/admin/drain", tag = "guide", params(WhichEdge),
    responses((status = 200, body = Drained), Problems))]
pub async fn drained_edge(
    State(api): State<Api>,
    By(caller): By,
    Query(which): Query<WhichEdge>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(Read)?;
    Ok(Json(drains::show_edge(&api.app, &permit, which.node.as_ref()).await?.into()))
}

/// Takes it back: `DELETE /v1/edges/{edge}/drain`.
#[utoipa::path(delete, path = "/admin/drain", tag = "guide", params(WhichEdge),
    responses((status = 200, body = Drained), Problems))]
pub async fn undrain_edge(
    State(api): State<Api>,
    By(caller): By,
    Query(which): Query<WhichEdge>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::undo_edge(&api.app, &permit, which.node.as_ref()).await?.into()))
}

/// The VeloFlux guide's drain of a tenant: `POST /v1/tenants/{tenant}/drain`.
#[utoipa::path(post, path = "/api/tenants/{tenant}/drain", tag = "guide", request_body = Option<DrainAsk>,
    params(("tenant" = String, Path)), responses((status = 200, body = Drained), Problems))]
pub async fn drain_tenant(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    MaybeBody(asked): MaybeBody<DrainAsk>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::tenant(&api.app, &permit, &who, &asked).await?.into()))
}

/// How far it is: `GET /v1/tenants/{tenant}/drain`.
#[utoipa::path(get, path = "/api/tenants/{tenant}/drain", tag = "guide", params(("tenant" = String, Path)),
    responses((status = 200, body = Drained), Problems))]
pub async fn drained_tenant(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(drains::show_tenant(&api.app, &permit, &who).await?.into()))
}

/// Takes it back: `DELETE /v1/tenants/{tenant}/drain`.
#[utoipa::path(delete, path = "/api/tenants/{tenant}/drain", tag = "guide", params(("tenant" = String, Path)),
    responses((status = 200, body = Drained), Problems))]
pub async fn undrain_tenant(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<Drained>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::undo_tenant(&api.app, &permit, &who).await?.into()))
}

/// The VeloFlux guide's two ways of isolating a tenant.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Isolation {
    Shared,
    Dedicated,
}

impl From<Isolation> for Mode {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Shared => Self::MultiTenant,
            Isolation::Dedicated => Self::SingleTenant,
        }
    }
}

/// All hosts of a tenant, and how it is meant to be isolated by now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Domains {
    #[schema(value_type = Vec<String>)]
    domains: Vec<Hostname>,
    mode: Option<Isolation>,
}

/// The guide's view of a tenant.
#[derive(Serialize, ToSchema)]
pub struct TenantStatus {
    tenant_id: String,
    /// The tenant's state, or `draining` or `drained`.
    status: String,
    /// Absent while it is not placed.
    mode: Option<Isolation>,
    #[schema(value_type = Option<String>)]
    cell: Option<CellName>,
    /// Plain hosts first, then those by a wildcard or a path.
    domains: Vec<String>,
}

impl TenantStatus {
    fn new(tenant: Tenant, drain: Drain) -> Self {
        let mode = tenant.mode.map(|mode| match mode {
            Mode::MultiTenant => Isolation::Shared,
            Mode::SingleTenant => Isolation::Dedicated,
        });
        let drained = Drained::from(drain).status;
        let status = if tenant.state == TenantState::Active { drained.to_owned() } else { tenant.state.to_string() };
        let domains = tenant.routed();
        Self { tenant_id: tenant.name.to_string(), status, mode, cell: tenant.cell, domains }
    }
}

/// The VeloFlux guide's domains: `PUT /v1/tenants/{tenant}/hosts`, refused when the tenant is isolated otherwise.
#[utoipa::path(put, path = "/api/tenants/{tenant}/domains", tag = "guide", request_body = Domains,
    params(("tenant" = String, Path)), responses((status = 200, body = TenantStatus), Problems))]
pub async fn set_domains(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(wanted): Body<Domains>,
) -> ApiResult<Json<TenantStatus>> {
    let permit = caller.may(Change)?;
    let mode = wanted.mode.map(Mode::from);
    let tenant = tenants::set_domains(&api.app, &permit, &who, &wanted.domains, mode).await?;
    let drain = drains::show_tenant(&api.app, &caller.may(ReadTenant)?, &who).await?;
    Ok(Json(TenantStatus::new(tenant, drain)))
}

/// The VeloFlux guide's status of a tenant: `GET /v1/tenants/{tenant}` and its drain.
#[utoipa::path(get, path = "/api/tenants/{tenant}/status", tag = "guide", params(("tenant" = String, Path)),
    responses((status = 200, body = TenantStatus), Problems))]
pub async fn tenant_status(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<TenantStatus>> {
    let permit = caller.may(ReadTenant)?;
    let tenant = tenants::show(&api.app, &permit, &who).await?;
    let drain = drains::show_tenant(&api.app, &permit, &who).await?;
    Ok(Json(TenantStatus::new(tenant, drain)))
}
