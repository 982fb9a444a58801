//! An operation's row and everything that may happen to it: one pure function per event.
//!
//! Every implementation of [`crate::Journal`] only stores these rows; that no two of them disagree on when a lease
//! is lost or an abandonment refused is because the rules stand here alone. Never reads a clock: the journal's
//! own moment is given, so that two machines with two clocks do not quarrel over one lease.

use crate::{Fenced, JournalError, Refusal, StepError, kind};
use berth_domain::{OperationId, OperationState as State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, str::FromStr, time::Duration};

/// Fencing token of a lease: raised at each claim. A worker with a lower one is refused by the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How far an operation is, for those who watch it. The newest one counts; none is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1; unknown is none.
    pub fraction: Option<f64>,
    pub message: String,
    /// Whatever the workflow measures (rows copied, bytes behind), by name.
    #[serde(default)]
    pub figures: Value,
}

/// What a caller hands in to start an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOperation {
    /// Chosen by the caller; starting the same twice is one operation.
    pub id: OperationId,
    pub workflow: String,
    /// What it is about, in the caller's own words (`tenant/…`); only to list by.
    pub subject: Option<String>,
    pub input: Value,
}

/// An operation as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    pub workflow: String,
    pub subject: Option<String>,
    pub input: Value,
    pub state: State,
    /// It goes backward. Kept beside the state, since a stuck operation does not tell where it was heading.
    pub undoing: bool,
    /// Sequence number of the first step past the point of no return, once that is passed.
    pub no_return: Option<u32>,
    /// A person asked to give it up.
    pub abandon: bool,
    /// Failures in a row of the step (or undo) at hand.
    pub attempts: u32,
    /// Not before this moment.
    pub retry_at: Option<Timestamp>,
    /// The last failure; stays after an undo to say why.
    pub error: Option<StepError>,
    pub progress: Option<Progress>,
    /// What the workflow returned.
    pub result: Option<Value>,
    pub epoch: Epoch,
    /// Who holds the lease; set exactly when `lease_until` is.
    pub worker: Option<String>,
    pub lease_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

/// How an abandonment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// A worker will undo what was done.
    Undoing,
    /// It ended at once, and what was done stays (forced).
    AsItIs,
}

impl Operation {
    pub fn new(new: &NewOperation, now: Timestamp) -> Self {
        Self {
            id: new.id,
            workflow: new.workflow.clone(),
            subject: new.subject.clone(),
            input: new.input.clone(),
            state: State::Queued,
            undoing: false,
            no_return: None,
            abandon: false,
            attempts: 0,
            retry_at: None,
            error: None,
            progress: None,
            result: None,
            epoch: Epoch(0),
            worker: None,
            lease_until: None,
            created_at: now,
            updated_at: now,
            finished_at: None,
        }
    }

    /// A worker may take it: it wants work, is due, and nobody holds a valid lease.
    pub fn is_claimable(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Queued | State::Running | State::Undoing)
            && self.retry_at.is_none_or(|at| at <= now)
            && self.lease_until.is_none_or(|until| until <= now)
    }

    /// Hands it to a worker. The epoch rises even if the same worker had it before: its older self is a stranger.
    pub fn claim(&mut self, worker: &str, lease: Duration, now: Timestamp) {
        self.state = self.heading();
        self.epoch = Epoch(self.epoch.0 + 1);
        self.worker = Some(worker.to_owned());
        self.lease_until = Some(after(now, lease));
        self.retry_at = None;
        self.updated_at = now;
    }

    /// Whether a worker that claimed it under `epoch` may still write.
    pub fn held_by(&self, epoch: Epoch, now: Timestamp) -> Result<(), JournalError> {
        let reason = match self.lease_until {
            _ if self.epoch != epoch => Fenced::ClaimedAgain,
            Some(until) if until > now => return Ok(()),
            Some(_) => Fenced::LeaseRanOut,
            None => Fenced::LetGo,
        };
        Err(JournalError::Fenced { operation: self.id, reason })
    }

    pub fn renew(&mut self, lease: Duration, now: Timestamp) {
        self.lease_until = Some(after(now, lease));
    }

    /// Lets go of it for others, at once.
    pub fn release(&mut self, now: Timestamp) {
        self.state = if self.undoing { State::Undoing } else { State::Queued };
        self.unlease(now);
    }

    /// The step at hand failed and is to be tried again after a pause.
    pub fn retry_later(&mut self, error: StepError, pause: Duration, now: Timestamp) {
        self.release(now);
        self.attempts += 1;
        self.error = Some(error);
        self.retry_at = Some(after(now, pause));
    }

    /// Turns around. Only before the point of no return.
    pub fn begin_undo(&mut self, error: StepError, now: Timestamp) {
        self.state = State::Undoing;
        self.undoing = true;
        self.attempts = 0;
        self.error = Some(error);
        self.updated_at = now;
    }

    /// The step (or undo) at hand is done.
    pub fn step_done(&mut self, now: Timestamp) {
        self.attempts = 0;
        if !self.undoing {
            self.error = None;
        }
        self.updated_at = now;
    }

    pub fn succeed(&mut self, result: Value, now: Timestamp) {
        self.error = None;
        self.result = Some(result);
        self.finish(State::Succeeded, now);
    }

    /// All is undone; what remains is why.
    pub fn undone(&mut self, now: Timestamp) {
        self.finish(if self.abandon { State::Abandoned } else { State::Failed }, now);
    }

    /// Neither forward nor back works without a person.
    pub fn stick(&mut self, error: StepError, now: Timestamp) {
        self.state = State::Stuck;
        self.attempts += 1;
        self.error = Some(error);
        self.unlease(now);
    }

    /// A person says: try again now.
    pub fn retry(&mut self, now: Timestamp) -> Result<(), Refusal> {
        let waits = self.retry_at.is_some() && !self.state.is_final();
        if self.state != State::Stuck && !waits {
            return Err(Refusal::NothingToRetry { state: self.state });
        }
        self.attempts = 0;
        self.release(now);
        Ok(())
    }

    /// A person says: give it up. Forcing leaves the world as it is and fences the worker that may be at it.
    pub fn give_up(&mut self, force: bool, now: Timestamp) -> Result<Abandoned, Refusal> {
        if self.state.is_final() {
            return Err(Refusal::Over { state: self.state });
        }
        if force {
            self.abandon = true;
            self.epoch = Epoch(self.epoch.0 + 1);
            self.finish(State::Abandoned, now);
            return Ok(Abandoned::AsItIs);
        }
        if self.no_return.is_some() {
            return Err(Refusal::PastReturn);
        }
        if self.undoing && self.state == State::Stuck {
            return Err(Refusal::UndoStuck);
        }
        self.abandon = true;
        self.retry_at = None;
        self.updated_at = now;
        if self.state == State::Stuck {
            let error = self.error.take().unwrap_or_else(asked_to_abandon);
            self.begin_undo(error, now);
            self.release(now);
        }
        Ok(Abandoned::Undoing)
    }

    const fn heading(&self) -> State {
        if self.undoing { State::Undoing } else { State::Running }
    }

    fn unlease(&mut self, now: Timestamp) {
        self.worker = None;
        self.lease_until = None;
        self.retry_at = None;
        self.updated_at = now;
    }

    fn finish(&mut self, state: State, now: Timestamp) {
        self.unlease(now);
        self.state = state;
        self.attempts = 0;
        self.finished_at = Some(now);
    }
}

/// The error under which an abandoned operation is undone.
pub(crate) fn asked_to_abandon() -> StepError {
    StepError::permanent(kind::ABANDONED, "a person asked to give it up")
}

/// A moment after `now`. Pauses and leases are bounded by their callers; past the end of time is the end of time.
fn after(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

/// What is known of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// *Unknown*: asked for, and nobody has recorded an answer yet.
    Started,
    Done,
    /// Failed for good, having perhaps changed something.
    Failed,
    /// Its undo was asked for, and nobody has recorded an answer yet.
    Undoing,
    Undone,
}

impl StepState {
    pub const ALL: &'static [Self] = &[Self::Started, Self::Done, Self::Failed, Self::Undoing, Self::Undone];
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
        }
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for StepState {
    type Err = JournalError;
    fn from_str(text: &str) -> Result<Self, JournalError> {
        let found = Self::ALL.iter().find(|state| state.as_str() == text);
        found.copied().ok_or_else(|| JournalError::Unreadable { what: format!("step state {text}") })
    }
}

/// One step of one operation, keyed by operation and `seq`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Place in the workflow, from 0.
    pub seq: u32,
    pub name: String,
    /// What the step says it was asked for ([`crate::Step::input`]); null if it says nothing.
    pub input: Value,
    pub state: StepState,
    /// `Some(Value::Null)` is an output (of a step that returns `()`), and `None` is none: SQL keeps them apart
    /// as `'null'::jsonb` and `NULL`.
    pub output: Option<Value>,
    /// The last failure of its run or undo.
    pub error: Option<StepError>,
    /// Failures of its run and its undo together.
    pub attempts: u32,
    pub started_at: Timestamp,
    pub updated_at: Timestamp,
}
