//! States and the transitions between them: one table each, and nothing outside it happens.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Text from a database or a request that names no state. Our own writes never produce one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct BadState {
    pub what: &'static str,
    pub text: String,
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }
        impl $name {
            /// Every state, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl FromStr for $name {
            type Err = BadState;
            fn from_str(text: &str) -> Result<Self, BadState> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(BadState { what: $what, text: text.to_owned() }),
                }
            }
        }
    )+};
}

#[expect(clippy::derivable_impls, reason = "the enum is written by a macro that knows no default")]
impl Default for Balance {
    fn default() -> Self {
        Self::RoundRobin
    }
}

#[expect(clippy::derivable_impls, reason = "the enum is written by a macro that knows no default")]
impl Default for Speaks {
    fn default() -> Self {
        Self::Http
    }
}

states! {
    /// Where a tenant is in its life.
    TenantState, "tenant state" {
        Provisioning = "provisioning",
        Active = "active",
        Moving = "moving",
        Suspended = "suspended",
        Deleting = "deleting",
        Deleted = "deleted",
        /// Provisioning did not come to its end; what it made was undone.
        Failed = "failed",
    }
    /// Where a cell is in its life.
    CellState, "cell state" {
        Creating = "creating",
        Ready = "ready",
        /// Takes no new tenants.
        Draining = "draining",
        Removing = "removing",
        Removed = "removed",
        /// Creating did not come to its end; what it made was undone.
        Failed = "failed",
    }
    /// How many tenants a cell is for. *Pool* is shared in a region that costs more.
    CellClass, "cell class" {
        Shared = "shared",
        Pool = "pool",
        Dedicated = "dedicated",
    }
    /// How a tenant is isolated; told to the application as `DEPLOYMENT_MODE`.
    Mode, "mode" {
        MultiTenant = "multi_tenant",
        SingleTenant = "single_tenant",
    }
    /// What a service does in a cell. Only web members receive requests.
    ServiceRole, "service role" {
        Web = "web",
        Worker = "worker",
        Cron = "cron",
    }
    /// How an edge chooses among the members that take a cell's requests.
    Balance, "way of balancing" {
        RoundRobin = "round_robin",
        /// By turns, a service of weight 3 three times as often as one of weight 1.
        Weighted = "weighted",
        LeastConnections = "least_connections",
        /// The less busy of two that are drawn.
        TwoChoices = "two_choices",
        /// The same client's address, the same member.
        ClientAddress = "client_address",
        /// The member that the client's signed cookie names.
        Sticky = "sticky",
    }
    /// What a member is spoken to in, where its address does not say it.
    Speaks, "protocol of members" {
        Http = "http",
        /// HTTP/2 from the first byte, without TLS.
        H2c = "h2c",
        /// TLS, and in it HTTP/2 or HTTP/1.1 as the member likes.
        Https = "https",
    }
    /// Why a host counts as its tenant's.
    HostProof, "proof of a host" {
        /// Somebody with a key to all of Berth said so.
        Given = "given",
        /// It is at or below one of the stack's own names.
        Own = "own",
        /// A TXT record of its domain.
        Txt = "txt",
        /// A page that it was asked for.
        Http = "http",
    }
    /// Where a host's certificate is that Berth gets by itself.
    OrderState, "state of a certificate's order" {
        /// It is its turn soon.
        Waiting = "waiting",
        /// The authority has the order.
        Ordered = "ordered",
        /// There is a certificate, and it is not time for the next one.
        Served = "served",
        /// The last try failed; there is a moment of the next one.
        Failed = "failed",
    }
    /// Why a certificate could not be had.
    OrderTrouble, "trouble with a certificate" {
        /// The authority gives none for this name, or the name leads nowhere.
        WrongName = "wrong_name",
        /// The authority asked the host and did not hear what it should.
        ChallengeFailed = "challenge_failed",
        /// Too many were asked for.
        RateLimited = "rate_limited",
        /// The authority wants none of this account or order.
        Refused = "refused",
        AuthoritySilent = "authority_silent",
        /// An edge has not taken what it is to answer.
        EdgesSilent = "edges_silent",
        /// What came was none for this host and key.
        BadCertificate = "bad_certificate",
    }
    /// Which part a member plays among its service's copies.
    MemberRole, "member role" {
        Active = "active",
        Standby = "standby",
        Replica = "replica",
    }
    /// What was last seen of a member.
    MemberState, "member state" {
        /// Nobody has looked yet, or the last look had no answer.
        Unknown = "unknown",
        Starting = "starting",
        Healthy = "healthy",
        Unhealthy = "unhealthy",
        Stopped = "stopped",
    }
    /// The phase of a tenant's control row: `idle → running → committed → idle`, or `running → aborting → idle`.
    MovePhase, "move phase" {
        Idle = "idle",
        Running = "running",
        Committed = "committed",
        Aborting = "aborting",
    }
    /// Whether a move can still be undone, and what is left to clear away when not.
    WayBackState, "state of a way back" {
        /// The old cell is kept up to date.
        Open = "open",
        Undoing = "undoing",
        /// The tenant is back where it was.
        Undone = "undone",
        /// It cannot be undone any more; the old cell's rows are going.
        Closing = "closing",
        Closed = "closed",
    }
    /// How far a release is on its way over the cells.
    RollState, "state of a roll" {
        Rolling = "rolling",
        Done = "done",
        /// A cell failed, or somebody stopped it: cells that had not begun keep what they run.
        Stopped = "stopped",
    }
    /// How far one cell of it is.
    RollCellState, "state of a cell in a roll" {
        Waiting = "waiting",
        Rolling = "rolling",
        Done = "done",
        /// It runs what it ran before.
        Failed = "failed",
    }
    /// Over how long usage is added up, in UTC.
    UsagePeriod, "usage period" {
        Hour = "hour",
        Day = "day",
        Month = "month",
    }
    /// A proposal to put a tenant elsewhere, and what became of it.
    ApprovalState, "state of an approval" {
        /// Waits for a person.
        Open = "open",
        /// Agreed to, and being carried out.
        Approved = "approved",
        /// The plan is changed and the move started.
        CarriedOut = "carried_out",
        Rejected = "rejected",
        /// Nobody agreed in time.
        Expired = "expired",
        /// A newer judgement says something else.
        Superseded = "superseded",
        /// Agreed to, and no longer possible.
        Failed = "failed",
    }
    /// A workflow as its caller sees it.
    OperationState, "operation state" {
        /// Waits for a worker or for its next try.
        Queued = "queued",
        Running = "running",
        /// A step failed for good before the point of no return; what was done is being undone.
        Undoing = "undoing",
        Succeeded = "succeeded",
        /// Undone; the world is as before.
        Failed = "failed",
        /// Neither forward nor back works: a person has to look (`berth operation retry` or `abandon`).
        Stuck = "stuck",
        /// Given up by a person.
        Abandoned = "abandoned",
    }
}

impl OperationState {
    /// Nothing more will happen by itself.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Abandoned)
    }
}

impl CellClass {
    pub const fn mode(self) -> Mode {
        match self {
            Self::Shared | Self::Pool => Mode::MultiTenant,
            Self::Dedicated => Mode::SingleTenant,
        }
    }
}

/// What happens to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantEvent {
    RoutePublished,
    ProvisioningUndone,
    MoveStarted,
    CutOver,
    MoveAbandoned,
    Suspend,
    Resume,
    DeleteStarted,
    DeleteFinished,
}

impl TenantEvent {
    pub const ALL: &'static [Self] = &[
        Self::RoutePublished,
        Self::ProvisioningUndone,
        Self::MoveStarted,
        Self::CutOver,
        Self::MoveAbandoned,
        Self::Suspend,
        Self::Resume,
        Self::DeleteStarted,
        Self::DeleteFinished,
    ];
}

/// An event that means nothing in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant that is {from} cannot take {event:?}")]
pub struct IllegalTransition {
    pub from: TenantState,
    pub event: TenantEvent,
}

impl TenantState {
    pub fn after(self, event: TenantEvent) -> Result<Self, IllegalTransition> {
        use {TenantEvent as E, TenantState as S};
        match (self, event) {
            (S::Provisioning, E::RoutePublished)
            | (S::Moving, E::CutOver | E::MoveAbandoned)
            | (S::Suspended, E::Resume) => Ok(S::Active),
            (S::Provisioning, E::ProvisioningUndone) => Ok(S::Failed),
            (S::Active, E::MoveStarted) => Ok(S::Moving),
            (S::Active, E::Suspend) => Ok(S::Suspended),
            (S::Active | S::Suspended | S::Failed, E::DeleteStarted) => Ok(S::Deleting),
            (S::Deleting, E::DeleteFinished) => Ok(S::Deleted),
            (from, event) => Err(IllegalTransition { from, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TenantEvent, TenantState};
    use std::fmt::Write as _;

    #[test]
    fn the_whole_transition_table() {
        let mut table = String::new();
        for from in TenantState::ALL {
            for event in TenantEvent::ALL {
                if let Ok(to) = from.after(*event) {
                    writeln!(table, "{from} + {event:?} -> {to}").unwrap();
                }
            }
        }
        assert_eq!(
            table,
            "provisioning + RoutePublished -> active\n\
             provisioning + ProvisioningUndone -> failed\n\
             active + MoveStarted -> moving\n\
             active + Suspend -> suspended\n\
             active + DeleteStarted -> deleting\n\
             moving + CutOver -> active\n\
             moving + MoveAbandoned -> active\n\
             suspended + Resume -> active\n\
             suspended + DeleteStarted -> deleting\n\
             deleting + DeleteFinished -> deleted\n\
             failed + DeleteStarted -> deleting\n"
        );
    }

    #[test]
    fn every_state_survives_its_text_form() {
        for state in TenantState::ALL {
            assert_eq!(state.as_str().parse::<TenantState>().as_ref(), Ok(state));
        }
    }
}
