//! Identifiers: one newtype per noun, all UUIDs, so that a tenant's id is never taken for a cell's.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )+};
}

ids! {
    /// A customer of the stack, as Berth knows it. The application knows it by its [`crate::TenantKey`].
    TenantId,
    /// A place where tenants live: one writable Postgres and members.
    CellId,
    /// One running copy of one service of the stack.
    MemberId,
    /// A TLS certificate with its key.
    CertificateId,
    /// A workflow as its caller sees it.
    OperationId,
    /// One move of one tenant; equal to the id of the operation that carries it out.
    MoveId,
    /// An API key's public half.
    KeyId,
    /// One edge process's lifetime: a restarted edge has a new one under the same name.
    EdgeId,
    /// A proposal that waits for a person.
    ApprovalId,
}
