//! What passes between a run and those around it: that it should stop, and how far it is.
//!
//! Never the truth: the journal has that. These only make it known sooner.

use crate::Progress;
use std::sync::Arc;
use tokio::sync::watch;

/// Whether a person has asked to abandon the operation. A long step looks now and then, or waits for it beside its work.
#[derive(Clone, Debug)]
pub struct Cancelled(pub(crate) watch::Receiver<bool>);

impl Cancelled {
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }
    /// Returns when it was asked for; never, if it never is.
    pub async fn wait(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Through which a step says how far it is. Cheap: what is said between two writes to the journal is overwritten.
#[derive(Clone, Debug)]
pub struct Reporter(pub(crate) Arc<watch::Sender<Option<Progress>>>);

impl Reporter {
    pub fn report(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
    /// A fraction of 0 to 1 and a line for people.
    pub fn at(&self, fraction: f64, message: impl Into<String>) {
        let figures = serde_json::Value::Null;
        self.report(Progress { fraction: Some(fraction), message: message.into(), figures });
    }
}
