//! A plan's quantities as quotas: which metric is compared with which limit, over how long, and what is left.
//!
//! A quantity whose name ends in `_per_hour`, `_per_day` or `_per_month` limits what flows: the sum of the metric of
//! the name before it, in that period. Any other limits a level: the latest amount of the metric of the same name.

use crate::event::{Rollup, period_end};
use berth_domain::UsagePeriod;
use jiff::Timestamp;

/// How one quantity is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub quantity: String,
    pub metric: String,
    /// `None`: a level.
    pub period: Option<UsagePeriod>,
}

impl Quota {
    pub fn of(quantity: &str) -> Self {
        let ends =
            [("_per_hour", UsagePeriod::Hour), ("_per_day", UsagePeriod::Day), ("_per_month", UsagePeriod::Month)];
        let flow = ends.into_iter().find_map(|(end, period)| Some((quantity.strip_suffix(end)?, period)));
        let (metric, period) = match flow.filter(|(metric, _)| !metric.is_empty()) {
            Some((metric, period)) => (metric, Some(period)),
            None => (quantity, None),
        };
        Self { quantity: quantity.to_owned(), metric: metric.to_owned(), period }
    }

    /// What of it is used now. `now_in`: the rollup of the present period, or of the newest one for a level; `ever`:
    /// something of the metric was reported before. Where nothing was ever reported nothing is known, which is not 0.
    pub fn used(&self, now_in: Option<&Rollup>, ever: bool) -> Option<u64> {
        match (self.period, now_in) {
            (Some(_), Some(rollup)) => Some(rollup.total),
            (Some(_), None) => ever.then_some(0),
            (None, rollup) => rollup.map(|rollup| rollup.latest),
        }
    }

    /// When what is used begins at nothing again. A level never does.
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.period.map(|period| period_end(period, now))
    }
}

/// What is left of a limit. What is over it leaves nothing.
pub fn left(limit: u64, used: Option<u64>) -> Option<u64> {
    used.map(|used| limit.saturating_sub(used))
}
