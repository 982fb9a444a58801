//! `berth demo bench-moves`: what a move costs its tenant's writers and their neighbours.
//!
//! Fifty small tenants between two shared cells, twenty of them and back again, and one large one five times into a new
//! cell of its own, each under writers on the moving tenant. Prints figures and asserts none: this machine is not the
//! reader's.

use super::story::{cell_name, filled, finished, moved, tenant_in};
use super::{
    say,
    world::{World, refused},
};
use crate::fail::{Failure, FailureExt as _};
use berth_client::Client;
use berth_domain::WayBackState;
use berth_wire::CellCreate;
use berth_workload::{
    Class, Latencies, Ledger, Load, LoadConfig, MoveFigures, Phase, Target, TenantPlace, check, vehicle_ids,
};
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
pub struct BenchMoves {
    /// Moves of small tenants
    #[arg(long, default_value_t = 50, value_name = "N")]
    small: usize,
    /// How many of these are undone
    #[arg(long, default_value_t = 20, value_name = "N")]
    undone: usize,
    /// Moves of the large tenant
    #[arg(long, default_value_t = 5, value_name = "N")]
    large: usize,
    /// Positions of the large tenant
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    rows: u64,
    /// Writing transactions a second on the moving tenant
    #[arg(long, default_value_t = 1_000.0, value_name = "N")]
    tps: f64,
}

/// A million rows go in batches, idle as long as busy.
const SETTLE_LIMIT: Duration = Duration::from_mins(10);
/// Tenants that only get traffic.
const NEIGHBOURS: usize = 5;
/// Requests a second on each of them.
const NEIGHBOUR_RATE: f64 = 20.0;
const SMALL_POSITIONS: u64 = 2_000;
const BEFORE: Duration = Duration::from_secs(2);

/// Answers whether the figures are of use: nothing failed, nothing was lost.
pub async fn run(options: &BenchMoves, world: &World, json: bool) -> Result<bool, Failure> {
    let client = &world.client;
    let second = CellCreate {
        name: cell_name("shared-2"),
        class: berth_domain::CellClass::Shared,
        provider: None,
        region: None,
        max_tenants: None,
    };
    let made = client.cell_create(&second).await.map_err(|error| refused(error, "making the second shared cell"))?;
    finished(client, made.id, "making the second shared cell", |_| {}).await?;
    let mut tenants = Vec::new();
    for nth in 0..=(options.small + NEIGHBOURS) {
        let name = if nth == 0 { "acme".to_owned() } else { format!("tenant-{nth:03}") };
        tenants.push(tenant_in(client, &name, if nth == 0 { "business" } else { "hobby" }, "shared-1").await?);
    }
    let sizes = |nth: usize| if nth == 0 { options.rows } else { SMALL_POSITIONS };
    filled(world, &tenants, sizes, 1).await?;
    let neighbours = &tenants[options.small + 1..];

    let mut order: Vec<(usize, Option<&str>)> = (1..=options.small).map(|nth| (nth, Some("shared-2"))).collect();
    order.extend((0..options.large).map(|_| (0, None)));
    let (mut figures, mut undo_pauses) = (Vec::<MoveFigures>::new(), Vec::new());
    let mut latency = Latencies::default();
    let (mut offered, mut reached, mut failed) = (Vec::new(), Vec::new(), 0);
    let mut ledger = Ledger::in_memory();
    for (nth, (who, to)) in order.iter().enumerate() {
        let tenant = &tenants[*who];
        let target = |tenant: &super::story::Tenant, weight: f64, class: Class| Target {
            name: tenant.name.clone(),
            key: tenant.key,
            host: tenant.host.clone(),
            weight,
            class,
            vehicles: vehicle_ids(tenant.key, 1, berth_workload::Amounts::default().vehicles),
        };
        let mut targets = vec![target(tenant, options.tps, Class::Mover)];
        targets.extend(neighbours.iter().map(|neighbour| target(neighbour, NEIGHBOUR_RATE, Class::Neighbour)));
        let rate = options.tps + NEIGHBOUR_RATE * NEIGHBOURS as f64;
        let mut config = LoadConfig::new(world.edge, rate, targets, 1_000 + nth as u64);
        config.write_share = 1.0;
        config.batch_share = 0.0;
        config.fence_share = 0.0;
        let load = Load::start(config).ours("the load")?;
        tokio::time::sleep(BEFORE).await;
        let before = client.tenant(&tenant.name).await.map_err(|error| refused(error, "looking at a tenant"))?.cell;
        let done = moved(client, &load.handle(), tenant, to.map(cell_name)).await?;
        let undone = if (1..=options.undone).contains(who) { Some(undo(client, tenant).await?) } else { None };
        let report = load.stop().await.ours("the load")?;
        match undone {
            Some(pause) => undo_pauses.extend(pause),
            None => settled(client, tenant).await?,
        }
        if let Some(left) = before.filter(|cell| cell.as_str() != "shared-1") {
            let removing =
                client.cell_remove(left.as_str()).await.map_err(|error| refused(error, "removing a cell"))?;
            finished(client, removing.id, "removing a cell", |_| {}).await?;
        }
        latency.merge(&report.latency);
        offered.push(report.offered_tps);
        reached.push(report.reached_tps);
        failed += report.failed;
        say(format!(
            "{:>3}/{} {:<10} {:>9} rows in {:>5.1} s, pause {:>6.1} ms, client gap {:>6.1} ms, {:>3} held, {} failed",
            nth + 1,
            order.len(),
            done.tenant,
            done.rows.unwrap_or(0),
            done.duration_s.unwrap_or(f64::NAN),
            done.pause_ms.unwrap_or(f64::NAN),
            done.client_gap_ms.unwrap_or(f64::NAN),
            done.held_requests.unwrap_or(0),
            report.failed
        ));
        figures.push(done);
        ledger.merge(&report.ledger);
    }
    let mut places = Vec::new();
    for tenant in &tenants {
        let cell = client.tenant(&tenant.name).await.map_err(|error| refused(error, "looking at a tenant"))?.cell;
        let cell = cell.ok_or_else(|| Failure::request(format!("`{}` has no cell", tenant.name), ""))?;
        places.push(TenantPlace {
            name: tenant.name.clone(),
            key: tenant.key,
            owner: world.database(&cell).await?,
            former: None,
        });
    }
    let findings = check(&ledger, &places).await.ours("the check")?;
    let pauses: Vec<f64> = figures.iter().filter_map(|m| m.pause_ms).collect();
    let neighbours_ms = |phase, q| latency.quantile_ms(Class::Neighbour, phase, q);
    let (before, during) = (neighbours_ms(Phase::Before, 0.99), neighbours_ms(Phase::During, 0.99));
    let change_pct = before.zip(during).map(|(before, during)| (during / before - 1.0) * 100.0);
    let out = json!({ "figures": {
        "pause_p50_ms": quantile(&pauses, 0.5), "pause_p99_ms": quantile(&pauses, 0.99),
        "undo_pause_p50_ms": quantile(&undo_pauses, 0.5), "undo_pause_p99_ms": quantile(&undo_pauses, 0.99),
        "undone": undo_pauses.len(),
        "neighbour_p50_before_ms": neighbours_ms(Phase::Before, 0.5),
        "neighbour_p50_during_ms": neighbours_ms(Phase::During, 0.5),
        "neighbour_p99_before_ms": before, "neighbour_p99_during_ms": during, "neighbour_p99_change_pct": change_pct,
        "moves": figures.len(),
        "offered_tps": mean(&offered), "reached_tps": mean(&reached),
    }});
    say(format!(
        "{} moves, {failed} requests failed, {} writes acknowledged, {} missing, {} duplicated",
        figures.len(),
        findings.acknowledged,
        findings.missing + findings.changed,
        findings.duplicated
    ));
    let text = if json { format!("{out}\n") } else { format!("{out:#}\n") };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    if failed > 0 || !findings.is_clean() {
        return Ok(false);
    }
    Ok(true)
}

/// Takes a move back under the same writers. Answers how long they waited, by the edge's clock.
async fn undo(client: &Client, tenant: &super::story::Tenant) -> Result<Option<f64>, Failure> {
    let undoing = client.tenant_undo_move(&tenant.name).await.map_err(|error| refused(error, "undoing a move"))?;
    let mut pause_ms = None;
    finished(client, undoing.id, "undoing a move", |operation| {
        let figures = operation.result.as_ref().map(|result| &result.figures);
        pause_ms = figures.and_then(|figures| figures.get("pause_ms")?.as_f64());
    })
    .await?;
    say(format!("          {:<10} back again, pause {:>6.1} ms", tenant.name, pause_ms.unwrap_or(f64::NAN)));
    Ok(pause_ms)
}

/// The next move is to be measured without the way back of this one, which reads the target's log.
async fn settled(client: &Client, tenant: &super::story::Tenant) -> Result<(), Failure> {
    let until = Instant::now() + SETTLE_LIMIT;
    client.tenant_settle_move(&tenant.name).await.map_err(|error| refused(error, "settling a move"))?;
    loop {
        let moves = client.moves(Some(&tenant.name)).await.map_err(|error| refused(error, "reading the moves"))?;
        let left = |m: &berth_wire::Move| m.way_back.as_ref().is_some_and(|way| way.state == WayBackState::Closing);
        if !moves.iter().any(left) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Failure::request("what a move left behind does not go", "`berth tenant show` says why"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
