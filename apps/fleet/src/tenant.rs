//! Whose request this is: the header that the edge sets, and nothing else.
//!
//! A body or a query never names a tenant; a body that tries is refused for its unknown field. With a key the header is
//! believed only when the edge has signed it.

use axum::extract::FromRequestParts;
use http::request::Parts;
use uuid::Uuid;

use crate::{problem::Problem, server::App, signature::ThroughEdge};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant(pub Uuid);

impl FromRequestParts<App> for Tenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        ThroughEdge::from_request_parts(parts, app).await?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(generation) = header("berth-generation").and_then(|text| text.parse().ok()) {
            app.saw_generation(generation);
        }
        let text = header("berth-tenant").ok_or(Problem::NoTenant)?;
        Uuid::try_parse(text).map(Tenant).map_err(|_| Problem::BadTenant)
    }
}
