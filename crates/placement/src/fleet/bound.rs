//! What no arrangement can go below: every place paid for is at least used in part.
//!
//! The relaxation lets a cell be opened in part, at its price per place. What is left is tenants flowing to kinds of
//! place, with a cost that depends on the place alone. Such flows form a polymatroid, so the greedy answer is exact:
//! fill the cheapest places as far as they can be filled at all, then the next. No linear program is needed, and a
//! hundred thousand tenants are a few dozen groups here.

use super::{Fleet, Group};
use berth_domain::Cents;
use std::collections::BTreeMap;

/// Places of one price per place, for the same tenants.
pub(super) struct Supply {
    pub(super) kind: u32,
    /// In places.
    pub(super) room: u64,
    /// The price of all of `room` together, and of how many places: the rate is exact as a fraction.
    pub(super) price: i64,
    pub(super) places: u64,
}

/// The least that all tenants can cost a month, whoever moves where. Tenants that may live nowhere cost nothing here.
pub fn lower_bound(fleet: &Fleet) -> Cents {
    let mut demand: BTreeMap<&[u32], u64> = BTreeMap::new();
    for tenant in &fleet.tenants {
        *demand.entry(&fleet.groups[tenant.group as usize].kinds).or_default() += u64::from(tenant.weight);
    }
    let supplies = supplies(fleet);
    let groups: Vec<Group> = demand.keys().map(|kinds| Group { kinds: kinds.to_vec() }).collect();
    let total: u64 = demand.values().sum();
    let mut flow = Flow::new(&groups, demand.values().copied().collect(), &supplies);
    let mut parts: BTreeMap<(i64, u64), u64> = BTreeMap::new();
    let mut served = 0;
    for (at, supply) in supplies.iter().enumerate() {
        let pushed = flow.fill(at, supply.room.min(total - served));
        served += pushed;
        *parts.entry((supply.price, supply.places)).or_default() += pushed;
    }
    // Rounded up once, at the end: bills are whole cents.
    let exact = |((price, places), pushed): (&(i64, u64), &u64)| (i128::from(*price) * i128::from(*pushed), *places);
    let mut whole = 0_i128;
    let mut fraction = 0.0_f64;
    for (amount, places) in parts.iter().map(exact) {
        whole += amount / i128::from(places.max(1));
        fraction += (amount % i128::from(places.max(1))) as f64 / places.max(1) as f64;
    }
    // A hair less than the fraction says: a sum of floats must not lift the bound over the truth.
    let least = i64::try_from(whole).unwrap_or(i64::MAX).saturating_add((fraction - 1e-6).ceil().max(0.0) as i64);
    // A bill is a sum of whole cells' prices, so it is a multiple of whatever divides all of them.
    let step = supplies.iter().fold(0, |divisor, supply| common_divisor(divisor, supply.price));
    Cents::new(if step > 1 {
        least.div_euclid(step).saturating_mul(step) + if least % step > 0 { step } else { 0 }
    } else {
        least
    })
}

fn common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The cheapest place first. Cells of one kind, price and size are one supply; an offer is a supply without end.
fn supplies(fleet: &Fleet) -> Vec<Supply> {
    let mut cells: BTreeMap<(u32, i64, u32), u64> = BTreeMap::new();
    for cell in &fleet.cells {
        // Also those that take nobody: a bound may only be too low, and who is there may stay.
        *cells.entry((cell.kind, cell.price_cents.get(), cell.places)).or_default() += 1;
    }
    let exist = cells.into_iter().map(|((kind, price, places), count)| Supply {
        kind,
        room: u64::from(places) * count,
        price,
        places: u64::from(places),
    });
    let offered = fleet.offers.iter().map(|offer| Supply {
        kind: offer.kind,
        room: u64::MAX,
        price: offer.price_cents.get(),
        places: u64::from(offer.places),
    });
    let mut supplies: Vec<Supply> = exist.chain(offered).collect();
    supplies.sort_by(|a, b| {
        (i128::from(a.price) * i128::from(b.places)).cmp(&(i128::from(b.price) * i128::from(a.places)))
    });
    supplies
}

/// Tenants by group to supplies, kept feasible while supplies are filled one after another.
pub(super) struct Flow<'a> {
    groups: &'a [Group],
    supplies: &'a [Supply],
    /// What of each group is nowhere yet.
    left: Vec<u64>,
    /// `sent[group][supply]`
    sent: Vec<Vec<u64>>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(groups: &'a [Group], left: Vec<u64>, supplies: &'a [Supply]) -> Self {
        Self { sent: vec![vec![0; supplies.len()]; groups.len()], groups, supplies, left }
    }

    /// As much as can flow into this supply, others keeping what they have; groups may change places among them.
    pub(super) fn fill(&mut self, supply: usize, room: u64) -> u64 {
        let mut pushed = 0;
        while pushed < room {
            let Some(path) = self.path(supply) else { break };
            // The path begins at a group with something left and alternates: group, supply, group, …, this supply.
            let mut most = self.left[path[0].0].min(room - pushed);
            for pair in path.windows(2) {
                most = most.min(self.sent[pair[1].0][pair[0].1]);
            }
            self.left[path[0].0] -= most;
            for (n, (group, to)) in path.iter().enumerate() {
                self.sent[*group][*to] += most;
                if let Some((next, _)) = path.get(n + 1) {
                    self.sent[*next][*to] -= most;
                }
            }
            pushed += most;
        }
        pushed
    }

    /// From a group with something left to the supply, through supplies whose tenants could go on: (group, supply) each.
    fn path(&self, goal: usize) -> Option<Vec<(usize, usize)>> {
        // Backwards from the supply: which groups reach it, and over which supply each.
        let mut over: Vec<Option<usize>> = vec![None; self.groups.len()];
        let mut next: Vec<Option<usize>> = vec![None; self.supplies.len()];
        let mut queue = std::collections::VecDeque::from([goal]);
        let mut seen = vec![false; self.supplies.len()];
        seen[goal] = true;
        while let Some(supply) = queue.pop_front() {
            for group in 0..self.groups.len() {
                if over[group].is_some() || !self.groups[group].may(self.supplies[supply].kind) {
                    continue;
                }
                over[group] = Some(supply);
                if self.left[group] > 0 {
                    return Some(Self::trace(group, &over, &next));
                }
                for other in 0..self.supplies.len() {
                    if !seen[other] && self.sent[group][other] > 0 {
                        seen[other] = true;
                        // Whoever fills `other` could push this group out of it, and it goes on to `supply`.
                        next[other] = Some(group);
                        queue.push_back(other);
                    }
                }
            }
        }
        None
    }

    fn trace(first: usize, over: &[Option<usize>], next: &[Option<usize>]) -> Vec<(usize, usize)> {
        let mut path = Vec::new();
        let mut group = first;
        while let Some(supply) = over[group] {
            path.push((group, supply));
            match next[supply] {
                Some(pushed_out) => group = pushed_out,
                None => break,
            }
        }
        path
    }
}
