//! `/v1/stack`: the stack file, applied and shown.

use crate::{
    Api,
    auth::By,
    extract::Body,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, stack};
use berth_wire::{Stack, StackApplied, StackApply};

/// The stack file in force.
#[utoipa::path(get, path = "/v1/stack", tag = "stack", responses((status = 200, body = Stack), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Stack>> {
    let permit = caller.may(Read)?;
    Ok(Json(stack::show(&api.app, &permit).await?))
}

/// Puts a stack file in force, or with `dry_run` shows what that would change.
#[utoipa::path(post, path = "/v1/stack", tag = "stack", request_body = StackApply,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 200, body = StackApplied), Problems))]
pub async fn apply(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<StackApply>,
) -> ApiResult<Json<StackApplied>> {
    let permit = caller.may(Change)?;
    Ok(Json(stack::apply(&api.app, &permit, &wanted).await?))
}
