//! What the edge does to answers and writes about them: headers, compression, allowed addresses, the request log.

use crate::{
    echo::{Echo, Tongue, body, data, http2, nothing, until},
    world::{Client, Running, World, config, eventually, route},
};
use berth_edge::RequestLog;
use berth_wire::edge::{Compression, CompressionWay, EdgeSettings};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use std::{fs, io::Read as _};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// A world whose only tenant is at an echo.
async fn world(settings: EdgeSettings) -> (World, Echo) {
    let (world, echo) = (World::start().await, Echo::start(Tongue::Http1).await);
    world.control.set(settings);
    let mut home = world.home();
    home.members = vec![echo.wire("")];
    world.control.put(vec![home]).await;
    (world, echo)
}

fn compressed() -> EdgeSettings {
    let compression = Compression {
        ways: vec![CompressionWay::Zstd, CompressionWay::Br, CompressionWay::Gzip],
        from_bytes: 1000,
        types: vec!["text/html".into(), "text/event-stream".into()],
    };
    EdgeSettings { compression: Some(compression), ..EdgeSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_get_the_headers_that_they_lack_and_keep_their_own() {
    let headers = [("x-frame-options", "DENY"), ("content-security-policy", "default-src 'self'")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let (world, _echo) = world(EdgeSettings { headers, ..EdgeSettings::default() }).await;
    let mut client = world.edge.client().await;
    let ask = |own: Option<&str>| {
        let request = Request::get("/").header("host", "t1.test");
        own.map_or_else(
            || Request::get("/").header("host", "t1.test"),
            |own| request.header("say-x-frame-options", own),
        )
    };
    let answer = client.send(ask(None).body(Full::default()).unwrap()).await;
    assert_eq!(answer.headers["x-frame-options"], "DENY");
    assert_eq!(answer.headers["content-security-policy"], "default-src 'self'");
    let answer = client.send(ask(Some("SAMEORIGIN")).body(Full::default()).unwrap()).await;
    assert_eq!(answer.headers.get_all("x-frame-options").iter().collect::<Vec<_>>(), ["SAMEORIGIN"]);
    // What the edge says itself where there is no tenant has nothing of it: it is nobody's page.
    let answer = client.ask(Method::GET, "nobody.test", "/", "").await;
    assert!(!answer.headers.contains_key("x-frame-options"));
}

fn unpacked(way: &str, packed: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match way {
        "zstd" => zstd::stream::read::Decoder::new(packed).unwrap().read_to_end(&mut out).unwrap(),
        "br" => brotli::Decompressor::new(packed, 4096).read_to_end(&mut out).unwrap(),
        "gzip" => flate2::read::GzDecoder::new(packed).read_to_end(&mut out).unwrap(),
        _ => panic!("{way}"),
    };
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_comes_smaller_in_each_way_and_whole_to_who_does_not_ask() {
    let (world, _echo) = world(compressed()).await;
    let mut client = http2(world.edge.address).await;
    let page = "all work and no play ".repeat(20_000);
    for way in ["zstd", "br", "gzip", "identity"] {
        let (frames, sent) = body();
        for part in page.as_bytes().chunks(7_000) {
            frames.send(Frame::data(Bytes::copy_from_slice(part))).unwrap();
        }
        drop(frames);
        let request = Request::post("http://t1.test/").header("accept-encoding", way);
        let request = request.header("say-content-type", "text/html").header("say-etag", "\"1\"").body(sent).unwrap();
        let (parts, answer) = client.send_request(request).await.unwrap().into_parts();
        let answer = answer.collect().await.unwrap().to_bytes();
        assert_eq!(parts.headers["vary"], "accept-encoding", "{way}");
        if way == "identity" {
            assert!(!parts.headers.contains_key("content-encoding") && answer == page, "{} bytes", answer.len());
        } else {
            assert_eq!(parts.headers["content-encoding"], way);
            assert_eq!(parts.headers["etag"], "W/\"1\"");
            assert!(answer.len() < page.len() / 50, "{way}: {} bytes", answer.len());
            assert!(unpacked(way, &answer) == page.as_bytes(), "{way}");
        }
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(&world.edge.admin("/tenants").await).unwrap();
    let sent = list[0]["sent_bytes"].as_u64().unwrap();
    assert!(sent > page.len() as u64 && sent < page.len() as u64 * 2, "what was sent is what counts: {sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_out_at_once_though_its_stream_is_compressed() {
    let (world, _echo) = world(compressed()).await;
    let mut client = http2(world.edge.address).await;
    let (frames, sent) = body();
    let request = Request::post("http://t1.test/").header("accept-encoding", "gzip");
    let request = request.header("say-content-type", "text/event-stream").body(sent).unwrap();
    frames.send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).unwrap();
    let mut answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let mut packed = Vec::new();
    for event in [&b"data: 1\n\n"[..], b"data: 2\n\n"] {
        if event != b"data: 1\n\n" {
            frames.send(Frame::data(Bytes::from_static(b"data: 2\n\n"))).unwrap();
        }
        let mut seen = Vec::new();
        while !seen.ends_with(event) {
            packed.extend(data(answer.body_mut()).await);
            seen.clear();
            // It is not at its end, and gives what it has.
            drop(flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut seen));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_list_of_addresses_serves_no_other_and_a_trusted_peer_is_asked_whose_it_is() {
    for (trusted, allow, named, status) in [
        (false, "127.0.0.0/8", None, StatusCode::OK),
        (false, "10.0.0.0/8", None, StatusCode::FORBIDDEN),
        (false, "10.0.0.0/8", Some("10.1.2.3"), StatusCode::FORBIDDEN),
        (true, "10.0.0.0/8", Some("10.1.2.3"), StatusCode::OK),
        (true, "10.0.0.0/8", Some("10.1.2.3, 11.0.0.1"), StatusCode::FORBIDDEN),
        (true, "127.0.0.1", Some("nonsense"), StatusCode::FORBIDDEN),
    ] {
        let world = World::with(|c| {
            if trusted {
                c.limits.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
            }
        })
        .await;
        let mut home = world.home();
        home.allow = vec![allow.parse().unwrap()];
        world.control.put(vec![home]).await;
        let mut request = Request::post("/").header("host", "t1.test");
        if let Some(named) = named {
            request = request.header("x-forwarded-for", named);
        }
        let answer = world.edge.client().await.send(request.body(Full::from("x")).unwrap()).await;
        assert_eq!(answer.status, status, "{trusted} {allow} {named:?}");
        assert_eq!(world.old.writes(), usize::from(status == StatusCode::OK));
        assert_eq!(world.edge.get("t1.test", "/").await.status == StatusCode::OK, allow.starts_with("127"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_written_down_one_line_each_with_their_tenant_and_without_their_query() {
    let mut world = World::start().await;
    world.edge.stop().await;
    let file = world.dir.path().join("requests.log");
    let mut config = config(&world.control, world.dir.path());
    config.request_log = Some(RequestLog { file: Some(file.clone()), share: 1.0 });
    let edge = Running::start(config);
    world.control.put(vec![world.home(), route(2, 1, "other", &[&world.new])]).await;
    for (host, path) in [("t1.test", "/a?token=hidden"), ("t2.test", "/b"), ("nobody.test", "/c")] {
        Client::connect(edge.address).await.ask(Method::GET, host, path, "").await;
    }
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until(&mut stream, "400").await;
    let look = async || fs::read_to_string(&file).unwrap_or_default();
    let text = eventually("four lines", look, |text| text.lines().count() >= 4).await;
    assert!(!text.contains("hidden") && !text.contains(".test"), "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .map(|l| {
            (
                l["tenant_id"].as_str().map(|id| id[35..].to_owned()),
                l["metadata"]["path"].as_str(),
                &l["metadata"]["status"],
            )
        })
        .map(|(tenant, path, status)| format!("{tenant:?} {path:?} {status}"))
        .collect();
    let wanted = [
        "Some(\"1\") Some(\"/a\") 200",
        "Some(\"2\") Some(\"/b\") 200",
        "None Some(\"/c\") 404",
        "None Some(\"/\") 400",
    ];
    assert_eq!(told, wanted);
    assert!(edge.admin("/metrics").await.contains("berth_edge_request_log_dropped_total 0\n"));
    let ids: Vec<_> = lines.iter().map(|l| l["metadata"]["request_id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| id.len() == 36), "{ids:?}");
    let answer = http2(edge.address).await.send_request(Request::get("http://t1.test/").body(nothing()).unwrap());
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
}
