//! The journal passes the suite that the one in memory passes.

use crate::common::open;
use async_trait::async_trait;
use berth_domain::OperationId;
use berth_store::{Store, Tx};
use berth_testkit::TestDatabase;
use berth_workflow::{Filter, Journal, JournalError, Locked, NewOperation, Operation, StepRecord};
use std::time::Duration;

/// The store with the database that has to outlive it.
struct Kept(Store, #[expect(dead_code, reason = "kept for as long as the store needs it")] TestDatabase);

#[async_trait]
impl Journal for Kept {
    type Tx = Tx;
    async fn begin(&self) -> Result<Tx, JournalError> {
        Journal::begin(&self.0).await
    }
    async fn commit(&self, tx: Tx) -> Result<(), JournalError> {
        Journal::commit(&self.0, tx).await
    }
    async fn insert(&self, tx: &mut Tx, new: &NewOperation) -> Result<Operation, JournalError> {
        self.0.insert(tx, new).await
    }
    async fn lock(&self, tx: &mut Tx, id: OperationId) -> Result<Option<Locked>, JournalError> {
        self.0.lock(tx, id).await
    }
    async fn lock_next(&self, tx: &mut Tx, workflows: &[String]) -> Result<Option<Locked>, JournalError> {
        self.0.lock_next(tx, workflows).await
    }
    async fn save(&self, tx: &mut Tx, operation: &Operation) -> Result<(), JournalError> {
        self.0.save(tx, operation).await
    }
    async fn steps(&self, tx: &mut Tx, id: OperationId) -> Result<Vec<StepRecord>, JournalError> {
        self.0.steps(tx, id).await
    }
    async fn save_step(&self, tx: &mut Tx, id: OperationId, step: &StepRecord) -> Result<(), JournalError> {
        self.0.save_step(tx, id, step).await
    }
    async fn show(&self, id: OperationId) -> Result<Option<(Operation, Vec<StepRecord>)>, JournalError> {
        self.0.show(id).await
    }
    async fn list(&self, filter: &Filter) -> Result<Vec<Operation>, JournalError> {
        self.0.list(filter).await
    }
    async fn wait_for_work(&self, at_most: Duration) {
        self.0.wait_for_work(at_most).await;
    }
}

berth_workflow::journal_conformance!(the_journal_in_postgres_is_a_journal, async || {
    let database = TestDatabase::new().await;
    Kept(open(&database).await, database)
});
