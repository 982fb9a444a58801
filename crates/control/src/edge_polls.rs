//! The stream of an edge in pieces, for who is behind a proxy that cuts or keeps back what does not end.
//!
//! A poll is answered with what the stream says next, at once where there is something, else when there is. What was said
//! is kept between polls, so that only changes are said again: under a token that the edge repeats with its next poll. A
//! poll with another one (its answer was lost, another server gave it) begins the stream anew from what the edge has, and is
//! answered with all that a beginning says: where each poll meets another server no other one would.

use crate::{
    App, ControlError, Follow, Permit,
    edges::{self, Following, Takes},
};
use berth_domain::{EdgeId, EdgeName, Revision};
use berth_wire::edge::EdgeEvent;
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use uuid::Uuid;

/// Longest wait for something to say.
pub const WAIT_MOST: Duration = Duration::from_secs(20);
/// An edge that asks no more is forgotten after this, or half as much again.
const KEPT: Duration = Duration::from_secs(30);
/// Pages of routes are added to an answer until it has so many events or has taken so long. The rest is for the next one.
const EVENTS_MOST: usize = 16;
const READ_FOR: Duration = Duration::from_secs(2);
/// Polls of one edge at a time, those that may go on among them: one a process, and those that a proxy has given up.
pub const OF_ONE_MOST: usize = 32;
/// Of all edges.
const OF_ALL_MOST: usize = 1000;

/// What an edge asks.
#[derive(Clone, Debug)]
pub struct Poll {
    /// The revision it has in force; 0 for one that has none.
    pub after: Revision,
    pub takes: Takes,
    /// Of the answer that it heard last.
    pub heard: Option<Uuid>,
    pub wait: Duration,
}

#[derive(Debug)]
pub struct Polled {
    /// None: nothing happened.
    pub events: Vec<EdgeEvent>,
    /// To be repeated.
    pub token: Uuid,
}

/// Streams that go on with the next poll.
pub(crate) struct Polls<S = Following> {
    kept: Mutex<Kept<S>>,
    all: Arc<Semaphore>,
}

struct Kept<S> {
    open: HashMap<(EdgeName, EdgeId), Open<S>>,
    seats: HashMap<EdgeName, Arc<Semaphore>>,
    /// Somebody looks for those that nobody asks for any more.
    swept: bool,
}

struct Open<S> {
    stream: S,
    takes: Takes,
    token: Uuid,
    left_at: Instant,
    seat: Seat,
}

/// Of its edge and of all, given back when it is dropped.
struct Seat {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl<S> Default for Polls<S> {
    fn default() -> Self {
        let kept = Kept { open: HashMap::new(), seats: HashMap::new(), swept: false };
        Self { kept: Mutex::new(kept), all: Arc::new(Semaphore::new(OF_ALL_MOST)) }
    }
}

impl<S: Send + 'static> Polls<S> {
    fn kept(&self) -> MutexGuard<'_, Kept<S>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream to go on with, which nobody else does meanwhile.
    fn take(&self, edge: &EdgeName, instance: EdgeId, poll: &Poll) -> Option<Open<S>> {
        let found = self.kept().open.remove(&(edge.clone(), instance))?;
        (Some(found.token) == poll.heard && found.takes == poll.takes).then_some(found)
    }

    fn seat(&self, edge: &EdgeName) -> Result<Seat, ControlError> {
        let full = |whose: String, most| ControlError::TooManyPolls { whose, most };
        let mut kept = self.kept();
        kept.seats.retain(|_, seats| seats.available_permits() < OF_ONE_MOST);
        let of_one = kept.seats.entry(edge.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_MOST)));
        let of_one = Arc::clone(of_one).try_acquire_owned().map_err(|_| full(format!("edge `{edge}`"), OF_ONE_MOST))?;
        let of_all =
            Arc::clone(&self.all).try_acquire_owned().map_err(|_| full("all edges".to_owned(), OF_ALL_MOST))?;
        Ok(Seat { _of_one: of_one, _of_all: of_all })
    }

    fn keep(self: &Arc<Self>, edge: EdgeName, instance: EdgeId, one: Open<S>) {
        let mut kept = self.kept();
        kept.open.insert((edge, instance), one);
        if !mem::replace(&mut kept.swept, true) {
            let polls = Arc::clone(self);
            tokio::spawn(async move {
                loop {
                    sleep(KEPT / 2).await;
                    if polls.forget() {
                        return;
                    }
                }
            });
        }
    }

    /// Forgets those that nobody asked for. True: there is none left, and nobody looks.
    fn forget(&self) -> bool {
        let mut kept = self.kept();
        kept.open.retain(|_, one| one.left_at.elapsed() < KEPT);
        kept.swept = !kept.open.is_empty();
        !kept.swept
    }
}

/// What there is to say, or nothing after the wait.
pub async fn poll(
    app: &App,
    permit: &Permit<Follow>,
    edge: EdgeName,
    instance: EdgeId,
    poll: Poll,
) -> Result<Polled, ControlError> {
    let polls = app.edge_polls();
    let (mut stream, seat) = match polls.take(&edge, instance, &poll) {
        Some(Open { mut stream, seat, .. }) => {
            // What has come since counts also for who does not wait.
            stream.woken(Duration::ZERO).await?;
            (stream, seat)
        }
        None => {
            let seat = polls.seat(&edge)?;
            (edges::begin(app, permit, edge.clone(), instance, poll.after, poll.takes.clone()).await?, seat)
        }
    };
    let ends = Instant::now() + poll.wait.min(WAIT_MOST);
    let mut events = Vec::new();
    let mut began = None;
    // Whoever hangs up here drops the stream with what it said last: the next poll begins anew.
    loop {
        let Some(event) = stream.news().await? else {
            let left = ends.saturating_duration_since(Instant::now());
            if !events.is_empty() || left.is_zero() {
                break;
            }
            stream.woken(left).await?;
            continue;
        };
        events.push(event);
        let long = began.get_or_insert_with(Instant::now).elapsed() >= READ_FOR;
        if (long || events.len() >= EVENTS_MOST) && stream.has_begun() {
            break;
        }
    }
    let token = Uuid::new_v4();
    polls.keep(edge, instance, Open { stream, takes: poll.takes, token, left_at: Instant::now(), seat });
    Ok(Polled { events, token })
}

#[cfg(test)]
mod tests {
    use super::{KEPT, OF_ALL_MOST, OF_ONE_MOST, Open, Poll, Polls, Seat};
    use crate::edges::Takes;
    use berth_domain::{EdgeId, EdgeName, Revision};
    use std::{sync::Arc, time::Duration};
    use tokio::time::{Instant, sleep};
    use uuid::Uuid;

    fn edge(n: usize) -> EdgeName {
        EdgeName::new(format!("edge-{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_asks_for_any_more_is_forgotten_by_itself() {
        let polls: Arc<Polls<Arc<()>>> = Arc::default();
        let stream = Arc::new(());
        let keep = |instance: EdgeId| {
            let (token, takes) = (Uuid::from_u128(7), Takes::default());
            let seat = polls.seat(&edge(1)).unwrap();
            let one = Open { stream: Arc::clone(&stream), takes, token, left_at: Instant::now(), seat };
            polls.keep(edge(1), instance, one);
        };
        let asks = Poll {
            after: Revision::default(),
            takes: Takes::default(),
            heard: Some(Uuid::from_u128(7)),
            wait: Duration::ZERO,
        };
        let (first, second) = (EdgeId::new(Uuid::from_u128(1)), EdgeId::new(Uuid::from_u128(2)));
        keep(first);
        sleep(KEPT * 2 / 3).await;
        keep(second);
        assert!(polls.take(&edge(1), first, &asks).is_some(), "it was asked for in time");
        keep(first);
        sleep(KEPT * 2 / 3).await;
        assert_eq!(Arc::strong_count(&stream), 3);
        sleep(KEPT).await;
        assert_eq!(Arc::strong_count(&stream), 1, "nobody had to ask");
        // And again, after there was none.
        keep(second);
        sleep(KEPT * 2).await;
        assert_eq!(Arc::strong_count(&stream), 1);
    }

    #[tokio::test]
    async fn polls_are_bounded_by_edge_and_in_all_and_the_refusal_says_so() {
        let polls: Polls<()> = Polls::default();
        let mut seats: Vec<Seat> = (0..OF_ONE_MOST).map(|_| polls.seat(&edge(0)).unwrap()).collect();
        let refused = polls.seat(&edge(0)).err().unwrap();
        assert_eq!(refused.code(), "too_many_polls");
        assert_eq!(refused.to_string(), format!("edge `edge-0`: {OF_ONE_MOST} polls are under way or kept already"));
        assert!(refused.hint().is_some());
        let others = (OF_ONE_MOST..OF_ALL_MOST).map(|n| polls.seat(&edge(n / OF_ONE_MOST)).unwrap());
        seats.extend(others);
        let refused = polls.seat(&edge(OF_ALL_MOST)).err().unwrap();
        assert!(refused.to_string().starts_with("all edges"), "{refused}");
        drop(seats.pop());
        assert!(polls.seat(&edge(OF_ALL_MOST)).is_ok());
        drop(seats);
        assert!(polls.seat(&edge(0)).is_ok());
    }
}
