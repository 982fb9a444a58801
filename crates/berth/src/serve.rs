//! `berth serve`: the control plane. Joins store, control, adapters and API, and says where it listens.
//!
//! All state is in Postgres: any number of servers work on one database, and any may die. What lies in the data
//! folder is the private Postgres of a server that was given none, and two files that only its owner may read: the key
//! that seals secrets, and the first administrator's key.

use crate::fail::{Failure, FailureExt as _};
use berth_api::{Api, pages::PagesSettings};
use berth_config::Environment;
use berth_control::{App, Scope, WorkerOptions, keys, upgrade};
use berth_providers::local::EmbeddedPostgres;
use berth_store::{Sealer, Store};
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

/// Two threads carry thousands of waiting requests; each more costs memory that an idle server should not take.
const THREADS: usize = 2;
/// Connections to the control database.
const CONNECTIONS: u32 = 20;
/// How soon a private Postgres that was killed is seen.
const POSTGRES_LOOK: Duration = Duration::from_millis(250);

#[derive(Args, Debug)]
pub struct Serve {
    /// Where API and dashboard listen
    #[arg(long, env = "BERTH_LISTEN", default_value = "127.0.0.1:7600", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where metrics are read; off loopback they need a key
    #[arg(long, env = "BERTH_METRICS", default_value = "127.0.0.1:7601", value_name = "ADDRESS")]
    metrics: SocketAddr,
    /// Keys, and the private Postgres when DATABASE_URL is not set
    #[arg(long, env = "BERTH_DATA_DIR", default_value = "/var/lib/berth/serve", value_name = "FOLDER")]
    data_dir: PathBuf,
    /// The file that seals secrets; servers on one database share it. Default: `seal.key` in the data folder
    #[arg(long, env = "BERTH_SEAL_KEY_FILE", value_name = "FILE")]
    seal_key_file: Option<PathBuf>,
    /// Operations carried out at the same time, and four short ones besides; 0 only answers requests
    #[arg(long, env = "BERTH_WORKERS", default_value_t = 8, value_name = "N")]
    workers: usize,
    /// Let visitors of the dashboard in without a key; only on loopback
    #[arg(long)]
    open_dashboard: bool,
    /// Show tenants' figures under the VeloFlux guide's names among the metrics
    #[arg(long, env = "BERTH_VELOFLUX_NAMES")]
    veloflux_names: bool,
}

/// What comes from the environment, resolved by `main`.
pub struct Variables {
    /// `DATABASE_URL`. Absent: a private Postgres.
    pub database_url: Option<SecretString>,
    /// What the stack file may refer to.
    pub environment: Environment,
}

pub fn run(options: &Serve, variables: Variables) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .ours("threads could not be started")?;
    runtime.block_on(serve(options, variables))
}

async fn serve(options: &Serve, variables: Variables) -> Result<(), Failure> {
    if options.open_dashboard && !options.listen.ip().is_loopback() {
        return Err(Failure::request("an open dashboard is only for loopback", "listen on 127.0.0.1, or leave it out"));
    }
    let mut stop = Stop::on_signals()?;
    make_folder(&options.data_dir)?;
    let _one_per_folder = lock(&options.data_dir)?;
    let postgres = match &variables.database_url {
        Some(_) => None,
        None => Some(EmbeddedPostgres::start(&options.data_dir.join("postgres"), "berth").await.map_err(|error| {
            let hint = error.hint().unwrap_or_else(|| "or set DATABASE_URL".to_owned());
            Failure::ours(error, "the private Postgres could not be started", hint)
        })?),
    };
    let keeper = postgres.clone().map(|postgres| tokio::spawn(keep_up(postgres, stop.told())));
    let served = Box::pin(on_database(options, variables, postgres.as_ref(), &mut stop)).await;
    if let Some(keeper) = keeper {
        // It must not start again what is about to be stopped.
        stop.stop();
        if let Err(error) = keeper.await {
            warn!(%error, "the private Postgres was not watched any more");
        }
    }
    if let Some(postgres) = postgres
        && let Err(error) = postgres.stop().await
    {
        warn!(%error, "the private Postgres did not stop in order; it recovers at the next start");
    }
    served
}

/// Starts the private Postgres again when it was killed under us. Nothing is lost by it: whoever was in the middle of
/// something has no answer, which store, workflows and mover take for *unknown*, and connections are made anew.
/// Ending the server instead would cost every request and every lease for what is over in a second.
async fn keep_up(postgres: EmbeddedPostgres, stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut failing = false;
    while tokio::time::timeout(POSTGRES_LOOK, &mut stopped).await.is_err() {
        match postgres.keep_up().await {
            Ok(restarted) => {
                if restarted {
                    warn!("the private Postgres had ended and was started again");
                }
                failing = false;
            }
            // Once, not at every look.
            Err(_) if failing => {}
            Err(error) => {
                warn!(%error, "the private Postgres has ended and does not start; it is tried again");
                failing = true;
            }
        }
    }
}

async fn on_database(
    options: &Serve,
    variables: Variables,
    postgres: Option<&EmbeddedPostgres>,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let sealing = options.seal_key_file.clone().unwrap_or_else(|| options.data_dir.join("seal.key"));
    let sealer = Sealer::from_file(&sealing)
        .map_err(|error| Failure::ours(error, "the sealing key", "it is made at the first start and must be kept"))?;
    let url = variables.database_url.or_else(|| postgres.map(EmbeddedPostgres::url)).expect("one of the two is there");
    let store = Store::open(&url, sealer, CONNECTIONS).await.map_err(|error| {
        let hint = error.hint();
        let hint = hint.unwrap_or_else(|| "look at DATABASE_URL, and whether that server runs".to_owned());
        Failure::ours(error, "the control database", hint)
    })?;
    let build = |name: &str, section: &serde_json::Value| {
        berth_providers::adapter(name).map(|adapter| (adapter.build)(section))
    };
    let own_folder = options.data_dir.join("archives");
    let archives = move |place: Option<&berth_config::Archives>, environment: &Environment| {
        crate::archives::open(place, environment, &own_folder)
    };
    let app = App::new(store, variables.environment, Box::new(build), Box::new(archives));
    #[cfg(feature = "acme")]
    let app = app.asking(std::sync::Arc::new(berth_acme::World));

    let seen = upgrade::be_seen(&app, machine(), stop.receiver.clone()).await.ours("the list of servers")?;
    let seen = tokio::spawn(seen);
    let open = first_key(&app, options).await?;
    let listener = listen(options.listen).await?;
    let metrics = listen(options.metrics).await?;
    let address = listener.local_addr().ours("the address")?;
    let api = Api::new(app.clone());
    let pages = PagesSettings { open };
    let on_loopback = options.metrics.ip().is_loopback();
    let api_task = tokio::spawn(berth_api::serve(listener, berth_api::router(&api, pages), stop.told()));
    let metrics_at = metrics.local_addr().ours("the address")?;
    let figures = berth_api::metrics_router_with(&api, on_loopback, options.veloflux_names);
    let metrics_task = tokio::spawn(berth_api::serve(metrics, figures, stop.told()));
    info!(%address, metrics = %metrics_at, "serving on http://{address}");

    // Whoever served from this folder before is dead, since we hold its lock: nobody waits for its leases.
    let server = server_name(&options.data_dir)?;
    let left = app.store().operations_let_go(&server).await.ours("the leases of an earlier server")?;
    if left > 0 {
        info!(left, "{left} operations of the server that ran here before are taken up");
    }
    let work = async {
        if options.workers == 0 {
            stop.told().await;
            return Ok(());
        }
        let name = format!("{server}{}", std::process::id());
        let worker = WorkerOptions { concurrency: options.workers, ..WorkerOptions::named(name) };
        berth_control::serve::work(&app, stop.receiver.clone(), worker).await
    };
    let worked = work.await;
    // Whatever ended the work ends the server.
    stop.stop();
    for task in [api_task, metrics_task] {
        match task.await {
            Ok(answered) => answered.ours("answering on the socket")?,
            Err(error) => warn!(%error, "a listener ended unasked"),
        }
    }
    if let Err(error) = seen.await {
        warn!(%error, "this server did not say that it goes");
    }
    app.store().close().await;
    worked.map_err(|error| {
        let hint = error.hint().unwrap_or_default();
        Failure::ours(error, "the work of this server", hint)
    })?;
    info!("stopped");
    Ok(())
}

/// What this machine calls itself, for people.
fn machine() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// What every server of this folder begins its workers' names with; made at the first start.
fn server_name(folder: &Path) -> Result<String, Failure> {
    let path = folder.join("server.id");
    let id = match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        _ => {
            let id = uuid::Uuid::new_v4().simple().to_string();
            fs::write(&path, &id).ours("the server's name")?;
            id
        }
    };
    Ok(format!("server-{id}-"))
}

/// Makes the first administrator's key where there is no key at all, shows it once, and keeps it in a file that only
/// the owner of the data folder may read. Answers the key that an open dashboard acts under.
async fn first_key(app: &App, options: &Serve) -> Result<Option<SecretString>, Failure> {
    let path = options.data_dir.join("admin.key");
    let making = |error: berth_control::ControlError| {
        let hint = error.hint().unwrap_or_default();
        Failure::ours(error, "the first key", hint)
    };
    let made = if keys::none_yet(app).await.map_err(making)? {
        let key = keys::create_for_berth(app, "first administrator", Scope::Admin).await.map_err(making)?;
        write_secret(&path, &key).ours("the file of the first key")?;
        // Under a service manager what is said here is kept in a log.
        let said = if io::stderr().is_terminal() {
            format!("The first administrator's key, also in {}:\n\n    {}\n", path.display(), key.expose_secret())
        } else {
            format!("The first administrator's key is in {}", path.display())
        };
        // On a full disk nobody reads it, and the file is there.
        let _ = writeln!(io::stderr().lock(), "{said}");
        Some(key)
    } else {
        None
    };
    if !options.open_dashboard {
        return Ok(None);
    }
    if let Some(key) = made {
        return Ok(Some(key));
    }
    let stored = fs::read_to_string(&path).ok().map(|text| SecretString::from(text.trim()));
    if let Some(key) = stored
        && keys::caller(app, &key, None).await.is_ok()
    {
        return Ok(Some(key));
    }
    keys::create_for_berth(app, "open dashboard", Scope::Admin).await.map(Some).map_err(making)
}

fn write_secret(path: &Path, key: &SecretString) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // An older file keeps its mode through `open`.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{}", key.expose_secret())?;
    file.sync_all()
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| {
        let hint = "name one that this user may write, with `--data-dir`";
        Failure::ours(error, format!("the data folder {}", path.display()), hint)
    })
}

/// Two servers in one folder would start and stop one Postgres under each other.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("serve.lock");
    let file = OpenOptions::new().create(true).append(true).open(&path).ours("the lock of the data folder")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::request(
            format!("another `berth serve` uses {}", folder.display()),
            "give each a `--data-dir`, and DATABASE_URL to those that share a database",
        )),
        Err(TryLockError::Error(error)) => Err(error).ours("the lock of the data folder"),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::ours(error, format!("{address} could not be listened on"), "another process may have the port")
    })
}

/// SIGTERM and Ctrl-C, told to everybody who works.
struct Stop {
    sender: watch::Sender<bool>,
    receiver: watch::Receiver<bool>,
}

impl Stop {
    fn on_signals() -> Result<Self, Failure> {
        let (sender, receiver) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).ours("signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).ours("signals")?;
        let told = sender.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            info!("stopping");
            told.send_replace(true);
        });
        Ok(Self { sender, receiver })
    }

    fn stop(&self) {
        self.sender.send_replace(true);
    }

    /// Returns when it is time to stop.
    fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.receiver.clone();
        async move {
            // A sender that is gone is a server that is gone.
            let _ = receiver.wait_for(|stop| *stop).await;
        }
    }
}
