//! One core's thread: takes connections, hands requests to [`crate::serve`], obeys the coordinator.
//!
//! Never decides anything about a request; bounds on connections and time limits on their silence are kept here.

use crate::{
    Limits,
    core::{Common, Connected, Core, News, Order},
    framing::Watch,
    pulse::{Carried, Pulse},
    seldom::Seldom,
    serve::{self, Client},
    tls,
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

const BACKLOG: i32 = 1024;
/// What a client has not acknowledged after this ends its connection, and so does a window that stays shut: tunnels and
/// event streams have no other limit. Longer than [`keep_alive`]'s questions take.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_mins(2);
/// How often a connection's silence is looked at.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// A listener that shares its port with the other cores': the kernel spreads connections over them.
pub fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Asks after a silent minute whether the other side is still there: one that vanished without a word would keep its
/// place for ever.
pub fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15)).with_retries(4)
}

/// Connections have it from the listener that took them, wherever that was opened; with an error nothing is lost.
fn watch_over(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    let _ = socket.set_tcp_keepalive(&keep_alive());
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
}

/// What a worker thread starts with.
pub struct Start {
    pub common: Arc<Common>,
    pub listener: StdListener,
    /// Where clients come in over TLS.
    pub tls: Option<(StdListener, Arc<ServerConfig>)>,
    pub orders: UnboundedReceiver<Order>,
    pub news: UnboundedSender<News>,
    pub stop: CancellationToken,
}

/// The thread's whole life. What is left of its tasks ends with the runtime, and with the last of them the core, which hands
/// over what it counted.
pub fn run(start: Start) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())?;
    runtime.block_on(serve_core(start))
}

async fn serve_core(start: Start) -> io::Result<()> {
    let Start { common, listener, tls, mut orders, news, stop } = start;
    let listener = TcpListener::from_std(listener)?;
    let tls = match tls {
        Some((listener, config)) => Some((TcpListener::from_std(listener)?, TlsAcceptor::from(config))),
        None => None,
    };
    watch_over(&listener);
    if let Some((listener, _)) = &tls {
        watch_over(listener);
    }
    let core = Rc::new(Core::new(common, news, stop.clone()));
    let tidier = Rc::clone(&core);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            tidier.upstreams.tidy(tidier.limits().upstream_idle);
            tidier.waiting.look(Instant::now());
            tidier.forget_idle();
        }
    });
    let mut opened = false;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(order) => core.obey(order),
                None => break,
            },
            () = stop.cancelled() => break,
            () = core.common.leaving.cancelled() => break,
            () = core.common.opened.cancelled(), if !opened => opened = true,
            accepted = accept(&listener, tls.as_ref()), if opened && core.connections() < core.limits().connections => match accepted {
                Ok((stream, from, tls)) => {
                    let guard = Connected::new(&core);
                    tokio::task::spawn_local(connection(Rc::clone(&core), stream, from, guard, tls));
                }
                // Out of descriptors, mostly: accepting again at once would spin.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            },
            () = core.room.notified(), if core.connections() >= core.limits().connections => {}
        }
    }
    core.ending.set(true);
    drop((listener, tls));
    // Orders are obeyed to the end: a request that is parked while the edge goes is still to be let go.
    let mut drained = async |look: Duration, connections: &dyn Fn() -> usize| {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => core.obey(order),
                    None => tokio::time::sleep(look).await,
                },
                () = tokio::time::sleep(look) => {}
            }
            if connections() == 0 {
                return;
            }
        }
    };
    // Another process has the listeners: what is open here is served to its end, or until the edge's is over. A core with
    // nothing open waits for the others: a hold is in force when every core says so.
    let all = || core.common.open.load(Ordering::Acquire);
    tokio::select! {
        () = drained(Duration::from_millis(50), &all), if !stop.is_cancelled() => {}
        () = stop.cancelled() => {}
    }
    let own = || core.connections();
    let drained = drained(Duration::from_millis(5), &own);
    if tokio::time::timeout(core.limits().drain_time, drained).await.is_err() {
        tracing::warn!(connections = core.connections(), "connections were cut at the end of the drain time");
    }
    Ok(())
}

type Accepted = (TcpStream, SocketAddr, Option<TlsAcceptor>);

/// The next connection of either listener.
async fn accept(plain: &TcpListener, tls: Option<&(TcpListener, TlsAcceptor)>) -> io::Result<Accepted> {
    let Some((secure, acceptor)) = tls else {
        return plain.accept().await.map(|(stream, from)| (stream, from, None));
    };
    tokio::select! {
        accepted = plain.accept() => accepted.map(|(stream, from)| (stream, from, None)),
        accepted = secure.accept() => accepted.map(|(stream, from)| (stream, from, Some(acceptor.clone()))),
    }
}

/// What the reading side of a connection notices, for the side that serves.
#[derive(Default)]
struct Noticed {
    doubtful: Arc<AtomicU64>,
    in_head: AtomicBool,
}

/// How HTTP/2 begins when a client knows beforehand that we speak it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// A client that takes its requests back is cut after so many, when it has taken back more than it waited for.
const TAKEN_BACK_MAX: u64 = 100;
/// Requests under way at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// What is kept of each one's answer until the client takes it; the part with which this is passed, and one behind it, come on
/// top, of up to [`Limits::header_bytes`] each. What waits here nobody ends while something else goes on on the connection.
const STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// What is kept of the bodies of one connection's requests until members take it; and of one of them, so that a member that takes
/// nothing holds up no other upload.
const BODIES_BUFFER_BYTES: u32 = 1024 * 1024;
const BODY_BUFFER_BYTES: u32 = BODIES_BUFFER_BYTES / 4;

/// Whether the client begins with HTTP/2. The bytes stay where they are. `None`: it said nothing in time, or only a beginning
/// of that.
async fn speaks_http2(stream: &TcpStream, limits: &Limits) -> Option<bool> {
    let mut until = tokio::time::Instant::now() + limits.client_idle;
    let (mut bytes, mut before, mut closed) = ([0; HTTP2_PREFACE.len()], 0, false);
    loop {
        let read = tokio::time::timeout_at(until, stream.peek(&mut bytes)).await.ok()?.ok()?;
        let is_beginning = read > 0 && bytes[..read] == HTTP2_PREFACE[..read];
        // Nothing more comes from who has closed: what to say to that is the server's to know.
        if !is_beginning || read == HTTP2_PREFACE.len() || closed {
            return Some(is_beginning && read == HTTP2_PREFACE.len());
        }
        if before == 0 {
            until = tokio::time::Instant::now() + limits.header_time;
        }
        before = read;
        // Bytes that were looked at make the socket readable still: only that there are more is told anew.
        let _ = stream.try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        closed = tokio::time::timeout_at(until, stream.ready(Interest::READABLE)).await.ok()?.ok()?.is_read_closed();
    }
}

/// Starts the tasks of one HTTP/2 connection's requests on this core. Each begins right after its request did, so that it
/// is known which to end.
#[derive(Clone)]
struct Streams(Rc<Pulse>);

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, task: F) {
        self.0.carried_by(tokio::task::spawn_local(task).abort_handle());
    }
}

/// A connection of either protocol, as far as its keeper cares.
trait Served: Future {
    fn finish_up(self: Pin<&mut Self>);

    /// The same for one that is between two requests: its client is told by an answer, for a request may be on its way.
    fn finish_politely(self: Pin<&mut Self>);
}

impl<I, S> Served for http1::UpgradeableConnection<I, S>
where
    Self: Future,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Carried>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn finish_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }

    fn finish_politely(self: Pin<&mut Self>) {}
}

impl<I, S> Served for http2::Connection<I, S, Streams>
where
    Self: Future,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Carried>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Streams: hyper::rt::bounds::Http2ServerConnExec<S::Future, Carried>,
{
    fn finish_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }

    fn finish_politely(self: Pin<&mut Self>) {
        // `GOAWAY` says which requests were taken, so none is lost.
        self.graceful_shutdown();
    }
}

async fn connection(core: Rc<Core>, stream: TcpStream, from: SocketAddr, guard: Connected, tls: Option<TlsAcceptor>) {
    // Without it small answers wait for acknowledgements; with an error nothing is lost.
    let _ = stream.set_nodelay(true);
    let limits = core.limits();
    let begun = async {
        let Some(acceptor) = tls else {
            let http2 = speaks_http2(&stream, limits).await?;
            return Some(Begun::Plain { stream, http2 });
        };
        // A handshake that fails is told to the client by TLS itself.
        let stream = tokio::time::timeout(limits.header_time, acceptor.accept(stream)).await.ok()?.ok()?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() == Some(tls::PROOF) {
            // The handshake was all of it.
            return None;
        }
        let http2 = session.alpn_protocol() == Some(&b"h2"[..]);
        let name = session.server_name()?.to_ascii_lowercase().into();
        Some(Begun::Secure { stream: Box::new(stream), http2, name })
    };
    let begun = tokio::select! {
        begun = begun => begun,
        () = core.stop.cancelled() => None,
    };
    match begun {
        Some(Begun::Plain { stream, http2 }) => speak(&core, stream, http2, from, None).await,
        Some(Begun::Secure { stream, http2, name }) => speak(&core, stream, http2, from, Some(name)).await,
        None => {}
    }
    drop(guard);
}

/// A connection whose protocol is known.
enum Begun {
    Plain { stream: TcpStream, http2: bool },
    Secure { stream: Box<TlsStream<TcpStream>>, http2: bool, name: Box<str> },
}

/// Serves a connection. `secure`: it is over TLS, begun for this name.
async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    core: &Rc<Core>,
    stream: S,
    http2: bool,
    from: SocketAddr,
    secure: Option<Box<str>>,
) {
    let limits = core.limits();
    let noticed = Arc::new(Noticed::default());
    let pulse = Rc::new(if http2 { Pulse::beside(&core.streams) } else { Pulse::default() });
    let client = Client::new(from.ip().to_canonical(), limits, Arc::clone(&noticed.doubtful), secure, &pulse);
    let client = Rc::new(client);
    let service = {
        let (core, pulse) = (Rc::clone(core), Rc::clone(&pulse));
        service_fn(move |request| {
            let (core, client, beat) = (Rc::clone(&core), Rc::clone(&client), Pulse::begin(&pulse));
            async move {
                let answer = serve::serve(&core, &client, request).await;
                Ok::<_, Infallible>(answer.map(|body| Carried::new(body, beat.answered())))
            }
        })
    };
    if http2 {
        let connection = http2::Builder::new(Streams(Rc::clone(&pulse)))
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(STREAM_BUFFER_BYTES)
            .initial_stream_window_size(BODY_BUFFER_BYTES)
            .initial_connection_window_size(BODIES_BUFFER_BYTES)
            .enable_connect_protocol()
            .serve_connection(TokioIo::new(stream), service);
        keep(core, connection, &noticed, &pulse).await;
    } else {
        let io = TokioIo::new(Watched { stream, watch: Watch::default(), noticed: Arc::clone(&noticed) });
        let connection = http1::Builder::new()
            .max_buf_size(limits.header_bytes.max(8 * 1024))
            .max_header_size(limits.header_bytes)
            .header_read_timeout(None)
            .serve_connection(io, service)
            .with_upgrades();
        keep(core, connection, &noticed, &pulse).await;
    }
}

/// Serves a connection to its end, or ends it when its client does not keep to the limits.
async fn keep(core: &Core, connection: impl Served, noticed: &Noticed, pulse: &Pulse) {
    tokio::pin!(connection);
    let (mut signs, mut seldom) = (Signs::new(core, noticed, pulse), Seldom::default());
    loop {
        let mut next = pin!(signs.next());
        seldom.begin();
        let sign = poll_fn(|cx| match connection.as_mut().poll(cx) {
            // Its error is the client's going away, or a request that hyper has answered 400 already.
            Poll::Ready(_) => Poll::Ready(Sign::Cut),
            Poll::Pending => seldom.poll(next.as_mut(), cx),
        });
        match sign.await {
            Sign::Cut => break,
            Sign::FinishUp => connection.as_mut().finish_up(),
            Sign::FinishPolitely => connection.as_mut().finish_politely(),
        }
    }
}

/// What is to become of a connection.
enum Sign {
    /// It has ended, or has to.
    Cut,
    FinishUp,
    FinishPolitely,
}

/// What a connection hears of beside its client, and its time.
struct Signs<'a> {
    core: &'a Core,
    noticed: &'a Noticed,
    pulse: &'a Pulse,
    /// One that comes while the edge is drained is answered once; ending it here would be before its request.
    winding_down: CancellationToken,
    stopping: bool,
    winding: bool,
    left: bool,
    look: Pin<Box<Sleep>>,
    quiet_since: Instant,
    head_since: Option<Instant>,
    beats: u64,
}

impl<'a> Signs<'a> {
    fn new(core: &'a Core, noticed: &'a Noticed, pulse: &'a Pulse) -> Self {
        let winding_down = core.winding_down();
        Self {
            core,
            noticed,
            pulse,
            winding: winding_down.is_cancelled(),
            winding_down,
            stopping: false,
            left: false,
            look: Box::pin(tokio::time::sleep(look_every(core.limits()))),
            quiet_since: Instant::now(),
            head_since: None,
            beats: 0,
        }
    }

    async fn next(&mut self) -> Sign {
        let limits = self.core.limits();
        loop {
            tokio::select! {
                biased;
                () = self.core.stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    return Sign::FinishUp;
                }
                () = self.winding_down.cancelled(), if !self.winding => {
                    self.winding = true;
                    return Sign::FinishUp;
                }
                () = self.core.common.leaving.cancelled(), if !self.left => {
                    self.left = true;
                    return Sign::FinishPolitely;
                }
                () = self.pulse.taken_back(TAKEN_BACK_MAX) => {
                    tracing::debug!("a connection that took back its requests was cut");
                    return Sign::Cut;
                }
                () = self.look.as_mut() => {
                    let now = Instant::now();
                    let scarce = self.core.streams.get() * 2 > limits.connections;
                    self.pulse.end_untaken(now, limits.client_idle, scarce);
                    // Quiet: nothing under way, or an answer that the client does not take.
                    if self.pulse.beats() != self.beats || self.pulse.waits_for_member() {
                        (self.beats, self.quiet_since) = (self.pulse.beats(), now);
                    }
                    let in_head = self.noticed.in_head.load(Ordering::Relaxed);
                    self.head_since = if in_head { self.head_since.or(Some(now)) } else { None };
                    let late = self.head_since.is_some_and(|since| now - since >= limits.header_time);
                    if late || now - self.quiet_since >= limits.client_idle {
                        return Sign::Cut;
                    }
                    self.look.as_mut().reset(tokio::time::Instant::now() + look_every(limits));
                }
            }
        }
    }
}

fn look_every(limits: &Limits) -> Duration {
    LOOK_MAX.min(limits.header_time / 2).min(limits.client_idle / 2)
}

/// A client's stream whose incoming bytes are watched before hyper has them.
struct Watched<S> {
    stream: S,
    watch: Watch,
    noticed: Arc<Noticed>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.watch.feed(read);
            if let Some(number) = this.watch.doubtful {
                this.noticed.doubtful.store(number, Ordering::Relaxed);
            }
            this.noticed.in_head.store(this.watch.in_head(), Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
