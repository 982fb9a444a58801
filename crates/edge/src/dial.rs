//! How a member is reached: its address, what is spoken there, and who vouches for its name.
//!
//! Never sends a request. A member whose certificate is not in order is not reached at all, and the reason is said.

use crate::worker::keep_alive;
use berth_domain::{Speaks, is_private};
use berth_wire::edge::ServiceSettings;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use socket2::SockRef;
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Authorities that are remembered; a stack has one or two.
const KNOWN_MAX: usize = 64;

/// Tasks stay on the core that starts them.
#[derive(Clone, Copy, Debug)]
pub struct OnThisCore;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisCore {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A member's address, taken apart.
#[derive(Debug)]
pub struct Target {
    /// `host:port`.
    authority: Box<str>,
    /// Known without asking a resolver.
    socket: Option<SocketAddr>,
    /// What the address says of the protocol.
    said: Option<Speaks>,
}

impl Target {
    pub fn new(address: &str) -> Self {
        let schemes = [("https://", Speaks::Https), ("h2c://", Speaks::H2c), ("http://", Speaks::Http)];
        let said = schemes.iter().find_map(|(scheme, speaks)| Some((address.strip_prefix(scheme)?, *speaks)));
        let (authority, said) = said.map_or((address, None), |(rest, speaks)| (rest, Some(speaks)));
        Self { authority: authority.into(), socket: authority.parse().ok(), said }
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What is spoken at this address, by a service with these settings.
    pub fn manner(&self, service: &ServiceSettings) -> Manner {
        let speaks = self.said.unwrap_or(service.speaks);
        let secure = speaks == Speaks::Https;
        Manner {
            speaks,
            ca_pem: service.ca_pem.clone().filter(|_| secure),
            server_name: service.server_name.clone().filter(|_| secure),
            near: service.tls_outside && !secure,
        }
    }

    /// The name that the member's certificate has to bear.
    fn name(&self, own: Option<&str>) -> Result<ServerName<'static>, InvalidDnsNameError> {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let name = own.unwrap_or_else(|| host.trim_start_matches('[').trim_end_matches(']'));
        ServerName::try_from(name.to_owned())
    }
}

/// What is spoken, in words that can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Manner {
    pub speaks: Speaks,
    pub ca_pem: Option<String>,
    pub server_name: Option<String>,
    /// On this host or in a private network alone.
    pub near: bool,
}

/// TLS of one authority: with HTTP/2 on offer and without.
#[derive(Clone, Debug)]
struct Configs {
    both: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

/// What is spoken, ready for use.
#[derive(Clone, Debug)]
pub enum Way {
    Plain,
    H2c,
    /// Either of them, on this host or in a private network alone.
    Near {
        h2c: bool,
    },
    Tls(Arc<Tls>),
}

#[derive(Debug)]
pub struct Tls {
    configs: Configs,
    server_name: Option<String>,
}

/// Who vouches for members' names, read once per authority.
#[derive(Debug, Default)]
pub struct Trust {
    known: Mutex<HashMap<Option<String>, Configs>>,
}

impl Trust {
    pub fn way(&self, manner: &Manner) -> Way {
        match manner.speaks {
            Speaks::Http | Speaks::H2c if manner.near => Way::Near { h2c: manner.speaks == Speaks::H2c },
            Speaks::Http => Way::Plain,
            Speaks::H2c => Way::H2c,
            Speaks::Https => {
                let configs = self.configs(manner.ca_pem.as_ref());
                Way::Tls(Arc::new(Tls { configs, server_name: manner.server_name.clone() }))
            }
        }
    }

    fn configs(&self, ca_pem: Option<&String>) -> Configs {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(configs) = known.get(&ca_pem.cloned()) {
            return configs.clone();
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let roots = ca_pem.map_or_else(of_the_system, |pem| Arc::new(read(pem)));
        let configs = Configs { both: config(&roots, &[b"h2", b"http/1.1"]), http1: config(&roots, &[b"http/1.1"]) };
        known.insert(ca_pem.cloned(), configs.clone());
        configs
    }
}

/// TLS to a control plane: that an authority of this PEM vouches for, or without one an authority that this system knows.
/// `None`: there is no certificate in it, or one that cannot be read. The command line refuses the same files.
pub fn to_control(authorities_pem: Option<&str>) -> Option<Arc<ClientConfig>> {
    let roots = match authorities_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.ok()?).ok()?;
            }
            Arc::new(roots)
        }
        None => of_the_system(),
    };
    (authorities_pem.is_none() || !roots.is_empty()).then(|| config(&roots, &[b"http/1.1"]))
}

fn config(roots: &Arc<RootCertStore>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring speaks both versions")
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// What cannot be read vouches for nobody, so that its members are refused and not believed.
fn read(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = certificate.map_err(|error| error.to_string());
        if let Err(error) = added.and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string())) {
            tracing::error!(%error, "an authority of members' certificates cannot be read");
        }
    }
    roots
}

fn of_the_system() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::error!("this system knows no authorities, so no member is believed over TLS without `edge.ca`");
        }
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(load))
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug)]
pub enum Unreached {
    Connect(io::Error),
    Late,
    /// Others would read along.
    InTheOpen,
    Name(InvalidDnsNameError),
    /// The certificate among others: its name, its end, who vouches for it.
    Tls(io::Error),
    Handshake(hyper::Error),
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Late => f.write_str("no connection in time"),
            Self::InTheOpen => f.write_str(
                "it is neither on this host nor in a private network, and nothing is sent there without TLS: give it an \
                 `https://` address, or say `https.members_over_plain_http: true` in the stack file",
            ),
            Self::Name(error) => write!(f, "its address names no host that a certificate could bear: {error}"),
            Self::Tls(error) => write!(f, "TLS was refused: {error}"),
            Self::Handshake(error) => write!(f, "it does not speak HTTP: {error}"),
        }
    }
}

/// A connection to a member, and whether HTTP/2 is spoken on it.
pub async fn dial(
    target: &Target,
    way: &Way,
    http1_only: bool,
    patience: Duration,
) -> Result<(Stream, bool), Unreached> {
    let dialled = async {
        let stream = match (way, target.socket) {
            (Way::Near { .. }, _) => near(target).await?,
            (_, Some(socket)) => TcpStream::connect(socket).await.map_err(Unreached::Connect)?,
            (_, None) => TcpStream::connect(&*target.authority).await.map_err(Unreached::Connect)?,
        };
        // Without it a small request waits for the acknowledgement of the one before; with an error nothing is lost.
        let _ = stream.set_nodelay(true);
        // The same for this. No bound on what is not acknowledged: a member may leave an upload unread while it works.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive());
        let tls = match way {
            Way::Plain | Way::Near { h2c: false } => return Ok((Stream::Plain(stream), false)),
            Way::H2c | Way::Near { h2c: true } => return Ok((Stream::Plain(stream), !http1_only)),
            Way::Tls(tls) => tls,
        };
        let name = target.name(tls.server_name.as_deref()).map_err(Unreached::Name)?;
        let config = if http1_only { &tls.configs.http1 } else { &tls.configs.both };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(Unreached::Tls)?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(&b"h2"[..]);
        Ok((Stream::Secure(Box::new(stream)), http2))
    };
    timeout(patience, dialled).await.unwrap_or(Err(Unreached::Late))
}

/// A connection to one of the target's addresses that no stranger is at.
async fn near(target: &Target) -> Result<TcpStream, Unreached> {
    let all: Vec<SocketAddr> = match target.socket {
        Some(socket) => vec![socket],
        None => lookup_host(&*target.authority).await.map_err(Unreached::Connect)?.collect(),
    };
    let near: Vec<SocketAddr> = all.into_iter().filter(|at| is_private(at.ip()) || is_of_this_host(at.ip())).collect();
    if near.is_empty() {
        return Err(Unreached::InTheOpen);
    }
    TcpStream::connect(&near[..]).await.map_err(Unreached::Connect)
}

/// A socket can be bound to it; nothing is sent.
fn is_of_this_host(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Bytes to and from a member.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

macro_rules! on_either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Self::Secure($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stream, Target, Trust, Unreached, Way, dial, to_control};
    use berth_domain::Speaks;
    use berth_wire::edge::ServiceSettings;
    use socket2::SockRef;
    use std::time::Duration;

    #[test]
    fn an_address_says_what_is_spoken_or_leaves_it_to_its_service() {
        let service = ServiceSettings { speaks: Speaks::H2c, ca_pem: Some("x".into()), ..ServiceSettings::default() };
        for (address, authority, speaks, name) in [
            ("10.0.0.1:80", "10.0.0.1:80", Speaks::H2c, "10.0.0.1"),
            ("http://10.0.0.1:80", "10.0.0.1:80", Speaks::Http, "10.0.0.1"),
            ("https://app.example.com:443", "app.example.com:443", Speaks::Https, "app.example.com"),
            ("https://[::1]:443", "[::1]:443", Speaks::Https, "::1"),
            ("h2c://a:1", "a:1", Speaks::H2c, "a"),
        ] {
            let target = Target::new(address);
            let manner = target.manner(&service);
            assert_eq!((target.authority(), manner.speaks), (authority, speaks), "{address}");
            assert_eq!(manner.ca_pem.is_some(), speaks == Speaks::Https, "{address}");
            assert_eq!(target.name(None).unwrap().to_str(), name);
            assert_eq!(target.name(Some("own.test")).unwrap().to_str(), "own.test");
        }
    }

    #[tokio::test]
    async fn a_member_that_vanishes_is_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::new(&listener.local_addr().unwrap().to_string());
        let (stream, _) = dial(&target, &Way::Plain, true, Duration::from_secs(5)).await.unwrap();
        let Stream::Plain(stream) = stream else { panic!("nobody asked for TLS") };
        assert!(SockRef::from(&stream).keepalive().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap(), Duration::from_mins(1));
    }

    #[tokio::test]
    async fn nothing_goes_without_tls_to_where_strangers_are_once_the_stack_file_has_been_asked() {
        let patience = Duration::from_secs(5);
        for (address, speaks, tls_outside, refused) in [
            ("203.0.113.9:80", Speaks::Http, true, true),
            ("http://203.0.113.9:80", Speaks::Https, true, true),
            ("203.0.113.9:80", Speaks::H2c, true, true),
            ("[2001:db8::1]:80", Speaks::Http, true, true),
            // Nobody is there, and it is tried.
            ("127.0.0.1:1", Speaks::Http, true, false),
            ("localhost:1", Speaks::H2c, true, false),
            ("127.0.0.1:1", Speaks::Https, true, false),
            ("127.0.0.1:1", Speaks::Http, false, false),
        ] {
            let service = ServiceSettings { speaks, tls_outside, ..ServiceSettings::default() };
            let target = Target::new(address);
            let way = Trust::default().way(&target.manner(&service));
            let why = dial(&target, &way, false, patience).await.unwrap_err();
            assert_eq!(matches!(why, Unreached::InTheOpen), refused, "{address}: {why}");
        }
    }

    #[test]
    fn a_service_that_was_not_asked_sends_as_it_did_and_tls_goes_anywhere() {
        let (outside, usual) =
            (ServiceSettings { tls_outside: true, ..ServiceSettings::default() }, ServiceSettings::default());
        let target = Target::new("203.0.113.9:80");
        assert!(target.manner(&outside).near && !target.manner(&usual).near);
        assert!(!Target::new("https://203.0.113.9").manner(&outside).near);
    }

    #[test]
    fn authorities_of_which_one_cannot_be_read_vouch_for_no_control_plane() {
        let good = rcgen::generate_simple_self_signed(vec!["control.test".to_owned()]).unwrap().cert.pem();
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(to_control(Some(&good)).is_some());
        for refused in [String::new(), bad.to_owned(), format!("{good}{bad}"), format!("{bad}{good}")] {
            assert!(to_control(Some(&refused)).is_none(), "{refused}");
        }
    }
}
