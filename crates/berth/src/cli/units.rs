//! Figures as people read them. What nobody knows is `?`, never 0.

use jiff::Timestamp;

pub const UNKNOWN: &str = "?";

pub fn or_unknown(text: Option<impl ToString>) -> String {
    text.map_or_else(|| UNKNOWN.to_owned(), |text| text.to_string())
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub fn count_or_unknown(n: Option<u64>) -> String {
    n.map_or_else(|| UNKNOWN.to_owned(), count)
}

/// `3.4 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

pub fn bytes_or_unknown(n: Option<u64>) -> String {
    n.map_or_else(|| UNKNOWN.to_owned(), bytes)
}

/// `850 ms`, `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", s as u64 / 60, s as u64 % 60),
        s => format!("{} h {} min", s as u64 / 3600, s as u64 % 3600 / 60),
    }
}

pub fn seconds_or_unknown(s: Option<f64>) -> String {
    s.map_or_else(|| UNKNOWN.to_owned(), seconds)
}

/// `5 min ago`. After a month the date says more.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    match now.as_second() - then.as_second() {
        ..2 => "now".to_owned(),
        s @ 2..60 => format!("{s} s ago"),
        s @ 60..3600 => format!("{} min ago", s / 60),
        s @ 3600..86_400 => format!("{} h ago", s / 3600),
        s @ 86_400..2_592_000 => format!("{} d ago", s / 86_400),
        _ => then.strftime("%Y-%m-%d").to_string(),
    }
}

pub fn ago_or(then: Option<Timestamp>, now: Timestamp, otherwise: &str) -> String {
    then.map_or_else(|| otherwise.to_owned(), |then| ago(then, now))
}

#[cfg(test)]
mod tests {
    use super::{ago, bytes, count, seconds};
    use jiff::Timestamp;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(0), bytes(1023), bytes(1024), bytes(5 << 30)], ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
        assert_eq!(
            [seconds(0.85), seconds(12.34), seconds(245.0), seconds(7_400.0)],
            ["850 ms", "12.3 s", "4 min 5 s", "2 h 3 min"]
        );
    }

    #[test]
    fn times_are_told_from_now() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (then, told) in [
            ("2026-11-21T12:00:05Z", "now"), // the server's clock may be ahead of ours
            ("2026-11-21T11:59:50Z", "10 s ago"),
            ("2026-11-21T11:00:01Z", "59 min ago"),
            ("2026-11-20T11:00:00Z", "1 d ago"),
            ("2026-03-01T00:00:00Z", "2026-03-01"),
        ] {
            assert_eq!(ago(then.parse().unwrap(), now), told);
        }
    }
}
