//! Tenants, hosts and keys shuffled among each other under load: no answer, header, log line or count of another's.
//!
//! `BERTH_SHUFFLED` says how many requests (20,000); `scripts/soak edge-shuffled` asks for a million.

use crate::{
    echo::{Echo, Tongue, http2},
    world::{PATIENCE, Running, World, config, eventually, route},
};
use berth_domain::{HostPattern, Hostname, TenantKey};
use berth_edge::RequestLog;
use berth_wire::edge::TenantRoute;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::{collections::HashSet, fs, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

const TENANTS: usize = 40;
const CLIENTS: usize = 8;
const PHASES: usize = 5;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }
}

/// Who has which places in one phase.
struct Phase {
    number: usize,
    /// The place of each tenant.
    places: Vec<usize>,
    /// Whether a host is divided by paths: cores look elsewhere then.
    paths: bool,
}

impl Phase {
    fn new(number: usize, dice: &mut Dice) -> Self {
        let mut places: Vec<usize> = (0..TENANTS).collect();
        for at in (1..TENANTS).rev() {
            places.swap(at, dice.next(at + 1));
        }
        Self { number, places, paths: number % 2 == 1 }
    }

    fn key(&self, tenant: usize) -> String {
        format!("key-{tenant}-{}", self.number)
    }

    fn route(&self, tenant: usize, echoes: &[Echo]) -> TenantRoute {
        let place = self.places[tenant];
        let mut route = route(tenant as u128 + 1, self.number as u64 + 1, "cell", &[]);
        route.key = TenantKey::new(self.key(tenant)).unwrap();
        route.hosts = ["a", "b"].map(|which| Hostname::new(format!("{which}{place}.test")).unwrap()).into();
        route.patterns = vec![HostPattern::new(format!("*.w{place}.test")).unwrap()];
        if self.paths {
            route.patterns.push(HostPattern::new(format!("all.test/p{place}")).unwrap());
        }
        route.members = vec![match place % 2 {
            0 => echoes[0].wire(""),
            _ => echoes[1].wire("h2c://"),
        }];
        route
    }

    /// One of the hosts of this tenant, and how its paths begin.
    fn address(&self, tenant: usize, dice: &mut Dice) -> (String, String) {
        let place = self.places[tenant];
        match dice.next(if self.paths { 4 } else { 3 }) {
            0 => (format!("a{place}.test"), String::new()),
            1 => (format!("b{place}.test"), String::new()),
            2 => (format!("x{}.w{place}.test", dice.next(50)), String::new()),
            _ => ("all.test".to_owned(), format!("/p{place}")),
        }
    }
}

enum Connection {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<crate::echo::Sent>),
}

impl Connection {
    async fn open(address: SocketAddr, number: usize) -> Self {
        if number % 2 == 1 {
            return Self::Http2(http2(address).await);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    async fn send(
        &mut self,
        request: http::request::Builder,
        host: &str,
        path: &str,
        body: &str,
    ) -> Response<Incoming> {
        let body = Full::from(body.to_owned());
        match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                let request = request.uri(path).header("host", host).body(body).unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => {
                let request = request.uri(format!("http://{host}{path}")).body(body.boxed_unsync()).unwrap();
                sender.send_request(request).await.unwrap()
            }
        }
    }
}

/// Requests of one client, each for a tenant by chance. How many each tenant had, and the ids of the answers.
async fn client(
    mut connection: Connection,
    phase: Arc<Phase>,
    number: usize,
    requests: usize,
) -> (Vec<u64>, HashSet<String>) {
    let mut dice = Dice((phase.number * CLIENTS + number) as u64);
    let (mut asked, mut ids) = (vec![0; TENANTS], HashSet::new());
    for nth in 0..requests {
        let tenant = dice.next(TENANTS);
        let (host, begin) = phase.address(tenant, &mut dice);
        let mark = format!("mark-{tenant}-{number}-{nth}");
        let method = if nth % 3 == 0 { Method::POST } else { Method::GET };
        // What a client says of tenants counts for nothing.
        let forged = phase.key(dice.next(TENANTS));
        let request = Request::builder().method(&method).header("berth-tenant", forged).header("say-x-mark", &mark);
        let stranger = nth % 20 == 7;
        let host = if stranger { format!("nobody{tenant}.test") } else { host };
        let path = format!("{begin}/tenant/{tenant}/{mark}?secret=of-{tenant}");
        let body = if method == Method::POST { mark.as_str() } else { "" };
        let answer = timeout(PATIENCE, connection.send(request, &host, &path, body)).await.unwrap();
        let (parts, answer) = answer.into_parts();
        let text = answer.collect().await.unwrap().to_bytes();
        let id = parts.headers["x-request-id"].to_str().unwrap().to_owned();
        if stranger {
            assert_eq!(parts.status, StatusCode::NOT_FOUND, "{host}");
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("key-") && !text.contains("mark-") && text.contains(&id), "{text}");
        } else {
            assert_eq!(parts.status, StatusCode::OK, "{host}{path}");
            assert_eq!(parts.headers["x-tenant"], phase.key(tenant), "{host}{path}");
            assert_eq!(parts.headers["x-mark"], mark);
            assert!(text == body, "{host}{path}: another's body");
            asked[tenant] += 1;
        }
        assert!(ids.insert(id), "an id was given twice");
    }
    (asked, ids)
}

#[expect(clippy::disallowed_methods, reason = "how many requests a soak asks for, in a test and nowhere else")]
fn requests() -> usize {
    std::env::var("BERTH_SHUFFLED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_hosts_and_keys_shuffled_show_nothing_of_one_tenant_to_another() {
    let mut world = World::start().await;
    world.edge.stop().await;
    let file = world.dir.path().join("requests.log");
    let mut config = config(&world.control, world.dir.path());
    config.request_log = Some(RequestLog { file: Some(file.clone()), share: 1.0 });
    let edge = Running::start(config);
    let echoes = [Echo::start(Tongue::Http1).await, Echo::start(Tongue::H2c).await];
    let each = requests() / PHASES / CLIENTS;
    let mut dice = Dice(1);
    let (mut asked, mut ids) = (vec![0; TENANTS], HashSet::new());
    for number in 0..PHASES {
        let phase = Arc::new(Phase::new(number, &mut dice));
        world.control.put((0..TENANTS).map(|tenant| phase.route(tenant, &echoes)).collect()).await;
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let connection = Connection::open(edge.address, number).await;
            clients.spawn(client(connection, Arc::clone(&phase), number, each));
        }
        while let Some(done) = clients.join_next().await {
            let (of_each, given) = done.unwrap();
            for (sum, more) in asked.iter_mut().zip(of_each) {
                *sum += more;
            }
            let before = ids.len();
            let number = given.len();
            ids.extend(given);
            assert_eq!(ids.len(), before + number, "an id was given to two clients");
        }
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(&edge.admin("/tenants").await).unwrap();
    for (tenant, wanted) in asked.iter().enumerate() {
        let counted = list.iter().find(|t| t["name"] == format!("t{}", tenant + 1)).unwrap();
        assert_eq!(counted["requests"].as_u64(), Some(*wanted), "tenant {tenant}");
    }
    let metrics = async || edge.admin("/metrics").await;
    let dropped = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("berth_edge_request_log_dropped_total "));
        line.unwrap().parse::<usize>().unwrap()
    };
    let all = each * CLIENTS * PHASES;
    let look = async || fs::read_to_string(&file).unwrap().lines().count() + dropped(&metrics().await);
    eventually("every request is written or counted as dropped", look, |number| *number == all).await;
    let text = fs::read_to_string(&file).unwrap();
    let (mut known, mut strangers) = (0, 0);
    for line in text.lines() {
        assert!(!line.contains("secret") && !line.contains("key-"), "{line}");
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = line["metadata"]["path"].as_str().unwrap();
        let tenant: u128 = path.split("/tenant/").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        if line["tenant_id"].is_null() {
            assert_eq!(line["metadata"]["status"], 404);
            strangers += 1;
        } else {
            assert_eq!(line["tenant_id"], crate::world::tenant(tenant + 1).to_string(), "{line}");
            known += 1;
        }
        assert!(ids.contains(line["metadata"]["request_id"].as_str().unwrap()));
    }
    assert!(known > strangers && strangers > 0, "{known} {strangers}");
}
