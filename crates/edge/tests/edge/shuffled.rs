//! Tenants, hosts and keys shuffled among each other under load: no answer, header, log line or count of another's, and
//! nothing of anybody's in the program's own log.
//!
//! Plain, and over TLS with a certificate for each tenant by SNI. `BERTH_SHUFFLED` says how many requests (20,000, over TLS
//! 4,000); `scripts/soak edge-shuffled` asks for a million of each.

use crate::{
    echo::{Echo, Tongue, http2},
    program_log, tls,
    world::{PATIENCE, Running, World, config, eventually, route},
};
use berth_domain::{HostPattern, Hostname, TenantKey};
use berth_edge::RequestLog;
use berth_wire::edge::{EdgeCertificate, EdgeEvent, Ejection, MemberAddress, ServiceSettings, TenantRoute};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::version::{TLS12, TLS13};
use std::{
    collections::{HashMap, HashSet},
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

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

    /// A certificate for each tenant, and the last one for the host that paths divide.
    fn certificates(&self) -> Vec<EdgeCertificate> {
        let id = |nth: usize| (self.number * 1000 + nth + 1) as u128;
        let own = |tenant: usize| {
            let place = self.places[tenant];
            let names = [format!("a{place}.test"), format!("b{place}.test"), format!("*.w{place}.test")];
            tls::made(id(tenant), &names.each_ref().map(String::as_str))
        };
        (0..TENANTS).map(own).chain([tls::made(id(TENANTS), &["all.test"])]).collect()
    }

    /// Whether it is one of its own hosts.
    fn is_of(&self, host: &str, tenant: usize) -> bool {
        let place = self.places[tenant];
        host == "all.test"
            || host == format!("a{place}.test")
            || host == format!("b{place}.test")
            || host.ends_with(&format!(".w{place}.test"))
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
        Self::http1(stream).await
    }

    async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    /// Over TLS, under this name; the certificate that is shown has to be this one.
    async fn secure(address: SocketAddr, number: usize, name: &str, shown: &[u8]) -> Self {
        let protocol: &[u8] = if number % 2 == 1 { b"h2" } else { b"http/1.1" };
        let version = if number % 4 < 2 { &TLS13 } else { &TLS12 };
        let (stream, certificate) = tls::connect(address, name, protocol, version).await.unwrap();
        assert!(certificate == shown, "{name} was shown another's certificate");
        if number.is_multiple_of(2) {
            return Self::http1(stream).await;
        }
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
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

/// What a client saw.
#[derive(Default)]
struct Seen {
    /// Requests of each tenant that were answered, and bytes of their bodies.
    asked: Vec<u64>,
    sent_bytes: Vec<u64>,
    got_bytes: Vec<u64>,
    /// Of all answers.
    ids: HashSet<String>,
}

impl Seen {
    fn new() -> Self {
        let none = || vec![0; TENANTS];
        Self { asked: none(), sent_bytes: none(), got_bytes: none(), ids: HashSet::new() }
    }

    fn add(&mut self, other: Self) {
        let sums = [
            (&mut self.asked, other.asked),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.got_bytes, other.got_bytes),
        ];
        for (all, more) in sums {
            all.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        let (before, number) = (self.ids.len(), other.ids.len());
        self.ids.extend(other.ids);
        assert_eq!(self.ids.len(), before + number, "an id was given to two clients");
    }
}

/// Where a client asks.
#[derive(Clone)]
struct Place {
    address: SocketAddr,
    /// Over TLS: what each tenant's hosts are to be shown, and the host that paths divide.
    certificates: Option<Arc<Vec<Vec<u8>>>>,
}

/// Requests on one connection over TLS.
const VISIT: usize = 10;

/// Requests of one client, each for a tenant by chance.
async fn client(place: Place, phase: Arc<Phase>, number: usize, requests: usize) -> Seen {
    let mut dice = Dice((phase.number * CLIENTS + number) as u64);
    let mut seen = Seen::new();
    let mut connection = match place.certificates {
        None => Some(Connection::open(place.address, number).await),
        Some(_) => None,
    };
    // Over TLS a connection is for the hosts of one certificate.
    let (mut at, mut shared) = (0, false);
    for nth in 0..requests {
        let mut tenant = dice.next(TENANTS);
        let (mut host, mut begin) = phase.address(tenant, &mut dice);
        if let Some(certificates) = &place.certificates {
            if nth % VISIT == 0 {
                (at, shared) = (tenant, host == "all.test");
                let shown = &certificates[if shared { TENANTS } else { tenant }];
                connection = Some(Connection::secure(place.address, number + nth / VISIT, &host, shown).await);
            }
            if !shared {
                tenant = at;
            }
            while (host == "all.test") != shared || nth % VISIT != 0 && !phase.is_of(&host, tenant) {
                (host, begin) = phase.address(tenant, &mut dice);
            }
        }
        let connection = connection.as_mut().unwrap();
        let mark = format!("mark-{tenant}-{number}-{nth}");
        let method = if nth % 3 == 0 { Method::POST } else { Method::GET };
        // What a client says of tenants counts for nothing.
        let forged = phase.key(dice.next(TENANTS));
        let request = Request::builder().method(&method).header("berth-tenant", forged).header("say-x-mark", &mark);
        // Nobody's host; over TLS also another tenant's, for which this connection is not.
        let stranger = nth % 20 == 7;
        let host = match (stranger, &place.certificates) {
            (false, _) => host,
            (true, Some(_)) if nth % 40 == 7 => format!("a{}.test", phase.places[(tenant + 1) % TENANTS]),
            (true, _) => format!("nobody{tenant}.test"),
        };
        let path = format!("{begin}/tenant/{tenant}/{mark}?secret=of-{tenant}");
        let body = if method == Method::POST { mark.as_str() } else { "" };
        let answer = timeout(PATIENCE, connection.send(request, &host, &path, body)).await.unwrap();
        let (parts, answer) = answer.into_parts();
        let text = answer.collect().await.unwrap().to_bytes();
        let id = parts.headers["x-request-id"].to_str().unwrap().to_owned();
        if stranger {
            let refused = [StatusCode::NOT_FOUND, StatusCode::MISDIRECTED_REQUEST];
            let most = if place.certificates.is_some() { 2 } else { 1 };
            assert!(refused[..most].contains(&parts.status), "{host}: {}", parts.status);
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("key-") && !text.contains("mark-") && text.contains(&id), "{text}");
            assert!(!parts.headers.contains_key("x-tenant"), "{host}");
        } else {
            assert_eq!(parts.status, StatusCode::OK, "{host}{path}");
            assert_eq!(parts.headers["x-tenant"], phase.key(tenant), "{host}{path}");
            assert_eq!(parts.headers["x-mark"], mark);
            assert!(text == body, "{host}{path}: another's body");
            seen.asked[tenant] += 1;
            seen.sent_bytes[tenant] += body.len() as u64;
            seen.got_bytes[tenant] += text.len() as u64;
        }
        assert!(seen.ids.insert(id), "an id was given twice");
    }
    seen
}

#[expect(clippy::disallowed_methods, reason = "how many requests a soak asks for, in a test and nowhere else")]
fn requests(usual: usize) -> usize {
    std::env::var("BERTH_SHUFFLED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Of each tenant, by name.
fn of_tenants(page: &str, metric: &str) -> HashMap<String, u64> {
    let begin = format!("{metric}{{tenant=\"");
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix(&begin)?.split_once('"')?;
        Some((name.to_owned(), rest.rsplit_once(' ')?.1.parse::<u64>().ok()?))
    };
    let mut all = HashMap::new();
    for (name, value) in page.lines().filter_map(line) {
        *all.entry(name).or_default() += value;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_hosts_and_keys_shuffled_show_nothing_of_one_tenant_to_another() {
    shuffled(requests(20_000), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_shuffled_with_them_show_nothing_either() {
    shuffled(requests(4_000), true).await;
}

async fn shuffled(requests: usize, secure: bool) {
    program_log::keep();
    let mut world = World::start().await;
    world.edge.stop().await;
    let file = world.dir.path().join("requests.log");
    let mut config = config(&world.control, world.dir.path());
    config.request_log = Some(RequestLog { file: Some(file.clone()), share: 1.0 });
    config.listen_tls = secure.then(|| "127.0.0.1:0".parse().unwrap());
    let edge = Running::start(config);
    let echoes = [Echo::start(Tongue::Http1).await, Echo::start(Tongue::H2c).await];
    let each = requests / PHASES / CLIENTS;
    let mut dice = Dice(1);
    let mut seen = Seen::new();
    for number in 0..PHASES {
        let phase = Arc::new(Phase::new(number, &mut dice));
        let certificates = secure.then(|| phase.certificates());
        let place = Place {
            address: edge.tls_address.unwrap_or(edge.address),
            certificates: certificates.as_ref().map(|all| Arc::new(all.iter().map(tls::der).collect())),
        };
        let routes: Vec<_> = (0..TENANTS).map(|tenant| phase.route(tenant, &echoes)).collect();
        if let Some(certificates) = certificates {
            // Only who listens hears of certificates, and what is acknowledged after them has them too.
            world.control.put(routes.clone()).await;
            world.control.say(&EdgeEvent::Certificates { full: true, certificates, gone: Vec::new() });
        }
        world.control.put(routes).await;
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(place.clone(), Arc::clone(&phase), number, each));
        }
        while let Some(done) = clients.join_next().await {
            seen.add(done.unwrap());
        }
    }
    let list: Vec<serde_json::Value> = serde_json::from_str(&edge.admin("/tenants").await).unwrap();
    let metrics = async || edge.admin("/metrics").await;
    let page = metrics().await;
    let shown = ["berth_edge_requests_total", "berth_edge_received_bytes_total", "berth_edge_sent_bytes_total"]
        .map(|metric| of_tenants(&page, metric));
    let timed = of_tenants(&page, "berth_edge_request_seconds_count");
    for tenant in 0..TENANTS {
        let name = format!("t{}", tenant + 1);
        let counted = list.iter().find(|t| t["name"] == name).unwrap();
        assert_eq!(counted["requests"].as_u64(), Some(seen.asked[tenant]), "tenant {tenant}");
        let wanted = [seen.asked[tenant], seen.sent_bytes[tenant], seen.got_bytes[tenant]];
        assert_eq!(shown.each_ref().map(|by_name| by_name[&name]), wanted, "tenant {tenant}");
        assert_eq!(timed[&name], seen.asked[tenant], "tenant {tenant}");
    }
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
            let status = &line["metadata"]["status"];
            assert!(*status == 404 || secure && *status == 421, "{line}");
            strangers += 1;
        } else {
            assert_eq!(line["tenant_id"], crate::world::tenant(tenant + 1).to_string(), "{line}");
            known += 1;
        }
        assert!(seen.ids.contains(line["metadata"]["request_id"].as_str().unwrap()));
    }
    assert!(known > strangers && strangers > 0, "{known} {strangers}");
    let log = logged(&world, &edge, &Phase::new(PHASES, &mut dice), &echoes).await;
    let keys = (0..=PHASES).flat_map(|phase| (0..TENANTS).map(move |tenant| format!("key-{tenant}-{phase}")));
    // What a path, a header, a route, a certificate or control's own key would show.
    for word in ["mark-", "secret=", "PRIVATE KEY", "bk_test"].map(str::to_owned).into_iter().chain(keys) {
        assert!(!log.contains(&word), "`{word}` is in the program's log: {log}");
    }
}

/// The program's own log, after it had reason to speak of a request: one met a member that takes no connection.
async fn logged(world: &World, edge: &Running, phase: &Phase, echoes: &[Echo]) -> String {
    let eject = Some(Ejection { failures: 1, for_ms: 600_000 });
    world.control.set_web(ServiceSettings { eject, ..ServiceSettings::default() });
    let mut home = phase.route(0, echoes);
    home.members.push(MemberAddress { address: "127.0.0.1:1".to_owned(), ..echoes[0].wire("") });
    world.control.put(vec![home]).await;
    let host = format!("a{}.test", phase.places[0]);
    let look = async || {
        edge.get(&host, "/tenant/0/mark-0-0-0?secret=of-0").await;
        program_log::written()
    };
    let of_it = |line: &str| line.contains("is passed over") && line.contains("\"127.0.0.1:1\"");
    let log = eventually("the log says that a member is passed over", look, |log| log.lines().any(of_it)).await;
    let follows = |line: &str| line.contains("following") && line.contains(&world.control.address.to_string());
    assert!(log.lines().any(follows), "{log}");
    log
}

/// Hosts that change their tenants while clients ask.
#[derive(Default)]
struct Changing {
    /// Those that have begun.
    phases: Mutex<Vec<Phase>>,
    /// How many of them every core has in force.
    in_force: AtomicUsize,
    asked: AtomicUsize,
    /// Answered while a change was on its way.
    amid: AtomicUsize,
    done: AtomicBool,
}

impl Changing {
    /// Who may have answered a request for this place that was sent when so many phases were in force.
    fn keys(&self, place: usize, in_force: usize) -> Vec<String> {
        let phases = self.phases.lock().unwrap();
        let phases = &phases[in_force - 1..];
        let owners = phases.iter().map(|phase| phase.places.iter().position(|at| *at == place).unwrap());
        // Each tenant changes at once, but not all of them: the one before may have its next key already.
        owners.flat_map(|owner| phases.iter().map(move |phase| phase.key(owner))).collect()
    }
}

/// Requests of one client over connections that stay open, each for a place by chance, whoever has it.
async fn client_amid(place: Place, changing: Arc<Changing>, number: usize, requests: usize) {
    let mut dice = Dice(number as u64 + 100);
    let mut connection = match place.certificates {
        None => Some(Connection::open(place.address, number).await),
        Some(_) => None,
    };
    let mut at = 0;
    for nth in 0..requests {
        let begins = nth % VISIT == 0;
        if begins || place.certificates.is_none() {
            at = dice.next(TENANTS);
        }
        let host = match dice.next(3) {
            0 => format!("a{at}.test"),
            1 => format!("b{at}.test"),
            _ => format!("x{}.w{at}.test", dice.next(50)),
        };
        if let Some(certificates) = place.certificates.as_ref().filter(|_| begins) {
            let number = number + nth / VISIT;
            connection = Some(Connection::secure(place.address, number, &host, &certificates[at]).await);
        }
        let mark = format!("mark-{number}-{nth}");
        let request = Request::builder().method(Method::POST).header("say-x-mark", &mark);
        let in_force = changing.in_force.load(SeqCst);
        let sent = connection.as_mut().unwrap().send(request, &host, "/", &mark);
        let (parts, body) = timeout(PATIENCE, sent).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let keys = changing.keys(at, in_force);
        changing.asked.fetch_add(1, SeqCst);
        if keys.len() > 1 {
            changing.amid.fetch_add(1, SeqCst);
            // The one before has lost it, and the one after has not got it yet.
            if parts.status == StatusCode::NOT_FOUND {
                assert!(!parts.headers.contains_key("x-tenant"), "{host}");
                continue;
            }
        }
        assert_eq!(parts.status, StatusCode::OK, "{host}");
        let by = parts.headers["x-tenant"].to_str().unwrap();
        assert!(keys.iter().any(|key| key == by), "{host} was answered by {by}, which is none of {keys:?}");
        assert_eq!(parts.headers["x-mark"], mark);
        assert!(text == mark, "{host}: another's body");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_hosts_change_their_tenants_an_answer_is_of_the_one_before_or_the_one_after() {
    amid(requests(8_000), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_on_connections_over_tls_that_stay_open() {
    amid(requests(2_000), true).await;
}

async fn amid(requests: usize, secure: bool) {
    let mut world = World::start().await;
    world.edge.stop().await;
    let mut config = config(&world.control, world.dir.path());
    config.listen_tls = secure.then(|| "127.0.0.1:0".parse().unwrap());
    let edge = Running::start(config);
    let echoes = [Echo::start(Tongue::Http1).await, Echo::start(Tongue::H2c).await];
    let changing = Arc::new(Changing::default());
    let mut dice = Dice(2);
    let mut change = async || {
        let number = changing.phases.lock().unwrap().len();
        let phase = Phase::new(number, &mut dice);
        let routes = (0..TENANTS).map(|tenant| phase.route(tenant, &echoes)).collect();
        changing.phases.lock().unwrap().push(phase);
        world.control.put(routes).await;
        changing.in_force.store(number + 1, SeqCst);
    };
    change().await;
    // Of places, so that they stay as they are.
    let certificates: Option<Vec<EdgeCertificate>> = secure.then(|| {
        let own = |place: usize| {
            let names = [format!("a{place}.test"), format!("b{place}.test"), format!("*.w{place}.test")];
            tls::made(place as u128 + 1, &names.each_ref().map(String::as_str))
        };
        (0..TENANTS).map(own).collect()
    });
    let place = Place {
        address: edge.tls_address.unwrap_or(edge.address),
        certificates: certificates.as_ref().map(|all| Arc::new(all.iter().map(tls::der).collect())),
    };
    if let Some(certificates) = certificates {
        world.control.say(&EdgeEvent::Certificates { full: true, certificates, gone: Vec::new() });
    }
    // What is acknowledged after certificates has them too.
    change().await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client_amid(place.clone(), Arc::clone(&changing), number, requests / CLIENTS));
    }
    let asking = async {
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        changing.done.store(true, SeqCst);
    };
    // A soak has as many changes, further apart.
    let pause = (requests / 400).max(50);
    let changes = async {
        while !changing.done.load(SeqCst) {
            let before = changing.asked.load(SeqCst);
            change().await;
            let go_on = async || changing.asked.load(SeqCst) >= before + pause || changing.done.load(SeqCst);
            eventually("requests go on", go_on, |go_on| *go_on).await;
        }
    };
    tokio::join!(asking, changes);
    let (phases, amid) = (changing.phases.lock().unwrap().len(), changing.amid.load(SeqCst));
    assert!(phases > 5 && amid > 10, "{phases} changes, {amid} answers amid them");
}
