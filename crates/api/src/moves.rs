//! `/v1/moves`, and a tenant's own: what one would do, to start one, what they did.

use crate::{
    Api,
    answer::Accepted,
    auth::By,
    extract::{Body, Path, Query, page},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, ReadTenant, moves, ways_back};
use berth_domain::OperationId;
use berth_wire::{Move, MovePlan, Operation, Page, TenantMove};
use serde::Deserialize;

/// What a move would do, and what is in its way. Changes nothing.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/plan-move", tag = "moves", request_body = TenantMove,
    params(("tenant" = String, Path)), responses((status = 200, body = MovePlan), Problems))]
pub async fn plan(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(wanted): Body<TenantMove>,
) -> ApiResult<Json<MovePlan>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(moves::plan(&api.app, &permit, &who, wanted.to.as_ref()).await?))
}

/// Moves a tenant to another cell while its users keep working.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/moves", tag = "moves", request_body = TenantMove,
    params(("tenant" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn start(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Body(wanted): Body<TenantMove>,
) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(moves::start(&api.app, &permit, &who, wanted.to.as_ref()).await?))
}

/// Undoes a tenant's last move: it goes back to its old cell with everything that was written since.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/undo-move", tag = "moves",
    params(("tenant" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 202, body = Operation), Problems))]
pub async fn undo(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Accepted> {
    let permit = caller.may(Change)?;
    Ok(Accepted(ways_back::undo(&api.app, &permit, &who).await?))
}

/// Settles a tenant's last move: it cannot be undone any more, and what it left in the old cell goes now.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/settle-move", tag = "moves",
    params(("tenant" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Carried out once under one key.")),
    responses((status = 200, body = Move), Problems))]
pub async fn settle(State(api): State<Api>, By(caller): By, Path(who): Path<String>) -> ApiResult<Json<Move>> {
    let permit = caller.may(Change)?;
    Ok(Json(ways_back::settle(&api.app, &permit, &who).await?))
}

/// Which moves, and how many.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listed {
    /// Only those of this tenant, by name or id.
    tenant: Option<String>,
    /// How many at most.
    #[serde(default = "page::usual")]
    #[param(minimum = 1, maximum = 200)]
    limit: u32,
}

/// The last moves, newest first.
#[utoipa::path(get, path = "/v1/moves", tag = "moves", params(Listed),
    responses((status = 200, body = Page<Move>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(wanted): Query<Listed>) -> ApiResult<Json<Page<Move>>> {
    let permit = caller.may(Read)?;
    Ok(Json(moves::list(&api.app, &permit, wanted.tenant.as_deref(), page::limited(wanted.limit)).await?))
}

/// One move with its figures.
#[utoipa::path(get, path = "/v1/moves/{move}", tag = "moves", params(("move" = String, Path, format = Uuid)),
    responses((status = 200, body = Move), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Path(id): Path<OperationId>) -> ApiResult<Json<Move>> {
    let permit = caller.may(Read)?;
    Ok(Json(moves::show(&api.app, &permit, id).await?))
}
