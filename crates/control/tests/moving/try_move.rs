//! A tenant with a few rows in one cell, to be moved to another: two databases of one Postgres, one control plane per
//! test process. Tries follow one another in it, each with a tenant of its own.

use crate::world::{STACK, World, change};
use async_trait::async_trait;
use berth_control::{App, moves, ways_back, workflows};
use berth_domain::{MovePhase, OperationId, OperationState, TenantState, WayBackState};
use berth_infra::{CellDatabase, Role};
use berth_mover::Ownership;
use berth_store::{Move, MoveOutcome, Tenant, Tx};
use berth_testkit::{TestDatabase, TestPg};
use berth_workflow::{Journal, Registry, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

pub const VEHICLES: &str = "
    CREATE TABLE vehicles (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), customer_id text NOT NULL REFERENCES customers ON DELETE CASCADE, label text,
                           made_at timestamptz NOT NULL DEFAULT now());
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

    /// In a control plane that nobody else has moves in.
    pub async fn alone() -> Self {
        let moving = Arc::new(Moving::new().await);
        let tenant = moving.tenant("alone").await;
        let rows = rows(&moving.world.tenants.connect(Role::Mover).await, &tenant).await;
        Self { moving, tenant, rows }
    }

    async fn now(&self) -> Tenant {
        self.moving.known(self.tenant.name.as_str()).await
    }

    /// The tenant lives in `home` and nowhere else, and nothing of the move is left but what to go back by.
    /// `generation`: what both say.
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
        let moves = self.moves().await;
        let open = |m: &Move| m.way_back.as_ref().is_some_and(|way| way.state == WayBackState::Open);
        let ways_back: Vec<String> = moves.iter().filter(|m| open(m)).map(|m| format!("{}_back", slot(m))).collect();
        assert_eq!(self.slots(home).await, ways_back, "what there is to go back by");
        assert_eq!(self.slots(other).await, Vec::<String>::new());
    }

    async fn moves(&self) -> Vec<Move> {
        self.moving.world.store.move_list(Some(self.tenant.id), 10).await.unwrap()
    }

    async fn way_back_is_open(&self) -> bool {
        self.moves().await.iter().any(|m| m.way_back.as_ref().is_some_and(|way| way.state == WayBackState::Open))
    }

    /// The slots of this tenant's moves in a database; each has a publication of its name.
    async fn slots(&self, database: &TestDatabase) -> Vec<String> {
        let names: Vec<String> = self.moves().await.iter().map(slot).collect();
        let client = database.connect(Role::Mover).await;
        let sql = "SELECT coalesce(slot_name, pubname)::text, slot_name = pubname
                   FROM (SELECT slot_name FROM pg_replication_slots WHERE database = current_database()) s
                   FULL JOIN pg_publication p ON pubname = slot_name";
        let all = client.query(sql, &[]).await.unwrap();
        let ours = all.iter().filter(|row| names.iter().any(|name| row.get::<_, String>(0).starts_with(name)));
        ours.map(|row| {
            assert_eq!(
                row.get::<_, Option<bool>>(1),
                Some(true),
                "a slot without a publication, or the other way round"
            );
            row.get(0)
        })
        .collect()
    }

    /// The move stays, if that is not settled yet: nothing is left in the old cell, of the tenant or of its way back.
    async fn settle(&self, old: &TestDatabase) {
        let app = &self.moving.world.app;
        if self.way_back_is_open().await {
            ways_back::settle(app, &change(), self.tenant.name.as_str()).await.unwrap();
        }
        ways_back::clear_settled(app, &change()).await.unwrap();
        assert!(rows(&old.connect(Role::Mover).await, &self.tenant).await.is_empty(), "rows that were left behind");
        let again = ways_back::undo(app, &change(), self.tenant.name.as_str()).await.unwrap_err();
        assert_eq!(again.code(), "no_way_back");
        for database in [&self.moving.world.tenants, &self.moving.target] {
            assert_eq!(self.slots(database).await, Vec::<String>::new());
        }
        self.is_unfenced().await;
    }

    /// No trigger looks at the tenant's writes, and only where it lives is there a row for it: others may be moving there.
    async fn is_unfenced(&self) {
        for database in [&self.moving.world.tenants, &self.moving.target] {
            let client = database.connect(Role::Mover).await;
            let fenced = "SELECT to_regclass('berth.fence') IS NOT NULL";
            if client.query_one(fenced, &[]).await.unwrap().get::<_, bool>(0) {
                let closed = "SELECT count(*) FROM berth.fence WHERE tenant = $1 AND state <> 'open'";
                let closed: i64 = client.query_one(closed, &[&self.tenant.key.as_str()]).await.unwrap().get(0);
                assert_eq!(closed, 0, "a fence where the tenant does not live");
            }
            let triggers =
                "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'berth\\_%' AND pg_get_triggerdef(oid) LIKE $1";
            let left: i64 = client.query_one(triggers, &[&format!("%{}%", self.tenant.key)]).await.unwrap().get(0);
            assert_eq!(left, 0, "triggers of the fence");
        }
    }
}

/// What a move calls its slot and its publication; those of its way back end in `_back`.
fn slot(a_move: &Move) -> String {
    format!("berth_{}", &a_move.id.uuid().simple().to_string()[12..])
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
        // By the fence; when the rows are gone, because there is nothing of the tenant to write to.
        let refused = write(&app, &self.tenant).await.unwrap_err();
        assert_eq!(refused, if self.way_back_is_open().await { "BF001" } else { "23503" }, "the old cell refuses");
        let recorded = self.moving.world.store.move_list(Some(self.tenant.id), 10).await.unwrap();
        assert_eq!(recorded.iter().map(|m| m.outcome).collect::<Vec<_>>(), [Some(MoveOutcome::Moved)]);
        self.settle(source).await;
    }

    async fn assert_as_before(&self) {
        let (source, target) = (&self.moving.world.tenants, &self.moving.target);
        self.lives(source, target, "shared-1", 1).await;
        let client = target.connect(Role::Mover).await;
        assert!(rows(&client, &self.tenant).await.is_empty(), "the target is empty");
        let recorded = self.moving.world.store.move_list(Some(self.tenant.id), 10).await.unwrap();
        assert_eq!(recorded.iter().map(|m| m.outcome).collect::<Vec<_>>(), [Some(MoveOutcome::GivenUp)]);
        self.is_unfenced().await;
    }

    /// The owner changes in it.
    fn cannot_be_undone(step: &str) -> bool {
        step == "cut_over"
    }
}

/// The undo of one move of one tenant, after which it has been written.
pub struct TryUndo(Try);

impl TryUndo {
    pub async fn new() -> Self {
        let mut moved = Try::new().await;
        let id = moved.start().await;
        assert_eq!(moved.moving.world.carry_out(id).await, OperationState::Succeeded, "the move that is undone");
        let target = moved.moving.target.connect(Role::App).await;
        let changes = "INSERT INTO vehicles (customer_id, label) VALUES ('KEY', 'new');
             UPDATE vehicles SET label = 'w2' WHERE customer_id = 'KEY' AND label = 'v2';
             DELETE FROM vehicles WHERE customer_id = 'KEY' AND label = 'v1'";
        target.batch_execute(&changes.replace("KEY", moved.tenant.key.as_str())).await.unwrap();
        moved.rows = rows(&moved.moving.target.connect(Role::Mover).await, &moved.tenant).await;
        Self(moved)
    }
}

#[async_trait]
impl TestWorld for TryUndo {
    type Cx = App;

    fn journal(&self) -> Arc<dyn Journal<Tx = Tx>> {
        self.0.journal()
    }
    fn registry(&self) -> Arc<Registry<App>> {
        self.0.registry()
    }
    fn cx(&self) -> Arc<App> {
        self.0.cx()
    }

    async fn start(&self) -> OperationId {
        ways_back::undo(&self.0.moving.world.app, &change(), self.0.tenant.name.as_str()).await.unwrap().id
    }

    async fn assert_done(&self) {
        let (old, new) = (&self.0.moving.world.tenants, &self.0.moving.target);
        self.0.lives(old, new, "shared-1", 3).await;
        assert!(rows(&new.connect(Role::Mover).await, &self.0.tenant).await.is_empty(), "the cell it has left again");
        let recorded = self.0.moving.world.store.move_list(Some(self.0.tenant.id), 10).await.unwrap();
        assert_eq!(recorded.iter().map(|m| m.kind.as_str()).collect::<Vec<_>>(), ["undo", "across"]);
        let way = recorded[1].way_back.as_ref().unwrap();
        assert_eq!(way.state, WayBackState::Undone);
        self.0.is_unfenced().await;
    }

    async fn assert_as_before(&self) {
        let (old, new) = (&self.0.moving.world.tenants, &self.0.moving.target);
        self.0.lives(new, old, "shared-2", 2).await;
        let refused = write(&old.connect(Role::App).await, &self.0.tenant).await;
        assert_eq!(refused, Err("BF001".to_owned()), "the old cell refuses");
        self.0.settle(old).await;
    }

    /// The owner changes in it.
    fn cannot_be_undone(step: &str) -> bool {
        step == "cut_over"
    }
}
