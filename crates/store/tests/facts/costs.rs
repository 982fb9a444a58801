//! Stays are kept whatever changes a tenant's place, plan or price, and never overlap.

use crate::common::{World, new_cell, plan};
use berth_domain::{CellClass, CellState, Cents, PlanName, TenantEvent};
use berth_infra::Role;
use berth_store::{CellLook, Figure, Invoice, InvoiceLine, InvoiceSource, NewStackRevision, Stay};
use jiff::Timestamp;
use serde_json::json;

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

async fn stays(world: &World) -> Vec<Stay> {
    world.store.stays_between(moment("2000-01-01T00:00:00Z"), moment("2100-01-01T00:00:00Z")).await.unwrap()
}

#[tokio::test]
async fn a_stay_ends_and_another_begins_with_every_place_plan_and_price() {
    let world = World::new().await;
    let id = world.tenant("acme").await;
    let other = new_cell(&world.store, "shared-2").await;
    let client = world.database.connect(Role::Owner).await;
    client.execute("UPDATE placements SET owner = $1, generation = 2", &[&other.uuid()]).await.unwrap();

    let mut tx = world.store.begin().await.unwrap();
    let second = NewStackRevision {
        revision: 2,
        stack: "s".into(),
        source: "stack: s".into(),
        document: json!({}),
        applied_by: "test".into(),
    };
    tx.stack_insert(&second).await.unwrap();
    let mut dearer = plan("hobby", CellClass::Shared);
    dearer.price_cents = Cents::new(1900);
    tx.plans_replace(2, &[dearer, plan("starter", CellClass::Shared)]).await.unwrap();
    tx.commit().await.unwrap();

    let version = world.store.tenant_get(id).await.unwrap().unwrap().version;
    let mut tx = world.store.begin().await.unwrap();
    tx.tenant_set_plan(id, version, &PlanName::new("starter").unwrap()).await.unwrap();
    tx.commit().await.unwrap();
    for event in [TenantEvent::DeleteStarted, TenantEvent::DeleteFinished] {
        let mut tx = world.store.begin().await.unwrap();
        tx.tenant_apply(id, event).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }

    let stays = stays(&world).await;
    let told: Vec<_> = stays.iter().map(|s| (s.cell, s.plan.as_str(), s.price_cents.get())).collect();
    let (one, two) = (world.cell, other);
    assert_eq!(told, [(one, "hobby", 1500), (two, "hobby", 1500), (two, "hobby", 1900), (two, "starter", 1500)]);
    assert!(stays.windows(2).all(|pair| pair[0].until == Some(pair[1].since)), "{stays:#?}");
    assert!(stays[3].until.is_some(), "who is gone lives nowhere");
}

#[tokio::test]
async fn two_changes_of_one_tenant_at_once_leave_one_open_stay_that_is_true() {
    let world = World::new().await;
    world.tenant("acme").await;
    let other = new_cell(&world.store, "shared-2").await;
    let (mut one, mut two) = (world.database.connect(Role::Owner).await, world.database.connect(Role::Owner).await);
    one.execute(
        "INSERT INTO plans (name, price_cents, class, limits, stack_revision) VALUES ('p', 7, 'shared', '{}', 1)",
        &[],
    )
    .await
    .unwrap();
    let first = one.transaction().await.unwrap();
    first.execute("UPDATE placements SET owner = $1", &[&other.uuid()]).await.unwrap();
    // Waits for the first one's stay, and must not fail when that one commits: a move's commit point may be the second.
    let second = async {
        let second = two.transaction().await.unwrap();
        second.execute("UPDATE tenants SET plan = 'p'", &[]).await.unwrap();
        second.commit().await.unwrap();
    };
    let first = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE tenants SET plan%'";
        let seen = world.database.connect(Role::Owner).await;
        let many = async || seen.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0);
        berth_testkit::wait_until("the second change waits", many, |n| *n > 0).await;
        first.commit().await.unwrap();
    };
    tokio::join!(first, second);
    let open: Vec<Stay> = stays(&world).await.into_iter().filter(|stay| stay.until.is_none()).collect();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!((open[0].cell, open[0].plan.as_str(), open[0].price_cents.get()), (other, "p", 7));
}

#[tokio::test]
async fn an_invoice_replaces_the_one_of_its_month_provider_and_source() {
    let world = World::new().await;
    let invoice = |source, micros| Invoice {
        month: "2026-10".into(),
        provider: "hetzner".into(),
        source,
        lines: vec![InvoiceLine { cell: None, part: "server".into(), currency: "EUR".into(), micros }],
        rates: [("EUR".to_owned(), 1_100_000)].into(),
        rates_of: "2026-11-21".into(),
        stored_by: "test".into(),
    };
    let (computed, first, second) =
        (invoice(InvoiceSource::Computed, 1), invoice(InvoiceSource::Imported, 2), invoice(InvoiceSource::Imported, 3));
    let mut tx = world.store.begin().await.unwrap();
    for invoice in [&first, &computed, &second] {
        tx.invoice_put(invoice).await.unwrap();
    }
    tx.month_close("2026-10").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(world.store.invoice_list("2026-10").await.unwrap(), [computed.clone(), second]);
    assert!(
        world.store.month_is_closed("2026-10").await.unwrap() && !world.store.month_is_closed("2026-09").await.unwrap()
    );
    let mut tx = world.store.begin().await.unwrap();
    assert!(tx.invoice_remove("2026-10", "hetzner").await.unwrap());
    assert!(!tx.invoice_remove("2026-10", "hetzner").await.unwrap(), "what Berth computed is not forgotten");
    tx.commit().await.unwrap();
    assert_eq!(world.store.invoice_list("2026-10").await.unwrap(), [computed]);
}

#[tokio::test]
async fn what_a_cell_used_and_measured_is_forgotten_with_the_cell() {
    let world = World::new().await;
    let other = new_cell(&world.store, "shared-2").await;
    let look = |cell, cpu_millis| CellLook {
        cell,
        cpu_millis,
        memory_bytes: 1 << 20,
        cpu_promised: 2000,
        memory_promised: 4 << 20,
    };
    for cpu in [500, 1500] {
        world.store.cell_looked(&[look(world.cell, cpu), look(other, 100)]).await.unwrap();
    }
    for cell in [world.cell, other] {
        world.store.cell_sized(cell, 1 << 30).await.unwrap();
        let figure = Figure { what: "api".into(), unit: "ms".into(), value: 3.0, samples: 10 };
        let mut tx = world.store.begin().await.unwrap();
        tx.cell_measured(cell, &[figure]).await.unwrap();
        tx.commit().await.unwrap();
    }
    let since = moment("2000-01-01T00:00:00Z");
    let of_all = world.store.cell_use(None, since).await.unwrap();
    assert_eq!(of_all.len(), 2);
    let one = &world.store.cell_use(Some(world.cell), since).await.unwrap()[..];
    let [one] = one else { panic!("{one:?}") };
    assert_eq!(
        (one.cell, one.looks, one.cpu_millis, one.cpu_most, one.cpu_promised),
        (world.cell, 2, 1000, 1500, 2000)
    );

    let mut tx = world.store.begin().await.unwrap();
    tx.cell_set_state(other, CellState::Ready, CellState::Draining).await.unwrap();
    tx.cell_set_state(other, CellState::Draining, CellState::Removed).await.unwrap();
    tx.commit().await.unwrap();
    let left: Vec<_> = world.store.cell_use(None, since).await.unwrap().iter().map(|used| used.cell).collect();
    let sizes: Vec<_> = world.store.cell_sizes().await.unwrap().iter().map(|size| size.cell).collect();
    let figures: Vec<_> = world.store.cell_figures(None).await.unwrap().iter().map(|figure| figure.cell).collect();
    assert_eq!((left, sizes, figures), (vec![world.cell], vec![world.cell], vec![world.cell]));
}
