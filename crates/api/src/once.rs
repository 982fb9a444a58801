//! Writes that carry an `Idempotency-Key` are carried out once, and by a task of their own: a caller that hangs up
//! loses the answer, never half of the work.

use crate::{
    Api, answer,
    auth::RequestId,
    extract::{BODY_BYTES_MAX, buffered},
    problem::{ApiError, Refusal},
};
use axum::{
    body::Body,
    extract::{FromRequest as _, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use berth_control::{
    Caller, ControlError,
    idempotency::{self, Once},
};
use berth_wire::Problem;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::warn;

const HEADER: &str = "idempotency-key";

pub async fn layer(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let Some(value) = request.headers().get(HEADER).filter(|_| !safe) else { return Ok(next.run(request).await) };
    let key = value.to_str().ok().filter(|key| (1..=200).contains(&key.len())).map(str::to_owned);
    let key = key.ok_or(ApiError::BadIdempotencyKey)?;
    let id = request.extensions().get::<RequestId>().cloned();
    let caller = api.caller(request.headers(), id.as_ref()).await?;

    let (mut parts, body) = request.into_parts();
    let body = Bytes::from_request(Request::from_parts(parts.clone(), body), &()).await.map_err(buffered)?;
    let hash = hash(&parts, &body);
    match idempotency::begin(&api.app, &caller, &key, &hash).await? {
        Once::Answered { status, body } => return Ok(replay(status, body)),
        Once::Go => {}
    }
    let shown_once = parts.uri.path() == "/v1/keys";
    parts.extensions.insert(caller.clone());
    let work = carry_out(api, next, Request::from_parts(parts, Body::from(body)), caller, key, shown_once);
    tokio::spawn(work).await.map_err(|_| ApiError::Panicked)
}

/// What makes two requests the same one.
fn hash(parts: &http::request::Parts, body: &Bytes) -> [u8; 32] {
    let mut hash = Sha256::new();
    let condition = parts.headers.get(http::header::IF_MATCH).map_or(&b""[..], http::HeaderValue::as_bytes);
    for part in [parts.method.as_str().as_bytes(), parts.uri.to_string().as_bytes(), condition, body.as_ref()] {
        // Lengths first, so that no part can pretend to be the end of the one before.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

async fn carry_out(api: Api, next: Next, request: Request, caller: Caller, key: String, shown_once: bool) -> Response {
    let guarded = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(next.run(request)));
    let response = guarded.await.unwrap_or_else(|_| ApiError::Panicked.into_response());
    let (response, answer) = kept(response, shown_once).await;
    let answer = answer.as_ref().map(|(status, body)| (*status, body));
    if let Err(error) = idempotency::finish(&api.app, &caller, &key, answer).await {
        // The work is done and the caller is told so; only a second sending of it is not recognised.
        warn!(cause = error.full(), "the answer of a request could not be kept: {}", error.full());
    }
    response
}

/// The response again, and what of it is kept. Refusals are not: nothing was carried out, so a next try may.
async fn kept(response: Response, shown_once: bool) -> (Response, Option<(u16, Value)>) {
    if !response.status().is_success() {
        return (response, None);
    }
    let (parts, body) = response.into_parts();
    let status = parts.status.as_u16();
    let Ok(bytes) = axum::body::to_bytes(body, 8 * BODY_BYTES_MAX).await else {
        return (ApiError::Panicked.into_response(), None);
    };
    let value = if shown_once { shown_already() } else { serde_json::from_slice(&bytes).unwrap_or(Value::Null) };
    let status = if shown_once { StatusCode::CONFLICT.as_u16() } else { status };
    (Response::from_parts(parts, Body::from(bytes)), Some((status, value)))
}

/// A key is shown once, also to who asks twice: its text is stored nowhere.
fn shown_already() -> Value {
    let problem = Problem {
        r#type: "urn:berth:problem:key_shown_already".to_owned(),
        title: "Conflict".to_owned(),
        status: StatusCode::CONFLICT.as_u16(),
        detail: "this request has made a key already, which was shown in its first answer".to_owned(),
        code: "key_shown_already".to_owned(),
        hint: Some("revoke that key and make another".to_owned()),
        retryable: false,
        request_id: String::new(),
        operation: None,
    };
    json!(problem)
}

fn replay(status: u16, body: Value) -> Response {
    if status < 400 {
        return answer::kept(status, body);
    }
    match serde_json::from_value::<Problem>(body) {
        Ok(problem) => Refusal(problem).into_response(),
        Err(error) => ApiError::from(ControlError::from(error)).into_response(),
    }
}
