//! Copies the tenant's rows as they were at one moment, from which the change stream goes on.
//!
//! The slot exports that moment's snapshot; the session that made it stays silent until every worker has taken it.
//! A crash here starts the copy again with a new slot.

use crate::fence::{self, Fence};
use crate::lane::{self, Lane};
use crate::pace::{self, Pace};
use crate::prepare::clear_target;
use crate::sql::{Doing, connect, connect_both, connect_to_load};
use crate::wal::{Lsn, Replication, create_slot, drop_slot, held_back};
use crate::{Endpoint, MoveError, MovePlan, MoveSpec, Phase, PlannedTable, Progress, Side, TableName, Watcher, shared};
use berth_domain::Token;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_postgres::Client;

/// How often a copy looks up, and at how many of these whether the sequences are still apart.
const TICK: std::time::Duration = std::time::Duration::from_millis(250);
const JUMP_TICKS: u32 = 40;

/// Of the rows, which come one by one.
const SENT_AT_ONCE: usize = 128 << 10;

/// What the copy brought over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    pub rows: u64,
    pub bytes: u64,
    /// Where the stream goes on.
    pub from: Lsn,
    pub duration_ms: u64,
    /// How long its workers rested for the neighbours, all together.
    #[serde(default)]
    pub rested_ms: u64,
}

/// Copies everything, from scratch: whatever an earlier try left in the target goes first.
pub async fn copy(spec: &MoveSpec, plan: &MovePlan, token: Token, watcher: &dyn Watcher) -> Result<Copied, MoveError> {
    let started = std::time::Instant::now();
    let (source, mut target) = connect_both(spec, &format!("berth-copy-{token}")).await?;
    // A worker that was taken for dead goes no further than this: below it would drop its successor's slot.
    for (client, side) in [(&source, Side::Source), (&target, Side::Target)] {
        let fence = Fence::find(client, side, &spec.tenant).await?;
        let fence = fence.ok_or(MoveError::Fenced { side, held: token })?;
        if side == Side::Target {
            // One of them may hold the row that is written next.
            fence::end_older_sessions(client, side, &spec.session_prefix()).await?;
        }
        fence.register(client, token).await?;
        fence::end_older_sessions(client, side, &spec.session_prefix()).await?;
    }
    drop_slot(&source, &spec.slot()).await?;
    Box::pin(clear_target(spec, plan, &mut target, token)).await?;
    Box::pin(crate::bare::strip(spec, plan, &mut target, token)).await?;
    crate::sequence::jump(spec, &source, &target, plan).await?;

    // Before there is a slot, which would hold the server's log for as long.
    Box::pin(crate::beside::copy(spec, plan)).await?;
    // Before the load: what is usual for the neighbours is how they fare without it.
    let pace = Pace::begin(spec).await?;
    let mut maker = Replication::connect(&spec.source, &spec.session_name(token)).await?;
    let (from, snapshot) = create_slot(&mut maker, &spec.slot(), spec.tuning.slot_wait(), &source).await?;
    crate::stands::note(spec, plan, &source, token).await?;
    let (copied, seen) = watch::channel(BTreeSet::new());
    let work = Work {
        plan: Arc::new(plan.clone()),
        copied,
        tables: Arc::new(Mutex::new(Vec::new())),
        rows: Arc::new(AtomicU64::new(0)),
        bytes: Arc::new(AtomicU64::new(0)),
    };
    let name = spec.session_name(token);
    let lanes = spec.tuning.copy_workers.clamp(1, plan.tables.len().max(1));
    let lanes: Vec<Lane> = std::iter::repeat_with(Lane::new).take(lanes).collect::<Result<_, _>>()?;
    let mut workers = Vec::new();
    for lane in &lanes {
        workers.push(Worker::begin(spec, &name, &snapshot, lane).await?);
    }
    let lane = Lane::new()?;
    let reader = lane.run(connect_under(spec.source.clone(), name, snapshot)).await??;
    spec.ahead.begin(spec, plan, from, (reader, lane), seen);
    // Every worker has the snapshot: its maker may go.
    drop(maker);
    let mut ticks = tokio::time::interval(TICK);
    let mut ticked = 0_u32;
    for tables in phases(plan) {
        *work.tables.lock().unwrap_or_else(PoisonError::into_inner) = tables;
        let mut tasks = tokio::task::JoinSet::new();
        for worker in workers.drain(..) {
            let thread = worker.thread.clone();
            tasks.spawn_on(work.clone().run(worker, pace.worker(), spec.tenant.clone(), token), &thread);
        }
        loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    None => break,
                    Some(Ok(result)) => workers.push(result?),
                    Some(Err(_)) => return Err(lane::panicked()),
                },
                _ = ticks.tick() => {
                    if watcher.cancelled() {
                        return Err(MoveError::Cancelled);
                    }
                    held_back(&source, &spec.slot(), spec.tuning.move_wal_bytes).await?;
                    ticked += 1;
                    if ticked.is_multiple_of(JUMP_TICKS) {
                        crate::sequence::jump(spec, &source, &target, plan).await?;
                    }
                    let rests = pace.rests_permille() / 10;
                    watcher.progress(Progress {
                        rows_done: Some(work.rows.load(Ordering::Relaxed)),
                        rows_total: u64::try_from(plan.rows).ok(),
                        note: (rests > 0).then(|| format!("resting {rests} % of the time for the neighbours")),
                        ..Progress::of(Phase::Copy)
                    });
                }
            }
        }
    }
    if let Some(Worker { reader, .. }) = workers.first()
        && !plan.shared.is_empty()
    {
        let keys = shared::referred(spec, plan, reader, Side::Source).await?;
        let rows = shared::gather(plan, reader, Side::Source, keys).await?;
        shared::bring(spec, plan, &mut target, &rows, token).await?;
    }
    for worker in workers {
        worker.reader.batch_execute("commit").await.doing(Side::Source, "ending the snapshot")?;
    }
    // From here on the cell's position says how far the stream is in it.
    let changed = target
        .execute(
            "update berth.fence set applied = $1::text::pg_lsn where tenant = $2 and state = 'closed' and token <= $3",
            &[&from.to_string(), &spec.tenant.as_str(), &token.as_i64()],
        )
        .await
        .doing(Side::Target, "noting the position")?;
    if changed != 1 {
        return Err(MoveError::Fenced { side: Side::Target, held: token });
    }
    Ok(Copied {
        rows: work.rows.load(Ordering::Relaxed),
        bytes: work.bytes.load(Ordering::Relaxed),
        from,
        duration_ms: started.elapsed().as_millis() as u64,
        rested_ms: pace.rested().as_millis() as u64,
    })
}

/// Tables in the order in which they are copied; of each phase the last, which is the largest, is taken first. Whose a
/// row is, its parent's row says: a copy that stops half way must leave nothing of which nobody knows whose it is.
fn phases(plan: &MovePlan) -> Vec<Vec<PlannedTable>> {
    let mut phases: Vec<Vec<PlannedTable>> = Vec::new();
    let mut placed: HashMap<&TableName, usize> = HashMap::new();
    for table in &plan.tables {
        let after = table.through.iter().filter_map(|link| placed.get(&link.to)).max().map_or(0, |phase| phase + 1);
        placed.insert(&table.table, after);
        if phases.len() <= after {
            phases.resize_with(after + 1, Vec::new);
        }
        phases[after].push(table.clone());
    }
    for phase in &mut phases {
        phase.sort_by_key(|t| t.rows);
    }
    phases
}

#[derive(Clone)]
struct Work {
    plan: Arc<MovePlan>,
    /// The tables that are there.
    copied: watch::Sender<BTreeSet<TableName>>,
    tables: Arc<Mutex<Vec<PlannedTable>>>,
    rows: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

/// Two sessions between which rows pass.
struct Worker {
    reader: Client,
    writer: Client,
    /// Where both are driven.
    thread: Handle,
}

impl Worker {
    async fn begin(spec: &MoveSpec, name: &str, snapshot: &str, lane: &Lane) -> Result<Self, MoveError> {
        let reads = Box::pin(connect_under(spec.source.clone(), name.to_owned(), snapshot.to_owned()));
        let (target, name) = (spec.target.clone(), name.to_owned());
        let writes = Box::pin(async move { connect_to_load(&target, Side::Target, &name).await });
        let sessions = lane.run(async move { tokio::try_join!(reads, writes) });
        let (reader, writer) = sessions.await??;
        Ok(Self { reader, writer, thread: lane.handle().clone() })
    }
}

/// A session in a transaction with the snapshot.
async fn connect_under(source: Endpoint, name: String, snapshot: String) -> Result<Client, MoveError> {
    let reader = connect(&source, Side::Source, &name).await?;
    let begin = format!("begin isolation level repeatable read read only; set transaction snapshot '{snapshot}'");
    reader.batch_execute(&begin).await.doing(Side::Source, "taking the snapshot").map(|()| reader)
}

impl Work {
    async fn run(
        self,
        worker: Worker,
        mut pace: pace::Worker,
        tenant: berth_domain::TenantKey,
        token: Token,
    ) -> Result<Worker, MoveError> {
        loop {
            let next = self.tables.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(table) = next else { break };
            self.table(&worker, &mut pace, &table, &tenant, token).await?;
        }
        Ok(worker)
    }

    async fn table(
        &self,
        Worker { reader, writer, .. }: &Worker,
        pace: &mut pace::Worker,
        table: &PlannedTable,
        tenant: &berth_domain::TenantKey,
        token: Token,
    ) -> Result<(), MoveError> {
        let stopped = |source| MoveError::Copy { table: table.table.clone(), source };
        let format = if table.binary { "binary" } else { "text" };
        let out = format!(
            "copy (select {} from {} where {}) to stdout (format {format})",
            table.column_list(),
            table.table.sql(),
            self.plan.travelling(table, tenant)
        );
        let into = format!("copy {} ({}) from stdin (format {format})", table.table.sql(), table.column_list());
        writer.batch_execute("begin").await.map_err(stopped)?;
        let rows = reader.copy_out(&out).await.map_err(stopped)?;
        let sink = writer.copy_in::<_, Bytes>(&into).await.map_err(stopped)?;
        tokio::pin!(rows, sink);
        let mut together = BytesMut::new();
        let (mut chunks, mut bytes) = (0_u64, 0_u64);
        while let Some(chunk) = rows.try_next().await.map_err(stopped)? {
            chunks += 1;
            bytes += chunk.len() as u64;
            // One message a row, so this counts rows well enough for the eye; the exact figure comes at the end.
            if chunks.is_multiple_of(1_024) {
                self.rows.fetch_add(1_024, Ordering::Relaxed);
                pace.breathe().await;
            }
            together.extend_from_slice(&chunk);
            if together.len() >= SENT_AT_ONCE {
                sink.feed(together.split().freeze()).await.map_err(stopped)?;
                together.reserve(SENT_AT_ONCE);
            }
        }
        sink.feed(together.freeze()).await.map_err(stopped)?;
        let copied = sink.as_mut().finish().await.map_err(stopped)?;
        let counted = chunks / 1_024 * 1_024;
        self.rows.fetch_add(copied, Ordering::Relaxed);
        self.rows.fetch_sub(counted, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A worker that was taken for dead must not bring its rows in after its successor has cleared the table.
        let ours: i64 = writer
            .query_one(
                "select count(*) from (select from berth.fence where tenant = $1 and state = 'closed' and token <= $2 for share) f",
                &[&tenant.as_str(), &token.as_i64()],
            )
            .await
            .map_err(stopped)?
            .get(0);
        if ours != 1 {
            return Err(MoveError::Fenced { side: Side::Target, held: token });
        }
        writer.batch_execute("commit").await.map_err(stopped)?;
        self.copied.send_modify(|tables| {
            tables.insert(table.table.clone());
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::phases;
    use crate::pgoutput::sample;
    use crate::{Link, MovePlan, PlannedTable, TableName};

    #[test]
    fn whose_a_row_is_has_arrived_before_it_and_the_largest_table_of_a_phase_is_taken_first() {
        let table = |name: &str, parents: &[&str], rows: i64| PlannedTable {
            table: TableName::new("public", name),
            through: parents
                .iter()
                .map(|parent| Link {
                    columns: vec!["parent".into()],
                    to: TableName::new("public", *parent),
                    when: None,
                    declared: true,
                    checked: true,
                })
                .collect(),
            rows,
            ..sample::plan().tables[0].clone()
        };
        let tables = vec![
            table("orders", &[], 9),
            table("carts", &[], 5),
            table("lines", &["orders"], 3),
            table("taxes", &["lines"], 1),
            table("tags", &["orders", "lines"], 2),
        ];
        let phases = phases(&MovePlan { tables, ..MovePlan::default() });
        let names: Vec<Vec<String>> =
            phases.iter().map(|phase| phase.iter().map(|t| t.table.to_string()).collect()).collect();
        assert_eq!(names, [vec!["carts", "orders"], vec!["lines"], vec!["taxes", "tags"]]);
    }
}
