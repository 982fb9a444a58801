//! What was carried for whom: plain counters that one core owns, added up only when somebody asks.
//!
//! Pure: no clock, no socket, and nothing of a request but its size, status and time.

use std::ops::AddAssign;

/// Upper bounds of the histogram's buckets, in microseconds; one more bucket has what took longer.
pub const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// What one tenant was served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Requests by status class: 1xx to 5xx.
    pub classes: [u64; 5],
    /// Bytes of request and of answer bodies.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// From the request's head to the answer's head; parked time is in it.
    pub time_us: u64,
    pub times: [u64; BUCKETS_US.len() + 1],
    pub parked: u64,
    /// Refused because a limit was used up.
    pub limited: u64,
}

impl Meter {
    pub fn count(&mut self, status: u16, time_us: u64) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class] += 1;
        self.time_us += time_us;
        self.times[BUCKETS_US.partition_point(|bound| *bound < time_us)] += 1;
    }

    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }
}

impl AddAssign<&Meter> for Meter {
    fn add_assign(&mut self, other: &Meter) {
        for (mine, theirs) in self.classes.iter_mut().zip(other.classes) {
            *mine += theirs;
        }
        for (mine, theirs) in self.times.iter_mut().zip(other.times) {
            *mine += theirs;
        }
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.time_us += other.time_us;
        self.parked += other.parked;
        self.limited += other.limited;
    }
}

#[cfg(test)]
mod tests {
    use super::Meter;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        for (time_us, bucket) in [(0, 0), (500, 0), (501, 1), (10_000_000, 13), (10_000_001, 14)] {
            let mut meter = Meter::default();
            meter.count(200, time_us);
            assert_eq!(meter.times.iter().position(|n| *n == 1), Some(bucket), "{time_us}");
        }
    }

    #[test]
    fn the_sum_of_two_meters_has_what_both_have() {
        let mut one = Meter::default();
        one.count(200, 700);
        one.sent_bytes = 5;
        let mut other = Meter::default();
        other.count(503, 90);
        other.count(101, 1);
        other.sent_bytes = 7;
        one += &other;
        assert_eq!((one.classes, one.requests(), one.sent_bytes, one.time_us), ([1, 1, 0, 0, 1], 3, 12, 791));
    }
}
