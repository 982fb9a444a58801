//! Cells for a tenant whose plan is settled: those that keep every constraint, the best first, and what one that somebody
//! named or would make lacks. What creating and moving a tenant ask.
//!
//! A profile that names a cell is that of a tenant which leaves it: what that cell breaks may stay broken, no worse, or nobody
//! whose needs no place meets could leave a cell that dies.
//!
//! Never chooses a class or a plan: that is `decide`.

use crate::{
    PlanFacts,
    decide::{Need, Refusal, breaks, worst_latency},
    engine::{CellFacts, Engine, Kind},
    profile::{BadProfile, Profile},
};
use berth_domain::CellClass;

impl Engine {
    /// Cells of this class that take tenants, have room and keep every constraint of the profile, the best first: by
    /// price and distance, of equal ones the emptiest, of those the first by name. A plan that is not on sale any more
    /// promises nothing of a cell. Those that are only no worse than the cell it leaves come last. None where the policy does
    /// not allow the class.
    pub fn cells_for(&self, class: CellClass, plan: &str, profile: &Profile) -> Result<Vec<&str>, Vec<BadProfile>> {
        let need = self.need(profile)?;
        if self.class_refused(class, &need).is_some() {
            return Ok(Vec::new());
        }
        let plan = self.plan_or_none(plan);
        let (least_plan, least) = self.kept(&plan, &need);
        let mut found: Vec<(bool, i64, u64, &str)> = Vec::new();
        for kind in self.kinds.iter().filter(|kind| kind.offer.is_none() && kind.place.class == class) {
            if breaks(kind, &least_plan, &least).is_some() {
                continue;
            }
            let short = breaks(kind, &plan, &need).is_some();
            let worth = self.worth(kind, &need);
            found.extend(kind.open.iter().map(|at| {
                let cell = &self.cells[*at];
                let fill = u64::from(cell.tenants) * 1_000_000 / u64::from(cell.max_tenants.max(1));
                (short, worth, fill, cell.name.as_str())
            }));
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(.., name)| name).collect())
    }

    /// What a cell lacks of what the tenant needs, in the words of a decision's refusals; `None`: it keeps every constraint.
    /// Its room is another question.
    pub fn lacks(&self, cell: &str, plan: &str, profile: &Profile) -> Result<Option<Refusal>, Vec<BadProfile>> {
        let need = self.need(profile)?;
        let Some(at) = self.by_name.get(cell) else { return Ok(None) };
        let refused = self.refusal(&self.kinds[self.kind_of_cell[*at]], plan, &need);
        Ok(refused.map(|refused| Refusal { cell: Some(cell.to_owned()), class: None, ..refused }))
    }

    /// The same of a cell that would have to be made.
    pub fn new_lacks(
        &self,
        cell: &CellFacts,
        plan: &str,
        profile: &Profile,
    ) -> Result<Option<Refusal>, Vec<BadProfile>> {
        let need = self.need(profile)?;
        let kind = self.kind(self.place_of_cell(cell, &self.catalogue.places()), None, cell.size);
        Ok(self.refusal(&kind, plan, &need))
    }

    /// What refuses a class whatever the place, by the policy.
    pub fn class_lacks(&self, class: CellClass, profile: &Profile) -> Result<Option<Refusal>, Vec<BadProfile>> {
        Ok(self.class_refused(class, &self.need(profile)?))
    }

    fn refusal(&self, kind: &Kind, plan: &str, need: &Need) -> Option<Refusal> {
        let class = kind.place.class;
        if let Some(refused) = self.class_refused(class, need) {
            return Some(refused);
        }
        let plan = self.plan_or_none(plan);
        let (least_plan, least) = self.kept(&plan, need);
        let broken = breaks(kind, &least_plan, &least)?;
        let (wanted, has) = self.compared(&broken, kind, &plan, need);
        Some(Refusal {
            cell: None,
            class: Some(class.to_string()),
            constraint: broken.as_str().to_owned(),
            wanted,
            has,
        })
    }

    fn plan_or_none(&self, plan: &str) -> PlanFacts {
        self.plans.iter().find(|known| known.name == plan).cloned().unwrap_or_default()
    }

    /// By the policy, unless it refuses the class of the cell that the tenant leaves too and this one is shared no more.
    fn class_refused(&self, class: CellClass, need: &Need) -> Option<Refusal> {
        let refused = self.policy_refusal(class, need)?;
        let here = need.cell.map(|at| self.cells[at].class);
        let as_bad = here.is_some_and(|here| class >= here && self.policy_refusal(here, need).is_some());
        (!as_bad).then_some(refused)
    }

    /// As much of what the tenant needs as the cell that it leaves keeps; all of it where it leaves none.
    fn kept(&self, plan: &PlanFacts, need: &Need) -> (PlanFacts, Need) {
        let (mut plan, mut least) = (plan.clone(), need.clone());
        let Some(kind) = need.cell.map(|at| &self.kinds[self.kind_of_cell[at]]) else { return (plan, least) };
        let here = &kind.place;
        // More than what is there is not asked for; what nobody knows of is not kept.
        let no_more = |wanted: Option<u64>, has: Option<u64>| wanted.and_then(|wanted| has.map(|has| wanted.min(has)));
        least.compliance &= here.compliance;
        least.residency = need.residency.filter(|at| kind.residency & (1 << at) != 0);
        least.region = need.region.clone().filter(|region| here.sites.first() == Some(region));
        least.regions = need.regions.min(here.regions);
        let waits = worst_latency(kind, need).map(u64::from);
        least.latency_ms = need.latency_ms.and_then(|wanted| waits.map(|has| wanted.max(has)));
        least.throughput_per_s = no_more(need.throughput_per_s, here.promises.throughput_per_s);
        least.users = no_more(need.users, here.promises.users);
        least.upload_bytes = no_more(need.upload_bytes, here.promises.upload_bytes);
        // Only a cell of one's own is promised a size.
        if here.class == CellClass::Dedicated {
            let size = |wanted: u64, has: Option<u64>| has.map_or(wanted, |has| wanted.min(has));
            plan.cpu_millis = size(plan.cpu_millis, kind.size.cpu_millis);
            plan.memory_mib = size(plan.memory_mib, kind.size.memory_mib);
            plan.disk_gib = size(plan.disk_gib, kind.size.disk_gib);
        }
        (plan, least)
    }
}
