//! `/v1/cells/{cell}/database/maintain`: vacuum, analyze and reindex, without standing in anybody's way.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::{Body, Path},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, maintenance};
use berth_wire::{MaintainAsk, MaintainPlan, Operation};

/// What maintenance would do, and what it only points at: slots that nobody reads, fences that nobody needs.
#[utoipa::path(post, path = "/v1/cells/{cell}/database/maintain/plan", tag = "cells", request_body = MaintainAsk,
    params(("cell" = String, Path)), responses((status = 200, body = MaintainPlan), Problems))]
pub async fn plan(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(ask): Body<MaintainAsk>,
) -> ApiResult<Json<MaintainPlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(maintenance::plan(&api.app, &permit, &who, ask).await?))
}

/// Vacuums and analyses tables that need it, one after the other and throttled; what somebody waits for is left.
#[utoipa::path(post, path = "/v1/cells/{cell}/database/maintain", tag = "cells", request_body = MaintainAsk,
    params(("cell" = String, Path),
    ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn start(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(ask): Body<MaintainAsk>,
) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(maintenance::start(&api.app, &permit, &who, ask).await?))
}
