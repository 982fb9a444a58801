//! A Redis of another kind than the stack file says, or that does not know the edges' user: refused with the reason, and what
//! was in force goes on.

use crate::{
    clusters::settings,
    world::{World, eventually},
};
use berth_testkit::{TestRedis, TestRedisCluster, TestSentinels};
use berth_wire::edge::{ClusterSettings, EdgeSettings};
use serde_json::Value;

/// A password, which is nowhere to be seen.
const PASSWORD: &str = "geheim-7";

fn set(world: &World, cluster: ClusterSettings) {
    world.control.set(EdgeSettings { cluster: Some(cluster), ..EdgeSettings::default() });
}

/// What `/healthz` says of common limits.
async fn limits(world: &World) -> Value {
    let health = world.edge.admin("/healthz").await;
    assert!(!health.contains(PASSWORD), "{health}");
    serde_json::from_str::<Value>(&health).unwrap()["limits"].take()
}

/// Puts settings before the edge, which says why it does not take them, and stays with what it has.
async fn refused(world: &World, cluster: ClusterSettings, reason: &str) {
    let before = limits(world).await["shared"].take();
    set(world, cluster);
    let said = |limits: &Value| limits["refused"].as_str().is_some_and(|said| said.contains(reason));
    let now = eventually(reason, async || limits(world).await, said).await;
    assert_eq!(now["shared"], before, "{now}");
}

/// For an edge that has shared nothing yet.
async fn in_force(world: &World, cluster: ClusterSettings) {
    set(world, cluster);
    let shared = |limits: &Value| limits["shared"] == true && limits["refused"].is_null();
    eventually("limits are shared", async || limits(world).await, shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_the_stack_file_takes_for_one_server_is_refused() {
    let Some(redis) = TestRedisCluster::start().await else { return };
    let world = World::start().await;
    let reason = "is a cluster node: that takes `redis_cluster_mode: true`";
    refused(&world, settings(&redis.addresses(), false, ""), reason).await;
    in_force(&world, settings(&redis.addresses(), true, "")).await;
    // What is in force goes on beside it.
    refused(&world, settings(&redis.addresses(), false, ""), reason).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_are_refused_as_one_server_and_without_the_name_of_their_master_where_they_have_several() {
    let Some(redis) = TestSentinels::start().await else { return };
    let world = World::start().await;
    let reason = "is a sentinel node: that takes `redis_cluster_mode: true`";
    refused(&world, settings(&redis.addresses(), false, ""), reason).await;
    // They have one: nobody needs to name it.
    in_force(&world, settings(&redis.addresses(), true, "")).await;

    let Some(second) = TestRedis::start(&[]).await else { return };
    redis.watch_too("second", &second);
    let named = |name: Option<&str>| ClusterSettings {
        master: name.map(str::to_owned),
        // Others than those in force, so that they are looked at.
        edges: 4,
        ..settings(&redis.addresses(), true, "")
    };
    refused(&world, named(None), "has several masters: name one, `redis_master: NAME`").await;
    refused(&world, named(Some("third")), "has no such master").await;
    in_force(&World::start().await, named(Some("main"))).await;
    assert!(!second.ask(&["KEYS", "*"]).contains("berth:"), "`main` is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_redis_who_is_not_there_or_may_not_is_refused_and_one_who_may_is_used() {
    let Some(redis) = TestRedis::start(&[]).await else { return };
    let password = format!(">{PASSWORD}");
    for rights in [
        &["alice", "on", password.as_str(), "~berth:*", "+@all"][..],
        // May look at the server, and run nothing on it.
        &["reader", "on", password.as_str(), "~berth:*", "+info", "+client"],
    ] {
        assert_eq!(redis.ask(&[&["ACL", "SETUSER"][..], rights].concat()).trim(), "OK");
    }
    let world = World::start().await;
    let by = |user: &str, password: &str| ClusterSettings {
        user: Some(user.to_owned()),
        ..settings(&redis.address(), false, password)
    };
    for (user, password, reason) in [
        ("bob", PASSWORD, "Password authentication failed"),
        ("alice", "another", "Password authentication failed"),
        ("reader", PASSWORD, "has no permissions"),
    ] {
        refused(&world, by(user, password), reason).await;
    }
    in_force(&world, by("alice", PASSWORD)).await;
    let clients = redis.ask(&["CLIENT", "LIST"]);
    assert!(clients.contains("user=alice"), "{clients}");
}
