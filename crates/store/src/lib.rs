//! The control plane's Postgres: its migrations and every SQL statement on it.
//!
//! One file per noun. Reads are methods of [`Store`]; changes are methods of [`Tx`], so that what belongs
//! together (a tenant, its hosts, its placement, the operation and the audit line) is stored together or not at
//! all. A change that rests on an earlier read names the version it read and can answer [`StoreError::Stale`].
//! Rows become domain types at once: no state leaves this crate as text. Never talks to a cell or an edge.
//!
//! # Checked statements
//! Every statement is a sqlx macro, checked against the migrated schema when this crate is compiled. With no
//! database at hand the macros read `.sqlx/query-<sha256 of the SQL>.json`, one file a statement. To renew
//! them: start a Postgres, apply `migrations/*.sql` in order, and build this crate alone with
//! `SQLX_OFFLINE=false`, `DATABASE_URL` set to it and `SQLX_OFFLINE_DIR` set to an empty folder (touch
//! `src/lib.rs` first, since cargo does not know that the database changed). That folder's files are the new
//! `.sqlx`; equal sets of files mean that it is current.

mod approvals;
mod audit;
mod cell_use;
mod cells;
mod certificates;
mod challenges;
mod costs;
mod drains;
mod edges;
mod erasures;
mod error;
mod figures;
mod guard;
mod hosts;
mod hub;
mod idempotency;
mod journal;
mod keys;
mod leases;
mod members;
mod moment;
mod moves;
mod orders;
mod ownership;
mod placements;
mod plans;
mod processes;
mod registries;
mod releases;
mod routes;
mod schema;
mod seal;
mod spent;
mod stacks;
mod tenants;
mod usage;
mod ways_back;

pub use approvals::{Approval, ApprovalFilter, Judgement, NewApproval};
pub use audit::{AuditEntry, NewAudit};
pub use cell_use::{CellLook, CellSize, CellUse};
pub use cells::{Cell, NewCell};
pub use certificates::{Certificate, CertificateSecret, NewCertificate};
pub use challenges::{Answer, Answers};
pub use costs::{CellSpan, Invoice, InvoiceLine, InvoiceSource, Stay};
pub use drains::{Drain, DrainListed, Drained};
pub use edges::{Edge, EdgeSaid, HoldSaid, HoldWent, Presence};
pub use erasures::{Erasure, Records};
pub use error::{StoreError, Taken};
pub use figures::{CellFigure, Figure};
pub use guard::{SeenFence, WorldAhead};
pub use hosts::{Host, HostClaim, HostFilter};
pub use hub::{Hub, Nudge};
pub use idempotency::Idempotency;
pub use keys::{Key, NewKey, Scope};
pub use leases::Lease;
pub use members::{Member, NewMember, Seen};
pub use moves::{Move, MoveFigures, MoveOutcome, MovePhaseTime, WayBackShown};
pub use orders::{AcmeAccount, Order, OrderWant};
pub use ownership::StoredOwnership;
pub use placements::Placement;
pub use plans::StoredPlan;
pub use processes::{ProcessRole, ServerProcess};
pub use registries::Registry;
pub use releases::{Artifacts, NewRoll, NewRollCell, Release, Roll, RollCell};
pub use routes::{Route, RouteChanges, RouteHold, RouteMember};
#[cfg(debug_assertions)]
pub use schema::carry;
pub use schema::{KnownMigration, Schema, migrations};
pub use seal::{SealError, Sealer};
pub use spent::Spent;
pub use stacks::{NewStackRevision, StackRevision};
pub use tenants::{NewTenant, Tenant};
pub use usage::{EdgeMeter, NewUsageEvent, UsageRow, UsageTotal};
pub use ways_back::WayBack;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Postgres,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use std::{str::FromStr, sync::Arc, time::Duration};

/// How long a caller waits for a free connection before it is told that the database does not answer.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// The control database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    sealer: Arc<Sealer>,
    hub: Hub,
}

/// A transaction on the control database. Dropped without [`Tx::commit`], nothing of it happened.
#[derive(Debug)]
pub struct Tx {
    inner: sqlx::Transaction<'static, Postgres>,
}

impl Store {
    /// Connects and brings the schema up to date. Several programs may do so at once: the migrator takes an
    /// advisory lock, and the second finds nothing left to do.
    pub async fn open(url: &SecretString, sealer: Sealer, connections: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url.expose_secret())?
            .application_name("berth")
            // A commit that is acknowledged must survive a crash: ownership rests on it. The server's default
            // may say otherwise.
            .options([("synchronous_commit", "on"), ("timezone", "UTC")]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            .idle_timeout(Duration::from_mins(5))
            .connect_with(options)
            .await?;
        schema::migrate(&pool).await?;
        let hub = Hub::new();
        hub.listen(&pool).await?;
        Ok(Self { pool, sealer: Arc::new(sealer), hub })
    }

    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx { inner: self.pool.begin().await? })
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!(r#"SELECT 1 AS "one!""#).fetch_one(&self.pool).await?;
        Ok(())
    }

    /// What was changed, as it is committed, by whichever program on this database.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.hub.stop();
        self.pool.close().await;
    }
}

impl Tx {
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit().await?)
    }
}
