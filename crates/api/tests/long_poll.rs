//! Routes in polls: each answer is whole, nothing is said twice, and a proxy that keeps streams back costs no change.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_control::Scope;
use berth_domain::{EdgeId, Revision};
use berth_edge::{Edge, EdgeConfig, Limits};
use berth_testkit::wait_until;
use berth_wire::{TenantCreate, TenantHosts, edge::EdgeEvent};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use uuid::Uuid;
use world::World;

async fn tenant(world: &World, name: &str) {
    let wanted = TenantCreate {
        name: name.parse().unwrap(),
        plan: "starter".parse().unwrap(),
        hosts: vec![format!("{name}.test").parse().unwrap()],
        key: None,
        cell: None,
    };
    let begun = world.client().tenant_create(&wanted).await.unwrap();
    world.finishes(begun.id).await;
}

/// The events of one poll, and what the next one repeats.
async fn poll(world: &World, instance: EdgeId, after: Revision, wait_ms: u32, heard: &str) -> (Vec<EdgeEvent>, String) {
    let heard = if heard.is_empty() { String::new() } else { format!("&poll={heard}") };
    let path = format!("/v1/edges/fra/routes?instance={instance}&after={after}&wait_ms={wait_ms}{heard}");
    let (status, text) = world.raw(&format!("GET {path} HTTP/1.1\r\nberth-edge-speaks: 2"), b"").await;
    assert_eq!(status, 200, "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "an answer that ends says its length: {head}");
    let token =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("berth-edge-poll: ").map(str::to_owned));
    (body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), token.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_ends_with_what_there_is_and_the_next_one_says_only_what_is_new() {
    let world = World::new().await;
    tenant(&world, "acme").await;
    let instance = EdgeId::new(Uuid::now_v7());

    // All there is, at once, in one answer or more.
    let (mut said, mut token) = (Vec::new(), String::new());
    let began = Instant::now();
    while !said.iter().any(|event| matches!(event, EdgeEvent::Routes { .. })) {
        let (events, next) = poll(&world, instance, Revision::default(), 10_000, &token).await;
        assert!(!events.is_empty() && began.elapsed() < Duration::from_secs(5), "{said:?}");
        said.extend(events);
        token = next;
    }
    assert!(matches!(said[0], EdgeEvent::Settings { .. }), "{said:?}");
    let EdgeEvent::Routes { full: true, revision, routes } = said.last().unwrap() else { panic!("{said:?}") };
    assert_eq!(routes[0].name.as_str(), "acme");
    let revision = *revision;

    // Nothing new: nothing, after the wait.
    let began = Instant::now();
    let (events, token) = poll(&world, instance, revision, 300, &token).await;
    assert!(events.is_empty() && began.elapsed() >= Duration::from_millis(290), "{events:?}");

    // A change ends the wait.
    let client = world.client();
    let change = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let hosts = vec!["new.acme.test".parse().unwrap()];
        client.tenant_set_hosts("acme", &TenantHosts { hosts }, None).await.unwrap();
    };
    let began = Instant::now();
    let ((events, _lost), ()) = tokio::join!(poll(&world, instance, revision, 10_000, &token), change);
    assert!(began.elapsed() < Duration::from_secs(4), "it is said when it happens");
    let new = |events: &[EdgeEvent]| {
        let of = |event: &EdgeEvent| match event {
            EdgeEvent::Routes { routes, .. } => routes.iter().any(|route| route.hosts[0].as_str() == "new.acme.test"),
            _ => false,
        };
        events.iter().any(of)
    };
    assert!(new(&events), "{events:?}");

    // Its answer is lost: who repeats the token before is told it again, from what it has.
    let (mut again, mut token) = (Vec::new(), token);
    while !new(&again) {
        let (events, next) = poll(&world, instance, revision, 10_000, &token).await;
        again.extend(events);
        token = next;
    }
    assert!(matches!(again[0], EdgeEvent::Settings { .. }), "who heard nothing knows nothing: {again:?}");

    let path = format!("GET /v1/edges/fra/routes?instance={instance}&wait_ms=soon HTTP/1.1");
    assert!([400, 422].contains(&world.raw(&path, b"").await.0));
}

/// Lets answers through that say how long they are. Of others the head, and the rest never.
async fn keeps_streams_back(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let asks = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
                let answers = async {
                    let mut buffer = vec![0; 64 << 10];
                    let (mut head, mut stream) = (Vec::new(), None);
                    while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                        if stream.is_none() {
                            head.extend_from_slice(&buffer[..n]);
                            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                            let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                            let endless = text.contains("transfer-encoding");
                            stream = Some(endless);
                            let shown = if endless { &head[..end + 4] } else { &head[..] };
                            if to_client.write_all(shown).await.is_err() {
                                return;
                            }
                        } else if stream == Some(false) && to_client.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = asks => {}
                    () = answers => {}
                }
            });
        }
    });
    address
}

async fn asked(address: SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_that_keeps_streams_back_an_edge_hears_of_a_change_within_a_second() {
    let world = World::new().await;
    tenant(&world, "acme").await;
    let proxy = keeps_streams_back(world.address).await;
    let folder = tempfile::tempdir().unwrap();
    let edge = Edge::bind(EdgeConfig {
        name: "fra".parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_tls: None,
        admin: "127.0.0.1:0".parse().unwrap(),
        control_urls: vec![format!("http://{proxy}")],
        control_authorities: None,
        api_key: world.key(Scope::Edge).await,
        data_dir: folder.path().to_owned(),
        workers: 1,
        request_log: None,
        geo_database: None,
        second_names: false,
        limits: Limits { feed_silence: Duration::from_secs(1), ..Limits::default() },
    })
    .unwrap();
    let (http, admin) = (edge.address(), edge.admin_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(edge.run(async { drop(stopped.await) }));

    let known = async || !asked(http, "acme.test", "/").await.starts_with("HTTP/1.1 404");
    wait_until("the edge has the route", known, |known| *known).await;
    let page = asked(admin, "localhost", "/metrics").await;
    assert!(
        page.contains("\nberth_edge_control_polls 1\n") && page.contains("\nberth_edge_control_connected 1\n"),
        "{page}"
    );

    let mut took = Vec::new();
    for n in 0..5 {
        let host = format!("n{n}.acme.test");
        let hosts = TenantHosts { hosts: vec![host.parse().unwrap()] };
        world.client().tenant_set_hosts("acme", &hosts, None).await.unwrap();
        let began = Instant::now();
        while asked(http, &host, "/").await.starts_with("HTTP/1.1 404") {
            assert!(began.elapsed() < Duration::from_secs(20), "the change does not arrive");
        }
        took.push(began.elapsed());
    }
    took.sort_unstable();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    let edges = async || world.client().edges().await.unwrap();
    wait_until("its acknowledgements arrive", edges, |edges| edges[0].alive && edges[0].behind == 0).await;
    drop(stop);
    running.await.unwrap().unwrap();
}
