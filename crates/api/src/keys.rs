//! `/v1/keys`: who may do what. A key is shown in one answer and in no other.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, keys};
use berth_domain::KeyId;
use berth_wire::{Key, KeyCreate, KeyCreated, Page};
use http::StatusCode;

/// All keys, without their secrets. Always the whole list.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(Whole),
    responses((status = 200, body = Page<Key>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(_): Query<Whole>) -> ApiResult<Json<Page<Key>>> {
    let permit = caller.may(Read)?;
    Ok(Json(keys::list(&api.app, &permit).await?))
}

/// Makes a key and shows it, this once.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = KeyCreate,
    params(("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 201, body = KeyCreated), Problems))]
pub async fn create(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<KeyCreate>,
) -> ApiResult<(StatusCode, Json<KeyCreated>)> {
    let permit = caller.may(Change)?;
    Ok((StatusCode::CREATED, Json(keys::create(&api.app, &permit, &wanted).await?)))
}

/// Ends a key: at this server at once, at others within seconds.
#[utoipa::path(delete, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path, format = Uuid)),
    responses((status = 200, body = Key), Problems))]
pub async fn revoke(State(api): State<Api>, By(caller): By, Path(id): Path<KeyId>) -> ApiResult<Json<Key>> {
    let permit = caller.may(Change)?;
    let revoked = keys::revoke(&api.app, &permit, id).await?;
    api.forget_callers();
    Ok(Json(revoked))
}
