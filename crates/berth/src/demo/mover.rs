//! `berth demo bench-mover`: the mover beside what it cannot beat by much and what it should beat by far, in one run.
//!
//! Every way moves the same million rows of one tenant out of a database with four, from one Postgres into a second
//! one. The peers: a bare binary `COPY … | COPY` with keys and indexes built afterwards, the same into the finished
//! schema, and `pgcopydb clone`, which knows no tenants and takes the whole database.

use super::say;
use crate::fail::{Failure, FailureExt as _};
use berth_domain::{CellId, MoveId, TenantKey};
use berth_infra::{CellDatabase, Role, Shape};
use berth_mover::{
    ControlTable, DataRules, Endpoint, MoveSpec, NoEdges, Phase, Progress, ReadAhead, Tuning, Watcher, Way,
};
use berth_providers::local::{EmbeddedOptions, EmbeddedPostgres};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

#[derive(Args, Debug)]
pub struct BenchMover {
    /// Rows of each tenant
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    rows: u64,
    /// Single-row transactions that are captured
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    transactions: u64,
    /// Beside `COPY | COPY` alone, out of two tenants: for numbers of rows that the other ways take too long for
    #[arg(long)]
    brief: bool,
}

pub(super) const TABLES: &str = "
    create table customers (id uuid not null, name text not null);
    create table vehicles (id uuid not null, customer_id uuid not null, label text not null);
    create table positions (id uuid not null, customer_id uuid not null, vehicle_id uuid not null,
        at timestamptz not null, lat double precision not null, lon double precision not null, speed real);";
/// Three indexes and two foreign keys on the large table.
pub(super) const KEYS: &str = "
    alter table customers add primary key (id);
    alter table vehicles add primary key (id);
    alter table positions add primary key (id);
    create index positions_by_vehicle on positions (vehicle_id, at);
    create index positions_by_customer on positions (customer_id, at);
    alter table vehicles add foreign key (customer_id) references customers;
    alter table positions add foreign key (customer_id) references customers;
    alter table positions add foreign key (vehicle_id) references vehicles;";
const VEHICLES: u64 = 200;
/// Tenants before the neighbours' data is doubled, and as many are added then.
pub(super) const TENANTS: usize = 4;

pub(super) struct Servers {
    pub source: EmbeddedPostgres,
    pub target: EmbeddedPostgres,
}

pub async fn run(options: &BenchMover, under: &Path, json: bool) -> Result<bool, Failure> {
    let (servers, dir) = servers(under).await?;
    let figures = measure(options, &servers, &dir).await?;
    let text = if json { format!("{figures}\n") } else { format!("{figures:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(true)
}

/// Two servers in a folder of their own, which a janitor clears away.
pub(super) async fn servers(under: &Path) -> Result<(Servers, PathBuf), Failure> {
    let dir = under.join(format!("berth-bench-{}", Uuid::new_v4().simple()));
    let roots = [dir.join("source"), dir.join("target"), dir.clone()];
    std::fs::create_dir_all(&dir).ours("the bench's folder")?;
    crate::janitor::hire(&roots)?;
    let shape = Shape { memory_mb: 1_024, ..Shape::default() };
    let start = |root: &Path| {
        let (root, options) = (root.to_owned(), EmbeddedOptions { shape, ..EmbeddedOptions::default() });
        async move { EmbeddedPostgres::start_with(&root, "app", options).await.ours("a Postgres could not be started") }
    };
    Ok((Servers { source: start(&roots[0]).await?, target: start(&roots[1]).await? }, dir))
}

async fn measure(options: &BenchMover, servers: &Servers, dir: &Path) -> Result<serde_json::Value, Failure> {
    let (source, target) = (servers.source.database(), servers.target.database());
    let filler = client(source, "app").await?;
    run_sql(&filler, &format!("{TABLES}{KEYS}")).await?;
    let count = if options.brief { 2 } else { TENANTS };
    let mut tenants = fill(&filler, count, options.rows).await?;
    say(format!("{} rows of {count} tenants lie in the source", options.rows * count as u64));
    if options.brief {
        let copy = copied(source, target, tenants[0], Schema::Afterwards).await?;
        let ours = moved(source, target, tenants.remove(0), 0).await?;
        return Ok(json!({
            "ratios": { "time_vs_copy": ours.total_s / copy },
            "figures": {
                "rows": options.rows,
                "rows_per_s": options.rows as f64 / ours.total_s,
                "seconds": ours.total_s,
                "copy_seconds": copy,
                "phases": ours.phases,
            },
        }));
    }

    // In turn, so that a slow minute of the machine meets both; the quicker of two counts.
    let mut ours = Vec::new();
    let mut copies = Vec::new();
    for _ in 0..2 {
        let tenant = tenants.pop().ok_or_else(|| Failure::request("no tenant is left", ""))?;
        ours.push(moved(source, target, tenant, 0).await?);
        copies.push(copied(source, target, tenants[0], Schema::Afterwards).await?);
    }
    let indexed = copied(source, target, tenants[0], Schema::Finished).await?;
    let cloned = pgcopydb(source, target, dir).await?;

    let mut doubled = tenants;
    doubled.extend(fill(&filler, TENANTS, options.rows).await?);
    say("the neighbours' rows are doubled");
    let mut beside_more = Vec::new();
    for _ in 0..2 {
        let tenant = doubled.remove(0);
        beside_more.push(moved(source, target, tenant, 0).await?);
    }
    // The same rows lie on twice as many pages by now: what that costs whoever reads them.
    let copy_beside_more = copied(source, target, doubled[0], Schema::Afterwards).await?;
    let captured = moved(source, target, doubled.remove(0), options.transactions).await?;

    let best = |runs: &[Moved]| runs.iter().map(|run| run.total_s).fold(f64::INFINITY, f64::min);
    let (mine, copy) = (best(&ours), copies.into_iter().fold(f64::INFINITY, f64::min));
    let of = |seconds: f64| mine / seconds;
    Ok(json!({
        "ratios": {
            "time_vs_copy": of(copy),
            "time_vs_indexed_copy": of(indexed),
            "time_vs_pgcopydb": cloned.map(of),
            "time_doubled_neighbours": best(&beside_more) / mine,
        },
        "figures": {
            "rows": options.rows,
            "rows_per_s": options.rows as f64 / mine,
            "capture_tx_per_s": captured.capture_tx_per_s,
            "capture_tx_per_core_s": captured.capture_tx_per_core_s,
            "seconds": mine,
            "copy_seconds": copy,
            "copy_doubled_neighbours": copy_beside_more / copy,
            "indexed_copy_seconds": indexed,
            "pgcopydb_seconds": cloned,
            "phases": ours.iter().min_by(|a, b| a.total_s.total_cmp(&b.total_s)).map(|run| run.phases.clone()),
        },
    }))
}

pub(super) async fn client(cell: &CellDatabase, database: &str) -> Result<Client, Failure> {
    client_as(cell, database, Role::Mover).await
}

pub(super) async fn client_as(cell: &CellDatabase, database: &str, role: Role) -> Result<Client, Failure> {
    let login = cell.login(role);
    let mut config = tokio_postgres::Config::new();
    config
        .host(&cell.host)
        .port(cell.port)
        .dbname(database)
        .user(&login.user)
        .password(login.password.expose_secret())
        .application_name(if role == Role::Mover { "berth_bench" } else { "neighbour" })
        .options("-c synchronous_commit=on -c maintenance_work_mem=256MB -c jit=off");
    let (client, connection) = config.connect(NoTls).await.ours("a connection")?;
    tokio::spawn(async move {
        // An error here is the statement's that was under way.
        let _ended = connection.await;
    });
    Ok(client)
}

pub(super) async fn run_sql(client: &Client, sql: &str) -> Result<(), Failure> {
    client.batch_execute(sql).await.ours("a statement of the bench")
}

/// The tenants' rows lie mixed, as they do where tenants write at the same time.
pub(super) async fn fill(client: &Client, count: usize, rows: u64) -> Result<Vec<Uuid>, Failure> {
    let tenants: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    for tenant in &tenants {
        run_sql(
            client,
            &format!(
                "insert into customers values ('{tenant}', 'T');
                 insert into vehicles select gen_random_uuid(), '{tenant}', 'v' || n from generate_series(1, {VEHICLES}) n"
            ),
        )
        .await?;
    }
    let list = tenants.iter().map(|t| format!("'{t}'")).collect::<Vec<_>>().join(", ");
    run_sql(
        client,
        &format!(
            "insert into positions
             select gen_random_uuid(), v.customer_id, v.id, timestamptz '2024-01-01' + n * interval '1 second',
                    50 + random(), 8 + random(), random() * 100
             from generate_series(1, {rows} / {VEHICLES}) n, (select * from vehicles where customer_id in ({list}) order by id) v"
        ),
    )
    .await?;
    run_sql(client, "vacuum analyze").await?;
    run_sql(client, "checkpoint").await?;
    Ok(tenants)
}

async fn fresh(cell: &CellDatabase) -> Result<String, Failure> {
    let name = format!("bench_{}", Uuid::new_v4().simple());
    let admin = client(cell, "postgres").await?;
    run_sql(&admin, &format!("create database {name}")).await?;
    run_sql(&admin, "checkpoint").await?;
    Ok(name)
}

async fn drop_database(cell: &CellDatabase, name: &str) -> Result<(), Failure> {
    run_sql(&client(cell, "postgres").await?, &format!("drop database {name} with (force)")).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Schema {
    Afterwards,
    Finished,
}

/// A bare binary `COPY … | COPY` of a tenant's rows, in seconds. No snapshot, no capture, no fence, nothing compared.
async fn copied(source: &CellDatabase, target: &CellDatabase, tenant: Uuid, schema: Schema) -> Result<f64, Failure> {
    let name = fresh(target).await?;
    let (from, to) = (client(source, "app").await?, client(target, &name).await?);
    run_sql(&to, TABLES).await?;
    if schema == Schema::Finished {
        run_sql(&to, KEYS).await?;
    }
    let began = Instant::now();
    for (table, column) in [("customers", "id"), ("vehicles", "customer_id"), ("positions", "customer_id")] {
        let out = format!("copy (select * from {table} where {column} = '{tenant}') to stdout (format binary)");
        let rows = from.copy_out(&out).await.ours("COPY out")?;
        let sink = to.copy_in::<_, bytes::Bytes>(&format!("copy {table} from stdin (format binary)")).await;
        let sink = sink.ours("COPY in")?;
        tokio::pin!(rows, sink);
        while let Some(chunk) = rows.next().await {
            sink.feed(chunk.ours("COPY out")?).await.ours("COPY in")?;
        }
        sink.as_mut().finish().await.ours("COPY in")?;
    }
    if schema == Schema::Afterwards {
        run_sql(&to, KEYS).await?;
    }
    let took = began.elapsed().as_secs_f64();
    let what = if schema == Schema::Finished { "into the finished schema" } else { "keys and indexes afterwards" };
    say(format!("  {took:6.2} s  COPY | COPY, {what}"));
    drop_database(target, &name).await?;
    Ok(took)
}

/// Debian's `pgcopydb`, the whole database, in seconds; none where it is not installed.
async fn pgcopydb(source: &CellDatabase, target: &CellDatabase, dir: &Path) -> Result<Option<f64>, Failure> {
    let name = fresh(target).await?;
    let url = |cell: &CellDatabase, database: &str| cell.url_of(Role::Mover, database).expose_secret().to_owned();
    let began = Instant::now();
    let ended = tokio::process::Command::new("pgcopydb")
        .args(["clone", "--table-jobs", "2", "--index-jobs", "2", "--no-owner", "--no-acl", "--skip-extensions"])
        .arg("--dir")
        .arg(dir.join("pgcopydb"))
        .env("PGCOPYDB_SOURCE_PGURI", url(source, "app"))
        .env("PGCOPYDB_TARGET_PGURI", url(target, &name))
        .stdin(std::process::Stdio::null())
        .output()
        .await;
    let took = began.elapsed().as_secs_f64();
    let seconds = match ended {
        Ok(output) if output.status.success() => {
            say(format!("  {took:6.2} s  pgcopydb clone, the whole database"));
            Some(took)
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            return Err(Failure::request(format!("pgcopydb failed: {said}"), "its messages are on its standard error"));
        }
        Err(_) => {
            say("  skipped  pgcopydb is not installed (apt-get install pgcopydb)");
            None
        }
    };
    drop_database(target, &name).await?;
    Ok(seconds)
}

pub(super) struct Moved {
    total_s: f64,
    phases: serde_json::Value,
    capture_tx_per_s: Option<f64>,
    /// By the processor time of the mover itself, without the two servers'.
    capture_tx_per_core_s: Option<f64>,
}

/// When each phase of a move began, and after how much processor time of this process.
#[derive(Default)]
struct Stopwatch(Mutex<Vec<(Phase, Instant, f64)>>);

impl Watcher for Stopwatch {
    fn progress(&self, progress: Progress) {
        if let Ok(mut seen) = self.0.lock()
            && seen.last().is_none_or(|(phase, ..)| *phase != progress.phase)
        {
            seen.push((progress.phase, Instant::now(), super::cpu_us("self").unwrap_or(f64::NAN)));
        }
    }
    fn cancelled(&self) -> bool {
        false
    }
}

/// Moves one tenant into a fresh database, with capture and every row compared. `transactions`: as many are written
/// between load and following.
pub(super) async fn moved(
    source: &CellDatabase,
    target: &CellDatabase,
    tenant: Uuid,
    transactions: u64,
) -> Result<Moved, Failure> {
    let name = fresh(target).await?;
    run_sql(&client(target, &name).await?, &format!("{TABLES}{KEYS}")).await?;
    let moved = between((source, "app"), (target, &name), tenant, transactions, After::Nothing).await?;
    drop_database(target, &name).await?;
    Ok(moved)
}

/// A tenant leaves the database where its neighbours live, and everything of it goes after it.
pub(super) async fn left(home: &CellDatabase, away: &CellDatabase, tenant: Uuid) -> Result<(), Failure> {
    let name = fresh(away).await?;
    run_sql(&client(away, &name).await?, &format!("{TABLES}{KEYS}")).await?;
    between((home, "app"), (away, &name), tenant, 0, After::Settled).await?;
    drop_database(away, &name).await
}

/// A tenant comes out of a database of its own into the one where the neighbours live.
pub(super) async fn came(home: &CellDatabase, away: &CellDatabase, rows: u64) -> Result<(), Failure> {
    let name = fresh(away).await?;
    let own = client(away, &name).await?;
    run_sql(&own, &format!("{TABLES}{KEYS}")).await?;
    let tenants = fill(&own, 1, rows).await?;
    drop(own);
    for tenant in tenants {
        between((away, &name), (home, "app"), tenant, 0, After::Settled).await?;
    }
    drop_database(away, &name).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// Rows and fence leave the old side, and the fence the new one.
    Settled,
}

async fn between(
    (source, from): (&CellDatabase, &str),
    (target, to): (&CellDatabase, &str),
    tenant: Uuid,
    transactions: u64,
    then: After,
) -> Result<Moved, Failure> {
    let endpoint = |cell: &CellDatabase, database: &str| {
        let login = cell.login(Role::Mover);
        Endpoint {
            host: cell.host.clone(),
            port: cell.port,
            database: database.to_owned(),
            user: login.user.clone(),
            password: login.password.clone(),
            tls: None,
        }
    };
    let spec = MoveSpec {
        id: MoveId::new(Uuid::now_v7()),
        tenant: TenantKey::new(tenant.to_string()).ours("the tenant's key")?,
        rules: DataRules::of("customers", "id", "customer_id"),
        source: endpoint(source, from),
        target: endpoint(target, to),
        source_cell: CellId::new(Uuid::from_u128(1)),
        target_cell: CellId::new(Uuid::from_u128(2)),
        target_free_bytes: None,
        keep_from: None,
        alone: to != "app",
        way_back: false,
        way: Way::There,
        tuning: Tuning::default(),
        beside: berth_mover::Beside::default(),
        ahead: ReadAhead::default(),
    };
    let ownership = ControlTable::open(&spec).await.ours("the control row")?;
    let watch = Stopwatch::default();
    let began = Instant::now();
    let plan = berth_mover::plan(&spec).await.ours("the plan")?;
    let row = berth_mover::begin(&spec, &ownership).await.ours("the beginning")?;
    watch.progress(Progress::of(Phase::Prepare));
    berth_mover::prepare(&spec, &plan, row, &ownership).await.ours("the preparation")?;
    watch.progress(Progress::of(Phase::Copy));
    berth_mover::copy(&spec, &plan, row.token, &watch).await.ours("the copy")?;
    berth_mover::build(&spec, &plan, row.token, &watch).await.ours("the building of keys")?;
    let wrote = Instant::now();
    if transactions > 0 {
        write(source, tenant, transactions).await?;
    }
    let wrote = wrote.elapsed();
    let cut = berth_mover::cut_over(&spec, &plan, &ownership, &NoEdges, &watch).await.ours("the cut-over")?;
    let total = began.elapsed().saturating_sub(wrote);
    let row = berth_mover::take(&ownership).await.ours("the end")?;
    berth_mover::retire(&spec, &plan, true, row.token).await.ours("the end")?;
    if then == After::Settled {
        berth_mover::release(&spec, &plan, &ownership, &watch).await.ours("the rows that were left")?;
        berth_mover::unfence(&spec, berth_mover::Side::Target, &ownership).await.ours("the fence")?;
        ownership.remove().await.ours("the control row")?;
    }
    let seen = watch.0.lock().map(|seen| seen.clone()).unwrap_or_default();
    let at = |phase: Phase| seen.iter().find(|(p, ..)| *p == phase).map(|(_, at, cpu_us)| (*at, *cpu_us));
    let mut phases = serde_json::Map::new();
    let mut last = began;
    let mut name_of_last = Phase::Plan;
    for (phase, at, _) in &seen {
        phases.insert(name_of_last.as_str().to_owned(), json!((*at - last).as_secs_f64()));
        (last, name_of_last) = (*at, *phase);
    }
    phases.insert(name_of_last.as_str().to_owned(), json!(last.elapsed().as_secs_f64()));
    let captured = at(Phase::Follow).zip(at(Phase::Compare)).filter(|_| transactions > 0);
    let capture_tx_per_s = captured.map(|((from, _), (to, _))| transactions as f64 / (to - from).as_secs_f64());
    let capture_tx_per_core_s = captured.map(|((_, from), (_, to))| transactions as f64 * 1e6 / (to - from));
    let took = total.as_secs_f64();
    say(format!(
        "  {took:6.2} s  berth, {} rows compared; {}",
        cut.rows_verified,
        serde_json::Value::Object(phases.clone())
    ));
    Ok(Moved { total_s: took, phases: serde_json::Value::Object(phases), capture_tx_per_s, capture_tx_per_core_s })
}

/// Single-row transactions, as quickly as four sessions write them: what is measured is how they are captured.
async fn write(source: &CellDatabase, tenant: Uuid, transactions: u64) -> Result<(), Failure> {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let session = client(source, "app").await?;
        writers.spawn(async move {
            run_sql(&session, "set synchronous_commit = off").await?;
            let sql = "insert into positions select gen_random_uuid(), customer_id, id, now(), 1, 2, 3 from vehicles where id = $1";
            let vehicle: Uuid = session
                .query_one("select id from vehicles where customer_id = $1 limit 1", &[&tenant])
                .await
                .ours("a vehicle")?
                .get(0);
            let statement = session.prepare(sql).await.ours("a statement")?;
            for _ in 0..transactions / 4 {
                session.execute(&statement, &[&vehicle]).await.ours("a write")?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done.ours("a writer")??;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}
