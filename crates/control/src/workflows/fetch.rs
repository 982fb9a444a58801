//! What a release runs is brought to the hosts before anything is changed there. Never starts anything.

use super::store;
use crate::{App, ControlError, programs::Programs};
use async_trait::async_trait;
use berth_domain::{CellId, CellState, RollCellState};
use berth_store::Cell;
use berth_workflow::{Retry, Step, StepError};
use serde_json::{Value, json};

/// Has every image and program of the release at hand, before anything is changed: in this cell, and in all others of its
/// wave. Each of them looks at all, so none of a wave goes on while one of it has not what it needs, and nobody waits for
/// another's word. What is there already is only looked at.
pub(super) struct Fetch {
    pub(super) roll: i32,
    pub(super) cell: CellId,
    pub(super) release: u32,
    /// Not on the way back: there each cell gets out by itself, whatever another lacks.
    pub(super) wave: bool,
}

impl Fetch {
    /// This cell, then the others of its wave that will get the release too.
    async fn cells(&self, app: &App) -> Result<Vec<Cell>, StepError> {
        let mut cells = vec![app.cell(self.cell).await?];
        if !self.wave {
            return Ok(cells);
        }
        let rows = app.store().roll_cells(Some(self.roll)).await.map_err(store)?;
        let Some(wave) = rows.iter().find(|row| row.cell == self.cell).map(|row| row.wave) else { return Ok(cells) };
        // One that failed is asked too, or this one would go on at its next try.
        let others =
            rows.iter().filter(|row| row.wave == wave && row.cell != self.cell && row.state != RollCellState::Done);
        for other in others {
            let other = app.cell(other.cell).await?;
            // One that is being made fetches them then, one that goes needs nothing.
            if matches!(other.state, CellState::Ready | CellState::Draining) && other.release != self.release {
                cells.push(other);
            }
        }
        Ok(cells)
    }
}

#[async_trait]
impl Step<App> for Fetch {
    const NAME: &'static str = "fetch_programs";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let in_force = app.stack().await?;
        let programs = Programs::load(app, self.release).await?;
        for cell in self.cells(app).await? {
            let compute = app.compute_of(&cell).await?;
            for (name, service) in &in_force.stack.services {
                let (source, _) = programs.of(app, name, service).await?;
                let ready = compute.ensure_source(&cell.name, &source).await;
                ready.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
            }
        }
        Ok(())
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
    fn input(&self) -> Value {
        json!({ "release": self.release })
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 4, ..Retry::default() }
    }
}
