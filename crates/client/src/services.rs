//! Services of cells, and the upkeep of their databases.

use crate::{Client, ClientError, calls::escaped};
use berth_wire::{MaintainAsk, MaintainPlan, Operation, RestartPlan};
use http::Method;

impl Client {
    pub async fn service_plan_restart(&self, cell: &str, service: &str) -> Result<RestartPlan, ClientError> {
        let path = format!("/v1/cells/{}/services/{}/restart/plan", escaped(cell), escaped(service));
        self.write(Method::POST, &path, &serde_json::Value::Null).await
    }

    /// Asked for again while it is at it, it is the same operation.
    pub async fn service_restart(&self, cell: &str, service: &str) -> Result<Operation, ClientError> {
        let path = format!("/v1/cells/{}/services/{}/restart", escaped(cell), escaped(service));
        self.write(Method::POST, &path, &serde_json::Value::Null).await
    }

    pub async fn cell_plan_maintain(&self, cell: &str, ask: MaintainAsk) -> Result<MaintainPlan, ClientError> {
        self.write(Method::POST, &format!("/v1/cells/{}/database/maintain/plan", escaped(cell)), &ask).await
    }

    /// Asked for again while it is at it, it is the same operation.
    pub async fn cell_maintain(&self, cell: &str, ask: MaintainAsk) -> Result<Operation, ClientError> {
        self.write(Method::POST, &format!("/v1/cells/{}/database/maintain", escaped(cell)), &ask).await
    }
}
