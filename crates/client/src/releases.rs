//! Releases and the accounts of registries.

use crate::{Client, ClientError, calls::escaped};
use berth_wire::{
    BackAsk, Registry, RegistryPut, Release, ReleaseCreate, ReleaseShown, ReleaseStatus, Roll, RollAsk, RollPlan,
};
use http::Method;

impl Client {
    pub async fn releases(&self) -> Result<Vec<Release>, ClientError> {
        self.list_whole("/v1/releases").await
    }
    pub async fn release_create(&self, wanted: &ReleaseCreate) -> Result<Release, ClientError> {
        self.write(Method::POST, "/v1/releases", wanted).await
    }
    pub async fn release(&self, number: u32) -> Result<ReleaseShown, ClientError> {
        self.get(&format!("/v1/releases/{number}")).await
    }
    pub async fn rollout(&self) -> Result<ReleaseStatus, ClientError> {
        self.get("/v1/rollout").await
    }
    pub async fn roll_plan(&self, ask: &RollAsk) -> Result<RollPlan, ClientError> {
        self.write(Method::POST, "/v1/rollout/plan", ask).await
    }
    pub async fn roll(&self, ask: &RollAsk) -> Result<Roll, ClientError> {
        self.write(Method::POST, "/v1/rollout", ask).await
    }
    pub async fn back_plan(&self, ask: &BackAsk) -> Result<RollPlan, ClientError> {
        self.write(Method::POST, "/v1/rollout/back/plan", ask).await
    }
    pub async fn roll_back(&self, ask: &BackAsk) -> Result<Roll, ClientError> {
        self.write(Method::POST, "/v1/rollout/back", ask).await
    }
    pub async fn registries(&self) -> Result<Vec<Registry>, ClientError> {
        self.list_whole("/v1/registries").await
    }
    pub async fn registry_put(&self, wanted: &RegistryPut) -> Result<Registry, ClientError> {
        self.write(Method::PUT, "/v1/registries", wanted).await
    }
    pub async fn registry_remove(&self, host: &str) -> Result<Registry, ClientError> {
        self.write(Method::DELETE, &format!("/v1/registries/{}", escaped(host)), &serde_json::Value::Null).await
    }
}
