//! How many copies of a service a cell needs: what its members use against what they should, within bounds.
//!
//! Pure, and asked again and again: what it answers is wanted, not done.

use jiff::{SignedDuration, Timestamp};

/// A service's own bounds and targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub min: u16,
    pub max: u16,
    /// Of what a member is promised, in percent; the guides' 70.
    pub cpu_percent: u32,
    /// The guides' 80.
    pub memory_percent: u32,
    /// After a change nothing is changed for this long.
    pub cooldown: SignedDuration,
}

/// What one member used lately. `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
}

/// What may be spent on more copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purse {
    /// What one more copy costs a month.
    pub price_cents: i64,
    /// What is left of the budget.
    pub left_cents: i64,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaling {
    pub copies: u16,
    pub because: String,
}

/// Usage this near to its target is at its target: a change would be undone by the next look.
const TOLERANCE: f64 = 0.1;

/// How many copies there should be. `None`: as many as there are. `loads` has one for each running copy; copies of
/// which nothing is known neither add nor take away.
pub fn plan_copies(
    scale: &Scale,
    copies: u16,
    loads: &[Load],
    changed: Option<Timestamp>,
    purse: Option<&Purse>,
    now: Timestamp,
) -> Option<Scaling> {
    if copies < scale.min || copies > scale.max {
        let copies = copies.clamp(scale.min, scale.max.max(scale.min));
        return Some(Scaling { copies, because: format!("{} to {} copies are allowed", scale.min, scale.max) });
    }
    if changed.is_some_and(|at| now.duration_since(at) < scale.cooldown) {
        return None;
    }
    let cpu = ratio(loads, |load| load.cpu_percent, scale.cpu_percent);
    let memory = ratio(loads, |load| load.memory_percent, scale.memory_percent);
    let (ratio, what, target) = [
        cpu.map(|ratio| (ratio, "processor", scale.cpu_percent)),
        memory.map(|ratio| (ratio, "memory", scale.memory_percent)),
    ]
    .into_iter()
    .flatten()
    .max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Fewer copies only when both are known to be low: one unknown may be the one that is short.
    if (ratio - 1.0).abs() <= TOLERANCE || (ratio < 1.0 && (cpu.is_none() || memory.is_none())) {
        return None;
    }
    // At most twice as many at once: a burst of a second must not buy a hall of machines.
    let wanted = (f64::from(copies) * ratio - 1e-9).ceil().clamp(1.0, f64::from(copies) * 2.0) as u16;
    let mut wanted = wanted.clamp(scale.min, scale.max);
    let used = format!("members use {:.0} % of their {what}, {target} % is wanted", ratio * f64::from(target));
    if let Some(purse) = purse.filter(|purse| wanted > copies && purse.price_cents > 0) {
        let affordable = u16::try_from(purse.left_cents.max(0) / purse.price_cents).unwrap_or(u16::MAX);
        wanted = wanted.min(copies.saturating_add(affordable));
    }
    (wanted != copies).then_some(Scaling { copies: wanted, because: used })
}

/// Mean use over the target.
fn ratio(loads: &[Load], of: fn(&Load) -> Option<f64>, target: u32) -> Option<f64> {
    let known: Vec<f64> = loads.iter().filter_map(of).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64 / f64::from(target.max(1)))
}
