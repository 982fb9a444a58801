//! The guides' own paths. Each translates body and answer to one call of `/v1`, and holds no rule.

pub mod evaluate;

use crate::{
    Api,
    auth::By,
    extract::{Body, MaybeBody, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, ReadTenant, drains, tenants};
use berth_domain::{CellName, EdgeName, Hostname, Mode, TenantState};
use berth_wire::{Drain, DrainAsk, Tenant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
