//! `/v1/check`: what is wrong with a stack's files.

use crate::{
    Api,
    auth::By,
    extract::Body,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, check};
use berth_wire::{CheckAsk, CheckReport};

/// Looks at files together, as `berth check` does; without any at the stack file in force. Changes nothing, keeps nothing.
#[utoipa::path(post, path = "/v1/check", tag = "check", request_body = CheckAsk,
    responses((status = 200, body = CheckReport), Problems))]
pub async fn run(State(api): State<Api>, By(caller): By, Body(asked): Body<CheckAsk>) -> ApiResult<Json<CheckReport>> {
    let permit = caller.may(Read)?;
    Ok(Json(check::run(&api.app, &permit, &asked).await?))
}
