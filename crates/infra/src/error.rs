//! What a provider can answer besides yes. Never text alone: whether to try again must be a `match`, not a guess.

use std::io;

/// Whose fault it is. Alone picks the HTTP status, further up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for cannot be had in this form.
    Caller,
    /// It could be had, but a limit of the account or machine is reached.
    Quota,
    /// The provider does not do its part now.
    Provider,
    /// We or the machine we run on.
    Ours,
}

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The provider looked at the request and said no. Nothing was made.
    #[error("{what} was refused: {reason}")]
    Refused { what: String, reason: String },
    /// The request may or may not have been carried out: the connection broke or the time ran out before the answer.
    /// Only `observe_` or the same `ensure_` again can tell. A lost answer is never `Refused`, or a resource that
    /// was made after all would be forgotten.
    #[error("{what}: no answer came, it may or may not have happened")]
    NoAnswer { what: String },
    /// Somebody else is at this resource right now, or it is between two states.
    #[error("{what} is busy")]
    Busy { what: String },
    #[error("{what}: limit reached: {limit}")]
    Quota { what: String, limit: String },
    #[error("there is no {what}")]
    Absent { what: String },
    /// It was made, and then did not come up. `log` holds the last lines it wrote.
    #[error("{what} did not start: {reason}{}", tail(.log))]
    DidNotStart { what: String, reason: String, log: String },
    /// There, and not what was asked for.
    #[error("`{what}` has the digest {found}, not {wanted}")]
    OtherDigest { what: String, wanted: String, found: String },
    /// The registry looked at the request and said no, or has no such image. Which of them, `remedy` knows.
    #[error("image `{image}` could not be pulled: {reason}")]
    NotPulled { image: String, reason: String, remedy: String },
    /// A program that the adapter needs is not on this machine.
    #[error("`{program}` is not installed")]
    NotInstalled { program: String, remedy: String },
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    /// Our own record of the resource cannot be read back.
    #[error("the record of {what} is damaged: {reason}")]
    Damaged { what: String, reason: String },
}

fn tail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its last lines:\n{log}") }
}

impl ProviderError {
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { .. }
            | Self::Absent { .. }
            | Self::DidNotStart { .. }
            | Self::OtherDigest { .. }
            | Self::NotPulled { .. } => ErrorKind::Caller,
            Self::Quota { .. } => ErrorKind::Quota,
            Self::NoAnswer { .. } | Self::Busy { .. } => ErrorKind::Provider,
            Self::NotInstalled { .. } | Self::Io { .. } | Self::Damaged { .. } => ErrorKind::Ours,
        }
    }

    /// Whether the same call can succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Busy { .. } | Self::Io { .. } | Self::DidNotStart { .. } => true,
            Self::Refused { .. }
            | Self::Quota { .. }
            | Self::Absent { .. }
            | Self::OtherDigest { .. }
            | Self::NotPulled { .. }
            | Self::NotInstalled { .. }
            | Self::Damaged { .. } => false,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            // One that an older Berth on a server has said comes without.
            Self::NotInstalled { remedy, .. } | Self::NotPulled { remedy, .. } => {
                (!remedy.is_empty()).then(|| remedy.clone())
            }
            Self::Quota { .. } => Some("remove what is not needed, or raise the limit".to_owned()),
            Self::DidNotStart { .. } => {
                Some("its command, health path and environment come from the stack file".to_owned())
            }
            Self::OtherDigest { .. } => {
                Some("put the program there under its own path, or name the digest that `sha256sum` prints".to_owned())
            }
            Self::NoAnswer { .. } | Self::Busy { .. } => Some("it is tried again by itself".to_owned()),
            Self::Refused { .. } | Self::Absent { .. } | Self::Io { .. } | Self::Damaged { .. } => None,
        }
    }
}
