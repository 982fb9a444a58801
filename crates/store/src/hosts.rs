//! Host names: each belongs to one tenant at most, over the whole stack.

use crate::{Store, StoreError, Tx};
use berth_domain::{Hostname, TenantId};

impl Store {
    pub async fn host_list(&self, tenant: TenantId) -> Result<Vec<Hostname>, StoreError> {
        let hosts = sqlx::query_scalar!("SELECT host FROM hosts WHERE tenant_id = $1 ORDER BY host", tenant.uuid())
            .fetch_all(&self.pool)
            .await?;
        Ok(hosts.into_iter().map(Hostname::new).collect::<Result<_, _>>()?)
    }
}

impl Tx {
    /// Which of these are taken already, and by whom (`None` for the asking tenant itself never appears).
    pub async fn hosts_taken(
        &mut self,
        hosts: &[Hostname],
        by_other_than: TenantId,
    ) -> Result<Vec<Hostname>, StoreError> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let taken = sqlx::query_scalar!(
            "SELECT host FROM hosts WHERE host = ANY($1) AND tenant_id <> $2 ORDER BY host",
            &hosts,
            by_other_than.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(taken.into_iter().map(Hostname::new).collect::<Result<_, _>>()?)
    }

    /// Makes these the tenant's hosts. `Taken(Host)` when one belongs to another tenant.
    pub async fn hosts_replace(&mut self, tenant: TenantId, hosts: &[Hostname]) -> Result<(), StoreError> {
        // In order, so that two tenants that exchange hosts wait for each other instead of deadlocking.
        let mut hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        hosts.sort_unstable();
        sqlx::query!("DELETE FROM hosts WHERE tenant_id = $1 AND host <> ALL($2)", tenant.uuid(), &hosts)
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!(
            "INSERT INTO hosts (host, tenant_id) SELECT h, $1 FROM unnest($2::text[]) h
             WHERE NOT EXISTS (SELECT FROM hosts mine WHERE mine.host = h AND mine.tenant_id = $1)",
            tenant.uuid(),
            &hosts
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
