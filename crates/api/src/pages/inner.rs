//! Asks `/v1` inside this process, as the visitor. Never goes around it.

use super::{failure::Failure, session::Session};
use axum::{
    body::{Body, Bytes, to_bytes},
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use berth_wire::{Page, Problem};
use secrecy::ExposeSecret as _;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Write as _;
use tower::ServiceExt as _;

/// Largest answer that a page is made from.
const ANSWER_BYTES: usize = 32 << 20;
/// As many as `/v1` hands out at once.
const PAGE_ITEMS: usize = 200;

impl Session {
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.ask(Method::GET, path, Body::empty(), None, None).await?;
        read(&body(answer).await?)
    }

    /// A list's items, newest or first ones first, at most `wanted`.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, wanted: usize) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let sign = if path.contains('?') { '&' } else { '?' };
            let limit = (wanted - items.len()).clamp(1, PAGE_ITEMS);
            let page: Page<T> = self.get(&format!("{path}{sign}limit={limit}{after}")).await?;
            items.extend(page.items);
            match page.next {
                Some(next) if items.len() < wanted => after = format!("&after={}", escaped(&next)),
                _ => return Ok(items),
            }
        }
    }

    /// A change. `once` is equal for every try of the same one.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body_of: &impl Serialize,
        once: &str,
    ) -> Result<T, Failure> {
        self.send_at(method, path, body_of, once, None).await
    }

    /// The same, refused when what it changes is not of this version any more.
    pub async fn send_at<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body_of: &impl Serialize,
        once: &str,
        version: Option<u64>,
    ) -> Result<T, Failure> {
        let json = serde_json::to_vec(body_of).map_err(|_| Failure::Unreadable)?;
        let answer = self.ask(method, path, Body::from(json), Some(once), version).await?;
        read(&body(answer).await?)
    }

    /// An answer that goes on.
    pub async fn stream(&self, path: &str) -> Result<Body, Failure> {
        Ok(self.ask(Method::GET, path, Body::empty(), None, None).await?.into_body())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body_of: Body,
        once: Option<&str>,
        version: Option<u64>,
    ) -> Result<Response, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key.expose_secret()))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(once) = once {
            request = request.header("idempotency-key", once);
        }
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        let request = request.body(body_of).map_err(|_| Failure::NotThere)?;
        let answer = match self.pages.v1.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(Failure::Login);
        }
        Err(Failure::Refused(Box::new(read::<Problem>(&body(answer).await?)?)))
    }
}

async fn body(answer: Response) -> Result<Bytes, Failure> {
    to_bytes(answer.into_body(), ANSWER_BYTES).await.map_err(|_| Failure::Unreadable)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|_| Failure::Unreadable)
}

/// What a person typed, safe as one segment of a path or one value of a query.
pub fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
        out
    })
}
