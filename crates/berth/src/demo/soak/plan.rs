//! What a soak decides: who moves where, what goes wrong and when. The seed alone decides each draw.
//!
//! Pure. Every move draws from a generator of its own, so that what became of an earlier move changes only the choices
//! that stand open, never the dice of the later ones.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::Duration;

/// One of the two cells of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Source,
    Target,
}

/// Who gets `kill -9`. The mover runs inside the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Control,
    ControlPostgres,
    Edge,
    Postgres(Cell),
    Member(Cell),
}

/// Who is stopped for a while and goes on as if nothing had been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Control,
    Edge,
    /// One of the mover's sessions in that Postgres.
    Backend(Cell),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Victim),
    Stop(Process, Duration),
    /// Nothing passes between that cell's Postgres and anybody, and nobody is told.
    Cut(Cell, Duration),
    /// Not a byte more fits on the disk that all databases, members and servers share.
    Full(Duration),
    /// A slot of the move is dropped.
    Slot(Cell),
}

impl Fault {
    pub const fn as_str(self) -> &'static str {
        use Cell::{Source, Target};
        match self {
            Self::Kill(Victim::Control) => "kill control",
            Self::Kill(Victim::ControlPostgres) => "kill control's postgres",
            Self::Kill(Victim::Edge) => "kill edge",
            Self::Kill(Victim::Postgres(Source)) => "kill source's postgres",
            Self::Kill(Victim::Postgres(Target)) => "kill target's postgres",
            Self::Kill(Victim::Member(Source)) => "kill source's member",
            Self::Kill(Victim::Member(Target)) => "kill target's member",
            Self::Stop(Process::Control, _) => "stop control",
            Self::Stop(Process::Edge, _) => "stop edge",
            Self::Stop(Process::Backend(Source), _) => "stop a session in the source",
            Self::Stop(Process::Backend(Target), _) => "stop a session in the target",
            Self::Cut(Source, _) => "cut off the source",
            Self::Cut(Target, _) => "cut off the target",
            Self::Full(_) => "full disk",
            Self::Slot(Source) => "lose the slot in the source",
            Self::Slot(Target) => "lose the slot in the target",
        }
    }

    fn drawn(random: &mut StdRng) -> Self {
        let cells = [Cell::Source, Cell::Target];
        let cell = cells[random.random_range(0..cells.len())];
        let most = HOLD_MS[random.random_range(0..HOLD_MS.len())];
        let hold = Duration::from_millis(random.random_range(0..most));
        let kills =
            [Victim::Control, Victim::ControlPostgres, Victim::Edge, Victim::Postgres(cell), Victim::Member(cell)];
        let stops = [Process::Control, Process::Edge, Process::Backend(cell), Process::Backend(cell)];
        let (kill, stop) = (random.random_range(0..kills.len()), random.random_range(0..stops.len()));
        match random.random_range(0..100) {
            0..40 => Self::Kill(kills[kill]),
            40..65 => Self::Stop(stops[stop], hold),
            65..80 => Self::Cut(cell, hold),
            80..90 => Self::Full(hold),
            _ => Self::Slot(cell),
        }
    }
}

/// From when on the delay of the first fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The request that starts the move was answered.
    Start,
    /// The move's step of this name has begun.
    Step(&'static str),
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Into a cell of its own, which is made for it.
    Up,
    /// From one shared cell to the other.
    Across,
    /// From a cell of its own into a shared one.
    Down,
}

impl Way {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Across => "across",
            Self::Down => "down",
        }
    }
}

/// The dice of one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dice {
    /// Rather this way, where somebody can.
    pub way: Way,
    /// Which of those who can, modulo their number.
    pub who: u64,
    pub first: (Fault, From, Duration),
    /// So long after the first one.
    pub second: Option<(Fault, Duration)>,
    /// A person gives the move up, so long after the moment from which the first fault counts: the way back runs
    /// under the same faults.
    pub given_up: Option<Duration>,
    /// A move that has succeeded is undone, under faults of its own.
    pub undone: bool,
    /// A person lets a move stay that is not undone: what it left behind goes.
    pub settled: bool,
}

/// Most faults fall where a move has something to lose.
const IN_WINDOW_PERCENT: u32 = 90;
const SECOND_PERCENT: u32 = 30;
const GIVEN_UP_PERCENT: u32 = 15;
const UNDONE_PERCENT: u32 = 30;
const SETTLED_PERCENT: u32 = 50;
/// How long something is stopped, cut off or full, at most: an instant, and longer than any limit of a pause.
const HOLD_MS: [u64; 3] = [300, 3_000, 12_000];
/// The cut-over is where it matters most.
const STEPS: [&str; 6] = ["prepare", "copy", "build", "cut_over", "cut_over", "cut_over"];
/// About as long as a step of a small tenant lasts on an idle machine: a longer delay would strike after the move.
const STEP_DELAY_MS: u64 = 100;
const START_DELAY_MS: u64 = 3_000;
/// A fault within a fault, or one into the recovery from it.
const SECOND_DELAY_MS: [u64; 2] = [50, 2_500];

impl Dice {
    pub fn of(seed: u64, nth: u32) -> Self {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(nth));
        let late = |random: &mut StdRng| {
            let most = SECOND_DELAY_MS[random.random_range(0..SECOND_DELAY_MS.len())];
            random.random_range(0..most)
        };
        let way = [Way::Up, Way::Across, Way::Down][random.random_range(0..3)];
        let who = random.random();
        let first = Fault::drawn(&mut random);
        let (from, most) = if random.random_ratio(IN_WINDOW_PERCENT, 100) {
            (From::Step(STEPS[random.random_range(0..STEPS.len())]), STEP_DELAY_MS)
        } else {
            (From::Start, START_DELAY_MS)
        };
        let delay = Duration::from_millis(random.random_range(0..most));
        let second = random
            .random_ratio(SECOND_PERCENT, 100)
            .then(|| (Fault::drawn(&mut random), Duration::from_millis(late(&mut random))));
        let given_up = random
            .random_ratio(GIVEN_UP_PERCENT, 100)
            .then(|| Duration::from_millis(random.random_range(0..STEP_DELAY_MS)));
        let undone = random.random_ratio(UNDONE_PERCENT, 100);
        let settled = random.random_ratio(SETTLED_PERCENT, 100);
        Self { way, who, first: (first, from, delay), second, given_up, undone, settled }
    }
}

/// Where a tenant is, as far as the choice goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// In one of the two shared cells.
    pub shared: bool,
    /// A shared cell may be moved to: the way back into the other one is not open, or it is not in that.
    pub may_enter: bool,
}

/// Picks who moves, and which way. `None`: nobody can.
pub fn choose(dice: &Dice, places: &[Place], dedicated: usize, dedicated_most: usize) -> Option<(usize, Way)> {
    let open = |way: Way| -> Vec<usize> {
        let can = |place: &Place| match way {
            // From one dedicated cell to the next makes one and empties one.
            Way::Up => dedicated < dedicated_most || !place.shared,
            Way::Across => place.shared && place.may_enter,
            Way::Down => !place.shared && place.may_enter,
        };
        (0..places.len()).filter(|&nth| can(&places[nth])).collect()
    };
    let (way, open) = [dice.way, Way::Across, Way::Down, Way::Up]
        .into_iter()
        .map(|way| (way, open(way)))
        .find(|(_, open)| !open.is_empty())?;
    let nth = usize::try_from(dice.who % u64::try_from(open.len()).ok()?).ok()?;
    Some((open[nth], way))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let drawn = |seed| (0..50).map(|nth| Dice::of(seed, nth)).collect::<Vec<_>>();
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn every_fault_and_every_step_is_drawn_and_most_faults_aim_at_the_window() {
        let drawn: Vec<Dice> = (0..1_000).map(|nth| Dice::of(1, nth)).collect();
        let names: BTreeSet<&str> = drawn.iter().map(|dice| dice.first.0.as_str()).collect();
        assert_eq!(names.len(), 16, "{names:?}");
        for step in STEPS {
            assert!(drawn.iter().any(|dice| dice.first.1 == From::Step(step)), "{step}");
        }
        let aimed = drawn.iter().filter(|dice| dice.first.1 != From::Start).count();
        assert!(aimed * 10 > drawn.len() * 8, "{aimed} of {}", drawn.len());
    }

    #[test]
    fn nobody_is_sent_where_its_rows_still_lie_and_dedicated_cells_stay_few() {
        let place = |shared, may_enter| Place { shared, may_enter };
        let places = [place(true, true), place(true, false), place(false, false), place(false, true)];
        let mut seen = BTreeSet::new();
        for nth in 0..200 {
            let (who, way) = choose(&Dice::of(3, nth), &places, 1, 1).expect("somebody can move");
            seen.insert(way);
            match way {
                Way::Up => assert!(who > 1, "only one that leaves a dedicated cell may go to another"),
                Way::Across => assert_eq!(who, 0),
                Way::Down => assert_eq!(who, 3),
            }
        }
        assert_eq!(seen.len(), 3);
        assert_eq!(choose(&Dice::of(3, 0), &[], 0, 4), None);
    }
}
