//! What is taken from a request's and an answer's headers, and what is put in.
//!
//! Pure. Whatever a client says about Berth goes; what it says about itself goes too, unless it is a trusted peer.

use crate::balance::digest;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{self, Entry},
    request::Parts,
    uri::{PathAndQuery, Uri},
};
use http_body::Body;
use hyper::ext::Protocol;
use std::net::IpAddr;

pub const BERTH_TENANT: HeaderName = HeaderName::from_static("berth-tenant");
pub const BERTH_PLAN: HeaderName = HeaderName::from_static("berth-plan");
pub const BERTH_GENERATION: HeaderName = HeaderName::from_static("berth-generation");
/// Proves the tenant, the generation and the request id to members whose service has a key.
pub const BERTH_SIGNATURE: HeaderName = HeaderName::from_static("berth-signature");
/// Where the client's address is, as far as the edge's database knows.
pub const BERTH_COUNTRY: HeaderName = HeaderName::from_static("berth-country");
/// On an answer: refused by the fence, nothing was committed, the tenant is at this generation now.
pub const BERTH_FENCED: HeaderName = HeaderName::from_static("berth-fenced");
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// At most so many headers are put into a request.
const ADDED: usize = 11;

/// Headers that end at this hop, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    KEEP_ALIVE,
    HTTP2_SETTINGS,
    PROXY_CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
];

/// The one host of a request. `None`: there is none, more than one, or the request line names another.
pub fn host(parts: &Parts) -> Option<&[u8]> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return None;
    }
    let named = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (host, named) {
        (Some(host), Some(named)) if !named.eq_ignore_ascii_case(host) => None,
        // HTTP/2 names the host beside the path; in HTTP/1.1 the header is a duty.
        (None, Some(named)) if parts.version == http::Version::HTTP_2 => Some(named),
        (host, _) => host,
    }
}

/// The protocol that a client wants to switch to. WebSocket and no other: `h2c` would be a second way past every rule
/// of this edge.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    if !wanted.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return None;
    }
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    named.flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case("upgrade")).then(|| wanted.clone())
}

/// HTTP/2's way of asking for a WebSocket (RFC 8441). No other protocol, and nothing that is half of it.
pub fn websocket_over_http2(parts: &Parts) -> bool {
    let named = parts.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_ref() == b"websocket");
    named && parts.version == http::Version::HTTP_2 && parts.method == Method::CONNECT
}

/// The same question in the words of HTTP/1.1, with a key that HTTP/2 has no need of.
pub fn ask_for_websocket(parts: &mut Parts, key: HeaderValue) {
    parts.method = Method::GET;
    parts.extensions.remove::<Protocol>();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    parts.headers.insert(header::SEC_WEBSOCKET_KEY, key);
}

/// Methods that by their definition change nothing.
pub fn safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Methods that may be carried out twice.
pub fn idempotent(method: &Method) -> bool {
    safe(method) || matches!(*method, Method::PUT | Method::DELETE)
}

fn ends_here(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Headers that only the edge may set. Some servers turn `-` and `_` into one, so both spellings go.
fn ours(name: &str) -> bool {
    let begins = |prefix: &str| {
        name.len() >= prefix.len() && name.bytes().zip(prefix.bytes()).all(|(b, p)| b == p || (p == b'-' && b == b'_'))
    };
    match name.as_bytes().first() {
        Some(b'b') => begins("berth-"),
        Some(b'x') => begins("x-forwarded-") || begins("x-request-id") || begins("x-real-ip"),
        // `Proxy` becomes HTTP_PROXY in CGI-like servers.
        Some(b'f') => name == "forwarded",
        Some(b'p') => name == "proxy" || name == "proxy-authorization",
        _ => false,
    }
}

fn remove_where(headers: &mut HeaderMap, gone: impl Fn(&HeaderName) -> bool) {
    // Seldom more than none, so no set is made for nothing.
    while let Some(name) = headers.keys().find(|n| gone(n)).cloned() {
        while let Entry::Occupied(entry) = headers.entry(&name) {
            entry.remove_entry_mult();
        }
    }
}

/// Removes what `Connection` names and `Connection` itself. Never what frames or addresses the message.
fn remove_connection(headers: &mut HeaderMap) {
    let names_nothing = |said: &[u8]| said.eq_ignore_ascii_case(b"keep-alive") || said.eq_ignore_ascii_case(b"close");
    let mut all = headers.get_all(header::CONNECTION).iter();
    let Some(first) = all.next() else { return };
    if all.next().is_none() && names_nothing(first.as_bytes()) {
        headers.remove(header::CONNECTION);
        return;
    }
    let values: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    headers.remove(header::CONNECTION);
    for token in values.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let token = token.trim();
        if names_nothing(token.as_bytes()) {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token.as_bytes())
            && name != header::HOST
            && name != header::CONTENT_LENGTH
        {
            headers.remove(name);
        }
    }
}

/// What the edge says about a request, the same at every attempt to send it.
#[derive(Debug)]
pub struct Origin<'a> {
    pub client: &'a HeaderValue,
    /// What the peer says about its own client is believed.
    pub trusted: bool,
    /// It came over TLS.
    pub secure: bool,
    pub request_id: &'a HeaderValue,
    pub upgrade: Option<&'a HeaderValue>,
}

/// What a trusted peer says about its client.
#[derive(Default)]
struct Said {
    chain: Option<HeaderValue>,
    proto: Option<HeaderValue>,
    host: Option<HeaderValue>,
}

/// One of each, or it is not believed: a client may have sent the other.
fn said(headers: &HeaderMap) -> Said {
    let one = |name: &HeaderName| {
        let mut all = headers.get_all(name).iter();
        all.next().filter(|_| all.next().is_none()).cloned()
    };
    Said {
        chain: one(&FORWARDED_FOR),
        proto: one(&FORWARDED_PROTO).filter(|proto| *proto == "http" || *proto == "https"),
        host: one(&FORWARDED_HOST),
    }
}

/// A trusted peer says that its own client came over TLS.
pub fn said_https(headers: &HeaderMap) -> bool {
    said(headers).proto.is_some_and(|proto| proto == "https")
}

/// The client that trusted peers name: the last in their chain that is none of them. `None`: nobody can tell.
pub fn named_client(headers: &HeaderMap, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    if !trusted(peer) {
        return Some(peer);
    }
    let Some(chain) = said(headers).chain else {
        return if headers.contains_key(FORWARDED_FOR) { None } else { Some(peer) };
    };
    address(last_stranger(chain.as_bytes(), trusted))
}

/// The end of a chain's trusted part: the last in it who is no trusted peer, or no address; the first one, where all are.
fn last_stranger(chain: &[u8], trusted: impl Fn(IpAddr) -> bool) -> &[u8] {
    let mut last = chain;
    for part in chain.rsplit(|byte| *byte == b',') {
        last = part.trim_ascii();
        if !address(last).is_some_and(&trusted) {
            break;
        }
    }
    last
}

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// HTTP/2 may send a cookie header in pieces; HTTP/1.1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (pieces.next(), pieces.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for piece in headers.get_all(header::COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(piece.as_bytes());
    }
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Makes a client's request one that may be sent on.
pub fn forward(parts: &mut Parts, origin: &Origin<'_>) {
    // Room for all that is put in here and at each attempt, made once.
    parts.headers.reserve(ADDED);
    let host = parts.headers.get(header::HOST).cloned().or_else(|| {
        let named = HeaderValue::from_str(parts.uri.authority()?.as_str()).ok()?;
        parts.headers.insert(header::HOST, named.clone());
        Some(named)
    });
    let said = if origin.trusted { said(&parts.headers) } else { Said::default() };
    let trailers = takes_trailers(&parts.headers);
    remove_connection(&mut parts.headers);
    remove_where(&mut parts.headers, |n| ends_here(n) || ours(n.as_str()) || *n == header::EXPECT);
    if parts.version == http::Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    let chain = said.chain.and_then(|said| {
        let mut chain = said.as_bytes().to_vec();
        chain.extend_from_slice(b", ");
        chain.extend_from_slice(origin.client.as_bytes());
        HeaderValue::from_bytes(&chain).ok()
    });
    parts.headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| origin.client.clone()));
    parts.headers.insert(
        FORWARDED_PROTO,
        said.proto.unwrap_or(HeaderValue::from_static(if origin.secure { "https" } else { "http" })),
    );
    if let Some(host) = said.host.or(host) {
        parts.headers.insert(FORWARDED_HOST, host);
    }
    parts.headers.insert(REQUEST_ID, origin.request_id.clone());
    if let Some(protocol) = origin.upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    } else if trailers {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
    parts.version = http::Version::HTTP_11;
}

/// The client says that it reads what comes after an answer's body.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// Leaves of what follows a body what may stand there: nothing that frames or addresses a message, says who somebody
/// is, or is the edge's to say.
pub fn trailers(mut trailers: HeaderMap) -> HeaderMap {
    let never = |name: &HeaderName| {
        ends_here(name)
            || ours(name.as_str())
            || name.as_str().starts_with("content-")
            || matches!(
                *name,
                header::AUTHORIZATION
                    | header::CACHE_CONTROL
                    | header::CONNECTION
                    | header::COOKIE
                    | header::EXPECT
                    | header::HOST
                    | header::MAX_FORWARDS
                    | header::SET_COOKIE
                    | header::TRAILER
            )
    };
    remove_where(&mut trailers, never);
    trailers
}

/// Names what follows the body, which HTTP/1.1 carries only when it was announced and the body has no length.
pub fn announce(headers: &mut HeaderMap, trailers: &HeaderMap) {
    let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::TRAILER, names);
    }
}

/// Makes a request one of HTTP/2: the host beside the path, and nothing about the connection.
pub fn fit_http2<B>(request: &mut Request<B>, secure: bool) {
    if request.uri().authority().is_none()
        && let Some(host) = request.headers_mut().remove(header::HOST)
    {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let scheme = if secure { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path);
        match uri.build() {
            Ok(uri) => *request.uri_mut() = uri,
            // A host that no URI can hold goes as it came.
            Err(_) => drop(request.headers_mut().insert(header::HOST, host)),
        }
    }
    request.headers_mut().remove(header::CONNECTION);
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    *request.version_mut() = http::Version::HTTP_2;
}

/// Makes a request that was to go over HTTP/2 one of HTTP/1.1 again.
pub fn fit_http1<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    if matches!(*request.method(), Method::GET | Method::HEAD)
        && !body.is_end_stream()
        && body.size_hint().exact().is_none()
    {
        // Without a word on its length the body of such a request would be taken for none, and left behind.
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if request.version() != http::Version::HTTP_2 {
        return;
    }
    *request.version_mut() = http::Version::HTTP_11;
    if let Some(host) = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
    }
    if request.headers().contains_key(header::TE) {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// A number for the client's address, of a request that is ready to be sent on: of the client that trusted peers name, or
/// every client behind one load balancer would be the same.
pub fn client_digest(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> u64 {
    digest(client_text(headers, trusted))
}

/// The same address, where it is one.
pub fn client_address(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    address(client_text(headers, trusted))
}

/// The chain that is sent on ends with the peer.
fn client_text(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> &[u8] {
    last_stranger(headers.get(FORWARDED_FOR).map_or(&b""[..], HeaderValue::as_bytes), trusted)
}

/// Makes a member's answer one that a client may see.
pub fn answer(headers: &mut HeaderMap, request_id: &HeaderValue, switching: bool) {
    let protocol = if switching { headers.get(header::UPGRADE).cloned() } else { None };
    remove_connection(headers);
    remove_where(headers, |n| ends_here(n) || n.as_str().starts_with("berth-"));
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    headers.insert(REQUEST_ID, request_id.clone());
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
