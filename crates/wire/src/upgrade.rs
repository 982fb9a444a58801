//! Which versions run, and what an upgrade would do.

use berth_domain::Version;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The header by which every answer of a server, and every request of an edge, says which version it is of.
pub const VERSION: &str = "berth-version";

/// What a program says of itself: `berth version --json`, and the body of `POST /v1/upgrade/plan`. A newer one may say more
/// than this, so here, unlike in other requests, what is not known is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Program {
    #[schema(value_type = String)]
    pub version: Version,
    /// Those of the control database that it carries.
    pub migrations: Vec<ProgramMigration>,
    /// Long operations that it can go on with.
    pub workflows: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramMigration {
    pub number: i64,
    /// It takes away what the version before uses, and waits until the upgrade is finished.
    #[serde(default)]
    #[schema(required = false)]
    pub contracts: bool,
}

/// `GET /v1/upgrade` and `POST /v1/upgrade/finish`: which versions run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// Of the server that answers.
    #[schema(value_type = String)]
    pub version: Version,
    /// Servers, then edges.
    pub processes: Vec<Process>,
    /// The newest migration of the control database.
    pub migration: i64,
    /// The control database serves programs that know this migration, and none before.
    pub floor: i64,
    /// Migrations of the answering server that wait for the end of the upgrade.
    pub waiting: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProcessRole {
    Serve,
    Edge,
}

/// A server or an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    pub role: ProcessRole,
    /// An edge's own; of a server, its machine's.
    pub name: String,
    /// Absent: it is of a version that does not say so.
    #[schema(value_type = Option<String>)]
    pub version: Option<Version>,
    /// Heard of lately.
    pub alive: bool,
    /// Another process of its name takes new connections; this one serves those it has.
    pub leaving: bool,
}

/// `POST /v1/upgrade/plan`: what would be done, in order, and what stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradePlan {
    #[schema(value_type = String)]
    pub to: Version,
    /// Empty: nothing is to be done.
    pub steps: Vec<UpgradeStep>,
    /// Empty: it may begin.
    pub refused: Vec<UpgradeRefusal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeStep {
    pub kind: UpgradeKind,
    /// Of the process; of a migration, its number.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    pub from: Option<Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeKind {
    /// A migration that adds; the new server applies it at its start.
    Expand,
    Serve,
    Edge,
    /// A migration that takes away what the version before uses: when nothing older runs.
    Contract,
}

/// Why an upgrade does not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpgradeRefusal {
    pub code: String,
    pub why: String,
    pub hint: String,
}
