//! What a page says when it cannot be what was asked for. Never shows a cause that was not written for people.

use super::{session::COOKIE, shown::Frame};
use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use berth_wire::Problem;

#[derive(Debug)]
pub enum Failure {
    /// No key, or one that is not taken any more.
    Login,
    /// The form was not made for this visitor, or long ago.
    Form,
    /// A field of a form does not fit.
    Field {
        detail: String,
        hint: String,
    },
    NotThere,
    /// `/v1` refused; it says why.
    Refused(Box<Problem>),
    /// `/v1` answered in a form that this version does not know, or a template could not be filled.
    Unreadable,
}

#[derive(Template)]
#[template(path = "pages/failure.html")]
struct FailurePage {
    frame: Frame,
    detail: String,
    hint: Option<String>,
    request_id: Option<String>,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Login => StatusCode::SEE_OTHER,
            Self::Form => StatusCode::FORBIDDEN,
            Self::Field { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotThere => StatusCode::NOT_FOUND,
            Self::Refused(problem) => StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_GATEWAY),
            Self::Unreadable => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn words(self) -> (String, Option<String>, Option<String>) {
        let said = |detail: &str, hint: &str| (detail.to_owned(), Some(hint.to_owned()), None);
        match self {
            Self::Login => said("you are not logged in", "log in with an API key"),
            Self::Form => {
                said("this form is not yours or has gone stale", "go back, load the page again, and send it once more")
            }
            Self::Field { detail, hint } => (detail, Some(hint), None),
            Self::NotThere => said("there is nothing here", "begin at the overview"),
            Self::Refused(problem) => (problem.detail, problem.hint, Some(problem.request_id)),
            Self::Unreadable => said("the server's own answer could not be shown", "the server's log says more"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if matches!(self, Self::Login) {
            // A cookie with a key that is not taken any more would lead here forever.
            let forget = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
            let headers =
                [(header::SET_COOKIE, forget), ("hx-redirect".parse().expect("a header's name"), "/login".to_owned())];
            return (headers, Redirect::to("/login")).into_response();
        }
        let status = self.status();
        let (detail, hint, request_id) = self.words();
        let page = FailurePage { frame: Frame::outside(), detail, hint, request_id };
        match page.render() {
            Ok(html) => (status, Html(html)).into_response(),
            Err(_) => status.into_response(),
        }
    }
}

/// A page as an answer.
pub fn html(page: &impl Template) -> Result<Response, Failure> {
    page.render().map(|html| Html(html).into_response()).map_err(|_| Failure::Unreadable)
}
