//! A tenant with a few rows in one cell, to be moved to another: two databases of one Postgres, one control plane per
//! test process. Tries follow one another in it, each with a tenant of its own.

use crate::world::{STACK, World, change};
use async_trait::async_trait;
use berth_control::{App, moves, workflows};
use berth_domain::{MovePhase, OperationId, TenantState};
use berth_infra::{CellDatabase, Role};
use berth_mover::Ownership;
use berth_store::{MoveOutcome, Tenant, Tx};
use berth_testkit::{TestDatabase, TestPg};
use berth_workflow::{Journal, Registry, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

pub const VEHICLES: &str = "
    CREATE TABLE vehicles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), customer_id text NOT NULL REFERENCES customers ON DELETE CASCADE, label text);
    CREATE INDEX ON vehicles (customer_id)";
pub const CUSTOMERS: &str =
    "CREATE TABLE customers (id text PRIMARY KEY, name text NOT NULL, suspended boolean DEFAULT false)";

/// Cells `shared-1` and `shared-2`, each with a database of its own.
pub struct Moving {
    pub world: World,
    pub target: TestDatabase,
}

impl Moving {
    pub async fn new() -> Self {
        let (world, target) = (World::bare().await, TestDatabase::new().await);
        world.tenants.connect(Role::Owner).await.batch_execute(VEHICLES).await.unwrap();
        target.connect(Role::Owner).await.batch_execute(&format!("{CUSTOMERS};{VEHICLES}")).await.unwrap();
        let moving = Self { world, target };
        let file = STACK.replace("max_tenants: 2", "max_tenants: 90000");
        moving.world.apply(&file).await.unwrap();
        moving.world.finish().await;
        let server = TestPg::shared().await;
        let target = moving.target.name().to_owned();
        moving.cell("shared-2", CellDatabase { database: target, ..server.cell().clone() }).await;
        moving
    }

    /// One more cell, with this database.
    pub async fn cell(&self, name: &str, database: CellDatabase) {
        self.world.fake.stand_on(database);
        let new = berth_wire::CellCreate {
            name: name.parse().unwrap(),
            class: berth_domain::CellClass::Shared,
            provider: None,
            region: None,
            max_tenants: Some(90_000),
        };
        berth_control::cells::create(&self.world.app, &change(), new).await.unwrap();
        self.world.finish().await;
    }

    /// A tenant in a cell.
    pub async fn created(&self, name: &str, cell: &str) -> Tenant {
        let mut wanted = crate::world::wanted(name, "hobby");
        wanted.cell = Some(cell.parse().unwrap());
        let operation = berth_control::tenants::create(&self.world.app, &change(), wanted).await.unwrap();
        self.world.carry_out(operation.id).await;
        self.known(name).await
    }

    /// A tenant with three vehicles in `shared-1`.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let tenant = self.created(name, "shared-1").await;
        let app = self.world.tenants.connect(Role::App).await;
        let insert = "INSERT INTO vehicles (customer_id, label) SELECT $1, 'v' || n FROM generate_series(1, 3) n";
        app.execute(insert, &[&tenant.key.as_str()]).await.unwrap();
        tenant
    }

    pub async fn known(&self, name: &str) -> Tenant {
        self.world.store.tenant_by_name(&name.parse().unwrap()).await.unwrap().unwrap()
    }
}

/// One process, one control plane.
async fn shared() -> Arc<Moving> {
    static MOVING: OnceCell<Arc<Moving>> = OnceCell::const_new();
    MOVING.get_or_init(async || Arc::new(Moving::new().await)).await.clone()
}

/// One move of one tenant.
pub struct Try {
    pub moving: Arc<Moving>,
    pub tenant: Tenant,
    rows: Vec<String>,
}

impl Try {
    pub async fn new() -> Self {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        let moving = shared().await;
        let tenant = moving.tenant(&format!("t{}", TRIES.fetch_add(1, Ordering::Relaxed))).await;
        let rows = rows(&moving.world.tenants.connect(Role::Mover).await, &tenant).await;
        assert_eq!(rows.len(), 4, "{rows:?}");
        Self { moving, tenant, rows }
    }

    async fn now(&self) -> Tenant {
        self.moving.known(self.tenant.name.as_str()).await
    }

    /// The tenant lives in `home` and nowhere else, and nothing of the move is left. `generation`: what both say.
    async fn lives(&self, home: &TestDatabase, other: &TestDatabase, cell: &str, generation: u64) {
        let tenant = self.now().await;
        assert_eq!((tenant.state, tenant.cell_name.as_str()), (TenantState::Active, cell));
        assert_eq!((tenant.generation.get(), tenant.phase), (generation, MovePhase::Idle));
        let row = self.moving.world.store.ownership(tenant.id).read().await.unwrap();
        assert_eq!((row.owner, row.holding, row.target), (tenant.cell, false, None));
        let client = home.connect(Role::Mover).await;
        assert_eq!(rows(&client, &tenant).await, self.rows, "rows in {cell}");
        let app = home.connect(Role::App).await;
        assert_eq!(write(&app, &tenant).await, Ok(1), "its cell takes its writes");
        for database in [home, other] {
            let client = database.connect(Role::Mover).await;
            let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
                             + (SELECT count(*) FROM pg_publication)";
            assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "slots and publications");
        }
    }
}

/// A tenant's rows in a database, as text.
pub async fn rows(client: &Client, tenant: &Tenant) -> Vec<String> {
    let all = "SELECT 'customer ' || c::text FROM customers c WHERE id = $1
               UNION ALL SELECT 'vehicle ' || v::text FROM vehicles v WHERE customer_id = $1 ORDER BY 1";
    client.query(all, &[&tenant.key.as_str()]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Writes as the application would, past any edge, and takes it back. The refusal's code if there is one.
pub async fn write(app: &Client, tenant: &Tenant) -> Result<u64, String> {
    app.batch_execute("BEGIN").await.unwrap();
    let insert = "INSERT INTO vehicles (customer_id, label) VALUES ($1, 'late')";
    let written = app.execute(insert, &[&tenant.key.as_str()]).await;
    app.batch_execute("ROLLBACK").await.unwrap();
    written.map_err(|error| error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
}

#[async_trait]
impl TestWorld for Try {
    type Cx = App;

    fn journal(&self) -> Arc<dyn Journal<Tx = Tx>> {
        Arc::new(self.moving.world.store.clone())
    }
    fn registry(&self) -> Arc<Registry<App>> {
        Arc::new(workflows::registry())
    }
    fn cx(&self) -> Arc<App> {
        Arc::new(self.moving.world.another())
    }

    async fn start(&self) -> OperationId {
        let to = "shared-2".parse().unwrap();
        let started = moves::start(&self.moving.world.app, &change(), self.tenant.name.as_str(), Some(&to)).await;
        started.unwrap().id
    }

    async fn assert_done(&self) {
        let (source, target) = (&self.moving.world.tenants, &self.moving.target);
        self.lives(target, source, "shared-2", 2).await;
        let app = source.connect(Role::App).await;
        assert_eq!(write(&app, &self.tenant).await, Err("BF001".to_owned()), "the old cell refuses");
        let recorded = self.moving.world.store.move_list(Some(self.tenant.id), 10).await.unwrap();
        assert_eq!(recorded.iter().map(|m| m.outcome).collect::<Vec<_>>(), [Some(MoveOutcome::Moved)]);
    }

    async fn assert_as_before(&self) {
        let (source, target) = (&self.moving.world.tenants, &self.moving.target);
        self.lives(source, target, "shared-1", 1).await;
        let client = target.connect(Role::Mover).await;
        assert!(rows(&client, &self.tenant).await.is_empty(), "the target is empty");
        let recorded = self.moving.world.store.move_list(Some(self.tenant.id), 10).await.unwrap();
        assert_eq!(recorded.iter().map(|m| m.outcome).collect::<Vec<_>>(), [Some(MoveOutcome::GivenUp)]);
        for database in [source, target] {
            let client = database.connect(Role::Mover).await;
            let fenced = "SELECT to_regclass('berth.fence') IS NOT NULL";
            if !client.query_one(fenced, &[]).await.unwrap().get::<_, bool>(0) {
                continue;
            }
            let left =
                "SELECT count(*) FROM pg_trigger t JOIN berth.fence f ON t.tgname LIKE 'berth\\_' || f.number || '\\_%'
                        WHERE f.tenant = $1";
            let left: i64 = client.query_one(left, &[&self.tenant.key.as_str()]).await.unwrap().get(0);
            assert_eq!(left, 0, "triggers of the fence");
        }
    }

    /// The owner changes in it.
    fn cannot_be_undone(step: &str) -> bool {
        step == "cut_over"
    }
}
