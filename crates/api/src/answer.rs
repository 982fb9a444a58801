//! The shapes of answers that carry more than a body.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use berth_wire::{Operation, Tenant, TenantLimits};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

/// 202: the operation that does it, and where to follow it.
pub struct Accepted(pub Operation);

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = format!("/v1/operations/{}", self.0.id);
        let location = HeaderValue::from_str(&location).expect("an id is letters, digits and dashes");
        (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(self.0)).into_response()
    }
}

/// 200 with the version that an edit may rest on.
pub struct Tagged<T = Tenant>(pub T);

/// What an edit may rest on.
pub trait Versioned: serde::Serialize {
    fn version(&self) -> u64;
}

impl Versioned for Tenant {
    fn version(&self) -> u64 {
        self.version
    }
}

impl Versioned for TenantLimits {
    fn version(&self) -> u64 {
        self.version
    }
}

impl<T: Versioned> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(header::ETAG, tag(self.0.version()))], Json(self.0)).into_response()
    }
}

fn tag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header value")
}

/// An answer that was kept, given once more: the body and the headers that follow from it.
pub fn kept(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let version = body.get("version").and_then(Value::as_u64);
    let operation = body.get("id").and_then(Value::as_str).filter(|_| status == StatusCode::ACCEPTED);
    let location = operation.and_then(|id| HeaderValue::from_str(&format!("/v1/operations/{id}")).ok());
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    if let Some(version) = version {
        headers.insert(header::ETAG, tag(version));
    }
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}
