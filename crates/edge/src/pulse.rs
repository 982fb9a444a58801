//! Signs of life of one client connection, so that silence can be told from patience.
//!
//! Pure: no clock. A connection is left alone while a member is thinking, however long, and while bytes flow; one
//! without a request, or whose client does not take its answer, is quiet. Over HTTP/2 an answer that is not taken is ended
//! alone, whatever goes on beside it.

use crate::body::{AnswerBody, BodyError};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::AbortHandle};

/// Of more answers at once on one connection than these each is given longer in proportion: they move by turns.
const BESIDE_EACH_OTHER: usize = 8;

#[derive(Debug, Default)]
pub struct Pulse {
    beats: Cell<u64>,
    answered: Cell<u64>,
    /// Requests that went away before their answer began.
    taken_back: Cell<u64>,
    too_many: Notify,
    /// WebSockets on a connection of HTTP/2.
    tunnels: Cell<u32>,
    answers: RefCell<Answers>,
    /// Requests and WebSockets of all connections of HTTP/2; `None` on one of HTTP/1.1.
    all: Option<Rc<Cell<usize>>>,
}

/// The answers under way.
#[derive(Debug, Default)]
struct Answers {
    all: Vec<Option<Answer>>,
    free: Vec<usize>,
    /// Begun last, its task not known yet.
    newest: Option<usize>,
}

#[derive(Debug)]
struct Answer {
    waits_for_member: bool,
    /// Not taken since it was looked at then.
    stands_since: Option<Instant>,
    /// What carries it, where others are carried beside it.
    task: Option<AbortHandle>,
}

impl Answers {
    fn begin(&mut self) -> usize {
        let answer = Some(Answer { waits_for_member: true, stands_since: None, task: None });
        let place = if let Some(place) = self.free.pop() {
            self.all[place] = answer;
            place
        } else {
            self.all.push(answer);
            self.all.len() - 1
        };
        self.newest = Some(place);
        place
    }

    fn end(&mut self, place: usize) {
        self.all[place] = None;
        self.free.push(place);
    }
}

impl Pulse {
    /// Of a connection of HTTP/2, whose requests and WebSockets are counted with all others'.
    pub fn beside(all: &Rc<Cell<usize>>) -> Self {
        Self { all: Some(Rc::clone(all)), ..Self::default() }
    }

    /// A request has begun.
    pub fn begin(pulse: &Rc<Self>) -> Beat {
        pulse.beat();
        pulse.one_more();
        let place = pulse.answers.borrow_mut().begin();
        Beat { pulse: Rc::clone(pulse), place, answered: false }
    }

    /// What carries the answer to the request that has begun last, which can be ended alone.
    pub fn carried_by(&self, task: AbortHandle) {
        let answers = &mut *self.answers.borrow_mut();
        if let Some(answer) = answers.newest.take().and_then(|place| answers.all[place].as_mut()) {
            answer.task = Some(task);
        }
    }

    /// Ends the answers that their client has not taken for so long, where that ends nothing else. `scarce`: room is, for all
    /// connections; then who takes nothing has it for an eighth of that time, however much else it has.
    pub fn end_untaken(&self, now: Instant, patience: Duration, scarce: bool) {
        let under_way = self.answers.borrow().all.iter().flatten().count();
        let patience = if scarce {
            patience / BESIDE_EACH_OTHER as u32
        } else {
            patience * (under_way / BESIDE_EACH_OTHER).max(1) as u32
        };
        let untaken: Vec<_> =
            self.answers.borrow_mut().all.iter_mut().flatten().filter_map(|a| a.look(now, patience)).collect();
        for task in untaken {
            task.abort();
        }
    }

    /// Returns when the client has taken back more than this many requests, and more than it let be answered.
    pub async fn taken_back(&self, most: u64) {
        while self.taken_back.get() <= most.max(self.answered.get()) {
            self.too_many.notified().await;
        }
    }

    fn beat(&self) {
        self.beats.set(self.beats.get() + 1);
    }

    fn one_more(&self) {
        if let Some(all) = &self.all {
            all.set(all.get() + 1);
        }
    }

    fn one_less(&self) {
        if let Some(all) = &self.all {
            all.set(all.get() - 1);
        }
    }

    /// Requests begun and pieces of answers carried.
    pub fn beats(&self) -> u64 {
        self.beats.get()
    }

    pub fn waits_for_member(&self) -> bool {
        self.tunnels.get() > 0 || self.answers.borrow().all.iter().flatten().any(|answer| answer.waits_for_member)
    }

    /// A tunnel has begun: what is said in it is said here.
    pub fn tunnel(pulse: &Rc<Self>) -> Tunnelled {
        pulse.tunnels.set(pulse.tunnels.get() + 1);
        pulse.one_more();
        Tunnelled(Rc::clone(pulse))
    }
}

impl Answer {
    /// What to end, when it has stood for so long.
    fn look(&mut self, now: Instant, patience: Duration) -> Option<AbortHandle> {
        if self.waits_for_member {
            return None;
        }
        let since = *self.stands_since.get_or_insert(now);
        if now.saturating_duration_since(since) < patience {
            return None;
        }
        self.task.take()
    }
}

/// A connection is not quiet while this lives.
#[derive(Debug)]
pub struct Tunnelled(Rc<Pulse>);

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
        self.0.one_less();
        self.0.beat();
    }
}

/// One request under way.
#[derive(Debug)]
pub struct Beat {
    pulse: Rc<Pulse>,
    place: usize,
    answered: bool,
}

impl Beat {
    /// The answer begins.
    pub fn answered(mut self) -> Self {
        self.answered = true;
        self.pulse.answered.set(self.pulse.answered.get() + 1);
        // Until its client asks: one whose window is shut from the start never does.
        self.asked(false);
        self
    }

    /// Its client asked for more, and the member has some or has not.
    fn asked(&self, waits_for_member: bool) {
        if !waits_for_member {
            self.pulse.beat();
        }
        if let Some(answer) = &mut self.pulse.answers.borrow_mut().all[self.place] {
            answer.waits_for_member = waits_for_member;
            answer.stands_since = None;
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.beat();
        self.pulse.one_less();
        self.pulse.answers.borrow_mut().end(self.place);
        if !self.answered {
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
        this.beat.asked(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::Pulse;
    use std::{
        future::pending,
        rc::Rc,
        time::{Duration, Instant},
    };

    #[test]
    fn requests_and_websockets_of_all_connections_are_counted_until_they_end() {
        let all = Rc::default();
        let [one, other] = [Rc::new(Pulse::beside(&all)), Rc::new(Pulse::beside(&all))];
        let (asked, answered, tunnel) = (Pulse::begin(&one), Pulse::begin(&other).answered(), Pulse::tunnel(&other));
        let _alone = Pulse::begin(&Rc::new(Pulse::default()));
        assert_eq!(all.get(), 3);
        drop((asked, tunnel));
        assert_eq!(all.get(), 1);
        drop(answered);
        assert_eq!(all.get(), 0);
    }

    #[tokio::test]
    async fn answers_that_are_not_taken_are_ended_and_of_many_each_has_longer_while_there_is_room() {
        for (number, scarce, patience_s) in
            [(1, false, 16), (15, false, 16), (16, false, 32), (128, false, 256), (1, true, 2), (128, true, 2)]
        {
            let (pulse, start) = (Rc::new(Pulse::default()), Instant::now());
            let begin = |_| {
                let beat = Pulse::begin(&pulse);
                pulse.carried_by(tokio::spawn(pending::<()>()).abort_handle());
                beat.answered()
            };
            let beats: Vec<_> = (0..number).map(begin).collect();
            let left_at = |after_s| {
                pulse.end_untaken(start + Duration::from_secs(after_s), Duration::from_secs(16), scarce);
                pulse.answers.borrow().all.iter().flatten().filter(|answer| answer.task.is_some()).count()
            };
            assert_eq!((left_at(0), left_at(patience_s - 1), left_at(patience_s)), (number, number, 0));
            drop(beats);
        }
    }
}
