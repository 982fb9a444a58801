//! What can go wrong: in a step, in the journal, and when a person asks for what cannot be.
//!
//! Never decides what follows from an error: that is `run` for steps and `worker` for the journal.

use berth_domain::{OperationId, OperationState};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Duration};

/// Why a step did not come to its end, in the form that the journal keeps and people read.
///
/// A struct and no enum, because it has to survive the program that made it: a later one reads it back, and
/// the crates whose errors end here are not known to this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// The stable word, as in the API's `code`.
    pub kind: Cow<'static, str>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Trying the same again may work.
    pub retryable: bool,
    /// The other side named a time before which trying is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

impl StepError {
    /// The same again will fail the same way: before the point of no return this undoes the workflow.
    pub fn permanent(kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), hint: None, retryable: false, retry_after: None }
    }
    /// Worth another try after a pause.
    pub fn retryable(kind: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::permanent(kind, message) }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
    /// The error and its causes in one line: `Display` alone leaves the causes to `source`, and a journal has none.
    pub fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

/// Kinds that this crate itself gives to a [`StepError`].
pub mod kind {
    /// The run ends here for now; never stored. A workflow only passes it on.
    pub const INTERRUPTED: &str = "interrupted";
    /// A person asked for the operation to be given up.
    pub const ABANDONED: &str = "abandoned";
    /// The workflow asks for other steps than the journal has.
    pub const JOURNAL_MISMATCH: &str = "journal_mismatch";
    /// The operation's input is not what the workflow reads.
    pub const BAD_INPUT: &str = "bad_input";
    /// A step's output could not be written down or read back.
    pub const BAD_OUTPUT: &str = "bad_output";
    /// A test asked for this failure.
    pub const INJECTED: &str = "injected";
}

/// The journal did not do as asked. Nothing of the transaction at hand was kept, except after [`Self::Unreachable`]
/// from a commit: then it may have been, and only reading it again tells.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("operation {operation} is no longer this worker's: {reason}")]
    Fenced { operation: OperationId, reason: Fenced },
    #[error("there is no operation {0}")]
    Missing(OperationId),
    #[error("operation {operation} exists with another workflow or input")]
    Conflict { operation: OperationId },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the journal does not answer")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the journal holds `{what}`, which this program cannot read")]
    Unreadable { what: String },
}

impl JournalError {
    pub fn unreachable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable(source.into())
    }
    /// The stable word for the API.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "lease_lost",
            Self::Missing(_) => "operation_unknown",
            Self::Conflict { .. } => "operation_conflict",
            Self::Refused(refusal) => refusal.kind(),
            Self::Unreachable(_) => "journal_unreachable",
            Self::Unreadable { .. } => "journal_unreadable",
        }
    }
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fenced { .. } => Some("another worker goes on with it; nothing is to be done"),
            Self::Missing(_) => Some("`berth operation list` shows those there are"),
            Self::Conflict { .. } => Some("use a new idempotency key for another request"),
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Unreachable(_) => Some("the operation goes on by itself once its database answers"),
            Self::Unreadable { .. } => Some("a newer version wrote it: run that version"),
        }
    }
}

/// How a worker lost its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    #[error("it was claimed again since")]
    ClaimedAgain,
    #[error("the lease ran out")]
    LeaseRanOut,
    #[error("it was let go of")]
    LetGo,
}

/// What a person asked of an operation cannot be done in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the operation is {state}: there is nothing to retry")]
    NothingToRetry { state: OperationState },
    #[error("the operation is {state}: there is nothing to abandon")]
    Over { state: OperationState },
    #[error("the operation has passed its point of no return")]
    PastReturn,
    #[error("the operation is being undone, and the undo is stuck")]
    UndoStuck,
}

impl Refusal {
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NothingToRetry { .. } => "nothing_to_retry",
            Self::Over { .. } => "operation_over",
            Self::PastReturn => "past_point_of_no_return",
            Self::UndoStuck => "undo_stuck",
        }
    }
    pub const fn hint(self) -> &'static str {
        match self {
            Self::NothingToRetry { .. } => "only a stuck operation, or one that waits for its next try, is retried",
            Self::Over { .. } => "start a new operation",
            Self::PastReturn => "retry it to bring it to its end; forcing leaves it half done",
            Self::UndoStuck => "mend the cause and retry; forcing leaves behind what was not undone",
        }
    }
}
