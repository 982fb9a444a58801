//! The cheapest set of cells as a whole, where small exchanges are not enough: how many of each that differ.
//!
//! Who lives where is left out while it is searched: whether everybody would have room is a flow from groups to kinds of
//! place. What is found is then carried out as one exchange, or not at all. The search throws dice that are the same each
//! time, and looks at so many sets as its flows are small, so that it takes about as long for every fleet.

use super::{
    exchange::{Alike, DIFFERENT_MOST, Exchange},
    plan::{Run, Target},
};
use crate::dice::Dice;

/// What all flows of one search may cost together, in groups times kinds.
const WORK_MOST: u64 = 2_000_000;
const LOOKS_MOST: u64 = 40_000;
/// Searches: how hot each begins, in usual prices, and what a missing place weighs, in dearest places. A fleet whose small
/// sets lie apart needs the hot ones, most are done after the first.
const SEARCHES: [(f64, f64); 4] = [(0.35, 1.2), (1.0, 0.8), (2.0, 0.5), (0.7, 0.4)];

/// Cells that differ in nothing.
struct Sort {
    kind: usize,
    price: i64,
    places: u64,
    /// How many there are now, and how many there may be.
    now: u64,
    most: u64,
}

impl Run<'_> {
    /// Searches for a cheaper set of cells and carries it out. True when there was one.
    pub(super) fn rearrange(&mut self) -> bool {
        let (alike, targets) = (self.alike(), self.targets());
        let groups = self.state.fleet.groups.len();
        if alike.len() > DIFFERENT_MOST || targets.len() > DIFFERENT_MOST || groups > DIFFERENT_MOST {
            return false;
        }
        let (demand, mut room) = self.demand_and_room();
        let sorts = sorts(&alike, &targets, demand.iter().sum());
        for sort in &sorts {
            room[sort.kind] = room[sort.kind].saturating_sub(sort.places * sort.now);
        }
        let now: i64 = sorts.iter().map(|sort| sort.price * sort.now as i64).sum();
        let looks = (WORK_MOST / (groups as u64 * room.len() as u64 + 40)).clamp(500, LOOKS_MOST);
        SEARCHES.iter().enumerate().any(|(seed, how)| {
            let found = self.search(&sorts, &demand, &room, looks, seed as u64, *how);
            let found = found.filter(|(price, _)| *price < now);
            found.is_some_and(|(price, set)| {
                let exchange = exchange(&sorts, &set, alike.len(), now - price);
                self.try_exchange(&exchange, &alike, &targets)
            })
        })
    }

    /// Annealing: a set is a little changed, and what is dearer or too small for everybody is kept the less often the
    /// longer it goes on. The best in which everybody has room.
    fn search(
        &self,
        sorts: &[Sort],
        demand: &[u64],
        fixed: &[u64],
        looks: u64,
        seed: u64,
        (begin, weight): (f64, f64),
    ) -> Option<(i64, Vec<u64>)> {
        let needed: u64 = demand.iter().sum();
        let dearest = sorts.iter().map(|sort| sort.price as f64 / sort.places.max(1) as f64).fold(0.0, f64::max);
        let mean = sorts.iter().map(|sort| sort.price as f64).sum::<f64>() / sorts.len().max(1) as f64;
        let price_of = |set: &[u64]| sorts.iter().zip(set).map(|(sort, n)| sort.price * *n as i64).sum::<i64>();
        let without = |set: &[u64]| {
            let mut room = fixed.to_vec();
            for (sort, n) in sorts.iter().zip(set) {
                room[sort.kind] += sort.places * n;
            }
            needed - self.held(demand, &room)
        };
        let mut dice = Dice(seed);
        let mut set: Vec<u64> = sorts.iter().map(|sort| sort.now).collect();
        let (mut price, mut missing) = (price_of(&set), without(&set));
        let mut best: Option<(i64, Vec<u64>)> = None;
        for look in 0..looks {
            // Down to nearly nothing.
            let heat = mean * begin * (0.01_f64 / begin).powf(look as f64 / looks as f64);
            let mut other = set.clone();
            let at = dice.below(sorts.len());
            let more = dice.next().is_multiple_of(2);
            if !changed(&mut other[at], sorts[at].most, more) {
                continue;
            }
            // Half of the time one comes for one that goes.
            if dice.next().is_multiple_of(2) {
                let at = dice.below(sorts.len());
                if !changed(&mut other[at], sorts[at].most, !more) {
                    continue;
                }
            }
            let (then, short) = (price_of(&other), without(&other));
            let worse = (then - price) as f64 + (short as f64 - missing as f64) * dearest * weight;
            if worse <= 0.0 || dice.part() < (-worse / heat.max(1e-9)).exp() {
                (set, price, missing) = (other, then, short);
                if missing == 0 && best.as_ref().is_none_or(|(least, _)| price < *least) {
                    best = Some((price, set.clone()));
                }
            }
        }
        best
    }
}

/// One more or one fewer; false where that cannot be.
fn changed(count: &mut u64, most: u64, more: bool) -> bool {
    match more {
        true if *count < most => *count += 1,
        false if *count > 0 => *count -= 1,
        _ => return false,
    }
    true
}

/// First those that stand, in the order of `alike`, then what could come, in the order of `targets`.
fn sorts(alike: &[Alike], targets: &[Target], needed: u64) -> Vec<Sort> {
    let standing = alike.iter().map(|it| Sort {
        kind: it.kind as usize,
        price: it.price,
        places: it.places,
        now: it.cells.len() as u64,
        most: it.cells.len() as u64,
    });
    let coming = targets.iter().map(|target| Sort {
        kind: target.kind as usize,
        price: target.price,
        places: target.places,
        now: 0,
        most: if target.cell.is_some() { 1 } else { needed / target.places.max(1) + 1 },
    });
    standing.chain(coming).collect()
}

/// What goes and comes. A new cell that is like one that goes would change nothing: that one stays.
fn exchange(sorts: &[Sort], set: &[u64], standing: usize, gain: i64) -> Exchange {
    let mut goes: Vec<u64> = (0..standing).map(|at| sorts[at].now - set[at]).collect();
    let mut comes: Vec<u64> = set[standing..].to_vec();
    for (at, come) in comes.iter_mut().enumerate() {
        let like = |other: &Sort| {
            let sort = &sorts[standing + at];
            (other.kind, other.price, other.places) == (sort.kind, sort.price, sort.places)
        };
        for go in goes.iter_mut().zip(sorts).filter(|(_, sort)| like(sort)).map(|(go, _)| go) {
            let stays = (*go).min(*come);
            *go -= stays;
            *come -= stays;
        }
    }
    let indexes = |counts: Vec<u64>| {
        let all = counts.into_iter().enumerate().flat_map(|(at, count)| (0..count).map(move |_| at));
        all.collect::<Vec<usize>>()
    };
    Exchange { gain, goes: indexes(goes), comes: indexes(comes) }
}
