//! What is taken from a request, with refusals that say what was wrong and where.

use crate::problem::ApiError;
use axum::extract::{
    FromRequest, FromRequestParts, Request,
    rejection::{BytesRejection, FailedToBufferBody, JsonRejection},
};
use bytes::Bytes;
use http::{HeaderMap, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest body: a stack file with all its hook files fits a few times over.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let json = request.headers().get(header::CONTENT_TYPE).is_some_and(is_json);
        let bytes = Bytes::from_request(request, state).await.map_err(buffered)?;
        if !json {
            return Err(ApiError::NotJsonType);
        }
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be left out.
pub struct MaybeBody<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(buffered)?;
        if bytes.is_empty() { Ok(Self(T::default())) } else { parse(&bytes).map(Self) }
    }
}

fn is_json(value: &http::HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let axum::Json(value) = axum::Json::<T>::from_bytes(bytes).map_err(|rejection| match rejection {
        JsonRejection::JsonDataError(error) => ApiError::BadBody(own_words(&error.body_text())),
        JsonRejection::JsonSyntaxError(error) => ApiError::NotJson(own_words(&error.body_text())),
        other => ApiError::NotJson(own_words(&other.body_text())),
    })?;
    // Postgres stores no NUL in text, and no name of ours has one. Looked for only where it can be.
    if bytes.windows(6).any(|six| six == br"\u0000")
        && serde_json::from_slice::<Value>(bytes).is_ok_and(|value| has_nul(&value))
    {
        return Err(ApiError::BadBody("text holds the character U+0000".to_owned()));
    }
    Ok(value)
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Without the library's preface.
fn own_words(text: &str) -> String {
    const PREFACES: [&str; 2] =
        ["Failed to deserialize the JSON body into the target type: ", "Failed to parse the request body as JSON: "];
    PREFACES.iter().find_map(|preface| text.strip_prefix(preface)).unwrap_or(text).to_owned()
}

/// What went wrong while a body was read.
pub fn buffered(rejection: BytesRejection) -> ApiError {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => {
            ApiError::TooLarge(BODY_BYTES_MAX)
        }
        _ => ApiError::BrokenBody,
    }
}

/// The query, of which every key is known.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(ApiError::BadQuery("text holds the character U+0000".to_owned()));
        }
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| {
                let text = rejection.body_text();
                ApiError::BadQuery(
                    text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text).to_owned(),
                )
            })
    }
}

/// The path's parts. One that does not parse names nothing that exists.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        use axum::extract::{path::ErrorKind, rejection::PathRejection};
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error))
                if !matches!(error.kind(), ErrorKind::InvalidUtf8InPathParam { .. }) =>
            {
                Err(ApiError::NoPath)
            }
            Err(_) => Err(ApiError::BadPath),
        }
    }
}

/// `If-Match`: the version that the change rests on. `*` and absence rest on none.
pub struct IfMatch(pub Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        version(&parts.headers, &header::IF_MATCH).map(Self)
    }
}

fn version(headers: &HeaderMap, name: &header::HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::BadIfMatch("?".to_owned()))?.trim();
    if text == "*" {
        return Ok(None);
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.and_then(|digits| digits.parse().ok()).map(Some).ok_or_else(|| ApiError::BadIfMatch(text.to_owned()))
}

/// How much of a list, and from where.
pub mod page {
    /// Items of a page unless asked for another number.
    pub const fn usual() -> u32 {
        100
    }

    /// More than this come in the next page.
    pub const MOST: u32 = 200;

    pub fn limited(wanted: u32) -> u32 {
        wanted.clamp(1, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::{has_nul, parse, version};
    use bytes::Bytes;
    use http::{HeaderMap, header::IF_MATCH};

    #[test]
    fn a_nul_is_found_wherever_it_hides_and_nowhere_else() {
        for bad in [r#"{"a":"\u0000"}"#, r#"{"a":["b",{"c\u0000":1}]}"#] {
            assert!(has_nul(&serde_json::from_str(bad).unwrap()), "{bad}");
            assert!(parse::<serde_json::Value>(&Bytes::from_static(bad.as_bytes())).is_err(), "{bad}");
        }
        let escaped = br#"{"a":"\\u0000"}"#;
        assert!(parse::<serde_json::Value>(&Bytes::from_static(escaped)).is_ok());
    }

    #[test]
    fn if_match_is_a_quoted_version() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_MATCH, text.parse().unwrap());
            version(&headers, &IF_MATCH)
        };
        assert_eq!(of("\"7\"").unwrap(), Some(7));
        assert_eq!(of("*").unwrap(), None);
        for bad in ["7", "W/\"7\"", "\"x\"", "\"-1\"", "\""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
