//! How a Postgres that may be anywhere is come to: in plain, or over TLS that proves who answers. There is nothing in between, since
//! who encrypts without asking for whom tells everything to whoever takes the call.
//!
//! Never runs a statement, never waits without a limit, and never comes in plain where TLS was asked for.

#[cfg(test)]
mod tests;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::{
    CancelToken, Client, Config, NoTls,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// From the first packet until the server lets us in.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// For each of a host's addresses: a machine without IPv6 still comes to the other one.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// A connection on which nothing is said is tried so often.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// What was sent is taken, and a try answered, within this, or the connection is given up: Linux takes it in place of a number of tries
/// (tcp(7)). A server that has no room for more counts as well, so it is much longer than any of its waits: for a lock, or for its disk.
const UNTAKEN_LIMIT: Duration = Duration::from_mins(5);
/// The protocol's request for TLS: its length, and a version that no server has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// TLS towards one server. Its certificate leads to a root that is trusted, and names the host that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// A file with the roots, in PEM, read for every connection; without one, those that this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("the server did not let us in within {} s", CONNECT_LIMIT.as_secs())]
    Silent,
}

impl ConnectError {
    /// Where it is known what would help.
    pub fn remedy(&self) -> Option<&'static str> {
        self.is_unproved().then_some(
            "its certificate has to name the host of its connection string, and lead to an authority of this machine or of `sslrootcert`",
        )
    }

    /// Whether the server, or who stands for it, said something: a refusal too is an answer.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Postgres(error) => error.as_db_error().is_some() || self.is_unproved(),
            Self::Silent => false,
        }
    }

    /// The server could not prove who it is, or what it would have to prove is not known here: trying again changes nothing.
    pub fn is_unproved(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if error.is::<rustls::Error>()
                || inner.is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<NoRoots>())
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoRoots(String);

impl Tls {
    fn config(&self) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.roots {
            Some(path) => {
                for root in read(path)? {
                    roots
                        .add(root)
                        .map_err(|error| io::Error::other(NoRoots(format!("`{}`: {error}", path.display()))))?;
                }
            }
            None => roots.roots.clone_from(&machines_own().roots),
        }
        if roots.is_empty() {
            let whose = match &self.roots {
                Some(path) => format!("`{}` has no certificate in PEM", path.display()),
                None => "this machine trusts no authority: install `ca-certificates`, or name a file as `sslrootcert`"
                    .to_owned(),
            };
            return Err(io::Error::other(NoRoots(whose)));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth())
    }

    /// Turns a connection on which nothing was said yet into an encrypted one.
    pub async fn start<S>(&self, mut stream: S, host: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::new(self.config()?);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        stream.write_all(&SSL_REQUEST).await?;
        // Read by itself: what follows is not ours but the handshake's.
        if stream.read_u8().await? != b'S' {
            return Err(io::Error::other("the server does not speak TLS"));
        }
        TlsConnector::from(config).connect(name, stream).await
    }
}

/// Read once: they change with the machine's packages.
fn machines_own() -> &'static RootCertStore {
    static OWN: OnceLock<RootCertStore> = OnceLock::new();
    OWN.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

fn read(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let told = |error: &dyn std::fmt::Display| io::Error::other(NoRoots(format!("`{}`: {error}", path.display())));
    let all = CertificateDer::pem_file_iter(path).map_err(|error| told(&error))?;
    all.collect::<Result<_, _>>().map_err(|error| told(&error))
}

/// So that the file of roots is read when a connection is made, and not before.
impl<S> MakeTlsConnect<S> for &Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Self::TlsConnect> {
        MakeTlsConnect::<S>::make_tls_connect(&mut MakeRustlsConnect::new(self.config()?), host)
            .map_err(io::Error::other)
    }
}

/// A session, over TLS where that is given and never otherwise. Dropping the client ends it; an error of the connection is the one
/// that the client's next statement answers with.
pub async fn connect(config: &Config, tls: Option<&Tls>) -> Result<Client, ConnectError> {
    let mut config = config.clone();
    config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
    config
        .connect_timeout(ADDRESS_LIMIT)
        .tcp_user_timeout(UNTAKEN_LIMIT)
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE);
    let connected = async {
        match tls {
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(connection);
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = config.connect(tls).await?;
                tokio::spawn(connection);
                Ok(client)
            }
        }
    };
    timeout(CONNECT_LIMIT, connected).await.unwrap_or(Err(ConnectError::Silent))
}

/// Asks the server to give up what a session is at. Nobody says whether it does.
pub async fn cancel(token: &CancelToken, tls: Option<&Tls>) -> Result<(), ConnectError> {
    let cancelled = async {
        match tls {
            None => token.cancel_query(NoTls).await,
            Some(tls) => token.cancel_query(tls).await,
        }
    };
    Ok(timeout(CONNECT_LIMIT, cancelled).await.map_err(|_| ConnectError::Silent)??)
}

/// Has the kernel find out that the other machine is gone, also while nothing is to be said.
pub fn notice_silence(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNTAKEN_LIMIT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// A connection string, taken apart: `postgres://user:password@host:port/name?sslmode=…&sslrootcert=…`.
///
/// `sslmode=require`, `verify-ca` and `verify-full` all mean the last; `disable`, `allow`, `prefer` and no word mean no TLS. What cannot
/// be read is refused and never taken for no TLS. What is wrong is said without repeating it, since there is a password in it.
pub fn parse(url: &str) -> Result<(Config, Option<Tls>), String> {
    let url = url.trim();
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let (mut rest, mut mode, mut roots) = (url.to_owned(), None, None);
    if let Some((address, query)) = url.split_once('?').filter(|_| is_url) {
        let (ours, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_ours);
        rest = if others.is_empty() { address.to_owned() } else { format!("{address}?{}", others.join("&")) };
        for pair in ours {
            let (key, value) = pair.split_once('=').ok_or("its `sslmode` or `sslrootcert` has no value")?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| format!("its `{key}` is no text"))?.into_owned();
            let known = if key == "sslmode" { &mut mode } else { &mut roots };
            if known.replace(value).is_some() {
                return Err(format!("it says `{key}` twice"));
            }
        }
    }
    let config: Config = rest.parse().map_err(|error: tokio_postgres::Error| {
        if is_url || !url.contains("ssl") {
            error.to_string()
        } else {
            "`sslmode=verify-full` and `sslrootcert` stand in the form postgres://…?sslmode=verify-full".to_owned()
        }
    })?;
    let wanted = match mode.as_deref() {
        None => config.get_ssl_mode() == SslMode::Require,
        Some("require" | "verify-ca" | "verify-full") => true,
        Some("disable" | "allow" | "prefer") => false,
        Some(_) => return Err("its `sslmode` is none of disable, require and verify-full".to_owned()),
    };
    if !wanted && roots.is_some() {
        return Err("it names an `sslrootcert` and asks for no TLS: add `sslmode=verify-full`".to_owned());
    }
    // What others call the machine's own.
    let roots = roots.filter(|path| path != "system").map(PathBuf::from);
    match config.get_hosts() {
        _ if !wanted => Ok((config, None)),
        // A socket of this machine is not listened in on, and has no name that a certificate could prove.
        [Host::Unix(_)] if config.get_hostaddrs().is_empty() => Ok((config, None)),
        [Host::Tcp(_)] => Ok((config, Some(Tls { roots }))),
        _ => Err("it asks for TLS, which proves one host: name one".to_owned()),
    }
}

fn is_ours(pair: &&str) -> bool {
    matches!(pair.split('=').next(), Some("sslmode" | "sslrootcert"))
}
