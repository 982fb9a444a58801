//! The journal of long operations in the control database. Stores and locks rows; every rule about them is in
//! `berth-workflow`.

use crate::{Store, StoreError, Tx, hub, moment::Moment};
use async_trait::async_trait;
use berth_domain::OperationId;
use berth_workflow::{Epoch, Filter, Journal, JournalError, Locked, NewOperation, Operation, StepRecord};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// Operations listed when the caller names no bound.
const PAGE: u32 = 100;

impl From<StoreError> for JournalError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::State(_) | StoreError::Name(_) | StoreError::Document(_) => {
                Self::Unreadable { what: error.to_string() }
            }
            other => Self::unreachable(other),
        }
    }
}

fn lost(error: sqlx::Error) -> JournalError {
    StoreError::from(error).into()
}

/// An operation as selected.
struct Row {
    id: uuid::Uuid,
    workflow: String,
    subject: Option<String>,
    input: Value,
    state: String,
    undoing: bool,
    no_return: Option<i32>,
    abandon: bool,
    attempts: i32,
    retry_at: Option<Moment>,
    error: Option<Value>,
    progress: Option<Value>,
    result: Option<Value>,
    epoch: i64,
    worker: Option<String>,
    lease_until: Option<Moment>,
    created_at: Moment,
    updated_at: Moment,
    finished_at: Option<Moment>,
}

fn unreadable(what: &'static str) -> impl Fn(serde_json::Error) -> JournalError {
    move |error| JournalError::Unreadable { what: format!("{what}: {error}") }
}

fn read<T: DeserializeOwned>(what: &'static str, value: Option<Value>) -> Result<Option<T>, JournalError> {
    value.map(serde_json::from_value).transpose().map_err(unreadable(what))
}

fn write<T: Serialize>(what: &'static str, value: Option<&T>) -> Result<Option<Value>, JournalError> {
    value.map(serde_json::to_value).transpose().map_err(unreadable(what))
}

fn count(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn stored(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl TryFrom<Row> for Operation {
    type Error = JournalError;
    fn try_from(r: Row) -> Result<Self, JournalError> {
        Ok(Self {
            id: r.id.into(),
            workflow: r.workflow,
            subject: r.subject,
            input: r.input,
            state: r.state.parse().map_err(StoreError::State)?,
            undoing: r.undoing,
            no_return: r.no_return.map(count),
            abandon: r.abandon,
            attempts: count(r.attempts),
            retry_at: Moment::of(r.retry_at),
            error: read("an operation's error", r.error)?,
            progress: read("an operation's progress", r.progress)?,
            result: r.result,
            epoch: Epoch::new(u64::try_from(r.epoch).unwrap_or(0)),
            worker: r.worker,
            lease_until: Moment::of(r.lease_until),
            created_at: r.created_at.0,
            updated_at: r.updated_at.0,
            finished_at: Moment::of(r.finished_at),
        })
    }
}

impl Tx {
    async fn operation_now(&mut self) -> Result<Timestamp, JournalError> {
        // Not `now()`: that is the transaction's start, and the lock may have been waited for since.
        let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!: Moment""#)
            .fetch_one(&mut *self.inner)
            .await
            .map_err(lost)?;
        Ok(now.0)
    }

    async fn operation_locked(&mut self, id: OperationId) -> Result<Option<Operation>, JournalError> {
        sqlx::query_as!(
            Row,
            r#"SELECT id, workflow, subject, input, state, undoing, no_return, abandon, attempts,
                      retry_at AS "retry_at: Moment", error, progress, result, epoch, worker,
                      lease_until AS "lease_until: Moment", created_at AS "created_at: Moment",
                      updated_at AS "updated_at: Moment", finished_at AS "finished_at: Moment"
               FROM operations WHERE id = $1 FOR UPDATE"#,
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await
        .map_err(lost)?
        .map(Operation::try_from)
        .transpose()
    }
}

#[async_trait]
impl Journal for Store {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, JournalError> {
        Ok(Self::begin(self).await?)
    }

    async fn commit(&self, tx: Tx) -> Result<(), JournalError> {
        Ok(tx.commit().await?)
    }

    async fn insert(&self, tx: &mut Tx, new: &NewOperation) -> Result<Operation, JournalError> {
        let now = tx.operation_now().await?;
        let fresh = Operation::new(new, now);
        sqlx::query!(
            "INSERT INTO operations (id, workflow, subject, input, state, undoing, abandon, attempts, epoch, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, false, false, 0, 0, $6, $6) ON CONFLICT (id) DO NOTHING",
            fresh.id.uuid(),
            fresh.workflow,
            fresh.subject,
            fresh.input,
            fresh.state.as_str(),
            Moment(now) as _
        )
        .execute(&mut *tx.inner)
        .await
        .map_err(lost)?;
        tell(tx, &fresh, true).await?;
        tx.operation_locked(new.id).await?.ok_or(JournalError::Missing(new.id))
    }

    async fn lock(&self, tx: &mut Tx, id: OperationId) -> Result<Option<Locked>, JournalError> {
        let Some(operation) = tx.operation_locked(id).await? else { return Ok(None) };
        let now = tx.operation_now().await?;
        Ok(Some(Locked { operation, now }))
    }

    async fn lock_next(&self, tx: &mut Tx, workflows: &[String]) -> Result<Option<Locked>, JournalError> {
        let row = sqlx::query_as!(
            Row,
            r#"SELECT id, workflow, subject, input, state, undoing, no_return, abandon, attempts,
                      retry_at AS "retry_at: Moment", error, progress, result, epoch, worker,
                      lease_until AS "lease_until: Moment", created_at AS "created_at: Moment",
                      updated_at AS "updated_at: Moment", finished_at AS "finished_at: Moment"
               FROM operations
               WHERE state IN ('queued', 'running', 'undoing') AND workflow = ANY($1)
                 AND (retry_at IS NULL OR retry_at <= clock_timestamp())
                 AND (lease_until IS NULL OR lease_until <= clock_timestamp())
               ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED"#,
            workflows
        )
        .fetch_optional(&mut *tx.inner)
        .await
        .map_err(lost)?;
        let Some(row) = row else { return Ok(None) };
        let operation = Operation::try_from(row)?;
        let now = tx.operation_now().await?;
        Ok(Some(Locked { operation, now }))
    }

    async fn save(&self, tx: &mut Tx, operation: &Operation) -> Result<(), JournalError> {
        sqlx::query!(
            "UPDATE operations SET state = $2, undoing = $3, no_return = $4, abandon = $5, attempts = $6, retry_at = $7,
                    error = $8, progress = $9, result = $10, epoch = $11, worker = $12, lease_until = $13,
                    updated_at = $14, finished_at = $15
             WHERE id = $1",
            operation.id.uuid(),
            operation.state.as_str(),
            operation.undoing,
            operation.no_return.map(stored),
            operation.abandon,
            stored(operation.attempts),
            operation.retry_at.map(Moment) as _,
            write("an operation's error", operation.error.as_ref())?,
            write("an operation's progress", operation.progress.as_ref())?,
            operation.result,
            operation.epoch.get().cast_signed(),
            operation.worker,
            operation.lease_until.map(Moment) as _,
            Moment(operation.updated_at) as _,
            operation.finished_at.map(Moment) as _
        )
        .execute(&mut *tx.inner)
        .await
        .map_err(lost)?;
        let waits = !operation.state.is_final() && operation.lease_until.is_none() && operation.retry_at.is_none();
        tell(tx, operation, waits).await
    }

    async fn steps(&self, tx: &mut Tx, id: OperationId) -> Result<Vec<StepRecord>, JournalError> {
        steps(&mut *tx.inner, id).await
    }

    async fn save_step(&self, tx: &mut Tx, id: OperationId, step: &StepRecord) -> Result<(), JournalError> {
        sqlx::query!(
            "INSERT INTO operation_steps (operation_id, seq, name, input, state, output, error, attempts, started_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (operation_id, seq) DO UPDATE SET name = excluded.name, input = excluded.input,
                 state = excluded.state, output = excluded.output, error = excluded.error,
                 attempts = excluded.attempts, started_at = excluded.started_at, updated_at = excluded.updated_at",
            id.uuid(),
            stored(step.seq),
            step.name,
            step.input,
            step.state.as_str(),
            step.output,
            write("a step's error", step.error.as_ref())?,
            stored(step.attempts),
            Moment(step.started_at) as _,
            Moment(step.updated_at) as _
        )
        .execute(&mut *tx.inner)
        .await
        .map_err(lost)?;
        Ok(())
    }

    async fn show(&self, id: OperationId) -> Result<Option<(Operation, Vec<StepRecord>)>, JournalError> {
        let row = sqlx::query_as!(
            Row,
            r#"SELECT id, workflow, subject, input, state, undoing, no_return, abandon, attempts,
                      retry_at AS "retry_at: Moment", error, progress, result, epoch, worker,
                      lease_until AS "lease_until: Moment", created_at AS "created_at: Moment",
                      updated_at AS "updated_at: Moment", finished_at AS "finished_at: Moment"
               FROM operations WHERE id = $1"#,
            id.uuid()
        )
        .fetch_optional(&self.pool)
        .await
        .map_err(lost)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.try_into()?, steps(&self.pool, id).await?)))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Operation>, JournalError> {
        let states: Vec<String> = filter.states.iter().map(ToString::to_string).collect();
        sqlx::query_as!(
            Row,
            r#"SELECT id, workflow, subject, input, state, undoing, no_return, abandon, attempts,
                      retry_at AS "retry_at: Moment", error, progress, result, epoch, worker,
                      lease_until AS "lease_until: Moment", created_at AS "created_at: Moment",
                      updated_at AS "updated_at: Moment", finished_at AS "finished_at: Moment"
               FROM operations
               WHERE (cardinality($1::text[]) = 0 OR state = ANY($1))
                 AND ($2::text IS NULL OR workflow = $2) AND ($3::text IS NULL OR subject = $3)
                 AND ($4::uuid IS NULL OR seq < (SELECT seq FROM operations o WHERE o.id = $4))
               ORDER BY seq DESC LIMIT $5"#,
            &states,
            filter.workflow,
            filter.subject,
            filter.before.map(OperationId::uuid),
            i64::from(if filter.limit == 0 { PAGE } else { filter.limit })
        )
        .fetch_all(&self.pool)
        .await
        .map_err(lost)?
        .into_iter()
        .map(Operation::try_from)
        .collect()
    }

    async fn wait_for_work(&self, at_most: Duration) {
        self.hub.work(at_most).await;
    }
}

/// Tells watchers of the operation, and workers if it waits for one, once the transaction commits.
async fn tell(tx: &mut Tx, operation: &Operation, waits: bool) -> Result<(), JournalError> {
    sqlx::query!(
        "SELECT pg_notify($1, $2)::text AS told, CASE WHEN $3 THEN pg_notify($4, '')::text END AS called",
        hub::OPERATIONS,
        operation.id.to_string(),
        waits,
        hub::WORK
    )
    .fetch_one(&mut *tx.inner)
    .await
    .map_err(lost)?;
    Ok(())
}

async fn steps<'e>(executor: impl sqlx::PgExecutor<'e>, id: OperationId) -> Result<Vec<StepRecord>, JournalError> {
    let rows = sqlx::query!(
        r#"SELECT seq, name, input, state, output, error, attempts, started_at AS "started_at: Moment",
                  updated_at AS "updated_at: Moment"
           FROM operation_steps WHERE operation_id = $1 ORDER BY seq"#,
        id.uuid()
    )
    .fetch_all(executor)
    .await
    .map_err(lost)?;
    rows.into_iter()
        .map(|r| {
            Ok(StepRecord {
                seq: count(r.seq),
                name: r.name,
                input: r.input,
                state: r.state.parse()?,
                output: r.output,
                error: read("a step's error", r.error)?,
                attempts: count(r.attempts),
                started_at: r.started_at.0,
                updated_at: r.updated_at.0,
            })
        })
        .collect()
}
