//! Releases, and how far each is on its way over the cells. Never decides which cell is next: `control` does.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{
    Artifact, CellId, CellName, MemberId, OperationId, RollCellState, RollState, ServiceName, TenantName,
};
use jiff::Timestamp;
use sqlx::PgExecutor;
use std::collections::BTreeMap;

/// Service to what it runs.
pub type Artifacts = BTreeMap<ServiceName, Artifact>;

#[derive(Clone, Debug)]
pub struct Release {
    pub number: u32,
    pub services: Artifacts,
    pub created_by: String,
    pub created_at: Timestamp,
}

/// A release on its way.
#[derive(Clone, Debug)]
pub struct Roll {
    pub number: i32,
    /// 0: what the stack file alone says.
    pub release: u32,
    pub before: u32,
    pub back: bool,
    pub whole: bool,
    pub state: RollState,
    pub reason: Option<String>,
    pub next_wave_at: Option<Timestamp>,
    pub asked_by: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// One cell of a roll.
#[derive(Clone, Debug)]
pub struct RollCell {
    pub roll: i32,
    pub cell: CellId,
    pub wave: i32,
    pub state: RollCellState,
    /// What it ran when this began there; until then, when it was planned.
    pub before: u32,
    /// What it gets; `None`: the roll's release. A way back gives each cell what ran there.
    pub release: Option<u32>,
    pub operation: Option<OperationId>,
    pub reason: Option<String>,
    pub output: Option<String>,
}

#[derive(Clone, Debug)]
pub struct NewRoll {
    pub release: u32,
    pub before: u32,
    pub back: bool,
    pub whole: bool,
    pub asked_by: String,
    pub cells: Vec<NewRollCell>,
}

#[derive(Clone, Copy, Debug)]
pub struct NewRollCell {
    pub cell: CellId,
    pub wave: i32,
    /// What it runs now.
    pub before: u32,
    /// What it gets; `None`: the roll's release.
    pub release: Option<u32>,
}

fn release_number(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

fn stored(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

async fn rolls(on: impl PgExecutor<'_>, only: Option<i32>) -> Result<Vec<Roll>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT number, release, before, back, whole, state, reason, next_wave_at AS "next_wave_at: Moment", asked_by,
                  started_at AS "started_at: Moment", ended_at AS "ended_at: Moment"
           FROM rolls WHERE $1::integer IS NULL OR number = $1 ORDER BY number DESC LIMIT 200"#,
        only
    )
    .fetch_all(on)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Roll {
                number: r.number,
                release: release_number(r.release),
                before: release_number(r.before),
                back: r.back,
                whole: r.whole,
                state: r.state.parse()?,
                reason: r.reason,
                next_wave_at: Moment::of(r.next_wave_at),
                asked_by: r.asked_by,
                started_at: r.started_at.0,
                ended_at: Moment::of(r.ended_at),
            })
        })
        .collect()
}

async fn cells(on: impl PgExecutor<'_>, roll: Option<i32>) -> Result<Vec<RollCell>, StoreError> {
    let rows = sqlx::query!(
        "SELECT rc.roll, rc.cell_id, rc.wave, rc.state, rc.before, rc.release, rc.operation_id, rc.reason,
                CASE WHEN $1::integer IS NULL THEN NULL ELSE rc.output END AS output
         FROM roll_cells rc JOIN cells c ON c.id = rc.cell_id
         WHERE $1::integer IS NULL OR rc.roll = $1 ORDER BY rc.roll, rc.wave, c.name",
        roll
    )
    .fetch_all(on)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(RollCell {
                roll: r.roll,
                cell: r.cell_id.into(),
                wave: r.wave,
                state: r.state.parse()?,
                before: release_number(r.before),
                release: r.release.map(release_number),
                operation: r.operation_id.map(Into::into),
                reason: r.reason,
                output: r.output,
            })
        })
        .collect()
}

impl Store {
    /// The newest first.
    pub async fn release_list(&self) -> Result<Vec<Release>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT number, services, created_by, created_at AS "created_at: Moment" FROM releases ORDER BY number DESC"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Release {
                    number: release_number(r.number),
                    services: serde_json::from_value(r.services)?,
                    created_by: r.created_by,
                    created_at: r.created_at.0,
                })
            })
            .collect()
    }

    pub async fn release_get(&self, number: u32) -> Result<Option<Release>, StoreError> {
        Ok(self.release_list().await?.into_iter().find(|release| release.number == number))
    }

    /// What cells that are made now are to run: the release that was brought to all of them last.
    pub async fn release_current(&self) -> Result<u32, StoreError> {
        let current = sqlx::query_scalar!(
            "SELECT release FROM rolls WHERE whole AND state = 'done' ORDER BY number DESC LIMIT 1"
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(current.map_or(0, release_number))
    }

    /// The newest first; `only`: that one alone.
    pub async fn roll_list(&self, only: Option<i32>) -> Result<Vec<Roll>, StoreError> {
        rolls(&self.pool, only).await
    }

    /// In the order of their waves. `None`: of all rolls, without what migrations wrote.
    pub async fn roll_cells(&self, roll: Option<i32>) -> Result<Vec<RollCell>, StoreError> {
        cells(&self.pool, roll).await
    }

    /// What a person is told of a cell that waits. Changes nothing else.
    pub async fn roll_cell_waits(&self, roll: i32, cell: CellId, why: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE roll_cells SET reason = $3 WHERE roll = $1 AND cell_id = $2 AND state = 'waiting'
                 AND reason IS DISTINCT FROM $3",
            roll,
            cell.uuid(),
            why
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Kept outside a transaction of the caller's: it says what happened, whatever becomes of it.
    pub async fn roll_cell_output(&self, roll: i32, cell: CellId, output: &str) -> Result<(), StoreError> {
        sqlx::query!("UPDATE roll_cells SET output = $3 WHERE roll = $1 AND cell_id = $2", roll, cell.uuid(), output)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The next wave begins then.
    pub async fn roll_pause(&self, roll: i32, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query!("UPDATE rolls SET next_wave_at = $2 WHERE number = $1", roll, Moment(at) as _)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

impl Tx {
    /// The release of this set, and whether it is new. Two that ask at once get one.
    pub async fn release_ensure(&mut self, services: &Artifacts, by: &str) -> Result<(u32, bool), StoreError> {
        sqlx::query!("LOCK TABLE releases IN SHARE ROW EXCLUSIVE MODE").execute(&mut *self.inner).await?;
        let services = serde_json::to_value(services)?;
        let known = sqlx::query_scalar!("SELECT number FROM releases WHERE services = $1", services)
            .fetch_optional(&mut *self.inner)
            .await?;
        if let Some(known) = known {
            return Ok((release_number(known), false));
        }
        let number = sqlx::query_scalar!(
            "INSERT INTO releases (number, services, created_by)
             SELECT coalesce(max(number), 0) + 1, $1, $2 FROM releases RETURNING number",
            services,
            by
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok((release_number(number), true))
    }

    /// Nobody else starts or ends a roll, or starts a cell of one, until this commits.
    pub async fn rolls_lock(&mut self) -> Result<Option<i32>, StoreError> {
        sqlx::query!("LOCK TABLE rolls IN SHARE ROW EXCLUSIVE MODE").execute(&mut *self.inner).await?;
        Ok(sqlx::query_scalar!("SELECT number FROM rolls WHERE state = 'rolling'")
            .fetch_optional(&mut *self.inner)
            .await?)
    }

    pub async fn roll_insert(&mut self, new: &NewRoll) -> Result<i32, StoreError> {
        let number = sqlx::query_scalar!(
            "INSERT INTO rolls (number, release, before, back, whole, state, asked_by)
             SELECT coalesce(max(number), 0) + 1, $1, $2, $3, $4, 'rolling', $5 FROM rolls RETURNING number",
            stored(new.release),
            stored(new.before),
            new.back,
            new.whole,
            new.asked_by
        )
        .fetch_one(&mut *self.inner)
        .await?;
        for cell in &new.cells {
            self.roll_add(number, cell).await?;
        }
        Ok(number)
    }

    /// As [`Store::roll_list`]. With the lock above nothing but the ends of cells changes any more.
    pub async fn roll_list(&mut self) -> Result<Vec<Roll>, StoreError> {
        rolls(&mut *self.inner, None).await
    }

    /// As [`Store::roll_cells`], of all rolls.
    pub async fn roll_cells(&mut self) -> Result<Vec<RollCell>, StoreError> {
        cells(&mut *self.inner, None).await
    }

    /// One more cell.
    pub async fn roll_add(&mut self, roll: i32, new: &NewRollCell) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO roll_cells (roll, cell_id, wave, state, before, release) VALUES ($1, $2, $3, 'waiting', $4, $5)
             ON CONFLICT DO NOTHING",
            roll,
            new.cell.uuid(),
            new.wave,
            stored(new.before),
            new.release.map(stored)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Over, if it was under way.
    pub async fn roll_end(&mut self, roll: i32, state: RollState, reason: Option<&str>) -> Result<bool, StoreError> {
        let ended = sqlx::query!(
            "UPDATE rolls SET state = $2, reason = $3, ended_at = now(), next_wave_at = NULL
             WHERE number = $1 AND state = 'rolling'",
            roll,
            state.as_str(),
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(ended.rows_affected() > 0)
    }

    /// A wave has begun: the pause before the next one is not known yet.
    pub async fn roll_unpause(&mut self, roll: i32) -> Result<(), StoreError> {
        sqlx::query!("UPDATE rolls SET next_wave_at = NULL WHERE number = $1", roll).execute(&mut *self.inner).await?;
        Ok(())
    }

    /// `before`: what it runs at this moment. `Stale` when it does not wait any more.
    pub async fn roll_cell_start(
        &mut self,
        roll: i32,
        cell: CellId,
        operation: OperationId,
        before: u32,
    ) -> Result<(), StoreError> {
        let started = sqlx::query!(
            "UPDATE roll_cells SET state = 'rolling', operation_id = $3, before = $4, reason = NULL
             WHERE roll = $1 AND cell_id = $2 AND state = 'waiting'",
            roll,
            cell.uuid(),
            operation.uuid(),
            stored(before)
        )
        .execute(&mut *self.inner)
        .await?;
        if started.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("cell of the release")) }
    }

    pub async fn roll_cell_end(
        &mut self,
        roll: i32,
        cell: CellId,
        state: RollCellState,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE roll_cells SET state = $3, reason = coalesce($4, reason) WHERE roll = $1 AND cell_id = $2",
            roll,
            cell.uuid(),
            state.as_str(),
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    pub async fn cell_set_release(&mut self, cell: CellId, release: u32) -> Result<(), StoreError> {
        sqlx::query!("UPDATE cells SET release = $2, changed_at = now() WHERE id = $1", cell.uuid(), stored(release))
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// The release that is being rolled over this cell. Ask with the cell's lock held.
    pub async fn cell_rolling(&mut self, cell: CellId) -> Result<Option<u32>, StoreError> {
        let release = sqlx::query_scalar!(
            r#"SELECT coalesce(rc.release, r.release) AS "release!" FROM roll_cells rc JOIN rolls r ON r.number = rc.roll
               WHERE rc.cell_id = $1 AND rc.state = 'rolling'"#,
            cell.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        Ok(release.map(release_number))
    }

    /// The restart of a service of this cell that is not over, also one that is stuck. Ask with the cell's lock held.
    pub async fn cell_restarting(&mut self, cell: &CellName) -> Result<Option<OperationId>, StoreError> {
        self.operation_about("restart_service_v1", &format!("cell/{cell}")).await
    }

    /// The operation of one kind about this that is not over, asked on this connection: who holds a lock does not wait for
    /// another one.
    pub async fn operation_about(&mut self, workflow: &str, subject: &str) -> Result<Option<OperationId>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT id FROM operations WHERE workflow = $1 AND subject = $2
             AND state IN ('queued', 'running', 'undoing', 'stuck') ORDER BY seq DESC LIMIT 1",
            workflow,
            subject
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        Ok(id.map(OperationId::new))
    }

    /// A tenant that is moving out of this cell or into it. Ask with the cell's lock held.
    pub async fn cell_moving(&mut self, cell: CellId) -> Result<Option<TenantName>, StoreError> {
        let name = sqlx::query_scalar!(
            "SELECT t.name FROM moves m JOIN tenants t ON t.id = m.tenant_id
             WHERE m.ended_at IS NULL AND (m.source = $1 OR m.target = $1) ORDER BY m.started_at LIMIT 1",
            cell.uuid()
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        name.map(TenantName::new).transpose().map_err(Into::into)
    }

    /// Gives requests to the members of a release and takes them from `old`: edges hear of both in one revision. Any
    /// other member of another release is not wanted any more either: nobody planned it, so nobody but the loop that
    /// ends unwanted members ends it. With `back`, the reverse for those that are named.
    pub async fn members_switch(
        &mut self,
        cell: CellId,
        release: u32,
        new: &[MemberId],
        old: &[MemberId],
        back: bool,
    ) -> Result<(), StoreError> {
        let (new, old): (Vec<_>, Vec<_>) =
            (new.iter().map(|id| id.uuid()).collect(), old.iter().map(|id| id.uuid()).collect());
        sqlx::query!(
            "UPDATE members SET wanted = NOT $3, arriving = $3 WHERE id = ANY($1) AND cell_id = $2",
            &new,
            cell.uuid(),
            back
        )
        .execute(&mut *self.inner)
        .await?;
        // Those that leave are kept as arriving are: nobody but the release ends them or starts them again.
        sqlx::query!(
            "UPDATE members SET wanted = $3, arriving = NOT $3 WHERE id = ANY($1) AND cell_id = $2",
            &old,
            cell.uuid(),
            back
        )
        .execute(&mut *self.inner)
        .await?;
        if !back {
            sqlx::query!(
                "UPDATE members SET wanted = false WHERE cell_id = $1 AND wanted AND release <> $2",
                cell.uuid(),
                stored(release)
            )
            .execute(&mut *self.inner)
            .await?;
        }
        self.routes_publish_cell(cell).await
    }

    /// Those of a release that have not been given anything to do.
    pub async fn members_forget(&mut self, members: &[MemberId]) -> Result<(), StoreError> {
        let members: Vec<_> = members.iter().map(|id| id.uuid()).collect();
        sqlx::query!("DELETE FROM members WHERE id = ANY($1) AND NOT wanted", &members)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
