//! Which members are well: what checks said, and how requests went.
//!
//! Pure: is told of answers and moments, and makes no request. One [`Vital`] per member and process; cores read it with
//! one load a request and write it only when something went wrong.

use berth_wire::edge::{Ejection, HealthCheck};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

/// An ejection is doubled so often at most: 10 s become 5 minutes.
const DOUBLED_MAX: u32 = 5;
const SWEEP_FROM: usize = 256;
/// Failures in a row are counted below this, ejections in a row above.
const EJECTED: u32 = 1 << 16;
/// Of requests that are left without an answer one counts in this time: they are looked for once a second, on each core.
const LATE_EVERY_NS: u64 = 500_000_000;

/// Checks of one member, in their order.
#[derive(Debug, Default)]
pub struct Course {
    /// `None`: nothing is known yet, and the control plane's word counts.
    well: Option<bool>,
    /// Answers in a row that contradict it.
    against: u32,
}

impl Course {
    /// One more answer. What the member is from now on, when that changed.
    pub fn heard(&mut self, good: bool, check: &HealthCheck) -> Option<bool> {
        if self.well == Some(good) {
            self.against = 0;
            return None;
        }
        if self.well.is_none() && good {
            // It is being used already: nothing to wait for.
            self.well = Some(true);
            self.against = 0;
            return Some(true);
        }
        self.against += 1;
        if self.against < if good { check.rise } else { check.fall } {
            return None;
        }
        self.against = 0;
        self.well = Some(good);
        Some(good)
    }
}

/// One member, as all cores see it.
#[derive(Debug, Default)]
pub struct Vital {
    /// Checks say that it is not well.
    down: AtomicBool,
    /// Failures in a row and ejections in a row: 0 for whoever has no trouble.
    trouble: AtomicU32,
    ejected_until_ns: AtomicU64,
    ejections: AtomicU64,
    /// When it was told last that a request was left without an answer.
    late_ns: AtomicU64,
}

impl Vital {
    /// What checks came to; without checks nobody is down.
    pub fn set_well(&self, well: bool) {
        self.down.store(!well, Ordering::Relaxed);
        if well {
            self.trouble.store(0, Ordering::Relaxed);
            self.ejected_until_ns.store(0, Ordering::Relaxed);
        }
    }

    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Passed over at this moment, which is asked for only when there was an ejection.
    pub fn is_ejected(&self, now_ns: impl FnOnce() -> u64) -> bool {
        let until = self.ejected_until_ns.load(Ordering::Relaxed);
        until != 0 && now_ns() < until
    }

    /// A request failed. `true`: it was one too many, and the member is passed over.
    pub fn failed(&self, rule: Option<Ejection>, now_ns: u64) -> bool {
        let Some(rule) = rule else { return false };
        if self.is_ejected(|| now_ns) {
            return false;
        }
        let trouble = self.trouble.fetch_add(1, Ordering::Relaxed) + 1;
        if trouble % EJECTED < rule.failures {
            return false;
        }
        let times = trouble / EJECTED;
        self.trouble.store((times + 1).min(DOUBLED_MAX) * EJECTED, Ordering::Relaxed);
        let lasts_ns = (rule.for_ms.saturating_mul(1_000_000)).saturating_mul(1 << times.min(DOUBLED_MAX));
        self.ejected_until_ns.store(now_ns.saturating_add(lasts_ns).max(1), Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A request was left without an answer. Many that are found out together are one failure: they may all be of one slow
    /// path of one tenant's.
    pub fn late(&self, rule: Option<Ejection>, now_ns: u64) -> bool {
        let before = self.late_ns.load(Ordering::Relaxed);
        if before != 0 && now_ns.saturating_sub(before) < LATE_EVERY_NS {
            return false;
        }
        let mine = self.late_ns.compare_exchange(before, now_ns.max(1), Ordering::Relaxed, Ordering::Relaxed);
        mine.is_ok() && self.failed(rule, now_ns)
    }

    /// A request was answered.
    pub fn answered(&self) {
        if self.trouble.load(Ordering::Relaxed) != 0 {
            self.trouble.store(0, Ordering::Relaxed);
        }
    }

    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }
}

/// The members of this process, by address, for as long as somebody asks for them.
#[derive(Debug, Default)]
pub struct Vitals {
    all: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    vitals: HashMap<Box<str>, Weak<Vital>>,
    sweep_at: usize,
}

impl Vitals {
    /// The same for every core.
    pub fn of(&self, address: &str) -> Arc<Vital> {
        let mut kept = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vital) = kept.vitals.get(address).and_then(Weak::upgrade) {
            return vital;
        }
        if kept.vitals.len() >= kept.sweep_at {
            kept.vitals.retain(|_, vital| vital.strong_count() > 0);
            kept.sweep_at = kept.vitals.len() * 2 + SWEEP_FROM;
        }
        let vital = Arc::default();
        kept.vitals.insert(address.into(), Arc::downgrade(&vital));
        vital
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, Vital, Vitals};
    use berth_wire::edge::{Ejection, HealthCheck};
    use std::sync::Arc;

    const RULE: Option<Ejection> = Some(Ejection { failures: 3, for_ms: 10 });

    fn check(rise: u32, fall: u32) -> HealthCheck {
        HealthCheck { path: "/health".into(), every_ms: 1000, timeout_ms: 500, rise, fall, status: None }
    }

    #[test]
    fn a_member_goes_and_comes_after_as_many_answers_as_configured() {
        let check = check(2, 3);
        let mut course = Course::default();
        let mut says = |answers: &str| -> Vec<Option<bool>> {
            answers.chars().map(|answer| course.heard(answer == '+', &check)).collect()
        };
        assert_eq!(says("+"), [Some(true)], "one good answer confirms what control said");
        assert_eq!(says("--+--"), [None; 5], "three in a row, not three in all");
        assert_eq!(says("-"), [Some(false)]);
        assert_eq!(says("+-+"), [None; 3]);
        assert_eq!(says("+"), [Some(true)]);
        let mut fresh = Course::default();
        let answers: Vec<_> = (0..3).map(|_| fresh.heard(false, &check)).collect();
        assert_eq!(answers, [None, None, Some(false)], "a new one is given the same time to fail");
    }

    /// Vector A15 of the guides, in docs/vectors.md: removed after three failed probes, and back after the rise of one.
    #[test]
    fn a15_three_failed_probes_remove_a_member_and_one_good_one_brings_it_back() {
        let check = check(1, 3);
        let mut course = Course::default();
        let said: Vec<_> = "+---+".chars().map(|answer| course.heard(answer == '+', &check)).collect();
        assert_eq!(said, [Some(true), None, None, Some(false), Some(true)]);
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while_and_longer_each_time() {
        let vital = Vital::default();
        let ms = |ms: u64| ms * 1_000_000;
        let fail = |times: usize, now| (0..times).map(|_| vital.failed(RULE, now)).collect::<Vec<_>>();
        assert_eq!(fail(2, ms(1)), [false, false]);
        vital.answered();
        assert_eq!(fail(3, ms(1)), [false, false, true], "an answer in between starts the count anew");
        assert!(vital.is_ejected(|| ms(10)) && !vital.is_ejected(|| ms(11)));
        assert_eq!(fail(1, ms(5)), [false], "what fails meanwhile does not prolong it");
        assert_eq!(fail(3, ms(20)), [false, false, true]);
        assert!(vital.is_ejected(|| ms(39)) && !vital.is_ejected(|| ms(40)), "twice as long");
        assert_eq!(vital.ejections(), 2);
        vital.answered();
        assert_eq!(fail(3, ms(50)), [false, false, true]);
        assert!(!vital.is_ejected(|| ms(60)), "an answer ends the row of ejections");
        let mut now = 100;
        for _ in 0..20 {
            while !vital.failed(RULE, ms(now)) {}
            let mut until = now;
            while vital.is_ejected(|| ms(until)) {
                until += 1;
            }
            assert!(until - now <= 320, "{}", until - now);
            now = until;
        }
    }

    #[test]
    fn requests_that_are_found_late_together_are_one_failure() {
        let vital = Vital::default();
        let ms = |ms: u64| ms * 1_000_000;
        assert!((0..100).all(|n| !vital.late(RULE, ms(1_000 + n))));
        assert!(!vital.late(RULE, ms(2_000)));
        assert!(vital.late(RULE, ms(3_000)), "the third look that finds one");
        assert!(vital.is_ejected(|| ms(3_005)));
    }

    #[test]
    fn a_check_that_finds_it_well_ends_an_ejection_and_no_rule_ejects_nobody() {
        let vital = Vital::default();
        for _ in 0..3 {
            vital.failed(RULE, 1);
        }
        assert!(vital.is_ejected(|| 2));
        vital.set_well(true);
        assert!(!vital.is_ejected(|| 2) && !vital.is_down());
        vital.set_well(false);
        assert!(vital.is_down());
        assert!((0..1000).all(|_| !vital.failed(None, 1)));
    }

    #[test]
    fn all_cores_see_the_same_member() {
        let vitals = Vitals::default();
        let one = vitals.of("a:1");
        one.set_well(false);
        assert!(vitals.of("a:1").is_down() && !vitals.of("b:1").is_down());
        drop(one);
        assert!(!vitals.of("a:1").is_down(), "nobody has it any more: it begins anew");
        let kept: Vec<Arc<Vital>> = (0..1000).map(|n| vitals.of(&format!("c:{n}"))).collect();
        assert!(Arc::ptr_eq(&kept[999], &vitals.of("c:999")));
    }
}
