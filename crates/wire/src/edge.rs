//! What control and edge say to each other.
//!
//! An edge opens `GET /v1/edges/{name}/routes?instance=…&after=REVISION` and reads one JSON object a line
//! ([`EdgeEvent`]) for as long as the connection lives; it answers with `POST /v1/edges/{name}/acks`
//! ([`EdgeAck`]). Revisions only rise. A tenant's route replaces its earlier one whole; a route whose
//! `generation` or `revision` is lower than what the edge has is refused by the edge. An edge that sends the header
//! [`SPEAKS`] is told [`EdgeEvent::Settings`] too; an older one would not understand them.
//!
//! With `&wait_ms=…` it is a long poll: the same lines, those there are now or the first ones within that time, and the
//! answer ends. [`POLL`] of the answer goes with the next one, as `&poll=…`; with none, or one that the server does not know,
//! the stream begins anew, and the answer has all that it begins with.

use berth_domain::{
    Balance, CellName, CertificateId, EdgeId, Generation, HostPattern, Hostname, MemberId, Network, PlanName, Revision,
    ServiceName, Speaks, StackName, TenantId, TenantKey, TenantName, Token,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The header by which an edge says which events it understands: without it routes, from 2 on
/// [`EdgeEvent::Settings`], from 3 on [`EdgeEvent::Certificates`] too. One that ends no TLS says 2, and is handed no keys.
pub const SPEAKS: &str = "berth-edge-speaks";

/// The header by which a process says that it is [`Presence::Leaving`].
pub const LEAVING: &str = "berth-edge-leaving";

/// The header by which an edge says what else it keeps, in words with commas between: [`KEEPS_ALLOW`].
pub const KEEPS: &str = "berth-edge-keeps";
/// It serves a tenant with a list of networks to these alone. One that does not say so is told such a tenant is suspended.
pub const KEEPS_ALLOW: &str = "allow";

/// The header by which an edge says, with any value, that it takes [`EdgeEvent::Challenges`].
pub const CHALLENGES: &str = "berth-edge-challenges";

/// The header of an answer to a long poll: what the next one repeats, so that nothing is said twice.
pub const POLL: &str = "berth-edge-poll";

/// The header by which an edge says, with any value, that it reached this control plane without TLS at an address that is
/// not private. Control sees the address of whoever is between.
pub const IN_THE_OPEN: &str = "berth-edge-in-the-open";

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one at a time is made and read; no collection of them exists")]
pub enum EdgeEvent {
    /// Routes that changed, oldest first. `full`: these are all there are; whatever else the edge has is gone.
    Routes { full: bool, revision: Revision, routes: Vec<TenantRoute> },
    /// Sent when nothing happened for a while, so that a dead connection is noticed.
    Ping { revision: Revision },
    /// Sent first, and again when it changed.
    Settings { settings: EdgeSettings },
    /// Certificates that changed. `full`: these are all there are. Of two with one name the later version has it.
    Certificates { full: bool, certificates: Vec<EdgeCertificate>, gone: Vec<CertificateId> },
    /// What is to be answered to those who want a host proved: all there is. Acknowledged by [`EdgeAck::challenges`].
    Challenges { version: u64, challenges: Vec<EdgeChallenge> },
}

/// What an edge answers for a host, whether it is routed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum EdgeChallenge {
    /// `GET` of this path below `/.well-known/`.
    Http { host: Hostname, path: String, body: String },
    /// A handshake that asks for `acme-tls/1` alone. Only edges that end TLS are told.
    Tls { host: Hostname, chain_pem: String, key_pem: Hidden },
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCertificate {
    pub id: CertificateId,
    /// Rises with every change of any certificate.
    pub version: u64,
    /// Host names, `*.example.com` for any one below.
    pub names: Vec<String>,
    /// The certificate itself first.
    pub chain_pem: String,
    pub key_pem: Hidden,
    /// Seconds since 1970. Of two with one name, one that is good now is before one that is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
}

/// From when on a certificate is good, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Good {
    pub from_s: i64,
    pub until_s: i64,
}

/// What is the same for all tenants: a change of it touches no route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeSettings {
    /// Of the services that take requests; one that is not named has what is usual.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, ServiceSettings>,
    /// Signs the cookies of sticky sessions, the same at every edge. Empty: nobody gets one.
    #[serde(default)]
    pub cookie_key: Hidden,
    /// This edge is to lose its connections over this time: kept ones end after their request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_ms: Option<u32>,
    #[serde(default)]
    pub https: HttpsSettings,
    /// Limits are common to all edges. `None`: each gives the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterSettings>,
    /// Where members in several regions are chosen by nearness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo: Option<GeoSettings>,
    /// Tenants that are served in one region alone, and in which.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub residences: BTreeMap<TenantName, String>,
    /// Put into answers that have none of this name of the application's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// None: answers go as the application gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// Where regions are, in degrees north and east.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GeoSettings {
    pub regions: BTreeMap<String, (f32, f32)>,
}

// Degrees come from a file and are numbers.
impl Eq for GeoSettings {}

/// Where edges keep what they have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// What their keys in Redis begin with, so that stacks can share a server.
    pub stack: StackName,
    /// `host:port`, with commas between several; `rediss://` before the first: over TLS.
    pub redis_address: String,
    /// The address is of Sentinels or of a cluster's nodes.
    pub several: bool,
    /// Which of the Sentinels' masters, where they have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Hidden,
    /// Who vouches for it over TLS; none: whom the edge's system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Edges of the stack file: the limits are divided by them while nobody can be asked who is there.
    pub edges: u32,
}

/// Which answers are compressed for clients that ask for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// Of those that a client likes equally, the first.
    pub ways: Vec<CompressionWay>,
    /// Answers that say they are shorter go as they are.
    pub from_bytes: u64,
    /// Media types, without parameters.
    pub types: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressionWay {
    Zstd,
    Br,
    Gzip,
}

/// What is answered over plain HTTP and over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpsSettings {
    /// Plain requests for a host with a certificate are sent to `https://`.
    #[serde(default)]
    pub redirect: bool,
    /// `Strict-Transport-Security` of answers over TLS that have none of the application's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<String>,
    /// Where clients reach the edges over TLS, where that is not 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// How requests are spread over the members of a service, and how an edge finds out which of them are well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// The same for all services of one cell.
    #[serde(default)]
    pub balance: Balance,
    /// A member's share beside members of other services.
    #[serde(default = "ServiceSettings::usual_weight")]
    pub weight: u32,
    /// What the edge asks each member by itself; none: it believes the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
    /// When a member that fails requests is passed over; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject: Option<Ejection>,
    /// Where its members are, when it is not where their cell is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Of members whose address does not say it.
    #[serde(default)]
    pub speaks: Speaks,
    /// Who vouches for the members' certificates; none: the authorities that the edge's system knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The name in the members' certificates; none: the host of their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Signs what its members are told of a request; none: nothing is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_key: Option<Hidden>,
    /// A member at an address that is neither private nor one of the edge's own host is spoken to over TLS, or not at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls_outside: bool,
}

impl ServiceSettings {
    const fn usual_weight() -> u32 {
        1
    }
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            weight: 1,
            check: None,
            eject: Some(Ejection { failures: 5, for_ms: 10_000 }),
            region: None,
            speaks: Speaks::default(),
            ca_pem: None,
            server_name: None,
            signature_key: None,
            tls_outside: false,
        }
    }
}

/// A request that an edge makes of a member over and over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    pub path: String,
    pub every_ms: u64,
    pub timeout_ms: u64,
    /// So many good answers in a row bring a member back.
    pub rise: u32,
    /// So many bad ones take it out.
    pub fall: u32,
    /// The good answer's status; none: any 2xx.
    pub status: Option<u16>,
}

/// A member that took no connection, or ended a new one without an answer, so many times in a row is passed over for
/// this long, twice as long each further time, as long as there is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    pub failures: u32,
    pub for_ms: u64,
}

/// Text that no log shows.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
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
    /// Hosts by a pattern, for requests that no tenant has by the exact name. An edge of an older version does not see
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<HostPattern>,
    pub state: RouteState,
    /// The cell's members that take requests.
    pub members: Vec<MemberAddress>,
    /// Largest request body in bytes; none: the edge's own bound.
    pub body_bytes: Option<u64>,
    /// Requests by class; a class that is not named is not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<RouteLimit>,
    /// Networks whose clients are served, as `10.0.0.0/8`; none: everybody is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
}

/// How many requests of one class a tenant may make.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouteLimit {
    /// `api`, `upload` and `gps` as shipped.
    pub class: String,
    pub requests: u64,
    /// The requests are meant for this long: 100 a minute are 100 for 60.
    pub per_s: u32,
    /// From then on this entry is not there, also when nobody says so: what was spent comes back with the next period. What
    /// the plan says of the class follows it. An edge of an older version takes the first entry of a class, until it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
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
    /// New requests are answered 503; WebSockets and event streams are closed, spread over this time.
    Draining {
        grace_ms: u32,
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
    /// `host:port`, spoken to as its service says; or `https://host:port`, `h2c://host:port`, `http://host:port`.
    pub address: String,
    /// Gets no new requests; its WebSockets and event streams are closed, spread over this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_ms: Option<u32>,
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
    /// The version of the challenges that it answers; 0: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub challenges: u64,
    #[serde(default, skip_serializing_if = "Presence::is_serving")]
    pub presence: Presence,
}

/// How long an edge's process is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    #[default]
    Serving,
    /// Another process of the same name takes new connections; this one serves those it has, and goes.
    Leaving,
    /// It has gone: nobody waits for it any more.
    Gone,
}

impl Presence {
    pub fn is_serving(&self) -> bool {
        *self == Self::Serving
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
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

/// What an edge counted for tenants, in `POST /v1/edges/{name}/meters`: each figure since that process began, so that
/// saying it twice counts once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeMeters {
    /// Whose counters these are: a restarted edge counts from 0 under a new one.
    pub instance: EdgeId,
    pub tenants: Vec<TenantMeter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantMeter {
    pub tenant: TenantId,
    pub requests: u64,
    /// Answered with a 5xx.
    pub failed_requests: u64,
    pub limited_requests: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub request_time_us: u64,
}

/// Answer to counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeMetersAnswer {
    /// Tenants for which something was new.
    pub counted: u64,
}
