//! A copy takes what the neighbours leave: it rests while their commits take longer than before it began.
//!
//! How they fare is measured by a small commit of our own, 20 times a second, in each server that others write to.
//! Where nobody else is at work nothing rests.

use crate::sql::{Doing, connect};
use crate::{Endpoint, MoveError, MoveSpec, Side};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
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

/// How much a copy rests. Dropping it ends the measuring.
pub(crate) struct Pace {
    shared: Arc<Shared>,
    probes: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Of each server, in thousandths of the time; the largest counts.
    rests: Mutex<Vec<Arc<AtomicU32>>>,
    rested_us: AtomicU64,
}

impl Drop for Pace {
    fn drop(&mut self) {
        for probe in &self.probes {
            probe.abort();
        }
    }
}

impl Pace {
    /// Measures what is usual, and goes on measuring beside the copy.
    pub async fn begin(spec: &MoveSpec, name: &str) -> Result<Self, MoveError> {
        let mut pace = Self { shared: Arc::default(), probes: Vec::new() };
        if spec.tuning.neighbours_slowdown <= 1.0 {
            return Ok(pace);
        }
        for (endpoint, side, others) in [(&spec.source, Side::Source, true), (&spec.target, Side::Target, !spec.alone)]
        {
            if others {
                pace.watch(spec, endpoint, side, name).await?;
            }
        }
        Ok(pace)
    }

    async fn watch(&mut self, spec: &MoveSpec, endpoint: &Endpoint, side: Side, name: &str) -> Result<(), MoveError> {
        let client = connect(endpoint, side, name).await?;
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
        let rest = Arc::new(AtomicU32::new(0));
        self.shared.rests.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&rest));
        self.probes.push(tokio::spawn(async move {
            let (mut others, mut looked) = (false, None::<Instant>);
            loop {
                if looked.is_none_or(|at| at.elapsed() > LOOK_EVERY) {
                    others = has_neighbours(&client, side).await.unwrap_or(others);
                    looked = Some(Instant::now());
                }
                // A server that does not answer is the copy's own trouble.
                let Ok(took) = probe(&client, side).await else { break };
                rest.store(if others { governor.after(took) } else { 0 }, Ordering::Relaxed);
                tokio::time::sleep(PROBE_EVERY).await;
            }
            rest.store(0, Ordering::Relaxed);
        }));
        Ok(())
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
    fn rests_permille(&self) -> u32 {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.iter().map(|rest| rest.load(Ordering::Relaxed)).max().unwrap_or(0)
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
    use super::Governor;
    use std::time::Duration;

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
