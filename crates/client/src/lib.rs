//! Typed client of the API: one method a call, the problem of a refused one as a value.
//!
//! Every write carries an `Idempotency-Key`, so that a write whose answer was lost is sent once more and still
//! happens once. HTTP to the server it is given, over TLS where its URL says `https://`; it never reads the environment, never follows a redirect
//! and never logs.

mod calls;
mod catalogue;
mod cells;
mod error;
mod limits;
mod releases;
mod secure;
mod services;
mod stream;
mod transport;
mod upgrade;
mod ways;

pub use calls::{AuditFilter, Drainable, OperationFilter};
pub use error::{ClientError, Fault};
pub use stream::{Download, Events, Lines};

use secrecy::SecretString;
use std::time::Duration;

/// How long one answer is waited for, unless told otherwise. Streams may be silent for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A server and the key to it. Cheap to clone; every call opens its own connection, which suits a command line.
#[derive(Clone)]
pub struct Client {
    host: String,
    port: u16,
    key: Option<SecretString>,
    limit: Duration,
    /// `https://`.
    secure: Option<secure::Secure>,
}

impl Client {
    /// `url` is `http://HOST[:PORT]` or `https://…`, without a path: the client knows its own.
    pub fn new(url: &str, key: Option<SecretString>) -> Result<Self, ClientError> {
        let bad = |why| ClientError::BadUrl { url: url.to_owned(), why };
        let uri: http::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("it must begin with `http://` or `https://`")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it must end after the host and port"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        let secure = if https {
            let name = host.trim_start_matches('[').trim_end_matches(']');
            Some(secure::Secure::new(name).ok_or_else(|| bad("no certificate could bear its host's name"))?)
        } else {
            None
        };
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        Ok(Self { host: host.to_owned(), port, key, limit: ANSWER_LIMIT, secure })
    }

    /// The same client, believing a server over TLS that an authority of this PEM vouches for, and no other.
    pub fn trusting(mut self, authorities_pem: &str) -> Result<Self, ClientError> {
        self.secure = self.secure.map(|secure| secure.trusting(authorities_pem)).transpose()?;
        Ok(self)
    }

    /// The same client, waiting for each answer this long.
    #[must_use]
    pub fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// `http://HOST:PORT`, for messages.
    pub fn url(&self) -> String {
        let scheme = if self.secure.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}
