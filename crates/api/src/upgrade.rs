//! `/v1/upgrade`: which versions run, and whether another one may follow them.

use crate::{
    Api,
    auth::By,
    extract::Body,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, upgrade};
use berth_wire::{Program, Upgrade, UpgradePlan};

/// Servers and edges with their versions, and how far the control database is.
#[utoipa::path(get, path = "/v1/upgrade", tag = "upgrade", responses((status = 200, body = Upgrade), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Upgrade>> {
    let permit = caller.may(Read)?;
    Ok(Json(upgrade::show(&api.app, &permit).await?))
}

/// What bringing this program would do, in order, and what stands in the way. Changes nothing.
#[utoipa::path(post, path = "/v1/upgrade/plan", tag = "upgrade", request_body = Program,
    responses((status = 200, body = UpgradePlan), Problems))]
pub async fn plan(State(api): State<Api>, By(caller): By, to: Body<Program>) -> ApiResult<Json<UpgradePlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(upgrade::plan(&api.app, &permit, &to.0).await?))
}

/// The end of an upgrade, when nothing older runs: what the version before uses is taken away, and with it the way back.
#[utoipa::path(post, path = "/v1/upgrade/finish", tag = "upgrade",
    responses((status = 200, body = Upgrade), Problems))]
pub async fn finish(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Upgrade>> {
    let permit = caller.may(Change)?;
    Ok(Json(upgrade::finish(&api.app, &permit).await?))
}
