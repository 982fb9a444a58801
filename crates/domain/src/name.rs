//! Names that people give and machines check: lower case, short, safe in a host name, a path and a log line.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A name was not taken. Says the rule, so that the next try fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("`{0}` is not a name: 1 to 40 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit")]
    Slug(String),
    #[error("`{0}` is not a host name: up to 253 characters, labels of `a-z`, `0-9` and `-` joined by dots")]
    Hostname(String),
    #[error(
        "`{0}` is neither a host nor a pattern of hosts: `example.com`, `*.example.com`, `example.com/path` or both, a \
         path of up to 8 parts of letters, digits and `-._~` without a `/` at its end"
    )]
    HostPattern(String),
    #[error("a tenant's key is 1 to 200 printable characters without spaces at its ends")]
    Key,
}

const SLUG_MAX: usize = 40;

fn slug(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let bytes = text.as_bytes();
    (1..=SLUG_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| inner(*b))
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $check:expr, $error:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                let error: fn(String) -> BadName = $error;
                if check(&text) { Ok(Self(text)) } else { Err(error(text)) }
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    )+};
}

names! {
    /// The SaaS being run.
    StackName: slug, BadName::Slug;
    /// A tenant, as people and the command line call it.
    TenantName: slug, BadName::Slug;
    /// A cell, as people and the command line call it.
    CellName: slug, BadName::Slug;
    /// A service of the stack file.
    ServiceName: slug, BadName::Slug;
    /// A plan of the stack file.
    PlanName: slug, BadName::Slug;
    /// A provider of the stack file: an adapter together with its settings.
    ProviderName: slug, BadName::Slug;
    /// An edge, the same over its restarts.
    EdgeName: slug, BadName::Slug;
    /// A host name that routes to a tenant, lower case, without port or trailing dot.
    Hostname: hostname, BadName::Hostname;
    /// Hosts that route to a tenant by a pattern: `*.example.com` for any one label, `example.com/path` for what is
    /// below a path, or both in one; a plain host is the simplest of them.
    HostPattern: pattern, BadName::HostPattern;
    /// The tenant's key in the application's own root table, in Postgres' text form.
    TenantKey: key, |_| BadName::Key;
}

fn hostname(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

/// Parts of a pattern's path. A request is looked up once for each, so there are few.
pub const PATTERN_PARTS_MAX: usize = 8;

fn pattern(text: &str) -> bool {
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    let (wild, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
    let part = |part: &str| {
        !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    // A `*.com` would be everybody's.
    hostname(name)
        && (!wild || name.contains('.'))
        && text.len() <= 512
        && path.is_none_or(|path| path.split('/').count() <= PATTERN_PARTS_MAX && path.split('/').all(part))
}

impl HostPattern {
    /// `*.example.com` or `example.com`.
    pub fn host(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(host, _)| host)
    }

    /// `/path`, or nothing.
    pub fn path(&self) -> &str {
        self.0.find('/').map_or("", |at| &self.0[at..])
    }
}

fn key(text: &str) -> bool {
    !text.is_empty() && text.len() <= 200 && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::{HostPattern, Hostname, TenantKey, TenantName};

    #[test]
    fn names_follow_their_rule() {
        for good in ["a", "acme", "acme-2", "0a"] {
            assert!(TenantName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(41)] {
            assert!(TenantName::new(bad).is_err(), "{bad}");
        }
        for good in ["acme.test", "a", "x-1.example.com"] {
            assert!(Hostname::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "A.b", "a:80", "-a.b", &format!("{}.x", "a".repeat(64))] {
            assert!(Hostname::new(bad).is_err(), "{bad}");
        }
        for (good, host, path) in [
            ("example.com", "example.com", ""),
            ("*.example.com", "*.example.com", ""),
            ("example.com/shop", "example.com", "/shop"),
            ("*.example.com/a/b.C~1", "*.example.com", "/a/b.C~1"),
        ] {
            let pattern = HostPattern::new(good).unwrap();
            assert_eq!((pattern.host(), pattern.path()), (host, path), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.com",
            "*.*.example.com",
            "a.*.com",
            "*example.com",
            "example.com/",
            "/a",
            "a.b/c/",
            "a.b//c",
            "a.b/..",
            "a.b/c?d",
            "a.b/%61",
            "A.b/c",
            "a.b/1/2/3/4/5/6/7/8/9",
        ] {
            assert!(HostPattern::new(bad).is_err(), "{bad}");
        }
        assert!(TenantKey::new("7").is_ok());
        assert!(TenantKey::new(" 7").is_err());
        assert!(TenantKey::new("a\0").is_err());
    }
}
