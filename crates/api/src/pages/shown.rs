//! How values look to people: names before numbers, units beside them, unknown as `?` and never as 0.
//!
//! Pure; never asks for the time.

use super::session::{Session, once};
use askama::Template;
use berth_domain::{CellState, Cents, MemberState, OperationId, OperationState, TenantState};
use jiff::Timestamp;

/// What stands around every page.
#[derive(Debug)]
pub struct Frame {
    /// The entry of the menu that is the current one.
    pub here: &'static str,
    pub version: &'static str,
    /// Of the files that the page asks for.
    pub edition: &'static str,
    /// Of the forms on this page. Empty where nobody is logged in.
    pub csrf: String,
    /// Names the change that a form on this page makes.
    pub once: String,
    /// Let in without a key, because this is a demo.
    pub open: bool,
    pub inside: bool,
}

impl Frame {
    pub fn of(session: &Session, here: &'static str) -> Self {
        Self { here, csrf: session.csrf(), once: once(), open: session.open, inside: true, ..Self::outside() }
    }

    /// For pages that nobody needs a key for.
    pub fn outside() -> Self {
        Self {
            here: "",
            version: env!("CARGO_PKG_VERSION"),
            edition: &super::assets::EDITION,
            csrf: String::new(),
            once: String::new(),
            open: false,
            inside: false,
        }
    }
}

/// A state in words, with the look that repeats it for the eye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Template)]
#[template(source = r#"<span class="state {{ look }}">{{ word }}</span>"#, ext = "html")]
pub struct State {
    pub word: &'static str,
    pub look: &'static str,
}

pub const fn state(word: &'static str, look: &'static str) -> State {
    State { word, look }
}

pub fn tenant_state(it: TenantState) -> State {
    use TenantState as S;
    let look = match it {
        S::Active => "good",
        S::Provisioning | S::Moving | S::Deleting => "busy",
        S::Suspended | S::Deleted => "off",
        S::Failed => "bad",
    };
    state(it.as_str(), look)
}

pub fn cell_state(it: CellState) -> State {
    use CellState as S;
    let look = match it {
        S::Ready => "good",
        S::Creating | S::Draining | S::Removing => "busy",
        S::Removed => "off",
        S::Failed => "bad",
    };
    state(it.as_str(), look)
}

pub fn member_state(it: MemberState) -> State {
    use MemberState as S;
    let look = match it {
        S::Healthy => "good",
        S::Starting => "busy",
        S::Unknown | S::Stopped => "off",
        S::Unhealthy => "bad",
    };
    state(it.as_str(), look)
}

pub fn operation_state(it: OperationState) -> State {
    use OperationState as S;
    let look = match it {
        S::Succeeded => "good",
        S::Queued | S::Running | S::Undoing => "busy",
        S::Abandoned => "off",
        S::Failed | S::Stuck => "bad",
    };
    state(it.as_str(), look)
}

/// `move_tenant` as people say it.
pub fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// The same at the beginning of a line.
pub fn title(name: &str) -> String {
    let text = words(name);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The last characters of an id: enough to tell two apart on a screen, with the whole one behind the link.
pub fn short(id: OperationId) -> String {
    id.to_string().chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect()
}

/// `1 234 567`, with a space that does not break.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// A value that may not be known.
pub fn or_unknown<T>(value: Option<T>, shown: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "?".to_owned(), shown)
}

pub fn bytes(bytes: u64) -> String {
    const UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}\u{a0}B") } else { format!("{amount:.1}\u{a0}{}", UNITS[unit]) }
}

pub fn millis(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}\u{a0}ms") } else { format!("{ms:.0}\u{a0}ms") }
}

pub fn seconds(s: f64) -> String {
    match s {
        s if s < 10.0 => format!("{s:.1}\u{a0}s"),
        s if s < 120.0 => format!("{s:.0}\u{a0}s"),
        s if s < 7200.0 => format!("{:.0}\u{a0}min", s / 60.0),
        s => format!("{:.1}\u{a0}h", s / 3600.0),
    }
}

pub fn money(amount: Cents) -> String {
    amount.to_string()
}

/// `4 min ago`; a moment of the near future, by another machine's clock, is now.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    match seconds {
        ..5 => "just now".to_owned(),
        5..60 => format!("{seconds}\u{a0}s ago"),
        60..3600 => format!("{}\u{a0}min ago", seconds / 60),
        3600..86_400 => format!("{}\u{a0}h ago", seconds / 3600),
        _ => format!("{}\u{a0}d ago", seconds / 86_400),
    }
}

/// To the second, for the title of a relative time.
pub fn exact(then: Timestamp) -> String {
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A moment as people read it, with the exact one behind it.
#[derive(Clone, Debug, Template)]
#[template(source = r#"<time datetime="{{ exact }}" title="{{ exact }}">{{ ago }}</time>"#, ext = "html")]
pub struct When {
    pub ago: String,
    pub exact: String,
}

impl When {
    pub fn new(then: Timestamp, now: Timestamp) -> Self {
        Self { ago: ago(then, now), exact: exact(then) }
    }
}

#[cfg(test)]
mod tests {
    use super::{ago, bytes, count, millis, or_unknown, seconds};
    use jiff::Timestamp;

    #[test]
    fn amounts_read_as_people_write_them() {
        let plain = |text: String| text.replace(['\u{202f}', '\u{a0}'], " ");
        assert_eq!([0, 999, 1_000, 1_234_567].map(|n| plain(count(n))), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([0, 1_023, 1_536, 41 << 30].map(|n| plain(bytes(n))), ["0 B", "1023 B", "1.5 KiB", "41.0 GiB"]);
        assert_eq!([0.44, 12.4].map(|n| plain(millis(n))), ["0.4 ms", "12 ms"]);
        assert_eq!([4.7, 61.0, 600.0, 9_000.0].map(|n| plain(seconds(n))), ["4.7 s", "61 s", "10 min", "2.5 h"]);
        assert_eq!(or_unknown(None, count), "?");
    }

    #[test]
    fn times_are_relative_and_never_in_the_future() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let shown = [1_000, 990, 900, -9_000, -200_000].map(|then| ago(at(then), at(1_000)).replace('\u{a0}', " "));
        assert_eq!(shown, ["just now", "10 s ago", "1 min ago", "2 h ago", "2 d ago"]);
        assert_eq!(ago(at(1_060), at(1_000)), "just now");
    }
}
