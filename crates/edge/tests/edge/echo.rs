//! Members that send back what they are sent while it comes, over HTTP/1.1, HTTP/2 and TLS; and clients of both.

use berth_domain::{MemberId, ServiceName};
use berth_wire::edge::MemberAddress;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

/// What an echo speaks.
#[derive(Clone)]
pub enum Tongue {
    Http1,
    H2c,
    /// The same, and HTTP/1.1 on the same port, as WebSockets have it.
    Either,
    Tls(Arc<ServerConfig>),
}

pub struct Echo {
    pub address: SocketAddr,
    pub requests: Arc<AtomicUsize>,
    pub connections: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Echo {
    pub async fn start(tongue: Tongue) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (asked, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let server = tokio::spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                let (tongue, asked) = (tongue.clone(), Arc::clone(&asked));
                all.spawn(async move {
                    match tongue {
                        Tongue::Http1 => talk(stream, false, asked).await,
                        Tongue::H2c => talk(stream, true, asked).await,
                        Tongue::Either => {
                            let mut start = [0; 3];
                            let http2 = stream.peek(&mut start).await.is_ok() && &start != b"GET";
                            talk(stream, http2, asked).await;
                        }
                        Tongue::Tls(config) => {
                            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                            talk(stream, http2, asked).await;
                        }
                    }
                });
            }
        });
        Self { address, requests, connections, server }
    }

    /// As a member, its address after this scheme.
    pub fn wire(&self, scheme: &str) -> MemberAddress {
        MemberAddress {
            member: MemberId::new(uuid::Uuid::from_u128(u128::from(self.address.port()))),
            service: ServiceName::new("web").unwrap(),
            address: format!("{scheme}{}", self.address),
            draining_ms: None,
        }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool, asked: Arc<AtomicUsize>) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.fetch_add(1, Ordering::SeqCst);
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let host = parts.uri.authority().map(ToString::to_string);
        let host = host.or_else(|| Some(parts.headers.get("host")?.to_str().unwrap().to_owned()));
        let mut answer = Response::builder()
            .header("x-version", format!("{:?}", parts.version))
            .header("x-host", host.unwrap_or_default())
            .header("x-te", parts.headers.get("te").map_or("", |te| te.to_str().unwrap()))
            .header("trailer", "checksum, berth-tenant");
        if let Some(tenant) = parts.headers.get("berth-tenant") {
            answer = answer.header("x-tenant", tenant);
        }
        // A client says what it wants to be told.
        for (name, value) in &parts.headers {
            if let Some(name) = name.as_str().strip_prefix("say-") {
                answer = answer.header(name, value);
            }
        }
        if let Some(upgrade) = upgrade {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            answer = answer.status(101).header("connection", "upgrade").header("upgrade", "websocket");
        }
        async move { Ok::<_, Infallible>(answer.body(body).unwrap()) }
    });
    let stream = TokioIo::new(stream);
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).with_upgrades().await
    };
}

/// Somebody who vouches for members.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server with a certificate for this name. `over`: one whose time is over.
    pub fn server(&self, name: &str, protocols: &[&[u8]], over: bool) -> Tongue {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if over {
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 2, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Tongue::Tls(Arc::new(config))
    }
}

/// A body whose frames are sent one by one.
pub type Sent = UnsyncBoxBody<Bytes, Infallible>;

pub fn body() -> (UnboundedSender<Frame<Bytes>>, Sent) {
    let (sender, receiver) = unbounded_channel();
    let frames = stream::unfold(receiver, |mut receiver| async { Some((Ok(receiver.recv().await?), receiver)) });
    (sender, StreamBody::new(frames.boxed()).boxed_unsync())
}

pub fn nothing() -> Sent {
    Empty::new().boxed_unsync()
}

/// A client that begins with HTTP/2.
pub async fn http2(address: SocketAddr) -> SendRequest<Sent> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A frame of HTTP/2: length, type, flags, stream.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The next of an answer's data.
pub async fn data(body: &mut Incoming) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

/// What follows an answer's data.
pub async fn after(body: &mut Incoming) -> Option<HeaderMap> {
    body.frame().await?.unwrap().into_trailers().ok()
}

/// Reads until this has come.
pub async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if text.contains(wanted) {
            return text;
        }
        let read = tokio::time::timeout(crate::world::PATIENCE, stream.read_buf(&mut seen)).await;
        assert!(read.unwrap_or_else(|_| panic!("no {wanted:?} in {text:?}")).unwrap() > 0, "no {wanted:?} in {text:?}");
    }
}

pub fn version(headers: &HeaderMap) -> Version {
    match headers["x-version"].to_str().unwrap() {
        "HTTP/1.1" => Version::HTTP_11,
        "HTTP/2.0" => Version::HTTP_2,
        other => panic!("{other}"),
    }
}
