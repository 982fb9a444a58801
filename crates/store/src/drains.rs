//! Drains: what gets no new requests, since when, and how long its open connections have.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellName, EdgeName, MemberId, TenantId};
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

/// Something that is drained, under the name that people have for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainListed {
    pub what: Drained,
    /// A tenant's or an edge's name; of a member its service and address.
    pub name: String,
    /// A member's.
    pub cell: Option<CellName>,
    pub drain: Drain,
}

impl Store {
    /// All that is drained, the longest drained first. What is gone is left out.
    pub async fn drain_list(&self) -> Result<Vec<DrainListed>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT d.kind, d.subject, d.grace_ms, d.since AS "since: Moment", t.id AS "tenant_id?", t.name AS "tenant?",
                      m.id AS "member_id?", m.service AS "service?", m.address, c.name AS "cell?",
                      now() >= d.since + d.grace_ms * interval '1 millisecond' AS "over!"
               FROM drains d
               LEFT JOIN tenants t ON d.kind = 'tenant' AND t.id::text = d.subject AND t.state <> 'deleted'
               LEFT JOIN members m ON d.kind = 'member' AND m.id::text = d.subject AND m.wanted
               LEFT JOIN cells c ON c.id = m.cell_id
               WHERE d.kind = 'edge' OR t.id IS NOT NULL OR m.id IS NOT NULL
               ORDER BY d.since, d.subject"#
        )
        .fetch_all(&self.pool)
        .await?;
        let mut listed = Vec::with_capacity(rows.len());
        for r in rows {
            let drain = Drain { grace_ms: r.grace_ms.cast_unsigned(), since: r.since.0, over: r.over };
            let (what, name) = match (r.tenant_id.zip(r.tenant), r.member_id.zip(r.service)) {
                (Some((id, name)), _) => (Drained::Tenant(id.into()), name),
                (None, Some((id, service))) => {
                    let address = r.address.map(|address| format!(" {address}")).unwrap_or_default();
                    (Drained::Member(id.into()), service + &address)
                }
                (None, None) => (Drained::Edge(EdgeName::new(r.subject.as_str())?), r.subject),
            };
            listed.push(DrainListed { what, name, cell: r.cell.map(CellName::new).transpose()?, drain });
        }
        Ok(listed)
    }

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
