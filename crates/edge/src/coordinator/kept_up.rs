//! Keeps a part of the edge going. Never knows which.

use std::{future::Future, time::Duration};
use tokio::task::JoinSet;

/// How soon a part that failed begins anew.
const AGAIN: Duration = Duration::from_secs(1);

/// Begins anew what ended by a fault of its own: without it the edge would serve on, deaf to every change.
pub async fn kept_up<T: Future<Output = ()> + Send + 'static>(what: &'static str, begin: impl Fn() -> T) {
    let mut running = JoinSet::new();
    loop {
        running.spawn(begin());
        match running.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!("{what} ended by a fault of Berth's; it begins anew");
            }
            _ => return,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::kept_up;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    #[tokio::test(start_paused = true)]
    async fn what_ends_by_a_fault_begins_anew_and_what_ends_by_itself_does_not() {
        let begun = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&begun);
        kept_up("a test", move || {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(nth == 2, "it fails twice") }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
