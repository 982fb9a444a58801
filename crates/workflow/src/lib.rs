//! Long operations as journalled steps: run, record, retry, undo.

mod error;
mod fault;
mod finish;
mod journal;
mod memory;
mod operation;
mod pen;
mod registry;
mod run;
mod signal;
mod step;
mod undo;
mod worker;

pub use error::{Fenced, JournalError, Refusal, StepError, kind};
pub use fault::{Failing, Faults, Passed, Point};
pub use finish::Outcome;
pub use journal::{Claim, Filter, Journal, Locked};
pub use memory::{MemoryJournal, MemoryTx};
pub use operation::{Abandoned, Epoch, NewOperation, Operation, Progress, StepRecord, StepState};
pub use registry::{Registry, Workflow, WorkflowFn};
pub use run::Run;
pub use signal::{Cancelled, Reporter};
pub use step::{Context, Retry, Step, TxStep};
pub use worker::{Options, Worker};
