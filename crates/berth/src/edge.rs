//! `berth edge`: the proxy. Resolves its options and hands over; everything else is the edge's own.

use crate::{
    cli::EdgeCommand,
    fail::{Failure, FailureExt as _},
};
use berth_domain::EdgeName;
use berth_edge::{EdgeConfig, EdgeErrorKind, Limits, Network};
use clap::Args;
use secrecy::SecretString;
use std::{fs, net::SocketAddr, num::NonZero, path::PathBuf};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args, Debug)]
pub struct Edge {
    /// Without one, this is an edge
    #[command(subcommand)]
    pub verb: Option<EdgeCommand>,
    /// The same over its restarts
    #[arg(long, env = "BERTH_EDGE_NAME", default_value = "edge")]
    name: EdgeName,
    /// Where clients come in
    #[arg(long, env = "BERTH_EDGE_LISTEN", default_value = "0.0.0.0:80", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where clients come in over TLS, as `0.0.0.0:443`. Certificates come from the control plane: `berth cert add`
    #[arg(long, env = "BERTH_EDGE_LISTEN_TLS", value_name = "ADDRESS")]
    listen_tls: Option<SocketAddr>,
    /// Metrics and health; loopback only
    #[arg(long, env = "BERTH_EDGE_ADMIN", default_value = "127.0.0.1:7603", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// A control plane, any of them will do; may be given more than once. Default: BERTH_URL
    #[arg(long, value_name = "URL")]
    control: Vec<String>,
    /// A file with the edge's key. Default: the variable BERTH_API_KEY
    #[arg(long, env = "BERTH_API_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Routes and holds are kept here; one edge at a time
    #[arg(long, env = "BERTH_EDGE_DATA_DIR", default_value = "/var/lib/berth/edge", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// A load balancer or proxy in front, as `10.0.0.0/8` or one address: its X-Forwarded headers are believed
    #[arg(long, env = "BERTH_EDGE_TRUST", value_delimiter = ',', value_name = "NETWORK")]
    trust: Vec<Network>,
    /// Threads that serve. Default: one per core
    #[arg(long, env = "BERTH_EDGE_WORKERS", value_name = "N")]
    workers: Option<NonZero<usize>>,
}

pub fn run(options: Edge, url: String, key: Option<SecretString>) -> Result<(), Failure> {
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
    let workers = options.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let config = EdgeConfig {
        name: options.name,
        listen: options.listen,
        listen_tls: options.listen_tls,
        admin: options.admin,
        control_urls: if options.control.is_empty() { vec![url] } else { options.control },
        api_key,
        data_dir: options.data_dir,
        workers,
        limits: Limits { trusted_peers: options.trust, ..Limits::default() },
    };
    #[cfg(feature = "ssh")]
    let ways = ways(&config)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().ours("a thread could not be started")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ours("signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).ours("signals")?;
        let told = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let served = berth_edge::run(config, told);
        #[cfg(feature = "ssh")]
        let served = async {
            tokio::select! {
                biased;
                served = served => served,
                () = ways => unreachable!("ways are kept for ever"),
            }
        };
        served.await.map_err(|error| {
            let (hint, kind) = (error.hint(), error.kind());
            let mut failure = Failure::ours(error, "the edge", hint);
            if kind == EdgeErrorKind::Caller {
                failure.status = 1;
            }
            failure
        })
    })
}

/// To members on servers that are reached over SSH.
#[cfg(feature = "ssh")]
fn ways(config: &EdgeConfig) -> Result<impl Future<Output = ()> + use<>, Failure> {
    let client = |url: &String| berth_client::Client::new(url, Some(config.api_key.clone()));
    let clients: Result<Vec<_>, _> = config.control_urls.iter().map(client).collect();
    let clients = clients.ours("the address of the control plane")?;
    Ok(crate::ways::keep(clients, config.name.clone(), config.data_dir.clone()))
}
