//! A journal in memory, for tests and for a mover that stands alone. It fences and rolls back like the real one.
//!
//! One transaction at a time: `begin` waits until the last one has ended, which is stricter than row locks and so hides no conflict
//! that a row lock would show. Never outlives the process.

use crate::{Filter, Journal, JournalError, Locked, NewOperation, Operation, StepRecord};
use async_trait::async_trait;
use berth_domain::OperationId;
use jiff::Timestamp;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, Notify, OwnedMutexGuard},
    time::Instant,
};

#[derive(Clone, Debug, Default)]
struct State {
    /// In the order they were started.
    operations: Vec<Operation>,
    steps: BTreeMap<(OperationId, u32), StepRecord>,
    control: BTreeMap<String, Value>,
}

/// Its clock is tokio's, so that a test with paused time moves leases by hand.
#[derive(Clone, Debug)]
pub struct MemoryJournal {
    state: Arc<Mutex<State>>,
    work: Arc<Notify>,
    born: (Instant, Timestamp),
}

/// Everything is changed in a copy; the commit puts it in place.
#[derive(Debug)]
pub struct MemoryTx {
    kept: OwnedMutexGuard<State>,
    draft: State,
}

impl MemoryTx {
    /// Control state of the test's world, changed in the same transaction as the journal.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.draft.control.get(key)
    }
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        self.draft.control.insert(key.into(), value);
    }
    pub fn remove(&mut self, key: &str) {
        self.draft.control.remove(key);
    }
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self { state: Arc::default(), work: Arc::default(), born: (Instant::now(), Timestamp::now()) }
    }
}

impl MemoryJournal {
    pub fn new() -> Self {
        Self::default()
    }
    /// The control state as last committed.
    pub async fn control(&self) -> BTreeMap<String, Value> {
        self.state.lock().await.control.clone()
    }

    fn now(&self) -> Timestamp {
        let (instant, timestamp) = self.born;
        timestamp.checked_add(instant.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    type Tx = MemoryTx;

    async fn begin(&self) -> Result<MemoryTx, JournalError> {
        let kept = Arc::clone(&self.state).lock_owned().await;
        let draft = kept.clone();
        Ok(MemoryTx { kept, draft })
    }

    async fn commit(&self, mut tx: MemoryTx) -> Result<(), JournalError> {
        *tx.kept = std::mem::take(&mut tx.draft);
        drop(tx);
        self.work.notify_waiters();
        self.work.notify_one(); // for a worker that was just about to wait
        Ok(())
    }

    async fn insert(&self, tx: &mut MemoryTx, new: &NewOperation) -> Result<Operation, JournalError> {
        if let Some(found) = tx.draft.operations.iter().find(|operation| operation.id == new.id) {
            return Ok(found.clone());
        }
        let operation = Operation::new(new, self.now());
        tx.draft.operations.push(operation.clone());
        Ok(operation)
    }

    async fn lock(&self, tx: &mut MemoryTx, id: OperationId) -> Result<Option<Locked>, JournalError> {
        let found = tx.draft.operations.iter().find(|operation| operation.id == id);
        Ok(found.map(|operation| Locked { operation: operation.clone(), now: self.now() }))
    }

    async fn lock_next(&self, tx: &mut MemoryTx, workflows: &[String]) -> Result<Option<Locked>, JournalError> {
        let now = self.now();
        let due = |operation: &&Operation| workflows.contains(&operation.workflow) && operation.is_claimable(now);
        Ok(tx.draft.operations.iter().find(due).map(|operation| Locked { operation: operation.clone(), now }))
    }

    async fn save(&self, tx: &mut MemoryTx, operation: &Operation) -> Result<(), JournalError> {
        let row = tx.draft.operations.iter_mut().find(|row| row.id == operation.id);
        *row.ok_or(JournalError::Missing(operation.id))? = operation.clone();
        Ok(())
    }

    async fn steps(&self, tx: &mut MemoryTx, id: OperationId) -> Result<Vec<StepRecord>, JournalError> {
        Ok(steps_of(&tx.draft, id))
    }

    async fn save_step(&self, tx: &mut MemoryTx, id: OperationId, step: &StepRecord) -> Result<(), JournalError> {
        tx.draft.steps.insert((id, step.seq), step.clone());
        Ok(())
    }

    async fn show(&self, id: OperationId) -> Result<Option<(Operation, Vec<StepRecord>)>, JournalError> {
        let state = self.state.lock().await;
        let found = state.operations.iter().find(|operation| operation.id == id);
        Ok(found.map(|operation| (operation.clone(), steps_of(&state, id))))
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Operation>, JournalError> {
        let state = self.state.lock().await;
        let newest_first = state.operations.iter().rev();
        let mut older = filter.before.is_none();
        let page = newest_first.filter(|operation| {
            let passed = older;
            older |= filter.before == Some(operation.id);
            passed
                && (filter.states.is_empty() || filter.states.contains(&operation.state))
                && filter.workflow.as_ref().is_none_or(|name| *name == operation.workflow)
                && (filter.subject.is_none() || filter.subject == operation.subject)
        });
        let limit = if filter.limit == 0 { usize::MAX } else { filter.limit as usize };
        Ok(page.take(limit).cloned().collect())
    }

    async fn wait_for_work(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.work.notified()).await; // late or nudged: the caller looks either way
    }
}

fn steps_of(state: &State, id: OperationId) -> Vec<StepRecord> {
    state.steps.range((id, 0)..=(id, u32::MAX)).map(|(_, step)| step.clone()).collect()
}
