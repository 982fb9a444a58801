//! What a tenant may have of the world's host names, and when two tenants would have the same of it. Never asks whose a
//! name is: that is proved elsewhere.

use crate::{BadName, HostPattern, Hostname};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A host, or hosts by a pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TenantHost {
    Plain(Hostname),
    Pattern(HostPattern),
}

/// How what two tenants want meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The very same.
    Same,
    /// Paths of one name. Who has the name has its cookies and its certificate.
    Name,
    /// One is a wildcard over the other.
    Wildcard,
}

impl TenantHost {
    /// Without wildcard and path: what a proof is about.
    pub fn name(&self) -> &str {
        let host = self.host();
        host.strip_prefix("*.").unwrap_or(host)
    }

    pub fn is_wildcard(&self) -> bool {
        self.host().starts_with("*.")
    }

    pub fn plain(&self) -> Option<&Hostname> {
        match self {
            Self::Plain(host) => Some(host),
            Self::Pattern(_) => None,
        }
    }

    fn host(&self) -> &str {
        match self {
            Self::Plain(host) => host.as_str(),
            Self::Pattern(pattern) => pattern.host(),
        }
    }

    /// A wildcard counts for every name below its own, however deep: who proved it has them all.
    pub fn overlap(&self, other: &Self) -> Option<Overlap> {
        let covers = |wild: &Self, other: &Self| wild.is_wildcard() && is_below(other.name(), wild.name());
        if self == other {
            Some(Overlap::Same)
        } else if self.host() == other.host() {
            Some(Overlap::Name)
        } else {
            (covers(self, other) || covers(other, self)).then_some(Overlap::Wildcard)
        }
    }

    /// Whether it is this name or below it.
    pub fn is_under(&self, name: &Hostname) -> bool {
        self.name() == name.as_str() || is_below(self.name(), name.as_str())
    }

    /// Names and wildcards that another tenant's host may have so that the two meet, all but what is below a wildcard.
    pub fn relatives(&self) -> Vec<String> {
        let mut relatives = vec![self.host().to_owned()];
        let mut rest = self.name();
        if self.is_wildcard() {
            relatives.push(rest.to_owned());
        }
        while let Some((_, parent)) = rest.split_once('.') {
            relatives.push(format!("*.{parent}"));
            rest = parent;
        }
        relatives
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

impl fmt::Display for TenantHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(host) => host.fmt(f),
            Self::Pattern(pattern) => pattern.fmt(f),
        }
    }
}

impl FromStr for TenantHost {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for TenantHost {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        if text.contains(['*', '/']) {
            HostPattern::new(text).map(Self::Pattern)
        } else {
            Hostname::new(text).map(Self::Plain)
        }
    }
}

impl From<TenantHost> for String {
    fn from(host: TenantHost) -> Self {
        host.to_string()
    }
}

impl From<Hostname> for TenantHost {
    fn from(host: Hostname) -> Self {
        Self::Plain(host)
    }
}

#[cfg(test)]
mod tests {
    use super::{Overlap, TenantHost};
    use crate::Hostname;

    fn host(text: &str) -> TenantHost {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_meet_when_they_are_the_same_or_share_a_name_or_a_wildcard_is_over_one() {
        for (one, other, meets) in [
            ("a.example.com", "a.example.com", Some(Overlap::Same)),
            ("a.example.com/x", "a.example.com", Some(Overlap::Name)),
            ("a.example.com/x", "a.example.com/y", Some(Overlap::Name)),
            ("*.example.com", "a.example.com", Some(Overlap::Wildcard)),
            ("*.example.com", "a.b.example.com/x", Some(Overlap::Wildcard)),
            ("*.example.com", "*.b.example.com", Some(Overlap::Wildcard)),
            ("*.example.com", "example.com", None),
            ("*.example.com", "a.notexample.com", None),
            ("a.example.com", "b.example.com", None),
        ] {
            assert_eq!(host(one).overlap(&host(other)), meets, "{one} and {other}");
            assert_eq!(host(other).overlap(&host(one)), meets, "{other} and {one}");
            let found = host(one).relatives().contains(&host(other).host().to_owned());
            let below = host(one).is_wildcard() && other.contains(&format!(".{}", host(one).name()));
            assert!(meets.is_none() || found || below, "{other} would not be looked at for {one}");
        }
    }

    #[test]
    fn the_stacks_own_names_are_those_at_and_below_its_domain() {
        let own = Hostname::new("fleet.example.com").unwrap();
        for under in ["fleet.example.com", "a.fleet.example.com", "*.fleet.example.com", "fleet.example.com/a"] {
            assert!(host(under).is_under(&own), "{under}");
        }
        for other in ["example.com", "*.example.com", "notfleet.example.com", "a.example.com"] {
            assert!(!host(other).is_under(&own), "{other}");
        }
        assert!("*.com".parse::<TenantHost>().is_err() && "a.test/".parse::<TenantHost>().is_err());
    }
}
