//! API keys: only what is needed to recognise one. The key itself is shown once, by `control`, and stored nowhere.

use crate::{Store, StoreError, Tx, moment::Moment};
use berth_domain::{BadState, KeyId, TenantId};
use jiff::Timestamp;
use std::fmt;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Admin,
    /// Everything may be read and nothing changed.
    Read,
    /// The edge's own endpoints, and nothing else.
    Edge,
    /// Usage may be reported and entitlements read, and nothing else.
    Usage,
    /// One tenant, as its owner.
    Tenant(TenantId),
}

impl Scope {
    pub const WORDS: &'static [&'static str] = &["admin", "read", "edge", "usage", "tenant"];

    const fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Edge => "edge",
            Self::Usage => "usage",
            Self::Tenant(_) => "tenant",
        }
    }

    fn stored(word: &str, tenant: Option<TenantId>) -> Result<Self, StoreError> {
        match (word, tenant) {
            ("admin", None) => Ok(Self::Admin),
            ("read", None) => Ok(Self::Read),
            ("edge", None) => Ok(Self::Edge),
            ("usage", None) => Ok(Self::Usage),
            ("tenant", Some(tenant)) => Ok(Self::Tenant(tenant)),
            _ => Err(BadState { what: "key scope", text: word.to_owned() }.into()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant:{tenant}"),
            other => f.write_str(other.word()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    /// The first characters, to recognise it by.
    pub prefix: String,
    pub scope: Scope,
    pub created_by: String,
    pub created_at: Timestamp,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub name: String,
    pub prefix: String,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    pub scope: Scope,
    pub created_by: String,
}

impl Store {
    /// The key with this digest, unless it was revoked.
    pub async fn key_by_digest(&self, digest: &[u8; 32]) -> Result<Option<Key>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT id, name, prefix, scope, tenant_id, created_by, created_at AS "created_at: Moment",
                      last_used_at AS "last_used_at: Moment",
                      (last_used_at IS NULL OR last_used_at < now() - interval '1 minute') AS "note_use!"
               FROM api_keys WHERE digest = $1 AND revoked_at IS NULL"#,
            digest.as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(r) = row else { return Ok(None) };
        if r.note_use {
            // Once a minute: a write for each request would cost more than the request.
            sqlx::query!("UPDATE api_keys SET last_used_at = now() WHERE id = $1", r.id).execute(&self.pool).await?;
        }
        Ok(Some(Key {
            id: r.id.into(),
            name: r.name,
            prefix: r.prefix,
            scope: Scope::stored(&r.scope, r.tenant_id.map(Into::into))?,
            created_by: r.created_by,
            created_at: r.created_at.0,
            last_used_at: Moment::of(r.last_used_at),
            revoked_at: None,
        }))
    }

    /// All keys, revoked ones too, newest first.
    pub async fn key_list(&self) -> Result<Vec<Key>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, name, prefix, scope, tenant_id, created_by, created_at AS "created_at: Moment",
                      last_used_at AS "last_used_at: Moment", revoked_at AS "revoked_at: Moment"
               FROM api_keys ORDER BY created_at DESC, id"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|r| {
                Ok(Key {
                    id: r.id.into(),
                    name: r.name,
                    prefix: r.prefix,
                    scope: Scope::stored(&r.scope, r.tenant_id.map(Into::into))?,
                    created_by: r.created_by,
                    created_at: r.created_at.0,
                    last_used_at: Moment::of(r.last_used_at),
                    revoked_at: Moment::of(r.revoked_at),
                })
            })
            .collect()
    }
}

impl Tx {
    pub async fn key_insert(&mut self, new: &NewKey) -> Result<(), StoreError> {
        let tenant = match new.scope {
            Scope::Tenant(tenant) => Some(tenant.uuid()),
            _ => None,
        };
        sqlx::query!(
            "INSERT INTO api_keys (id, name, prefix, digest, scope, tenant_id, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            new.id.uuid(),
            new.name,
            new.prefix,
            new.digest.as_slice(),
            new.scope.word(),
            tenant,
            new.created_by
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Whether there was such a key in force.
    pub async fn key_revoke(&mut self, id: KeyId) -> Result<bool, StoreError> {
        let done =
            sqlx::query!("UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", id.uuid())
                .execute(&mut *self.inner)
                .await?;
        Ok(done.rows_affected() > 0)
    }

    /// A deleted tenant's keys open nothing.
    pub async fn keys_revoke_of(&mut self, tenant: TenantId) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE api_keys SET revoked_at = now() WHERE tenant_id = $1 AND revoked_at IS NULL",
            tenant.uuid()
        )
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
