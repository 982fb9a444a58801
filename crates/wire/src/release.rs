//! Releases: what the services of the stack run, by digest, and how that comes to the cells.

use crate::schema;
use berth_domain::{CellName, OperationId, RollCellState, RollState, ServiceName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What services are to run: `NAME@sha256:…`, an image or the absolute path of a program. Services that are not named run
/// what they run in the present release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseCreate {
    pub services: BTreeMap<String, String>,
}

/// One set of artifacts. The same set is the same release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    pub number: u32,
    #[schema(value_type = BTreeMap<String, String>)]
    pub services: BTreeMap<ServiceName, String>,
    /// Cells that are made now run it.
    pub current: bool,
    /// The cells that run it.
    #[schema(value_type = Vec<String>)]
    pub cells: Vec<CellName>,
    pub created_by: String,
    #[schema(schema_with = schema::time)]
    pub created_at: Timestamp,
}

/// A release with every time it was rolled, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseShown {
    pub release: Release,
    pub rolls: Vec<Roll>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollAsk {
    pub release: u32,
    /// Only these cells; empty: all, and those that are made later.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub to: Vec<CellName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackAsk {
    /// Absent: each cell that the last roll reached gets what ran there before it. 0: what the stack file alone says.
    #[serde(default)]
    pub to: Option<u32>,
}

/// What a roll would do. Nothing is changed to find out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollPlan {
    pub release: u32,
    pub before: u32,
    pub back: bool,
    /// One after the other; the cells of one at once.
    pub waves: Vec<Vec<PlannedCell>>,
    pub pause_ms: Option<u64>,
    /// Whether services without a route start again after their old copies have ended (`after`) or beside them (`beside`).
    pub workers: String,
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedCell {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// What it runs now; 0: what the stack file alone says.
    pub before: u32,
    /// What it gets. Absent: the plan's release; a way back gives each cell what ran there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gets: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    pub why: String,
}

/// A release on its way over the cells, or back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Roll {
    pub number: i32,
    /// 0: what the stack file alone says.
    pub release: u32,
    pub before: u32,
    pub back: bool,
    /// All cells, not only some.
    pub whole: bool,
    #[schema(schema_with = schema::roll_state)]
    pub state: RollState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::time_or_none, required = false)]
    pub next_wave_at: Option<Timestamp>,
    pub asked_by: String,
    #[schema(schema_with = schema::time)]
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::time_or_none, required = false)]
    pub ended_at: Option<Timestamp>,
    /// In the order of their waves.
    pub cells: Vec<RollCell>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollCell {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    /// From 1.
    pub wave: u32,
    #[schema(schema_with = schema::roll_cell_state)]
    pub state: RollCellState,
    /// What it ran before this.
    pub before: u32,
    /// What it gets. Absent: the roll's release; a way back gives each cell what ran there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gets: Option<u32>,
    /// What it runs now.
    pub release: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::id_or_none, required = false)]
    pub operation: Option<OperationId>,
    /// Why it waits, or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What `migrate` wrote, the last 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// What runs where, and what is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseStatus {
    /// What cells that are made now run.
    pub current: u32,
    /// The last one, whether it is over or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll: Option<Roll>,
    pub cells: Vec<CellRelease>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CellRelease {
    #[schema(schema_with = schema::name)]
    pub cell: CellName,
    pub release: u32,
    /// Of its schema: tenants move only between cells that have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// An account that may pull images. The password goes in and never comes out.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryPut {
    /// The registry's host, with its port.
    pub host: String,
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryPut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryPut").field("host", &self.host).field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Registry {
    pub host: String,
    pub user: String,
    pub changed_by: String,
    #[schema(schema_with = schema::time)]
    pub changed_at: Timestamp,
}
