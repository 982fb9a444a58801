//! What the edge answers by itself so that others believe a host is here: pages below `/.well-known/`, and handshakes
//! that ask for `acme-tls/1` (RFC 8555, RFC 8737).
//!
//! In memory only: after a restart the control plane says them again. Never decides what is true of a host.

use crate::{body::AnswerBody, headers, routing, tls};
use arc_swap::ArcSwap;
use berth_wire::edge::EdgeChallenge;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, header, request::Parts};
use rustls::sign::CertifiedKey;
use std::{collections::HashMap, sync::Arc};

/// Everything that is answered here stands below it.
const BELOW: &str = "/.well-known/";

type Pages = HashMap<(Box<str>, Box<str>), Bytes>;

#[derive(Debug, Default)]
pub struct Challenges {
    /// By host and path.
    pages: ArcSwap<Pages>,
    /// By host.
    handshakes: ArcSwap<HashMap<Box<str>, Arc<CertifiedKey>>>,
}

impl Challenges {
    /// These are all there are.
    pub fn set(&self, all: Vec<EdgeChallenge>) {
        let (mut pages, mut handshakes) = (Pages::new(), HashMap::new());
        for challenge in all {
            match challenge {
                EdgeChallenge::Http { host, path, body } => {
                    pages.insert((host.as_str().into(), path.into()), Bytes::from(body));
                }
                EdgeChallenge::Tls { host, chain_pem, key_pem } => match tls::for_proof(&chain_pem, key_pem.expose()) {
                    Ok(key) => drop(handshakes.insert(host.as_str().into(), key)),
                    Err(error) => {
                        let error: &dyn std::error::Error = &error;
                        tracing::error!(error, "what would prove {host} in a handshake was refused");
                    }
                },
            }
        }
        self.pages.store(Arc::new(pages));
        self.handshakes.store(Arc::new(handshakes));
    }

    /// The certificate that proves a host in a handshake.
    pub fn handshake(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.handshakes.load().get(host).cloned()
    }

    /// The page that proves a host, asked for over plain HTTP or not, and whether the host is routed or not.
    pub fn page(&self, parts: &Parts, id: &HeaderValue) -> Option<Response<AnswerBody>> {
        // Most requests end here.
        let path = parts.uri.path();
        if !path.starts_with(BELOW) || !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let pages = self.pages.load();
        if pages.is_empty() {
            return None;
        }
        let host = routing::normal_host(headers::host(parts)?).ok()?;
        let body = pages.get(&(Box::from(&*host), Box::from(path)))?.clone();
        let mut answer = Response::new(AnswerBody::Own(Some(body)));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer.headers_mut().insert(headers::REQUEST_ID, id.clone());
        Some(answer)
    }
}
