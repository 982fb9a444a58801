//! `berth demo bench-idle`: the memory of a server and an edge that have many tenants and nothing to do.

use super::story::{cell_name, finished, tenant_in};
use super::{
    say,
    world::{World, refused},
};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::CellClass;
use berth_wire::CellCreate;
use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use std::time::Duration;

#[derive(Args, Debug)]
pub struct BenchIdle {
    /// Tenants
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    tenants: u32,
}

/// Reconcilers, pings and idle connections have had their turn by then.
const SETTLE: Duration = Duration::from_secs(15);

pub async fn run(options: &BenchIdle, world: &World, json: bool) -> Result<bool, Failure> {
    let client = &world.client;
    let cell = CellCreate {
        name: cell_name("wide"),
        class: CellClass::Shared,
        provider: None,
        region: None,
        max_tenants: Some(options.tenants),
    };
    let made = client.cell_create(&cell).await.map_err(|error| refused(error, "making a cell"))?;
    finished(client, made.id, "making a cell", |_| {}).await?;
    say(format!("creating {} tenants", options.tenants));
    let names: Vec<String> = (0..options.tenants).map(|nth| format!("tenant-{nth:05}")).collect();
    let mut making =
        stream::iter(names.iter().map(|name| tenant_in(client, name, "hobby", "wide"))).buffer_unordered(16);
    while let Some(made) = making.next().await {
        made?;
    }
    tokio::time::sleep(SETTLE).await;
    let out = json!({ "figures": {
        "tenants": options.tenants,
        "serve_rss_mb": rss_mb(world.serve_pid)?,
        "edge_rss_mb": rss_mb(world.edge_pid)?,
    }});
    let text = if json { format!("{out}\n") } else { format!("{out:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(true)
}

/// Resident memory of a process, as the kernel counts it.
fn rss_mb(pid: u32) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ours("the state of a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Failure::request("the kernel says nothing of that process's memory", ""))
}
