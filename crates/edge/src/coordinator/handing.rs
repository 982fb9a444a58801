//! How one process of an edge follows another: the follower says that it is ready, the other one takes no new connection from
//! then on and says what its buckets owe, and the follower serves. The other one keeps to routes, holds and limits while the
//! connections that it has come to their end, and goes.
//!
//! Never leaves before the follower has said that it is ready; one that does not come to that changes nothing.

use super::Coordinator;
use crate::{
    handover::{Door, Follower, Owed, Predecessor, Sockets},
    report::Reporter,
    snapshot::Log,
};
use berth_wire::edge::Presence;
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{
        Mutex,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::{AbortHandle, JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// A hold ends within this, or it is handed on as it lies on disk.
const HOLD_TIME: Duration = Duration::from_secs(10);
/// A control plane hears within this that the process is leaving, or there is none to hear it.
const TELL_TIME: Duration = Duration::from_secs(1);
/// And has told the follower within this what is new.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// A predecessor that we have told goes within this, or it is stuck and takes no connections either.
const GO_TIME: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// How soon the disk is tried again.
const DISK_TIME: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub enum Handed {
    Asked(Follower, Instant),
    /// The follower is ready.
    Ready(Follower),
    /// It ended before.
    Failed,
    /// The follower that we are has waited long enough for the control plane.
    Settled,
    /// Our predecessor goes, and its buckets owe this.
    Thanked(Owed),
    /// It has not said so.
    Silent,
    /// Or stays, because we took too long.
    TooLate,
    /// The disk may be ours again.
    Disk,
    /// Connections have had their time.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Giving,
    Leaving,
}

pub type Ready = Box<dyn FnOnce() + Send>;

pub struct Handing {
    phase: Phase,
    dir: PathBuf,
    sockets: Option<Sockets>,
    predecessor: Option<(Predecessor, Instant)>,
    /// It has been told that we serve, and has not said yet that it goes.
    thanking: bool,
    ready: Option<Ready>,
    tell: UnboundedSender<Handed>,
    tasks: JoinSet<()>,
    pub left: Option<Ready>,
    /// Cores take connections from then on. Two processes that did it at once would each give out of full buckets.
    pub opened: CancellationToken,
    /// The follower answers there from now on.
    pub admin: Option<AbortHandle>,
    pub reporter: Option<Arc<Mutex<Reporter>>>,
    leave_time: Duration,
}

impl Handing {
    pub fn new(
        dir: PathBuf,
        sockets: Sockets,
        predecessor: Option<Predecessor>,
        ready: Option<Ready>,
        leave_time: Duration,
    ) -> (Self, UnboundedReceiver<Handed>) {
        let (tell, handed) = unbounded_channel();
        let mut handing = Self {
            phase: Phase::Serving,
            dir,
            sockets: Some(sockets),
            thanking: false,
            predecessor: predecessor.map(|predecessor| (predecessor, Instant::now() + SETTLE_TIME)),
            ready,
            tell,
            tasks: JoinSet::new(),
            left: None,
            opened: CancellationToken::new(),
            admin: None,
            reporter: None,
            leave_time,
        };
        if handing.predecessor.is_some() {
            handing.later(SETTLE_TIME, Handed::Settled);
        } else {
            handing.opened.cancel();
        }
        (handing, handed)
    }

    pub fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    fn later(&mut self, after: Duration, what: Handed) {
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            sleep(after).await;
            // Nobody listens any more only when the edge is gone.
            let _ = tell.send(what);
        });
    }

    /// Says that this process is ready, as soon as it serves as well as its predecessor.
    pub fn settle(&mut self, is_sure: bool) {
        match self.predecessor.take() {
            Some((predecessor, until)) if !is_sure && Instant::now() < until => {
                self.predecessor = Some((predecessor, until));
            }
            Some((predecessor, _)) => {
                self.thanking = true;
                let tell = self.tell.clone();
                self.tasks.spawn(async move {
                    let thanked = spawn_blocking(|| predecessor.thank()).await;
                    let thanked = thanked.unwrap_or_else(|_| Some(Owed::new()));
                    let _ = tell.send(thanked.map_or(Handed::TooLate, Handed::Thanked));
                });
                self.later(GO_TIME, Handed::Silent);
            }
            None if self.thanking || self.ready.is_none() => {}
            None => self.serve(),
        }
    }

    /// This process serves, and nobody else does.
    fn serve(&mut self) {
        match Door::open(&self.dir) {
            Ok(door) => self.open(door),
            // All but a restart works without it.
            Err(error) => tracing::warn!(%error, "no other process can take the sockets over from this one"),
        }
        if let Some(ready) = self.ready.take() {
            ready();
        }
    }

    fn open(&mut self, door: Door) {
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            loop {
                match door.wait().await {
                    Ok(follower) => drop(tell.send(Handed::Asked(follower, Instant::now()))),
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        });
    }

    /// `true`: the edge's time is over.
    pub async fn take(&mut self, handed: Handed, coordinator: &mut Coordinator) -> bool {
        match handed {
            // One at a time: the other one hears nothing and gives up.
            Handed::Asked(..) if self.phase != Phase::Serving => {}
            Handed::Asked(follower, since) => {
                if coordinator.book.holds() && since.elapsed() < HOLD_TIME {
                    self.later(LOOK, Handed::Asked(follower, since));
                } else {
                    self.give(follower, coordinator).await;
                }
            }
            Handed::Failed => {
                tracing::error!("the process that was to follow ended before it served; this one goes on");
                self.phase = Phase::Serving;
                coordinator.link.be(Presence::Serving);
                if let Some(reporter) = &self.reporter {
                    reporter.lock().await.stay();
                }
                if !coordinator.take_disk_back().await {
                    // The follower may be about to end.
                    self.later(DISK_TIME, Handed::Disk);
                }
            }
            Handed::Ready(follower) => {
                tracing::info!("another process serves; this one goes with its last connection");
                self.phase = Phase::Leaving;
                self.sockets = None;
                if let Some(left) = self.left.take() {
                    left();
                }
                if let Some(admin) = self.admin.take() {
                    admin.abort();
                }
                coordinator.common.leaving.cancel();
                let common = Arc::clone(&coordinator.common);
                // Not one of the tasks, which end with this process.
                drop(spawn_blocking(move || follower.go(&common.buckets.owed_ns(common.now_ns()))));
                self.later(self.leave_time, Handed::Over);
            }
            Handed::Silent => self.opened.cancel(),
            Handed::Thanked(owed_ns) => {
                coordinator.common.buckets.owe(owed_ns, coordinator.common.now_ns());
                self.opened.cancel();
                self.thanking = false;
                self.serve();
            }
            Handed::TooLate => {
                tracing::error!(
                    "the edge that this one was to follow goes on, because it waited for too long; this one ends"
                );
                return true;
            }
            Handed::Disk if self.phase == Phase::Serving && coordinator.log.is_none() => {
                if !coordinator.take_disk_back().await {
                    self.later(DISK_TIME, Handed::Disk);
                }
            }
            Handed::Settled | Handed::Disk => {}
            Handed::Over => return true,
        }
        false
    }

    async fn give(&mut self, mut follower: Follower, coordinator: &mut Coordinator) {
        let Some(sockets) = self.sockets.as_ref().and_then(|sockets| sockets.duplicate().ok()) else { return };
        self.phase = Phase::Giving;
        // Moves wait for both from now on.
        coordinator.link.be(Presence::Leaving);
        if let Some(reporter) = &self.reporter {
            reporter.lock().await.move_aside();
        }
        // The follower writes there now.
        coordinator.log = None;
        coordinator.writes = false;
        let (link, common, tell) = (Arc::clone(&coordinator.link), Arc::clone(&coordinator.common), self.tell.clone());
        self.tasks.spawn(async move {
            let told = async {
                while !link.has_said(Presence::Leaving) {
                    sleep(LOOK).await;
                }
            };
            // Without a control plane there is no move either.
            let _ = tokio::time::timeout(TELL_TIME, told).await;
            let ready = spawn_blocking(move || -> io::Result<Option<Follower>> {
                follower.give(&sockets, common.buckets.owed_ns(common.now_ns()))?;
                drop(sockets);
                Ok(follower.ready())
            });
            let ready = match ready.await {
                Ok(Ok(ready)) => ready,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the sockets could not be handed over");
                    None
                }
                Err(_) => None,
            };
            let _ = tell.send(ready.map_or(Handed::Failed, Handed::Ready));
        });
    }
}

impl Coordinator {
    /// After a follower that did not come to serve: the disk has what is in force again. `false`: not yet.
    async fn take_disk_back(&mut self) -> bool {
        let (dir, entries) = (self.dir.clone(), super::Table::of(&self.table));
        let opened = spawn_blocking(move || {
            let (mut log, _) = Log::open(&dir)?;
            log.compact(&entries)?;
            Ok::<_, super::SnapshotError>(log)
        });
        match opened.await.expect("opening the log does not panic, and nobody cancels it") {
            Ok(log) => {
                (self.log, self.writes) = (Some(log), true);
                true
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "routes are in force and not on disk; it is tried again");
                false
            }
        }
    }
}
