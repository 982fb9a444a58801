//! TLS certificates. The key goes in and never comes out, except to edges.

use crate::schema;
use berth_domain::CertificateId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// `POST /v1/certificates`. Not logged: its `Debug` leaves the key out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateAdd {
    /// The certificate, then those that lead to a known authority, in PEM.
    #[schema(max_length = 200_000)]
    pub chain_pem: String,
    /// Its private key in PEM. Kept sealed, and never shown again.
    #[schema(max_length = 20_000)]
    pub key_pem: String,
}

impl fmt::Debug for CertificateAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAdd").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// A certificate, without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    #[schema(schema_with = schema::id)]
    pub id: CertificateId,
    /// Host names, `*.example.com` for any one below.
    pub names: Vec<String>,
    pub issuer: String,
    #[schema(schema_with = schema::time)]
    pub not_before: Timestamp,
    #[schema(schema_with = schema::time)]
    pub not_after: Timestamp,
    #[schema(schema_with = schema::time)]
    pub added_at: Timestamp,
}
