//! Looks at what moves hold back of their cells' write-ahead log while nobody works on them: between two tries, and where one
//! waits for a person. A worker looks itself. Never ends a move: that is its own next try.

use super::Loop;
use crate::{App, ControlError, moves};
use async_trait::async_trait;
use berth_mover::Tuning;
use std::time::Duration;

pub(super) struct HeldLogs;

#[async_trait]
impl Loop for HeldLogs {
    const NAME: &'static str = "held_logs";
    const PAUSE: Duration = Duration::from_secs(30);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        moves::bound_logs(app, &Tuning::default()).await.map(drop)
    }
}
