//! `scripts/bench exact`: fleets of several sizes and what the planner makes of each, one JSON object a line, for an
//! exact solver that shares no code with it.
//!
//! Tenants of one group are alike and each takes one place, so a fleet's cheapest bill is a small integer program: which
//! cells stay, how many of each offer are made, and how many tenants of each group live in each kind of place.

use berth_domain::Cents;
use berth_placement::fleet::{Fleet, FleetCell, FleetOffer, FleetTenant, Group, lower_bound, plan};
use serde_json::json;
use std::time::Instant;

/// How many fleets, tenants, cells, and places of the smallest cell.
const SIZES: [(u32, u32, u32, u32); 5] =
    [(200, 20, 8, 4), (100, 500, 40, 20), (40, 2_000, 100, 30), (6, 20_000, 400, 75), (1, 100_000, 1_000, 150)];
const KINDS: u64 = 6;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

#[expect(clippy::print_stdout, reason = "the instances are this program's output")]
fn main() {
    let mut seed = 0;
    for (fleets, tenants, cells, places) in SIZES {
        for _ in 0..fleets {
            seed += 1;
            let fleet = fleet(&mut Dice(0x9E37_79B9_7F4A_7C15 ^ (seed << 17)), tenants, cells, places);
            let started = Instant::now();
            let planned = plan(&fleet);
            let seconds = started.elapsed().as_secs_f64();
            let mut demand = vec![0_u32; fleet.groups.len()];
            for tenant in &fleet.tenants {
                demand[tenant.group as usize] += tenant.weight;
            }
            let place = |kind: u32, price: Cents, places: u32| json!([kind, price.get(), places]);
            println!(
                "{}",
                json!({
                    "tenants": tenants,
                    "cells": fleet.cells.iter().map(|c| place(c.kind, c.price_cents, c.places)).collect::<Vec<_>>(),
                    "offers": fleet.offers.iter().map(|o| place(o.kind, o.price_cents, o.places)).collect::<Vec<_>>(),
                    "groups": fleet.groups.iter().map(|group| &group.kinds).collect::<Vec<_>>(),
                    "demand": demand,
                    "planned_cents": planned.after_cents,
                    "bound_cents": lower_bound(&fleet),
                    "wrong": planned.wrong_after + planned.nowhere.len() as u64,
                    "plan_s": seconds,
                })
            );
        }
    }
}

/// Kinds of place with prices and places of their own, groups that may live in some of them, tenants as they came.
fn fleet(dice: &mut Dice, tenants: u32, cells: u32, places: u32) -> Fleet {
    let kinds: Vec<(Cents, u32)> = (0..KINDS)
        .map(|_| (Cents::new(2_000 + 500 * dice.below(80) as i64), places + dice.below(u64::from(places)) as u32))
        .collect();
    let (price, places) = (|kind: u64| kinds[kind as usize].0, |kind: u64| kinds[kind as usize].1);
    // One offer may be where any tenant may: there is a right place for everybody.
    let groups: Vec<Group> = (0..4)
        .map(|_| Group { kinds: (0..KINDS as u32).filter(|kind| *kind == 0 || dice.below(2) == 0).collect() })
        .collect();
    let cells: Vec<FleetCell> = (0..cells)
        .map(|n| {
            let kind = dice.below(KINDS);
            // Prices of one kind differ a little, as old contracts do.
            let price_cents = price(kind) + Cents::new(100 * dice.below(5) as i64);
            FleetCell {
                name: format!("c{n}"),
                kind: kind as u32,
                price_cents,
                places: places(kind),
                takes_tenants: true,
            }
        })
        .collect();
    let mut free: Vec<u32> = cells.iter().map(|cell| cell.places).collect();
    let mut settle = |n: u32| {
        let group = dice.below(groups.len() as u64) as u32;
        let fits = |at: usize| free[at] > 0 && groups[group as usize].may(cells[at].kind);
        let cell = (0..30).map(|_| dice.below(cells.len() as u64) as usize).find(|at| fits(*at));
        if let Some(at) = cell {
            free[at] -= 1;
        }
        FleetTenant { name: format!("t{n}"), group, cell: cell.map(|at| at as u32), weight: 1 }
    };
    let tenants = (0..tenants).map(&mut settle).collect();
    let offers = (0..KINDS).map(|kind| FleetOffer {
        name: format!("o{kind}"),
        kind: kind as u32,
        price_cents: price(kind),
        places: places(kind),
    });
    Fleet { offers: offers.collect(), cells, tenants, groups, move_worth_cents: Cents::new(0) }
}
