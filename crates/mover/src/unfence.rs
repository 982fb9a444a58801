//! The end of a tenant's fence. Where the tenant lives its triggers go and its row stays, open: what it knows of owner,
//! generation and token refuses who comes late, and says where the tenant is when a control database comes back from an
//! old backup. Where nothing of the tenant is left the row goes too, and with the last one everything of Berth.
//!
//! What a fence knew of tokens goes with its row, so a worker that was taken for dead has to be kept from making it anew
//! by other means. Whoever makes fences connects, then finds its token to be the control row's last, and works over that
//! connection only. Whoever takes a row away raises the token, then ends such connections, and works over one that was
//! there before: what makes a fence ends that in turn. Of two, one always comes to know of the other.

use crate::cutover::take;
use crate::fence::{self, Fence};
use crate::prepare::existing;
use crate::sql::connect;
use crate::{Endpoint, MoveError, MoveSpec, Ownership, Side};
use berth_domain::{CellId, MovePhase};
use std::time::Duration;
use tokio_postgres::Client;

/// Takes the triggers of the tenant's fence away where it lives. Returns whether there were any that nobody needs: a move
/// that has begun meanwhile does, and so does a way back that leads out of this cell, which the caller asks for.
/// Nothing is done on a side where the tenant does not live. Safe to run again.
pub async fn disarm(spec: &MoveSpec, side: Side, ownership: &dyn Ownership) -> Result<bool, MoveError> {
    let (endpoint, cell) = end_of(spec, side);
    let Some((client, fence, _)) = idle(spec, endpoint, side, ownership, |owner| owner == cell).await? else {
        return Ok(false);
    };
    fence.remove_triggers(&client, lock_wait(spec)).await
}

/// Takes the whole fence away from one side of `spec`. Returns whether there was one that nobody needs; where the tenant
/// does not live its rows need it, for as long as its triggers are there. Safe to run again.
pub async fn unfence(spec: &MoveSpec, side: Side, ownership: &dyn Ownership) -> Result<bool, MoveError> {
    let (endpoint, cell) = end_of(spec, side);
    let Some((mut client, fence, owner)) = idle(spec, endpoint, side, ownership, |_| true).await? else {
        return Ok(false);
    };
    if owner != cell && fence.has_triggers(&client).await? {
        return Ok(false);
    }
    if !fence::end_older_sessions(&client, side, &spec.fencing_prefix()).await? {
        return Err(MoveError::Silent { side, seconds: fence::END_LIMIT.as_secs() });
    }
    fence.remove_triggers(&client, lock_wait(spec)).await?;
    fence::remove(&mut client, &fence).await?;
    Ok(true)
}

fn end_of(spec: &MoveSpec, side: Side) -> (&Endpoint, CellId) {
    match side {
        Side::Source => (&spec.source, spec.source_cell),
        Side::Target => (&spec.target, spec.target_cell),
    }
}

fn lock_wait(spec: &MoveSpec) -> Duration {
    Duration::from_millis(spec.tuning.lock_wait_ms)
}

/// A session, the fence under the highest token, and the owner; none while somebody moves the tenant.
async fn idle(
    spec: &MoveSpec,
    endpoint: &Endpoint,
    side: Side,
    ownership: &dyn Ownership,
    concerns: impl Fn(CellId) -> bool + Send,
) -> Result<Option<(Client, Fence, CellId)>, MoveError> {
    let client = connect(endpoint, side, &spec.unfencing()).await?;
    let Some(fence) = existing(&client, side, spec).await? else { return Ok(None) };
    // Read first: the token of a move under way is not to be overtaken.
    let row = ownership.read().await.ok_or(MoveError::ControlSilent)?;
    if row.phase != MovePhase::Idle || !concerns(row.owner) {
        return Ok(None);
    }
    let row = take(ownership).await?;
    if row.phase != MovePhase::Idle || !concerns(row.owner) {
        return Ok(None);
    }
    fence.register(&client, row.token).await?;
    Ok(Some((client, fence, row.owner)))
}
