//! The stream of an edge in pieces, for who is behind a proxy that cuts or keeps back what does not end.
//!
//! A poll is answered with what the stream says next, at once where there is something, else when there is. What was said
//! is kept between polls, so that only changes are said again: under a token that the edge repeats with its next poll. A
//! poll with another one (its answer was lost, another server gave it) begins the stream anew from what the edge has.

use crate::{
    App, ControlError, Follow, Permit,
    edges::{self, Takes},
};
use berth_domain::{EdgeId, EdgeName, Revision};
use berth_wire::edge::EdgeEvent;
use futures_util::StreamExt as _;
use std::{
    collections::HashMap,
    pin::pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};
use uuid::Uuid;

/// Longest wait for something to say.
pub const WAIT_MOST: Duration = Duration::from_secs(20);
/// An edge that asks no more is forgotten after this.
const KEPT: Duration = Duration::from_secs(30);
/// Events of one answer.
const EVENTS_MOST: usize = 16;
/// What follows the first event is waited for this long.
const AND_MORE: Duration = Duration::from_millis(5);

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
#[derive(Default)]
pub(crate) struct Polls {
    open: Mutex<HashMap<(EdgeName, EdgeId), Open>>,
}

struct Open {
    events: mpsc::Receiver<Result<EdgeEvent, ControlError>>,
    takes: Takes,
    token: Uuid,
    left_at: Instant,
}

impl Polls {
    /// The stream to go on with, which nobody else does meanwhile.
    fn take(&self, edge: &EdgeName, instance: EdgeId, poll: &Poll) -> Option<Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, one| one.left_at.elapsed() < KEPT);
        let found = open.remove(&(edge.clone(), instance))?;
        (Some(found.token) == poll.heard && found.takes == poll.takes).then_some(found)
    }

    fn keep(&self, edge: EdgeName, instance: EdgeId, one: Open) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert((edge, instance), one);
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
    let mut stream = match app.edge_polls().take(&edge, instance, &poll) {
        Some(open) => open,
        None => begin(app, permit, &edge, instance, &poll).await?,
    };
    let mut events = Vec::new();
    let mut ended = false;
    let mut wait = poll.wait.min(WAIT_MOST);
    // Whoever hangs up here drops the stream with what it said last: the next poll begins anew.
    while events.len() < EVENTS_MOST
        && let Ok(next) = timeout(wait, stream.events.recv()).await
    {
        match next.transpose()? {
            Some(event) => events.push(event),
            None => {
                ended = true;
                break;
            }
        }
        wait = AND_MORE;
    }
    stream.token = Uuid::new_v4();
    stream.left_at = Instant::now();
    let token = stream.token;
    if !ended {
        app.edge_polls().keep(edge, instance, stream);
    }
    Ok(Polled { events, token })
}

/// The stream anew. It is driven beside the polls, one event ahead of them, and ends when nobody keeps it.
async fn begin(
    app: &App,
    permit: &Permit<Follow>,
    edge: &EdgeName,
    instance: EdgeId,
    poll: &Poll,
) -> Result<Open, ControlError> {
    let said = edges::routes(app, permit, edge.clone(), instance, poll.after, poll.takes.clone()).await?;
    let (out, events) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut said = pin!(said);
        while let Some(event) = said.next().await {
            if out.send(event).await.is_err() {
                return;
            }
        }
    });
    Ok(Open { events, takes: poll.takes.clone(), token: Uuid::new_v4(), left_at: Instant::now() })
}
