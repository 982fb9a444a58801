//! Keeps the old cells of moves that can be undone up to date, and clears away what nobody can go back to.
//!
//! One task for each, until its row says otherwise. Two servers that overlap for an instant do no harm: a slot has one
//! reader, and the old side takes a change only at exactly the position it has reached.

use super::Loop;
use crate::{App, ControlError, ways_back};
use async_trait::async_trait;
use berth_domain::{MoveId, WayBackState};
use berth_mover::{MoveError, Progress, Watcher};
use berth_store::WayBack;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// After trouble the next try waits this long.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// And where rows are to go at most so long: what keeps them waits for a person, and each try reads much.
const AGAIN_AT_LAST: Duration = Duration::from_mins(10);
/// What a slot says that another session reads.
const IN_USE: &str = "55006";

#[derive(Default)]
pub(super) struct WaysBack {
    tasks: HashMap<MoveId, Kept>,
}

struct Kept {
    state: WayBackState,
    told: Arc<Told>,
    /// None while it waits for its next try.
    task: Option<JoinHandle<Result<(), ControlError>>>,
    again_at: Instant,
    /// How long the next one waits.
    wait: Duration,
}

impl Kept {
    fn wait(&mut self) {
        self.again_at = Instant::now() + self.wait;
        if self.state == WayBackState::Closing {
            self.wait = (self.wait * 2).min(AGAIN_AT_LAST);
        }
    }
}

/// What passes between a task and the loop.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    /// Below zero: not known yet.
    bytes_behind: AtomicI64,
}

impl Watcher for Told {
    fn progress(&self, progress: Progress) {
        if let Some(bytes) = progress.bytes_behind {
            self.bytes_behind.store(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Also when this server stops: another one goes on where this one was.
impl Drop for Kept {
    fn drop(&mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[async_trait]
impl Loop for WaysBack {
    const NAME: &'static str = "ways_back";
    const PAUSE: Duration = Duration::from_secs(1);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let ways = app.store().ways_back_unfinished(None).await?;
        self.tasks.retain(|id, kept| ways.iter().any(|way| way.id == *id && way.state == kept.state));
        for way in ways {
            if way.state == WayBackState::Open && way.over {
                close(app, way.id, "its time is over").await?;
            } else if way.state != WayBackState::Undoing {
                self.look_after(app, way).await?;
            }
        }
        Ok(())
    }
}

async fn close(app: &App, id: MoveId, reason: &str) -> Result<(), ControlError> {
    app.store().way_back_turn(id, WayBackState::Open, WayBackState::Closing, Some(reason)).await?;
    Ok(())
}

impl WaysBack {
    async fn look_after(&mut self, app: &App, way: WayBack) -> Result<(), ControlError> {
        let id = way.id;
        let kept = self.tasks.entry(id).or_insert_with(|| Kept {
            state: way.state,
            told: Arc::new(Told { bytes_behind: AtomicI64::new(-1), ..Told::default() }),
            task: None,
            again_at: Instant::now(),
            wait: AGAIN_AFTER,
        });
        if kept.task.as_ref().is_some_and(JoinHandle::is_finished) {
            // A task that panicked is one that failed: it is started again.
            let ended = match kept.task.take() {
                Some(task) => task.await.unwrap_or(Ok(())),
                None => Ok(()),
            };
            kept.wait();
            match ended {
                Ok(()) => {}
                Err(ControlError::Move(error @ (MoveError::SlotLost { .. } | MoveError::WayBackOver { .. })))
                    if way.state == WayBackState::Open =>
                {
                    warn!(%id, %error, "move {id} can no longer be undone: {error}");
                    return close(app, id, "the write-ahead log it needs is gone or was too much").await;
                }
                Err(ControlError::Move(MoveError::StreamRefused { code, .. })) if code == IN_USE => {}
                // A release, mostly: what is written in the new schema has no place in the old cell's rows. Or a row of
                // somebody else stands there, or a constraint there refuses it.
                Err(ControlError::Move(error)) if way.state == WayBackState::Open && error.ends_the_way_back() => {
                    warn!(%id, %error, "move {id} can no longer be undone: {error}");
                    return close(app, id, &error.to_string()).await;
                }
                Err(error) => {
                    let trouble = error.full();
                    warn!(%id, error = trouble, "the way back of move {id} stopped; it is tried again");
                    app.store().way_back_seen(id, None, Some(&trouble)).await?;
                }
            }
        }
        if kept.task.is_none() && kept.again_at <= Instant::now() {
            kept.task = Some(tokio::spawn(work(app.clone(), way, Arc::clone(&kept.told))));
        } else if kept.task.is_some() {
            let behind = kept.told.bytes_behind.load(Ordering::Relaxed);
            if behind >= 0 {
                app.store().way_back_seen(id, Some(behind), None).await?;
            }
        }
        Ok(())
    }
}

async fn work(app: App, way: WayBack, told: Arc<Told>) -> Result<(), ControlError> {
    if way.state == WayBackState::Closing {
        let rows = ways_back::clear(&app, &way, &*told).await?;
        info!(id = %way.id, rows, "{rows} rows that move {} left behind are gone", way.id);
        return Ok(());
    }
    let spec = ways_back::spec(&app, &way).await?;
    let ownership = app.store().ownership(way.tenant);
    Ok(berth_mover::keep(&spec, &way.plan, &ownership, &*told).await?)
}

#[cfg(test)]
mod tests {
    use super::{AGAIN_AFTER, AGAIN_AT_LAST, Kept, Told};
    use berth_domain::WayBackState;
    use std::{sync::Arc, time::Instant};

    #[test]
    fn what_waits_for_a_person_is_tried_less_and_less_often() {
        let state = WayBackState::Closing;
        let mut kept =
            Kept { state, told: Arc::new(Told::default()), task: None, again_at: Instant::now(), wait: AGAIN_AFTER };
        let mut waits = Vec::new();
        for _ in 0..10 {
            waits.push(kept.wait);
            kept.wait();
        }
        assert_eq!(waits[..3], [AGAIN_AFTER, AGAIN_AFTER * 2, AGAIN_AFTER * 4]);
        assert_eq!(waits[9], AGAIN_AT_LAST);
        // One that follows is behind for every moment that it does not.
        (kept.state, kept.wait) = (WayBackState::Open, AGAIN_AFTER);
        kept.wait();
        assert_eq!(kept.wait, AGAIN_AFTER);
    }
}
