//! Numbers that only rise. Whoever holds an old one is refused.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            pub const fn new(value: u64) -> Self {
                Self(value)
            }
            pub const fn get(self) -> u64 {
                self.0
            }
            /// The next higher one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
            /// As Postgres stores it. Counters start at 0 and rise by one: `i64::MAX` is never reached.
            pub const fn as_i64(self) -> i64 {
                self.0.cast_signed()
            }
            /// From Postgres; a negative value, which no statement of ours writes, becomes 0.
            pub const fn from_i64(value: i64) -> Self {
                Self(if value < 0 { 0 } else { value.cast_unsigned() })
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

counters! {
    /// Which ownership of a tenant is in force. Raised at each cut-over; the fence in the cell and the edge's route carry it.
    Generation,
    /// Which worker may act on a move. Raised by every worker that takes it up or lost an answer.
    Token,
    /// Position in the stream of route changes that edges follow.
    Revision,
}
