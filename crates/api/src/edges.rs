//! `/v1/edges`: what edges follow and what they answer. `berth_wire::edge` says how.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{
    Extension, Json,
    body::Body as Streamed,
    extract::{ConnectInfo, State},
    response::{IntoResponse as _, Response},
};
use berth_control::{
    ControlError, Follow, Read,
    edge_polls::{self, Poll},
    edges::{self, Takes},
};
use berth_domain::{EdgeId, EdgeName, Revision, is_private};
use berth_wire::{
    EdgeView, Page, VERSION,
    edge::{CHALLENGES, EdgeAck, EdgeAckAnswer, IN_THE_OPEN, KEEPS, KEEPS_ALLOW, LEAVING, POLL, SPEAKS},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Deserialize;
use std::{net::SocketAddr, time::Duration};
use uuid::Uuid;

/// All edges that ever called. Always the whole list.
#[utoipa::path(get, path = "/v1/edges", tag = "edges", params(Whole),
    responses((status = 200, body = Page<EdgeView>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<EdgeView>>> {
    let permit = caller.may(Read)?;
    Ok(Json(edges::list(&api.app, &permit).await?))
}

/// Who follows, and from where on.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct From {
    /// The edge process: a restarted edge has a new one.
    #[param(value_type = String, format = Uuid)]
    instance: EdgeId,
    /// The revision it has in force; 0 for one that has none.
    #[serde(default)]
    #[param(value_type = u64)]
    after: Revision,
    /// The answer ends: with what there is to say, or after so many milliseconds. For edges behind a proxy that cuts
    /// streams.
    #[param(minimum = 0, maximum = 20000)]
    wait_ms: Option<u32>,
    /// `berth-edge-poll` of the answer before.
    #[param(value_type = Option<String>, format = Uuid)]
    poll: Option<Uuid>,
}

/// Where a request comes from, where the server knows it.
pub(crate) type Peer = Option<Extension<ConnectInfo<SocketAddr>>>;

/// Whether others may read along what this edge is answered.
pub(crate) fn in_the_open(peer: Option<&ConnectInfo<SocketAddr>>, headers: &HeaderMap) -> bool {
    headers.contains_key(IN_THE_OPEN) || peer.is_some_and(|ConnectInfo(peer)| !is_private(peer.ip()))
}

/// One JSON object a line for as long as the connection lives: the routes, then every change of them.
#[utoipa::path(get, path = "/v1/edges/{edge}/routes", tag = "edges", params(("edge" = String, Path), From),
    responses((status = 200, body = Object, content_type = "application/x-ndjson"), Problems))]
pub async fn routes(
    State(api): State<Api>,
    By(caller): By,
    Path(edge): Path<EdgeName>,
    Query(from): Query<From>,
    peer: Peer,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let permit = caller.may(Follow)?;
    // One that says nothing knows routes alone.
    let words = headers.get(KEEPS).and_then(|words| words.to_str().ok()).unwrap_or_default();
    let takes = Takes {
        speaks: headers.get(SPEAKS).and_then(|spoken| spoken.to_str().ok()?.parse().ok()).unwrap_or(1),
        allows: words.split(',').any(|word| word.trim() == KEEPS_ALLOW),
        leaving: headers.contains_key(LEAVING),
        challenges: headers.contains_key(CHALLENGES),
        in_the_open: in_the_open(peer.as_ref().map(|Extension(peer)| peer), &headers),
        version: headers.get(VERSION).and_then(|version| version.to_str().ok()?.parse().ok()),
    };
    if let Some(wait_ms) = from.wait_ms {
        let wait = Duration::from_millis(wait_ms.into());
        let poll = Poll { after: from.after, takes, heard: from.poll, wait };
        let polled = edge_polls::poll(&api.app, &permit, edge, from.instance, poll).await?;
        let mut lines = Vec::new();
        for event in &polled.events {
            serde_json::to_writer(&mut lines, event).map_err(ControlError::from)?;
            lines.push(b'\n');
        }
        let kind = HeaderValue::from_static("application/x-ndjson");
        let token = HeaderValue::from_str(&polled.token.to_string()).expect("an id is letters, digits and dashes");
        let headers = [(header::CONTENT_TYPE, kind), (HeaderName::from_static(POLL), token)];
        return Ok((headers, lines).into_response());
    }
    let events = edges::routes(&api.app, &permit, edge, from.instance, from.after, takes).await?;
    let lines = events.map(|event| {
        let mut line = serde_json::to_vec(&event?)?;
        line.push(b'\n');
        Ok::<_, ControlError>(Bytes::from(line))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Streamed::from_stream(lines)).into_response())
}

/// How far an edge is, and how holds went.
#[utoipa::path(post, path = "/v1/edges/{edge}/acks", tag = "edges", params(("edge" = String, Path)),
    request_body(content = Object, description = "`EdgeAck`"),
    responses((status = 200, body = Object), Problems))]
pub async fn acknowledge(
    State(api): State<Api>,
    By(caller): By,
    Path(edge): Path<EdgeName>,
    Body(ack): Body<EdgeAck>,
) -> ApiResult<Json<EdgeAckAnswer>> {
    let permit = caller.may(Follow)?;
    Ok(Json(edges::acknowledge(&api.app, &permit, edge, ack).await?))
}
