//! What can go wrong with the control database. What a caller should do about it is for `control` to say, but of a database
//! that this program may not work on: then nothing else of it has started.

use crate::SealError;
use berth_domain::{BadName, BadState, BadStep};

/// A name that must be unique, and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    TenantName,
    TenantKey,
    Host,
    CellName,
    Member,
    StackRevision,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The statement may or may not have been carried out.
    #[error("the control database did not answer")]
    NoAnswer(#[source] sqlx::Error),
    #[error("the control database refused a statement")]
    Refused(#[source] sqlx::Error),
    #[error("the control database could not be brought to this version's schema")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A newer version has taken away what this one uses.
    #[error(
        "the control database serves programs from migration {floor} on, and this one knows none after {newest}: it is \
         too old for it"
    )]
    TooOld { floor: i64, newest: i64 },
    /// Nobody has promised that the two understand what the other wrote.
    #[error("{who}")]
    TooFar {
        who: String,
        #[source]
        refused: Box<BadStep>,
    },
    /// What the change rests on was changed by somebody else meanwhile. Nothing was stored.
    #[error("the {0} was changed meanwhile")]
    Stale(&'static str),
    #[error("already taken: {0:?}")]
    Taken(Taken),
    #[error("the control database holds what this version does not know")]
    State(#[from] BadState),
    #[error("the control database holds a name that is none")]
    Name(#[from] BadName),
    #[error("the control database holds a document that does not parse")]
    Document(#[from] serde_json::Error),
    #[error("a sealed secret could not be opened")]
    Seal(#[from] SealError),
}

impl StoreError {
    /// What to do next, where that is known here.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooOld { .. } => Some("start the version that upgraded the database, or a newer one".to_owned()),
            Self::TooFar { refused, .. } => Some(refused.hint()),
            _ => None,
        }
    }

    /// Asking again may help: nothing is wrong with the request.
    pub fn passes_by_itself(&self) -> bool {
        match self {
            Self::NoAnswer(_) | Self::Stale(_) => true,
            Self::Refused(error) => error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                // Serialization failure, deadlock, shutting down, starting up, too many connections.
                .is_some_and(|code| matches!(&*code, "40001" | "40P01" | "57P01" | "57P02" | "57P03" | "53300")),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(answer) = error.as_database_error() else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::NoAnswer(error),
                _ => Self::Refused(error),
            };
        };
        let taken = match answer.constraint() {
            Some("tenants_name") => Taken::TenantName,
            Some("tenants_key") => Taken::TenantKey,
            Some("hosts_pkey") => Taken::Host,
            Some("cells_name") => Taken::CellName,
            Some("members_cell_id_service_copy_release_key") => Taken::Member,
            Some("stack_revisions_pkey") => Taken::StackRevision,
            _ => return Self::Refused(error),
        };
        if answer.is_unique_violation() { Self::Taken(taken) } else { Self::Refused(error) }
    }
}
