//! `/v1/tenants/{tenant}/archives`: a tenant's rows as files; `/v1/imports`: back from files that somebody brings; and
//! erasures.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::{Body as JsonBody, Path},
    problem::{ApiResult, Problems},
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use berth_control::{Change, Read, ReadTenant, archives, erasures, imports};
use berth_domain::OperationId;
use berth_wire::{Archive, Erasure, ImportPlan, Operation, Page, TenantImport};
use http::header;
use serde_json::{Value, json};

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

/// One file of an archive, as it lies there; `manifest.json` says what is in the others.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/archives/{archive}/files/{file}", tag = "archives",
    params(("tenant" = String, Path), ("archive" = String, Path, format = Uuid), ("file" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), Problems))]
pub async fn file(
    State(api): State<Api>,
    By(caller): By,
    Path((who, archive, file)): Path<(String, OperationId, String)>,
) -> ApiResult<Response> {
    let permit = caller.may(ReadTenant)?;
    let (length, content) = archives::file(&api.app, &permit, &who, archive, &file).await?;
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, Body::from_stream(content)).into_response())
}

/// Brings one file of an archive that is to be imported, under an id of the caller's choice; `manifest.json` last.
#[utoipa::path(put, path = "/v1/imports/{archive}/files/{file}", tag = "archives",
    params(("archive" = String, Path, format = Uuid), ("file" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Value), Problems))]
pub async fn take_file(
    State(api): State<Api>,
    By(caller): By,
    Path((archive, file)): Path<(OperationId, String)>,
    request: Request,
) -> ApiResult<Json<Value>> {
    let permit = caller.may(Change)?;
    // As long as it is: it goes to the place of archives as it comes, and never into memory as a whole.
    let content = request.into_body().into_data_stream();
    let bytes = imports::take_file(&api.app, &permit, archive, &file, content).await?;
    Ok(Json(json!({ "bytes": bytes })))
}

/// Forgets what was brought under this id.
#[utoipa::path(delete, path = "/v1/imports/{archive}", tag = "archives",
    params(("archive" = String, Path, format = Uuid)), responses((status = 200, body = Value), Problems))]
pub async fn forget_files(
    State(api): State<Api>,
    By(caller): By,
    Path(archive): Path<OperationId>,
) -> ApiResult<Json<Value>> {
    let permit = caller.may(Change)?;
    let files = imports::forget_files(&api.app, &permit, archive).await?;
    Ok(Json(json!({ "files": files })))
}

/// What an import would bring, and where. Changes nothing.
#[utoipa::path(post, path = "/v1/imports/plan", tag = "archives", request_body = TenantImport,
    responses((status = 200, body = ImportPlan), Problems))]
pub async fn plan_import(
    State(api): State<Api>,
    By(caller): By,
    JsonBody(wanted): JsonBody<TenantImport>,
) -> ApiResult<Json<ImportPlan>> {
    let permit = caller.may(Change)?;
    Ok(Json(imports::plan(&api.app, &permit, &wanted).await?))
}

/// An archive of everything becomes a tenant, under the key that it had.
#[utoipa::path(post, path = "/v1/imports", tag = "archives", request_body = TenantImport,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn import(
    State(api): State<Api>,
    By(caller): By,
    JsonBody(wanted): JsonBody<TenantImport>,
) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(imports::start(&api.app, &permit, wanted).await?))
}

/// What an erasure would remove, and what it would keep. Changes nothing.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/plan-erase", tag = "archives", params(("tenant" = String, Path)),
    responses((status = 200, body = Erasure), Problems))]
pub async fn plan_erase(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Erasure>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(erasures::plan(&api.app, &permit, &who).await?))
}

/// Erases a tenant with everything that is known of it. There is no way back.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/erase", tag = "archives",
    params(("tenant" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn erase(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(erasures::start(&api.app, &permit, &who).await?))
}

/// The documents of erasures, newest first.
#[utoipa::path(get, path = "/v1/erasures", tag = "archives", responses((status = 200, body = Page<Erasure>), Problems))]
pub async fn erasures(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Page<Erasure>>> {
    let permit = caller.may(Read)?;
    Ok(Json(erasures::list(&api.app, &permit).await?))
}
