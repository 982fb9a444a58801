//! Usage events: one measured amount each, and what many of them come to.
//!
//! An event is counted once however often it is sent, and events may come in any order: what they come to is the same.
//! Never judges whether an amount is much.

use berth_domain::{TenantId, UsagePeriod};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::collections::{BTreeMap, HashMap};

/// One measured amount. Its key is the same on every retry, and another tenant's equal key is another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: String,
    pub tenant: TenantId,
    pub metric: String,
    pub amount: u64,
    /// In which the amount is counted; a metric has one.
    pub unit: String,
    pub at: Timestamp,
}

/// Why an event is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    #[error("`key` is 1 to {KEY_MAX} printable characters")]
    Key,
    #[error("`metric` is 1 to {METRIC_MAX} of `a-z`, `0-9`, `_` and `-`")]
    Metric,
    #[error("`unit` is at most {UNIT_MAX} printable characters")]
    Unit,
    #[error("`amount` is {0}, more than {AMOUNT_MAX}")]
    Amount(u64),
    #[error("`at` is older than {} days: nobody could tell any more whether it was counted", TAKEN_FOR.as_hours() / 24)]
    TooOld,
    #[error("`at` is in the future")]
    Future,
    #[error("`key` stands in line {0} too, with something else")]
    KeyTwice(usize),
    #[error("`metric` is counted in `{known}`, not in `{said}`")]
    OtherUnit { known: String, said: String },
    #[error("there is no tenant `{0}`")]
    NoTenant(String),
}

const KEY_MAX: usize = 200;
const METRIC_MAX: usize = 40;
const UNIT_MAX: usize = 20;
/// Far above what anybody counts, and small enough for sums.
pub const AMOUNT_MAX: u64 = 1 << 50;
/// What a JSON reader that knows only doubles still holds exactly: sums stop here.
pub const TOTAL_MAX: u64 = (1 << 53) - 1;
/// Events older than this are refused.
pub const TAKEN_FOR: SignedDuration = SignedDuration::from_hours(35 * 24);
/// Keys are remembered for this long: longer than events are taken, so none is counted again after its key is forgotten.
pub const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(40 * 24);
/// Another machine's clock may be ahead of ours.
const AHEAD: SignedDuration = SignedDuration::from_mins(10);

/// Everything that is wrong with these events, by their place.
pub fn faults(events: &[Event], now: Timestamp) -> Vec<(usize, BadEvent)> {
    let mut faults = Vec::new();
    let mut seen: HashMap<(TenantId, &str), usize> = HashMap::new();
    for (nth, event) in events.iter().enumerate() {
        let age = now.duration_since(event.at);
        let found = if !printable(&event.key, 1, KEY_MAX) {
            Some(BadEvent::Key)
        } else if !is_metric(&event.metric) {
            Some(BadEvent::Metric)
        } else if !printable(&event.unit, 0, UNIT_MAX) {
            Some(BadEvent::Unit)
        } else if event.amount > AMOUNT_MAX {
            Some(BadEvent::Amount(event.amount))
        } else if age > TAKEN_FOR {
            Some(BadEvent::TooOld)
        } else if age < -AHEAD {
            Some(BadEvent::Future)
        } else {
            None
        };
        faults.extend(found.map(|fault| (nth, fault)));
        match seen.get(&(event.tenant, event.key.as_str())) {
            Some(first) if events[*first] != *event => faults.push((nth, BadEvent::KeyTwice(*first))),
            Some(_) => {}
            None => drop(seen.insert((event.tenant, &event.key), nth)),
        }
    }
    faults
}

fn printable(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// The rule that names of limits follow, for a limit names its metric.
pub fn is_metric(text: &str) -> bool {
    (1..=METRIC_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// When the period of a moment began, in UTC.
pub fn period_start(period: UsagePeriod, at: Timestamp) -> Timestamp {
    let at = at.to_zoned(TimeZone::UTC);
    let day = at.date();
    let start = match period {
        UsagePeriod::Hour => day.at(at.hour(), 0, 0, 0),
        UsagePeriod::Day => day.at(0, 0, 0, 0),
        UsagePeriod::Month => day.first_of_month().at(0, 0, 0, 0),
    };
    start.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |zoned| zoned.timestamp())
}

/// When the period of a moment is over, and what is counted by it begins at nothing again.
pub fn period_end(period: UsagePeriod, at: Timestamp) -> Timestamp {
    // From any moment of a period this far on is a moment of the next one.
    let on = match period {
        UsagePeriod::Hour => SignedDuration::from_hours(1),
        UsagePeriod::Day => SignedDuration::from_hours(24),
        UsagePeriod::Month => SignedDuration::from_hours(32 * 24),
    };
    let start = period_start(period, at);
    start.checked_add(on).map_or(Timestamp::MAX, |next| period_start(period, next))
}

/// Which rollup.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RollupKey {
    pub tenant: TenantId,
    pub metric: String,
    pub period: UsagePeriod,
    pub starts_at: Timestamp,
}

/// What the events of one period come to. Which of the figures means something depends on what is measured: of GPS
/// points the sum, of vehicles the latest and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollup {
    pub total: u64,
    pub greatest: u64,
    pub latest: u64,
    pub latest_at: Timestamp,
    pub events: u64,
}

impl Rollup {
    const fn of(event: &Event) -> Self {
        let amount = event.amount;
        Self { total: amount, greatest: amount, latest: amount, latest_at: event.at, events: 1 }
    }

    /// Both together. In whatever order and grouping, the outcome is the same.
    pub fn and(self, other: Self) -> Self {
        let (latest_at, latest) = (self.latest_at, self.latest).max((other.latest_at, other.latest));
        Self {
            total: self.total.saturating_add(other.total).min(TOTAL_MAX),
            greatest: self.greatest.max(other.greatest),
            latest,
            latest_at,
            events: self.events + other.events,
        }
    }
}

/// What events come to, by tenant, metric and period, in an order that is always the same. The caller sees to it that
/// no event is among them that was counted before.
pub fn rolled_up<'a>(events: impl IntoIterator<Item = &'a Event>) -> BTreeMap<RollupKey, Rollup> {
    let mut rolled: BTreeMap<RollupKey, Rollup> = BTreeMap::new();
    for event in events {
        for period in UsagePeriod::ALL {
            let key = RollupKey {
                tenant: event.tenant,
                metric: event.metric.clone(),
                period: *period,
                starts_at: period_start(*period, event.at),
            };
            rolled.entry(key).and_modify(|sum| *sum = sum.and(Rollup::of(event))).or_insert_with(|| Rollup::of(event));
        }
    }
    rolled
}
