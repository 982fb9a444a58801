//! `/v1/releases`: what services run, by digest, and how that comes to the cells; `/v1/registries`: who may pull it.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, registries, releases};
use berth_wire::{
    BackAsk, Page, Registry, RegistryPut, Release, ReleaseCreate, ReleaseShown, ReleaseStatus, Roll, RollAsk, RollPlan,
};
use http::StatusCode;

/// All releases, the newest first. Always the whole list.
#[utoipa::path(get, path = "/v1/releases", tag = "releases", params(Whole),
    responses((status = 200, body = Page<Release>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<Release>>> {
    let permit = caller.may(Read)?;
    Ok(Json(Page::whole(releases::list(&api.app, &permit).await?)))
}

/// Makes a release of these artifacts; 200 when there is one of the same set. Nothing runs it yet.
#[utoipa::path(post, path = "/v1/releases", tag = "releases", request_body = ReleaseCreate,
    responses((status = 201, body = Release), (status = 200, body = Release), Problems))]
pub async fn create(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<ReleaseCreate>,
) -> ApiResult<(StatusCode, Json<Release>)> {
    let permit = caller.may(Change)?;
    let (release, new) = releases::create(&api.app, &permit, &wanted).await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(release)))
}

/// One release, with every time it was rolled and what its migrations wrote.
#[utoipa::path(get, path = "/v1/releases/{release}", tag = "releases", params(("release" = u32, Path)),
    responses((status = 200, body = ReleaseShown), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(release): Path<u32>) -> ApiResult<Json<ReleaseShown>> {
    let permit = caller.may(Read)?;
    Ok(Json(releases::show(&api.app, &permit, release).await?))
}

/// What each cell runs, and what is on its way.
#[utoipa::path(get, path = "/v1/rollout", tag = "releases", responses((status = 200, body = ReleaseStatus), Problems))]
pub async fn status(State(api): State<Api>, By(caller): By) -> ApiResult<Json<ReleaseStatus>> {
    let permit = caller.may(Read)?;
    Ok(Json(releases::status(&api.app, &permit).await?))
}

/// The waves in which a release would come to the cells. Changes nothing.
#[utoipa::path(post, path = "/v1/rollout/plan", tag = "releases", request_body = RollAsk,
    responses((status = 200, body = RollPlan), Problems))]
pub async fn plan(State(api): State<Api>, By(caller): By, Body(ask): Body<RollAsk>) -> ApiResult<Json<RollPlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(releases::plan_roll(&api.app, &permit, &ask).await?))
}

/// Brings a release to the cells, wave by wave. Asked for again while it rolls, it is the same.
#[utoipa::path(post, path = "/v1/rollout", tag = "releases", request_body = RollAsk,
    responses((status = 202, body = Roll), Problems))]
pub async fn roll(
    State(api): State<Api>,
    By(caller): By,
    Body(ask): Body<RollAsk>,
) -> ApiResult<(StatusCode, Json<Roll>)> {
    let permit = caller.may(Change)?;
    Ok((StatusCode::ACCEPTED, Json(releases::roll(&api.app, &permit, &ask).await?)))
}

/// Where going back would go. Changes nothing.
#[utoipa::path(post, path = "/v1/rollout/back/plan", tag = "releases", request_body = BackAsk,
    responses((status = 200, body = RollPlan), Problems))]
pub async fn plan_back(State(api): State<Api>, By(caller): By, Body(ask): Body<BackAsk>) -> ApiResult<Json<RollPlan>> {
    let permit = caller.may(Read)?;
    Ok(Json(releases::plan_back(&api.app, &permit, &ask).await?))
}

/// Gives the cells what ran before, all at once, and ends what is on its way.
#[utoipa::path(post, path = "/v1/rollout/back", tag = "releases", request_body = BackAsk,
    responses((status = 202, body = Roll), Problems))]
pub async fn back(
    State(api): State<Api>,
    By(caller): By,
    Body(ask): Body<BackAsk>,
) -> ApiResult<(StatusCode, Json<Roll>)> {
    let permit = caller.may(Change)?;
    Ok((StatusCode::ACCEPTED, Json(releases::back(&api.app, &permit, &ask).await?)))
}

/// Accounts that may pull images, without their passwords. Always the whole list.
#[utoipa::path(get, path = "/v1/registries", tag = "releases", params(Whole),
    responses((status = 200, body = Page<Registry>), Problems))]
pub async fn registry_list(
    State(api): State<Api>,
    By(caller): By,
    Query(_): Query<Whole>,
) -> ApiResult<Json<Page<Registry>>> {
    let permit = caller.may(Read)?;
    Ok(Json(Page::whole(registries::list(&api.app, &permit).await?)))
}

/// Takes an account, or another one for the same registry.
#[utoipa::path(put, path = "/v1/registries", tag = "releases", request_body = RegistryPut,
    responses((status = 200, body = Registry), Problems))]
pub async fn registry_put(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<RegistryPut>,
) -> ApiResult<Json<Registry>> {
    let permit = caller.may(Change)?;
    Ok(Json(registries::put(&api.app, &permit, wanted).await?))
}

/// Forgets an account.
#[utoipa::path(delete, path = "/v1/registries/{host}", tag = "releases", params(("host" = String, Path)),
    responses((status = 200, body = Registry), Problems))]
pub async fn registry_remove(
    State(api): State<Api>,
    By(caller): By,
    Path(host): Path<String>,
) -> ApiResult<Json<Registry>> {
    let permit = caller.may(Change)?;
    Ok(Json(registries::remove(&api.app, &permit, &host).await?))
}
