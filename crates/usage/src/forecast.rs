//! Where usage is going: a line through the days there are, how far it can be trusted, and when it meets a limit.
//!
//! The line is Theil's and Sen's, the median of the slopes between all pairs of days: nearly a third of the days may be
//! outliers (an outage, an import) without bending it. Never sees more than what it is given.

use serde::{Deserialize, Serialize};

/// Fewer days make no line.
pub const DAYS_MIN: usize = 7;
/// Older days say little about tomorrow, and pairs grow with the square.
pub const DAYS_MAX: usize = 120;
/// Nobody plans further ahead.
const HORIZON_DAYS: u32 = 730;

/// The line and what lies about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    slope: f64,
    intercept: f64,
    /// Of the days about the line, by their median: a standard deviation if they lie as usual.
    spread: f64,
    days: f64,
    mean_x: f64,
    sum_xx: f64,
}

/// An amount with its interval: nineteen times in twenty it is between `low` and `high`, as far as the past goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Between {
    pub low: f64,
    pub expected: f64,
    pub high: f64,
}

/// In how many days from now a limit is met. `None`: not within two years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Until {
    pub earliest_days: Option<u32>,
    pub expected_days: Option<u32>,
    pub latest_days: Option<u32>,
}

impl Forecast {
    /// From amounts by day; days may be missing. `None`: too few of them.
    pub fn of(days: &[(i32, f64)]) -> Option<Self> {
        let mut days: Vec<(f64, f64)> = days.iter().map(|(day, amount)| (f64::from(*day), *amount)).collect();
        days.sort_by(|a, b| a.0.total_cmp(&b.0));
        days.dedup_by(|a, b| (a.0 - b.0).abs() < f64::EPSILON);
        let days = &days[days.len().saturating_sub(DAYS_MAX)..];
        if days.len() < DAYS_MIN {
            return None;
        }
        let pairs = days.iter().enumerate().flat_map(|(n, a)| days[..n].iter().map(move |b| (a.1 - b.1) / (a.0 - b.0)));
        let slope = median(pairs.collect());
        let intercept = median(days.iter().map(|(x, y)| y - slope * x).collect());
        let off: Vec<f64> = days.iter().map(|(x, y)| (y - intercept - slope * x).abs()).collect();
        let count = days.len() as f64;
        // Where more than half of the days lie on the line the median is blind to the others.
        let spread = (median(off.clone()) * 1.4826).max(off.iter().sum::<f64>() / count * 0.5);
        let mean_x = days.iter().map(|(x, _)| x).sum::<f64>() / count;
        let sum_xx = days.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
        Some(Self { slope, intercept, spread, days: count, mean_x, sum_xx })
    }

    /// A day's amount. Never below nothing.
    pub fn at(&self, day: i32) -> Between {
        let x = f64::from(day);
        let expected = self.intercept + self.slope * x;
        // The usual prediction interval of a line; the factor tends to 1.96, and is wider while days are few.
        let factor = 1.96 + 5.0 / (self.days - 2.0);
        let error = factor * self.spread * (1.0 + 1.0 / self.days + (x - self.mean_x).powi(2) / self.sum_xx).sqrt();
        Between { low: (expected - error).max(0.0), expected: expected.max(0.0), high: (expected + error).max(0.0) }
    }

    pub fn per_day(&self) -> f64 {
        self.slope
    }

    /// When a day's amount is first above a limit.
    pub fn until(&self, limit: u64, today: i32) -> Until {
        let first = |of: fn(&Between) -> f64| {
            (0..=HORIZON_DAYS).find(|ahead| {
                of(&self.at(today.saturating_add(i32::try_from(*ahead).unwrap_or(i32::MAX)))) > limit as f64
            })
        };
        let expected_days = first(|between| between.expected);
        // The interval widens ahead, so its upper end is met first; its lower one may never be.
        Until { earliest_days: first(|b| b.high), expected_days, latest_days: first(|b| b.low) }
    }

    /// How wrong the forecast of a month ahead may be, in percent of it. 1000 is the most that a profile says.
    pub fn error_percent(&self, today: i32) -> u32 {
        let between = self.at(today.saturating_add(30));
        let half = (between.high - between.low) / 2.0;
        if between.expected <= 0.0 {
            return 1000;
        }
        (half / between.expected * 100.0).round().clamp(0.0, 1000.0) as u32
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, at, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if even { f64::midpoint(below.iter().copied().fold(f64::NEG_INFINITY, f64::max), *at) } else { *at }
}
