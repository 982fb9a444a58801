//! `/v1/audit`: who changed what, and when.

use crate::{
    Api,
    auth::By,
    extract::{Query, page},
    problem::{ApiError, ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Read, audit};
use berth_wire::{AuditEntry, Page};
use serde::Deserialize;

/// Which entries, and how many.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// Only what was done to this tenant, by its name.
    tenant: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// How many at most.
    #[serde(default = "page::usual")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

/// Every change, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Listed),
    responses((status = 200, body = Page<AuditEntry>), Problems))]
pub async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(wanted): Query<Listed>,
) -> ApiResult<Json<Page<AuditEntry>>> {
    let permit = caller.may(Read)?;
    let after = wanted.after.map(|text| text.parse().map_err(|_| ApiError::BadCursor(text))).transpose()?;
    let limit = page::limited(wanted.limit);
    Ok(Json(audit::list(&api.app, &permit, wanted.tenant.as_deref(), after, limit).await?))
}
