//! What the demo does, in order: tenants, rows, traffic, the upgrade of the large one, four small ones at once, and
//! the verdict.

use super::{
    Demo, say,
    world::{World, refused},
};
use crate::fail::{Failure, FailureExt as _};
use berth_client::Client;
use berth_domain::{CellName, Hostname, OperationId, OperationState, PlanName, TenantName};
use berth_wire::{Operation, TenantCreate, TenantMove};
use berth_workload::{
    Amounts, Class, Load, LoadConfig, LoadHandle, MoveFigures, Target, TenantPlace, Verdict, check, foreign_rows, seed,
    vehicle_ids,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

const TENANTS: usize = 20;
const LARGE: &str = "acme";
/// Which small ones move, all at once.
const SMALL_MOVERS: std::ops::Range<usize> = 1..5;
const SHARED: &str = "shared-1";
/// A move of a million rows takes well under a minute; a demo that hangs must say so.
const OPERATION_LIMIT: Duration = Duration::from_mins(10);

/// How much of everything.
struct Size {
    large: u64,
    small: u64,
    before: Duration,
    after: Duration,
}

impl Size {
    const FULL: Self =
        Self { large: 1_000_000, small: 20_000, before: Duration::from_secs(15), after: Duration::from_secs(5) };
    const QUICK: Self =
        Self { large: 100_000, small: 2_000, before: Duration::from_secs(4), after: Duration::from_secs(2) };
}

/// A tenant as its clients know it.
pub struct Tenant {
    pub name: String,
    pub key: Uuid,
    pub host: String,
}

pub async fn tell(options: &Demo, world: &World, json: bool) -> Result<Verdict, Failure> {
    let size = if options.quick { Size::QUICK } else { Size::FULL };
    let client = world.client.clone();
    let tenants = create_tenants(&client).await?;
    say(format!("filling them: {} positions for `{LARGE}`, {} for each other", size.large, size.small));
    filled(world, &tenants, |nth| if nth == 0 { size.large } else { size.small }, options.seed).await?;

    say(format!("{} requests/s for all {TENANTS} tenants through the edge, reads and writes", options.rate));
    let load = Load::start(load_config(options, world, &tenants)).ours("the load")?;
    let handle = load.handle();
    tokio::time::sleep(size.before).await;

    say(format!("moving `{LARGE}` ({} positions) to a cell of its own, under that traffic", size.large));
    let mut moves = vec![moved(&client, &handle, &tenants[0], None).await?];
    say("moving four small tenants at once");
    let small = tenants[SMALL_MOVERS].iter().map(|tenant| moved(&client, &handle, tenant, None));
    for figures in futures_util::future::join_all(small).await {
        moves.push(figures?);
    }
    tokio::time::sleep(size.after).await;
    let report = load.stop().await.ours("the load")?;

    say("reading both databases of every tenant that moved, and the one of every other");
    let ledger = &report.ledger;
    let mut places = Vec::new();
    let mut owners = BTreeMap::new();
    for tenant in &tenants {
        let now = client.tenant(&tenant.name).await.map_err(|error| refused(error, "looking at a tenant"))?;
        let cell = now.cell.ok_or_else(|| Failure::request(format!("`{}` has no cell", tenant.name), ""))?;
        let former = (cell.as_str() != SHARED).then_some(cell_name(SHARED));
        let former = match former {
            Some(cell) => Some(world.database(&cell).await?),
            None => None,
        };
        places.push(TenantPlace {
            name: tenant.name.clone(),
            key: tenant.key,
            owner: world.database(&cell).await?,
            former,
        });
        owners.insert(tenant.name.clone(), (cell, tenant.key));
    }
    let findings = check(ledger, &places).await.ours("the check")?;
    let mut verdict = Verdict::new(&report, moves, Some(&findings));
    for (name, (cell, key)) in owners.iter().filter(|(_, (cell, _))| cell.as_str() != SHARED) {
        let strangers = foreign_rows(&world.database(cell).await?, &[*key]).await.ours("the check")?;
        if strangers > 0 {
            verdict.problems.push(format!("cell `{cell}` of `{name}` holds {strangers} rows of others"));
        }
    }
    if json {
        say(verdict.table());
    }
    let text = if json { format!("{}\n", verdict.json()) } else { verdict.table() };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    if options.keep {
        say(format!(
            "everything goes on: dashboard {}, edge {} (Host: {}), key in {}/serve/admin.key; Ctrl-C ends it",
            world.url,
            world.edge,
            tenants[0].host,
            world.dir.display()
        ));
        // Ctrl-C and SIGTERM end this future from outside.
        std::future::pending::<()>().await;
    }
    Ok(verdict)
}

async fn create_tenants(client: &Client) -> Result<Vec<Tenant>, Failure> {
    say(format!("creating {TENANTS} tenants on four plans in one shared cell"));
    let started = Instant::now();
    let names: Vec<String> =
        (0..TENANTS).map(|nth| if nth == 0 { LARGE.to_owned() } else { format!("tenant-{nth:02}") }).collect();
    let making = names.iter().enumerate().map(|(nth, name)| tenant_in(client, name, plan_of(nth), SHARED));
    let tenants = futures_util::future::join_all(making).await.into_iter().collect::<Result<_, _>>()?;
    say(format!("they are served after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(tenants)
}

/// Creates a tenant in a cell and returns when it is served.
pub async fn tenant_in(client: &Client, name: &str, plan: &str, cell: &str) -> Result<Tenant, Failure> {
    let host = format!("{name}.fleet.test");
    let wanted = TenantCreate {
        name: TenantName::new(name).expect("a name by the rule"),
        plan: PlanName::new(plan).expect("a name by the rule"),
        hosts: vec![Hostname::new(host.clone()).expect("a host by the rule")],
        key: None,
        cell: Some(cell_name(cell)),
        profile: None,
    };
    let operation = client.tenant_create(&wanted).await.map_err(|error| refused(error, "creating a tenant"))?;
    finished(client, operation.id, "creating a tenant", |_| {}).await?;
    let made = client.tenant(name).await.map_err(|error| refused(error, "looking at a tenant"))?;
    let key = made.key.and_then(|key| key.as_str().parse().ok());
    let key = key.ok_or_else(|| Failure::request(format!("the application gave `{name}` no key"), ""))?;
    Ok(Tenant { name: name.to_owned(), key, host })
}

/// All begin in the shared cell; those whose plan has outgrown it are the ones that move.
fn plan_of(nth: usize) -> &'static str {
    match nth {
        0 => "business",
        1..=3 => "starter",
        4 => "professional",
        _ => "hobby",
    }
}

/// Fills tenants of the shared cell; `positions`: how many the nth one gets.
pub async fn filled(
    world: &World,
    tenants: &[Tenant],
    positions: impl Fn(usize) -> u64,
    seeded: u64,
) -> Result<(), Failure> {
    let started = Instant::now();
    let config = world.database(&cell_name(SHARED)).await?;
    let (mut database, connection) = config.connect(tokio_postgres::NoTls).await.ours("the shared cell's database")?;
    let _connection = tokio::spawn(connection);
    for (nth, tenant) in tenants.iter().enumerate() {
        let amounts = Amounts { positions: positions(nth), ..Amounts::default() };
        seed(&mut database, tenant.key, amounts, seeded).await.ours("filling a tenant")?;
    }
    database.batch_execute("analyze").await.ours("analysing")?;
    say(format!("filled after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

fn load_config(options: &Demo, world: &World, tenants: &[Tenant]) -> LoadConfig {
    let vehicles = Amounts::default().vehicles;
    let target = |(nth, tenant): (usize, &Tenant)| Target {
        name: tenant.name.clone(),
        key: tenant.key,
        host: tenant.host.clone(),
        // The large one is a third of the traffic: that is why it moves.
        weight: if nth == 0 { (TENANTS as f64 - 1.0) / 2.0 } else { 1.0 },
        class: if nth == 0 || SMALL_MOVERS.contains(&nth) { Class::Mover } else { Class::Neighbour },
        vehicles: vehicle_ids(tenant.key, options.seed, vehicles),
    };
    let targets = tenants.iter().enumerate().map(target).collect();
    LoadConfig::new(world.edge, options.rate, targets, options.seed)
}

/// Moves a tenant and returns what was measured. `to`: none for what Berth chooses.
pub async fn moved(
    client: &Client,
    handle: &LoadHandle,
    tenant: &Tenant,
    to: Option<CellName>,
) -> Result<MoveFigures, Failure> {
    handle.move_begins(&tenant.name).ours("the load")?;
    let operation = client
        .tenant_move(&tenant.name, &TenantMove { to })
        .await
        .map_err(|error| refused(error, "starting a move"))?;
    let mut told = String::new();
    finished(client, operation.id, "moving a tenant", |operation| {
        let now = operation.progress.as_ref().map(|progress| progress.phase.clone()).unwrap_or_default();
        if now != told && !now.is_empty() {
            say(format!("  {}: {now}", tenant.name));
            told = now;
        }
    })
    .await?;
    let client_gap_ms = handle.move_ends(&tenant.name).ours("the load")?;
    let all = client.moves(Some(&tenant.name)).await.map_err(|error| refused(error, "reading the moves"))?;
    let done = all
        .into_iter()
        .find(|m| m.operation == operation.id)
        .ok_or_else(|| Failure::request(format!("the move of `{}` has no figures", tenant.name), ""))?;
    Ok(MoveFigures {
        tenant: tenant.name.clone(),
        kind: done.kind,
        rows: done.rows,
        bytes: done.bytes,
        duration_s: done.duration_s,
        rows_per_s: done.rows_per_s,
        pause_ms: done.pause_ms,
        client_gap_ms: Some(client_gap_ms),
        held_requests: done.held_requests,
        rows_verified: done.rows_verified,
    })
}

/// Waits for an operation to succeed.
pub async fn finished(
    client: &Client,
    id: OperationId,
    what: &str,
    mut look: impl FnMut(&Operation),
) -> Result<(), Failure> {
    let until = Instant::now() + OPERATION_LIMIT;
    loop {
        let operation = client.operation(id).await.map_err(|error| refused(error, what))?;
        look(&operation);
        match operation.state {
            OperationState::Succeeded => return Ok(()),
            OperationState::Failed | OperationState::Stuck | OperationState::Abandoned => {
                let why = operation.fault.as_ref().map(|fault| fault.detail.clone()).unwrap_or_default();
                return Err(Failure::request(format!("{what}: the operation is {}: {why}", operation.state), ""));
            }
            _ if Instant::now() > until => {
                return Err(Failure::request(format!("{what} took longer than {} s", OPERATION_LIMIT.as_secs()), ""));
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

pub fn cell_name(name: &str) -> CellName {
    CellName::new(name).expect("a name by the rule")
}
