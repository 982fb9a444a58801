//! Versions of the program, and which of them work side by side: those of one minor version and of the next. Across more
//! than that nobody has promised that one understands what the other wrote. Never looks at what runs.

use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, str::FromStr};

/// `0.2.1`, `0.3.0-rc.1`. What follows a `+` is left out: it says who built it, not what it does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// Comes before the release of the same number.
    pre: Option<String>,
}

#[cfg(debug_assertions)]
static CLAIMED: std::sync::OnceLock<Version> = std::sync::OnceLock::new();

/// Text that is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version: one is `0.2.1` or `0.3.0-rc.1`")]
pub struct BadVersion(String);

/// Where a step from one version leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionStep {
    Same,
    Up,
    Down,
}

/// Why one version cannot follow another while that still runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStep {
    #[error("{from} and {to} do not work side by side: two minor versions do that are next to each other")]
    Skips { from: Version, to: Version },
    #[error("{from} and {to} do not work side by side: they are of two major versions")]
    Major { from: Version, to: Version },
    /// What comes after a release is not settled before it.
    #[error("{from} and {to} do not work side by side: {early} is not the released one of its minor version")]
    Early { from: Version, to: Version, early: Version },
}

impl BadStep {
    pub fn hint(&self) -> String {
        let verb = |from: &Version, to: &Version| if from < to { "upgrade to" } else { "go back to" };
        match self {
            Self::Skips { from, to } => {
                let between = if from < to { from.minor + 1 } else { from.minor.saturating_sub(1) };
                format!("{} {}.{between} first", verb(from, to), from.major)
            }
            Self::Major { from, to } if from < to => {
                format!("upgrade to the last {}.x first: that one knows the way", from.major)
            }
            Self::Major { from, .. } => format!("there is no way back out of {}.x", from.major),
            Self::Early { from, to, early } => {
                format!("{} {}.{}.0 first", verb(from, to), early.major, early.minor)
            }
        }
    }
}

impl Version {
    /// Of the program that this is a part of: all crates have one version.
    #[expect(clippy::missing_panics_doc, reason = "cargo takes no other versions")]
    pub fn own() -> Self {
        #[cfg(debug_assertions)]
        if let Some(claimed) = CLAIMED.get() {
            return claimed.clone();
        }
        env!("CARGO_PKG_VERSION").parse().expect("cargo takes no other versions")
    }

    /// What this process is from here on, once: two versions side by side are tried with one program. Not in releases.
    #[cfg(debug_assertions)]
    pub fn claim(version: Self) {
        let _ = CLAIMED.set(version);
    }

    /// From this one, which runs, to another. `Err`: they would not understand each other meanwhile.
    pub fn step(&self, to: &Self) -> Result<VersionStep, BadStep> {
        let (from, to) = (self.clone(), to.clone());
        if from.major != to.major {
            return Err(BadStep::Major { from, to });
        }
        let (low, high) = if from < to { (&from, &to) } else { (&to, &from) };
        if high.minor - low.minor > 1 {
            return Err(BadStep::Skips { from, to });
        }
        if high.minor > low.minor && low.pre.is_some() {
            let early = low.clone();
            return Err(BadStep::Early { from, to, early });
        }
        Ok(match from.cmp(&to) {
            Ordering::Equal => VersionStep::Same,
            Ordering::Less => VersionStep::Up,
            Ordering::Greater => VersionStep::Down,
        })
    }

    /// Of an earlier minor version, whatever the patch.
    pub fn is_of_earlier_minor_than(&self, other: &Self) -> bool {
        (self.major, self.minor) < (other.major, other.minor)
    }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.chars().take(60).collect());
        let known = text.split_once('+').map_or(text, |(known, _)| known);
        let (numbers, pre) = match known.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (known, None),
        };
        let part = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !part.is_empty();
        if pre.is_some_and(|pre| pre.len() > 40 || !pre.split('.').all(part)) {
            return Err(bad());
        }
        let mut parts = numbers.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            if digits { number.parse::<u32>().ok() } else { None }
        });
        let mut next = || parts.next().flatten().ok_or_else(bad);
        let version = Self { major: next()?, minor: next()?, patch: next()?, pre: pre.map(str::to_owned) };
        if parts.next().is_some() { Err(bad()) } else { Ok(version) }
    }
}

impl TryFrom<String> for Version {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        self.pre.as_ref().map_or(Ok(()), |pre| write!(f, "-{pre}"))
    }
}

impl Ord for Version {
    /// As semantic versions are ordered: numbers as numbers, and what comes before a release before it.
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |version: &Self| (version.major, version.minor, version.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| match (&self.pre, &other.pre) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(two)) => pre_releases(one, two),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn pre_releases(one: &str, two: &str) -> Ordering {
    let part = |one: &str, two: &str| match (one.parse::<u64>(), two.parse::<u64>()) {
        (Ok(one), Ok(two)) => one.cmp(&two),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => one.cmp(two),
    };
    let (mut ones, mut twos) = (one.split('.'), two.split('.'));
    loop {
        let order = match (ones.next(), twos.next()) {
            (None, None) => return one.cmp(two),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(one), Some(two)) => part(one, two),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Version, VersionStep};

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn two_adjacent_minor_versions_work_side_by_side_and_no_others() {
        for (from, to, wanted) in [
            ("0.1.0", "0.1.0", "same"),
            ("0.1.0", "0.1.7", "up"),
            ("0.1.7", "0.1.0", "down"),
            ("0.1.3", "0.2.0", "up"),
            ("0.2.0", "0.1.3", "down"),
            ("0.1.0", "0.2.0-rc.1", "up"),
            ("0.2.0-rc.1", "0.2.0-rc.2", "up"),
            ("0.2.0-rc.2", "0.2.0", "up"),
            ("0.2.0", "0.2.0-rc.2", "down"),
            ("0.9.0", "0.10.0", "up"),
            ("0.1.0", "0.3.0", "upgrade to 0.2 first"),
            ("0.1.0", "0.9.0", "upgrade to 0.2 first"),
            ("0.3.1", "0.1.0", "go back to 0.2 first"),
            ("0.2.0-rc.1", "0.3.0", "upgrade to 0.2.0 first"),
            ("0.3.0", "0.2.0-rc.1", "go back to 0.2.0 first"),
            ("0.9.1", "1.0.0", "upgrade to the last 0.x first: that one knows the way"),
            ("1.0.0", "0.9.1", "there is no way back out of 1.x"),
        ] {
            let said = match version(from).step(&version(to)) {
                Ok(VersionStep::Same) => "same".to_owned(),
                Ok(VersionStep::Up) => "up".to_owned(),
                Ok(VersionStep::Down) => "down".to_owned(),
                Err(refused) => {
                    let reason = refused.to_string();
                    assert!(reason.contains(from) && reason.contains(to), "{reason}");
                    refused.hint()
                }
            };
            assert_eq!(said, wanted, "{from} to {to}");
        }
    }

    #[test]
    fn versions_are_ordered_as_semantic_ones() {
        let ordered = [
            "0.1.0-alpha",
            "0.1.0-alpha.1",
            "0.1.0-rc.1",
            "0.1.0-rc.2",
            "0.1.0-rc.10",
            "0.1.0",
            "0.1.1",
            "0.2.0",
            "0.10.0",
            "1.0.0",
        ];
        for pair in ordered.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert!(version("0.1.9").is_of_earlier_minor_than(&version("0.2.0-rc.1")));
        assert!(!version("0.2.0").is_of_earlier_minor_than(&version("0.2.3")));
    }

    #[test]
    fn what_is_no_version_is_none_and_a_build_is_left_out() {
        assert_eq!(version("0.1.0+g12ab").to_string(), "0.1.0");
        assert_eq!(version("1.20.3-rc.1+x").to_string(), "1.20.3-rc.1");
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1.2.x",
            "v1.2.3",
            "1.2.3-",
            "1.2.3-a..b",
            "-1.2.3",
            "1.2.+3",
            "1.2.99999999999",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert_eq!(Version::own().to_string(), env!("CARGO_PKG_VERSION"));
    }
}
