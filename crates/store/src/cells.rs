//! Cells: where tenants live. A cell's name is reserved here before anything is made at a provider.

use crate::{Store, StoreError, Tx, moment::Moment, seal::Sealed};
use berth_domain::{CellClass, CellId, CellName, CellState};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

/// Where a sealed access belongs, see `seal.rs`.
const ACCESS: &str = "cells.access";
const SETTINGS: &str = "cells.settings";

#[derive(Clone, Debug)]
pub struct Cell {
    pub id: CellId,
    pub name: CellName,
    pub class: CellClass,
    pub provider: String,
    pub region: Option<String>,
    pub state: CellState,
    pub max_tenants: i32,
    pub shape: Value,
    pub schema_fingerprint: Option<String>,
    pub stack_revision: i64,
    /// What it runs; 0: what the stack file alone says.
    pub release: u32,
    pub created_at: Timestamp,
    /// Tenants that it owns or that are on their way to it.
    pub tenants: i64,
}

#[derive(Clone, Debug)]
pub struct NewCell {
    pub id: CellId,
    pub name: CellName,
    pub class: CellClass,
    pub provider: String,
    pub region: Option<String>,
    pub max_tenants: i32,
    pub shape: Value,
    pub stack_revision: i64,
}

struct Row {
    id: uuid::Uuid,
    name: String,
    class: String,
    provider: String,
    region: Option<String>,
    state: String,
    max_tenants: i32,
    shape: Value,
    schema_fingerprint: Option<String>,
    stack_revision: i64,
    release: i32,
    created_at: Moment,
    tenants: i64,
}

impl TryFrom<Row> for Cell {
    type Error = StoreError;
    fn try_from(r: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: r.id.into(),
            name: CellName::new(r.name)?,
            class: r.class.parse()?,
            provider: r.provider,
            region: r.region,
            state: r.state.parse()?,
            max_tenants: r.max_tenants,
            shape: r.shape,
            schema_fingerprint: r.schema_fingerprint,
            stack_revision: r.stack_revision,
            release: u32::try_from(r.release).unwrap_or(0),
            created_at: r.created_at.0,
            tenants: r.tenants,
        })
    }
}

impl Store {
    /// Every cell that is not gone, by name.
    pub async fn cell_list(&self) -> Result<Vec<Cell>, StoreError> {
        sqlx::query_as!(
            Row,
            r#"SELECT id, name, class, provider, region, state, max_tenants, shape, schema_fingerprint, stack_revision, release,
                      created_at AS "created_at: Moment",
                      (SELECT count(*) FROM placements p JOIN tenants t ON t.id = p.tenant_id
                       WHERE (p.owner = c.id OR p.target = c.id OR EXISTS (SELECT FROM moves m
                             WHERE m.tenant_id = t.id AND m.target = c.id AND m.ended_at IS NULL))
                         AND t.state NOT IN ('deleted', 'failed')) AS "tenants!"
               FROM cells c WHERE state NOT IN ('removed', 'failed') ORDER BY name"#
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(Cell::try_from)
        .collect()
    }

    /// Any cell, gone ones too: a move's history names them.
    pub async fn cell_get(&self, id: CellId) -> Result<Option<Cell>, StoreError> {
        sqlx::query_as!(
            Row,
            r#"SELECT id, name, class, provider, region, state, max_tenants, shape, schema_fingerprint, stack_revision, release,
                      created_at AS "created_at: Moment",
                      (SELECT count(*) FROM placements p JOIN tenants t ON t.id = p.tenant_id
                       WHERE (p.owner = c.id OR p.target = c.id OR EXISTS (SELECT FROM moves m
                             WHERE m.tenant_id = t.id AND m.target = c.id AND m.ended_at IS NULL))
                         AND t.state NOT IN ('deleted', 'failed')) AS "tenants!"
               FROM cells c WHERE id = $1"#,
            id.uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .map(Cell::try_from)
        .transpose()
    }

    pub async fn cell_by_name(&self, name: &CellName) -> Result<Option<Cell>, StoreError> {
        Ok(self.cell_list().await?.into_iter().find(|c| c.name == *name))
    }

    /// Where the cell's database listens and how to log in, as `control` stored it.
    pub async fn cell_access(&self, id: CellId) -> Result<Option<SecretString>, StoreError> {
        let row = sqlx::query!("SELECT access_sealed, access_key_version FROM cells WHERE id = $1", id.uuid())
            .fetch_optional(&self.pool)
            .await?;
        let Some((bytes, key_version)) = row.and_then(|r| r.access_sealed.zip(r.access_key_version)) else {
            return Ok(None);
        };
        Ok(Some(self.sealer.open(ACCESS, id.uuid(), &Sealed { bytes, key_version })?))
    }

    /// What the adapter of a provider was told of single cells, unsealed, by their names.
    pub async fn cell_settings(&self, provider: &str) -> Result<Vec<(CellName, SecretString)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, name, settings_sealed AS "bytes!", settings_key_version AS "key_version!" FROM cells
               WHERE provider = $1 AND settings_sealed IS NOT NULL AND state NOT IN ('removed', 'failed') ORDER BY name"#,
            provider
        )
        .fetch_all(&self.pool)
        .await?;
        let open = |id, bytes, key_version| self.sealer.open(SETTINGS, id, &Sealed { bytes, key_version });
        rows.into_iter().map(|r| Ok((CellName::new(r.name)?, open(r.id, r.bytes, r.key_version)?))).collect()
    }

    /// Stored outside a transaction of the caller's, since it follows a remote change and is itself repeatable.
    pub async fn cell_set_access(&self, id: CellId, access: &SecretString) -> Result<(), StoreError> {
        let sealed = self.sealer.seal(ACCESS, id.uuid(), access);
        sqlx::query!(
            "UPDATE cells SET access_sealed = $2, access_key_version = $3, changed_at = now() WHERE id = $1",
            id.uuid(),
            sealed.bytes,
            sealed.key_version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub async fn cell_set_fingerprint(&self, id: CellId, fingerprint: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE cells SET schema_fingerprint = $2, changed_at = now() WHERE id = $1",
            id.uuid(),
            fingerprint
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    pub async fn cell_insert(&mut self, new: &NewCell) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO cells (id, name, class, provider, region, state, max_tenants, shape, stack_revision, release)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce((SELECT release FROM rolls
                     WHERE whole AND state = 'done' ORDER BY number DESC LIMIT 1), 0))",
            new.id.uuid(),
            new.name.as_str(),
            new.class.as_str(),
            new.provider,
            new.region,
            CellState::Creating.as_str(),
            new.max_tenants,
            new.shape,
            new.stack_revision
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What the adapter is to know of a cell that was just inserted, sealed under the store's key.
    pub async fn cell_set_settings(
        &mut self,
        store: &Store,
        id: CellId,
        settings: &SecretString,
    ) -> Result<(), StoreError> {
        let sealed = store.sealer.seal(SETTINGS, id.uuid(), settings);
        sqlx::query!(
            "UPDATE cells SET settings_sealed = $2, settings_key_version = $3, release = 0 WHERE id = $1",
            id.uuid(),
            sealed.bytes,
            sealed.key_version
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// The cell, locked until the transaction ends: nobody else places a tenant in it, drains or removes it
    /// meanwhile. Whoever counts tenants to decide on room calls this first.
    pub async fn cell_lock(&mut self, id: CellId) -> Result<Option<Cell>, StoreError> {
        // Two statements: the count must be read after the lock was waited for, by a snapshot of its own.
        sqlx::query_scalar!("SELECT id FROM cells WHERE id = $1 FOR UPDATE", id.uuid())
            .fetch_optional(&mut *self.inner)
            .await?;
        sqlx::query_as!(
            Row,
            r#"SELECT id, name, class, provider, region, state, max_tenants, shape, schema_fingerprint, stack_revision, release,
                      created_at AS "created_at: Moment",
                      (SELECT count(*) FROM placements p JOIN tenants t ON t.id = p.tenant_id
                       WHERE (p.owner = c.id OR p.target = c.id OR EXISTS (SELECT FROM moves m
                             WHERE m.tenant_id = t.id AND m.target = c.id AND m.ended_at IS NULL))
                         AND t.state NOT IN ('deleted', 'failed')) AS "tenants!"
               FROM cells c WHERE id = $1"#,
            id.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?
        .map(Cell::try_from)
        .transpose()
    }

    /// `Stale` when the cell is not in the state that the caller decided on.
    pub async fn cell_set_state(&mut self, id: CellId, from: CellState, to: CellState) -> Result<(), StoreError> {
        let changed = sqlx::query!(
            "UPDATE cells SET state = $3, changed_at = now() WHERE id = $1 AND state = $2",
            id.uuid(),
            from.as_str(),
            to.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        if changed.rows_affected() == 0 { Err(StoreError::Stale("cell")) } else { Ok(()) }
    }

    /// Forgets how to log in: the database is gone, and its passwords need not outlive it.
    pub async fn cell_clear_access(&mut self, id: CellId) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE cells SET access_sealed = NULL, access_key_version = NULL, settings_sealed = NULL,
                              settings_key_version = NULL
             WHERE id = $1",
            id.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What the stack file says of a cell that exists already.
    pub async fn cell_set_room(&mut self, id: CellId, max_tenants: i32, revision: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE cells SET max_tenants = $2, stack_revision = $3, changed_at = now() WHERE id = $1",
            id.uuid(),
            max_tenants,
            revision
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
