//! Accounts that may pull images from registries. Passwords are sealed here and opened only for who pulls.

use crate::{Store, StoreError, Tx, moment::Moment, seal::Sealed};
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

/// Where a sealed password belongs.
const PASSWORD: &str = "registries.password";

#[derive(Clone, Debug)]
pub struct Registry {
    pub host: String,
    pub user: String,
    pub changed_by: String,
    pub changed_at: Timestamp,
}

impl Store {
    pub async fn registry_list(&self) -> Result<Vec<Registry>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT host, username, changed_by, changed_at AS "changed_at: Moment" FROM registries ORDER BY host"#
        )
        .fetch_all(&self.pool)
        .await?;
        let registry = |(host, user, changed_by, at): (String, String, String, Moment)| Registry {
            host,
            user,
            changed_by,
            changed_at: at.0,
        };
        Ok(rows.into_iter().map(|r| registry((r.host, r.username, r.changed_by, r.changed_at))).collect())
    }

    /// User and password; `None`: nobody has given any.
    pub async fn registry_login(&self, host: &str) -> Result<Option<(String, SecretString)>, StoreError> {
        let row = sqlx::query!(
            "SELECT id, username, password_sealed, password_key_version FROM registries WHERE host = $1",
            host
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed = Sealed { bytes: row.password_sealed, key_version: row.password_key_version };
        Ok(Some((row.username, self.sealer.open(PASSWORD, row.id, &sealed)?)))
    }

    /// Sealed here, so that no transaction ever carries the password in the open.
    pub async fn registry_put(
        &self,
        tx: &mut Tx,
        host: &str,
        user: &str,
        password: &SecretString,
        by: &str,
    ) -> Result<(), StoreError> {
        let id = Uuid::now_v7();
        let sealed = self.sealer.seal(PASSWORD, id, password);
        sqlx::query!(
            "INSERT INTO registries (id, host, username, password_sealed, password_key_version, changed_by)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (host) DO UPDATE SET id = excluded.id, username = excluded.username,
                 password_sealed = excluded.password_sealed, password_key_version = excluded.password_key_version,
                 changed_by = excluded.changed_by, changed_at = now()",
            id,
            host,
            user,
            sealed.bytes,
            sealed.key_version,
            by
        )
        .execute(&mut *tx.inner)
        .await?;
        Ok(())
    }
}

impl Tx {
    /// Whether there was one.
    pub async fn registry_remove(&mut self, host: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query!("DELETE FROM registries WHERE host = $1", host).execute(&mut *self.inner).await?;
        Ok(gone.rows_affected() > 0)
    }
}
