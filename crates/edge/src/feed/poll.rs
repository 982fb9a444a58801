//! The stream of routes in pieces: where something between cuts it or keeps it back, the edge asks again and again, and
//! each answer is whole.
//!
//! Says the same and takes the same as the stream does; a change is there one round trip later.

use super::{ANSWER_TIME, ControlUrl, FIRST_PAUSE, FeedError, LINE_MAX, Link, ask, connect};
use berth_wire::edge::{EdgeEvent, IN_THE_OPEN, POLL};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

/// So many streams in a row that did not live are no accident.
const CUTS: u32 = 2;
/// One that ends after this long ended for another reason.
const LIVED: Duration = Duration::from_secs(20);
/// Then streams are tried again.
const POLLS_FOR: Duration = Duration::from_mins(5);
/// How long control may keep an answer back, at first and at least.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_LEAST: Duration = Duration::from_millis(500);
/// Polls that are answered at once are no reason to ask without a pause.
const EVERY: Duration = Duration::from_millis(100);

/// Whether streams are worth a try.
#[derive(Debug)]
pub struct FallBack {
    cut: u32,
    until: Option<Instant>,
    wait: Duration,
    /// Control was older than polls a moment ago.
    unknown_until: Option<Instant>,
    /// The stream that control keeps for the next poll.
    heard: Option<Uuid>,
}

impl Default for FallBack {
    fn default() -> Self {
        Self { cut: 0, until: None, wait: WAIT, unknown_until: None, heard: None }
    }
}

impl FallBack {
    /// How long control may keep an answer to a poll back. `None`: a stream it is.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let until = self.until?;
        if now < until {
            return Some(self.wait);
        }
        // One stream shows whether it still is so.
        (self.until, self.cut) = (None, CUTS - 1);
        None
    }

    /// What was begun then has ended. True: it is polls from now on.
    pub fn ended(&mut self, error: &FeedError, polled: bool, began: Instant) -> bool {
        let cut = matches!(error, FeedError::Late | FeedError::Broken(_) | FeedError::Answer | FeedError::Silence);
        if polled {
            // It knows no such parameter, which an upgrade of it changes.
            if matches!(error, FeedError::Refused(StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)) {
                *self = Self { unknown_until: Some(Instant::now() + POLLS_FOR), ..Self::default() };
            } else if cut {
                self.wait = (self.wait / 2).max(WAIT_LEAST);
            }
            return false;
        }
        if !cut {
            return false;
        }
        self.cut = if began.elapsed() < LIVED { self.cut + 1 } else { 0 };
        let falls = self.cut >= CUTS && self.unknown_until.is_none_or(|until| until <= Instant::now());
        if falls {
            self.until = Some(Instant::now() + POLLS_FOR);
        }
        falls
    }
}

/// `Ok`: nobody takes events any more.
pub async fn follow(
    link: &Link,
    url: &ControlUrl,
    events: &mpsc::Sender<EdgeEvent>,
    pause: &mut Duration,
    wait: Duration,
    fall_back: &mut FallBack,
) -> Result<(), FeedError> {
    let (mut sender, in_the_open) = connect(link, url).await?;
    loop {
        let began = Instant::now();
        if fall_back.wait(began).is_none() {
            // Streams are tried again; the connection has done nothing wrong.
            return Err(FeedError::Again);
        }
        let after = link.revision.load(Ordering::Acquire);
        let said = fall_back.heard.map(|heard| format!("&poll={heard}")).unwrap_or_default();
        let tail = format!("routes?instance={}&after={after}&wait_ms={}{said}", link.instance, wait.as_millis());
        let mut request = link.request(url, Method::GET, &tail, Bytes::new())?;
        if in_the_open {
            request.headers_mut().insert(IN_THE_OPEN, HeaderValue::from_static("1"));
        }
        sender.ready().await?;
        let asked = async {
            let answer = ask(&mut sender, request, wait + ANSWER_TIME).await?;
            let token = answer.headers().get(POLL).and_then(|token| token.to_str().ok()?.parse().ok());
            let body = timeout(ANSWER_TIME, Limited::new(answer.into_body(), LINE_MAX).collect()).await;
            let body = body.map_err(|_| FeedError::Late)?.map_err(|_| FeedError::Answer)?.to_bytes();
            Ok::<_, FeedError>((token, body))
        };
        let (token, body) = tokio::select! {
            answer = asked => answer?,
            () = link.again.notified() => return Err(FeedError::Again),
            () = link.presence_changed.notified() => return Err(FeedError::Leaving),
        };
        *pause = FIRST_PAUSE;
        if !link.connected.swap(true, Ordering::Relaxed) {
            tracing::info!(control = %url.socket, "asking the control plane for routes in polls");
            link.outbox_changed.notify_one();
        }
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if events.send(serde_json::from_slice(line)?).await.is_err() {
                return Ok(());
            }
        }
        // Only what has been taken has been heard.
        fall_back.heard = token;
        sleep_until(began + EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{CUTS, FallBack, LIVED, POLLS_FOR, WAIT, WAIT_LEAST};
    use crate::feed::FeedError;
    use http::StatusCode;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn streams_that_do_not_live_are_followed_by_polls_for_a_while() {
        let mut it = FallBack::default();
        let began = Instant::now();
        assert!(!it.ended(&FeedError::Silence, false, began));
        assert!(!it.ended(&FeedError::Connect(std::io::Error::other("refused")), false, began), "nobody cut that");
        assert_eq!(it.wait(Instant::now()), None);
        assert!(it.ended(&FeedError::Late, false, began), "{CUTS} in a row");
        assert_eq!(it.wait(Instant::now()), Some(WAIT));
        for _ in 0..10 {
            it.ended(&FeedError::Answer, true, Instant::now());
        }
        assert_eq!(it.wait(Instant::now()), Some(WAIT_LEAST), "what is cut too is asked for a shorter answer");
        advance(POLLS_FOR).await;
        assert_eq!(it.wait(Instant::now()), None, "a stream is tried again");
        assert!(it.ended(&FeedError::Silence, false, Instant::now()), "one is enough then");
        advance(POLLS_FOR).await;
        assert_eq!(it.wait(Instant::now()), None);
        let began = Instant::now();
        advance(LIVED).await;
        assert!(!it.ended(&FeedError::Answer, false, began), "it lived");
        assert!(!it.ended(&FeedError::Answer, false, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_knows_no_polls_is_asked_for_streams() {
        let mut it = FallBack::default();
        it.ended(&FeedError::Silence, false, Instant::now());
        assert!(it.ended(&FeedError::Silence, false, Instant::now()));
        it.ended(&FeedError::Refused(StatusCode::SERVICE_UNAVAILABLE), true, Instant::now());
        assert_eq!(it.wait(Instant::now()), Some(WAIT), "it may be back soon");
        it.ended(&FeedError::Refused(StatusCode::UNPROCESSABLE_ENTITY), true, Instant::now());
        assert_eq!(it.wait(Instant::now()), None);
        for _ in 0..5 {
            assert!(!it.ended(&FeedError::Silence, false, Instant::now()));
        }
        advance(POLLS_FOR).await;
        assert!(it.ended(&FeedError::Silence, false, Instant::now()), "by now it may have been upgraded");
        it.ended(&FeedError::Refused(StatusCode::UNAUTHORIZED), true, Instant::now());
        assert_eq!(it.wait(Instant::now()), Some(WAIT), "a changed key says nothing of polls");
    }
}
