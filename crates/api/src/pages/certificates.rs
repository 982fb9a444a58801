//! Certificates on the dashboard: one added by hand, one renewed now, one taken away. A key goes in and is never shown.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::Frame,
    tenants::AskPage,
};
use askama::Template;
use axum::{
    extract::Path,
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_wire::{Certificate, CertificateAdd, CertificateOrder};
use serde_json::json;

const SHOWN: usize = 2000;

#[derive(Template)]
#[template(path = "pages/certificate_new.html")]
struct NewPage {
    frame: Frame,
}

/// `GET /certificates/new`
pub async fn new(session: Session) -> Result<Response, Failure> {
    // Who has no key is asked for one here, not after the private key was typed.
    let _all: Vec<Certificate> = session.list("/v1/certificates", 1).await?;
    html(&NewPage { frame: Frame::of(&session, "edges") })
}

/// `POST /certificates`
pub async fn add(change: Change) -> Result<Response, Failure> {
    let wanted =
        CertificateAdd { chain_pem: change.whole("chain").to_owned(), key_pem: change.whole("key").to_owned() };
    let _added: Certificate = change.session.send(Method::POST, "/v1/certificates", &wanted, &change.once()).await?;
    Ok(Redirect::to("/edges").into_response())
}

/// `POST /certificates/orders/{host}/renew`
pub async fn renew(Path(host): Path<String>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/certificates/orders/{}/renew", escaped(&host));
    let _order: CertificateOrder = change.session.send(Method::POST, &path, &json!({}), &change.once()).await?;
    Ok(Redirect::to("/edges").into_response())
}

/// `GET /certificates/{certificate}/remove`
pub async fn ask(session: Session, Path(id): Path<String>) -> Result<Response, Failure> {
    let all: Vec<Certificate> = session.list("/v1/certificates", SHOWN).await?;
    let certificate = all.into_iter().find(|certificate| certificate.id.to_string() == id).ok_or(Failure::NotThere)?;
    html(&AskPage {
        frame: Frame::of(&session, "edges"),
        title: format!("Remove the certificate of {}?", certificate.names.join(", ")),
        what_happens: "Edges forget it and its key. Names that no other certificate covers get no handshake any more.",
        action: format!("/certificates/{id}/remove"),
        button: "Remove",
        dangerous: true,
        typed: None,
        back: "/edges".to_owned(),
    })
}

/// `POST /certificates/{certificate}/remove`
pub async fn remove(Path(id): Path<String>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/certificates/{}", escaped(&id));
    let _removed: Certificate = change.session.send(Method::DELETE, &path, &json!({}), &change.once()).await?;
    Ok(Redirect::to("/edges").into_response())
}
