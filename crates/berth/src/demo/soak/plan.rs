//! What a soak decides: who moves where, what is killed and when. The seed alone decides each draw.
//!
//! Pure. Every move draws from a generator of its own, so that what became of an earlier move changes only the choices
//! that stand open, never the dice of the later ones.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::Duration;

/// Who gets `kill -9`. The mover runs inside the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Control,
    ControlPostgres,
    Edge,
    SourcePostgres,
    TargetPostgres,
    SourceMember,
    TargetMember,
}

impl Victim {
    pub const ALL: [Self; 7] = [
        Self::Control,
        Self::ControlPostgres,
        Self::Edge,
        Self::SourcePostgres,
        Self::TargetPostgres,
        Self::SourceMember,
        Self::TargetMember,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::ControlPostgres => "control's postgres",
            Self::Edge => "edge",
            Self::SourcePostgres => "source's postgres",
            Self::TargetPostgres => "target's postgres",
            Self::SourceMember => "source's member",
            Self::TargetMember => "target's member",
        }
    }
}

/// From when on the delay of the first kill counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The request that starts the move was answered.
    Start,
    /// The move's step of this name has begun.
    Step(&'static str),
}

/// The dice of one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dice {
    /// Rather to a cell of its own than across, where both can be.
    pub up: bool,
    /// Which of those who can, modulo their number.
    pub who: u64,
    pub first: (Victim, From, Duration),
    /// So long after the first one.
    pub second: Option<(Victim, Duration)>,
    /// A person gives the move up, so long after the moment from which the first kill counts: the way back runs
    /// under the same kills.
    pub given_up: Option<Duration>,
    /// A move that has succeeded is undone, under kills of its own.
    pub undone: bool,
}

/// One move in this many is upward, which costs a new Postgres.
const UP_ONE_IN: u32 = 3;
/// Most kills fall where a move has something to lose.
const IN_WINDOW_PERCENT: u32 = 90;
const SECOND_PERCENT: u32 = 30;
const GIVEN_UP_PERCENT: u32 = 15;
const UNDONE_PERCENT: u32 = 30;
/// The cut-over is where it matters most.
const STEPS: [&str; 6] = ["prepare", "copy", "build", "cut_over", "cut_over", "cut_over"];
/// About as long as a step of a small tenant lasts on an idle machine: a longer delay would strike after the move.
const STEP_DELAY_MS: u64 = 100;
const START_DELAY_MS: u64 = 3_000;
/// A kill within a kill, or one into the recovery from it.
const SECOND_DELAY_MS: [u64; 2] = [50, 2_500];

impl Dice {
    pub fn of(seed: u64, nth: u32) -> Self {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(nth));
        let victim = |random: &mut StdRng| Victim::ALL[random.random_range(0..Victim::ALL.len())];
        let late = |random: &mut StdRng| {
            let most = SECOND_DELAY_MS[random.random_range(0..SECOND_DELAY_MS.len())];
            random.random_range(0..most)
        };
        let up = random.random_ratio(1, UP_ONE_IN);
        let who = random.random();
        let first = victim(&mut random);
        let (from, most) = if random.random_ratio(IN_WINDOW_PERCENT, 100) {
            (From::Step(STEPS[random.random_range(0..STEPS.len())]), STEP_DELAY_MS)
        } else {
            (From::Start, START_DELAY_MS)
        };
        let delay = Duration::from_millis(random.random_range(0..most));
        let second = random
            .random_ratio(SECOND_PERCENT, 100)
            .then(|| (victim(&mut random), Duration::from_millis(late(&mut random))));
        let given_up = random
            .random_ratio(GIVEN_UP_PERCENT, 100)
            .then(|| Duration::from_millis(random.random_range(0..STEP_DELAY_MS)));
        let undone = random.random_ratio(UNDONE_PERCENT, 100);
        Self { up, who, first: (first, from, delay), second, given_up, undone }
    }
}

/// Where a tenant is, as far as the choice goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub cell: String,
    /// The other shared cell still has no rows that it left behind.
    pub may_cross: bool,
}

/// Picks who moves, and whether upward. `None`: nobody can.
pub fn choose(dice: &Dice, places: &[Place], dedicated: usize, dedicated_most: usize) -> Option<(usize, bool)> {
    let shared = |place: &Place| place.cell.starts_with("shared-");
    // From one dedicated cell to the next makes one and empties one.
    let up: Vec<usize> = (0..places.len()).filter(|&nth| dedicated < dedicated_most || !shared(&places[nth])).collect();
    let across: Vec<usize> = (0..places.len()).filter(|&nth| shared(&places[nth]) && places[nth].may_cross).collect();
    let upward = if dice.up { !up.is_empty() } else { across.is_empty() };
    let open = if upward { up } else { across };
    let count = u64::try_from(open.len()).ok().filter(|count| *count > 0)?;
    let nth = usize::try_from(dice.who % count).ok()?;
    Some((open[nth], upward))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let drawn = |seed| (0..50).map(|nth| Dice::of(seed, nth)).collect::<Vec<_>>();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn every_victim_and_every_step_is_drawn_and_most_kills_aim_at_the_window() {
        let drawn: Vec<Dice> = (0..400).map(|nth| Dice::of(1, nth)).collect();
        for victim in Victim::ALL {
            assert!(drawn.iter().any(|dice| dice.first.0 == victim), "{}", victim.as_str());
        }
        for step in STEPS {
            assert!(drawn.iter().any(|dice| dice.first.1 == From::Step(step)), "{step}");
        }
        let aimed = drawn.iter().filter(|dice| dice.first.1 != From::Start).count();
        assert!(aimed * 10 > drawn.len() * 8, "{aimed} of {}", drawn.len());
    }

    #[test]
    fn nobody_is_sent_where_its_rows_still_lie_and_dedicated_cells_stay_few() {
        let place = |cell: &str, may_cross| Place { cell: cell.into(), may_cross };
        let places = [place("shared-1", true), place("shared-2", false), place("t-1", false)];
        for nth in 0..200 {
            let dice = Dice::of(3, nth);
            match choose(&dice, &places, 1, 1) {
                Some((who, true)) => assert_eq!(who, 2, "only the one that leaves a dedicated cell may go to another"),
                Some((who, false)) => assert_eq!(who, 0),
                None => panic!("somebody can move"),
            }
        }
        assert_eq!(choose(&Dice::of(3, 0), &[], 0, 4), None);
    }
}
