//! Members over HTTP/2 and TLS: what is spoken, who is believed, and what becomes of one who is not.

use crate::{
    echo::{Authority, Echo, Tongue, http2, nothing, version},
    world::{PATIENCE, World, eventually, route},
};
use berth_domain::Speaks;
use berth_wire::edge::{HealthCheck, ServiceSettings};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket},
};

fn check() -> HealthCheck {
    HealthCheck { path: "/health".into(), every_ms: 20, timeout_ms: 2_000, rise: 1, fall: 1, status: None }
}

fn over_tls(authority: &Authority, name: Option<&str>) -> ServiceSettings {
    ServiceSettings {
        speaks: Speaks::Https,
        ca_pem: Some(authority.pem.clone()),
        server_name: name.map(str::to_owned),
        ..ServiceSettings::default()
    }
}

async fn at(settings: ServiceSettings, tongue: Tongue) -> (World, Echo) {
    let (world, echo) = (World::with(|c| c.workers = 1).await, Echo::start(tongue).await);
    let mut home = world.home();
    home.members = vec![echo.wire("")];
    world.control.set_web(settings);
    world.control.put(vec![home]).await;
    (world, echo)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_over_tls_is_spoken_to_in_the_protocol_it_likes() {
    let authority = Authority::new();
    for (protocols, spoken) in
        [(&[&b"h2"[..], b"http/1.1"][..], Version::HTTP_2), (&[b"http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let (world, _echo) =
            at(over_tls(&authority, Some("app.internal")), authority.server("app.internal", protocols, false)).await;
        for method in [Method::GET, Method::POST, Method::GET] {
            let answer = world.edge.ask(method, "t1.test", "/a?b").await;
            assert_eq!((answer.status, version(&answer.headers)), (StatusCode::OK, spoken), "{}", answer.body);
            assert_eq!(answer.headers["x-host"], "t1.test");
            assert_eq!(answer.headers["x-tenant"], "key-1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_the_one_of_the_address_where_no_other_is_given() {
    let authority = Authority::new();
    let tongue = authority.server("127.0.0.1", &[b"h2"], false);
    let (world, _echo) = at(over_tls(&authority, None), tongue).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_an_expired_certificate_and_a_stranger_get_no_request_and_count_as_unwell() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (what, tongue) in [
        ("another name", authority.server("other.internal", &[b"h2"], false)),
        ("over", authority.server("app.internal", &[b"h2"], true)),
        ("a stranger's", stranger.server("app.internal", &[b"h2"], false)),
        ("no TLS", Tongue::Http1),
    ] {
        let (world, echo) = at(over_tls(&authority, Some("app.internal")), tongue).await;
        let answer = world.edge.get("t1.test", "/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{what}");
        assert!(answer.body.contains("unreachable"), "{what}: {}", answer.body);
        world.control.set_web(ServiceSettings { check: Some(check()), ..over_tls(&authority, Some("app.internal")) });
        let look = async || world.edge.get("t1.test", "/").await.body;
        eventually("the member is down", look, |body| body.contains("no_member")).await;
        assert_eq!(echo.requests(), 0, "{what}");
    }
    // The system's own authorities know nothing of ours.
    let settings = ServiceSettings { ca_pem: None, ..over_tls(&authority, Some("app.internal")) };
    let (world, echo) = at(settings, authority.server("app.internal", &[b"h2"], false)).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(echo.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_on_this_host_needs_no_tls_where_members_outside_do() {
    let world = World::start().await;
    for (speaks, address) in [(Speaks::Http, world.old.address), (Speaks::H2c, wordy().await.0)] {
        world.control.set_web(ServiceSettings { speaks, tls_outside: true, ..ServiceSettings::default() });
        let mut route = world.home();
        route.members[0].address = address.to_string();
        world.control.put(vec![route]).await;
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK, "{speaks:?}");
    }
}

/// A member over HTTP/2 with much to say, and how many connections it has had.
async fn wordy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, opened) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&opened);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            seen.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(|request: Request<Incoming>| async move {
                let bytes = if request.uri().path() == "/much" { 32 << 20 } else { 3 << 20 };
                Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from(vec![b'x'; bytes])))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, opened)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_nothing_hold_up_no_other_answer_on_the_connection_that_all_share() {
    let world = World::with(|c| c.workers = 1).await;
    let (member, opened) = wordy().await;
    let at = |number: u128| {
        let mut route = route(number, 1, "shared", &[&world.old]);
        route.members[0].address = format!("h2c://{member}");
        route
    };
    world.control.put(vec![at(1), at(2)]).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(world.edge.address).await.unwrap();
        stream.write_all(b"GET /much HTTP/1.1\r\nhost: t1.test\r\n\r\n").await.unwrap();
        // Its answer has begun, and is not read on.
        stream.peek(&mut [0]).await.unwrap();
        idle.push(stream);
    }
    for _ in 0..3 {
        let answer = tokio::time::timeout(PATIENCE, world.edge.get("t2.test", "/")).await.expect("it is served");
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 3 << 20));
    }
    assert_eq!(opened.load(Ordering::SeqCst), 1, "all of them share one");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_reach_members_in_each_protocol() {
    let authority = Authority::new();
    for (speaks, tongue) in [
        (Speaks::H2c, Tongue::H2c),
        (Speaks::Https, authority.server("app.internal", &[b"h2", b"http/1.1"], false)),
        (Speaks::Https, authority.server("app.internal", &[b"http/1.1"], false)),
    ] {
        let settings = ServiceSettings { check: Some(check()), speaks, ..over_tls(&authority, Some("app.internal")) };
        let (world, echo) = at(settings, tongue).await;
        eventually("it was asked", async || echo.requests(), |asked| *asked > 2).await;
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK, "{speaks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_one_connection_of_http_2_and_a_member_that_went_is_connected_to_anew() {
    let settings = ServiceSettings { speaks: Speaks::H2c, ..ServiceSettings::default() };
    let (world, echo) = at(settings, Tongue::H2c).await;
    assert_eq!(world.edge.ask(Method::POST, "t1.test", "/").await.status, StatusCode::OK);
    let mut client = http2(world.edge.address).await;
    let asked: Vec<_> = (0..50)
        .map(|n| client.send_request(Request::get(format!("http://t1.test/{n}")).body(nothing()).unwrap()))
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
    // What is spoken changes with the settings, and requests go on.
    world.control.set_web(ServiceSettings::default());
    world.control.put(vec![route(9, 1, "x", &[])]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::BAD_GATEWAY, "it does not speak HTTP/1.1");
    world.control.set_web(ServiceSettings { speaks: Speaks::H2c, ..ServiceSettings::default() });
    world.control.put(vec![route(9, 2, "x", &[])]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
    let address = echo.address;
    drop(echo);
    let look = async || world.edge.get("t1.test", "/").await.status;
    eventually("it is gone", look, StatusCode::is_server_error).await;
    let mut back = world.home();
    let again = Echo::start(Tongue::H2c).await;
    assert_ne!(again.address, address);
    back.members = vec![again.wire("h2c://")];
    world.control.put(vec![back]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
}
