//! Contracts of the world outside: what names and pages say, and an authority that gives certificates.
//!
//! Nothing here keeps state: whoever calls writes down an account, an order's address and a key before going on, so
//! that another server can go on in its place.

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use std::net::SocketAddr;

/// How names are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// A DNS server; none: the system's.
    pub resolver: Option<SocketAddr>,
    /// Where a host answers plain HTTP; none: 80.
    pub http_port: Option<u16>,
}

/// A look that showed nothing, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NothingSeen(pub String);

/// An authority of certificates, and who vouches for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityAt {
    pub directory: String,
    pub email: Option<String>,
    /// A file in PEM; none: the public authorities.
    pub ca_file: Option<String>,
}

/// How a host is shown to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerWay {
    /// A page over plain HTTP.
    Http,
    /// A certificate in a handshake for `acme-tls/1`.
    TlsAlpn,
}

/// What has to be answered for a host.
#[derive(Clone, Debug)]
pub enum ToAnswer {
    Http { path: String, body: String },
    Tls { chain_pem: String, key_pem: SecretString },
}

/// An order as the authority has it.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// Its address: enough to go on with it.
    pub url: String,
    /// None: the authority needs no proof any more.
    pub answer: Option<ToAnswer>,
}

/// Whose fault it is that there is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityFault {
    /// No certificate is given for this name, or it leads nowhere.
    WrongName,
    /// The host was asked and did not answer as it should.
    Challenge,
    /// Too many were asked for; again from this moment on, where it was said.
    RateLimited { until: Option<Timestamp> },
    /// The account is not known there.
    NoAccount,
    /// Whatever else the authority refuses.
    Refused,
    /// No answer, or none that makes sense. The order may go on.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct AuthorityError {
    pub fault: AuthorityFault,
    pub detail: String,
}

/// The world outside.
#[async_trait]
pub trait Outside: Send + Sync {
    /// Texts of all TXT records of this name.
    async fn texts(&self, asking: Asking, name: &str) -> Result<Vec<String>, NothingSeen>;

    /// The text of a host's page, which may be a few hundred characters. Redirects are not followed.
    async fn page(&self, asking: Asking, host: &str, path: &str) -> Result<String, NothingSeen>;

    /// A new account; whoever asks agrees to the authority's terms.
    async fn account(&self, at: &AuthorityAt) -> Result<SecretString, AuthorityError>;

    /// A new order for one host.
    async fn order(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        host: &str,
        way: AnswerWay,
    ) -> Result<Ordered, AuthorityError>;

    /// Says that the answer is there, and waits until the authority has seen it. Twice is no harm.
    async fn prove(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        url: &str,
        way: AnswerWay,
    ) -> Result<(), AuthorityError>;

    /// A key for a certificate, in PEM.
    fn new_key(&self) -> SecretString;

    /// Asks for the certificate of this key, and waits for it: its chain in PEM. Twice is no harm.
    async fn collect(
        &self,
        at: &AuthorityAt,
        account: &SecretString,
        url: &str,
        host: &str,
        key_pem: &SecretString,
    ) -> Result<String, AuthorityError>;
}
