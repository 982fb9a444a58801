//! Which versions run, and what an upgrade would do.

use crate::{Client, ClientError};
use berth_wire::{Program, Upgrade, UpgradePlan};
use http::Method;

impl Client {
    pub async fn upgrade(&self) -> Result<Upgrade, ClientError> {
        self.get("/v1/upgrade").await
    }
    pub async fn upgrade_plan(&self, to: &Program) -> Result<UpgradePlan, ClientError> {
        self.write(Method::POST, "/v1/upgrade/plan", to).await
    }
    pub async fn upgrade_finish(&self) -> Result<Upgrade, ClientError> {
        self.write(Method::POST, "/v1/upgrade/finish", &serde_json::Value::Null).await
    }
}
