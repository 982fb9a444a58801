//! What becomes of an operation once its workflow has returned: success, the way back, or a person.
//!
//! Never runs a step forward.

use crate::{
    Context, JournalError, Retry, Run, StepError, fault::Point, kind, operation::asked_to_abandon, pen::Halt,
    run::gives_up, worker::Stop,
};
use serde_json::Value;
use std::time::Duration;

/// How a worker's turn at an operation ended.
#[derive(Debug)]
pub enum Outcome {
    Succeeded,
    /// Everything is undone.
    Undone,
    /// The next try is due after this pause.
    Waiting(Duration),
    Stuck(StepError),
    /// Let go of for another worker, because this one shuts down.
    Released,
    /// The claim was lost: another worker goes on, nothing was recorded.
    Lost,
    /// The journal did not answer: the lease runs out by itself, and a later claim reads what was kept.
    Unreachable(JournalError),
    /// A test's fault.
    Crashed,
}

impl From<Halt> for Outcome {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Undo => Self::Undone,
            Halt::Waiting(pause) => Self::Waiting(pause),
            Halt::Stuck(error) => Self::Stuck(error),
            Halt::Stopping => Self::Released,
            Halt::Mismatch(what) => Self::Stuck(mismatch(what)),
            Halt::Crashed => Self::Crashed,
            Halt::Journal(JournalError::Fenced { .. } | JournalError::Missing(_)) => Self::Lost,
            Halt::Journal(error) => Self::Unreachable(error),
        }
    }
}

impl<Cx: Context> Run<Cx> {
    pub(crate) async fn finish(mut self, answer: Result<Value, StepError>) -> Outcome {
        let settled = match (self.halt.take(), answer) {
            (Some(halt), _) => self.settle(halt).await,
            (None, _) if self.undoing => self.settle(Halt::Undo).await,
            (None, Ok(value)) => match self.succeed(value).await {
                Ok(None) => return Outcome::Succeeded,
                Ok(Some(halt)) | Err(halt) => self.settle(halt).await,
            },
            (None, Err(error)) => {
                let halt = self.refused(error).await;
                self.settle(halt).await
            }
        };
        settled.map_or_else(Outcome::from, |()| Outcome::Undone)
    }

    /// `Some`: a person asked to give it up, and nothing stands against it.
    async fn succeed(&mut self, value: Value) -> Result<Option<Halt>, Halt> {
        if let Some(left) = self.records.get(self.seq as usize) {
            return Err(Halt::Mismatch(format!("the workflow ends before step {} `{}`", left.seq, left.name)));
        }
        self.pen.reach(Point::BeforeFinish, self.seq, "finish")?;
        let operation = self
            .pen
            .write(|operation, now| {
                if gives_up(operation) {
                    operation.begin_undo(asked_to_abandon(), now);
                } else {
                    operation.succeed(value, now);
                }
                None
            })
            .await?;
        Ok(operation.undoing.then_some(Halt::Undo))
    }

    /// The workflow itself said no, without a step having failed.
    async fn refused(&mut self, error: StepError) -> Halt {
        if (self.seq as usize) < self.records.len() {
            // It came further before: what it did then cannot be undone without passing there again.
            let seq = self.seq;
            return Halt::Mismatch(format!("the workflow refuses before step {seq}, which is recorded: {error}"));
        }
        self.pen.failed(None, error, Retry::default()).await
    }

    async fn settle(&mut self, halt: Halt) -> Result<(), Halt> {
        match halt {
            Halt::Undo => match self.undo_all().await {
                Err(halt @ (Halt::Stopping | Halt::Mismatch(_))) => self.record(halt).await,
                other => other,
            },
            other => self.record(other).await,
        }
    }

    /// Writes down those ends that are not in the journal yet.
    async fn record(&self, halt: Halt) -> Result<(), Halt> {
        match &halt {
            Halt::Stopping => {
                self.pen.write(|operation, now| {
                    operation.release(now);
                    None
                })
            }
            .await
            .map(drop)?,
            Halt::Mismatch(what) => {
                let error = mismatch(what.clone());
                let stuck = self.pen.write(|operation, now| {
                    operation.stick(error, now);
                    None
                });
                stuck.await.map(drop)?;
            }
            _ => {}
        }
        Err(halt)
    }

    async fn undo_all(&mut self) -> Result<(), Halt> {
        if self.stack.len() < self.records.len() {
            let (reached, recorded) = (self.stack.len(), self.records.len());
            return Err(Halt::Mismatch(format!(
                "{recorded} steps are to be undone, and the workflow comes by {reached} of them"
            )));
        }
        while let Some(done) = self.stack.pop() {
            if *self.stop.borrow() != Stop::No {
                return Err(Halt::Stopping);
            }
            done.undo(&self.cx, &self.pen).await?;
        }
        self.pen.reach(Point::BeforeFinish, self.seq, "undo")?;
        let undone = self.pen.write(|operation, now| {
            operation.undone(now);
            None
        });
        undone.await.map(drop)?;
        Ok(())
    }
}

fn mismatch(what: String) -> StepError {
    let hint = "the workflow was edited after this operation began: run the version that began it, or abandon by force";
    StepError::permanent(kind::JOURNAL_MISMATCH, what).hint(hint)
}
