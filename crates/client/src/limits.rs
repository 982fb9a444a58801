//! What edges keep of one tenant.

use crate::{Client, ClientError, calls::escaped};
use berth_wire::{TenantLimits, TenantLimitsSet};
use http::Method;

impl Client {
    pub async fn tenant_limits(&self, tenant: &str) -> Result<TenantLimits, ClientError> {
        self.get(&format!("/v1/tenants/{}/limits", escaped(tenant))).await
    }

    /// `version`: refused when the tenant changed since it was read.
    pub async fn tenant_set_limits(
        &self,
        tenant: &str,
        wanted: &TenantLimitsSet,
        version: Option<u64>,
    ) -> Result<TenantLimits, ClientError> {
        self.write_at(Method::PUT, &format!("/v1/tenants/{}/limits", escaped(tenant)), wanted, version).await
    }

    /// Its plan's are in force again.
    pub async fn tenant_clear_limits(&self, tenant: &str) -> Result<TenantLimits, ClientError> {
        self.write(Method::DELETE, &format!("/v1/tenants/{}/limits", escaped(tenant)), &serde_json::Value::Null).await
    }
}
