//! Wildcard hosts and hosts divided by paths: whose a request is, and that nobody else hears of it.

use crate::world::{Member, World, route};
use berth_domain::{HostPattern, Hostname};
use berth_wire::edge::{RouteState, TenantRoute};
use http::StatusCode;

fn named(number: u128, generation: u64, member: &Member, keys: &[&str]) -> TenantRoute {
    let mut route = route(number, generation, &format!("c{number}"), &[member]);
    route.hosts = keys.iter().filter_map(|key| Hostname::new(*key).ok()).collect();
    route.patterns =
        keys.iter().filter(|key| key.contains(['*', '/'])).map(|key| HostPattern::new(*key).unwrap()).collect();
    assert_eq!(route.hosts.len() + route.patterns.len(), keys.len(), "{keys:?}");
    route
}

async fn whose(world: &World, host: &str, path: &str) -> Option<String> {
    let answer = world.edge.get(host, path).await;
    match answer.status {
        StatusCode::OK => Some(answer.sent("berth-tenant").unwrap().to_owned()),
        StatusCode::NOT_FOUND => None,
        other => panic!("{host}{path}: {other}"),
    }
}

async fn expect(world: &World, wanted: &[(&str, &str, Option<u32>)]) {
    for (host, path, tenant) in wanted {
        // Twice: a core that has met the tenant looks in a place of its own.
        for _ in 0..4 {
            assert_eq!(whose(world, host, path).await, tenant.map(|n| format!("key-{n}")), "{host}{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_host_comes_before_all_names_beside_it_and_what_changes_is_seen_at_once() {
    let world = World::start().await;
    let m = &world.old;
    world.control.put(vec![named(2, 1, m, &["*.shop.test"]), named(3, 1, m, &["own.shop.test"])]).await;
    let before = [
        ("a.shop.test", "/", Some(2)),
        ("B.Shop.Test:80", "/x", Some(2)),
        ("own.shop.test", "/", Some(3)),
        ("a.b.shop.test", "/", None),
        ("shop.test", "/", None),
        ("t1.test", "/", Some(1)),
    ];
    expect(&world, &before).await;
    // A host of its own for another tenant, where the wildcard was found before.
    world.control.put(vec![named(4, 1, m, &["a.shop.test"])]).await;
    expect(&world, &[("a.shop.test", "/", Some(4)), ("c.shop.test", "/", Some(2))]).await;
    let mut gone = named(4, 2, m, &["a.shop.test"]);
    gone.state = RouteState::Gone;
    world.control.put(vec![gone]).await;
    expect(&world, &[("a.shop.test", "/", Some(2))]).await;
    world.control.put(vec![named(2, 2, m, &["x.test"])]).await;
    expect(&world, &[("a.shop.test", "/", None), ("c.shop.test", "/", None), ("x.test", "/", Some(2))]).await;
    world.control.put(vec![named(5, 1, m, &["*.shop.test"])]).await;
    expect(&world, &[("a.shop.test", "/", Some(5)), ("own.shop.test", "/", Some(3))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_divided_by_the_longest_beginning_of_the_path_in_whole_parts() {
    let world = World::start().await;
    let m = &world.old;
    expect(&world, &[("app.test", "/shop", None)]).await;
    world.control.put(vec![named(2, 1, m, &["app.test"]), named(3, 1, m, &["app.test/shop"])]).await;
    world.control.put(vec![named(4, 1, m, &["app.test/shop/eu", "*.app.test/api"])]).await;
    let wanted = [
        ("app.test", "/", Some(2)),
        ("app.test", "/shop", Some(3)),
        ("app.test", "/shop/", Some(3)),
        ("app.test", "/shop?a=/shop/eu", Some(3)),
        ("app.test", "/shop/eu/1/2/3/4/5/6/7/8/9", Some(4)),
        ("app.test", "/shop/europe", Some(3)),
        ("app.test", "/%73hop/%65u", Some(4)),
        ("app.test", "/shop%2Feu", Some(2)),
        ("app.test", "/%2573hop", Some(2)),
        ("app.test", "/shopping", Some(2)),
        ("app.test", "//shop", Some(2)),
        ("app.test", "/x/shop", Some(2)),
        ("b.app.test", "/api/v1", Some(4)),
        ("b.app.test", "/", None),
        ("t1.test", "/shop", Some(1)),
    ];
    expect(&world, &wanted).await;
    world.control.put(vec![named(3, 2, m, &["elsewhere.test"])]).await;
    world.control.put(vec![named(4, 2, m, &["elsewhere.test/x"])]).await;
    expect(
        &world,
        &[("app.test", "/shop/eu", Some(2)), ("elsewhere.test", "/", Some(3)), ("b.app.test", "/api", None)],
    )
    .await;
    expect(&world, &[("elsewhere.test", "/x/y", Some(4))]).await;
}
