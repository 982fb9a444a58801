//! Bytes that no honest client sends: what is refused, what is cut, and that nothing of it reaches a member.

use crate::{
    echo::{body, frame, http2},
    world::{Running, World, eventually, route},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Frame;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Everything that comes back until the edge closes, or has been silent for a while.
async fn raw(edge: &Running, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // The edge may close before it has everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(read)) = timeout(Duration::from_millis(700), stream.read(&mut part)).await {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&part[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn reached(world: &World) -> usize {
    world.old.writes() + world.old.state.safe.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_smuggle_a_second_request_is_refused_and_the_second_is_never_sent() {
    let world = World::start().await;
    let post = "POST / HTTP/1.1\r\nhost: t1.test\r\n";
    let second = "GET /second HTTP/1.1\r\nhost: t1.test\r\n\r\n";
    let bodies = [
        ("CL.TE", format!("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{second}")),
        ("TE.CL", format!("transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n2b\r\n{second}\r\n0\r\n\r\n")),
        ("TE.TE, one hidden", format!("transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n{second}")),
        ("an unknown coding", format!("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{second}")),
        ("a coding inside", format!("transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n{second}")),
        ("chunked twice", format!("transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n{second}")),
        ("identity", format!("transfer-encoding: identity\r\n\r\n0\r\n\r\n{second}")),
        ("a vertical tab", format!("transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n{second}")),
        ("a space in the name", format!("transfer-encoding : chunked\r\n\r\n0\r\n\r\n{second}")),
        ("two lengths", format!("content-length: 0\r\ncontent-length: 44\r\n\r\n{second}")),
        ("a signed length", format!("content-length: +5\r\n\r\nhello{second}")),
        ("a length in hexadecimal", format!("content-length: 0x5\r\n\r\nhello{second}")),
        ("a negative length", format!("content-length: -1\r\n\r\n{second}")),
        ("a length past all numbers", format!("content-length: 18446744073709551616\r\n\r\n{second}")),
        ("a length with a comma", format!("content-length: 0, 5\r\n\r\n{second}")),
        ("a chunk of a negative size", format!("transfer-encoding: chunked\r\n\r\n-1\r\n{second}")),
        ("a chunk size with a prefix", format!("transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n{second}")),
        ("a chunk size past all numbers", format!("transfer-encoding: chunked\r\n\r\n1ffffffffffffffff\r\n{second}")),
        ("a chunk size after a space", format!("transfer-encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n{second}")),
        ("a chunk longer than it says", format!("transfer-encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n{second}")),
        ("a chunk size without an end", format!("transfer-encoding: chunked\r\n\r\n{}", "0".repeat(20_000))),
        ("a chunk's comment without an end", format!("transfer-encoding: chunked\r\n\r\n5;{}", "x".repeat(70_000))),
        ("trailers without an end", format!("transfer-encoding: chunked\r\n\r\n0\r\n{}", "x: y\r\n".repeat(20_000))),
    ];
    for (what, rest) in bodies {
        let answer = raw(&world.edge, format!("{post}{rest}").as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{what}: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    assert_eq!(reached(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_no_head_is_refused() {
    let world = World::start().await;
    let heads: Vec<(&str, Vec<u8>)> = vec![
        ("no host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an empty host", b"GET / HTTP/1.1\r\nhost:\r\n\r\n".to_vec()),
        ("two hosts", b"GET / HTTP/1.1\r\nhost: t1.test\r\nhost: t2.test\r\n\r\n".to_vec()),
        ("two hosts in one", b"GET / HTTP/1.1\r\nhost: t1.test, t2.test\r\n\r\n".to_vec()),
        ("a host with an account", b"GET / HTTP/1.1\r\nhost: me@t1.test\r\n\r\n".to_vec()),
        ("a folded line", b"GET / HTTP/1.1\r\nhost: t1.test\r\nx: a\r\n\tb\r\n\r\n".to_vec()),
        ("a folded first line", b"GET / HTTP/1.1\r\n host: t1.test\r\n\r\n".to_vec()),
        ("a zero byte in a value", b"GET / HTTP/1.1\r\nhost: t1.test\r\nx: a\0b\r\n\r\n".to_vec()),
        ("a zero byte in a name", b"GET / HTTP/1.1\r\nhost: t1.test\r\nx\0: a\r\n\r\n".to_vec()),
        ("a zero byte in the path", b"GET /\0 HTTP/1.1\r\nhost: t1.test\r\n\r\n".to_vec()),
        ("a lone return in a value", b"GET / HTTP/1.1\r\nhost: t1.test\r\nx: a\rb: c\r\n\r\n".to_vec()),
        ("no colon", b"GET / HTTP/1.1\r\nhost: t1.test\r\nnonsense\r\n\r\n".to_vec()),
        ("no name", b"GET / HTTP/1.1\r\nhost: t1.test\r\n: a\r\n\r\n".to_vec()),
        ("no version", b"GET /\r\nhost: t1.test\r\n\r\n".to_vec()),
        ("a version of the future", b"GET / HTTP/3.0\r\nhost: t1.test\r\n\r\n".to_vec()),
        ("two spaces", b"GET  / HTTP/1.1\r\nhost: t1.test\r\n\r\n".to_vec()),
        ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("a line too long", format!("GET /{} HTTP/1.1\r\nhost: t1.test\r\n\r\n", "a".repeat(100_000)).into_bytes()),
        (
            "more headers than anybody has",
            format!("GET / HTTP/1.1\r\nhost: t1.test\r\n{}\r\n", "x: y\r\n".repeat(500)).into_bytes(),
        ),
        ("a tunnel", b"CONNECT t1.test:443 HTTP/1.1\r\nhost: t1.test:443\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in heads {
        let answer = raw(&world.edge, &bytes).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{what}: {answer}"
        );
    }
    assert_eq!(reached(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_sent_a_byte_at_a_time_is_cut_at_its_time_limit() {
    let world = World::with(|c| c.limits.header_time = Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    let started = Instant::now();
    let mut sent = 0;
    for byte in b"GET / HTTP/1.1\r\nhost: t1.test\r\nx: ".iter().chain(std::iter::repeat(&b'x')) {
        if stream.write_all(&[*byte]).await.is_err() || started.elapsed() > CUT_MAX {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300), "cut after {took:?}");
    assert!(took < CUT_MAX, "{sent} bytes and still open");
    assert_eq!(reached(&world), 0);
}

/// Of a limit of 300 ms, on a machine that does other things too.
const CUT_MAX: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_of_http_2_is_a_head_too_and_who_says_the_rest_in_time_is_served() {
    let world = World::with(|c| c.limits.header_time = Duration::from_millis(300)).await;
    for beginning in ["P", "PRI * HTTP/2."] {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        let started = Instant::now();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let ended = timeout(CUT_MAX, stream.read(&mut [0; 64])).await;
        // Closed with what it said unread, which is a reset.
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{beginning}: {ended:?}");
        assert!(started.elapsed() >= Duration::from_millis(300), "{beginning}");
    }
    for (first, rest, answered) in [
        ("P", "OST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 0\r\n\r\n", &b"HTTP/1.1 200"[..]),
        // The first of the edge's words is its settings: a frame of kind 4.
        ("PRI * HT", "TP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &b"\0\0"[..]),
    ] {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(rest.as_bytes()).await.unwrap();
        let mut answer = vec![0; answered.len()];
        timeout(CUT_MAX, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, answered, "{first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_or_drips_is_given_up_and_never_sent_on() {
    let world = World::with(|c| {
        c.limits.body_idle = Duration::from_millis(200);
        c.limits.body_time = Duration::from_millis(600);
    })
    .await;
    let head = b"POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 1000\r\n\r\nhello";
    let stopped = raw(&world.edge, head).await;
    assert!(stopped.starts_with("HTTP/1.1 408"), "{stopped}");
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    stream.write_all(head).await.unwrap();
    let (mut read, mut write) = stream.split();
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if write.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = vec![0; 64];
    let read = async { timeout(Duration::from_secs(15), read.read(&mut answer)).await.unwrap().unwrap() };
    let read = tokio::select! {
        () = drip => unreachable!("it drips for ever"),
        read = read => read,
    };
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(reached(&world), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_was_sent_is_passed_on_and_the_connection_not_used_again() {
    let world = World::start().await;
    let mut suspended = world.home();
    suspended.state = berth_wire::edge::RouteState::Suspended;
    world.control.put(vec![suspended]).await;
    let bytes = b"POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 1000000\r\n\r\nGET /second HTTP/1.1\r\nhost: t1.test\r\n\r\n";
    let answer = raw(&world.edge, bytes).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_a_websocket_or_nothing() {
    let world = World::start().await;
    let ask = |upgrade: &str| {
        format!(
            "GET /socket HTTP/1.1\r\nhost: t1.test\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAA\r\nupgrade: {upgrade}\r\n\r\n"
        )
    };
    for protocol in ["h2c", "h2c, websocket", "TLS/1.2", "anything"] {
        let answer = raw(&world.edge, ask(protocol).as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 101"), "{protocol}: {answer}");
    }
    // After an upgrade that was not made the bytes are watched no more, so nothing may follow.
    for (host, protocol) in [("t1.test", "h2c"), ("t1.test", "anything"), ("nobody.test", "websocket")] {
        let smuggled =
            "POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let first = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
        let answer = raw(&world.edge, format!("{first}{smuggled}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{host} {protocol}: {answer}");
    }
    assert_eq!(world.old.writes(), 0);
    let answer = raw(&world.edge, ask("WebSocket").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let with_body = "GET /socket HTTP/1.1\r\nhost: t1.test\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\nhello";
    let answer = raw(&world.edge, with_body.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_http_2_and_floods_is_cut_and_others_are_served() {
    let world = World::start().await;
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend(frame(4, 0, 0, &[]));
    // GET / of t1.test, in HPACK: three indexed fields and a literal authority.
    let mut head = vec![0x82, 0x84, 0x86, 0x41, 7];
    head.extend(b"t1.test");
    let mut reset = start.clone();
    for stream in (1..40_000).step_by(2) {
        reset.extend(frame(1, 0x5, stream, &head));
        reset.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut continued = start.clone();
    continued.extend(frame(1, 0x1, 1, &head));
    for _ in 0..20_000 {
        continued.extend(frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y']));
    }
    // One large field in the dynamic table, then named thousands of times.
    let mut bomb = head.clone();
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 127 + 0x21 + (0x1e << 7)]);
    bomb.extend(vec![0xbe; 16_000 - bomb.len()]);
    let mut bombs = start.clone();
    bombs.extend(frame(1, 0x5, 1, &bomb));
    for (what, bytes) in [("rapid reset", reset), ("continuation flood", continued), ("header bomb", bombs)] {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let send = async {
            let _ = write.write_all(&bytes).await;
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        let read = async {
            let mut part = [0; 4096];
            loop {
                match timeout(Duration::from_secs(3), read.read(&mut part)).await {
                    Ok(Ok(read)) if read > 0 => answer.extend_from_slice(&part[..read]),
                    Ok(_) => return true,
                    Err(_) => return false,
                }
            }
        };
        let closed = tokio::select! { () = send => unreachable!("it waits for ever"), closed = read => closed };
        // The bomb costs its one request only; a flood costs the connection.
        assert!(closed || what == "header bomb", "{what}: still open after {} bytes", answer.len());
        if what == "header bomb" {
            // Its stream is ended: answered 431, reset, or with the connection.
            let ended = frames_of(&answer).into_iter().any(|(kind, flags, stream, payload)| match kind {
                1 => stream == 1 && flags & 1 == 1 && payload.windows(3).any(|three| three == b"431"),
                3 => stream == 1,
                7 => true,
                _ => false,
            });
            assert!(ended, "its stream goes on: {:?}", frames_of(&answer));
        }
        assert!(answer.len() < 1 << 20, "{what}: {} bytes", answer.len());
        assert!(reached(&world) < 500, "{what}: {} requests were sent on", reached(&world));
    }
    let after = world.edge.ask(Method::GET, "t1.test", "/").await;
    assert_eq!(after.status, StatusCode::OK);
    let look = async || world.edge.admin("/metrics").await;
    eventually("no connection is left", look, |m| m.lines().any(|l| l == "berth_edge_connections 0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_who_asks_for_nothing_is_cut_whatever_else_it_says() {
    let world = World::with(|c| c.limits.client_idle = Duration::from_millis(200)).await;
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend(frame(4, 0, 0, &[]));
    // GET / of t1.test without a body, whose head goes on.
    let mut head = vec![0x82, 0x84, 0x86, 0x41, 7];
    head.extend(b"t1.test");
    let half = frame(1, 0x1, 1, &head);
    for (what, then, again) in [
        ("silence", Vec::new(), Vec::new()),
        ("half a head", half.clone(), Vec::new()),
        ("a head that drips", half, frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y'])),
        ("pings", Vec::new(), frame(6, 0, 0, &[0; 8])),
    ] {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        stream.write_all(&[&start[..], &then[..]].concat()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if write.write_all(&again).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let ended = async {
            let mut part = [0; 4096];
            while read.read(&mut part).await.is_ok_and(|read| read > 0) {}
        };
        let cut = tokio::select! {
            () = drip => unreachable!("it drips for ever"),
            cut = timeout(CUT_MAX, ended) => cut.is_ok(),
        };
        assert!(cut, "{what}: still open");
    }
    assert_eq!(reached(&world), 0);
}

/// Kind, flags, stream and payload of each whole frame.
fn frames_of(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, after)) = rest.split_at_checked(length) else { break };
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        frames.push((head[3], head[4], stream, payload.to_vec()));
        bytes = after;
    }
    frames
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_cost_no_memory_and_are_not_sent_on() {
    let world = World::start().await;
    let mut head = vec![0x82, 0x84, 0x86, 0x41, 7];
    head.extend(b"t1.test");
    // A field of 4,000 bytes, named 12,000 times: 48 MB if it were written out.
    let mut bomb = head;
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend(vec![b'y'; 127 + 0x21 + (0x1e << 7)]);
    bomb.extend(vec![0xbe; 16_000 - bomb.len()]);
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let frame = |stream: u32| {
        let length = u32::try_from(bomb.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], 1, 0x5];
        frame.extend(stream.to_be_bytes());
        frame.extend(&bomb);
        frame
    };
    // The first ones fill what is kept anyway.
    let mut open = Vec::new();
    let mut before = 0;
    for connection in 0..50_u32 {
        let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
        stream.write_all(&start).await.unwrap();
        for number in 0..4 {
            // Who is cut off for it may not take the rest.
            let _ = stream.write_all(&frame(number * 2 + 1)).await;
        }
        open.push(stream);
        if connection == 4 {
            before = resident_bytes();
        }
    }
    assert_eq!(world.edge.ask(Method::GET, "t1.test", "/").await.status, StatusCode::OK);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MB for 180 bombs of 48 MB", grown >> 20);
    assert_eq!(reached(&world), 1, "none was sent on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_answers_before_it_has_read_is_heard_and_nothing_of_the_body_is_a_request() {
    let world = World::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut hasty = world.home();
    hasty.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![hasty]).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 2048];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nmuch").await;
                }
                // It never reads on.
                std::future::pending::<()>().await;
            });
        }
    });
    // The body would be a second request to whoever took the answer for the end of the first.
    let second = "GET /second HTTP/1.1\r\nhost: t1.test\r\n\r\n";
    for body in [
        format!("content-length: 5000000\r\n\r\n{second}"),
        format!("transfer-encoding: chunked\r\n\r\n400000\r\n{second}"),
    ] {
        let answer = raw(&world.edge, format!("POST / HTTP/1.1\r\nhost: t1.test\r\n{body}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("much"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_too_a_request_has_one_host_and_one_length() {
    let world = World::start().await;
    world.control.put(vec![route(2, 1, "other", &[&world.new])]).await;
    let ask = async |host: Option<&str>, length: Option<&str>| {
        let mut client = http2(world.edge.address).await;
        let mut request = Request::post("http://t1.test/");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (frames, body) = body();
        frames.send(Frame::data(Bytes::from_static(b"hello"))).unwrap();
        drop(frames);
        client.send_request(request.body(body).unwrap()).await.map(|answer| answer.status())
    };
    assert_eq!(ask(None, Some("5")).await.unwrap(), StatusCode::OK);
    assert_eq!(ask(Some("t1.test"), None).await.unwrap(), StatusCode::OK);
    assert_eq!(ask(Some("t2.test"), None).await.unwrap(), StatusCode::BAD_REQUEST);
    let before = reached(&world);
    for length in ["3", "7", "x", "-1"] {
        let status = ask(None, Some(length)).await;
        assert!(status.as_ref().is_err() || status.as_ref().unwrap().is_client_error(), "{length}: {status:?}");
    }
    assert_eq!(reached(&world), before);
    assert_eq!(world.new.writes(), 0);
}
