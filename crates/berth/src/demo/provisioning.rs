//! `berth demo bench-provisioning`: how long a new tenant waits to be served, one after the other and many at once; in a
//! shared cell, and in a cell of its own that is made for it; and both kinds in one crowd.
//!
//! From the request to the end of the operation, edges told. Prints figures and asserts none.

use super::story::cell_name;
use super::{
    say,
    world::{World, refused},
};
use crate::fail::{Failure, FailureExt as _};
use berth_client::Client;
use berth_domain::{CellClass, Hostname, PlanName, TenantName};
use berth_wire::{CellCreate, OperationEventKind, TenantCreate};
use clap::Args;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
pub struct BenchProvisioning {
    /// Tenants in shared cells, one after the other and then as many at once
    #[arg(long, default_value_t = 100, value_name = "N")]
    shared: usize,
    /// Cells of their own, one after the other and then as many at once
    #[arg(long, default_value_t = 10, value_name = "N")]
    dedicated: usize,
}

pub async fn run(options: &BenchProvisioning, world: &World, json: bool) -> Result<bool, Failure> {
    let client = &world.client;
    let cell = CellCreate {
        name: cell_name("wide"),
        class: CellClass::Shared,
        provider: None,
        region: None,
        max_tenants: Some(u32::try_from(3 * options.shared + 10).unwrap_or(u32::MAX)),
    };
    let made = client.cell_create(&cell).await.map_err(|error| refused(error, "making a cell"))?;
    ended(client, made.id).await?;
    // The first of all pays for connections that the others find.
    one(client, "warm-up", "hobby", Some("wide")).await?;
    let mut figures = serde_json::Map::new();
    for (class, plan, cell, many) in
        [("shared", "hobby", Some("wide"), options.shared), ("dedicated", "business", None, options.dedicated)]
    {
        say(format!("{many} {class} tenants, one after the other"));
        let mut took = Vec::new();
        for nth in 0..many {
            took.push(one(client, &format!("{class}-one-{nth:03}"), plan, cell).await?);
        }
        figures.insert(format!("{class}_one_by_one"), summary(took, None));
        say(format!("{many} {class} tenants at once"));
        let names: Vec<String> = (0..many).map(|nth| format!("{class}-all-{nth:03}")).collect();
        let began = Instant::now();
        let took = try_join_all(names.iter().map(|name| one(client, name, plan, cell))).await?;
        figures.insert(format!("{class}_at_once"), summary(took, Some(began.elapsed())));
    }
    say(format!("{} shared and {} dedicated tenants, all at once", options.shared, options.dedicated));
    let crowd = |class: &'static str, many: usize, plan: &'static str, cell: Option<&'static str>| async move {
        let names: Vec<String> = (0..many).map(|nth| format!("{class}-mix-{nth:03}")).collect();
        let began = Instant::now();
        let took = try_join_all(names.iter().map(|name| one(client, name, plan, cell))).await?;
        Ok::<_, Failure>(summary(took, Some(began.elapsed())))
    };
    let (shared, dedicated) = tokio::try_join!(
        crowd("shared", options.shared, "hobby", Some("wide")),
        crowd("dedicated", options.dedicated, "business", None)
    )?;
    figures.insert("shared_among_all_at_once".to_owned(), shared);
    figures.insert("dedicated_among_all_at_once".to_owned(), dedicated);
    let load = std::fs::read_to_string("/proc/loadavg").ours("the machine's load")?;
    figures.insert("load_average_after".to_owned(), json!(load.split(' ').next()));
    let out = json!({ "figures": figures });
    let text = if json { format!("{out}\n") } else { format!("{out:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(true)
}

async fn one(client: &Client, name: &str, plan: &str, cell: Option<&str>) -> Result<Duration, Failure> {
    let wanted = TenantCreate {
        name: TenantName::new(name).expect("a name by the rule"),
        plan: PlanName::new(plan).expect("a name by the rule"),
        hosts: vec![Hostname::new(format!("{name}.fleet.test")).expect("a host by the rule")],
        key: None,
        cell: cell.map(cell_name),
        profile: None,
    };
    let began = Instant::now();
    let begun = client.tenant_create(&wanted).await.map_err(|error| refused(error, "creating a tenant"))?;
    ended(client, begun.id).await?;
    Ok(began.elapsed())
}

async fn ended(client: &Client, id: berth_domain::OperationId) -> Result<(), Failure> {
    let what = "following an operation";
    let mut events = client.operation_events(id).await.map_err(|error| refused(error, what))?;
    while let Some(event) = events.next().await.map_err(|error| refused(error, what))? {
        if event.event == OperationEventKind::Ended {
            let state = event.operation.state;
            let why = event.operation.fault.map(|fault| fault.detail).unwrap_or_default();
            let good = state == berth_domain::OperationState::Succeeded;
            return if good { Ok(()) } else { Err(Failure::request(format!("operation {id} is {state}: {why}"), "")) };
        }
    }
    Err(Failure::request(format!("nobody says how operation {id} ended"), ""))
}

fn summary(mut took: Vec<Duration>, all: Option<Duration>) -> Value {
    took.sort();
    let ms = |of: Duration| (of.as_secs_f64() * 1e4).round() / 10.0;
    let at = |share: f64| {
        let nth = ((took.len() as f64 * share).ceil() as usize).clamp(1, took.len().max(1)) - 1;
        took.get(nth).map(|took| ms(*took))
    };
    json!({ "many": took.len(), "p50_ms": at(0.5), "p95_ms": at(0.95), "most_ms": at(1.0), "all_ms": all.map(ms) })
}
