//! Who asks: the bearer key of a request, looked up once and remembered for a few seconds.

use crate::{Api, problem::ApiError};
use axum::extract::FromRequestParts;
use berth_control::{Caller, Scope, keys};
use http::{HeaderMap, header, request::Parts};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long a key may still open the door of another server after it was revoked at one.
const REMEMBERED: Duration = Duration::from_secs(3);
/// More callers at once than this are looked up each time: a bound on memory, not on callers.
const MOST: usize = 1024;

/// Callers of the last seconds, by the hash of their key. The key itself is kept nowhere.
#[derive(Default)]
pub struct Callers {
    known: Mutex<HashMap<[u8; 32], Known>>,
}

struct Known {
    name: String,
    scope: Scope,
    until: Instant,
}

impl Callers {
    async fn of(&self, api: &Api, key: &SecretString) -> Result<Caller, ApiError> {
        let digest: [u8; 32] = Sha256::digest(key.expose_secret().as_bytes()).into();
        let now = Instant::now();
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest)
            && known.until > now
        {
            return Ok(Caller { name: known.name.clone(), scope: known.scope, request_id: None });
        }
        let caller = keys::caller(&api.app, key, None).await?;
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, known| known.until > now);
        }
        if all.len() < MOST {
            let known = Known { name: caller.name.clone(), scope: caller.scope, until: now + REMEMBERED };
            all.insert(digest, known);
        }
        Ok(caller)
    }

    /// After a key was revoked here, it opens nothing here.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The request's id, given by the outermost layer.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Who sent the request, known by its key.
pub struct By(pub Caller);

impl Api {
    /// The caller of a request with these headers.
    pub async fn caller(&self, headers: &HeaderMap, id: Option<&RequestId>) -> Result<Caller, ApiError> {
        let key = bearer(headers).ok_or(ApiError::NoKey)?;
        let mut caller = self.callers.of(self, &key).await?;
        caller.request_id = id.map(|id| id.0.clone());
        Ok(caller)
    }

    pub fn forget_callers(&self) {
        self.callers.forget();
    }
}

fn bearer(headers: &HeaderMap) -> Option<SecretString> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = text.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !key.trim().is_empty()).then(|| SecretString::from(key.trim()))
}

impl FromRequestParts<Api> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(Self(caller.clone()));
        }
        api.caller(&parts.headers, parts.extensions.get::<RequestId>()).await.map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::bearer;
    use http::{HeaderMap, header::AUTHORIZATION};

    #[test]
    fn only_a_bearer_key_is_a_key() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).is_some()
        };
        assert!(of("Bearer bk_x"));
        assert!(of("bearer bk_x"));
        for bad in ["bk_x", "Basic bk_x", "Bearer", "Bearer  "] {
            assert!(!of(bad), "{bad}");
        }
    }
}
