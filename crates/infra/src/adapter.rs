//! How an adapter enters the list of providers. Never an enum of providers: a new one is a new entry.

use crate::{Compute, Database, ProviderError, Reach};
use std::{fmt, sync::Arc};

/// What an adapter offers: any subset.
#[derive(Clone, Default)]
pub struct Provider {
    pub database: Option<Arc<dyn Database>>,
    pub compute: Option<Arc<dyn Compute>>,
    pub reach: Option<Arc<dyn Reach>>,
    /// What it shows was made by somebody else and is run by them: nothing is created, migrated, started, stopped or
    /// deleted there, whatever is called.
    pub foreign: bool,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("database", &self.database.is_some())
            .field("compute", &self.compute.is_some())
            .field("reach", &self.reach.is_some())
            .field("foreign", &self.foreign)
            .finish()
    }
}

/// An entry in the list of adapters. `build` is handed the adapter's own section of the stack file and reports
/// an unknown key itself.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    pub name: &'static str,
    pub build: fn(&serde_json::Value) -> Result<Provider, ProviderError>,
}
