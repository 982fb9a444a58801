//! Maintenance of a cell's database survives a crash at every point, and however it ends the rows are those that were there.

use crate::world::{World, change};
use async_trait::async_trait;
use berth_control::{App, maintenance, workflows};
use berth_domain::{OperationId, OperationState};
use berth_infra::Role;
use berth_wire as wire;
use berth_workflow::{Journal, Registry, testing, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Of 60,000: enough for an index of more than a megabyte, of which three quarters are air.
const ROWS_KEPT: i64 = 15_000;

/// A table most of whose rows are dead.
struct Try {
    world: Arc<World>,
    table: String,
}

impl Try {
    async fn new(world: &Arc<World>) -> Self {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        let table = format!("t{}", TRIES.fetch_add(1, Ordering::Relaxed));
        let owner = world.tenants.connect(Role::Owner).await;
        // Nobody else cleans it up meanwhile, and the counts are there at once.
        let made = format!(
            "create table {table} (id int primary key) with (autovacuum_enabled = false);
             insert into {table} select generate_series(1, 60000);
             delete from {table} where id % 4 <> 0;
             select pg_stat_force_next_flush();"
        );
        owner.batch_execute(&made).await.unwrap();
        let new = Self { world: world.clone(), table };
        assert!(new.index_bytes().await > 1 << 20);
        new
    }

    async fn index_bytes(&self) -> i64 {
        let owner = self.world.tenants.connect(Role::Owner).await;
        let asked = format!("select pg_relation_size('{}_pkey'::regclass)", self.table);
        owner.query_one(&asked, &[]).await.unwrap().get(0)
    }

    async fn vacuumed(&self) -> i64 {
        let owner = self.world.tenants.connect(Role::Owner).await;
        let asked = "select vacuum_count from pg_stat_user_tables where relname = $1";
        owner.query_one(asked, &[&self.table]).await.unwrap().get(0)
    }

    /// And the next try finds no work but its own.
    async fn assert_rows_and_drop(&self) {
        let owner = self.world.tenants.connect(Role::Owner).await;
        let asked = format!("select count(*), sum(id)::bigint from {}", self.table);
        let row = owner.query_one(&asked, &[]).await.unwrap();
        let sum = 4 * ROWS_KEPT * (ROWS_KEPT + 1) / 2;
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (ROWS_KEPT, sum));
        let asked = "select count(*), bool_and(indisvalid) from pg_index where indrelid = $1::text::regclass";
        let row = owner.query_one(asked, &[&self.table]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (1, true), "its one index");
        owner.batch_execute(&format!("drop table {}", self.table)).await.unwrap();
    }
}

#[async_trait]
impl TestWorld for Try {
    type Cx = App;

    fn journal(&self) -> Arc<dyn Journal<Tx = berth_store::Tx>> {
        Arc::new(self.world.store.clone())
    }
    fn registry(&self) -> Arc<Registry<App>> {
        Arc::new(workflows::registry())
    }
    fn cx(&self) -> Arc<App> {
        Arc::new(self.world.another())
    }
    async fn start(&self) -> OperationId {
        let ask = wire::MaintainAsk { reindex: true };
        maintenance::start(&self.world.app, &change(), "shared-1", ask).await.unwrap().id
    }
    async fn assert_done(&self) {
        assert!(self.vacuumed().await >= 1, "it was not vacuumed");
        assert!(self.index_bytes().await < 1 << 19, "its index was not built anew");
        self.assert_rows_and_drop().await;
    }
    async fn assert_as_before(&self) {
        self.assert_rows_and_drop().await;
    }
}

#[tokio::test]
async fn survives_a_crash_at_every_point() {
    let world = Arc::new(World::new().await);
    testing::survives_a_crash_at_every_point(async || Try::new(&world).await).await;
}

/// A unique index that does not fit its rows any more, as after a change of the system's collation.
#[tokio::test]
async fn what_cannot_be_built_anew_is_left_and_the_rest_is_done() {
    let world = Arc::new(World::new().await);
    let (torn, whole) = (Try::new(&world).await, Try::new(&world).await);
    let owner = world.tenants.connect(Role::Owner).await;
    // Rows that come past the index: it is told that it is not ready for them.
    let superuser = world.tenants.connect(Role::Mover).await;
    let ready =
        |is: bool| format!("update pg_index set indisready = {is} where indexrelid = '{}_pkey'::regclass", torn.table);
    superuser.batch_execute(&ready(false)).await.unwrap();
    owner.batch_execute(&format!("insert into {} values (4)", torn.table)).await.unwrap();
    superuser.batch_execute(&ready(true)).await.unwrap();
    let begun = torn.start().await;
    let ended = world.carry_out(begun).await;
    let (operation, _) = world.store.show(begun).await.unwrap().unwrap();
    assert_eq!(ended, OperationState::Succeeded, "{operation:?}");
    let said = format!("{:?}", operation.result);
    assert!(said.contains("could not create unique index"), "{said}");
    assert!(whole.index_bytes().await < 1 << 19, "the other index was not built anew");
    owner.batch_execute(&format!("delete from {} where id = 4", torn.table)).await.unwrap();
    let asked = "select count(*) from pg_index where not indisvalid";
    assert_eq!(owner.query_one(asked, &[]).await.unwrap().get::<_, i64>(0), 0, "what it left is dropped");
}

/// Asked for with indexes while one without is at work it is not taken for the same.
#[tokio::test]
async fn more_than_what_is_under_way_is_refused_by_name() {
    let world = Arc::new(World::new().await);
    let asked = async |reindex: bool| {
        let ask = wire::MaintainAsk { reindex };
        maintenance::start(&world.app, &change(), "shared-1", ask).await
    };
    let plain = asked(false).await.unwrap();
    assert_eq!(asked(false).await.unwrap().id, plain.id);
    let refused = asked(true).await.unwrap_err();
    assert_eq!(refused.code(), "cell_has_maintenance");
    assert!(refused.hint().is_some_and(|hint| hint.contains(&plain.id.to_string())), "{refused:?}");
    assert_eq!(world.carry_out(plain.id).await, OperationState::Succeeded);
    let whole = asked(true).await.unwrap();
    assert_eq!(asked(false).await.unwrap().id, whole.id, "it does that and more");
}

#[tokio::test]
async fn leaves_the_rows_alone_whichever_step_fails() {
    let world = Arc::new(World::new().await);
    testing::undoes_a_failure_of_every_step(async || Try::new(&world).await).await;
}
