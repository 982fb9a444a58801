//! Brings the release that is rolling from wave to wave: starts the cells of one, waits until all of them have it, then
//! for the pause, then the next. A cell that fails stops it. What happens inside a cell is a workflow of its own.

use super::Loop;
use crate::{
    App, ControlError,
    operations::{self, Begun},
    release_error::said,
    tenants,
    workflows::{ROLL_CELL, RollCell, reserved},
};
use async_trait::async_trait;
use berth_domain::{CellState, OperationState, RollCellState, RollState};
use berth_store::{Cell, NewRollCell, Roll, RollCell as Row};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tracing::{info, warn};

/// Rolls that are looked at, newest first.
const RECENT: usize = 3;

#[derive(Default)]
pub(super) struct Releasing;

#[async_trait]
impl Loop for Releasing {
    const NAME: &'static str = "releasing";
    const PAUSE: Duration = Duration::from_millis(500);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let rolls = app.store().roll_list(None).await?;
        // One that was taken back may have cells that are still at it.
        for roll in rolls.iter().take(RECENT) {
            settle(app, roll).await?;
        }
        match rolls.iter().find(|roll| roll.state == RollState::Rolling) {
            Some(roll) => on(app, roll).await,
            None => Ok(()),
        }
    }
}

/// Why a cell failed stands in its operation. One whose operation ended without its own last word is failed too.
async fn settle(app: &App, roll: &Roll) -> Result<(), ControlError> {
    for row in app.store().roll_cells(Some(roll.number)).await? {
        let Some(id) = row.operation else { continue };
        if row.state == RollCellState::Waiting || row.state == RollCellState::Done || row.reason.is_some() {
            continue;
        }
        let Some((operation, _)) = berth_workflow::Journal::show(app.store(), id).await? else { continue };
        let over = matches!(operation.state, OperationState::Failed | OperationState::Abandoned);
        // With its remedy: whoever waits for a release does not look at the operations of its cells.
        let why = operation.error.map(|error| match error.hint {
            Some(hint) => format!("{} ({hint})", error.message),
            None => error.message,
        });
        if over || row.state == RollCellState::Failed {
            let why = why.unwrap_or_else(|| format!("its operation was {}", operation.state));
            let mut tx = app.store().begin().await?;
            tx.roll_cell_end(row.roll, row.cell, RollCellState::Failed, Some(&why)).await?;
            tx.commit().await?;
        }
    }
    Ok(())
}

async fn on(app: &App, roll: &Roll) -> Result<(), ControlError> {
    let rows = app.store().roll_cells(Some(roll.number)).await?;
    let under_way = rows.iter().any(|row| row.state == RollCellState::Rolling);
    if let Some(failed) = rows.iter().find(|row| row.state == RollCellState::Failed) {
        // Those that began with it come to their own end; and why it failed is found by the next look at it.
        let wait = under_way || failed.reason.is_none();
        return if wait { Ok(()) } else { stop(app, roll, failed, &rows).await };
    }
    let Some(wave) = rows.iter().filter(|row| row.state != RollCellState::Done).map(|row| row.wave).min() else {
        return finish(app, roll, &rows).await;
    };
    let own: Vec<&Row> = rows.iter().filter(|row| row.wave == wave).collect();
    let begun = own.iter().any(|row| row.state != RollCellState::Waiting);
    if !begun && wave > 0 && !roll.back && !paused_enough(app, roll).await? {
        return Ok(());
    }
    for row in own.into_iter().filter(|row| row.state == RollCellState::Waiting) {
        start(app, roll, row).await?;
    }
    Ok(())
}

/// Whether the pause before the next wave is over; the first look begins it.
async fn paused_enough(app: &App, roll: &Roll) -> Result<bool, ControlError> {
    let Some(pause) = app.stack().await?.stack.releases.pause else { return Ok(true) };
    let pause = SignedDuration::from_millis(i64::try_from(pause.ms()).unwrap_or(i64::MAX));
    match roll.next_wave_at {
        Some(at) => Ok(at <= Timestamp::now()),
        None => {
            app.store().roll_pause(roll.number, Timestamp::now() + pause).await?;
            Ok(false)
        }
    }
}

async fn start(app: &App, roll: &Roll, row: &Row) -> Result<(), ControlError> {
    let mut tx = app.store().begin().await?;
    // Somebody may be taking it back at this moment.
    if tx.rolls_lock().await? != Some(roll.number) {
        return Ok(());
    }
    let cell = tx.cell_lock(row.cell).await?;
    let cell = match cell {
        Some(cell) if !matches!(cell.state, CellState::Removing | CellState::Removed | CellState::Failed) => cell,
        _ => {
            tx.roll_cell_end(roll.number, row.cell, RollCellState::Done, Some("it is gone")).await?;
            return Ok(tx.commit().await?);
        }
    };
    let waits = if cell.state == CellState::Creating {
        Some("it is being made".to_owned())
    } else if let Some(other) = tx.cell_rolling(cell.id).await? {
        Some(format!("release {} is rolling in it", said(other)))
    } else if tx.cell_restarting(&cell.name).await?.is_some() {
        Some("a service of it is being restarted".to_owned())
    } else {
        tx.cell_moving(cell.id).await?.map(|tenant| format!("tenant `{tenant}` is moving out of it or into it"))
    };
    if let Some(why) = waits {
        drop(tx);
        return Ok(app.store().roll_cell_waits(roll.number, row.cell, &why).await?);
    }
    let release = row.release.unwrap_or(roll.release);
    if cell.release == release {
        tx.roll_cell_end(roll.number, cell.id, RollCellState::Done, Some("it has it already")).await?;
        return Ok(tx.commit().await?);
    }
    let input =
        RollCell { roll: roll.number, cell: cell.id, release, migrate: !roll.back, asked_by: roll.asked_by.clone() };
    let operation = ROLL_CELL.with(tenants::fresh(), &input).about(operations::about_cell(&cell.name));
    let rows = Begun::Reserved(vec![reserved::roll(roll.number, cell.id)]);
    let started = operations::start(app, &mut tx, operation, rows).await?;
    tx.roll_cell_start(roll.number, cell.id, started.id, cell.release).await?;
    tx.roll_unpause(roll.number).await?;
    tx.commit().await?;
    info!(cell = %cell.name, release, "{} comes to cell {}", said(release), cell.name);
    Ok(())
}

async fn stop(app: &App, roll: &Roll, failed: &Row, rows: &[Row]) -> Result<(), ControlError> {
    let cell = app.cell(failed.cell).await?.name;
    let count = |state| rows.iter().filter(|row| row.state == state).count();
    let (have, kept) = (count(RollCellState::Done), rows.len() - count(RollCellState::Done));
    let why = failed.reason.as_deref().unwrap_or("it failed");
    let each = rows.iter().any(|row| row.release.is_some());
    let run = if each { "what each is to get".to_owned() } else { said(roll.release) };
    let why = format!("cell `{cell}`: {why}; {have} cells run {run}, {kept} what they ran before");
    let mut tx = app.store().begin().await?;
    let ended = tx.roll_end(roll.number, RollState::Stopped, Some(&why)).await?;
    tx.commit().await?;
    if ended {
        warn!(release = roll.release, why, "{} stops: {why}", said(roll.release));
    }
    Ok(())
}

/// All of them have it. Cells that were made meanwhile run what was in force then: they are the next wave.
async fn finish(app: &App, roll: &Roll, rows: &[Row]) -> Result<(), ControlError> {
    let mut late: Vec<Cell> = Vec::new();
    // On a way back to what ran in each cell, only those of the release that goes: others were not reached by it.
    let each = roll.back && rows.iter().all(|row| row.release.is_some());
    if roll.whole {
        for cell in app.store().cell_list().await? {
            let lives = matches!(cell.state, CellState::Creating | CellState::Ready | CellState::Draining);
            let known = rows.iter().any(|row| row.cell == cell.id);
            let wrong = cell.release != roll.release && (!each || cell.release == roll.before);
            if lives && !known && wrong && !app.is_foreign(&cell).await? {
                late.push(cell);
            }
        }
    }
    let wave = rows.iter().map(|row| row.wave).max().unwrap_or(-1) + 1;
    let mut tx = app.store().begin().await?;
    if late.is_empty() {
        if tx.roll_end(roll.number, RollState::Done, None).await? {
            info!(release = roll.release, "{} is in all its cells", said(roll.release));
        }
    } else {
        for cell in &late {
            let release = each.then_some(roll.release);
            tx.roll_add(roll.number, &NewRollCell { cell: cell.id, wave, before: cell.release, release }).await?;
        }
    }
    Ok(tx.commit().await?)
}
