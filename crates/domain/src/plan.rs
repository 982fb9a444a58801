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

impl PlanLimits {
    /// These, and where the tenant has its own the tenant's.
    #[must_use]
    pub fn with(mut self, own: &EdgeLimits) -> Self {
        self.requests_per_minute.extend(own.requests_per_minute.clone());
        self.body_bytes = own.body_bytes.or(self.body_bytes);
        self
    }

    /// What of them edges keep.
    pub fn at_edges(&self) -> EdgeLimits {
        EdgeLimits { requests_per_minute: self.requests_per_minute.clone(), body_bytes: self.body_bytes }
    }
}

/// Limits that edges keep: a plan's, or those that one tenant has instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeLimits {
    /// By class; 0 lets none through.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests_per_minute: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
}

impl EdgeLimits {
    pub fn is_empty(&self) -> bool {
        self.requests_per_minute.is_empty() && self.body_bytes.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::{EdgeLimits, PlanLimits};
    use std::collections::BTreeMap;

    #[test]
    fn a_tenants_own_limit_stands_before_its_plans_and_leaves_the_others() {
        let by_class =
            |of: &[(&str, u64)]| of.iter().map(|(class, n)| ((*class).to_owned(), *n)).collect::<BTreeMap<_, _>>();
        let plan = PlanLimits {
            requests_per_minute: by_class(&[("api", 100), ("upload", 10)]),
            body_bytes: Some(1000),
            retention_days: Some(7),
            quantities: by_class(&[("users", 3)]),
        };
        let own = EdgeLimits { requests_per_minute: by_class(&[("api", 0), ("gps", 5)]), body_bytes: None };
        let both = plan.clone().with(&own);
        assert_eq!(both.requests_per_minute, by_class(&[("api", 0), ("gps", 5), ("upload", 10)]));
        assert_eq!((both.body_bytes, both.retention_days, &both.quantities), (Some(1000), Some(7), &plan.quantities));
        assert_eq!(plan.clone().with(&EdgeLimits { body_bytes: Some(5), ..EdgeLimits::default() }).body_bytes, Some(5));
        assert_eq!(plan.clone().with(&EdgeLimits::default()), plan);
    }
}
