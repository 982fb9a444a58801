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

#[derive(Debug, Default)]
pub struct Pulse {
    beats: Cell<u64>,
    waits_for_member: Cell<bool>,
}

impl Pulse {
    /// A request has begun.
    pub fn begin(pulse: &Rc<Self>) -> Beat {
        pulse.beat(true);
        Beat(Rc::clone(pulse))
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
        self.waits_for_member.get()
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Beat(Rc<Pulse>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.beat(false);
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
            Poll::Ready(_) => this.beat.0.beat(false),
            Poll::Pending => this.beat.0.waits_for_member.set(true),
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
