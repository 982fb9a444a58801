//! What control and edge say to each other.
//!
//! An edge opens `GET /v1/edges/{name}/routes?instance=…&after=REVISION` and reads one JSON object a line
//! ([`EdgeEvent`]) for as long as the connection lives; it answers with `POST /v1/edges/{name}/acks`
//! ([`EdgeAck`]). Revisions only rise. A tenant's route replaces its earlier one whole; a route whose
//! `generation` or `revision` is lower than what the edge has is refused by the edge.

use berth_domain::{
    CellName, EdgeId, Generation, Hostname, MemberId, PlanName, Revision, ServiceName, TenantId, TenantKey, TenantName,
    Token,
};
use serde::{Deserialize, Serialize};

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EdgeEvent {
    /// Routes that changed, oldest first. `full`: these are all there are; whatever else the edge has is gone.
    Routes { full: bool, revision: Revision, routes: Vec<TenantRoute> },
    /// Sent when nothing happened for a while, so that a dead connection is noticed.
    Ping { revision: Revision },
}

/// How requests for one tenant are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRoute {
    pub tenant: TenantId,
    pub name: TenantName,
    /// Sent to the application as `Berth-Tenant`.
    pub key: TenantKey,
    /// Sent to the application as `Berth-Plan`.
    pub plan: PlanName,
    pub cell: CellName,
    /// Sent to the application as `Berth-Generation`.
    pub generation: Generation,
    /// The revision at which this route changed last.
    pub revision: Revision,
    pub hosts: Vec<Hostname>,
    pub state: RouteState,
    /// The cell's members that take requests.
    pub members: Vec<MemberAddress>,
    /// Largest request body in bytes; none: the edge's own bound.
    pub body_bytes: Option<u64>,
    /// Requests by class; a class that is not named is not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RouteLimit>,
}

/// How many requests of one class a tenant may make.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouteLimit {
    /// `api`, `upload` and `gps` as shipped.
    pub class: String,
    pub requests: u64,
    /// The requests are meant for this long: 100 a minute are 100 for 60.
    pub per_s: u32,
}

/// What the edge does with requests for a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RouteState {
    Serving,
    /// A cut-over is under way: park what may write until the next route of this tenant arrives.
    Held {
        hold: Hold,
    },
    /// Answered 403 by the edge.
    Suspended,
    /// Answered 404, as if it had never been.
    Gone,
}

/// The order to park a tenant's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The mover's token: names this attempt in the acknowledgement.
    pub token: Token,
    pub policy: HoldPolicy,
    /// How long requests in flight are waited for before the edge refuses the hold, in milliseconds.
    pub drain_ms: u32,
    /// How long a request is parked at most before it is answered 503 with `Retry-After`, in milliseconds.
    pub park_ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldPolicy {
    /// Everything but GET, HEAD, OPTIONS and TRACE.
    Unsafe,
    /// Everything: for applications that write on GET.
    All,
}

/// Where one member takes requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MemberAddress {
    pub member: MemberId,
    pub service: ServiceName,
    /// `host:port`, plain HTTP inside one host or private network.
    pub address: String,
}

/// What an edge tells control: how far it is, and how holds went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeAck {
    /// A restarted edge has a new one.
    pub instance: EdgeId,
    /// Everything up to here is in force and on disk.
    pub revision: Revision,
    #[serde(default)]
    pub holds: Vec<HoldReport>,
}

/// How a hold went at this edge. Sent once when it is in force or refused, and once when it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldReport {
    pub tenant: TenantId,
    pub token: Token,
    pub outcome: HoldOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum HoldOutcome {
    /// Parked what may write, and nothing that may write is in flight any more.
    InForce,
    /// Requests in flight did not end within `drain_ms`; nothing is parked any more.
    Refused { in_flight: u32 },
    /// The hold ended: `pause_ms` from the first parked request to the last one sent on, by the edge's clock.
    Ended { pause_ms: f64, held_requests: u32, expired_requests: u32 },
}

/// Answer to an acknowledgement: the edge may be told to start over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeAckAnswer {
    /// The control plane's own newest revision; an edge that is ahead of it reports so and keeps what it has.
    pub revision: Revision,
}
