//! What a stack file says of edges together and of where tenants belong, as types. Never holds a resolved secret.

use crate::{Stack, Template};
use berth_domain::TenantName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What edges have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub enabled: bool,
    /// `host:port`, with commas between several; `rediss://` before the first: over TLS.
    pub redis_address: String,
    /// The address is of Sentinels or of a cluster's nodes.
    pub redis_cluster_mode: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_master: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_password: Option<Template>,
    /// PEM of who vouches for it over TLS, instead of whom the edges' systems know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_ca: Option<String>,
    /// Members in several regions are chosen by nearness to the client.
    #[serde(default)]
    pub geo_routing: bool,
    /// Where regions are that Berth does not know, in degrees north and east.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regions: BTreeMap<String, Place>,
}

/// A spot on the globe, in thousandths of a degree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub north: i32,
    pub east: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenants {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_routing: Option<RegionRouting>,
}

impl Tenants {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which region's cells a tenant belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRouting {
    pub enabled: bool,
    /// Of tenants that the map does not name. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenant_region_mapping: BTreeMap<TenantName, String>,
}

/// A tenant's region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residence<'a> {
    pub region: &'a str,
    /// The map names the tenant: it is nowhere else, whoever asks.
    pub bound: bool,
}

impl Stack {
    /// `None`: the file does not say where the tenant belongs.
    pub fn residence(&self, tenant: &TenantName) -> Option<Residence<'_>> {
        let routing = self.tenants.region_routing.as_ref().filter(|routing| routing.enabled)?;
        let bound = routing.tenant_region_mapping.get(tenant).map(|region| Residence { region, bound: true });
        bound.or_else(|| Some(Residence { region: routing.default_region.as_deref()?, bound: false }))
    }
}
