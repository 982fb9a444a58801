//! Routing, headers, counters, keep-alive, and what is refused before it is routed.

use crate::{
    echo::{data, http2, nothing},
    world::{Client, Member, Running, World, eventually, route},
};
use berth_domain::{Hostname, Revision};
use berth_wire::edge::RouteState;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_cell_of_its_host_and_to_no_other() {
    let world = World::start().await;
    world.control.put(vec![route(2, 1, "other", &[&world.new])]).await;
    for (host, by) in
        [("t1.test", "old"), ("t2.test", "new"), ("T1.TEST", "old"), ("t1.test:80", "old"), ("t1.test.", "old")]
    {
        let answer = world.edge.get(host, "/a?b=c").await;
        assert_eq!((answer.status, answer.by()), (StatusCode::OK, by), "{host}");
        assert!(answer.body.contains("GET /a?b=c\n"), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_learns_nothing_about_who_exists() {
    let world = World::start().await;
    let mut gone = route(2, 1, "shared", &[&world.old]);
    gone.state = RouteState::Gone;
    world.control.put(vec![gone]).await;
    let unknown = world.edge.get("nobody.test", "/").await;
    let gone = world.edge.get("t2.test", "/").await;
    assert_eq!((unknown.status, gone.status), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND));
    let words = |a: &crate::world::Answer| a.body.split(r#","request_id""#).next().unwrap().to_owned();
    assert_eq!(words(&unknown), words(&gone));
    assert!(!unknown.body.contains("t1"), "{}", unknown.body);
    assert!(world.edge.admin("/metrics").await.contains("berth_edge_unknown_host_total 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_answered_403_and_one_without_members_503() {
    let world = World::start().await;
    let mut suspended = route(2, 1, "shared", &[&world.old]);
    suspended.state = RouteState::Suspended;
    world.control.put(vec![suspended, route(3, 1, "empty", &[])]).await;
    let answer = world.edge.get("t2.test", "/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert!(answer.body.contains(r#""code":"suspended""#), "{}", answer.body);
    let answer = world.edge.get("t3.test", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(world.old.state.safe.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_in_berths_name_never_arrives_and_what_the_edge_says_does() {
    let world = World::start().await;
    let request = Request::builder()
        .uri("/")
        .header("host", "t1.test")
        .header("berth-tenant", "evil")
        .header("berth_tenant", "evil")
        .header("Berth-Anything", "evil")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-request-id", "evil")
        .header("connection", "x-private, berth-generation, content-length")
        .header("x-private", "evil")
        .header("te", "trailers")
        .header("proxy", "evil")
        .header("x-mine", "kept")
        .header("cookie", "a=b");
    let answer = world.edge.client().await.send(request.body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.body.contains("evil") && !answer.body.contains("6.6.6.6"), "{}", answer.body);
    let expected = [
        ("berth-tenant", "key-1"),
        ("berth-plan", "starter"),
        ("berth-generation", "1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "t1.test"),
        ("host", "t1.test"),
        ("x-mine", "kept"),
        ("cookie", "a=b"),
    ];
    for (name, value) in expected {
        assert_eq!(answer.sent(name), Some(value), "{name}");
    }
    let id: uuid::Uuid = answer.headers["x-request-id"].to_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(answer.sent("x-request-id"), Some(id.to_string().as_str()));
    for hidden in ["berth-secret", "x-hop"] {
        assert!(!answer.headers.contains_key(hidden), "{hidden}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let world = World::with(|c| c.workers = 1).await;
    let mut client = world.edge.client().await;
    for number in 0..50 {
        let method = if number % 2 == 0 { Method::GET } else { Method::POST };
        assert_eq!(client.ask(method, "t1.test", "/", "body").await.status, StatusCode::OK);
    }
    assert_eq!(world.old.state.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_take_turns_and_a_dead_one_costs_no_request() {
    let world = World::with(|c| c.workers = 1).await;
    let dead = Member::start("dead").await;
    let both = route(1, 1, "shared", &[&world.old, &dead, &world.new]);
    world.control.put(vec![both]).await;
    let mut client = world.edge.client().await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(client.ask(Method::GET, "t1.test", "/", "").await.by().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["dead", "dead", "new", "new", "old", "old"]);
    drop(dead);
    for _ in 0..9 {
        let answer = client.ask(Method::GET, "t1.test", "/", "").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_tenants_bound_is_refused_whether_it_says_its_length_or_not() {
    let world = World::start().await;
    let mut bounded = world.home();
    bounded.body_bytes = Some(10);
    world.control.put(vec![bounded]).await;
    let mut client = world.edge.client().await;
    assert_eq!(client.ask(Method::POST, "t1.test", "/", "0123456789").await.status, StatusCode::OK);
    assert_eq!(client.ask(Method::POST, "t1.test", "/", "0123456789a").await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunked = "POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    assert!(raw(&world.edge, chunked).await.starts_with("HTTP/1.1 413"));
    assert_eq!(world.old.writes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_long_to_keep_streams_through_whole() {
    let world = World::with(|c| c.limits.resend_bytes = 1000).await;
    let body = "x".repeat(300_000);
    let answer = world.edge.client().await.ask(Method::POST, "t1.test", "/", &body).await;
    assert!(answer.body.ends_with("300000 bytes\n"), "{}", answer.body);
    let metrics = world.edge.admin("/metrics").await;
    assert!(metrics.contains("berth_edge_received_bytes_total{tenant=\"t1\"} 300000\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_all_cores_are_added_up_under_the_tenants_name() {
    let world = World::start().await;
    world.control.put(vec![route(2, 1, "empty", &[])]).await;
    for _ in 0..20 {
        world.edge.get("t1.test", "/").await;
    }
    world.edge.get("t2.test", "/").await;
    let metrics = world.edge.admin("/metrics").await;
    for line in [
        "berth_edge_requests_total{tenant=\"t1\",class=\"2xx\"} 20\n",
        "berth_edge_requests_total{tenant=\"t2\",class=\"5xx\"} 1\n",
        "berth_edge_request_seconds_count{tenant=\"t1\"} 20\n",
        "berth_edge_control_connected 1\n",
        "berth_edge_tenants 2\n",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    let health: serde_json::Value = serde_json::from_str(&world.edge.admin("/healthz").await).unwrap();
    assert_eq!((&health["name"], &health["revision"]), (&"north".into(), &2.into()));
    // What a core has handed over is not lost with what it counts next.
    world.edge.get("t1.test", "/").await;
    for _ in 0..2 {
        let metrics = world.edge.admin("/metrics").await;
        assert!(metrics.contains("berth_edge_requests_total{tenant=\"t1\",class=\"2xx\"} 21\n"), "{metrics}");
        assert!(!metrics.contains("tenant=\"other\""), "{metrics}");
    }
    let told = async || (world.control.counted(1), world.control.counted(2));
    eventually("the control plane has all of it", told, |told| *told == (21, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_to_another_tenant_is_not_taken_back_by_the_first_ones_change() {
    let world = World::start().await;
    let mut second = route(2, 1, "own", &[&world.new]);
    second.hosts.push(Hostname::new("t1.test").unwrap());
    world.control.put(vec![second]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    let mut first = world.home();
    first.hosts = vec![Hostname::new("first.test").unwrap()];
    world.control.put(vec![first]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    assert_eq!(world.edge.get("first.test", "/").await.by(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_of_a_lower_generation_is_refused() {
    let world = World::start().await;
    world.control.put(vec![world.moved()]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    world.control.put(vec![world.home()]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    // And one of a lower revision, in an event of a higher one.
    let mut late = route(1, 2, "own", &[&world.old]);
    late.revision = Revision::new(1);
    world.control.publish_at(50, 1, vec![late]);
    world.control.acknowledged(50).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn route_changes_under_load_fail_no_request() {
    let world = World::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (address, stop) = (world.edge.address, Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut client, mut served) = (Client::connect(address).await, 0_usize);
                while !stop.load(Ordering::SeqCst) {
                    let method = if number % 2 == 0 { Method::GET } else { Method::POST };
                    let answer = client.ask(method, "t1.test", "/", "x").await;
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for generation in 1..100 {
        let (cell, member) = if generation % 2 == 0 { ("own", &world.new) } else { ("shared", &world.old) };
        world.control.put(vec![route(1, generation, cell, &[member])]).await;
    }
    let count = || world.old.writes() + world.new.writes();
    let before = count();
    eventually("requests go on", async || count(), |n| *n > before + 100).await;
    stop.store(true, Ordering::SeqCst);
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap();
    }
    let safe = |m: &Member| m.state.safe.load(Ordering::SeqCst);
    assert_eq!(served, count() + safe(&world.old) + safe(&world.new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_an_answer_is_never_sent_again_and_a_read_is_once() {
    let world = World::start().await;
    assert_eq!(world.edge.ask(Method::POST, "t1.test", "/hang-up").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.old.writes(), 1);
    assert_eq!(world.edge.get("t1.test", "/hang-up").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(world.old.state.safe.load(Ordering::SeqCst), 2);
}

/// Everything that the edge answers to these bytes until it closes.
async fn raw(edge: &Running, bytes: &str) -> String {
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_servers_could_read_differently_is_answered_400_and_goes_no_further() {
    let world = World::start().await;
    let bad = [
        ("two hosts", "GET / HTTP/1.1\r\nhost: t1.test\r\nhost: t1.test\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\nx: y\r\n\r\n"),
        ("no host, 1.0", "GET / HTTP/1.0\r\n\r\n"),
        ("another host in the request line", "GET http://t2.test/ HTTP/1.1\r\nhost: t1.test\r\n\r\n"),
        ("bad host", "GET / HTTP/1.1\r\nhost: t1.test/x\r\n\r\n"),
        (
            "length, then chunked",
            "POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked, then length",
            "POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        (
            "not chunked at last",
            "POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        ("bad chunk", "POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
        ("space before the colon", "GET / HTTP/1.1\r\nhost : t1.test\r\n\r\n"),
        ("folded header", "GET / HTTP/1.1\r\nhost: t1.test\r\nx: a\r\n b\r\n\r\n"),
        ("chunked in 1.0", "POST / HTTP/1.0\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ];
    for (what, bytes) in bad {
        let answer = raw(&world.edge, bytes).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{what}: {answer}");
    }
    assert_eq!((world.old.writes(), world.old.state.safe.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doubtful_request_of_a_pipeline_is_the_one_that_is_refused() {
    let world = World::start().await;
    let pipeline = "POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 3\r\n\r\nabc\
                    POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                    POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = raw(&world.edge, pipeline).await;
    assert_eq!((answer.matches("HTTP/1.1 200").count(), answer.matches("HTTP/1.1 400").count()), (2, 1), "{answer}");
    assert_eq!(world.old.writes(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_and_a_silent_connection_are_closed_and_a_waiting_one_is_not() {
    use std::time::Duration;
    let world = World::with(|c| {
        c.limits.header_time = Duration::from_millis(100);
        c.limits.client_idle = Duration::from_millis(200);
    })
    .await;
    let waiting = world.edge.later(Method::GET, "t1.test", "/wait", "");
    world.old.has_waiting(1).await;
    for bytes in ["GET / HTTP/1.1\r\nhost: t1", "", "GET / HTTP/1.1\r\nhost: t1.test\r\n\r\n"] {
        let answer = raw(&world.edge, bytes).await;
        assert_eq!(answer.contains("200 OK"), bytes.ends_with("\r\n\r\n"), "{bytes:?}: {answer}");
    }
    world.old.state.open.send_replace(true);
    assert_eq!(waiting.await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_too_long_is_refused_and_one_of_ordinary_length_is_not() {
    let world = World::start().await;
    for (length, status) in [(8_000, "200"), (100_000, "431")] {
        let padding = "x".repeat(length);
        let request = format!("GET / HTTP/1.1\r\nhost: t1.test\r\nconnection: close\r\nx-long: {padding}\r\n\r\n");
        let answer = raw(&world.edge, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{length}: {answer:.80}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_core_takes_the_next_connection_when_one_has_left() {
    let world = World::with(|c| {
        c.workers = 1;
        c.limits.connections = 2;
    })
    .await;
    let (mut first, second) = (world.edge.client().await, world.edge.client().await);
    assert_eq!(first.ask(Method::GET, "t1.test", "/", "").await.status, StatusCode::OK);
    let third = world.edge.later(Method::GET, "t1.test", "/", "");
    drop(second);
    assert_eq!(third.await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_core_takes_the_next_connection_of_http_2_when_one_has_left() {
    let world = World::with(|c| (c.workers, c.limits.connections) = (1, 2)).await;
    let ask = || Request::get("http://t1.test/").body(nothing()).unwrap();
    let (mut first, mut second) = (http2(world.edge.address).await, http2(world.edge.address).await);
    for client in [&mut first, &mut second] {
        assert_eq!(client.send_request(ask()).await.unwrap().status(), StatusCode::OK);
    }
    let mut third = http2(world.edge.address).await;
    let third = tokio::spawn(async move { third.send_request(ask()).await.unwrap().status() });
    assert_eq!(first.send_request(ask()).await.unwrap().status(), StatusCode::OK);
    assert!(world.edge.admin("/metrics").await.contains("berth_edge_connections 2\n") && !third.is_finished());
    drop(second);
    assert_eq!(third.await.unwrap(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_of_http_2_together_have_no_more_requests_under_way_than_there_may_be_connections() {
    let world = World::with(|c| (c.workers, c.limits.connections) = (1, 4)).await;
    let ask = |path: &str| Request::get(format!("http://t1.test{path}")).body(nothing()).unwrap();
    let mut clients = [http2(world.edge.address).await, http2(world.edge.address).await];
    let mut open = Vec::new();
    for client in &mut clients {
        for _ in 0..2 {
            let mut events = client.send_request(ask("/events")).await.unwrap().into_body();
            assert_eq!(data(&mut events).await, "data: 1\n\n");
            open.push(events);
        }
    }
    // Whoever asks for one more, on a connection that has some or on one that has none.
    let mut late = http2(world.edge.address).await;
    for client in [&mut clients[0], &mut late] {
        let mut answer = client.send_request(ask("/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
        assert!(data(answer.body_mut()).await.windows(6).any(|part| part == b"\"busy\""));
    }
    assert!(world.edge.admin("/metrics").await.contains("berth_edge_refused_total 2\n"));
    assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK, "HTTP/1.1 has a connection for each");
    drop(open.pop());
    let asked = tokio::sync::Mutex::new(late);
    let status = async || asked.lock().await.send_request(ask("/")).await.unwrap().status();
    eventually("there is room again", status, |status| *status == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_hangs_up_at_once_is_not_asked_for_ever() {
    let world = World::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut rude = world.home();
    rude.members[0].address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    world.control.put(vec![rude]).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(world.edge.ask(method, "t1.test", "/").await.status, StatusCode::BAD_GATEWAY);
    }
}
