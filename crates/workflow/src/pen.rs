//! The one way in which a worker writes on its operation: in a transaction that checks its claim.
//!
//! Never decides what is written, except for what follows from a failure.

use crate::{
    Claim, Faults, Journal, JournalError, Locked, Operation, Progress, Retry, StepError, StepRecord, StepState,
    fault::Point,
};
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Why a run ends before its workflow does. All but the last four are in the journal already.
#[derive(Debug)]
pub(crate) enum Halt {
    /// From here it goes backward.
    Undo,
    /// The next try is due after this pause.
    Waiting(Duration),
    Stuck(StepError),
    /// The worker shuts down; the lease is still ours.
    Stopping,
    /// The workflow and its journal do not fit; to be recorded as stuck.
    Mismatch(String),
    /// A fault of a test: as if the process had died.
    Crashed,
    Journal(JournalError),
}

impl From<JournalError> for Halt {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

pub(crate) struct Pen<Tx> {
    pub journal: Arc<dyn Journal<Tx = Tx>>,
    pub claim: Claim,
    pub faults: Faults,
    pub progress: Arc<watch::Sender<Option<Progress>>>,
}

impl<Tx> Clone for Pen<Tx> {
    fn clone(&self) -> Self {
        Self {
            journal: Arc::clone(&self.journal),
            claim: self.claim.clone(),
            faults: self.faults.clone(),
            progress: Arc::clone(&self.progress),
        }
    }
}

impl<Tx: Send + 'static> Pen<Tx> {
    /// Changes the operation, and stores the step that the change answers with.
    pub async fn write(
        &self,
        change: impl FnOnce(&mut Operation, Timestamp) -> Option<StepRecord> + Send,
    ) -> Result<Operation, JournalError> {
        let (mut tx, Locked { mut operation, now }) = self.journal.fenced(&self.claim).await?;
        let step = change(&mut operation, now);
        self.save(&mut tx, &mut operation, step.as_ref()).await?;
        self.journal.commit(tx).await?;
        Ok(operation)
    }

    /// The writing half of [`write`](Self::write), for a transaction that does more than that.
    pub async fn save(
        &self,
        tx: &mut Tx,
        operation: &mut Operation,
        step: Option<&StepRecord>,
    ) -> Result<(), JournalError> {
        let latest = self.progress.borrow().clone(); // a statement of its own: the borrow must not cross an await
        if latest.is_some() {
            operation.progress = latest;
        }
        if let Some(step) = step {
            self.journal.save_step(tx, operation.id, step).await?;
        }
        self.journal.save(tx, operation).await
    }

    pub fn reach(&self, point: Point, seq: u32, step: &'static str) -> Result<(), Halt> {
        self.faults.reach(point, seq, step).map_err(|_| Halt::Crashed)
    }

    /// Records a failure on the way forward, and what follows from it.
    ///
    /// `step` is none when the workflow itself refused to go on.
    pub async fn failed(&self, step: Option<StepRecord>, error: StepError, retry: Retry) -> Halt {
        let chance = chance();
        let mut halt = Halt::Undo;
        let written = self
            .write(|operation, now| {
                let past = operation.no_return.is_some();
                let bound = if past { retry.attempts_past_return } else { retry.attempts };
                let again = past || (error.retryable && !operation.abandon);
                let mut state = StepState::Started;
                if again && operation.attempts + 1 < bound {
                    let pause = pause(&retry, operation.attempts + 1, &error, chance);
                    operation.retry_later(error.clone(), pause, now);
                    halt = Halt::Waiting(pause);
                } else if past {
                    operation.stick(error.clone(), now);
                    halt = Halt::Stuck(error.clone());
                } else {
                    operation.begin_undo(error.clone(), now);
                    state = StepState::Failed;
                }
                step.map(|step| step.failed(state, error, now))
            })
            .await;
        match written {
            Ok(_) => halt,
            Err(error) => Halt::Journal(error),
        }
    }

    /// Records a failure on the way back: another try, or a person.
    pub async fn undo_failed(&self, step: StepRecord, error: StepError, retry: Retry) -> Halt {
        let chance = chance();
        let mut halt = Halt::Stuck(error.clone());
        let written = self
            .write(|operation, now| {
                if error.retryable && operation.attempts + 1 < retry.attempts {
                    let pause = pause(&retry, operation.attempts + 1, &error, chance);
                    operation.retry_later(error.clone(), pause, now);
                    halt = Halt::Waiting(pause);
                } else {
                    operation.stick(error.clone(), now);
                }
                Some(step.failed(StepState::Undoing, error, now))
            })
            .await;
        match written {
            Ok(_) => halt,
            Err(error) => Halt::Journal(error),
        }
    }
}

fn chance() -> f64 {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    StdRng::from_os_rng().random()
}

fn pause(retry: &Retry, failures: u32, error: &StepError, chance: f64) -> Duration {
    retry.pause(failures, chance).max(error.retry_after.unwrap_or_default())
}

impl StepRecord {
    pub(crate) fn failed(mut self, state: StepState, error: StepError, now: Timestamp) -> Self {
        self.state = state;
        self.attempts += 1;
        self.error = Some(error);
        self.updated_at = now;
        self
    }

    pub(crate) fn now(mut self, state: StepState, now: Timestamp) -> Self {
        self.state = state;
        self.updated_at = now;
        self
    }
}
