//! Names of resources at a provider. Chosen by the caller before the resource exists; never made up by an adapter.

use berth_domain::{CellName, ServiceName};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Text that is no resource name. Comes from a damaged record or a foreign resource, never from a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a resource name: 1 to 100 of `a-z`, `0-9`, `-` and `.`, beginning and ending with a letter or digit"
)]
pub struct BadResourceName(String);

fn valid(text: &str) -> bool {
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=100).contains(&bytes.len())
        && bytes.iter().all(|b| end(*b) || *b == b'-' || *b == b'.')
        && end(bytes[0])
        && end(bytes[bytes.len() - 1])
        && !text.contains("..")
}

macro_rules! resource_names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, BadResourceName> {
                let text = text.into();
                if valid(&text) { Ok(Self(text)) } else { Err(BadResourceName(text)) }
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
        impl FromStr for $name {
            type Err = BadResourceName;
            fn from_str(text: &str) -> Result<Self, BadResourceName> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadResourceName;
            fn try_from(text: String) -> Result<Self, BadResourceName> {
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

resource_names! {
    /// The writable Postgres of a cell, as its provider knows it.
    DatabaseName,
    /// A member, as its provider knows it.
    MemberName,
}

impl DatabaseName {
    /// A cell has one writable Postgres, so the cell's own name is enough.
    pub fn of(cell: &CellName) -> Self {
        Self(cell.as_str().to_owned())
    }
}

impl MemberName {
    /// `cell.service.copy`. Dots, because a cell's and a service's name may hold dashes and must not run together.
    pub fn of(cell: &CellName, service: &ServiceName, index: u16) -> Self {
        Self(format!("{cell}.{service}.{index}"))
    }

    /// The same of a release: it stands beside the copy of another one while that is replaced. Release 0 is what the
    /// stack file alone says, and has no name of its own.
    pub fn of_release(cell: &CellName, service: &ServiceName, index: u16, release: u32) -> Self {
        if release == 0 { Self::of(cell, service, index) } else { Self(format!("{cell}.{service}.{index}.r{release}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseName, MemberName};
    use berth_domain::{CellName, ServiceName};

    #[test]
    fn no_resource_name_leaves_its_folder() {
        for bad in ["", ".", "..", "a..b", "../a", "a/b", "A", "-a", "a.", &"a".repeat(101)] {
            assert!(DatabaseName::new(bad).is_err(), "{bad}");
        }
        assert!(DatabaseName::new("fra-1").is_ok());
    }

    #[test]
    fn members_of_alike_cells_and_services_never_share_a_name() {
        let cell = |text: &str| CellName::new(text).unwrap();
        let service = |text: &str| ServiceName::new(text).unwrap();
        assert_ne!(MemberName::of(&cell("a-b"), &service("c"), 0), MemberName::of(&cell("a"), &service("b-c"), 0));
        let longest = MemberName::of_release(&cell(&"a".repeat(40)), &service(&"b".repeat(40)), u16::MAX, u32::MAX);
        assert_eq!(MemberName::new(longest.as_str()), Ok(longest.clone()));
    }
}
