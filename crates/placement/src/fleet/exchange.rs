//! Exchanges that are not one cell's replacement: a few cells go, up to two come, and the bill falls.
//!
//! A flow of groups to kinds of place says first whether everybody would have room, for trying it moves tenants. Never
//! leaves an exchange half done: it is one step, or nothing was changed.

use super::{
    StepWhy,
    bound::{Flow, Supply},
    plan::{Run, Target},
};

/// Kinds of cell that differ, groups and targets up to which exchanges are looked for. Larger fleets have so many small
/// steps that a combination of several is hardly ever missing.
pub(super) const DIFFERENT_MOST: usize = 48;
/// Up to so many kinds of cell three may go at once, else two.
const THREE_GO_UP_TO: usize = 14;
/// Up to so many targets two may come at once, else one.
const TWO_COME_UP_TO: usize = 12;
/// Flows that one search asks at most, and exchanges that it tries.
const FLOWS_MOST: usize = 500;
const TRIES_MOST: usize = 10;

/// Cells that differ in nothing but who lives in them, the emptiest first.
pub(super) struct Alike {
    pub(super) kind: u32,
    pub(super) price: i64,
    pub(super) places: u64,
    pub(super) cells: Vec<u32>,
}

/// What would go and come, as indexes that may repeat.
pub(super) struct Exchange {
    pub(super) gain: i64,
    pub(super) goes: Vec<usize>,
    pub(super) comes: Vec<usize>,
}

impl Run<'_> {
    /// Carries out the best exchange that there is. True when there was one.
    pub(super) fn exchange(&mut self) -> bool {
        let (alike, targets) = (self.alike(), self.targets());
        let groups = &self.state.fleet.groups;
        if alike.len() > DIFFERENT_MOST || targets.len() > DIFFERENT_MOST || groups.len() > DIFFERENT_MOST {
            return false;
        }
        let (demand, room) = self.demand_and_room();
        let (needed, there): (u64, u64) = (demand.iter().sum(), room.iter().sum());
        let mut found = Vec::new();
        let all_comes = several(targets.len(), if targets.len() <= TWO_COME_UP_TO { 2 } else { 1 });
        for goes in several(alike.len(), if alike.len() <= THREE_GO_UP_TO { 3 } else { 2 }) {
            let times = |at: usize| goes.iter().filter(|other| **other == at).count();
            if goes.is_empty() || goes.iter().any(|at| times(*at) > alike[*at].cells.len()) {
                continue;
            }
            let gone: i64 = goes.iter().map(|at| alike[*at].price).sum();
            let lost: u64 = goes.iter().map(|at| alike[*at].places).sum();
            for comes in &all_comes {
                let twice = comes.len() == 2 && comes[0] == comes[1] && targets[comes[0]].cell.is_some();
                let gain = gone - comes.iter().map(|at| targets[*at].price).sum::<i64>();
                let won: u64 = comes.iter().map(|at| targets[*at].places).sum();
                if gain > 0 && !twice && (there + won).saturating_sub(lost) >= needed {
                    found.push(Exchange { gain, goes: goes.clone(), comes: comes.clone() });
                }
            }
        }
        found.sort_by_key(|exchange| (-exchange.gain, exchange.goes.len() + exchange.comes.len()));
        found.truncate(FLOWS_MOST);
        let mut tries = 0;
        found.iter().any(|exchange| {
            if tries == TRIES_MOST {
                return false;
            }
            let mut left = room.clone();
            for at in &exchange.comes {
                left[targets[*at].kind as usize] += targets[*at].places;
            }
            for at in &exchange.goes {
                let kind = alike[*at].kind as usize;
                left[kind] = left[kind].saturating_sub(alike[*at].places);
            }
            if !self.fits(&demand, &left) {
                return false;
            }
            tries += 1;
            self.try_exchange(exchange, &alike, &targets)
        })
    }

    pub(super) fn alike(&self) -> Vec<Alike> {
        let mut alike: Vec<Alike> = Vec::new();
        for (at, live) in self.state.cells.iter().enumerate() {
            if !live.open || !live.takes || live.tenants.is_empty() {
                continue;
            }
            let places = u64::from(live.places);
            let same = |it: &&mut Alike| (it.kind, it.price, it.places) == (live.kind, live.price, places);
            match alike.iter_mut().find(same) {
                Some(known) => known.cells.push(at as u32),
                None => alike.push(Alike { kind: live.kind, price: live.price, places, cells: vec![at as u32] }),
            }
            if alike.len() > DIFFERENT_MOST {
                break;
            }
        }
        for it in &mut alike {
            it.cells.sort_by_key(|cell| (self.state.cells[*cell as usize].used, *cell));
        }
        alike
    }

    /// By group: places that are needed by those who live rightly in cells that may be filled. By kind: what these cells
    /// have, less what others take up there.
    pub(super) fn demand_and_room(&self) -> (Vec<u64>, Vec<u64>) {
        let state = &self.state;
        let mut demand = vec![0_u64; state.fleet.groups.len()];
        let mut room = vec![0_u64; state.kinds()];
        for live in state.cells.iter().filter(|live| live.open && live.takes) {
            room[live.kind as usize] += u64::from(live.places);
            for tenant in &live.tenants {
                let group = state.fleet.tenants[*tenant as usize].group as usize;
                if state.is_right(*tenant) {
                    demand[group] += state.weight(*tenant);
                } else {
                    room[live.kind as usize] = room[live.kind as usize].saturating_sub(state.weight(*tenant));
                }
            }
        }
        (demand, room)
    }

    fn fits(&self, demand: &[u64], room: &[u64]) -> bool {
        self.held(demand, room) == demand.iter().sum::<u64>()
    }

    /// How much of the demand has room at most.
    pub(super) fn held(&self, demand: &[u64], room: &[u64]) -> u64 {
        let supplies: Vec<Supply> = room
            .iter()
            .enumerate()
            .map(|(kind, room)| Supply { kind: kind as u32, room: *room, price: 0, places: 1 })
            .collect();
        let mut flow = Flow::new(&self.state.fleet.groups, demand.to_vec(), &supplies);
        room.iter().enumerate().map(|(at, room)| flow.fill(at, *room)).sum()
    }

    pub(super) fn try_exchange(&mut self, exchange: &Exchange, alike: &[Alike], targets: &[Target]) -> bool {
        let (checkpoint, idle) = (self.made.len(), self.idle.clone());
        let (mut opens, mut came) = (Vec::new(), Vec::new());
        for at in &exchange.comes {
            let (cell, opened) = self.use_target(&targets[*at]);
            opens.extend(opened);
            came.push((targets[*at].cell, cell));
        }
        let mut taken = vec![0; alike.len()];
        let goes: Vec<u32> = exchange
            .goes
            .iter()
            .map(|at| {
                taken[*at] += 1;
                alike[*at].cells[taken[*at] - 1]
            })
            .collect();
        // None of them is a place for who leaves the others.
        for cell in &goes {
            self.state.set_takes(*cell, false);
        }
        let (mut moves, mut closed) = (Vec::new(), Vec::new());
        for cell in &goes {
            let Some(made) = self.emptied(*cell) else { break };
            moves.extend(made);
            closed.push(*cell);
        }
        if closed.len() == goes.len() && exchange.gain > self.worth_of(moves.len()) {
            let closes = closed.iter().map(|cell| self.state.cells[*cell as usize].name.clone()).collect();
            let gone: i64 = closed.iter().map(|cell| self.state.cells[*cell as usize].price).sum();
            let saves = gone - opens.iter().map(|opened: &super::Opened| opened.price_cents.get()).sum::<i64>();
            self.step(StepWhy::Replace, opens, moves, closes, saves);
            return true;
        }
        self.undo_to(checkpoint);
        for cell in &goes {
            self.state.reopen(*cell, true);
        }
        self.idle = idle;
        for (existing, cell) in came.into_iter().rev() {
            match existing {
                Some(cell) => self.state.set_takes(cell, false),
                None => self.state.close(cell),
            }
        }
        false
    }
}

/// Every choice of up to `most` of `of` things, repeats among them, order apart.
fn several(of: usize, most: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    let mut last: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..most {
        last = last
            .iter()
            .flat_map(|chosen| {
                let from = chosen.last().copied().unwrap_or(0);
                (from..of).map(move |next| chosen.iter().copied().chain([next]).collect())
            })
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::several;

    #[test]
    fn each_choice_comes_once() {
        assert_eq!(several(2, 2), [vec![], vec![0], vec![1], vec![0, 0], vec![0, 1], vec![1, 1]]);
        assert_eq!(several(6, 3).len(), 1 + 6 + 21 + 56);
        assert_eq!(several(0, 2), [Vec::<usize>::new()]);
    }
}
