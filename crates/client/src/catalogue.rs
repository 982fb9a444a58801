//! Calls about what providers sell, and about parts of a fleet.

use crate::{Client, ClientError};
use berth_wire::{Catalogue, FleetPlan};

impl Client {
    pub async fn catalogue(&self) -> Result<Catalogue, ClientError> {
        self.get("/v1/catalogue").await
    }

    /// The plan for these cells alone; all of them where none is named.
    pub async fn fleet_plan_of(&self, cells: &[String]) -> Result<FleetPlan, ClientError> {
        let only: Vec<String> = cells.iter().map(|cell| crate::calls::escaped(cell)).collect();
        let query = if only.is_empty() { String::new() } else { format!("?cells={}", only.join(",")) };
        self.get(&format!("/v1/fleet/plan{query}")).await
    }
}
