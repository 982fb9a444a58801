//! Signs of life of one client connection, so that silence can be told from patience.
//!
//! Pure: no clock. A connection is left alone while a member is thinking, however long, and while bytes flow; one
//! without a request, or whose client does not take its answer, is quiet.

use crate::body::{AnswerBody, BodyError};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Pulse {
    beats: Cell<u64>,
    waits_for_member: Cell<bool>,
    answered: Cell<u64>,
    /// Requests that went away before their answer began.
    taken_back: Cell<u64>,
    too_many: Notify,
    /// WebSockets on a connection of HTTP/2, and answers that are being carried.
    tunnels: Cell<u32>,
    carried: Cell<u32>,
}

impl Pulse {
    /// A request has begun.
    pub fn begin(pulse: &Rc<Self>) -> Beat {
        pulse.beat(true);
        Beat { pulse: Rc::clone(pulse), answered: false }
    }

    /// Returns when the client has taken back more than this many requests, and more than it let be answered.
    pub async fn taken_back(&self, most: u64) {
        while self.taken_back.get() <= most.max(self.answered.get()) {
            self.too_many.notified().await;
        }
    }

    fn beat(&self, waits_for_member: bool) {
        self.beats.set(self.beats.get() + 1);
        self.waits_for_member.set(waits_for_member);
    }

    /// Requests begun and pieces of answers carried.
    pub fn beats(&self) -> u64 {
        self.beats.get()
    }

    pub fn waits_for_member(&self) -> bool {
        // An answer that its client does not take is none the better for a WebSocket beside it.
        self.waits_for_member.get() || (self.tunnels.get() > 0 && self.carried.get() == 0)
    }

    /// A tunnel has begun: what is said in it is said here.
    pub fn tunnel(pulse: &Rc<Self>) -> Tunnelled {
        pulse.tunnels.set(pulse.tunnels.get() + 1);
        Tunnelled(Rc::clone(pulse))
    }
}

/// A connection is not quiet while this lives.
#[derive(Debug)]
pub struct Tunnelled(Rc<Pulse>);

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
        self.0.beat(false);
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Beat {
    pulse: Rc<Pulse>,
    answered: bool,
}

impl Beat {
    /// The answer begins.
    pub fn answered(mut self) -> Self {
        self.answered = true;
        self.pulse.answered.set(self.pulse.answered.get() + 1);
        self.pulse.carried.set(self.pulse.carried.get() + 1);
        self
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.beat(false);
        if self.answered {
            self.pulse.carried.set(self.pulse.carried.get() - 1);
        } else {
            self.pulse.taken_back.set(self.pulse.taken_back.get() + 1);
            self.pulse.too_many.notify_one();
        }
    }
}

/// An answer's body, with its connection's pulse.
pub struct Carried {
    body: AnswerBody,
    beat: Beat,
}

impl Carried {
    pub fn new(body: AnswerBody, beat: Beat) -> Self {
        Self { body, beat }
    }
}

impl Body for Carried {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match polled {
            Poll::Ready(_) => this.beat.pulse.beat(false),
            Poll::Pending => this.beat.pulse.waits_for_member.set(true),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
