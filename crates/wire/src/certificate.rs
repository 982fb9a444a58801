//! TLS certificates. The key goes in and never comes out, except to edges.

use crate::schema;
use berth_domain::{CertificateId, Hostname, OrderState, OrderTrouble, TenantName};
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
    /// It was got for this host by ACME, and is renewed; absent: somebody added it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ordered_for: Option<Hostname>,
}

/// How a host comes by its certificate, where certificates are got by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateOrder {
    #[schema(value_type = String)]
    pub host: Hostname,
    #[schema(schema_with = schema::name_or_none)]
    pub tenant: Option<TenantName>,
    #[schema(schema_with = schema::order_state)]
    pub state: OrderState,
    /// Why the last try failed.
    #[schema(schema_with = schema::order_trouble_or_none)]
    pub trouble: Option<OrderTrouble>,
    /// The same, as the authority said it.
    pub detail: Option<String>,
    /// Tries in a row that failed.
    pub failures: u32,
    /// When it is tried again, or renewed.
    #[schema(schema_with = schema::time)]
    pub next_at: Timestamp,
    /// What is served meanwhile.
    #[schema(schema_with = schema::id_or_none)]
    pub certificate: Option<CertificateId>,
}
