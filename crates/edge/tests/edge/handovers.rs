//! One process of an edge follows another under load: no request fails, no WebSocket ends, and moves wait for both.
//!
//! `BERTH_PROGRAM` names a `berth` to run as processes of its own, restarted by the signal that people use;
//! `BERTH_RESTARTS`, `BERTH_SOCKETS` and `BERTH_CHANGES` say how much. Without them edges of this process follow each other.

use crate::{
    limits::limited,
    tls,
    world::{Client, Control, Member, PATIENCE, Running, World, config, eventually, held, route},
};
use berth_edge::{Edge, EdgeConfig};
use berth_wire::edge::{EdgeEvent, HoldOutcome, Presence, TenantRoute};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::TLS13;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    process::{Child, Command},
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};

fn number(name: &str, usual: usize) -> usize {
    std::env::var_os(name).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(usual)
}

/// The processes of one edge: the last one serves, the others are leaving.
enum Edges {
    Here(Vec<Running>),
    /// Started once; each further process is the child of the one before.
    Program(Child, u32),
}

impl Edges {
    fn start(control: &Control, dir: &Path, program: Option<&str>) -> (Self, SocketAddr, SocketAddr) {
        let Some(program) = program else {
            let edge = Running::start(config(control, dir));
            let (address, admin) = (edge.address, edge.admin);
            return (Self::Here(vec![edge]), address, admin);
        };
        let free = || SocketAddr::from(([127, 0, 0, 1], berth_testkit::free_port()));
        let (address, admin) = (free(), free());
        let child = Command::new(program)
            .args(["edge", "--name", "north", "--workers", "2", "--listen", &address.to_string()])
            .args(["--admin", &admin.to_string(), "--control", &format!("http://{}", control.address)])
            .arg("--data-dir")
            .arg(dir)
            .env("BERTH_API_KEY", "bk_test")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        (Self::Program(child, pid), address, admin)
    }

    async fn restart(&mut self, control: &Control, dir: &Path, address: SocketAddr, admin: SocketAddr) {
        match self {
            Self::Here(all) => {
                let mut config = config(control, dir);
                (config.listen, config.admin) = (address, admin);
                all.push(follow(config).await);
            }
            Self::Program(_, pid) => {
                signal("HUP", *pid).await;
                let old = *pid;
                *pid = eventually(
                    "another process serves",
                    async || at(admin).await,
                    |seen| seen.is_some_and(|pid| pid != old),
                )
                .await
                .unwrap();
            }
        }
    }

    async fn end(self) {
        match self {
            Self::Here(mut all) => {
                all.pop().unwrap().stop().await;
                for mut old in all {
                    tokio::time::timeout(PATIENCE, old.ended()).await.expect("it goes with its last connection");
                }
            }
            Self::Program(mut first, pid) => {
                tokio::time::timeout(PATIENCE, first.wait()).await.expect("it goes with its last connection").unwrap();
                signal("TERM", pid).await;
            }
        }
    }
}

/// Takes over from the edge that runs there, and returns when it serves.
async fn follow(config: EdgeConfig) -> Running {
    // The other one answers on this runtime.
    let edge = spawn_blocking(|| Edge::take_over(config)).await.unwrap().unwrap();
    let (ready, served) = oneshot::channel();
    let edge = edge.ok().unwrap().when_ready(|| ready.send(()).unwrap());
    let running = Running::run(edge);
    served.await.unwrap();
    running
}

async fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().await.unwrap().success());
}

/// Who answers there.
async fn at(admin: SocketAddr) -> Option<u32> {
    let mut stream = TcpStream::connect(admin).await.ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split_once("\"pid\":")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

async fn socket(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /socket HTTP/1.1\r\nhost: t1.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let frame = [0x81, 0x02, b'h', b'i'];
    let mut back = [0; 4];
    let spoken = async { stream.write_all(&frame).await.is_ok() && stream.read_exact(&mut back).await.is_ok() };
    tokio::time::timeout(PATIENCE, spoken).await.unwrap_or(false) && back == frame
}

/// Tenants that change while others are asked: `t2.test` and so on.
const CHANGING: usize = 50;

/// A tenant that changes, which is in another cell with each generation.
fn moving(tenant: usize, generation: usize, members: &[Member; 2]) -> TenantRoute {
    let at = generation % 2;
    route(tenant as u128, generation as u64, ["even", "odd"][at], &[&members[at]])
}

/// How many requests were answered well, and how many of those were the first of a tenant's next generation.
#[derive(Default)]
struct Asked {
    stop: AtomicBool,
    answered: AtomicU64,
    changed: AtomicU64,
}

/// Asks over kept connections until told to stop, `t1.test` or all that change in turn. Anything but the answer of the
/// cell where the tenant is fails the test.
fn asking(address: SocketAddr, write: bool, changing: bool, asked: &Arc<Asked>) -> JoinHandle<()> {
    let asked = Arc::clone(asked);
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        let (mut seen, mut turn) = ([1; CHANGING], 0);
        while !asked.stop.load(SeqCst) {
            if client.is_closed() {
                client = Client::connect(address).await;
            }
            let method = if write { Method::POST } else { Method::GET };
            let host = if changing { format!("t{}.test", 2 + turn) } else { "t1.test".to_owned() };
            let answer = client.ask(method, &host, "/", "").await;
            assert_eq!(answer.status, StatusCode::OK, "{host}: {}", answer.body);
            asked.answered.fetch_add(1, SeqCst);
            if changing {
                let generation: usize = answer.sent("berth-generation").unwrap().parse().unwrap();
                assert_eq!(answer.by(), ["even", "odd"][generation % 2], "{host}: generation {generation}");
                asked.changed.fetch_add(u64::from(generation > seen[turn]), SeqCst);
                seen[turn] = seen[turn].max(generation);
                turn = (turn + 1) % CHANGING;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_fail_no_request_and_end_no_websocket() {
    let program = std::env::var_os("BERTH_PROGRAM").and_then(|path| path.into_string().ok());
    let (restarts, sockets) = (number("BERTH_RESTARTS", 3), number("BERTH_SOCKETS", 24));
    let changes = number("BERTH_CHANGES", 300);
    let (control, dir) = (Control::start().await, tempfile::tempdir().unwrap());
    let members = [Member::start("even").await, Member::start("odd").await];
    let mut routes = vec![route(1, 1, "even", &[&members[0]])];
    routes.extend((0..CHANGING).map(|n| moving(2 + n, 1, &members)));
    control.publish(routes);
    let (mut edges, address, admin) = Edges::start(&control, dir.path(), program.as_deref());
    control.acknowledged(1).await;
    let asked = Arc::new(Asked::default());
    let clients: Vec<_> = (0..8).map(|n| asking(address, n % 2 == 0, n >= 4, &asked)).collect();
    let mut open = Vec::new();
    for turn in 0..=restarts {
        // All of them are open before the first restart, and each further process gets some of its own.
        while open.len() < sockets + sockets * turn / (restarts + 1) {
            open.push(socket(address).await);
        }
        let (answered, changed) = (asked.answered.load(SeqCst), asked.changed.load(SeqCst));
        let first = changes * turn / (restarts + 1);
        let last = changes * (turn + 1) / (restarts + 1);
        let changing = async {
            let mut revision = 0;
            for change in first..last {
                let (tenant, generation) = (2 + change % CHANGING, 2 + change / CHANGING);
                revision = control.publish(vec![moving(tenant, generation, &members)]);
                if change % 20 == 0 {
                    control.acknowledged(revision).await;
                }
            }
            revision
        };
        let restarting = async {
            if turn < restarts {
                edges.restart(&control, dir.path(), address, admin).await;
            }
        };
        let (revision, ()) = tokio::join!(changing, restarting);
        control.acknowledged(revision).await;
        let go_on = async || (asked.answered.load(SeqCst), asked.changed.load(SeqCst));
        eventually("requests go on, and meet changes", go_on, |seen| {
            seen.0 > answered + 20 && (seen.1 > changed || first == last)
        })
        .await;
        for stream in &mut open {
            assert!(echoes(stream).await, "a WebSocket ended in turn {turn}");
        }
    }
    asked.stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("every request was answered, by its tenant's cell");
    }
    println!(
        "{} requests, {} of them the first after a change, {sockets} WebSockets over all of {restarts} restarts and {} over \
         some, {changes} changes",
        asked.answered.load(SeqCst),
        asked.changed.load(SeqCst),
        open.len() - sockets
    );
    drop(open);
    edges.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_processes_take_routes_and_holds_and_who_has_gone_says_so() {
    let mut world = World::start().await;
    let mut old_socket = socket(world.edge.address).await;
    let mut config = config(&world.control, world.dir.path());
    (config.listen, config.admin) = (world.edge.address, world.edge.admin);
    let new = follow(config).await;
    let said = async || {
        let acks = world.control.acks();
        acks.into_iter().filter(|ack| ack.presence == Presence::Leaving).map(|ack| ack.instance).next_back()
    };
    let old = eventually("the old one says that it leaves", said, Option::is_some).await.unwrap();
    // One of its workers has nothing open any more, and still says what it has in force.
    for generation in 1..=30 {
        let revision = world.control.publish(vec![route(9, generation, "shared", &[])]);
        let has = async || world.control.acks().iter().any(|ack| ack.instance == old && ack.revision.get() >= revision);
        eventually("the old one follows", has, |has| *has).await;
    }
    // A hold is in force in both, and the move behind it reaches both: the old one ends its tunnel.
    world.control.put(vec![held(world.home(), 7, 50, 20_000)]).await;
    let in_force = async || {
        let acks = world.control.acks().into_iter();
        let by = acks.filter(|ack| ack.holds.iter().any(|hold| hold.outcome == HoldOutcome::InForce));
        by.map(|ack| ack.instance).collect::<HashSet<_>>()
    };
    eventually("both hold", in_force, |by| by.len() == 2 && by.contains(&old)).await;
    assert!(echoes(&mut old_socket).await);
    world.control.put(vec![world.moved()]).await;
    let mut rest = Vec::new();
    old_socket.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4], "closed with 1012, because its tenant is elsewhere");
    world.edge.ended().await;
    let gone = world.control.acks().iter().any(|ack| ack.instance == old && ack.presence == Presence::Gone);
    assert!(gone, "nobody has to wait for it");
    eventually("the new one sends there too", async || new.get("t1.test", "/").await.by().to_owned(), |by| by == "new")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_come_to_serve_changes_nothing() {
    let mut world = World::start().await;
    // It is given the sockets, and goes.
    let dir = world.dir.path().to_owned();
    let path = dir.join("handover.sock");
    {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"take\n").await.unwrap();
        let mut some = [0; 16];
        assert!(stream.read(&mut some).await.unwrap() > 0);
    }
    let serving = async || world.control.acks().last().map(|ack| ack.presence);
    eventually("it stays", serving, |seen| *seen == Some(Presence::Serving)).await;
    world.control.put(vec![world.moved()]).await;
    assert_eq!(world.edge.get("t1.test", "/").await.by(), "new");
    // And its disk is its own again: what came meanwhile survives.
    world.control.die().await;
    world.edge.stop().await;
    let edge = Running::start(config(&world.control, &dir));
    assert_eq!(edge.get("t1.test", "/").await.by(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_with_1012_when_their_hour_is_over_and_a_restart_fills_no_bucket() {
    let mut world = World::with(|c| c.limits.leave_time = Duration::from_millis(300)).await;
    world.control.put(vec![limited(world.home(), &[("gps", 3, 3600)])]).await;
    for _ in 0..3 {
        assert_eq!(world.edge.get("t1.test", "/gps").await.status, StatusCode::OK);
    }
    let mut old_socket = socket(world.edge.address).await;
    let mut config = config(&world.control, world.dir.path());
    (config.listen, config.admin) = (world.edge.address, world.edge.admin);
    let new = follow(config).await;
    let mut rest = Vec::new();
    old_socket.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, [0x88, 0x02, 0x03, 0xf4]);
    world.edge.ended().await;
    assert_eq!(new.get("t1.test", "/gps").await.status, StatusCode::TOO_MANY_REQUESTS);
}

async fn line(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    loop {
        match stream.read_u8().await.unwrap() {
            b'\n' => return String::from_utf8(text).unwrap(),
            byte => text.push(byte),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bucket_gives_while_the_follower_gets_ready_is_told_when_it_is() {
    let mut world = World::start().await;
    world.control.put(vec![limited(world.home(), &[("gps", 3, 3600)])]).await;
    let mut follower = UnixStream::connect(world.dir.path().join("handover.sock")).await.unwrap();
    follower.write_all(b"take\n").await.unwrap();
    let first = line(&mut follower).await;
    assert!(first.contains(r#""owed_ns":{}"#), "nothing has been given yet: {first}");
    for _ in 0..3 {
        assert_eq!(world.edge.get("t1.test", "/gps").await.status, StatusCode::OK);
    }
    follower.write_all(b"ready\n").await.unwrap();
    assert_eq!(line(&mut follower).await, "go");
    let owed = line(&mut follower).await;
    let owed_ns: HashMap<String, u64> = serde_json::from_str(&owed).unwrap();
    let gps = owed_ns.iter().find(|(name, _)| name.ends_with(":gps")).expect("its bucket is not full");
    assert!(*gps.1 > 3_000_000_000_000, "three tokens of twenty minutes each: {owed}");
    world.edge.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_bucket_is_spent_twice_over_restarts() {
    const CLIENTS: u64 = 6;
    const LIMIT: u64 = 600;
    const RESTARTS: u64 = 2;
    let (control, member, dir) = (Control::start().await, Member::start("one").await, tempfile::tempdir().unwrap());
    control.publish(vec![limited(route(1, 1, "shared", &[&member]), &[("gps", LIMIT, 36_000)])]);
    let mut edges = vec![Running::start(config(&control, dir.path()))];
    let (address, admin) = (edges[0].address, edges[0].admin);
    control.acknowledged(1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (given, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, given, refused) = (Arc::clone(&stop), Arc::clone(&given), Arc::clone(&refused));
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(SeqCst) {
                    if client.is_closed() {
                        client = Client::connect(address).await;
                    }
                    match client.ask(Method::GET, "t1.test", "/gps", "").await.status {
                        StatusCode::OK => given.fetch_add(1, SeqCst),
                        StatusCode::TOO_MANY_REQUESTS => refused.fetch_add(1, SeqCst),
                        other => panic!("{other}"),
                    };
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for _ in 0..RESTARTS {
        let mut config = config(&control, dir.path());
        (config.listen, config.admin) = (address, admin);
        edges.push(follow(config).await);
    }
    let spent = async || refused.load(SeqCst);
    eventually("the bucket is spent", spent, |refused| *refused > 10 * CLIENTS).await;
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("every request was answered, or refused for its limit");
    }
    // A kept connection has its last answers from the process that it was opened to.
    let most = LIMIT + 2 * CLIENTS * RESTARTS + 5;
    let given = given.load(SeqCst);
    assert!((LIMIT..=most).contains(&given), "{given} of {LIMIT}");
    edges.pop().unwrap().stop().await;
    for mut old in edges {
        tokio::time::timeout(PATIENCE, old.ended()).await.expect("it goes with its last connection");
    }
}

/// One request over HTTP/2 and TLS, on a connection that is opened anew where the edge has said that it goes.
async fn asked_securely(
    connection: &mut Option<hyper::client::conn::http2::SendRequest<crate::echo::Sent>>,
    address: SocketAddr,
    tenant: usize,
) -> String {
    loop {
        let mut sender = match connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => {
                let name = format!("t{tenant}.test");
                let (stream, _) = tls::connect(address, &name, b"h2", &TLS13).await.expect("nobody is turned away");
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                sender
            }
        };
        if sender.ready().await.is_err() {
            continue;
        }
        let request = Request::get(format!("https://t{tenant}.test/")).body(crate::echo::nothing()).unwrap();
        match sender.send_request(request).await {
            Ok(answer) => {
                let status = answer.status();
                let body = answer.into_body().collect().await.expect("an answer that begins ends").to_bytes();
                assert_eq!(status, StatusCode::OK);
                *connection = Some(sender);
                return String::from_utf8(body.to_vec()).unwrap();
            }
            // What came after the edge's farewell was never looked at, and goes to the next one.
            Err(error) if error.is_canceled() || sender.is_closed() => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_and_http_2_tenants_move_while_one_edge_follows_another_and_nobody_notices() {
    const TENANTS: usize = 4;
    let (control, dir) = (Control::start().await, tempfile::tempdir().unwrap());
    let members = [Member::start("even").await, Member::start("odd").await];
    let secure = |config: &mut EdgeConfig| config.listen_tls = Some("127.0.0.1:0".parse().unwrap());
    let mut first = config(&control, dir.path());
    secure(&mut first);
    let mut edges = vec![Running::start(first)];
    let (address, plain, admin) = (edges[0].tls_address.unwrap(), edges[0].address, edges[0].admin);
    // Each generation is in another cell than the one before.
    let at = |tenant: usize, generation: usize| {
        route(tenant as u128, generation as u64, "cell", &[&members[generation % 2]])
    };
    let everybody = |generation| (1..=TENANTS).map(|tenant| at(tenant, generation)).collect::<Vec<_>>();
    control.put(everybody(1)).await;
    let certificates = (1..=TENANTS).map(|n| tls::made(n as u128, &[&format!("t{n}.test")])).collect();
    control.say(&EdgeEvent::Certificates { full: true, certificates, gone: Vec::new() });
    control.put(everybody(2)).await;

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..TENANTS * 2)
        .map(|n| {
            let (stop, asked, tenant) = (Arc::clone(&stop), Arc::clone(&asked), n % TENANTS + 1);
            tokio::spawn(async move {
                let mut connection = None;
                while !stop.load(SeqCst) {
                    let text = asked_securely(&mut connection, address, tenant).await;
                    let generation = text.lines().find_map(|line| line.strip_prefix("berth-generation: ")).unwrap();
                    let cell = ["even", "odd"][generation.parse::<usize>().unwrap() % 2];
                    assert_eq!(text.split(' ').next(), Some(cell), "generation {generation} is not there");
                    assert!(text.contains(&format!("berth-tenant: key-{tenant}\n")), "{text}");
                    asked.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let mut generation = 2;
    for _ in 0..3 {
        for _ in 0..10 {
            generation += 1;
            for tenant in 1..=TENANTS {
                control.put(vec![at(tenant, generation)]).await;
            }
        }
        let before = asked.load(SeqCst);
        let mut next = config(&control, dir.path());
        secure(&mut next);
        (next.listen, next.listen_tls, next.admin) = (plain, Some(address), admin);
        let (moving, following) = (generation + 1, follow(next));
        let changes = async {
            control.publish(everybody(moving));
        };
        let (edge, ()) = tokio::join!(following, changes);
        generation = moving;
        edges.push(edge);
        let here = async || edges.last().unwrap().get("t1.test", "/").await;
        let wanted = generation.to_string();
        eventually("it follows", here, |answer| answer.sent("berth-generation") == Some(&wanted)).await;
        eventually("requests go on", async || asked.load(SeqCst), |n| *n > before + 40).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("every request was answered, by its tenant's cell");
    }
    println!("{} requests over TLS, {generation} generations of {TENANTS} tenants", asked.load(SeqCst));
    edges.pop().unwrap().stop().await;
    for mut old in edges {
        tokio::time::timeout(PATIENCE, old.ended()).await.expect("it goes with its last connection");
    }
}
