//! TLS certificates and their sealed keys. Never judges one: `control` has looked at it before it comes here.

use crate::{Store, StoreError, Tx, moment::Moment, seal::Sealed};
use berth_domain::{CertificateId, Hostname};
use jiff::Timestamp;
use secrecy::SecretString;
use std::collections::BTreeMap;

/// Where a sealed key belongs.
const KEY: &str = "certificates.key";

#[derive(Clone, Debug)]
pub struct Certificate {
    pub id: CertificateId,
    pub version: i64,
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub added_at: Timestamp,
    /// It was got for this host; `None`: a person gave it.
    pub ordered_for: Option<Hostname>,
}

#[derive(Debug)]
pub struct CertificateSecret {
    pub chain_pem: String,
    pub key_pem: SecretString,
}

#[derive(Debug)]
pub struct NewCertificate {
    pub id: CertificateId,
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub chain_pem: String,
    pub key_pem: SecretString,
    pub added_by: String,
    pub ordered_for: Option<Hostname>,
}

impl Store {
    /// The newest first.
    pub async fn certificate_list(&self) -> Result<Vec<Certificate>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, version, names, issuer, not_before AS "not_before: Moment", not_after AS "not_after: Moment",
                      added_at AS "added_at: Moment", ordered_for
               FROM certificates ORDER BY version DESC"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Certificate {
                    id: r.id.into(),
                    version: r.version,
                    names: r.names,
                    issuer: r.issuer,
                    not_before: r.not_before.0,
                    not_after: r.not_after.0,
                    added_at: r.added_at.0,
                    ordered_for: r.ordered_for.map(Hostname::new).transpose()?,
                })
            })
            .collect()
    }

    /// Chains and opened keys, of those that have not gone. One that does not open is an error of its own.
    pub async fn certificate_secrets(
        &self,
        ids: &[CertificateId],
    ) -> Result<BTreeMap<CertificateId, Result<CertificateSecret, StoreError>>, StoreError> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let rows = sqlx::query!(
            "SELECT id, chain_pem, key_sealed, key_key_version FROM certificates WHERE id = ANY($1)",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        let open = |id, sealed: Sealed| self.sealer.open(KEY, id, &sealed);
        Ok(rows
            .into_iter()
            .map(|r| {
                let key_pem = open(r.id, Sealed { bytes: r.key_sealed, key_version: r.key_key_version });
                let secret = key_pem.map(|key_pem| CertificateSecret { chain_pem: r.chain_pem, key_pem });
                (r.id.into(), secret.map_err(StoreError::from))
            })
            .collect())
    }

    /// Sealed here, so that no transaction ever carries the key in the open.
    pub async fn certificate_insert(&self, tx: &mut Tx, new: &NewCertificate) -> Result<(), StoreError> {
        let sealed = self.sealer.seal(KEY, new.id.uuid(), &new.key_pem);
        sqlx::query!(
            "INSERT INTO certificates (id, names, issuer, not_before, not_after, chain_pem, key_sealed, key_key_version, added_by,
                 ordered_for)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            new.id.uuid(),
            &new.names,
            new.issuer,
            Moment(new.not_before) as _,
            Moment(new.not_after) as _,
            new.chain_pem,
            sealed.bytes,
            sealed.key_version,
            new.added_by,
            new.ordered_for.as_ref().map(Hostname::as_str)
        )
        .execute(&mut *tx.inner)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Whether there was one. A host that had it as its own is without one: its order is due now.
    pub async fn certificate_delete(&mut self, id: CertificateId) -> Result<bool, StoreError> {
        sqlx::query!(
            "UPDATE certificate_orders SET state = 'waiting', next_at = now(), version = version + 1, changed_at = now()
             WHERE certificate_id = $1 AND state = 'served'",
            id.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        let gone = sqlx::query!("DELETE FROM certificates WHERE id = $1", id.uuid()).execute(&mut *self.inner).await?;
        Ok(gone.rows_affected() > 0)
    }
}
