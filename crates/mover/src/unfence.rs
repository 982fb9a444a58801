//! The end of a tenant's fence: nothing of Berth stays behind in a database that no longer needs it.
//!
//! What the fence knew of tokens goes with it, so a worker that was taken for dead is not refused by it any more: it has
//! to be kept from making the fence anew, closed, around a tenant that lives here. Whoever makes fences connects, then
//! finds its token to be the control row's last, and works over that connection only. Whoever takes them away raises the
//! token, then ends such connections, and works over one that was there before: what makes a fence ends that in turn.
//! Of two, one always comes to know of the other.

use crate::cutover::take;
use crate::fence::{self, Fence};
use crate::prepare::existing;
use crate::sql::{Doing, connect};
use crate::{MoveError, MovePlan, MoveSpec, Ownership, Side};
use berth_domain::MovePhase;
use std::time::Duration;
use tokio_postgres::Client;

/// Takes the tenant's fence away from one side of `spec`, if nobody moves it. Returns whether there was one to take
/// away; a move that has begun meanwhile needs it, and that is no error. Safe to run again.
///
/// `plan` names the tables. The caller has made sure that no way back needs the fence.
///
/// # Errors
/// [`MoveError::LivesElsewhere`] where the tenant does not live and its rows are still fenced.
pub async fn unfence(
    spec: &MoveSpec,
    side: Side,
    plan: &MovePlan,
    ownership: &dyn Ownership,
) -> Result<bool, MoveError> {
    let (endpoint, cell) = match side {
        Side::Source => (&spec.source, spec.source_cell),
        Side::Target => (&spec.target, spec.target_cell),
    };
    let mut client = connect(endpoint, side, &spec.unfencing()).await?;
    let Some(fence) = existing(&client, side, spec).await? else { return Ok(false) };
    // Read first: the token of a move under way is not to be overtaken.
    let row = ownership.read().await.ok_or(MoveError::ControlSilent)?;
    if row.phase != MovePhase::Idle {
        return Ok(false);
    }
    let row = take(ownership).await?;
    if row.phase != MovePhase::Idle {
        return Ok(false);
    }
    fence::end_older_sessions(&client, side, &spec.fencing_prefix()).await?;
    if row.owner != cell && has_triggers(&client, &fence).await? {
        return Err(MoveError::LivesElsewhere);
    }
    fence.register(&client, row.token).await?;
    let tables: Vec<_> = plan.tables.iter().map(|t| t.table.clone()).collect();
    fence.remove_triggers(&client, &tables, Duration::from_millis(spec.tuning.lock_wait_ms)).await?;
    fence::remove(&mut client, &fence).await?;
    Ok(true)
}

async fn has_triggers(client: &Client, fence: &Fence) -> Result<bool, MoveError> {
    let sql = "select exists (select from pg_trigger where tgname like $1)";
    let row = client.query_one(sql, &[&format!("berth\\_{}\\_%", fence.number)]).await;
    Ok(row.doing(fence.side, "looking at the fence's triggers")?.get(0))
}
