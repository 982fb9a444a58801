//! What providers sell, as decisions and prices rest on it.

use crate::schema;
use berth_domain::{CellClass, Cents};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /v1/catalogue`: the shipped one with what the stack file says over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Catalogue {
    /// Of which day.
    pub version: String,
    pub rates_of: String,
    /// Dollars for one of each currency.
    pub rates: BTreeMap<String, String>,
    pub providers: Vec<CatalogueProvider>,
    /// What cells are made of.
    pub offers: Vec<CatalogueOffer>,
    /// What an answer that rests on it has to say.
    pub says: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueProvider {
    pub name: String,
    pub title: String,
    /// The day on which its prices were looked at, and where.
    pub checked: String,
    pub source: String,
    pub currency: String,
    pub compliance: Vec<String>,
    pub regions: Vec<CatalogueRegion>,
    pub shapes: Vec<CatalogueShape>,
    /// What it gives of something, per account.
    pub quotas: Vec<CatalogueQuota>,
    /// Money that is not paid for a while.
    #[serde(default)]
    pub credits: Vec<CatalogueCredit>,
    /// How many requests its API takes; absent: unknown.
    pub rate_limit: Option<CatalogueRateLimit>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueRegion {
    /// As the provider names it, and as the catalogue does.
    pub name: String,
    pub region: String,
    pub residency: Vec<String>,
    /// What a request of nearby users takes, 95th percentile; absent: unknown.
    pub near_ms: Option<u32>,
    /// `measured` or `claimed`.
    pub trust: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueShape {
    pub name: String,
    /// A month; absent: a share of the servers beside it, or unknown.
    pub price: Option<String>,
    pub currency: String,
    pub percent_of_servers: Option<u64>,
    pub cpu_millis: u64,
    pub memory_mib: u64,
    pub disk_gib: u64,
    /// Of what leaves for users, paid by one of it; absent: it is something else.
    #[serde(default)]
    pub egress_gib: Option<u64>,
    /// The processor's architecture, as `uname -m` says it; absent: it has none.
    pub arch: Option<String>,
    /// The provider's own names of the regions in which it has this price; all of them when empty.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Where its figures are from; absent: from the provider's `source`.
    pub source: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueCredit {
    pub what: String,
    /// A month, in the provider's currency.
    pub amount: String,
    /// A day, or `monthly` where it comes back.
    pub expires: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueRateLimit {
    pub requests: u64,
    /// In how many seconds.
    pub per_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueQuota {
    pub what: String,
    pub amount: u64,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueOffer {
    pub name: String,
    #[schema(schema_with = schema::cell_class)]
    pub class: CellClass,
    pub provider: String,
    pub at: Vec<String>,
    pub places: u32,
    /// A month; absent: unknown.
    #[schema(schema_with = schema::cents_or_none)]
    pub price_cents: Option<Cents>,
    pub compliance: Vec<String>,
    pub residency: Vec<String>,
    pub throughput_per_s: Option<u64>,
    pub users: Option<u64>,
    pub upload_bytes: Option<u64>,
    /// Whose word the throughput, the users and the upload are: `measured` or `claimed`.
    #[serde(default)]
    pub trust: String,
}
