//! Where each vehicle was last, in the cell's Redis where there is one (`REDIS_URL`).
//!
//! A convenience and never the truth: what is here was committed before, what is not here is read from the database, and a
//! Redis that does not answer delays nobody. Keys begin with `t:TENANT:`, as the stack file's `data.redis` says. As many
//! connections as `REDIS_POOL_SIZE` says, and no more.

use redis::{Client, ErrorKind, RedisError, RedisResult, Script, aio::MultiplexedConnection};
use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

/// For waiting, connecting and asking together.
const PATIENCE: Duration = Duration::from_millis(500);
const DAY_S: u32 = 86_400;
/// Batches come late and out of order: an older place replaces no newer one. The value begins with its time.
static NEWER_ONLY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local old = redis.call('GET', KEYS[1])
         if old and tonumber(string.match(old, '^%-?%d+')) > tonumber(ARGV[1]) then return 0 end
         redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'EX', ARGV[3])
         return 1",
    )
});

#[derive(Clone)]
pub struct Redis(Option<Arc<Pool>>);

struct Pool {
    client: Client,
    free: Semaphore,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

impl Redis {
    pub fn new(client: Option<Client>, size: usize) -> Self {
        let pool = |client| Arc::new(Pool { client, free: Semaphore::new(size), idle: Mutex::new(Vec::new()) });
        Self(client.map(pool))
    }

    /// Keeps where a vehicle was at that millisecond, if nothing newer is known, without making anybody wait for it.
    pub fn remember(&self, tenant: Uuid, vehicle: Uuid, at_ms: i64, position: String) {
        let Some(pool) = self.0.clone() else { return };
        drop(tokio::spawn(async move {
            let kept = pool.with(async |connection: &mut MultiplexedConnection| {
                let mut asked = NEWER_ONLY.key(key(tenant, vehicle));
                asked.arg(at_ms).arg(position).arg(DAY_S).invoke_async::<i64>(connection).await
            });
            if !matches!(timeout(PATIENCE, kept).await, Ok(Ok(_))) {
                tracing::debug!("where a vehicle was last is not in Redis");
            }
        }));
    }

    pub async fn last(&self, tenant: Uuid, vehicle: Uuid) -> Option<String> {
        let pool = self.0.as_ref()?;
        let known = pool.with(async |connection: &mut MultiplexedConnection| {
            redis::cmd("GET").arg(key(tenant, vehicle)).query_async::<Option<String>>(connection).await
        });
        let value = timeout(PATIENCE, known).await.ok()?.ok()??;
        value.split_once(' ').map(|(_, position)| position.to_owned())
    }
}

fn key(tenant: Uuid, vehicle: Uuid) -> String {
    format!("t:{tenant}:last:{vehicle}")
}

impl Pool {
    /// Each connection is asked one thing at a time. One that failed, or that nobody waited for, is not used again.
    async fn with<T>(&self, ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>) -> RedisResult<T> {
        let closed = |_| RedisError::from((ErrorKind::Client, "the pool is closed"));
        let _permit = self.free.acquire().await.map_err(closed)?;
        let known = self.idle().pop();
        let mut connection = match known {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await?,
        };
        let answer = ask(&mut connection).await?;
        self.idle().push(connection);
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<MultiplexedConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
