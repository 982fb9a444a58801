//! Routes in polls: each answer is whole, nothing is said twice, and a proxy that keeps streams back costs no change.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_control::{Scope, edge_polls};
use berth_domain::{EdgeId, Revision};
use berth_edge::{Edge, EdgeConfig, Limits};
use berth_testkit::wait_until;
use berth_wire::{TenantHosts, edge::EdgeEvent};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
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
    world.tenant(name, "starter", &format!("{name}.test"), None).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_begins_anew_brings_the_routes_too_however_long_they_are_read() {
    let world = World::new().await;
    tenant(&world, "acme").await;
    let (instance, client) = (EdgeId::new(Uuid::now_v7()), world.control.connect(berth_infra::Role::Owner).await);
    let mut after = Revision::default();
    // As where each poll meets another server: none knows the token of the last answer.
    for n in 0..3 {
        let hosts = TenantHosts { hosts: vec![format!("n{n}.acme.test").parse().unwrap()] };
        world.client().tenant_set_hosts("acme", &hosts, None).await.unwrap();
        client.batch_execute("BEGIN; LOCK TABLE routes IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let unlocks = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.batch_execute("COMMIT").await.unwrap();
        };
        let token = Uuid::now_v7().to_string();
        let ((events, _), ()) = tokio::join!(poll(&world, instance, after, 10_000, &token), unlocks);
        assert!(events.iter().any(|event| matches!(event, EdgeEvent::Settings { .. })), "{events:?}");
        let routes = events.iter().find_map(|event| match event {
            EdgeEvent::Routes { full, revision, routes } => Some((*full, *revision, routes)),
            _ => None,
        });
        let (full, revision, routes) = routes.unwrap_or_else(|| panic!("no routes in {events:?}"));
        assert_eq!((full, routes[0].hosts[0].to_string()), (n == 0, format!("n{n}.acme.test")));
        after = revision;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_polls_of_an_edge_than_it_has_processes_are_refused() {
    let world = World::new().await;
    let asks = async |edge: &str| {
        let instance = Uuid::now_v7();
        world.raw(&format!("GET /v1/edges/{edge}/routes?instance={instance}&wait_ms=0 HTTP/1.1"), b"").await
    };
    for _ in 0..edge_polls::OF_ONE_MOST {
        let (status, text) = asks("fra").await;
        assert_eq!(status, 200, "{text}");
    }
    let (status, text) = asks("fra").await;
    assert!(status == 503 && text.contains("too_many_polls") && text.contains("find who else"), "{text}");
    assert_eq!(asks("ams").await.0, 200, "another edge has its own");
}

/// Lets answers through that say how long they are. Of others the head, and the rest not until `passes`.
struct Proxy {
    address: SocketAddr,
    /// Answers that did not say it. The first `cut` of them were cut.
    streams: Arc<AtomicUsize>,
    passes: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(to: SocketAddr, cut: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), streams: Arc::default(), passes: Arc::default() };
        let (streams, passes) = (Arc::clone(&proxy.streams), Arc::clone(&proxy.passes));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, Arc::clone(&streams), Arc::clone(&passes), cut));
            }
        });
        proxy
    }
}

async fn carry(client: TcpStream, to: SocketAddr, streams: Arc<AtomicUsize>, passes: Arc<AtomicBool>, cut: usize) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asks = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        let (mut head, mut kept_back) = (Vec::new(), None);
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            if kept_back.is_none() {
                head.extend_from_slice(&buffer[..n]);
                let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                let endless = text.contains("transfer-encoding");
                if endless && streams.fetch_add(1, Ordering::SeqCst) < cut {
                    return;
                }
                let keeps = endless && !passes.load(Ordering::SeqCst);
                kept_back = Some(keeps);
                let shown = if keeps { &head[..end + 4] } else { &head[..] };
                if to_client.write_all(shown).await.is_err() {
                    return;
                }
            } else if kept_back == Some(false) && to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asks => {}
        () = answers => {}
    }
}

/// An edge that reaches control through the proxy.
async fn edge_behind(world: &World, proxy: &Proxy, data_dir: &Path, limits: Limits) -> Edge {
    Edge::bind(EdgeConfig {
        name: "fra".parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_tls: None,
        admin: "127.0.0.1:0".parse().unwrap(),
        control_urls: vec![format!("http://{}", proxy.address)],
        control_authorities: None,
        api_key: world.key(Scope::Edge).await,
        data_dir: data_dir.to_owned(),
        workers: 1,
        request_log: None,
        geo_database: None,
        second_names: false,
        limits,
    })
    .unwrap()
}

/// Gives the tenant another host. Answers with how long the edge did not know it.
async fn told_of(world: &World, edge: SocketAddr, host: &str) -> Duration {
    let hosts = TenantHosts { hosts: vec![host.parse().unwrap()] };
    world.client().tenant_set_hosts("acme", &hosts, None).await.unwrap();
    let began = Instant::now();
    while asked(edge, host, "/").await.starts_with("HTTP/1.1 404") {
        assert!(began.elapsed() < Duration::from_secs(20), "the change does not arrive");
    }
    began.elapsed()
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
    let proxy = Proxy::start(world.address, 0).await;
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { feed_silence: Duration::from_secs(1), ..Limits::default() };
    let edge = edge_behind(&world, &proxy, folder.path(), limits).await;
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
        took.push(told_of(&world, http, &format!("n{n}.acme.test")).await);
    }
    took.sort_unstable();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    let edges = async || world.client().edges().await.unwrap();
    wait_until("its acknowledgements arrive", edges, |edges| edges[0].alive && edges[0].behind == 0).await;
    drop(stop);
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_tried_beside_the_polls_and_followed_once_it_lives() {
    let world = World::new().await;
    tenant(&world, "acme").await;
    let proxy = Proxy::start(world.address, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let limits =
        Limits { feed_silence: Duration::from_secs(8), polls_for: Duration::from_secs(1), ..Limits::default() };
    let edge = edge_behind(&world, &proxy, folder.path(), limits).await;
    let (http, admin) = (edge.address(), edge.admin_address());
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(edge.run(async { drop(stopped.await) }));
    let page = async || asked(admin, "localhost", "/metrics").await;
    let says = |page: &String, polls: u8| {
        page.contains(&format!("\nberth_edge_control_polls {polls}\n"))
            && page.contains("\nberth_edge_control_connected 1\n")
    };
    wait_until("routes are polled", page, |page| says(page, 1)).await;

    // The third stream is kept back for as long as it is waited for, and then a fourth one is tried.
    let mut n = 0;
    while proxy.streams.load(Ordering::SeqCst) < 4 {
        let took = told_of(&world, http, &format!("n{n}.acme.test")).await;
        // Who waited for the silent stream would hear of nothing for eight seconds.
        assert!(took < Duration::from_secs(7), "{took:?}");
        n += 1;
    }
    assert!(n > 1 && says(&page().await, 1));

    proxy.passes.store(true, Ordering::SeqCst);
    wait_until("a stream is followed", page, |page| says(page, 0)).await;
    let took = told_of(&world, http, "last.acme.test").await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(says(&page().await, 0));
    drop(stop);
    running.await.unwrap().unwrap();
}
