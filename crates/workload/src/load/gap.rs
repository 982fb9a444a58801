//! How long a tenant's writers went without any acknowledgement.
//!
//! Never looks at a clock: it is told when.

use std::time::{Duration, Instant};

/// The longest time in which a write was waiting and none was acknowledged.
///
/// It is counted from the last acknowledgement if something was waiting by then, else from the first write offered
/// after it: silence of the client is no gap. A write that failed was offered and never acknowledged, so the time goes
/// on until some later write is.
#[derive(Debug, Default)]
pub struct Gap {
    outstanding: u32,
    since: Option<Instant>,
    longest: Duration,
}

impl Gap {
    pub fn offered(&mut self, at: Instant) {
        self.outstanding += 1;
        self.since.get_or_insert(at);
    }

    pub fn acknowledged(&mut self, at: Instant) {
        self.outstanding -= 1;
        self.longest = self.longest_at(at);
        self.since = (self.outstanding > 0).then_some(at);
    }

    pub fn failed(&mut self) {
        self.outstanding -= 1;
    }

    /// Includes the time that is still running.
    pub fn longest_at(&self, now: Instant) -> Duration {
        let running = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.longest.max(running)
    }

    /// Starts a new window: what was waiting before it is waiting since its beginning.
    pub fn begin(&mut self, at: Instant) {
        self.longest = Duration::ZERO;
        self.since = self.since.map(|since| since.max(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_time_in_which_something_waited_and_nothing_was_acknowledged() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let longest = |gap: &Gap, ms| gap.longest_at(at(ms)).as_millis();
        let mut gap = Gap::default();
        assert_eq!(longest(&gap, 1000), 0, "nothing offered, nothing missed");
        gap.offered(at(1000));
        gap.acknowledged(at(1002));
        assert_eq!(longest(&gap, 9000), 2, "silence of the client does not count");
        gap.offered(at(9000));
        gap.offered(at(9005));
        gap.acknowledged(at(9010));
        gap.acknowledged(at(9040));
        assert_eq!(longest(&gap, 9040), 30, "from one acknowledgement to the next while a write waits");
        gap.offered(at(9100));
        gap.failed();
        assert_eq!(longest(&gap, 9200), 100, "a failure does not end the wait");
        gap.offered(at(9200));
        gap.acknowledged(at(9210));
        assert_eq!(longest(&gap, 9999), 110);
        gap.offered(at(9999));
        gap.begin(at(10_000));
        assert_eq!(longest(&gap, 10_007), 7, "a new window forgets the old one, not what still waits");
    }
}
