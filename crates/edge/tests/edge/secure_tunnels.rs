//! WebSockets over TLS, from the client, to the member, and on both sides.

use crate::{
    echo::{Authority, Echo, Tongue},
    tls::{connect, made, put},
    world::World,
};
use berth_domain::Speaks;
use berth_wire::edge::{EdgeSettings, Hidden, ServiceSettings};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::{TLS12, TLS13};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

/// Opens a WebSocket over HTTP/1.1 on what leads to the edge.
async fn open(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> (String, impl AsyncRead + AsyncWrite + Unpin) {
    let request = b"GET /socket HTTP/1.1\r\nhost: t1.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

/// Frames of all sizes come back as they went, and after the move it is closed.
async fn carries(world: &World, mut stream: impl AsyncRead + AsyncWrite + Unpin, what: &str) {
    for length in [0_u8, 1, 125] {
        let mut frame = vec![0x82, length];
        frame.extend((0..length).map(|n| n ^ 0x5a));
        stream.write_all(&frame).await.unwrap();
        let mut echoed = vec![0; frame.len()];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, frame, "{what}");
    }
    let mut large = vec![0x82, 127];
    large.extend(200_000_u64.to_be_bytes());
    large.extend((0..200_000_u32).map(|n| n as u8));
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut echoed = vec![0; large.len()];
    let (sent, got) = tokio::join!(write.write_all(&large), read.read_exact(&mut echoed));
    sent.unwrap();
    got.unwrap();
    assert!(echoed == large, "{what}: a large frame comes back whole");
    world.control.put(vec![world.moved()]).await;
    let mut rest = Vec::new();
    // TLS may end without a farewell.
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4], "{what}");
}

/// A world whose tenant is at this member.
async fn at(tongue: Tongue, settings: ServiceSettings) -> (World, Echo) {
    let (world, _) = crate::tls::world().await;
    let echo = Echo::start(tongue).await;
    let services = [(berth_domain::ServiceName::new("web").unwrap(), settings)].into();
    let cookie_key = Hidden::new("a key".into());
    world.control.set(EdgeSettings { services, cookie_key, ..EdgeSettings::default() });
    put(&world, true, vec![made(1, &["t1.test"])], Vec::new()).await;
    let mut home = world.home();
    home.members = vec![echo.wire("")];
    world.control.put(vec![home]).await;
    (world, echo)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_over_tls_from_the_client_and_to_members_of_every_kind() {
    let authority = Authority::new();
    let https = || ServiceSettings {
        speaks: Speaks::Https,
        ca_pem: Some(authority.pem.clone()),
        server_name: Some("app.internal".into()),
        ..ServiceSettings::default()
    };
    let h2c = || ServiceSettings { speaks: Speaks::H2c, ..ServiceSettings::default() };
    for secure in [false, true] {
        for (what, tongue, settings) in [
            ("HTTP/1.1", Tongue::Http1, ServiceSettings::default()),
            ("h2c", Tongue::Either, h2c()),
            ("https that likes HTTP/2", authority.server("app.internal", &[b"h2", b"http/1.1"], false), https()),
            ("https", authority.server("app.internal", &[b"http/1.1"], false), https()),
        ] {
            let what = format!("a member of {what}, TLS from the client: {secure}");
            let (world, echo) = at(tongue, settings).await;
            let (head, opened) = if secure {
                let address = world.edge.tls_address.unwrap();
                let version = if what.contains("h2c") { &TLS12 } else { &TLS13 };
                let (stream, _) = connect(address, "t1.test", b"http/1.1", version).await.unwrap();
                let (head, stream) = open(stream).await;
                (head, Box::new(stream) as Box<dyn Both>)
            } else {
                let (head, stream) = open(TcpStream::connect(world.edge.address).await.unwrap()).await;
                (head, Box::new(stream) as Box<dyn Both>)
            };
            assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"), "{what}: {head}");
            assert_eq!(echo.requests(), 1, "{what}");
            carries(&world, opened, &what).await;
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_in_a_stream_of_http_2_over_tls_reaches_a_member_over_tls() {
    let authority = Authority::new();
    let settings = ServiceSettings {
        speaks: Speaks::Https,
        ca_pem: Some(authority.pem.clone()),
        server_name: Some("app.internal".into()),
        ..ServiceSettings::default()
    };
    let (world, _echo) = at(authority.server("app.internal", &[b"h2", b"http/1.1"], false), settings).await;
    let (stream, _) = connect(world.edge.tls_address.unwrap(), "t1.test", b"h2", &TLS13).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let first = http::Request::get("https://t1.test/").body(crate::echo::nothing()).unwrap();
    assert!(sender.send_request(first).await.unwrap().status().is_success());
    let request = http::Request::connect("https://t1.test/socket")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(crate::echo::nothing())
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(20), sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), http::StatusCode::OK);
    carries(&world, TokioIo::new(hyper::upgrade::on(answer).await.unwrap()), "HTTP/2 over TLS").await;
}
