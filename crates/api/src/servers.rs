//! Servers that are reached over SSH.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    cells::Whole,
    edges::{Peer, in_the_open},
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Extension, Json, extract::State};
use berth_control::{Change, Follow, Read, servers};
use berth_domain::EdgeName;
use berth_wire::{EdgeWay, Operation, Page, Server, ServerAdd, ServerLook, ServerSeen};
use http::HeaderMap;

/// The host key that a server shows: nothing is done there.
#[utoipa::path(post, path = "/v1/servers/look", tag = "cells", request_body = ServerLook,
    responses((status = 200, body = ServerSeen), Problems))]
pub async fn look(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<ServerLook>,
) -> ApiResult<Json<ServerSeen>> {
    let permit = caller.may(Change)?;
    Ok(Json(servers::look(&api.app, &permit, wanted).await?))
}

/// Makes a cell on a server, under the host key that is named.
#[utoipa::path(post, path = "/v1/servers", tag = "cells", request_body = ServerAdd,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn add(State(api): State<Api>, By(caller): By, Body(wanted): Body<ServerAdd>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(servers::add(&api.app, &permit, wanted).await?))
}

/// The servers that cells stand on, each looked at now. Always the whole list.
#[utoipa::path(get, path = "/v1/servers", tag = "cells", params(Whole),
    responses((status = 200, body = Page<Server>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<Server>>> {
    let permit = caller.may(Read)?;
    Ok(Json(servers::list(&api.app, &permit).await?))
}

/// How an edge reaches members on such servers. `berth_wire::EdgeWay` says how.
#[utoipa::path(get, path = "/v1/edges/{edge}/ways", tag = "edges", params(("edge" = String, Path)),
    responses((status = 200, body = Object), Problems))]
pub async fn ways(
    State(api): State<Api>,
    By(caller): By,
    Path(_): Path<EdgeName>,
    peer: Peer,
    headers: HeaderMap,
) -> ApiResult<Json<Page<EdgeWay>>> {
    let permit = caller.may(Follow)?;
    let in_the_open = in_the_open(peer.as_ref().map(|Extension(peer)| peer), &headers);
    Ok(Json(servers::ways(&api.app, &permit, in_the_open).await?))
}
