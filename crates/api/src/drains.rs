//! `…/drain` of tenants, members and edges: begun, looked at, taken back.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{MaybeBody, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, ReadTenant, drains};
use berth_domain::{EdgeName, MemberId};
use berth_wire::{Drain, DrainAsk, Drained, Page};

/// All that is drained: tenants, members and edges, the longest drained first. Always the whole list.
#[utoipa::path(get, path = "/v1/drains", tag = "drains", params(Whole),
    responses((status = 200, body = Page<Drained>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<Drained>>> {
    let permit = caller.may(Read)?;
    Ok(Json(drains::list(&api.app, &permit).await?))
}

/// Answers new requests of a tenant with 503 until it is taken back; what is open gets time to end.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/drain", tag = "drains", request_body = Option<DrainAsk>,
    params(("tenant" = String, Path)), responses((status = 200, body = Drain), Problems))]
pub async fn tenant(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    MaybeBody(asked): MaybeBody<DrainAsk>,
) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::tenant(&api.app, &permit, &who, &asked).await?))
}

/// How far the draining of a tenant is.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/drain", tag = "drains", params(("tenant" = String, Path)),
    responses((status = 200, body = Drain), Problems))]
pub async fn show_tenant(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Drain>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(drains::show_tenant(&api.app, &permit, &who).await?))
}

/// Serves a drained tenant again.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/drain", tag = "drains", params(("tenant" = String, Path)),
    responses((status = 200, body = Drain), Problems))]
pub async fn undo_tenant(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::undo_tenant(&api.app, &permit, &who).await?))
}

/// Gives a member no new requests until it is taken back.
#[utoipa::path(post, path = "/v1/cells/{cell}/members/{member}/drain", tag = "drains",
    request_body = Option<DrainAsk>,
    params(("cell" = String, Path), ("member" = String, Path, format = Uuid)),
    responses((status = 200, body = Drain), Problems))]
pub async fn member(
    State(api): State<Api>,
    By(caller): By,
    Path((cell, member)): Path<(String, MemberId)>,
    MaybeBody(asked): MaybeBody<DrainAsk>,
) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::member(&api.app, &permit, &cell, member, &asked).await?))
}

/// How far the draining of a member is.
#[utoipa::path(get, path = "/v1/cells/{cell}/members/{member}/drain", tag = "drains",
    params(("cell" = String, Path), ("member" = String, Path, format = Uuid)),
    responses((status = 200, body = Drain), Problems))]
pub async fn show_member(
    State(api): State<Api>,
    By(caller): By,
    Path((cell, member)): Path<(String, MemberId)>,
) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Read)?;
    Ok(Json(drains::show_member(&api.app, &permit, &cell, member).await?))
}

/// Gives a drained member requests again.
#[utoipa::path(delete, path = "/v1/cells/{cell}/members/{member}/drain", tag = "drains",
    params(("cell" = String, Path), ("member" = String, Path, format = Uuid)),
    responses((status = 200, body = Drain), Problems))]
pub async fn undo_member(
    State(api): State<Api>,
    By(caller): By,
    Path((cell, member)): Path<(String, MemberId)>,
) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::undo_member(&api.app, &permit, &cell, member).await?))
}

/// Lets an edge lose its connections, one by one; it goes on answering.
#[utoipa::path(post, path = "/v1/edges/{edge}/drain", tag = "drains", request_body = Option<DrainAsk>,
    params(("edge" = String, Path)), responses((status = 200, body = Drain), Problems))]
pub async fn edge(
    State(api): State<Api>,
    By(caller): By,
    Path(edge): Path<EdgeName>,
    MaybeBody(asked): MaybeBody<DrainAsk>,
) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::edge(&api.app, &permit, Some(&edge), &asked).await?))
}

/// How far the draining of an edge is.
#[utoipa::path(get, path = "/v1/edges/{edge}/drain", tag = "drains", params(("edge" = String, Path)),
    responses((status = 200, body = Drain), Problems))]
pub async fn show_edge(State(api): State<Api>, By(caller): By, Path(edge): Path<EdgeName>) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Read)?;
    Ok(Json(drains::show_edge(&api.app, &permit, Some(&edge)).await?))
}

/// Lets a drained edge keep connections again.
#[utoipa::path(delete, path = "/v1/edges/{edge}/drain", tag = "drains", params(("edge" = String, Path)),
    responses((status = 200, body = Drain), Problems))]
pub async fn undo_edge(State(api): State<Api>, By(caller): By, Path(edge): Path<EdgeName>) -> ApiResult<Json<Drain>> {
    let permit = caller.may(Change)?;
    Ok(Json(drains::undo_edge(&api.app, &permit, Some(&edge)).await?))
}
