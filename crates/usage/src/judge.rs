//! What follows from a tenant's usage: nothing, or a proposal to put it elsewhere, and who has to agree to that.
//!
//! The placement engine says where a tenant belongs; this says whether that is worth saying now. A dearer plan needs a
//! signal or an issue, a cheaper one needs every quota low, and another cell of the same kind needs an issue: what a
//! cheaper cell would save is the fleet plan's business. Never decides where.

use crate::Signal;
use berth_domain::{CellClass, Cents};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Where a tenant is, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub plan: String,
    pub class: CellClass,
    /// A cell that exists; `None`: a new one.
    pub cell: Option<String>,
    pub price_cents: Cents,
}

/// What is wrong where the tenant is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Issue {
    /// It is served slowly, with errors, or by processors that have no time left.
    Performance { says: String },
    /// Its place breaks what it has to meet.
    Compliance { says: String },
}

/// What was measured of how a tenant is served. `None`: nobody measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    pub requests: u64,
    pub response_ms: Option<f64>,
    pub error_share: Option<f64>,
    pub cpu_share: Option<f64>,
    /// What its users accept, where its profile says so; else the guide's limit stands.
    pub wanted_ms: Option<f64>,
}

/// The guide's limits of what is no issue yet.
const RESPONSE_MS: f64 = 200.0;
const ERROR_SHARE: f64 = 0.05;
const CPU_SHARE: f64 = 0.8;
/// Fewer requests say nothing about how a tenant is served.
const REQUESTS_MIN: u64 = 100;

/// What the guide calls a performance issue.
pub fn performance(served: &Served) -> Option<Issue> {
    let enough = served.requests >= REQUESTS_MIN;
    let mut says = Vec::new();
    let wanted_ms = served.wanted_ms.unwrap_or(RESPONSE_MS).min(RESPONSE_MS);
    if let Some(ms) = served.response_ms.filter(|ms| enough && *ms > wanted_ms) {
        says.push(format!("answers take {ms:.0} ms on average, more than {wanted_ms:.0}"));
    }
    if let Some(share) = served.error_share.filter(|share| enough && *share > ERROR_SHARE) {
        says.push(format!("{:.1} % of its requests fail, more than {:.0} %", share * 100.0, ERROR_SHARE * 100.0));
    }
    if let Some(share) = served.cpu_share.filter(|share| *share > CPU_SHARE) {
        says.push(format!("its cell's members use {:.0} % of their processors", share * 100.0));
    }
    (!says.is_empty()).then(|| Issue::Performance { says: says.join("; ") })
}

/// What a proposal comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Upgrade,
    Downgrade,
    Across,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Across => "across",
        }
    }
}

/// Whether a tenant should be somewhere else. `wanted`: where the engine puts it, with room to the threshold. An issue
/// of whatever kind allows a way up or across; only a broken constraint leads to a cheaper plan that nothing asks for.
pub fn propose(now: &Place, wanted: &Place, signal: Signal, issues: &[Issue]) -> Option<Direction> {
    let same_kind = now.plan == wanted.plan && now.class == wanted.class;
    let broken = issues.iter().any(|issue| matches!(issue, Issue::Compliance { .. }));
    if same_kind {
        return (!issues.is_empty() && now.cell != wanted.cell).then_some(Direction::Across);
    }
    let dearer = (wanted.price_cents, wanted.class) > (now.price_cents, now.class);
    match (dearer, signal) {
        (true, Signal::Over) => Some(Direction::Upgrade),
        (true, _) => (!issues.is_empty()).then_some(Direction::Upgrade),
        (false, Signal::Under) if issues.is_empty() => Some(Direction::Downgrade),
        (false, _) => broken.then_some(Direction::Across),
    }
}

/// What the guide's approval rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    pub confidence: f64,
    pub has_issue: bool,
    pub days_here: i64,
    /// Why a person has to agree however sure it is.
    pub caution: Option<Caution>,
    /// The stack file lets Berth act alone.
    pub automatic: bool,
    pub last_unattended: Option<Timestamp>,
}

/// What nobody but a person agrees to: it costs somebody money that nothing measured of the tenant's own asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caution {
    /// A dearer plan because of how it is served, with every quota kept.
    DearerPlan,
    /// A cell that would have to be made, for a tenant that stays on its plan.
    NewCell,
    /// More than the tenant is willing to pay.
    OverBudget,
}

impl Caution {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DearerPlan => "the plan is dearer, and no quota of its own asks for that",
            Self::NewCell => "it would need a cell that has to be made and paid for",
            Self::OverBudget => "it is over what the tenant is willing to pay",
        }
    }
}

/// What of a proposal a person has to see.
pub fn caution(
    direction: Direction,
    then: &Place,
    signal: Signal,
    issues: &[Issue],
    budget: Option<Cents>,
) -> Option<Caution> {
    let broken = issues.iter().any(|issue| matches!(issue, Issue::Compliance { .. }));
    if budget.is_some_and(|budget| then.price_cents > budget) {
        return Some(Caution::OverBudget);
    }
    match direction {
        Direction::Upgrade if signal != Signal::Over && !broken => Some(Caution::DearerPlan),
        Direction::Across if then.cell.is_none() => Some(Caution::NewCell),
        Direction::Upgrade | Direction::Downgrade | Direction::Across => None,
    }
}

/// Who agrees to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// Nobody has to.
    Alone { because: String },
    /// A person has to.
    Ask { because: String },
}

/// A tenant is moved without a person once in this time at most.
pub const UNATTENDED_EVERY: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The guide's rule: alone at a confidence above 0.9 with an issue, above 0.95 after more than 30 days at the same place,
/// and otherwise by a person. Alone only where the stack file says so, and once a month.
pub fn agreed(asked: &Asked, now: Timestamp) -> Agreed {
    let ask = |because: &str| Agreed::Ask { because: because.to_owned() };
    let confidence = asked.confidence;
    let by_rule = if confidence > 0.9 && asked.has_issue {
        format!("confidence {confidence:.2} is above 0.90, and there is an issue")
    } else if confidence > 0.95 && asked.days_here > 30 {
        format!("confidence {confidence:.2} is above 0.95 after {} days here", asked.days_here)
    } else {
        return Agreed::Ask { because: format!("confidence {confidence:.2} is not enough to act alone") };
    };
    if let Some(caution) = asked.caution {
        return ask(caution.as_str());
    }
    if !asked.automatic {
        return ask("the stack file lets nobody but a person agree");
    }
    match asked.last_unattended {
        Some(last) if now.duration_since(last) < UNATTENDED_EVERY => {
            ask("it was moved without a person within the last 30 days")
        }
        _ => Agreed::Alone { because: by_rule },
    }
}
