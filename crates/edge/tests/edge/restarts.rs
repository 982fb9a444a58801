//! What survives: the edge's own end, and the control plane's.

use crate::world::{Running, World, config, eventually, held, route};
use berth_domain::Revision;
use berth_edge::{Edge, EdgeErrorKind};
use berth_wire::edge::{EdgeEvent, HoldOutcome};
use http::{Method, StatusCode};
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_edge_serves_from_disk_with_the_control_plane_dead() {
    let mut world = World::start().await;
    world.control.put(vec![world.moved(), route(2, 1, "shared", &[&world.old])]).await;
    world.control.die().await;
    world.edge.stop().await;
    // Half a batch at the end, as a power cut leaves it.
    let log = world.dir.path().join("routes.log");
    OpenOptions::new().append(true).open(log).unwrap().write_all(b"{\"record\":\"put\",\"rou").unwrap();
    let edge = Running::start(config(&world.control, world.dir.path()));
    assert_eq!(edge.get("t1.test", "/").await.by(), "new");
    assert_eq!(edge.get("t2.test", "/").await.by(), "old");
    world.control.rise();
    let revision = world.control.publish(vec![route(2, 2, "own", &[&world.new])]);
    world.control.acknowledged(revision).await;
    assert_eq!(edge.get("t2.test", "/").await.by(), "new");
    assert_eq!(world.control.asked_after().last(), Some(&2), "it catches up from where its disk ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_on_disk() {
    let world = World::start().await;
    // So many that an acknowledgement which does not wait for the disk is there long before it.
    world.control.put((2..5_002).map(|number| route(number, 1, "shared", &[&world.old])).collect()).await;
    let text = fs::read_to_string(world.dir.path().join("routes.log")).unwrap();
    for number in [2, 5_001] {
        assert!(text.contains(&format!("\"t{number}.test\"")), "t{number} is not in {} bytes", text.len());
    }
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let acknowledged = world.control.acks().last().unwrap().revision;
    assert_eq!(last, serde_json::json!({ "record": "mark", "revision": acknowledged }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_survives_a_restart_and_holds_reads_too_until_control_speaks() {
    let mut world = World::start().await;
    world.control.put(vec![held(world.home(), 7, 50, 200)]).await;
    world.control.in_force(7).await;
    world.control.die().await;
    world.edge.stop().await;
    let edge = Running::start(config(&world.control, world.dir.path()));
    // The tenant may have moved meanwhile: a read from the old cell could be stale, a write is refused there anyway.
    for method in [Method::POST, Method::GET] {
        let answer = edge.ask(method, "t1.test", "/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
    }
    let said_before = world.control.outcomes(7).len();
    world.control.rise();
    let said = eventually(
        "the new process reports the hold",
        async || world.control.outcomes(7),
        |all| all.len() > said_before,
    )
    .await;
    assert_eq!(said.last(), Some(&HoldOutcome::InForce));
    eventually("reads go on", async || edge.get("t1.test", "/").await.status, |s| *s == StatusCode::OK).await;
    assert_eq!(edge.ask(Method::POST, "t1.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let revision = world.control.publish(vec![world.moved()]);
    world.control.acknowledged(revision).await;
    assert_eq!(edge.ask(Method::POST, "t1.test", "/").await.by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hold_does_not_come_back_with_a_restart() {
    let mut world = World::start().await;
    let slow = world.edge.later(Method::POST, "t1.test", "/wait", "x");
    world.old.has_waiting(1).await;
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.outcome(7, |o| *o == HoldOutcome::Refused { in_flight: 1 }).await;
    world.old.state.open.send_replace(true);
    slow.await.unwrap();
    world.control.die().await;
    world.edge.stop().await;
    let edge = Running::start(config(&world.control, world.dir.path()));
    assert_eq!(edge.ask(Method::POST, "t1.test", "/").await.by(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_serves_while_control_is_dead_and_follows_it_when_it_is_back() {
    let world = World::start().await;
    world.control.die().await;
    for _ in 0..10 {
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
    }
    world.control.rise();
    let revision = world.control.publish(vec![world.moved()]);
    world.control.acknowledged(revision).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_has_forgotten_is_told_what_the_edge_has() {
    let world = World::start().await;
    world.control.put(vec![world.moved()]).await;
    world.control.put(vec![route(2, 1, "shared", &[&world.old])]).await;
    world.control.die().await;
    let mut old = world.home();
    old.revision = Revision::new(1);
    world.control.restore(1, vec![old]);
    let before = world.control.acks().len();
    world.control.rise();
    let acks = eventually("the edge says how far it is", async || world.control.acks(), |a| a.len() > before).await;
    assert_eq!(acks.last().unwrap().revision.get(), 3);
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    assert_eq!(world.edge.get("t2.test", "/").await.by(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_edges_never_share_a_directory_and_bad_configuration_says_why() {
    let world = World::start().await;
    let refused = |change: &dyn Fn(&mut berth_edge::EdgeConfig)| {
        let mut config = config(&world.control, world.dir.path());
        change(&mut config);
        let error = Edge::bind(config).err().unwrap();
        assert!(!error.hint().is_empty());
        (error.kind(), error.to_string())
    };
    assert_eq!(refused(&|_| {}).0, EdgeErrorKind::Machine);
    let exposed = refused(&|c| c.admin = "0.0.0.0:0".parse().unwrap());
    assert_eq!(exposed, (EdgeErrorKind::Caller, "the admin address 0.0.0.0:0 is not on loopback".into()));
    assert_eq!(refused(&|c| c.control_urls = vec!["ftp://x".into()]).0, EdgeErrorKind::Caller);
    assert_eq!(refused(&|c| c.workers = 0).0, EdgeErrorKind::Caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_carried_is_counted_once_over_restarts_of_either_side() {
    let mut world = World::start().await;
    for _ in 0..7 {
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
    }
    eventually("the first are reported", async || world.control.counted(1), |n| *n == 7).await;
    world.control.die().await;
    for _ in 0..5 {
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
    }
    // Nobody takes them, so they wait on disk for the next life, and for the one after that.
    world.edge.stop().await;
    let mut edge = Running::start(config(&world.control, world.dir.path()));
    for _ in 0..3 {
        assert_eq!(edge.get("t1.test", "/").await.status, StatusCode::OK);
    }
    edge.stop().await;
    let mut edge = Running::start(config(&world.control, world.dir.path()));
    world.control.rise();
    eventually("all are reported", async || world.control.counted(1), |n| *n == 15).await;
    assert_eq!(edge.get("t1.test", "/").await.status, StatusCode::OK);
    // The last ones are said by an edge that goes.
    edge.stop().await;
    assert_eq!(world.control.counted(1), 16);
    assert!(!world.dir.path().join("meters.json").exists(), "nothing is owed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_cut_with_its_edge_is_counted() {
    let mut world = World::start().await;
    let mut slow = TcpStream::connect(world.edge.address).await.unwrap();
    slow.write_all(b"GET /wait HTTP/1.1\r\nhost: t1.test\r\n\r\n").await.unwrap();
    world.old.has_waiting(1).await;
    world.edge.stop().await;
    assert_eq!(world.control.counted(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_counted_when_its_tenant_is_routed_no_more() {
    let world = World::start().await;
    let slow = world.edge.later(Method::GET, "t1.test", "/wait", "");
    world.old.has_waiting(1).await;
    world.control.say(&EdgeEvent::Routes { full: true, revision: Revision::new(2), routes: Vec::new() });
    world.control.acknowledged(2).await;
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::NOT_FOUND);
    world.old.state.open.send_replace(true);
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    eventually("it is reported", async || world.control.counted(1), |n| *n == 1).await;
}
