//! What must hold for any bytes at all, for the parsers that are this project's own. Built by `cargo fuzz` alone, with
//! `--cfg fuzzing`; `scripts/soak fuzz` runs it.
//!
//! Never opens a socket or a file.

use crate::{
    feed::Cutter,
    frames::Frames,
    framing::Watch,
    handover,
    headers::{self, Origin},
    limits::{Buckets, REST},
    pack, place,
    routing::{Table, normal_host},
    sticky::Cookies,
};
use berth_domain::{MemberId, TenantId};
use berth_wire::edge::{Compression, CompressionWay, EdgeEvent, RouteLimit};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use jiff::Timestamp;
use std::net::IpAddr;

/// The first byte says how the rest is cut into reads.
fn cuts(bytes: &[u8]) -> (&[u8], usize) {
    bytes.split_first().map_or((bytes, 1), |(cut, rest)| (rest, usize::from(*cut).max(1)))
}

/// However a connection's bytes are cut, the same request is the doubtful one, and a head is open or it is not.
pub fn framing(bytes: &[u8]) {
    let (bytes, cut) = cuts(bytes);
    let mut whole = Watch::default();
    whole.feed(bytes);
    let mut parts = Watch::default();
    for part in bytes.chunks(cut) {
        parts.feed(part);
    }
    assert_eq!((whole.doubtful, whole.in_head()), (parts.doubtful, parts.in_head()));
}

/// However frames are cut, they end in the same place.
pub fn frames(bytes: &[u8]) {
    let (bytes, cut) = cuts(bytes);
    let mut whole = Frames::default();
    whole.feed(bytes);
    let mut parts = Frames::default();
    for part in bytes.chunks(cut) {
        parts.feed(part);
    }
    assert_eq!(whole.between(), parts.between());
}

/// What is read as a host is spelled in one way, and reads as itself.
pub fn host(bytes: &[u8]) {
    let Ok(host) = normal_host(bytes) else { return };
    assert!(!host.is_empty() && host.len() <= 253 && !host.bytes().any(|b| b.is_ascii_uppercase() || b == b'/'));
    // A name that ends in two dots loses one each time.
    if !host.ends_with('.') {
        assert_eq!(normal_host(host.as_bytes()).as_deref(), Ok(&*host));
    }
}

/// No cookie is believed but one that was given.
pub fn cookie(bytes: &[u8]) {
    let (tenant, member) = (TenantId::new(uuid::Uuid::from_u128(1)), MemberId::new(uuid::Uuid::from_u128(2)));
    let Some(cookies) = Cookies::new("a key that nobody guesses") else { return };
    let Ok(sent) = HeaderValue::from_bytes(bytes) else { return };
    let given = cookies.give(tenant, member, false);
    let pair = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, sent.clone());
    let known = String::from_utf8_lossy(sent.as_bytes()).contains(&pair);
    assert!(cookies.read(tenant, &headers).is_none() || known);
}

/// Routes that can be read are taken in, and come out as they went in.
pub fn routes(bytes: &[u8]) {
    let Ok(EdgeEvent::Routes { full, revision, routes }) = serde_json::from_slice(bytes) else { return };
    let table = Table::default();
    let Some(plan) = table.plan(full, revision, routes.clone()) else { return };
    for change in &plan.changes {
        table.apply(change);
    }
    for packed in table.oldest_first() {
        let route = packed.route();
        assert!(packed.is(&route));
        for host in &route.hosts {
            // Two tenants may claim one host, and one that is gone claims none.
            let _ = table.routes.find(host.as_str(), "/a/b");
        }
    }
}

/// What the feed makes of these parts: its lines, and how much is left over.
fn feed_lines<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, usize) {
    let (mut cutter, mut lines) = (Cutter::default(), Vec::new());
    for part in parts {
        cutter.feed(part);
        while let Some(line) = cutter.line() {
            lines.push(line.to_vec());
        }
    }
    (lines, cutter.left_over())
}

/// However what control says is cut, the same lines come of it, whole and in their order.
pub fn feed(bytes: &[u8]) {
    let (bytes, cut) = cuts(bytes);
    let (lines, left_over) = feed_lines(std::iter::once(bytes));
    assert_eq!(feed_lines(bytes.chunks(cut)), (lines.clone(), left_over));
    let mut all = lines.concat();
    all.extend_from_slice(&bytes[bytes.len() - left_over..]);
    assert_eq!(all, bytes);
    for line in lines {
        assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
        let event = serde_json::from_slice::<EdgeEvent>(&line);
        assert!(event.is_err() || event.is_ok_and(|event| serde_json::to_vec(&event).is_ok()));
    }
}

/// Where Redis is, is read in one way: every address that is found, written out, is that address.
pub fn addresses(bytes: &[u8]) {
    let found = place::addresses(&String::from_utf8_lossy(bytes));
    assert!(!found.is_empty());
    for (host, port) in found {
        let written = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        assert_eq!(place::addresses(&written), [(host, port)]);
    }
}

/// Of what a predecessor hands over nothing is dealt twice, and nothing that did not come.
pub fn letter(bytes: &[u8]) {
    let (bytes, count) = cuts(bytes);
    let sockets: Vec<usize> = (0..count).collect();
    let Ok(dealt) = handover::dealt(&String::from_utf8_lossy(bytes), sockets) else { return };
    let all: Vec<usize> = dealt.plain.into_iter().chain(dealt.tls).chain(dealt.admin).collect();
    assert!(all.iter().copied().eq(0..all.len()) && all.len() <= count);
}

/// A path comes under one of its tenant's limits, and without an escape in it under the one whose name begins a part of it.
pub fn limits(bytes: &[u8]) {
    let path = String::from_utf8_lossy(bytes);
    let limit = |class: &str| RouteLimit { class: class.into(), requests: 1, per_s: 1, until: None };
    let tenant = TenantId::new(uuid::Uuid::from_u128(1));
    let limits = Buckets::default().of(tenant, &[limit("gps"), limit(REST), limit("upload")]);
    let class = limits.of(&path, || Timestamp::UNIX_EPOCH).map(|limit| &*limit.class);
    let begins = |class: &str| path.split('/').any(|part| part.starts_with(class));
    let plainly = ["gps", "upload"].into_iter().find(|class| begins(class)).unwrap_or(REST);
    assert!(class == Some(plainly) || (path.contains('%') && class.is_some()));
}

/// Lines of `name: value`, as many as there are.
fn lines(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n').take(100) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Whoever reads `_` as `-` must find nothing of ours either.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    ["berth-", "x-forwarded-", "x-request-id", "x-real-ip"].iter().any(|ours| name.starts_with(ours))
}

/// Whatever a client says of itself or of Berth, a member hears of it what the edge says, once; and an answer tells
/// nothing of the connection behind the edge.
pub fn headers(bytes: &[u8]) {
    let (bytes, first) = cuts(bytes);
    let said = lines(bytes);
    let (mut parts, ()) = Request::get("/a?b").body(()).expect("it is a request").into_parts();
    parts.headers = said.clone();
    let (client, id) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("id"));
    let trusted = first % 2 == 1;
    headers::forward(&mut parts, &Origin { client: &client, trusted, secure: false, request_id: &id, upgrade: None });
    for name in parts.headers.keys() {
        let set = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"].contains(&name.as_str());
        assert!(set || !is_ours(name), "{name}");
        assert!(!set || parts.headers.get_all(name).iter().count() == 1, "{name}");
    }
    assert_eq!(parts.headers[headers::REQUEST_ID], id);
    let chain = parts.headers["x-forwarded-for"].as_bytes();
    assert!(chain == client.as_bytes() || (trusted && chain.ends_with(b", 192.0.2.1")));
    assert!(parts.headers.get(header::CONNECTION).is_none_or(|value| value == "te"));
    assert!(!parts.headers.contains_key(header::TRANSFER_ENCODING) && !parts.headers.contains_key(header::UPGRADE));
    let peer: IpAddr = [192, 0, 2, 1].into();
    let named = headers::named_client(&said, peer, |ip| trusted && ip == peer);
    assert!(trusted || named == Some(peer), "nobody else is believed");
    let trusts = |ip: IpAddr| trusted && ip == peer;
    let _ = headers::client_digest(&parts.headers, trusts);
    let client = headers::client_address(&parts.headers, trusts);
    assert!(trusted || client == Some(peer), "nobody else is believed");
    let mut answer = said.clone();
    let settings = Compression {
        ways: vec![CompressionWay::Zstd, CompressionWay::Br, CompressionWay::Gzip],
        from_bytes: 1024,
        types: vec!["text/html".into()],
    };
    let packed = pack::mark(&settings, pack::wanted(&settings, &parts), StatusCode::OK, &mut answer);
    assert!(packed.is_none() || !said.contains_key(header::CONTENT_ENCODING));
    headers::answer(&mut answer, &id, false);
    assert!(!answer.keys().any(|name| name.as_str().starts_with("berth-")));
    assert!(!answer.contains_key(header::CONNECTION) && !answer.contains_key(header::TRANSFER_ENCODING));
    for name in headers::trailers(said).keys() {
        assert!(!is_ours(name) && *name != header::HOST && *name != header::CONTENT_LENGTH, "{name}");
    }
}
