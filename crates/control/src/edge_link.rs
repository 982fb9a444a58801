//! Waiting for edges outside of a move: after a suspension, a deletion, a first route.

use crate::{App, ControlError};
use berth_domain::{EdgeName, Revision, TenantId};
use berth_store::{Edge, Nudge};
use std::time::Duration;
use tokio::{sync::broadcast::error::RecvError, time::Instant};

/// An edge that has been silent for longer is not waited for: it answers a ping every five seconds.
pub(crate) const SILENT_MS: i64 = 12_000;

/// Returns when every live edge has the tenant's present route, or when `limit` is over: then with those who have not.
pub(crate) async fn await_routed(app: &App, tenant: TenantId, limit: Duration) -> Result<Vec<EdgeName>, ControlError> {
    let Some(wanted) = app.store().route_revision(tenant).await? else { return Ok(Vec::new()) };
    follow(app, wanted, limit, |edge| edge.silent_ms <= SILENT_MS).await
}

/// The same for everything that was published up to this revision, and for silent edges too, until the sweep forgets
/// them: one that is only cut off from here serves on by what it has.
pub(crate) async fn await_all(app: &App, wanted: Revision, limit: Duration) -> Result<Vec<EdgeName>, ControlError> {
    follow(app, wanted, limit, |_| true).await
}

async fn follow(
    app: &App,
    wanted: Revision,
    limit: Duration,
    counts: impl Fn(&Edge) -> bool,
) -> Result<Vec<EdgeName>, ControlError> {
    let until = Instant::now() + limit;
    // Subscribed before the first look, so that no answer falls between.
    let mut answers = app.store().hub().subscribe();
    loop {
        let edges = app.store().edge_list().await?;
        let late: Vec<EdgeName> =
            edges.into_iter().filter(|edge| edge.acked < wanted && counts(edge)).map(|edge| edge.name).collect();
        if late.is_empty() {
            return Ok(late);
        }
        loop {
            match tokio::time::timeout_at(until, answers.recv()).await {
                Err(_) | Ok(Err(RecvError::Closed)) => return Ok(late),
                Ok(Ok(Nudge::Acked(_) | Nudge::Missed) | Err(RecvError::Lagged(_))) => break,
                Ok(Ok(Nudge::Routes(_) | Nudge::Operation(_) | Nudge::Settings | Nudge::Challenges)) => {}
            }
        }
    }
}

/// Edges that have not been heard of for so long that nobody waits for them.
pub(crate) async fn silent(app: &App) -> Result<Vec<EdgeName>, ControlError> {
    let edges = app.store().edge_list().await?.into_iter();
    Ok(edges.filter(|edge| edge.silent_ms > SILENT_MS).map(|edge| edge.name).collect())
}
