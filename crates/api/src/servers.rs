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
use berth_domain::{CellName, EdgeName};
use berth_wire::{EdgeWay, Operation, Page, Server, ServerAdd, ServerLook, ServerSeen};
use http::HeaderMap;
use serde::Deserialize;
use std::collections::BTreeSet;

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

/// What an edge has a way to by now.
// What else is asked is not looked at: an edge of an older version says a `limit`.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Open {
    /// `CELL:PORT`, with commas between; absent: the edge is of a version that does not say.
    open: Option<String>,
}

impl Open {
    /// What is no port of a cell is not counted.
    fn ports(&self) -> Option<BTreeSet<(CellName, u16)>> {
        let one = |part: &str| {
            let (cell, port) = part.split_once(':')?;
            Some((CellName::new(cell).ok()?, port.parse().ok()?))
        };
        self.open.as_ref().map(|open| open.split(',').filter_map(one).collect())
    }
}

/// How an edge reaches members on such servers. `berth_wire::EdgeWay` says how.
#[utoipa::path(get, path = "/v1/edges/{edge}/ways", tag = "edges", params(("edge" = String, Path), Open),
    responses((status = 200, body = Object), Problems))]
pub async fn ways(
    State(api): State<Api>,
    By(caller): By,
    Path(edge): Path<EdgeName>,
    Query(open): Query<Open>,
    peer: Peer,
    headers: HeaderMap,
) -> ApiResult<Json<Page<EdgeWay>>> {
    let permit = caller.may(Follow)?;
    let in_the_open = in_the_open(peer.as_ref().map(|Extension(peer)| peer), &headers);
    Ok(Json(servers::ways(&api.app, &permit, edge, open.ports(), in_the_open).await?))
}
