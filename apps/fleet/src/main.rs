//! The fleet application: vehicles and their GPS positions, for many customers at once.
//!
//! It stands for anybody's SaaS. It knows the contract between a platform and an application (environment,
//! `Berth-*` headers, `BF001`, usage and entitlements) and nothing else of the platform: no crate of it, no table of it.

mod config;
mod database;
mod geofences;
mod migrate;
mod positions;
mod problem;
mod redis;
mod server;
mod signature;
mod socket;
mod status;
mod tenant;
mod usage;
mod vehicles;

use anyhow::Context;

const USAGE: &str = "usage: fleet migrate | fleet schema | fleet serve";

/// One thread: a copy of the service is scaled by more copies, and on a small machine a second thread only
/// takes the core that its database would have used.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(config::log_filter())
        .init();
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    anyhow::ensure!(arguments.next().is_none(), USAGE);
    match command.as_deref() {
        Some("migrate") => migrate::migrate(&config::database_url()?).await.context("migrating the schema"),
        Some("schema") => {
            print!("{}", migrate::SCHEMA);
            Ok(())
        }
        Some("serve") => server::serve(config::Settings::from_environment()?).await,
        _ => anyhow::bail!(USAGE),
    }
}
