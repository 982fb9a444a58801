//! What cells use by the hour, and how large their databases are. What nobody looked at is absent.

use crate::{Store, StoreError, moment::Moment};
use berth_domain::CellId;
use jiff::Timestamp;
use uuid::Uuid;

/// One look at all members of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLook {
    pub cell: CellId,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    /// What those members are promised.
    pub cpu_promised: i64,
    pub memory_promised: i64,
}

/// What a cell used since a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellUse {
    pub cell: CellId,
    /// In which anybody looked, and how often they did.
    pub hours: i64,
    pub looks: i64,
    /// Means and the most of one look.
    pub cpu_millis: i64,
    pub cpu_most: i64,
    pub memory_bytes: i64,
    pub memory_most: i64,
    pub cpu_promised: i64,
    pub memory_promised: i64,
}

/// The size of a cell's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellSize {
    pub cell: CellId,
    pub database_bytes: i64,
    pub seen_at: Timestamp,
}

/// Older hours are cleared.
const KEPT_DAYS: i32 = 35;

impl Store {
    /// Adds looks to the running hour, and clears hours that are too old.
    pub async fn cell_looked(&self, looks: &[CellLook]) -> Result<(), StoreError> {
        let column = |of: fn(&CellLook) -> i64| looks.iter().map(of).collect::<Vec<i64>>();
        let cells: Vec<Uuid> = looks.iter().map(|look| look.cell.uuid()).collect();
        sqlx::query!(
            "INSERT INTO cell_use (cell_id, starts_at, looks, cpu_millis, cpu_most, memory_bytes, memory_most, cpu_promised, memory_promised)
             SELECT c, date_trunc('hour', now()), 1, cpu, cpu, mem, mem, cpu_of, mem_of
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS l(c, cpu, mem, cpu_of, mem_of)
             WHERE EXISTS (SELECT FROM cells WHERE id = c)
             ON CONFLICT (cell_id, starts_at) DO UPDATE SET
                 looks = cell_use.looks + 1,
                 cpu_millis = cell_use.cpu_millis + excluded.cpu_millis,
                 cpu_most = greatest(cell_use.cpu_most, excluded.cpu_most),
                 memory_bytes = cell_use.memory_bytes + excluded.memory_bytes,
                 memory_most = greatest(cell_use.memory_most, excluded.memory_most),
                 cpu_promised = cell_use.cpu_promised + excluded.cpu_promised,
                 memory_promised = cell_use.memory_promised + excluded.memory_promised",
            &cells,
            &column(|look| look.cpu_millis),
            &column(|look| look.memory_bytes),
            &column(|look| look.cpu_promised),
            &column(|look| look.memory_promised)
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!("DELETE FROM cell_use WHERE starts_at < now() - make_interval(days => $1)", KEPT_DAYS)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Of one cell, or of every one that stands, if it was looked at since then.
    pub async fn cell_use(&self, cell: Option<CellId>, since: Timestamp) -> Result<Vec<CellUse>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT cell_id, count(*) AS "hours!", sum(looks)::bigint AS "looks!",
                      (sum(cpu_millis) / sum(looks))::bigint AS "cpu_millis!", max(cpu_most) AS "cpu_most!",
                      (sum(memory_bytes) / sum(looks))::bigint AS "memory_bytes!", max(memory_most) AS "memory_most!",
                      (sum(cpu_promised) / sum(looks))::bigint AS "cpu_promised!",
                      (sum(memory_promised) / sum(looks))::bigint AS "memory_promised!"
               FROM cell_use u WHERE starts_at >= $1 AND ($2::uuid IS NULL OR cell_id = $2)
                 AND EXISTS (SELECT FROM cells c WHERE c.id = u.cell_id AND c.state NOT IN ('removed', 'failed'))
               GROUP BY cell_id ORDER BY cell_id"#,
            Moment(since) as Moment,
            cell.map(CellId::uuid)
        )
        .fetch_all(&self.pool)
        .await?;
        let used = rows.into_iter().map(|r| CellUse {
            cell: r.cell_id.into(),
            hours: r.hours,
            looks: r.looks,
            cpu_millis: r.cpu_millis,
            cpu_most: r.cpu_most,
            memory_bytes: r.memory_bytes,
            memory_most: r.memory_most,
            cpu_promised: r.cpu_promised,
            memory_promised: r.memory_promised,
        });
        Ok(used.collect())
    }

    pub async fn cell_sized(&self, cell: CellId, database_bytes: i64) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO cell_sizes (cell_id, database_bytes) SELECT id, $2 FROM cells WHERE id = $1
             ON CONFLICT (cell_id) DO UPDATE SET database_bytes = excluded.database_bytes, seen_at = now()",
            cell.uuid(),
            database_bytes
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Of every cell that stands.
    pub async fn cell_sizes(&self) -> Result<Vec<CellSize>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT s.cell_id, s.database_bytes, s.seen_at AS "seen_at: Moment" FROM cell_sizes s JOIN cells c ON c.id = s.cell_id
               WHERE c.state NOT IN ('removed', 'failed') ORDER BY s.cell_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        let size = rows.into_iter().map(|r| CellSize {
            cell: r.cell_id.into(),
            database_bytes: r.database_bytes,
            seen_at: r.seen_at.0,
        });
        Ok(size.collect())
    }
}
