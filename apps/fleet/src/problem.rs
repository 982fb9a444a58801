//! Every answer that is not a success: RFC 9457 problems, and how a database error becomes one.
//!
//! Callers see only text written for them; what the database said goes to the log.

use axum::response::{IntoResponse, Response};
use deadpool_postgres::PoolError;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio_postgres::error::DbError;

/// Tells the edge which generation took the tenant over, so that it sends the request there instead.
static FENCED: HeaderName = HeaderName::from_static("berth-fenced");

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("the header `Berth-Tenant` is missing")]
    NoTenant,
    #[error("the header `Berth-Tenant` is not a UUID")]
    BadTenant,
    #[error("the request did not come through the edge: {0}")]
    Unproved(&'static str),
    #[error("there is no such tenant here")]
    UnknownTenant,
    #[error("the body is not what this path takes: {0}")]
    Malformed(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("{0}")]
    Conflict(&'static str),
    #[error("this tenant has no such {0}")]
    NotFound(&'static str),
    #[error("there is no such path")]
    NoSuchPath,
    #[error("this path does not take that method")]
    NoSuchMethod,
    #[error("the plan allows {limit} {what}, and they are used{}", again(*.resets_at))]
    Spent { what: &'static str, limit: u64, resets_at: Option<jiff::Timestamp> },
    /// Nothing was committed: the tenant's writes belong to another database now.
    #[error("the tenant moved to generation {generation}")]
    Fenced { generation: u64 },
    /// The connection may have been lost on the way back from a commit, so this promises nothing.
    #[error("the database cannot be reached; whether the request took effect is not known")]
    DatabaseLost,
    #[error("the database refused for now; nothing was changed")]
    Busy,
    #[error("something broke here; it is in the log")]
    Internal,
}

impl Problem {
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoTenant => (StatusCode::BAD_REQUEST, "no_tenant"),
            Self::BadTenant => (StatusCode::BAD_REQUEST, "bad_tenant"),
            Self::Unproved(_) => (StatusCode::FORBIDDEN, "unproved"),
            Self::UnknownTenant => (StatusCode::NOT_FOUND, "unknown_tenant"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no_such_path"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "no_such_method"),
            Self::Spent { .. } => (StatusCode::FORBIDDEN, "quota_spent"),
            Self::Fenced { .. } => (StatusCode::SERVICE_UNAVAILABLE, "fenced"),
            Self::DatabaseLost => (StatusCode::SERVICE_UNAVAILABLE, "database_lost"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

fn again(resets_at: Option<jiff::Timestamp>) -> String {
    resets_at.map(|at| format!("; more can be sent from {at} on")).unwrap_or_default()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code) = self.kind();
        let body = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "code": code,
            "detail": self.to_string(),
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Self::Fenced { generation } = self {
            headers.insert(FENCED.clone(), HeaderValue::from(generation));
        }
        if let Self::Busy = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        (status, headers, body.to_string()).into_response()
    }
}

impl From<PoolError> for Problem {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => {
                tracing::warn!(error = %other, "no database connection to be had");
                Self::DatabaseLost
            }
        }
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            tracing::warn!(%error, "the database connection failed");
            return Self::DatabaseLost;
        };
        match refusal.code().code() {
            "BF001" => match generation_in(refusal) {
                Some(generation) => Self::Fenced { generation },
                // Refused for sure, but nobody can say where to: the caller may try again, the edge may not.
                None => Self::Busy,
            },
            "23505" => Self::Conflict("a row with these unique values exists already"),
            "23503" => Self::Invalid("it refers to something that this tenant does not have".into()),
            code if code.starts_with("23") || code.starts_with("22") => {
                Self::Invalid("a value is outside of what its column takes".into())
            }
            // Deadlock, serialisation, statement and lock timeout, out of connections.
            "40001" | "40P01" | "57014" | "55P03" | "53300" => Self::Busy,
            code if code.starts_with("57P") || code.starts_with("08") => {
                tracing::warn!(%error, "the database went away");
                Self::DatabaseLost
            }
            _ => {
                tracing::error!(code = refusal.code().code(), %error, "the database refused a statement of ours");
                Self::Internal
            }
        }
    }
}

/// The generation that took over: `generation=N` in the detail, or the last word of "… moved to generation N".
fn generation_in(refusal: &DbError) -> Option<u64> {
    let digits = |text: &str, before: &str| {
        let (_, after) = text.rsplit_once(before)?;
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        after[..end].parse().ok()
    };
    refusal
        .detail()
        .and_then(|detail| digits(detail, "generation="))
        .or_else(|| digits(refusal.message(), "moved to generation "))
}
