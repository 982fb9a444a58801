//! Crashes and failures on purpose, at every place where a real one would hurt.
//!
//! Compiled always and free when unused (one `Option`), so that the code which tests crash is the code that runs.
//! Never kills a process: a crash here ends the run as a kill would, with nothing more written and the lease left behind.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// A place in a run at which it can crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The step is recorded as started, and the world does not know yet.
    BeforeRun,
    /// Between the world's change and its record.
    AfterRun,
    /// In the transaction that changes control state and records it, before its commit.
    BeforeCommit,
    AfterRecord,
    BeforeNoReturn,
    AfterNoReturn,
    /// The step's failure has been answered and not recorded.
    BeforeFailureRecord,
    BeforeUndo,
    /// Between the world's reversal and its record.
    AfterUndo,
    AfterUndoRecord,
    /// All steps are done (or undone), and the operation is not finished yet.
    BeforeFinish,
}

/// One passing of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub point: Point,
    pub seq: u32,
    pub step: &'static str,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of step {} `{}`", self.point, self.seq, self.step)
    }
}

/// When a step is made to fail for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Instead of its run.
    BeforeRun,
    /// After its run has changed the world: the undo that has to cope with `None`.
    AfterRun,
}

/// What is to go wrong. Shared by all workers of a test, so that a crash happens once and not to each of them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Option<Arc<Mutex<Plan>>>);

#[derive(Debug, Default)]
struct Plan {
    passed: Vec<Passed>,
    crash_at: Option<usize>,
    fail: Option<(u32, Failing)>,
    random: Option<(rand::rngs::StdRng, f64)>,
    crashes: usize,
}

/// The run ends here, as if its process had been killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crashed;

impl Faults {
    /// Nothing goes wrong, and nothing is counted.
    pub const fn none() -> Self {
        Self(None)
    }
    /// Nothing goes wrong, but each point is written down: a dry run tells where a crash is possible.
    pub fn counting() -> Self {
        Self::with(Plan::default())
    }
    /// Crashes at the `nth` point passed (from 0), once.
    pub fn crash(nth: usize) -> Self {
        Self::with(Plan { crash_at: Some(nth), ..Plan::default() })
    }
    /// The step of this sequence number fails for good, once.
    pub fn fail(seq: u32, when: Failing) -> Self {
        Self::with(Plan { fail: Some((seq, when)), ..Plan::default() })
    }
    /// Crashes also at the `nth` point.
    pub fn and_crash(self, nth: usize) -> Self {
        self.edit(|plan| plan.crash_at = Some(nth));
        self
    }
    /// Crashes at each point with this probability, the same for the same seed and order of events.
    pub fn random(seed: u64, probability: f64) -> Self {
        let rng = rand::SeedableRng::seed_from_u64(seed);
        Self::with(Plan { random: Some((rng, probability)), ..Plan::default() })
    }
    /// Every point passed so far, in order.
    pub fn passed(&self) -> Vec<Passed> {
        self.edit(|plan| plan.passed.clone()).unwrap_or_default()
    }
    /// How many crashes happened.
    pub fn crashes(&self) -> usize {
        self.edit(|plan| plan.crashes).unwrap_or(0)
    }

    pub(crate) fn reach(&self, point: Point, seq: u32, step: &'static str) -> Result<(), Crashed> {
        let crash = self.edit(|plan| {
            let nth = plan.passed.len();
            plan.passed.push(Passed { point, seq, step });
            let by_chance = plan.random.as_mut().is_some_and(|(rng, p)| rand::Rng::random_bool(rng, *p));
            let crash = by_chance || plan.crash_at == Some(nth);
            plan.crashes += usize::from(crash);
            crash
        });
        if crash == Some(true) { Err(Crashed) } else { Ok(()) }
    }

    /// Whether this step is to fail now; asked once per place, and forgotten once it said yes.
    pub(crate) fn fails(&self, seq: u32, when: Failing) -> bool {
        self.edit(|plan| plan.fail.take_if(|planned| *planned == (seq, when)).is_some()) == Some(true)
    }

    fn with(plan: Plan) -> Self {
        Self(Some(Arc::new(Mutex::new(plan))))
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> Option<T> {
        let plan = self.0.as_ref()?;
        Some(change(&mut plan.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
