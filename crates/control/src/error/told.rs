//! What is told of an error besides its words: whether asking again may help, which operation stands in the way, its causes.

use crate::{ControlError, Kind};
use berth_domain::OperationId;
use berth_workflow::StepError;

impl ControlError {
    /// The same request may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Provider { source, .. } => source.retryable(),
            Self::StillUnderWay => true,
            other => matches!(other.kind(), Kind::Unavailable | Kind::Provider),
        }
    }

    /// The operation that stands in the way.
    pub fn operation(&self) -> Option<OperationId> {
        match self {
            Self::AlreadyMoving { operation, .. } | Self::TenantState { operation, .. } => *operation,
            Self::TenantBusy { operation, .. } => Some(*operation),
            _ => None,
        }
    }

    /// The error with its causes, for people: `Display` says its own part only.
    pub fn full(&self) -> String {
        StepError::chain(self)
    }
}
