//! One tenant's bucket that several edges share: what this edge has in hand of it, and what it gives out of its own share
//! while nobody can be asked.
//!
//! Pure: atomics and given moments. Tokens in hand are taken out of the common bucket already, so whoever takes one here
//! asks nobody. Never takes more out of its own share than the limit divided by the edges, and tells afterwards what it took.

use crate::limits::{Rate, Taken};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::sync::Notify;

/// At most this part of a limit is in one edge's hand.
const IN_HAND: u64 = 50;
/// An empty bucket is asked again after this at the earliest, or a fast limit would be asked for every token.
const ASK_AGAIN_NS: u64 = 2_000_000;
/// And after this at the latest: another edge may give tokens back.
const ASK_AGAIN_MOST_NS: u64 = 500_000_000;
/// Nobody answered: by the own share for so long, then asked again beside.
const ALONE_NS: u64 = 250_000_000;

/// The shared side of a bucket. Moments are nanoseconds of this edge's clock.
#[derive(Debug, Default)]
pub struct Hand {
    tokens: AtomicU64,
    /// The common bucket is empty: it is asked again from here on.
    ask_at_ns: AtomicU64,
    /// And has the next token then.
    token_at_ns: AtomicU64,
    /// Not 0: the last question had no answer, and the own share counts; asked again from here on.
    alone_until_ns: AtomicU64,
    /// When the common bucket would be full, as it was seen last.
    seen_ns: AtomicU64,
    /// The connection on which it was seen; 0 after a question without answer.
    seen_by: AtomicU64,
    asking: AtomicBool,
    used: AtomicBool,
    /// Told whenever a question has been answered, or will not be.
    pub answered: Notify,
}

/// What came of an attempt to take a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    pub taken: Taken,
    /// The common bucket is to be asked, whoever waits for it.
    pub ask: bool,
    /// Decided by the own share.
    pub alone: bool,
}

/// What the common bucket is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Tokens that would be taken.
    pub want: u64,
    /// Tokens given back.
    pub back: u64,
    /// Taken out of the own share meanwhile, as time that the whole bucket needs for it.
    pub debt_ns: u64,
    /// Until the common bucket is full at the earliest, as this edge saw it: the server may have forgotten.
    pub owed_ns: u64,
    /// The own share's mark at the question.
    own_ns: u64,
    /// Nobody else asks meanwhile.
    alone: bool,
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub tokens: u64,
    /// Until the common bucket is full.
    pub owed_ns: u64,
}

impl Hand {
    /// Takes a token out of the hand, or out of the own share. `full_at_ns`: the own bucket's mark.
    pub fn take(&self, full_at_ns: &AtomicU64, rate: &Rate, edges: u32, now_ns: u64) -> Took {
        let took = |taken, ask| Took { taken, ask, alone: false };
        let had = self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(1));
        if let Ok(had) = had {
            if !self.used.load(Relaxed) {
                self.used.store(true, Relaxed);
            }
            let left = had - 1;
            return took(Taken::Token { left }, left < in_hand(rate) / 2);
        }
        match self.alone_until_ns.load(Relaxed) {
            0 => {}
            until => {
                let taken = rate.part(edges).take(full_at_ns, now_ns);
                return Took { taken, ask: now_ns >= until, alone: true };
            }
        }
        if now_ns < self.ask_at_ns.load(Relaxed) {
            let wait_ns = self.token_at_ns.load(Relaxed).saturating_sub(now_ns).max(1);
            return took(Taken::Empty { wait_ns }, false);
        }
        took(Taken::Unknown, true)
    }

    /// Whether the caller is the one who asks.
    pub fn begin(&self) -> bool {
        !self.asking.swap(true, Relaxed)
    }

    /// `by`: the connection that is asked.
    pub fn question(&self, full_at_ns: &AtomicU64, rate: &Rate, edges: u32, now_ns: u64, by: u64) -> Question {
        let (own_ns, seen_ns) = (full_at_ns.load(Relaxed), self.seen_ns.load(Relaxed));
        let own_share_ns = own_ns.max(now_ns).saturating_sub(seen_ns.max(now_ns));
        Question {
            want: in_hand(rate).saturating_sub(self.tokens.load(Relaxed)).max(1),
            back: 0,
            debt_ns: own_share_ns / u64::from(edges.max(1)),
            owed_ns: if self.seen_by.load(Relaxed) == by { 0 } else { seen_ns.saturating_sub(now_ns) },
            own_ns,
            alone: true,
        }
    }

    /// Only what was taken out of the own share, for who has begun.
    pub fn confession(&self, full_at_ns: &AtomicU64, rate: &Rate, edges: u32, now_ns: u64, by: u64) -> Question {
        Question { want: 0, ..self.question(full_at_ns, rate, edges, now_ns, by) }
    }

    /// All that is in hand goes back, when nobody has taken of it for a while.
    pub fn idle(&self, full_at_ns: &AtomicU64) -> Option<Question> {
        if self.used.swap(false, Relaxed) || self.asking.load(Relaxed) {
            return None;
        }
        let back = self.tokens.swap(0, Relaxed);
        (back > 0).then(|| Question {
            want: 0,
            back,
            debt_ns: 0,
            owed_ns: 0,
            own_ns: full_at_ns.load(Relaxed),
            alone: false,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.load(Relaxed) == 0
    }

    pub fn answer(&self, full_at_ns: &AtomicU64, rate: &Rate, asked: &Question, got: Granted, now_ns: u64, by: u64) {
        let seen_ns = now_ns.saturating_add(got.owed_ns);
        // Of the own share may have been taken since the question: told with the next one.
        let later =
            |own: u64| Some(seen_ns.saturating_add(own.max(now_ns) - asked.own_ns.clamp(now_ns, own.max(now_ns))));
        let _ = full_at_ns.fetch_update(Relaxed, Relaxed, later);
        self.seen_ns.store(seen_ns, Relaxed);
        self.seen_by.store(by, Relaxed);
        self.alone_until_ns.store(0, Relaxed);
        if got.tokens > 0 {
            self.tokens.fetch_add(got.tokens, Relaxed);
            self.ask_at_ns.store(0, Relaxed);
        } else if asked.want > 0 {
            let wait_ns = rate.wait_ns(got.owed_ns);
            self.token_at_ns.store(now_ns.saturating_add(wait_ns), Relaxed);
            self.ask_at_ns.store(now_ns + wait_ns.clamp(ASK_AGAIN_NS, ASK_AGAIN_MOST_NS), Relaxed);
        }
        if asked.alone {
            self.end();
        }
    }

    /// There will be no answer.
    pub fn fail(&self, now_ns: u64) {
        self.seen_by.store(0, Relaxed);
        self.alone_until_ns.store((now_ns + ALONE_NS).max(1), Relaxed);
        self.end();
    }

    fn end(&self) {
        self.asking.store(false, Relaxed);
        self.answered.notify_waiters();
    }
}

fn in_hand(rate: &Rate) -> u64 {
    (rate.requests / IN_HAND).max(1)
}

#[cfg(test)]
mod tests {
    use super::{ALONE_NS, Granted, Hand, Took};
    use crate::limits::{Rate, Taken};
    use std::sync::atomic::AtomicU64;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_token_in_hand_is_taken_without_asking_and_the_hand_is_filled_before_it_is_empty() {
        let (hand, own, rate) = (Hand::default(), AtomicU64::new(0), Rate::new(200, 60).unwrap());
        let unknown = Took { taken: Taken::Unknown, ask: true, alone: false };
        assert_eq!(hand.take(&own, &rate, 3, 7), unknown);
        assert!(hand.begin() && !hand.begin(), "one asks for all");
        let question = hand.question(&own, &rate, 3, 7, 1);
        assert_eq!((question.want, question.debt_ns, question.owed_ns), (4, 0, 0));
        hand.answer(&own, &rate, &question, Granted { tokens: 4, owed_ns: 4 * rate.every_ns() }, 9, 1);
        let took: Vec<_> = (0..4).map(|_| hand.take(&own, &rate, 3, 10)).collect();
        assert!(took.iter().all(|took| matches!(took.taken, Taken::Token { .. }) && !took.alone));
        assert_eq!(took.iter().map(|took| took.ask).collect::<Vec<_>>(), [false, false, true, true]);
        assert_eq!(hand.take(&own, &rate, 3, 10), unknown);
    }

    #[test]
    fn an_empty_bucket_is_not_asked_again_before_it_may_have_something() {
        let (hand, own, rate) = (Hand::default(), AtomicU64::new(0), Rate::new(60, 60).unwrap());
        let question = hand.question(&own, &rate, 3, 0, 1);
        hand.answer(&own, &rate, &question, Granted { tokens: 0, owed_ns: 60 * SECOND_NS }, 0, 1);
        let empty = |wait_ns| Took { taken: Taken::Empty { wait_ns }, ask: false, alone: false };
        assert_eq!(hand.take(&own, &rate, 3, 1), empty(SECOND_NS - 1));
        assert_eq!(hand.take(&own, &rate, 3, SECOND_NS / 2).taken, Taken::Unknown, "another may have given some back");
    }

    #[test]
    fn with_nobody_to_ask_it_gives_its_share_of_what_was_left_and_tells_it_afterwards() {
        let (hand, own, rate) = (Hand::default(), AtomicU64::new(0), Rate::new(60, 60).unwrap());
        let question = hand.question(&own, &rate, 3, 0, 1);
        // Thirty of sixty are left when the server goes.
        hand.answer(&own, &rate, &question, Granted { tokens: 0, owed_ns: 30 * SECOND_NS }, 0, 1);
        hand.fail(0);
        let taken = |now| matches!(hand.take(&own, &rate, 3, now).taken, Taken::Token { .. });
        assert_eq!((0..100).filter(|_| taken(1)).count(), 10, "a third of thirty");
        assert!(hand.take(&own, &rate, 3, 1).alone);
        assert!(hand.take(&own, &rate, 3, ALONE_NS).ask, "and asks again beside");
        assert!(!taken(2 * SECOND_NS) && taken(3 * SECOND_NS + 1), "a token every three seconds");
        let now = 4 * SECOND_NS;
        let question = hand.question(&own, &rate, 3, now, 2);
        assert_eq!(question.owed_ns, 26 * SECOND_NS, "a server that forgot hears how it was");
        // Eleven tokens, of a second of the whole bucket each.
        assert_eq!(question.debt_ns, 11 * SECOND_NS);
        hand.answer(&own, &rate, &question, Granted { tokens: 1, owed_ns: 38 * SECOND_NS }, now, 2);
        let next = hand.question(&own, &rate, 3, now, 2);
        assert_eq!((next.debt_ns, next.owed_ns), (0, 0), "said once");
    }

    #[test]
    fn what_is_taken_of_the_own_share_while_a_question_is_under_way_is_told_with_the_next() {
        let (hand, own, rate) = (Hand::default(), AtomicU64::new(0), Rate::new(60, 60).unwrap());
        hand.fail(0);
        let question = hand.question(&own, &rate, 2, 0, 1);
        for _ in 0..3 {
            assert!(matches!(hand.take(&own, &rate, 2, 5).taken, Taken::Token { .. }));
        }
        hand.answer(&own, &rate, &question, Granted { tokens: 0, owed_ns: 60 * SECOND_NS }, 5, 1);
        assert_eq!(hand.question(&own, &rate, 2, 5, 1).debt_ns, 3 * SECOND_NS);
    }

    #[test]
    fn what_nobody_uses_goes_back() {
        let (hand, own, rate) = (Hand::default(), AtomicU64::new(0), Rate::new(500, 60).unwrap());
        assert!(hand.idle(&own).is_none());
        assert!(hand.begin());
        let question = hand.question(&own, &rate, 2, 0, 1);
        hand.answer(&own, &rate, &question, Granted { tokens: 10, owed_ns: 0 }, 0, 1);
        assert!(matches!(hand.take(&own, &rate, 2, 0).taken, Taken::Token { .. }));
        assert!(hand.idle(&own).is_none(), "used since the last look");
        assert_eq!(hand.idle(&own).unwrap().back, 9);
        assert!(hand.is_empty() && hand.idle(&own).is_none());
    }
}
