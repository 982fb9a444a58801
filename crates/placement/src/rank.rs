//! Cells for a tenant whose plan is settled: those that keep every constraint, the best first. What creating and moving a
//! tenant ask, where nobody named a cell.
//!
//! Never chooses a class or a plan: that is `decide`.

use crate::{
    decide::breaks,
    engine::Engine,
    profile::{BadProfile, Profile},
};
use berth_domain::CellClass;

impl Engine {
    /// Cells of this class that take tenants, have room and keep every constraint of the profile, the best first: by
    /// price and distance, of equal ones the emptiest, of those the first by name. A plan that is not on sale any more
    /// promises nothing of a cell.
    pub fn cells_for(&self, class: CellClass, plan: &str, profile: &Profile) -> Result<Vec<&str>, Vec<BadProfile>> {
        let need = self.need(profile)?;
        let plan = self.plans.iter().find(|known| known.name == plan);
        let none = crate::PlanFacts::default();
        let mut found: Vec<(i64, u64, &str)> = Vec::new();
        for kind in self.kinds.iter().filter(|kind| kind.offer.is_none() && kind.place.class == class) {
            if breaks(kind, plan.unwrap_or(&none), &need).is_some() {
                continue;
            }
            let worth = self.worth(kind, &need);
            found.extend(kind.open.iter().map(|at| {
                let cell = &self.cells[*at];
                let fill = u64::from(cell.tenants) * 1_000_000 / u64::from(cell.max_tenants.max(1));
                (worth, fill, cell.name.as_str())
            }));
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(.., name)| name).collect())
    }
}
