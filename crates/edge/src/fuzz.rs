//! What must hold for any bytes at all, for the parsers that are this project's own. Built by `cargo fuzz` alone, with
//! `--cfg fuzzing`; `scripts/soak fuzz` runs it.
//!
//! Never opens a socket or a file.

use crate::{
    frames::Frames,
    framing::Watch,
    routing::{Table, normal_host},
    sticky::Cookies,
};
use berth_domain::{MemberId, TenantId};
use berth_wire::edge::EdgeEvent;
use http::{HeaderMap, HeaderValue, header};

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
