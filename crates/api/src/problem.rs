//! Errors as callers see them: RFC 9457. Whose fault it is picks the status; nothing that was not written for callers
//! gets out.

use axum::response::{IntoResponse, Response};
use berth_control::{ControlError, Kind};
use berth_wire::Problem;
use http::{HeaderValue, StatusCode, header};
use std::collections::BTreeMap;
use tracing::error;
use utoipa::{
    IntoResponses, ToSchema as _,
    openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, response::Response as Described},
};

pub type ApiResult<T> = Result<T, ApiError>;

/// What a handler can answer besides yes.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("this needs a key")]
    NoKey,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("the body is not what this takes: {0}")]
    BadBody(String),
    #[error("the body is not `application/json`")]
    NotJsonType,
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive whole")]
    BrokenBody,
    #[error("the query is not what this takes: {0}")]
    BadQuery(String),
    #[error("`{0}` is not a cursor of this list")]
    BadCursor(String),
    #[error("the path is not text")]
    BadPath,
    #[error("there is nothing at this path")]
    NoPath,
    #[error("this path does not take that method")]
    NoMethod,
    #[error("`{0}` is not the `If-Match` of an answer of ours")]
    BadIfMatch(String),
    #[error("an `Idempotency-Key` is 1 to 200 printable characters")]
    BadIdempotencyKey,
    #[error("there was no answer within {0} s")]
    TooSlow(u64),
    #[error("this request ended a handler")]
    Panicked,
}

impl ApiError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Control(error) => match error.kind() {
                Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
                Kind::Forbidden => StatusCode::FORBIDDEN,
                Kind::NotFound => StatusCode::NOT_FOUND,
                Kind::Conflict | Kind::Full => StatusCode::CONFLICT,
                Kind::Stale => StatusCode::PRECONDITION_FAILED,
                Kind::Provider => StatusCode::BAD_GATEWAY,
                Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                Kind::Ours => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::NoKey => StatusCode::UNAUTHORIZED,
            Self::NotJson(_) | Self::BrokenBody | Self::BadPath | Self::BadIdempotencyKey | Self::BadIfMatch(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::BadBody(_) | Self::BadQuery(_) | Self::BadCursor(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotJsonType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoPath => StatusCode::NOT_FOUND,
            Self::NoMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Control(error) => error.code(),
            Self::NoKey => "no_key_sent",
            Self::NotJson(_) => "not_json",
            Self::BadBody(_) => "bad_body",
            Self::NotJsonType => "not_json_type",
            Self::TooLarge(_) => "too_large",
            Self::BrokenBody => "broken_body",
            Self::BadQuery(_) => "bad_query",
            Self::BadCursor(_) => "bad_cursor",
            Self::BadPath => "bad_path",
            Self::NoPath => "no_path",
            Self::NoMethod => "no_method",
            Self::BadIfMatch(_) => "bad_if_match",
            Self::BadIdempotencyKey => "bad_idempotency_key",
            Self::TooSlow(_) => "too_slow",
            Self::Panicked => "internal",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Control(error) => return error.hint(),
            Self::NoKey => "send `Authorization: Bearer bk_…`; `berth key create` makes one",
            Self::NotJson(_) | Self::BadBody(_) | Self::BadQuery(_) | Self::NoPath | Self::NoMethod => {
                "`GET /v1/openapi.json` describes every request"
            }
            Self::NotJsonType => "send `Content-Type: application/json`",
            Self::TooLarge(_) => "send less at once",
            Self::BadCursor(_) => "pass on the `next` of the page before, unchanged",
            Self::BadIfMatch(_) => "send the `ETag` of the answer that was edited, quotes included",
            Self::TooSlow(_) => "a write goes on: look with `berth operation list` before sending it again",
            Self::BrokenBody | Self::BadPath | Self::BadIdempotencyKey | Self::Panicked => return None,
        };
        Some(text.to_owned())
    }

    fn retryable(&self) -> bool {
        match self {
            Self::Control(error) => error.retryable(),
            Self::TooSlow(_) | Self::BrokenBody => true,
            _ => false,
        }
    }

    /// For callers. Our own faults are logged in full and told as what they are, without their insides.
    fn detail(&self) -> String {
        match self {
            Self::Control(error) if error.kind() == Kind::Ours => {
                "something went wrong in this server; its log names this request".to_owned()
            }
            Self::Control(error) if error.kind() == Kind::Unavailable && error.code() != "world_ahead" => {
                "the control database does not answer".to_owned()
            }
            Self::Control(error) => error.full(),
            Self::Panicked => "something went wrong in this server; its log names this request".to_owned(),
            other => other.to_string(),
        }
    }

    fn problem(&self) -> Problem {
        let status = self.status();
        Problem {
            r#type: format!("urn:berth:problem:{}", self.code()),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            code: self.code().to_owned(),
            hint: self.hint(),
            retryable: self.retryable(),
            request_id: String::new(),
            operation: match self {
                Self::Control(error) => error.operation(),
                _ => None,
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Control(cause) = &self
            && matches!(cause.kind(), Kind::Ours | Kind::Unavailable)
        {
            error!(code = cause.code(), cause = cause.full(), "a request failed: {}", cause.full());
        }
        Refusal(self.problem()).into_response()
    }
}

/// A problem on its way out: the outermost layer writes it, because only that knows the request's id.
#[derive(Clone, Debug)]
pub struct Refusal(pub Problem);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.0.retryable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// In descriptions: any refusal looks like this.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let refusal = |what: &str| {
            RefOr::T(
                ResponseBuilder::new().description(what).content("application/problem+json", content.clone()).build(),
            )
        };
        BTreeMap::from([
            ("4XX".to_owned(), refusal("The request cannot be carried out; `code` says why, `hint` what to do.")),
            ("5XX".to_owned(), refusal("Not the caller's fault; `retryable` says whether another try may help.")),
        ])
    }
}
