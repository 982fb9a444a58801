//! Orders of certificates, one row a host, and the account that they are made with. Never asks an authority anything.
//!
//! Every change names the version of the row that it rests on: of two servers that work on one order the second is
//! told [`StoreError::Stale`], and lets go.

use crate::{Answer, Store, StoreError, Tx, moment::Moment, seal::Sealed};
use berth_domain::{CertificateId, Hostname, OrderState, OrderTrouble, TenantName};
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

const KEY: &str = "certificate_orders.key";
const ACCOUNT: &str = "acme_accounts.account";

/// How a host comes by its certificate.
#[derive(Clone, Debug)]
pub struct Order {
    pub host: Hostname,
    pub id: Uuid,
    /// Whose host it is.
    pub tenant: Option<TenantName>,
    pub state: OrderState,
    pub version: i64,
    pub directory: Option<String>,
    pub order_url: Option<String>,
    pub answer: Option<Answer>,
    pub certificate: Option<CertificateId>,
    pub trouble: Option<OrderTrouble>,
    pub detail: Option<String>,
    pub failures: u32,
    pub next_at: Timestamp,
}

/// Our account at an authority, opened.
#[derive(Clone, Debug)]
pub struct AcmeAccount {
    pub id: Uuid,
    pub secret: SecretString,
}

/// For whom certificates are ordered.
#[derive(Clone, Debug, Default)]
pub struct OrderWant {
    /// Names of the stack's own; what is at or below them needs no proof.
    pub own: Vec<Hostname>,
}

/// Which orders.
struct Find<'a> {
    due: Option<Timestamp>,
    host: Option<&'a Hostname>,
    state: Option<OrderState>,
    with_answers: bool,
    most: i64,
}

impl Default for Find<'_> {
    fn default() -> Self {
        Self { due: None, host: None, state: None, with_answers: false, most: i64::MAX }
    }
}

impl Store {
    /// Those that are due, the longest due first, with what edges answer for them.
    pub async fn orders_due(&self, now: Timestamp, most: i64) -> Result<Vec<Order>, StoreError> {
        self.orders(&Find { due: Some(now), with_answers: true, most, ..Find::default() }).await
    }

    /// In order of the next attempt. Without answers: there may be a key in one.
    pub async fn order_list(&self) -> Result<Vec<Order>, StoreError> {
        self.orders(&Find::default()).await
    }

    /// Those that failed, the next to be tried first. Without answers.
    pub async fn orders_failed(&self, most: i64) -> Result<Vec<Order>, StoreError> {
        self.orders(&Find { state: Some(OrderState::Failed), most, ..Find::default() }).await
    }

    /// Without its answer.
    pub async fn order_get(&self, host: &Hostname) -> Result<Option<Order>, StoreError> {
        Ok(self.orders(&Find { host: Some(host), ..Find::default() }).await?.pop())
    }

    async fn orders(&self, find: &Find<'_>) -> Result<Vec<Order>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT o.host, o.id, t.name AS "tenant?", o.state, o.version, o.directory, o.order_url,
                      CASE WHEN $4 THEN o.answer END AS "answer?", o.certificate_id, o.trouble, o.detail, o.failures,
                      o.next_at AS "next_at: Moment"
               FROM certificate_orders o LEFT JOIN hosts h ON h.host = o.host LEFT JOIN tenants t ON t.id = h.tenant_id
               WHERE ($1::timestamptz IS NULL OR o.next_at <= $1) AND ($2::text IS NULL OR o.host = $2)
                 AND ($3::text IS NULL OR o.state = $3)
               ORDER BY o.next_at, o.host LIMIT $5"#,
            find.due.map(Moment) as _,
            find.host.map(Hostname::as_str),
            find.state.map(OrderState::as_str),
            find.with_answers,
            find.most
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Order {
                    host: Hostname::new(r.host)?,
                    id: r.id,
                    tenant: r.tenant.map(TenantName::new).transpose()?,
                    state: r.state.parse()?,
                    version: r.version,
                    directory: r.directory,
                    order_url: r.order_url,
                    answer: r.answer.map(serde_json::from_value).transpose()?,
                    certificate: r.certificate_id.map(CertificateId::from),
                    trouble: r.trouble.map(|trouble| trouble.parse()).transpose()?,
                    detail: r.detail,
                    failures: u32::try_from(r.failures).unwrap_or(0),
                    next_at: r.next_at.0,
                })
            })
            .collect()
    }

    /// The key of the certificate that is being asked for.
    pub async fn order_key(&self, order: &Order) -> Result<Option<SecretString>, StoreError> {
        let row = sqlx::query!("SELECT key_sealed, key_key_version FROM certificate_orders WHERE id = $1", order.id)
            .fetch_optional(&self.pool)
            .await?;
        let Some((bytes, key_version)) = row.and_then(|row| Some((row.key_sealed?, row.key_key_version?))) else {
            return Ok(None);
        };
        Ok(Some(self.sealer.open(KEY, order.id, &Sealed { bytes, key_version })?))
    }

    pub async fn order_set_key(&self, order: &mut Order, key: &SecretString) -> Result<(), StoreError> {
        let sealed = self.sealer.seal(KEY, order.id, key);
        let version = sqlx::query_scalar!(
            "UPDATE certificate_orders SET key_sealed = $3, key_key_version = $4, version = version + 1, changed_at = now()
             WHERE id = $1 AND version = $2 RETURNING version",
            order.id,
            order.version,
            sealed.bytes,
            sealed.key_version
        )
        .fetch_optional(&self.pool)
        .await?;
        order.version = version.ok_or(StoreError::Stale("order"))?;
        Ok(())
    }

    /// Our account at an authority.
    pub async fn acme_account(&self, directory: &str) -> Result<Option<AcmeAccount>, StoreError> {
        let row = sqlx::query!(
            "SELECT id, account_sealed, account_key_version FROM acme_accounts WHERE directory = $1",
            directory
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed = Sealed { bytes: row.account_sealed, key_version: row.account_key_version };
        Ok(Some(AcmeAccount { id: row.id, secret: self.sealer.open(ACCOUNT, row.id, &sealed)? }))
    }

    /// Of two servers that made one at once the first one's counts; answers that.
    pub async fn acme_account_keep(&self, directory: &str, account: &SecretString) -> Result<AcmeAccount, StoreError> {
        let id = Uuid::now_v7();
        let sealed = self.sealer.seal(ACCOUNT, id, account);
        sqlx::query!(
            "INSERT INTO acme_accounts (id, directory, account_sealed, account_key_version) VALUES ($1, $2, $3, $4)
             ON CONFLICT (directory) DO NOTHING",
            id,
            directory,
            sealed.bytes,
            sealed.key_version
        )
        .execute(&self.pool)
        .await?;
        self.acme_account(directory).await?.ok_or(StoreError::Stale("account"))
    }

    /// An account that the authority does not know any more. A newer one stays.
    pub async fn acme_account_forget(&self, account: &AcmeAccount) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM acme_accounts WHERE id = $1", account.id).execute(&self.pool).await?;
        Ok(())
    }
}

impl Tx {
    /// Begins orders for plain hosts that are routed, are proved or the stack's own, and have none; ends those of hosts
    /// that are not any more, with the certificates that were got for them. Answers how many of each.
    pub async fn orders_follow_hosts(&mut self, want: &OrderWant, most: i64) -> Result<(u64, u64), StoreError> {
        let own: Vec<String> = want.own.iter().map(ToString::to_string).collect();
        let below: Vec<String> = own.iter().map(|name| format!("%.{name}")).collect();
        let begun = sqlx::query!(
            "INSERT INTO certificate_orders (host, id, state, next_at)
             SELECT h.host, gen_random_uuid(), 'waiting', now() FROM hosts h JOIN tenants t ON t.id = h.tenant_id
             WHERE h.host !~ '[*/]' AND t.state IN ('active', 'moving', 'suspended')
               AND (h.host = ANY($1) OR h.host LIKE ANY($2)
                    OR EXISTS (SELECT FROM host_claims c
                               WHERE c.host = h.host AND c.tenant_id = h.tenant_id AND c.way IS NOT NULL))
               AND NOT EXISTS (SELECT FROM certificate_orders o WHERE o.host = h.host)
             ORDER BY h.host LIMIT $3 ON CONFLICT DO NOTHING",
            &own,
            &below,
            most
        )
        .execute(&mut *self.inner)
        .await?
        .rows_affected();
        let ended = sqlx::query_scalar!(
            r#"WITH gone AS (
                   DELETE FROM certificate_orders o WHERE NOT EXISTS (
                       SELECT FROM hosts h WHERE h.host = o.host
                         AND (h.host = ANY($1) OR h.host LIKE ANY($2)
                              OR EXISTS (SELECT FROM host_claims c
                                         WHERE c.host = h.host AND c.tenant_id = h.tenant_id AND c.way IS NOT NULL)))
                   RETURNING host),
                 certificates_gone AS (DELETE FROM certificates WHERE ordered_for IN (SELECT host FROM gone))
               SELECT count(*) AS "ended!" FROM gone"#,
            &own,
            &below
        )
        .fetch_one(&mut *self.inner)
        .await?;
        let ended = u64::try_from(ended).unwrap_or(0);
        Ok((begun, ended))
    }

    /// Stores everything of it but its key. `Stale` when somebody else did since it was read.
    pub async fn order_put(&mut self, order: &mut Order, keep_key: bool) -> Result<(), StoreError> {
        let version = sqlx::query_scalar!(
            "UPDATE certificate_orders SET state = $3, directory = $4, order_url = $5, answer = $6, certificate_id = $7,
                 trouble = $8, detail = $9, failures = $10, next_at = $11, version = version + 1, changed_at = now(),
                 key_sealed = CASE WHEN $12 THEN key_sealed END,
                 key_key_version = CASE WHEN $12 THEN key_key_version END
             WHERE id = $1 AND version = $2 RETURNING version",
            order.id,
            order.version,
            order.state.as_str(),
            order.directory,
            order.order_url,
            order.answer.as_ref().map(serde_json::to_value).transpose()?,
            order.certificate.map(CertificateId::uuid),
            order.trouble.map(OrderTrouble::as_str),
            order.detail,
            i32::try_from(order.failures).unwrap_or(i32::MAX),
            Moment(order.next_at) as _,
            keep_key
        )
        .fetch_optional(&mut *self.inner)
        .await?;
        order.version = version.ok_or(StoreError::Stale("order"))?;
        Ok(())
    }

    /// Lets an order wait that could not be carried on, as it is. Whether it is still as it was read.
    pub async fn order_put_off(&mut self, order: &Order, until: Timestamp, why: &str) -> Result<bool, StoreError> {
        let changed = sqlx::query!(
            "UPDATE certificate_orders SET next_at = $3, detail = $4, version = version + 1, changed_at = now()
             WHERE id = $1 AND version = $2",
            order.id,
            order.version,
            Moment(until) as _,
            why
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Makes an order due now, whatever it waits for. Whether there is one.
    pub async fn order_hurry(&mut self, host: &Hostname) -> Result<bool, StoreError> {
        let changed = sqlx::query!(
            "UPDATE certificate_orders SET next_at = now(), version = version + 1,
                 state = CASE WHEN state = 'ordered' THEN state ELSE 'waiting' END
             WHERE host = $1",
            host.as_str()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Certificates that were got for the host earlier.
    pub async fn certificates_superseded(&mut self, host: &Hostname, by: CertificateId) -> Result<u64, StoreError> {
        let gone =
            sqlx::query!("DELETE FROM certificates WHERE ordered_for = $1 AND id <> $2", host.as_str(), by.uuid())
                .execute(&mut *self.inner)
                .await?;
        Ok(gone.rows_affected())
    }
}
