//! Which answers are made smaller, and that what comes out is what went in. Tables, no socket.

use super::{Packer, mark, wanted};
use berth_wire::edge::{Compression, CompressionWay as Way};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use std::io::Read as _;

fn settings() -> Compression {
    Compression {
        ways: vec![Way::Zstd, Way::Br, Way::Gzip],
        from_bytes: 100,
        types: vec!["text/html".into(), "text/event-stream".into()],
    }
}

fn head(headers: &[(&'static str, &str)]) -> HeaderMap {
    let line =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    headers.iter().map(line).collect()
}

fn marked(accepts: &str, method: &str, status: u16, answer: &[(&'static str, &str)]) -> (Option<Way>, HeaderMap) {
    let request = Request::builder().method(method).header("accept-encoding", accepts).body(()).unwrap();
    let wanted = wanted(&settings(), &request.into_parts().0);
    let mut headers = head(answer);
    (mark(&settings(), wanted, StatusCode::from_u16(status).unwrap(), &mut headers), headers)
}

#[test]
fn a_client_gets_what_it_likes_best_and_else_what_we_like_best() {
    let html = [("content-type", "text/html; charset=utf-8")];
    for (accepts, way) in [
        ("gzip, deflate, br, zstd", Some(Way::Zstd)),
        ("gzip, br", Some(Way::Br)),
        ("br;q=0.5, GZIP;q=0.8", Some(Way::Gzip)),
        ("gzip;q=0, *", Some(Way::Zstd)),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=2", None),
        ("gzip;level=9", None),
        ("identity", None),
        ("", None),
        ("xgzip", None),
    ] {
        assert_eq!(marked(accepts, "GET", 200, &html).0, way, "{accepts}");
    }
}

#[test]
fn what_is_short_encoded_partial_or_not_to_be_touched_goes_as_it_is() {
    let html = ("content-type", "text/html");
    for (what, method, status, answer, smaller) in [
        ("a page", "GET", 200, &[html][..], true),
        ("an error's page", "POST", 500, &[html, ("content-length", "100")], true),
        ("short", "GET", 200, &[html, ("content-length", "99")], false),
        ("encoded", "GET", 200, &[html, ("content-encoding", "br")], false),
        ("an image", "GET", 200, &[("content-type", "image/png")], false),
        ("of no type", "GET", 200, &[], false),
        ("a part", "GET", 206, &[html, ("content-range", "bytes 0-9/10")], false),
        ("not to be touched", "GET", 200, &[html, ("cache-control", "public, No-Transform")], false),
        ("a head", "HEAD", 200, &[html], false),
        ("unchanged", "GET", 304, &[html], false),
    ] {
        let (way, headers) = marked("gzip", method, status, answer);
        assert_eq!(way.is_some(), smaller, "{what}");
        assert_eq!(headers.get("content-encoding").is_some_and(|e| e == "gzip"), smaller, "{what}");
        assert!(!smaller || !headers.contains_key("content-length"), "{what}");
    }
}

#[test]
fn caches_are_told_and_a_strong_tag_becomes_a_weak_one() {
    let page = [
        ("content-type", "text/html"),
        ("etag", "\"a\""),
        ("vary", "cookie"),
        ("accept-ranges", "bytes"),
        ("content-digest", "x"),
    ];
    let (_, headers) = marked("gzip", "GET", 200, &page);
    assert_eq!((&headers["etag"], headers.get("accept-ranges")), (&"W/\"a\"".parse().unwrap(), None));
    assert!(!headers.contains_key("content-digest"));
    assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), ["cookie", "accept-encoding"]);
    let (_, headers) = marked("identity", "GET", 200, &page);
    assert_eq!((&headers["etag"], headers.get_all("vary").iter().count()), (&"\"a\"".parse().unwrap(), 2));
    for told in ["Accept-Encoding", "*", "cookie, accept-encoding"] {
        let (_, headers) = marked("gzip", "GET", 200, &[("content-type", "text/html"), ("vary", told)]);
        assert_eq!(headers.get_all("vary").iter().count(), 1, "{told}");
    }
    let (_, headers) = marked("gzip", "GET", 200, &[("content-type", "image/png")]);
    assert!(!headers.contains_key("vary"));
}

fn unpacked(way: Way, packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match way {
        Way::Zstd => zstd::stream::read::Decoder::new(packed).unwrap().read_to_end(&mut out),
        Way::Br => brotli::Decompressor::new(packed, 4096).read_to_end(&mut out),
        Way::Gzip => flate2::read::GzDecoder::new(packed).read_to_end(&mut out),
    };
    // A stream that is not at its end gives what it has first.
    drop(read);
    out
}

#[test]
fn what_was_flushed_can_be_read_before_the_rest_is_there() {
    for way in [Way::Zstd, Way::Br, Way::Gzip] {
        let mut packer = Packer::new(way).unwrap();
        let mut packed = packer.push(b"data: first\n\n").unwrap().to_vec();
        packed.extend(packer.flush().unwrap());
        assert_eq!(unpacked(way, &packed), b"data: first\n\n", "{way:?}");
        assert!(packer.flush().unwrap().is_empty(), "{way:?}: nothing new, nothing out");
        let long = b"all work and no play ".repeat(10_000);
        packed.extend(packer.push(&long).unwrap());
        packed.extend(packer.finish().unwrap());
        let whole = [&b"data: first\n\n"[..], &long].concat();
        assert!(unpacked(way, &packed) == whole, "{way:?}");
        assert!(packed.len() < whole.len() / 50, "{way:?}: {} bytes", packed.len());
    }
}
