//! `/v1/decisions`, a tenant's profile, and `/v1/fleet`: where tenants belong.

use crate::{
    Api,
    auth::By,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, decide, fleet};
use berth_wire::{
    Decision, DecisionAsk, FleetApplied, FleetApply, FleetMonth, FleetPlan, FleetSimulate, Page, Profile,
};
use serde::Deserialize;

/// Where a tenant with this profile belongs, why, what that costs, and what would change it. Changes nothing.
#[utoipa::path(post, path = "/v1/decisions", tag = "decisions", request_body = DecisionAsk,
    responses((status = 200, body = Decision), Problems))]
pub async fn decide(
    State(api): State<Api>,
    By(caller): By,
    Body(asked): Body<DecisionAsk>,
) -> ApiResult<Json<Decision>> {
    let permit = caller.may(Read)?;
    Ok(Json(decide::decide(&api.app, &permit, &asked).await?))
}

/// Where this tenant belongs by its own profile.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/decision", tag = "decisions", params(("tenant" = String, Path)),
    responses((status = 200, body = Decision), Problems))]
pub async fn of_tenant(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Decision>> {
    let permit = caller.may(Read)?;
    Ok(Json(decide::of_tenant(&api.app, &permit, &who).await?))
}

/// What the tenant needs.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/profile", tag = "decisions", params(("tenant" = String, Path)),
    responses((status = 200, body = Profile), Problems))]
pub async fn profile(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Profile>> {
    let permit = caller.may(Read)?;
    Ok(Json(decide::profile(&api.app, &permit, &who).await?))
}

/// Replaces what the tenant needs. Nothing moves because of it.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/profile", tag = "decisions", request_body = Profile,
    params(("tenant" = String, Path)), responses((status = 200, body = Profile), Problems))]
pub async fn set_profile(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(wanted): Body<Profile>,
) -> ApiResult<Json<Profile>> {
    let permit = caller.may(Change)?;
    Ok(Json(decide::set_profile(&api.app, &permit, &who, wanted).await?))
}

/// All tenants to cells at the least cost, in steps that each are an improvement. Changes nothing.
#[utoipa::path(get, path = "/v1/fleet/plan", tag = "fleet", params(PlannedCells),
    responses((status = 200, body = FleetPlan), Problems))]
pub async fn fleet_plan(
    State(api): State<Api>,
    By(caller): By,
    Query(wanted): Query<PlannedCells>,
) -> ApiResult<Json<FleetPlan>> {
    let permit = caller.may(Read)?;
    let cells = wanted.cells.as_deref().unwrap_or_default().split(',').map(str::trim);
    let cells: Vec<String> = cells.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Json(fleet::plan_of(&api.app, &permit, &cells).await?))
}

/// Which part of the fleet.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PlannedCells {
    /// Only who lives in these cells is moved, and only these go: names with commas between. All of them otherwise.
    cells: Option<String>,
}

/// Starts the first moves of the plan. Cells are made and removed where `cells` asks for it; otherwise the answer names them.
#[utoipa::path(post, path = "/v1/fleet/apply", tag = "fleet", request_body = FleetApply,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 200, body = FleetApplied), Problems))]
pub async fn fleet_apply(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<FleetApply>,
) -> ApiResult<Json<FleetApplied>> {
    let permit = caller.may(Change)?;
    Ok(Json(fleet::apply(&api.app, &permit, &wanted).await?))
}

/// Grows the fleet on paper, month by month.
#[utoipa::path(post, path = "/v1/fleet/simulate", tag = "fleet", request_body = FleetSimulate,
    responses((status = 200, body = Page<FleetMonth>), Problems))]
pub async fn fleet_simulate(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<FleetSimulate>,
) -> ApiResult<Json<Page<FleetMonth>>> {
    let permit = caller.may(Read)?;
    Ok(Json(fleet::simulate(&api.app, &permit, &wanted).await?))
}
