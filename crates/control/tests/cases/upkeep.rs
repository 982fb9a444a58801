//! What reconcilers keep true, with a whole server at work.

use crate::world::{World, change, read};
use berth_control::{WorkerOptions, cells, releases, serve, status};
use berth_domain::MemberState;
use berth_infra::{Call, Fault, Health, MemberName};
use berth_testkit::wait_until;
use tokio::sync::watch;

/// Runs a server beside a test, and stops it in order.
pub async fn serving<T>(world: &World, test: impl Future<Output = T>) -> T {
    let (stop, stopped) = watch::channel(false);
    let app = world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let outcome = test.await;
    stop.send_replace(true);
    server.await.unwrap().unwrap();
    outcome
}

#[tokio::test]
async fn a_scaled_service_has_as_many_copies_as_its_use_and_its_budget_ask_for() {
    let world = World::new().await;
    let scaled = crate::world::STACK.replace(
        "copies: 2 }",
        "copies: 1, scale: { min: 1, max: 4, cooldown_s: 0, price: 10 }, shape: { cpu_millis: 1000, memory_mib: 512 } }",
    );
    // Beside the cell, which costs nothing that anybody knows of, the budget pays for one copy more than there are.
    world.apply(&(scaled + "budget: { amount: 25, currency: USD }\n")).await.unwrap();
    let wanted = async || {
        let members = world.store.member_list(None).await.unwrap();
        let copies: Vec<i32> = members.iter().filter(|member| member.wanted).map(|member| member.copy).collect();
        let all = members.len();
        (copies, all)
    };
    serving(&world, async {
        // 950 of 1000 thousandths on 2 copies are work for 3 at 70 %.
        world.fake.set_load(950, 64 << 20);
        wait_until("a third copy", wanted, |(copies, _)| *copies == [0, 1, 2]).await;
        wait_until(
            "it serves",
            || states(&world),
            |all| all.len() == 3 && all.iter().all(|s| *s == MemberState::Healthy),
        )
        .await;
        let used = world.store.member_list(None).await.unwrap();
        assert!(
            used.iter().any(|member| member.cpu_percent.is_some_and(|cpu| (80.0..110.0).contains(&cpu))),
            "{used:?}"
        );
        world.fake.set_load(10, 64 << 20);
        wait_until("one is enough, and the others are gone", wanted, |(copies, all)| *copies == [0] && *all == 1).await;
    })
    .await;
    assert_eq!(world.fake.made().iter().filter(|made| made.starts_with("member")).count(), 3);
}

#[tokio::test]
async fn no_copy_is_added_to_a_cell_that_is_getting_a_release() {
    let world = World::new().await;
    let scaled = crate::world::STACK.replace(
        "copies: 2 }",
        "copies: 2, scale: { min: 1, max: 4, cooldown_s: 0 }, shape: { cpu_millis: 1000, memory_mib: 512 } }",
    );
    world.apply(&scaled).await.unwrap();
    let release = world.release(&["web"], 1).await;
    // Its migration lasts.
    world.fake.faults().next(Call::RunOnce, Fault::Hang);
    world.fake.set_load(950, 64 << 20);
    let ask = berth_wire::RollAsk { release, to: Vec::new() };
    releases::roll(&world.app, &change(), &ask).await.unwrap();
    releases::go_on(&world.app).await.unwrap();
    let (_stop, stopped) = watch::channel(false);
    let app = world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let used = async || -> Vec<f64> {
        let members = world.store.member_list(None).await.unwrap();
        members.iter().filter_map(|member| member.cpu_percent).collect()
    };
    let first = wait_until("what they use is known", used, |used| used.len() == 2).await;
    // Stored before the round decides, so the next round's figures come after the decision.
    wait_until("a round later", used, |used| used.len() == 2 && *used != first).await;
    let members = world.store.member_list(None).await.unwrap();
    assert_eq!(members.iter().map(|member| member.copy).collect::<Vec<_>>(), [0, 1], "{members:?}");
    server.abort();
}

async fn states(world: &World) -> Vec<MemberState> {
    let cell = cells::show(&world.app, &read(), "shared-1").await.unwrap();
    cell.members.into_iter().map(|member| member.state).collect()
}

#[tokio::test]
async fn a_member_that_dies_is_seen_and_started_again() {
    let world = World::new().await;
    let name = MemberName::new("shared-1.web.1").unwrap();
    serving(&world, async {
        world.fake.member_dies(&name);
        let restarts = async || world.store.member_list(None).await.unwrap().iter().map(|m| m.restarts).sum::<i64>();
        wait_until("the member is started again", restarts, |restarts| *restarts == 1).await;
        wait_until("it is healthy", || states(&world), |all| all.iter().all(|s| *s == MemberState::Healthy)).await;
    })
    .await;
}

#[tokio::test]
async fn a_sick_member_gets_no_requests_and_people_are_told() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    serving(&world, async {
        for copy in 0..2 {
            let name = MemberName::new(format!("shared-1.web.{copy}")).unwrap();
            world.fake.set_health(&name, Health::Unhealthy { reason: "503".into() });
        }
        wait_until("both are seen", || states(&world), |all| all.iter().all(|s| *s == MemberState::Unhealthy)).await;
        let routes = world.store.routes_after(berth_domain::Revision::default()).await.unwrap().routes;
        assert!(routes[0].members.is_empty(), "edges are still told to send there");
        let attention = status::overview(&world.app, &read()).await.unwrap().attention;
        assert!(attention.iter().any(|what| what.code == "cell_dark"), "{attention:?}");
    })
    .await;
}

#[tokio::test]
async fn two_servers_on_one_database_share_the_work() {
    let world = World::new().await;
    Box::pin(serving(&world, async {
        Box::pin(serving(&world, async {
            let operation =
                berth_control::tenants::create(&world.app, &change(), crate::world::wanted("acme", "hobby"))
                    .await
                    .unwrap();
            let permit = crate::world::read_tenant();
            let show = || berth_control::operations::show(&world.app, &permit, operation.id);
            let state = async || show().await.unwrap().state;
            wait_until("the tenant is made", state, |state| state.is_final()).await;
            assert_eq!(world.root_rows().await.len(), 1);
        }))
        .await;
    }))
    .await;
}
