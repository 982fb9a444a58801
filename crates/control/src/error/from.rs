//! From what errors of use cases come, and what becomes of them in a workflow. Says nothing to people itself.

use super::{ControlError, Kind};
use berth_store::{StoreError, Taken};
use berth_workflow::{JournalError, StepError};

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stale(what) => Self::Stale(what),
            StoreError::Taken(Taken::StackRevision) => Self::AppliedMeanwhile,
            other => Self::Store(other),
        }
    }
}

impl From<JournalError> for ControlError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Missing(id) => Self::NoOperation(id),
            JournalError::Refused(refusal) => Self::Operation(refusal),
            other => Self::Journal(other),
        }
    }
}

/// In a workflow the same errors end a step.
impl From<ControlError> for StepError {
    fn from(error: ControlError) -> Self {
        let message = error.full();
        let step = match error.kind() {
            Kind::Provider | Kind::Unavailable | Kind::Stale if error.retryable() || error.kind() == Kind::Stale => {
                Self::retryable(error.code(), message)
            }
            _ => Self::permanent(error.code(), message),
        };
        match error.hint() {
            Some(hint) => step.hint(hint),
            None => step,
        }
    }
}
