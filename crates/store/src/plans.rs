//! Plans as the newest stack revision has them. A plan that left the file is retired, not deleted.

use crate::{Store, StoreError, Tx};
use berth_domain::{Cents, Plan, PlanName};

#[derive(Clone, Debug)]
pub struct StoredPlan {
    pub plan: Plan,
    /// Keeps its tenants, takes no new ones.
    pub retired: bool,
    pub tenants: i64,
}

impl Store {
    pub async fn plan_list(&self) -> Result<Vec<StoredPlan>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name, price_cents, class, limits, retired,
                      (SELECT count(*) FROM tenants t WHERE t.plan = p.name AND t.state NOT IN ('deleted', 'failed')) AS "tenants!"
               FROM plans p ORDER BY price_cents, name"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(StoredPlan {
                    plan: Plan {
                        name: PlanName::new(r.name)?,
                        price_cents: Cents::new(r.price_cents),
                        class: r.class.parse()?,
                        limits: serde_json::from_value(r.limits)?,
                    },
                    retired: r.retired,
                    tenants: r.tenants,
                })
            })
            .collect()
    }

    pub async fn plan_get(&self, name: &PlanName) -> Result<Option<StoredPlan>, StoreError> {
        Ok(self.plan_list().await?.into_iter().find(|p| p.plan.name == *name))
    }
}

impl Tx {
    /// Makes the stored plans those of a revision; what is not among them is retired.
    pub async fn plans_replace(&mut self, revision: i64, plans: &[Plan]) -> Result<(), StoreError> {
        for plan in plans {
            sqlx::query!(
                "INSERT INTO plans (name, price_cents, class, limits, stack_revision) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (name) DO UPDATE SET price_cents = excluded.price_cents, class = excluded.class,
                     limits = excluded.limits, stack_revision = excluded.stack_revision, retired = false",
                plan.name.as_str(),
                plan.price_cents.get(),
                plan.class.as_str(),
                serde_json::to_value(&plan.limits)?,
                revision,
            )
            .execute(&mut *self.inner)
            .await?;
        }
        sqlx::query!("UPDATE plans SET retired = true WHERE stack_revision < $1", revision)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }
}
