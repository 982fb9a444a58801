//! WebSockets and event streams: carried, and ended when their tenant has moved.

use crate::{
    echo::{http2, nothing},
    world::{PATIENCE, World, eventually, held},
};
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, ext::Protocol};
use hyper_util::rt::TokioIo;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn socket(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    let request = b"GET /socket HTTP/1.1\r\nhost: t1.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_carried_both_ways_and_closed_with_1012_after_the_move() {
    let world = World::start().await;
    let mut stream = socket(&world).await;
    let frame = [0x81, 0x02, b'h', b'i'];
    stream.write_all(&frame).await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, frame);
    // A hold does not end it: the tenant may well stay.
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    stream.write_all(&frame).await.unwrap();
    stream.read_exact(&mut echoed).await.unwrap();
    world.control.put(vec![world.moved()]).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_addresses_ends_what_was_open_before_it_and_leaves_alone_what_came_after() {
    let world = World::start().await;
    let mut before = socket(&world).await;
    let mut listed = world.home();
    listed.allow = vec!["127.0.0.0/8".parse().unwrap()];
    world.control.put(vec![listed.clone()]).await;
    let mut rest = Vec::new();
    before.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4]);
    let (mut after, frame, mut echoed) = (socket(&world).await, [0x81, 0x01, b'a'], [0; 3]);
    // Something else changes, and the list is taken away.
    listed.body_bytes = Some(7);
    world.control.put(vec![listed]).await;
    world.control.put(vec![world.home()]).await;
    after.write_all(&frame).await.unwrap();
    after.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, frame);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_under_way_ends_before_the_close() {
    let world = World::start().await;
    let mut stream = socket(&world).await;
    stream.write_all(&[0x81, 0x04, b'a', b'b']).await.unwrap();
    let mut half = [0; 4];
    stream.read_exact(&mut half).await.unwrap();
    world.control.put(vec![world.moved()]).await;
    stream.write_all(b"cd").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [b'c', b'd', 0x88, 0x02, 0x03, 0xf4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_after_the_move_and_says_nothing_more_to_the_old_cell() {
    let world = World::start().await;
    let (listener, mut home) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), world.home());
    home.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![home]).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    let member = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        let switches = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(switches).await.unwrap();
        let mut part = vec![0; 64 * 1024];
        while let Ok(number @ 1..) = stream.read(&mut part).await {
            hears.fetch_add(number, Ordering::SeqCst);
            if stream.write_all(&part[..number]).await.is_err() {
                break;
            }
        }
    });
    let mut stream = socket(&world).await;
    // What it says comes back until every buffer on the way is full: nothing goes on for a while.
    let says = vec![0x82; 64 * 1024];
    while let Ok(said) = tokio::time::timeout(Duration::from_secs(2), stream.write(&says)).await {
        assert!(said.unwrap() > 0);
    }
    let before = heard.load(Ordering::SeqCst);
    world.control.put(vec![world.moved()]).await;
    let cut = async { while stream.write(&says).await.is_ok_and(|said| said > 0) {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("the connection is cut");
    // It takes what is on its way only now: what the member sent back, and no close frame.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection has ended");
    assert!(
        !rest.windows(4).any(|four| four == [0x88, 0x02, 0x03, 0xf4]),
        "it took nothing, so nothing was said to it"
    );
    let look = async || world.edge.admin("/metrics").await;
    eventually("its place is free", look, |m| m.lines().any(|l| l == "berth_edge_connections 0")).await;
    tokio::time::timeout(PATIENCE, member).await.expect("its member is let go").unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_cleanly_after_the_move() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: t1.test\r\n\r\n").await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut first = [0; 14];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"9\r\ndata: 1\n\n\r\n");
    world.control.put(vec![world.moved()]).await;
    let mut end = [0; 5];
    stream.read_exact(&mut end).await.unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    // The connection goes on, in the new cell.
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t1.test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("new GET /"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_upgrade_is_answered_and_the_connection_closed() {
    let world = World::start().await;
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: t1.test\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_goes_tells_its_websockets_so() {
    let mut world = World::start().await;
    let mut stream = socket(&world).await;
    world.edge.stop().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4]);
}

/// A WebSocket in a stream of HTTP/2, as RFC 8441 opens it.
async fn over_http2(world: &World, protocol: &'static str, path: &str) -> Response<Incoming> {
    let mut client = http2(world.edge.address).await;
    // With its first answer the edge has said that it takes WebSockets.
    let first = Request::get("http://nobody.test/").body(nothing()).unwrap();
    assert_eq!(client.send_request(first).await.unwrap().status(), StatusCode::NOT_FOUND);
    let request = Request::connect(format!("http://t1.test{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(nothing())
        .unwrap();
    client.send_request(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_is_carried_left_open_while_nobody_speaks_and_closed_after_the_move() {
    let world = World::with(|c| c.limits.client_idle = Duration::from_millis(300)).await;
    let answer = over_http2(&world, "websocket", "/socket").await;
    assert_eq!((answer.status(), answer.headers().get("upgrade")), (StatusCode::OK, None));
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let frame = [0x81, 0x02, b'h', b'i'];
    let mut echoed = [0; 4];
    for _ in 0..2 {
        stream.write_all(&frame).await.unwrap();
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, frame);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    world.control.put(vec![world.moved()]).await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_no_other_protocol_is_opened_and_an_answer_that_opens_none_is_no_success() {
    let world = World::start().await;
    assert_eq!(over_http2(&world, "connect-udp", "/socket").await.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(world.old.state.safe.load(Ordering::SeqCst), 0);
    // The member answers 200: to a client of HTTP/2 that would be an open WebSocket.
    assert_eq!(over_http2(&world, "websocket", "/").await.status(), StatusCode::BAD_GATEWAY);
    let mut client = http2(world.edge.address).await;
    let tunnel = Request::connect("t1.test:443").body(nothing()).unwrap();
    assert_eq!(client.send_request(tunnel).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}
