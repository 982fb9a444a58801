//! `/v1/plans`: prices and the limits that come with them. They change with the stack file alone.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, plans};
use berth_domain::PlanName;
use berth_wire::{Page, PlanView};

/// All plans. Always the whole list.
#[utoipa::path(get, path = "/v1/plans", tag = "plans", params(Whole),
    responses((status = 200, body = Page<PlanView>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<PlanView>>> {
    let permit = caller.may(Read)?;
    Ok(Json(plans::list(&api.app, &permit).await?))
}

/// One plan.
#[utoipa::path(get, path = "/v1/plans/{plan}", tag = "plans", params(("plan" = String, Path)),
    responses((status = 200, body = PlanView), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(plan): Path<PlanName>) -> ApiResult<Json<PlanView>> {
    let permit = caller.may(Read)?;
    Ok(Json(plans::show(&api.app, &permit, &plan).await?))
}
