//! Edges: how far each is, and what they reported of holds.

use crate::{Store, StoreError, hub, hub::Nudge, moment::Moment};
use berth_domain::{EdgeId, EdgeName, Revision, TenantId, Token, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use std::sync::Arc;

/// A process that is leaving and has been silent for so long is taken for gone: it has no name that anybody would forget.
const LEFT_AFTER_S: f64 = 30.0;

/// Postgres refuses longer notifications (8000 bytes with everything).
const LONGEST_NOTICE: usize = 7000;

#[derive(Clone, Debug)]
pub struct Edge {
    pub name: EdgeName,
    pub instance: EdgeId,
    pub acked: Revision,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// Since it was last heard of, by the database's clock.
    pub silent_ms: i64,
    /// Another process of its name takes new connections; this one serves those it has.
    pub leaving: bool,
    /// `None`: it is of one that does not say so.
    pub version: Option<Version>,
}

/// How long an edge's process is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    #[default]
    Serving,
    Leaving,
    Gone,
}

/// One acknowledgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EdgeSaid {
    pub edge: EdgeName,
    pub instance: EdgeId,
    pub revision: Revision,
    pub holds: Vec<HoldSaid>,
    #[serde(default)]
    pub presence: Presence,
    /// The version of what it answers to those who want a host proved.
    #[serde(default)]
    pub challenges: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldSaid {
    pub tenant: TenantId,
    pub token: Token,
    pub went: HoldWent,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HoldWent {
    InForce,
    Refused { in_flight: u32 },
    Ended { pause_ms: f64, held_requests: u32, expired_requests: u32 },
}

impl HoldWent {
    const fn word(&self) -> &'static str {
        match self {
            Self::InForce => "in_force",
            Self::Refused { .. } => "refused",
            Self::Ended { .. } => "ended",
        }
    }
    /// The words above, for the test that compares them with the table's CHECK.
    pub const WORDS: &'static [&'static str] = &["in_force", "refused", "ended"];
}

impl Store {
    /// Stores what an edge said and tells everyone; answers the newest revision.
    ///
    /// Who waits in this program is told first: the pause of a move waits for this. Should the database forget
    /// it in a crash, the edge says it again when it connects.
    pub async fn edge_said(&self, said: EdgeSaid) -> Result<Revision, StoreError> {
        let said = Arc::new(said);
        self.tell(Nudge::Acked(said.clone()));
        let mut tx = self.begin().await?;
        // Not waited for on disk, see above; everything else in this crate is.
        sqlx::query!("SET LOCAL synchronous_commit = off").execute(&mut *tx.inner).await?;
        match said.presence {
            Presence::Serving => {
                seen(&mut tx.inner, &said.edge, said.instance, said.revision, Some(said.challenges)).await?;
                // A process that was to go and stayed: its follower did not come.
                left(&mut tx.inner, said.instance).await?;
            }
            Presence::Leaving => seen_leaving(&mut tx.inner, &said.edge, said.instance, said.revision).await?,
            Presence::Gone => left(&mut tx.inner, said.instance).await?,
        }
        for hold in &said.holds {
            let (in_flight, pause_ms, held, expired) = match hold.went {
                HoldWent::InForce => (None, None, None, None),
                HoldWent::Refused { in_flight } => (Some(in_flight), None, None, None),
                HoldWent::Ended { pause_ms, held_requests, expired_requests } => {
                    (None, Some(pause_ms), Some(held_requests), Some(expired_requests))
                }
            };
            let number = |n: Option<u32>| n.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
            sqlx::query!(
                "INSERT INTO hold_reports (edge, instance, tenant_id, token, outcome, in_flight, pause_ms, held_requests, expired_requests)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
                said.edge.as_str(),
                said.instance.uuid(),
                hold.tenant.uuid(),
                hold.token.as_i64(),
                hold.went.word(),
                number(in_flight),
                pause_ms,
                number(held),
                number(expired)
            )
            .execute(&mut *tx.inner)
            .await?;
        }
        let notice = serde_json::to_string(&*said)?;
        let notice = if notice.len() > LONGEST_NOTICE { "" } else { &notice };
        let head =
            sqlx::query!(r#"SELECT revision, pg_notify($1, $2)::text AS told FROM route_head"#, hub::ACKS, notice)
                .fetch_one(&mut *tx.inner)
                .await?;
        tx.commit().await?;
        Ok(Revision::from_i64(head.revision))
    }

    /// An edge has opened its stream with what it has in force, or still has it open.
    pub async fn edge_seen(
        &self,
        name: &EdgeName,
        instance: EdgeId,
        has: Revision,
        leaving: bool,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        if leaving {
            return seen_leaving(&mut connection, name, instance, has).await;
        }
        seen(&mut connection, name, instance, has, None).await
    }

    /// Those that ever called, and of those that are leaving the ones that have not gone.
    pub async fn edge_list(&self) -> Result<Vec<Edge>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT edge.name AS "name!", edge.instance AS "instance!", acked AS "acked!", leaving AS "leaving!",
                      first_seen AS "first_seen!: Moment", edge.last_seen AS "last_seen!: Moment",
                      (extract(epoch FROM now() - edge.last_seen) * 1000)::bigint AS "silent_ms!",
                      processes.version AS "version?"
               FROM (SELECT name, instance, acked, first_seen, last_seen, false AS leaving FROM edges
                     UNION ALL
                     SELECT name, instance, acked, first_seen, last_seen, true FROM edges_leaving
                     WHERE last_seen > now() - make_interval(secs => $1)) AS edge
               LEFT JOIN processes USING (instance)
               ORDER BY edge.name, leaving, edge.instance"#,
            LEFT_AFTER_S
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Edge {
                    name: EdgeName::new(r.name)?,
                    instance: r.instance.into(),
                    acked: Revision::from_i64(r.acked),
                    first_seen: r.first_seen.0,
                    last_seen: r.last_seen.0,
                    silent_ms: r.silent_ms,
                    leaving: r.leaving,
                    version: r.version.and_then(|version| version.parse().ok()),
                })
            })
            .collect()
    }

    /// Forgets an edge that will not come back: moves no longer wait for it.
    pub async fn edge_forget(&self, name: &EdgeName) -> Result<bool, StoreError> {
        let gone = sqlx::query!("DELETE FROM edges WHERE name = $1", name.as_str()).execute(&self.pool).await?;
        Ok(gone.rows_affected() > 0)
    }

    /// What edges reported of one attempt, for who asks after the fact.
    pub async fn hold_reports(
        &self,
        tenant: TenantId,
        token: Token,
    ) -> Result<Vec<(EdgeName, EdgeId, HoldSaid)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT edge, instance, outcome, in_flight, pause_ms, held_requests, expired_requests
             FROM hold_reports WHERE tenant_id = $1 AND token = $2 ORDER BY at",
            tenant.uuid(),
            token.as_i64()
        )
        .fetch_all(&self.pool)
        .await?;
        let number = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        rows.into_iter()
            .map(|r| {
                let went = match r.outcome.as_str() {
                    "in_force" => HoldWent::InForce,
                    "refused" => HoldWent::Refused { in_flight: number(r.in_flight) },
                    _ => HoldWent::Ended {
                        pause_ms: r.pause_ms.unwrap_or_default(),
                        held_requests: number(r.held_requests),
                        expired_requests: number(r.expired_requests),
                    },
                };
                Ok((EdgeName::new(r.edge)?, r.instance.into(), HoldSaid { tenant, token, went }))
            })
            .collect()
    }
}

/// `challenges`: the version that it answers; absent where it does not say, and then a new process answers none.
async fn seen(
    to: &mut PgConnection,
    name: &EdgeName,
    instance: EdgeId,
    has: Revision,
    challenges: Option<u64>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO edges (name, instance, acked, challenges) VALUES ($1, $2, $3, coalesce($4::bigint, 0))
         ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, last_seen = now(),
             acked = CASE WHEN edges.instance = excluded.instance THEN greatest(edges.acked, excluded.acked) ELSE excluded.acked END,
             challenges = coalesce($4::bigint, CASE WHEN edges.instance = excluded.instance THEN edges.challenges ELSE 0 END)",
        name.as_str(),
        instance.uuid(),
        has.as_i64(),
        challenges.map(u64::cast_signed)
    )
    .execute(to)
    .await?;
    Ok(())
}

async fn seen_leaving(
    to: &mut PgConnection,
    name: &EdgeName,
    instance: EdgeId,
    has: Revision,
) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH old AS (DELETE FROM edges_leaving WHERE last_seen < now() - interval '1 day' AND instance <> $2)
         INSERT INTO edges_leaving (name, instance, acked) VALUES ($1, $2, $3)
         ON CONFLICT (instance) DO UPDATE SET last_seen = now(), acked = greatest(edges_leaving.acked, excluded.acked)",
        name.as_str(),
        instance.uuid(),
        has.as_i64()
    )
    .execute(to)
    .await?;
    Ok(())
}

async fn left(to: &mut PgConnection, instance: EdgeId) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM edges_leaving WHERE instance = $1", instance.uuid()).execute(to).await?;
    Ok(())
}
