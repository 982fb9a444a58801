//! What a tenant needs, as people and programs say it. What is not said is not required.

use crate::catalogue::Catalogue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One tenant's needs. Quantities are those that the stack's plans limit: vehicles, users, whatever the team counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// What the customer pays at most, a month. A wish: no constraint gives way to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_cents: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quantities: BTreeMap<String, u64>,
    /// Where its users are: locations of the catalogue, or countries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// In how many regions it has to stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<u32>,
    /// Standards that its place has to meet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compliance: Vec<String>,
    /// The jurisdiction that its data must not leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    /// The provider's own name of the region that the stack file binds the tenant to. Not the tenant's to say: it is
    /// neither read nor written with the rest.
    #[serde(skip)]
    pub region: Option<String>,
    /// What leaves for its users a month as it was measured: what is paid for, without the room and the growth that
    /// quantities are judged with. Not the tenant's to say either.
    #[serde(skip)]
    pub sent_bytes: Option<u64>,
    /// The slowest answer that its users accept, 95th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_per_s: Option<u64>,
    /// At once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<u64>,
    /// The largest upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_bytes: Option<u64>,
    /// Of all quantities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_percent_per_month: Option<u32>,
    /// How wrong the forecast of a quantity was; 10 where it is not said.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forecast_error_percent: BTreeMap<String, u32>,
    /// The cell that it lives in now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<String>,
}

/// Why a profile cannot be asked about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProfile {
    #[error("`locations` names `{found}`, which is no location; known: {}", known.join(", "))]
    Location { found: String, known: Vec<String> },
    #[error("`compliance` names `{found}`, which is no standard; known: {}", known.join(", "))]
    Standard { found: String, known: Vec<String> },
    #[error("`residency` names `{found}`, where no region is; known: {}", known.join(", "))]
    Residency { found: String, known: Vec<String> },
    #[error("`{field}` is {found}, and has to be from {least} to {most}")]
    OutOfRange { field: String, found: u64, least: u64, most: u64 },
    #[error("`quantities` names {found} quantities, more than {most}")]
    TooMany { found: usize, most: usize },
}

impl BadProfile {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Location { .. } => "write a location of the catalogue, or a country that it lists under one",
            Self::Standard { .. } => "write a standard of the catalogue, or add it there and to who meets it",
            Self::Residency { .. } => "write a jurisdiction that some region of the catalogue is in",
            Self::OutOfRange { .. } => "leave it out where nothing is required",
            Self::TooMany { .. } => "leave out what no plan limits",
        }
    }
}

/// Far above what anybody counts, and small enough that sums and growth do not overflow.
const MOST: u64 = 1 << 50;
const QUANTITIES_MAX: usize = 64;
pub(crate) const USUAL_ERROR_PERCENT: u32 = 10;

impl Profile {
    /// From YAML or JSON. The message names the key and the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Everything that is wrong with it, against what the catalogue knows.
    pub fn faults(&self, catalogue: &Catalogue) -> Vec<BadProfile> {
        let mut faults = Vec::new();
        for word in self.locations.iter().filter(|word| catalogue.location(word).is_none()) {
            let known = catalogue.locations.iter().flat_map(|l| std::iter::once(&l.name).chain(&l.names)).cloned();
            faults.push(BadProfile::Location { found: word.clone(), known: known.collect() });
        }
        for word in self.compliance.iter().filter(|word| catalogue.compliance_bit(word).is_none()) {
            faults.push(BadProfile::Standard { found: word.clone(), known: catalogue.compliance.clone() });
        }
        if let Some(word) = &self.residency
            && !catalogue.residencies().contains(&word.to_ascii_lowercase().as_str())
        {
            let known = catalogue.residencies().into_iter().map(str::to_owned).collect();
            faults.push(BadProfile::Residency { found: word.clone(), known });
        }
        if self.quantities.len() > QUANTITIES_MAX {
            faults.push(BadProfile::TooMany { found: self.quantities.len(), most: QUANTITIES_MAX });
        }
        let mut within = |field: &str, found: u64, least: u64, most: u64| {
            if !(least..=most).contains(&found) {
                faults.push(BadProfile::OutOfRange { field: field.to_owned(), found, least, most });
            }
        };
        for (name, amount) in &self.quantities {
            within(&format!("quantities.{name}"), *amount, 0, MOST);
        }
        for (name, percent) in &self.forecast_error_percent {
            within(&format!("forecast_error_percent.{name}"), u64::from(*percent), 0, 1000);
        }
        for (name, amount, least) in [
            ("budget_cents", self.budget_cents, 0),
            ("latency_ms", self.latency_ms, 1),
            ("throughput_per_s", self.throughput_per_s, 0),
            ("users", self.users, 0),
            ("upload_bytes", self.upload_bytes, 0),
        ] {
            within(name, amount.unwrap_or(least), least, MOST);
        }
        within("regions", u64::from(self.regions.unwrap_or(1)), 1, 1000);
        within("growth_percent_per_month", u64::from(self.growth_percent_per_month.unwrap_or(0)), 0, 1000);
        faults
    }
}
