//! The way back: what was done, newest first, each reversal recorded before and after.
//!
//! Never goes past the point of no return: nobody gets here from beyond it.

use crate::{
    Context, Locked, Step, StepError, StepRecord, StepState, TxStep,
    fault::Point,
    kind,
    pen::{Halt, Pen},
};
use async_trait::async_trait;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// A step that was done, or begun, with what it needs for its reversal.
#[async_trait]
pub(crate) trait Undo<Cx: Context>: Send + Sync {
    async fn undo(&self, cx: &Cx, pen: &Pen<Cx::Tx>) -> Result<(), Halt>;
}

pub(crate) struct DoneStep<S> {
    pub step: Arc<S>,
    pub record: StepRecord,
}

pub(crate) struct DoneTxStep<S> {
    pub step: Arc<S>,
    pub record: StepRecord,
}

#[async_trait]
impl<Cx: Context, S: Step<Cx>> Undo<Cx> for DoneStep<S> {
    async fn undo(&self, cx: &Cx, pen: &Pen<Cx::Tx>) -> Result<(), Halt> {
        let seq = self.record.seq;
        if self.record.state == StepState::Undone {
            return Ok(());
        }
        let record = self.record.clone();
        pen.write(|_, now| Some(record.now(StepState::Undoing, now))).await?;
        pen.reach(Point::BeforeUndo, seq, S::NAME)?;
        let answer = match made(&self.record) {
            Ok(made) => self.step.undo(cx, made).await,
            Err(error) => Err(error),
        };
        let record = self.record.clone();
        if let Err(error) = answer {
            return Err(pen.undo_failed(record, error, self.step.retry()).await);
        }
        pen.reach(Point::AfterUndo, seq, S::NAME)?;
        pen.write(|operation, now| {
            operation.step_done(now);
            Some(record.now(StepState::Undone, now))
        })
        .await?;
        pen.reach(Point::AfterUndoRecord, seq, S::NAME)
    }
}

#[async_trait]
impl<Cx: Context, S: TxStep<Cx>> Undo<Cx> for DoneTxStep<S> {
    async fn undo(&self, _: &Cx, pen: &Pen<Cx::Tx>) -> Result<(), Halt> {
        let seq = self.record.seq;
        if self.record.state == StepState::Undone {
            return Ok(());
        }
        let record = self.record.clone();
        pen.reach(Point::BeforeUndo, seq, S::NAME)?;
        let (mut tx, Locked { mut operation, now }) = pen.journal.fenced(&pen.claim).await?;
        let answer = match made(&self.record) {
            Ok(Some(made)) => self.step.undo(&mut tx, made).await,
            Ok(None) => Ok(()), // its transaction was rolled back, so there is nothing to reverse
            Err(error) => Err(error),
        };
        if let Err(error) = answer {
            drop(tx);
            return Err(pen.undo_failed(record, error, self.step.retry()).await);
        }
        operation.step_done(now);
        pen.save(&mut tx, &mut operation, Some(&record.now(StepState::Undone, now))).await?;
        pen.reach(Point::BeforeCommit, seq, S::NAME)?;
        pen.journal.commit(tx).await?;
        pen.reach(Point::AfterUndoRecord, seq, S::NAME)
    }
}

fn made<O: DeserializeOwned>(record: &StepRecord) -> Result<Option<O>, StepError> {
    let read = |output| {
        O::deserialize(output).map_err(|e: serde_json::Error| StepError::permanent(kind::BAD_OUTPUT, e.to_string()))
    };
    record.output.as_ref().map(read).transpose()
}
