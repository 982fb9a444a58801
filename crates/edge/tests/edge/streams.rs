//! Bodies while they come, and what follows them: both ways, from clients of both protocols to members of both.

use crate::{
    echo::{Authority, Echo, Tongue, after, body, data, frame, http2, nothing, until, version},
    world::{PATIENCE, World, eventually, held, route},
};
use berth_domain::Speaks;
use berth_wire::edge::ServiceSettings;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

/// A world whose tenants 1, 2 and 3 are at echoes of HTTP/1.1, HTTP/2 and TLS.
async fn world() -> (World, Vec<Echo>) {
    let authority = Authority::new();
    let tls = authority.server("members.test", &[b"h2", b"http/1.1"], false);
    let world = World::start().await;
    let mut echoes = Vec::new();
    world.control.set_web(ServiceSettings {
        ca_pem: Some(authority.pem.clone()),
        server_name: Some("members.test".into()),
        speaks: Speaks::Http,
        ..ServiceSettings::default()
    });
    for (number, (scheme, tongue)) in (1..).zip([("", Tongue::Http1), ("h2c://", Tongue::H2c), ("https://", tls)]) {
        let echo = Echo::start(tongue).await;
        let mut home = route(number, 1, "own", &[]);
        home.members = vec![echo.wire(scheme)];
        world.control.put(vec![home]).await;
        echoes.push(echo);
    }
    (world, echoes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_part_arrives_before_the_last_was_sent_and_trailers_follow_from_http_1() {
    let (world, _echoes) = world().await;
    for number in 1..=3 {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: t{number}.test\r\ntransfer-encoding: chunked\r\nte: trailers\r\nconnection: te\r\n\
             trailer: checksum\r\n\r\n5\r\nfirst\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let seen = until(&mut stream, "5\r\nfirst\r\n").await.to_ascii_lowercase();
        assert!(seen.contains("x-te: trailers") && seen.contains(&format!("x-tenant: key-{number}")), "{seen}");
        stream.write_all(b"6\r\nsecond\r\n").await.unwrap();
        until(&mut stream, "6\r\nsecond\r\n").await;
        stream.write_all(b"0\r\nchecksum: 7\r\nberth-tenant: evil\r\n\r\n").await.unwrap();
        let end = until(&mut stream, "\r\n\r\n").await;
        assert_eq!(end, "0\r\nchecksum: 7\r\n\r\n", "tenant {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_part_arrives_before_the_last_was_sent_and_trailers_follow_from_http_2() {
    let (world, _echoes) = world().await;
    let mut client = http2(world.edge.address).await;
    for (number, spoken) in [(1, Version::HTTP_11), (2, Version::HTTP_2), (3, Version::HTTP_2)] {
        let (frames, body) = body();
        let request = Request::post(format!("http://t{number}.test/echo"));
        let request = request.header("te", "trailers").header("trailer", "checksum").body(body).unwrap();
        frames.send(Frame::data(Bytes::from_static(b"first"))).unwrap();
        let (parts, mut answer) = client.send_request(request).await.unwrap().into_parts();
        assert_eq!((parts.status, version(&parts.headers)), (StatusCode::OK, spoken));
        assert_eq!(parts.headers["x-host"], format!("t{number}.test"));
        assert_eq!(parts.headers["x-te"], "trailers");
        assert_eq!(data(&mut answer).await, "first");
        frames.send(Frame::data(Bytes::from_static(b"second"))).unwrap();
        assert_eq!(data(&mut answer).await, "second");
        let evil = ["berth-tenant", "x-forwarded-for", "content-type"].map(http::HeaderName::from_static);
        let mut trailers: HeaderMap = evil.into_iter().map(|name| (name, HeaderValue::from_static("evil"))).collect();
        trailers.insert("checksum", HeaderValue::from_static("7"));
        frames.send(Frame::trailers(trailers)).unwrap();
        drop(frames);
        let trailers = after(&mut answer).await.unwrap_or_else(|| panic!("tenant {number}: no trailers"));
        assert_eq!(trailers.into_iter().map(|(name, _)| name.unwrap()).collect::<Vec<_>>(), ["checksum"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_body_is_kept_whole_with_what_follows_it_and_one_client_is_answered_without() {
    let (world, echoes) = world().await;
    for number in 1..=3 {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        let ask = |te: &str| {
            format!(
                "POST / HTTP/1.1\r\nhost: t{number}.test\r\ntransfer-encoding: chunked\r\n{te}\r\n3\r\nabc\r\n0\r\nchecksum: 9\r\n\r\n"
            )
        };
        stream.write_all(ask("te: trailers\r\nconnection: te\r\n").as_bytes()).await.unwrap();
        let answer = until(&mut stream, "0\r\n").await + &until_end(&mut stream).await;
        assert!(answer.contains("3\r\nabc\r\n0\r\nchecksum: 9\r\n\r\n"), "tenant {number}: {answer}");
        stream.write_all(ask("").as_bytes()).await.unwrap();
        let answer = until(&mut stream, "\r\n0\r\n\r\n").await;
        assert!(!answer.contains("checksum: 9"), "nobody asked for it: {answer}");
    }
    assert_eq!(echoes.iter().map(Echo::requests).collect::<Vec<_>>(), [2, 2, 2]);
}

/// What comes within a moment.
async fn until_end(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    while let Ok(Ok(read)) = timeout(Duration::from_millis(200), stream.read_buf(&mut rest)).await {
        if read == 0 {
            break;
        }
    }
    String::from_utf8(rest).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_to_be_asked_for_a_body_is_asked_when_admitted_and_refused_without_when_not() {
    let (world, echoes) = world().await;
    let ask = |host: &str, bytes: usize| {
        format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {bytes}\r\nexpect: 100-continue\r\n\r\n")
    };
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    stream.write_all(ask("t1.test", 5).as_bytes()).await.unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(echoes[0].requests(), 0, "it is sent on when its body is there");
    stream.write_all(b"hello").await.unwrap();
    assert!(until(&mut stream, "hello").await.starts_with("HTTP/1.1 200"));
    // The connection is as good as before, for a body that streams too.
    let long = 2 * 1024 * 1024;
    stream.write_all(ask("t1.test", long).as_bytes()).await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    let (mut read, mut write) = stream.split();
    let sent = async { write.write_all(&vec![b'x'; long]).await.unwrap() };
    let received = async {
        let (mut part, mut number) = (vec![0; 65536], 0);
        while number < long {
            number += read.read(&mut part).await.unwrap();
        }
    };
    tokio::join!(sent, received);

    let mut limited = route(5, 1, "own", &[&world.old]);
    limited.limits = vec![berth_wire::edge::RouteLimit { class: "api".into(), requests: 0, per_s: 60, until: None }];
    world.control.put(vec![limited]).await;
    for (host, bytes, status) in [("t5.test", 5, "403"), ("t1.test", 1 << 40, "413"), ("nobody.test", 5, "404")] {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        stream.write_all(ask(host, bytes).as_bytes()).await.unwrap();
        let answer = until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    assert_eq!(echoes[0].requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_who_expects_100_is_refused_at_once_or_served_when_its_body_comes_and_told_408_when_it_does_not() {
    let world = World::with(|c| c.limits.body_idle = Duration::from_secs(1)).await;
    let mut limited = route(5, 1, "own", &[&world.old]);
    limited.limits = vec![berth_wire::edge::RouteLimit { class: "api".into(), requests: 0, per_s: 60, until: None }];
    world.control.put(vec![limited]).await;
    let mut client = http2(world.edge.address).await;
    for (host, sends, status) in [
        ("t5.test", false, StatusCode::FORBIDDEN),
        ("t1.test", true, StatusCode::OK),
        ("t1.test", false, StatusCode::REQUEST_TIMEOUT),
    ] {
        let (frames, body) = body();
        let request = Request::post(format!("http://{host}/")).header("expect", "100-continue");
        let answer = client.send_request(request.header("content-length", "5").body(body).unwrap());
        let send = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !sends {
                return Some(frames);
            }
            frames.send(Frame::data(Bytes::from_static(b"hello"))).unwrap();
            None
        };
        let (answer, _still_open) = tokio::join!(answer, send);
        assert_eq!(answer.unwrap().status(), status, "{host} {sends}");
    }
    assert_eq!(world.old.writes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_may_be_silent_for_longer_than_an_upload_may() {
    let world = World::with(|c| c.limits.body_idle = Duration::from_millis(200)).await;
    let echo = Echo::start(Tongue::H2c).await;
    let mut home = route(2, 1, "own", &[]);
    home.members = vec![echo.wire("h2c://")];
    world.control.put(vec![home]).await;
    let mut client = http2(world.edge.address).await;
    let (frames, body) = body();
    frames.send(Frame::data(Bytes::from_static(b"hi"))).unwrap();
    let request = Request::post("http://t2.test/").body(body).unwrap();
    let mut answer = client.send_request(request).await.unwrap().into_body();
    assert_eq!(data(&mut answer).await, "hi");
    tokio::time::sleep(Duration::from_millis(600)).await;
    frames.send(Frame::data(Bytes::from_static(b"still there"))).unwrap();
    assert_eq!(data(&mut answer).await, "still there");
    drop(frames);
    assert!(after(&mut answer).await.is_none());
    let answer = client.send_request(Request::get("http://t2.test/").body(nothing()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_with_a_body_of_unsaid_length_keeps_it_on_its_way() {
    let (world, _echoes) = world().await;
    let mut client = http2(world.edge.address).await;
    for number in 1..=3 {
        let (frames, body) = body();
        frames.send(Frame::data(Bytes::from_static(b"what is "))).unwrap();
        let request = Request::get(format!("http://t{number}.test/search")).body(body).unwrap();
        let mut answer = client.send_request(request).await.unwrap();
        assert_eq!(data(answer.body_mut()).await, "what is ", "tenant {number}");
        frames.send(Frame::data(Bytes::from_static(b"wanted"))).unwrap();
        drop(frames);
        assert_eq!(data(answer.body_mut()).await, "wanted", "tenant {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_for_which_there_is_no_room_stream_and_their_room_comes_back() {
    let world = World::with(|c| {
        c.workers = 1;
        // An eighth of it is one tenant's.
        c.limits.keep_all_bytes = 8 * 130_000;
    })
    .await;
    let echo = Echo::start(Tongue::Http1).await;
    let homes = [2, 3].map(|number| {
        let mut home = route(number, 1, "own", &[]);
        home.members = vec![echo.wire("")];
        home
    });
    world.control.put(homes.into()).await;
    let kept = async || {
        let page = world.edge.admin("/metrics").await;
        let value = page.lines().find_map(|line| line.strip_prefix("berth_edge_kept_bytes ")).unwrap();
        value.parse::<u64>().unwrap()
    };
    // All but the last 10,000 bytes.
    let begin = async |host: &str, bytes: usize| {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", bytes + 10_000);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; bytes]).await.unwrap();
        stream
    };
    let mut first = begin("t2.test", 60_000).await;
    // What is joined may have room for as much again.
    eventually("the first is kept", &kept, |bytes| (60_000..=120_000).contains(bytes)).await;
    assert_eq!(echo.requests(), 0);
    let mut other = begin("t3.test", 60_000).await;
    let mut second = begin("t2.test", 80_000).await;
    assert!(until(&mut second, "\r\n\r\n").await.starts_with("HTTP/1.1 200"), "sent on as it comes");
    assert_eq!(echo.requests(), 1, "the first waits for its end, and so does another tenant's");
    for stream in [&mut first, &mut second] {
        stream.write_all(&[b'y'; 10_000]).await.unwrap();
        until(stream, "yyyy").await;
    }
    eventually("the other tenant's is kept", &kept, |bytes| (60_000..=120_000).contains(bytes)).await;
    assert_eq!(echo.requests(), 2, "there was room for it");
    other.write_all(&[b'y'; 10_000]).await.unwrap();
    until(&mut other, "yyyy").await;
    eventually("nothing is kept", &kept, |bytes| *bytes == 0).await;
    let mut third = begin("t2.test", 60_000).await;
    eventually("there is room again", &kept, |bytes| *bytes >= 60_000).await;
    assert_eq!(echo.requests(), 3, "kept as the first was");
    third.write_all(&[b'y'; 10_000]).await.unwrap();
    until(&mut third, "yyyy").await;
    let received = world.edge.admin("/metrics").await;
    assert!(received.contains("berth_edge_received_bytes_total{tenant=\"t2\"} 230000\n"), "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unsaid_length_that_is_there_whole_is_kept_although_there_is_no_room() {
    let world = World::with(|c| (c.workers, c.limits.keep_all_bytes) = (1, 8_000)).await;
    world.old.state.fenced.store(2, Ordering::SeqCst);
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    let body = "x".repeat(5_000);
    let whole = format!(
        "POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    stream.write_all(whole.as_bytes()).await.unwrap();
    // What streams cannot be sent once more when the fence has refused it.
    world.edge.parked("t1", 1).await;
    world.control.put(vec![world.moved()]).await;
    assert!(until(&mut stream, "5000 bytes").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_an_answer_that_is_not_taken_is_ended_and_what_is_beside_it_goes_on() {
    let world = World::with(|c| c.limits.client_idle = Duration::from_secs(1)).await;
    let (listener, mut long) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), route(2, 1, "own", &[&world.old]));
    long.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![long.clone()]).await;
    let member = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
        while stream.write_all(&vec![b'x'; 64 * 1024]).await.is_ok() {}
    });
    let mut client = http2(world.edge.address).await;
    let ask = |request: http::request::Builder| request.body(nothing()).unwrap();
    let events = client.send_request(ask(Request::get("http://t1.test/events"))).await.unwrap();
    let mut events = events.into_body();
    assert_eq!(data(&mut events).await, "data: 1\n\n");
    let untaken = client.send_request(ask(Request::post("http://t2.test/"))).await.unwrap();
    assert_eq!(untaken.status(), StatusCode::OK);
    timeout(PATIENCE, member).await.expect("its member is let go").unwrap();
    world.control.put(vec![held(long, 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    let mut untaken = untaken.into_body();
    let broken = async { while untaken.frame().await.expect("it has no end").is_ok() {} };
    timeout(PATIENCE, broken).await.expect("it breaks off");
    let beside = client.send_request(ask(Request::get("http://t1.test/"))).await.unwrap();
    assert_eq!(beside.status(), StatusCode::OK);
    assert!(timeout(Duration::from_millis(300), events.frame()).await.is_err(), "the event stream is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_member_that_does_not_take_a_body_holds_up_no_other_upload() {
    let world = World::start().await;
    let (listener, mut mute) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), route(2, 1, "own", &[&world.old]));
    mute.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![mute]).await;
    let _member = tokio::spawn(async move {
        let mut unread = Vec::new();
        loop {
            unread.push(listener.accept().await.unwrap());
        }
    });
    let mut client = http2(world.edge.address).await;
    let (frames, sent) = body();
    for _ in 0..512 {
        frames.send(Frame::data(Bytes::from(vec![b'x'; 64 * 1024]))).unwrap();
    }
    let mut same = client.clone();
    let _untaken =
        tokio::spawn(async move { same.send_request(Request::post("http://t2.test/").body(sent).unwrap()).await });
    let received = async || {
        let list: Vec<serde_json::Value> = serde_json::from_str(&world.edge.admin("/tenants").await).unwrap();
        list.iter().find(|t| t["name"] == "t2").and_then(|t| t["received_bytes"].as_u64()).unwrap_or(0)
    };
    // Until the edge takes no more of it.
    let (mut before, mut now) = (0, received().await);
    while now == 0 || now != before {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (before, now) = (now, received().await);
    }
    let (frames, sent) = body();
    frames.send(Frame::data(Bytes::from(vec![b'y'; 300_000]))).unwrap();
    drop(frames);
    let beside = client.send_request(Request::post("http://t1.test/").body(sent).unwrap());
    let beside = timeout(PATIENCE, beside).await.expect("it goes on").unwrap();
    assert_eq!(beside.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_little_is_kept_of_answers_that_their_client_does_not_take() {
    const REQUESTS: u64 = 128;
    let world = World::start().await;
    let (listener, mut long) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), route(2, 1, "own", &[&world.old]));
    long.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![long]).await;
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
                while stream.write_all(&vec![b'x'; 64 * 1024]).await.is_ok() {}
            });
        }
    });
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = socket.connect(world.edge.address).await.unwrap();
    // Its windows are as wide as they may be, and it reads nothing.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    // GET / of t2.test, in HPACK: three indexed fields and a literal authority.
    let head = [&[0x82, 0x84, 0x86, 0x41, 7], &b"t2.test"[..]].concat();
    for request in 0..u32::try_from(REQUESTS).unwrap() {
        bytes.extend(frame(1, 0x5, request * 2 + 1, &head));
    }
    client.write_all(&bytes).await.unwrap();
    eventually("all are asked", async || asked.load(Ordering::SeqCst), |n| *n == REQUESTS).await;
    let sent = async || {
        let list: Vec<serde_json::Value> = serde_json::from_str(&world.edge.admin("/tenants").await).unwrap();
        list.iter().find(|t| t["name"] == "t2").and_then(|t| t["sent_bytes"].as_u64()).unwrap_or(0)
    };
    // All that the edge takes of members, until it takes no more.
    let (mut before, mut now) = (0, sent().await);
    while now == 0 || now != before {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (before, now) = (now, sent().await);
    }
    // 64 KiB each, and two parts of up to 64 KiB; 10 MiB for what sockets hold.
    let most = REQUESTS * 3 * 64 * 1024 + (10 << 20);
    assert!(now <= most, "{} KiB of {} KiB", now >> 10, most >> 10);
}
