//! The stack file's `cluster` and `tenants.region_routing`: what edges are told, and where tenants go.

use crate::world::{STACK, World, change, follow, speaks, wanted};
use berth_control::{decide, edges, fleet, tenants};
use berth_domain::{EdgeId, OperationState, Revision};
use berth_wire::edge::{EdgeEvent, EdgeSettings};
use futures_util::StreamExt as _;
use std::pin::pin;
use uuid::Uuid;

const CELLS: &str = "
  eu-1: { class: shared, provider: fake, region: eu-west, max_tenants: 1 }
  us-1: { class: shared, provider: fake, region: us-east, max_tenants: 9 }
tenants:
  region_routing:
    enabled: true
    default_region: us-east
    tenant_region_mapping: { tenant-1: eu-west, tenant-2: eu-west }
";

#[tokio::test]
async fn a_tenant_goes_to_its_region_and_to_no_other_whoever_asks() {
    let world = World::bare().await;
    // Without the section a cell without a region is as good as any.
    let applied = world.apply(&format!("{}{CELLS}", STACK.trim_end())).await.unwrap();
    for operation in applied.operations {
        assert_eq!(world.carry_out(operation).await, OperationState::Succeeded);
    }
    for (tenant, cell) in [("tenant-1", "eu-1"), ("other", "us-1")] {
        world.create(tenant, "hobby").await;
        assert_eq!(world.tenant(tenant).await.cell.unwrap().as_str(), cell, "{tenant}");
    }
    // Its region is full, and another one is no substitute, not even by name.
    let error = tenants::create(&world.app, &change(), wanted("tenant-2", "hobby")).await.unwrap_err();
    assert_eq!(error.code(), "no_room_in_region", "{error}");
    let mut named = wanted("tenant-2", "hobby");
    named.cell = Some("us-1".parse().unwrap());
    let error = tenants::create(&world.app, &change(), named).await.unwrap_err();
    assert_eq!(error.code(), "other_region", "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("tenant_region_mapping")));
    // A default yields to whoever names a cell.
    let mut named = wanted("another", "hobby");
    named.cell = Some("shared-1".parse().unwrap());
    tenants::create(&world.app, &change(), named).await.unwrap();
    // A move is bound as well.
    let error = berth_control::moves::start(&world.app, &change(), "tenant-1", Some(&"us-1".parse().unwrap())).await;
    assert_eq!(error.unwrap_err().code(), "other_region");
}

#[tokio::test]
async fn a_cell_that_is_made_for_a_tenant_stands_in_its_region() {
    let world = World::bare().await;
    let applied = world.apply(&format!("{}{CELLS}", STACK.trim_end())).await.unwrap();
    for operation in applied.operations {
        assert_eq!(world.carry_out(operation).await, OperationState::Succeeded);
    }
    let operation = tenants::create(&world.app, &change(), wanted("tenant-2", "business")).await.unwrap();
    assert_eq!(world.carry_out(operation.id).await, OperationState::Succeeded);
    let cell = world.tenant("tenant-2").await.cell.unwrap();
    let cell = berth_control::cells::show(&world.app, &crate::world::read(), cell.as_str()).await.unwrap();
    assert_eq!(cell.region.as_deref(), Some("eu-west"));
}

#[tokio::test]
async fn no_answer_and_no_fleet_plan_sends_a_tenant_out_of_its_region() {
    let world = World::bare().await;
    // The cells elsewhere cost next to nothing.
    let cells = CELLS.replace("max_tenants: 1 }", "max_tenants: 1, price: 90.00 }");
    let cells = cells.replace("max_tenants: 9 }", "max_tenants: 9, price: 1.00 }");
    world.apply(&format!("{}{cells}", STACK.trim_end())).await.unwrap();
    world.finish().await;
    world.create("tenant-1", "hobby").await;
    let decision = decide::of_tenant(&world.app, &crate::world::read(), "tenant-1").await.unwrap();
    assert_eq!(decision.cell.as_deref(), Some("eu-1"), "{decision:?}");
    let refused = decision.refused.iter().find(|it| it.cell.as_deref() == Some("us-1")).unwrap();
    assert_eq!(
        (refused.constraint.as_str(), refused.wanted.as_str(), refused.has.as_str()),
        ("region", "eu-west", "us-east")
    );
    let plan = fleet::plan(&world.app, &crate::world::read()).await.unwrap();
    assert_eq!((plan.moves, plan.wrong_before, plan.wrong_after), (0, 0, 0), "{plan:?}");
    // What is shown and kept of its profile has nothing of it: the stack file says it.
    let shown = decide::profile(&world.app, &crate::world::read(), "tenant-1").await.unwrap();
    decide::set_profile(&world.app, &change(), "tenant-1", shown).await.unwrap();
}

#[tokio::test]
async fn edges_are_told_where_the_limits_are_that_they_share() {
    let world = World::new().await;
    let cluster =
        "edges: [north, south]\ncluster: { enabled: true, redis_address: 'a:1, b:2', redis_cluster_mode: true }\n";
    world.apply(&format!("{STACK}{cluster}")).await.unwrap();
    let told = async || told_all(&world).await.cluster;
    let settings = told().await.unwrap();
    assert_eq!((settings.redis_address.as_str(), settings.several, settings.edges), ("a:1,b:2", true, 2));
    assert!(told_all(&world).await.geo.is_none());
    assert_eq!((settings.stack.as_str(), settings.password.expose()), ("parcels", ""));
    world.apply(&format!("{STACK}{}", cluster.replace("enabled: true", "enabled: false"))).await.unwrap();
    assert_eq!(told().await, None);
}

async fn told_all(world: &World) -> EdgeSettings {
    let (name, instance) = ("north".parse().unwrap(), EdgeId::new(Uuid::now_v7()));
    let stream = edges::routes(&world.app, &follow(), name, instance, Revision::default(), speaks(2)).await.unwrap();
    match pin!(stream).next().await.unwrap().unwrap() {
        EdgeEvent::Settings { settings } => settings,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn edges_send_without_tls_to_where_strangers_are_only_when_the_stack_file_says_so() {
    let world = World::new().await;
    let outside =
        async || told_all(&world).await.services.values().map(|service| service.tls_outside).collect::<Vec<_>>();
    assert_eq!(outside().await, [true]);
    world.apply(&format!("{STACK}https: {{ members_over_plain_http: true }}\n")).await.unwrap();
    assert_eq!(outside().await, [false]);
    let again = world.apply(STACK).await.unwrap();
    assert_eq!((outside().await, again.differences.len()), (vec![true], 1));
}

#[tokio::test]
async fn edges_are_told_where_members_are_and_who_is_bound_to_a_region() {
    let world = World::new().await;
    let near = STACK.replace("copies: 2 }", "copies: 2, edge: { region: eu-west } }")
        + "cluster: { redis_address: 'a', geo_routing: true }\n\
           tenants: { region_routing: { tenant_region_mapping: { tenant-1: eu-west } } }\n";
    world.apply(&near).await.unwrap();
    let settings = told_all(&world).await;
    assert_eq!(settings.services.values().next().unwrap().region.as_deref(), Some("eu-west"));
    assert_eq!(settings.geo.unwrap().regions["eu-west"], (53.0, -6.0));
    assert_eq!(settings.residences[&"tenant-1".parse().unwrap()], "eu-west");
    world.apply(&near.replace("geo_routing: true", "geo_routing: false")).await.unwrap();
    assert_eq!(told_all(&world).await.geo, None);
}
