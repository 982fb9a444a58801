//! `berth edge`: the proxy. Resolves its options and hands over; everything else is the edge's own.
//!
//! SIGHUP starts this program anew, from where it was started, with the same options: the new process takes the sockets
//! over, and this one goes with its last connection.

use crate::{
    cli::{Connection, EdgeCommand},
    fail::{Failure, FailureExt as _},
};
use berth_domain::{EdgeName, Network};
use berth_edge::{Edge, EdgeConfig, EdgeError, EdgeErrorKind, Limits, RequestLog, Sockets};
use clap::Args;
use listenfd::ListenFd;
use secrecy::SecretString;
use std::{
    ffi::OsString,
    fs, io, net,
    num::NonZero,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args, Debug)]
pub struct EdgeOptions {
    /// Without one, this is an edge
    #[command(subcommand)]
    pub verb: Option<EdgeCommand>,
    /// The same over its restarts
    #[arg(long, env = "BERTH_EDGE_NAME", default_value = "edge")]
    name: EdgeName,
    /// Where clients come in
    #[arg(long, env = "BERTH_EDGE_LISTEN", default_value = "0.0.0.0:80", value_name = "ADDRESS")]
    listen: net::SocketAddr,
    /// Where clients come in over TLS, as `0.0.0.0:443`. Certificates come from the control plane: `berth cert add`
    #[arg(long, env = "BERTH_EDGE_LISTEN_TLS", value_name = "ADDRESS")]
    listen_tls: Option<net::SocketAddr>,
    /// Metrics and health; loopback only
    #[arg(long, env = "BERTH_EDGE_ADMIN", default_value = "127.0.0.1:7603", value_name = "ADDRESS")]
    admin: net::SocketAddr,
    /// A control plane, any of them will do; may be given more than once. Default: BERTH_URL
    #[arg(long, value_name = "URL")]
    control: Vec<String>,
    /// Who vouches for control planes over `https://`, a file of certificates in PEM. Default: those whom the system knows
    #[arg(long, env = "BERTH_EDGE_CONTROL_CA", value_name = "FILE")]
    control_ca: Option<PathBuf>,
    /// A file with the edge's key. Default: the variable BERTH_API_KEY
    #[arg(long, env = "BERTH_API_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Routes and holds are kept here; one edge at a time
    #[arg(long, env = "BERTH_EDGE_DATA_DIR", default_value = "/var/lib/berth/edge", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// A load balancer or proxy in front, as `10.0.0.0/8` or one address: its X-Forwarded headers are believed
    #[arg(long, env = "BERTH_EDGE_TRUST", value_delimiter = ',', value_name = "NETWORK")]
    trust: Vec<Network>,
    /// A line of JSON for each request, into this file; `-` for standard output
    #[arg(long, env = "BERTH_EDGE_REQUEST_LOG", value_name = "FILE")]
    request_log: Option<PathBuf>,
    /// The share of requests that are written down, 0 to 1
    #[arg(long, env = "BERTH_EDGE_REQUEST_SHARE", default_value_t = 1.0, value_parser = share, value_name = "SHARE")]
    request_share: f64,
    /// Threads that serve. Default: one per core
    #[arg(long, env = "BERTH_EDGE_WORKERS", value_name = "N")]
    workers: Option<NonZero<usize>>,
    /// Where addresses are, a file in MaxMind's format: `Berth-Country` for the application, `cluster.geo_routing`
    #[arg(long, env = "BERTH_EDGE_GEO_DATABASE", value_name = "FILE")]
    geo_database: Option<PathBuf>,
    /// Show metrics under the names of the VeloFlux guide too
    #[arg(long, env = "BERTH_EDGE_VELOFLUX_NAMES")]
    veloflux_names: bool,
    /// Take the sockets over from the edge that runs with this data folder; it goes with its last connection. SIGHUP does
    /// that by itself. Where none runs, an ordinary start
    #[arg(long)]
    take_over: bool,
    /// Where systemd waits to hear that the edge serves
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

/// The first control plane that is another server than this one.
fn another<'a>(control: &'a [String], url: &str) -> Option<&'a str> {
    let own = url.trim_end_matches('/');
    control.iter().map(String::as_str).find(|control| control.trim_end_matches('/') != own)
}

/// `kept`: the connection's key, where it has one, is a context's, and is sent to that context's server only.
pub fn run(options: EdgeOptions, connection: Connection, kept: bool) -> Result<(), Failure> {
    let Connection { url, key } = connection;
    if kept
        && key.is_some()
        && options.key_file.is_none()
        && let Some(other) = another(&options.control, &url)
    {
        return Err(Failure::request(
            format!("the key of a context is for {url}, and is not sent to {other}"),
            "name the edge's own key with `--key-file` or BERTH_API_KEY",
        ));
    }
    let key = match &options.key_file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::ours(error, format!("the key file {}", path.display()), ""))?;
            Some(SecretString::from(text.trim()))
        }
        None => key,
    };
    let api_key = key.ok_or_else(|| {
        Failure::request(
            "an edge needs a key",
            "`berth key create NAME --scope edge`, then BERTH_API_KEY or `--key-file`",
        )
    })?;
    let control_authorities = match &options.control_ca {
        Some(path) => Some(
            fs::read_to_string(path)
                .map_err(|error| Failure::ours(error, format!("the authorities in {}", path.display()), ""))?,
        ),
        None => None,
    };
    let workers = options.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let config = EdgeConfig {
        name: options.name,
        listen: options.listen,
        listen_tls: options.listen_tls,
        admin: options.admin,
        control_urls: if options.control.is_empty() { vec![url] } else { options.control },
        control_authorities,
        api_key,
        data_dir: options.data_dir,
        workers,
        second_names: options.veloflux_names,
        geo_database: options.geo_database,
        request_log: options
            .request_log
            .map(|path| RequestLog { file: (path.as_os_str() != "-").then_some(path), share: options.request_share }),
        limits: Limits { trusted_peers: options.trust, ..Limits::default() },
    };
    #[cfg(feature = "ssh")]
    let ways = ways(&config)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().ours("a thread could not be started")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ours("signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).ours("signals")?;
        let mut hangup = signal(SignalKind::hangup()).ours("signals")?;
        let program = Program::of_this_process()?;
        let told = async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return,
                    _ = interrupt.recv() => return,
                    _ = hangup.recv() => program.follow(),
                }
            }
        };
        let edge = if options.take_over {
            // The one that runs is asked over a socket of its own process: nothing here waits for this thread.
            Edge::take_over(config).map_err(failed)?
        } else {
            Err(config)
        };
        let edge = match edge {
            Ok(edge) => edge,
            Err(config) => {
                let given = given(&config)?;
                Edge::bind_on(config, given).map_err(failed)?
            }
        };
        let notify = options.notify_socket;
        let edge = edge.when_ready(move || tell_ready(notify.as_deref()));
        // The process that follows has ways of its own through the same ports by now.
        #[cfg(feature = "ssh")]
        let edge = edge.when_left(berth_providers::ssh::leave_ways);
        let served = edge.run(told);
        #[cfg(feature = "ssh")]
        let served = async {
            tokio::select! {
                biased;
                served = served => served,
                () = ways => unreachable!("ways are kept for ever"),
            }
        };
        Box::pin(served).await.map_err(failed)
    })
}

/// To members on servers that are reached over SSH.
#[cfg(feature = "ssh")]
fn ways(config: &EdgeConfig) -> Result<impl Future<Output = ()> + use<>, Failure> {
    let client = |url: &String| {
        let client = berth_client::Client::new(url, Some(config.api_key.clone()))?;
        match &config.control_authorities {
            Some(authorities) => client.trusting(authorities),
            None => Ok(client),
        }
    };
    let clients: Result<Vec<_>, _> = config.control_urls.iter().map(client).collect();
    let clients = clients.ours("the address of the control plane")?;
    berth_providers::ssh::share_ways();
    Ok(crate::ways::keep(clients, config.name.clone(), config.data_dir.clone()))
}

fn failed(error: EdgeError) -> Failure {
    let (hint, kind) = (error.hint(), error.kind());
    let mut failure = Failure::ours(error, "the edge", hint);
    if kind == EdgeErrorKind::Caller {
        failure.status = 1;
    }
    failure
}

/// Sockets that systemd opened before this process began (`LISTEN_FDS`), told apart by their addresses.
fn given(config: &EdgeConfig) -> Result<Sockets, Failure> {
    let mut sockets = Sockets::default();
    let mut passed = ListenFd::from_env();
    for number in 0..passed.len() {
        let listener = passed.take_tcp_listener(number).ours("a socket that systemd opened")?;
        let Some(listener) = listener else { continue };
        let at = listener.local_addr().ours("a socket that systemd opened")?;
        if at == config.listen {
            sockets.plain.push(listener);
        } else if Some(at) == config.listen_tls {
            sockets.tls.push(listener);
        } else {
            return Err(Failure::request(
                format!("systemd opened {at}, which is neither `--listen` nor `--listen-tls`"),
                "write the same addresses in the socket unit and in the service",
            ));
        }
    }
    Ok(sockets)
}

/// Tells systemd that this is the main process from now on, and that it serves.
fn tell_ready(socket: Option<&Path>) {
    let Some(path) = socket else { return };
    let told = || -> io::Result<()> {
        let address = match path.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let word = format!("MAINPID={}\nREADY=1\n", std::process::id());
        UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
    };
    if let Err(error) = told() {
        tracing::warn!(%error, "systemd could not be told that the edge serves");
    }
}

/// How this process was started, to start its follower.
struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    fn of_this_process() -> Result<Self, Failure> {
        let mut all = std::env::args_os();
        // As it was called: a link may lead to another version by now.
        let called = all.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let path = called.map_or_else(std::env::current_exe, Ok).ours("the path of this program")?;
        let mut arguments: Vec<_> = all.filter(|argument| argument != "--take-over").collect();
        arguments.push("--take-over".into());
        Ok(Self { path, arguments })
    }

    fn follow(&self) {
        let program = self.path.display();
        match tokio::process::Command::new(&self.path).args(&self.arguments).spawn() {
            Ok(mut follower) => {
                tracing::info!(pid = follower.id(), "{program} was started to take over");
                tokio::spawn(async move {
                    // It outlives this process as a rule.
                    if let Ok(status) = follower.wait().await {
                        tracing::warn!("the process that was to take over has ended: {status}");
                    }
                });
            }
            Err(error) => tracing::error!(%error, "{program} could not be started; this process goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::another;

    #[test]
    fn a_contexts_key_is_for_its_own_server_however_the_address_ends() {
        let control = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
        assert_eq!(another(&[], "http://10.0.0.5:7600"), None);
        assert_eq!(another(&control(&["http://10.0.0.5:7600/"]), "http://10.0.0.5:7600"), None);
        let both = control(&["http://10.0.0.5:7600", "http://10.0.0.6:7600"]);
        assert_eq!(another(&both, "http://10.0.0.5:7600"), Some("http://10.0.0.6:7600"));
    }
}
