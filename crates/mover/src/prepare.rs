//! Puts up what a move needs on both sides, and takes away what nobody needs afterwards.
//!
//! Takes no lock that a neighbour waits for longer than the tuning says.

use crate::fence::{self, Fence, Firing, Gate};
use crate::leaving::{BATCH_ROWS, deletion};
use crate::sql::{Doing, connect, connect_both, idents, literal};
use crate::{Control, MoveError, MovePlan, MoveSpec, Ownership, Side, fence_rows, rights, schema_watch, wal};
use berth_domain::Token;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Transaction, error::SqlState};

/// Both fences, as far as a worker needs them.
pub(crate) struct Fences {
    pub source: Fence,
    pub target: Fence,
}

/// Sessions in which a worker makes the tenant's fences, and looks after them.
pub(crate) struct Sessions {
    pub source: Client,
    pub target: Client,
}

impl Sessions {
    /// Named unlike the move's working sessions, so that a worker does not end its own.
    pub async fn connect(spec: &MoveSpec, token: Token) -> Result<Self, MoveError> {
        let name = format!("{}{token}", spec.fencing_prefix());
        let (source, target) = connect_both(spec, &name).await?;
        Ok(Self { source, target })
    }

    /// Finds or makes the fences: open in the source, closed in the target. Registers the token in both, after which
    /// nothing an earlier worker still sends gets through, and ends the earlier worker's sessions.
    ///
    /// The control row is looked at here, when the sessions are there already: see [`crate::unfence`].
    pub async fn fences(
        &mut self,
        spec: &MoveSpec,
        ownership: &dyn Ownership,
        row: Control,
    ) -> Result<Fences, MoveError> {
        let Self { source, target } = self;
        let now = ownership.read().await.ok_or(MoveError::ControlSilent)?;
        if now.token != row.token {
            return Err(MoveError::Fenced { side: Side::Source, held: row.token });
        }
        for (client, side) in [(&*source, Side::Source), (&*target, Side::Target)] {
            fence::end_older_sessions(client, side, &spec.unfencing()).await?;
        }
        let (generation, token) = (row.generation, row.token);
        // Whose token is too old learns it in the source, before it ends the sessions of whoever came after. Those end
        // before the target's row is wanted: one of them may hold it.
        let mut in_source = Fence::ensure(source, Side::Source, &spec.tenant, Gate::Open, generation, token).await;
        if matches!(&in_source, Err(error) if is_locked(error)) {
            // A session that stands still holds the row. Our token was the last a moment ago.
            fence::end_older_sessions(source, Side::Source, &spec.session_prefix()).await?;
            in_source = Fence::ensure(source, Side::Source, &spec.tenant, Gate::Open, generation, token).await;
        }
        let in_source = in_source?;
        in_source.register(source, token).await?;
        fence::end_older_sessions(source, Side::Source, &spec.session_prefix()).await?;
        fence::end_older_sessions(target, Side::Target, &spec.session_prefix()).await?;
        let in_target = Fence::ensure(target, Side::Target, &spec.tenant, Gate::Closed, generation, token).await?;
        in_target.register(target, token).await?;
        Ok(Fences { source: in_source, target: in_target })
    }
}

/// Fence rows and triggers, the watch for schema changes, the publication. `row`: as [`crate::begin`] returned it. Safe
/// to run again.
pub async fn prepare(
    spec: &MoveSpec,
    plan: &MovePlan,
    row: Control,
    ownership: &dyn Ownership,
) -> Result<(), MoveError> {
    let mut sessions = Sessions::connect(spec, row.token).await?;
    let fences = sessions.fences(spec, ownership, row).await?;
    let Sessions { source, target } = sessions;
    let lock_wait = Duration::from_millis(spec.tuning.lock_wait_ms);
    schema_watch::install(&source).await?;
    fences.source.ensure_triggers(&source, plan, lock_wait, Firing::Always).await?;
    // Before the first row arrives: a worker of the target that polls a table of jobs sees them when they are copied, and
    // would do the work that the source still does.
    fences.target.ensure_triggers(&target, plan, lock_wait, Firing::ButForTheMover).await?;
    publish(spec, plan, &source, Side::Source).await
}

/// The publication that the stream of `spec` reads, in its source. Before its slot: what a slot decodes it publishes.
pub(crate) async fn publish(spec: &MoveSpec, plan: &MovePlan, client: &Client, side: Side) -> Result<(), MoveError> {
    let tenants = plan.tables.iter().map(|t| t.table.sql());
    let tables: Vec<String> = tenants.chain(plan.shared.iter().map(|t| t.table.sql())).collect();
    let made = client
        .batch_execute(&format!(
            "create publication {} for table {} with (publish_via_partition_root = true)",
            idents(&[spec.publication()]),
            tables.join(", ")
        ))
        .await;
    match made {
        Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => Ok(()),
        other => other.doing(side, "making the publication"),
    }
}

/// After the cut-over, or after giving up: slot, publication and bookkeeping of this move go. The source's fence
/// stays closed for as long as it holds the tenant's rows. `token`: the one under which the move ended.
pub async fn retire(spec: &MoveSpec, plan: &MovePlan, moved: bool, token: Token) -> Result<(), MoveError> {
    let source = connect(&spec.source, Side::Source, "berth-retire").await?;
    fence::end_older_sessions(&source, Side::Source, &spec.session_prefix()).await?;
    wal::drop_slot(&source, &spec.slot()).await?;
    source
        .batch_execute(&format!("drop publication if exists {}", idents(&[spec.publication()])))
        .await
        .doing(Side::Source, "dropping the publication")?;
    source
        .batch_execute(&format!("delete from berth.deferred where move = {}", literal(&spec.short_id())))
        .await
        .doing(Side::Source, "clearing the bookkeeping")
        .or_else(absent)?;
    if moved {
        if !plan.shared.is_empty() {
            let target = connect(&spec.target, Side::Target, "berth-retire").await?;
            crate::shared::forget(spec, &target).await.or_else(absent)?;
        }
        return Ok(());
    }
    crate::back::close_way_back(spec).await?;
    let lock_wait = Duration::from_millis(spec.tuning.lock_wait_ms);
    if let Some(fence) = existing(&source, Side::Source, spec).await? {
        fence.remove_triggers(&source, lock_wait).await?;
    }
    let mut target = connect(&spec.target, Side::Target, "berth-retire").await?;
    // What another login brought goes past its fence.
    let_through(&mut target, Side::Target).await?;
    // Without a fence nothing was copied: its row comes first.
    let Some(fence) = existing(&target, Side::Target, spec).await? else { return Ok(()) };
    fence.register(&target, token).await?;
    fence::end_older_sessions(&target, Side::Target, &spec.session_prefix()).await?;
    clear_target(spec, plan, &mut target, token).await?;
    Box::pin(crate::beside::clear_target(spec, plan, &mut target, token)).await?;
    crate::bare::build_on(spec, &target).await?;
    fence.remove_triggers(&target, lock_wait).await.map(drop)
}

/// Holds the target's fence row as it is, closed and not taken by a later worker, until the transaction at hand ends.
/// Whatever changes the target outside of its fence goes through here: a killed worker's statement goes on in the
/// server and speaks later, when the tenant may live there.
pub(crate) async fn hold_closed(
    spec: &MoveSpec,
    target: &impl tokio_postgres::GenericClient,
    token: Token,
) -> Result<(), MoveError> {
    let ours = target
        .query_opt(
            "select from berth.fence where tenant = $1 and state = 'closed' and token <= $2 for share",
            &[&spec.tenant.as_str(), &token.as_i64()],
        )
        .await
        .doing(Side::Target, "holding the target's fence")?;
    ours.map(drop).ok_or(MoveError::Fenced { side: Side::Target, held: token })
}

/// The tenant's rows leave the target, which does not own them.
///
/// That it does not is looked at again here, under the fence row's lock and in the same transaction: whoever is
/// mistaken about a move must not be able to take a tenant's only rows away.
pub(crate) async fn clear_target(
    spec: &MoveSpec,
    plan: &MovePlan,
    target: &mut Client,
    token: Token,
) -> Result<(), MoveError> {
    let bare = crate::bare::tables_taken_bare(spec, target).await?;
    if !fence::is_installed(target, Side::Target).await? {
        return Ok(());
    }
    if !spec.alone && !clear_in_batches(spec, plan, target, token).await? {
        return Ok(());
    }
    let Some(tx) = clearing(spec, target, token).await? else { return Ok(()) };
    // Whose a row is, its parent's row says, which therefore goes last.
    for table in plan.tables.iter().rev() {
        let name = table.table.sql();
        // Without keys a deletion is slow and leaves the dead rows behind; the table holds nothing else.
        let sql = if spec.alone && bare.contains(&name) {
            format!("truncate {name}")
        } else {
            format!("delete from {name} where {}", plan.filter(table, &spec.tenant))
        };
        tx.batch_execute(&sql).await.doing(Side::Target, CLEARING)?;
    }
    if !plan.shared.is_empty() {
        crate::shared::take_back(spec, plan, &tx).await?;
    }
    tx.commit().await.doing(Side::Target, CLEARING)
}

const CLEARING: &str = "clearing the target";

/// A transaction in which the tenant's rows may leave the target; none where it has no fence, for without one nothing was
/// copied: whatever is there is not of this move.
async fn clearing<'c>(
    spec: &MoveSpec,
    target: &'c mut Client,
    token: Token,
) -> Result<Option<Transaction<'c>>, MoveError> {
    let tx = target.transaction().await.doing(Side::Target, CLEARING)?;
    let row = tx
        .query_opt("select state, token from berth.fence where tenant = $1 for update", &[&spec.tenant.as_str()])
        .await
        .doing(Side::Target, CLEARING)?;
    match row.map(|row| (row.get::<_, String>(0) == "open", Token::from_i64(row.get(1)))) {
        Some((true, _)) => return Err(MoveError::AlreadyMoved),
        Some((false, seen)) if seen > token => return Err(MoveError::Fenced { side: Side::Target, held: token }),
        Some((false, _)) => {}
        None => return Ok(None),
    }
    // The fence's row is held meanwhile: whoever takes the move up must not wait for a worker that stands still.
    tx.batch_execute(
        "set local session_replication_role = replica; set local lock_timeout = '5s';
         set local idle_in_transaction_session_timeout = '5s'",
    )
    .await
    .doing(Side::Target, CLEARING)?;
    Ok(Some(tx))
}

/// Where others live, rows go a few at a time, and it is as long idle as busy. Each batch looks at the fence's row anew:
/// what a worker that was taken for dead has not deleted by then it does not delete. False where there is no fence.
async fn clear_in_batches(
    spec: &MoveSpec,
    plan: &MovePlan,
    target: &mut Client,
    token: Token,
) -> Result<bool, MoveError> {
    for table in plan.tables.iter().rev() {
        let sql = deletion(table, &plan.filter(table, &spec.tenant));
        loop {
            let began = Instant::now();
            let Some(tx) = clearing(spec, target, token).await? else { return Ok(false) };
            let gone = tx.execute(&sql, &[]).await.doing(Side::Target, CLEARING)?;
            // Of an empty table nothing is waited for until it is on the disk.
            let ended = if gone == 0 { tx.rollback().await } else { tx.commit().await };
            ended.doing(Side::Target, CLEARING)?;
            if gone < u64::from(BATCH_ROWS) {
                break;
            }
            tokio::time::sleep(began.elapsed()).await;
        }
    }
    Ok(true)
}

/// Fences outlive the login that put them up, and let that one through: another one takes its place here, with the rights of whom
/// they belong to.
pub(crate) async fn let_through(client: &mut Client, side: Side) -> Result<(), MoveError> {
    let sql = format!("select {}", fence_rows::IS_ANOTHERS);
    if !client.query_one(&sql, &[]).await.doing(side, "reading the fence")?.get::<_, bool>(0) {
        return Ok(());
    }
    let lacking = rights::on_earlier(client, side, "berth").await?;
    if !lacking.is_empty() {
        return Err(MoveError::Obstacles(lacking));
    }
    fence::install(client, side).await
}

pub(crate) async fn existing(client: &Client, side: Side, spec: &MoveSpec) -> Result<Option<Fence>, MoveError> {
    if !fence::is_installed(client, side).await? {
        return Ok(None);
    }
    Fence::find(client, side, &spec.tenant).await
}

fn is_locked(error: &MoveError) -> bool {
    matches!(error, MoveError::Statement { source, .. } if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
}

fn absent(error: MoveError) -> Result<(), MoveError> {
    match &error {
        MoveError::Statement { source, .. }
            if source.code() == Some(&SqlState::UNDEFINED_TABLE)
                || source.code() == Some(&SqlState::INVALID_SCHEMA_NAME) =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}
