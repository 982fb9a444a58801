//! The edge as a whole: starts the cores, takes events from the control plane, and sees that what is acknowledged is
//! on disk and in force on every core.
//!
//! Never in the way of a request: cores serve by themselves, and go on when this stands still.

mod binding;
mod handing;
mod kept_up;

use self::{
    handing::{Handing, Ready},
    kept_up::kept_up,
};
use crate::{
    Limits,
    admin::{self, Facts},
    book::{Book, Consequence},
    checks,
    cluster::{Asker, Cluster},
    config::{EdgeConfig, EdgeError},
    core::{Common, News, Order},
    feed::{self, ControlUrl, Link},
    geo::Places,
    handover::{Predecessor, Sockets},
    hold::{HoldOrder, InTime, Room},
    limits::Buckets,
    pack,
    report::Reporter,
    request_log::Logger,
    routing::{Change, Table, hold_token},
    settings::{self, CERTIFICATES, SETTINGS},
    snapshot::{Log, SnapshotError},
    tls::{self, Certificates},
    worker,
};
use arc_swap::ArcSwap;
use berth_domain::{Revision, TenantId};
use berth_wire::edge::{EdgeEvent, EdgeSettings, HoldOutcome, HoldPolicy, HoldReport, RouteState, TenantRoute};
use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    sync::{
        mpsc::{self, UnboundedSender},
        oneshot,
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// An edge whose addresses are taken and whose routes are read, and that serves nobody yet.
pub struct Edge {
    config: EdgeConfig,
    urls: Vec<ControlUrl>,
    sockets: Sockets,
    admin: StdListener,
    /// The edge that runs here still, and what its buckets owe.
    predecessor: Option<(Predecessor, HashMap<Box<str>, u64>)>,
    ready: Option<Ready>,
    left: Option<Ready>,
    places: Places,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    admin_address: SocketAddr,
    log: Log,
    table: Table,
}

/// Binds and runs, in one: for callers that chose the ports themselves.
pub async fn run(config: EdgeConfig, shutdown: impl Future<Output = ()>) -> Result<(), EdgeError> {
    Edge::bind(config)?.run(shutdown).await
}

impl Edge {
    /// Serves until `shutdown`, then lets requests under way finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), EdgeError> {
        let Self { config, urls, sockets, admin, predecessor, ready, left, places, log, table, .. } = self;
        let limits = config.limits;
        let kept_sockets = sockets.duplicate().and_then(|all| Ok(Sockets { admin: Some(admin.try_clone()?), ..all }));
        let kept_sockets = kept_sockets.map_err(EdgeError::Handover)?;
        let (predecessor, owed_ns) = predecessor.unzip();
        let ready = ready.or_else(|| Some(Box::new(|| {})));
        let (mut handing, mut handed) =
            Handing::new(config.data_dir.clone(), kept_sockets, predecessor, ready, limits.leave_time);
        handing.left = left;
        let (certificates, mut kept) = (Arc::new(Certificates::default()), tls::Kept::default());
        kept.take(true, settings::load(&config.data_dir, CERTIFICATES), &[], &certificates);
        let (said_in, said) = mpsc::unbounded_channel();
        let cluster = Arc::new(Cluster::new(said_in));
        let tls = Arc::new(tls::server_config(Arc::clone(&certificates))?);
        let mut tls_listeners = sockets.tls.into_iter();
        let common = Arc::new(Common {
            limits: limits.clone(),
            routes: Arc::clone(&table.routes),
            buckets: Buckets::owing(owed_ns.unwrap_or_default()),
            opened: handing.opened.clone(),
            leaving: CancellationToken::new(),
            open: AtomicUsize::new(0),
            cluster: Arc::clone(&cluster),
            vitals: Arc::default(),
            places: Arc::new(places),
            trust: Arc::default(),
            room: Arc::new(Room::new(limits.park_all_bytes)),
            keep_bytes: limits.keep_all_bytes / sockets.plain.len().max(1) as u64,
            ledger: Arc::default(),
            settings: ArcSwap::from_pointee(settings::load(&config.data_dir, SETTINGS)),
            certificates: Arc::clone(&certificates),
            request_log: config.request_log.as_ref().map(Logger::start).transpose()?,
            epoch: Instant::now(),
        });
        cluster.set(common.settings.load().cluster.clone());
        common.places.miss(common.settings.load().geo.is_some());
        let places = Arc::clone(&common.places);
        let stop = CancellationToken::new();
        // Whoever drops this future ends the threads too.
        let _stop_on_drop = stop.clone().drop_guard();
        let (news_in, mut news) = mpsc::unbounded_channel();
        let (gone_in, mut gone) = mpsc::unbounded_channel();
        let (mut cores, mut starts) = (Vec::new(), Vec::new());
        for listener in sockets.plain {
            let (orders_in, orders) = mpsc::unbounded_channel();
            cores.push(orders_in);
            starts.push(worker::Start {
                common: Arc::clone(&common),
                listener,
                tls: tls_listeners.next().map(|listener| (listener, Arc::clone(&tls))),
                orders,
                news: news_in.clone(),
                stop: stop.clone(),
            });
        }
        let asker = Asker::new(cluster, config.name.clone(), common.epoch);
        let link = Arc::new(Link::new(
            config.name,
            urls,
            config.api_key,
            limits.feed_silence,
            config.listen_tls.is_some(),
            table.revision,
        ));
        let mut coordinator = Coordinator {
            cores: cores.clone(),
            common: Arc::clone(&common),
            dir: config.data_dir.clone(),
            certificates: kept,
            limits,
            link: Arc::clone(&link),
            log: Some(log),
            writes: true,
            table,
            book: Book::default(),
            owed: HashMap::new(),
            unsaved: BTreeSet::new(),
            unsure: true,
        };
        // Before the threads are there: no request is ever served from an empty table.
        let in_force = coordinator.restore();
        for (number, start) in starts.into_iter().enumerate() {
            let gone = Gone { number, tell: gone_in.clone() };
            let name = format!("edge-{number}");
            let body = move || {
                let _gone = gone;
                if let Err(error) = worker::run(start) {
                    tracing::error!(%error, worker = number, "an edge worker could not run");
                }
            };
            thread::Builder::new().name(name).spawn(body).map_err(EdgeError::Thread)?;
        }
        answered(in_force).await?;
        let (events_in, mut events) = mpsc::channel(16);
        let (asks_in, mut asks) = mpsc::channel(16);
        // Ends with this function: dropping the set ends what is in it.
        let mut tasks = JoinSet::new();
        if !link.urls.is_empty() {
            let (asked, said) = (Arc::clone(&link), Arc::clone(&link));
            let events_in = events_in.clone();
            let polls = coordinator.limits.polls_for;
            tasks.spawn(kept_up("following routes", move || feed::follow(asked.clone(), events_in.clone(), polls)));
            tasks.spawn(kept_up("acknowledging routes", move || feed::acknowledge(Arc::clone(&said))));
        }
        tasks.spawn(checks::run(Arc::clone(&common)));
        if let Some(path) = config.geo_database {
            tasks.spawn(places.follow(path));
        }
        let asking = tokio::spawn(asker.run(said, stop.clone().cancelled_owned()));
        let reporter = Arc::new(tokio::sync::Mutex::new(Reporter::new(
            Arc::clone(&link),
            Arc::clone(&common.ledger),
            &config.data_dir,
        )));
        let reports = if link.urls.is_empty() {
            None
        } else {
            Some(tasks.spawn(Reporter::run(Arc::clone(&reporter), cores.clone(), coordinator.limits.report_every)))
        };
        handing.reporter = Some(Arc::clone(&reporter));
        handing.admin = Some(tasks.spawn(admin::serve(
            admin,
            Arc::clone(&link),
            cores,
            asks_in.clone(),
            common,
            config.second_names,
        )));
        tokio::pin!(shutdown);
        let (mut stopping, mut left) = (false, config.workers);
        while left > 0 {
            handing.settle(!coordinator.unsure);
            tokio::select! {
                biased;
                Some(news) = news.recv() => coordinator.hear(&news).await,
                Some(number) = gone.recv() => {
                    if !stopping && !handing.is_leaving() {
                        return Err(EdgeError::WorkerGone(number));
                    }
                    left -= 1;
                }
                () = &mut shutdown, if !stopping => {
                    stopping = true;
                    stop.cancel();
                }
                Some(event) = events.recv(), if !stopping => coordinator.take(event).await?,
                Some(ask) = asks.recv() => coordinator.answer(ask),
                Some(handed) = handed.recv(), if !stopping => {
                    if handing.take(handed, &mut coordinator).await {
                        stopping = true;
                        stop.cancel();
                    }
                }
            }
        }
        stop.cancel();
        if let Some(reports) = reports {
            // One that is under way is given up: what it said is said again, and counts once.
            reports.abort();
            reporter.lock().await.last().await;
        }
        if handing.is_leaving() {
            // No ping of its stream after its last word.
            tasks.shutdown().await;
            feed::say_gone(&link).await;
        }
        // What is in hand goes back; it has a time limit of its own.
        let _ = asking.await;
        Ok(())
    }
}

/// Tells that a worker thread has ended, however it did.
struct Gone {
    number: usize,
    tell: UnboundedSender<usize>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        // Nobody listens any more when the edge itself is going.
        let _ = self.tell.send(self.number);
    }
}

type Answers = Vec<oneshot::Receiver<()>>;

async fn answered(answers: Answers) -> Result<(), EdgeError> {
    for (number, answer) in answers.into_iter().enumerate() {
        answer.await.map_err(|_| EdgeError::WorkerGone(number))?;
    }
    Ok(())
}

struct Coordinator {
    cores: Vec<UnboundedSender<Order>>,
    common: Arc<Common>,
    dir: PathBuf,
    certificates: tls::Kept,
    limits: Limits,
    link: Arc<Link>,
    /// Away while it is being written, and for good when another process writes it.
    log: Option<Log>,
    /// The data folder is this process's.
    writes: bool,
    table: Table,
    book: Book,
    /// In force, and not on disk yet because it could not be written.
    owed: HashMap<TenantId, Change>,
    /// The same of settings and certificates.
    unsaved: BTreeSet<&'static str>,
    /// Holds came from disk, and the control plane has not spoken yet.
    unsure: bool,
}

impl Coordinator {
    /// Orders the cores the holds that were on disk. Every other route they find when they are asked for it.
    fn restore(&mut self) -> Answers {
        let held = self.table.oldest_first().into_iter().filter(|p| p.hold_token().is_some());
        let changes: Vec<_> = held
            .map(|packed| {
                let route = Arc::new(packed.route());
                let hold = if packed.lifted().is_some() { None } else { self.hold_order(&route) };
                (Change::Put(route), hold)
            })
            .collect();
        self.order(&changes)
    }

    /// The hold that a route orders, entered in the book.
    fn hold_order(&mut self, route: &TenantRoute) -> Option<HoldOrder> {
        let RouteState::Held { hold } = &route.state else {
            self.book.followed(route.tenant);
            return None;
        };
        Some(HoldOrder {
            serial: self.book.ordered(route.tenant, hold.token, self.cores.len()),
            all: hold.policy == HoldPolicy::All,
            unsure: self.unsure,
            drain: Duration::from_millis(hold.drain_ms.into()),
            park: Duration::from_millis(hold.park_ms.into()),
            budget: self.common.room.budget(route.tenant, self.limits.park_requests, self.limits.park_bytes),
            in_time: Arc::new(InTime::new(self.cores.len())),
        })
    }

    fn order(&self, changes: &[(Change, Option<HoldOrder>)]) -> Answers {
        let send = |core: &UnboundedSender<Order>| {
            let (done, answer) = oneshot::channel();
            // A core that is gone answers by not answering.
            let _ = core.send(Order::Apply { changes: changes.to_vec(), done });
            answer
        };
        self.cores.iter().map(send).collect()
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for core in &self.cores {
            // A core that is gone has nothing to let go of.
            let _ = core.send(order());
        }
    }

    async fn take(&mut self, event: EdgeEvent) -> Result<(), EdgeError> {
        // The disk may take by now what it did not.
        for file in self.unsaved.clone() {
            self.save(file).await;
        }
        let (full, revision, routes) = match event {
            EdgeEvent::Routes { full, revision, routes } => (full, revision, routes),
            EdgeEvent::Ping { revision } => {
                if revision == self.table.revision {
                    self.become_sure();
                }
                // The answer tells control that not only the connection lives.
                self.link.say(self.table.revision, Vec::new());
                return Ok(());
            }
            EdgeEvent::Settings { settings } => {
                self.set(settings).await;
                return Ok(());
            }
            EdgeEvent::Certificates { full, certificates, gone } => {
                if self.certificates.take(full, certificates, &gone, &self.common.certificates) {
                    self.save(CERTIFICATES).await;
                }
                return Ok(());
            }
            EdgeEvent::Challenges { version, challenges } => {
                self.common.certificates.challenges.set(challenges);
                // Acknowledged when every core answers them, which is now.
                self.link.challenges.store(version, Ordering::Release);
                self.link.say(self.table.revision, Vec::new());
                return Ok(());
            }
        };
        let Some(plan) = self.table.plan(full, revision, routes) else {
            tracing::warn!(ours = %self.table.revision, theirs = %revision, "routes older than ours were refused");
            self.link.say(self.table.revision, Vec::new());
            return Ok(());
        };
        for tenant in &plan.refused {
            tracing::warn!(tenant.id = %tenant, "tenant {tenant}: a route of a lower generation or revision was refused");
        }
        // What begins a hold or happens under one is on disk before it is in force, for the move goes on by what the
        // cores then report. All else is put in force first: for those whom a hold keeps waiting every millisecond is
        // pause, and a route that a crash forgets comes again. A hold that stays on disk serves nothing until control
        // has spoken.
        let (late, early): (Vec<_>, Vec<_>) = plan.changes.iter().cloned().partition(holds);
        self.put_in_force(early.clone()).await?;
        self.owed.extend(early.into_iter().map(|change| (change.tenant(), change)));
        let mut batch: Vec<_> = self.owed.values().chain(&late).cloned().collect();
        // Of two who claim a host the later one has it, also for whoever reads this.
        batch.sort_by_key(|change| match change {
            Change::Put(route) => (route.revision, route.tenant),
            Change::Remove(tenant) => (Revision::default(), *tenant),
        });
        if let Err(error) = self.write_down(batch, plan.revision).await {
            self.link.disk_failed();
            tracing::error!(error = &error as &dyn std::error::Error, "routes could not be written down; asking again");
            self.link.again.notify_one();
            return Ok(());
        }
        self.owed.clear();
        self.put_in_force(late).await?;
        self.table.revision = plan.revision;
        self.become_sure();
        let reports = plan.repeated.iter().filter_map(|(tenant, _)| self.repeated(*tenant)).collect();
        self.link.say(self.table.revision, reports);
        self.shorten().await;
        Ok(())
    }

    /// Settings are in force at once, and on disk for the next start.
    async fn set(&mut self, settings: EdgeSettings) {
        if **self.common.settings.load() == settings {
            return;
        }
        let settings = Arc::new(settings);
        self.common.settings.store(Arc::clone(&settings));
        self.common.cluster.set(settings.cluster.clone());
        self.common.places.miss(settings.geo.is_some());
        self.tell(|| Order::Settings);
        tracing::info!("the control plane's settings are in force");
        if settings.compression.is_some() && !pack::CAN {
            tracing::warn!(
                "the stack file wants answers compressed, which this build (without `compression`) cannot do"
            );
        }
        self.save(SETTINGS).await;
    }

    /// For the next start; without it that begins with what there was before, so what the disk does not take is tried with
    /// control's next word.
    async fn save(&mut self, file: &'static str) {
        if !self.writes {
            return;
        }
        let (dir, in_force) = (self.dir.clone(), self.common.settings.load_full());
        let certificates = (file == CERTIFICATES).then(|| self.certificates.to_write());
        let saved = tokio::task::spawn_blocking(move || match certificates {
            Some(certificates) => settings::save(&dir, file, &certificates),
            None => settings::save(&dir, file, &in_force),
        });
        match saved.await.expect("writing a file does not panic, and nobody cancels it") {
            Ok(()) => {
                self.unsaved.remove(file);
            }
            Err(error) => {
                self.link.disk_failed();
                if self.unsaved.insert(file) {
                    tracing::warn!(%error, "{file} could not be written; it is in force, and tried again until the disk takes it");
                }
            }
        }
    }

    async fn put_in_force(&mut self, changes: Vec<Change>) -> Result<(), EdgeError> {
        if changes.is_empty() {
            return Ok(());
        }
        let ordered = changes
            .into_iter()
            .map(|change| {
                let hold = match &change {
                    Change::Put(route) if self.is_same_hold(route) => self.same_hold(route),
                    Change::Put(route) => self.hold_order(route),
                    Change::Remove(tenant) => {
                        self.book.followed(*tenant);
                        None
                    }
                };
                (change, hold)
            })
            .collect::<Vec<_>>();
        // Where cores look first, then they are told: whoever met the tenant in between hears of it.
        for (change, _) in &ordered {
            self.table.apply(change);
        }
        match answered(self.order(&ordered)).await {
            // Whoever has gone serves nobody any more.
            Err(EdgeError::WorkerGone(_)) if self.common.leaving.is_cancelled() => Ok(()),
            answered => answered,
        }
    }

    /// The route changed under a hold that goes on.
    fn is_same_hold(&self, route: &TenantRoute) -> bool {
        hold_token(route).is_some()
            && self.table.get(route.tenant).is_some_and(|known| known.hold_token() == hold_token(route))
    }

    /// The same hold again: in force it is ordered anew, which changes nothing for those parked; refused it stays so.
    fn same_hold(&mut self, route: &TenantRoute) -> Option<HoldOrder> {
        let refused = self.table.get(route.tenant).is_some_and(|known| known.lifted().is_some());
        if refused { None } else { self.hold_order(route) }
    }

    fn repeated(&self, tenant: TenantId) -> Option<HoldReport> {
        let known = self.table.get(tenant)?;
        match known.lifted() {
            Some(in_flight) => {
                let token = known.hold_token()?;
                Some(HoldReport { tenant, token, outcome: HoldOutcome::Refused { in_flight } })
            }
            None => self.book.repeated(tenant),
        }
    }

    fn become_sure(&mut self) {
        if std::mem::take(&mut self.unsure) {
            self.tell(|| Order::Sure);
        }
    }

    async fn write_down(&mut self, changes: Vec<Change>, revision: Revision) -> Result<(), SnapshotError> {
        if changes.is_empty() && revision == self.table.revision {
            return Ok(());
        }
        self.on_disk(move |log| log.append(&changes, revision)).await
    }

    /// Runs on a thread that may wait for the disk.
    async fn on_disk(
        &mut self,
        work: impl FnOnce(&mut Log) -> Result<(), SnapshotError> + Send + 'static,
    ) -> Result<(), SnapshotError> {
        // Another process writes, and has the same from the control plane.
        let Some(mut log) = self.log.take() else { return Ok(()) };
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mut log);
            (log, done)
        });
        let (log, done) = worked.await.expect("writing the log does not panic, and nobody cancels it");
        self.log = Some(log);
        done
    }

    async fn shorten(&mut self) {
        let long = self.log.as_ref().is_some_and(|l| l.is_long(&self.table));
        if !long {
            return;
        }
        let entries = Table::of(&self.table);
        if let Err(error) = self.on_disk(move |log| log.compact(&entries)).await {
            self.link.disk_failed();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the log of routes could not be shortened; it grows on"
            );
        }
    }

    async fn hear(&mut self, news: &News) {
        for consequence in self.book.heard(news) {
            match consequence {
                Consequence::Report(report) => self.link.say(self.table.revision, vec![report]),
                Consequence::Lift { tenant, serial, .. } => self.tell(|| Order::Lift { tenant, serial }),
                Consequence::Refused { tenant, token, in_flight } => {
                    self.table.lift(tenant, token, in_flight);
                    let revision = self.table.revision;
                    if let Err(error) = self.on_disk(move |log| log.lift(tenant, token, in_flight, revision)).await {
                        self.link.disk_failed();
                        // After a restart the tenant would be held until control speaks: late, never wrong.
                        tracing::warn!(error = &error as &dyn std::error::Error, tenant.id = %tenant, "tenant {tenant}: a refused hold could not be written down");
                    }
                    let outcome = HoldOutcome::Refused { in_flight };
                    self.link.say(self.table.revision, vec![HoldReport { tenant, token, outcome }]);
                }
            }
        }
    }

    fn answer(&self, ask: oneshot::Sender<Facts>) {
        // The one who asked has gone.
        let _ = ask.send(Facts { revision: self.table.revision, routes: Arc::clone(&self.table.routes) });
    }
}

/// Whether a hold is in force by this change.
fn holds(change: &Change) -> bool {
    matches!(change, Change::Put(route) if hold_token(route).is_some())
}
