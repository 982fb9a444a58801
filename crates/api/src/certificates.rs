//! `/v1/certificates`: TLS certificates of the hosts that edges serve, added or ordered. A key goes in and never comes out.

use crate::{
    Api,
    auth::By,
    cells::Whole,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, certificates, orders};
use berth_domain::{CertificateId, Hostname};
use berth_wire::{Certificate, CertificateAdd, CertificateOrder, Page};
use http::StatusCode;

/// All certificates, the newest first. Always the whole list.
#[utoipa::path(get, path = "/v1/certificates", tag = "certificates", params(Whole),
    responses((status = 200, body = Page<Certificate>), Problems))]
pub async fn list(
    State(api): State<Api>,
    By(caller): By,
    Query(_): Query<Whole>,
) -> ApiResult<Json<Page<Certificate>>> {
    let permit = caller.may(Read)?;
    Ok(Json(Page::whole(certificates::list(&api.app, &permit).await?)))
}

/// Takes a certificate with its key. Of two for one name edges serve the one that was added last.
#[utoipa::path(post, path = "/v1/certificates", tag = "certificates", request_body = CertificateAdd,
    responses((status = 201, body = Certificate), Problems))]
pub async fn add(
    State(api): State<Api>,
    By(caller): By,
    Body(wanted): Body<CertificateAdd>,
) -> ApiResult<(StatusCode, Json<Certificate>)> {
    let permit = caller.may(Change)?;
    Ok((StatusCode::CREATED, Json(certificates::add(&api.app, &permit, wanted).await?)))
}

/// Takes a certificate away from all edges.
#[utoipa::path(delete, path = "/v1/certificates/{certificate}", tag = "certificates",
    params(("certificate" = String, Path, format = Uuid)), responses((status = 200, body = Certificate), Problems))]
pub async fn remove(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<CertificateId>,
) -> ApiResult<Json<Certificate>> {
    let permit = caller.may(Change)?;
    Ok(Json(certificates::remove(&api.app, &permit, id).await?))
}

/// How hosts come by their certificates where those are got by ACME. Always the whole list.
#[utoipa::path(get, path = "/v1/certificates/orders", tag = "certificates", params(Whole),
    responses((status = 200, body = Page<CertificateOrder>), Problems))]
pub async fn orders(
    State(api): State<Api>,
    By(caller): By,
    Query(_): Query<Whole>,
) -> ApiResult<Json<Page<CertificateOrder>>> {
    let permit = caller.may(Read)?;
    Ok(Json(Page::whole(orders::list(&api.app, &permit).await?)))
}

/// Asks for a new certificate of this host now, whatever its order waits for.
#[utoipa::path(post, path = "/v1/certificates/orders/{host}/renew", tag = "certificates",
    params(("host" = String, Path)), responses((status = 200, body = CertificateOrder), Problems))]
pub async fn renew(
    State(api): State<Api>,
    By(caller): By,
    Path(host): Path<Hostname>,
) -> ApiResult<Json<CertificateOrder>> {
    let permit = caller.may(Change)?;
    Ok(Json(orders::renew(&api.app, &permit, &host).await?))
}
