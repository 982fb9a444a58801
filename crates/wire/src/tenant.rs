//! Tenants: the customers of the stack.

use crate::{decide::Profile, schema};
use berth_domain::{
    CellName, EdgeLimits, Generation, HostPattern, Hostname, Mode, Network, OperationId, PlanName, TenantId, TenantKey,
    TenantName, TenantState,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `POST /v1/tenants`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantCreate {
    #[schema(schema_with = schema::name)]
    pub name: TenantName,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    /// Host names that route to the tenant.
    #[serde(default)]
    #[schema(schema_with = schema::hosts, required = false)]
    pub hosts: Vec<Hostname>,
    /// The tenant's key in the application's root table, when the application has made it already. Otherwise the
    /// stack file's hook makes it.
    #[serde(default)]
    #[schema(schema_with = schema::key_or_none, required = false)]
    pub key: Option<TenantKey>,
    /// The cell to live in. Otherwise the best of the plan's class, as the placement engine ranks them.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub cell: Option<CellName>,
    /// What the tenant needs, as its profile keeps it: no cell that breaks a constraint of it is chosen or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// A tenant as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    #[schema(schema_with = schema::id)]
    pub id: TenantId,
    #[schema(schema_with = schema::name)]
    pub name: TenantName,
    /// The tenant's key in the application's root table; absent until the application has made it.
    #[schema(schema_with = schema::key_or_none)]
    pub key: Option<TenantKey>,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    #[schema(schema_with = schema::tenant_state)]
    pub state: TenantState,
    /// Where it lives; absent while it is not placed.
    #[schema(schema_with = schema::name_or_none)]
    pub cell: Option<CellName>,
    #[schema(schema_with = schema::mode_or_none)]
    pub mode: Option<Mode>,
    #[schema(schema_with = schema::counter)]
    pub generation: Generation,
    #[schema(schema_with = schema::hosts)]
    pub hosts: Vec<Hostname>,
    /// Hosts by a wildcard or a path that route to it. Changed by `/v1/hosts` alone.
    #[serde(default)]
    #[schema(schema_with = schema::patterns)]
    pub patterns: Vec<HostPattern>,
    /// The networks whose clients edges serve; none: everybody's.
    #[serde(default)]
    #[schema(schema_with = schema::networks)]
    pub allow: Vec<Network>,
    /// What it has at the edges instead of its plan's limits; empty: the plan's.
    #[serde(default)]
    #[schema(schema_with = schema::edge_limits)]
    pub own_limits: EdgeLimits,
    /// The operation that works on it now.
    #[schema(schema_with = schema::id_or_none)]
    pub operation: Option<OperationId>,
    /// Rises with every change of what people may edit; quoted, it is the `ETag`.
    pub version: u64,
    #[schema(schema_with = schema::time)]
    pub created_at: Timestamp,
    #[schema(schema_with = schema::time)]
    pub updated_at: Timestamp,
}

impl Tenant {
    /// All that routes to it, plain hosts first.
    pub fn routed(&self) -> Vec<String> {
        let patterns = self.patterns.iter().map(ToString::to_string);
        self.hosts.iter().map(ToString::to_string).chain(patterns).collect()
    }
}

/// `PUT /v1/tenants/{tenant}/limits`: all of its own; what is left out is as the plan says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantLimitsSet {
    /// By class; 0 lets none through. A class is one that the stack file names, or one of `api`, `upload`, `gps`.
    #[serde(default)]
    #[schema(required = false)]
    pub requests_per_minute: BTreeMap<String, u64>,
    /// Largest request body.
    #[serde(default)]
    pub body_bytes: Option<u64>,
}

/// `GET /v1/tenants/{tenant}/limits`: what edges keep of a tenant, and whose word it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantLimits {
    #[schema(schema_with = schema::name)]
    pub tenant: TenantName,
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
    #[schema(schema_with = schema::edge_limits)]
    pub of_plan: EdgeLimits,
    /// Stand before the plan's, whatever plan it is on.
    #[schema(schema_with = schema::edge_limits)]
    pub own: EdgeLimits,
    /// Both together: what edges keep. A class that is not named is not limited.
    #[schema(schema_with = schema::edge_limits)]
    pub in_force: EdgeLimits,
    /// The tenant's; quoted, it is the `ETag`.
    pub version: u64,
}

/// `PATCH /v1/tenants/{tenant}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantChange {
    /// Limits change at once; the tenant stays where it is until it is moved.
    #[schema(schema_with = schema::name)]
    pub plan: PlanName,
}

/// `PUT /v1/tenants/{tenant}/hosts`: all its host names; those left out no longer route to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantHosts {
    #[schema(schema_with = schema::hosts)]
    pub hosts: Vec<Hostname>,
}

/// `PUT /v1/tenants/{tenant}/allow`: all networks whose clients edges serve; none for everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantAllow {
    /// As `203.0.113.0/24`, `2001:db8::/32` or one address.
    #[schema(schema_with = schema::networks)]
    pub networks: Vec<Network>,
}

/// `POST /v1/tenants/{tenant}/moves` and `…/plan-move`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantMove {
    /// The cell to go to; absent: the best cell of the plan's class, by the tenant's profile.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub to: Option<CellName>,
}

/// `POST /v1/tenants/sync`: compares the application's root table with what Berth knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSync {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// The plan that tenants taken in are given. Absent: nothing is taken in, only listed.
    #[serde(default)]
    #[schema(schema_with = schema::name_or_none, required = false)]
    pub take_in: Option<PlanName>,
}

/// What a comparison with the application's root table found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncReport {
    /// In the application, not in Berth.
    pub unknown_here: Vec<SyncTenant>,
    /// In Berth as living in this cell, not in the application.
    pub unknown_there: Vec<SyncTenant>,
    /// How many of `unknown_here` Berth has taken in now.
    pub taken_in: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyncTenant {
    #[schema(schema_with = schema::key)]
    pub key: TenantKey,
    #[schema(schema_with = schema::name_or_none)]
    pub name: Option<TenantName>,
    /// Why Berth does not take it in; absent: it does, or has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
