//! The application's role in every cell has the settings of its mode's profile, also after the stack file changed.
//! Sessions that are open keep theirs; a process takes the new ones with its next connection.

use super::Loop;
use crate::{App, ControlError, mode_settings};
use async_trait::async_trait;
use berth_domain::{CellId, CellState};
use std::{collections::HashMap, time::Duration};
use tracing::{info, warn};

#[derive(Default)]
pub(super) struct Settings {
    /// Under which revision of the stack file each cell was brought in order.
    done: HashMap<CellId, i64>,
}

#[async_trait]
impl Loop for Settings {
    const NAME: &'static str = "settings";
    const PAUSE: Duration = Duration::from_secs(5);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let revision = app.stack().await?.revision;
        for cell in app.store().cell_list().await? {
            let stands = matches!(cell.state, CellState::Ready | CellState::Draining);
            if !stands || self.done.get(&cell.id) == Some(&revision) {
                continue;
            }
            // Whoever runs it has settings of their own, on a login that may do everything there.
            if app.is_foreign(&cell).await? {
                self.done.insert(cell.id, revision);
                continue;
            }
            let database = app.cell_database(&cell).await?;
            // One cell that does not answer must not keep the others waiting; it is tried again.
            match mode_settings::ensure(app, &cell, &database).await {
                Ok(changed) => {
                    self.done.insert(cell.id, revision);
                    if changed {
                        info!(cell = %cell.name, "the settings of the application's role in cell {} were brought in order", cell.name);
                    }
                }
                Err(error) => {
                    let said = error.full();
                    warn!(cell = %cell.name, error = said, "settings of cell {} cannot be set now", cell.name);
                }
            }
        }
        Ok(())
    }
}
