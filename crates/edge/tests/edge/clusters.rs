//! Several edges that give out of the same limits, over a real Redis: one server, Sentinels, a cluster; and while it is gone.

use crate::{
    limits::{Got, goes_on, limited},
    world::{Client, Control, Member, Running, config, eventually, route},
};
use berth_testkit::{TestRedis, TestRedisCluster, TestSentinels, WallClock};
use berth_wire::edge::{ClusterSettings, EdgeSettings, Hidden};
use http::{Method, StatusCode};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Three edges of one stack.
struct Edges {
    control: Control,
    member: Member,
    all: Vec<Running>,
    dirs: Vec<tempfile::TempDir>,
}

pub fn settings(address: &str, several: bool, password: &str) -> ClusterSettings {
    ClusterSettings {
        stack: "fleet".parse().unwrap(),
        redis_address: address.to_owned(),
        several,
        master: None,
        user: None,
        password: Hidden::new(password.to_owned()),
        ca_pem: None,
        edges: 3,
    }
}

impl Edges {
    async fn start(limit: (u64, u32)) -> Self {
        let (control, member) = (Control::start().await, Member::start("member").await);
        control.publish(vec![limited(route(1, 1, "shared", &[&member]), &[("api", limit.0, limit.1)])]);
        let (mut edges, mut dirs) = (Vec::new(), Vec::new());
        for name in ["north", "south", "west"] {
            let dir = tempfile::tempdir().unwrap();
            let mut config = config(&control, dir.path());
            config.name = name.parse().unwrap();
            edges.push(Running::start(config));
            dirs.push(dir);
        }
        let all = Self { control, member, all: edges, dirs };
        for edge in &all.all {
            eventually(
                "the edge has the route",
                async || edge.admin("/healthz").await,
                |h| h.contains("\"tenants\":1"),
            )
            .await;
        }
        all
    }

    fn set(&self, cluster: ClusterSettings) {
        self.control.set(EdgeSettings { cluster: Some(cluster), ..EdgeSettings::default() });
    }

    /// Puts it in force, and waits until every edge knows of all.
    async fn share(&self, cluster: ClusterSettings) {
        self.set(cluster);
        self.metrics("limits are shared by three", &["berth_edge_limits_shared 1\n", "berth_edge_limits_edges 3\n"])
            .await;
    }

    async fn metrics(&self, what: &str, wanted: &[&str]) {
        for edge in &self.all {
            let look = async || edge.admin("/metrics").await;
            eventually(what, look, |seen| wanted.iter().all(|line| seen.contains(line))).await;
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|edge| edge.address).collect()
    }

    async fn status(&self, edge: usize) -> StatusCode {
        self.all[edge].get("t1.test", "/").await.status
    }
}

/// How clients choose among the edges.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One connection to one edge.
    One,
    /// Two for each edge.
    Spread,
    /// Another edge with every request.
    Hop,
}

async fn hammered(addresses: &[SocketAddr], way: Way, time: Duration) -> Got {
    let started = Instant::now();
    let at = move || started.elapsed().as_secs_f64();
    let clients = match way {
        Way::One => 1,
        Way::Spread => 2 * addresses.len(),
        Way::Hop => 2,
    };
    let refused = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            let (addresses, refused) = (addresses.to_vec(), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut got = Got { first_s: f64::INFINITY, ..Got::default() };
                let mut turn = number;
                let mut client = Client::connect(addresses[turn % addresses.len()]).await;
                while goes_on(started, time, &refused) {
                    if matches!(way, Way::Hop) {
                        turn += 1;
                        client = Client::connect(addresses[turn % addresses.len()]).await;
                    }
                    let asked_s = at();
                    match client.ask(Method::GET, "t1.test", "/", "").await.status {
                        StatusCode::OK => got.good += 1,
                        StatusCode::TOO_MANY_REQUESTS => {
                            refused.store(true, Ordering::Relaxed);
                            got.refused_s = Some(asked_s);
                        }
                        other => panic!("{other}"),
                    }
                    got.first_s = got.first_s.min(at());
                }
                got
            })
        })
        .collect();
    let mut all = Got { first_s: f64::INFINITY, ..Got::default() };
    for task in tasks {
        all.add(task.await.unwrap());
    }
    all.whole_s = at();
    all
}

/// Sixty a second, and as much as four seconds at once.
const LIMIT: (u64, u32) = (240, 4);

/// Within five in a hundred of what one bucket would have given.
fn exact(got: &Got, what: &str) {
    let good = got.good as f64;
    let most = 240.0 + 60.0 * got.whole_s;
    assert!(good <= most * 1.05, "{what}: {good} of at most {most}: {got:?}");
    let refused_s = got.refused_s.expect("asked for more than sixty a second");
    let least = 240.0 + 60.0 * (refused_s - got.first_s);
    assert!(good >= least * 0.95, "{what}: {good} of at least {least}: {got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_edges_give_one_limit_to_five_in_a_hundred_however_clients_choose_among_them() {
    for way in [Way::One, Way::Spread, Way::Hop] {
        let Some(redis) = TestRedis::start(&[]).await else { return };
        let edges = Edges::start(LIMIT).await;
        edges.share(settings(&redis.address(), false, "")).await;
        exact(&hammered(&edges.addresses(), way, Duration::from_secs(3)).await, &format!("{way:?}"));
        edges.metrics("nobody gave by its share", &["berth_edge_limits_own_share_total 0\n"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_gone_each_edge_gives_its_share_and_says_so_and_afterwards_they_are_one_again() {
    let Some(mut redis) = TestRedis::start(&[]).await else { return };
    let edges = Edges::start((9, 3600)).await;
    edges.share(settings(&redis.address(), false, "")).await;
    // Three of nine are gone before the server is.
    for _ in 0..3 {
        assert_eq!(edges.status(0).await, StatusCode::OK);
    }
    let port = redis.address().rsplit_once(':').unwrap().1.parse().unwrap();
    redis.kill();
    edges.metrics("the loss is noticed", &["berth_edge_limits_shared 0\n", "berth_edge_limits_edges 3\n"]).await;
    // An edge that has seen the bucket lately has a third of what was left; one that has not, a third of all.
    let mut good = [0; 3];
    for (edge, good) in good.iter_mut().enumerate() {
        for _ in 0..9 {
            *good += usize::from(edges.status(edge).await == StatusCode::OK);
        }
    }
    assert_eq!(good, [2, 3, 3]);
    let metrics = edges.all[1].admin("/metrics").await;
    assert!(metrics.contains("berth_edge_limits_own_share_total 9\n"), "{metrics}");
    // It comes back and has forgotten everything: the edges tell it.
    let _redis = TestRedis::start_at(port, &[]).await.unwrap();
    edges
        .metrics("they found each other again", &["berth_edge_limits_shared 1\n", "berth_edge_limits_edges 3\n"])
        .await;
    for edge in 0..3 {
        eventually("nothing is left", async || edges.status(edge).await, |s| *s == StatusCode::TOO_MANY_REQUESTS).await;
    }
    let mut given = 0;
    for turn in 0..30 {
        given += usize::from(edges.status(turn % 3).await == StatusCode::OK);
    }
    assert_eq!(given, 0);
    assert!(edges.member.writes() == 0);
}

/// How far the server's clock is from ours.
fn off_s(redis: &TestRedis) -> i64 {
    let said = redis.ask(&["TIME"]);
    let theirs: i64 = said.lines().next().and_then(|line| line.trim().parse().ok()).unwrap();
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    theirs - i64::try_from(ours).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_of_redis_that_jumps_gives_nobody_more_and_nobody_less() {
    let clock = WallClock::default();
    let Some(redis) = TestRedis::start_under(&clock, &[]).await else { return };
    let edges = Edges::start(LIMIT).await;
    edges.share(settings(&redis.address(), false, "")).await;
    let addresses = edges.addresses();
    let load = tokio::spawn(async move { hammered(&addresses, Way::Spread, Duration::from_secs(5)).await });
    // Forth for less than an hour, for which keys outlive their bucket, and back for longer.
    for jump_s in [1800, -86_400, -84_600] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        clock.jump(jump_s);
        assert!((off_s(&redis) - jump_s).abs() < 30, "it did not jump: {} of {jump_s}", off_s(&redis));
    }
    exact(&load.await.unwrap(), "a clock that jumps");
    edges.metrics("nobody gave by its share", &["berth_edge_limits_own_share_total 0\n"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refuses_is_refused_with_the_reason_and_what_was_in_force_goes_on() {
    let Some(redis) = TestRedis::start(&["--requirepass", "right"]).await else { return };
    let edges = Edges::start((6, 3600)).await;
    // Never in force before: each edge goes on giving the whole.
    edges.set(settings(&redis.address(), false, "wrong"));
    edges.metrics("it is refused", &["berth_edge_limits_refused 1\n", "berth_edge_limits_shared 0\n"]).await;
    let health = edges.all[0].admin("/healthz").await;
    assert!(health.contains("Password authentication failed") && !health.contains("\"wrong\""), "{health}");
    edges.share(settings(&redis.address(), false, "right")).await;
    assert!(edges.all[0].admin("/metrics").await.contains("berth_edge_limits_refused 0\n"));
    for turn in 0..4 {
        assert_eq!(edges.status(turn % 3).await, StatusCode::OK);
    }
    for (wrong, reason) in [
        (settings(&redis.address(), false, "wrong"), "Password authentication failed"),
        (settings(&redis.address(), true, "right"), "is a single server"),
    ] {
        edges.set(wrong);
        edges.metrics("it is refused", &["berth_edge_limits_refused 1\n", "berth_edge_limits_shared 1\n"]).await;
        let health = edges.all[0].admin("/healthz").await;
        assert!(health.contains(reason), "{health}");
    }
    // The bucket is the one that it was: two are left for all three.
    let mut given = 0;
    for turn in 0..12 {
        given += usize::from(edges.status(turn % 3).await == StatusCode::OK);
    }
    assert_eq!(given, 2);
}

/// Three edges of which none shares by a wrong password or without one, neither at first nor when they do share; and one that
/// starts with it on its disk. `by`: who refuses it.
async fn refuses_all_but_the_right_password(addresses: &str, by: &str) {
    let mut edges = Edges::start((6, 3600)).await;
    let refused = async |edges: &Edges, password: &str, shared: &str| {
        edges.set(settings(addresses, true, password));
        let reason = if password.is_empty() { "Authentication required" } else { "Password authentication failed" };
        for edge in &edges.all {
            let look = async || edge.admin("/healthz").await;
            let health = eventually("it is refused", look, |health| health.contains(reason)).await;
            assert!(health.contains(&format!("{by}: ")) && !health.contains("\"wrong\""), "{health}");
        }
        edges.metrics("what was goes on", &["berth_edge_limits_refused 1\n", shared]).await;
    };
    refused(&edges, "wrong", "berth_edge_limits_shared 0\n").await;
    edges.share(settings(addresses, true, "right")).await;
    for turn in 0..4 {
        assert_eq!(edges.status(turn % 3).await, StatusCode::OK);
    }
    for password in ["", "wrong"] {
        refused(&edges, password, "berth_edge_limits_shared 1\n").await;
    }
    let mut given = 0;
    for turn in 0..12 {
        given += usize::from(edges.status(turn % 3).await == StatusCode::OK);
    }
    assert_eq!(given, 2, "the bucket is the one that it was");
    // Nothing was in force in this one's life: a third of the limit is its share.
    edges.control.die().await;
    edges.all[0].stop().await;
    edges.all[0] = Running::start(config(&edges.control, edges.dirs[0].path()));
    let look = async || edges.all[0].admin("/metrics").await;
    eventually("it is refused there too", look, |page| page.contains("berth_edge_limits_refused 1\n")).await;
    let mut given = 0;
    for _ in 0..6 {
        given += usize::from(edges.status(0).await == StatusCode::OK);
    }
    assert_eq!(given, 2);
    let page = edges.all[0].admin("/metrics").await;
    assert!(page.contains("berth_edge_limits_shared 0\n") && page.contains("berth_edge_limits_edges 3\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_sentinels_is_refused_with_the_reason_and_what_was_in_force_goes_on() {
    let Some(redis) = TestSentinels::start_guarded("right", "right").await else { return };
    let addresses = redis.addresses();
    let first = addresses.split(',').next().unwrap();
    refuses_all_but_the_right_password(&addresses, first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_the_master_is_told_apart_from_one_of_its_sentinels() {
    let Some(redis) = TestSentinels::start_guarded("right", "").await else { return };
    refuses_all_but_the_right_password(&redis.addresses(), "the master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_a_cluster_is_refused_with_the_reason_and_what_was_in_force_goes_on() {
    let Some(redis) = TestRedisCluster::start_guarded("right").await else { return };
    let addresses = redis.addresses();
    let first = addresses.split(',').next().unwrap();
    refuses_all_but_the_right_password(&addresses, first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_redis_is_believed_by_its_name_and_whom_the_stack_file_names() {
    let (dir, port) = (tempfile::tempdir().unwrap(), berth_testkit::free_port().to_string());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let (own, key) = (file("own.pem", made.cert.pem()), file("key.pem", made.signing_key.serialize_pem()));
    let arguments = ["--tls-port", &port, "--tls-cert-file", &own, "--tls-key-file", &key, "--tls-ca-cert-file", &own];
    let Some(_redis) = TestRedis::start(&[&arguments[..], &["--tls-auth-clients", "no"]].concat()).await else {
        return;
    };
    let edges = Edges::start((6, 3600)).await;
    let over_tls = |host: &str, ca_pem: Option<String>| ClusterSettings {
        ca_pem,
        ..settings(&format!("rediss://{host}:{port}"), false, "")
    };
    // Nobody here vouches for it, and it is not whom the address says: each edge gives its share meanwhile.
    let given = std::cell::Cell::new(0);
    let ask = async |edge: usize| {
        given.set(given.get() + usize::from(edges.status(edge).await == StatusCode::OK));
        edges.all[edge].admin("/metrics").await.contains("berth_edge_limits_own_share_total 0\n")
    };
    for (edge, wrong) in [(0, over_tls("localhost", None)), (1, over_tls("127.0.0.1", Some(made.cert.pem())))] {
        edges.set(wrong);
        eventually("it gives by its share", async || ask(edge).await, |by_none| !by_none).await;
        edges.metrics("it is not believed", &["berth_edge_limits_shared 0\n"]).await;
    }
    edges.share(over_tls("localhost", Some(made.cert.pem()))).await;
    for turn in 0..12 {
        ask(turn % 3).await;
    }
    // What was given by the share counts, and no token comes back for ten minutes.
    assert!((3..=6).contains(&given.get()), "{}", given.get());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_of_sentinels_under_load_gives_nobody_more_than_the_limit() {
    let Some(mut redis) = TestSentinels::start().await else { return };
    let edges = Edges::start(LIMIT).await;
    edges.share(settings(&redis.addresses(), true, "")).await;
    let addresses = edges.addresses();
    let load = tokio::spawn(async move { hammered(&addresses, Way::Spread, Duration::from_secs(9)).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    redis.kill_master();
    edges.metrics("the loss is noticed", &["berth_edge_limits_shared 0\n"]).await;
    edges.metrics("another master is found", &["berth_edge_limits_shared 1\n"]).await;
    exact(&load.await.unwrap(), "Sentinels");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_over_of_a_cluster_under_load_gives_nobody_more_than_the_limit() {
    let Some(mut redis) = TestRedisCluster::start().await else { return };
    let edges = Edges::start(LIMIT).await;
    edges.share(settings(&redis.addresses(), true, "")).await;
    let addresses = edges.addresses();
    let load = tokio::spawn(async move { hammered(&addresses, Way::Spread, Duration::from_secs(9)).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The one that has the tenant's bucket.
    redis.kill_master_of(&format!("berth:fleet:limit:{{{}}}:api", crate::world::tenant(1)));
    let own_share = async || {
        let metrics = edges.all[0].admin("/metrics").await;
        let line = metrics
            .lines()
            .find_map(|l| l.strip_prefix("berth_edge_limits_own_share_total "))
            .unwrap_or("0")
            .to_owned();
        line.parse::<u64>().unwrap()
    };
    eventually("the own share is used", own_share, |n| *n > 0).await;
    exact(&load.await.unwrap(), "cluster");
    // And it is asked again.
    let settled = async || {
        let before = own_share().await;
        for _ in 0..5 {
            edges.status(0).await;
        }
        own_share().await - before
    };
    eventually("the new master is asked", settled, |more| *more == 0).await;
}
