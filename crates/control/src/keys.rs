//! API keys: made, recognised, revoked. A key is random and long, is shown once, and only its SHA-256 is kept: a slow
//! hash defends short secrets, and this one is not short.

use crate::{App, Caller, Change, ControlError, Permit, Read, audited, views};
use berth_domain::{KeyId, TenantId};
use berth_store::{NewKey, Scope};
use berth_wire as wire;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

const PREFIX: &str = "bk_";
/// 36 characters of 62: 214 bits.
const RANDOM_CHARS: usize = 36;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Shown with a key to recognise it by: the prefix and 30 of its 214 bits.
const SHOWN_CHARS: usize = 8;

/// Who holds this key.
pub async fn caller(app: &App, key: &SecretString, request_id: Option<String>) -> Result<Caller, ControlError> {
    if !key.expose_secret().starts_with(PREFIX) {
        return Err(ControlError::UnknownKey);
    }
    let known = app.store().key_by_digest(&digest(key)).await?.ok_or(ControlError::UnknownKey)?;
    Ok(Caller { name: known.name, scope: known.scope, request_id })
}

pub async fn create(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::KeyCreate,
) -> Result<wire::KeyCreated, ControlError> {
    app.writable().await?;
    let scope = scope(app, &wanted.scope).await?;
    let (secret, key) = make(&wanted.name, scope, &permit.caller().name)?;
    let mut tx = app.store().begin().await?;
    tx.key_insert(&key).await?;
    let after = json!({ "name": key.name, "scope": scope.to_string() });
    audited(&mut tx, permit, "key.create", &format!("key/{}", key.id), None, Some(after)).await?;
    tx.commit().await?;
    let shown = app.store().key_list().await?.into_iter().find(|stored| stored.id == key.id);
    let shown = shown.ok_or(ControlError::NoKey(key.id))?;
    Ok(wire::KeyCreated { key: views::key(shown), secret: secret.expose_secret().to_owned() })
}

/// A key for the program that starts a server (a demo, the first administrator), given without the API.
pub async fn create_for_berth(app: &App, name: &str, scope: Scope) -> Result<SecretString, ControlError> {
    let permit = Caller::berth().may(Change)?;
    let (secret, key) = make(name, scope, &permit.caller().name)?;
    let mut tx = app.store().begin().await?;
    tx.key_insert(&key).await?;
    let after = json!({ "name": key.name, "scope": scope.to_string() });
    audited(&mut tx, &permit, "key.create", &format!("key/{}", key.id), None, Some(after)).await?;
    tx.commit().await?;
    Ok(secret)
}

/// No key was ever made: the first one has to come from the command line of the server itself.
pub async fn none_yet(app: &App) -> Result<bool, ControlError> {
    Ok(app.store().key_list().await?.is_empty())
}

pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::Key>, ControlError> {
    Ok(wire::Page::whole(app.store().key_list().await?.into_iter().map(views::key).collect()))
}

/// In force until this returns, and not any longer.
pub async fn revoke(app: &App, permit: &Permit<Change>, id: KeyId) -> Result<wire::Key, ControlError> {
    app.writable().await?;
    let mut tx = app.store().begin().await?;
    if !tx.key_revoke(id).await? {
        return Err(ControlError::NoKey(id));
    }
    audited(&mut tx, permit, "key.revoke", &format!("key/{id}"), None, None).await?;
    tx.commit().await?;
    let revoked = app.store().key_list().await?.into_iter().find(|key| key.id == id);
    revoked.map(views::key).ok_or(ControlError::NoKey(id))
}

async fn scope(app: &App, text: &str) -> Result<Scope, ControlError> {
    match text {
        "admin" => Ok(Scope::Admin),
        "read" => Ok(Scope::Read),
        "edge" => Ok(Scope::Edge),
        "usage" => Ok(Scope::Usage),
        _ => {
            let id = text.strip_prefix("tenant:").and_then(|id| id.parse::<TenantId>().ok());
            let id = id.ok_or_else(|| ControlError::BadScope(text.to_owned()))?;
            let tenant = app.store().tenant_get(id).await?;
            tenant.map(|tenant| Scope::Tenant(tenant.id)).ok_or_else(|| ControlError::NoTenant(id.to_string()))
        }
    }
}

fn make(name: &str, scope: Scope, created_by: &str) -> Result<(SecretString, NewKey), ControlError> {
    if name.trim().is_empty() || name.chars().count() > 80 || name.chars().any(char::is_control) {
        return Err(ControlError::BadKeyName);
    }
    let mut text = PREFIX.to_owned();
    while text.len() < PREFIX.len() + RANDOM_CHARS {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        // Values from 248 up are thrown away: `% 62` of a whole byte would favour the first eight characters.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(fair.take(PREFIX.len() + RANDOM_CHARS - text.len()));
    }
    let prefix = text[..SHOWN_CHARS].to_owned();
    let secret = SecretString::from(text);
    let key = NewKey {
        id: KeyId::new(Uuid::now_v7()),
        name: name.trim().to_owned(),
        prefix,
        digest: digest(&secret),
        scope,
        created_by: created_by.to_owned(),
    };
    Ok((secret, key))
}

fn digest(key: &SecretString) -> [u8; 32] {
    Sha256::digest(key.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::make;
    use berth_store::Scope;
    use secrecy::ExposeSecret;

    #[test]
    fn a_key_is_long_random_and_not_in_its_record() {
        let (one, record) = make("ci", Scope::Admin, "test").unwrap();
        let (two, _) = make("ci", Scope::Admin, "test").unwrap();
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(one.expose_secret().len(), 39);
        assert!(one.expose_secret().starts_with(&record.prefix));
        assert!(!format!("{record:?}").contains(one.expose_secret()));
    }

    #[test]
    fn a_key_without_a_name_is_refused() {
        for name in ["", "  ", "a\nb", &"x".repeat(81)] {
            assert!(make(name, Scope::Admin, "test").is_err(), "{name:?}");
        }
    }
}
