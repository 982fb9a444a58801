//! Long operations as journalled steps: run, record, retry, undo.
//!
//! Never knows what a tenant is, nor where a journal keeps its rows.
//!
//! # A walk through
//! ```
//! # use berth_workflow::*; use serde::{Serialize, Deserialize}; use std::sync::{Arc, Mutex};
//! # #[derive(Default)] struct Provider(Mutex<Vec<String>>);
//! # impl Provider {
//! #   async fn ensure(&self, n: &str) -> Result<String, StepError> { self.0.lock().unwrap().push(n.into()); Ok(n.into()) }
//! #   async fn remove(&self, n: &str) -> Result<(), StepError> { self.0.lock().unwrap().retain(|x| x != n); Ok(()) } }
//! struct Cx { provider: Provider }
//! impl Context for Cx { type Tx = MemoryTx; }
//!
//! struct CreateDatabase { name: String }
//!
//! #[async_trait::async_trait]
//! impl Step<Cx> for CreateDatabase {
//!     const NAME: &'static str = "create_database";
//!     type Output = String;
//!     async fn run(&self, cx: &Cx) -> Result<String, StepError> {
//!         cx.provider.ensure(&self.name).await
//!     }
//!     async fn undo(&self, cx: &Cx, _made: Option<String>) -> Result<(), StepError> {
//!         cx.provider.remove(&self.name).await
//!     }
//! }
//!
//! struct PublishRoute { database: String }
//!
//! #[async_trait::async_trait]
//! impl TxStep<Cx> for PublishRoute {
//!     const NAME: &'static str = "publish_route";
//!     type Output = ();
//!     async fn run(&self, tx: &mut MemoryTx) -> Result<(), StepError> {
//!         tx.set("route", self.database.clone().into());
//!         Ok(())
//!     }
//!     async fn undo(&self, tx: &mut MemoryTx, (): ()) -> Result<(), StepError> {
//!         tx.remove("route");
//!         Ok(())
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct CreateTenant { name: String }
//! const CREATE_TENANT: Workflow<CreateTenant> = Workflow::named("create_tenant");
//!
//! async fn create_tenant(run: &mut Run<Cx>, input: CreateTenant) -> Result<(), StepError> {
//!     let database = run.step(CreateDatabase { name: input.name }).await?;
//!     run.tx(PublishRoute { database }).await?;
//!     run.point_of_no_return().await
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let journal = Arc::new(MemoryJournal::new());
//! let id = berth_domain::OperationId::new(uuid::Uuid::now_v7());
//! let mut tx = journal.begin().await?; // the caller's own rows go into the same transaction
//! journal.start(&mut tx, CREATE_TENANT.with(id, &CreateTenant { name: "acme".into() })).await?;
//! journal.commit(tx).await?;
//!
//! let registry = Registry::new().with(&CREATE_TENANT, create_tenant);
//! let cx = Cx { provider: Provider::default() };
//! let worker = Worker::new(journal.clone(), Arc::new(registry), Arc::new(cx), Options::named("worker-1"));
//! worker.turn().await?; // a server calls `run` instead, which goes on until told to stop
//! assert_eq!(journal.control().await["route"], "acme");
//! # Ok::<_, JournalError>(()) }).unwrap();
//! ```
//!
//! 1. [`Journal::start`] writes the operation's row in the caller's transaction. A worker **claims** it: the row's epoch
//!    rises and a lease begins. The epoch is the fencing token; whoever holds a lower one writes nothing any more.
//! 2. The worker calls the workflow from its first line, each time. [`Run::step`] looks into the journal: a step with
//!    a recorded output answers with that; a new one is recorded as *started* (unknown), runs, and its output is
//!    recorded. Every record is written under the row's lock, after the epoch and the lease have been checked there.
//! 3. A worker dies between the world's change and its record: the next one finds *started* and runs the step
//!    again. That is why steps go by names: `ensure` finds what is there. A [`TxStep`] has no such gap.
//! 4. A step fails. Retryable: the operation is let go of and is due again after a pause that doubles. For good: the
//!    turn-around is recorded with the failure, and the steps are undone newest first, the failed one with `None`. A worker that
//!    takes over in the midst of it replays the workflow only to learn what there is to undo.
//! 5. Past [`Run::point_of_no_return`] there is no way back: failures are repeated for long, then a person is asked (*stuck*).
//! 6. If the journal has other steps than the workflow asks for, somebody edited a released workflow. The operation is
//!    stuck, untouched, until the right program retries it.
//!
//! A crash anywhere is tested by one line per workflow: [`crash_tests!`].

pub mod conformance;
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
pub mod testing;
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
pub use worker::{Options, Reserve, Worker};
