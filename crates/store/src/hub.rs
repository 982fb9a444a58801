//! What changed, told to whoever waits in this program: one connection listens for all.
//!
//! Every word is a nudge to look, never the news itself: nobody decides on it. An edge's acknowledgement is the
//! exception in form only (it travels whole, since the pause of a move waits for it); what counts is stored too.

use crate::{EdgeSaid, Store, StoreError};
use berth_domain::{OperationId, Revision};
use sqlx::postgres::{PgListener, PgPool};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, broadcast},
    task::AbortHandle,
};
use tracing::warn;

pub(crate) const ROUTES: &str = "berth_routes";
pub(crate) const ACKS: &str = "berth_acks";
pub(crate) const OPERATIONS: &str = "berth_operations";
pub(crate) const WORK: &str = "berth_work";
pub(crate) const SETTINGS: &str = "berth_settings";
pub(crate) const CHALLENGES: &str = "berth_challenges";

/// More than a burst of changes; who falls further behind is told so and looks at everything.
const BACKLOG: usize = 1024;
const RECONNECT: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub enum Nudge {
    /// Routes changed, up to here.
    Routes(Revision),
    /// An edge said how far it is.
    Acked(Arc<EdgeSaid>),
    /// An operation's state, steps or progress changed.
    Operation(OperationId),
    /// What edges are told beside routes may have changed, but for challenges.
    Settings,
    /// What edges answer for hosts that are being proved may have changed.
    Challenges,
    /// The connection was lost for a while: anything may have changed.
    Missed,
}

#[derive(Clone, Debug)]
pub struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    nudges: broadcast::Sender<Nudge>,
    work: Notify,
    listener: std::sync::OnceLock<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

impl Hub {
    pub(crate) fn new() -> Self {
        let (nudges, _) = broadcast::channel(BACKLOG);
        Self { inner: Arc::new(Inner { nudges, work: Notify::new(), listener: std::sync::OnceLock::new() }) }
    }

    /// Everything told from now on. Subscribe first, then read, then wait: no change falls between.
    pub fn subscribe(&self) -> broadcast::Receiver<Nudge> {
        self.inner.nudges.subscribe()
    }

    /// Returns when an operation waits for a worker, at the latest after `at_most`.
    pub(crate) async fn work(&self, at_most: Duration) {
        // The time limit is the normal case of an idle server, not an error.
        tokio::time::timeout(at_most, self.inner.work.notified()).await.ok();
    }

    pub(crate) fn tell(&self, nudge: Nudge) {
        // No subscriber is no error: nobody waits.
        self.inner.nudges.send(nudge).ok();
    }

    fn work_came(&self) {
        // All who wait look; and if nobody waits, the next one who would looks first.
        self.inner.work.notify_waiters();
        self.inner.work.notify_one();
    }

    pub(crate) async fn listen(&self, pool: &PgPool) -> Result<(), StoreError> {
        let mut listener = connect(pool).await?;
        let (pool, inner) = (pool.clone(), Arc::downgrade(&self.inner));
        let task = tokio::spawn(async move {
            loop {
                let heard = listener.try_recv().await;
                let Some(hub) = inner.upgrade().map(|inner| Self { inner }) else { return };
                match heard {
                    Ok(Some(notification)) => hub.heard(notification.channel(), notification.payload()),
                    // The listener connects again by itself at the next call, when the connection was lost in order.
                    Ok(None) => hub.missed(),
                    Err(error) => {
                        warn!(%error, "the control database's notifications were lost; listening again");
                        hub.missed();
                        drop(hub);
                        loop {
                            tokio::time::sleep(RECONNECT).await;
                            match connect(&pool).await {
                                Ok(again) => break listener = again,
                                Err(_) if inner.strong_count() == 0 => return,
                                Err(_) => {}
                            }
                        }
                        if let Some(inner) = inner.upgrade() {
                            Self { inner }.missed();
                        }
                    }
                }
            }
        });
        self.inner.listener.set(task.abort_handle()).expect("a store listens once");
        Ok(())
    }

    /// Lets go of the connection, which the pool would otherwise wait for.
    pub(crate) fn stop(&self) {
        if let Some(listener) = self.inner.listener.get() {
            listener.abort();
        }
    }

    fn missed(&self) {
        self.tell(Nudge::Missed);
        self.work_came();
    }

    fn heard(&self, channel: &str, payload: &str) {
        let nudge = match channel {
            ROUTES => payload.parse().ok().map(|revision| Nudge::Routes(Revision::from_i64(revision))),
            OPERATIONS => payload.parse().ok().map(Nudge::Operation),
            // Too long for a notification, it was sent as nothing: look at the table.
            ACKS => serde_json::from_str(payload).ok().map(|said| Nudge::Acked(Arc::new(said))),
            SETTINGS => Some(Nudge::Settings),
            CHALLENGES => Some(Nudge::Challenges),
            WORK => return self.work_came(),
            _ => None,
        };
        self.tell(nudge.unwrap_or(Nudge::Missed));
    }
}

async fn connect(pool: &PgPool) -> Result<PgListener, StoreError> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all([ROUTES, ACKS, OPERATIONS, WORK, SETTINGS, CHALLENGES]).await?;
    Ok(listener)
}

impl Store {
    /// Passes on what this very program has just learned, without the way over the database.
    pub fn tell(&self, nudge: Nudge) {
        self.hub.tell(nudge);
    }
}
