//! A cell is measured: what its members and its database really do, in place of what somebody claims.
//!
//! Everything is done from here, so a figure holds the way to the cell too, and from a cell in use it is what its tenants
//! leave. Nothing stays behind: tables are the session's own, and what is written to the log is a message that nobody
//! reads. A figure that cannot be had is absent, not 0.

use super::{CellInput, socket, store};
use crate::{
    App,
    cell_access::{connect, failed},
};
use async_trait::async_trait;
use berth_domain::{CellId, ServiceRole};
use berth_infra::Role;
use berth_store::{Figure, Tx};
use berth_wire::OperationResult;
use berth_workflow::{Run, Step, StepError, TxStep, Workflow};
use futures_util::{SinkExt as _, TryStreamExt as _, future::try_join_all, pin_mut};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
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
    let figures = run.step(Measure { cell: input.cell }).await?;
    run.tx(KeepFigures { cell: input.cell, figures: figures.clone() }).await?;
    let shown = figures.iter().map(|it| (format!("{}_{}", it.what, it.unit), json!(it.value))).collect();
    Ok(OperationResult { summary: Some(format!("{} figures were measured", figures.len())), figures: shown })
}

struct Measure {
    cell: CellId,
}

#[async_trait]
impl Step<App> for Measure {
    const NAME: &'static str = "measure";
    type Output = Vec<Figure>;

    async fn run(&self, app: &App) -> Result<Vec<Figure>, StepError> {
        let cell = app.cell(self.cell).await?;
        let mut figures = members(app, self.cell).await?;
        let database = app.cell_database(&cell).await?;
        let mut clients = Vec::with_capacity(WRITERS);
        for _ in 0..WRITERS {
            clients.push(connect(&cell.name, &database, Role::Owner).await?);
        }
        let client = &clients[0];
        let failed = failed(&cell.name);
        figures.extend(queries(client).await.map_err(&failed)?);
        figures.push(ingest(&clients).await.map_err(&failed)?);
        figures.push(upload(client).await.map_err(&failed)?);
        figures.push(backup(client).await.map_err(&failed)?);
        Ok(figures)
    }
    async fn undo(&self, _app: &App, _made: Option<Vec<Figure>>) -> Result<(), StepError> {
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
async fn members(app: &App, cell: CellId) -> Result<Vec<Figure>, StepError> {
    let in_force = app.stack().await?;
    let members = app.store().member_list(Some(cell)).await.map_err(store)?;
    let web = members.iter().find_map(|member| {
        let service = in_force.stack.services.get(&member.service)?;
        let address = member.address.clone().filter(|_| member.service_role == ServiceRole::Web)?;
        Some((address, service.health.clone()?, service.socket.clone()))
    });
    let Some((address, path, socket)) = web else { return Ok(Vec::new()) };
    let spoken = match socket {
        // One that does not speak WebSocket there has no such figure; its other ones it has.
        Some(path) => timeout(SOCKET_LIMIT, socket::pings(&address, &path, REQUESTS)).await.ok().and_then(Result::ok),
        None => None,
    };
    let (mut opened, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        // A member that cannot be reached from here, or not every time, has no figure.
        match timeout(REQUEST_LIMIT, request(&address, &path)).await {
            Ok(Ok((open, answer))) => {
                opened.push(open);
                answered.push(answer);
            }
            _ => return Ok(Vec::new()),
        }
    }
    let mut figures =
        vec![figure(measured::API, "ms", p95(answered), REQUESTS), figure("socket", "ms", p95(opened), REQUESTS)];
    figures.extend(spoken.map(|times| figure("websocket", "ms", p95(times), REQUESTS)));
    Ok(figures)
}

/// Milliseconds until it is open, and from then until the whole answer is here.
async fn request(address: &str, path: &str) -> std::io::Result<(f64, f64)> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    let open = ms(started);
    let started = Instant::now();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 2") {
        return Err(std::io::Error::other("it did not answer 2xx"));
    }
    Ok((open, ms(started)))
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
    use super::{figure, p95};

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
