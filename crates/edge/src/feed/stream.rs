//! The stream of routes, and how its lines are read; the answer to a poll has the same.

use super::{ANSWER_TIME, ControlUrl, FIRST_PAUSE, FIRST_WORD, FeedError, LINE_MAX, Link, ask, connect};
use berth_wire::edge::{EdgeEvent, IN_THE_OPEN};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

/// What control says after so long was no part of the beginning: its next ping at the latest.
const LATER: Duration = Duration::from_secs(3);

/// Bytes as they come, cut into lines.
#[derive(Default)]
pub struct Cutter {
    buffer: BytesMut,
    /// No line ends before.
    scanned: usize,
}

impl Cutter {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line with its end, once all of it is there.
    pub fn line(&mut self) -> Option<BytesMut> {
        if let Some(end) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
            let line = self.buffer.split_to(self.scanned + end + 1);
            self.scanned = 0;
            return Some(line);
        }
        self.scanned = self.buffer.len();
        if self.buffer.is_empty() {
            // A full table came in one line; its room is not kept.
            self.buffer = BytesMut::new();
        }
        None
    }

    /// Bytes that are not handed out yet.
    pub fn left_over(&self) -> usize {
        self.buffer.len()
    }
}

/// An answer's lines, an event each.
pub struct Lines {
    body: Incoming,
    cutter: Cutter,
}

impl Lines {
    pub fn of(body: Incoming) -> Self {
        Self { body, cutter: Cutter::default() }
    }

    /// `None`: that was all. `silence`: how long there may be nothing, however long the whole takes.
    pub async fn next(&mut self, link: &Link, silence: Duration) -> Result<Option<EdgeEvent>, FeedError> {
        loop {
            if let Some(line) = self.cutter.line() {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.cutter.left_over() > LINE_MAX {
                return Err(FeedError::Answer);
            }
            let frame = tokio::select! {
                frame = timeout(silence, self.body.frame()) => frame.map_err(|_| FeedError::Silence)?,
                () = link.again.notified() => return Err(FeedError::Again),
                () = link.presence_changed.notified() => return Err(FeedError::Leaving),
            };
            match frame {
                None if self.cutter.left_over() == 0 => return Ok(None),
                None => return Err(FeedError::Answer),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.cutter.feed(&data);
                    }
                }
            }
        }
    }

    /// What never ends has one.
    async fn need(&mut self, link: &Link, silence: Duration) -> Result<EdgeEvent, FeedError> {
        self.next(link, silence).await?.ok_or(FeedError::Answer)
    }
}

/// A stream that has brought its first word.
pub struct Stream {
    /// The connection lives as long.
    _sender: SendRequest<Full<Bytes>>,
    lines: Lines,
    /// Not told yet.
    heard: Vec<EdgeEvent>,
}

impl Stream {
    pub async fn open(link: &Link, url: &ControlUrl) -> Result<Self, FeedError> {
        let (mut sender, in_the_open) = connect(link, url).await?;
        let after = link.revision.load(Ordering::Acquire);
        let tail = format!("routes?instance={}&after={after}", link.instance);
        let mut request = link.request(url, Method::GET, &tail, Bytes::new())?;
        if in_the_open {
            request.headers_mut().insert(IN_THE_OPEN, HeaderValue::from_static("1"));
        }
        let mut lines = Lines::of(ask(&mut sender, request, ANSWER_TIME).await?.into_body());
        // What there is to say comes at once: a proxy that keeps it back is not waited for.
        let first = lines.need(link, link.silence.min(FIRST_WORD)).await?;
        Ok(Self { _sender: sender, lines, heard: vec![first] })
    }

    /// Whether one brings something that control said later: a proxy that passes on what fills its buffer lets the
    /// beginning through, and keeps back what follows.
    pub async fn lives(link: &Link, url: &ControlUrl) -> Result<(), FeedError> {
        let mut stream = Self::open(link, url).await?;
        let opened = Instant::now();
        while opened.elapsed() < LATER {
            stream.lines.need(link, FIRST_WORD).await?;
        }
        Ok(())
    }

    /// `Ok`: nobody takes events any more.
    pub async fn follow(
        mut self,
        link: &Link,
        url: &ControlUrl,
        events: &mpsc::Sender<EdgeEvent>,
        pause: &mut Duration,
    ) -> Result<(), FeedError> {
        *pause = FIRST_PAUSE;
        if !link.connected.swap(true, Ordering::Relaxed) {
            tracing::info!(control = %url.socket, "following the control plane's routes");
            link.outbox_changed.notify_one();
        }
        loop {
            for event in self.heard.drain(..) {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            self.heard.push(self.lines.need(link, link.silence).await?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EdgeEvent, Lines};
    use crate::feed::{ANSWER_TIME, FeedError, Link, ask, speak};
    use berth_domain::Revision;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, sleep},
    };

    fn ping(revision: u64) -> EdgeEvent {
        EdgeEvent::Ping { revision: Revision::new(revision) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_as_long_as_it_takes_and_may_not_fall_silent() {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(async move {
            let mut asked = [0; 4096];
            let _ = theirs.read(&mut asked).await;
            theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            for revision in 1..=4 {
                let line = serde_json::to_string(&ping(revision)).unwrap() + "\n";
                for part in [&line[..7], &line[7..]] {
                    sleep(ANSWER_TIME * 4 / 5).await;
                    theirs.write_all(part.as_bytes()).await.unwrap();
                }
            }
            sleep(ANSWER_TIME * 6 / 5).await;
        });
        let name = "fra".parse().unwrap();
        let link = Link::new(name, Vec::new(), "key".into(), Duration::from_secs(30), false, Revision::default());
        let mut sender = speak(ours).await.unwrap();
        let request = Request::get("/").body(Full::new(Bytes::new())).unwrap();
        let began = Instant::now();
        let mut lines = Lines::of(ask(&mut sender, request, ANSWER_TIME).await.unwrap().into_body());
        for revision in 1..=4 {
            assert_eq!(lines.next(&link, ANSWER_TIME).await.unwrap(), Some(ping(revision)));
        }
        assert!(began.elapsed() > ANSWER_TIME * 6);
        assert!(matches!(lines.next(&link, ANSWER_TIME).await, Err(FeedError::Silence)));
    }
}
