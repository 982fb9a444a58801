//! A future that is looked at again only when it asked for that, however often its task is woken for other reasons.
//!
//! What a connection has to hear of seldom (a drain, an end, its time) takes a lock a look, and some of those locks are
//! all cores' together; a request wakes its connection twice. Never polls a future that did not ask.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

#[derive(Debug)]
struct Asked {
    again: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Asked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::Release);
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

/// One future's turn.
#[derive(Debug)]
pub struct Seldom {
    asked: Arc<Asked>,
    /// Wakes by the above.
    waker: Waker,
    /// Whom the above wakes.
    task: Option<Waker>,
}

impl Default for Seldom {
    fn default() -> Self {
        let asked = Arc::new(Asked { again: AtomicBool::new(true), task: Mutex::default() });
        Self { waker: Arc::clone(&asked).into(), asked, task: None }
    }
}

impl Seldom {
    /// The next future begins: it has been looked at by nobody.
    pub fn begin(&self) {
        self.asked.again.store(true, Ordering::Relaxed);
    }

    pub fn poll<F: Future>(&mut self, future: Pin<&mut F>, cx: &Context<'_>) -> Poll<F::Output> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            let task = Some(cx.waker().clone());
            self.asked.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&task);
            self.task = task;
        }
        // Taken before the look, so that what is asked during it counts for the next.
        if !self.asked.again.load(Ordering::Relaxed) || !self.asked.again.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        future.poll(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::Seldom;
    use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, task::Poll};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn it_is_looked_at_once_until_it_asks_and_its_task_is_woken_then() {
        let (bell, looks) = (Rc::new(Notify::new()), Cell::new(0));
        let mut rung = pin!(bell.notified());
        let mut waits = pin!(poll_fn(|cx| {
            looks.set(looks.get() + 1);
            rung.as_mut().poll(cx)
        }));
        let mut seldom = Seldom::default();
        // The task is woken for other reasons.
        for _ in 0..5 {
            poll_fn(|cx| {
                assert!(seldom.poll(waits.as_mut(), cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(looks.get(), 1);
        let ringer = Rc::clone(&bell);
        let ring = async move {
            tokio::task::yield_now().await;
            ringer.notify_waiters();
        };
        let heard = poll_fn(|cx| seldom.poll(waits.as_mut(), cx));
        tokio::join!(ring, heard);
        assert_eq!(looks.get(), 2);
    }
}
