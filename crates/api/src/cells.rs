//! `/v1/cells`: the places where tenants live.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, cells, databases, endpoints};
use berth_wire::{Cell, CellAbilities, CellCreate, DatabaseTop, EndpointAdd, LogLine, Operation, Page};
use serde::Deserialize;

/// All cells with their members. Always the whole list.
#[utoipa::path(get, path = "/v1/cells", tag = "cells", params(Whole),
    responses((status = 200, body = Page<Cell>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<Cell>>> {
    let permit = caller.may(Read)?;
    Ok(Json(cells::list(&api.app, &permit).await?))
}

/// A list that has one page takes the words of lists all the same, so that a client needs not know which it is.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whole {
    /// The list is always whole.
    #[serde(rename = "limit")]
    #[param(minimum = 1, maximum = 200)]
    _limit: Option<u32>,
    /// There is no next page.
    #[serde(rename = "after")]
    _after: Option<String>,
}

/// Makes a cell: a database and a member for each service.
#[utoipa::path(post, path = "/v1/cells", tag = "cells", request_body = CellCreate,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn create(State(api): State<Api>, By(caller): By, Body(wanted): Body<CellCreate>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(cells::create(&api.app, &permit, wanted).await?))
}

/// Takes in a cell that exists already: looked at first, and never changed or removed.
#[utoipa::path(post, path = "/v1/endpoints", tag = "cells", request_body = EndpointAdd,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn add(State(api): State<Api>, By(caller): By, Body(wanted): Body<EndpointAdd>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(endpoints::add(&api.app, &permit, wanted).await?))
}

/// What a cell's database lets Berth do, tried now: nothing of it stays there.
#[utoipa::path(get, path = "/v1/cells/{cell}/abilities", tag = "cells", params(("cell" = String, Path)),
    responses((status = 200, body = CellAbilities), Problems))]
pub async fn abilities(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<CellAbilities>> {
    let permit = caller.may(Read)?;
    Ok(Json(endpoints::abilities(&api.app, &permit, &who).await?))
}

/// One cell, by name or id.
#[utoipa::path(get, path = "/v1/cells/{cell}", tag = "cells", params(("cell" = String, Path)),
    responses((status = 200, body = Cell), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Cell>> {
    let permit = caller.may(Read)?;
    Ok(Json(cells::show(&api.app, &permit, &who).await?))
}

/// Removes an empty cell with its database.
#[utoipa::path(delete, path = "/v1/cells/{cell}", tag = "cells", params(("cell" = String, Path)),
    responses((status = 202, body = Operation), Problems))]
pub async fn remove(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(cells::remove(&api.app, &permit, &who).await?))
}

/// Lets no new tenants in.
#[utoipa::path(post, path = "/v1/cells/{cell}/drain", tag = "cells", params(("cell" = String, Path)),
    responses((status = 200, body = Cell), Problems))]
pub async fn drain(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Cell>> {
    let permit = caller.may(Change)?;
    Ok(Json(cells::drain(&api.app, &permit, &who).await?))
}

/// Lets new tenants in again.
#[utoipa::path(delete, path = "/v1/cells/{cell}/drain", tag = "cells", params(("cell" = String, Path)),
    responses((status = 200, body = Cell), Problems))]
pub async fn undrain(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Cell>> {
    let permit = caller.may(Change)?;
    Ok(Json(cells::undrain(&api.app, &permit, &who).await?))
}

/// Finds out what a cell does: API, queries, ingest, upload, socket, backup. Takes some seconds of it.
#[utoipa::path(post, path = "/v1/cells/{cell}/measure", tag = "cells", params(("cell" = String, Path),
    ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn measure(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(cells::measure(&api.app, &permit, &who).await?))
}

/// Which lines.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Lines {
    /// Only of this service.
    service: Option<String>,
    /// How many of each member.
    #[serde(default = "lines_usual")]
    #[param(minimum = 1, maximum = 1000)]
    last: u32,
}

const fn lines_usual() -> u32 {
    50
}

/// What a cell's members wrote last, oldest first.
#[utoipa::path(get, path = "/v1/cells/{cell}/logs", tag = "cells", params(("cell" = String, Path), Lines),
    responses((status = 200, body = Page<LogLine>), Problems))]
pub async fn logs(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Query(wanted): Query<Lines>,
) -> ApiResult<Json<Page<LogLine>>> {
    let permit = caller.may(Read)?;
    let last = wanted.last.clamp(1, 1000);
    Ok(Json(Page::whole(cells::logs(&api.app, &permit, &who, wanted.service.as_deref(), last).await?)))
}

/// What a cell's database is busy with: oldest transactions and whom they wait for, largest tables, slots.
#[utoipa::path(get, path = "/v1/cells/{cell}/database/top", tag = "cells", params(("cell" = String, Path)),
    responses((status = 200, body = DatabaseTop), Problems))]
pub async fn database_top(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
) -> ApiResult<Json<DatabaseTop>> {
    let permit = caller.may(Read)?;
    Ok(Json(databases::top(&api.app, &permit, &who).await?))
}
