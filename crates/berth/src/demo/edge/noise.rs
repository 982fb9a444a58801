//! A tenant at 100 times its limit beside its neighbours: how much longer they wait for it. Asserts nothing.

use super::{HOSTS, host, median, peers::Contender, status, wrk::Wrk};
use crate::fail::{Failure, FailureExt as _};
use serde_json::{Value, json};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::net::TcpStream;

/// The tenant that makes the noise, whom nobody else asks for.
pub const NOISY: usize = HOSTS - 1;
/// What it may ask for in a minute: the largest limit that is shipped.
pub const LIMIT_A_MINUTE: u64 = 1000;
const TIMES: u64 = 100;
const CONNECTIONS: u64 = 16;

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
pub fn beside_noise(ours: &Contender, dir: &Path, rounds: usize, seconds: u32) -> Result<(Value, bool), Failure> {
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
    let figures = json!({
        "p99_ratio": median(ratios), "p99_quiet_us": median(quiet_us), "p99_noisy_us": median(noisy_us),
        "noise_per_s": made as f64 / (rounds as f64 * f64::from(seconds)),
    });
    Ok((figures, good))
}
