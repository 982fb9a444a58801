//! Which member gets a request: by the settings, by what checks and requests found out.

use crate::world::{Answer, Client, Member, World, eventually, route};
use berth_domain::{Balance, ServiceName};
use berth_wire::edge::{EdgeSettings, Ejection, HealthCheck, ServiceSettings};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn balanced(balance: Balance) -> ServiceSettings {
    ServiceSettings { balance, ..ServiceSettings::default() }
}

/// One core, `old` and `new` behind one tenant, and these settings in force.
async fn world(settings: ServiceSettings) -> World {
    let world = World::with(|c| c.workers = 1).await;
    world.control.set_web(settings);
    // Events are taken in their order, so that this one's acknowledgement speaks for the settings too.
    world.control.put(vec![route(1, 1, "shared", &[&world.old, &world.new])]).await;
    world
}

async fn members_of(client: &mut Client, requests: usize) -> Vec<String> {
    let mut by = Vec::new();
    for _ in 0..requests {
        let answer = client.ask(Method::GET, "t1.test", "/", "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        by.push(answer.by().to_owned());
    }
    by
}

async fn up(world: &World, member: &Member, wanted: u8) {
    let line = format!("address=\"{}\"}} {wanted}", member.address);
    let look = async || world.edge.admin("/metrics").await;
    let has = |text: &String| text.lines().any(|l| l.starts_with("berth_edge_member_up{") && l.ends_with(&line));
    eventually("a member's state", look, has).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_its_checks_gets_no_request_and_comes_back_and_without_any_503_is_said_at_once() {
    let check =
        HealthCheck { path: "/health".into(), every_ms: 10, timeout_ms: 2_000, rise: 2, fall: 2, status: Some(200) };
    let world = world(ServiceSettings { check: Some(check), ..ServiceSettings::default() }).await;
    up(&world, &world.old, 1).await;
    let mut client = world.edge.client().await;
    world.old.state.health.store(204, Ordering::SeqCst);
    up(&world, &world.old, 0).await;
    assert_eq!(members_of(&mut client, 10).await, ["new"; 10]);

    world.new.state.health.store(500, Ordering::SeqCst);
    up(&world, &world.new, 0).await;
    let connections = world.new.state.connections.load(Ordering::SeqCst);
    let answer = client.ask(Method::GET, "t1.test", "/", "").await;
    assert_eq!(
        (answer.status, answer.headers["retry-after"].to_str().unwrap()),
        (StatusCode::SERVICE_UNAVAILABLE, "1")
    );
    assert!(answer.body.contains(r#""code":"no_member""#), "{}", answer.body);
    assert!(connections > 0);

    world.old.state.health.store(200, Ordering::SeqCst);
    up(&world, &world.old, 1).await;
    assert_eq!(members_of(&mut client, 10).await, ["old"; 10]);
    // Without checks the control plane's word counts.
    world.control.set_web(ServiceSettings::default());
    up(&world, &world.new, 1).await;
    assert_eq!(members_of(&mut client, 10).await.iter().filter(|by| *by == "new").count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_leaves_its_checks_without_an_answer_gets_no_request_until_it_answers_them_again() {
    // Members answer `/wait` when they are told to.
    let check = HealthCheck { path: "/wait".into(), every_ms: 10, timeout_ms: 50, rise: 2, fall: 2, status: None };
    let world = world(ServiceSettings { check: Some(check), ..ServiceSettings::default() }).await;
    up(&world, &world.old, 0).await;
    // What is not answered is counted there for ever.
    let asked = async || world.old.state.waiting.load(Ordering::SeqCst);
    eventually("it is asked, and asked again when it is down", asked, |number| *number > 2).await;
    world.new.state.open.send_replace(true);
    up(&world, &world.new, 1).await;
    let mut client = world.edge.client().await;
    for _ in 0..10 {
        // On a machine that stands still for as long as that, `new` is late as well.
        assert_ne!(client.ask(Method::GET, "t1.test", "/", "").await.by(), "old");
    }
    world.old.state.open.send_replace(true);
    up(&world, &world.old, 1).await;
    let by = async || world.edge.get("t1.test", "/").await.by().to_owned();
    eventually("it gets requests again", by, |by| by == "old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_asked_as_often_as_their_service_says() {
    let world = World::with(|c| c.workers = 1).await;
    let every = |every_ms| {
        let (path, timeout_ms) = ("/health".into(), 2_000);
        let check = HealthCheck { path, every_ms, timeout_ms, rise: 2, fall: 2, status: None };
        ServiceSettings { check: Some(check), ..ServiceSettings::default() }
    };
    let (often, seldom) = (ServiceName::new("web").unwrap(), ServiceName::new("worker").unwrap());
    world.old.state.health.store(500, Ordering::SeqCst);
    world.new.state.health.store(500, Ordering::SeqCst);
    let services = [(often, every(10)), (seldom.clone(), every(600_000))].into();
    world.control.set(EdgeSettings { services, ..EdgeSettings::default() });
    let mut home = route(1, 1, "shared", &[&world.old, &world.new]);
    home.members[1].service = seldom;
    world.control.put(vec![home]).await;
    // Nobody asks anything else, and each check comes on a connection of its own.
    let asked = |member: &Member| member.state.connections.load(Ordering::SeqCst);
    let both = async || (asked(&world.old), asked(&world.new));
    let (before, _) = eventually("both are asked", both, |(often, seldom)| *often > 0 && *seldom > 0).await;
    eventually("one is asked again and again", async || asked(&world.old), |number| *number >= before + 50).await;
    assert_eq!(asked(&world.new), 1, "the other one once in ten minutes");
    up(&world, &world.old, 0).await;
    up(&world, &world.new, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_ends_connections_without_an_answer_is_passed_over_and_returns_when_its_time_is_over() {
    let eject = Some(Ejection { failures: 1, for_ms: 700 });
    let world = world(ServiceSettings { eject, ..ServiceSettings::default() }).await;
    let mut client = world.edge.client().await;
    let answer = client.ask(Method::POST, "t1.test", "/hang-up", "").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let (failed, other) = if world.old.writes() == 1 { ("old", "new") } else { ("new", "old") };
    let metrics = world.edge.admin("/metrics").await;
    let ejected = |text: &str| text.lines().any(|l| l.contains("ejections_total{") && l.ends_with("} 1"));
    assert!(ejected(&metrics), "{metrics}");
    // Its time may end between two of these, on a slow machine: then they were enough.
    let seen = members_of(&mut client, 5).await;
    assert!(seen[..2].iter().all(|by| by == other), "{seen:?}");
    let back = async || members_of(&mut world.edge.client().await, 2).await;
    eventually("the member is back", back, |seen| seen.iter().any(|by| by == failed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_takes_no_connection_is_passed_over_without_a_failed_request_and_returns_when_it_takes_them() {
    let eject = Some(Ejection { failures: 1, for_ms: 2_000 });
    let World { control: _control, old, new: _new, edge, dir: _dir } =
        world(ServiceSettings { eject, ..ServiceSettings::default() }).await;
    let address = old.address;
    drop(old);
    let refused = async || TcpStream::connect(address).await.is_err();
    eventually("nobody listens there any more", refused, |refused| *refused).await;
    let mut client = edge.client().await;
    // They take turns: the second of two comes to it at the latest.
    assert_eq!(members_of(&mut client, 2).await, ["new"; 2]);
    let metrics = edge.admin("/metrics").await;
    let ejected = |line: &str| {
        line.starts_with("berth_edge_member_ejections_total{") && line.ends_with(&format!("address=\"{address}\"}} 1"))
    };
    assert!(metrics.lines().any(ejected), "{metrics}");

    let again = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = again.accept().await.unwrap();
            if stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nagain";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    let back = async || members_of(&mut edge.client().await, 1).await;
    eventually("it gets requests again", back, |seen| *seen == ["again"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_is_passed_over() {
    let world = World::with(|c| (c.workers, c.limits.answer_time) = (1, Duration::from_secs(2))).await;
    let eject = Some(Ejection { failures: 2, for_ms: 600_000 });
    world.control.set_web(ServiceSettings { eject, ..ServiceSettings::default() });
    world.control.put(vec![route(1, 1, "shared", &[&world.old, &world.new])]).await;
    // `old` leaves such requests without an answer, `new` does not.
    world.new.state.open.send_replace(true);
    let mut late = 0;
    for _ in 0..12 {
        let answer = world.edge.client().await.ask(Method::GET, "t1.test", "/wait", "").await;
        match answer.status {
            StatusCode::GATEWAY_TIMEOUT => late += 1,
            status => assert_eq!((status, answer.by()), (StatusCode::OK, "new")),
        }
    }
    assert_eq!(late, 2, "two in a row, and it gets no more");
    let metrics = world.edge.admin("/metrics").await;
    let ejected = |l: &str| {
        l.starts_with("berth_edge_member_ejections_total{")
            && l.contains(&world.old.address.to_string())
            && l.ends_with("} 1")
    };
    assert!(metrics.lines().any(ejected), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_slow_with_some_requests_and_answers_others_is_not_passed_over() {
    let world = World::with(|c| (c.workers, c.limits.answer_time) = (1, Duration::from_secs(2))).await;
    let eject = Some(Ejection { failures: 1, for_ms: 600_000 });
    world.control.set_web(ServiceSettings { eject, ..ServiceSettings::default() });
    world.control.put(vec![route(1, 1, "shared", &[&world.old, &world.new])]).await;
    let slow: Vec<_> = (0..10).map(|_| world.edge.later(Method::GET, "t1.test", "/wait", "")).collect();
    world.old.has_waiting(5).await;
    world.new.has_waiting(5).await;
    let mut client = world.edge.client().await;
    let seen: BTreeSet<_> = members_of(&mut client, 2).await.into_iter().collect();
    assert_eq!(seen.len(), 2, "both answer others after the slow ones were sent");
    for answer in slow {
        assert_eq!(answer.await.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    }
    let metrics = world.edge.admin("/metrics").await;
    let mut ejections = metrics.lines().filter(|l| l.starts_with("berth_edge_member_ejections_total{"));
    assert!(ejections.all(|line| line.ends_with("} 0")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_last_member_eject_nobody() {
    let eject = Some(Ejection { failures: 1, for_ms: 600_000 });
    let world = world(ServiceSettings { eject, ..ServiceSettings::default() }).await;
    let mut client = world.edge.client().await;
    for _ in 0..4 {
        assert_eq!(client.ask(Method::POST, "t1.test", "/hang-up", "").await.status, StatusCode::BAD_GATEWAY);
    }
    assert_eq!(members_of(&mut client, 4).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_busy_member_is_chosen_and_counts_return_to_zero() {
    let world = world(balanced(Balance::LeastConnections)).await;
    let waiting: Vec<_> = (0..6).map(|_| world.edge.later(Method::GET, "t1.test", "/wait", "")).collect();
    world.old.has_waiting(3).await;
    world.new.has_waiting(3).await;
    world.old.state.open.send(true).unwrap();
    world.old.has_waiting(0).await;
    let mut client = world.edge.client().await;
    // Three wait at `new`, nobody at `old`.
    assert_eq!(members_of(&mut client, 3).await, ["old"; 3]);
    world.new.state.open.send_replace(true);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, StatusCode::OK);
    }
    let look = async || members_of(&mut world.edge.client().await, 2).await.into_iter().collect::<BTreeSet<_>>();
    eventually("equally busy, they take turns", look, |seen| seen.len() == 2).await;
}

async fn with_cookie(client: &mut Client, cookie: &str) -> Answer {
    let request = Request::builder().uri("/").header("host", "t1.test").header("cookie", cookie);
    client.send(request.body(Full::<Bytes>::default()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sticky_client_stays_over_unrelated_changes_and_is_given_another_member_only_when_its_own_goes() {
    let world = world(balanced(Balance::Sticky)).await;
    let mut client = world.edge.client().await;
    let first = client.ask(Method::GET, "t1.test", "/", "").await;
    let cookie = first.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let stays = async |client: &mut Client| {
        for _ in 0..20 {
            let answer = with_cookie(client, &format!("theme=dark; {pair}")).await;
            assert_eq!(answer.by(), first.by());
            assert!(!answer.headers.contains_key("set-cookie"), "it has the right one");
            // Others come and go in between.
            client.ask(Method::GET, "t1.test", "/", "").await;
        }
    };
    stays(&mut client).await;
    let third = Member::start("third").await;
    let all = route(1, 1, "shared", &[&third, &world.old, &world.new]);
    world.control.put(vec![all, route(2, 1, "other", &[&third])]).await;
    stays(&mut client).await;
    world.control.set_web(ServiceSettings { weight: 3, ..balanced(Balance::Sticky) });
    stays(&mut client).await;

    // One that another tenant's member signed, or nobody did, is worth nothing.
    for forged in ["berth_member=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "berth_member=old"] {
        assert!(with_cookie(&mut client, forged).await.headers.contains_key("set-cookie"), "{forged}");
    }
    let left = if first.by() == "old" { &world.new } else { &world.old };
    world.control.put(vec![route(1, 1, "shared", &[left])]).await;
    let moved = with_cookie(&mut client, pair).await;
    assert_eq!((moved.status, moved.by()), (StatusCode::OK, left.state.name.as_str()));
    assert!(moved.headers.contains_key("set-cookie"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_trusted_load_balancer_are_told_apart_and_each_keeps_its_member() {
    let world = World::with(|c| {
        c.workers = 1;
        c.limits.trusted_peers = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    world.control.set_web(balanced(Balance::ClientAddress));
    world.control.put(vec![route(1, 1, "shared", &[&world.old, &world.new])]).await;
    let mut client = world.edge.client().await;
    let mut seen = BTreeSet::new();
    for number in 0..40 {
        let mut by = BTreeSet::new();
        // Through one trusted proxy or two in a row, the client is who it is.
        for second in ["", ", 127.0.0.1", ""] {
            let from = format!("10.9.8.7, 198.51.100.{number}{second}");
            let request = Request::builder().uri("/").header("host", "t1.test").header("x-forwarded-for", from);
            by.insert(client.send(request.body(Full::<Bytes>::default()).unwrap()).await.by().to_owned());
        }
        assert_eq!(by.len(), 1, "client {number}");
        seen.extend(by);
    }
    assert_eq!(seen.len(), 2, "40 clients fall on both members");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_in_force_after_a_restart_without_a_control_plane() {
    let mut world = world(balanced(Balance::Sticky)).await;
    world.edge.stop().await;
    world.control.die().await;
    let again = crate::world::Running::start(crate::world::config(&world.control, world.dir.path()));
    assert!(again.get("t1.test", "/").await.headers.contains_key("set-cookie"));
}
