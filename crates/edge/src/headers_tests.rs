//! What the edge sets, what it removes, and which requests may be sent twice. Tables, no socket.

use super::{Origin, answer, forward, host, idempotent, safe, upgrade};
use http::{HeaderMap, HeaderValue, Method, Request, request::Parts};

fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_request_has_one_host_and_names_no_other() {
    for (uri, headers, good) in [
        ("/", &[("host", "a.test")][..], true),
        ("/", &[], false),
        ("/", &[("host", "a.test"), ("host", "a.test")], false),
        ("http://a.test/", &[("host", "a.test")], true),
        ("http://A.test/", &[("host", "a.TEST")], true),
        ("http://a.test:80/", &[("host", "a.test")], false),
        ("http://b.test/", &[("host", "a.test")], false),
        ("http://b.test/", &[], false),
    ] {
        assert_eq!(host(&parts(uri, headers)).is_some(), good, "{uri} {headers:?}");
    }
}

#[test]
fn an_upgrade_takes_both_headers() {
    for (headers, wanted) in [
        (&[("connection", "Upgrade"), ("upgrade", "websocket")][..], true),
        (&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], true),
        (&[("connection", "keep-alive"), ("connection", "UPGRADE"), ("upgrade", "websocket")], true),
        (&[("upgrade", "websocket")], false),
        (&[("connection", "upgrade")], false),
        (&[("connection", "upgraded"), ("upgrade", "websocket")], false),
    ] {
        assert_eq!(upgrade(&parts("/", headers).headers).is_some(), wanted, "{headers:?}");
    }
}

#[test]
fn what_is_forwarded_has_only_the_edges_word_on_where_it_comes_from() {
    let client = HeaderValue::from_static("1.2.3.4");
    let request_id = HeaderValue::from_static("id");
    let mut parts = parts(
        "http://a.test/x?y",
        &[
            ("host", "a.test"),
            ("connection", "close, x-hop, host, content-length, berth-tenant"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("berth-tenant", "evil"),
            ("berth_tenant", "evil"),
            ("berth-tenant", "evil too"),
            ("x_forwarded_host", "evil"),
            ("x-forwarded-for", "evil"),
            ("x-real-ip", "evil"),
            ("x-request-id", "evil"),
            ("forwarded", "evil"),
            ("proxy", "evil"),
            ("proxy-authorization", "evil"),
            ("x-forward", "kept"),
            ("berth", "kept"),
        ],
    );
    forward(&mut parts, &Origin { client: &client, request_id: &request_id, upgrade: None });
    let expected = [
        "berth",
        "content-length",
        "host",
        "x-forward",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    assert_eq!(names(&parts.headers), expected);
    assert_eq!(
        (&parts.headers["x-forwarded-for"], &parts.headers["x-forwarded-host"]),
        (&client, &"a.test".parse().unwrap())
    );
    assert_eq!(parts.uri.to_string(), "/x?y");
}

#[test]
fn an_answer_keeps_nothing_of_the_hop_behind_nor_of_berth() {
    let mut headers = parts(
        "/",
        &[
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("berth-fenced", "3"),
            ("transfer-encoding", "chunked"),
            ("server", "s"),
        ],
    )
    .headers;
    answer(&mut headers, &HeaderValue::from_static("id"), false);
    assert_eq!(names(&headers), ["server", "x-request-id"]);
    let mut headers = parts("/", &[("connection", "upgrade"), ("upgrade", "websocket")]).headers;
    answer(&mut headers, &HeaderValue::from_static("id"), true);
    assert_eq!(names(&headers), ["connection", "upgrade", "x-request-id"]);
}

#[test]
fn methods_are_what_their_definition_says() {
    for (method, is_safe, is_idempotent) in [
        (Method::GET, true, true),
        (Method::HEAD, true, true),
        (Method::OPTIONS, true, true),
        (Method::TRACE, true, true),
        (Method::PUT, false, true),
        (Method::DELETE, false, true),
        (Method::POST, false, false),
        (Method::PATCH, false, false),
        (Method::from_bytes(b"PURGE").unwrap(), false, false),
    ] {
        assert_eq!((safe(&method), idempotent(&method)), (is_safe, is_idempotent), "{method}");
    }
}
