//! A release in one cell survives a crash at every point, and a failure of any step leaves the cell what it ran: its
//! members, its route, its release.

use crate::world::{STACK, World, change};
use async_trait::async_trait;
use berth_control::{App, cells, releases, tenants, workflows};
use berth_domain::{CellClass, OperationId, OperationState, Revision, RollState};
use berth_wire as wire;
use berth_workflow::{Failing, Journal, Registry, testing, testing::TestWorld};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// A service without a route beside the one with it: they are switched differently.
const WORKER: &str = "  jobs: { command: [jobs], role: worker }\ndata:\n";

/// A control plane, and release 1 that no cell has. One a test: only one release rolls at a time.
async fn world() -> Arc<World> {
    let world = World::bare().await;
    let file = STACK.replace("max_tenants: 2", "max_tenants: 90000").replace("data:\n", WORKER);
    world.apply(&format!("{file}releases: {{ healthy_limit: 10s }}\n")).await.unwrap();
    world.finish().await;
    world.release(&["web", "jobs"], 1).await;
    Arc::new(world)
}

/// Release 1 comes to a cell of its own with one tenant.
struct Try {
    world: Arc<World>,
    cell: String,
    before: BTreeSet<String>,
}

impl Try {
    async fn new(world: &Arc<World>) -> Self {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        let cell = format!("r{}", TRIES.fetch_add(1, Ordering::Relaxed));
        let new = wire::CellCreate {
            name: cell.parse().unwrap(),
            class: CellClass::Shared,
            provider: None,
            region: None,
            max_tenants: Some(1),
        };
        cells::create(&world.app, &change(), new).await.unwrap();
        assert_eq!(world.finish().await, Some(OperationState::Succeeded));
        let wanted = wire::TenantCreate { cell: Some(cell.parse().unwrap()), ..crate::world::wanted(&cell, "hobby") };
        tenants::create(&world.app, &change(), wanted).await.unwrap();
        assert_eq!(world.finish().await, Some(OperationState::Succeeded));
        let new = Self { world: world.clone(), cell, before: BTreeSet::new() };
        let before = new.routed().await;
        assert_eq!(before.len(), 2, "{before:?}");
        Self { before, ..new }
    }

    /// Where the tenant's requests go.
    async fn routed(&self) -> BTreeSet<String> {
        let routes = self.world.store.routes_after(Revision::default()).await.unwrap().routes;
        let own = routes.iter().find(|route| route.name.as_str() == self.cell).unwrap();
        own.members.iter().map(|member| format!("{member:?}")).collect()
    }

    /// What the provider has, and how often it made each.
    async fn runs(&self, release: &str) -> Vec<String> {
        let names = self.world.members(Some(&self.cell)).await;
        for name in names.iter().filter(|name| name.ends_with(release)) {
            let made = format!("member {name}");
            let times = self.world.fake.made().iter().filter(|one| **one == made).count();
            assert_eq!(times, 1, "{made} was made {times} times");
        }
        names
    }

    /// Service and copy of what the control plane wants to run here, and its release.
    async fn wanted(&self) -> Vec<String> {
        let cell = self.world.store.cell_by_name(&self.cell.parse().unwrap()).await.unwrap().unwrap();
        let rows = self.world.store.member_list(Some(cell.id)).await.unwrap();
        assert!(rows.iter().all(|row| row.wanted && !row.arriving), "{rows:?}");
        let mut all: Vec<_> = rows.iter().map(|row| format!("{}.{}.r{}", row.service, row.copy, row.release)).collect();
        all.sort();
        all.push(format!("cell r{}", cell.release));
        all
    }

    /// The roll is closed, as a server's loop closes it; so the next one may begin.
    async fn closed(&self, state: RollState) {
        releases::go_on(&self.world.app).await.unwrap();
        let last = self.world.store.roll_list(None).await.unwrap().remove(0);
        assert_eq!(last.state, state, "{:?}", last.reason);
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
        // A try that no fault came by is over without having been looked at.
        releases::go_on(&self.world.app).await.unwrap();
        let ask = wire::RollAsk { release: 1, to: vec![self.cell.parse().unwrap()] };
        let begun = releases::roll(&self.world.app, &change(), &ask).await.unwrap();
        releases::go_on(&self.world.app).await.unwrap();
        let cells = self.world.store.roll_cells(Some(begun.number)).await.unwrap();
        cells[0].operation.expect("the first wave has begun")
    }

    async fn assert_done(&self) {
        self.closed(RollState::Done).await;
        assert_eq!(self.wanted().await, ["jobs.0.r1", "web.0.r1", "web.1.r1", "cell r1"]);
        let names: Vec<String> = ["jobs.0.r1", "web.0.r1", "web.1.r1"].map(|it| format!("{}.{it}", self.cell)).into();
        assert_eq!(self.runs(".r1").await, names);
        let now = self.routed().await;
        assert!(now.len() == 2 && now.is_disjoint(&self.before), "{now:?}, before {:?}", self.before);
    }

    async fn assert_as_before(&self) {
        self.closed(RollState::Stopped).await;
        assert_eq!(self.wanted().await, ["jobs.0.r0", "web.0.r0", "web.1.r0", "cell r0"]);
        // A worker that was told to end is started again by whoever keeps members up.
        let web: Vec<String> = ["web.0", "web.1"].map(|it| format!("{}.{it}", self.cell)).into();
        let mut runs = self.runs("").await;
        runs.retain(|name| !name.ends_with(".jobs.0"));
        assert_eq!(runs, web);
        assert_eq!(self.routed().await, self.before, "the route");
    }
}

#[tokio::test]
async fn survives_a_crash_at_every_point() {
    let world = world().await;
    testing::survives_a_crash_at_every_point(async || Try::new(&world).await).await;
}

#[tokio::test]
async fn undoes_a_failure_of_every_step() {
    let world = world().await;
    testing::undoes_a_failure_of_every_step(async || Try::new(&world).await).await;
}

#[tokio::test]
async fn undo_of_a_step_that_ran_survives_a_crash_at_every_point() {
    let world = world().await;
    testing::undo_survives_a_crash_at_every_point_after(Failing::AfterRun, async || Try::new(&world).await).await;
}
