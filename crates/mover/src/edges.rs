//! What the mover asks of the edges of one tenant, and what they answer. Never says how they are reached.

use async_trait::async_trait;
use berth_domain::{EdgeName, Generation, Token};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why edges are not ready, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeTrouble {
    #[error("edge `{0}` is not alive")]
    NotAlive(EdgeName),
    #[error("edge `{edge}` has {in_flight} requests in flight that do not end")]
    Busy { edge: EdgeName, in_flight: u32 },
    #[error("edge `{0}` did not answer in time")]
    Late(EdgeName),
    #[error("it is not known which edges there are")]
    Unknown,
}

/// What the edges saw of a hold, the longest of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldFigures {
    /// From the first parked request to the last one sent on, by the edge's clock.
    pub pause_ms: f64,
    pub held_requests: u64,
    /// Parked requests that were answered 503 because the hold lasted too long.
    pub expired_requests: u64,
}

/// The edges of one tenant, as the mover sees them. What they are told they read from the control row; see
/// [`crate::Ownership`].
#[async_trait]
pub trait Edges: Send + Sync {
    /// Before the pause: is every registered edge alive?
    async fn all_alive(&self) -> Result<(), EdgeTrouble>;
    /// Waits until every registered edge has the hold of `token` in force.
    async fn wait_held(&self, token: Token, limit: Duration) -> Result<(), EdgeTrouble>;
    /// Waits until every live edge has the route of `generation`; returns who was late.
    async fn wait_routed(&self, generation: Generation, limit: Duration) -> Vec<EdgeName>;
    /// What the edges reported of the hold of `token` after its end; none if nobody did within `limit`.
    async fn hold_figures(&self, token: Token, limit: Duration) -> Option<HoldFigures>;
}
