//! One pass of a worker through a workflow: recorded steps are read back, the others run and are recorded.
//!
//! Never writes outside of a transaction that checks the claim, and never goes on after a step that did not end well:
//! whatever the workflow makes of the error, every later step is refused.

use crate::{
    Cancelled, Context, Epoch, Locked, Operation, Reporter, Step, StepError, StepRecord, StepState, TxStep,
    fault::{Failing, Point},
    kind,
    operation::asked_to_abandon,
    pen::{Halt, Pen},
    undo::{DoneStep, DoneTxStep, Undo},
    worker::Stop,
};
use berth_domain::OperationId;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

/// What a workflow is given: the way to its steps.
pub struct Run<Cx: Context> {
    pub(crate) cx: Arc<Cx>,
    pub(crate) pen: Pen<Cx::Tx>,
    /// What the journal knew when this run began.
    pub(crate) records: Vec<StepRecord>,
    /// The next step's place.
    pub(crate) seq: u32,
    /// What would have to be undone, oldest first.
    pub(crate) stack: Vec<Box<dyn Undo<Cx>>>,
    pub(crate) halt: Option<Halt>,
    pub(crate) undoing: bool,
    no_return: Option<u32>,
    /// This run has come by the point of no return itself.
    passed_return: bool,
    pub(crate) stop: watch::Receiver<Stop>,
    cancelled: Cancelled,
}

impl<Cx: Context> Run<Cx> {
    pub(crate) fn new(
        cx: Arc<Cx>,
        pen: Pen<Cx::Tx>,
        operation: &Operation,
        records: Vec<StepRecord>,
        stop: watch::Receiver<Stop>,
        cancelled: Cancelled,
    ) -> Self {
        Self {
            cx,
            pen,
            records,
            seq: 0,
            stack: Vec::new(),
            halt: None,
            undoing: operation.undoing,
            no_return: operation.no_return,
            passed_return: false,
            stop,
            cancelled,
        }
    }

    /// The operation that this run carries out. With a step's name it makes a key that is equal on every retry.
    pub const fn operation(&self) -> OperationId {
        self.pen.claim.operation.id
    }
    /// This run's fencing token.
    pub const fn epoch(&self) -> Epoch {
        self.pen.claim.epoch
    }
    /// For steps that last: whether a person wants it given up.
    pub fn cancelled(&self) -> Cancelled {
        self.cancelled.clone()
    }
    /// For steps that last: through which they say how far they are.
    pub fn reporter(&self) -> Reporter {
        Reporter(Arc::clone(&self.pen.progress))
    }

    /// Runs a step that touches the world outside, or reads what it answered before.
    pub async fn step<S: Step<Cx>>(&mut self, step: S) -> Result<S::Output, StepError> {
        let outcome = self.do_step(Arc::new(step), false).await;
        outcome.map_err(|halt| self.halt(halt))
    }

    /// As [`step`](Self::step), and the record of its answer is the point of no return: a person who gives the operation
    /// up finds it there, or is told that it is too late. Between the world's change and that record a kill still leads
    /// to the undo of whoever was asked to give up, so an undo before it has to look whether the change has happened.
    pub async fn step_of_no_return<S: Step<Cx>>(&mut self, step: S) -> Result<S::Output, StepError> {
        let outcome = self.do_step(Arc::new(step), true).await;
        outcome.map_err(|halt| self.halt(halt))
    }

    /// Runs a step that changes control state, in the transaction that records it.
    pub async fn tx<S: TxStep<Cx>>(&mut self, step: S) -> Result<S::Output, StepError> {
        let outcome = self.do_tx(Arc::new(step), false).await;
        outcome.map_err(|halt| self.halt(halt))
    }

    /// As [`tx`](Self::tx), and its commit is the point of no return: there is no moment at which the one has happened and the
    /// other not. For a change after which undoing would do harm at once, as a change of owner.
    pub async fn tx_of_no_return<S: TxStep<Cx>>(&mut self, step: S) -> Result<S::Output, StepError> {
        let outcome = self.do_tx(Arc::new(step), true).await;
        outcome.map_err(|halt| self.halt(halt))
    }

    /// From here the workflow is finished, never undone. Recorded before this returns.
    pub async fn point_of_no_return(&mut self) -> Result<(), StepError> {
        let outcome = self.pass_return().await;
        outcome.map_err(|halt| self.halt(halt))
    }

    async fn do_step<S: Step<Cx>>(&mut self, step: Arc<S>, no_return: bool) -> Result<S::Output, Halt> {
        let known = self.next(S::NAME, &step.input())?;
        let seq = self.seq - 1;
        let push = |run: &mut Self, record: StepRecord| {
            run.stack.push(Box::new(DoneStep { step: Arc::clone(&step), record }));
        };
        if let Some(record) = self.replayed(known.as_ref(), |run, record| push(run, record))? {
            if no_return {
                self.expect_return_at(self.seq)?;
            }
            return read(&record);
        }
        let mut record = known.clone();
        let operation = self
            .pen
            .write(|operation, now| {
                if gives_up(operation) {
                    operation.begin_undo(asked_to_abandon(), now);
                    return None;
                }
                let started = StepRecord::started(seq, S::NAME, step.input(), now);
                record = Some(record.take().map_or(started, |known| known.now(StepState::Started, now)));
                record.clone()
            })
            .await?;
        if operation.undoing {
            if let Some(known) = known {
                push(self, known);
            }
            return Err(self.turn_around());
        }
        let record = record.expect("a step that was started has its record");
        self.pen.reach(Point::BeforeRun, seq, S::NAME)?;
        let mut answer = if self.pen.faults.fails(seq, Failing::BeforeRun) {
            Err(injected(S::NAME))
        } else {
            step.run(&self.cx).await
        };
        if self.pen.faults.fails(seq, Failing::AfterRun) {
            answer = Err(injected(S::NAME));
        }
        let output = answer.and_then(|output| write_down(&output));
        match output {
            Ok(output) => {
                self.pen.reach(Point::AfterRun, seq, S::NAME)?;
                let mut done = record;
                done.output = Some(output);
                done.error = None;
                let (kept, at) = (&mut done, self.seq);
                let operation = self
                    .pen
                    .write(|operation, now| {
                        operation.step_done(now);
                        if no_return {
                            operation.no_return = Some(at);
                        }
                        *kept = kept.clone().now(StepState::Done, now);
                        Some(kept.clone())
                    })
                    .await?;
                self.no_return = operation.no_return;
                self.passed_return |= no_return;
                push(self, done.clone());
                self.pen.reach(Point::AfterRecord, seq, S::NAME)?;
                if no_return {
                    self.pen.reach(Point::AfterNoReturn, seq, S::NAME)?;
                }
                read(&done)
            }
            Err(error) => {
                push(self, record.clone());
                self.pen.reach(Point::BeforeFailureRecord, seq, S::NAME)?;
                let halt = self.pen.failed(Some(record), error, step.retry()).await;
                self.undoing |= matches!(halt, Halt::Undo);
                Err(halt)
            }
        }
    }

    async fn do_tx<S: TxStep<Cx>>(&mut self, step: Arc<S>, no_return: bool) -> Result<S::Output, Halt> {
        let known = self.next(S::NAME, &step.input())?;
        let seq = self.seq - 1;
        let push = |run: &mut Self, record: StepRecord| {
            run.stack.push(Box::new(DoneTxStep { step: Arc::clone(&step), record }));
        };
        if let Some(record) = self.replayed(known.as_ref(), |run, record| push(run, record))? {
            if no_return {
                self.expect_return_at(self.seq)?;
            }
            return read(&record);
        }
        let (mut tx, Locked { mut operation, now }) = self.pen.journal.fenced(&self.pen.claim).await?;
        if gives_up(&operation) {
            operation.begin_undo(asked_to_abandon(), now);
            self.pen.save(&mut tx, &mut operation, None).await?;
            self.pen.journal.commit(tx).await?;
            if let Some(known) = known {
                push(self, known);
            }
            return Err(self.turn_around());
        }
        let mut record = known.unwrap_or_else(|| StepRecord::started(seq, S::NAME, step.input(), now));
        self.pen.reach(Point::BeforeRun, seq, S::NAME)?;
        let mut answer = if self.pen.faults.fails(seq, Failing::BeforeRun) {
            Err(injected(S::NAME))
        } else {
            step.run(&mut tx).await
        };
        if self.pen.faults.fails(seq, Failing::AfterRun) {
            answer = Err(injected(S::NAME));
        }
        match answer.and_then(|output| write_down(&output)) {
            Ok(output) => {
                record = record.now(StepState::Done, now);
                record.output = Some(output);
                record.error = None;
                operation.step_done(now);
                if no_return {
                    operation.no_return = Some(self.seq);
                }
                self.pen.save(&mut tx, &mut operation, Some(&record)).await?;
                self.pen.reach(Point::BeforeCommit, seq, S::NAME)?;
                self.pen.journal.commit(tx).await?;
                self.no_return = operation.no_return;
                self.passed_return |= no_return;
                push(self, record.clone());
                self.pen.reach(Point::AfterRecord, seq, S::NAME)?;
                if no_return {
                    self.pen.reach(Point::AfterNoReturn, seq, S::NAME)?;
                }
                read(&record)
            }
            Err(error) => {
                drop(tx); // rolled back: the failure is written in a transaction of its own
                push(self, record.clone());
                self.pen.reach(Point::BeforeFailureRecord, seq, S::NAME)?;
                let halt = self.pen.failed(Some(record), error, step.retry()).await;
                self.undoing |= matches!(halt, Halt::Undo);
                Err(halt)
            }
        }
    }

    async fn pass_return(&mut self) -> Result<(), Halt> {
        const HERE: &str = "point_of_no_return";
        if let Some(halt) = self.halt.take() {
            return Err(halt);
        }
        let seq = self.seq;
        if self.no_return.is_some() {
            return self.expect_return_at(seq);
        }
        if (seq as usize) < self.records.len() {
            return Err(Halt::Mismatch(format!("the point of no return comes before step {seq}, which is recorded")));
        }
        if self.undoing {
            return Err(Halt::Undo);
        }
        self.pen.reach(Point::BeforeNoReturn, seq, HERE)?;
        let operation = self
            .pen
            .write(|operation, now| {
                if gives_up(operation) {
                    operation.begin_undo(asked_to_abandon(), now);
                } else {
                    operation.no_return = Some(seq);
                }
                None
            })
            .await?;
        if operation.undoing {
            return Err(self.turn_around());
        }
        self.no_return = operation.no_return;
        self.passed_return = true;
        self.pen.reach(Point::AfterNoReturn, seq, HERE)
    }

    fn expect_return_at(&mut self, seq: u32) -> Result<(), Halt> {
        self.passed_return = true;
        match self.no_return {
            Some(at) if at == seq => Ok(()),
            at => Err(Halt::Mismatch(format!("the point of no return is at {seq}, and was at {at:?}"))),
        }
    }

    /// Takes the next place, if the journal agrees on what stands there, and answers with what it knows.
    fn next(&mut self, name: &'static str, input: &Value) -> Result<Option<StepRecord>, Halt> {
        if let Some(halt) = self.halt.take() {
            return Err(halt);
        }
        let seq = self.seq;
        if self.no_return.is_some_and(|at| at <= seq) && !self.passed_return {
            return Err(Halt::Mismatch(format!("step {seq} `{name}` came without the point of no return before it")));
        }
        let known = self.records.get(seq as usize).cloned();
        if let Some(record) = &known {
            if record.seq != seq || record.name != name {
                let (was, at) = (&record.name, record.seq);
                return Err(Halt::Mismatch(format!("step {seq} is `{name}`, and was `{was}` at {at}")));
            }
            if record.input != *input {
                return Err(Halt::Mismatch(format!("step {seq} `{name}` is asked for something else than before")));
            }
        }
        self.seq += 1;
        Ok(known)
    }

    /// The record of a step that has its answer. `None`: it is to be run.
    fn replayed(
        &mut self,
        known: Option<&StepRecord>,
        push: impl FnOnce(&mut Self, StepRecord),
    ) -> Result<Option<StepRecord>, Halt> {
        match known {
            Some(record) if record.output.is_some() => {
                push(self, record.clone());
                Ok(Some(record.clone()))
            }
            Some(record) if self.undoing || record.state != StepState::Started => {
                push(self, record.clone());
                Err(Halt::Undo)
            }
            None if self.undoing => Err(Halt::Undo),
            _ if *self.stop.borrow() != Stop::No => Err(Halt::Stopping),
            _ => Ok(None),
        }
    }

    fn turn_around(&mut self) -> Halt {
        self.undoing = true;
        Halt::Undo
    }

    /// Remembers why the run ends, and gives the workflow something to pass on with `?`.
    fn halt(&mut self, halt: Halt) -> StepError {
        self.halt = Some(halt);
        StepError::permanent(kind::INTERRUPTED, "the run ends here; the journal knows why")
    }
}

pub(crate) fn gives_up(operation: &Operation) -> bool {
    operation.abandon && operation.no_return.is_none()
}

fn injected(step: &str) -> StepError {
    StepError::permanent(kind::INJECTED, format!("a test made `{step}` fail"))
}

/// A step's output as the journal keeps it; one that cannot be read back is refused now and not at the replay.
fn write_down<O: Serialize + DeserializeOwned>(output: &O) -> Result<Value, StepError> {
    let bad = |error: serde_json::Error| StepError::permanent(kind::BAD_OUTPUT, error.to_string());
    let value = serde_json::to_value(output).map_err(bad)?;
    O::deserialize(&value).map_err(bad)?;
    Ok(value)
}

fn read<O: DeserializeOwned>(record: &StepRecord) -> Result<O, Halt> {
    let output = record.output.as_ref().unwrap_or(&Value::Null);
    let (seq, name) = (record.seq, &record.name);
    O::deserialize(output).map_err(|error| Halt::Mismatch(format!("output of step {seq} `{name}`: {error}")))
}

impl StepRecord {
    fn started(seq: u32, name: &str, input: Value, now: jiff::Timestamp) -> Self {
        Self {
            seq,
            name: name.to_owned(),
            input,
            state: StepState::Started,
            output: None,
            error: None,
            attempts: 0,
            started_at: now,
            updated_at: now,
        }
    }
}
