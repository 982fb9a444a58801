//! Hosts of tenants: which are routed, and what proves the others.

use crate::schema;
use berth_domain::{HostProof, TenantHost, TenantName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/hosts`: says that a host is a tenant's. One of the stack's own is routed at once, any other when it is
/// proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostAdd {
    /// Name or id.
    pub tenant: String,
    #[schema(schema_with = schema::tenant_host)]
    pub host: TenantHost,
}

/// `POST /v1/hosts/{host}/verify`. May be left out where one tenant alone claims the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostVerify {
    /// Name or id.
    pub tenant: Option<String>,
}

/// A host that a tenant has or claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    #[schema(schema_with = schema::tenant_host)]
    pub host: TenantHost,
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    /// It is routed to the tenant.
    pub served: bool,
    /// Absent while it is not proved.
    #[schema(schema_with = schema::host_proof_or_none)]
    pub proof: Option<HostProof>,
    /// What would prove it; absent where nothing needs to.
    pub show: Option<HostShow>,
    /// Another tenant has it or claims it: only the TXT record proves it.
    pub contested: bool,
    #[schema(schema_with = schema::time_or_none)]
    pub looked_at: Option<Timestamp>,
    /// What the last look found instead of a proof.
    pub trouble: Option<String>,
}

/// Either of the two proves a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostShow {
    /// Name of the TXT record.
    pub txt_name: String,
    pub txt_value: String,
    /// The page, and its whole text. Edges show it by themselves once the host leads to them; absent where only the
    /// record counts.
    pub url: Option<String>,
    pub page: Option<String>,
}
