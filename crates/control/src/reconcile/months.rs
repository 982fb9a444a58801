//! A month that is over is closed: what it cost by the prices of its end is stored, so that later prices change no past
//! month. Never touches an imported invoice.

use super::Loop;
use crate::{App, ControlError, costs};
use async_trait::async_trait;
use jiff::Timestamp;
use std::time::Duration;
use tracing::info;

pub(super) struct Months;

#[async_trait]
impl Loop for Months {
    const NAME: &'static str = "months";
    // Months end seldom; a price that changes within the first minutes of the next one is the only risk.
    const PAUSE: Duration = Duration::from_mins(5);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let closed = costs::close_months(app, Timestamp::now()).await?;
        if closed > 0 {
            info!(closed, "{closed} months were closed: their computed costs stand");
        }
        Ok(())
    }
}
