//! How releases are rolled over the cells, and what new members have to answer before they serve.

use crate::Span;
use berth_domain::{CellName, ServiceName};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Releases {
    /// The first wave, alone. Absent: the first cell by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CellName>,
    /// Cells at a time after it.
    pub wave: u16,
    /// Between two waves. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Span>,
    /// How long a cell's `migrate` may take.
    pub migrate_limit: Span,
    /// How long new members may take to be healthy.
    pub healthy_limit: Span,
    pub workers: Workers,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub smoke: Vec<Smoke>,
}

/// When the new copies of services without a route start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workers {
    /// When the old ones have ended, so that two releases never do the same work at once.
    After,
    /// Beside the old ones, which end when the new ones are well.
    Beside,
}

/// A request that each new member of a web service has to answer before it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smoke {
    pub service: ServiceName,
    pub path: String,
    /// Absent: any 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the answer's first 64 KiB have to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

impl Default for Releases {
    fn default() -> Self {
        Self {
            canary: None,
            wave: 1,
            pause: None,
            migrate_limit: Span::from_ms(15 * 60_000),
            healthy_limit: Span::from_ms(2 * 60_000),
            workers: Workers::After,
            smoke: Vec::new(),
        }
    }
}

impl Releases {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// With whom images of a registry are pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAccount {
    pub user: String,
    /// Of one variable at least: read where it is needed, and kept nowhere.
    pub password: crate::Template,
}
