//! The Chrono guide's growth phases: five sizes of infrastructure, and nine triggers between each two. Three that hold
//! mean that it is time. A figure that nobody has is unknown, and counts for neither side.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// One size of infrastructure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    pub number: u8,
    pub infrastructure: &'static str,
    /// A month, as the guide prints it.
    pub euro_cents: i64,
}

pub const PHASES: [Phase; 5] = [
    Phase { number: 1, infrastructure: "one CX32", euro_cents: 2585 },
    Phase { number: 2, infrastructure: "two CX22", euro_cents: 3190 },
    Phase { number: 3, infrastructure: "CX32, two CX22 and CPX21", euro_cents: 6535 },
    Phase { number: 4, infrastructure: "three CX32, two CX41 and a CDN", euro_cents: 17_500 },
    Phase { number: 5, infrastructure: "Kubernetes", euro_cents: 25_000 },
];

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    CpuPercent,
    MemoryPercent,
    ActiveUsers,
    ConcurrentJobs,
    DatabaseGib,
    RequestsPerMinute,
    RevenueEuro,
    P95Seconds,
    ErrorPercent,
}

impl Trigger {
    pub const ALL: [Self; 9] = [
        Self::CpuPercent,
        Self::MemoryPercent,
        Self::ActiveUsers,
        Self::ConcurrentJobs,
        Self::DatabaseGib,
        Self::RequestsPerMinute,
        Self::RevenueEuro,
        Self::P95Seconds,
        Self::ErrorPercent,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CpuPercent => "cpu_percent",
            Self::MemoryPercent => "memory_percent",
            Self::ActiveUsers => "active_users",
            Self::ConcurrentJobs => "concurrent_jobs",
            Self::DatabaseGib => "database_gib",
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RevenueEuro => "revenue_euro",
            Self::P95Seconds => "p95_s",
            Self::ErrorPercent => "error_percent",
        }
    }

    /// From which figure on it holds, by the phase one is in, 1 to 4.
    const fn thresholds(self) -> [f64; 4] {
        match self {
            Self::CpuPercent => [70.0, 75.0, 80.0, 85.0],
            Self::MemoryPercent => [75.0, 85.0, 85.0, 90.0],
            Self::ActiveUsers | Self::RequestsPerMinute => [100.0, 500.0, 2_000.0, 10_000.0],
            Self::ConcurrentJobs => [10.0, 50.0, 200.0, 1_000.0],
            Self::DatabaseGib => [20.0, 50.0, 200.0, 1_000.0],
            Self::RevenueEuro => [500.0, 2_000.0, 5_000.0, 15_000.0],
            Self::P95Seconds => [2.0, 1.5, 1.0, 0.5],
            Self::ErrorPercent => [1.0, 0.5, 0.1, 0.05],
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Trigger {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|t| t.as_str() == text).ok_or_else(|| format!("`{text}` is none of {}", all()))
    }
}

/// One trigger between two phases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    pub trigger: Trigger,
    pub threshold: f64,
    pub has: Option<f64>,
    /// `None`: unknown.
    pub holds: Option<bool>,
}

/// The phase that a month's cost belongs to: the last whose price it reaches.
pub fn phase_by_cost(euro_cents: i64) -> u8 {
    PHASES.iter().rev().find(|phase| phase.euro_cents <= euro_cents).map_or(1, |phase| phase.number)
}

#[derive(Clone, Debug, PartialEq)]
pub struct PhaseAdvice {
    pub now: Phase,
    /// `None` in the last one.
    pub next: Option<Phase>,
    pub triggers: Vec<Transition>,
    pub held: usize,
    pub unknown: usize,
    /// It is time for the next phase.
    pub go: bool,
}

/// How many triggers have to hold.
const ENOUGH: usize = 3;

/// `None`: there is no such phase.
pub fn next_phase(now: u8, figures: &BTreeMap<Trigger, f64>) -> Option<PhaseAdvice> {
    let at = PHASES.iter().position(|phase| phase.number == now)?;
    let next = PHASES.get(at + 1).copied();
    let triggers: Vec<Transition> = match next {
        None => Vec::new(),
        Some(_) => Trigger::ALL
            .into_iter()
            .map(|trigger| {
                let threshold = trigger.thresholds()[at];
                let has = figures.get(&trigger).copied();
                Transition { trigger, threshold, has, holds: has.map(|has| has >= threshold) }
            })
            .collect(),
    };
    let held = triggers.iter().filter(|t| t.holds == Some(true)).count();
    let unknown = triggers.iter().filter(|t| t.holds.is_none()).count();
    Some(PhaseAdvice { now: PHASES[at], next, triggers, held, unknown, go: held >= ENOUGH })
}

#[cfg(test)]
mod tests {
    use super::{PHASES, Trigger, next_phase, phase_by_cost};

    #[test]
    fn a_months_cost_says_which_phase_it_is() {
        let phases = [0, 2584, 2585, 3189, 3190, 6535, 17_500, 1_000_000].map(phase_by_cost);
        assert_eq!(phases, [1, 1, 1, 1, 2, 3, 4, 5]);
    }

    fn figures(known: &[(Trigger, f64)]) -> std::collections::BTreeMap<Trigger, f64> {
        known.iter().copied().collect()
    }

    #[test]
    fn a7_three_of_nine_triggers_mean_the_next_phase_and_two_mean_stay() {
        let three = [(Trigger::CpuPercent, 72.0), (Trigger::ActiveUsers, 100.0), (Trigger::P95Seconds, 2.1)];
        let advice = next_phase(1, &figures(&three)).unwrap();
        assert!(advice.go && advice.held == 3 && advice.unknown == 6, "{advice:?}");
        assert_eq!(advice.next.map(|phase| phase.number), Some(2));
        assert!(!next_phase(1, &figures(&three[..2])).unwrap().go);
        assert_eq!(
            next_phase(2, &figures(&three)).unwrap().held,
            1,
            "of phase 2 the figures are higher: only p95 holds"
        );
    }

    #[test]
    fn what_nobody_measured_moves_nobody() {
        let advice = next_phase(1, &figures(&[])).unwrap();
        assert_eq!((advice.go, advice.held, advice.unknown), (false, 0, 9));
    }

    #[test]
    fn after_the_last_phase_there_is_none_and_there_is_no_sixth() {
        let all: Vec<_> = Trigger::ALL.iter().map(|t| (*t, 1e9)).collect();
        let advice = next_phase(5, &figures(&all)).unwrap();
        assert!(advice.next.is_none() && !advice.go);
        assert!(next_phase(0, &figures(&all)).is_none() && next_phase(6, &figures(&all)).is_none());
        assert!(PHASES.windows(2).all(|pair| pair[0].euro_cents < pair[1].euro_cents));
    }
}
