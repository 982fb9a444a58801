//! A fleet while it is being planned: who is where, and how much room is left. Never decides.

use super::{Fleet, FleetMove, Opened};
use berth_domain::Cents;
use std::collections::{BTreeSet, HashSet, VecDeque};

/// A cell that exists or that the plan opened.
#[derive(Clone, Debug)]
pub struct Live {
    pub name: String,
    pub kind: u32,
    pub price: i64,
    pub places: u32,
    pub used: u64,
    pub tenants: Vec<u32>,
    pub takes: bool,
    /// Paid for: closed cells stay in the list.
    pub open: bool,
}

/// Somebody who gives a place up, and for whose coming: see [`State::chain_for`].
struct Link {
    who: u32,
    cell: u32,
    before: Option<usize>,
}

impl Live {
    pub fn room(&self) -> u64 {
        if self.open && self.takes { u64::from(self.places).saturating_sub(self.used) } else { 0 }
    }
    /// Price of one place in a thousandth of a cent.
    pub fn rate(&self) -> i64 {
        self.price.saturating_mul(1000) / i64::from(self.places.max(1))
    }
}

#[derive(Clone, Debug)]
pub struct State<'a> {
    pub fleet: &'a Fleet,
    pub cells: Vec<Live>,
    pub at: Vec<Option<u32>>,
    /// For each kind: (room, cell) of those with any, so that the fullest with enough is found at once.
    rooms: Vec<BTreeSet<(u64, u32)>>,
    /// For each group: its kinds, the one with the cheapest places first.
    preferred: Vec<Vec<u32>>,
    /// For each kind and group: tenants of the group in cells of the kind.
    inside: Vec<Vec<BTreeSet<u32>>>,
    opened: u32,
    free: u64,
    names: HashSet<&'a str>,
}

impl<'a> State<'a> {
    pub fn of(fleet: &'a Fleet) -> Self {
        let kinds = fleet.cells.iter().map(|cell| cell.kind).chain(fleet.offers.iter().map(|offer| offer.kind));
        let kinds = kinds.max().map_or(0, |kind| kind as usize + 1);
        let mut rate = vec![i64::MAX; kinds];
        let of_cells = fleet.cells.iter().map(|cell| (cell.kind, cell.price_cents.get(), cell.places));
        let of_offers = fleet.offers.iter().map(|offer| (offer.kind, offer.price_cents.get(), offer.places));
        for (kind, price, places) in of_cells.chain(of_offers) {
            let own = price.saturating_mul(1000) / i64::from(places.max(1));
            rate[kind as usize] = rate[kind as usize].min(own);
        }
        let preferred = |group: &super::Group| {
            let mut kinds: Vec<u32> = group.kinds.iter().copied().filter(|kind| (*kind as usize) < kinds).collect();
            kinds.sort_by_key(|kind| (rate[*kind as usize], *kind));
            kinds
        };
        let mut state = Self {
            fleet,
            cells: Vec::with_capacity(fleet.cells.len()),
            at: vec![None; fleet.tenants.len()],
            rooms: vec![BTreeSet::new(); kinds],
            preferred: fleet.groups.iter().map(preferred).collect(),
            inside: vec![vec![BTreeSet::new(); fleet.groups.len()]; kinds],
            opened: 0,
            free: 0,
            names: fleet.cells.iter().map(|cell| cell.name.as_str()).collect(),
        };
        for cell in &fleet.cells {
            state.add(Live {
                name: cell.name.clone(),
                kind: cell.kind,
                price: cell.price_cents.get(),
                places: cell.places,
                used: 0,
                tenants: Vec::new(),
                takes: cell.takes_tenants,
                open: true,
            });
        }
        for (n, tenant) in fleet.tenants.iter().enumerate() {
            if let Some(cell) = tenant.cell {
                state.put(n as u32, cell);
            }
        }
        state
    }

    /// Kinds of place are numbered from 0.
    pub fn kinds(&self) -> usize {
        self.rooms.len()
    }

    pub fn add(&mut self, cell: Live) -> u32 {
        let number = self.cells.len() as u32;
        self.cells.push(cell);
        self.note_room(number);
        number
    }

    fn forget_room(&mut self, cell: u32) {
        let live = &self.cells[cell as usize];
        let room = live.room();
        if self.rooms[live.kind as usize].remove(&(room, cell)) {
            self.free -= room;
        }
    }

    fn note_room(&mut self, cell: u32) {
        let live = &self.cells[cell as usize];
        let room = live.room();
        if room > 0 && self.rooms[live.kind as usize].insert((room, cell)) {
            self.free += room;
        }
    }

    /// The fullest cell that has room for the tenant, in the cheapest kind that has one. Never the cell `but`.
    pub fn room_for(&self, tenant: u32, but: Option<u32>) -> Option<u32> {
        let weight = self.weight(tenant);
        let kinds = &self.preferred[self.fleet.tenants[tenant as usize].group as usize];
        kinds.iter().find_map(|kind| {
            let fitting = self.rooms[*kind as usize].range((weight, 0)..);
            fitting.map(|(_, cell)| *cell).find(|cell| Some(*cell) != but)
        })
    }

    /// Moves that make room for a tenant, in the order in which they can be made: (who, where to), the tenant itself last.
    ///
    /// A chain over kinds of place: somebody of this kind could live in that kind, somebody there in a third, which has
    /// room. Without it tenants that may live anywhere would keep places from those that may live in few.
    pub fn chain_for(&self, tenant: u32) -> Option<Vec<(u32, u32)>> {
        let here = self.at[tenant as usize];
        let mut links: Vec<Link> = Vec::new();
        let mut seen = vec![false; self.rooms.len()];
        let first = &self.preferred[self.fleet.tenants[tenant as usize].group as usize];
        let mut queue: VecDeque<(u32, Option<usize>)> = first.iter().map(|kind| (*kind, None)).collect();
        for kind in first {
            seen[*kind as usize] = true;
        }
        while let Some((kind, before)) = queue.pop_front() {
            let coming = before.map_or(tenant, |link: usize| links[link].who);
            for (group, inside) in self.inside[kind as usize].iter().enumerate() {
                let Some((other, cell)) = self.gives_way(inside, coming, here) else { continue };
                let onward = &self.preferred[group];
                if onward.iter().all(|k| seen[*k as usize] && self.rooms[*k as usize].is_empty()) {
                    continue;
                }
                links.push(Link { who: other, cell, before });
                let link = links.len() - 1;
                if let Some(to) = self.room_for(other, Some(cell)) {
                    let moves = along(&links, link, to, tenant);
                    // A cell that one leaves and two enter may not have room for both.
                    let twice = moves.iter().enumerate().any(|(n, (_, to))| moves[..n].iter().any(|m| m.1 == *to));
                    if !twice {
                        return Some(moves);
                    }
                }
                for next in onward {
                    if !std::mem::replace(&mut seen[*next as usize], true) {
                        queue.push_back((*next, Some(link)));
                    }
                }
            }
        }
        None
    }

    /// One of these tenants whose place would be large enough for the one that comes.
    fn gives_way(&self, inside: &BTreeSet<u32>, coming: u32, here: Option<u32>) -> Option<(u32, u32)> {
        /// Neighbours of one kind and group differ in weight and cell alone, so a few of them say enough.
        const LOOKS: usize = 32;
        /// Those in cells that take nobody are passed over: where several cells are given up at once they are many.
        const PASSED: usize = 2000;
        let weight = self.weight(coming);
        let stay = inside.iter().take(PASSED).filter_map(|other| {
            let cell = self.at[*other as usize]?;
            let live = &self.cells[cell as usize];
            (Some(cell) != here && live.open && live.takes && *other != coming).then_some((*other, cell))
        });
        let enough = |(other, cell): &(u32, u32)| self.cells[*cell as usize].room() + self.weight(*other) >= weight;
        stay.take(LOOKS).find(enough)
    }

    /// All places that are free.
    pub fn room_everywhere(&self) -> u64 {
        self.free
    }

    pub fn set_takes(&mut self, cell: u32, takes: bool) {
        self.forget_room(cell);
        self.cells[cell as usize].takes = takes;
        self.note_room(cell);
    }

    pub fn reopen(&mut self, cell: u32, takes: bool) {
        self.cells[cell as usize].open = true;
        self.set_takes(cell, takes);
    }

    pub fn close(&mut self, cell: u32) {
        self.forget_room(cell);
        self.cells[cell as usize].open = false;
    }

    /// A new cell of an offer, under a name that is not taken.
    pub fn open(&mut self, offer: usize) -> (u32, Opened) {
        let offer = &self.fleet.offers[offer];
        let name = loop {
            self.opened += 1;
            let name = format!("{}-new-{}", offer.name, self.opened);
            if !self.names.contains(name.as_str()) {
                break name;
            }
        };
        let cell = Live {
            name: name.clone(),
            kind: offer.kind,
            price: offer.price_cents.get(),
            places: offer.places,
            used: 0,
            tenants: Vec::new(),
            takes: true,
            open: true,
        };
        let opened = Opened { cell: name, offer: offer.name.clone(), price_cents: offer.price_cents };
        (self.add(cell), opened)
    }

    pub fn weight(&self, tenant: u32) -> u64 {
        u64::from(self.fleet.tenants[tenant as usize].weight)
    }

    pub fn may(&self, tenant: u32, cell: u32) -> bool {
        self.fleet.groups[self.fleet.tenants[tenant as usize].group as usize].may(self.cells[cell as usize].kind)
    }

    /// Whether a tenant is somewhere that keeps its constraints.
    pub fn is_right(&self, tenant: u32) -> bool {
        self.at[tenant as usize].is_some_and(|cell| self.may(tenant, cell))
    }

    pub fn put(&mut self, tenant: u32, cell: u32) {
        let weight = self.weight(tenant);
        self.forget_room(cell);
        let to = &mut self.cells[cell as usize];
        to.used += weight;
        to.tenants.push(tenant);
        let kind = to.kind as usize;
        self.at[tenant as usize] = Some(cell);
        self.inside[kind][self.fleet.tenants[tenant as usize].group as usize].insert(tenant);
        self.note_room(cell);
    }

    pub fn take(&mut self, tenant: u32) {
        let Some(cell) = self.at[tenant as usize].take() else { return };
        let weight = self.weight(tenant);
        self.forget_room(cell);
        let from = &mut self.cells[cell as usize];
        from.used -= weight;
        // Most often it is the last: cells are emptied from their end.
        if let Some(at) = from.tenants.iter().rposition(|t| *t == tenant) {
            from.tenants.swap_remove(at);
        }
        let kind = from.kind as usize;
        self.inside[kind][self.fleet.tenants[tenant as usize].group as usize].remove(&tenant);
        self.note_room(cell);
    }

    pub fn shift(&mut self, tenant: u32, to: u32) -> FleetMove {
        let from = self.at[tenant as usize].map(|cell| self.cells[cell as usize].name.clone());
        self.take(tenant);
        self.put(tenant, to);
        let tenant = self.fleet.tenants[tenant as usize].name.clone();
        FleetMove { tenant, from, to: self.cells[to as usize].name.clone() }
    }

    pub fn bill(&self) -> Cents {
        Cents::new(self.cells.iter().filter(|cell| cell.open).map(|cell| cell.price).sum())
    }
}

/// The moves of a chain, the last link first.
fn along(links: &[Link], last: usize, to: u32, tenant: u32) -> Vec<(u32, u32)> {
    let mut moves = vec![(links[last].who, to)];
    let mut at = last;
    while let Some(before) = links[at].before {
        moves.push((links[before].who, links[at].cell));
        at = before;
    }
    moves.push((tenant, links[at].cell));
    moves
}
