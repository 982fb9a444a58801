//! The mover's control row in the control database: `Control::after` evaluated inside the transaction that
//! stores its outcome, with the route that edges see published by the same commit.
//!
//! Never retries and never guesses: an answer that was lost is `Unknown`, and the mover looks again.

use crate::{Store, StoreError, placements::Row};
use async_trait::async_trait;
use berth_domain::{TenantId, Token};
use berth_mover::{Change, Control, Ownership, Verdict};
use tracing::warn;

/// One tenant's control row.
#[derive(Clone, Debug)]
pub struct StoredOwnership {
    store: Store,
    tenant: TenantId,
}

impl Store {
    pub fn ownership(&self, tenant: TenantId) -> StoredOwnership {
        StoredOwnership { store: self.clone(), tenant }
    }
}

impl StoredOwnership {
    async fn try_change(&self, held: Token, change: Change) -> Result<Verdict, StoreError> {
        let mut tx = self.store.begin().await?;
        let before: Control = sqlx::query_as!(
            Row,
            "SELECT owner, generation, token, phase, target, holding FROM placements WHERE tenant_id = $1 FOR UPDATE",
            self.tenant.uuid()
        )
        .fetch_one(&mut *tx.inner)
        .await?
        .try_into()?;
        let after = match before.after(held, change) {
            Ok(after) => after,
            Err(refusal) => return Ok(Verdict::Refused(refusal)),
        };
        // A hold asked for again, by a worker with a newer token, is a new attempt: edges report under its token.
        let hold = change == Change::Hold;
        sqlx::query!(
            "UPDATE placements SET owner = $2, generation = $3, token = $4, phase = $5, target = $6, holding = $7,
                    hold_token = CASE WHEN $8 THEN $4 ELSE hold_token END,
                    since = CASE WHEN owner = $2 THEN since ELSE now() END
             WHERE tenant_id = $1",
            self.tenant.uuid(),
            after.owner.uuid(),
            after.generation.as_i64(),
            after.token.as_i64(),
            after.phase.as_str(),
            after.target.map(berth_domain::CellId::uuid),
            after.holding,
            hold
        )
        .execute(&mut *tx.inner)
        .await?;
        let edges_see = |c: Control| (c.owner, c.generation, c.holding);
        if hold || edges_see(before) != edges_see(after) {
            tx.routes_publish(&[self.tenant]).await?;
        }
        tx.commit().await?;
        Ok(Verdict::Changed(after))
    }
}

#[async_trait]
impl Ownership for StoredOwnership {
    async fn read(&self) -> Option<Control> {
        match self.store.placement_get(self.tenant).await {
            Ok(control) => control,
            Err(error) => {
                warn!(tenant.id = %self.tenant, ?error, "the control row of tenant {} could not be read", self.tenant);
                None
            }
        }
    }

    async fn change(&self, held: Token, change: Change) -> Verdict {
        match self.try_change(held, change).await {
            Ok(verdict) => verdict,
            Err(error) => {
                warn!(tenant.id = %self.tenant, ?change, ?error, "no answer to a change of the control row");
                Verdict::Unknown
            }
        }
    }
}
