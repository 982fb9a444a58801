//! Which heads are taken and which are 400, on raw bytes. Tables, no socket.

use super::Watch;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

const CHUNKED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n13\r\ncontent-length: 1\r\n\r\n0\r\nx: y\r\n\r\n";
const BOTH: &str = "POST / HTTP/1.1\r\ncontent-length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
const BOTH_BARE: &str = "POST / HTTP/1.1\ntransfer-encoding:chunked\ncontent-length:3\n\n";

/// The doubtful request, the same however the bytes are cut.
fn doubtful(requests: &[&str]) -> Option<u64> {
    let bytes = requests.concat().into_bytes();
    let seen = |cut: usize| {
        let mut watch = Watch::default();
        for part in bytes.chunks(cut) {
            watch.feed(part);
        }
        watch.doubtful
    };
    let whole = seen(bytes.len());
    for cut in [1, 2, 3, 5, 7, 64] {
        assert_eq!(seen(cut), whole, "cut into {cut}");
    }
    whole
}

#[test]
fn only_a_request_with_both_lengths_is_doubtful_wherever_it_stands() {
    for (requests, expected) in [
        (&[GET, GET][..], None),
        (&[CHUNKED, GET, CHUNKED], None),
        (&[BOTH], Some(1)),
        (&[BOTH_BARE], Some(1)),
        (&["\r\n\r\n", GET, BOTH], Some(2)),
        (&[CHUNKED, GET, BOTH], Some(3)),
        (&[GET, CHUNKED, BOTH_BARE, GET], Some(3)),
    ] {
        assert_eq!(doubtful(requests), expected, "{requests:?}");
    }
}

#[test]
fn a_body_that_is_coded_in_any_way_but_chunked_is_doubtful() {
    for (headers, expected) in [
        ("transfer-encoding: chunked", None),
        ("Transfer-Encoding:\tCHUNKED ", None),
        ("transfer-encoding: gzip, chunked", Some(2)),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked", Some(2)),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", Some(2)),
        ("transfer-encoding: chunked, chunked", Some(2)),
        ("transfer-encoding: chunked;a=b", Some(2)),
        ("transfer-encoding: identity", Some(2)),
        ("transfer-encoding:", Some(2)),
    ] {
        let request = format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n0\r\n\r\n");
        assert_eq!(doubtful(&[GET, &request, GET]), expected, "{headers}");
    }
    assert_eq!(doubtful(&[GET, CHUNKED, CHUNKED]), None, "two requests, each with one");
    let long = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked{}, gzip\r\n\r\n", " ".repeat(300));
    assert_eq!(doubtful(&[&long]), Some(1), "what follows a long line's beginning is not overlooked");
}

#[test]
fn a_length_too_long_to_be_followed_leaves_nothing_to_be_overlooked() {
    let spaces = " ".repeat(300);
    let zeros = "0".repeat(300);
    let length = format!("POST / HTTP/1.1\r\ncontent-length:{spaces}0\r\n\r\n");
    assert_eq!(doubtful(&[GET, &length, BOTH]), Some(2));
    // Read as the end of the body it would hide what follows: in the chunk, and after it.
    let size = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{zeros}5\r\n\r\nabc\r\n0\r\n\r\n");
    assert_eq!(doubtful(&[&size, BOTH]), Some(2));
    let comment = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;{zeros}\r\nabc\r\n0\r\n\r\n");
    assert_eq!(doubtful(&[&comment, GET]), Some(2));
    for length in [255, 256, 257, 258] {
        let line = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(length));
        assert_eq!(doubtful(&[&line, CHUNKED, BOTH]), Some(3), "other lines may be long");
        let size = "0".repeat(length - 1);
        let chunked = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{size}3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(doubtful(&[&chunked, GET]), (length > 256).then_some(2), "{length}");
    }
}

#[test]
fn a_body_that_looks_like_a_head_is_not_one() {
    let body = "content-length: 1\r\ntransfer-encoding: x\r\n\r\n";
    let request = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(doubtful(&[&request, GET]), None);
    assert_eq!(doubtful(&[&request, BOTH]), Some(2));
}

#[test]
fn after_an_upgrade_nothing_is_read_as_a_head() {
    let upgrade = "GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    assert_eq!(doubtful(&[upgrade, BOTH]), None);
}

#[test]
fn a_head_begun_is_noticed_until_it_ends() {
    let mut watch = Watch::default();
    for (bytes, begun) in [
        ("", false),
        ("\r\n", false),
        ("G", true),
        ("ET / HTTP/1.1\r\n", true),
        ("host: a\r\n", true),
        ("\r\n", false),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n", false),
        ("ab", false),
        ("c", false),
        ("P", true),
    ] {
        watch.feed(bytes.as_bytes());
        assert_eq!(watch.in_head(), begun, "after {bytes:?}");
    }
}

#[test]
fn an_endless_line_takes_no_room() {
    let mut watch = Watch::default();
    for _ in 0..1000 {
        watch.feed(&[b'x'; 1000]);
    }
    assert!(watch.line.capacity() < 2048, "{}", watch.line.capacity());
}
