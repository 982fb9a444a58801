//! Grows a fleet month by month and plans it each time: what that will cost, and what it asks of people.
//!
//! A model, not a forecast: growth is even, nobody leaves, and new tenants are like those that are there.

use super::{Fleet, FleetCell, FleetPlan, FleetTenant, plan};
use berth_domain::Cents;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simulation {
    pub months: Vec<Month>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Month {
    /// 0 is the fleet as it stands, planned.
    pub month: u32,
    pub tenants: u64,
    pub cells: u64,
    pub cost_cents: Cents,
    pub revenue_cents: Cents,
    pub margin_cents: Cents,
    pub moves: u64,
    /// Tenants that nothing that can be bought is right for.
    pub nowhere: u64,
    pub gap_percent: f64,
}

/// `price_cents`: what each group of tenants pays a month, in the order of the fleet's groups.
pub fn simulate(fleet: &Fleet, price_cents: &[Cents], growth_percent: u32, months: u32) -> Simulation {
    let mut fleet = fleet.clone();
    let mut shown = Vec::new();
    let start = fleet.tenants.clone();
    let mut wanted = fleet.tenants.len() as f64;
    for month in 0..=months {
        if month > 0 {
            wanted *= 1.0 + f64::from(growth_percent) / 100.0;
            let target = wanted as usize;
            while !start.is_empty() && fleet.tenants.len() < target {
                let n = fleet.tenants.len();
                let like = &start[n % start.len()];
                fleet.tenants.push(FleetTenant { name: format!("new-{n}"), cell: None, ..like.clone() });
            }
        }
        let planned = plan(&fleet);
        let price = |group: u32| price_cents.get(group as usize).copied().unwrap_or_default();
        let revenue: Cents = fleet.tenants.iter().map(|tenant| price(tenant.group)).sum();
        // New tenants arrive, they do not move.
        let arrivals = fleet.tenants.iter().filter(|tenant| tenant.cell.is_none()).count() as u64;
        carry_out(&mut fleet, &planned);
        let homeless = fleet.tenants.iter().filter(|tenant| tenant.cell.is_none()).count() as u64;
        shown.push(Month {
            month,
            tenants: fleet.tenants.len() as u64,
            cells: planned.cells_after,
            cost_cents: planned.after_cents,
            revenue_cents: revenue,
            margin_cents: revenue - planned.after_cents,
            moves: planned.moves.saturating_sub(arrivals - homeless),
            nowhere: planned.wrong_after,
            gap_percent: planned.gap_percent,
        });
    }
    Simulation { months: shown }
}

/// The fleet after every step.
fn carry_out(fleet: &mut Fleet, planned: &FleetPlan) {
    let mut cells: HashMap<String, u32> =
        fleet.cells.iter().enumerate().map(|(at, cell)| (cell.name.clone(), at as u32)).collect();
    let tenants: HashMap<String, u32> =
        fleet.tenants.iter().enumerate().map(|(at, tenant)| (tenant.name.clone(), at as u32)).collect();
    let mut gone = vec![false; fleet.cells.len()];
    for step in &planned.steps {
        for opened in &step.opens {
            let Some(offer) = fleet.offers.iter().find(|offer| offer.name == opened.offer) else { continue };
            cells.insert(opened.cell.clone(), fleet.cells.len() as u32);
            gone.push(false);
            fleet.cells.push(FleetCell {
                name: opened.cell.clone(),
                kind: offer.kind,
                price_cents: offer.price_cents,
                places: offer.places,
                takes_tenants: true,
            });
        }
        for moved in &step.moves {
            fleet.tenants[tenants[&moved.tenant] as usize].cell = Some(cells[&moved.to]);
        }
        for closed in &step.closes {
            gone[cells[closed] as usize] = true;
        }
    }
    // Numbers stay dense: what closed is taken out, and names are made anew so that the next month's are free.
    let mut number = Vec::with_capacity(gone.len());
    let mut kept = 0;
    for gone in &gone {
        number.push(kept);
        kept += u32::from(!gone);
    }
    let mut at = 0;
    fleet.cells.retain(|_| {
        at += 1;
        !gone[at - 1]
    });
    for (at, cell) in fleet.cells.iter_mut().enumerate() {
        cell.name = format!("cell-{at}");
    }
    for tenant in &mut fleet.tenants {
        tenant.cell = tenant.cell.map(|cell| number[cell as usize]);
    }
}
