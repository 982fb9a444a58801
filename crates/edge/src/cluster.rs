//! Limits that several edges have in common: who asks the common buckets, when, and what holds while nobody answers.
//!
//! Runs beside the cores; a core asks here only when it has no token in hand and does not know that there is none. Knows
//! no wall clock: the common buckets go by the furthest of the edges' own clocks. Settings that the server refuses change
//! nothing; a server that is gone leaves every edge its share.

use crate::{
    limits::{Bucket, Rate, Taken},
    place::{OpenError, Place, Report},
    shared::Question,
};
use arc_swap::ArcSwapOption;
use berth_domain::EdgeName;
use berth_wire::edge::ClusterSettings;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{MissedTickBehavior, interval, timeout},
};

/// A request waits for an answer for so long; the server's own time limit is shorter.
const WAIT_MOST: Duration = Duration::from_secs(1);
/// The edges say this often that they are there.
const BEAT: Duration = Duration::from_secs(1);
/// A lost server is tried again this often.
const TRY_AGAIN: Duration = Duration::from_millis(300);
/// One that refused is tried again so much more rarely: somebody has to change something first.
const REFUSED_PAUSE: u32 = 16;
/// What nobody took of for one to two of these goes back.
const LOOK: Duration = Duration::from_millis(500);
/// How long an edge that goes tries to give back what it has in hand.
const LAST_TIME: Duration = Duration::from_millis(500);

/// What the asker hears.
#[derive(Debug)]
pub enum Said {
    Ask(Ask),
    Settings(Option<ClusterSettings>),
}

#[derive(Clone, Debug)]
pub struct Ask {
    bucket: Arc<Bucket>,
    rate: Rate,
}

/// What cores see of it.
#[derive(Debug)]
pub struct Cluster {
    on: AtomicBool,
    connected: AtomicBool,
    edges: AtomicU32,
    own_share: AtomicU64,
    refused: ArcSwapOption<String>,
    said: UnboundedSender<Said>,
}

impl Cluster {
    pub fn new(said: UnboundedSender<Said>) -> Self {
        let (on, connected, edges) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(1));
        Self { on, connected, edges, own_share: AtomicU64::new(0), refused: ArcSwapOption::empty(), said }
    }

    /// Limits are common.
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// They are, and the common buckets answer.
    pub fn is_connected(&self) -> bool {
        self.is_on() && self.connected.load(Relaxed)
    }

    /// Edges that are known to give out of the same limits.
    pub fn edges(&self) -> u32 {
        self.edges.load(Relaxed)
    }

    /// Requests that were decided by this edge's own share.
    pub fn own_share(&self) -> u64 {
        self.own_share.load(Relaxed)
    }

    /// Why the newest settings are not in force.
    pub fn refused(&self) -> Option<Arc<String>> {
        self.refused.load_full()
    }

    pub fn set(&self, settings: Option<ClusterSettings>) {
        // Nobody listens any more only when the edge is going.
        let _ = self.said.send(Said::Settings(settings));
    }

    /// Takes a token of the common bucket. Waits only when this edge has none in hand and knows of no wait.
    pub async fn take(&self, bucket: &Arc<Bucket>, rate: &Rate, now: impl Fn() -> u64) -> Taken {
        let taken = self.try_take(bucket, rate, now());
        if taken != Taken::Unknown {
            return taken;
        }
        loop {
            // Before the look, so that no answer falls between.
            let mut answered = pin!(bucket.hand.answered.notified());
            answered.as_mut().enable();
            let taken = self.try_take(bucket, rate, now());
            if taken != Taken::Unknown {
                return taken;
            }
            if timeout(WAIT_MOST, answered).await.is_err() {
                bucket.hand.fail(now());
            }
        }
    }

    fn try_take(&self, bucket: &Arc<Bucket>, rate: &Rate, now_ns: u64) -> Taken {
        let took = bucket.hand.take(&bucket.full_at_ns, rate, self.edges(), now_ns);
        if took.alone {
            self.own_share.fetch_add(1, Relaxed);
        }
        if took.ask && bucket.hand.begin() {
            let ask = Ask { bucket: Arc::clone(bucket), rate: *rate };
            if self.said.send(Said::Ask(ask)).is_err() {
                bucket.hand.fail(now_ns);
            }
        }
        took.taken
    }
}

/// One question under way, and its answer.
struct Answered {
    ask: Ask,
    question: Question,
    by: u64,
    report: Result<Report, String>,
}

type Opened = (ClusterSettings, Result<(Place, Report), OpenError>);

/// The asker: one task of the coordinator's thread.
pub struct Asker {
    cluster: Arc<Cluster>,
    name: EdgeName,
    epoch: Instant,
    /// The edges' common clock is this edge's own and so much more.
    ahead_us: u64,
    wanted: Option<ClusterSettings>,
    in_force: Option<ClusterSettings>,
    place: Option<Place>,
    /// Counts connections; 0 is none.
    connection: u64,
    opening: Option<BoxFuture<'static, Opened>>,
    pause: u32,
    /// Said in the log already.
    complaint: String,
    first: bool,
    asked: FuturesUnordered<BoxFuture<'static, Answered>>,
    beating: Option<BoxFuture<'static, Result<Report, String>>>,
    /// Buckets of which something may be in hand.
    held: HashMap<Box<str>, Ask>,
    /// Buckets that were given out of the own share, which nobody has been told yet.
    alone: HashMap<Box<str>, Ask>,
}

impl Asker {
    pub fn new(cluster: Arc<Cluster>, name: EdgeName, epoch: Instant) -> Self {
        Self {
            cluster,
            name,
            epoch,
            ahead_us: 0,
            wanted: None,
            in_force: None,
            place: None,
            connection: 0,
            opening: None,
            pause: 0,
            complaint: String::new(),
            first: true,
            asked: FuturesUnordered::new(),
            beating: None,
            held: HashMap::new(),
            alone: HashMap::new(),
        }
    }

    /// Asks for as long as somebody may want to know; gives back what is in hand when `going` is done.
    pub async fn run(mut self, mut said: UnboundedReceiver<Said>, going: impl Future<Output = ()>) {
        let tick = |every| {
            let mut tick = interval(every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick
        };
        let (mut beat, mut look, mut again) = (tick(BEAT), tick(LOOK), tick(TRY_AGAIN));
        let mut going = pin!(going);
        loop {
            tokio::select! {
                () = &mut going => break,
                heard = said.recv() => match heard {
                    Some(Said::Ask(ask)) => self.ask(ask),
                    Some(Said::Settings(settings)) => self.set(settings),
                    None => break,
                },
                Some(answered) = self.asked.next(), if !self.asked.is_empty() => self.answered(answered),
                opened = async { self.opening.as_mut().expect("looked at before").await }, if self.opening.is_some() => {
                    self.opening = None;
                    self.opened(opened);
                }
                beaten = async { self.beating.as_mut().expect("looked at before").await }, if self.beating.is_some() => {
                    self.beating = None;
                    self.beaten(beaten);
                }
                _ = beat.tick() => self.beat(),
                _ = look.tick() => self.look(),
                _ = again.tick() => self.try_again(),
            }
        }
        self.give_all_back().await;
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn clock_us(&self) -> u64 {
        self.now_ns() / 1000 + self.ahead_us
    }

    fn set(&mut self, settings: Option<ClusterSettings>) {
        let first = std::mem::take(&mut self.first);
        if settings.is_some() && settings == self.in_force {
            self.wanted = settings;
            self.cluster.refused.store(None);
            return;
        }
        self.wanted.clone_from(&settings);
        self.cluster.refused.store(None);
        let Some(settings) = settings else {
            (self.in_force, self.place, self.opening) = (None, None, None);
            self.cluster.on.store(false, Relaxed);
            self.cluster.connected.store(false, Relaxed);
            return;
        };
        if first {
            // Nothing was in force before it: until the server has answered, this edge has its share.
            self.cluster.edges.store(settings.edges.max(1), Relaxed);
            self.cluster.on.store(true, Relaxed);
        }
        self.pause = 0;
        self.open(settings);
    }

    fn open(&mut self, settings: ClusterSettings) {
        let (name, clock_us) = (self.name.clone(), self.clock_us());
        let opening = async move {
            let place = Place::open(&settings, &name, clock_us).await;
            (settings, place)
        };
        self.opening = Some(opening.boxed());
    }

    fn opened(&mut self, (settings, opened): Opened) {
        if self.wanted.as_ref() != Some(&settings) {
            return;
        }
        match opened {
            Ok((place, report)) => {
                self.connection += 1;
                self.place = Some(place);
                self.in_force = Some(settings);
                self.hear(&report);
                self.cluster.refused.store(None);
                self.cluster.on.store(true, Relaxed);
                self.cluster.connected.store(true, Relaxed);
                self.complaint.clear();
                tracing::info!(edges = self.cluster.edges(), "limits are shared with the other edges");
                self.confess();
            }
            Err(OpenError::Refused(reason)) => {
                if self.is_news(&reason) {
                    tracing::error!("`cluster` of the stack file is not in force: {reason}; what was, goes on");
                }
                self.cluster.refused.store(Some(Arc::new(reason)));
                self.pause = REFUSED_PAUSE;
            }
            Err(OpenError::Unreachable(reason)) => {
                if self.is_news(&reason) {
                    tracing::warn!("Redis cannot be reached: {reason}; each edge gives its share of the limits");
                }
                if self.place.is_none() && self.in_force.as_ref() != Some(&settings) {
                    self.cluster.edges.fetch_max(settings.edges.max(1), Relaxed);
                    self.cluster.on.store(true, Relaxed);
                    self.in_force = Some(settings);
                }
            }
        }
    }

    fn is_news(&mut self, reason: &str) -> bool {
        let new = self.complaint != reason;
        reason.clone_into(&mut self.complaint);
        new
    }

    fn try_again(&mut self) {
        if self.opening.is_some() || (self.place.is_some() && self.wanted == self.in_force) {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        if let Some(settings) = self.wanted.clone() {
            self.open(settings);
        }
    }

    fn lose(&mut self, reason: &str) {
        if self.place.take().is_some() {
            self.cluster.connected.store(false, Relaxed);
            reason.clone_into(&mut self.complaint);
            tracing::warn!("Redis is lost: {reason}; each edge gives its share of the limits");
        }
    }

    fn hear(&mut self, report: &Report) {
        // The furthest clock counts, so that no bucket is filled twice for one time.
        self.ahead_us += report.clock_us.saturating_sub(self.clock_us());
        if let Some(edges) = report.edges {
            self.cluster.edges.store(edges.max(1), Relaxed);
        }
    }

    fn beat(&mut self) {
        let Some(place) = self.place.clone().filter(|_| self.beating.is_none()) else { return };
        let (name, clock_us) = (self.name.clone(), self.clock_us());
        self.beating = Some(async move { place.beat(&name, clock_us).await }.boxed());
    }

    fn beaten(&mut self, beaten: Result<Report, String>) {
        match beaten {
            Ok(report) => self.hear(&report),
            Err(reason) => self.lose(&reason),
        }
    }

    fn ask(&mut self, ask: Ask) {
        let (now_ns, bucket) = (self.now_ns(), &ask.bucket);
        if self.place.is_none() {
            bucket.hand.fail(now_ns);
            self.alone.insert(bucket.name.clone(), ask);
            return;
        }
        let edges = self.cluster.edges();
        let question = bucket.hand.question(&bucket.full_at_ns, &ask.rate, edges, now_ns, self.connection);
        self.put(ask, question);
    }

    /// The others are to know at once what was given meanwhile, not with the next request.
    fn confess(&mut self) {
        let (now_ns, edges, by) = (self.now_ns(), self.cluster.edges(), self.connection);
        for (_, ask) in std::mem::take(&mut self.alone) {
            let bucket = &ask.bucket;
            if bucket.hand.begin() {
                let question = bucket.hand.confession(&bucket.full_at_ns, &ask.rate, edges, now_ns, by);
                self.put(ask, question);
            }
        }
    }

    fn put(&mut self, ask: Ask, question: Question) {
        let Some(place) = self.place.clone() else { return };
        let (by, clock_us, edges) = (self.connection, self.clock_us(), self.cluster.edges());
        let asked = async move {
            let report = place.take(&ask.bucket.name, &ask.rate, &question, edges, clock_us).await;
            Answered { ask, question, by, report }
        };
        self.asked.push(asked.boxed());
    }

    fn answered(&mut self, answered: Answered) {
        let Answered { ask, question, by, report } = answered;
        let (now_ns, bucket) = (self.now_ns(), &ask.bucket);
        match report {
            Ok(report) => {
                self.hear(&report);
                self.alone.remove(&bucket.name);
                bucket.hand.answer(&bucket.full_at_ns, &ask.rate, &question, report.granted, now_ns, by);
                if report.granted.tokens > 0 {
                    self.held.entry(bucket.name.clone()).or_insert(ask);
                }
            }
            Err(reason) => {
                // What was to go back is lost, and fills again in its time.
                if question.back == 0 {
                    bucket.hand.fail(now_ns);
                    self.alone.insert(bucket.name.clone(), ask);
                }
                if by == self.connection && self.place.as_ref().is_some_and(Place::ends_with_an_error) {
                    self.lose(&reason);
                }
            }
        }
    }

    /// What nobody uses goes back, so that the other edges have it.
    fn look(&mut self) {
        // While nobody can be given anything back, what is in hand is of use here.
        if self.place.is_none() {
            return;
        }
        self.held.retain(|_, ask| !ask.bucket.hand.is_empty());
        let idle: Vec<_> = self
            .held
            .values()
            .filter_map(|ask| Some((ask.clone(), ask.bucket.hand.idle(&ask.bucket.full_at_ns)?)))
            .collect();
        for (ask, question) in idle {
            self.put(ask, question);
        }
    }

    async fn give_all_back(mut self) {
        for _ in 0..2 {
            self.look();
        }
        let rest = async { while self.asked.next().await.is_some() {} };
        let _ = timeout(LAST_TIME, rest).await;
    }
}
