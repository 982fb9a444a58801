//! Quotas that are spent, as edges see them: classes of requests that are refused until a moment.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::TenantId;
use jiff::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    pub tenant: TenantId,
    pub quantity: String,
    pub class: String,
    pub until: Timestamp,
}

impl Store {
    pub async fn spent_list(&self) -> Result<Vec<Spent>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT tenant_id, quantity, class, until AS "until: Moment" FROM usage_spent ORDER BY tenant_id, quantity"#
        )
        .fetch_all(&self.pool)
        .await?;
        let spent = rows.into_iter().map(|r| Spent {
            tenant: r.tenant_id.into(),
            quantity: r.quantity,
            class: r.class,
            until: r.until.0,
        });
        Ok(spent.collect())
    }
}

impl Tx {
    /// Replaces what a tenant has spent, and tells edges where that changes what they refuse.
    pub async fn spent_replace(&mut self, tenant: TenantId, spent: &[Spent]) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM usage_spent WHERE tenant_id = $1", tenant.uuid()).execute(&mut *self.inner).await?;
        for one in spent {
            sqlx::query!(
                "INSERT INTO usage_spent (tenant_id, quantity, class, until) VALUES ($1, $2, $3, $4)",
                tenant.uuid(),
                one.quantity,
                one.class,
                Moment(one.until) as Moment
            )
            .execute(&mut *self.inner)
            .await?;
        }
        self.routes_publish(&[tenant]).await.map(drop)
    }
}
