//! Where a tenant goes that is not served well where it lives: to another place of its plan, or up.
//!
//! The hard constraints are those of any decision; what is added is which cells are no answer and which plan is kept.
//! Never says that a tenant has to leave: whoever asks has measured that.

use crate::{
    decide::{Decision, Refusal},
    engine::Engine,
    profile::{BadProfile, Profile},
};

/// What is left, and what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Leaving<'a> {
    /// Cells that are no answer: the tenant's own, and those where it would be served as badly.
    pub cells: &'a [String],
    /// The tenant's plan: no cheaper one, and no class that is less isolated. One that is not sold any more keeps nothing.
    pub plan: &'a str,
    /// What was measured, for people.
    pub because: &'a str,
}

impl Engine {
    /// The answer without some cells, on the same plan or a dearer one. Each of those cells is among the refused, under
    /// the constraint `service`.
    pub fn decide_elsewhere(
        &self,
        tenant: &str,
        profile: &Profile,
        leaving: &Leaving<'_>,
        seed: u64,
    ) -> Result<Decision, Vec<BadProfile>> {
        let mut need = self.need(profile)?;
        need.left = leaving.cells.iter().filter_map(|name| self.by_name.get(name).copied()).collect();
        need.least_plan = self.plans.iter().position(|plan| plan.name == leaving.plan);
        need.cell = need.cell.filter(|cell| !need.left.contains(cell));
        let mut decision = self.explained(tenant, profile, &need, seed);
        decision.refused.retain(|refused| refused.cell.as_ref().is_none_or(|cell| !leaving.cells.contains(cell)));
        let left = leaving.cells.iter().map(|cell| Refusal {
            cell: Some(cell.clone()),
            class: None,
            constraint: "service".to_owned(),
            wanted: "to be served well".to_owned(),
            has: leaving.because.to_owned(),
        });
        decision.refused.splice(0..0, left);
        Ok(decision)
    }

    /// Whether this cell is known to give less than that: throughput, users.
    pub fn gives_less(&self, cell: &str, throughput_per_s: Option<u64>, users: Option<u64>) -> (bool, bool) {
        let Some(at) = self.by_name.get(cell) else { return (false, false) };
        let promises = &self.kinds[self.kind_of_cell[*at]].place.promises;
        let less = |has: Option<u64>, wanted: Option<u64>| has.zip(wanted).is_some_and(|(has, wanted)| has < wanted);
        (less(promises.throughput_per_s, throughput_per_s), less(promises.users, users))
    }
}
