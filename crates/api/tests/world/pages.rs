//! The dashboard of a world, as somebody with a key sees it.

use super::World;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use berth_api::{Api, pages::PagesSettings};
use secrecy::{ExposeSecret as _, SecretString};
use std::fmt::Write as _;
use tower::ServiceExt as _;

pub struct Dashboard {
    pages: Router,
    key: String,
}

impl Dashboard {
    pub fn of(world: &World) -> Self {
        Self::with(world, &world.admin)
    }

    /// As whoever has this key.
    pub fn with(world: &World, key: &SecretString) -> Self {
        let pages = berth_api::router(&Api::new(world.app.clone()), PagesSettings::default());
        Self { pages, key: key.expose_secret().to_owned() }
    }

    pub async fn ask(&self, method: Method, path: &str, form: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "berth.example")
            .header(header::COOKIE, format!("berth_key={}", self.key))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.to_owned()))
            .unwrap();
        let answer = self.pages.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let leads = answer.headers().get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned());
        let bytes = to_bytes(answer.into_body(), 8 << 20).await.unwrap();
        // An archive's files are no text.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (status, leads.unwrap_or(text))
    }

    /// The page is there and says all of this.
    pub async fn shows(&self, path: &str, says: &[&str]) -> String {
        let (status, text) = self.ask(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        for word in says {
            assert!(text.contains(word), "{path} does not say `{word}`: {text}");
        }
        text
    }

    /// The form of this page that is sent to `action`, with these fields typed in. Answers where it leads, or the page.
    pub async fn sends(&self, page: &str, action: &str, typed: &[(&str, &str)]) -> (StatusCode, String) {
        let page = self.shows(page, &[]).await;
        let form = page.split("<form").find(|form| form.contains(&format!("action=\"{action}\"")));
        let form = form.unwrap_or_else(|| panic!("no form for {action}: {page}")).split("</form>").next().unwrap();
        let hidden = form.split("<input type=\"hidden\" name=\"").skip(1).map(|field| {
            let mut parts = field.split('"');
            (parts.next().unwrap(), parts.nth(1).unwrap())
        });
        let fields: Vec<(&str, &str)> = hidden.chain(typed.iter().copied()).collect();
        self.ask(Method::POST, action, &form_of(&fields)).await
    }

    /// The same, which begins an operation: it is waited for.
    pub async fn begins(&self, world: &World, page: &str, action: &str, typed: &[(&str, &str)]) -> String {
        let (status, leads) = self.sends(page, action, typed).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{leads}");
        let id = leads.strip_prefix("/operations/").unwrap_or_else(|| panic!("{action} leads to {leads}"));
        world.finishes(id.parse().unwrap()).await;
        id.to_owned()
    }
}

/// Fields as a browser sends them.
pub fn form_of(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        text.bytes().fold(String::new(), |mut out, byte| {
            write!(out, "%{byte:02X}").unwrap();
            out
        })
    };
    fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&")
}

/// The value of a hidden field of the page's last form.
pub fn hidden(page: &str, name: &str) -> String {
    let mark = format!("name=\"{name}\" value=\"");
    page.rsplit(&mark).next().unwrap().split('"').next().unwrap().to_owned()
}
