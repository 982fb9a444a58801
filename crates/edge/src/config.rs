//! What an edge is told at its start, and why it may refuse to start or have to stop.
//!
//! Reads no file and no environment: the binary resolves those once and hands over plain values.

use crate::{geo::BadGeo, snapshot::SnapshotError};
use berth_domain::EdgeName;
use secrecy::SecretString;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

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
    /// Control planes, `http://host:port`, any of them will do.
    pub control_urls: Vec<String>,
    pub api_key: SecretString,
    /// Routes and holds are kept here; one edge at a time.
    pub data_dir: PathBuf,
    /// Threads that serve, one per core.
    pub workers: usize,
    /// Where addresses are, in MaxMind's format. Read again when it changes.
    pub geo_database: Option<PathBuf>,
    /// Metrics have the names of the VeloFlux guide beside their own.
    pub second_names: bool,
    pub limits: Limits,
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
    /// How long a request refused by the fence waits when no hold says otherwise.
    pub fence_park: Duration,
    /// Client connections per worker.
    pub connections: usize,
    /// The control plane's stream is taken for dead after this silence.
    pub feed_silence: Duration,
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
            connect_time: Duration::from_secs(1),
            answer_time: Duration::from_mins(1),
            upstream_idle: Duration::from_secs(4),
            upstream_fresh: Duration::from_secs(1),
            park_requests: 1000,
            park_bytes: 16 * 1024 * 1024,
            fence_park: Duration::from_secs(2),
            connections: 20_000,
            feed_silence: Duration::from_secs(30),
            trusted_peers: Vec::new(),
            report_every: Duration::from_secs(15),
            drain_time: Duration::from_secs(10),
            leave_time: Duration::from_hours(1),
        }
    }
}

/// Addresses that begin alike: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// Text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network such as `10.0.0.0/8`, `2001:db8::/32` or one address")]
pub struct BadNetwork(String);

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |width: u32| width - u32::from(self.bits);
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| bad()))?;
        if bits <= width { Ok(Self { first, bits }) } else { Err(bad()) }
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
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
    #[error("worker {0} ended unasked")]
    WorkerGone(usize),
}

impl EdgeError {
    pub fn kind(&self) -> EdgeErrorKind {
        match self {
            Self::AdminExposed(_) | Self::ControlUrl(_) | Self::NoWorkers | Self::Geo(_) => EdgeErrorKind::Caller,
            Self::Listen { .. } | Self::Snapshot(_) | Self::Handover(_) | Self::Thread(_) => EdgeErrorKind::Machine,
            Self::WorkerGone(_) | Self::Tls(_) => EdgeErrorKind::Ours,
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::AdminExposed(_) => "metrics name tenants: give a loopback address such as 127.0.0.1:7603",
            Self::ControlUrl(_) => "write it as http://host:port",
            Self::NoWorkers => "give one per processor core",
            Self::Listen { .. } => "another process may have the port; ports under 1024 need CAP_NET_BIND_SERVICE",
            Self::Snapshot(_) => "give a directory that this user may write and that no other edge uses",
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

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:1::7", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "ten", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
