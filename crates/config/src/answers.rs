//! What edges do to an application's answers: headers that it left out, and compression. Never parses.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Headers that answers get which have none of that name of the application's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerHeaders {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<Frame>,
    #[serde(default)]
    pub nosniff: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referrer: Option<Referrer>,
}

/// Who may show a page within a page of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    Deny,
    SameOrigin,
}

/// How much of a page's address a browser tells the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Referrer {
    NoReferrer,
    SameOrigin,
    StrictOrigin,
    StrictOriginWhenCrossOrigin,
}

impl Referrer {
    pub const ALL: [(&str, Self); 4] = [
        ("no-referrer", Self::NoReferrer),
        ("same-origin", Self::SameOrigin),
        ("strict-origin", Self::StrictOrigin),
        ("strict-origin-when-cross-origin", Self::StrictOriginWhenCrossOrigin),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl AnswerHeaders {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Names and values, as they stand in an answer.
    pub fn lines(&self) -> BTreeMap<String, String> {
        let frame = self.frame.map(|frame| match frame {
            Frame::Deny => "DENY",
            Frame::SameOrigin => "SAMEORIGIN",
        });
        let lines = [
            ("content-security-policy", self.csp.as_deref()),
            ("x-frame-options", frame),
            ("x-content-type-options", self.nosniff.then_some("nosniff")),
            ("referrer-policy", self.referrer.map(Referrer::as_str)),
        ];
        lines.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
    }
}

/// Which answers are compressed for clients that ask for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compress {
    /// Of those that a client likes equally, the first.
    pub ways: Vec<CompressWay>,
    pub from_bytes: u64,
    /// Media types, without parameters.
    pub types: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressWay {
    Zstd,
    Br,
    Gzip,
}

impl Default for Compress {
    fn default() -> Self {
        let types = [
            "application/javascript",
            "application/json",
            "application/manifest+json",
            "application/problem+json",
            "application/xml",
            "image/svg+xml",
            "text/css",
            "text/csv",
            "text/html",
            "text/javascript",
            "text/plain",
            "text/xml",
        ];
        Self {
            ways: vec![CompressWay::Zstd, CompressWay::Br, CompressWay::Gzip],
            from_bytes: 1024,
            types: types.map(str::to_owned).into(),
        }
    }
}
