//! Which member gets a request.
//!
//! Pure: knows no socket and no clock, and is given its random numbers. A core's own: nothing here is shared, so counting
//! costs no atomic. Never chooses one that the caller says may not be chosen.

use crate::geo::Spot;
use berth_domain::Balance;
use std::cell::{Cell, RefCell};

/// The members that may be chosen among, by their place in the list.
pub trait Choice {
    fn number(&self) -> usize;
    fn may(&self, at: usize) -> bool;
    fn weight(&self, at: usize) -> u32;
    /// Requests and tunnels that it has from this core.
    fn busy(&self, at: usize) -> u32;
    /// The same for this member at every edge and after every change of the list.
    fn seed(&self, at: usize) -> u64;
}

/// What a request says about its client, where the way of balancing asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Of its address.
    pub client: u64,
    /// Place of the member that its cookie names.
    pub sticky: Option<usize>,
    /// Where it is, when members are in several regions.
    pub spot: Option<Spot>,
    /// The only region that it may be served in, by the pool's number of it.
    pub only: Option<usize>,
}

/// The state of one list's balancing on one core.
#[derive(Debug, Default)]
pub struct Chooser {
    turn: Cell<usize>,
    credit: RefCell<Vec<i64>>,
}

impl Chooser {
    /// `None`: none may be chosen.
    pub fn choose(
        &self,
        how: Balance,
        among: &impl Choice,
        wish: Wish,
        random: &mut impl FnMut() -> u64,
    ) -> Option<usize> {
        match how {
            Balance::RoundRobin => self.next(among),
            Balance::Weighted => self.weighted(among),
            Balance::LeastConnections => self.least(among),
            Balance::TwoChoices => two_choices(among, random),
            Balance::ClientAddress => by_client(among, wish.client),
            Balance::Sticky => match wish.sticky {
                Some(at) if at < among.number() && among.may(at) => Some(at),
                _ => self.weighted(among),
            },
        }
    }

    fn turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    fn next(&self, among: &impl Choice) -> Option<usize> {
        nth(among, self.turn())
    }

    /// Smooth weighted turns: everyone earns its weight, the richest is chosen and pays for all. 5, 1, 1 gives
    /// a a b a c a a, and not a a a a a b c.
    fn weighted(&self, among: &impl Choice) -> Option<usize> {
        let mut credit = self.credit.borrow_mut();
        credit.resize(among.number(), 0);
        let (mut best, mut total) = (None::<usize>, 0);
        for at in (0..among.number()).filter(|at| among.may(*at)) {
            let weight = i64::from(among.weight(at));
            credit[at] += weight;
            total += weight;
            if best.is_none_or(|best| credit[at] > credit[best]) {
                best = Some(at);
            }
        }
        credit[best?] -= total;
        best
    }

    /// Of those equally busy by turns, or the first of the list would have all of a quiet time's requests.
    fn least(&self, among: &impl Choice) -> Option<usize> {
        let (number, turn) = (among.number(), self.turn());
        let in_turn = (0..number).map(|step| turn.wrapping_add(step) % number).filter(|at| among.may(*at));
        in_turn.reduce(|best, at| if less_busy(among, at, best) { at } else { best })
    }
}

/// The n-th of those that may be chosen, round and round.
fn nth(among: &impl Choice, n: usize) -> Option<usize> {
    let number = among.number();
    let able = (0..number).filter(|at| among.may(*at)).count();
    if able == number {
        return n.checked_rem(number);
    }
    let n = n.checked_rem(able)?;
    (0..number).filter(|at| among.may(*at)).nth(n)
}

/// Busy in proportion to the weight.
fn less_busy(among: &impl Choice, one: usize, other: usize) -> bool {
    let share = |at, weight_of| u64::from(among.busy(at)) * u64::from(among.weight(weight_of));
    share(one, other) < share(other, one)
}

fn two_choices(among: &impl Choice, random: &mut impl FnMut() -> u64) -> Option<usize> {
    let able = (0..among.number()).filter(|at| among.may(*at)).count() as u64;
    if able < 2 {
        return nth(among, 0);
    }
    let drawn = random();
    let (one, step) = ((drawn >> 32) % able, 1 + (drawn & 0xffff_ffff) % (able - 1));
    let (one, other) = (nth(among, one as usize)?, nth(among, ((one + step) % able) as usize)?);
    Some(if less_busy(among, other, one) { other } else { one })
}

/// Highest random weight: everyone draws a lot that depends on client and member alone, so a member that comes or goes
/// takes clients from all others, or gives its own to all, and moves nobody else.
fn by_client(among: &impl Choice, client: u64) -> Option<usize> {
    let lot = |at: usize| {
        let drawn = mix(client ^ among.seed(at)) >> 11;
        // Between 0 and 1 and never either.
        let drawn = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(among.weight(at)) / -drawn.ln()
    };
    let able = (0..among.number()).filter(|at| among.may(*at)).map(|at| (at, lot(at)));
    able.reduce(|best, one| if one.1 > best.1 { one } else { best }).map(|(at, _)| at)
}

/// What the generator's state is moved on by.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads what differs in a few bits over all of them (splitmix64).
pub fn mix(from: u64) -> u64 {
    let mixed = from.wrapping_add(GOLDEN);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The same number for the same bytes at every edge (FNV-1a).
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
