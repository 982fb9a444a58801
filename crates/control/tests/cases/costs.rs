//! A month that is over keeps its costs, whatever prices do afterwards.

use crate::world::{STACK, World, read};
use berth_control::{WorkerOptions, costs, serve};
use berth_domain::Cents;
use berth_infra::Role;
use berth_testkit::wait_until;
use jiff::Timestamp;
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
