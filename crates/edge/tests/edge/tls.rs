//! TLS from the client: certificates by name, changed while connections go on; redirects and what is misdirected.

use crate::{
    echo::{Echo, Tongue},
    world::{Answer, Running, World, config, eventually, route},
};
use berth_domain::{CertificateId, Hostname};
use berth_edge::EdgeConfig;
use berth_wire::edge::{
    EdgeCertificate, EdgeChallenge, EdgeEvent, EdgeSettings, Good, Hidden, HttpsSettings, RouteState, TenantRoute,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, ProtocolVersion, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub fn made(id: u128, names: &[&str]) -> EdgeCertificate {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    EdgeCertificate {
        id: CertificateId::new(uuid::Uuid::from_u128(id)),
        version: id as u64,
        names,
        chain_pem: made.cert.pem(),
        key_pem: Hidden::new(made.signing_key.serialize_pem()),
        good: None,
    }
}

/// Checks signatures, and writes down the certificate instead of asking who vouches for it.
#[derive(Debug)]
struct Seen {
    provider: CryptoProvider,
    certificate: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.certificate.lock().unwrap() = Some(certificate.to_vec());
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection over TLS, and the certificate that was shown.
pub async fn connect(
    address: SocketAddr,
    name: &str,
    protocol: &[u8],
    version: &'static SupportedProtocolVersion,
) -> io::Result<(TlsStream<TcpStream>, Vec<u8>)> {
    connect_in(address, name, protocol, &[version]).await
}

/// The same of a client that speaks any of these versions.
async fn connect_in(
    address: SocketAddr,
    name: &str,
    protocol: &[u8],
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<(TlsStream<TcpStream>, Vec<u8>)> {
    let seen = Arc::new(Seen { provider: ring::default_provider(), certificate: Mutex::default() });
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = config
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    let certificate = seen.certificate.lock().unwrap().clone().unwrap();
    Ok((stream, certificate))
}

/// One request over HTTP/1.1 on a TLS connection of its own.
async fn ask(address: SocketAddr, name: &str, host: &str, path: &str) -> (Answer, Vec<u8>) {
    send(address, name, Request::get(path).header("host", host)).await
}

async fn send(address: SocketAddr, name: &str, request: http::request::Builder) -> (Answer, Vec<u8>) {
    let (stream, certificate) = connect(address, name, b"http/1.1", &TLS13).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (Answer { status: parts.status, headers: parts.headers, body }, certificate)
}

pub fn der(certificate: &EdgeCertificate) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap().to_vec()
}

pub async fn world() -> (World, SocketAddr) {
    let world = World::with(|c: &mut EdgeConfig| c.listen_tls = Some("127.0.0.1:0".parse().unwrap())).await;
    let address = world.edge.tls_address.unwrap();
    (world, address)
}

/// Puts certificates in force: events are taken in their order, so the route's acknowledgement speaks for them.
pub async fn put(world: &World, full: bool, certificates: Vec<EdgeCertificate>, gone: Vec<CertificateId>) {
    world.control.say(&EdgeEvent::Certificates { full, certificates, gone });
    world.control.put(vec![world.home()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_host_is_answered_with_its_own_certificate_over_both_versions_and_protocols() {
    let (world, address) = world().await;
    let mut second = route(2, 1, "other", &[&world.new]);
    second.hosts = vec![Hostname::new("shop.example.test").unwrap(), Hostname::new("api.example.test").unwrap()];
    world.control.put(vec![second]).await;
    let (one, two) = (made(1, &["t1.test"]), made(2, &["*.example.test"]));
    put(&world, true, vec![one.clone(), two.clone()], Vec::new()).await;

    let (answer, shown) = ask(address, "t1.test", "t1.test", "/a").await;
    assert_eq!((answer.status, answer.by(), shown), (StatusCode::OK, "old", der(&one)));
    assert_eq!(answer.sent("x-forwarded-proto"), Some("https"));
    assert_eq!(answer.sent("x-forwarded-host"), Some("t1.test"));
    let (answer, shown) = ask(address, "shop.example.test", "shop.example.test", "/").await;
    assert_eq!((answer.by(), shown), ("new", der(&two)));

    let (stream, shown) = connect(address, "api.example.test", b"h2", &TLS13).await.unwrap();
    assert_eq!(shown, der(&two));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for host in ["api.example.test", "shop.example.test"] {
        let request = Request::get(format!("https://{host}/")).body(Full::<Bytes>::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2), "{host}");
    }
    assert!(connect(address, "t1.test", b"http/1.1", &TLS12).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_versions_that_a_client_speaks_the_newest_is_spoken_and_none_before_1_2() {
    let (world, address) = world().await;
    put(&world, true, vec![made(1, &["t1.test"])], Vec::new()).await;
    for (offered, spoken) in
        [(&[&TLS12, &TLS13][..], ProtocolVersion::TLSv1_3), (&[&TLS12][..], ProtocolVersion::TLSv1_2)]
    {
        let (stream, _) = connect_in(address, "t1.test", b"http/1.1", offered).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
    }
    // A greeting of TLS 1.1 for `t1.test`: version, 32 bytes of chance, no session, one suite, no compression; the name, and how
    // it may be signed.
    let mut greeting: Vec<u8> = vec![0x16, 3, 1, 0, 71, 1, 0, 0, 67, 3, 2];
    greeting.extend([7_u8; 32]);
    greeting.extend([0_u8, 0, 2, 0xc0, 0x13, 1, 0, 0, 24]);
    greeting.extend(b"\0\0\0\x0c\0\x0a\0\0\x07t1.test");
    greeting.extend(b"\0\x0d\0\x04\0\x02\x04\x01");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&greeting).await.unwrap();
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).await.unwrap();
    assert_eq!((alert[0], &alert[5..]), (0x15, &[2, 70][..]), "it ends with `protocol_version`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_for_one_tenant_is_no_way_to_another_and_an_unknown_name_gets_no_certificate() {
    let (world, address) = world().await;
    world.control.put(vec![route(2, 1, "other", &[&world.new])]).await;
    put(&world, true, vec![made(1, &["t1.test"]), made(2, &["t2.test"])], Vec::new()).await;
    let (answer, _) = ask(address, "t1.test", "t2.test", "/").await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    assert!(!answer.body.contains("new"), "{}", answer.body);
    assert!(connect(address, "t3.test", b"http/1.1", &TLS13).await.is_err());
    assert_eq!(ask(address, "t2.test", "t2.test", "/").await.0.by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_new_connections_and_touches_no_open_one() {
    let (world, address) = world().await;
    let old = made(1, &["t1.test"]);
    put(&world, true, vec![old.clone()], Vec::new()).await;
    let (stream, _) = connect(address, "t1.test", b"http/1.1", &TLS13).await.unwrap();
    let (mut open, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let new = made(2, &["t1.test"]);
    put(&world, false, vec![new.clone()], Vec::new()).await;
    assert_eq!(ask(address, "t1.test", "t1.test", "/").await.1, der(&new));
    for _ in 0..3 {
        open.ready().await.unwrap();
        let request = Request::get("/").header("host", "t1.test").body(Full::<Bytes>::default()).unwrap();
        let answer = open.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
    }
    // One whose key is another's is refused, and the running one goes on.
    let mut mixed = made(3, &["t1.test"]);
    mixed.key_pem = old.key_pem.clone();
    put(&world, false, vec![mixed], Vec::new()).await;
    assert_eq!(ask(address, "t1.test", "t1.test", "/").await.1, der(&new));
    put(&world, false, Vec::new(), vec![new.id]).await;
    assert_eq!(ask(address, "t1.test", "t1.test", "/").await.1, der(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_renewals_of_one_tenant_touch_no_connection_and_no_certificate_of_another() {
    let (world, address) = world().await;
    world.control.put(vec![route(2, 1, "other", &[&world.new])]).await;
    let theirs = made(2, &["t2.test"]);
    put(&world, true, vec![made(1, &["t1.test"]), theirs.clone()], Vec::new()).await;

    // Of the other tenant: a kept connection, a stream of HTTP/2, a WebSocket, all before the first renewal.
    let (stream, _) = connect(address, "t2.test", b"http/1.1", &TLS13).await.unwrap();
    let (mut kept, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (stream, _) = connect(address, "t2.test", b"h2", &TLS12).await.unwrap();
    let (mut many, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut socket, _) = connect(address, "t2.test", b"http/1.1", &TLS13).await.unwrap();
    let request = b"GET /socket HTTP/1.1\r\nhost: t2.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }

    for n in 0..20 {
        let (renewed, old) = (made(100 + n, &["t1.test"]), CertificateId::new(uuid::Uuid::from_u128(99 + n)));
        put(&world, false, vec![renewed.clone()], vec![old]).await;
        assert_eq!(ask(address, "t1.test", "t1.test", "/").await.1, der(&renewed));
        assert_eq!(ask(address, "t2.test", "t2.test", "/").await.1, der(&theirs));
        kept.ready().await.unwrap();
        let request = Request::get("/").header("host", "t2.test").body(Full::<Bytes>::default()).unwrap();
        let answer = kept.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
        let request = Request::get("https://t2.test/").body(Full::<Bytes>::default()).unwrap();
        assert_eq!(many.send_request(request).await.unwrap().status(), StatusCode::OK);
        let (frame, mut echoed) = ([0x81, 0x01, b'0' + u8::try_from(n % 10).unwrap()], [0; 3]);
        socket.write_all(&frame).await.unwrap();
        socket.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, frame);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_there_after_a_restart_without_a_control_plane() {
    let (mut world, _) = world().await;
    let certificate = made(1, &["t1.test"]);
    put(&world, true, vec![certificate.clone()], Vec::new()).await;
    world.edge.stop().await;
    world.control.die().await;
    let mut again = config(&world.control, world.dir.path());
    again.listen_tls = Some("127.0.0.1:0".parse().unwrap());
    let again = Running::start(again);
    let (answer, shown) = ask(again.tls_address.unwrap(), "t1.test", "t1.test", "/").await;
    assert_eq!((answer.status, shown), (StatusCode::OK, der(&certificate)));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_are_sent_on_where_there_is_a_certificate_and_browsers_are_told() {
    let (world, address) = world().await;
    let mut suspended = route(3, 1, "shared", &[&world.old]);
    suspended.state = RouteState::Suspended;
    world.control.put(vec![route(2, 1, "other", &[&world.new]), suspended]).await;
    let https = HttpsSettings { redirect: true, hsts: Some("max-age=31536000".into()), ..HttpsSettings::default() };
    world.control.set(EdgeSettings { https, ..EdgeSettings::default() });
    put(&world, true, vec![made(1, &["t1.test", "t3.test"])], Vec::new()).await;

    let answer = world.edge.get("T1.test:80", "/a?b=c").await;
    assert_eq!(answer.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.headers["location"], "https://t1.test/a?b=c");
    assert!(!answer.headers.contains_key("strict-transport-security"), "over plain HTTP it means nothing");
    let posted = world.edge.ask(Method::POST, "t1.test", "/").await;
    assert_eq!(
        (posted.status, posted.headers["connection"].to_str().unwrap()),
        (StatusCode::PERMANENT_REDIRECT, "close")
    );
    assert_eq!(world.old.writes(), 0);
    assert_eq!(world.edge.get("t2.test", "/").await.by(), "new", "without a certificate there is no other way");

    let (answer, _) = ask(address, "t1.test", "t1.test", "/").await;
    assert_eq!(
        (answer.status, &answer.headers["strict-transport-security"]),
        (StatusCode::OK, &"max-age=31536000".parse().unwrap())
    );
    let (answer, _) = ask(address, "t3.test", "t3.test", "/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_application_says_of_https_itself_is_not_said_over() {
    let ((world, address), echo) = (world().await, Echo::start(Tongue::Http1).await);
    let https = HttpsSettings { hsts: Some("max-age=31536000".into()), ..HttpsSettings::default() };
    world.control.set(EdgeSettings { https, ..EdgeSettings::default() });
    put(&world, true, vec![made(1, &["t1.test"])], Vec::new()).await;
    let home = TenantRoute { members: vec![echo.wire("")], ..world.home() };
    world.control.put(vec![home]).await;
    for (own, seen) in
        [(None, "max-age=31536000"), (Some("max-age=60"), "max-age=60"), (Some("max-age=0"), "max-age=0")]
    {
        let mut request = Request::get("/").header("host", "t1.test");
        if let Some(own) = own {
            // The echo says it back as its own.
            request = request.header("say-strict-transport-security", own);
        }
        let (answer, _) = send(address, "t1.test", request).await;
        assert_eq!(answer.status, StatusCode::OK);
        let said: Vec<_> = answer.headers.get_all("strict-transport-security").iter().collect();
        assert_eq!(said, [seen], "the application said {own:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_proved_by_a_page_and_by_a_handshake_whether_it_is_routed_or_not() {
    let (world, address) = world().await;
    put(&world, true, vec![made(1, &["t1.test"])], Vec::new()).await;
    let proof = made(9, &["new.test"]);
    let host = || Hostname::new("new.test").unwrap();
    let page = |path: &str, body: &str| EdgeChallenge::Http { host: host(), path: path.into(), body: body.into() };
    let handshake =
        EdgeChallenge::Tls { host: host(), chain_pem: proof.chain_pem.clone(), key_pem: proof.key_pem.clone() };
    let challenges = vec![page("/.well-known/acme-challenge/abc", "abc.thumb"), page("/.well-known/x", "y"), handshake];
    world.control.say(&EdgeEvent::Challenges { version: 7, challenges });
    let look = async || world.control.acks().last().map(|ack| ack.challenges);
    eventually("the challenges are acknowledged", look, |seen| *seen == Some(7)).await;

    let answer = world.edge.get("NEW.test:80", "/.well-known/acme-challenge/abc").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "abc.thumb"));
    assert_eq!(world.edge.get("new.test", "/.well-known/x").await.body, "y");
    for (host, path) in
        [("new.test", "/.well-known/acme-challenge/other"), ("new.test", "/"), ("a.new.test", "/.well-known/x")]
    {
        assert_eq!(world.edge.get(host, path).await.status, StatusCode::NOT_FOUND, "{host}{path}");
    }
    assert_eq!(
        world.edge.get("t1.test", "/.well-known/acme-challenge/abc").await.by(),
        "old",
        "a tenant's own goes on"
    );
    let posted = world.edge.ask(Method::POST, "new.test", "/.well-known/x").await;
    assert_eq!(posted.status, StatusCode::NOT_FOUND);

    let (_, shown) = connect(address, "new.test", b"acme-tls/1", &TLS13).await.unwrap();
    assert_eq!(shown, der(&proof));
    assert!(connect(address, "new.test", b"http/1.1", &TLS13).await.is_err(), "it is for proof alone");
    assert!(connect(address, "t1.test", b"acme-tls/1", &TLS13).await.is_err(), "nobody asked for that proof");

    world.control.say(&EdgeEvent::Challenges { version: 8, challenges: Vec::new() });
    let look = async || world.edge.get("new.test", "/.well-known/x").await.status;
    eventually("the answers are gone", look, |status| *status == StatusCode::NOT_FOUND).await;
    assert!(connect(address, "new.test", b"acme-tls/1", &TLS13).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_edges_answer_the_same_challenges_and_each_says_when_it_does() {
    let (world, address) = world().await;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(&world.control, dir.path());
    settings.name = "south".parse().unwrap();
    settings.listen_tls = Some("127.0.0.1:0".parse().unwrap());
    let south = Running::start(settings);
    let proof = made(9, &["new.test"]);
    let host = || Hostname::new("new.test").unwrap();
    let challenges = vec![
        EdgeChallenge::Http { host: host(), path: "/.well-known/acme-challenge/abc".into(), body: "abc.thumb".into() },
        EdgeChallenge::Tls { host: host(), chain_pem: proof.chain_pem.clone(), key_pem: proof.key_pem.clone() },
    ];
    let routes = async || south.admin("/healthz").await;
    eventually("the second one follows", routes, |health| health.contains("\"control_connected\":true")).await;
    world.control.say(&EdgeEvent::Challenges { version: 7, challenges });
    // Whoever tells the authority to look waits for both.
    let by = async || {
        let acks = world.control.acks().into_iter().filter(|ack| ack.challenges == 7);
        acks.map(|ack| ack.instance).collect::<std::collections::BTreeSet<_>>().len()
    };
    eventually("both acknowledge", by, |number| *number == 2).await;
    for (edge, address) in [(&world.edge, address), (&south, south.tls_address.unwrap())] {
        let answer = edge.get("new.test", "/.well-known/acme-challenge/abc").await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "abc.thumb"));
        let (_, shown) = connect(address, "new.test", b"acme-tls/1", &TLS13).await.unwrap();
        assert_eq!(shown, der(&proof));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_names_the_port_and_goes_only_where_a_certificate_is_good() {
    let (world, _) = world().await;
    world.control.put(vec![route(2, 1, "other", &[&world.new])]).await;
    let https = HttpsSettings { redirect: true, port: Some(8443), ..HttpsSettings::default() };
    world.control.set(EdgeSettings { https, ..EdgeSettings::default() });
    let over = EdgeCertificate { good: Some(Good { from_s: 0, until_s: 1 }), ..made(2, &["t2.test"]) };
    put(&world, true, vec![made(1, &["t1.test"]), over], Vec::new()).await;
    let answer = world.edge.get("t1.test:8080", "/a").await;
    assert_eq!(answer.headers["location"], "https://t1.test:8443/a");
    assert_eq!(world.edge.get("t2.test", "/").await.by(), "new", "clients would not take that certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_handshake_is_let_go() {
    let world = World::with(|c| {
        c.listen_tls = Some("127.0.0.1:0".parse().unwrap());
        c.limits.header_time = std::time::Duration::from_millis(50);
    })
    .await;
    let mut silent = TcpStream::connect(world.edge.tls_address.unwrap()).await.unwrap();
    let mut byte = [0; 1];
    assert_eq!(silent.read(&mut byte).await.unwrap(), 0);
    let connections = async || world.edge.admin("/metrics").await.contains("berth_edge_connections 0");
    eventually("its connection is counted no more", connections, |none| *none).await;
}
