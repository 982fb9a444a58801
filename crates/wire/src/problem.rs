//! How every error looks: RFC 9457, with the fields that let a program and a person act on it.

use crate::schema;
use berth_domain::OperationId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:berth:problem:CODE`.
    pub r#type: String,
    /// The HTTP status in words.
    pub title: String,
    pub status: u16,
    /// What is wrong, for a person.
    pub detail: String,
    /// What is wrong, for a program. Never changes its meaning.
    pub code: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The same request may succeed later without any change.
    pub retryable: bool,
    /// Names this request in the server's log. Also in the header `X-Request-Id`.
    pub request_id: String,
    /// The operation that this is about, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::id)]
    pub operation: Option<OperationId>,
}
