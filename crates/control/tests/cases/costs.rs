//! A month that is over keeps its costs, whatever prices do afterwards.

use crate::{
    upkeep::serving,
    world::{STACK, World, read},
};
use berth_control::{WorkerOptions, costs, serve};
use berth_domain::Cents;
use berth_infra::Role;
use berth_testkit::wait_until;
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;

fn priced(price: &str) -> String {
    STACK.replace("max_tenants: 2 }", &format!("max_tenants: 2, price: {price} }}"))
}

#[tokio::test]
async fn a_month_that_is_over_is_closed_and_a_new_price_changes_only_the_running_one() {
    let world = World::bare().await;
    world.apply(&priced("60.00")).await.unwrap();
    world.finish().await;
    world.create("acme", "hobby").await;
    // The whole of last month was lived through.
    let client = world.control.connect(Role::Owner).await;
    let begin = "date_trunc('month', now()) - interval '1 month'";
    let last: String = client.query_one(&format!("SELECT to_char({begin}, 'YYYY-MM')"), &[]).await.unwrap().get(0);
    client
        .batch_execute(&format!("UPDATE cells SET created_at = {begin}; UPDATE stays SET since = {begin}"))
        .await
        .unwrap();
    let before = costs::show(&world.app, &read(), Some(&last)).await.unwrap();
    assert_eq!((before.cost_cents, before.idle_cents), (Cents::new(6000), Cents::new(3000)), "{before:#?}");
    assert_eq!((before.tenants[0].cost_cents, before.revenue_cents), (Cents::new(3000), Cents::new(1500)));

    let (stop, stopped) = watch::channel(false);
    let app = world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let closed = async || world.store.month_is_closed(&last).await.unwrap();
    wait_until("the month is closed", closed, |closed| *closed).await;
    stop.send_replace(true);
    server.await.unwrap().unwrap();

    world.apply(&priced("6000.00").replace("price: 15,", "price: 99,")).await.unwrap();
    let after = costs::show(&world.app, &read(), Some(&last)).await.unwrap();
    assert_eq!((after.cost_cents, after.revenue_cents, after.over), (before.cost_cents, before.revenue_cents, true));
    assert_eq!(after.tenants, before.tenants);
    let running = costs::show(&world.app, &read(), None).await.unwrap();
    assert_eq!(running.forecast.cost_cents, Cents::new(600_000), "{running:#?}");
    assert!(running.until <= Timestamp::now());
}

/// A cell whose price is the catalogue's, in euro.
const IN_EURO: &str = "placement:
  catalogue:
    regions: { here: { title: Here, lat: 50, lon: 10, location: europe, residency: [eu] } }
    providers:
      fake:
        title: Fake
        currency: EUR
        checked: 2026-11-21
        source: a test
        regions: { here: { region: here } }
        shapes: { one: { kind: server, price: 40, cpu_millis: 2000, memory_mib: 4096, disk_gib: 80 } }
    offers: { shared-here: { class: shared, provider: fake, at: [[here]], parts: { one: 1 }, places: 2 } }
";

#[tokio::test]
async fn a_month_whose_rates_are_too_old_waits_until_somebody_gives_the_days() {
    let world = World::bare().await;
    let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
    let file = |as_of: &str, rate: &str| {
        let cell = STACK.replace("provider: fake, max_tenants", "provider: fake, region: here, max_tenants");
        format!("{cell}{IN_EURO}    rates: {{ as_of: {as_of}, source: bank, usd: {{ EUR: {rate} }} }}\n")
    };
    world.apply(&file("2020-01-01", "1.25")).await.unwrap();
    world.finish().await;
    let client = world.control.connect(Role::Owner).await;
    let begin = "date_trunc('month', now()) - interval '1 month'";
    let last: String = client.query_one(&format!("SELECT to_char({begin}, 'YYYY-MM')"), &[]).await.unwrap().get(0);
    client.batch_execute(&format!("UPDATE cells SET created_at = {begin}")).await.unwrap();

    // A server that starts looks at the months at once.
    serving(&world, tokio::time::sleep(Duration::from_secs(2))).await;
    assert!(!world.store.month_is_closed(&last).await.unwrap(), "what is stored is stored for good");
    let waits = costs::show(&world.app, &read(), Some(&last)).await.unwrap();
    assert_eq!((waits.cost_cents, waits.unknown.len()), (Cents::new(0), 1), "{waits:#?}");

    world.apply(&file(&today, "1.25")).await.unwrap();
    let closed = async || world.store.month_is_closed(&last).await.unwrap();
    serving(&world, wait_until("the month is closed", closed, |closed| *closed)).await;
    world.apply(&file(&today, "2")).await.unwrap();
    let after = costs::show(&world.app, &read(), Some(&last)).await.unwrap();
    assert_eq!((after.cost_cents, after.unknown.len()), (Cents::new(5000), 0), "40 EUR by the day's 1.25: {after:#?}");
}
