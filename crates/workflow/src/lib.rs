//! Long operations as journalled steps: run, record, retry, undo.

mod error;
mod journal;
mod operation;
mod step;

pub use error::{Fenced, JournalError, Refusal, StepError, kind};
pub use journal::{Claim, Filter, Journal, Locked};
pub use operation::{Abandoned, Epoch, NewOperation, Operation, Progress, StepRecord, StepState};
pub use step::{Context, Retry, Step, TxStep};
