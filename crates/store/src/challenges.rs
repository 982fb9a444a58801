//! What edges answer so that others believe a host is ours: pages below `/.well-known/`, and handshakes.
//!
//! The list follows from claims and orders; its version rises with every change of either, under a row lock like that
//! of revisions. Never decides who may prove what.

use crate::{Store, StoreError, Tx, hub};
use berth_domain::EdgeName;
use serde::{Deserialize, Serialize};

/// What an edge answers for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A page.
    Http { path: String, body: String },
    /// A certificate, in a handshake that asks for `acme-tls/1`.
    Tls { chain_pem: String, key_pem: String },
}

/// All answers there are.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub version: u64,
    /// For the authority, by host.
    pub ordered: Vec<(String, Answer)>,
    /// Host and token of claims that a page may prove: nobody else has or claims the host.
    pub claimed: Vec<(String, String)>,
}

impl Store {
    pub async fn challenge_answers(&self) -> Result<Answers, StoreError> {
        // One statement, so one snapshot.
        let row = sqlx::query!(
            r#"SELECT version,
                      (SELECT coalesce(jsonb_agg(jsonb_build_array(host, answer) ORDER BY host), '[]')
                       FROM certificate_orders WHERE answer IS NOT NULL) AS "ordered!",
                      (SELECT coalesce(jsonb_agg(jsonb_build_array(c.host, c.token) ORDER BY c.host), '[]')
                       FROM host_claims c WHERE c.way IS NULL AND c.host !~ '[*/]'
                         AND NOT EXISTS (SELECT FROM hosts o WHERE o.host = c.host AND o.tenant_id <> c.tenant_id)
                         AND NOT EXISTS (SELECT FROM host_claims o WHERE o.host = c.host AND o.tenant_id <> c.tenant_id)
                      ) AS "claimed!"
               FROM challenge_head"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Answers {
            version: row.version.cast_unsigned(),
            ordered: serde_json::from_value(row.ordered)?,
            claimed: serde_json::from_value(row.claimed)?,
        })
    }

    /// Edges that were heard of within `silent_ms` and have not this version in force.
    pub async fn challenge_late(&self, version: u64, silent_ms: i64) -> Result<Vec<EdgeName>, StoreError> {
        let names = sqlx::query_scalar!(
            "SELECT name FROM edges WHERE challenges < $1 AND last_seen > now() - $2 * interval '1 millisecond'
             ORDER BY name",
            version.cast_signed(),
            silent_ms as f64
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(names.into_iter().map(EdgeName::new).collect::<Result<_, _>>()?)
    }
}

impl Tx {
    /// Makes edges hear of what this transaction changed, once it commits: one of its last statements.
    pub async fn challenges_publish(&mut self) -> Result<u64, StoreError> {
        let row = sqlx::query!(
            r#"WITH head AS (UPDATE challenge_head SET version = version + 1 RETURNING version)
               SELECT version AS "version!", pg_notify($1, '')::text AS told FROM head"#,
            hub::CHALLENGES
        )
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(row.version.cast_unsigned())
    }
}
