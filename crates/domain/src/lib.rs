//! The words of Berth as types: identifiers, names, counters, states, plans and money.
//!
//! Pure: no I/O, no async, no clock, no randomness. What needs a moment or a random number is given one.
//! Every other crate may know this one; this one knows none of them.

mod artifact;
mod counter;
mod host;
mod id;
mod money;
mod name;
mod network;
mod plan;
mod sign;
mod state;
mod version;

pub use artifact::{Artifact, BadArtifact, Digest};
pub use counter::{Generation, Revision, Token};
pub use host::{Overlap, TenantHost};
pub use id::{ApprovalId, CellId, CertificateId, EdgeId, KeyId, MemberId, MoveId, OperationId, TenantId};
pub use money::Cents;
pub use name::{
    BadName, CellName, EdgeName, HostPattern, Hostname, PATTERN_PARTS_MAX, PlanName, ProviderName, ServiceName,
    StackName, TenantKey, TenantName,
};
pub use network::{BadNetwork, Network, is_in_the_open, is_private};
pub use plan::{EdgeLimits, Plan, PlanLimits};
pub use sign::{Signature, Signed, Signer};
pub use state::{
    ApprovalState, BadState, Balance, CellClass, CellState, HostProof, IllegalTransition, MemberRole, MemberState,
    Mode, MovePhase, OperationState, OrderState, OrderTrouble, RollCellState, RollState, ServiceRole, Speaks,
    TenantEvent, TenantState, UsagePeriod, WayBackState,
};
pub use version::{BadStep, BadVersion, Version, VersionStep};
