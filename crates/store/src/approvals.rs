//! Judgements of tenants, and the proposals that followed from them until somebody agreed or did not.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{ApprovalId, ApprovalState, OperationId, TenantId, TenantName};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq)]
pub struct Approval {
    pub id: ApprovalId,
    pub tenant: TenantId,
    pub tenant_name: TenantName,
    pub state: ApprovalState,
    pub direction: String,
    pub place_now: Value,
    pub place_then: Value,
    pub decision: Value,
    pub because: Value,
    pub confidence: f64,
    /// Nobody was asked.
    pub unattended: bool,
    pub made_at: Timestamp,
    pub expires_at: Timestamp,
    pub decided_at: Option<Timestamp>,
    pub decided_by: Option<String>,
    /// Why it was rejected or failed.
    pub reason: Option<String>,
    pub operation: Option<OperationId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NewApproval {
    pub id: ApprovalId,
    pub tenant: TenantId,
    pub direction: &'static str,
    pub place_now: Value,
    pub place_then: Value,
    pub decision: Value,
    pub because: Value,
    pub confidence: f64,
    /// Agreed to by the stack file's rule: it begins as approved.
    pub unattended: bool,
    pub days: i32,
}

/// Which approvals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApprovalFilter {
    pub tenant: Option<TenantId>,
    pub state: Option<ApprovalState>,
    pub id: Option<ApprovalId>,
}

/// The last judgement of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub judged_at: Timestamp,
    pub signals: Value,
    pub judgement: Value,
}

impl Store {
    /// Newest first.
    pub async fn approval_list(&self, filter: &ApprovalFilter, limit: i64) -> Result<Vec<Approval>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT a.id, a.tenant_id, t.name, a.state, a.direction, a.place_now, a.place_then, a.decision, a.because,
                      a.confidence, a.unattended, a.made_at AS "made_at: Moment", a.expires_at AS "expires_at: Moment",
                      a.decided_at AS "decided_at: Moment", a.decided_by, a.reason, a.operation
               FROM approvals a JOIN tenants t ON t.id = a.tenant_id
               WHERE ($1::uuid IS NULL OR a.tenant_id = $1) AND ($2::text IS NULL OR a.state = $2)
                 AND ($3::uuid IS NULL OR a.id = $3)
               ORDER BY a.made_at DESC, a.id LIMIT $4"#,
            filter.tenant.map(TenantId::uuid),
            filter.state.map(ApprovalState::as_str),
            filter.id.map(ApprovalId::uuid),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Approval {
                    id: r.id.into(),
                    tenant: r.tenant_id.into(),
                    tenant_name: TenantName::new(r.name)?,
                    state: r.state.parse()?,
                    direction: r.direction,
                    place_now: r.place_now,
                    place_then: r.place_then,
                    decision: r.decision,
                    because: r.because,
                    confidence: r.confidence,
                    unattended: r.unattended,
                    made_at: r.made_at.0,
                    expires_at: r.expires_at.0,
                    decided_at: Moment::of(r.decided_at),
                    decided_by: r.decided_by,
                    reason: r.reason,
                    operation: r.operation.map(Into::into),
                })
            })
            .collect()
    }

    /// The one that is open or being carried out; there is one at most.
    pub async fn approval_under_way(&self, tenant: TenantId) -> Result<Option<Approval>, StoreError> {
        for state in [ApprovalState::Open, ApprovalState::Approved] {
            let filter = ApprovalFilter { tenant: Some(tenant), state: Some(state), id: None };
            if let Some(found) = self.approval_list(&filter, 1).await?.pop() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// When this tenant was last moved without a person: as its move began, which may be long after the agreement. One that
    /// still waits counts as now.
    pub async fn approval_last_unattended(&self, tenant: TenantId) -> Result<Option<Timestamp>, StoreError> {
        let at = sqlx::query_scalar!(
            r#"SELECT max(CASE WHEN a.state = 'approved' THEN now() ELSE coalesce(m.started_at, a.made_at) END) AS "at: Moment"
               FROM approvals a LEFT JOIN moves m ON m.id = a.operation
               WHERE a.tenant_id = $1 AND a.unattended AND a.state IN ('approved', 'carried_out')"#,
            tenant.uuid()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Moment::of(at))
    }

    /// Ends those that nobody decided about in time, and those that nobody could carry out in time.
    pub async fn approvals_expire(&self) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE approvals SET state = 'expired' WHERE state IN ('open', 'approved') AND expires_at <= now()"
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    pub async fn judgement(&self, tenant: TenantId) -> Result<Option<Judgement>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT judged_at AS "judged_at: Moment", signals, judgement FROM usage_judgements WHERE tenant_id = $1"#,
            tenant.uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|r| Judgement { judged_at: r.judged_at.0, signals: r.signals, judgement: r.judgement }))
    }

    /// Tenants that are served and that nobody judged for `seconds`, the longest ago first.
    pub async fn judgements_due(&self, seconds: f64, limit: i64) -> Result<Vec<TenantId>, StoreError> {
        let rows = sqlx::query_scalar!(
            "SELECT t.id FROM tenants t LEFT JOIN usage_judgements j ON j.tenant_id = t.id
             WHERE t.state = 'active' AND (j.judged_at IS NULL OR j.judged_at < now() - make_interval(secs => $1))
             ORDER BY j.judged_at NULLS FIRST LIMIT $2",
            seconds,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }
}

impl Store {
    /// What each tenant was found to need when it was judged last.
    pub async fn judgement_needs(&self) -> Result<HashMap<TenantId, Value>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT tenant_id, judgement->'needs' AS "needs!" FROM usage_judgements
               WHERE jsonb_typeof(judgement->'needs') = 'object'"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|r| (r.tenant_id.into(), r.needs)).collect())
    }
}

impl Tx {
    /// `false`: another one is open or being carried out.
    pub async fn approval_insert(&mut self, new: &NewApproval) -> Result<bool, StoreError> {
        let state = if new.unattended { ApprovalState::Approved } else { ApprovalState::Open };
        let done = sqlx::query!(
            "INSERT INTO approvals (id, tenant_id, state, direction, place_now, place_then, decision, because, confidence,
                                    unattended, expires_at, decided_at, decided_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + make_interval(days => $11),
                     CASE WHEN $10 THEN now() END, CASE WHEN $10 THEN 'berth' END)
             ON CONFLICT DO NOTHING",
            new.id.uuid(),
            new.tenant.uuid(),
            state.as_str(),
            new.direction,
            new.place_now,
            new.place_then,
            new.decision,
            new.because,
            new.confidence,
            new.unattended,
            new.days
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Turns one that is in `from`; `Stale` when it is not any more.
    pub async fn approval_turn(
        &mut self,
        id: ApprovalId,
        from: ApprovalState,
        to: ApprovalState,
        by: Option<&str>,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query!(
            "UPDATE approvals SET state = $3, decided_at = CASE WHEN $4::text IS NULL THEN decided_at ELSE now() END,
                    decided_by = coalesce($4, decided_by), reason = coalesce($5, reason)
             WHERE id = $1 AND state = $2",
            id.uuid(),
            from.as_str(),
            to.as_str(),
            by,
            reason
        )
        .execute(&mut *self.inner)
        .await?;
        if done.rows_affected() == 0 { Err(StoreError::Stale("approval")) } else { Ok(()) }
    }

    /// The operation that carries it out, where there is one.
    pub async fn approval_carried_out(
        &mut self,
        id: ApprovalId,
        operation: Option<OperationId>,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE approvals SET operation = $2, reason = NULL WHERE id = $1",
            id.uuid(),
            operation.map(OperationId::uuid)
        )
        .execute(&mut *self.inner)
        .await?;
        self.approval_turn(id, ApprovalState::Approved, ApprovalState::CarriedOut, None, None).await
    }

    pub async fn judgement_store(
        &mut self,
        tenant: TenantId,
        signals: &Value,
        judgement: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO usage_judgements (tenant_id, signals, judgement) VALUES ($1, $2, $3)
             ON CONFLICT (tenant_id) DO UPDATE SET judged_at = now(), signals = excluded.signals,
                 judgement = excluded.judgement",
            tenant.uuid(),
            signals,
            judgement
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
