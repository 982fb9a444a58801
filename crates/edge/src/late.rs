//! Time limits of answers, looked at once a second for all requests of a core: a timer a request would be set and taken
//! back a million times for each one that ever rings.
//!
//! Never late by more than the time between two looks, and never early.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

/// Requests of one core that wait for an answer.
#[derive(Debug, Default)]
pub struct Waiting {
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    all: Vec<Option<(Instant, Waker)>>,
    free: Vec<usize>,
}

impl Waiting {
    /// Wakes those whose time is over.
    pub fn look(&self, now: Instant) {
        for (until, waker) in self.entries.borrow().all.iter().flatten() {
            if *until <= now {
                waker.wake_by_ref();
            }
        }
    }

    /// The future's output, or `None` when its time was over before.
    pub fn within<F: Future>(waiting: &Rc<Self>, until: Instant, future: F) -> Within<F> {
        Within { future, until, place: None, waiting: Rc::downgrade(waiting) }
    }

    fn put(&self, until: Instant, waker: &Waker) -> usize {
        let entries = &mut *self.entries.borrow_mut();
        let entry = Some((until, waker.clone()));
        if let Some(at) = entries.free.pop() {
            entries.all[at] = entry;
            return at;
        }
        entries.all.push(entry);
        entries.all.len() - 1
    }

    fn remove(&self, at: usize) {
        let entries = &mut *self.entries.borrow_mut();
        entries.all[at] = None;
        entries.free.push(at);
    }

    /// Of a task that is another one by now: a client went away and what it sent goes on.
    fn is_for(&self, at: usize, waker: &Waker) -> bool {
        self.entries.borrow().all[at].as_ref().is_some_and(|(_, known)| known.will_wake(waker))
    }
}

pub struct Within<F> {
    future: F,
    until: Instant,
    place: Option<usize>,
    waiting: Weak<Waiting>,
}

impl<F: Future + Unpin> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Poll::Ready(output) = Pin::new(&mut this.future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Some(waiting) = this.waiting.upgrade() else { return Poll::Pending };
        match this.place {
            Some(at) if waiting.is_for(at, cx.waker()) => {
                if Instant::now() >= this.until {
                    return Poll::Ready(None);
                }
            }
            Some(at) => {
                waiting.remove(at);
                this.place = Some(waiting.put(this.until, cx.waker()));
            }
            None => this.place = Some(waiting.put(this.until, cx.waker())),
        }
        Poll::Pending
    }
}

impl<F> Drop for Within<F> {
    fn drop(&mut self) {
        if let (Some(at), Some(waiting)) = (self.place, self.waiting.upgrade()) {
            waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Waiting;
    use std::{
        future::{pending, ready},
        pin::pin,
        rc::Rc,
        time::{Duration, Instant},
    };

    #[tokio::test]
    async fn who_is_late_is_woken_by_the_next_look_and_nobody_else() {
        let (waiting, start) = (Rc::new(Waiting::default()), Instant::now());
        assert_eq!(Waiting::within(&waiting, start, ready(7)).await, Some(7), "what is there in time is never late");
        let short = Waiting::within(&waiting, start, pending::<()>());
        let mut long = pin!(Waiting::within(&waiting, start + Duration::from_hours(1), pending::<()>()));
        let looks = async {
            tokio::task::yield_now().await;
            waiting.look(Instant::now());
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = long.as_mut() => panic!("its time is not over"),
            late = short => assert_eq!(late, None),
            () = looks => unreachable!("it goes on for ever"),
        }
        assert_eq!(waiting.entries.borrow().all.iter().flatten().count(), 1, "the long one waits on");
    }
}
