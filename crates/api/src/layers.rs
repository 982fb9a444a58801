//! What every request passes, outermost first: id, count, time limit, size limit, once-only writes, handler.

use crate::{
    Api,
    auth::RequestId,
    extract::BODY_BYTES_MAX,
    once,
    problem::{ApiError, Refusal},
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderValue, header};
use std::{panic::AssertUnwindSafe, sync::LazyLock, time::Duration};
use tracing::error;
use uuid::Uuid;

/// Until a handler must have answered. Streams begin to answer at once and then live as long as they are read.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);
/// The same for a handler that takes a file in: as long as a large one takes over a slow line.
const FILE_LIMIT: Duration = Duration::from_hours(6);
const ID_HEADER: &str = "x-request-id";
static OWN_VERSION: LazyLock<HeaderValue> = LazyLock::new(|| {
    let own = berth_domain::Version::own().to_string();
    own.try_into().expect("a version is letters, digits, dots and dashes")
});

pub fn around(router: Router<Api>, api: &Api) -> Router {
    router
        .fallback(async || ApiError::NoPath)
        .method_not_allowed_fallback(async || ApiError::NoMethod)
        .layer(middleware::from_fn_with_state(api.clone(), once::layer))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(api.clone(), outermost))
        .with_state(api.clone())
}

async fn outermost(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    request.extensions_mut().insert(RequestId(id.clone()));
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let takes_a_file = path.as_deref().is_some_and(|path| path.ends_with("/files/{file}"));
    let limit = if takes_a_file { FILE_LIMIT } else { ANSWER_LIMIT };
    // A handler that panics ends its own request and nobody else's.
    let guarded = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(limit, guarded).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            error!(request.id = id, path, "a handler panicked in request {id}");
            ApiError::Panicked.into_response()
        }
        Err(_) => ApiError::TooSlow(limit.as_secs()).into_response(),
    };
    api.counters.count(response.status());
    finished(response, &id)
}

/// The caller's own id when it is one that a log line can hold, else a new one.
fn request_id(request: &Request) -> String {
    let fits = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let given = request.headers().get(ID_HEADER).and_then(|value| value.to_str().ok()).filter(fits);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Writes a problem out, now that its request's id is known, and says the id in any case.
fn finished(mut response: Response, id: &str) -> Response {
    if let Some(Refusal(mut problem)) = response.extensions_mut().remove::<Refusal>() {
        id.clone_into(&mut problem.request_id);
        let (parts, _) = response.into_parts();
        let (status, headers) = (parts.status, parts.headers);
        response = (status, Json(problem)).into_response();
        for (name, value) in &headers {
            if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                response.headers_mut().append(name, value.clone());
            }
        }
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    let headers = response.headers_mut();
    headers.insert(berth_wire::VERSION, OWN_VERSION.clone());
    headers.insert(ID_HEADER, HeaderValue::from_str(id).expect("an id is letters, digits, dots and dashes"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
