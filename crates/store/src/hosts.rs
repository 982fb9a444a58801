//! Host names: each belongs to one tenant at most, over the whole stack; and what tenants claim, with or without proof.
//!
//! Never judges whether a wildcard and a name may stand beside each other: it says who has something near.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{HostProof, Hostname, TenantHost, TenantId, TenantName};
use jiff::Timestamp;

/// A host that a tenant has or claims.
#[derive(Clone, Debug)]
pub struct Host {
    pub host: TenantHost,
    pub tenant: TenantId,
    pub tenant_name: TenantName,
    /// It is routed to the tenant.
    pub served: bool,
    pub claim: Option<HostClaim>,
    /// Another tenant has it or claims it.
    pub contested: bool,
}

#[derive(Clone, Debug)]
pub struct HostClaim {
    pub token: String,
    /// `None`: not proved yet.
    pub way: Option<HostProof>,
    pub looked_at: Option<Timestamp>,
    pub trouble: Option<String>,
}

/// Which hosts to list.
#[derive(Clone, Debug, Default)]
pub struct HostFilter {
    pub tenant: Option<TenantId>,
    pub host: Option<TenantHost>,
}

impl Store {
    /// The plain ones.
    pub async fn host_list(&self, tenant: TenantId) -> Result<Vec<Hostname>, StoreError> {
        let hosts = sqlx::query_scalar!(
            "SELECT host FROM hosts WHERE tenant_id = $1 AND host !~ '[*/]' ORDER BY host",
            tenant.uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(hosts.into_iter().map(Hostname::new).collect::<Result<_, _>>()?)
    }

    /// What tenants have and claim, in order of hosts.
    pub async fn hosts_all(&self, filter: &HostFilter) -> Result<Vec<Host>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT coalesce(h.host, c.host) AS "host!", t.id, t.name, h.host IS NOT NULL AS "served!",
                      c.token AS "token?", c.way, c.looked_at AS "looked_at: Moment", c.trouble,
                      (EXISTS (SELECT FROM hosts o WHERE o.host = coalesce(h.host, c.host) AND o.tenant_id <> t.id)
                       OR EXISTS (SELECT FROM host_claims o WHERE o.host = coalesce(h.host, c.host) AND o.tenant_id <> t.id)
                      ) AS "contested!"
               FROM hosts h FULL JOIN host_claims c ON c.host = h.host AND c.tenant_id = h.tenant_id
               JOIN tenants t ON t.id = coalesce(h.tenant_id, c.tenant_id)
               WHERE ($1::uuid IS NULL OR t.id = $1) AND ($2::text IS NULL OR coalesce(h.host, c.host) = $2)
               ORDER BY 1, t.name"#,
            filter.tenant.map(TenantId::uuid),
            filter.host.as_ref().map(ToString::to_string)
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                let way = r.way.map(|way| way.parse()).transpose()?;
                let claim = r.token.map(|token| HostClaim {
                    token,
                    way,
                    looked_at: r.looked_at.map(|at| at.0),
                    trouble: r.trouble,
                });
                Ok(Host {
                    host: r.host.parse()?,
                    tenant: r.id.into(),
                    tenant_name: TenantName::new(r.name)?,
                    served: r.served,
                    claim,
                    contested: r.contested,
                })
            })
            .collect()
    }

    /// What a look at a claim found instead of a proof.
    pub async fn host_claim_looked(
        &self,
        host: &TenantHost,
        tenant: TenantId,
        trouble: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE host_claims SET looked_at = now(), trouble = $3 WHERE host = $1 AND tenant_id = $2",
            host.to_string(),
            tenant.uuid(),
            trouble
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Held to the end of the transaction by who gives a host to a tenant: two tenants that take a wildcard and a name
    /// below it meet in no row. Taken after the locks of tenants and before that of `route_head`.
    pub async fn hosts_lock(&mut self) -> Result<(), StoreError> {
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('berth.hosts'))::text AS locked")
            .fetch_one(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Hosts of others that may meet one of these: the same name, a wildcard over it, or what is below its own.
    pub async fn hosts_near(
        &mut self,
        hosts: &[TenantHost],
        by_other_than: TenantId,
    ) -> Result<Vec<(TenantHost, TenantId)>, StoreError> {
        let names: Vec<String> = hosts.iter().flat_map(TenantHost::relatives).collect();
        let rows = sqlx::query!(
            "SELECT host, tenant_id FROM hosts WHERE split_part(host, '/', 1) = ANY($1) AND tenant_id <> $2
             ORDER BY host",
            &names,
            by_other_than.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let mut near: Vec<(String, uuid::Uuid)> = rows.into_iter().map(|r| (r.host, r.tenant_id)).collect();
        let below: Vec<String> =
            hosts.iter().filter(|host| host.is_wildcard()).map(|host| format!("%.{}", host.name())).collect();
        if !below.is_empty() {
            // Reads every host there is; wildcards are rare.
            let rows = sqlx::query!(
                "SELECT host, tenant_id FROM hosts WHERE split_part(host, '/', 1) LIKE ANY($1) AND tenant_id <> $2
                 ORDER BY host LIMIT 100",
                &below,
                by_other_than.uuid()
            )
            .fetch_all(&mut *self.inner)
            .await?;
            near.extend(rows.into_iter().map(|r| (r.host, r.tenant_id)));
        }
        near.into_iter().map(|(host, tenant)| Ok((host.parse()?, tenant.into()))).collect()
    }

    /// Whether another tenant has the very same host, or claims it.
    pub async fn host_contested(&mut self, host: &TenantHost, tenant: TenantId) -> Result<bool, StoreError> {
        let contested = sqlx::query_scalar!(
            r#"SELECT (EXISTS (SELECT FROM hosts WHERE host = $1 AND tenant_id <> $2)
                       OR EXISTS (SELECT FROM host_claims WHERE host = $1 AND tenant_id <> $2)) AS "contested!""#,
            host.to_string(),
            tenant.uuid()
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(contested)
    }

    /// Those of these that the tenant has neither been given nor proved.
    pub async fn hosts_unproved(&mut self, tenant: TenantId, hosts: &[Hostname]) -> Result<Vec<Hostname>, StoreError> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let unproved = sqlx::query_scalar!(
            r#"SELECT w AS "host!" FROM unnest($1::text[]) w
               WHERE NOT EXISTS (SELECT FROM hosts h WHERE h.host = w AND h.tenant_id = $2)
                 AND NOT EXISTS (SELECT FROM host_claims c WHERE c.host = w AND c.tenant_id = $2 AND c.way IS NOT NULL)"#,
            &hosts,
            tenant.uuid()
        )
        .fetch_all(&mut *self.inner)
        .await?;
        Ok(unproved.into_iter().map(Hostname::new).collect::<Result<_, _>>()?)
    }

    /// Makes these the tenant's plain hosts; its patterns stay. `Taken(Host)` when one belongs to another tenant. A
    /// proof goes with its host: whoever comes back with it proves it anew.
    pub async fn hosts_replace(&mut self, tenant: TenantId, hosts: &[Hostname]) -> Result<(), StoreError> {
        // In order, so that two tenants that exchange hosts wait for each other instead of deadlocking.
        let mut hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        hosts.sort_unstable();
        sqlx::query!(
            "WITH gone AS (DELETE FROM hosts WHERE tenant_id = $1 AND host <> ALL($2) AND host !~ '[*/]' RETURNING host)
             DELETE FROM host_claims WHERE tenant_id = $1 AND host IN (SELECT host FROM gone)",
            tenant.uuid(),
            &hosts
        )
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

    /// Routes a host to a tenant, whoever had it. Answers who had it.
    pub async fn host_give(&mut self, host: &TenantHost, tenant: TenantId) -> Result<Option<TenantId>, StoreError> {
        let text = host.to_string();
        let had = sqlx::query_scalar!("SELECT tenant_id FROM hosts WHERE host = $1 FOR UPDATE", text)
            .fetch_optional(&mut *self.inner)
            .await?
            .map(TenantId::from)
            .filter(|had| *had != tenant);
        if let Some(had) = had {
            sqlx::query!("DELETE FROM host_claims WHERE host = $1 AND tenant_id = $2", text, had.uuid())
                .execute(&mut *self.inner)
                .await?;
        }
        sqlx::query!(
            "INSERT INTO hosts (host, tenant_id) VALUES ($1, $2)
             ON CONFLICT (host) DO UPDATE SET tenant_id = excluded.tenant_id",
            text,
            tenant.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(had)
    }

    /// Keeps the token of a claim that is there already: what was published goes on to count.
    pub async fn host_claim(&mut self, host: &TenantHost, tenant: TenantId, token: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO host_claims (host, tenant_id, token) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            host.to_string(),
            tenant.uuid(),
            token
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// `Stale` when the claim, with the token that was looked for, is not there any more.
    pub async fn host_claim_proved(
        &mut self,
        host: &TenantHost,
        tenant: TenantId,
        token: &str,
        way: HostProof,
    ) -> Result<(), StoreError> {
        let changed = sqlx::query!(
            "UPDATE host_claims SET way = $4, proved_at = now(), looked_at = now(), trouble = NULL
             WHERE host = $1 AND tenant_id = $2 AND token = $3",
            host.to_string(),
            tenant.uuid(),
            token,
            way.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        if changed.rows_affected() == 0 { Err(StoreError::Stale("claim")) } else { Ok(()) }
    }

    /// Takes a host and the claim to it away from a tenant. Whether it was routed.
    pub async fn host_remove(&mut self, host: &TenantHost, tenant: TenantId) -> Result<bool, StoreError> {
        let text = host.to_string();
        sqlx::query!("DELETE FROM host_claims WHERE host = $1 AND tenant_id = $2", text, tenant.uuid())
            .execute(&mut *self.inner)
            .await?;
        let gone = sqlx::query!("DELETE FROM hosts WHERE host = $1 AND tenant_id = $2", text, tenant.uuid())
            .execute(&mut *self.inner)
            .await?;
        Ok(gone.rows_affected() > 0)
    }
}
