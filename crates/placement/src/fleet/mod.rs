//! All tenants to cells: the cheapest arrangement that few moves reach, in an order in which every step is better.
//!
//! The plan grows from what is, step by step, and never from a picture of the end: first whoever is nowhere or where a
//! hard constraint is broken gets a place, then cells are emptied where that pays for the moves, the dearest place first.
//! A step is taken only if every move of it has room when it comes and the fleet is better after it: fewer tenants in
//! the wrong place, else a smaller bill. So every prefix of steps is an improvement, and stopping anywhere is safe.
//!
//! Never knows a tenant's profile: who may live where is handed in as groups, from [`crate::Engine`] or from a test.

mod bound;
mod exchange;
mod from_engine;
mod grow;
mod plan;
mod rearrange;
mod state;

pub use bound::lower_bound;
pub use from_engine::{PlacedTenant, offer_name};
pub use grow::{Month, Simulation, simulate};
pub use plan::plan;

use berth_domain::Cents;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A fleet and what can be bought for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Cells that exist.
    pub cells: Vec<FleetCell>,
    /// Cells that can be made, any number of each.
    pub offers: Vec<FleetOffer>,
    pub tenants: Vec<FleetTenant>,
    /// For each group of tenants: the kinds of place that meet all their hard constraints.
    pub groups: Vec<Group>,
    /// What a move has to save a month to be worth it.
    pub move_worth_cents: Cents,
}

impl Fleet {
    /// The part of it that lives in these cells, to be planned alone. What others have free may be filled, and costs
    /// nothing, being paid for; nobody else is moved and none of the others goes.
    #[must_use]
    pub fn only(&self, cells: &BTreeSet<String>) -> Self {
        let named = |at: Option<u32>| at.is_some_and(|at| cells.contains(&self.cells[at as usize].name));
        let mut part = Self { tenants: Vec::new(), ..self.clone() };
        let mut taken = vec![0_u32; self.cells.len()];
        for tenant in &self.tenants {
            match tenant.cell {
                Some(at) if !named(Some(at)) => {
                    let taken = &mut taken[at as usize];
                    *taken = taken.saturating_add(tenant.weight);
                }
                None => {}
                Some(_) => part.tenants.push(tenant.clone()),
            }
        }
        for (cell, taken) in part.cells.iter_mut().zip(taken).filter(|(cell, _)| !cells.contains(&cell.name)) {
            cell.places = cell.places.saturating_sub(taken);
            cell.price_cents = Cents::new(0);
        }
        part
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetCell {
    pub name: String,
    /// What kind of place it is; offers have kinds of the same numbering.
    pub kind: u32,
    pub price_cents: Cents,
    pub places: u32,
    /// Whether tenants may be brought in. A cell that takes none is emptied where possible.
    pub takes_tenants: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOffer {
    pub name: String,
    pub kind: u32,
    pub price_cents: Cents,
    pub places: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetTenant {
    pub name: String,
    /// Index into [`Fleet::groups`].
    pub group: u32,
    /// Index into [`Fleet::cells`].
    pub cell: Option<u32>,
    /// Places that it takes up.
    pub weight: u32,
}

/// Tenants that may live in the same places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Sorted.
    pub kinds: Vec<u32>,
}

impl Group {
    pub fn may(&self, kind: u32) -> bool {
        self.kinds.binary_search(&kind).is_ok()
    }
}

/// What to do, what it costs, and how much better it could be at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetPlan {
    pub steps: Vec<FleetStep>,
    pub before_cents: Cents,
    pub after_cents: Cents,
    /// No arrangement that keeps every constraint costs less.
    pub bound_cents: Cents,
    /// How far the plan is from that bound at most, in percent of it.
    pub gap_percent: f64,
    pub moves: u64,
    pub cells_before: u64,
    pub cells_after: u64,
    pub wrong_before: u64,
    /// Tenants that no place is right for.
    pub wrong_after: u64,
    /// Their names, the first few.
    pub nowhere: Vec<String>,
}

/// Moves that belong together. After each step the fleet is better than before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStep {
    pub why: StepWhy,
    /// Cells to make first.
    pub opens: Vec<Opened>,
    pub moves: Vec<FleetMove>,
    /// Cells that are empty afterwards and can go.
    pub closes: Vec<String>,
    /// What the month's bill changes by.
    pub saves_cents: Cents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepWhy {
    /// A tenant was nowhere, or where a hard constraint is broken.
    Constraint,
    /// A cell is not needed.
    Empty,
    /// A smaller or cheaper cell does.
    Replace,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub cell: String,
    pub offer: String,
    pub price_cents: Cents,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMove {
    pub tenant: String,
    pub from: Option<String>,
    pub to: String,
}
