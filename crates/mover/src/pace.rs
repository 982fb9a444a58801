//! A copy takes what the neighbours leave: it rests while their commits take longer than before it began.
//!
//! How they fare is measured by a small commit of our own, 20 times a second, in each server that others write to.
//! Where nobody else is at work nothing rests. Moves of one process that load the same server have one measurement, made
//! before the first of them began, and together as much of its time as one would have.

use crate::sql::{Doing, connect};
use crate::{Endpoint, MoveError, MoveSpec, Side};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Probes before the copy begins, whose middle one is what is usual.
const PROBES_BEFORE: usize = 9;
/// How often it is looked whether there are neighbours.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Slower than usual by less than this is noise.
const NOISE: Duration = Duration::from_millis(2);
/// A rest is slept in one piece up to this long.
const REST_LONGEST: Duration = Duration::from_millis(500);

/// Who measures; not of one move, whose sessions end with it.
const SESSION: &str = "berth-pace";

/// How much a copy rests. Dropping the last of a server ends the measuring there.
pub(crate) struct Pace {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    servers: Vec<Arc<Server>>,
    rested_us: AtomicU64,
}

/// Servers that are measured by now, by address.
static SERVERS: Mutex<BTreeMap<String, Weak<Server>>> = Mutex::new(BTreeMap::new());

/// One for each server, whoever loads it; held once by each copy.
#[derive(Default)]
struct Server {
    /// In thousandths of the time.
    rest: Arc<AtomicU32>,
    probe: OnceCell<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.get() {
            probe.abort();
        }
    }
}

/// Nobody rests for a measurement that is over, however it ended.
struct Quiet(Arc<AtomicU32>);

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Server {
    fn at(address: String) -> Arc<Self> {
        let mut known = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, server| server.strong_count() > 0);
        if let Some(server) = known.get(&address).and_then(Weak::upgrade)
            && !server.probe.get().is_some_and(JoinHandle::is_finished)
        {
            return server;
        }
        let server = Arc::new(Self::default());
        known.insert(address, Arc::downgrade(&server));
        server
    }

    /// What each of `moves` copies rests, in thousandths of the time, so that they take as much as one would.
    fn rests_permille(&self, moves: usize) -> u32 {
        let rest = self.rest.load(Ordering::Relaxed);
        if rest == 0 { 0 } else { 1_000 - ((1_000 - rest) / u32::try_from(moves.max(1)).unwrap_or(u32::MAX)).max(1) }
    }

    /// Measures what is usual, and goes on measuring.
    async fn measure(&self, spec: &MoveSpec, endpoint: &Endpoint, side: Side) -> Result<JoinHandle<()>, MoveError> {
        let client = connect(endpoint, side, SESSION).await?;
        let mut usual = Vec::new();
        for _ in 0..PROBES_BEFORE {
            usual.push(probe(&client, side).await?);
        }
        usual.sort_unstable();
        let mut governor = Governor {
            usual: usual[PROBES_BEFORE / 2],
            slowdown: spec.tuning.neighbours_slowdown,
            most: spec.tuning.rest_most_permille,
            rest: 0,
        };
        let rest = Quiet(Arc::clone(&self.rest));
        Ok(tokio::spawn(async move {
            let (mut others, mut looked) = (false, None::<Instant>);
            loop {
                if looked.is_none_or(|at| at.elapsed() > LOOK_EVERY) {
                    others = has_neighbours(&client, side).await.unwrap_or(others);
                    looked = Some(Instant::now());
                }
                // A server that does not answer is the copy's own trouble.
                let Ok(took) = probe(&client, side).await else { break };
                rest.0.store(if others { governor.after(took) } else { 0 }, Ordering::Relaxed);
                tokio::time::sleep(PROBE_EVERY).await;
            }
        }))
    }
}

impl Pace {
    /// Measures what is usual, where nobody does yet, and goes on measuring beside the copy.
    pub async fn begin(spec: &MoveSpec) -> Result<Self, MoveError> {
        let mut servers: Vec<Arc<Server>> = Vec::new();
        if spec.tuning.neighbours_slowdown <= 1.0 {
            return Ok(Self { shared: Arc::default() });
        }
        for (endpoint, side, others) in [(&spec.source, Side::Source, true), (&spec.target, Side::Target, !spec.alone)]
        {
            let server = Server::at(format!("{}:{}", endpoint.host, endpoint.port));
            // Both sides may be databases of one server.
            if others && !servers.iter().any(|known| Arc::ptr_eq(known, &server)) {
                server.probe.get_or_try_init(|| server.measure(spec, endpoint, side)).await?;
                servers.push(server);
            }
        }
        Ok(Self { shared: Arc::new(Shared { servers, rested_us: AtomicU64::new(0) }) })
    }

    /// The handle of one worker.
    pub fn worker(&self) -> Worker {
        Worker { shared: Arc::clone(&self.shared), since: Instant::now() }
    }

    /// In thousandths of the time.
    pub fn rests_permille(&self) -> u32 {
        self.shared.rests_permille()
    }

    /// Of all workers together.
    pub fn rested(&self) -> Duration {
        Duration::from_micros(self.shared.rested_us.load(Ordering::Relaxed))
    }
}

impl Shared {
    /// The server that has the least time left decides.
    fn rests_permille(&self) -> u32 {
        self.servers.iter().map(|server| server.rests_permille(Arc::strong_count(server))).max().unwrap_or(0)
    }
}

/// One worker's part in the pace.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    since: Instant,
}

impl Worker {
    /// Between two pieces of work: rests for its share of the time that the last piece took.
    pub async fn breathe(&mut self) {
        let share = self.shared.rests_permille();
        if share > 0 {
            let rest = (self.since.elapsed() * share / (1_000 - share)).min(REST_LONGEST);
            tokio::time::sleep(rest).await;
            self.shared.rested_us.fetch_add(rest.as_micros() as u64, Ordering::Relaxed);
        }
        self.since = Instant::now();
    }
}

/// More rest at once when they wait longer, less by and by when they do not.
struct Governor {
    usual: Duration,
    slowdown: f64,
    /// In thousandths, below 1,000.
    most: u32,
    rest: u32,
}

impl Governor {
    fn after(&mut self, took: Duration) -> u32 {
        let slow = took > self.usual.mul_f64(self.slowdown).max(self.usual + NOISE);
        self.rest = if slow { (self.rest + 100).min(self.most) } else { self.rest.saturating_sub(25) };
        self.rest
    }
}

/// A commit that is flushed, as a neighbour's is. The stream of no move looks at this message.
async fn probe(client: &Client, side: Side) -> Result<Duration, MoveError> {
    let began = Instant::now();
    client
        .execute("select pg_logical_emit_message(true, 'berth_pace', '')", &[])
        .await
        .doing(side, "measuring how the neighbours fare")?;
    Ok(began.elapsed())
}

/// Whether anybody but movers has done something in the last second, in any database of the server.
async fn has_neighbours(client: &Client, side: Side) -> Result<bool, MoveError> {
    let row = client
        .query_one(
            "select exists (select from pg_stat_activity where backend_type = 'client backend'
                            and (usename <> session_user or application_name not like 'berth-%')
                            and (state = 'active' or state_change > clock_timestamp() - interval '1 second'))",
            &[],
        )
        .await
        .doing(side, "looking for neighbours")?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::{Governor, Server};
    use std::sync::{Arc, atomic::Ordering};
    use std::time::Duration;

    #[test]
    fn moves_that_load_one_server_share_its_time() {
        let (one, other) = (Server::at("db-1:5432".into()), Server::at("db-1:5432".into()));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(!Arc::ptr_eq(&one, &Server::at("db-1:5433".into())));
        assert_eq!((one.rests_permille(1), one.rests_permille(4)), (0, 0), "the neighbours fare well");
        one.rest.store(600, Ordering::Relaxed);
        assert_eq!(one.rests_permille(1), 600);
        assert_eq!(other.rests_permille(2), 800, "each a fifth of the time, where one would have two");
        assert_eq!(other.rests_permille(4), 900);
        drop((one, other));
        assert_eq!(Server::at("db-1:5432".into()).rest.load(Ordering::Relaxed), 0, "measured anew");
    }

    #[test]
    fn slow_neighbours_make_it_rest_and_quick_ones_let_it_go_on() {
        let ms = Duration::from_millis;
        let mut governor = Governor { usual: ms(3), slowdown: 2.0, most: 600, rest: 0 };
        assert_eq!(governor.after(ms(6)), 0, "twice as long is not yet longer");
        assert_eq!(governor.after(ms(7)), 100);
        assert_eq!((0..20).map(|_| governor.after(ms(50))).last(), Some(600), "it always gets on");
        assert_eq!(governor.after(ms(3)), 575);
        assert_eq!((0..40).map(|_| governor.after(ms(3))).last(), Some(0));
        let mut quick = Governor { usual: Duration::from_micros(100), slowdown: 2.0, most: 600, rest: 0 };
        assert_eq!(quick.after(ms(2)), 0, "on a quick disk two milliseconds are noise");
        assert_eq!(quick.after(ms(3)), 100);
    }
}
