//! Limits of `berth edge` as processes: one of three is killed while they share their tokens, and a wall clock jumps.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails")]

use berth_domain::{
    CellName, Generation, Hostname, MemberId, PlanName, Revision, ServiceName, TenantId, TenantKey, TenantName,
};
use berth_testkit::{TestRedis, WallClock};
use berth_wire::edge::{
    ClusterSettings, EdgeEvent, EdgeSettings, Hidden, MemberAddress, RouteLimit, RouteState, TenantRoute,
};
use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Sixty a second, and as much as four seconds at once.
const REQUESTS: u64 = 240;
const PER_S: u32 = 4;

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One request's line and the length of its body, from a kept connection.
fn request(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(first)
}

/// Answers each request of each connection on a thread of its own.
fn serve(answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(first) = request(&mut reader) {
                    if answer(&first, &mut stream).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn whole(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// A control plane that says this and then that it lives.
fn control(cluster: Option<ClusterSettings>, member: SocketAddr) -> SocketAddr {
    let settings = EdgeEvent::Settings { settings: EdgeSettings { cluster, ..EdgeSettings::default() } };
    let route = TenantRoute {
        tenant: TenantId::new(uuid::Uuid::from_u128(1)),
        name: TenantName::new("t1").unwrap(),
        key: TenantKey::new("key-1").unwrap(),
        plan: PlanName::new("starter").unwrap(),
        cell: CellName::new("shared").unwrap(),
        generation: Generation::new(1),
        revision: Revision::new(1),
        hosts: vec![Hostname::new("t1.test").unwrap()],
        patterns: Vec::new(),
        state: RouteState::Serving,
        members: vec![MemberAddress {
            member: MemberId::new(uuid::Uuid::from_u128(2)),
            service: ServiceName::new("web").unwrap(),
            address: member.to_string(),
            draining_ms: None,
        }],
        body_bytes: None,
        limits: vec![RouteLimit { class: "api".to_owned(), requests: REQUESTS, per_s: PER_S, until: None }],
        allow: Vec::new(),
    };
    let routes = EdgeEvent::Routes { full: true, revision: Revision::new(1), routes: vec![route] };
    let said = [settings, routes].map(|event| serde_json::to_string(&event).unwrap());
    let ping = serde_json::to_string(&EdgeEvent::Ping { revision: Revision::new(1) }).unwrap();
    serve(move |first, stream| {
        if first.contains("/acks") {
            return whole(stream, "{\"revision\":1}");
        }
        if first.contains("/meters") {
            return whole(stream, "{\"counted\":0}");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let mut line = |text: &str| stream.write_all(format!("{:x}\r\n{text}\n\r\n", text.len() + 1).as_bytes());
        said.iter().try_for_each(|text| line(text))?;
        loop {
            line(&ping)?;
            thread::sleep(Duration::from_secs(1));
        }
    })
}

struct Edge {
    process: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Edge {
    fn start(name: &str, control: SocketAddr, variables: &[(&str, OsString)]) -> Self {
        let (address, admin, folder) = (free(), free(), tempfile::tempdir().unwrap());
        let process = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(["edge", "--name", name, "--workers", "2", "--control", &format!("http://{control}")])
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--data-dir"])
            .arg(folder.path())
            .env_remove("BERTH_URL")
            .env("BERTH_API_KEY", "bk_test")
            .envs(variables.iter().map(|(name, value)| (*name, value.clone())))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, address, admin, _folder: folder }
    }

    fn has(&self, wanted: &[&str]) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let page = get(self.admin, "/metrics").unwrap_or_default();
            if wanted.iter().all(|line| page.contains(line)) {
                return;
            }
            assert!(Instant::now() < until, "{wanted:?} in {page}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: t1.test\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What one client got.
struct Got {
    good: u64,
    first_s: f64,
    refused_s: f64,
}

/// Asks as fast as it can over a kept connection, and goes to the next edge when one ends it.
fn ask(edges: &[SocketAddr], first: usize, began: Instant, time: Duration) -> Got {
    let mut got = Got { good: 0, first_s: f64::INFINITY, refused_s: 0.0 };
    let mut turn = first;
    while began.elapsed() < time {
        let Ok(stream) = TcpStream::connect(edges[turn % edges.len()]) else {
            turn += 1;
            continue;
        };
        stream.set_nodelay(true).unwrap();
        let (mut writer, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
        while began.elapsed() < time {
            let asked_s = began.elapsed().as_secs_f64();
            if writer.write_all(b"GET / HTTP/1.1\r\nhost: t1.test\r\n\r\n").is_err() {
                break;
            }
            let Some(status) = request(&mut reader) else { break };
            match status.split(' ').nth(1) {
                Some("200") => got.good += 1,
                Some("429") => got.refused_s = asked_s,
                other => panic!("{other:?}"),
            }
            got.first_s = got.first_s.min(began.elapsed().as_secs_f64());
        }
        turn += 1;
    }
    got
}

/// All clients together, against what one bucket gives, to this share.
fn exact(edges: &[SocketAddr], clients: usize, time: Duration, share: f64, meanwhile: impl FnOnce(Instant)) {
    let began = Instant::now();
    let all: Vec<Got> = thread::scope(|scope| {
        let asking: Vec<_> = (0..clients).map(|n| scope.spawn(move || ask(edges, n, began, time))).collect();
        meanwhile(began);
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let rate = REQUESTS as f64 / f64::from(PER_S);
    let good = all.iter().map(|got| got.good).sum::<u64>() as f64;
    let first_s = all.iter().map(|got| got.first_s).fold(f64::INFINITY, f64::min);
    let refused_s = all.iter().map(|got| got.refused_s).fold(0.0, f64::max);
    let (most, least) =
        (REQUESTS as f64 + rate * began.elapsed().as_secs_f64(), REQUESTS as f64 + rate * (refused_s - first_s));
    println!("{good} of {least} to {most}");
    assert!(good <= most * (1.0 + share) + 1.0, "{good} of at most {most}");
    // A machine that was too slow to be refused shows nothing.
    assert!(refused_s == 0.0 || good >= least * (1.0 - share) - 1.0, "{good} of at least {least}");
}

#[test]
#[cfg(feature = "cluster")]
fn one_of_three_edges_is_killed_under_load_and_the_limit_stays_within_five_in_a_hundred() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(redis) = runtime.block_on(TestRedis::start(&[])) else { return };
    let cluster = ClusterSettings {
        stack: "fleet".parse().unwrap(),
        redis_address: redis.address(),
        several: false,
        master: None,
        user: None,
        password: Hidden::default(),
        ca_pem: None,
        edges: 3,
    };
    let control = control(Some(cluster), serve(|_, stream| whole(stream, "ok")));
    let mut edges: Vec<Edge> = ["north", "south", "west"].map(|name| Edge::start(name, control, &[])).into();
    for edge in &edges {
        edge.has(&["berth_edge_limits_shared 1\n", "berth_edge_limits_edges 3\n", "berth_edge_tenants 1\n"]);
    }
    let addresses: Vec<SocketAddr> = edges.iter().map(|edge| edge.address).collect();
    let mut lost = edges.remove(1);
    exact(&addresses, 6, Duration::from_secs(7), 0.05, |began| {
        thread::sleep(Duration::from_secs(3).saturating_sub(began.elapsed()));
        // At once, with all that it had in its hand.
        lost.process.kill().unwrap();
        lost.process.wait().unwrap();
    });
    for edge in &edges {
        edge.has(&["berth_edge_limits_shared 1\n", "berth_edge_limits_own_share_total 0\n"]);
    }
}

#[test]
fn a_wall_clock_of_the_edge_that_jumps_gives_nobody_more_and_nobody_less() {
    let clock = WallClock::default();
    let control = control(None, serve(|_, stream| whole(stream, "ok")));
    let edge = Edge::start("north", control, &clock.variables());
    edge.has(&["berth_edge_tenants 1\n"]);
    exact(&[edge.address], 3, Duration::from_secs(5), 0.01, |_| {
        for jump_s in [3_600, -86_400, 31_536_000] {
            thread::sleep(Duration::from_secs(1));
            clock.jump(jump_s);
        }
    });
    // It really was another time there: request ids begin with it.
    clock.jump(-31_536_000);
    let answer = get(edge.address, "/").unwrap().to_ascii_lowercase();
    let id = answer.split("x-request-id: ").nth(1).unwrap();
    let millis = u64::from_str_radix(&id.replace('-', "")[..12], 16).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(u128::from(millis) + 30_000_000_000 < now, "{millis} is no other time than {now}");
}
