//! Figures of moves, for people and for the verdict. The protocol never reads them.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CellId, CellName, MoveId, TenantId, TenantName, WayBackState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    Moved,
    /// The tenant stayed where it was, untouched.
    GivenUp,
}

impl MoveOutcome {
    pub const WORDS: &'static [&'static str] = &["moved", "given_up"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::GivenUp => "given_up",
        }
    }
}

/// One phase of a move and when it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MovePhaseTime {
    pub phase: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// What was measured so far. A figure that is absent was not measured; it is never written over by an absent one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveFigures {
    pub rows: Option<i64>,
    pub bytes: Option<i64>,
    pub rows_verified: Option<i64>,
    pub pause_ms: Option<f64>,
    pub held_requests: Option<i64>,
    /// Attempts at the cut-over, the successful one included.
    pub attempts: i32,
    pub phases: Vec<MovePhaseTime>,
}

/// What can still be undone, for people.
#[derive(Clone, Debug)]
pub struct WayBackShown {
    pub state: WayBackState,
    pub until: Timestamp,
    pub bytes_behind: Option<i64>,
    /// What stands in its way now, else why it ended.
    pub trouble: Option<String>,
    /// Why it ended, whatever went wrong while its rows were cleared away.
    pub ended_by: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Move {
    pub id: MoveId,
    pub tenant: TenantId,
    pub tenant_name: TenantName,
    pub kind: String,
    pub source: CellName,
    pub target: CellName,
    pub figures: MoveFigures,
    pub outcome: Option<MoveOutcome>,
    pub reason: Option<String>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub way_back: Option<WayBackShown>,
}

impl Store {
    /// Newest first, of one tenant or of all.
    pub async fn move_list(&self, tenant: Option<TenantId>, limit: i64) -> Result<Vec<Move>, StoreError> {
        self.moves(None, tenant, limit).await
    }

    pub async fn move_get(&self, id: MoveId) -> Result<Option<Move>, StoreError> {
        Ok(self.moves(Some(id), None, 1).await?.pop())
    }

    async fn moves(&self, id: Option<MoveId>, tenant: Option<TenantId>, limit: i64) -> Result<Vec<Move>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT m.id, m.tenant_id, t.name AS tenant_name, m.kind, s.name AS source, g.name AS target, m.rows, m.bytes,
                      m.rows_verified, m.pause_ms, m.held_requests, m.attempts, m.outcome, m.reason, m.phases,
                      m.started_at AS "started_at: Moment", m.ended_at AS "ended_at: Moment",
                      w.state AS "way_back?", w.until AS "until?: Moment", w.bytes_behind,
                      coalesce(w.trouble, w.reason) AS trouble, w.reason AS ended_by
               FROM moves m LEFT JOIN ways_back w ON w.move_id = m.id JOIN tenants t ON t.id = m.tenant_id JOIN cells s ON s.id = m.source JOIN cells g ON g.id = m.target
               WHERE ($1::uuid IS NULL OR m.id = $1) AND ($2::uuid IS NULL OR m.tenant_id = $2)
               ORDER BY m.started_at DESC, m.id LIMIT $3"#,
            id.map(MoveId::uuid),
            tenant.map(TenantId::uuid),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Move {
                    id: r.id.into(),
                    tenant: r.tenant_id.into(),
                    tenant_name: TenantName::new(r.tenant_name)?,
                    kind: r.kind,
                    source: CellName::new(r.source)?,
                    target: CellName::new(r.target)?,
                    figures: MoveFigures {
                        rows: r.rows,
                        bytes: r.bytes,
                        rows_verified: r.rows_verified,
                        pause_ms: r.pause_ms,
                        held_requests: r.held_requests,
                        attempts: r.attempts,
                        phases: serde_json::from_value(r.phases)?,
                    },
                    outcome: match r.outcome.as_deref() {
                        Some("moved") => Some(MoveOutcome::Moved),
                        Some(_) => Some(MoveOutcome::GivenUp),
                        None => None,
                    },
                    reason: r.reason,
                    started_at: r.started_at.0,
                    ended_at: Moment::of(r.ended_at),
                    way_back: match (r.way_back, r.until) {
                        (Some(state), Some(until)) => Some(WayBackShown {
                            state: state.parse()?,
                            until: until.0,
                            bytes_behind: r.bytes_behind,
                            trouble: r.trouble,
                            ended_by: r.ended_by,
                        }),
                        _ => None,
                    },
                })
            })
            .collect()
    }

    /// Stores what was measured so far.
    pub async fn move_measured(&self, id: MoveId, figures: &MoveFigures) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE moves SET rows = coalesce($2, rows), bytes = coalesce($3, bytes),
                    rows_verified = coalesce($4, rows_verified), pause_ms = coalesce($5, pause_ms),
                    held_requests = coalesce($6, held_requests), attempts = greatest(attempts, $7), phases = $8
             WHERE id = $1",
            id.uuid(),
            figures.rows,
            figures.bytes,
            figures.rows_verified,
            figures.pause_ms,
            figures.held_requests,
            figures.attempts,
            serde_json::to_value(&figures.phases)?
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    pub async fn move_insert(
        &mut self,
        id: MoveId,
        tenant: TenantId,
        kind: &str,
        source: CellId,
        target: CellId,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO moves (id, tenant_id, kind, source, target) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
            id.uuid(),
            tenant.uuid(),
            kind,
            source.uuid(),
            target.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    pub async fn move_end(&mut self, id: MoveId, outcome: MoveOutcome, reason: Option<&str>) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE moves SET outcome = $2, reason = $3, ended_at = now() WHERE id = $1 AND ended_at IS NULL",
            id.uuid(),
            outcome.as_str(),
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
