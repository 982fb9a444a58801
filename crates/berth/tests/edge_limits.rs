//! Limits of `berth edge` as processes: one of three is killed while they share their tokens, and a wall clock jumps.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails")]

mod edge_world;

use berth_domain::Revision;
use berth_testkit::{TestRedis, WallClock};
use berth_wire::edge::{ClusterSettings, EdgeEvent, EdgeSettings, Hidden, RouteLimit, TenantRoute};
use edge_world::{Edge, control, get, request, route, serve, whole};
use std::{
    ffi::OsString,
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    rc::Rc,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// Sixty a second, and as much as four seconds at once.
const REQUESTS: u64 = 240;
const PER_S: u32 = 4;

/// What control says of limits, and of the one tenant.
fn limited(cluster: Option<ClusterSettings>, member: SocketAddr) -> SocketAddr {
    let limits = vec![RouteLimit { class: "api".to_owned(), requests: REQUESTS, per_s: PER_S, until: None }];
    let routes = vec![TenantRoute { limits, ..route(1, member) }];
    let said = vec![
        EdgeEvent::Settings { settings: EdgeSettings { cluster, ..EdgeSettings::default() } },
        EdgeEvent::Routes { full: true, revision: Revision::new(1), routes },
    ];
    control(Arc::new(Mutex::new(said)))
}

fn edge(name: &str, control: SocketAddr, variables: &[(&str, OsString)]) -> Edge {
    let mut program = Command::new(env!("CARGO_BIN_EXE_berth"));
    program.envs(variables.iter().map(|(name, value)| (*name, value.clone())));
    Edge::start(program, name, control, Rc::new(tempfile::tempdir().unwrap()))
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

/// Three edges that share their limits, the second started with these variables. `None`: there is no Redis here.
#[cfg(feature = "cluster")]
fn three(second: &[(&str, OsString)]) -> Option<(TestRedis, Vec<Edge>)> {
    let redis = tokio::runtime::Runtime::new().unwrap().block_on(TestRedis::start(&[]))?;
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
    let control = limited(Some(cluster), serve(|_, stream| whole(stream, "ok")));
    let edges: [(&str, &[(&str, OsString)]); 3] = [("north", &[]), ("south", second), ("west", &[])];
    let edges: Vec<Edge> = edges.map(|(name, variables)| edge(name, control, variables)).into();
    for edge in &edges {
        edge.has(&["berth_edge_limits_shared 1\n", "berth_edge_limits_edges 3\n", "berth_edge_tenants 1\n"]);
    }
    Some((redis, edges))
}

/// Forth by an hour, back by a day, forth by a year, a second between each.
fn jumps(clock: &WallClock) {
    for jump_s in [3_600, -86_400, 31_536_000] {
        thread::sleep(Duration::from_secs(1));
        clock.jump(jump_s);
    }
}

/// It really is another time there, as the clock says: request ids begin with it.
fn goes_by(clock: &WallClock, edge: &Edge) {
    clock.jump(-31_536_000);
    let answer = get(edge.address, "t1.test", "/").unwrap().to_ascii_lowercase();
    let id = answer.split("x-request-id: ").nth(1).unwrap();
    let millis = u64::from_str_radix(&id.replace('-', "")[..12], 16).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(u128::from(millis) + 30_000_000_000 < now, "{millis} is no other time than {now}");
}

#[test]
#[cfg(feature = "cluster")]
fn one_of_three_edges_is_killed_under_load_and_the_limit_stays_within_five_in_a_hundred() {
    let Some((_redis, mut edges)) = three(&[]) else { return };
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
#[cfg(feature = "cluster")]
fn the_wall_clock_of_one_of_three_edges_jumps_and_the_limit_stays_within_five_in_a_hundred() {
    let clock = WallClock::default();
    let Some((_redis, edges)) = three(&clock.variables()) else { return };
    let addresses: Vec<SocketAddr> = edges.iter().map(|edge| edge.address).collect();
    exact(&addresses, 6, Duration::from_secs(5), 0.05, |_| jumps(&clock));
    for edge in &edges {
        edge.has(&[
            "berth_edge_limits_shared 1\n",
            "berth_edge_limits_edges 3\n",
            "berth_edge_limits_own_share_total 0\n",
        ]);
    }
    goes_by(&clock, &edges[1]);
}

#[test]
fn a_wall_clock_of_the_edge_that_jumps_gives_nobody_more_and_nobody_less() {
    let clock = WallClock::default();
    let control = limited(None, serve(|_, stream| whole(stream, "ok")));
    let edge = edge("north", control, &clock.variables());
    edge.has(&["berth_edge_tenants 1\n"]);
    exact(&[edge.address], 3, Duration::from_secs(5), 0.01, |_| jumps(&clock));
    goes_by(&clock, &edge);
}
