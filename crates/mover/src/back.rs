//! The way back: after the cut-over the old side is kept up to date from the new one, so that a move can be undone
//! without losing a write; and its end, when the old side's rows go for good.
//!
//! The slot is made before the pause, because making one waits for every transaction of the cluster. What the mover
//! itself brought into the target stands in that slot's stream too; the marker of the opening ends it, because until
//! then the target's fence is closed and nobody but the mover writes the tenant's rows there.
//!
//! Undoing a move is [`crate::cut_over`] of [`MoveSpec::back`].

use crate::erase::{ROUNDS, counted};
use crate::follow::{Follower, Tracking};
use crate::leaving::{Leaving, delete_rows};
use crate::outside::{self, Which};
use crate::prepare::{existing, let_through, publish};
use crate::sql::{Doing, connect, idents};
use crate::survey::{Stray, count_strays};
use crate::wal::{Replication, Snapshot, drop_slot, make_slot};
use crate::{
    MoveError, MovePlan, MoveSpec, Ownership, Phase, PlannedTable, Progress, Side, Watcher, fence, schema_watch,
    sequence,
};
use berth_domain::{MovePhase, Token};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The application's triggers fire on what is deleted, and may name tables without their schema.
pub(crate) const APPLICATIONS_PATH: &str = "set local search_path = \"$user\", public";
/// How often what the way back holds back is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// At how many of these looks the sequences are held apart.
const APART_LOOKS: u32 = 20;

/// After the load: publication and slot in the target. From here on its WAL is held back until [`keep`] reads it.
pub(crate) async fn open(spec: &MoveSpec, plan: &MovePlan, target: &Client, token: Token) -> Result<(), MoveError> {
    let back = spec.back();
    let source = connect(&spec.source, Side::Source, &spec.session_name(token)).await?;
    // First, and by token: a worker that was taken for dead must not make another slot when this one is in use.
    let ours = source
        .execute(
            "update berth.fence set applied = '0/0' where tenant = $1 and token <= $2 and state = 'open'",
            &[&spec.tenant.as_str(), &token.as_i64()],
        )
        .await
        .doing(Side::Source, "preparing the way back")?;
    if ours != 1 {
        return Err(MoveError::Fenced { side: Side::Source, held: token });
    }
    schema_watch::install(target).await?;
    publish(&back, plan, target, Side::Target).await?;
    drop_slot(target, &back.slot()).await?;
    let mut maker = Replication::connect(&back.source, &spec.session_name(token)).await?;
    make_slot(&mut maker, &back.slot(), Snapshot::Nothing, spec.tuning.slot_wait(), target).await.map(drop)
}

/// Keeps the old side up to date until `watcher` cancels; `spec` is the move's own. Ends with an error when the stream
/// does; the next call goes on where this one stopped. Never acts while a worker moves the tenant.
///
/// A way back that holds back too much ends with [`MoveError::WayBackOver`], also where nothing else can be done: that is
/// looked at before the old side is spoken to, and beside everything that is done with it. One whose old side has a row in the
/// way, as a neighbour's with the same key, ends with [`MoveError::WayBackBarred`].
pub async fn keep(
    spec: &MoveSpec,
    plan: &MovePlan,
    ownership: &dyn Ownership,
    watcher: &dyn Watcher,
) -> Result<(), MoveError> {
    let back = spec.back();
    let row = ownership.read().await.ok_or(MoveError::ControlSilent)?;
    if row.phase != MovePhase::Idle || row.owner != spec.target_cell {
        return Err(MoveError::Fenced { side: Side::Target, held: row.token });
    }
    let new_side = connect(&back.source, Side::Source, &back.session_name(row.token)).await?;
    held_back(&new_side, &back).await?;
    tokio::select! {
        ended = follow(&back, plan, row.token, &new_side, watcher) => ended,
        error = look(&new_side, &back, watcher) => Err(error),
    }
}

async fn follow(
    back: &MoveSpec,
    plan: &MovePlan,
    token: Token,
    new_side: &Client,
    watcher: &dyn Watcher,
) -> Result<(), MoveError> {
    let mut old_side = connect(&back.target, Side::Target, &back.session_name(token)).await?;
    let_through(&mut old_side, Side::Target).await?;
    let fence = existing(&old_side, Side::Target, back).await?;
    let fence = fence.ok_or(MoveError::Fenced { side: Side::Target, held: token })?;
    // Before the first row comes back: those who stayed get no number that it may have.
    keep_apart(back, plan, &old_side, new_side).await;
    let follower = Follower::start(back, plan, &fence, token, Tracking::Off).await?;
    for looks in 1_u32.. {
        if watcher.cancelled() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        follower.check()?;
        if looks.is_multiple_of(APART_LOOKS) {
            keep_apart(back, plan, &old_side, new_side).await;
        }
    }
    Ok(())
}

/// A sequence that cannot be looked at is no reason to leave the stream unread: what that holds back ends the way back.
async fn keep_apart(back: &MoveSpec, plan: &MovePlan, old_side: &Client, new_side: &Client) {
    if let Err(error) = sequence::keep_apart(back, old_side, new_side, plan).await {
        let id = back.id;
        tracing::warn!(%id, error = &error as &dyn std::error::Error, "the sequences of move {id} are not held apart: {error}");
    }
}

/// Says how far the old side is behind, until too much is held back for it.
async fn look(new_side: &Client, back: &MoveSpec, watcher: &dyn Watcher) -> MoveError {
    loop {
        match held_back(new_side, back).await {
            Ok(behind) => watcher.progress(Progress { bytes_behind: Some(behind), ..Progress::of(Phase::Keep) }),
            Err(error) => return error,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Bytes of WAL that the old side has not confirmed. Fails when the slot keeps too many in the server: those from where
/// decoding would begin again, which may be far before what was confirmed.
async fn held_back(client: &Client, back: &MoveSpec) -> Result<u64, MoveError> {
    let row = client
        .query_opt(
            "select wal_status = 'lost' or restart_lsn is null,
                    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint,
                    coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
             from pg_replication_slots where slot_name = $1",
            &[&back.slot()],
        )
        .await
        .doing(Side::Source, "looking at the slot")?;
    let (behind, held) = match row {
        Some(row) if !row.get::<_, bool>(0) => {
            (row.get::<_, i64>(1).unsigned_abs(), row.get::<_, i64>(2).unsigned_abs())
        }
        _ => return Err(MoveError::SlotLost { slot: back.slot() }),
    };
    let most = back.tuning.way_back_wal_bytes;
    if held > most {
        return Err(MoveError::WayBackOver { held_mb: held >> 20, most_mb: most >> 20 });
    }
    Ok(behind)
}

/// The slot and the publication of the way back go: the move cannot be undone any more. Safe to run again.
pub async fn close_way_back(spec: &MoveSpec) -> Result<(), MoveError> {
    let back = spec.back();
    let client = connect(&back.source, Side::Target, "berth-close").await?;
    drop_slot(&client, &back.slot()).await?;
    client
        .batch_execute(&format!("drop publication if exists {}", idents(&[back.publication()])))
        .await
        .doing(Side::Target, "dropping the publication")
}

/// Takes the tenant's rows away from the source of `spec`, which it has left for good, and the fence after them.
/// Returns how many rows went. Foreign keys are enforced meanwhile, the application's own triggers fire.
///
/// That the tenant does not live there is looked at in the control row, and again under the fence in every
/// transaction that deletes.
pub async fn release(
    spec: &MoveSpec,
    plan: &MovePlan,
    ownership: &dyn Ownership,
    watcher: &dyn Watcher,
) -> Result<u64, MoveError> {
    // Read and not taken: a worker that moves the tenant elsewhere meanwhile is not to be overtaken. Should it move the
    // tenant here, its token is higher, and the deletions below are refused.
    let row = ownership.read().await.ok_or(MoveError::ControlSilent)?;
    if row.owner == spec.source_cell || row.target == Some(spec.source_cell) {
        return Err(MoveError::LivesThere);
    }
    let mut client = connect(&spec.source, Side::Source, "berth-release").await?;
    let_through(&mut client, Side::Source).await?;
    let Some(fence) = existing(&client, Side::Source, spec).await? else { return Ok(0) };
    fence.register(&client, row.token).await?;
    let left = spec.back();
    // A reference from another tenant's row would take that along, or stand in the way for ever.
    for reference in &plan.inner {
        let rows = count_strays(spec, plan, reference, Stray::Others, &client, Side::Source).await?;
        if rows > 0 {
            let (table, to) = (reference.table.clone(), reference.to.clone());
            return Err(MoveError::ReferredTo { table, to, rows });
        }
    }
    // What is to stay must not be taken along, or changed, by a deletion that cascades.
    outside::refuse(spec, plan, &client, Which::Every).await?;
    let order = children_first(&client, plan).await?;
    let leaving = Leaving { left: &left, guard: Some(row.token) };
    let (mut gone, mut rounds) = (0, 0);
    loop {
        let began = Instant::now();
        let went = delete_rows(&leaving, plan, &order, &mut client, watcher).await?;
        gone += went;
        // The application's triggers may write rows of the tenant while others go, or keep some. Without a fence they would
        // be anybody's to change.
        let still = counted(spec, plan, &client).await?;
        let Some(first) = still.first() else { break };
        rounds += 1;
        if rounds == ROUNDS || went == 0 {
            return Err(MoveError::RowsStay { table: first.table.clone(), rows: first.rows });
        }
        // As long idle as busy, as between the batches.
        tokio::time::sleep(began.elapsed()).await;
    }
    Box::pin(crate::beside::clear_target(&left, plan, &mut client, row.token)).await?;
    fence.remove_triggers(&client, Duration::from_millis(spec.tuning.lock_wait_ms)).await?;
    fence::remove(&mut client, &fence).await?;
    Ok(gone)
}

/// Tables in an order in which no row takes others along (`on delete cascade`) or is held by them. Those that refer to
/// each other in a circle come last, against the order in which they are planned.
pub(crate) async fn children_first<'p>(
    client: &Client,
    plan: &'p MovePlan,
) -> Result<Vec<&'p PlannedTable>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = client
        .query(
            "with t as (select to_regclass(name)::oid as oid, nth::int from unnest($1::text[]) with ordinality u(name, nth))
             select distinct child.nth - 1, parent.nth - 1 from pg_constraint c
             join t child on child.oid = c.conrelid join t parent on parent.oid = c.confrelid
             where c.contype = 'f' and child.nth <> parent.nth",
            &[&names],
        )
        .await
        .doing(Side::Source, "looking at foreign keys")?;
    let mut refers: Vec<(i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    // Whose a row is, its parent's row says, with a foreign key or without.
    for (nth, table) in plan.tables.iter().enumerate() {
        let parents = table.through.iter().filter_map(|link| plan.tables.iter().position(|t| t.table == link.to));
        refers.extend(parents.map(|parent| (nth as i32, parent as i32)));
    }
    let mut left: Vec<usize> = (0..plan.tables.len()).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let held = |n: &usize| {
            refers.iter().any(|(child, parent)| *parent as usize == *n && left.contains(&(*child as usize)))
        };
        let (stay, go): (Vec<usize>, Vec<usize>) = left.iter().partition(|n| held(n));
        if go.is_empty() {
            order.extend(stay.into_iter().rev());
            break;
        }
        order.extend(go);
        left = stay;
    }
    Ok(order.into_iter().map(|n| &plan.tables[n]).collect())
}
