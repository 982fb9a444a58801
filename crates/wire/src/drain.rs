//! Draining: nothing new comes in, what is open gets time to end.

use crate::schema;
use berth_domain::EdgeName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST …/drain` of a tenant, a member or an edge. May be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainAsk {
    /// Open WebSockets and event streams are closed one by one over this many seconds; 30 without it.
    #[schema(minimum = 0, maximum = 3600)]
    pub grace_s: Option<u32>,
}

/// Whether something is drained, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    pub draining: bool,
    #[schema(schema_with = schema::time_or_none)]
    pub since: Option<Timestamp>,
    pub grace_s: Option<u32>,
    /// Every edge that can be reached knows of it, and the time is over. Requests that were under way may still be, for
    /// as long as an answer may take.
    pub done: bool,
    /// Edges that have not acknowledged it yet.
    #[schema(value_type = Vec<String>)]
    pub waiting_for: Vec<EdgeName>,
}
