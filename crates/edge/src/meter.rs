//! What was carried for whom: plain counters that one core owns, added up only when somebody asks.
//!
//! Pure: no clock, no socket, and nothing of a request but its size, status and time.

use std::ops::AddAssign;

/// Upper bounds of the histogram's buckets, in microseconds; one more bucket has what took longer. Of what is in that nobody
/// knows how long it took, so that no alert can be about it: they end beyond the time that members have to begin an answer.
pub const BUCKETS_US: [u64; 17] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
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

    /// What is left without that.
    pub fn without(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.numbers_mut().zip(other.numbers()) {
            *mine = mine.saturating_sub(theirs);
        }
        self
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        let rest = [self.received_bytes, self.sent_bytes, self.time_us, self.parked, self.limited];
        self.classes.into_iter().chain(self.times).chain(rest)
    }

    fn numbers_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let rest =
            [&mut self.received_bytes, &mut self.sent_bytes, &mut self.time_us, &mut self.parked, &mut self.limited];
        self.classes.iter_mut().chain(&mut self.times).chain(rest)
    }
}

/// A meter at rest, in as many bytes as its numbers need, most of which are small.
#[derive(Clone, Debug, Default)]
pub struct Packed(Box<[u8]>);

impl Packed {
    pub fn of(meter: &Meter) -> Self {
        let mut bytes = Vec::new();
        for mut number in meter.numbers() {
            // Seven bits a byte, the low ones first; the eighth says that more follow.
            while number >= 0x80 {
                bytes.push((number & 0x7f) as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
        }
        Self(bytes.into())
    }

    pub fn meter(&self) -> Meter {
        let mut meter = Meter::default();
        let mut bytes = self.0.iter();
        for number in meter.numbers_mut() {
            let mut shift = 0;
            for byte in bytes.by_ref() {
                *number |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        meter
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
    use super::{BUCKETS_US, Meter, Packed};
    use crate::Limits;

    #[test]
    fn a_time_falls_into_the_first_bucket_that_holds_it() {
        for (time_us, bucket) in [(0, 0), (500, 0), (501, 1), (10_000_000, 13), (10_000_001, 14), (120_000_001, 17)] {
            let mut meter = Meter::default();
            meter.count(200, time_us);
            assert_eq!(meter.times.iter().position(|n| *n == 1), Some(bucket), "{time_us}");
        }
        // A member that is given up on, of which an alert may be: its bucket has an end.
        let mut late = Meter::default();
        late.count(504, Limits::default().answer_time.as_micros() as u64 + 500_000);
        assert_eq!(late.times[BUCKETS_US.len()], 0);
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

    #[test]
    fn a_packed_meter_comes_out_as_it_went_in_and_is_small() {
        assert_eq!(Packed::default().meter(), Meter::default());
        let mut meter = Meter::default();
        for number in [0, 127, 128, 16_383, 16_384, u64::MAX] {
            meter.sent_bytes = number;
            meter.limited = u64::MAX - number;
            assert_eq!(Packed::of(&meter).meter(), meter);
        }
        let mut usual = Meter::default();
        (0..1_000).for_each(|n| usual.count(200, n * 10));
        usual.sent_bytes = 1_000_000;
        let packed = Packed::of(&usual);
        assert_eq!(packed.meter(), usual);
        assert!(packed.0.len() < 40, "{}", packed.0.len());
    }

    #[test]
    fn what_is_left_without_a_part_is_the_rest() {
        let (mut one, mut other) = (Meter::default(), Meter::default());
        one.count(200, 700);
        other.count(503, 90);
        let mut both = one.clone();
        both += &other;
        assert_eq!(both.clone().without(&other), one);
        assert_eq!(one.without(&both), Meter::default(), "and never less than nothing");
    }
}
