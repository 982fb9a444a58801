//! Bodies on their way: to a member with a bound and a time limit, to a client with everything that ends with it.
//!
//! Never buffers more than the bound for sending once more; what is longer streams.

use crate::{
    headers,
    pack::Packer,
    tenant::{Tenant, Ticket},
    upstream::Lease,
};
use berth_wire::edge::CompressionWay;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// Why a body could not be carried to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than the tenant's bound")]
    TooLarge,
    #[error("the body made no progress")]
    Late,
    #[error("the body could not be read from the client")]
    Client,
    #[error("the body could not be read from the member")]
    Member,
}

/// A request's body, as far as it has been read.
#[derive(Debug)]
pub enum Upload {
    /// All of it, with what followed: may be sent again.
    Whole(Bytes, Option<HeaderMap>),
    /// Too long to keep: the first part, and where the rest comes from.
    Longer(Bytes, Incoming),
}

/// Bounds on a request's body.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    pub keep_bytes: usize,
    pub body_bytes: u64,
    pub idle: Duration,
    /// A body that is kept has to be there after this, however it drips.
    pub whole: Duration,
    /// One that does not say how long it is streams when it is not there after this.
    pub unsaid: Duration,
}

/// Reads a body that there is, up to what may be kept.
pub async fn read(mut body: Incoming, limits: UploadLimits) -> Result<Upload, BodyError> {
    let known = body.size_hint().exact();
    if known.is_some_and(|n| n > limits.body_bytes) {
        return Err(BodyError::TooLarge);
    }
    if known.is_some_and(|n| n > limits.keep_bytes as u64) {
        return Ok(Upload::Longer(Bytes::new(), body));
    }
    let mut kept = Kept::default();
    let mut after = None;
    let now = Instant::now();
    let (whole, streams) = (now + limits.whole, known.is_none().then(|| now + limits.unsaid));
    loop {
        let until = whole.min(Instant::now() + limits.idle);
        let until = streams.map_or(until, |streams| streams.min(until));
        let Ok(frame) = tokio::time::timeout_at(until, body.frame()).await else {
            if streams.is_some_and(|streams| streams <= until) {
                return Ok(Upload::Longer(kept.all(), body));
            }
            return Err(BodyError::Late);
        };
        let Some(frame) = frame else { return Ok(Upload::Whole(kept.all(), after)) };
        match frame.map_err(|_| BodyError::Client)?.into_data() {
            Ok(data) => kept.push(data),
            Err(other) => {
                after = other.into_trailers().ok().map(headers::trailers).filter(|t| !t.is_empty());
                continue;
            }
        }
        if kept.len() as u64 > limits.body_bytes {
            return Err(BodyError::TooLarge);
        }
        if kept.len() > limits.keep_bytes {
            return Ok(Upload::Longer(kept.all(), body));
        }
    }
}

/// Joined parts of a body; a body that came in one part is not copied.
#[derive(Default)]
struct Kept {
    first: Bytes,
    joined: Option<BytesMut>,
}

impl Kept {
    fn push(&mut self, data: Bytes) {
        match &mut self.joined {
            Some(joined) => joined.extend_from_slice(&data),
            None if self.first.is_empty() => self.first = data,
            None => {
                let mut joined = BytesMut::with_capacity((self.first.len() + data.len()) * 2);
                joined.extend_from_slice(&self.first);
                joined.extend_from_slice(&data);
                self.joined = Some(joined);
            }
        }
    }

    fn len(&self) -> usize {
        self.joined.as_ref().map_or(self.first.len(), BytesMut::len)
    }

    fn all(&mut self) -> Bytes {
        self.joined.take().map_or_else(|| std::mem::take(&mut self.first), BytesMut::freeze)
    }
}

/// What is sent to a member.
pub enum SendBody {
    Whole(Option<Bytes>, Option<Box<HeaderMap>>),
    Stream(Box<Streamed>),
}

/// How a streamed body fares, for whoever waits for its answer.
#[derive(Debug, Default)]
pub struct Course {
    /// Why it ended early, for hyper reports it as its own error.
    pub failed: Cell<Option<BodyError>>,
    /// The answer has begun: now it may take its time, as a conversation does.
    pub answered: Cell<bool>,
}

/// A body too long to keep.
pub struct Streamed {
    prefix: Option<Bytes>,
    rest: Incoming,
    /// Something may follow it, which in HTTP/1.1 takes a body without a length.
    followed: bool,
    left_bytes: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    course: Rc<Course>,
    tenant: Rc<Tenant>,
}

impl SendBody {
    pub fn whole(bytes: &Bytes, after: Option<&HeaderMap>) -> Self {
        Self::Whole((!bytes.is_empty()).then(|| bytes.clone()), after.map(|after| Box::new(after.clone())))
    }

    pub fn streamed(
        prefix: Bytes,
        rest: Incoming,
        followed: bool,
        limits: UploadLimits,
        course: Rc<Course>,
        tenant: Rc<Tenant>,
    ) -> Self {
        Self::Stream(Box::new(Streamed {
            left_bytes: limits.body_bytes.saturating_sub(prefix.len() as u64),
            prefix: (!prefix.is_empty()).then_some(prefix),
            rest,
            followed,
            idle: limits.idle,
            timer: Box::pin(tokio::time::sleep(limits.idle)),
            course,
            tenant,
        }))
    }
}

impl Streamed {
    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.course.failed.set(Some(error));
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stream = match self.get_mut() {
            Self::Whole(bytes, after) => {
                let data = bytes.take().map(Frame::data);
                return Poll::Ready(data.or_else(|| after.take().map(|after| Frame::trailers(*after))).map(Ok));
            }
            Self::Stream(stream) => stream,
        };
        if let Some(prefix) = stream.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        loop {
            let polled = Pin::new(&mut stream.rest).poll_frame(cx);
            if polled.is_pending() {
                ready!(stream.timer.as_mut().poll(cx));
                if stream.course.answered.get() {
                    return Poll::Pending;
                }
                return stream.fail(BodyError::Late);
            }
            let Some(frame) = ready!(polled) else { return Poll::Ready(None) };
            let Ok(frame) = frame else { return stream.fail(BodyError::Client) };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(other) => match other.into_trailers() {
                    Ok(after) => return Poll::Ready(Some(Ok(Frame::trailers(headers::trailers(after))))),
                    Err(_) => continue,
                },
            };
            let bytes = data.len() as u64;
            if bytes > stream.left_bytes {
                return stream.fail(BodyError::TooLarge);
            }
            stream.left_bytes -= bytes;
            stream.tenant.metered(|m| m.received_bytes += bytes);
            let deadline = Instant::now() + stream.idle;
            stream.timer.as_mut().reset(deadline);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None, None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // What follows a body follows one without a length.
            Self::Whole(_, Some(_)) => SizeHint::new(),
            Self::Whole(bytes, None) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(stream) => {
                let prefix = stream.prefix.as_ref().map_or(0, |p| p.len() as u64);
                let rest = stream.rest.size_hint();
                rest.exact()
                    .filter(|_| !stream.followed)
                    .map_or_else(SizeHint::new, |n| SizeHint::with_exact(n + prefix))
            }
        }
    }
}

/// What a client gets.
pub enum AnswerBody {
    Own(Option<Bytes>),
    Relayed(Box<Relayed>),
    Packed(Box<Packed>),
}

/// A member's answer that is made smaller on its way.
pub struct Packed {
    relayed: Relayed,
    /// `None`: all of it has been handed out, but for what follows.
    packer: Option<Packer>,
    way: CompressionWay,
    after: Option<HeaderMap>,
    _counted: Rc<()>,
}

/// A member's answer on its way, and what it keeps busy until it has passed.
pub struct Relayed {
    pub incoming: Incoming,
    pub lease: Option<Lease>,
    /// Of a request that may write: in flight until its answer is complete.
    pub ticket: Option<Ticket>,
    pub tenant: Rc<Tenant>,
    /// What a client gets is counted where it is in its last form.
    pub counts: bool,
    /// Of an event stream: ends it when the tenant is elsewhere.
    pub left: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Relayed {
    fn done(&mut self) {
        self.ticket = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

type Next = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Relayed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Next {
        if let Some(left) = &mut self.left
            && left.as_mut().poll(cx).is_ready()
        {
            self.left = None;
            self.lease = None;
            self.ticket = None;
            return Poll::Ready(None);
        }
        loop {
            let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
            if polled.is_pending()
                && let Some(lease) = &mut self.lease
            {
                // What is to come comes over the connection, which nobody else drives.
                lease.drive(cx);
                polled = Pin::new(&mut self.incoming).poll_frame(cx);
            }
            let Some(frame) = ready!(polled) else {
                self.done();
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(BodyError::Member))) };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(other) => match other.into_trailers() {
                    Ok(after) => return Poll::Ready(Some(Ok(Frame::trailers(headers::trailers(after))))),
                    Err(_) => continue,
                },
            };
            let bytes = data.len() as u64;
            if self.counts {
                self.tenant.metered(|m| m.sent_bytes += bytes);
            }
            if self.incoming.is_end_stream() {
                self.done();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }
}

impl Packed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Next {
        loop {
            let Some(packer) = &mut self.packer else {
                return Poll::Ready(self.after.take().map(|after| Ok(Frame::trailers(after))));
            };
            let packed = match self.relayed.poll_next(cx) {
                // Nothing is held back while its source is silent.
                Poll::Pending => match packer.flush() {
                    Ok(bytes) if bytes.is_empty() => return Poll::Pending,
                    flushed => flushed,
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => packer.push(&data),
                    Err(other) => {
                        self.after = other.into_trailers().ok();
                        continue;
                    }
                },
                Poll::Ready(None) => self.packer.take().map_or(Ok(Bytes::new()), Packer::finish),
            };
            let Ok(bytes) = packed else {
                tracing::error!(way = ?self.way, "an answer could not be compressed and is cut");
                return Poll::Ready(Some(Err(BodyError::Member)));
            };
            if !bytes.is_empty() {
                self.relayed.tenant.metered(|m| m.sent_bytes += bytes.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}

impl AnswerBody {
    pub fn empty() -> Self {
        Self::Own(None)
    }

    pub fn relayed(mut relayed: Relayed) -> Self {
        if relayed.incoming.is_end_stream() {
            relayed.done();
            return Self::empty();
        }
        Self::Relayed(Box::new(relayed))
    }

    /// Makes smaller what a member answers.
    pub fn packed(self, way: CompressionWay, counted: &Rc<()>) -> Self {
        match self {
            Self::Relayed(relayed) => {
                let relayed = Relayed { counts: false, ..*relayed };
                Self::Packed(Box::new(Packed {
                    relayed,
                    packer: Packer::new(way).ok(),
                    way,
                    after: None,
                    _counted: Rc::clone(counted),
                }))
            }
            other => other,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Relayed(relayed) => relayed.poll_next(cx),
            Self::Packed(packed) => packed.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
            Self::Packed(packed) => packed.packer.is_none() && packed.after.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            // An answer to HEAD has a length and no body: the header says it, the hint must not.
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
            Self::Packed(_) => SizeHint::new(),
        }
    }
}
