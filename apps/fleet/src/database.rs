//! The pool, and the one shape in which this application talks to its database.
//!
//! Nothing is read or written outside a transaction that has named its tenant first.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{NoTls, Row, types::ToSql};
use uuid::Uuid;

use crate::{config::Settings, problem::Problem, tenant::Tenant};

/// How long making a connection may take.
const CREATE: Duration = Duration::from_secs(3);

const BIND_TENANT: &str = "select set_config('app.current_customer_id', $1, true)";
/// The lock is waited for in a statement before the one that counts, or that one would look at what was there before the
/// wait. It ends with the transaction. Only other copies of this program are waited for here; within one there are turns.
const BIND_TENANT_ALONE: &str =
    "select set_config('app.current_customer_id', $1, true), pg_advisory_xact_lock(hashtextextended($1, 0))";

#[derive(Clone)]
pub struct Database {
    pool: Pool,
    /// Of tenants that run alone. Whoever waits for its turn holds no connection, so a tenant has one at a time for such
    /// statements, and its neighbours the others.
    turns: Arc<Turns>,
    wait: Duration,
}

/// One for each tenant that somebody is at or waits for.
#[derive(Default)]
struct Turns(std::sync::Mutex<HashMap<Uuid, Weak<Mutex<()>>>>);

impl Turns {
    fn of(&self, tenant: Tenant) -> Arc<Mutex<()>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = known.get(&tenant.0).and_then(Weak::upgrade) {
            return turn;
        }
        known.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        known.insert(tenant.0, Arc::downgrade(&turn));
        turn
    }
}

impl Database {
    /// Connects when the first request needs it: a database that is not up yet is the health check's business.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let manager = Manager::from_config(
            settings.database.clone(),
            NoTls,
            // Fast: a connection is checked by using it. Its session state is clean, since all we set is local
            // to a transaction.
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.pool_wait))
            .create_timeout(Some(CREATE))
            .build()?;
        Ok(Self { pool, turns: Arc::default(), wait: settings.pool_wait })
    }

    /// Runs one statement as the tenant in a transaction of its own, and returns after its commit.
    ///
    /// The four messages go out together and cost one round trip. They are all handed to the connection the first
    /// time this future is polled, so a caller that goes away afterwards leaves no open transaction behind. Should
    /// one of them fail, the server turns our `commit` into a rollback, and that failure is what is returned.
    pub async fn as_tenant(
        &self,
        tenant: Tenant,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Problem> {
        self.bound(BIND_TENANT, tenant, statement, parameters).await
    }

    /// The same, and no two such statements of one tenant at a time, whichever copies of this program ask: each sees what
    /// the one before it has committed. For what has to count before it writes.
    pub async fn as_tenant_alone(
        &self,
        tenant: Tenant,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Problem> {
        let turn = self.turns.of(tenant);
        let _turn = timeout(self.wait, turn.lock()).await.map_err(|_| Problem::Busy)?;
        self.bound(BIND_TENANT_ALONE, tenant, statement, parameters).await
    }

    async fn bound(
        &self,
        bind: &str,
        tenant: Tenant,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Problem> {
        let client = self.pool.get().await?;
        let bind_tenant = client.prepare_cached(bind).await?;
        let statement = client.prepare_cached(statement).await?;
        let key = tenant.0.to_string();
        let bound_to: [&(dyn ToSql + Sync); 1] = [&key];
        let (begun, bound, rows, committed) = tokio::join!(
            biased;
            client.batch_execute("begin"),
            client.execute(&bind_tenant, &bound_to),
            client.query(&statement, parameters),
            client.batch_execute("commit"),
        );
        begun?;
        bound?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }

    /// Turns "nothing found" into "no such tenant" where that is the reason. Asked only when an answer is empty,
    /// so that the common request stays at one round trip.
    pub async fn must_know(&self, tenant: Tenant) -> Result<(), Problem> {
        let found = self.as_tenant(tenant, "select 1 from customers", &[]).await?;
        if found.is_empty() { Err(Problem::UnknownTenant) } else { Ok(()) }
    }

    /// The same for a write that the database refused: a foreign key to a tenant that is not here says only that
    /// something is missing.
    pub async fn explain(&self, tenant: Tenant, refused: Problem) -> Problem {
        match refused {
            Problem::Invalid(_) => self.must_know(tenant).await.err().unwrap_or(refused),
            other => other,
        }
    }

    /// Proves that the database answers.
    pub async fn ping(&self) -> Result<(), Problem> {
        let client: Object = self.pool.get().await?;
        client.batch_execute("select 1").await?;
        Ok(())
    }

    pub fn close(&self) {
        self.pool.close();
    }
}
