//! A fleet plan that is carried out with the cells it makes and removes.

use crate::world::{STACK, World, change};
use berth_control::{cells, fleet};
use berth_domain::CellState;
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
    let apply = async |cells| fleet::apply(&world.app, &change(), &FleetApply { moves: None, cells }).await.unwrap();
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
    let apply = async || fleet::apply(&world.app, &change(), &FleetApply { moves: None, cells: true }).await.unwrap();
    let done = apply().await;
    assert!(done.cells.iter().any(|cell| cell.removed && cell.operation.is_some()), "{done:?}");
    let again = apply().await;
    assert!(again.cells.is_empty() && again.removable.is_empty(), "it is being removed: {again:?}");
}
