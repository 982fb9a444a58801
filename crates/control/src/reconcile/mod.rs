//! Loops that keep true what should stay true. They take no input, change only what differs, and run on one server at
//! a time: two that share a database share the work by leases.

mod members;
mod sweep;

use crate::{App, ControlError};
use berth_domain::MemberState;
use berth_infra::{Health, Member, Observed};
use berth_store::Seen;
use std::{future::Future, time::Duration};
use tokio::sync::watch;
use tracing::warn;

/// How long after a server's death another one takes its loops up.
const LEASE: Duration = Duration::from_secs(5);
/// Every loop of one server.
pub async fn run(app: &App, shutdown: watch::Receiver<bool>) {
    let mut looks = members::Looks::default();
    tokio::join!(
        every(app, "members", Duration::from_secs(1), shutdown.clone(), async || members::round(app, &mut looks).await),
        every(app, "sweep", Duration::from_mins(1), shutdown, async || sweep::round(app).await),
    );
    for name in ["members", "sweep"] {
        // Left to run out where the database does not answer.
        app.store().lease_release(name, app.server()).await.ok();
    }
}

async fn every(
    app: &App,
    name: &'static str,
    pause: Duration,
    mut shutdown: watch::Receiver<bool>,
    mut round: impl AsyncFnMut() -> Result<(), ControlError>,
) {
    let mut failing = false;
    loop {
        let done = async {
            let lease = app.store().lease_take(name, app.server(), LEASE.max(pause * 2)).await?;
            // Behind the world nothing is started or ended: what this database wants may be long out of date.
            if lease.is_some() && !app.store().world_ahead_any().await? {
                round().await?;
            }
            Ok::<_, ControlError>(())
        };
        match done.await {
            Ok(()) => failing = false,
            // Before the first stack file there is nothing to keep true.
            Err(ControlError::NoStack) => {}
            // Once, not every second.
            Err(_) if failing => {}
            Err(error) => {
                failing = true;
                warn!(reconciler = name, error = error.full(), "reconciler `{name}` failed; it goes on trying");
            }
        }
        if stops(&mut shutdown, pause).await {
            return;
        }
    }
}

/// Whether the server stops within this pause.
async fn stops(shutdown: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    let asked: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
        // A sender that is gone is a server that is gone.
        shutdown.wait_for(|stop| *stop).await.ok();
    });
    tokio::time::timeout(pause, asked).await.is_ok()
}

/// What a look at a member says, in the words of the store.
pub(crate) fn seen(observed: &Observed<Member>, restarted: bool) -> Seen {
    let (state, address, detail) = match observed {
        Observed::Present(member) => {
            let address = Some(format!("{}:{}", member.host, member.port));
            match &member.health {
                Health::Starting => (MemberState::Starting, address, None),
                Health::Healthy => (MemberState::Healthy, address, None),
                Health::Unhealthy { reason } => (MemberState::Unhealthy, address, Some(reason.clone())),
                Health::Stopped { reason } => (MemberState::Stopped, address, Some(reason.clone())),
            }
        }
        Observed::Absent => (MemberState::Stopped, None, Some("it does not exist".to_owned())),
        Observed::Unknown { reason } => (MemberState::Unknown, None, Some(reason.clone())),
    };
    Seen { state, address, detail, restarted }
}
