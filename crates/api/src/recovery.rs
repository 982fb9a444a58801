//! `/v1/recovery`: a control database that came back from a backup, compared with the world and brought level.

use crate::{
    Api,
    auth::By,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, recover as recovery};
use berth_wire::Recovery;

/// How the control database compares with the world.
#[utoipa::path(get, path = "/v1/recovery", tag = "recovery", responses((status = 200, body = Recovery), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Recovery>> {
    let permit = caller.may(Read)?;
    Ok(Json(recovery::show(&api.app, &permit).await?))
}

/// Raises every counter above what the world has seen, and lets changes in again.
#[utoipa::path(post, path = "/v1/recovery", tag = "recovery", responses((status = 200, body = Recovery), Problems))]
pub async fn recover(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Recovery>> {
    let permit = caller.may(Change)?;
    Ok(Json(recovery::recover(&api.app, &permit).await?))
}
