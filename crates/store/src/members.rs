//! Members: what should run in a cell, and what was last seen running.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, MemberId, MemberRole, MemberState, ServiceName, ServiceRole};
use jiff::Timestamp;

#[derive(Clone, Debug)]
pub struct Member {
    pub id: MemberId,
    pub cell: CellId,
    pub service: ServiceName,
    pub copy: i32,
    pub service_role: ServiceRole,
    pub role: MemberRole,
    /// Intent: it should run.
    pub wanted: bool,
    /// Observed, as of `observed_at`.
    pub state: MemberState,
    pub address: Option<String>,
    pub detail: Option<String>,
    pub restarts: i64,
    pub observed_at: Option<Timestamp>,
    /// What it used lately; `None`: its provider does not tell.
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<i64>,
    /// What it runs; 0: what the stack file alone says.
    pub release: u32,
    /// A release has it in hand: it is neither kept up nor ended by anybody else.
    pub arriving: bool,
}

#[derive(Clone, Debug)]
pub struct NewMember {
    pub id: MemberId,
    pub cell: CellId,
    pub service: ServiceName,
    pub copy: i32,
    pub service_role: ServiceRole,
    /// What it runs; 0: what the stack file alone says.
    pub release: u32,
    /// Beside those that serve, until its release gives it something to do.
    pub arriving: bool,
}

/// What a look at a member showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: MemberState,
    pub address: Option<String>,
    pub detail: Option<String>,
    /// It was started again since the last look.
    pub restarted: bool,
}

impl Store {
    /// All members of all cells, or of one.
    pub async fn member_list(&self, cell: Option<CellId>) -> Result<Vec<Member>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, cell_id, service, copy, service_role, role, wanted, state, address, detail, restarts,
                      observed_at AS "observed_at: Moment", cpu_percent, memory_bytes, release, arriving
               FROM members WHERE $1::uuid IS NULL OR cell_id = $1 ORDER BY cell_id, service, copy, release"#,
            cell.map(CellId::uuid)
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Member {
                    id: r.id.into(),
                    cell: r.cell_id.into(),
                    service: ServiceName::new(r.service)?,
                    copy: r.copy,
                    service_role: r.service_role.parse()?,
                    role: r.role.parse()?,
                    wanted: r.wanted,
                    state: r.state.parse()?,
                    address: r.address,
                    detail: r.detail,
                    restarts: r.restarts,
                    observed_at: Moment::of(r.observed_at),
                    cpu_percent: r.cpu_percent,
                    memory_bytes: r.memory_bytes,
                    release: u32::try_from(r.release).unwrap_or(0),
                    arriving: r.arriving,
                })
            })
            .collect()
    }

    /// When the number of copies of a service in a cell was changed last, by cell and service.
    pub async fn copies_changed(&self) -> Result<Vec<(CellId, ServiceName, Timestamp)>, StoreError> {
        let rows = sqlx::query!(r#"SELECT cell_id, service, changed_at AS "changed_at: Moment" FROM cell_copies"#)
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(|r| Ok((r.cell_id.into(), ServiceName::new(r.service)?, r.changed_at.0))).collect()
    }

    /// What a member uses, as percent of the processor time that it is promised and as bytes.
    pub async fn member_used(&self, member: MemberId, cpu_percent: f64, memory_bytes: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE members SET cpu_percent = $2, memory_bytes = $3 WHERE id = $1",
            member.uuid(),
            cpu_percent,
            memory_bytes
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Stores what was seen. When that changes where edges may send requests, the routes of all tenants of the
    /// cell are published in the same transaction.
    pub async fn member_observed(&self, member: MemberId, seen: &Seen) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let Some(before) = sqlx::query!(
            "SELECT cell_id, service_role, state, address FROM members WHERE id = $1 FOR UPDATE",
            member.uuid()
        )
        .fetch_optional(&mut *tx.inner)
        .await?
        else {
            return Ok(()); // removed while it was looked at
        };
        sqlx::query!(
            "UPDATE members SET state = $2, address = $3, detail = $4, restarts = restarts + $5, observed_at = now() WHERE id = $1",
            member.uuid(),
            seen.state.as_str(),
            seen.address,
            seen.detail,
            i64::from(seen.restarted)
        )
        .execute(&mut *tx.inner)
        .await?;
        let takes_requests = |state: MemberState, address: Option<&str>| {
            address.filter(|_| state == MemberState::Healthy).map(str::to_owned)
        };
        if before.service_role.parse::<ServiceRole>()? == ServiceRole::Web
            && takes_requests(before.state.parse()?, before.address.as_deref())
                != takes_requests(seen.state, seen.address.as_deref())
        {
            tx.routes_publish_cell(before.cell_id.into()).await?;
        }
        tx.commit().await
    }
}

impl Tx {
    /// Reserves a member. One that is there already (the step ran before) is kept as it is, with its id.
    pub async fn member_ensure(&mut self, new: &NewMember) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO members (id, cell_id, service, copy, service_role, role, release, arriving, wanted)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NOT $8)
             ON CONFLICT (cell_id, service, copy, release) DO NOTHING",
            new.id.uuid(),
            new.cell.uuid(),
            new.service.as_str(),
            new.copy,
            new.service_role.as_str(),
            MemberRole::Active.as_str(),
            i32::try_from(new.release).unwrap_or(i32::MAX),
            new.arriving
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reserves a copy, or wants one again that was to end.
    pub async fn member_want(&mut self, new: &NewMember) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO members (id, cell_id, service, copy, service_role, role, release, arriving)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (cell_id, service, copy, release) DO UPDATE SET wanted = true, arriving = excluded.arriving",
            new.id.uuid(),
            new.cell.uuid(),
            new.service.as_str(),
            new.copy,
            new.service_role.as_str(),
            MemberRole::Active.as_str(),
            i32::try_from(new.release).unwrap_or(i32::MAX),
            new.arriving
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Intent only: copies from `copies` on of one service are to end, and are forgotten when they have.
    pub async fn members_unwant_from(
        &mut self,
        cell: CellId,
        service: &ServiceName,
        copies: i32,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE members SET wanted = false WHERE cell_id = $1 AND service = $2 AND copy >= $3 AND NOT arriving",
            cell.uuid(),
            service.as_str(),
            copies
        )
        .execute(&mut *self.inner)
        .await?;
        // Edges stop sending there with this very transaction; the process ends after it.
        self.routes_publish_cell(cell).await
    }

    /// One that has ended and is not wanted any more.
    pub async fn member_forget(&mut self, member: MemberId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM members WHERE id = $1 AND NOT wanted", member.uuid())
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// How many copies of a service a cell should run, and why.
    pub async fn copies_set(
        &mut self,
        cell: CellId,
        service: &ServiceName,
        copies: i32,
        because: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO cell_copies (cell_id, service, copies, because) VALUES ($1, $2, $3, $4)
             ON CONFLICT (cell_id, service) DO UPDATE SET copies = excluded.copies, because = excluded.because,
                 changed_at = now()",
            cell.uuid(),
            service.as_str(),
            copies,
            because
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Intent only; the processes are ended by who reads it.
    pub async fn members_unwant(&mut self, cell: CellId) -> Result<(), StoreError> {
        sqlx::query!("UPDATE members SET wanted = false WHERE cell_id = $1", cell.uuid())
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    pub async fn members_delete(&mut self, cell: CellId) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM members WHERE cell_id = $1", cell.uuid()).execute(&mut *self.inner).await?;
        Ok(())
    }
}
