//! What else would hold a tenant: every other plan that keeps the hard constraints, with its best place and its price
//! beside the answer's. Never ranks them: the answer is the answer.

use crate::{
    decide::{Choice, Need, bit},
    engine::Engine,
};
use berth_domain::{CellClass, Cents, Mode};
use serde::{Deserialize, Serialize};

/// Another plan that would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    pub mode: Mode,
    pub class: CellClass,
    pub plan: String,
    pub provider: String,
    pub regions: Vec<String>,
    /// A cell that exists; `None`: a new one.
    pub cell: Option<String>,
    /// Of the plan, a month.
    pub price_cents: Cents,
    /// What the tenant would cost there. `None`: no price is known.
    pub monthly_cost_cents: Option<Cents>,
    /// What it would cost more than with the answer.
    pub cost_change_cents: Option<Cents>,
    pub reason: String,
}

/// More than anybody compares.
const MOST: usize = 5;

impl Engine {
    /// The cheapest plan first; none where nothing fits.
    pub(crate) fn alternatives(&self, need: &Need, choice: Option<&Choice>) -> Vec<Alternative> {
        let Some(choice) = choice else { return Vec::new() };
        let allowed = self.allowed(need);
        let cost = self.price(&self.kinds[choice.kind], need);
        let price = self.plans[choice.plan].price_cents;
        let others = (need.least_plan.unwrap_or(0)..self.plans.len()).filter(|plan| *plan != choice.plan);
        let found = others.filter_map(|at| {
            let plan = &self.plans[at];
            let class = plan.class.filter(|class| allowed & bit(*class) != 0)?;
            if self.short_of(at, need).is_some() {
                return None;
            }
            let other = self.best_place(class, at, need)?;
            let kind = &self.kinds[other.kind];
            let theirs = self.price(kind, need);
            let change = theirs.zip(cost).map(|(theirs, ours)| theirs - ours);
            let how = match class {
                CellClass::Shared => "in a shared cell",
                CellClass::Pool => "in a pool of its region",
                CellClass::Dedicated => "alone in its cell",
            };
            let costs = change.map_or_else(String::new, |change| match change.get() {
                cents if cents < 0 => format!(", and costs {} less", Cents::new(-cents)),
                _ => format!(", and costs {change} more"),
            });
            Some(Alternative {
                mode: class.mode(),
                class,
                plan: plan.name.clone(),
                provider: kind.place.provider.clone(),
                regions: kind.place.sites.clone(),
                cell: other.cell.map(|at| self.cells[at].name.clone()),
                price_cents: plan.price_cents,
                monthly_cost_cents: theirs,
                cost_change_cents: change,
                reason: format!(
                    "plan {} holds it too, {how}: {} a month instead of {price}{costs}",
                    plan.name, plan.price_cents
                ),
            })
        });
        found.take(MOST).collect()
    }
}
