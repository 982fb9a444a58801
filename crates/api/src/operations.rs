//! `/v1/operations`: long work, listed, followed, retried, abandoned.

use crate::{
    Api,
    auth::By,
    extract::{MaybeBody, Path, Query, page},
    problem::{ApiError, ApiResult, Problems},
};
use axum::{
    Json,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use berth_control::{
    Change, ControlError, ReadTenant,
    operations::{self, OperationFilter},
};
use berth_domain::{CellName, OperationId, OperationState, TenantName};
use berth_wire::{Abandon, Operation, OperationEvent, Page};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;

/// Which operations, and how many.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// Only those about this tenant.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only those about this cell.
    #[param(value_type = Option<String>)]
    cell: Option<CellName>,
    /// Only those in this state.
    #[param(value_type = Option<String>)]
    state: Option<OperationState>,
    /// Only those that are not at their end.
    #[serde(default)]
    open: bool,
    /// The `next` of the page before.
    after: Option<String>,
    /// How many at most.
    #[serde(default = "page::usual")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

/// Operations without their steps, newest first.
#[utoipa::path(get, path = "/v1/operations", tag = "operations", params(Listed),
    responses((status = 200, body = Page<Operation>), Problems))]
pub async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(wanted): Query<Listed>,
) -> ApiResult<Json<Page<Operation>>> {
    let permit = caller.may(ReadTenant)?;
    let after = wanted.after.map(|text| text.parse().map_err(|_| ApiError::BadCursor(text))).transpose()?;
    let filter = OperationFilter {
        tenant: wanted.tenant,
        cell: wanted.cell,
        state: wanted.state,
        open: wanted.open,
        after,
        limit: page::limited(wanted.limit),
    };
    Ok(Json(operations::list(&api.app, &permit, &filter).await?))
}

/// One operation with its steps.
#[utoipa::path(get, path = "/v1/operations/{operation}", tag = "operations",
    params(("operation" = String, Path, format = Uuid)),
    responses((status = 200, body = Operation), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(id): Path<OperationId>) -> ApiResult<Json<Operation>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(operations::show(&api.app, &permit, id).await?))
}

/// The operation now, and again whenever it changes, until it is at its end: server-sent events, each with an
/// `OperationEvent` as its data.
#[utoipa::path(get, path = "/v1/operations/{operation}/events", tag = "operations",
    params(("operation" = String, Path, format = Uuid)),
    responses((status = 200, body = OperationEvent, content_type = "text/event-stream"), Problems))]
pub async fn events(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<OperationId>,
) -> ApiResult<Sse<impl Stream<Item = Result<Event, ControlError>>>> {
    let permit = caller.may(ReadTenant)?;
    let changes = operations::watch(&api.app, &permit, id).await?;
    let events = changes.map(|change| {
        let change = change?;
        let data = serde_json::to_string(&change)?;
        Ok(Event::default().event("operation").data(data))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Tries a stuck operation again, or one that waits for its next try.
#[utoipa::path(post, path = "/v1/operations/{operation}/retry", tag = "operations",
    params(("operation" = String, Path, format = Uuid)),
    responses((status = 200, body = Operation), Problems))]
pub async fn retry(State(api): State<Api>, By(caller): By, Path(id): Path<OperationId>) -> ApiResult<Json<Operation>> {
    let permit = caller.may(Change)?;
    Ok(Json(operations::retry(&api.app, &permit, id).await?))
}

/// Gives an operation up: what was done is undone, as far as it can be.
#[utoipa::path(post, path = "/v1/operations/{operation}/abandon", tag = "operations", request_body = Option<Abandon>,
    params(("operation" = String, Path, format = Uuid)),
    responses((status = 200, body = Operation), Problems))]
pub async fn abandon(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<OperationId>,
    MaybeBody(wanted): MaybeBody<Option<Abandon>>,
) -> ApiResult<Json<Operation>> {
    let permit = caller.may(Change)?;
    let Abandon { reason, force } = wanted.unwrap_or_default();
    Ok(Json(operations::abandon(&api.app, &permit, id, reason.as_deref(), force).await?))
}
