//! A cell is removed. It is empty and marked `removing` by who asked, so nobody is placed in it any more; from there
//! it only goes forward: half a cell is of no use to anybody.

use super::{CellInput, cell::stop_members, done, store};
use crate::{App, ControlError, ways_back};
use async_trait::async_trait;
use berth_domain::{CellId, CellState};
use berth_infra::DatabaseName;
use berth_store::Tx;
use berth_wire::OperationResult;
use berth_workflow::{Run, Step, StepError, TxStep, Workflow};

pub const REMOVE_CELL: Workflow<CellInput> = Workflow::named("remove_cell_v1");

pub(super) async fn run(run: &mut Run<App>, input: CellInput) -> Result<OperationResult, StepError> {
    let cell = input.cell;
    run.point_of_no_return().await?;
    run.step(CloseWaysBack { cell }).await?;
    run.step(StopMembers { cell }).await?;
    run.step(RemoveDatabase { cell }).await?;
    run.tx(Forget { cell }).await?;
    Ok(done("the cell is gone"))
}

/// What tenants left in the cell goes with it; what would have brought them back stands in the cells they went to.
struct CloseWaysBack {
    cell: CellId,
}

#[async_trait]
impl Step<App> for CloseWaysBack {
    const NAME: &'static str = "close_ways_back";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        for way in app.store().ways_back_unfinished(None).await.map_err(store)? {
            if way.old_cell == self.cell {
                ways_back::close_with_the_cell(app, &way).await?;
            }
        }
        Ok(())
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

struct StopMembers {
    cell: CellId,
}

#[async_trait]
impl Step<App> for StopMembers {
    const NAME: &'static str = "stop_members";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        stop_members(app, self.cell).await
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

struct RemoveDatabase {
    cell: CellId,
}

#[async_trait]
impl Step<App> for RemoveDatabase {
    const NAME: &'static str = "remove_database";
    type Output = ();

    async fn run(&self, app: &App) -> Result<(), StepError> {
        let cell = app.cell(self.cell).await?;
        let removed = app.database_of(&cell).await?.remove_database(&DatabaseName::of(&cell.name)).await;
        Ok(removed.map_err(|source| ControlError::Provider { cell: cell.name, source })?)
    }
    async fn undo(&self, _app: &App, _made: Option<()>) -> Result<(), StepError> {
        Ok(())
    }
}

/// The row stays, as `removed`: history names it. Its passwords go.
struct Forget {
    cell: CellId,
}

#[async_trait]
impl TxStep<App> for Forget {
    const NAME: &'static str = "forget";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.members_delete(self.cell).await.map_err(store)?;
        tx.cell_clear_access(self.cell).await.map_err(store)?;
        tx.cell_set_state(self.cell, CellState::Removing, CellState::Removed).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}
