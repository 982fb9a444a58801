//! A thread for sessions between which many rows pass. Where the tasks that read, pass on and write a row are woken on one thread, no
//! other thread has to be woken for each of its steps.

use crate::MoveError;
use tokio::runtime::{Builder, Handle, Runtime};

pub(crate) struct Lane {
    /// There until this is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Lane {
    pub(crate) fn new() -> Result<Self, MoveError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().thread_name("berth-rows").build();
        let runtime = runtime.map_err(MoveError::Stream)?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What it connects is driven here from then on.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, MoveError> {
        self.handle.spawn(work).await.map_err(|_| panicked())
    }
}

pub(crate) fn panicked() -> MoveError {
    MoveError::Stream(std::io::Error::other("a copy worker panicked"))
}

/// Whatever still runs there ends, and with it its sessions.
impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // To wait for it would hold up the thread of whoever drops it.
            runtime.shutdown_background();
        }
    }
}
