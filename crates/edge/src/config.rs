//! What an edge is told at its start, and why it may refuse to start or have to stop.
//!
//! Reads no file and no environment: the binary resolves those once and hands over plain values.

use crate::{geo::BadGeo, snapshot::SnapshotError};
use berth_domain::{EdgeName, Network};
use secrecy::SecretString;
use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

/// Everything an edge needs to know before its first route.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    pub name: EdgeName,
    /// Where clients come in. Port 0 takes a free one, see [`crate::Edge::address`].
    pub listen: SocketAddr,
    /// Where clients come in over TLS; `None`: nowhere.
    pub listen_tls: Option<SocketAddr>,
    /// Metrics and health. Loopback only: it names tenants.
    pub admin: SocketAddr,
    /// Control planes, `http://host:port` or `https://…`, any of them will do.
    pub control_urls: Vec<String>,
    /// PEM of who vouches for them over TLS; `None`: whom the system knows.
    pub control_authorities: Option<String>,
    pub api_key: SecretString,
    /// Routes and holds are kept here; one edge at a time.
    pub data_dir: PathBuf,
    /// Threads that serve, one per core.
    pub workers: usize,
    /// Where addresses are, in MaxMind's format. Read again when it changes.
    pub geo_database: Option<PathBuf>,
    /// Metrics have the names of the VeloFlux guide beside their own.
    pub second_names: bool,
    /// A line of JSON for requests, some or all; `None`: for none.
    pub request_log: Option<RequestLog>,
    pub limits: Limits,
}

/// Where requests are written down.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestLog {
    /// `None`: standard output.
    pub file: Option<PathBuf>,
    /// The share of requests that are written, 0 to 1.
    pub share: f64,
}

/// Bounds on what a client, a member or the control plane may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A request's head may take this long from its first byte.
    pub header_time: Duration,
    /// A kept connection without a request is closed after this.
    pub client_idle: Duration,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Body bound of tenants whose route names none.
    pub body_bytes: u64,
    /// A body that makes no progress for this long is given up.
    pub body_idle: Duration,
    /// A body that is read before the request is sent has to be there after this.
    pub body_time: Duration,
    /// Bodies up to here are read before the request is sent, so that a fenced request can be sent once more.
    pub resend_bytes: usize,
    /// What is kept so of all requests together, an equal part for each worker; more streams.
    pub keep_all_bytes: u64,
    /// One that does not say how long it is has so long to be there whole; then it streams.
    pub unsaid_time: Duration,
    pub connect_time: Duration,
    /// From the request sent to the head of its answer.
    pub answer_time: Duration,
    /// A kept upstream connection is closed after this. Shorter than the idle limit of common servers (5 s), so
    /// that it is us who close.
    pub upstream_idle: Duration,
    /// A request that must not be sent twice takes a kept connection only when it was used this recently.
    pub upstream_fresh: Duration,
    /// Requests parked for one tenant at one time, on all cores together.
    pub park_requests: u32,
    /// Their bodies together.
    pub park_bytes: u64,
    /// The bodies that are parked for all tenants together.
    pub park_all_bytes: u64,
    /// How long a request refused by the fence waits when no hold says otherwise.
    pub fence_park: Duration,
    /// Client connections per worker; and requests under way over all those of HTTP/2 together, WebSockets among them.
    pub connections: usize,
    /// The control plane's stream is taken for dead after this silence.
    pub feed_silence: Duration,
    /// Where that stream is cut, routes are polled, and a stream is tried beside that this often.
    pub polls_for: Duration,
    /// Load balancers and proxies in front of the edge: what they say about their client is believed.
    pub trusted_peers: Vec<Network>,
    /// How often the control plane is told what was carried.
    pub report_every: Duration,
    /// On shutdown requests under way have this long.
    pub drain_time: Duration,
    /// When another process of this edge has taken over, connections that are open have this long.
    pub leave_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_time: Duration::from_secs(10),
            client_idle: Duration::from_secs(75),
            header_bytes: 64 * 1024,
            body_bytes: 64 * 1024 * 1024,
            body_idle: Duration::from_secs(30),
            body_time: Duration::from_mins(2),
            resend_bytes: 1024 * 1024,
            keep_all_bytes: 256 * 1024 * 1024,
            unsaid_time: Duration::from_millis(50),
            connect_time: Duration::from_secs(1),
            answer_time: Duration::from_mins(1),
            upstream_idle: Duration::from_secs(4),
            upstream_fresh: Duration::from_secs(1),
            park_requests: 1000,
            park_bytes: 16 * 1024 * 1024,
            park_all_bytes: 256 * 1024 * 1024,
            fence_park: Duration::from_secs(2),
            connections: 20_000,
            feed_silence: Duration::from_secs(30),
            polls_for: Duration::from_mins(5),
            trusted_peers: Vec::new(),
            report_every: Duration::from_secs(15),
            drain_time: Duration::from_secs(10),
            leave_time: Duration::from_hours(1),
        }
    }
}

/// Whose fault it is that an edge does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeErrorKind {
    /// The configuration asks for what cannot be.
    Caller,
    /// The machine: disk, ports, threads.
    Machine,
    /// A fault of this program.
    Ours,
}

/// An edge could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("the admin address {0} is not on loopback")]
    AdminExposed(SocketAddr),
    #[error("`{0}` is not a control plane's address")]
    ControlUrl(String),
    #[error("what is to vouch for control planes is no PEM of certificates, or one of them cannot be read")]
    ControlAuthority,
    #[error("an edge needs at least one worker")]
    NoWorkers,
    #[error("{address} could not be listened on")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("the routes on disk could not be opened")]
    Snapshot(#[from] SnapshotError),
    #[error("clients cannot be placed")]
    Geo(#[from] BadGeo),
    #[error("the sockets could not be handed over")]
    Handover(#[source] io::Error),
    #[error("the request log `{path}` could not be opened")]
    RequestLog {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
    #[error("worker {0} ended unasked")]
    WorkerGone(usize),
}

impl EdgeError {
    pub fn kind(&self) -> EdgeErrorKind {
        match self {
            Self::AdminExposed(_) | Self::ControlUrl(_) | Self::ControlAuthority | Self::NoWorkers | Self::Geo(_) => {
                EdgeErrorKind::Caller
            }
            Self::Listen { .. } | Self::Snapshot(_) | Self::Handover(_) | Self::Thread(_) | Self::RequestLog { .. } => {
                EdgeErrorKind::Machine
            }
            Self::WorkerGone(_) | Self::Tls(_) => EdgeErrorKind::Ours,
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::AdminExposed(_) => "metrics name tenants: give a loopback address such as 127.0.0.1:7603",
            Self::ControlUrl(_) => "write it as https://host:port, or http://host:port inside a private network",
            Self::ControlAuthority => "give the authority's certificate, `-----BEGIN CERTIFICATE-----`",
            Self::NoWorkers => "give one per processor core",
            Self::Listen { .. } => "another process may have the port; ports under 1024 need CAP_NET_BIND_SERVICE",
            Self::Snapshot(_) => "give a directory that this user may write and that no other edge uses",
            Self::RequestLog { .. } => "give a file that this user may write, or `-` for standard output",
            Self::Tls(_) => "this is a fault of Berth's: start it without `--listen-tls` meanwhile",
            Self::Geo(_) => {
                "name a file in MaxMind's format (`.mmdb`) that tells countries, or leave `--geo-database` out"
            }
            Self::Handover(_) => {
                "the edge that runs goes on; look into its log, or start this one without `--take-over` when it has ended"
            }
            Self::Thread(_) => "raise the limit on processes of this user",
            Self::WorkerGone(_) => "start the edge again; its routes and holds are on disk. This is a fault of Berth's",
        }
    }
}
