//! Where a way back goes: pure, from what rolls did in each cell. Never reads or changes anything itself.

use crate::{ReleaseError, release_error::said, releases::Scope};
use berth_domain::{CellState, RollCellState};
use berth_store::{Cell, Roll, RollCell};
use berth_wire::{LeftOut, PlannedCell, RollPlan};

/// A way back.
pub(crate) struct WayBack {
    pub plan: RollPlan,
    /// Cells that are made from now on run the plan's release.
    pub whole: bool,
}

/// `to`: all cells get this release. `None`: those that the last roll reached get what ran there before it.
pub(crate) fn way_back(
    to: Option<u32>,
    rolls: &[Roll],
    rows: &[RollCell],
    scope: &Scope,
) -> Result<WayBack, ReleaseError> {
    let Some(to) = to else { return before_the_last(rolls, rows, scope) };
    let mut plan = scope.plan(to, rolls.first().map_or(0, |last| last.release), true);
    // Cells in which a release is just arriving run the old one still: they have to be looked at when that is over.
    for row in rows.iter().filter(|row| row.state == RollCellState::Rolling) {
        let Some(cell) = scope.cells.iter().find(|cell| cell.id == row.cell) else { continue };
        plan.left_out.retain(|left| left.cell != cell.name);
        if !plan.waves.iter().flatten().any(|planned| planned.cell == cell.name) {
            let planned = PlannedCell { cell: cell.name.clone(), before: cell.release, gets: None };
            match plan.waves.first_mut() {
                Some(wave) => wave.push(planned),
                None => plan.waves.push(vec![planned]),
            }
        }
    }
    Ok(WayBack { plan, whole: true })
}

fn before_the_last(rolls: &[Roll], rows: &[RollCell], scope: &Scope) -> Result<WayBack, ReleaseError> {
    // One that found nothing to do is nothing to go back from.
    let did = |roll: &Roll| {
        roll.back || (roll.whole && roll.release != roll.before) || rows.iter().any(|row| row.roll == roll.number)
    };
    let last = rolls.iter().find(|roll| did(roll)).filter(|last| !last.back).ok_or(ReleaseError::NothingBefore)?;
    let (mut todo, mut left_out) = (Vec::new(), Vec::new());
    for cell in &scope.cells {
        let gets = gets(cell, last, rolls, rows);
        let why = match (cell.state, gets) {
            (CellState::Ready | CellState::Draining, Some(gets)) => {
                todo.push(PlannedCell { cell: cell.name.clone(), before: cell.release, gets: Some(gets) });
                continue;
            }
            (CellState::Ready | CellState::Draining, None) => format!("it does not run {}", said(last.release)),
            (other, _) => format!("it is {other}"),
        };
        if last.whole {
            left_out.push(LeftOut { cell: cell.name.clone(), why });
        }
    }
    if last.whole {
        left_out.extend(scope.foreign());
    }
    let mut all = todo.iter().filter_map(|cell| cell.gets);
    let common = all.next().filter(|first| all.all(|other| other == *first));
    // What new cells run goes back with a roll that had changed it.
    let release = if last.whole { last.before } else { common.unwrap_or(last.before) };
    let plan = RollPlan { release, before: last.release, back: true, left_out, ..RollPlan::default() };
    Ok(WayBack { plan: scope.waves(plan, todo), whole: last.whole })
}

/// What ran in a cell before the last roll. `None`: that did not bring its release there, and is not about to.
fn gets(cell: &Cell, last: &Roll, rolls: &[Roll], rows: &[RollCell]) -> Option<u32> {
    let reached =
        |row: &&RollCell| row.cell == cell.id && matches!(row.state, RollCellState::Done | RollCellState::Rolling);
    let mut own = rows.iter().filter(reached);
    if let Some(row) = own.clone().find(|row| row.roll == last.number) {
        return Some(row.before);
    }
    if !last.whole || last.release == last.before || cell.release != last.release {
        return None;
    }
    // It had the release before all others got it: by a roll of its own, or since it was made.
    let brought = |row: &&RollCell| {
        let its = rolls.iter().find(|roll| roll.number == row.roll).map(|roll| roll.release);
        row.release.or(its) == Some(last.release) && row.before != last.release
    };
    Some(own.rfind(brought).map_or(last.before, |row| row.before))
}
