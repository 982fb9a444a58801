//! A service is restarted: each member once, nobody without somebody to serve, and a crash at any point changes nothing of that.

use crate::{
    upkeep::serving,
    world::{STACK, World, artifact, change, read, wanted},
};
use async_trait::async_trait;
use berth_control::{App, ControlError, ReleaseError, cells, operations, releases, services, tenants, workflows};
use berth_domain::{CellClass, OperationId, OperationState, Revision, RollCellState};
use berth_infra::{Call, Fault};
use berth_testkit::wait_until;
use berth_wire as wire;
use berth_workflow::{Journal, Registry, testing, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

async fn world() -> Arc<World> {
    let world = World::bare().await;
    let file = STACK.replace("max_tenants: 2", "max_tenants: 90000").replace(
        "data:\n",
        "  jobs: { command: [jobs], role: worker }\n  api: { command: [api], health: /, port: 8080 }\ndata:\n",
    );
    world.apply(&format!("{file}releases: {{ healthy_limit: 10s }}\n")).await.unwrap();
    world.finish().await;
    Arc::new(world)
}

fn made(world: &World, name: &str) -> usize {
    world.fake.made().iter().filter(|one| **one == format!("member {name}")).count()
}

#[tokio::test]
async fn a_restart_leaves_the_same_members_and_each_is_a_new_process() {
    let world = world().await;
    let before = world.members(Some("shared-1")).await;
    let plan = services::plan_restart(&world.app, &read(), "shared-1", "web").await.unwrap();
    assert_eq!((plan.members, plan.spare), (2, true));
    let begun = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    let again = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    assert_eq!(again.id, begun.id, "asked for again it is the same");
    let other = services::restart(&world.app, &change(), "shared-1", "jobs").await.unwrap_err();
    assert_eq!(other.code(), "cell_has_restart");
    assert_eq!(cells::remove(&world.app, &change(), "shared-1").await.unwrap_err().code(), "cell_has_restart");
    assert_eq!(world.carry_out(begun.id).await, OperationState::Succeeded, "{:?}", world.store.show(begun.id).await);
    assert_eq!(world.members(Some("shared-1")).await, before);
    for name in ["shared-1.web.0", "shared-1.web.1"] {
        assert_eq!(made(&world, name), 2, "{name}");
    }
    assert_eq!(made(&world, "shared-1.jobs.0"), 1);

    let plan = services::plan_restart(&world.app, &read(), "shared-1", "jobs").await.unwrap();
    assert_eq!((plan.members, plan.spare), (1, false));
    let begun = services::restart(&world.app, &change(), "shared-1", "jobs").await.unwrap();
    assert_eq!(world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(made(&world, "shared-1.jobs.0"), 2);
    assert_eq!(world.members(Some("shared-1")).await, before);
}

#[tokio::test]
async fn what_cannot_be_restarted_unnoticed_is_refused_by_name() {
    let world = world().await;
    let refused =
        async |cell: &str, service: &str| services::restart(&world.app, &change(), cell, service).await.unwrap_err();
    let taken = refused("shared-1", "api").await;
    assert!(matches!(&taken, ControlError::Release(ReleaseError::PortTaken(_))) && taken.hint().is_some(), "{taken}");
    assert_eq!(refused("shared-1", "wbe").await.code(), "no_service");
    assert_eq!(refused("shared-9", "web").await.code(), "no_cell");
    world.finish().await;
    assert_eq!(world.fake.made().iter().filter(|made| made.ends_with("9000")).count(), 0);
}

#[tokio::test]
async fn a_copy_that_does_not_come_up_leaves_everything_as_it_was() {
    let world = World::bare().await;
    world.apply(&format!("{STACK}releases: {{ healthy_limit: 1s }}\n")).await.unwrap();
    world.finish().await;
    let number = world.release(&["web"], 2).await;
    releases::roll(&world.app, &change(), &wire::RollAsk { release: number, to: Vec::new() }).await.unwrap();
    releases::go_on(&world.app).await.unwrap();
    assert_eq!(world.finish().await, Some(OperationState::Succeeded));
    let before = world.members(Some("shared-1")).await;
    assert_eq!(before, ["shared-1.web.0.r1", "shared-1.web.1.r1"]);

    world.fake.is_never_well(&artifact("web", 2));
    let begun = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    let ended = world.carry_out(begun.id).await;
    let (operation, _) = world.store.show(begun.id).await.unwrap().unwrap();
    assert_eq!(ended, OperationState::Failed, "{operation:?}");
    assert!(operation.error.unwrap().message.contains("were not healthy"));
    assert_eq!(world.members(Some("shared-1")).await, before);
    assert_eq!((made(&world, "shared-1.web.0.r1"), made(&world, "shared-1.web.1.r1")), (1, 1));
}

#[tokio::test]
async fn a_restart_that_was_given_up_is_made_good_by_the_next_one() {
    let world = World::new().await;
    let before = world.members(Some("shared-1")).await;
    // As often as a member's end is tried.
    for _ in 0..50 {
        world.fake.faults().next(Call::RemoveMember, Fault::Quota);
    }
    let begun = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    assert_eq!(world.carry_out(begun.id).await, OperationState::Stuck);
    assert_eq!(world.fake.faults().left(), []);
    operations::abandon(&world.app, &change(), begun.id, Some("no patience"), true).await.unwrap();
    let left = world.members(Some("shared-1")).await;
    assert_eq!(left.len(), 3, "the spare serves: {left:?}");

    let plan = services::plan_restart(&world.app, &read(), "shared-1", "web").await.unwrap();
    assert_eq!(plan.members, 2, "one of them was taken out, and is one all the same");
    let again = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    assert_eq!(world.carry_out(again.id).await, OperationState::Succeeded, "{:?}", world.store.show(again.id).await);
    assert_eq!(world.members(Some("shared-1")).await, before);
    let rows = world.store.member_list(None).await.unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.wanted && !row.arriving), "{rows:?}");
}

#[tokio::test]
async fn a_release_waits_for_a_restart_and_makes_no_copy_of_its_spare() {
    let world = World::new().await;
    let number = world.release(&["web"], 1).await;
    let begun = services::restart(&world.app, &change(), "shared-1", "web").await.unwrap();
    let ask = wire::RollAsk { release: number, to: Vec::new() };
    let roll = releases::roll(&world.app, &change(), &ask).await.unwrap();
    releases::go_on(&world.app).await.unwrap();
    let row = world.store.roll_cells(Some(roll.number)).await.unwrap().remove(0);
    assert_eq!(
        (row.state, row.reason.as_deref()),
        (RollCellState::Waiting, Some("a service of it is being restarted"))
    );
    assert_eq!(world.carry_out(begun.id).await, OperationState::Succeeded);
    serving(&world, async {
        let cells = async || releases::status(&world.app, &read()).await.unwrap().cells;
        wait_until("the release is there", cells, |cells| cells.iter().all(|cell| cell.release == number)).await;
    })
    .await;
    assert_eq!(world.members(Some("shared-1")).await, ["shared-1.web.0.r1", "shared-1.web.1.r1"]);
}

/// A cell of its own with one tenant, whose service is restarted.
struct Try {
    world: Arc<World>,
    cell: String,
}

impl Try {
    async fn new(world: &Arc<World>) -> Self {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        let cell = format!("s{}", TRIES.fetch_add(1, Ordering::Relaxed));
        let new = wire::CellCreate {
            name: cell.parse().unwrap(),
            class: CellClass::Shared,
            provider: None,
            region: None,
            max_tenants: Some(1),
        };
        cells::create(&world.app, &change(), new).await.unwrap();
        assert_eq!(world.finish().await, Some(OperationState::Succeeded));
        let tenant = wire::TenantCreate { cell: Some(cell.parse().unwrap()), ..wanted(&cell, "hobby") };
        tenants::create(&world.app, &change(), tenant).await.unwrap();
        assert_eq!(world.finish().await, Some(OperationState::Succeeded));
        Self { world: world.clone(), cell }
    }

    async fn assert_two_serve(&self) {
        let names: Vec<String> = ["api.0", "jobs.0", "web.0", "web.1"].map(|it| format!("{}.{it}", self.cell)).into();
        assert_eq!(self.world.members(Some(&self.cell)).await, names);
        let cell = self.world.store.cell_by_name(&self.cell.parse().unwrap()).await.unwrap().unwrap();
        let rows = self.world.store.member_list(Some(cell.id)).await.unwrap();
        assert!(rows.len() == 4 && rows.iter().all(|row| row.wanted && !row.arriving), "{rows:?}");
        let routes = self.world.store.routes_after(Revision::default()).await.unwrap().routes;
        let own = routes.iter().find(|route| route.name.as_str() == self.cell).unwrap();
        assert_eq!(own.members.len(), 3, "web twice, api once: {:?}", own.members);
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
        services::restart(&self.world.app, &change(), &self.cell, "web").await.unwrap().id
    }
    async fn assert_done(&self) {
        self.assert_two_serve().await;
        for copy in 0..2 {
            // A crash between the end of a process and its record ends it once more.
            assert!(made(&self.world, &format!("{}.web.{copy}", self.cell)) >= 2);
        }
    }
    async fn assert_as_before(&self) {
        self.assert_two_serve().await;
        for copy in 0..2 {
            assert_eq!(made(&self.world, &format!("{}.web.{copy}", self.cell)), 1);
        }
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
