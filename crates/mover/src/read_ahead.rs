//! What the source holds, read while the target is loaded and builds its keys: half of the comparison costs no time of its own then.
//! Each table when its copy is there: both at once would only share the processors, and now its pages are still in memory.
//!
//! Read under the snapshot of the copy, from which the stream goes on. So it may be compared with the target at any
//! later time by whoever has followed the stream from its beginning: every key that has changed since is known.

use crate::beside::Known;
use crate::compare::{Pair, Snapshot, scan};
use crate::lane::Lane;
use crate::sql::Doing;
use crate::wal::Lsn;
use crate::{MoveError, MovePlan, MoveSpec, Side, TableName};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio_postgres::Client;

/// The rows of a move's source as its copy found them, or the reading of them. Empty where another process copied: then
/// the comparison reads them itself.
#[derive(Clone, Default)]
pub struct ReadAhead {
    rows: Arc<Mutex<Option<Reading>>>,
    objects: Arc<Mutex<Option<Known>>>,
    made: Arc<Mutex<BTreeSet<String>>>,
}

struct Reading {
    from: Lsn,
    task: tokio::task::JoinHandle<Result<Rows, MoveError>>,
    _runs_on: Lane,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Key and row hashes of each table of the plan, sorted.
pub(crate) struct Rows {
    pub snapshot: Snapshot,
    pub tables: Vec<Vec<Pair>>,
}

impl ReadAhead {
    /// Objects that the copy brought, for the cut-over to go on from.
    pub(crate) fn keep_objects(&self, known: Option<Known>) {
        *self.objects.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(crate) fn take_objects(&self) -> Option<Known> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The target has looked at all rows that were loaded when it made this constraint.
    pub(crate) fn keep_made(&self, create_sql: String) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(create_sql);
    }

    /// The statements of [`ReadAhead::keep_made`]. What a later copy loads they say nothing of, so they are given once.
    pub(crate) fn take_made(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadAhead")
    }
}

impl ReadAhead {
    /// `reader` is in a transaction with the snapshot that the stream goes on from at `from`. `copied`: the tables that are
    /// there.
    pub(crate) fn begin(
        &self,
        spec: &MoveSpec,
        plan: &MovePlan,
        from: Lsn,
        (reader, lane): (Client, Lane),
        mut copied: watch::Receiver<BTreeSet<TableName>>,
    ) {
        self.take_made();
        // Without a foreign key a row can lose the one that makes it the tenant's, and the stream says nothing of it.
        if plan.tables.iter().any(|t| t.through.iter().any(|link| !link.declared)) {
            return;
        }
        let queries: Vec<(TableName, String)> =
            plan.tables.iter().map(|t| (t.table.clone(), plan.hashes_sql(t, &spec.tenant))).collect();
        let task = lane.handle().spawn(async move {
            let snapshot = Snapshot::of(&reader).await?;
            let mut tables: Vec<Vec<Pair>> = queries.iter().map(|_| Vec::new()).collect();
            let mut left: Vec<usize> = (0..queries.len()).collect();
            while !left.is_empty() {
                let next = |there: &BTreeSet<TableName>| left.iter().position(|nth| there.contains(&queries[*nth].0));
                let there = copied.wait_for(|there| next(there).is_some()).await.ok().and_then(|there| next(&there));
                let nth = left.remove(there.ok_or_else(|| MoveError::Decode("the copy was stopped".into()))?);
                tables[nth] = scan(&reader, Side::Source, &queries[nth].1, &|_| {}).await?;
            }
            reader.batch_execute("commit").await.doing(Side::Source, "ending the snapshot")?;
            Ok(Rows { snapshot, tables })
        });
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reading { from, task, _runs_on: lane });
    }

    /// What was read, and from where the stream has to have been followed. Waits for the end of the reading, during which
    /// nothing is read from the slot; none when there was none or it failed.
    pub(crate) async fn take(&self) -> Option<(Lsn, Rows)> {
        let mut reading = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        match (&mut reading.task).await {
            Ok(Ok(rows)) => Some((reading.from, rows)),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
