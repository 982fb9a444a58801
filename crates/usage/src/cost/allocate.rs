//! The rule: what a cell cost in a month is borne by those who lived in it, by the time they had a room there; rooms
//! nobody had are idle, and shown as such.
//!
//! Where the work of every tenant of a cell was measured, the rooms that were taken are shared by work instead: a tenant
//! that does nine tenths of it bears nine tenths. What belongs to no cell (a domain, a support contract) is
//! borne by everybody who lived anywhere, by time.

use super::{Span, apportion, rounded_together};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// One line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub provider: String,
    /// Absent: it belongs to no cell.
    pub cell: Option<String>,
    pub part: String,
    pub currency: String,
    /// Millionths of the currency; negative for a credit.
    pub micros: i64,
}

/// A cell, as long as it was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellTime {
    pub cell: String,
    pub rooms: u32,
    pub span: Span,
}

/// Somebody who lived in a cell under one plan, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    pub tenant: String,
    pub cell: String,
    pub plan: String,
    pub span: Span,
}

/// What a cell's cost was shared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    Rooms,
    Usage,
}

/// What one stay bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub tenant: String,
    pub cell: String,
    pub plan: String,
    pub seconds: u64,
    pub cents: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellCost {
    pub cell: String,
    pub cents: i64,
    pub idle_cents: i64,
    pub basis: Basis,
    /// Of the rooms' time, in thousandths.
    pub taken_permille: u64,
}

/// Everything in cents of US dollars. Shares and idle add up to the total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub total_cents: i64,
    /// Rooms that nobody had, and what belongs to nobody because nobody was there.
    pub idle_cents: i64,
    pub shares: Vec<Share>,
    pub cells: Vec<CellCost>,
    /// In the order of the charges.
    pub charges_cents: Vec<i64>,
    /// Of charges that belong to no cell.
    pub common_cents: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no exchange rate for {0}")]
pub struct UnknownCurrency(pub String);

/// `now`: nothing after it has happened yet. `rates`: millionths of a US dollar for one unit of each currency.
/// `usage`: the work of tenants in the month, in any one unit.
pub fn allocate(
    month: Span,
    now: Timestamp,
    charges: &[Charge],
    cells: &[CellTime],
    stays: &[Stay],
    usage: &BTreeMap<String, u64>,
    rates: &BTreeMap<String, i64>,
) -> Result<Allocation, UnknownCurrency> {
    let so_far = Span { from: month.from, until: now.clamp(month.from, month.until) };
    let charges_cents = in_dollars(charges, rates)?;
    let mut shares: Vec<Share> = stays
        .iter()
        .map(|stay| Share {
            tenant: stay.tenant.clone(),
            cell: stay.cell.clone(),
            plan: stay.plan.clone(),
            seconds: stay.span.within(so_far).seconds(),
            cents: 0,
        })
        .collect();
    let mut spread = Allocation {
        total_cents: charges_cents.iter().sum(),
        idle_cents: 0,
        shares: Vec::new(),
        cells: Vec::new(),
        common_cents: 0,
        charges_cents,
    };
    let known = |cell: &Option<String>| cell.as_ref().is_some_and(|name| cells.iter().any(|c| c.cell == *name));
    let mut of_cell: BTreeMap<&str, i64> = BTreeMap::new();
    for (charge, cents) in charges.iter().zip(&spread.charges_cents) {
        match &charge.cell {
            Some(name) if known(&charge.cell) => *of_cell.entry(name).or_default() += cents,
            _ => spread.common_cents += cents,
        }
    }
    let mut in_cell: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, share) in shares.iter().enumerate().filter(|(_, share)| share.seconds > 0) {
        in_cell.entry(share.cell.clone()).or_default().push(at);
    }
    for cell in cells {
        let there = in_cell.get(&cell.cell).map(Vec::as_slice).unwrap_or_default();
        let cents = of_cell.get(cell.cell.as_str()).copied().unwrap_or(0);
        spread.cells.push(one_cell(cell, cents, so_far, there, &mut shares, usage));
    }
    spread.idle_cents = spread.cells.iter().map(|cell| cell.idle_cents).sum();
    let seconds: Vec<u64> = shares.iter().map(|share| share.seconds).collect();
    match apportion(spread.common_cents, &seconds) {
        Some(parts) => shares.iter_mut().zip(parts).for_each(|(share, part)| share.cents += part),
        None => spread.idle_cents += spread.common_cents,
    }
    spread.shares = shares.into_iter().filter(|share| share.seconds > 0).collect();
    Ok(spread)
}

/// Each currency is rounded once; its lines add up to that.
fn in_dollars(charges: &[Charge], rates: &BTreeMap<String, i64>) -> Result<Vec<i64>, UnknownCurrency> {
    let mut by_currency: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, charge) in charges.iter().enumerate() {
        by_currency.entry(&charge.currency).or_default().push(at);
    }
    let mut cents = vec![0; charges.len()];
    for (currency, lines) in by_currency {
        let rate = match currency {
            "USD" => 1_000_000,
            other => *rates.get(other).ok_or_else(|| UnknownCurrency(other.to_owned()))?,
        };
        let exact: Vec<i128> = lines.iter().map(|at| i128::from(charges[*at].micros) * i128::from(rate)).collect();
        // Millionths of millionths; a cent is ten thousand millionths.
        for (at, amount) in lines.iter().zip(rounded_together(&exact, 10_000_000_000)) {
            cents[*at] = amount;
        }
    }
    Ok(cents)
}

fn one_cell(
    cell: &CellTime,
    cents: i64,
    so_far: Span,
    there: &[usize],
    shares: &mut [Share],
    usage: &BTreeMap<String, u64>,
) -> CellCost {
    let seconds: Vec<u64> = there.iter().map(|at| shares[*at].seconds).collect();
    let taken: u64 = seconds.iter().sum();
    // A cell over its places has no idle ones; one that was there for part of an hour is paid for the whole hour.
    let rooms = u64::from(cell.rooms) * cell.span.within(so_far).hours_begun() * 3600;
    let idle = rooms.saturating_sub(taken);
    let (borne, idle_cents) = match apportion(cents, &[taken, idle]) {
        Some(parts) => (parts[0], parts[1]),
        None => (0, cents),
    };
    let work: Option<Vec<u64>> = there.iter().map(|at| usage.get(&shares[*at].tenant).copied()).collect();
    let measured = work.and_then(|work| {
        // A tenant that was here for half of the month did half of its work here.
        let here = work.iter().zip(&seconds).map(|(work, s)| u128::from(*work) * u128::from(*s) / 3600);
        let here: Vec<u64> = here.map(|n| u64::try_from(n).unwrap_or(u64::MAX)).collect();
        apportion(borne, &here)
    });
    let basis = if measured.is_some() { Basis::Usage } else { Basis::Rooms };
    if let Some(parts) = measured.or_else(|| apportion(borne, &seconds)) {
        for (at, part) in there.iter().zip(parts) {
            shares[*at].cents += part;
        }
    }
    let taken_permille = (u128::from(taken) * 1000).checked_div(u128::from(rooms)).unwrap_or(0) as u64;
    CellCost { cell: cell.cell.clone(), cents, idle_cents, basis, taken_permille }
}
