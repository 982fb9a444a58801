//! Typed client of the API: one method a call, the problem of a refused one as a value.
//!
//! Every write carries an `Idempotency-Key`, so that a write whose answer was lost is sent once more and still
//! happens once. Plain HTTP to the server it is given; it never reads the environment, never follows a redirect
//! and never logs.

mod calls;
mod error;
mod releases;
mod stream;
mod transport;

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
}

impl Client {
    /// `url` is `http://HOST[:PORT]`, without a path: the client knows its own.
    pub fn new(url: &str, key: Option<SecretString>) -> Result<Self, ClientError> {
        let bad = |why| ClientError::BadUrl { url: url.to_owned(), why };
        let uri: http::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("it must begin with `http://`"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it must end after the host and port"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it names no host"))?;
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(80), key, limit: ANSWER_LIMIT })
    }

    /// The same client, waiting for each answer this long.
    #[must_use]
    pub fn with_answer_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// `http://HOST:PORT`, for messages.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}
