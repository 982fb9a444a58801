//! The edge's two conversations with the control plane: the stream of routes, and what the edge says of them.
//!
//! Never decides what is taken. Either conversation may break at any time and goes on with any control plane that
//! answers; the edge serves on without.

mod poll;
mod stream;

#[cfg(fuzzing)]
pub use self::stream::Cutter;
use self::{poll::FallBack, stream::Stream};
use crate::{config::EdgeError, dial};
use berth_domain::{EdgeId, EdgeName, Revision, is_private};
use berth_wire::{
    VERSION,
    edge::{
        CHALLENGES, EdgeAck, EdgeAckAnswer, EdgeEvent, EdgeMeters, EdgeMetersAnswer, HoldReport, KEEPS, KEEPS_ALLOW,
        LEAVING, Presence, SPEAKS,
    },
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

const CONNECT_TIME: Duration = Duration::from_secs(2);
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The first event of a stream is there after this.
const FIRST_WORD: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A line longer than this is not a control plane's.
const LINE_MAX: usize = 512 * 1024 * 1024;
const ANSWER_MAX: usize = 64 * 1024;
/// Reports that wait for a control plane; the oldest go first, for their moves have long been given up.
const REPORTS_MAX: usize = 10_000;

/// Why a conversation broke. Told in a log line only: what follows is always the next attempt.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("no connection")]
    Connect(#[from] io::Error),
    #[error("it could not prove that it is the control plane")]
    Tls(#[source] io::Error),
    #[error("no answer in time")]
    Late,
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    #[error("answered {0}")]
    Refused(StatusCode),
    #[error("the request could not be put together")]
    Request(#[from] http::Error),
    #[error("said something that is not in the protocol")]
    Gibberish(#[from] serde_json::Error),
    #[error("the answer is too long or broke off")]
    Answer,
    #[error("silence")]
    Silence,
    #[error("the edge asked for the routes again")]
    Again,
    #[error("the edge is leaving, and follows as one that does")]
    Leaving,
}

/// One control plane's address.
#[derive(Clone, Debug)]
pub struct ControlUrl {
    authority: HeaderValue,
    socket: String,
    prefix: String,
    /// `https://`: the name that its certificate has to bear, and who vouches for it.
    secure: Option<(ServerName<'static>, Arc<ClientConfig>)>,
}

impl ControlUrl {
    /// `authorities_pem`: who vouches for control planes over TLS, instead of those whom the system knows.
    pub fn parse(text: &str, authorities_pem: Option<&str>) -> Result<Self, EdgeError> {
        let bad = || EdgeError::ControlUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        if uri.query().is_some() {
            return Err(bad());
        }
        let secure = if https {
            let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
            let config = dial::to_control(authorities_pem).ok_or(EdgeError::ControlAuthority)?;
            Some((ServerName::try_from(name).map_err(|_| bad())?, config))
        } else {
            None
        };
        let socket = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(if https { 443 } else { 80 }));
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        Ok(Self { authority: value, socket, prefix: uri.path().trim_end_matches('/').to_owned(), secure })
    }
}

/// What both conversations need.
pub struct Link {
    pub name: EdgeName,
    pub instance: EdgeId,
    pub urls: Vec<ControlUrl>,
    pub api_key: SecretString,
    pub silence: Duration,
    /// Certificates and their keys are asked for.
    pub ends_tls: bool,
    /// The newest revision in force and on disk.
    pub revision: AtomicU64,
    /// The version of the challenges that are answered.
    pub challenges: AtomicU64,
    pub connected: AtomicBool,
    /// It has been spoken to without TLS over a network that is not private.
    pub open: AtomicBool,
    /// Routes are asked for in polls, because streams are cut.
    pub polls: AtomicBool,
    /// The routes are wanted again from `revision`, because the last ones could not be written down.
    pub again: Notify,
    /// Times that the disk did not take something of the data folder.
    pub disk_failures: AtomicU64,
    presence: Mutex<Presence>,
    /// What the control plane has been told of it.
    said: Mutex<Presence>,
    presence_changed: Notify,
    outbox: Mutex<Vec<HoldReport>>,
    outbox_changed: Notify,
}

impl Link {
    pub fn new(
        name: EdgeName,
        urls: Vec<ControlUrl>,
        api_key: SecretString,
        silence: Duration,
        ends_tls: bool,
        revision: Revision,
    ) -> Self {
        Self {
            name,
            instance: EdgeId::new(uuid::Uuid::now_v7()),
            urls,
            api_key,
            silence,
            ends_tls,
            revision: AtomicU64::new(revision.get()),
            challenges: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            open: AtomicBool::new(false),
            polls: AtomicBool::new(false),
            again: Notify::new(),
            disk_failures: AtomicU64::new(0),
            presence: Mutex::default(),
            said: Mutex::default(),
            presence_changed: Notify::new(),
            outbox: Mutex::default(),
            outbox_changed: Notify::new(),
        }
    }

    /// Says how far we are and how holds went, as soon as somebody listens.
    pub fn say(&self, revision: Revision, reports: Vec<HoldReport>) {
        self.revision.store(revision.get(), Ordering::Release);
        let mut outbox = self.outbox();
        outbox.extend(reports);
        let surplus = outbox.len().saturating_sub(REPORTS_MAX);
        outbox.drain(..surplus);
        drop(outbox);
        self.outbox_changed.notify_one();
    }

    /// Says from now on how long this process is there.
    pub fn be(&self, presence: Presence) {
        *self.presence.lock().unwrap_or_else(PoisonError::into_inner) = presence;
        self.presence_changed.notify_one();
        self.outbox_changed.notify_one();
    }

    fn presence(&self) -> Presence {
        *self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn disk_failed(&self) {
        self.disk_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub fn has_said(&self, presence: Presence) -> bool {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) == presence
    }

    fn outbox(&self) -> MutexGuard<'_, Vec<HoldReport>> {
        // Whoever panicked while holding it had at most added or removed whole reports.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(
        &self,
        url: &ControlUrl,
        method: Method,
        tail: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, FeedError> {
        let uri = format!("{}/v1/edges/{}/{tail}", url.prefix, self.name);
        let mut key =
            HeaderValue::from_str(&format!("Bearer {}", self.api_key.expose_secret())).map_err(http::Error::from)?;
        key.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, url.authority.clone())
            .header(header::AUTHORIZATION, key)
            .header(header::CONTENT_TYPE, "application/json")
            .header(CHALLENGES, "1")
            .header(SPEAKS, if self.ends_tls { "3" } else { "2" })
            .header(KEEPS, KEEPS_ALLOW)
            .header(VERSION, berth_domain::Version::own().to_string());
        let request = if self.presence() == Presence::Serving { request } else { request.header(LEAVING, "1") };
        Ok(request.body(Full::new(body))?)
    }
}

/// The connection, and whether others may read along.
async fn connect(link: &Link, url: &ControlUrl) -> Result<(SendRequest<Full<Bytes>>, bool), FeedError> {
    let stream = timeout(CONNECT_TIME, TcpStream::connect(&url.socket)).await.map_err(|_| FeedError::Late)??;
    stream.set_nodelay(true)?;
    let in_the_open = url.secure.is_none() && !is_private(stream.peer_addr()?.ip());
    if in_the_open && !link.open.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            control = %url.socket,
            "this edge's key and what control says pass a public network without TLS; give the control plane as https://"
        );
    }
    let sender = match &url.secure {
        None => speak(stream).await?,
        Some((name, config)) => {
            let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
            speak(timeout(CONNECT_TIME, connecting).await.map_err(|_| FeedError::Late)?.map_err(FeedError::Tls)?)
                .await?
        }
    };
    Ok((sender, in_the_open))
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Full<Bytes>>, FeedError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender or the peer; either is noticed by whoever uses it.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Incoming>, FeedError> {
    let answer = timeout(limit, sender.send_request(request)).await.map_err(|_| FeedError::Late)??;
    if answer.status().is_success() { Ok(answer) } else { Err(FeedError::Refused(answer.status())) }
}

/// Longer from failure to failure, up to a bound; the first is short, since a restart is the common cause.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// Follows the routes for as long as the edge lives. `polls_for`: see [`crate::Limits`].
pub async fn follow(link: Arc<Link>, events: mpsc::Sender<EdgeEvent>, polls_for: Duration) {
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    let mut fall_back = FallBack::new(polls_for);
    for url in link.urls.iter().cycle() {
        let polls = fall_back.begins();
        link.polls.store(polls, Ordering::Relaxed);
        let followed = if polls {
            poll::follow(&link, url, &events, &mut pause, &mut fall_back).await
        } else {
            match Stream::open(&link, url).await {
                Ok(stream) => stream.follow(&link, url, &events, &mut pause).await,
                Err(error) => Err(error),
            }
        };
        let error = match followed {
            Ok(()) => return,
            Err(error) => error,
        };
        if fall_back.ended(&error) {
            tracing::warn!(control = %url.socket, %error, "the stream of routes is cut again and again: asking in polls");
        }
        said &= !link.connected.swap(false, Ordering::Relaxed);
        if said {
            tracing::debug!(control = %url.socket, %error, "no routes from this control plane");
        } else {
            said = true;
            tracing::warn!(control = %url.socket, %error, "no routes from the control plane; serving on without");
        }
        if matches!(error, FeedError::Again) {
            // A full disk does not get emptier by being asked more often.
            pause = LONGEST_PAUSE;
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

/// Acknowledges for as long as the edge lives. A report is said again until a control plane has taken it.
pub async fn acknowledge(link: Arc<Link>) {
    let mut pause = FIRST_PAUSE;
    let mut behind = false;
    for url in link.urls.iter().cycle() {
        loop {
            let mut worked = false;
            let error = acknowledge_to(&link, url, &mut worked, &mut behind).await;
            tracing::debug!(control = %url.socket, %error, "acknowledgements were interrupted");
            if !worked {
                break;
            }
            // A kept connection that ended is no reason to let a move wait: at once, and to the same one.
            pause = FIRST_PAUSE;
        }
        sleep(pause).await;
        pause = longer(pause);
    }
}

async fn acknowledge_to(link: &Link, url: &ControlUrl, worked: &mut bool, behind: &mut bool) -> FeedError {
    let mut sender = match connect(link, url).await {
        Ok((sender, _)) => sender,
        Err(error) => return error,
    };
    // Whatever was due when the last conversation broke is due now.
    loop {
        let holds = link.outbox().clone();
        let said = holds.len();
        let revision = Revision::new(link.revision.load(Ordering::Acquire));
        let challenges = link.challenges.load(Ordering::Acquire);
        let presence = link.presence();
        let ack = EdgeAck { instance: link.instance, revision, holds, presence, challenges };
        let answer = match say(link, url, &mut sender, ack).await {
            Ok(answer) => answer,
            Err(error) => return error,
        };
        *worked = true;
        *link.said.lock().unwrap_or_else(PoisonError::into_inner) = presence;
        let more = {
            let mut outbox = link.outbox();
            let said = said.min(outbox.len());
            outbox.drain(..said);
            !outbox.is_empty()
        };
        if answer.revision < revision && !*behind {
            tracing::warn!(%revision, control = %answer.revision, "the control plane is behind this edge, which keeps what it has");
        }
        *behind = answer.revision < revision;
        if !more {
            link.outbox_changed.notified().await;
        }
    }
}

async fn say(
    link: &Link,
    url: &ControlUrl,
    sender: &mut SendRequest<Full<Bytes>>,
    ack: EdgeAck,
) -> Result<EdgeAckAnswer, FeedError> {
    sender.ready().await?;
    let body = Bytes::from(serde_json::to_vec(&ack)?);
    let answer = ask(sender, link.request(url, Method::POST, "acks", body)?, ANSWER_TIME).await?;
    let body = timeout(ANSWER_TIME, Limited::new(answer.into_body(), ANSWER_MAX).collect()).await;
    let body = body.map_err(|_| FeedError::Late)?.map_err(|_| FeedError::Answer)?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

/// The last word of a process that another one followed. Unheard it is forgotten by its silence.
pub async fn say_gone(link: &Link) {
    link.be(Presence::Gone);
    let revision = Revision::new(link.revision.load(Ordering::Acquire));
    for url in &link.urls {
        let ack =
            EdgeAck { instance: link.instance, revision, holds: Vec::new(), presence: Presence::Gone, challenges: 0 };
        let said = async { say(link, url, &mut connect(link, url).await?.0, ack).await };
        if matches!(timeout(CONNECT_TIME, said).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Tells counters to the first control plane that takes them. On a connection of its own: what a move waits for never
/// stands behind it.
pub async fn say_meters(link: &Link, said: &EdgeMeters) -> bool {
    for url in &link.urls {
        match say_meters_to(link, url, said).await {
            Ok(_) => return true,
            Err(error) => tracing::debug!(control = %url.socket, %error, "counters were not taken"),
        }
    }
    false
}

async fn say_meters_to(link: &Link, url: &ControlUrl, said: &EdgeMeters) -> Result<EdgeMetersAnswer, FeedError> {
    let (mut sender, _) = connect(link, url).await?;
    let request = link.request(url, Method::POST, "meters", Bytes::from(serde_json::to_vec(said)?))?;
    let answer = ask(&mut sender, request, ANSWER_TIME).await?;
    let body = timeout(ANSWER_TIME, Limited::new(answer.into_body(), ANSWER_MAX).collect()).await;
    let body = body.map_err(|_| FeedError::Late)?.map_err(|_| FeedError::Answer)?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::ControlUrl;

    #[test]
    fn a_control_plane_has_an_address_and_no_more() {
        for (text, socket) in [("http://a", "a:80"), ("https://a/x/", "a:443"), ("https://[::1]:7", "[::1]:7")] {
            let url = ControlUrl::parse(text, None).unwrap();
            assert_eq!((url.socket.as_str(), url.secure.is_some()), (socket, text.starts_with("https")));
        }
        for bad in ["a:80", "ftp://a", "http://a/?b", "https://-"] {
            assert!(ControlUrl::parse(bad, None).is_err(), "{bad}");
        }
        let error = ControlUrl::parse("https://a", Some("no PEM")).err().unwrap();
        assert_eq!(
            error.to_string(),
            "what is to vouch for control planes is no PEM of certificates, or one of them cannot be read"
        );
    }
}
