//! Lengths of time as people write them: `500ms`, `30s`, `15m`, `24h`, `7d`. Never a moment, and never a number alone.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    ms: u64,
}

/// Text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a length of time: write `500ms`, `30s`, `15m`, `24h` or `7d`")]
pub struct BadSpan;

/// Longest first, so that `ms` is not read as `m` and a rest.
const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// A hundred years; more is a slip of the finger.
const MAX_MS: u64 = 36_500 * 86_400_000;

impl Span {
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }
    pub const fn ms(self) -> u64 {
        self.ms
    }
}

impl FromStr for Span {
    type Err = BadSpan;
    fn from_str(text: &str) -> Result<Self, BadSpan> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (amount, unit) = text.split_at(digits);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or(BadSpan)?;
        let ms = amount.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or(BadSpan)?;
        if ms == 0 || ms > MAX_MS { Err(BadSpan) } else { Ok(Self { ms }) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            UNITS.iter().rev().find(|(_, factor)| self.ms.is_multiple_of(*factor)).unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.ms / factor)
    }
}

impl TryFrom<String> for Span {
    type Error = BadSpan;
    fn try_from(text: String) -> Result<Self, BadSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{BadSpan, Span};

    #[test]
    fn a_length_of_time_reads_back_in_its_largest_unit() {
        for (written, ms, shown) in
            [("500ms", 500, "500ms"), ("60s", 60_000, "1m"), ("90m", 5_400_000, "90m"), ("24h", 86_400_000, "1d")]
        {
            let span: Span = written.parse().unwrap();
            assert_eq!((span.ms(), span.to_string().as_str()), (ms, shown), "{written}");
            assert_eq!(shown.parse::<Span>(), Ok(span));
        }
        for text in ["", "5", "0s", "-1s", "1.5h", "1w", "s", "99999999999999999999d", "40000d", "5 minutes"] {
            assert_eq!(text.parse::<Span>(), Err(BadSpan), "{text}");
        }
    }
}
