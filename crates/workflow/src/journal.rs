//! Where operations are written down. This crate is given a journal and knows nothing of how it stores.
//!
//! An implementation stores and locks rows; it never decides. What may happen to a row is in [`Operation`], and
//! the provided methods here put the two together, so that all journals have one and the same behaviour.

use crate::{Abandoned, Epoch, JournalError, NewOperation, Operation, StepRecord};
use async_trait::async_trait;
use berth_domain::{OperationId, OperationState};
use jiff::Timestamp;
use std::time::Duration;

/// An operation locked until the end of the transaction, and the journal's clock at that time.
#[derive(Clone, Debug)]
pub struct Locked {
    pub operation: Operation,
    /// By the journal's own clock (`clock_timestamp()`), read **after** the lock was got, since getting it may take long.
    pub now: Timestamp,
}

/// A worker's right to write on one operation, for as long as the lease lasts.
#[derive(Clone, Debug)]
pub struct Claim {
    pub operation: Operation,
    pub epoch: Epoch,
}

/// Which operations to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Empty: all.
    pub states: Vec<OperationState>,
    pub workflow: Option<String>,
    pub subject: Option<String>,
    /// Only those older than this one: the next page.
    pub before: Option<OperationId>,
    /// 0: the journal's own bound.
    pub limit: u32,
}

/// What an implementation owes, each shown by [`crate::conformance`]:
/// - a `Tx` dropped without [`commit`](Self::commit) leaves nothing behind;
/// - `lock` and `lock_next` hold the row until the transaction ends, and see what is committed at that moment;
/// - rows come back as they were stored (moments may be cut to microseconds).
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// A transaction that also carries the control state which a [`crate::TxStep`] changes.
    type Tx: Send + 'static;

    async fn begin(&self) -> Result<Self::Tx, JournalError>;
    /// A lost answer is [`JournalError::Unreachable`]: nobody knows then.
    async fn commit(&self, tx: Self::Tx) -> Result<(), JournalError>;

    /// Stores [`Operation::new`] at the journal's clock; an id that exists answers with its row, unchanged.
    async fn insert(&self, tx: &mut Self::Tx, new: &NewOperation) -> Result<Operation, JournalError>;
    /// Locks one operation, waiting for whoever holds it.
    async fn lock(&self, tx: &mut Self::Tx, id: OperationId) -> Result<Option<Locked>, JournalError>;
    /// Locks the oldest operation of these workflows that [`Operation::is_claimable`], passing over locked ones
    /// (`FOR UPDATE SKIP LOCKED`).
    async fn lock_next(&self, tx: &mut Self::Tx, workflows: &[String]) -> Result<Option<Locked>, JournalError>;
    /// Writes the whole row of a locked operation. If it is now claimable, [`wait_for_work`](Self::wait_for_work)
    /// returns after the commit.
    async fn save(&self, tx: &mut Self::Tx, operation: &Operation) -> Result<(), JournalError>;
    /// An operation's steps by `seq`.
    async fn steps(&self, tx: &mut Self::Tx, id: OperationId) -> Result<Vec<StepRecord>, JournalError>;
    /// Inserts or replaces the step of that `seq`.
    async fn save_step(&self, tx: &mut Self::Tx, id: OperationId, step: &StepRecord) -> Result<(), JournalError>;

    /// One operation with its steps, locking nothing.
    async fn show(&self, id: OperationId) -> Result<Option<(Operation, Vec<StepRecord>)>, JournalError>;
    async fn list(&self, filter: &Filter) -> Result<Vec<Operation>, JournalError>;
    /// Returns when there may be work, at the latest after `at_most`. Returning for nothing is harmless.
    async fn wait_for_work(&self, at_most: Duration);

    // Provided: the same for every journal.

    /// Starts an operation within the caller's transaction, so that it exists exactly if the caller's own change does.
    async fn start(&self, tx: &mut Self::Tx, new: NewOperation) -> Result<Operation, JournalError> {
        let operation = self.insert(tx, &new).await?;
        if operation.workflow != new.workflow || operation.input != new.input {
            return Err(JournalError::Conflict { operation: new.id });
        }
        Ok(operation)
    }

    /// Takes the next due operation of these workflows under a lease.
    async fn claim(&self, worker: &str, workflows: &[String], lease: Duration) -> Result<Option<Claim>, JournalError> {
        let mut tx = self.begin().await?;
        let Some(Locked { mut operation, now }) = self.lock_next(&mut tx, workflows).await? else {
            return Ok(None);
        };
        operation.claim(worker, lease, now);
        self.save(&mut tx, &operation).await?;
        self.commit(tx).await?;
        let epoch = operation.epoch;
        Ok(Some(Claim { operation, epoch }))
    }

    /// Begins a transaction in which the claim is known to be in force until its end: the row is locked, so
    /// nobody can claim it again before the commit.
    async fn fenced(&self, claim: &Claim) -> Result<(Self::Tx, Locked), JournalError> {
        let id = claim.operation.id;
        let mut tx = self.begin().await?;
        let locked = self.lock(&mut tx, id).await?.ok_or(JournalError::Missing(id))?;
        locked.operation.held_by(claim.epoch, locked.now)?;
        Ok((tx, locked))
    }

    /// A person retries a stuck operation, or one that waits, now.
    async fn retry(&self, tx: &mut Self::Tx, id: OperationId) -> Result<Operation, JournalError> {
        let Locked { mut operation, now } = self.lock(tx, id).await?.ok_or(JournalError::Missing(id))?;
        operation.retry(now)?;
        self.save(tx, &operation).await?;
        Ok(operation)
    }

    /// A person gives an operation up: undone by a worker, or with `force` left as it is.
    async fn abandon(
        &self,
        tx: &mut Self::Tx,
        id: OperationId,
        force: bool,
    ) -> Result<(Operation, Abandoned), JournalError> {
        let Locked { mut operation, now } = self.lock(tx, id).await?.ok_or(JournalError::Missing(id))?;
        let how = operation.give_up(force, now)?;
        self.save(tx, &operation).await?;
        Ok((operation, how))
    }
}
