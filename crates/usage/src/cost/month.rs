//! Calendar months in UTC, as invoices have them, and lengths of time within one.

use jiff::{Span as Length, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use std::{fmt, str::FromStr};

/// A month in UTC. Written `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    first: Date,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no month: write it like 2026-11")]
pub struct BadMonth(String);

/// From a moment to a later one, which no longer belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Span {
    /// What of it lies in another one; empty where they do not meet.
    pub fn within(self, other: Self) -> Self {
        let from = self.from.max(other.from);
        Self { from, until: self.until.min(other.until).max(from) }
    }

    pub fn seconds(self) -> u64 {
        u64::try_from(self.until.as_second() - self.from.as_second()).unwrap_or(0)
    }

    /// Hours begun, as providers count them.
    pub fn hours_begun(self) -> u64 {
        let micros = self.until.as_microsecond() - self.from.as_microsecond();
        u64::try_from(micros).unwrap_or(0).div_ceil(3_600_000_000)
    }
}

impl Month {
    pub fn of(moment: Timestamp) -> Self {
        Self { first: moment.to_zoned(TimeZone::UTC).date().first_of_month() }
    }

    pub fn span(self) -> Span {
        Span { from: midnight(self.first), until: midnight(self.next().first) }
    }

    pub fn hours(self) -> u64 {
        self.span().seconds() / 3600
    }

    pub fn next(self) -> Self {
        self.shifted(1.month())
    }

    pub fn before(self) -> Self {
        self.shifted(-1.month())
    }

    pub const fn first_day(self) -> Date {
        self.first
    }

    fn shifted(self, by: Length) -> Self {
        Self { first: self.first.saturating_add(by) }
    }
}

fn midnight(day: Date) -> Timestamp {
    // UTC has every midnight; only the ends of what can be written at all have none.
    day.to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

impl FromStr for Month {
    type Err = BadMonth;
    fn from_str(text: &str) -> Result<Self, BadMonth> {
        let bad = || BadMonth(text.chars().take(20).collect());
        let (year, month) = text.split_once('-').filter(|(y, m)| y.len() == 4 && m.len() == 2).ok_or_else(bad)?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let numbers = (digits(year) && digits(month)).then(|| (year.parse().ok(), month.parse().ok()));
        let Some((Some(year), Some(month))) = numbers else { return Err(bad()) };
        // Four digits of a year that bills can be from: its neighbours exist too.
        if !(1970..=9000).contains(&year) {
            return Err(bad());
        }
        Date::new(year, month, 1).map(|first| Self { first }).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::{Month, Span};

    #[test]
    fn a_month_has_the_hours_that_its_calendar_has() {
        let hours = |text: &str| text.parse::<Month>().unwrap().hours();
        assert_eq!([hours("2026-11"), hours("2026-12"), hours("2026-02"), hours("2028-02")], [720, 744, 672, 696]);
        let november: Month = "2026-11".parse().unwrap();
        assert_eq!(
            (november.before().to_string(), november.next().next().to_string()),
            ("2026-10".into(), "2027-01".into())
        );
    }

    #[test]
    fn what_is_no_month_is_refused() {
        for text in ["", "2026", "2026-13", "2026-1", "26-01", "2026-00", "+026-01", "2026-1x", "9999-12", "2026-11-01"]
        {
            assert!(text.parse::<Month>().is_err(), "{text} was read");
        }
    }

    #[test]
    fn an_hour_begun_is_an_hour() {
        let span = |from: &str, until: &str| Span { from: from.parse().unwrap(), until: until.parse().unwrap() };
        assert_eq!(span("2026-11-01T00:00:00Z", "2026-11-01T01:00:01Z").hours_begun(), 2);
        assert_eq!(span("2026-11-01T00:00:00.1Z", "2026-11-01T00:00:00.2Z").hours_begun(), 1, "within one second");
        let month = "2026-11".parse::<Month>().unwrap().span();
        let outside = span("2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z").within(month);
        assert_eq!(outside.seconds(), 0);
    }
}
