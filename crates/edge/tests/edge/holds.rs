//! Holding and releasing: what is parked, what goes on, what is counted.

use crate::{
    echo::{Echo, Tongue, until},
    world::{Control, PATIENCE, Running, World, config, eventually, held},
};
use berth_wire::edge::{HoldOutcome, HoldPolicy, RouteState};
use http::{Method, StatusCode};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_parks_what_may_write_and_the_next_route_sends_it_to_the_new_cell() {
    let world = World::start().await;
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    let parked: Vec<_> = (0..40).map(|_| world.edge.later(Method::POST, "t1.test", "/", "x")).collect();
    world.edge.parked("t1", 40).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "old", "safe requests go on to the source");
    world.control.put(vec![world.moved()]).await;
    for answer in parked {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.by(), answer.sent("berth-generation")), (StatusCode::OK, "new", Some("2")));
    }
    assert_eq!((world.old.writes(), world.new.writes()), (0, 40));
    let (held, expired, pause_ms) = world.control.ended(7).await;
    assert_eq!((held, expired), (40, 0));
    assert!(pause_ms > 0.0, "{pause_ms}");
    assert_eq!(world.control.outcomes(7).len(), 2, "one report in force, one at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_everything_parks_reads_too() {
    let world = World::start().await;
    let mut all = held(world.home(), 7, 50, 20_000);
    let RouteState::Held { hold } = &mut all.state else { unreachable!() };
    hold.policy = HoldPolicy::All;
    world.control.put(vec![all]).await;
    world.control.in_force(7).await;
    let read = world.edge.later(Method::GET, "t1.test", "/", "");
    world.edge.parked("t1", 1).await;
    world.control.put(vec![world.moved()]).await;
    assert_eq!(read.await.unwrap().by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_in_flight_longer_than_the_drain_time_refuses_the_hold_and_frees_the_parked() {
    let world = World::start().await;
    let slow = world.edge.later(Method::POST, "t1.test", "/wait", "x");
    world.old.has_waiting(1).await;
    world.control.put(vec![held(world.home(), 7, 300, 20_000)]).await;
    let parked = world.edge.later(Method::POST, "t1.test", "/", "x");
    let outcome = world.control.outcome(7, |_| true).await;
    assert_eq!(outcome, HoldOutcome::Refused { in_flight: 1 });
    assert_eq!(parked.await.unwrap().by(), "old");
    assert_eq!(world.edge.ask(Method::POST, "t1.test", "/").await.by(), "old", "nothing is parked any more");
    // The same order again is the same hold, and still refused.
    world.control.put(vec![held(world.home(), 7, 300, 20_000)]).await;
    eventually(
        "the refusal is said again",
        async || world.control.outcomes(7),
        |all| all.len() == 2 && all.iter().all(|o| *o == HoldOutcome::Refused { in_flight: 1 }),
    )
    .await;
    world.old.state.open.send_replace(true);
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    // Another token is another hold.
    world.control.put(vec![held(world.home(), 8, 300, 20_000)]).await;
    world.control.in_force(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_ends_in_time_is_waited_for() {
    let world = World::start().await;
    let slow = world.edge.later(Method::POST, "t1.test", "/wait", "x");
    world.old.has_waiting(1).await;
    world.control.put(vec![held(world.home(), 7, 20_000, 20_000)]).await;
    assert_eq!(world.control.outcomes(7), [], "not in force while a write is in flight");
    world.old.state.open.send_replace(true);
    world.control.in_force(7).await;
    assert_eq!(slow.await.unwrap().by(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_went_away_is_still_in_flight() {
    let world = World::start().await;
    let slow = world.edge.later(Method::POST, "t1.test", "/wait", "x");
    world.old.has_waiting(1).await;
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    let metric = async || {
        world.edge.admin("/metrics").await.lines().find(|l| l.starts_with("berth_edge_connections ")).map(str::to_owned)
    };
    eventually("the client is gone", metric, |l| l.as_deref() == Some("berth_edge_connections 0")).await;
    world.control.put(vec![held(world.home(), 7, 20_000, 20_000)]).await;
    assert_eq!(world.control.outcomes(7), []);
    assert_eq!(world.old.state.waiting.load(Ordering::SeqCst), 1);
    world.old.state.open.send_replace(true);
    world.control.in_force(7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_is_not_in_flight_until_it_is_whole() {
    let world = World::start().await;
    let mut slow = TcpStream::connect(world.edge.address).await.unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 4\r\nconnection: close\r\n\r\nab")
        .await
        .unwrap();
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    slow.write_all(b"cd").await.unwrap();
    world.edge.parked("t1", 1).await;
    world.control.put(vec![world.moved()]).await;
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("new POST /"), "{answer}");
}

const DRIPPING: &[u8] = b"POST / HTTP/1.1\r\nhost: t1.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_streams_makes_way_for_a_hold_when_it_has_had_its_time() {
    let world = World::with(|c| c.limits.body_time = Duration::from_secs(10)).await;
    let (listener, mut home) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), world.home());
    home.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![home.clone()]).await;
    let mut slow = TcpStream::connect(world.edge.address).await.unwrap();
    slow.write_all(DRIPPING).await.unwrap();
    let (mut member, _) = listener.accept().await.unwrap();
    until(&mut member, "1\r\na\r\n").await;
    world.control.put(vec![held(home.clone(), 7, 50, 20_000)]).await;
    assert_eq!(world.control.outcome(7, |_| true).await, HoldOutcome::Refused { in_flight: 1 });
    tokio::time::sleep(Duration::from_secs(10)).await;
    // While nobody waits for it, it goes on.
    slow.write_all(b"1\r\nb\r\n").await.unwrap();
    until(&mut member, "1\r\nb\r\n").await;
    world.control.put(vec![held(home, 8, 10_000, 20_000)]).await;
    world.control.in_force(8).await;
    let answer = until(&mut slow, "\"moving\"").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_when_the_hold_waits_for_something_else_too_or_not_for_it() {
    let world = World::with(|c| (c.workers, c.limits.body_time) = (1, Duration::from_millis(500))).await;
    let (listener, mut home) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), world.home());
    home.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![home.clone()]).await;
    let begin = async |head: &str, last: &str| {
        let mut client = TcpStream::connect(world.edge.address).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut member, _) = listener.accept().await.unwrap();
        until(&mut member, last).await;
        (client, member)
    };
    let dripping = std::str::from_utf8(DRIPPING).unwrap();
    let (mut upload, mut takes) = begin(dripping, "1\r\na\r\n").await;
    let (mut question, mut hears) = begin(&dripping.replace("POST", "GET"), "1\r\na\r\n").await;
    let write = "POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 1\r\n\r\nx";
    let (mut write, mut answers) = begin(write, "\r\n\r\nx").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The write is in its time, so that nothing is won by cutting the upload.
    world.control.put(vec![held(home.clone(), 7, 300, 20_000)]).await;
    assert_eq!(world.control.outcome(7, |_| true).await, HoldOutcome::Refused { in_flight: 2 });
    upload.write_all(b"1\r\nb\r\n").await.unwrap();
    until(&mut takes, "1\r\nb\r\n").await;
    // It ends while the next hold waits for both.
    world.control.put(vec![held(home, 8, 10_000, 20_000)]).await;
    assert_eq!(world.control.outcomes(8), []);
    answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert!(until(&mut write, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    world.control.in_force(8).await;
    assert!(until(&mut upload, "\"moving\"").await.starts_with("HTTP/1.1 503"));
    question.write_all(b"1\r\nb\r\n").await.unwrap();
    until(&mut hears, "1\r\nb\r\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on_when_the_hold_waits_for_something_else_on_another_core() {
    let world = World::with(|c| (c.workers, c.limits.body_time) = (4, Duration::from_millis(500))).await;
    let (listener, mut home) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), world.home());
    home.members[0].address = listener.local_addr().unwrap().to_string();
    world.control.put(vec![home.clone()]).await;
    // The kernel spreads them: that all of them come to the core of the write is one case in 4,000,000.
    let mut uploads = Vec::new();
    for _ in 0..11 {
        let mut client = TcpStream::connect(world.edge.address).await.unwrap();
        client.write_all(DRIPPING).await.unwrap();
        let (mut member, _) = listener.accept().await.unwrap();
        until(&mut member, "1\r\na\r\n").await;
        uploads.push((client, member));
    }
    let mut write = TcpStream::connect(world.edge.address).await.unwrap();
    write.write_all(b"POST / HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    let (mut answers, _) = listener.accept().await.unwrap();
    until(&mut answers, "\r\n\r\nx").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    world.control.put(vec![held(home.clone(), 7, 300, 20_000)]).await;
    assert!(matches!(world.control.outcome(7, |_| true).await, HoldOutcome::Refused { .. }));
    for (client, member) in &mut uploads {
        client.write_all(b"1\r\nb\r\n").await.unwrap();
        until(member, "1\r\nb\r\n").await;
    }
    world.control.put(vec![held(home, 8, 10_000, 20_000)]).await;
    assert_eq!(world.control.outcomes(8), []);
    answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    world.control.in_force(8).await;
    for (client, _) in &mut uploads {
        assert!(until(client, "\"moving\"").await.starts_with("HTTP/1.1 503"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_makes_way_for_a_hold_when_it_has_had_its_time() {
    let world = World::with(|c| c.limits.body_time = Duration::from_millis(500)).await;
    let (echo, mut home) = (Echo::start(Tongue::Http1).await, world.home());
    home.members = vec![echo.wire("")];
    world.control.put(vec![home.clone()]).await;
    let mut talk = TcpStream::connect(world.edge.address).await.unwrap();
    talk.write_all(DRIPPING).await.unwrap();
    until(&mut talk, "1\r\na\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.control.put(vec![held(home, 7, 10_000, 20_000)]).await;
    world.control.in_force(7).await;
    let mut rest = String::new();
    let _ = talk.read_to_string(&mut rest).await;
    assert_eq!(rest, "", "cut, and not ended as if it were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_answers_a_write_is_waited_for_as_an_upload_is_and_is_cut_by_the_move() {
    let world = World::with(|c| c.limits.body_time = Duration::from_secs(5)).await;
    let mut stream = TcpStream::connect(world.edge.address).await.unwrap();
    stream.write_all(b"POST /events HTTP/1.1\r\nhost: t1.test\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    until(&mut stream, "data: 1\n\n\r\n").await;
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    assert_eq!(
        world.control.outcome(7, |_| true).await,
        HoldOutcome::Refused { in_flight: 1 },
        "it may be a short one"
    );
    world.control.put(vec![held(world.home(), 8, 15_000, 20_000)]).await;
    world.control.in_force(8).await;
    world.control.put(vec![world.moved()]).await;
    let mut rest = String::new();
    let _ = timeout(PATIENCE, stream.read_to_string(&mut rest)).await.expect("it ends after the move");
    assert_eq!(rest, "", "cut, and not ended as if it were whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_bound_and_over_the_time_parked_requests_are_answered_503() {
    let world = World::with(|c| {
        c.limits.park_requests = 3;
        c.limits.park_bytes = 100;
    })
    .await;
    world.control.put(vec![held(world.home(), 7, 50, 400)]).await;
    world.control.in_force(7).await;
    let too_long = world.edge.client().await.ask(Method::POST, "t1.test", "/", &"x".repeat(101)).await;
    assert_eq!(too_long.status, StatusCode::SERVICE_UNAVAILABLE);
    let asked: Vec<_> = (0..10).map(|_| world.edge.later(Method::POST, "t1.test", "/", "x")).collect();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers["retry-after"], "1");
    }
    world.edge.parked("t1", 3).await;
    world.control.put(vec![world.moved()]).await;
    let (held, expired, pause_ms) = world.control.ended(7).await;
    assert_eq!((held, expired), (3, 3));
    assert!(pause_ms.abs() < f64::EPSILON, "nothing was sent on, so no pause ended: {pause_ms}");
    assert_eq!((world.old.writes(), world.new.writes()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_sends_the_parked_to_where_they_were_going() {
    let world = World::start().await;
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    let parked = world.edge.later(Method::POST, "t1.test", "/", "x");
    world.edge.parked("t1", 1).await;
    world.control.put(vec![world.home()]).await;
    assert_eq!(parked.await.unwrap().by(), "old");
    assert_eq!(world.control.ended(7).await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_takes_the_hold_over_and_its_end_tells_the_whole_pause() {
    let world = World::start().await;
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    world.control.in_force(7).await;
    let first = world.edge.later(Method::POST, "t1.test", "/", "x");
    world.edge.parked("t1", 1).await;
    world.control.put(vec![held(world.home(), 8, 50, 20_000)]).await;
    world.control.in_force(8).await;
    let second = world.edge.later(Method::POST, "t1.test", "/", "x");
    world.edge.parked("t1", 2).await;
    world.control.put(vec![world.moved()]).await;
    assert_eq!((first.await.unwrap().by(), second.await.unwrap().by()), ("new", "new"));
    assert_eq!(world.control.ended(8).await.0, 2);
    assert_eq!(world.control.outcomes(7), [HoldOutcome::InForce]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fence_refused_waits_for_the_new_generation_and_is_sent_once_more() {
    let world = World::start().await;
    world.old.state.fenced.store(2, Ordering::SeqCst);
    let writes: Vec<_> = (0..5).map(|_| world.edge.later(Method::POST, "t1.test", "/", "x")).collect();
    world.edge.parked("t1", 5).await;
    world.control.put(vec![world.moved()]).await;
    for answer in writes {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.by()), (StatusCode::OK, "new"));
    }
    assert_eq!((world.old.state.refused.load(Ordering::SeqCst), world.new.writes()), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fence_refused_is_bounded_on_all_cores_together() {
    let world = World::with(|c| {
        c.workers = 4;
        c.limits.park_requests = 3;
        c.limits.fence_park = Duration::from_mins(1);
    })
    .await;
    world.old.state.fenced.store(2, Ordering::SeqCst);
    let writes: Vec<_> = (0..16).map(|_| world.edge.later(Method::POST, "t1.test", "/", "x")).collect();
    let answered = async || writes.iter().filter(|write| write.is_finished()).count();
    eventually("all but those that may be parked are answered", answered, |answered| *answered == 13).await;
    world.edge.parked("t1", 3).await;
    world.control.put(vec![world.moved()]).await;
    let mut sent_on = 0;
    for write in writes {
        let answer = write.await.unwrap();
        match answer.status {
            StatusCode::OK => sent_on += 1,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    assert_eq!((sent_on, world.new.writes()), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fence_refused_twice_or_for_too_long_is_answered_503_without_berths_words() {
    let world = World::with(|c| {
        c.limits.fence_park = Duration::from_millis(200);
        c.limits.resend_bytes = 10;
    })
    .await;
    world.old.state.fenced.store(2, Ordering::SeqCst);
    world.new.state.fenced.store(2, Ordering::SeqCst);
    let late = world.edge.ask(Method::POST, "t1.test", "/").await;
    assert!(late.body.contains(r#""code":"moving""#), "{}", late.body);
    let long = world.edge.client().await.ask(Method::POST, "t1.test", "/", "more than ten bytes").await;
    assert!(long.body.contains(r#""code":"moved""#), "{}", long.body);
    let before = world.old.state.refused.load(Ordering::SeqCst);
    assert_eq!(before, 2);
    world.control.put(vec![world.moved()]).await;
    let twice = world.edge.ask(Method::POST, "t1.test", "/").await;
    assert!(twice.body.contains(r#""code":"moved""#), "{}", twice.body);
    for answer in [late, long, twice] {
        assert_eq!(
            (answer.status, &answer.headers["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert!(!answer.headers.contains_key("berth-fenced"));
    }
    assert_eq!(world.new.state.refused.load(Ordering::SeqCst), 2, "sent once more, not for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edges_that_held_neither_serves_the_old_cell_once_one_has_the_new_generation() {
    let world = World::start().await;
    // The other edge follows another server of the same control plane.
    let (control, dir) = (Control::start().await, tempfile::tempdir().unwrap());
    let mut settings = config(&control, dir.path());
    settings.name = "south".parse().unwrap();
    let mut south = Running::start(settings);
    control.put(vec![world.home()]).await;
    assert_eq!(south.get("t1.test", "/").await.by(), "old");

    let order = |park_ms| {
        let mut all = held(world.home(), 7, 50, park_ms);
        let RouteState::Held { hold } = &mut all.state else { unreachable!() };
        hold.policy = HoldPolicy::All;
        all
    };
    world.control.put(vec![order(20_000)]).await;
    control.put(vec![order(300)]).await;
    world.control.in_force(7).await;
    control.in_force(7).await;
    let before = (world.old.writes(), world.old.state.safe.load(Ordering::SeqCst));
    // The second one hears nothing more; the first one gets generation 2.
    control.die().await;
    world.control.put(vec![world.moved()]).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(world.edge.ask(method.clone(), "t1.test", "/").await.by(), "new");
        let waits = south.ask(method, "t1.test", "/").await;
        assert_eq!(waits.status, StatusCode::SERVICE_UNAVAILABLE, "{}", waits.body);
        assert!(waits.headers.contains_key("retry-after"));
    }
    // Begun anew from its disk it holds on.
    south.stop().await;
    let mut settings = config(&control, dir.path());
    settings.name = "south".parse().unwrap();
    let south = Running::start(settings);
    for method in [Method::GET, Method::POST] {
        assert_eq!(south.ask(method, "t1.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(
        (world.old.writes(), world.old.state.safe.load(Ordering::SeqCst)),
        before,
        "nobody reached the old cell"
    );

    // It hears of generation 2, and an older word that comes after it is refused by both.
    control.rise();
    control.put(vec![world.moved()]).await;
    for (control, edge) in [(&world.control, &world.edge), (&control, &south)] {
        let stale = control.publish(vec![world.home()]);
        control.acknowledged(stale).await;
        for method in [Method::GET, Method::POST] {
            assert_eq!(edge.ask(method, "t1.test", "/").await.by(), "new");
        }
    }
    assert_eq!((world.old.writes(), world.old.state.safe.load(Ordering::SeqCst)), before);
}
