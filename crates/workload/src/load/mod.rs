//! Open-loop traffic for many tenants: requests come when they come, whether or not earlier ones were answered.
//!
//! It never retries and never slows down for a slow server, so a pause of the server is seen whole. Latency counts from
//! the moment a request was due. It runs on threads of its own: what else happens in the process is not to be
//! measured as the edge's doing.

mod gap;
mod http;
mod plan;
mod report;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ::http::{Request, header};
use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use crate::ledger::{FenceWrite, Ledger, LedgerError, Write};
use http::Connections;
use plan::{Offer, Plan, Position};
use report::State;
pub use report::{Failure, Latencies, Report, TenantReport};

/// What has no 2xx answer by then has failed.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Requests under way at once; one more waits for its turn, and the wait counts.
const IN_FLIGHT: usize = 512;

/// How often the ledger's file is brought up to what was acknowledged.
const FLUSH: Duration = Duration::from_millis(50);

/// Whether a tenant is one that moves or one that should not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Mover,
    Neighbour,
}

/// When, seen from a class: before any move at all, while one runs, or between and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Before,
    During,
    After,
}

/// One tenant that gets traffic.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    /// Its key in the application, which is what the ledger and the checker go by.
    pub key: Uuid,
    pub host: String,
    /// Its share of the requests, relative to the others'.
    pub weight: f64,
    pub class: Class,
    /// Vehicles whose positions are written; without any it is only read.
    pub vehicles: Vec<Uuid>,
}

#[derive(Clone, Debug)]
pub struct LoadConfig {
    pub edge: SocketAddr,
    /// Requests a second, all targets together.
    pub rate: f64,
    pub targets: Vec<Target>,
    /// Decides every request and every event id. Never twice in one database: the ids would come twice.
    pub seed: u64,
    /// From 0 to 1: requests that write.
    pub write_share: f64,
    /// From 0 to 1: writes that carry a small batch.
    pub batch_share: f64,
    /// From 0 to 1: writes that make, replace or remove a geofence, so that there are updates and deletes too.
    pub fence_share: f64,
    pub ledger: Option<PathBuf>,
    /// Names the tenant itself, as an edge would: for loads that go straight to an application.
    pub past_the_edge: bool,
}

impl LoadConfig {
    pub fn new(edge: SocketAddr, rate: f64, targets: Vec<Target>, seed: u64) -> Self {
        Self {
            edge,
            rate,
            targets,
            seed,
            write_share: 0.6,
            batch_share: 0.1,
            fence_share: 0.1,
            ledger: None,
            past_the_edge: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("a load needs at least one target, each with a weight above 0")]
    NoTarget,
    #[error("a load of {rate} requests a second cannot be offered")]
    BadRate { rate: f64 },
    #[error("`{host}` cannot stand in a request")]
    BadHost { host: String },
    #[error("there is no target `{name}`")]
    NoSuchTarget { name: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the load's threads cannot be started")]
    Start(#[source] std::io::Error),
    #[error("the load's thread ended in a panic")]
    Panicked,
}

impl LoadError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoTarget => Some("name at least one tenant that gets traffic"),
            Self::BadRate { .. } => Some("from 0.001 to 1,000,000 requests a second"),
            Self::BadHost { .. } => Some("a host is letters, digits, dots and hyphens"),
            Self::NoSuchTarget { .. } => Some("only tenants that get traffic can be told about"),
            Self::Ledger(error) => error.hint(),
            Self::Start(_) => Some("is there memory, and room for two more threads?"),
            Self::Panicked => None,
        }
    }
}

/// A running load. Dropped without [`Load::stop`], it stops offering and its figures are lost.
pub struct Load {
    handle: LoadHandle,
    threads: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

/// Tells a running load what happens around it, and asks how it goes. Cheap to clone.
#[derive(Clone)]
pub struct LoadHandle {
    shared: Arc<Shared>,
}

struct Shared {
    targets: Vec<Target>,
    past_the_edge: bool,
    /// Requests a second, as the bits of an `f64`.
    rate: AtomicU64,
    stop: AtomicBool,
    state: Mutex<State>,
}

struct Arrival {
    due: Instant,
    target: usize,
    offer: Offer,
}

impl Load {
    pub fn start(config: LoadConfig) -> Result<Self, LoadError> {
        if config.targets.is_empty() || !config.targets.iter().all(|target| target.weight > 0.0) {
            return Err(LoadError::NoTarget);
        }
        check_rate(config.rate)?;
        for Target { host, .. } in &config.targets {
            if ::http::HeaderValue::from_str(host).is_err() {
                return Err(LoadError::BadHost { host: host.clone() });
            }
        }
        let ledger = config.ledger.as_deref().map_or_else(|| Ok(Ledger::in_memory()), Ledger::in_file)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::Start)?;
        let plan = Plan::new(&config);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config.targets.len(), ledger, Instant::now())),
            rate: AtomicU64::new(config.rate.to_bits()),
            stop: AtomicBool::new(false),
            targets: config.targets,
            past_the_edge: config.past_the_edge,
        });
        let (due, arrivals) = mpsc::unbounded_channel();
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let handle = LoadHandle { shared: shared.clone() };
        let sender = {
            let shared = shared.clone();
            named("load-sender")
                .spawn(move || runtime.block_on(send_all(&shared, config.edge, arrivals)))
                .map_err(LoadError::Start)?
        };
        let pacer = named("load-pacer").spawn(move || pace(&shared, plan, &due)).map_err(LoadError::Start)?;
        Ok(Self { handle, threads: Some((pacer, sender)) })
    }

    pub fn handle(&self) -> LoadHandle {
        self.handle.clone()
    }

    /// Offers no more, waits for what is under way (at most [`LIMIT`]), and hands everything over.
    pub async fn stop(mut self) -> Result<Report, LoadError> {
        self.handle.shared.stop.store(true, Ordering::Relaxed);
        let Some((pacer, sender)) = self.threads.take() else { return Err(LoadError::Panicked) };
        let joined = tokio::task::spawn_blocking(move || pacer.join().and(sender.join())).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(LoadError::Panicked);
        }
        let shared = &self.handle.shared;
        shared.state().report(&shared.targets)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.handle.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl LoadHandle {
    /// The tenant's move begins: it and all neighbours are *during* from here, and its gap is measured anew.
    pub fn move_begins(&self, tenant: &str) -> Result<(), LoadError> {
        let index = self.index(tenant)?;
        self.shared.state().move_begins(index, Instant::now());
        Ok(())
    }

    /// The tenant's move has ended; returns its `client_gap_ms`. Neighbours are *after* once no move runs any more.
    pub fn move_ends(&self, tenant: &str) -> Result<f64, LoadError> {
        let index = self.index(tenant)?;
        Ok(self.shared.state().move_ends(index, Instant::now()))
    }

    /// Sets a phase for all targets of a class, for runs whose moves are not told one by one.
    pub fn phase(&self, class: Class, phase: Phase) {
        self.shared.state().set_phase(&self.shared.targets, class, phase);
    }

    /// Starts a new window for the tenant's gap.
    pub fn gap_begin(&self, tenant: &str) -> Result<(), LoadError> {
        let index = self.index(tenant)?;
        self.shared.state().lanes[index].gap.begin(Instant::now());
        Ok(())
    }

    /// The tenant's longest gap since its window began, the running one included.
    pub fn client_gap_ms(&self, tenant: &str) -> Result<f64, LoadError> {
        let index = self.index(tenant)?;
        Ok(millis(self.shared.state().lanes[index].gap.longest_at(Instant::now())))
    }

    /// Requests offered, answered 2xx and failed so far.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.shared.state();
        (state.offered, state.succeeded, state.failed)
    }

    /// Changes how many requests a second are offered from now on.
    pub fn set_rate(&self, rate: f64) -> Result<(), LoadError> {
        check_rate(rate)?;
        self.shared.rate.store(rate.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    fn index(&self, tenant: &str) -> Result<usize, LoadError> {
        let found = self.shared.targets.iter().position(|target| target.name == tenant);
        found.ok_or_else(|| LoadError::NoSuchTarget { name: tenant.into() })
    }
}

impl Shared {
    /// A panic while it was locked ends the load anyway, by the thread it happened in.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_rate(rate: f64) -> Result<(), LoadError> {
    if (0.001..=1e6).contains(&rate) { Ok(()) } else { Err(LoadError::BadRate { rate }) }
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Lets requests arrive when they are due, to well under a millisecond: that is why it sleeps in a thread and not on a
/// runtime's timer wheel. Late itself, it sends everything that was due at once, with the time it was due.
fn pace(shared: &Shared, mut plan: Plan, arrivals: &mpsc::UnboundedSender<Arrival>) {
    let mut due = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        // In slices, so that a very low rate does not hold up the end.
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            std::thread::sleep(wait.min(Duration::from_millis(100)));
            continue;
        }
        let (target, offer) = plan.next(&shared.targets);
        if arrivals.send(Arrival { due, target, offer }).is_err() {
            return;
        }
        due += plan.wait(f64::from_bits(shared.rate.load(Ordering::Relaxed)));
    }
}

async fn send_all(shared: &Arc<Shared>, edge: SocketAddr, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let pools: Arc<[Connections]> = shared.targets.iter().map(|_| Connections::to(edge)).collect();
    let turns = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut under_way = JoinSet::new();
    let mut flush = tokio::time::interval(FLUSH);
    loop {
        tokio::select! {
            arrival = arrivals.recv() => {
                let Some(mut arrival) = arrival else { break };
                shared.state().offer(&mut arrival);
                under_way.spawn(one(shared.clone(), pools.clone(), turns.clone(), arrival));
            }
            Some(ended) = under_way.join_next() => drop(ended),
            _ = flush.tick() => shared.state().flush(),
        }
    }
    while under_way.join_next().await.is_some() {}
    shared.state().flush();
}

/// Sends one request and books what came of it.
async fn one(shared: Arc<Shared>, pools: Arc<[Connections]>, turns: Arc<Semaphore>, arrival: Arrival) {
    let target = &shared.targets[arrival.target];
    // Whole microseconds, as databases keep them: a finer time would be rounded, and then not be what was written.
    let time = jiff::Timestamp::from_microsecond(jiff::Timestamp::now().as_microsecond())
        .expect("a moment that was one stays one without its nanoseconds");
    let mut request = request(&target.host, &arrival.offer, time);
    if shared.past_the_edge {
        let key = target.key.to_string().try_into().expect("a UUID's letters may stand in a header");
        request.headers_mut().insert("berth-tenant", key);
    }
    let sent = tokio::time::timeout_at((arrival.due + LIMIT).into(), async {
        let _turn = turns.acquire().await;
        pools[arrival.target].send(request).await
    })
    .await;
    let now = Instant::now();
    let refusal = match sent {
        Ok(Ok((status, _))) if status.is_success() => None,
        Ok(Ok((status, body))) => Some((Some(status), String::from_utf8_lossy(&body).into_owned())),
        Ok(Err(error)) => Some((None, error.to_string())),
        Err(_) => Some((None, format!("no answer within {LIMIT:?}"))),
    };
    shared.state().settle(target, &arrival, time, now, refusal);
}

fn request(host: &str, offer: &Offer, time: jiff::Timestamp) -> Request<Full<Bytes>> {
    let builder = Request::builder().header(header::HOST, host);
    let built = match offer {
        Offer::Read(path) => builder.uri(path).body(Full::default()),
        Offer::Write(positions) => {
            let time = time.to_string();
            let body = match positions.as_slice() {
                [one] => one.json(&time),
                several => {
                    let each: Vec<_> = several.iter().map(|position| position.json(&time)).collect();
                    format!("[{}]", each.join(","))
                }
            };
            builder
                .method("POST")
                .uri("/api/v1/gps-positions")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::from(body))
        }
        Offer::Fence { step, .. } => {
            let one = format!("/api/v1/geofences/{}", step.fence);
            let builder = builder.header(header::CONTENT_TYPE, "application/json");
            match step.revision {
                0 => builder.method("POST").uri("/api/v1/geofences").body(Full::from(step.json())),
                FenceWrite::GONE => builder.method("DELETE").uri(one).body(Full::default()),
                _ => builder.method("PUT").uri(one).body(Full::from(step.json())),
            }
        }
    };
    built.expect("the host was checked at the start, and the rest is ours")
}

impl Position {
    fn acknowledged(self, tenant: Uuid, time: jiff::Timestamp, acknowledged_us: u64) -> Write {
        Write {
            tenant,
            event: self.event,
            vehicle: self.vehicle,
            time_us: time.as_microsecond(),
            latitude_e6: self.latitude_e6,
            longitude_e6: self.longitude_e6,
            speed_e1: self.speed_e1,
            acknowledged_us,
        }
    }
}
