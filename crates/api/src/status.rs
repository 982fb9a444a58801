//! `/v1/status`: the whole at a glance.

use crate::{
    Api,
    auth::By,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, status};
use berth_wire::Overview;

/// Is everybody served, what moves, what needs a person, what does the month cost.
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = Overview), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Overview>> {
    let permit = caller.may(Read)?;
    Ok(Json(status::overview(&api.app, &permit).await?))
}
