//! What a stack file says of hosts and of TLS: whose hosts need proof, and where certificates come from. Types alone: what
//! is wrong with a file is said where it is read.

use crate::Span;
use berth_domain::Hostname;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What edges answer plain requests for a host that has a certificate, and where certificates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Https {
    /// Sends them to `https://`.
    #[serde(default)]
    pub redirect: bool,
    /// For how long browsers are to ask over TLS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Span>,
    /// Where clients reach the edges over TLS. Absent: 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Private keys go to edges that are connected without TLS from an address that is not private.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keys_over_plain_http: bool,
    /// Requests go without TLS to members at addresses that are not private. Absent: no, once the file has been applied; it
    /// is also absent in files that were applied before this was asked, and those send as they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_over_plain_http: Option<bool>,
    /// Certificates are got by ACME. Absent: people add them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
}

impl Https {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// An authority that gives certificates over ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    pub directory: String,
    /// Where the authority writes when something is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// On the server's host, in PEM: who vouches for the authority's own certificate. Absent: the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    #[serde(default)]
    pub challenge: AcmeChallenge,
}

impl Acme {
    /// Let's Encrypt.
    pub const USUAL_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
}

/// How an edge shows the authority that a host is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcmeChallenge {
    #[default]
    #[serde(rename = "http-01")]
    Http,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
}

/// Whose hosts need proof, and how it is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The stack's own names: what is at or below them needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<Hostname>,
    #[serde(default, skip_serializing_if = "HostProofs::is_none")]
    pub proof: HostProofs,
    /// Absent: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<SocketAddr>,
    /// Where hosts are asked for a page. Absent: 80.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_port: Option<u16>,
}

/// Whether a host that is none of the stack's own is routed before it is proved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostProofs {
    /// What an administrator gives a tenant is taken at its word.
    #[default]
    None,
    Required,
}

impl HostProofs {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Hosts {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
