//! What leaves a place for a tenant's users, as part of what the tenant costs there.
//!
//! The amount is the edges' own meter, as a quantity: `sent_bytes_per_month`, without room and growth: nobody pays for what
//! does not leave. Where nobody knows it, or what a provider asks
//! for it, nothing is added: unknown is not a price.

use crate::{
    decide::Need,
    engine::{Engine, Kind},
};
use berth_domain::Cents;

/// The quantity that counts what leaves.
pub const TRAFFIC: &str = "sent_bytes_per_month";

impl Engine {
    /// What one tenant costs a month in a place of this kind: its part of the place, and its traffic.
    pub(crate) fn price(&self, kind: &Kind, need: &Need) -> Option<Cents> {
        Some(kind.cost_cents? + self.traffic(kind, need).unwrap_or_default())
    }

    /// What the traffic of a tenant costs there; begun units are paid whole.
    pub(crate) fn traffic(&self, kind: &Kind, need: &Need) -> Option<Cents> {
        let egress = kind.place.egress.as_ref()?;
        let units = need.sent_bytes?.min(1 << 52).div_ceil(egress.gib << 30);
        self.catalogue.rates.usd_cents(egress.price.times(units), &egress.currency)
    }
}
