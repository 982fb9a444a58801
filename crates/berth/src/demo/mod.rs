//! `berth demo`: the main job on one machine with nothing set up.
//!
//! Real processes, real Postgres servers, real HTTP. It acts from outside only: over the API, through the edge, and at
//! the end with a checker that shares no code with what it judges. Leaves no process behind, by whatever death.

mod bench;
mod edge;
mod idle;
mod mover;
mod neighbours;
mod provisioning;
mod soak;
mod story;
mod world;

use crate::fail::{Failure, FailureExt as _};
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub struct Demo {
    /// Something else than the demo in the same world
    #[command(subcommand)]
    variant: Option<Variant>,
    /// The fleet application's program
    #[arg(long, value_name = "FILE", default_value = "fleet", global = true)]
    fleet: PathBuf,
    /// 100,000 positions instead of 1,000,000, and shorter traffic
    #[arg(long)]
    quick: bool,
    /// Leave everything running until Ctrl-C, and print the addresses
    #[arg(long)]
    keep: bool,
    /// Repeats the traffic
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Requests a second, all tenants together
    #[arg(long, default_value_t = 500.0, value_name = "N")]
    rate: f64,
    /// Where everything lies; the `postgres` user must be able to walk to it
    #[arg(long, default_value = "/tmp", value_name = "FOLDER", global = true)]
    under: PathBuf,
}

#[derive(clap::Subcommand, Debug)]
enum Variant {
    /// What moves cost their tenant's writers and the neighbours: figures
    #[command(hide = true)]
    BenchMoves(bench::BenchMoves),
    /// The mover beside COPY and pgcopydb
    #[command(hide = true)]
    BenchMover(mover::BenchMover),
    /// The edge beside nginx and HAProxy
    #[command(hide = true)]
    BenchEdge(edge::BenchEdge),
    /// How long neighbours wait for a move, at most
    #[command(hide = true)]
    BenchNeighbours(neighbours::BenchNeighbours),
    /// The memory of a server and an edge with nothing to do
    #[command(hide = true)]
    BenchIdle(idle::BenchIdle),
    /// How long a new tenant waits to be served
    #[command(hide = true)]
    BenchProvisioning(provisioning::BenchProvisioning),
    /// Moves under faults: one owner, nothing lost, nothing twice
    Soak(soak::Soak),
}

pub fn run(options: &Demo, json: bool) -> ExitCode {
    match try_run(options, json) {
        Ok(good) => ExitCode::from(if good { 0 } else { 2 }),
        Err(failure) => {
            // Without a terminal the exit status has to do.
            let _ = write!(std::io::stderr().lock(), "{}", failure.screen());
            ExitCode::from(failure.status)
        }
    }
}

/// Whether all went well.
fn try_run(options: &Demo, json: bool) -> Result<bool, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .ours("threads could not be started")?;
    if let Some(Variant::BenchMover(_) | Variant::BenchNeighbours(_)) = &options.variant {
        return runtime.block_on(async {
            tokio::select! {
                done = servers_alone(options, json) => done,
                _ = tokio::signal::ctrl_c() => Err(interrupted()),
            }
        });
    }
    if let Some(Variant::BenchEdge(bench)) = &options.variant {
        return runtime.block_on(async {
            tokio::select! {
                done = edge::run(bench, &options.under, json) => done,
                _ = tokio::signal::ctrl_c() => Err(interrupted()),
            }
        });
    }
    let fleet = options.fleet.canonicalize().map_err(|error| {
        let hint = "cargo build --release -p fleet";
        Failure::ours(error, format!("the fleet application {}", options.fleet.display()), hint)
    })?;
    runtime.block_on(async {
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ours("signals")?;
        // What is cut off in a soak has to be a network.
        let unix_sockets = !matches!(options.variant, Some(Variant::Soak(_)));
        let world = tokio::select! {
            world = world::World::start(&options.under, &fleet, unix_sockets) => world?,
            // The janitor ends what has been started so far.
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
            _ = stop.recv() => return Err(interrupted()),
        };
        let done = tokio::select! {
            done = act(options, &world, json) => done,
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
            _ = stop.recv() => Err(interrupted()),
        };
        world.end(matches!(done, Ok(true)));
        done
    })
}

/// What needs two servers and no world around them.
async fn servers_alone(options: &Demo, json: bool) -> Result<bool, Failure> {
    match &options.variant {
        Some(Variant::BenchMover(bench)) => Box::pin(mover::run(bench, &options.under, json)).await,
        Some(Variant::BenchNeighbours(bench)) => Box::pin(neighbours::run(bench, &options.under, json)).await,
        _ => Ok(false),
    }
}

async fn act(options: &Demo, world: &world::World, json: bool) -> Result<bool, Failure> {
    match &options.variant {
        None => story::tell(options, world, json).await.map(|verdict| verdict.is_green()),
        Some(Variant::BenchMoves(bench)) => bench::run(bench, world, json).await,
        Some(Variant::BenchEdge(bench)) => edge::run(bench, &options.under, json).await,
        Some(Variant::BenchMover(_) | Variant::BenchNeighbours(_)) => servers_alone(options, json).await,
        Some(Variant::BenchIdle(bench)) => idle::run(bench, world, json).await,
        Some(Variant::BenchProvisioning(bench)) => provisioning::run(bench, world, json).await,
        Some(Variant::Soak(soak)) => soak::run(soak, world, json).await,
    }
}

fn interrupted() -> Failure {
    Failure::request("the demo was stopped", "everything that it started is being ended")
}

/// What happens now, for people: stdout belongs to the verdict.
fn say(text: impl AsRef<str>) {
    // Without a terminal nobody misses it.
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Processor time of a process so far, in microseconds: of its living threads, as the scheduler counts it.
fn cpu_us(pid: &str) -> Result<f64, Failure> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ours("a process's threads")?;
    let ns = tasks.filter_map(Result::ok).map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0)
    });
    Ok(ns.sum::<f64>() / 1000.0)
}
