//! Fleet plans: every step can be carried out, every step is an improvement, and the bound is a bound.
//!
//! Plans are replayed here from what they say, with none of the planner's code. Small fleets are also solved exactly, by
//! trying everything; larger ones by HiGHS (`scripts/bench exact`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use berth_domain::Cents;
use berth_placement::fleet::{
    Fleet, FleetCell, FleetOffer, FleetPlan, FleetTenant, Group, StepWhy, lower_bound, plan, simulate,
};
use std::collections::{BTreeSet, HashMap};

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

fn random_fleet(dice: &mut Dice, tenants: u64, cells: u64) -> Fleet {
    let kinds = 1 + dice.below(4) as u32;
    let price = |dice: &mut Dice| Cents::new(100 * (3 + dice.below(90) as i64));
    let cells: Vec<FleetCell> = (0..cells)
        .map(|n| FleetCell {
            name: format!("c{n}"),
            kind: dice.below(u64::from(kinds)) as u32,
            price_cents: price(dice),
            places: 1 + dice.below(2 * tenants / cells.max(1) + 3) as u32,
            takes_tenants: dice.below(8) > 0,
        })
        .collect();
    let offers = (0..dice.below(3))
        .map(|n| FleetOffer {
            name: format!("o{n}"),
            kind: dice.below(u64::from(kinds)) as u32,
            price_cents: price(dice),
            places: 1 + dice.below(8) as u32,
        })
        .collect();
    let groups: Vec<Group> =
        (0..=dice.below(4)).map(|_| Group { kinds: (0..kinds).filter(|_| dice.below(3) > 0).collect() }).collect();
    let mut used = vec![0_u64; cells.len()];
    let tenants = (0..tenants)
        .map(|n| {
            let weight = 1 + u32::from(dice.below(6) == 0);
            let at = dice.below(cells.len() as u64 + 1) as usize;
            // Nobody is where there is no room: that is how fleets are.
            let fits = cells.get(at).is_some_and(|cell| used[at] + u64::from(weight) <= u64::from(cell.places));
            if fits {
                used[at] += u64::from(weight);
            }
            FleetTenant {
                name: format!("t{n}"),
                group: dice.below(groups.len() as u64) as u32,
                cell: fits.then_some(at as u32),
                weight,
            }
        })
        .collect();
    Fleet { cells, offers, tenants, groups, move_worth_cents: Cents::new(dice.below(30) as i64) }
}

/// Carries a plan out by its own words and fails where that cannot be done or makes anything worse.
fn replay(fleet: &Fleet, planned: &FleetPlan) {
    let mut kind: HashMap<String, (u32, i64, i64)> = HashMap::new();
    for cell in &fleet.cells {
        kind.insert(cell.name.clone(), (cell.kind, cell.price_cents.get(), i64::from(cell.places)));
    }
    let takes: HashMap<&str, bool> = fleet.cells.iter().map(|cell| (cell.name.as_str(), cell.takes_tenants)).collect();
    let mut at: HashMap<&str, Option<String>> = HashMap::new();
    let by_name: HashMap<&str, &FleetTenant> = fleet.tenants.iter().map(|t| (t.name.as_str(), t)).collect();
    for tenant in &fleet.tenants {
        at.insert(&tenant.name, tenant.cell.map(|cell| fleet.cells[cell as usize].name.clone()));
    }
    let wrong = |at: &HashMap<&str, Option<String>>, kind: &HashMap<String, (u32, i64, i64)>| {
        let right = |t: &&FleetTenant| {
            at[t.name.as_str()].as_ref().is_some_and(|c| fleet.groups[t.group as usize].may(kind[c].0))
        };
        fleet.tenants.iter().filter(|t| !right(t)).count()
    };
    let bill = |kind: &HashMap<String, (u32, i64, i64)>| kind.values().map(|(_, price, _)| price).sum::<i64>();
    let (mut wrong_now, mut bill_now) = (wrong(&at, &kind), bill(&kind));
    assert_eq!((wrong_now as u64, bill_now), (planned.wrong_before, planned.before_cents.get()));
    for step in &planned.steps {
        for opened in &step.opens {
            let offer = fleet.offers.iter().find(|offer| offer.name == opened.offer).unwrap();
            let fresh = (offer.kind, offer.price_cents.get(), i64::from(offer.places));
            assert!(kind.insert(opened.cell.clone(), fresh).is_none(), "{} is there already", opened.cell);
        }
        for moved in &step.moves {
            let tenant = by_name[moved.tenant.as_str()];
            assert_eq!(at[moved.tenant.as_str()], moved.from, "{moved:?}");
            let (to, _, places) = kind[&moved.to];
            assert!(fleet.groups[tenant.group as usize].may(to), "{moved:?} breaks a constraint");
            assert!(takes.get(moved.to.as_str()).copied().unwrap_or(true), "{moved:?} goes to a cell that takes none");
            at.insert(&tenant.name, Some(moved.to.clone()));
            let inside = fleet.tenants.iter().filter(|t| at[t.name.as_str()].as_ref() == Some(&moved.to));
            let used: i64 = inside.map(|t| i64::from(t.weight)).sum();
            assert!(used <= places, "{moved:?}: {used} of {places}");
        }
        for closed in &step.closes {
            assert!(!at.values().any(|cell| cell.as_ref() == Some(closed)), "{closed} is not empty");
            assert!(kind.remove(closed).is_some());
        }
        let (wrong_then, bill_then) = (wrong(&at, &kind), bill(&kind));
        assert_eq!(bill_now - bill_then, step.saves_cents.get());
        assert!((wrong_then, bill_then) < (wrong_now, bill_now), "{step:?} improves nothing");
        if step.why != StepWhy::Constraint && step.closes.iter().all(|c| takes.get(c.as_str()).copied().unwrap_or(true))
        {
            let worth = step.moves.len() as i64 * fleet.move_worth_cents.get();
            assert!(step.saves_cents.get() > worth, "{step:?} does not pay for its moves");
        }
        (wrong_now, bill_now) = (wrong_then, bill_then);
    }
    assert_eq!((wrong_now as u64, bill_now), (planned.wrong_after, planned.after_cents.get()));
    assert_eq!(kind.len() as u64, planned.cells_after);
}

#[test]
fn every_plan_can_be_carried_out_step_by_step_and_each_step_is_better() {
    let mut dice = Dice(4711);
    let (mut closed, mut opened, mut righted) = (0, 0, 0);
    for _ in 0..600 {
        let tenants = 1 + dice.below(60);
        let cells = 1 + dice.below(12);
        let fleet = random_fleet(&mut dice, tenants, cells);
        let planned = plan(&fleet);
        assert_eq!(planned, plan(&fleet), "asked twice");
        replay(&fleet, &planned);
        assert_eq!(planned.bound_cents, lower_bound(&fleet));
        if planned.wrong_after == 0 {
            assert!(planned.bound_cents <= planned.after_cents, "{fleet:?}");
        }
        closed += planned.steps.iter().map(|step| step.closes.len()).sum::<usize>();
        opened += planned.steps.iter().map(|step| step.opens.len()).sum::<usize>();
        righted += planned.wrong_before - planned.wrong_after;
    }
    assert!(closed > 100 && opened > 100 && righted > 1000, "{closed} {opened} {righted}");
}

/// The cheapest bill over all arrangements, by trying them. Moves cost nothing here, so a plan may be dearer.
fn exact(fleet: &Fleet) -> Option<i64> {
    let n = fleet.tenants.len();
    let mut places: Vec<(u32, i64, i64)> =
        fleet.cells.iter().map(|c| (c.kind, c.price_cents.get(), i64::from(c.places))).collect();
    for offer in &fleet.offers {
        places.extend((0..n).map(|_| (offer.kind, offer.price_cents.get(), i64::from(offer.places))));
    }
    let mut best = None;
    for open in 0_u32..1 << places.len() {
        let price: i64 = places.iter().enumerate().filter(|(at, _)| open >> at & 1 == 1).map(|(_, p)| p.1).sum();
        if best.is_none_or(|best| price < best) {
            let mut room: Vec<i64> =
                places.iter().enumerate().map(|(at, p)| if open >> at & 1 == 1 { p.2 } else { 0 }).collect();
            if fits(fleet, &places, &mut room, 0) {
                best = Some(price);
            }
        }
    }
    best
}

fn fits(fleet: &Fleet, places: &[(u32, i64, i64)], room: &mut [i64], tenant: usize) -> bool {
    let Some(next) = fleet.tenants.get(tenant) else { return true };
    for at in 0..places.len() {
        if room[at] >= i64::from(next.weight) && fleet.groups[next.group as usize].may(places[at].0) {
            room[at] -= i64::from(next.weight);
            if fits(fleet, places, room, tenant + 1) {
                return true;
            }
            room[at] += i64::from(next.weight);
        }
    }
    false
}

#[test]
fn the_bound_is_below_the_optimum_and_plans_are_near_it() {
    let mut dice = Dice(990);
    let (mut solved, mut equal, mut ours, mut theirs) = (0, 0, 0, 0);
    for _ in 0..400 {
        let tenants = 1 + dice.below(5);
        let mut fleet = random_fleet(&mut dice, tenants, 4);
        fleet.move_worth_cents = Cents::new(0);
        fleet.cells.iter_mut().for_each(|cell| cell.takes_tenants = true);
        fleet.offers.truncate(1);
        let Some(best) = exact(&fleet) else { continue };
        let planned = plan(&fleet);
        assert!(lower_bound(&fleet).get() <= best, "{fleet:?}");
        if planned.wrong_after > 0 {
            continue;
        }
        assert!(best <= planned.after_cents.get());
        solved += 1;
        equal += i32::from(best == planned.after_cents.get());
        ours += planned.after_cents.get();
        theirs += best;
    }
    // A handful of tenants in cells of a handful of places is the worst case for a greedy plan.
    assert!(solved > 200 && equal * 100 >= solved * 88, "{equal} of {solved} are optimal");
    assert!(ours * 100 <= theirs * 108, "{ours} against {theirs}");
}

#[test]
fn a_part_of_a_fleet_moves_nobody_else_and_closes_no_other_cell() {
    let mut dice = Dice(2026);
    let mut moved = 0;
    for _ in 0..300 {
        let fleet = random_fleet(&mut dice, 40, 8);
        let only: BTreeSet<String> = (0..8).filter(|_| dice.below(2) == 0).map(|n| format!("c{n}")).collect();
        let part = fleet.only(&only);
        let planned = plan(&part);
        replay(&part, &planned);
        let lives = |name: &str| {
            let tenant = fleet.tenants.iter().find(|tenant| tenant.name == name).unwrap();
            tenant.cell.map(|cell| fleet.cells[cell as usize].name.clone())
        };
        for step in &planned.steps {
            for one in &step.moves {
                assert!(lives(&one.tenant).is_some_and(|home| only.contains(&home)), "{one:?} of {only:?}");
                moved += 1;
            }
            let theirs = |name: &&String| !only.contains(*name) && fleet.cells.iter().any(|cell| cell.name == **name);
            assert_eq!(step.closes.iter().find(theirs), None, "{step:?} of {only:?}");
        }
        // Who lives in the others still has its place: nothing of it was given away.
        let mut used: HashMap<&str, i64> = HashMap::new();
        for tenant in &fleet.tenants {
            if let Some(home) =
                tenant.cell.map(|cell| &fleet.cells[cell as usize].name).filter(|home| !only.contains(*home))
            {
                *used.entry(home).or_default() += i64::from(tenant.weight);
            }
        }
        for one in planned.steps.iter().flat_map(|step| &step.moves) {
            let weight = i64::from(fleet.tenants.iter().find(|t| t.name == one.tenant).unwrap().weight);
            for (cell, change) in [(one.from.as_deref(), -weight), (Some(one.to.as_str()), weight)] {
                if let Some(used) = cell.and_then(|cell| used.get_mut(cell)) {
                    *used += change;
                }
            }
        }
        for (cell, used) in used {
            let places = fleet.cells.iter().find(|c| c.name == cell).unwrap().places;
            assert!(used <= i64::from(places), "{cell} is over its {places} places");
        }
    }
    assert!(moved > 500, "{moved}");
    let fleet = random_fleet(&mut dice, 10, 3);
    let all: BTreeSet<String> = fleet.cells.iter().map(|cell| cell.name.clone()).collect();
    let housed = |fleet: &Fleet| fleet.tenants.iter().filter(|tenant| tenant.cell.is_some()).count();
    assert_eq!(fleet.only(&all).cells, fleet.cells);
    assert_eq!(fleet.only(&all).tenants.len(), housed(&fleet));
}

#[test]
fn three_cells_for_four_are_found_where_no_smaller_exchange_pays() {
    // Both kinds hold everybody. Of the dear one three are needed for what four of the cheap one hold: nothing less pays.
    let offer = |name: &str, kind, price, places| FleetOffer {
        name: name.into(),
        kind,
        price_cents: Cents::new(price),
        places,
    };
    let cell = |n: u32| FleetCell {
        name: format!("c{n}"),
        kind: 4,
        price_cents: Cents::new(18_000),
        places: 27,
        takes_tenants: true,
    };
    // Room is needed for 108 of 111: full cells of the one kind, and nearly full ones of the other.
    let tenants = (0..108).map(|n| FleetTenant { name: format!("t{n}"), group: 0, cell: Some(n / 27), weight: 1 });
    let fleet = Fleet {
        cells: (0..4).map(cell).collect(),
        offers: vec![offer("o2", 2, 23_000, 37), offer("o4", 4, 18_000, 27)],
        tenants: tenants.collect(),
        groups: vec![Group { kinds: vec![2, 4] }],
        move_worth_cents: Cents::new(0),
    };
    let planned = plan(&fleet);
    replay(&fleet, &planned);
    assert_eq!((planned.after_cents, planned.cells_after), (Cents::new(69_000), 3), "{planned:?}");
    // Unless the moves cost more than it saves.
    let dear = plan(&Fleet { move_worth_cents: Cents::new(28), ..fleet });
    assert_eq!(dear.after_cents, Cents::new(72_000));
}

#[test]
fn a_fleet_that_needs_nothing_gets_no_steps() {
    let fleet = Fleet {
        cells: vec![FleetCell {
            name: "a".into(),
            kind: 0,
            price_cents: Cents::new(100),
            places: 3,
            takes_tenants: true,
        }],
        offers: Vec::new(),
        tenants: vec![FleetTenant { name: "t".into(), group: 0, cell: Some(0), weight: 1 }],
        groups: vec![Group { kinds: vec![0] }],
        move_worth_cents: Cents::new(1),
    };
    let planned = plan(&fleet);
    assert!(planned.steps.is_empty());
    assert_eq!((planned.after_cents, planned.bound_cents), (Cents::new(100), Cents::new(100)));
    assert_eq!(plan(&Fleet::default()).after_cents, Cents::new(0));
}

#[test]
fn a10_the_hundred_and_fiftieth_place_is_sold_and_the_next_tenant_opens_a_cell() {
    let offer = FleetOffer { name: "ax52".into(), kind: 0, price_cents: Cents::new(9219), places: 150 };
    let tenants = |n: u32| (0..n).map(|n| FleetTenant { name: format!("t{n}"), group: 0, cell: None, weight: 1 });
    let fleet = |n| Fleet {
        offers: vec![offer.clone()],
        tenants: tenants(n).collect(),
        groups: vec![Group { kinds: vec![0] }],
        ..Fleet::default()
    };
    assert_eq!(plan(&fleet(150)).cells_after, 1);
    assert_eq!(plan(&fleet(151)).cells_after, 2);
    let planned = plan(&fleet(151));
    assert_eq!(planned.bound_cents, planned.after_cents, "the bound knows that cells are whole");
}

#[test]
fn a_simulated_fleet_grows_and_pays_for_whole_cells() {
    let offer = FleetOffer { name: "ax52".into(), kind: 0, price_cents: Cents::new(9219), places: 150 };
    let tenants = (0..100).map(|n| FleetTenant { name: format!("t{n}"), group: 0, cell: None, weight: 1 }).collect();
    let groups = vec![Group { kinds: vec![0] }];
    let fleet = Fleet { offers: vec![offer], tenants, groups, ..Fleet::default() };
    let grown = simulate(&fleet, &[Cents::new(1500)], 10, 12);
    assert_eq!(grown.months.len(), 13);
    assert_eq!((grown.months[0].tenants, grown.months[0].cells), (100, 1));
    let last = &grown.months[12];
    assert_eq!((last.tenants, last.cells, last.moves), (313, 3, 0));
    assert_eq!(last.margin_cents, Cents::new(313 * 1500 - 3 * 9219));
}
