//! Draining: nothing new comes in, what is open gets time to end.

use crate::schema;
use berth_domain::{CellName, EdgeName, MemberId};
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

/// One line of `GET /v1/drains`: something that gets nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drained {
    pub kind: DrainedKind,
    /// A tenant's or an edge's name; of a member its service and address.
    pub name: String,
    /// Where a member is.
    #[schema(value_type = Option<String>)]
    pub cell: Option<CellName>,
    #[schema(schema_with = schema::id_or_none)]
    pub member: Option<MemberId>,
    pub drain: Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainedKind {
    Tenant,
    Member,
    Edge,
}
