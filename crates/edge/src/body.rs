//! Bodies on their way: to a member with a bound and a time limit, to a client with everything that ends with it.
//!
//! Never buffers more than the bound for sending once more; what is longer streams, and so does what finds no room.

use crate::{
    headers,
    pack::Packer,
    tenant::{Streaming, Tenant, Ticket},
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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// A tenant's part of what its core may keep: the others find room whoever asks for much.
const TENANTS: u64 = 8;
/// A body that is there at once and is no longer than this is not counted: a connection has one at a time.
const UNCOUNTED_BYTES: usize = 4 * 1024;

/// How many bytes of requests' bodies one core keeps, of all tenants together: its part of what the process may. Atomic
/// because bytes may go to another thread; no other core writes here.
#[derive(Debug)]
pub struct Keeping {
    bytes: AtomicU64,
    bytes_max: u64,
}

/// The same of one tenant.
pub type TenantKeeping = Arc<AtomicU64>;

impl Keeping {
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// What one body takes of it, until its last copy is gone.
#[derive(Debug)]
struct Share {
    keeping: Arc<Keeping>,
    tenant: TenantKeeping,
    bytes: u64,
}

impl Share {
    /// Counts what there is of the body in any case. `false`: no more is to be kept.
    fn grow(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        let all = self.keeping.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let own = self.tenant.fetch_add(more, Ordering::Relaxed) + more;
        all <= self.keeping.bytes_max && own <= self.keeping.bytes_max / TENANTS
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keeping.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.tenant.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes and what they take.
struct Counted {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body could not be carried to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than the tenant's bound")]
    TooLarge,
    #[error("the body made no progress")]
    Late,
    #[error("the body had had its time when a hold waited for it")]
    InTheWay,
    #[error("the tenant is elsewhere, or is drained, before the answer came to its end")]
    Left,
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
    /// Too long to keep, or there is no room: the first part, and where the rest comes from.
    Longer(Bytes, Incoming),
}

/// Bounds on a request's body.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    pub keep_bytes: usize,
    pub body_bytes: u64,
    pub idle: Duration,
    /// A body that is kept has to be there after this, however it drips; one that streams makes way for a hold then.
    pub whole: Duration,
    /// One that does not say how long it is streams when it is not there after this.
    pub unsaid: Duration,
}

impl UploadLimits {
    fn uncounted_bytes(&self) -> usize {
        UNCOUNTED_BYTES.min(self.keep_bytes).min(usize::try_from(self.body_bytes).unwrap_or(usize::MAX))
    }
}

/// Reads a body that there is, up to what may be kept.
pub async fn read(
    mut body: Incoming,
    limits: UploadLimits,
    keeping: &Arc<Keeping>,
    tenant: &TenantKeeping,
) -> Result<Upload, BodyError> {
    let known = body.size_hint().exact();
    if known.is_some_and(|n| n > limits.body_bytes) {
        return Err(BodyError::TooLarge);
    }
    if known.is_some_and(|n| n > limits.keep_bytes as u64) {
        return Ok(Upload::Longer(Bytes::new(), body));
    }
    let mut kept = Kept::new(keeping, tenant);
    let (mut after, mut full) = (None, false);
    let now = Instant::now();
    let (whole, streams) = (now + limits.whole, known.is_none().then(|| now + limits.unsaid));
    loop {
        let until = whole.min(Instant::now() + limits.idle);
        let until = streams.map_or(until, |streams| streams.min(until));
        let frame = if full {
            // The end of one that did not say how long it is may be there: the connection has a turn to bring it.
            tokio::select! {
                biased;
                frame = body.frame() => Some(frame),
                () = tokio::task::yield_now() => None,
            }
        } else {
            tokio::time::timeout_at(until, body.frame()).await.ok()
        };
        let Some(frame) = frame else {
            if full || streams.is_some_and(|streams| streams <= until) {
                return Ok(Upload::Longer(kept.all(), body));
            }
            return Err(BodyError::Late);
        };
        let Some(frame) = frame else { return Ok(Upload::Whole(kept.all(), after)) };
        let has_room = match frame.map_err(|_| BodyError::Client)?.into_data() {
            Ok(data) if kept.len() == 0 && body.is_end_stream() && data.len() <= limits.uncounted_bytes() => {
                return Ok(Upload::Whole(data, None));
            }
            Ok(data) => kept.push(data),
            Err(other) => {
                after = other.into_trailers().ok().map(headers::trailers).filter(|t| !t.is_empty());
                continue;
            }
        };
        if kept.len() as u64 > limits.body_bytes {
            return Err(BodyError::TooLarge);
        }
        if kept.len() > limits.keep_bytes || (full && !has_room && !body.is_end_stream()) {
            return Ok(Upload::Longer(kept.all(), body));
        }
        full = !has_room;
    }
}

/// Joined parts of a body; a body that came in one part is not copied.
struct Kept {
    first: Bytes,
    joined: Option<BytesMut>,
    share: Share,
}

impl Kept {
    fn new(keeping: &Arc<Keeping>, tenant: &TenantKeeping) -> Self {
        let share = Share { keeping: Arc::clone(keeping), tenant: Arc::clone(tenant), bytes: 0 };
        Self { first: Bytes::new(), joined: None, share }
    }

    /// `false`: there is no room for more.
    fn push(&mut self, data: Bytes) -> bool {
        match &mut self.joined {
            Some(joined) => joined.extend_from_slice(&data),
            None if self.first.is_empty() => self.first = data,
            None => {
                let mut joined = BytesMut::with_capacity((self.first.len() + data.len()) * 2);
                joined.extend_from_slice(&self.first);
                joined.extend_from_slice(&data);
                self.first = Bytes::new();
                self.joined = Some(joined);
            }
        }
        let taken = self.joined.as_ref().map_or(self.first.len(), BytesMut::capacity);
        self.share.grow(taken as u64)
    }

    fn len(&self) -> usize {
        self.joined.as_ref().map_or(self.first.len(), BytesMut::len)
    }

    fn all(self) -> Bytes {
        let bytes = self.joined.map_or(self.first, BytesMut::freeze);
        if bytes.is_empty() {
            return bytes;
        }
        Bytes::from_owner(Counted { bytes, _share: self.share })
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
    /// From then on it makes way for a hold.
    had_its_time: Instant,
    next_hold: Pin<Box<dyn Future<Output = ()>>>,
    course: Rc<Course>,
    streaming: Rc<Streaming>,
}

fn next_hold(tenant: &Rc<Tenant>) -> Pin<Box<dyn Future<Output = ()>>> {
    let tenant = Rc::clone(tenant);
    Box::pin(async move { tenant.held.notified().await })
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
        streaming: Rc<Streaming>,
    ) -> Self {
        Self::Stream(Box::new(Streamed {
            left_bytes: limits.body_bytes.saturating_sub(prefix.len() as u64),
            prefix: (!prefix.is_empty()).then_some(prefix),
            rest,
            followed,
            idle: limits.idle,
            timer: Box::pin(tokio::time::sleep(limits.idle)),
            had_its_time: Instant::now() + limits.whole,
            next_hold: next_hold(&streaming.tenant),
            course,
            streaming,
        }))
    }
}

impl Streamed {
    fn fail(&self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.course.failed.set(Some(error));
        Poll::Ready(Some(Err(error)))
    }

    /// A cut-over is given up after a moment: whoever sends a byte now and then would keep its tenant where it is.
    fn is_in_the_way(&mut self, cx: &mut Context<'_>) -> bool {
        while self.next_hold.as_mut().poll(cx).is_ready() {
            self.next_hold = next_hold(&self.streaming.tenant);
        }
        self.streaming.is_waited_for() && Instant::now() >= self.had_its_time && self.streaming.makes_way()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // One that made way is among those that do until its request has gone.
        if self.course.failed.get() != Some(BodyError::InTheWay) {
            self.streaming.ended();
        }
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
                if stream.is_in_the_way(cx) {
                    return stream.fail(BodyError::InTheWay);
                }
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
            stream.streaming.tenant.metered(|m| m.received_bytes += bytes);
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
    pub may_write: bool,
    pub tenant: Rc<Tenant>,
    /// What a client gets is counted where it is in its last form.
    pub counts: bool,
    /// Of an event stream: ends it when the tenant is elsewhere.
    pub left: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Of one that answers a request that may write: a hold waits for it no longer than this.
    pub waited_for: Option<Pin<Box<Sleep>>>,
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
            // What was written may have been half of the answer: its client must not take it for whole.
            return Poll::Ready(self.may_write.then_some(Err(BodyError::Left)));
        }
        if let Some(waited_for) = &mut self.waited_for
            && waited_for.as_mut().poll(cx).is_ready()
        {
            self.waited_for = None;
            self.ticket = None;
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

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
