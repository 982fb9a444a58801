//! Every workflow survives a crash at every point, and undoing it leaves the world as it was: nothing lost at the
//! provider, and nothing made twice.

use crate::world::{World, change, wanted};
use async_trait::async_trait;
use berth_control::{App, cells, moves, operations, tenants, workflows};
use berth_domain::{CellClass, OperationId, OperationState};
use berth_wire as wire;
use berth_workflow::{Journal, Registry, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::OnceCell;

/// One control plane per test process: hundreds of tries follow one another in it, each under names of its own.
async fn shared() -> Arc<World> {
    static WORLD: OnceCell<Arc<World>> = OnceCell::const_new();
    let make = async || {
        let world = World::bare().await;
        world.apply(&crate::world::STACK.replace("max_tenants: 2", "max_tenants: 90000")).await.unwrap();
        world.finish().await;
        Arc::new(world)
    };
    WORLD.get_or_init(make).await.clone()
}

fn next() -> String {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    format!("w{}", TRIES.fetch_add(1, Ordering::Relaxed))
}

struct Try {
    world: Arc<World>,
    name: String,
    what: What,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    CreateCell,
    CreateTenant,
    CreateTenantWithCell,
    DeleteTenant,
}

impl Try {
    async fn new(what: What) -> Self {
        let world = shared().await;
        let name = next();
        if what == What::DeleteTenant {
            world.create(&name, "hobby").await;
        }
        Self { world, name, what }
    }

    /// How often the provider really made this.
    fn made(&self, thing: &str) -> usize {
        self.world.fake.made().iter().filter(|made| **made == thing).count()
    }

    async fn cell_is_there(&self, cell: &str, there: bool) {
        let provider = self.world.fake.provider();
        let databases = provider.database.unwrap().list_databases().await.unwrap();
        let members = provider.compute.unwrap().list_members().await.unwrap();
        let found = databases.iter().filter(|d| d.name.as_str() == cell).count();
        assert_eq!(found, usize::from(there), "databases of cell {cell}");
        let copies = members.iter().filter(|m| m.cell.as_str() == cell).count();
        assert_eq!(copies, if there { 2 } else { 0 }, "members of cell {cell}");
        if there {
            assert_eq!(self.made(&format!("database {cell}")), 1, "the database was made twice");
            assert_eq!(self.made(&format!("member {cell}.web.0")), 1, "a member was made twice");
        }
        let known = self.world.store.cell_by_name(&cell.parse().unwrap()).await.unwrap();
        assert_eq!(known.map(|cell| cell.state.to_string()), there.then(|| "ready".to_owned()));
    }

    async fn tenant_is_there(&self, there: bool) {
        let known = self.world.store.tenant_by_name(&self.name.parse().unwrap()).await.unwrap();
        assert_eq!(known.as_ref().map(|t| t.state.to_string()), there.then(|| "active".to_owned()));
        let suffix = format!(" {}", self.name);
        let rows = self.world.root_rows().await.iter().filter(|row| row.ends_with(&suffix)).count();
        assert_eq!(rows, usize::from(there), "root rows of {}", self.name);
        let host: berth_domain::Hostname = format!("{}.test", self.name).parse().unwrap();
        let nobody = berth_domain::TenantId::new(uuid::Uuid::nil());
        let taken = self.world.store.begin().await.unwrap().hosts_near(&[host.into()], nobody).await.unwrap();
        assert_eq!(taken.len(), usize::from(there), "its host is taken exactly while it is there");
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
        let app = &self.world.app;
        let started = match self.what {
            What::CreateCell => {
                let new = wire::CellCreate {
                    name: self.name.parse().unwrap(),
                    class: CellClass::Shared,
                    provider: None,
                    region: None,
                    // Full from the start for the tenants of other tries: these go to the first cell.
                    max_tenants: Some(1),
                };
                cells::create(app, &change(), new).await
            }
            What::CreateTenant => tenants::create(app, &change(), wanted(&self.name, "hobby")).await,
            What::CreateTenantWithCell => tenants::create(app, &change(), wanted(&self.name, "business")).await,
            What::DeleteTenant => tenants::delete(app, &change(), &self.name).await,
        };
        started.unwrap().id
    }

    async fn assert_done(&self) {
        match self.what {
            What::CreateCell => self.cell_is_there(&self.name, true).await,
            What::CreateTenant => self.tenant_is_there(true).await,
            What::CreateTenantWithCell => {
                self.cell_is_there(&format!("{}-1", self.name), true).await;
                self.tenant_is_there(true).await;
            }
            What::DeleteTenant => self.tenant_is_there(false).await,
        }
    }

    async fn assert_as_before(&self) {
        match self.what {
            What::CreateCell => self.cell_is_there(&self.name, false).await,
            What::CreateTenant => self.tenant_is_there(false).await,
            What::CreateTenantWithCell => {
                self.cell_is_there(&format!("{}-1", self.name), false).await;
                self.tenant_is_there(false).await;
            }
            What::DeleteTenant => self.tenant_is_there(true).await,
        }
    }
}

berth_workflow::crash_tests!(create_cell, async || Try::new(What::CreateCell).await);
berth_workflow::crash_tests!(create_tenant, async || Try::new(What::CreateTenant).await);

/// The way back with crashes on it is that of the two above, one after the other; not tried again in all pairs.
mod create_tenant_with_its_cell {
    use super::{Try, What};
    use berth_workflow::testing;

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        testing::survives_a_crash_at_every_point(async || Try::new(What::CreateTenantWithCell).await).await;
    }
    #[tokio::test]
    async fn undoes_a_failure_of_every_step() {
        testing::undoes_a_failure_of_every_step(async || Try::new(What::CreateTenantWithCell).await).await;
    }
}

/// Past its point of no return from the start: there is no way back to test.
mod delete_tenant {
    use super::{Try, What};
    use berth_workflow::testing;

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        testing::survives_a_crash_at_every_point(async || Try::new(What::DeleteTenant).await).await;
    }
}

#[tokio::test]
async fn what_is_given_up_before_it_ran_leaves_nothing_reserved() {
    for what in [What::CreateCell, What::CreateTenant, What::CreateTenantWithCell] {
        let attempt = Try::new(what).await;
        let id = attempt.start().await;
        operations::abandon(&attempt.world.app, &change(), id, None, false).await.unwrap();
        assert_eq!(attempt.world.carry_out(id).await, OperationState::Abandoned);
        attempt.assert_as_before().await;
    }
}

#[tokio::test]
async fn a_move_that_is_given_up_before_it_ran_leaves_the_tenant_as_it_was() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    tenants::set_plan(&world.app, &change(), "acme", &"business".parse().unwrap(), None).await.unwrap();
    let before = world.tenant("acme").await;
    let operation = moves::start(&world.app, &change(), "acme", None).await.unwrap();
    operations::abandon(&world.app, &change(), operation.id, Some("changed my mind"), false).await.unwrap();
    assert_eq!(world.carry_out(operation.id).await, OperationState::Abandoned);
    let after = world.tenant("acme").await;
    assert_eq!((after.state, after.cell, after.generation), (before.state, before.cell, before.generation));
    assert!(
        world.store.cell_by_name(&"acme-1".parse().unwrap()).await.unwrap().is_none(),
        "its new cell stays reserved"
    );
    moves::start(&world.app, &change(), "acme", None).await.unwrap(); // and it can be moved again
}

#[tokio::test]
async fn a_deletion_that_has_begun_is_not_taken_back() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let operation = tenants::delete(&world.app, &change(), "acme").await.unwrap();
    let refused = operations::abandon(&world.app, &change(), operation.id, None, false).await.unwrap_err();
    assert_eq!((refused.code(), refused.kind()), ("past_point_of_no_return", berth_control::Kind::Conflict));
    assert_eq!(world.carry_out(operation.id).await, OperationState::Succeeded);
}
