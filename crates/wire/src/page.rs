//! Lists come in pages, followed by an opaque cursor: rows that appear meanwhile neither double nor hide others.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass as `after` to get the next page; absent on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that is always whole.
    pub const fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}
