//! API keys. Shown whole once, when made; afterwards only their beginning.

use crate::schema;
use berth_domain::KeyId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// `POST /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyCreate {
    /// What the key is for, so that people dare to revoke it.
    #[schema(min_length = 1, max_length = 80)]
    pub name: String,
    /// `admin`, `read`, `edge`, `usage` or `tenant:ID`.
    #[schema(min_length = 1, max_length = 80)]
    pub scope: String,
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    #[schema(schema_with = schema::id)]
    pub id: KeyId,
    pub name: String,
    pub scope: String,
    /// The first characters, to recognise it by.
    pub prefix: String,
    #[schema(schema_with = schema::time)]
    pub created_at: Timestamp,
    #[schema(schema_with = schema::time_or_none)]
    pub last_used_at: Option<Timestamp>,
    #[schema(schema_with = schema::time_or_none)]
    pub revoked_at: Option<Timestamp>,
}

/// The only answer that carries a key. Not logged: its `Debug` leaves the secret out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyCreated {
    pub key: Key,
    /// `bk_…`. Only its hash is kept: whoever loses it makes a new one.
    pub secret: String,
}

impl fmt::Debug for KeyCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCreated").field("key", &self.key).finish_non_exhaustive()
    }
}
