//! Plans a fleet: wrong places first, then cells that are not needed, then cells that something cheaper does for.
//!
//! Greedy, because every step has to be an improvement by itself; small fleets are tried in several orders, which costs
//! nothing there. Never promises the optimum: the gap to the bound is part of the answer.

use super::{
    Fleet, FleetMove, FleetPlan, FleetStep, StepWhy, lower_bound,
    state::{Live, State},
};
use berth_domain::Cents;
use std::collections::HashMap;

/// Fleets up to here are planned in every order, larger ones until a plan is proved to be near enough to the best.
const SMALL: usize = 3000;
const NEAR_PERCENT: f64 = 1.0;
const NOWHERE_SHOWN: usize = 20;
const ROUNDS: usize = 4;
/// Of several cells for others, each the best that there is then.
const EXCHANGES: usize = 40;

/// In which order cells are tried to be emptied.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// The dearest place first, of those the emptiest cell.
    Rate,
    /// The dearest per tenant in it.
    PerTenant,
    Price,
    Emptiest,
}

pub fn plan(fleet: &Fleet) -> FleetPlan {
    let cost = |plan: &FleetPlan| (plan.wrong_after, plan.after_cents, plan.moves);
    let (mut best, mut by) = (planned(fleet, Order::Rate, false), Order::Rate);
    for order in [Order::PerTenant, Order::Price, Order::Emptiest] {
        if fleet.tenants.len() > SMALL && best.wrong_after == 0 && best.gap_percent <= NEAR_PERCENT {
            break;
        }
        let other = planned(fleet, order, false);
        if cost(&other) < cost(&best) {
            (best, by) = (other, order);
        }
    }
    // What is not proved to be near the best may be far from it.
    if best.wrong_after == 0 && best.gap_percent > NEAR_PERCENT {
        let other = planned(fleet, by, true);
        if cost(&other) < cost(&best) {
            best = other;
        }
    }
    best
}

/// `deep`: where small exchanges end, the cheapest set of cells is searched for as a whole.
fn planned(fleet: &Fleet, order: Order, deep: bool) -> FleetPlan {
    let mut run = Run { state: State::of(fleet), steps: Vec::new(), made: Vec::new(), idle: Vec::new() };
    let wrong = |state: &State<'_>| (0..fleet.tenants.len() as u32).filter(|t| !state.is_right(*t)).collect::<Vec<_>>();
    let wrong_before = wrong(&run.state).len() as u64;
    let before_cents = run.state.bill();
    let cells_before = run.state.cells.iter().filter(|cell| cell.open).count() as u64;
    run.set_the_empty_aside();
    run.right_the_wrong(wrong(&run.state));
    // What was replaced may make room for another; more than a few rounds never found anything.
    for _ in 0..ROUNDS {
        run.empty_cells(order);
        let replaced = run.replace_cells();
        if !run.disband_cells() && !replaced {
            break;
        }
    }
    for _ in 0..EXCHANGES {
        let changed = run.exchange() || (deep && run.rearrange());
        if !changed {
            break;
        }
    }
    run.drop_the_idle();
    let after_cents = run.state.bill();
    let bound_cents = lower_bound(fleet);
    let nowhere = wrong(&run.state);
    let over = (after_cents - bound_cents).get().max(0);
    let names = nowhere.iter().take(NOWHERE_SHOWN).map(|t| fleet.tenants[*t as usize].name.clone());
    FleetPlan {
        before_cents,
        after_cents,
        bound_cents,
        gap_percent: if bound_cents.get() > 0 { over as f64 * 100.0 / bound_cents.get() as f64 } else { 0.0 },
        moves: run.steps.iter().map(|step| step.moves.len() as u64).sum(),
        cells_before,
        cells_after: run.state.cells.iter().filter(|cell| cell.open).count() as u64,
        wrong_before,
        wrong_after: nowhere.len() as u64,
        nowhere: names.collect(),
        steps: run.steps,
    }
}

/// Something to fill: a new cell of an offer, or a cell that stands empty.
pub(super) struct Target {
    pub(super) kind: u32,
    pub(super) price: i64,
    pub(super) places: u64,
    /// An empty cell; else the offer below.
    pub(super) cell: Option<u32>,
    offer: usize,
}

impl Target {
    /// Price of one place in a thousandth of a cent.
    fn rate(&self) -> i64 {
        self.price.saturating_mul(1000) / self.places.max(1) as i64
    }
    fn number(&self) -> usize {
        self.cell.map_or(self.offer, |cell| cell as usize)
    }
}

pub(super) struct Run<'a> {
    pub(super) state: State<'a>,
    steps: Vec<FleetStep>,
    /// Every move and where the tenant was before, so that what does not work out is taken back.
    pub(super) made: Vec<(u32, Option<u32>)>,
    /// Cells without tenants: each is used where it is worth its price, and dropped at the end where it was not.
    pub(super) idle: Vec<u32>,
}

impl Run<'_> {
    /// Whoever is nowhere, or where a constraint is broken, goes where there is room, else into a new cell.
    fn right_the_wrong(&mut self, mut wrong: Vec<u32>) {
        // The heaviest first: they find room only while there is much. Those with few places to go before the others.
        let fleet = self.state.fleet;
        wrong.sort_by_key(|t| {
            let tenant = &fleet.tenants[*t as usize];
            (fleet.groups[tenant.group as usize].kinds.len(), tenant.group, std::cmp::Reverse(tenant.weight), *t)
        });
        let mut without = Vec::new();
        for tenant in wrong {
            // Somebody who came before may have moved this one to where it belongs.
            if self.state.is_right(tenant) {
                continue;
            }
            match self.settle(tenant) {
                Some(moves) => self.step(StepWhy::Constraint, Vec::new(), moves, Vec::new(), 0),
                None => without.push(tenant),
            }
        }
        let mut rest = without.as_slice();
        while let Some(first) = rest.first() {
            // Sorted by group, so those who may live in the same places stand together.
            let group = fleet.tenants[*first as usize].group;
            let same = rest.iter().take_while(|t| fleet.tenants[**t as usize].group == group).count();
            self.open_for(&rest[..same]);
            rest = &rest[same..];
        }
    }

    fn open_for(&mut self, tenants: &[u32]) {
        let mut rest: Vec<u32> = tenants.to_vec();
        while let Some(first) = rest.first().copied() {
            // A cell opened for others before may have room left.
            if let Some(moves) = self.settle(first) {
                self.step(StepWhy::Constraint, Vec::new(), moves, Vec::new(), 0);
                rest.remove(0);
                continue;
            }
            let needed: u64 = rest.iter().map(|t| self.state.weight(*t)).sum();
            let group = &self.state.fleet.groups[self.state.fleet.tenants[first as usize].group as usize];
            let least = self.state.weight(first);
            let targets = self.targets().into_iter();
            let fitting = targets.filter(|target| group.may(target.kind) && target.places >= least);
            // The cheapest place among those that would be used; what exists before what does not.
            let best = fitting.min_by_key(|target| {
                let used = needed.min(target.places).max(1);
                (i128::from(target.price) * 1_000_000 / i128::from(used), target.cell.is_none(), target.number())
            });
            let Some(target) = best else { return };
            let (cell, opens) = self.use_target(&target);
            let mut moves = Vec::new();
            let mut left = Vec::new();
            for tenant in rest {
                if self.state.weight(tenant) <= self.state.cells[cell as usize].room() {
                    moves.push(self.shift(tenant, cell));
                } else {
                    left.push(tenant);
                }
            }
            rest = left;
            let saves = -opens.iter().map(|opened| opened.price_cents.get()).sum::<i64>();
            self.step(StepWhy::Constraint, opens, moves, Vec::new(), saves);
        }
    }

    /// Everything that could be filled next: offers, and cells that stand empty.
    pub(super) fn targets(&self) -> Vec<Target> {
        let offers = self.state.fleet.offers.iter().enumerate().map(|(at, offer)| Target {
            kind: offer.kind,
            price: offer.price_cents.get(),
            places: u64::from(offer.places),
            cell: None,
            offer: at,
        });
        let idle = self.idle.iter().map(|cell| {
            let live = &self.state.cells[*cell as usize];
            Target { kind: live.kind, price: live.price, places: u64::from(live.places), cell: Some(*cell), offer: 0 }
        });
        offers.chain(idle).collect()
    }

    pub(super) fn use_target(&mut self, target: &Target) -> (u32, Vec<super::Opened>) {
        if let Some(cell) = target.cell {
            self.idle.retain(|idle| *idle != cell);
            self.state.set_takes(cell, true);
            return (cell, Vec::new());
        }
        let (cell, opened) = self.state.open(target.offer);
        (cell, vec![opened])
    }

    fn set_the_empty_aside(&mut self) {
        for cell in 0..self.state.cells.len() as u32 {
            let live = &self.state.cells[cell as usize];
            if live.tenants.is_empty() && live.takes {
                self.idle.push(cell);
                self.state.set_takes(cell, false);
            }
        }
    }

    fn drop_the_idle(&mut self) {
        for cell in 0..self.state.cells.len() as u32 {
            let live = &self.state.cells[cell as usize];
            // What costs nothing may stand.
            if live.open && live.tenants.is_empty() && live.price > 0 {
                let (name, price) = (live.name.clone(), live.price);
                self.state.close(cell);
                self.step(StepWhy::Empty, Vec::new(), Vec::new(), vec![name], price);
            }
        }
    }

    /// Empties cells into the others, as long as one can be emptied whole and pays for its moves.
    fn empty_cells(&mut self, order: Order) {
        let mut cells: Vec<u32> =
            (0..self.state.cells.len() as u32).filter(|cell| self.state.cells[*cell as usize].open).collect();
        let key = |live: &Live| match order {
            Order::Rate => (-live.rate(), live.used as i64),
            Order::PerTenant => (-live.price.saturating_mul(1000) / (live.used as i64).max(1), live.used as i64),
            Order::Price => (-live.price, live.used as i64),
            Order::Emptiest => (live.used as i64, -live.rate()),
        };
        // Cells that are being given up come first, whatever they cost.
        cells.sort_by_key(|cell| {
            let live = &self.state.cells[*cell as usize];
            (live.takes, key(live), *cell)
        });
        for cell in cells {
            self.empty_cell(cell);
        }
    }

    fn empty_cell(&mut self, cell: u32) {
        let checkpoint = self.made.len();
        let takes = self.state.cells[cell as usize].takes;
        let Some(moves) = self.emptied(cell) else { return };
        let (name, price) = (self.state.cells[cell as usize].name.clone(), self.state.cells[cell as usize].price);
        // A cell that is being given up is emptied whatever it costs.
        if takes && price <= self.worth_of(moves.len()) {
            self.undo_to(checkpoint);
            self.state.reopen(cell, takes);
            return;
        }
        self.step(StepWhy::Empty, Vec::new(), moves, vec![name], price);
    }

    pub(super) fn worth_of(&self, moves: usize) -> i64 {
        (moves as i64).saturating_mul(self.state.fleet.move_worth_cents.get())
    }

    /// Moves everybody out of a cell and closes it. `None`: somebody found no place, and nothing was changed.
    pub(super) fn emptied(&mut self, cell: u32) -> Option<Vec<FleetMove>> {
        let live = &self.state.cells[cell as usize];
        let (takes, price, count) = (live.takes, live.price, live.tenants.len());
        let enough = self.state.room_everywhere().saturating_sub(live.room()) >= live.used;
        if !live.open || count == 0 || !enough || (takes && price <= self.worth_of(count)) {
            return None;
        }
        let mut tenants = live.tenants.clone();
        tenants.sort_by_key(|t| (std::cmp::Reverse(self.state.weight(*t)), *t));
        let checkpoint = self.made.len();
        // Nobody comes back into the cell that is being emptied.
        self.state.set_takes(cell, false);
        let mut moves = Vec::with_capacity(count);
        for tenant in tenants {
            let Some(made) = self.settle(tenant) else {
                self.undo_to(checkpoint);
                self.state.set_takes(cell, takes);
                return None;
            };
            moves.extend(made);
        }
        self.state.close(cell);
        Some(moves)
    }

    /// Moves a tenant to where there is room, or to where others make it. `None`: nothing was changed.
    fn settle(&mut self, tenant: u32) -> Option<Vec<FleetMove>> {
        if let Some(to) = self.state.room_for(tenant, None) {
            return Some(vec![self.shift(tenant, to)]);
        }
        let chain = self.state.chain_for(tenant)?;
        Some(chain.into_iter().map(|(who, to)| self.shift(who, to)).collect())
    }

    fn shift(&mut self, tenant: u32, to: u32) -> FleetMove {
        self.made.push((tenant, self.state.at[tenant as usize]));
        self.state.shift(tenant, to)
    }

    pub(super) fn undo_to(&mut self, checkpoint: usize) {
        while self.made.len() > checkpoint {
            let Some((tenant, from)) = self.made.pop() else { break };
            self.state.take(tenant);
            if let Some(from) = from {
                self.state.put(tenant, from);
            }
        }
    }

    /// One cell, new or empty, in place of dearer ones. True when anything was replaced.
    fn replace_cells(&mut self) -> bool {
        let mut replaced = false;
        loop {
            let mut targets = self.targets();
            targets.sort_by_key(|target| (target.rate(), target.cell.is_none(), target.number()));
            if !targets.into_iter().any(|target| self.replace_by(&target)) {
                return replaced;
            }
            replaced = true;
        }
    }

    /// Fills one cell and closes what that makes superfluous; taken back as a whole where it does not pay.
    fn replace_by(&mut self, new: &Target) -> bool {
        /// Cells of one kind that cannot be emptied, before the others of that kind are not tried.
        const FAILURES: usize = 2;
        let mut dear: Vec<u32> = (0..self.state.cells.len() as u32)
            .filter(|cell| {
                let live = &self.state.cells[*cell as usize];
                live.open && !live.tenants.is_empty() && (live.rate() > new.rate() || live.price > new.price)
            })
            .collect();
        if dear.is_empty() {
            return false;
        }
        dear.sort_by_key(|cell| {
            let live = &self.state.cells[*cell as usize];
            (-live.price.saturating_mul(1000) / live.used.max(1) as i64, *cell)
        });
        let checkpoint = self.made.len();
        let idle = self.idle.clone();
        let (to, opens) = self.use_target(new);
        let (mut moves, mut closed) = (Vec::new(), Vec::new());
        let mut failures: HashMap<u32, usize> = HashMap::new();
        for cell in dear {
            let Live { takes, kind, .. } = self.state.cells[cell as usize];
            if failures.get(&kind).is_some_and(|failures| *failures >= FAILURES) {
                continue;
            }
            match self.emptied(cell) {
                Some(made) => {
                    moves.extend(made);
                    closed.push((cell, takes));
                }
                None => *failures.entry(kind).or_default() += 1,
            }
            if self.state.room_everywhere() == 0 {
                break;
            }
        }
        let gone: i64 = closed.iter().map(|(cell, _)| self.state.cells[*cell as usize].price).sum();
        if gone <= new.price + self.worth_of(moves.len()) {
            self.undo_to(checkpoint);
            for (cell, takes) in closed.into_iter().rev() {
                self.state.reopen(cell, takes);
            }
            self.idle = idle;
            match new.cell {
                Some(cell) => self.state.set_takes(cell, false),
                None => self.state.close(to),
            }
            return false;
        }
        let saves = gone - opens.iter().map(|opened| opened.price_cents.get()).sum::<i64>();
        let closes = closed.iter().map(|(cell, _)| self.state.cells[*cell as usize].name.clone()).collect();
        self.step(StepWhy::Replace, opens, moves, closes, saves);
        true
    }

    /// Gives up cells of dear places for as many others as their tenants need, of whatever kinds: what one new cell cannot
    /// replace, since the tenants may not all live in it or are too many for it. True when anything was given up.
    fn disband_cells(&mut self) -> bool {
        /// Cells that are given up together at most: one of them alone often does not pay for what two would fill.
        const TOGETHER: usize = 6;
        /// Of one kind, before the others of it are not tried.
        const FAILURES: usize = 3;
        let mut dear: Vec<u32> = (0..self.state.cells.len() as u32)
            .filter(|cell| {
                self.state.cells[*cell as usize].open && !self.state.cells[*cell as usize].tenants.is_empty()
            })
            .collect();
        dear.sort_by_key(|cell| {
            let live = &self.state.cells[*cell as usize];
            (-live.rate(), live.used, *cell)
        });
        let mut failures: HashMap<u32, usize> = HashMap::new();
        let (mut at, mut any) = (0, false);
        while let Some(cell) = dear.get(at) {
            let kind = self.state.cells[*cell as usize].kind;
            let tired = failures.get(&kind).is_some_and(|failures| *failures >= FAILURES);
            let gone = if tired { 0 } else { self.disband(&dear[at..dear.len().min(at + TOGETHER)]) };
            any |= gone > 0;
            if gone == 0 {
                *failures.entry(kind).or_default() += 1;
            }
            at += gone.max(1);
        }
        any
    }

    /// Gives up the first so many of these cells that it pays. How many; 0: none, and nothing was changed.
    fn disband(&mut self, cells: &[u32]) -> usize {
        let (checkpoint, idle) = (self.made.len(), self.idle.clone());
        let (mut moves, mut opens, mut closed, mut used) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut gone, mut cost) = (0, 0);
        for (n, cell) in cells.iter().copied().enumerate() {
            let Live { takes, price, open, .. } = self.state.cells[cell as usize];
            let mut tenants = self.state.cells[cell as usize].tenants.clone();
            if !open || tenants.is_empty() {
                continue;
            }
            tenants.sort_by_key(|t| (std::cmp::Reverse(self.state.weight(*t)), *t));
            self.state.set_takes(cell, false);
            closed.push((cell, takes));
            for (done, tenant) in tenants.iter().copied().enumerate() {
                if let Some(made) = self.settle(tenant) {
                    moves.extend(made);
                } else if let Some(target) = self.target_instead(cell, &tenants[done..]) {
                    cost += target.price;
                    let (to, opened) = self.use_target(&target);
                    opens.extend(opened);
                    used.push((target.cell, to));
                    moves.push(self.shift(tenant, to));
                } else {
                    // Nowhere cheaper: these cells stay.
                    gone = i64::MIN;
                    break;
                }
            }
            if gone == i64::MIN {
                break;
            }
            self.state.close(cell);
            gone += price;
            if gone > cost + self.worth_of(moves.len()) {
                let saves = gone - opens.iter().map(|opened: &super::Opened| opened.price_cents.get()).sum::<i64>();
                let closes = closed.iter().map(|(cell, _)| self.state.cells[*cell as usize].name.clone()).collect();
                self.step(StepWhy::Replace, opens, moves, closes, saves);
                return n + 1;
            }
        }
        self.undo_to(checkpoint);
        for (cell, takes) in closed.into_iter().rev() {
            self.state.reopen(cell, takes);
        }
        self.idle = idle;
        for (existing, to) in used.into_iter().rev() {
            match existing {
                Some(cell) => self.state.set_takes(cell, false),
                None => self.state.close(to),
            }
        }
        0
    }

    /// The cheapest to fill for the first of these tenants and those after it that may live there too, if it is cheaper
    /// than the cell they leave.
    fn target_instead(&self, left: u32, tenants: &[u32]) -> Option<Target> {
        let live = &self.state.cells[left as usize];
        let fleet = self.state.fleet;
        let group = |t: u32| &fleet.groups[fleet.tenants[t as usize].group as usize];
        let first = *tenants.first()?;
        let least = self.state.weight(first);
        let fitting = self.targets().into_iter().filter(|target| {
            let cheaper = target.rate() < live.rate() || target.price < live.price;
            cheaper && target.places >= least && group(first).may(target.kind)
        });
        fitting.min_by_key(|target| {
            let others = tenants.iter().filter(|t| group(**t).may(target.kind));
            let wanted: u64 = others.map(|t| self.state.weight(*t)).sum();
            let used = wanted.min(target.places).max(1);
            (
                i128::from(target.price) * 1_000_000 / i128::from(used),
                target.rate(),
                target.cell.is_none(),
                target.number(),
            )
        })
    }

    pub(super) fn step(
        &mut self,
        why: StepWhy,
        opens: Vec<super::Opened>,
        moves: Vec<FleetMove>,
        closes: Vec<String>,
        saves: i64,
    ) {
        self.steps.push(FleetStep { why, opens, moves, closes, saves_cents: Cents::new(saves) });
    }
}
