//! Loops that keep true what should stay true. They take no input, change only what differs, and run on one server at
//! a time: two that share a database share the work by leases.

mod certificates;
mod held_logs;
mod images;
mod judging;
mod looking;
mod members;
mod months;
mod purging;
mod releasing;
mod scaling;
mod settings;
mod sweep;
mod ways_back;

use crate::{App, ControlError};
use async_trait::async_trait;
use berth_domain::MemberState;
use berth_infra::{Health, Member, Observed};
use berth_store::Seen;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

/// How long after a server's death another one takes its loops up.
const LEASE: Duration = Duration::from_secs(5);
/// One thing that is kept true.
#[async_trait]
trait Loop: Send {
    /// Also the name of its lease.
    const NAME: &'static str;
    const PAUSE: Duration;
    async fn round(&mut self, app: &App) -> Result<(), ControlError>;
}

/// Every loop of one server.
pub async fn run(app: &App, shutdown: watch::Receiver<bool>) {
    tokio::join!(
        keep(app, members::Members::default(), shutdown.clone()),
        keep(app, certificates::Certificates::default(), shutdown.clone()),
        keep(app, held_logs::HeldLogs, shutdown.clone()),
        keep(app, images::Images::default(), shutdown.clone()),
        keep(app, months::Months, shutdown.clone()),
        keep(app, judging::Judging::default(), shutdown.clone()),
        keep(app, looking::Looking::default(), shutdown.clone()),
        keep(app, purging::Purging::default(), shutdown.clone()),
        keep(app, releasing::Releasing, shutdown.clone()),
        keep(app, scaling::Scaling::default(), shutdown.clone()),
        keep(app, settings::Settings::default(), shutdown.clone()),
        keep(app, sweep::Sweep::default(), shutdown.clone()),
        keep(app, ways_back::WaysBack::default(), shutdown)
    );
}

/// One round of what brings a release to its cells.
pub(crate) async fn release_round(app: &App) -> Result<(), ControlError> {
    releasing::Releasing.round(app).await
}

async fn keep<L: Loop>(app: &App, mut work: L, mut shutdown: watch::Receiver<bool>) {
    let name = L::NAME;
    let mut failing = false;
    loop {
        // A round may wait for others for long; what it has not done is found by the next one, here or elsewhere.
        let done = tokio::select! {
            done = turn(app, &mut work) => done,
            () = told(&mut shutdown) => Ok(()),
        };
        match done {
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
        if stops(&mut shutdown, L::PAUSE).await {
            // Left to run out where the database does not answer.
            app.store().lease_release(name, app.server()).await.ok();
            return;
        }
    }
}

async fn turn<L: Loop>(app: &App, work: &mut L) -> Result<(), ControlError> {
    let lasts = LEASE.max(L::PAUSE * 2);
    let lease = app.store().lease_take(L::NAME, app.server(), lasts).await?;
    // Behind the world nothing is started or ended: what this database wants may be long out of date.
    if lease.is_none() || app.store().world_ahead_any().await? {
        return Ok(());
    }
    // Both are driven on: a round may hold the connections that a renewal waits for.
    tokio::select! {
        done = work.round(app) => done,
        () = renewing::<L>(app, lasts) => Ok(()),
    }
}

/// Keeps the lease as long as a round lasts; never ends. One that cannot be renewed runs out, as it does with a server.
async fn renewing<L: Loop>(app: &App, lasts: Duration) {
    loop {
        tokio::time::sleep(lasts / 3).await;
        app.store().lease_take(L::NAME, app.server(), lasts).await.ok();
    }
}

/// Returns when the server stops.
async fn told(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone is a server that is gone.
    shutdown.wait_for(|stop| *stop).await.ok();
}

/// Whether the server stops within this pause.
async fn stops(shutdown: &mut watch::Receiver<bool>, pause: Duration) -> bool {
    tokio::time::timeout(pause, told(shutdown)).await.is_ok()
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

#[cfg(test)]
mod tests {
    use super::{LEASE, Loop, keep};
    use crate::{App, ControlError};
    use async_trait::async_trait;
    use berth_config::Environment;
    use berth_infra::{ProviderError, Role};
    use berth_store::{Sealer, Store};
    use berth_testkit::{TestDatabase, wait_until};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::{Duration, Instant},
    };
    use tokio::sync::watch;
    use uuid::Uuid;

    /// A round that never ends by itself.
    struct Slow {
        begun: Arc<AtomicU32>,
    }

    #[async_trait]
    impl Loop for Slow {
        const NAME: &'static str = "slow";
        const PAUSE: Duration = Duration::from_millis(50);
        async fn round(&mut self, _app: &App) -> Result<(), ControlError> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_round_that_outlasts_its_lease_keeps_it_and_a_stopped_server_gives_it_up() {
        let control = TestDatabase::new().await;
        let store = Store::open(&control.url(Role::Owner), Sealer::ephemeral(), 4).await.unwrap();
        let no_archives = |_: Option<&berth_config::Archives>, _: &Environment| {
            Err::<berth_mover::Archives, _>(ProviderError::Absent { what: "archive".to_owned() })
        };
        let app = App::new(store.clone(), Environment::default(), Box::new(|_, _| None), Box::new(no_archives));
        let begun = Arc::new(AtomicU32::new(0));
        let work = Slow { begun: Arc::clone(&begun) };
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(async move { keep(&app, work, stopped).await });
        wait_until("the round begins", async || begun.load(Ordering::Relaxed), |rounds| *rounds == 1).await;
        let (began, other) = (Instant::now(), Uuid::now_v7());
        while began.elapsed() < LEASE + Duration::from_secs(2) {
            assert!(store.lease_take("slow", other, LEASE).await.unwrap().is_none(), "two servers at one loop");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.send_replace(true);
        let stopped = tokio::time::timeout(Duration::from_secs(2), server).await;
        stopped.expect("a round is not waited for").unwrap();
        assert!(
            store.lease_take("slow", other, LEASE).await.unwrap().is_some(),
            "it was given up, not left to run out"
        );
    }
}
