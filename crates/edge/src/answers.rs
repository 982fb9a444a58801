//! The edge's own answers: why a request was not sent on, as a problem that people and programs can read.
//!
//! Never says which tenants exist, and nothing of another tenant's.

use crate::body::{AnswerBody, BodyError};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whole seconds until there is a token, rounded up: who comes back then finds one.
fn wait_s(wait_ns: u64) -> u64 {
    wait_ns.div_ceil(1_000_000_000).max(1)
}

/// Why the edge answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    BadHost,
    BadFraming,
    BadBody,
    Tunnel,
    /// The connection's certificate is not the one of this host.
    Misdirected,
    UnknownHost,
    /// As much is under way over HTTP/2 as may be.
    Busy,
    /// The tenant serves other addresses only.
    NotAllowed,
    Suspended,
    /// The tenant gets nothing new.
    Draining,
    TooLarge,
    BodyLate,
    NoMember,
    Unreachable,
    NoAnswer,
    AnswerLate,
    /// As many requests are parked as may be.
    ParkFull,
    /// Parked, and nothing came in time.
    ParkOver,
    /// The tenant's plan has none of this class of requests.
    Forbidden,
    /// The plan has, and they are used up.
    Spent {
        until: Timestamp,
    },
    /// The tenant's bucket is empty.
    Limited {
        requests: u64,
        per_s: u32,
        wait_ns: u64,
    },
    /// Refused by the fence, and too long to be sent once more.
    Fenced,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadFraming | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::Suspended | Self::Forbidden | Self::Spent { .. } | Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::NoAnswer => StatusCode::BAD_GATEWAY,
            Self::AnswerLate => StatusCode::GATEWAY_TIMEOUT,
            Self::NoMember
            | Self::Unreachable
            | Self::ParkFull
            | Self::ParkOver
            | Self::Fenced
            | Self::Draining
            | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The stable word, and what it means.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::BadHost => ("bad_host", "A request names exactly one host."),
            Self::BadFraming => ("bad_framing", "A request has a Content-Length or a Transfer-Encoding, never both."),
            Self::BadBody => ("bad_body", "The request's body could not be read."),
            Self::Tunnel => ("method_not_allowed", "CONNECT is not offered here."),
            Self::Misdirected => ("misdirected", "This host is reached by a connection of its own."),
            Self::UnknownHost => ("not_found", "There is nothing at this address."),
            Self::Busy => ("busy", "As many requests are under way here as may be. Try again in a moment."),
            Self::NotAllowed => ("address_not_allowed", "This address is not one of those that are served here."),
            Self::Suspended => ("suspended", "This account is suspended."),
            Self::Draining => ("draining", "The account takes no requests at the moment. Try again in a while."),
            Self::TooLarge => ("body_too_large", "The request's body is larger than allowed."),
            Self::BodyLate => ("body_late", "The request's body did not arrive in time."),
            Self::NoMember => ("no_member", "The service is not running at the moment."),
            Self::Unreachable => ("unreachable", "The service cannot be reached at the moment."),
            Self::NoAnswer => ("no_answer", "The service ended the connection without an answer."),
            Self::AnswerLate => ("answer_late", "The service did not answer in time."),
            Self::ParkFull | Self::ParkOver => ("moving", "The account is being moved. Try again in a moment."),
            Self::Forbidden => ("not_in_plan", "The account's plan has no requests of this kind."),
            Self::Spent { .. } => ("quota_spent", "The account has used up what its plan allows for now."),
            Self::Limited { .. } => ("rate_limited", "The account has made as many requests as its plan allows."),
            Self::Fenced => ("moved", "The account has just been moved. Nothing was changed. Try again."),
        }
    }

    fn retry_after(self) -> Option<HeaderValue> {
        match self {
            Self::Limited { wait_ns, .. } => Some(HeaderValue::from(wait_s(wait_ns))),
            Self::Spent { until } => {
                let wait_s = until.as_second().saturating_sub(Timestamp::now().as_second()).max(1);
                Some(HeaderValue::from(wait_s))
            }
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then(|| HeaderValue::from_static("1")),
        }
    }

    /// What the client sent cannot be trusted to end where we think, or has not been read.
    fn closes(self) -> bool {
        matches!(
            self,
            Self::BadHost
                | Self::BadFraming
                | Self::BadBody
                | Self::TooLarge
                | Self::BodyLate
                | Self::Tunnel
                | Self::Draining
        )
    }

    pub fn answer(self, request_id: &HeaderValue) -> Response<AnswerBody> {
        let (code, title) = self.words();
        let id = request_id.to_str().unwrap_or_default();
        let status = self.status().as_u16();
        let body = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{status},"code":"{code}","request_id":"{id}"}}"#
        );
        let mut answer = Response::new(AnswerBody::Own(Some(Bytes::from(body))));
        *answer.status_mut() = self.status();
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(crate::headers::REQUEST_ID, request_id.clone());
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        if let Self::Limited { requests, per_s, wait_ns } = self {
            let policy = format!("\"limit\";q={requests};w={per_s}");
            let now = format!("\"limit\";r=0;t={}", wait_s(wait_ns));
            for (name, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, now)] {
                headers.insert(name, HeaderValue::from_str(&text).expect("digits and quotes are a header value"));
            }
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::Late => Self::BodyLate,
            BodyError::InTheWay | BodyError::Left => Self::ParkOver,
            BodyError::Client => Self::BadBody,
            BodyError::Member => Self::NoAnswer,
        }
    }
}
