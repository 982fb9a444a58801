//! `/v1/tenants`: the customers of the stack.

use crate::{
    Api,
    answer::{Accepted, Tagged},
    auth::By,
    extract::{Body, IfMatch, Path, Query, page},
    problem::{ApiError, ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{
    Change, ReadTenant,
    sync::run as compare,
    tenants::{self, TenantFilter},
};
use berth_domain::{CellName, PlanName, TenantName, TenantState};
use berth_wire::{
    Operation, Page, SyncReport, Tenant, TenantAllow, TenantChange, TenantCreate, TenantHosts, TenantSync,
};
use serde::Deserialize;

/// Which tenants, and how many.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// Only those in this state.
    #[param(value_type = Option<String>)]
    state: Option<TenantState>,
    /// Only those in this cell.
    #[param(value_type = Option<String>)]
    cell: Option<CellName>,
    /// Only those on this plan.
    #[param(value_type = Option<String>)]
    plan: Option<PlanName>,
    /// Part of a name or host.
    #[param(max_length = 100)]
    like: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// How many at most.
    #[serde(default = "page::usual")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

/// All tenants, in order of their names.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", params(Listed),
    responses((status = 200, body = Page<Tenant>), Problems))]
pub async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(wanted): Query<Listed>,
) -> ApiResult<Json<Page<Tenant>>> {
    let permit = caller.may(ReadTenant)?;
    let after = wanted.after.map(|text| TenantName::new(&text).map_err(|_| ApiError::BadCursor(text))).transpose()?;
    let filter = TenantFilter {
        state: wanted.state,
        cell: wanted.cell,
        plan: wanted.plan,
        like: wanted.like,
        after,
        limit: page::limited(wanted.limit),
    };
    Ok(Json(tenants::list(&api.app, &permit, &filter).await?))
}

/// Starts provisioning and answers with the operation to follow.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = TenantCreate,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn create(State(api): State<Api>, By(caller): By, Body(wanted): Body<TenantCreate>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(tenants::create(&api.app, &permit, wanted).await?))
}

/// Compares a cell's root table with what Berth knows; takes in what is unknown where asked to.
#[utoipa::path(post, path = "/v1/tenants/sync", tag = "tenants", request_body = TenantSync,
    responses((status = 200, body = SyncReport), Problems))]
pub async fn sync(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<TenantSync>,
) -> ApiResult<Json<SyncReport>> {
    let permit = caller.may(Change)?;
    Ok(Json(compare(&api.app, &permit, &wanted).await?))
}

/// One tenant, by name or id. Its `ETag` is what an edit may rest on.
#[utoipa::path(get, path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, body = Tenant), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Tagged> {
    let permit = caller.may(ReadTenant)?;
    Ok(Tagged(tenants::show(&api.app, &permit, &who).await?))
}

/// Puts a tenant on another plan. Limits change at once; the tenant stays where it is until it is moved.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}", tag = "tenants", request_body = TenantChange,
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` it rests on.")),
    responses((status = 200, body = Tenant), Problems))]
pub async fn change(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    IfMatch(version): IfMatch,
    Body(wanted): Body<TenantChange>,
) -> ApiResult<Tagged> {
    let permit = caller.may(Change)?;
    Ok(Tagged(tenants::set_plan(&api.app, &permit, &who, &wanted.plan, version).await?))
}

/// Removes a tenant with all its rows.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 202, body = Operation), Problems))]
pub async fn delete(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(tenants::delete(&api.app, &permit, &who).await?))
}

/// All host names of a tenant; those left out no longer route to it.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/hosts", tag = "tenants", request_body = TenantHosts,
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` it rests on.")),
    responses((status = 200, body = Tenant), Problems))]
pub async fn set_hosts(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    IfMatch(version): IfMatch,
    Body(wanted): Body<TenantHosts>,
) -> ApiResult<Tagged> {
    let permit = caller.may(Change)?;
    Ok(Tagged(tenants::set_all_hosts(&api.app, &permit, &who, &wanted.hosts, version).await?))
}

/// Whose requests edges serve: clients of these networks, or everybody with none.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/allow", tag = "tenants", request_body = TenantAllow,
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` it rests on.")),
    responses((status = 200, body = Tenant), Problems))]
pub async fn set_allow(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    IfMatch(version): IfMatch,
    Body(wanted): Body<TenantAllow>,
) -> ApiResult<Tagged> {
    let permit = caller.may(Change)?;
    Ok(Tagged(tenants::set_allow(&api.app, &permit, &who, &wanted.networks, version).await?))
}

/// Answers the tenant's requests with 403 until it is resumed.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/suspend", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 202, body = Operation), Problems))]
pub async fn suspend(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(tenants::suspend(&api.app, &permit, &who).await?))
}

/// Serves a suspended tenant again.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/resume", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 202, body = Operation), Problems))]
pub async fn resume(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(tenants::resume(&api.app, &permit, &who).await?))
}
