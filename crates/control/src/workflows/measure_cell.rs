//! A cell is measured: what its members and its database really do, in place of what somebody claims.
//!
//! Everything is done from here, so a figure holds the way to the cell too, and from a cell in use it is what its tenants
//! leave. Nothing stays behind: tables are the session's own, and what is written to the log is a message that nobody
//! reads. A figure that cannot be had is absent, not 0, and the result says why.

use super::{CellInput, member_way::MemberWay, socket, store};
use crate::{
    App, ask,
    cell_access::{connect, failed},
};
use async_trait::async_trait;
use berth_domain::{CellId, ServiceRole};
use berth_infra::Role;
use berth_store::{Figure, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Run, Step, StepError, TxStep, Workflow};
use futures_util::{SinkExt as _, TryStreamExt as _, future::try_join_all, pin_mut};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    io,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_postgres::Client;

/// Those that a decision asks for.
pub(crate) mod measured {
    pub const API: &str = "api";
    pub const INGEST: &str = "ingest";
}

pub const MEASURE_CELL: Workflow<CellInput> = Workflow::named("measure_cell_v1");

const REQUESTS: usize = 100;
const QUERIES: usize = 200;
const AGGREGATES: usize = 5;
/// How long rows are written for.
const INGEST: Duration = Duration::from_secs(2);
/// Each with a session of its own, as an application has them.
const WRITERS: usize = 4;
const UPLOAD_BYTES: usize = 10 << 20;
/// Of the gibibyte that a backup's figure is for.
const BACKUP_PART: u64 = 16;
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// For the handshake and all pings together.
const SOCKET_LIMIT: Duration = Duration::from_secs(30);

pub(super) async fn run(run: &mut Run<App>, input: CellInput) -> Result<OperationResult, StepError> {
    let Found { figures, absent } = run.step(Measure { cell: input.cell }).await?;
    run.tx(KeepFigures { cell: input.cell, figures: figures.clone() }).await?;
    let shown = figures.iter().map(|it| (format!("{}_{}", it.what, it.unit), json!(it.value))).collect();
    let summary = format!("{} figures were measured", figures.len());
    let summary = absent.iter().fold(summary, |said, why| format!("{said}; {why}"));
    Ok(OperationResult { summary: Some(summary), figures: shown })
}

/// What was measured, and of what is absent, why.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(from = "Journalled")]
struct Found {
    figures: Vec<Figure>,
    absent: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Journalled {
    Now {
        figures: Vec<Figure>,
        absent: Vec<String>,
    },
    /// By a version that gave no reasons.
    Before(Vec<Figure>),
}

impl From<Journalled> for Found {
    fn from(journalled: Journalled) -> Self {
        match journalled {
            Journalled::Now { figures, absent } => Self { figures, absent },
            Journalled::Before(figures) => Self { figures, absent: Vec::new() },
        }
    }
}

struct Measure {
    cell: CellId,
}

#[async_trait]
impl Step<App> for Measure {
    const NAME: &'static str = "measure";
    type Output = Found;

    async fn run(&self, app: &App) -> Result<Found, StepError> {
        let cell = app.cell(self.cell).await?;
        let mut found = members(app, self.cell).await?;
        let database = app.cell_database(&cell).await?;
        let mut clients = Vec::with_capacity(WRITERS);
        for _ in 0..WRITERS {
            clients.push(connect(&cell.name, &database, Role::Owner).await?);
        }
        let client = &clients[0];
        let failed = failed(&cell.name);
        found.figures.extend(queries(client).await.map_err(&failed)?);
        found.figures.push(ingest(&clients).await.map_err(&failed)?);
        found.figures.push(upload(client).await.map_err(&failed)?);
        found.figures.push(backup(client).await.map_err(&failed)?);
        Ok(found)
    }
    async fn undo(&self, _app: &App, _made: Option<Found>) -> Result<(), StepError> {
        Ok(())
    }
}

struct KeepFigures {
    cell: CellId,
    figures: Vec<Figure>,
}

#[async_trait]
impl TxStep<App> for KeepFigures {
    const NAME: &'static str = "keep_figures";
    type Output = ();

    async fn run(&self, tx: &mut Tx) -> Result<(), StepError> {
        tx.cell_measured(self.cell, &self.figures).await.map_err(store)
    }
    async fn undo(&self, _tx: &mut Tx, (): ()) -> Result<(), StepError> {
        Ok(())
    }
}

fn figure(what: &str, unit: &str, value: f64, samples: usize) -> Figure {
    // Three digits are as many as such a figure means.
    let scale = 10_f64.powf(2.0 - value.abs().max(1e-9).log10().floor());
    let value = (value * scale).round() / scale;
    Figure { what: what.to_owned(), unit: unit.to_owned(), value, samples: u32::try_from(samples).unwrap_or(u32::MAX) }
}

/// The value that 95 of 100 stay at or below.
fn p95(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() * 95).div_ceil(100).saturating_sub(1)]
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// The health path of one web member, which asks its database: over a connection of its own each time.
async fn members(app: &App, cell: CellId) -> Result<Found, StepError> {
    let in_force = app.stack().await?;
    let members = app.store().member_list(Some(cell)).await.map_err(store)?;
    let web = members.iter().find_map(|member| {
        let service = in_force.stack.services.get(&member.service)?;
        let address = member.address.clone().filter(|_| member.service_role == ServiceRole::Web)?;
        Some((&member.service, address, service.health.clone()?, service))
    });
    let absent = |why: String| Found { figures: Vec::new(), absent: vec![why] };
    let Some((name, address, path, service)) = web else {
        return Ok(absent("no api and socket: no member of a web service with a `health` path has an address".into()));
    };
    Ok(match MemberWay::new(&address, &service.edge) {
        Ok(way) => of_member(&way, &path, service.socket.as_deref()).await,
        Err(why) => absent(format!("no api, socket and websocket of `{name}` at {address}: {why}")),
    })
}

async fn of_member(way: &MemberWay, path: &str, socket: Option<&str>) -> Found {
    let mut found = Found::default();
    let at = &way.authority;
    match answers(way, path).await {
        Ok((opened, answered)) => found.figures.extend([
            figure(measured::API, "ms", p95(answered), REQUESTS),
            figure("socket", "ms", p95(opened), REQUESTS),
        ]),
        // A member that cannot be reached from here, or not every time, has no figure.
        Err(why) => {
            found.absent.push(format!("no api, socket and websocket: {at}{path}: {why}"));
            return found;
        }
    }
    let Some(path) = socket else { return found };
    match timeout(SOCKET_LIMIT, socket::pings(way, path, REQUESTS)).await {
        Ok(Ok(times)) => found.figures.push(figure("websocket", "ms", p95(times), REQUESTS)),
        // One that does not speak WebSocket there has no such figure; its other ones it has.
        Ok(Err(why)) => found.absent.push(format!("no websocket: {at}{path}: {why}")),
        Err(_) => {
            found.absent.push(format!("no websocket: {at}{path} took longer than {} s", SOCKET_LIMIT.as_secs()));
        }
    }
    found
}

async fn answers(way: &MemberWay, path: &str) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let (mut opened, mut answered) = (Vec::with_capacity(REQUESTS), Vec::with_capacity(REQUESTS));
    for _ in 0..REQUESTS {
        let late = |_| io::Error::other(format!("no answer within {} s", REQUEST_LIMIT.as_secs()));
        let (open, answer) = timeout(REQUEST_LIMIT, request(way, path)).await.map_err(late)??;
        opened.push(open);
        answered.push(answer);
    }
    Ok((opened, answered))
}

/// Milliseconds until it is open, and from then until the whole answer is here.
async fn request(way: &MemberWay, path: &str) -> io::Result<(f64, f64)> {
    let started = Instant::now();
    let mut stream = way.connect().await?;
    let open = ms(started);
    let started = Instant::now();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", way.authority);
    match ask::ask(&mut stream, &head, b"").await? {
        Some(answer) if (200..300).contains(&answer.status) => Ok((open, ms(started))),
        Some(answer) => Err(io::Error::other(format!("it answered {}", answer.status))),
        None => Err(io::Error::other("it gave no HTTP answer")),
    }
}

async fn queries(client: &Client) -> Result<Vec<Figure>, tokio_postgres::Error> {
    let mut simple = Vec::with_capacity(QUERIES);
    for _ in 0..QUERIES {
        let started = Instant::now();
        client.batch_execute("SELECT 1").await?;
        simple.push(ms(started));
    }
    let mut aggregate = Vec::with_capacity(AGGREGATES);
    for _ in 0..AGGREGATES {
        let started = Instant::now();
        client
            .batch_execute("SELECT count(*), avg(n), stddev(n) FROM generate_series(1, 200000) n GROUP BY n % 10")
            .await?;
        aggregate.push(ms(started));
    }
    Ok(vec![
        figure("query_simple", "ms", p95(simple), QUERIES),
        figure("query_complex", "ms", p95(aggregate), AGGREGATES),
    ])
}

/// Rows of a position's size, each in a commit of its own: what an application does that answers before the next one.
///
/// A session's own table is not in the log, so each commit writes as much to it by a message, and waits for the disk.
async fn ingest(clients: &[Client]) -> Result<Figure, tokio_postgres::Error> {
    let started = Instant::now();
    let counted = try_join_all(clients.iter().map(async |client| {
        client
            .batch_execute("CREATE TEMP TABLE berth_measure (at timestamptz, lat float8, lon float8, note text)")
            .await?;
        let row = client
            .prepare("INSERT INTO berth_measure VALUES (clock_timestamp(), random(), random(), md5(random()::text))")
            .await?;
        let log = client.prepare("SELECT pg_logical_emit_message(true, 'berth_measure', repeat('x', 100))").await?;
        let (mut rows, started) = (0_usize, Instant::now());
        while started.elapsed() < INGEST {
            client.batch_execute("BEGIN").await?;
            client.execute(&row, &[]).await?;
            client.execute(&log, &[]).await?;
            client.batch_execute("COMMIT").await?;
            rows += 1;
        }
        client.batch_execute("DROP TABLE berth_measure").await?;
        Ok::<usize, tokio_postgres::Error>(rows)
    }))
    .await?;
    let rows: usize = counted.iter().sum();
    Ok(figure(measured::INGEST, "rows_per_s", rows as f64 / started.elapsed().as_secs_f64(), rows))
}

/// Ten mebibytes on their way into the cell.
async fn upload(client: &Client) -> Result<Figure, tokio_postgres::Error> {
    client.batch_execute("CREATE TEMP TABLE berth_upload (part text)").await?;
    let line = bytes::Bytes::from(format!("{}\n", "x".repeat(8191)));
    let started = Instant::now();
    let sink = client.copy_in("COPY berth_upload FROM STDIN").await?;
    pin_mut!(sink);
    for _ in 0..UPLOAD_BYTES / line.len() {
        sink.send(line.clone()).await?;
    }
    sink.finish().await?;
    let took = started.elapsed().as_secs_f64();
    client.batch_execute("DROP TABLE berth_upload").await?;
    Ok(figure("upload_10_mib", "s", took, 1))
}

/// What reading a gibibyte out of the cell takes, from a sixteenth of it. Rows are made on the way: the disk is not read.
async fn backup(client: &Client) -> Result<Figure, tokio_postgres::Error> {
    let rows = (1_u64 << 30) / BACKUP_PART / 1024;
    let started = Instant::now();
    let stream =
        client.copy_out(&*format!("COPY (SELECT repeat('x', 1023) FROM generate_series(1, {rows})) TO STDOUT")).await?;
    pin_mut!(stream);
    while stream.try_next().await?.is_some() {}
    Ok(figure("backup_1_gib", "s", started.elapsed().as_secs_f64() * BACKUP_PART as f64, 1))
}

#[cfg(test)]
mod tests {
    use super::{Found, MemberWay, figure, of_member, p95};
    use berth_config::ServiceEdge;
    use berth_domain::{Hostname, Speaks};
    use futures_util::StreamExt as _;
    use std::sync::Arc;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    /// A member that answers `/health` and speaks WebSocket at `/live`, over TLS as `app.test`: its address, and who
    /// vouches for it.
    async fn secure_member() -> (String, String) {
        let key = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(tokio::spawn(async move {
            // What is measured comes in this order: a hundred requests, and a WebSocket.
            for n in 0.. {
                let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
                if n >= super::REQUESTS {
                    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                    while let Some(Ok(_)) = socket.next().await {}
                    continue;
                }
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                assert!(asked.starts_with(b"GET /health HTTP/1.1\r\n"), "{asked:?}");
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }));
        (format!("127.0.0.1:{port}"), key.cert.pem())
    }

    #[tokio::test]
    async fn a_member_that_speaks_tls_has_its_figures_and_one_that_nobody_vouches_for_a_reason() {
        let (address, ca) = secure_member().await;
        let name = Some(Hostname::new("app.test").unwrap());
        let edge =
            ServiceEdge { speaks: Speaks::Https, ca: Some(ca), server_name: name.clone(), ..ServiceEdge::default() };
        let way = MemberWay::new(&address, &edge).unwrap();
        let found = of_member(&way, "/health", Some("/live")).await;
        let names: Vec<&str> = found.figures.iter().map(|figure| figure.what.as_str()).collect();
        assert_eq!((names, found.absent), (vec!["api", "socket", "websocket"], vec![]));
        // Another authority, which the address asks for by its scheme.
        let (address, _) = secure_member().await;
        let stranger = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap().cert.pem();
        let edge = ServiceEdge { ca: Some(stranger), server_name: name, ..ServiceEdge::default() };
        let way = MemberWay::new(&format!("https://{address}"), &edge).unwrap();
        let found = of_member(&way, "/health", Some("/live")).await;
        assert!(found.figures.is_empty(), "{found:?}");
        assert!(found.absent[0].starts_with(&format!("no api, socket and websocket: {address}/health: ")), "{found:?}");
        // Without TLS it gives no HTTP answer, and that is said.
        let way = MemberWay::new(&address, &ServiceEdge::default()).unwrap();
        assert_eq!(of_member(&way, "/health", None).await.absent.len(), 1);
        let h2c = ServiceEdge { speaks: Speaks::H2c, ..ServiceEdge::default() };
        assert!(MemberWay::new(&address, &h2c).err().unwrap().contains("speaks h2c"));
        assert!(MemberWay::new("h2c://a:1", &ServiceEdge::default()).is_err());
        let broken =
            ServiceEdge { ca: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()), ..edge };
        assert!(MemberWay::new("https://a:1", &broken).err().unwrap().contains("`edge.ca`"));
    }

    #[test]
    fn what_was_journalled_before_there_were_reasons_is_read() {
        let before = r#"[{"what":"api","unit":"ms","value":4.0,"samples":100}]"#;
        let found: Found = serde_json::from_str(before).unwrap();
        assert_eq!((found.figures.len(), found.absent.len()), (1, 0));
        let now = Found { absent: vec!["no websocket".to_owned()], ..found };
        let again: Found = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
        assert_eq!((again.figures, again.absent), (now.figures, now.absent));
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "rounded to what is written here")]
    fn figures_have_three_digits_and_95_of_100_are_at_or_below_the_95th_percentile() {
        assert_eq!([1234.5, 0.012_345, 99.96].map(|v| figure("a", "ms", v, 1).value), [1230.0, 0.0123, 100.0]);
        assert_eq!(figure("a", "ms", 0.0, 1).value, 0.0);
        assert_eq!(p95((1..=100).map(f64::from).collect()), 95.0);
        assert_eq!(p95(vec![3.0]), 3.0);
        assert_eq!(p95(vec![2.0, 1.0]), 2.0);
    }
}
