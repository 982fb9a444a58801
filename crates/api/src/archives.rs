//! `/v1/tenants/{tenant}/archives`: a tenant's rows as files.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::Path,
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, ReadTenant, archives};
use berth_domain::OperationId;
use berth_wire::{Archive, Operation, Page};

/// A tenant's archives, oldest first.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/archives", tag = "archives",
    params(("tenant" = String, Path)), responses((status = 200, body = Page<Archive>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Page<Archive>>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(archives::list(&api.app, &permit, &who).await?))
}

/// Archives all of a tenant's rows, as they are at one moment. The archive has the operation's id.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/archives", tag = "archives",
    params(("tenant" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn export(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(archives::export(&api.app, &permit, &who).await?))
}

/// Brings an archive's rows back into the tenant's cell. Rows that are there already stay as they are.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/archives/{archive}/restore", tag = "archives",
    params(("tenant" = String, Path), ("archive" = String, Path, format = Uuid),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn restore(
    State(api): State<Api>,
    By(caller): By,
    Path((who, archive)): Path<(String, OperationId)>,
) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(archives::restore(&api.app, &permit, &who, archive).await?))
}
