//! `/v1/catalogue`: what providers sell.

use crate::{
    Api,
    auth::By,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, catalogue};
use berth_wire::Catalogue;

/// Providers, regions, shapes, prices and offers that decisions rest on, with the day and source of each.
#[utoipa::path(get, path = "/v1/catalogue", tag = "decisions", responses((status = 200, body = Catalogue), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Catalogue>> {
    let permit = caller.may(Read)?;
    Ok(Json(catalogue::show(&api.app, &permit).await?))
}
