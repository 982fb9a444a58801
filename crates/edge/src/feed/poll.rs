//! The stream of routes in pieces: where something between cuts it or keeps it back, the edge asks again and again, and
//! each answer is whole.
//!
//! Says the same and takes the same as the stream does; a change is there one round trip later.

use super::{
    ANSWER_TIME, ControlUrl, FIRST_PAUSE, FIRST_WORD, FeedError, Link, ask, connect,
    stream::{Lines, Stream},
};
use berth_wire::edge::{EdgeEvent, IN_THE_OPEN, POLL};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use std::{pin::pin, sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

/// So many streams in a row that did not live are no accident.
const CUTS: u32 = 2;
/// One that ends after this long ended for another reason.
const LIVED: Duration = Duration::from_secs(20);
/// How long control may keep an answer back, at first and at least.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_LEAST: Duration = Duration::from_millis(500);
/// So many answers in a row, and the next ones may be kept back longer again.
const GOOD: u32 = 100;
/// Polls that are answered at once are no reason to ask without a pause.
const EVERY: Duration = Duration::from_millis(100);
/// So many in a row that brought no newer route come from servers that do not know each other's polls and begin anew each
/// time: less often then.
const AT_ONCE: u32 = 5;
const EVERY_AT_ONCE: Duration = Duration::from_secs(1);

/// Whether streams live, and what polls have come to where they do not.
#[derive(Debug)]
pub struct FallBack {
    polls_for: Duration,
    cut: u32,
    /// When what is followed now was begun.
    began: Instant,
    /// It is polls, and a stream is tried beside them then.
    trial_at: Option<Instant>,
    /// Control was older than polls a moment ago.
    unknown_until: Option<Instant>,
    polling: Polling,
}

#[derive(Debug)]
struct Polling {
    wait: Duration,
    good: u32,
    /// The stream that control keeps for the next poll.
    heard: Option<Uuid>,
}

impl Polling {
    fn was_cut(&mut self) {
        self.wait = (self.wait / 2).max(WAIT_LEAST);
        self.good = 0;
    }

    fn was_answered(&mut self) {
        self.good += 1;
        if self.good >= GOOD {
            self.wait = (self.wait * 2).min(WAIT);
            self.good = 0;
        }
    }
}

impl FallBack {
    pub fn new(polls_for: Duration) -> Self {
        let polling = Polling { wait: WAIT, good: 0, heard: None };
        Self { polls_for, cut: 0, began: Instant::now(), trial_at: None, unknown_until: None, polling }
    }

    /// Whether it is polls that begin now, and no stream.
    pub fn begins(&mut self) -> bool {
        self.began = Instant::now();
        self.trial_at.is_some()
    }

    /// One that is followed from now on; if it does not live, it is polls again.
    fn stream_is_back(&mut self) {
        // What the last poll heard is no longer the last.
        (self.trial_at, self.cut, self.polling.heard) = (None, CUTS - 1, None);
        self.began = Instant::now();
    }

    /// What was followed has ended. True: it is polls from now on.
    pub fn ended(&mut self, error: &FeedError) -> bool {
        let cut = matches!(
            error,
            FeedError::Late
                | FeedError::Broken(_)
                | FeedError::Answer
                | FeedError::Silence
                | FeedError::Refused(StatusCode::GATEWAY_TIMEOUT)
        );
        let now = Instant::now();
        if matches!(error, FeedError::Again) {
            // What is missing was said already: only a beginning brings it.
            self.polling.heard = None;
        }
        if self.trial_at.is_some() {
            // It knows no such parameter, which an upgrade of it changes.
            if matches!(error, FeedError::Refused(StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)) {
                *self = Self { unknown_until: Some(now + self.polls_for), ..Self::new(self.polls_for) };
            } else if cut {
                self.polling.was_cut();
            }
            return false;
        }
        if !cut {
            return false;
        }
        self.cut = if self.began.elapsed() < LIVED { self.cut + 1 } else { 0 };
        let falls = self.cut >= CUTS && self.unknown_until.is_none_or(|until| until <= now);
        if falls {
            self.trial_at = Some(now + self.polls_for);
        }
        falls
    }
}

/// Polls until a stream lives that is tried beside them now and then, and follows that. `Ok`: nobody takes events any more.
pub async fn follow(
    link: &Link,
    url: &ControlUrl,
    events: &mpsc::Sender<EdgeEvent>,
    pause: &mut Duration,
    fall_back: &mut FallBack,
) -> Result<(), FeedError> {
    {
        let FallBack { polls_for, trial_at, polling, .. } = &mut *fall_back;
        let mut polls = pin!(ask_again_and_again(link, url, events, pause, polling));
        loop {
            let at = trial_at.unwrap_or_else(Instant::now);
            let trial = async {
                sleep_until(at).await;
                Stream::lives(link, url).await
            };
            tokio::select! {
                ended = &mut polls => return ended,
                lives = trial => match lives {
                    Ok(()) => break,
                    // Said to whoever listened first, and meant for both.
                    Err(error @ (FeedError::Again | FeedError::Leaving)) => return Err(error),
                    Err(error) => {
                        tracing::debug!(control = %url.socket, %error, "the stream of routes is still cut");
                        *trial_at = Some(Instant::now() + *polls_for);
                    }
                },
            }
        }
    }
    // A new one: what the trial was told first is older than what polls have brought since.
    fall_back.stream_is_back();
    link.polls.store(false, Ordering::Relaxed);
    tracing::info!(control = %url.socket, "the stream of routes is whole again");
    Stream::open(link, url).await?.follow(link, url, events, pause).await
}

async fn ask_again_and_again(
    link: &Link,
    url: &ControlUrl,
    events: &mpsc::Sender<EdgeEvent>,
    pause: &mut Duration,
    polling: &mut Polling,
) -> Result<(), FeedError> {
    let (mut sender, in_the_open) = connect(link, url).await?;
    let mut at_once = 0;
    loop {
        let (began, wait) = (Instant::now(), polling.wait);
        let after = link.revision.load(Ordering::Acquire);
        let heard = polling.heard.map(|heard| format!("&poll={heard}")).unwrap_or_default();
        let tail = format!("routes?instance={}&after={after}&wait_ms={}{heard}", link.instance, wait.as_millis());
        let mut request = link.request(url, Method::GET, &tail, Bytes::new())?;
        if in_the_open {
            request.headers_mut().insert(IN_THE_OPEN, HeaderValue::from_static("1"));
        }
        sender.ready().await?;
        // Beside the wait control reads what there is, as for a stream's first word.
        let answer = tokio::select! {
            answer = ask(&mut sender, request, wait + FIRST_WORD) => answer?,
            () = link.again.notified() => return Err(FeedError::Again),
            () = link.presence_changed.notified() => return Err(FeedError::Leaving),
        };
        let token = answer.headers().get(POLL).and_then(|token| token.to_str().ok()?.parse().ok());
        let mut lines = Lines::of(answer.into_body());
        let mut said = lines.next(link, ANSWER_TIME).await?;
        *pause = FIRST_PAUSE;
        if !link.connected.swap(true, Ordering::Relaxed) {
            tracing::info!(control = %url.socket, "asking the control plane for routes in polls");
            link.outbox_changed.notify_one();
        }
        while let Some(event) = said {
            if events.send(event).await.is_err() {
                return Ok(());
            }
            said = lines.next(link, ANSWER_TIME).await?;
        }
        // Only what has been taken has been heard.
        polling.heard = token;
        polling.was_answered();
        let waited = began.elapsed() >= EVERY;
        sleep_until(began + EVERY).await;
        let brought = link.revision.load(Ordering::Acquire) != after;
        at_once = if waited || brought { 0 } else { at_once + 1 };
        if at_once > AT_ONCE {
            sleep_until(began + EVERY_AT_ONCE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CUTS, FallBack, GOOD, LIVED, WAIT, WAIT_LEAST};
    use crate::feed::FeedError;
    use http::StatusCode;
    use std::time::Duration;
    use tokio::time::advance;

    const POLLS_FOR: Duration = Duration::from_mins(5);

    #[tokio::test(start_paused = true)]
    async fn streams_that_do_not_live_are_followed_by_polls() {
        let mut it = FallBack::new(POLLS_FOR);
        assert!(!it.begins() && !it.ended(&FeedError::Silence));
        assert!(!it.ended(&FeedError::Connect(std::io::Error::other("refused"))), "nobody cut that");
        assert!(!it.begins());
        assert!(it.ended(&FeedError::Late), "{CUTS} in a row");
        advance(POLLS_FOR * 2).await;
        assert!(it.begins(), "until a stream has shown that it lives");
        it.polling.heard = Some(uuid::Uuid::nil());
        it.stream_is_back();
        assert!(it.polling.heard.is_none() && !it.begins());
        assert!(it.ended(&FeedError::Silence), "one is enough then");
        it.stream_is_back();
        advance(LIVED).await;
        assert!(!it.ended(&FeedError::Answer), "it lived");
        assert!(!it.begins() && !it.ended(&FeedError::Answer));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_too_is_asked_for_a_shorter_answer_until_enough_came_whole() {
        let mut it = FallBack::new(POLLS_FOR);
        assert!(!it.ended(&FeedError::Late) && it.ended(&FeedError::Late));
        assert_eq!(it.polling.wait, WAIT);
        it.ended(&FeedError::Refused(StatusCode::GATEWAY_TIMEOUT));
        assert_eq!(it.polling.wait, WAIT / 2, "a proxy had not the patience");
        for _ in 0..10 {
            it.ended(&FeedError::Answer);
        }
        assert_eq!(it.polling.wait, WAIT_LEAST);
        for _ in 1..GOOD {
            it.polling.was_answered();
        }
        it.ended(&FeedError::Answer);
        it.polling.was_answered();
        assert_eq!(it.polling.wait, WAIT_LEAST, "in a row");
        for _ in 0..GOOD {
            it.polling.was_answered();
        }
        assert_eq!(it.polling.wait, WAIT_LEAST * 2);
        for _ in 0..GOOD * 5 {
            it.polling.was_answered();
        }
        assert_eq!(it.polling.wait, WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_knows_no_polls_is_asked_for_streams() {
        let mut it = FallBack::new(POLLS_FOR);
        it.ended(&FeedError::Silence);
        assert!(it.ended(&FeedError::Silence));
        it.ended(&FeedError::Refused(StatusCode::SERVICE_UNAVAILABLE));
        assert!(it.begins(), "it may be back soon");
        it.ended(&FeedError::Refused(StatusCode::UNPROCESSABLE_ENTITY));
        assert!(!it.begins());
        for _ in 0..5 {
            assert!(!it.ended(&FeedError::Silence));
        }
        advance(POLLS_FOR).await;
        it.begins();
        assert!(it.ended(&FeedError::Silence), "by now it may have been upgraded");
        it.ended(&FeedError::Refused(StatusCode::UNAUTHORIZED));
        assert!(it.begins(), "a changed key says nothing of polls");
    }
}
