//! A cell is made: its row was reserved by who asked, in the transaction that started this.

use super::{CellInput, done, provision_cell};
use crate::App;
use berth_wire::OperationResult;
use berth_workflow::{Run, StepError, Workflow};

pub const CREATE_CELL: Workflow<CellInput> = Workflow::named("create_cell_v1");

pub(super) async fn run(run: &mut Run<App>, input: CellInput) -> Result<OperationResult, StepError> {
    provision_cell(run, input.cell).await?;
    Ok(done("the cell is ready"))
}
