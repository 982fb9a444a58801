//! Catalogue, plans, cells and policy joined once into numbers and bits, so that a decision is a walk over them.
//!
//! Cells that differ in nothing but name and fill are one *kind* here: a stack of a thousand cells has a handful.

use crate::{
    catalogue::{Catalogue, Place, Promises, Trust},
    policy::{ALONE, Policy, PolicyFault},
};
use berth_domain::{CellClass, Cents};
use jiff::civil::Date;
use std::collections::{BTreeMap, HashMap};

/// A plan, as far as placing asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanFacts {
    pub name: String,
    pub price_cents: Cents,
    pub class: Option<CellClass>,
    pub quantities: BTreeMap<String, u64>,
    pub body_bytes: Option<u64>,
    /// What its tenants are promised of a cell of their own.
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
}

/// A cell that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellFacts {
    pub name: String,
    pub class: CellClass,
    /// As the catalogue names it.
    pub provider: String,
    /// As the provider names them, the home of the Postgres first.
    pub sites: Vec<String>,
    pub tenants: u32,
    pub max_tenants: u32,
    /// Ready, and not being drained.
    pub takes_tenants: bool,
    pub price_cents: Option<Cents>,
    /// Instead of what an offer of this provider and class promises.
    pub promises: Option<Promises>,
    /// Instead of what anybody claims.
    pub measured: Measured,
    /// As far as somebody said.
    pub size: Size,
}

/// How large a cell is. What nobody said of a cell that exists is not held against a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub cpu_millis: Option<u64>,
    pub memory_mib: Option<u64>,
    pub disk_gib: Option<u64>,
}

impl Size {
    /// Whether it is known to be less than what a plan promises.
    pub(crate) fn is_short_of(&self, plan: &PlanFacts) -> bool {
        let short = |has: Option<u64>, wanted: u64| has.is_some_and(|has| has < wanted);
        short(self.cpu_millis, plan.cpu_millis)
            || short(self.memory_mib, plan.memory_mib)
            || short(self.disk_gib, plan.disk_gib)
    }
}

/// What was measured in a cell, as far as a decision asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What a request takes there, 95th percentile, to whoever is near.
    pub near_ms: Option<u32>,
    pub throughput_per_s: Option<u64>,
}

impl Measured {
    /// As it was measured, to two digits and never better than it was: more digits would make each cell a kind of its own.
    pub fn of(near_ms: Option<f64>, throughput_per_s: Option<f64>) -> Self {
        let step = |value: f64| 10_f64.powf((value.max(1.0).log10().floor() - 1.0).max(0.0));
        Self {
            near_ms: near_ms.map(|ms| (ms.max(1.0) / step(ms)).ceil() * step(ms)).map(|ms| ms as u32),
            throughput_per_s: throughput_per_s.map(|n| (n / step(n)).floor() * step(n)).map(|n| n as u64),
        }
    }
}

/// Places that no constraint can tell apart.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub place: Place,
    pub residency: u64,
    /// The offer that a new cell of this kind is made from; `None` for cells that exist.
    pub offer: Option<String>,
    /// Indexes into [`Engine::cells`]: those that take tenants and have room, the emptiest first.
    pub open: Vec<usize>,
    /// Of all cells of this kind: for refusals.
    pub cells: Vec<usize>,
    /// What one tenant of it costs at the planned fill.
    pub cost_cents: Option<Cents>,
    pub size: Size,
}

pub struct Engine {
    pub(crate) catalogue: Catalogue,
    pub(crate) policy: Policy,
    /// Cheapest first.
    pub(crate) plans: Vec<PlanFacts>,
    pub(crate) cells: Vec<CellFacts>,
    pub(crate) by_name: HashMap<String, usize>,
    pub(crate) kind_of_cell: Vec<usize>,
    /// In the order of preference where all else is equal.
    pub(crate) kinds: Vec<Kind>,
    /// What plans limit, in order.
    pub(crate) quantities: Vec<String>,
    /// For each plan: its limit of each quantity, and of regions.
    pub(crate) limits: Vec<Vec<Option<u64>>>,
    pub(crate) residencies: Vec<String>,
    /// Standards under which nobody shares a cell, as bits.
    pub(crate) alone: u64,
    pub(crate) assumptions: Vec<String>,
}

/// The quantity that counts regions, as the guides' plans have it.
pub(crate) const REGIONS: &str = "regions";

impl Engine {
    /// `providers`: those that new cells may be made at, as the catalogue names them; `None` is all of them.
    pub fn new(
        catalogue: Catalogue,
        mut plans: Vec<PlanFacts>,
        cells: Vec<CellFacts>,
        policy: Policy,
        providers: Option<&[String]>,
        today: Date,
    ) -> Result<Self, PolicyFault> {
        policy.check()?;
        for rule in &policy.rules {
            if let Some(word) = rule.when.compliance.iter().find(|word| catalogue.compliance_bit(word).is_none()) {
                return Err(PolicyFault::Standard { rule: rule.name.clone(), found: word.clone() });
            }
        }
        plans.sort_by(|a, b| (a.price_cents, &a.name).cmp(&(b.price_cents, &b.name)));
        let mut quantities: Vec<String> = plans.iter().flat_map(|plan| plan.quantities.keys().cloned()).collect();
        quantities.sort_unstable();
        quantities.dedup();
        let limits =
            plans.iter().map(|plan| quantities.iter().map(|name| plan.quantities.get(name).copied()).collect());
        let residencies: Vec<String> = catalogue.residencies().into_iter().map(str::to_owned).collect();
        let mut engine = Self {
            limits: limits.collect(),
            alone: ALONE.iter().filter_map(|word| catalogue.compliance_bit(word)).fold(0, |bits, bit| bits | bit),
            assumptions: catalogue.assumptions(today),
            by_name: cells.iter().enumerate().map(|(at, cell)| (cell.name.clone(), at)).collect(),
            kind_of_cell: Vec::with_capacity(cells.len()),
            kinds: Vec::new(),
            catalogue,
            policy,
            plans,
            cells,
            quantities,
            residencies,
        };
        engine.join(providers);
        Ok(engine)
    }

    fn join(&mut self, providers: Option<&[String]>) {
        let offers = self.catalogue.places();
        let mut kinds: Vec<Kind> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for at in 0..self.cells.len() {
            let place = self.place_of_cell(&self.cells[at], &offers);
            let size = self.cells[at].size;
            let key = format!("{place:?}{size:?}");
            let kind = *known.entry(key).or_insert_with(|| {
                kinds.push(self.kind(place, None, size));
                kinds.len() - 1
            });
            self.kind_of_cell.push(kind);
            kinds[kind].cells.push(at);
            if self.cells[at].takes_tenants && self.cells[at].tenants < self.cells[at].max_tenants {
                kinds[kind].open.push(at);
            }
        }
        for kind in &mut kinds {
            let fill = |at: &usize| {
                let cell = &self.cells[*at];
                (u64::from(cell.tenants) * 1_000_000 / u64::from(cell.max_tenants.max(1)), cell.name.clone())
            };
            kind.open.sort_by_key(fill);
        }
        let wanted = |place: &Place| providers.is_none_or(|providers| providers.contains(&place.provider));
        for (name, place) in offers.iter().filter(|(_, place)| wanted(place)) {
            let size = Size {
                cpu_millis: Some(place.cpu_millis),
                memory_mib: Some(place.memory_mib),
                disk_gib: Some(place.disk_gib),
            };
            kinds.push(self.kind(place.clone(), Some(name.clone()), size));
        }
        self.kinds = kinds;
    }

    pub(crate) fn kind(&self, place: Place, offer: Option<String>, size: Size) -> Kind {
        let bit = |word: &String| self.residencies.iter().position(|known| known == word).filter(|at| *at < 64);
        let residency = place.residency.iter().filter_map(bit).fold(0, |bits, at| bits | 1 << at);
        let cost_cents = place.price_cents.map(|price| share(price, place.places, self.policy.planned_fill_percent));
        Kind { place, residency, offer, open: Vec::new(), cells: Vec::new(), cost_cents, size }
    }

    /// What is not known of a cell is taken from the offer of its provider, class and regions, if there is one.
    pub(crate) fn place_of_cell(&self, cell: &CellFacts, offers: &[(String, Place)]) -> Place {
        let alike = |(_, place): &&(String, Place)| {
            place.provider == cell.provider && place.class == cell.class && place.sites == cell.sites
        };
        let mut place = offers.iter().find(alike).map_or_else(
            || self.catalogue.place_at(cell.class, &cell.provider, &cell.sites),
            |(_, place)| place.clone(),
        );
        place.places = cell.max_tenants.max(1);
        if cell.price_cents.is_some() {
            place.price_cents = cell.price_cents;
        }
        if let Some(promises) = cell.promises {
            place.promises = promises;
            (place.trust, place.throughput_trust) = (Trust::Claimed, Trust::Claimed);
        }
        if cell.measured.throughput_per_s.is_some() {
            place.promises.throughput_per_s = cell.measured.throughput_per_s;
            place.throughput_trust = Trust::Measured;
        }
        if let Some(near_ms) = cell.measured.near_ms {
            place.latency_ms = self.catalogue.latencies(&cell.provider, &cell.sites, Some(near_ms));
        }
        place
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub fn plans(&self) -> &[PlanFacts] {
        &self.plans
    }

    pub fn cells(&self) -> &[CellFacts] {
        &self.cells
    }

    /// A cell's price, its own or that of the offer it is like.
    pub fn cell_price(&self, cell: &str) -> Option<Cents> {
        self.kinds[self.kind_of_cell[*self.by_name.get(cell)?]].place.price_cents
    }

    /// What one tenant in a cell costs a month, at the planned fill.
    pub fn tenant_cost(&self, cell: &str) -> Option<Cents> {
        self.kinds[self.kind_of_cell[*self.by_name.get(cell)?]].cost_cents
    }

    /// How far a cell is from users, and where the figure comes from, by location.
    pub fn cell_latency(&self, cell: &str) -> Vec<(String, u32, Trust)> {
        let Some(at) = self.by_name.get(cell) else { return Vec::new() };
        let figures = &self.kinds[self.kind_of_cell[*at]].place.latency_ms;
        let of = self.catalogue.locations.iter().zip(figures);
        of.filter(|(_, (ms, _))| *ms != u32::MAX).map(|(l, (ms, trust))| (l.name.clone(), *ms, *trust)).collect()
    }
}

/// One tenant's part of a cell that is as full as planned, rounded up: shares that add up to less than the bill lie.
pub(crate) fn share(price: Cents, places: u32, fill_percent: u32) -> Cents {
    if places <= 1 {
        return price;
    }
    let tenants = (u64::from(places) * u64::from(fill_percent) / 100).max(1);
    let cents = price.get().unsigned_abs().div_ceil(tenants);
    Cents::new(i64::try_from(cents).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::Measured;

    #[test]
    fn a_measured_figure_is_never_better_than_it_was() {
        let of = |ms, rows| {
            (Measured::of(Some(ms), None).near_ms.unwrap(), Measured::of(None, Some(rows)).throughput_per_s.unwrap())
        };
        assert_eq!(
            [of(0.02, 0.4), of(9.2, 9.9), of(44.1, 99.0), of(441.0, 1_234.0)],
            [(1, 0), (10, 9), (45, 99), (450, 1_200)]
        );
    }
}
