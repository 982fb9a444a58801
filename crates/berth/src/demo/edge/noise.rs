//! A tenant at 100 times its limit beside its neighbours: how much longer they wait for it. Asserts nothing.

use super::{
    HOSTS, host, median,
    peers::{self, Contender, OTHERS},
    quantile, status,
    wrk::Wrk,
};
use crate::fail::{Failure, FailureExt as _};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// The tenant that makes the noise, whom nobody else asks for.
pub const NOISY: usize = HOSTS - 1;
/// What it may ask for in a minute: the largest limit that is shipped.
pub const LIMIT_A_MINUTE: u64 = 1000;
const TIMES: u64 = 100;
const CONNECTIONS: u64 = 16;

/// Keeps this thread where all clients are: what they need themselves is no part of what the edge takes.
fn off_the_edges_core() -> Result<(), Failure> {
    if let Some(thread) = std::fs::read_link("/proc/thread-self").ours("this thread")?.file_name() {
        let mut command = Command::new("taskset");
        let pinned = command.args(["-cp", OTHERS]).arg(thread).stdout(Stdio::null()).status();
        pinned.map_err(|error| Failure::ours(error, "taskset", "apt-get install util-linux"))?;
    }
    Ok(())
}

/// Ends with its handle.
struct Noise {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<Result<(), Failure>>>,
}

impl Noise {
    fn start(port: u16) -> Result<Self, Failure> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let body = move || {
            off_the_edges_core()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ours("a runtime")?;
            runtime.block_on(async {
                let talkers = (0..CONNECTIONS).map(|_| talk(port, &stopped, &counted));
                futures_util::future::try_join_all(talkers).await.map(drop)
            })
        };
        let thread = thread::Builder::new().name("noise".to_owned()).spawn(body).ours("a thread")?;
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    /// Requests that it made.
    fn end(mut self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| Failure::request("the noise broke off", ""))??;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

/// Its share of 100 times the limit, by the clock and whatever is answered.
async fn talk(port: u16, stop: &AtomicBool, sent: &AtomicU64) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ours("a connection to the edge")?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(NOISY));
    let every = Duration::from_nanos(60_000_000_000 * CONNECTIONS / (LIMIT_A_MINUTE * TIMES));
    let mut ticks = tokio::time::interval(every);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        status(&mut stream, &request).await?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Rounds without and with the noise in turn.
pub async fn beside_noise(
    ours: &Contender,
    dir: &Path,
    origin: u16,
    rounds: usize,
    seconds: u32,
) -> Result<(Value, bool), Failure> {
    let wrk = Wrk::new(&dir.join("noise"), 16, (0..NOISY).map(host))?;
    let (mut ratios, mut quiet_us, mut noisy_us, mut good, mut made) = (vec![], vec![], vec![], true, 0);
    wrk.round(ours, "/", 1)?;
    for _ in 0..rounds {
        let quiet = wrk.round(ours, "/", seconds)?;
        let noise = Noise::start(ours.port)?;
        let noisy = wrk.round(ours, "/", seconds)?;
        made += noise.end()?;
        good &= quiet.failed + noisy.failed == 0;
        ratios.push(noisy.p99_us / quiet.p99_us);
        quiet_us.push(quiet.p99_us);
        noisy_us.push(noisy.p99_us);
    }
    let nginx = peers::nginx_limiting(&dir.join("noise"), origin, &host(NOISY), LIMIT_A_MINUTE)?;
    nginx.ready().await?;
    let (fixed, fine) = at_a_fixed_rate([ours, &nginx], rounds, seconds)?;
    let figures = json!({
        "p99_ratio": median(ratios), "p99_quiet_us": median(quiet_us), "p99_noisy_us": median(noisy_us),
        "noise_per_s": made as f64 / (rounds as f64 * f64::from(seconds)),
        "fixed_rate": fixed,
    });
    Ok((figures, good && fine))
}

/// What neighbours ask for in a second, whatever the edge is busy with.
const RATE: u32 = 4_000;
const NEIGHBOURS: u32 = 32;

/// The same with neighbours who ask by the clock: a request that could not be sent when it was due has waited since
/// then. `wrk` asks when it is answered, and so hides how long a busy edge makes it wait. All clients share a core, where
/// the noise is in the neighbours' way too: how much, nginx tells, which limits the same tenant.
fn at_a_fixed_rate(contenders: [&Contender; 2], rounds: usize, seconds: u32) -> Result<(Value, bool), Failure> {
    let (mut seen, mut good) = ([Beside::default(), Beside::default()], true);
    for contender in contenders {
        by_the_clock(contender.port, 1)?;
    }
    for _ in 0..rounds {
        for (contender, beside) in contenders.iter().zip(&mut seen) {
            let quiet = by_the_clock(contender.port, seconds)?;
            let noise = Noise::start(contender.port)?;
            let noisy = by_the_clock(contender.port, seconds)?;
            noise.end()?;
            good &= quiet.failed + noisy.failed == 0;
            beside.push(&quiet, &noisy);
        }
    }
    let [ours, theirs] = seen.map(Beside::figures);
    let mut figures = json!({ "rate_per_s": RATE, "nginx": theirs });
    if let Some(all) = figures.as_object_mut() {
        all.extend(ours);
    }
    Ok((figures, good))
}

/// Of each round, p50 and p99 without the noise, then with it; and the ratio of the latter.
#[derive(Default)]
struct Beside {
    rows: [Vec<f64>; 4],
    ratios: Vec<f64>,
}

impl Beside {
    fn push(&mut self, quiet: &Clocked, noisy: &Clocked) {
        let figures = [quiet, noisy].map(|round| [0.5, 0.99].map(|q| quantile(round.waits_us.clone(), q)));
        self.ratios.push(figures[1][1] / figures[0][1]);
        self.rows.iter_mut().zip(figures.as_flattened()).for_each(|(row, figure)| row.push(*figure));
    }

    fn figures(self) -> serde_json::Map<String, Value> {
        let names = ["p50_quiet_us", "p99_quiet_us", "p50_noisy_us", "p99_noisy_us"];
        let rows = names.into_iter().zip(self.rows).map(|(name, row)| (name.to_owned(), json!(median(row))));
        rows.chain([("p99_ratio".to_owned(), json!(median(self.ratios)))]).collect()
    }
}

/// From when a request was due until its answer was there.
struct Clocked {
    waits_us: Vec<f64>,
    failed: u64,
}

/// Neighbours on a thread of their own, on the core that is not the edge's.
fn by_the_clock(port: u16, seconds: u32) -> Result<Clocked, Failure> {
    let body = move || {
        off_the_edges_core()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ours("a runtime")?;
        runtime.block_on(async {
            let began = Instant::now();
            let all = (0..NEIGHBOURS).map(|nth| neighbour(port, nth, began, seconds));
            let all = futures_util::future::try_join_all(all).await?;
            let failed = all.iter().map(|one| one.failed).sum();
            Ok(Clocked { waits_us: all.into_iter().flat_map(|one| one.waits_us).collect(), failed })
        })
    };
    let thread = thread::Builder::new().name("neighbours".to_owned()).spawn(body).ours("a thread")?;
    thread.join().map_err(|_| Failure::request("the neighbours broke off", ""))?
}

/// Its share of the rate, over a kept connection, for one host after the other.
async fn neighbour(port: u16, nth: u32, began: Instant, seconds: u32) -> Result<Clocked, Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ours("a connection to the edge")?;
    stream.set_nodelay(true).ours("a connection to the edge")?;
    let number = RATE / NEIGHBOURS * seconds;
    let mut seen = Clocked { waits_us: Vec::with_capacity(number as usize), failed: 0 };
    for turn in 0..number {
        let due = began + Duration::from_secs(1) * (turn * NEIGHBOURS + nth) / RATE;
        // That a timer wakes late is nobody's waiting; that the answer before came late is.
        let late = Instant::now() >= due;
        if !late {
            tokio::time::sleep_until(due.into()).await;
        }
        let since = if late { due } else { Instant::now() };
        let name = host((turn * NEIGHBOURS + nth) as usize % NOISY);
        let good = status(&mut stream, &format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await? == 200;
        seen.failed += u64::from(!good);
        seen.waits_us.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(seen)
}
