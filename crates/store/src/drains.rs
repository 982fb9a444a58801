//! Drains: what gets no new requests, since when, and how long its open connections have.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{EdgeName, MemberId, TenantId};
use jiff::Timestamp;

/// What is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drained {
    Tenant(TenantId),
    Member(MemberId),
    Edge(EdgeName),
}

impl Drained {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Member(_) => "member",
            Self::Edge(_) => "edge",
        }
    }

    fn subject(&self) -> String {
        match self {
            Self::Tenant(id) => id.to_string(),
            Self::Member(id) => id.to_string(),
            Self::Edge(name) => name.to_string(),
        }
    }

    /// The words above, for the test that compares them with the table's CHECK.
    pub const WORDS: &'static [&'static str] = &["tenant", "member", "edge"];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub grace_ms: u32,
    pub since: Timestamp,
    /// The grace is over, by the database's clock.
    pub over: bool,
}

impl Store {
    pub async fn drain_get(&self, what: &Drained) -> Result<Option<Drain>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT grace_ms, since AS "since: Moment", now() >= since + grace_ms * interval '1 millisecond' AS "over!"
               FROM drains WHERE kind = $1 AND subject = $2"#,
            what.kind(),
            what.subject()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|r| Drain { grace_ms: r.grace_ms.cast_unsigned(), since: r.since.0, over: r.over }))
    }
}

impl Tx {
    /// Done again it goes on as it began, with the grace that was asked for last.
    pub async fn drain_put(&mut self, what: &Drained, grace_ms: u32) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO drains (kind, subject, grace_ms) VALUES ($1, $2, $3)
             ON CONFLICT (kind, subject) DO UPDATE SET grace_ms = excluded.grace_ms",
            what.kind(),
            what.subject(),
            i32::try_from(grace_ms).unwrap_or(i32::MAX)
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Whether there was one.
    pub async fn drain_remove(&mut self, what: &Drained) -> Result<bool, StoreError> {
        let gone = sqlx::query!("DELETE FROM drains WHERE kind = $1 AND subject = $2", what.kind(), what.subject())
            .execute(&mut *self.inner)
            .await?;
        Ok(gone.rows_affected() > 0)
    }

    /// The web members of this one's cell that take requests besides it.
    pub async fn members_beside(&mut self, member: MemberId) -> Result<i64, StoreError> {
        let others = sqlx::query_scalar!(
            r#"SELECT count(*) AS "others!" FROM members m JOIN members own ON own.cell_id = m.cell_id
               WHERE own.id = $1 AND m.id <> $1 AND m.service_role = 'web' AND m.state = 'healthy' AND m.wanted
                 AND NOT EXISTS (SELECT FROM drains d WHERE d.kind = 'member' AND d.subject = m.id::text)"#,
            member.uuid()
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(others)
    }
}
