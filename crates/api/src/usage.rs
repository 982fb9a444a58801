//! `/v1/usage`, a tenant's usage and entitlements, and `/v1/approvals`.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::{Body, MaybeBody, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Follow, Read, ReadEntitlements, ReadTenant, Report, approvals, purge, usage};
use berth_domain::{ApprovalId, ApprovalState, EdgeName, UsagePeriod};
use berth_wire::{
    Approval, ApprovalReject, Entitlements, Operation, Page, PurgePlan, TenantUsage, Usage, UsageCounted, UsageEvent,
    edge::{EdgeMeters, EdgeMetersAnswer},
};
use jiff::Timestamp;
use serde::Deserialize;

/// Counts what was used. An equal key of a tenant counts once, across requests and retries. A report with a mistake
/// is not taken at all; the answer names every line.
#[utoipa::path(post, path = "/v1/usage", tag = "usage", request_body = Vec<UsageEvent>,
    responses((status = 200, body = UsageCounted), Problems))]
pub async fn record(
    State(api): State<Api>,
    By(caller): By,
    Body(events): Body<Vec<UsageEvent>>,
) -> ApiResult<Json<UsageCounted>> {
    let permit = caller.may(Report)?;
    Ok(Json(usage::record(&api.app, &permit, events).await?))
}

/// Over how long usage is added up.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Over {
    /// `hour`, `day` or `month`, in UTC.
    #[serde(default = "Over::usual")]
    #[param(value_type = Option<String>)]
    period: UsagePeriod,
    /// Of a tenant: since when; otherwise the last 31 days.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
}

impl Over {
    const fn usual() -> UsagePeriod {
        UsagePeriod::Day
    }
}

/// What all tenants used in the running period. Always the whole list.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(Over),
    responses((status = 200, body = Page<Usage>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(over): Query<Over>) -> ApiResult<Json<Page<Usage>>> {
    let permit = caller.may(Read)?;
    Ok(Json(usage::list(&api.app, &permit, over.period).await?))
}

/// What a tenant used, what of its plan that is, and where it is going.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/usage", tag = "usage", params(("tenant" = String, Path), Over),
    responses((status = 200, body = TenantUsage), Problems))]
pub async fn of_tenant(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Query(over): Query<Over>,
) -> ApiResult<Json<TenantUsage>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(usage::of_tenant(&api.app, &permit, &who, over.period, over.from).await?))
}

/// The limits of the tenant's plan and what of them is left, for the application. The tenant may be named by its key
/// in the application's root table: `key:…`.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/entitlements", tag = "tenants", params(("tenant" = String, Path)),
    responses((status = 200, body = Entitlements), Problems))]
pub async fn entitlements(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<Entitlements>> {
    let permit = caller.may(ReadEntitlements)?;
    Ok(Json(usage::entitlements(&api.app, &permit, &who).await?))
}

/// What an edge counted, since its process began. Said twice it counts once.
#[utoipa::path(post, path = "/v1/edges/{edge}/meters", tag = "edges", params(("edge" = String, Path)),
    request_body(content = Object, description = "`EdgeMeters`"),
    responses((status = 200, body = Object), Problems))]
pub async fn edge_meters(
    State(api): State<Api>,
    By(caller): By,
    Path(edge): Path<EdgeName>,
    Body(said): Body<EdgeMeters>,
) -> ApiResult<Json<EdgeMetersAnswer>> {
    let permit = caller.may(Follow)?;
    Ok(Json(usage::edge_meters(&api.app, &permit, &edge, said).await?))
}

/// What is older than the tenant's plan keeps, by table. Changes nothing. Not for a tenant's own key: it counts in the cell.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/plan-purge", tag = "usage", params(("tenant" = String, Path)),
    responses((status = 200, body = PurgePlan), Problems))]
pub async fn plan_purge(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<PurgePlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(purge::plan(&api.app, &permit, &who).await?))
}

/// Removes it, archived first unless the stack file says otherwise.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/purge", tag = "usage", params(("tenant" = String, Path)),
    responses((status = 202, body = Operation), Problems))]
pub async fn purge(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(purge::start(&api.app, &permit, &who).await?))
}

/// Which approvals.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// Only of this tenant.
    tenant: Option<String>,
    /// Only those in this state, such as `open`.
    #[param(value_type = Option<String>)]
    state: Option<ApprovalState>,
}

/// Proposals to put tenants elsewhere, newest first.
#[utoipa::path(get, path = "/v1/approvals", tag = "approvals", params(Listed),
    responses((status = 200, body = Page<Approval>), Problems))]
pub async fn approval_list(
    State(api): State<Api>,
    By(caller): By,
    Query(wanted): Query<Listed>,
) -> ApiResult<Json<Page<Approval>>> {
    let permit = caller.may(Read)?;
    Ok(Json(approvals::list(&api.app, &permit, wanted.tenant.as_deref(), wanted.state).await?))
}

/// One proposal with its decision and its reasons.
#[utoipa::path(get, path = "/v1/approvals/{approval}", tag = "approvals",
    params(("approval" = String, Path, format = Uuid)), responses((status = 200, body = Approval), Problems))]
pub async fn approval(State(api): State<Api>, By(caller): By, Path(id): Path<ApprovalId>) -> ApiResult<Json<Approval>> {
    let permit = caller.may(Read)?;
    Ok(Json(approvals::show(&api.app, &permit, id).await?))
}

/// Agrees: the tenant is put on the plan, and moved where that takes a move.
#[utoipa::path(post, path = "/v1/approvals/{approval}/approve", tag = "approvals",
    params(("approval" = String, Path, format = Uuid)), responses((status = 200, body = Approval), Problems))]
pub async fn approve(State(api): State<Api>, By(caller): By, Path(id): Path<ApprovalId>) -> ApiResult<Json<Approval>> {
    let permit = caller.may(Change)?;
    Ok(Json(approvals::approve(&api.app, &permit, id).await?))
}

/// Does not agree; the same is not proposed again for a month, unless its place breaks a standard, its residency or its number of regions.
#[utoipa::path(post, path = "/v1/approvals/{approval}/reject", tag = "approvals", request_body = ApprovalReject,
    params(("approval" = String, Path, format = Uuid)), responses((status = 200, body = Approval), Problems))]
pub async fn reject(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<ApprovalId>,
    MaybeBody(said): MaybeBody<ApprovalReject>,
) -> ApiResult<Json<Approval>> {
    let permit = caller.may(Change)?;
    Ok(Json(approvals::reject(&api.app, &permit, id, said.reason.as_deref()).await?))
}
