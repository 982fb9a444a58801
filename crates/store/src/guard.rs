//! A control database restored from an older copy is behind the world. What was seen of the world that this
//! database does not know is written here, and as long as anything stands here nothing else may be changed.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, Generation, Revision, TenantId, Token};
use jiff::Timestamp;

/// One thing seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldAhead {
    /// Who has it: `edge NAME`, or `cell NAME tenant NAME`.
    pub source: String,
    pub revision: Revision,
    /// Of a tenant's fence in a cell, where that is what was seen.
    pub fence: Option<SeenFence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenFence {
    pub tenant: TenantId,
    pub cell: CellId,
    pub generation: Generation,
    pub token: Token,
    pub open: bool,
}

impl Store {
    pub async fn world_ahead_any(&self) -> Result<bool, StoreError> {
        let any = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM world_ahead) AS "any!""#);
        Ok(any.fetch_one(&self.pool).await?)
    }

    pub async fn world_ahead(&self) -> Result<Vec<(WorldAhead, Timestamp)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT source, revision, tenant_id, cell_id, generation, token, open, seen_at AS "seen_at: Moment"
               FROM world_ahead ORDER BY source"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| {
                let fence = r.tenant_id.zip(r.cell_id).map(|(tenant, cell)| SeenFence {
                    tenant: tenant.into(),
                    cell: cell.into(),
                    generation: Generation::from_i64(r.generation),
                    token: Token::from_i64(r.token),
                    open: r.open,
                });
                (WorldAhead { source: r.source, revision: Revision::from_i64(r.revision), fence }, r.seen_at.0)
            })
            .collect())
    }

    pub async fn world_ahead_add(&self, seen: &WorldAhead) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO world_ahead (source, revision, tenant_id, cell_id, generation, token, open)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (source) DO UPDATE SET revision = greatest(world_ahead.revision, excluded.revision),
                 generation = greatest(world_ahead.generation, excluded.generation),
                 token = greatest(world_ahead.token, excluded.token), open = excluded.open",
            seen.source,
            seen.revision.as_i64(),
            seen.fence.map(|f| f.tenant.uuid()),
            seen.fence.map(|f| f.cell.uuid()),
            seen.fence.map_or(0, |f| f.generation.as_i64()),
            seen.fence.map_or(0, |f| f.token.as_i64()),
            seen.fence.is_some_and(|f| f.open)
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Raises the revision above what any edge was seen to have, with room for what was not seen.
    pub async fn recover_revision(&mut self, seen: Revision, room: i64) -> Result<(), StoreError> {
        sqlx::query!("UPDATE route_head SET revision = greatest(revision, $1) + $2", seen.as_i64(), room)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Sets a tenant's control row to what the world says: idle, at its owner, above every counter seen.
    pub async fn recover_placement(
        &mut self,
        tenant: TenantId,
        owner: CellId,
        generation: Generation,
        token: Token,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE placements SET owner = $2, generation = greatest(generation, $3), token = greatest(token, $4) + 1,
                    phase = 'idle', target = NULL, holding = false
             WHERE tenant_id = $1",
            tenant.uuid(),
            owner.uuid(),
            generation.as_i64(),
            token.as_i64()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    pub async fn world_ahead_clear(&mut self) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM world_ahead").execute(&mut *self.inner).await?;
        Ok(())
    }
}
