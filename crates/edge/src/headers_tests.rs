//! What the edge sets, what it removes, and which requests may be sent twice. Tables, no socket.

use super::{Origin, announce, answer, fit_http1, fit_http2, forward, host, idempotent, safe, trailers, upgrade};
use http::{HeaderMap, HeaderValue, Method, Request, request::Parts};
use std::net::IpAddr;

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
    forward(
        &mut parts,
        &Origin { client: &client, trusted: false, secure: false, request_id: &request_id, upgrade: None },
    );
    let expected = [
        "berth",
        "connection",
        "content-length",
        "host",
        "te",
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
    assert_eq!(
        (&parts.headers["connection"], &parts.headers["te"]),
        (&"te".parse().unwrap(), &"trailers".parse().unwrap())
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

#[test]
fn only_a_trusted_peer_is_believed_and_only_where_it_says_one_thing() {
    let (client, request_id) = (HeaderValue::from_static("10.0.0.1"), HeaderValue::from_static("id"));
    let sent = |trusted: bool, headers: &[(&str, &str)]| {
        let mut parts = parts("/", headers);
        forward(
            &mut parts,
            &Origin { client: &client, trusted, secure: false, request_id: &request_id, upgrade: None },
        );
        let get = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(parts.headers.get_all("x-forwarded-for").iter().count(), 1);
        (get("x-forwarded-for").unwrap(), get("x-forwarded-proto").unwrap(), get("x-forwarded-host").unwrap())
    };
    let all = [
        ("host", "a.test"),
        ("x-forwarded-for", "1.2.3.4, 5.6.7.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "b.test"),
    ];
    let own = |chain: &str| (chain.to_owned(), "http".to_owned(), "a.test".to_owned());
    assert_eq!(sent(false, &all), own("10.0.0.1"));
    let believed = ("1.2.3.4, 5.6.7.8, 10.0.0.1".to_owned(), "https".to_owned(), "b.test".to_owned());
    assert_eq!(sent(true, &all), believed);
    let twice = [
        ("host", "a.test"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "gopher"),
    ];
    assert_eq!(sent(true, &twice), own("10.0.0.1"));
}

#[test]
fn no_protocol_but_websocket_is_switched_to() {
    for (protocol, wanted) in [("WebSocket", true), ("h2c", false), ("h2c, websocket", false), ("TLS/1.3", false)] {
        let headers = parts("/", &[("connection", "upgrade"), ("upgrade", protocol)]).headers;
        assert_eq!(upgrade(&headers).is_some(), wanted, "{protocol}");
    }
}

#[test]
fn http_2_names_its_host_beside_the_path_and_its_cookies_become_one_line() {
    let mut parts = parts("https://a.test/x?y", &[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
    parts.version = http::Version::HTTP_2;
    assert_eq!(host(&parts), Some(&b"a.test"[..]));
    let (client, request_id) = (HeaderValue::from_static("1.2.3.4"), HeaderValue::from_static("id"));
    forward(
        &mut parts,
        &Origin { client: &client, trusted: false, secure: false, request_id: &request_id, upgrade: None },
    );
    assert_eq!(parts.headers["host"], "a.test");
    assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!((parts.uri.to_string(), parts.version), ("/x?y".to_owned(), http::Version::HTTP_11));
    assert_eq!(parts.headers["te"], "trailers");
}

#[test]
fn a_request_goes_over_http_2_and_back_without_a_loss() {
    let sent = [("host", "a.test:81"), ("connection", "te"), ("te", "trailers"), ("x", "y")];
    let mut request = Request::from_parts(parts("/x?y", &sent), String::new());
    let before = format!("{request:?}");
    fit_http1(&mut request);
    assert_eq!(format!("{request:?}"), before);
    fit_http2(&mut request, true);
    assert_eq!(
        (request.uri().to_string(), names(request.headers())),
        ("https://a.test:81/x?y".into(), vec!["te", "x"])
    );
    fit_http2(&mut request, true);
    fit_http1(&mut request);
    assert_eq!(request.uri().to_string(), "/x?y");
    assert_eq!(names(request.headers()), ["connection", "host", "te", "x"]);
    assert_eq!(request.headers()["host"], "a.test:81");
}

#[test]
fn what_follows_a_body_says_nothing_that_a_head_must_say() {
    let sent = [
        ("grpc-status", "0"),
        ("checksum", "1"),
        ("berth-tenant", "evil"),
        ("berth_plan", "evil"),
        ("x-forwarded-for", "evil"),
        ("host", "evil"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("content-type", "evil"),
        ("connection", "close"),
        ("authorization", "evil"),
        ("cookie", "evil"),
        ("trailer", "evil"),
    ];
    let left = trailers(parts("/", &sent).headers);
    assert_eq!(names(&left), ["checksum", "grpc-status"]);
    let mut head = parts("/", &[("content-length", "3")]).headers;
    announce(&mut head, &left);
    assert_eq!((names(&head), head["trailer"].len()), (vec!["trailer"], "checksum, grpc-status".len()));
}

#[test]
fn the_client_is_the_last_whom_a_trusted_peer_names_and_who_is_none() {
    let trusted = |address: IpAddr| address.to_string().starts_with("10.");
    let named = |peer: &str, chains: &[&str]| {
        let sent: Vec<_> = chains.iter().map(|chain| ("x-forwarded-for", *chain)).collect();
        super::named_client(&parts("/", &sent).headers, peer.parse().unwrap(), trusted).map(|a| a.to_string())
    };
    for (peer, chains, client) in [
        ("1.1.1.1", &["2.2.2.2"][..], Some("1.1.1.1")),
        ("10.0.0.1", &[], Some("10.0.0.1")),
        ("10.0.0.1", &["2.2.2.2"], Some("2.2.2.2")),
        ("10.0.0.1", &["3.3.3.3, 2.2.2.2"], Some("2.2.2.2")),
        ("10.0.0.1", &["2.2.2.2, 10.0.0.2"], Some("2.2.2.2")),
        ("10.0.0.1", &["10.0.0.2"], Some("10.0.0.2")),
        ("10.0.0.1", &["2.2.2.2, unknown"], None),
        ("10.0.0.1", &["2.2.2.2", "3.3.3.3"], None),
        ("10.0.0.1", &["2001:db8::1"], Some("2001:db8::1")),
    ] {
        assert_eq!(named(peer, chains).as_deref(), client, "{peer} {chains:?}");
    }
    // Of a request as it is sent on, by the same walk: the peer ends the chain.
    for (chain, client) in [
        ("1.1.1.1", Some("1.1.1.1")),
        ("10.0.0.1", Some("10.0.0.1")),
        ("3.3.3.3, 2.2.2.2, 10.0.0.1", Some("2.2.2.2")),
        ("2.2.2.2, 10.0.0.2, 10.0.0.1", Some("2.2.2.2")),
        ("10.0.0.3,10.0.0.2 , 10.0.0.1", Some("10.0.0.3")),
        ("2.2.2.2, unknown, 10.0.0.1", None),
    ] {
        let sent_on = parts("/", &[("x-forwarded-for", chain)]).headers;
        assert_eq!(super::client_address(&sent_on, trusted).map(|a| a.to_string()).as_deref(), client, "{chain}");
        let same = parts("/", &[("x-forwarded-for", client.unwrap_or("unknown"))]).headers;
        assert_eq!(super::client_digest(&sent_on, trusted), super::client_digest(&same, trusted), "{chain}");
    }
}
