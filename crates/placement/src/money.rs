//! Prices in their own currency and what they are in US dollars. Never a float: millionths, rounded once.

use berth_domain::Cents;
use jiff::civil::Date;
use serde::Serialize;
use std::collections::BTreeMap;

/// Millionths of one unit of a currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// Rounded half up, once and at the end: 2,585 cents of 25.85 EUR.
    pub fn cents(self) -> i64 {
        (self.0 + 5_000).div_euclid(10_000)
    }
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX)))
    }
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
    pub fn percent(self, percent: u64) -> Self {
        Self(i64::try_from(i128::from(self.0) * i128::from(percent) / 100).unwrap_or(i64::MAX))
    }
}

/// What one unit of each currency costs in US dollars, on a day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    pub as_of: Date,
    pub source: String,
    /// Older than this, every price that used a rate says so.
    pub stale_after_days: i32,
    /// Older than this, they are not used: prices in other currencies are unknown.
    pub unusable_after_days: i32,
    pub usd: BTreeMap<String, Micros>,
}

impl Rates {
    pub fn knows(&self, currency: &str) -> bool {
        currency == "USD" || self.usd.contains_key(currency)
    }

    pub fn age_days(&self, today: Date) -> i32 {
        today.since(self.as_of).map_or(0, |span| span.get_days())
    }

    pub fn are_too_old(&self, today: Date) -> bool {
        self.age_days(today) > self.unusable_after_days
    }

    /// In cents of a US dollar, rounded half up.
    pub fn usd_cents(&self, amount: Micros, currency: &str) -> Option<Cents> {
        let rate = if currency == "USD" { Micros(1_000_000) } else { *self.usd.get(currency)? };
        let micros = i128::from(amount.0) * i128::from(rate.0) / 1_000_000;
        Some(Cents::new(Micros(i64::try_from(micros).ok()?).cents()))
    }
}
