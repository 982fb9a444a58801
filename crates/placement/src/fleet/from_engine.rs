//! A fleet out of an engine's cells and offers and the tenants that there are. Never plans it.

use super::{Fleet, FleetCell, FleetOffer, FleetTenant, Group};
use crate::{
    decide::{bit, breaks},
    engine::Engine,
    profile::{BadProfile, Profile},
};
use berth_domain::Cents;
use std::collections::HashMap;

/// More than any move saves, and small enough that a fleet of them can be summed.
const UNKNOWN: i64 = 1 << 40;

/// A tenant as a fleet plan asks about it. It keeps its plan: what it pays is its own decision.
#[derive(Clone, Debug)]
pub struct PlacedTenant {
    pub name: String,
    pub plan: String,
    /// With the cell that it lives in.
    pub profile: Profile,
}

/// What a fleet plan calls an offer at one of its places.
pub fn offer_name(offer: &str, sites: &[String]) -> String {
    format!("{offer}-{}", sites.join("-"))
}

impl Engine {
    /// The fleet, and what each of its groups pays a month. The first bad profile, with its tenant, is the error.
    pub fn fleet(
        &self,
        tenants: &[PlacedTenant],
        move_worth_cents: Cents,
    ) -> Result<(Fleet, Vec<Cents>), (String, Vec<BadProfile>)> {
        let mut fleet = Fleet { move_worth_cents, ..Fleet::default() };
        // Rates that are too old are none: a price that only lacks one is not free, and nothing is saved by guessing it.
        let unpriced = self.kind_of_cell.iter().any(|kind| self.kinds[*kind].place.price_cents.is_none());
        if self.catalogue.rates.usd.is_empty() && unpriced {
            fleet.move_worth_cents = Cents::new(UNKNOWN);
        }
        for (at, cell) in self.cells.iter().enumerate() {
            let kind = self.kind_of_cell[at];
            fleet.cells.push(FleetCell {
                name: cell.name.clone(),
                kind: kind as u32,
                // Where no price is known nothing is saved by leaving.
                price_cents: self.kinds[kind].place.price_cents.unwrap_or_default(),
                places: cell.max_tenants,
                takes_tenants: cell.takes_tenants,
            });
        }
        for (kind, offered) in self.kinds.iter().enumerate() {
            let (Some(offer), Some(price)) = (&offered.offer, offered.place.price_cents) else { continue };
            fleet.offers.push(FleetOffer {
                name: offer_name(offer, &offered.place.sites),
                kind: kind as u32,
                price_cents: price,
                places: offered.place.places,
            });
        }
        let mut groups: HashMap<(Vec<u32>, usize), u32> = HashMap::new();
        let mut prices = Vec::new();
        for tenant in tenants {
            let need = self.need(&tenant.profile).map_err(|faults| (tenant.name.clone(), faults))?;
            let plan = self.plans.iter().position(|plan| plan.name == tenant.plan);
            let allowed = self.allowed(&need);
            let fits = |kind: &usize| {
                let Some(plan) = plan else { return false };
                let place = &self.kinds[*kind].place;
                self.plans[plan].class == Some(place.class)
                    && allowed & bit(place.class) != 0
                    && breaks(&self.kinds[*kind], &self.plans[plan], &need).is_none()
            };
            let kinds: Vec<u32> = (0..self.kinds.len()).filter(fits).map(|kind| kind as u32).collect();
            let key = (kinds, plan.unwrap_or(usize::MAX));
            let group = *groups.entry(key).or_insert_with_key(|(kinds, plan)| {
                fleet.groups.push(Group { kinds: kinds.clone() });
                prices.push(self.plans.get(*plan).map(|plan| plan.price_cents).unwrap_or_default());
                fleet.groups.len() as u32 - 1
            });
            fleet.tenants.push(FleetTenant {
                name: tenant.name.clone(),
                group,
                cell: need.cell.map(|cell| cell as u32),
                weight: 1,
            });
        }
        Ok((fleet, prices))
    }
}
