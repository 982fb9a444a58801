//! Plans: a price and the limits that come with it.

use crate::{CellClass, Cents, PlanName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One plan of the stack file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub name: PlanName,
    /// Per month.
    pub price_cents: Cents,
    /// Where a tenant of this plan belongs unless something else decides.
    pub class: CellClass,
    pub limits: PlanLimits,
}

/// What a plan promises at most. A limit that is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLimits {
    /// Requests per minute and class (`api`, `upload`, `gps` as shipped); handed to the edge.
    pub requests_per_minute: BTreeMap<String, u64>,
    /// Largest request body in bytes; handed to the edge.
    pub body_bytes: Option<u64>,
    /// How long the application keeps the tenant's history, in days.
    pub retention_days: Option<u32>,
    /// Quantities the application enforces itself (`vehicles`, `users`, …); handed out as entitlements.
    pub quantities: BTreeMap<String, u64>,
}
