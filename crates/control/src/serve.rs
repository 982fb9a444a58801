//! What a server does besides answering: carries out operations, and keeps true what should stay true.

use crate::{App, ControlError, reconcile, recover, workflows};
use berth_workflow::{Options, Reserve, Worker};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tracing::warn;

/// How often a server that is behind the world looks whether somebody has brought it level.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many short operations wait for no cell that is made and no tenant that moves.
const PLACES_FOR_SHORT: usize = 4;

/// Works until `shutdown` is true; then lets go of everything in order. Any number of servers may do so on one
/// database, and any may be killed.
pub async fn work(app: &App, mut shutdown: watch::Receiver<bool>, options: Options) -> Result<(), ControlError> {
    if recover::check(app).await? {
        warn!("this control database is behind the world: only reads are answered until `berth recover`");
    }
    while app.store().world_ahead_any().await? {
        if tokio::time::timeout(LOOK_EVERY, shutdown.wait_for(|stop| *stop)).await.is_ok() {
            return Ok(());
        }
    }
    let places = if options.concurrency == 0 { 0 } else { PLACES_FOR_SHORT };
    let options = Options { reserve: Reserve { workflows: workflows::SHORT, places }, ..options };
    let worker =
        Worker::new(Arc::new(app.store().clone()), Arc::new(workflows::registry()), Arc::new(app.clone()), options);
    let mut stop = shutdown.clone();
    let stopped = async move {
        // A sender that is gone is a server that is gone.
        stop.wait_for(|stop| *stop).await.ok();
    };
    tokio::join!(worker.run(stopped), reconcile::run(app, shutdown));
    Ok(())
}
