//! Ways back: which moves can still be undone, and what of the others is still to be cleared away.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, MoveId, TenantId, WayBackState};
use berth_mover::MovePlan;
use jiff::Timestamp;

#[derive(Clone, Debug)]
pub struct WayBack {
    pub id: MoveId,
    pub tenant: TenantId,
    pub old_cell: CellId,
    pub new_cell: CellId,
    pub plan: MovePlan,
    pub state: WayBackState,
    pub until: Timestamp,
    /// Whether `until` has come, by the database's clock.
    pub over: bool,
}

impl Store {
    /// Those with something left to do, oldest first; of one tenant or of all.
    pub async fn ways_back_unfinished(&self, tenant: Option<TenantId>) -> Result<Vec<WayBack>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT move_id, tenant_id, old_cell, new_cell, plan, state, until AS "until: Moment", until <= now() AS "over!"
               FROM ways_back WHERE state IN ('open', 'undoing', 'closing') AND ($1::uuid IS NULL OR tenant_id = $1)
               ORDER BY until, move_id"#,
            tenant.map(TenantId::uuid)
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(WayBack {
                    id: r.move_id.into(),
                    tenant: r.tenant_id.into(),
                    old_cell: r.old_cell.into(),
                    new_cell: r.new_cell.into(),
                    plan: serde_json::from_value(r.plan)?,
                    state: r.state.parse()?,
                    until: r.until.0,
                    over: r.over,
                })
            })
            .collect()
    }

    /// What was last seen of an unfinished one; a note for people.
    pub async fn way_back_seen(
        &self,
        id: MoveId,
        bytes_behind: Option<i64>,
        trouble: Option<&str>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE ways_back SET bytes_behind = $2, trouble = $3
             WHERE move_id = $1 AND (bytes_behind IS DISTINCT FROM $2 OR trouble IS DISTINCT FROM $3)",
            id.uuid(),
            bytes_behind,
            trouble
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// From one state to another, if it is in that state.
    pub async fn way_back_turn(
        &self,
        id: MoveId,
        from: WayBackState,
        to: WayBackState,
        reason: Option<&str>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let turned = tx.way_back_turn(id, from, to, reason).await?;
        tx.commit().await?;
        Ok(turned)
    }
}

impl Tx {
    /// How many tenants' rows this cell keeps for a way back.
    pub async fn ways_back_into(&mut self, cell: CellId) -> Result<i64, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM ways_back
               WHERE (old_cell = $1 AND state IN ('open', 'undoing'))
                  OR (new_cell = $1 AND state IN ('open', 'undoing', 'closing'))"#,
            cell.uuid()
        );
        Ok(count.fetch_one(&mut *self.inner).await?)
    }

    /// `days`: how long it stays open; none: the rows of the old side go at once.
    pub async fn way_back_open(
        &mut self,
        id: MoveId,
        tenant: TenantId,
        (old_cell, new_cell): (CellId, CellId),
        plan: &MovePlan,
        days: Option<u32>,
    ) -> Result<(), StoreError> {
        let state = if days.is_some() { WayBackState::Open } else { WayBackState::Closing };
        sqlx::query!(
            "INSERT INTO ways_back (move_id, tenant_id, old_cell, new_cell, plan, state, until)
             VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7)) ON CONFLICT (move_id) DO NOTHING",
            id.uuid(),
            tenant.uuid(),
            old_cell.uuid(),
            new_cell.uuid(),
            serde_json::to_value(plan)?,
            state.as_str(),
            i32::try_from(days.unwrap_or(0)).unwrap_or(i32::MAX)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    pub async fn way_back_turn(
        &mut self,
        id: MoveId,
        from: WayBackState,
        to: WayBackState,
        reason: Option<&str>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "UPDATE ways_back SET state = $3, reason = coalesce($4, reason), trouble = NULL
             WHERE move_id = $1 AND state = $2",
            id.uuid(),
            from.as_str(),
            to.as_str(),
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// A tenant that moves on cannot go back from where it then is to where it was before.
    pub async fn ways_back_close(&mut self, tenant: TenantId, reason: &str) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE ways_back SET state = 'closing', reason = $2, trouble = NULL WHERE tenant_id = $1 AND state = 'open'",
            tenant.uuid(),
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected())
    }
}
