//! A request that is sent twice under one key is carried out once. `api` asks before and reports after; what makes
//! two requests the same is its business.

use crate::{App, Caller, ControlError};
use berth_store::Idempotency;
use serde_json::Value;

/// What to do with a request that carries a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Once {
    /// Carry it out, then call [`finish`].
    Go,
    /// It was carried out, with this answer.
    Answered { status: u16, body: Value },
}

pub async fn begin(app: &App, caller: &Caller, key: &str, request_hash: &[u8]) -> Result<Once, ControlError> {
    match app.store().idempotency_begin(&who(caller), key, request_hash).await? {
        Idempotency::Fresh => Ok(Once::Go),
        Idempotency::UnderWay => Err(ControlError::StillUnderWay),
        Idempotency::OtherRequest => Err(ControlError::KeyReused),
        Idempotency::Answered { status, body } => Ok(Once::Answered { status, body }),
    }
}

/// `answer: None` when we could not carry it out: the next try is a first one again.
pub async fn finish(app: &App, caller: &Caller, key: &str, answer: Option<(u16, &Value)>) -> Result<(), ControlError> {
    Ok(app.store().idempotency_finish(&who(caller), key, answer).await?)
}

/// Two callers may use the same key for different things.
fn who(caller: &Caller) -> String {
    format!("{} {}", caller.scope, caller.name)
}
