//! How edges send to the members of a web service. Never parses.

use crate::{Span, Template};
use berth_domain::{Balance, Hostname, Speaks};
use serde::{Deserialize, Serialize};

/// Of a key for signatures: what sixteen random bytes are in hexadecimal.
const SIGNATURE_KEY_BYTES_MIN: usize = 32;

/// How edges spread requests over the members of a web service, and tell which of them are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEdge {
    #[serde(default)]
    pub balance: Balance,
    /// A member's share beside members of the stack's other web services.
    pub weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<EdgeCheck>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject: Option<Eject>,
    /// Where its members are. Absent: where their cell is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What members are spoken to in, whose address does not say it.
    #[serde(default, skip_serializing_if = "is_http")]
    pub speaks: Speaks,
    /// The certificates of who vouches for members, as PEM. Absent: the authorities that the edge's system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name in members' certificates. Absent: the host of their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Hostname>,
    /// What edges sign with what they hand to members, as `Berth-Signature`. Absent: nothing is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_key: Option<Template>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_http(speaks: &Speaks) -> bool {
    *speaks == Speaks::Http
}

/// What edges ask each member by themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCheck {
    pub path: String,
    pub every: Span,
    pub timeout: Span,
    pub rise: u32,
    pub fall: u32,
    /// Absent: any 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// When a member that fails requests is passed over, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eject {
    pub failures: u32,
    #[serde(rename = "for")]
    pub lasting: Span,
}

impl Default for ServiceEdge {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            weight: 1,
            check: None,
            eject: Some(Eject::default()),
            region: None,
            speaks: Speaks::default(),
            ca: None,
            server_name: None,
            signature_key: None,
        }
    }
}

impl Default for Eject {
    fn default() -> Self {
        Self { failures: 5, lasting: Span::from_ms(10_000) }
    }
}

impl ServiceEdge {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// Why nobody should sign with this key. Members may be given several with commas between them.
pub fn unfit_signature_key(key: &str) -> Option<&'static str> {
    if key.len() < SIGNATURE_KEY_BYTES_MIN {
        return Some("the key is shorter than 32 characters");
    }
    key.contains(|c: char| c == ',' || c.is_whitespace()).then_some("the key has a comma or a blank in it")
}
