//! A fleet plan that is carried out with the cells it makes and removes.

use crate::{
    upkeep::serving,
    world::{STACK, World, change, read},
};
use berth_control::{Caller, Report, cells, decide, fleet, usage};
use berth_domain::CellState;
use berth_store::Figure;
use berth_testkit::wait_until;
use berth_wire::FleetApply;

/// The provider sells a small cell for less than the one that stands.
fn file() -> String {
    let stands =
        "shared-1: { class: shared, provider: fake, max_tenants: 2, price: 90.00, shape: { memory_mib: 65536 } }";
    let file = STACK.replace("shared-1: { class: shared, provider: fake, max_tenants: 2 }", stands);
    file + r"placement:
  policy: { planned_fill_percent: 100 }
  catalogue:
    regions: { here: { title: Here, lat: 50, lon: 10, location: europe, residency: [eu] } }
    providers:
      fake:
        title: Fake
        currency: USD
        checked: 2026-11-21
        source: a test
        regions: { here: { region: here, near_ms: 5, trust: claimed } }
        shapes: { small: { kind: server, price: 20, cpu_millis: 4000, memory_mib: 8192, disk_gib: 80 } }
    offers:
      small: { class: shared, provider: fake, at: [[here]], parts: { small: 1 }, places: 2 }
"
}

#[tokio::test]
async fn a_cell_that_is_being_made_is_neither_removed_nor_said_to_be_too_many() {
    let world = World::bare().await;
    world.apply(&file()).await.unwrap();
    world.finish().await;
    world.create("acme", "hobby").await;
    let apply = async |cells| {
        fleet::apply(&world.app, &change(), &FleetApply { moves: None, cells, only: Vec::new() }).await.unwrap()
    };
    let first = apply(true).await;
    let [made] = &first.cells[..] else { panic!("{first:?}") };
    assert!(!made.removed && made.operation.is_some(), "{first:?}");
    let known = world.store.cell_by_name(&made.cell.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(known.state, CellState::Creating);
    assert_eq!(known.shape["memory_mib"], 8192, "no more than the place has that is paid for");

    for cells in [true, false] {
        let again = apply(cells).await;
        assert_eq!(again.removable, Vec::<String>::new(), "{again:?}");
        assert!(again.cells.iter().all(|cell| !cell.removed), "{again:?}");
    }
    assert_eq!(world.store.cell_get(known.id).await.unwrap().unwrap().state, CellState::Creating);
    world.finish().await;
    let moved = apply(true).await;
    assert_eq!((moved.started.len(), moved.started[0].to.as_str()), (1, made.cell.as_str()), "{moved:?}");
}

#[tokio::test]
async fn a_cell_that_is_being_removed_is_not_named_again() {
    let world = World::bare().await;
    world.apply(&file()).await.unwrap();
    world.finish().await;
    cells::drain(&world.app, &change(), "shared-1").await.unwrap();
    let apply = async || {
        fleet::apply(&world.app, &change(), &FleetApply { moves: None, cells: true, only: Vec::new() }).await.unwrap()
    };
    let done = apply().await;
    assert!(done.cells.iter().any(|cell| cell.removed && cell.operation.is_some()), "{done:?}");
    let again = apply().await;
    assert!(again.cells.is_empty() && again.removable.is_empty(), "it is being removed: {again:?}");
}

#[tokio::test]
async fn a_tenant_that_was_measured_to_need_more_than_its_cell_gives_is_in_the_wrong_place() {
    let world = World::bare().await;
    let cells = "shared-1: { class: shared, provider: fake, max_tenants: 2, price: 10 }
  shared-2: { class: shared, provider: fake, max_tenants: 2, price: 30 }";
    world.apply(&STACK.replace("shared-1: { class: shared, provider: fake, max_tenants: 2 }", cells)).await.unwrap();
    world.finish().await;
    let tenant = world.create("acme", "hobby").await;
    assert_eq!(tenant.cell.unwrap().as_str(), "shared-1");
    for (cell, rows_per_s) in [("shared-1", 4.0), ("shared-2", 900.0)] {
        let cell = world.store.cell_by_name(&cell.parse().unwrap()).await.unwrap().unwrap().id;
        let figure = Figure { what: "ingest".into(), unit: "rows_per_s".into(), value: rows_per_s, samples: 10 };
        let mut tx = world.store.begin().await.unwrap();
        tx.cell_measured(cell, &[figure]).await.unwrap();
        tx.commit().await.unwrap();
    }
    let before = fleet::plan(&world.app, &read()).await.unwrap();
    assert_eq!((before.wrong_before, before.moves), (0, 0), "nothing is known of what it needs: {before:?}");

    let at_once = berth_wire::UsageEvent {
        key: "one".into(),
        tenant: "acme".into(),
        metric: "throughput_per_s".into(),
        amount: 10,
        unit: Some("rows_per_s".into()),
        at: None,
    };
    usage::record(&world.app, &Caller::berth().may(Report).unwrap(), vec![at_once]).await.unwrap();
    let look = async || fleet::plan(&world.app, &read()).await.unwrap();
    let plan = serving(&world, wait_until("it is judged", look, |plan| plan.wrong_before == 1)).await;
    assert_eq!((plan.moves, plan.wrong_after), (1, 0), "{plan:?}");
    let moved = &plan.steps[0].moves[0];
    assert_eq!(
        (plan.steps[0].why.as_str(), moved.tenant.as_str(), moved.to.as_str()),
        ("constraint", "acme", "shared-2")
    );
    // The same that a single decision says, with the same reason.
    let decision = decide::of_tenant(&world.app, &read(), "acme").await.unwrap();
    assert_eq!(decision.cell.as_deref(), Some("shared-2"));
    let refused = decision.refused.iter().find(|refused| refused.cell.as_deref() == Some("shared-1")).unwrap();
    assert_eq!(
        (refused.constraint.as_str(), refused.wanted.as_str(), refused.has.as_str()),
        ("throughput_per_s", "10", "4")
    );
}
