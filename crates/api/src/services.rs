//! `/v1/cells/{cell}/services`: services of a cell, restarted.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::Path,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, services};
use berth_wire::{Operation, RestartPlan};

/// What a restart would do.
#[utoipa::path(post, path = "/v1/cells/{cell}/services/{service}/restart/plan", tag = "cells",
    params(("cell" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = RestartPlan), Problems))]
pub async fn plan(
    State(api): State<Api>,
    By(caller): By,
    Path((cell, service)): Path<(String, String)>,
) -> ApiResult<Json<RestartPlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(services::plan_restart(&api.app, &permit, &cell, &service).await?))
}

/// Starts a service's members of a cell again, one after the other, behind their health path and without a failed
/// request.
#[utoipa::path(post, path = "/v1/cells/{cell}/services/{service}/restart", tag = "cells",
    params(("cell" = String, Path), ("service" = String, Path),
    ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn restart(
    State(api): State<Api>,
    By(caller): By,
    Path((cell, service)): Path<(String, String)>,
) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(services::restart(&api.app, &permit, &cell, &service).await?))
}
