//! What the source holds, read while the target is loaded and builds its keys: half of the comparison costs no time of its own then.
//!
//! Read under the snapshot of the copy, from which the stream goes on. So it may be compared with the target at any
//! later time by whoever has followed the stream from its beginning: every key that has changed since is known.

use crate::beside::Known;
use crate::compare::{Pair, Snapshot, scan};
use crate::sql::Doing;
use crate::wal::Lsn;
use crate::{MoveError, MovePlan, MoveSpec, Side};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_postgres::Client;

/// The rows of a move's source as its copy found them, or the reading of them. Empty where another process copied: then
/// the comparison reads them itself.
#[derive(Clone, Default)]
pub struct ReadAhead(Arc<Mutex<Option<Reading>>>, Arc<Mutex<Option<Known>>>);

struct Reading {
    from: Lsn,
    task: tokio::task::JoinHandle<Result<Rows, MoveError>>,
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
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(crate) fn take_objects(&self) -> Option<Known> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadAhead")
    }
}

impl ReadAhead {
    /// `reader` is in a transaction with the snapshot that the stream goes on from at `from`.
    pub(crate) fn begin(&self, spec: &MoveSpec, plan: &MovePlan, from: Lsn, reader: Client) {
        // Without a foreign key a row can lose the one that makes it the tenant's, and the stream says nothing of it.
        if plan.tables.iter().any(|t| t.through.iter().any(|link| !link.declared)) {
            return;
        }
        let queries: Vec<String> = plan.tables.iter().map(|t| plan.hashes_sql(t, &spec.tenant)).collect();
        let task = tokio::spawn(async move {
            let snapshot = Snapshot::of(&reader).await?;
            let mut tables = Vec::new();
            for sql in queries {
                let mut rows = scan(&reader, Side::Source, &sql, &|_| {}).await?;
                tables.push(
                    tokio::task::spawn_blocking(move || {
                        rows.sort_unstable();
                        rows
                    })
                    .await
                    .map_err(|_| MoveError::Decode("the reading was stopped".into()))?,
                );
            }
            reader.batch_execute("commit").await.doing(Side::Source, "ending the snapshot")?;
            Ok(Rows { snapshot, tables })
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reading { from, task });
    }

    /// What was read, and from where the stream has to have been followed. Waits for the end of the reading; none when
    /// there was none or it failed.
    pub(crate) async fn take(&self) -> Option<(Lsn, Rows)> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        match (&mut reading.task).await {
            Ok(Ok(rows)) => Some((reading.from, rows)),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
