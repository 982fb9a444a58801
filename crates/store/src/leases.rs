//! Leases: who does the work that one server at a time should do. For reconcilers, whose work may overlap for an
//! instant without harm; what must never overlap is fenced by the journal's epochs and the mover's tokens instead.

use crate::{Store, StoreError};
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Raised by every new holder.
    pub token: i64,
}

impl Store {
    /// Takes or renews the lease; `None` while another holder's is valid.
    pub async fn lease_take(&self, name: &str, holder: Uuid, time: Duration) -> Result<Option<Lease>, StoreError> {
        let token = sqlx::query_scalar!(
            "INSERT INTO leases (name, holder, token, until) VALUES ($1, $2, 1, now() + make_interval(secs => $3))
             ON CONFLICT (name) DO UPDATE SET until = excluded.until, holder = excluded.holder,
                 token = leases.token + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END
             WHERE leases.holder = excluded.holder OR leases.until < now()
             RETURNING token",
            name,
            holder,
            time.as_secs_f64()
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(token.map(|token| Lease { token }))
    }

    /// Ends the leases on operations that a dead server held, whose workers' names begin with `server`. Only for who
    /// knows that it is dead: what it still sends is refused by the epoch, but two would do one step's work.
    pub async fn operations_let_go(&self, server: &str) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE operations SET worker = NULL, lease_until = NULL
             WHERE starts_with(worker, $1) AND lease_until > clock_timestamp()",
            server
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Lets go of it at once, for an orderly stop.
    pub async fn lease_release(&self, name: &str, holder: Uuid) -> Result<(), StoreError> {
        sqlx::query!("UPDATE leases SET until = now() WHERE name = $1 AND holder = $2", name, holder)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
