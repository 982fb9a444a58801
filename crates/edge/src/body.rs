//! Bodies on their way: to a member with a bound and a time limit, to a client with everything that ends with it.
//!
//! Never buffers more than the bound for sending once more; what is longer streams.

use crate::{
    tenant::{Tenant, Ticket},
    upstream::Lease,
};
use bytes::{Bytes, BytesMut};
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
    /// All of it: may be sent again.
    Whole(Bytes),
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
}

/// Reads a body, up to what may be kept.
pub async fn read(mut body: Incoming, limits: UploadLimits) -> Result<Upload, BodyError> {
    if body.is_end_stream() {
        return Ok(Upload::Whole(Bytes::new()));
    }
    let known = body.size_hint().exact();
    if known.is_some_and(|n| n > limits.body_bytes) {
        return Err(BodyError::TooLarge);
    }
    if known.is_some_and(|n| n > limits.keep_bytes as u64) {
        return Ok(Upload::Longer(Bytes::new(), body));
    }
    let mut kept = Kept::default();
    let whole = Instant::now() + limits.whole;
    loop {
        let until = whole.min(Instant::now() + limits.idle);
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| BodyError::Late)?;
        let Some(frame) = frame else { return Ok(Upload::Whole(kept.all())) };
        let Ok(data) = frame.map_err(|_| BodyError::Client)?.into_data() else { continue };
        kept.push(data);
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
    Whole(Option<Bytes>),
    Stream(Box<Streamed>),
}

/// A body too long to keep.
pub struct Streamed {
    prefix: Option<Bytes>,
    rest: Incoming,
    left_bytes: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    failed: Rc<Cell<Option<BodyError>>>,
    tenant: Rc<Tenant>,
}

impl SendBody {
    pub fn whole(bytes: &Bytes) -> Self {
        Self::Whole((!bytes.is_empty()).then(|| bytes.clone()))
    }

    /// `failed` is told why the stream ended early, for hyper reports it as its own error.
    pub fn streamed(
        prefix: Bytes,
        rest: Incoming,
        limits: UploadLimits,
        failed: Rc<Cell<Option<BodyError>>>,
        tenant: Rc<Tenant>,
    ) -> Self {
        Self::Stream(Box::new(Streamed {
            left_bytes: limits.body_bytes.saturating_sub(prefix.len() as u64),
            prefix: (!prefix.is_empty()).then_some(prefix),
            rest,
            idle: limits.idle,
            timer: Box::pin(tokio::time::sleep(limits.idle)),
            failed,
            tenant,
        }))
    }
}

impl Streamed {
    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.failed.set(Some(error));
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let stream = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(stream) => stream,
        };
        if let Some(prefix) = stream.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        loop {
            let polled = Pin::new(&mut stream.rest).poll_frame(cx);
            if polled.is_pending() {
                ready!(stream.timer.as_mut().poll(cx));
                return stream.fail(BodyError::Late);
            }
            let Some(frame) = ready!(polled) else { return Poll::Ready(None) };
            let Ok(frame) = frame else { return stream.fail(BodyError::Client) };
            // Trailers end at this hop.
            let Ok(data) = frame.into_data() else { continue };
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
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(stream) => {
                let prefix = stream.prefix.as_ref().map_or(0, |p| p.len() as u64);
                let rest = stream.rest.size_hint();
                rest.exact().map_or_else(SizeHint::new, |n| SizeHint::with_exact(n + prefix))
            }
        }
    }
}

/// What a client gets.
pub enum AnswerBody {
    Own(Option<Bytes>),
    Relayed(Box<Relayed>),
}

/// A member's answer on its way, and what it keeps busy until it has passed.
pub struct Relayed {
    pub incoming: Incoming,
    pub lease: Option<Lease>,
    /// Of a request that may write: in flight until its answer is complete.
    pub ticket: Option<Ticket>,
    pub tenant: Rc<Tenant>,
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
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let relayed = match self.get_mut() {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Relayed(relayed) => relayed,
        };
        if let Some(left) = &mut relayed.left
            && left.as_mut().poll(cx).is_ready()
        {
            relayed.left = None;
            relayed.lease = None;
            relayed.ticket = None;
            return Poll::Ready(None);
        }
        loop {
            let mut polled = Pin::new(&mut relayed.incoming).poll_frame(cx);
            if polled.is_pending()
                && let Some(lease) = &mut relayed.lease
            {
                // What is to come comes over the connection, which nobody else drives.
                lease.drive(cx);
                polled = Pin::new(&mut relayed.incoming).poll_frame(cx);
            }
            let Some(frame) = ready!(polled) else {
                relayed.done();
                return Poll::Ready(None);
            };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(BodyError::Member))) };
            let Ok(data) = frame.into_data() else { continue };
            let bytes = data.len() as u64;
            relayed.tenant.metered(|m| m.sent_bytes += bytes);
            if relayed.incoming.is_end_stream() {
                relayed.done();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            // An answer to HEAD has a length and no body: the header says it, the hint must not.
            Self::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}
