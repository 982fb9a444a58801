//! `berth demo`: the main job on one machine with nothing set up.
//!
//! Real processes, real Postgres servers, real HTTP. It acts from outside only: over the API, through the edge, and at
//! the end with a checker that shares no code with what it judges. Leaves no process behind, by whatever death.

mod story;
mod world;

use crate::fail::{Failure, FailureExt as _};
use berth_workload::Verdict;
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub struct Demo {
    /// The fleet application's program
    #[arg(long, value_name = "FILE", default_value = "fleet")]
    fleet: PathBuf,
    /// 100,000 positions instead of 1,000,000, and shorter traffic
    #[arg(long)]
    quick: bool,
    /// One line of JSON, the last of stdout
    #[arg(long = "verdict-json", hide = true)]
    verdict_json: bool,
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
    #[arg(long, default_value = "/tmp", value_name = "FOLDER")]
    under: PathBuf,
}

pub fn run(options: &Demo, json: bool) -> ExitCode {
    let json = json || options.verdict_json;
    match try_run(options, json) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(failure) => {
            // Without a terminal the exit status has to do.
            let _ = write!(std::io::stderr().lock(), "{}", failure.screen());
            ExitCode::from(failure.status)
        }
    }
}

fn try_run(options: &Demo, json: bool) -> Result<Verdict, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .ours("threads could not be started")?;
    runtime.block_on(async {
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ours("signals")?;
        let fleet = options.fleet.canonicalize().map_err(|error| {
            Failure::ours(
                error,
                format!("the fleet application {}", options.fleet.display()),
                "cargo build --release -p fleet",
            )
        })?;
        let mut world = world::World::start(&options.under, &fleet).await?;
        let told = tokio::select! {
            told = story::tell(options, &mut world, json) => told,
            _ = tokio::signal::ctrl_c() => Err(interrupted()),
            _ = stop.recv() => Err(interrupted()),
        };
        let good = told.as_ref().is_ok_and(Verdict::is_green);
        world.end(good);
        told
    })
}

fn interrupted() -> Failure {
    Failure::request("the demo was stopped", "everything that it started is being ended")
}

/// What happens now, for people: stdout belongs to the verdict.
fn say(text: impl AsRef<str>) {
    // Without a terminal nobody misses it.
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}
