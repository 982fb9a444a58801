//! Idempotency keys: a request sent twice under one key is carried out once and answered alike for a day.

use crate::{Store, StoreError};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub enum Idempotency {
    /// Nobody has used the key: go ahead, then call `idempotency_finish`.
    Fresh,
    /// The same request is being carried out now.
    UnderWay,
    /// It was answered with this.
    Answered { status: u16, body: Value },
    /// The key belongs to another request.
    OtherRequest,
}

impl Store {
    pub async fn idempotency_begin(
        &self,
        caller: &str,
        key: &str,
        request_hash: &[u8],
    ) -> Result<Idempotency, StoreError> {
        // A first request that is still without an answer after five minutes died with its server; the
        // operation it may have started has an id of its own and is found by its name.
        sqlx::query!(
            "DELETE FROM idempotency_keys WHERE created_at < now() - interval '24 hours'
                OR (status IS NULL AND created_at < now() - interval '5 minutes')"
        )
        .execute(&self.pool)
        .await?;
        let fresh = sqlx::query!(
            "INSERT INTO idempotency_keys (caller, key, request_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            caller,
            key,
            request_hash
        )
        .execute(&self.pool)
        .await?;
        if fresh.rows_affected() > 0 {
            return Ok(Idempotency::Fresh);
        }
        let Some(row) = sqlx::query!(
            "SELECT request_hash, status, body FROM idempotency_keys WHERE caller = $1 AND key = $2",
            caller,
            key
        )
        .fetch_optional(&self.pool)
        .await?
        else {
            return Ok(Idempotency::UnderWay); // given up between the two statements: the caller tries again
        };
        Ok(match (row.status, row.body) {
            _ if row.request_hash != request_hash => Idempotency::OtherRequest,
            (Some(status), body) => Idempotency::Answered {
                status: u16::try_from(status).unwrap_or(500),
                body: body.unwrap_or(Value::Null),
            },
            (None, _) => Idempotency::UnderWay,
        })
    }

    /// Keeps the answer. Without one (our own fault, worth another try) the key is free again.
    pub async fn idempotency_finish(
        &self,
        caller: &str,
        key: &str,
        answer: Option<(u16, &Value)>,
    ) -> Result<(), StoreError> {
        match answer {
            Some((status, body)) => {
                sqlx::query!(
                    "UPDATE idempotency_keys SET status = $3, body = $4 WHERE caller = $1 AND key = $2",
                    caller,
                    key,
                    i32::from(status),
                    body
                )
                .execute(&self.pool)
                .await?
            }
            None => {
                sqlx::query!(
                    "DELETE FROM idempotency_keys WHERE caller = $1 AND key = $2 AND status IS NULL",
                    caller,
                    key
                )
                .execute(&self.pool)
                .await?
            }
        };
        Ok(())
    }
}
