//! `/v1/tenants/{tenant}/limits`: what edges keep of a tenant, and what of it is its own.

use crate::{
    Api,
    answer::Tagged,
    auth::By,
    extract::{Body, IfMatch, Path},
    problem::{ApiResult, Problems},
};
use axum::extract::State;
use berth_control::{Change, ReadTenant, limits};
use berth_wire::{TenantLimits, TenantLimitsSet};

/// What edges keep of a tenant: its plan's limits, its own, and both together.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/limits", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, body = TenantLimits), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Tagged<TenantLimits>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Tagged(limits::show(&api.app, &permit, &who).await?))
}

/// All limits of its own; what is left out is as its plan says.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/limits", tag = "tenants", request_body = TenantLimitsSet,
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` it rests on.")),
    responses((status = 200, body = TenantLimits), Problems))]
pub async fn set(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    IfMatch(version): IfMatch,
    Body(wanted): Body<TenantLimitsSet>,
) -> ApiResult<Tagged<TenantLimits>> {
    let permit = caller.may(Change)?;
    Ok(Tagged(limits::set(&api.app, &permit, &who, wanted, version).await?))
}

/// It has none of its own any more: its plan's are in force.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/limits", tag = "tenants",
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` it rests on.")),
    responses((status = 200, body = TenantLimits), Problems))]
pub async fn clear(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    IfMatch(version): IfMatch,
) -> ApiResult<Tagged<TenantLimits>> {
    let permit = caller.may(Change)?;
    Ok(Tagged(limits::set(&api.app, &permit, &who, TenantLimitsSet::default(), version).await?))
}
