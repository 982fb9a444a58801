//! `/v1/hosts`: hosts that tenants have and claim, and their proof.

use crate::{
    Api,
    auth::By,
    extract::{Body, MaybeBody, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, hosts};
use berth_domain::TenantHost;
use berth_wire::{Host, HostAdd, HostVerify, Page};
use http::StatusCode;
use serde::Deserialize;

/// Whose hosts.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// Name or id.
    tenant: Option<String>,
    /// The list is always whole.
    #[serde(rename = "limit")]
    #[param(minimum = 1, maximum = 200)]
    _limit: Option<u32>,
}

/// Whose host.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Of {
    /// Name or id; where one tenant alone has or claims the host it may be left out.
    tenant: Option<String>,
}

/// Hosts that tenants have and claim, with what proves those that are not proved. Always the whole list.
#[utoipa::path(get, path = "/v1/hosts", tag = "hosts", params(Whose),
    responses((status = 200, body = Page<Host>), Problems))]
pub async fn list(State(api): State<Api>, By(caller): By, Query(whose): Query<Whose>) -> ApiResult<Json<Page<Host>>> {
    let permit = caller.may(Read)?;
    Ok(Json(Page::whole(hosts::list(&api.app, &permit, whose.tenant.as_deref()).await?)))
}

/// Says that a host is a tenant's. One of the stack's own is routed from now on; any other when it is proved.
#[utoipa::path(post, path = "/v1/hosts", tag = "hosts", request_body = HostAdd,
    responses((status = 201, body = Host), Problems))]
pub async fn add(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<HostAdd>,
) -> ApiResult<(StatusCode, Json<Host>)> {
    let permit = caller.may(Change)?;
    Ok((StatusCode::CREATED, Json(hosts::add(&api.app, &permit, &wanted).await?)))
}

/// Looks for a proof now. With one the host is routed to the tenant, whoever had it before; without one it is 409.
#[utoipa::path(post, path = "/v1/hosts/{host}/verify", tag = "hosts", request_body = Option<HostVerify>,
    params(("host" = String, Path)), responses((status = 200, body = Host), Problems))]
pub async fn verify(
    State(api): State<Api>,
    By(caller): By,
    Path(host): Path<TenantHost>,
    MaybeBody(asked): MaybeBody<HostVerify>,
) -> ApiResult<Json<Host>> {
    let permit = caller.may(Change)?;
    Ok(Json(hosts::verify(&api.app, &permit, &host, asked.tenant.as_deref()).await?))
}

/// Takes a host, or the claim to it, away from a tenant.
#[utoipa::path(delete, path = "/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path), Of),
    responses((status = 200, body = Host), Problems))]
pub async fn remove(
    State(api): State<Api>,
    By(caller): By,
    Path(host): Path<TenantHost>,
    Query(of): Query<Of>,
) -> ApiResult<Json<Host>> {
    let permit = caller.may(Change)?;
    Ok(Json(hosts::remove(&api.app, &permit, &host, of.tenant.as_deref()).await?))
}
