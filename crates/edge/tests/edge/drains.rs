//! Drains: nothing new comes in, what is open gets time to end, and a drain that is taken back leaves no trace.

use crate::{
    echo::{http2, nothing},
    world::{Client, Running, World, eventually, route},
};
use berth_wire::edge::{EdgeSettings, RouteState, TenantRoute};
use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CLOSED: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

async fn socket(edge: &Running, host: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!("GET /socket HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

async fn echoes(stream: &mut TcpStream) {
    let frame = [0x81, 0x02, b'h', b'i'];
    stream.write_all(&frame).await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, frame);
}

async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, CLOSED);
}

fn drained(mut from: TenantRoute, grace_ms: u32) -> TenantRoute {
    from.state = RouteState::Draining { grace_ms };
    from
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_tenant_gets_nothing_new_and_what_is_open_ends() {
    let world = World::start().await;
    world.control.put(vec![route(2, 1, "shared", &[&world.old])]).await;
    let under_way = world.edge.later(Method::POST, "t1.test", "/wait", "x");
    world.old.has_waiting(1).await;
    let (mine, mut theirs) = (socket(&world.edge, "t1.test").await, socket(&world.edge, "t2.test").await);
    world.control.put(vec![drained(world.home(), 100)]).await;

    let answer = world.edge.get("t1.test", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains(r#""code":"draining""#), "{}", answer.body);
    assert_eq!(
        (&answer.headers["retry-after"], &answer.headers["connection"]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    is_closed(mine).await;
    world.old.state.open.send(true).unwrap();
    assert_eq!(under_way.await.unwrap().status, StatusCode::OK, "what was under way is finished");

    echoes(&mut theirs).await;
    assert_eq!(world.edge.get("t2.test", "/").await.status, StatusCode::OK);
    world.control.put(vec![world.home()]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_taken_back_in_time_ends_no_connection() {
    let world = World::start().await;
    let mut stream = socket(&world.edge, "t1.test").await;
    // So long that the moment of this connection's end is hardly in the next second.
    world.control.put(vec![drained(world.home(), 3_600_000)]).await;
    world.control.put(vec![world.home()]).await;
    echoes(&mut stream).await;
    world.control.put(vec![drained(world.home(), 0)]).await;
    is_closed(stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_member_gets_nothing_new_and_loses_its_own_connections_only() {
    let world = World::with(|c| c.workers = 1).await;
    let both = route(1, 1, "shared", &[&world.old, &world.new]);
    world.control.put(vec![both.clone()]).await;
    let mut streams = vec![socket(&world.edge, "t1.test").await, socket(&world.edge, "t1.test").await];
    let mut draining = both.clone();
    draining.members[0].draining_ms = Some(0);
    world.control.put(vec![draining]).await;
    let mut client = world.edge.client().await;
    for _ in 0..10 {
        assert_eq!(client.ask(Method::GET, "t1.test", "/", "").await.by(), "new");
    }
    // They took turns, so one of the two was at `old`.
    let mut seen = [[0; 1]; 2];
    let [at_one, at_other] = &mut seen;
    let (one, other) = streams.split_at_mut(1);
    let first_closed = tokio::select! {
        read = one[0].peek(at_one) => { read.unwrap(); true }
        read = other[0].peek(at_other) => { read.unwrap(); false }
    };
    let mut kept = streams.remove(usize::from(first_closed));
    is_closed(streams.remove(0)).await;
    echoes(&mut kept).await;
    world.control.put(vec![both]).await;
    let by = async || world.edge.get("t1.test", "/").await.by().to_owned();
    eventually("it is given requests again", by, |by| by == "old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_edge_answers_and_keeps_no_connection() {
    let world = World::with(|c| c.workers = 1).await;
    let stream = socket(&world.edge, "t1.test").await;
    let (mut idle, mut busy) = (Client::connect(world.edge.address).await, Client::connect(world.edge.address).await);
    for client in [&mut idle, &mut busy] {
        assert_eq!(client.ask(Method::GET, "t1.test", "/", "").await.status, StatusCode::OK);
    }
    let mut over_http2 = http2(world.edge.address).await;
    let first = over_http2.send_request(Request::get("http://t1.test/").body(nothing()).unwrap()).await.unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    let under_way = tokio::spawn(async move { busy.ask(Method::GET, "t1.test", "/wait", "").await });
    world.old.has_waiting(1).await;
    let health = async || Client::connect(world.edge.admin).await.ask(Method::GET, "admin", "/healthz", "").await;
    assert_eq!(health().await.status, StatusCode::OK);
    world.control.set(EdgeSettings { draining_ms: Some(50), ..EdgeSettings::default() });
    let gone = async || health().await.status;
    eventually("health says so", gone, |status| *status == StatusCode::SERVICE_UNAVAILABLE).await;
    is_closed(stream).await;
    eventually("an idle connection is closed", async || idle.is_closed(), |closed| *closed).await;
    drop(first);
    eventually("one of HTTP/2 too", async || over_http2.is_closed(), |closed| *closed).await;
    world.old.state.open.send(true).unwrap();
    assert_eq!(under_way.await.unwrap().status, StatusCode::OK);
    let answer = world.edge.get("t1.test", "/").await;
    assert_eq!((answer.status, &answer.headers["connection"]), (StatusCode::OK, &"close".parse().unwrap()));

    world.control.set(EdgeSettings::default());
    eventually("health is good again", gone, |status| *status == StatusCode::OK).await;
    let look = async || world.edge.get("t1.test", "/").await.headers.contains_key("connection");
    eventually("connections are kept again", look, |closes| !closes).await;
}
