//! A small world with real sockets: a control plane, members, an edge, clients.

use berth_domain::{
    CellName, EdgeId, EdgeName, Generation, Hostname, MemberId, PlanName, Revision, ServiceName, TenantId, TenantKey,
    TenantName, Token,
};
use berth_edge::{Edge, EdgeConfig, EdgeError, Limits};
use berth_wire::edge::{
    EdgeAck, EdgeAckAnswer, EdgeEvent, EdgeMeters, EdgeMetersAnswer, EdgeSettings, Hidden, Hold, HoldOutcome,
    HoldPolicy, MemberAddress, RouteState, SPEAKS, ServiceSettings, TenantMeter, TenantRoute,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::{Debug, Write as _},
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition, and says what was seen last when it does not come.
pub async fn eventually<T: Debug>(what: &str, look: impl AsyncFn() -> T, good: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}; last seen: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn tenant(number: u128) -> TenantId {
    TenantId::new(uuid::Uuid::from_u128(number))
}

/// A route of tenant `number` with host `tN.test`, in a cell with these members.
pub fn route(number: u128, generation: u64, cell: &str, members: &[&Member]) -> TenantRoute {
    TenantRoute {
        tenant: tenant(number),
        name: TenantName::new(format!("t{number}")).unwrap(),
        key: TenantKey::new(format!("key-{number}")).unwrap(),
        plan: PlanName::new("starter").unwrap(),
        cell: CellName::new(cell).unwrap(),
        generation: Generation::new(generation),
        revision: Revision::new(0),
        hosts: vec![Hostname::new(format!("t{number}.test")).unwrap()],
        patterns: Vec::new(),
        state: RouteState::Serving,
        members: members.iter().map(|m| m.wire()).collect(),
        body_bytes: None,
        limits: Vec::new(),
        allow: Vec::new(),
    }
}

pub fn held(mut from: TenantRoute, token: u64, drain_ms: u32, park_ms: u32) -> TenantRoute {
    let hold = Hold { token: Token::new(token), policy: HoldPolicy::Unsafe, drain_ms, park_ms };
    from.state = RouteState::Held { hold };
    from
}

/// A control plane that says what it is told to say, and writes down what it hears.
pub struct Control {
    pub address: SocketAddr,
    shared: Arc<ControlShared>,
    server: Mutex<Option<JoinHandle<()>>>,
}

struct ControlShared {
    routes: Mutex<BTreeMap<TenantId, TenantRoute>>,
    revision: AtomicU64,
    lines: broadcast::Sender<Bytes>,
    settings: Mutex<Option<EdgeSettings>>,
    acks: Mutex<Vec<EdgeAck>>,
    /// The highest counters heard, by life and tenant.
    meters: Mutex<BTreeMap<(EdgeId, TenantId), TenantMeter>>,
    streams: AtomicUsize,
    asked_after: Mutex<Vec<u64>>,
}

fn line(event: &EdgeEvent) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap();
    text.push(b'\n');
    Bytes::from(text)
}

impl Control {
    pub async fn start() -> Self {
        let shared = Arc::new(ControlShared {
            routes: Mutex::default(),
            revision: AtomicU64::new(0),
            lines: broadcast::channel(1024).0,
            settings: Mutex::default(),
            acks: Mutex::default(),
            meters: Mutex::default(),
            streams: AtomicUsize::new(0),
            asked_after: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(Self::serve(listener, Arc::clone(&shared)));
        Self { address, shared, server: Mutex::new(Some(server)) }
    }

    async fn serve(listener: TcpListener, shared: Arc<ControlShared>) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(shared.answer(request).await) }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    /// Dies: nothing is listened to, every connection is cut.
    pub async fn die(&self) {
        let server = self.server.lock().unwrap().take().unwrap();
        server.abort();
        let _ = server.await;
    }

    /// Comes back at the same address.
    pub fn rise(&self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        *self.server.lock().unwrap() = Some(tokio::spawn(Self::serve(listener, Arc::clone(&self.shared))));
    }

    /// Says what is the same for all tenants, now and to every edge that comes.
    pub fn set(&self, settings: EdgeSettings) {
        *self.shared.settings.lock().unwrap() = Some(settings.clone());
        let _ = self.shared.lines.send(line(&EdgeEvent::Settings { settings }));
    }

    /// Says it to the edges that listen now.
    pub fn say(&self, event: &EdgeEvent) {
        let _ = self.shared.lines.send(line(event));
    }

    /// Settings of the service `web`.
    pub fn set_web(&self, web: ServiceSettings) {
        let services = [(ServiceName::new("web").unwrap(), web)].into();
        self.set(EdgeSettings { services, cookie_key: Hidden::new("a key".into()), ..EdgeSettings::default() });
    }

    /// Requests counted for tenant `number`, over all lives of the edge.
    pub fn counted(&self, number: u128) -> u64 {
        let meters = self.shared.meters.lock().unwrap();
        meters.iter().filter(|((_, of), _)| *of == tenant(number)).map(|(_, meter)| meter.requests).sum()
    }

    /// Publishes routes under the next revision, which is returned.
    pub fn publish(&self, routes: Vec<TenantRoute>) -> u64 {
        let revision = self.shared.revision.fetch_add(1, Ordering::SeqCst) + 1;
        self.publish_at(revision, revision, routes);
        revision
    }

    /// Says that these routes are of that revision, whatever was said before.
    pub fn publish_at(&self, revision: u64, route_revision: u64, mut routes: Vec<TenantRoute>) {
        let mut all = self.shared.routes.lock().unwrap();
        for route in &mut routes {
            route.revision = Revision::new(route_revision);
            all.insert(route.tenant, route.clone());
        }
        let event = EdgeEvent::Routes { full: false, revision: Revision::new(revision), routes };
        let _ = self.shared.lines.send(line(&event));
    }

    /// Publishes, and waits until an edge has it in force. A leaving one's last word is of an earlier revision.
    pub async fn put(&self, routes: Vec<TenantRoute>) {
        let (before, wanted) = (self.acks().len(), self.publish(routes));
        let there = async || self.acks()[before..].iter().any(|ack| ack.revision.get() >= wanted);
        eventually("a revision is acknowledged", there, |there| *there).await;
    }

    pub async fn acknowledged(&self, revision: u64) {
        let look = async || self.shared.acks.lock().unwrap().last().map(|a| a.revision.get());
        eventually("a revision is acknowledged", look, |seen| seen.is_some_and(|s| s >= revision)).await;
    }

    /// Forgets everything, like a control plane restored from an old backup.
    pub fn restore(&self, revision: u64, routes: Vec<TenantRoute>) {
        self.shared.revision.store(revision, Ordering::SeqCst);
        *self.shared.routes.lock().unwrap() = routes.into_iter().map(|r| (r.tenant, r)).collect();
    }

    pub fn acks(&self) -> Vec<EdgeAck> {
        self.shared.acks.lock().unwrap().clone()
    }

    pub fn asked_after(&self) -> Vec<u64> {
        self.shared.asked_after.lock().unwrap().clone()
    }

    pub fn outcomes(&self, token: u64) -> Vec<HoldOutcome> {
        let acks = self.acks();
        let reports = acks.into_iter().flat_map(|a| a.holds);
        reports.filter(|r| r.token == Token::new(token)).map(|r| r.outcome).collect()
    }

    pub async fn outcome(&self, token: u64, good: impl Fn(&HoldOutcome) -> bool) -> HoldOutcome {
        let seen = eventually("a hold's outcome", async || self.outcomes(token), |all| all.iter().any(&good)).await;
        seen.into_iter().find(|o| good(o)).unwrap()
    }

    pub async fn in_force(&self, token: u64) {
        self.outcome(token, |o| *o == HoldOutcome::InForce).await;
    }

    /// `(held, expired)` of a hold that ended.
    pub async fn ended(&self, token: u64) -> (u32, u32, f64) {
        match self.outcome(token, |o| matches!(o, HoldOutcome::Ended { .. })).await {
            HoldOutcome::Ended { pause_ms, held_requests, expired_requests } => {
                (held_requests, expired_requests, pause_ms)
            }
            other => panic!("{other:?}"),
        }
    }
}

type ControlBody = UnsyncBoxBody<Bytes, Infallible>;

impl ControlShared {
    async fn answer(&self, request: Request<Incoming>) -> Response<ControlBody> {
        assert_eq!(request.headers()["authorization"], "Bearer bk_test");
        if request.uri().path().ends_with("/meters") {
            let Ok(body) = request.into_body().collect().await else { return Response::default() };
            let said: EdgeMeters = serde_json::from_slice(&body.to_bytes()).unwrap();
            let mut meters = self.meters.lock().unwrap();
            for meter in &said.tenants {
                let known = meters.entry((said.instance, meter.tenant)).or_insert(*meter);
                assert!(known.requests <= meter.requests, "counters only rise");
                *known = *meter;
            }
            let answer = EdgeMetersAnswer { counted: said.tenants.len() as u64 };
            return Response::new(Full::from(serde_json::to_vec(&answer).unwrap()).boxed_unsync());
        }
        if request.method() == Method::POST {
            assert!(request.uri().path().ends_with("/acks"));
            let Ok(body) = request.into_body().collect().await else { return Response::default() };
            self.acks.lock().unwrap().push(serde_json::from_slice(&body.to_bytes()).unwrap());
            let answer = EdgeAckAnswer { revision: Revision::new(self.revision.load(Ordering::SeqCst)) };
            return Response::new(Full::from(serde_json::to_vec(&answer).unwrap()).boxed_unsync());
        }
        assert!(request.uri().path().starts_with("/v1/edges/") && request.uri().path().ends_with("/routes"));
        let Ok(after) = request.uri().query().unwrap().rsplit_once("after=").unwrap().1.parse::<u64>() else {
            return Response::builder().status(400).body(Full::from("no polls here").boxed_unsync()).unwrap();
        };
        self.asked_after.lock().unwrap().push(after);
        let lines = self.lines.subscribe();
        let all = self.routes.lock().unwrap();
        let routes = all.values().filter(|r| r.revision.get() > after).cloned().collect();
        let revision = Revision::new(self.revision.load(Ordering::SeqCst));
        let mut first = line(&EdgeEvent::Routes { full: after == 0, revision, routes });
        drop(all);
        assert!(["2", "3"].iter().any(|spoken| request.headers()[SPEAKS] == spoken));
        if let Some(settings) = self.settings.lock().unwrap().clone() {
            first = [line(&EdgeEvent::Settings { settings }), first].concat().into();
        }
        self.streams.fetch_add(1, Ordering::SeqCst);
        let rest = stream::unfold(lines, |mut lines| async { lines.recv().await.ok().map(|l| (l, lines)) });
        let all = stream::once(async { first }).chain(rest);
        Response::new(StreamBody::new(all.map(|l| Ok(Frame::data(l)))).boxed_unsync())
    }
}

/// A running copy of an application, which says in each answer what it was sent.
pub struct Member {
    pub address: SocketAddr,
    pub state: Arc<MemberState>,
    server: JoinHandle<()>,
}

pub struct MemberState {
    pub name: String,
    pub connections: AtomicUsize,
    pub safe: AtomicUsize,
    pub writes: AtomicUsize,
    /// Requests to `/wait` are answered when this is true.
    pub open: watch::Sender<bool>,
    pub waiting: AtomicUsize,
    /// Not 0: every request but GET is refused by the fence at this generation.
    pub fenced: AtomicU64,
    pub refused: AtomicUsize,
    /// What `/health` is answered.
    pub health: AtomicU16,
}

impl Member {
    pub async fn start(name: &str) -> Self {
        let state = Arc::new(MemberState {
            name: name.to_owned(),
            connections: AtomicUsize::new(0),
            safe: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            open: watch::channel(false).0,
            waiting: AtomicUsize::new(0),
            fenced: AtomicU64::new(0),
            refused: AtomicUsize::new(0),
            health: AtomicU16::new(200),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    let state = Arc::clone(&state);
                    connections.spawn(async move {
                        let service = service_fn(move |request| {
                            let state = Arc::clone(&state);
                            async move { state.answer(request).await }
                        });
                        let builder = hyper::server::conn::http1::Builder::new();
                        let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                    });
                }
            }
        });
        Self { address, state, server }
    }

    pub fn wire(&self) -> MemberAddress {
        MemberAddress {
            member: MemberId::new(uuid::Uuid::from_u128(u128::from(self.address.port()))),
            service: ServiceName::new("web").unwrap(),
            address: self.address.to_string(),
            draining_ms: None,
        }
    }

    pub fn writes(&self) -> usize {
        self.state.writes.load(Ordering::SeqCst)
    }

    pub async fn has_waiting(&self, number: usize) {
        eventually("requests wait there", async || self.state.waiting.load(Ordering::SeqCst), |n| *n == number).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl MemberState {
    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
        if request.uri().path() == "/socket" {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut socket = TokioIo::new(upgrade.await.unwrap());
                let (mut read, mut write) = tokio::io::split(&mut socket);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            let answer = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
            return Ok(answer.body(Full::default().boxed_unsync()).unwrap());
        }
        if request.uri().path() == "/health" {
            let answer = Response::builder().status(self.health.load(Ordering::SeqCst));
            return Ok(answer.body(Full::default().boxed_unsync()).unwrap());
        }
        if request.uri().path() == "/events" {
            let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"data: 1\n\n"))) });
            let body = StreamBody::new(first.chain(stream::pending()));
            let answer = Response::builder().header("content-type", "text/event-stream");
            return Ok(answer.body(body.boxed_unsync()).unwrap());
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let write = !matches!(parts.method, Method::GET | Method::HEAD);
        if parts.uri.path() == "/hang-up" {
            self.writes.fetch_add(usize::from(write), Ordering::SeqCst);
            self.safe.fetch_add(usize::from(!write), Ordering::SeqCst);
            std::panic::resume_unwind(Box::new("the member dies in the midst of a request"));
        }
        if parts.uri.path() == "/wait" {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        let fenced = self.fenced.load(Ordering::SeqCst);
        if write && fenced != 0 {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let answer = Response::builder().status(503).header("berth-fenced", fenced);
            return Ok(answer.body(Full::from("fenced").boxed_unsync()).unwrap());
        }
        let counter = if write { &self.writes } else { &self.safe };
        counter.fetch_add(1, Ordering::SeqCst);
        let mut text = format!("{} {} {}\n", self.name, parts.method, parts.uri);
        for (name, value) in &parts.headers {
            writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        writeln!(text, "\n{} bytes", body.len()).unwrap();
        let answer = Response::builder().header("berth-secret", "1").header("connection", "x-hop").header("x-hop", "1");
        Ok(answer.body(Full::from(text).boxed_unsync()).unwrap())
    }
}

/// An edge under test.
pub struct Running {
    pub address: SocketAddr,
    pub tls_address: Option<SocketAddr>,
    pub admin: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), EdgeError>>,
}

pub fn config(control: &Control, dir: &Path) -> EdgeConfig {
    EdgeConfig {
        name: EdgeName::new("north").unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_tls: None,
        admin: "127.0.0.1:0".parse().unwrap(),
        control_urls: vec![format!("http://{}", control.address)],
        control_authorities: None,
        api_key: "bk_test".into(),
        data_dir: dir.to_owned(),
        workers: 2,
        second_names: false,
        geo_database: None,
        request_log: None,
        limits: Limits {
            drain_time: Duration::from_millis(200),
            report_every: Duration::from_millis(100),
            ..Limits::default()
        },
    }
}

impl Running {
    pub fn start(config: EdgeConfig) -> Self {
        Self::run(Edge::bind(config).unwrap())
    }

    pub fn run(edge: Edge) -> Self {
        let (address, tls_address, admin) = (edge.address(), edge.tls_address(), edge.admin_address());
        let (shutdown, down) = oneshot::channel::<()>();
        let task = tokio::spawn(edge.run(async {
            let _ = down.await;
        }));
        Self { address, tls_address, admin, shutdown: Some(shutdown), task }
    }

    pub async fn stop(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Ends by itself.
    pub async fn ended(&mut self) {
        (&mut self.task).await.unwrap().unwrap();
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, method: Method, host: &str, path: &str) -> Answer {
        self.client().await.ask(method, host, path, "").await
    }

    pub async fn get(&self, host: &str, path: &str) -> Answer {
        self.ask(Method::GET, host, path).await
    }

    /// A request of its own task.
    pub fn later(&self, method: Method, host: &str, path: &str, body: &str) -> JoinHandle<Answer> {
        let (address, host, path, body) = (self.address, host.to_owned(), path.to_owned(), body.to_owned());
        tokio::spawn(async move { Client::connect(address).await.ask(method, &host, &path, &body).await })
    }

    pub async fn admin(&self, path: &str) -> String {
        Client::connect(self.admin).await.ask(Method::GET, "admin", path, "").await.body
    }

    /// Requests of a tenant that have been parked so far.
    pub async fn parked(&self, name: &str, number: u64) {
        let look = async || {
            let list: Vec<serde_json::Value> = serde_json::from_str(&self.admin("/tenants").await).unwrap();
            list.iter().find(|t| t["name"] == name).and_then(|t| t["parked"].as_u64())
        };
        eventually("requests are parked", look, |n| *n == Some(number)).await;
    }
}

/// One client connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The member that answered.
    pub fn by(&self) -> &str {
        self.body.split(' ').next().unwrap_or_default()
    }

    /// A header as the member saw it.
    pub fn sent(&self, name: &str) -> Option<&str> {
        self.body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub async fn ask(&mut self, method: Method, host: &str, path: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", host);
        self.send(request.body(Full::from(body.to_owned())).unwrap()).await
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// Control plane, one member, one tenant at it, and an edge that serves it.
pub struct World {
    pub control: Control,
    pub old: Member,
    pub new: Member,
    pub edge: Running,
    pub dir: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let control = Control::start().await;
        let (old, new) = (Member::start("old").await, Member::start("new").await);
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&control, dir.path());
        change(&mut config);
        let edge = Running::start(config);
        control.put(vec![route(1, 1, "shared", &[&old])]).await;
        Self { control, old, new, edge, dir }
    }

    pub fn home(&self) -> TenantRoute {
        route(1, 1, "shared", &[&self.old])
    }

    pub fn moved(&self) -> TenantRoute {
        route(1, 2, "own", &[&self.new])
    }
}
