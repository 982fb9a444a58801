//! Coming and going. The key is tried against `/v1` before it becomes a cookie; it is never stored or logged here.

use super::{
    Pages,
    failure::{Failure, html},
    session::{COOKIE, Session, looks_like_key},
    shown::Frame,
};
use askama::Template;
use axum::{
    extract::{Form, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use berth_wire::Overview;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

#[derive(Template)]
#[template(path = "pages/login.html")]
struct LoginPage {
    frame: Frame,
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Login {
    key: SecretString,
}

/// `GET /login`
pub async fn page() -> Result<Response, Failure> {
    html(&LoginPage { frame: Frame::outside(), refused: None })
}

/// `POST /login`. Needs no token: nobody is logged in yet, and `SameSite=Strict` keeps the cookie from being used by
/// whoever would log a visitor into a key of their own.
pub async fn enter(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Result<Response, Failure> {
    let key = login.key.expose_secret().trim();
    if !looks_like_key(key) {
        return refused("this does not look like an API key: they begin with `bk_`");
    }
    let session = Session { pages, key: SecretString::from(key), open: false };
    match session.get::<Overview>("/v1/status").await {
        Ok(_) => {}
        Err(Failure::Login) => return refused("this key is unknown or revoked"),
        Err(Failure::Refused(problem)) if problem.status == 403 => {
            return refused("this key may not see the overview: use one of scope `admin` or `read`");
        }
        Err(other) => return Err(other),
    }
    // Behind something that ends TLS the cookie must not travel without it.
    let secure = if headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https") { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800{secure}");
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

fn refused(why: &str) -> Result<Response, Failure> {
    let page = html(&LoginPage { frame: Frame::outside(), refused: Some(why.to_owned()) })?;
    Ok((StatusCode::UNAUTHORIZED, page).into_response())
}

/// `POST /logout`
pub async fn leave(change: super::session::Change) -> Response {
    let _ = change;
    Failure::Login.into_response()
}
