//! What the control database knows of a tenant, counted and erased; and the documents of erasures.
//!
//! The row of the tenant stays, without its name: what a cell cost and when a tenant moved is told by ids. Of the audit
//! trail stays who did what and when.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{CertificateId, OperationId, TenantId, TenantName};
use jiff::Timestamp;
use serde_json::Value;

/// How much of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub usage: i64,
    pub proposals: i64,
    pub keys: i64,
    pub hosts: i64,
    pub operations: i64,
    pub answers: i64,
    pub audit: i64,
}

#[derive(Clone, Debug)]
pub struct Erasure {
    pub operation: OperationId,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub report: Value,
}

impl Store {
    /// What an erasure would find.
    pub async fn tenant_records(&self, id: TenantId, name: &TenantName) -> Result<Records, StoreError> {
        let subject = format!("tenant/{name}");
        let r = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM usage_events WHERE tenant_id = $1) + (SELECT count(*) FROM usage WHERE tenant_id = $1)
                        + (SELECT count(*) FROM usage_spent WHERE tenant_id = $1) + (SELECT count(*) FROM usage_judgements WHERE tenant_id = $1)
                        + (SELECT count(*) FROM edge_meters WHERE tenant_id = $1) AS "usage!",
                      (SELECT count(*) FROM approvals WHERE tenant_id = $1) AS "proposals!",
                      (SELECT count(*) FROM api_keys WHERE tenant_id = $1) AS "keys!",
                      (SELECT count(*) FROM hosts WHERE tenant_id = $1) AS "hosts!",
                      (SELECT count(*) FROM operations WHERE subject = $2) AS "operations!",
                      (SELECT count(*) FROM idempotency_keys WHERE strpos(body::text, $3) > 0
                         OR jsonb_path_exists(body, '$.** ? (@.tenant == $name || (@.name == $name && exists(@.plan)))', jsonb_build_object('name', $4::text))) AS "answers!",
                      (SELECT count(*) FROM audit WHERE target = $2) AS "audit!""#,
            id.uuid(),
            subject,
            id.to_string(),
            name.as_str()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Records {
            usage: r.usage,
            proposals: r.proposals,
            keys: r.keys,
            hosts: r.hosts,
            operations: r.operations,
            answers: r.answers,
            audit: r.audit,
        })
    }

    /// The newest first.
    pub async fn erasure_list(&self) -> Result<Vec<Erasure>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT operation, tenant_id, at AS "at: Moment", report FROM erasures ORDER BY at DESC, operation"#
        )
        .fetch_all(&self.pool)
        .await?;
        let one = |r: Row| Erasure {
            operation: r.operation.into(),
            tenant: r.tenant_id.into(),
            at: r.at.0,
            report: r.report,
        };
        Ok(rows.into_iter().map(one).collect())
    }
}

struct Row {
    operation: uuid::Uuid,
    tenant_id: uuid::Uuid,
    at: Moment,
    report: Value,
}

impl Tx {
    /// Erases what [`Store::tenant_records`] counts. `now`: the operation that does it, which stays and is about the
    /// tenant's new name.
    pub async fn tenant_erase(&mut self, id: TenantId, now: OperationId) -> Result<(), StoreError> {
        let name = sqlx::query_scalar!("SELECT name FROM tenants WHERE id = $1 FOR UPDATE", id.uuid())
            .fetch_one(&mut *self.inner)
            .await?;
        let subject = format!("tenant/{name}");
        let nobody = format!("erased-{}", id.uuid().simple());
        // What was said of its keys and of its operations names it too; certificates' are made nameless one by one.
        sqlx::query!(
            "UPDATE audit SET before = NULL, after = NULL
             WHERE target IN (SELECT 'key/' || id FROM api_keys WHERE tenant_id = $1
                              UNION ALL SELECT 'operation/' || id FROM operations WHERE subject = $2)",
            id.uuid(),
            subject
        )
        .execute(&mut *self.inner)
        .await?;
        for table in [
            sqlx::query!("DELETE FROM usage_events WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM usage WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM usage_spent WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM usage_judgements WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM edge_meters WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM approvals WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM api_keys WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM hold_reports WHERE tenant_id = $1", id.uuid()),
            sqlx::query!("DELETE FROM world_ahead WHERE tenant_id = $1", id.uuid()),
        ] {
            table.execute(&mut *self.inner).await?;
        }
        sqlx::query!("DELETE FROM drains WHERE kind = 'tenant' AND subject = $1", id.to_string())
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!("DELETE FROM operations WHERE subject = $1 AND id <> $2", subject, now.uuid())
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!("UPDATE operations SET subject = $2 WHERE id = $1", now.uuid(), format!("tenant/{nobody}"))
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!(
            "DELETE FROM idempotency_keys
             WHERE strpos(body::text, $1) > 0
                OR jsonb_path_exists(body, '$.** ? (@.tenant == $name || (@.name == $name && exists(@.plan)))', jsonb_build_object('name', $2::text))",
            id.to_string(),
            name
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!(
            "UPDATE audit SET target = $2, before = NULL, after = NULL WHERE target = $1",
            subject,
            format!("tenant/{nobody}")
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!("UPDATE moves SET reason = NULL WHERE tenant_id = $1", id.uuid())
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!("UPDATE ways_back SET trouble = NULL, reason = NULL WHERE tenant_id = $1", id.uuid())
            .execute(&mut *self.inner)
            .await?;
        sqlx::query!(
            "UPDATE tenants SET name = $2, key = $2, settings = '{}', version = version + 1 WHERE id = $1",
            id.uuid(),
            nobody
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Forgets what is kept of the tenant's hosts beside themselves: orders of certificates and what was got by them, and
    /// in the audit trail the names in certificates and the hosts whose certificates were renewed. Hosts that it had once
    /// and that others have now are theirs. Before its state is [`berth_domain::TenantState::Deleted`]: then it has none.
    pub async fn tenant_forget_hosts(&mut self, id: TenantId) -> Result<(), StoreError> {
        let name = sqlx::query_scalar!("SELECT name FROM tenants WHERE id = $1 FOR UPDATE", id.uuid())
            .fetch_one(&mut *self.inner)
            .await?;
        // Also those that only its audit trail names.
        let names = sqlx::query_scalar!(
            r#"WITH named AS (
                   SELECT host FROM hosts WHERE tenant_id = $1
                   UNION SELECT host FROM host_claims WHERE tenant_id = $1
                   UNION SELECT said.host FROM audit a, LATERAL (
                       SELECT a.before->>'host' UNION SELECT a.after->>'host'
                       UNION SELECT jsonb_array_elements_text(
                           CASE jsonb_typeof(a.before->'hosts') WHEN 'array' THEN a.before->'hosts' ELSE '[]' END)
                       UNION SELECT jsonb_array_elements_text(
                           CASE jsonb_typeof(a.after->'hosts') WHEN 'array' THEN a.after->'hosts' ELSE '[]' END)
                   ) said(host) WHERE a.target = $2 AND said.host IS NOT NULL)
               SELECT DISTINCT split_part(host, '/', 1) AS "name!" FROM named n
               WHERE NOT EXISTS (SELECT FROM hosts o WHERE o.tenant_id <> $1
                                   AND split_part(o.host, '/', 1) = split_part(n.host, '/', 1))"#,
            id.uuid(),
            format!("tenant/{name}")
        )
        .fetch_all(&mut *self.inner)
        .await?;
        let below: Vec<String> =
            names.iter().filter_map(|name| name.strip_prefix('*')).map(ToOwned::to_owned).collect();
        sqlx::query!(
            "UPDATE audit SET before = NULL, after = NULL
             WHERE target LIKE 'certificate/%' AND EXISTS (
                 SELECT FROM jsonb_array_elements_text(
                     CASE jsonb_typeof(after->'names') WHEN 'array' THEN after->'names' ELSE '[]' END) n
                 WHERE n = ANY($1) OR EXISTS (SELECT FROM unnest($2::text[]) b WHERE right(n, length(b)) = b))",
            &names,
            &below
        )
        .execute(&mut *self.inner)
        .await?;
        let hosts: Vec<String> = names.iter().map(|name| format!("host/{name}")).collect();
        sqlx::query!(
            "UPDATE audit SET target = $2, before = NULL, after = NULL WHERE target = ANY($1)",
            &hosts,
            format!("tenant/erased-{}", id.uuid().simple())
        )
        .execute(&mut *self.inner)
        .await?;
        sqlx::query!(
            "WITH gone AS (DELETE FROM certificate_orders WHERE host = ANY($1) RETURNING host)
             DELETE FROM certificates WHERE ordered_for = ANY($1)",
            &names
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// What the audit trail says of a certificate: the names in it are a tenant's hosts.
    pub async fn certificate_nameless(&mut self, id: CertificateId) -> Result<(), StoreError> {
        sqlx::query!("UPDATE audit SET before = NULL, after = NULL WHERE target = $1", format!("certificate/{id}"))
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    pub async fn erasure_insert(
        &mut self,
        operation: OperationId,
        tenant: TenantId,
        report: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO erasures (operation, tenant_id, report) VALUES ($1, $2, $3)",
            operation.uuid(),
            tenant.uuid(),
            report
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
