//! Who looks at a page, and whether a form is really theirs.
//!
//! Keeps nothing between requests: the cookie is the API key, the form's token is derived from it, so any of several
//! servers can answer. Never decides what a key may do; `/v1` does.

use super::{Pages, failure::Failure};
use axum::{
    RequestExt as _,
    extract::{Form, FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

pub const COOKIE: &str = "berth_key";

/// A visitor with a key.
#[derive(Clone, Debug)]
pub struct Session {
    pub pages: Pages,
    pub key: SecretString,
    /// Let in because pages are open, not by logging in.
    pub open: bool,
}

impl Session {
    /// Proof that a form was made for this visitor: nobody without the key can compute it.
    pub fn csrf(&self) -> String {
        let digest = self.mac().finalize().into_bytes();
        digest.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
            text
        })
    }

    fn owns(&self, token: &str) -> bool {
        let bytes = (0..token.len()).step_by(2).map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok());
        bytes.collect::<Option<Vec<u8>>>().is_some_and(|bytes| self.mac().verify_slice(&bytes).is_ok())
    }

    fn mac(&self) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.key.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(b"berth dashboard form");
        mac
    }
}

impl FromRequestParts<Pages> for Session {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, pages: &Pages) -> Result<Self, Failure> {
        if let Some(key) = cookie(&parts.headers) {
            return Ok(Self { pages: pages.clone(), key, open: false });
        }
        match &pages.open {
            Some(key) if names_this_machine(&parts.headers) => {
                Ok(Self { pages: pages.clone(), key: key.clone(), open: true })
            }
            _ => Err(Failure::Login),
        }
    }
}

fn cookie(headers: &HeaderMap) -> Option<SecretString> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let value =
        all.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    looks_like_key(value).then(|| SecretString::from(value))
}

/// Characters that can stand in a cookie and in `Authorization` as they are.
pub fn looks_like_key(text: &str) -> bool {
    (8..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether `Host` is a name of loopback: what a browser sends whose address bar shows this machine.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A form that changes something, proven to be the visitor's own.
#[derive(Debug)]
pub struct Change {
    pub session: Session,
    fields: BTreeMap<String, String>,
}

impl Change {
    /// What was typed, without the spaces around it; `None` for an empty field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    /// What was typed, to the last space; empty where there is no such field.
    pub fn whole(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// What follows a prefix in the names of boxes that were ticked.
    pub fn named<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = &'f str> {
        self.fields.keys().filter_map(move |name| name.strip_prefix(prefix))
    }

    /// Equal however often the form is sent, so that a double click does a thing once.
    pub fn once(&self) -> String {
        self.field("once").map_or_else(once, str::to_owned)
    }
}

/// A fresh name for one change.
pub fn once() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl FromRequest<Pages> for Change {
    type Rejection = Failure;

    async fn from_request(mut request: Request, pages: &Pages) -> Result<Self, Failure> {
        let session = request.extract_parts_with_state::<Session, _>(pages).await?;
        let foreign =
            request.headers().get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
        let Form(fields) =
            Form::<BTreeMap<String, String>>::from_request(request, pages).await.map_err(|_| Failure::Form)?;
        if foreign || !fields.get("csrf").is_some_and(|token| session.owns(token)) {
            return Err(Failure::Form);
        }
        Ok(Self { session, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::{Pages, Session, names_this_machine};
    use axum::http::{HeaderMap, header};
    use secrecy::SecretString;

    fn session(key: &str) -> Session {
        let pages = Pages { v1: axum::Router::new(), open: None };
        Session { pages, key: SecretString::from(key), open: false }
    }

    #[test]
    fn a_form_belongs_to_the_key_it_was_made_for() {
        let token = session("bk_one_key").csrf();
        assert!(session("bk_one_key").owns(&token));
        assert!(!session("bk_another").owns(&token));
        for forged in ["", "00", "zz", "ä", &token[2..], &format!("{token}00")] {
            assert!(!session("bk_one_key").owns(forged), "{forged}");
        }
    }

    #[test]
    fn only_names_of_loopback_are_this_machine() {
        let named = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            names_this_machine(&headers)
        };
        for host in ["localhost", "localhost:7600", "127.0.0.1:7600", "[::1]:7600", "127.1.2.3"] {
            assert!(named(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:7600", ""] {
            assert!(!named(host), "{host}");
        }
        assert!(!names_this_machine(&HeaderMap::new()));
    }
}
