//! `berth demo soak`: randomised moves under traffic, each with a fault or two, and what became of them.
//!
//! Acts from outside: the API starts moves, processes of their own do the damage, a supervisor does what init would,
//! and the judge reads the databases. A request that fails while something is down is counted; a lost or doubled
//! write, two owners or a move that does not end is red.

mod faults;
mod init;
mod judge;
mod look;
mod plan;
mod plant;
mod stuck;

use super::story::{Tenant, cell_name, filled, finished, tenant_in};
use super::{
    say,
    world::{World, refused},
};
use crate::fail::{Failure, FailureExt as _};
use berth_client::{Client, ClientError, Fault};
use berth_domain::{CellClass, CellName, CellState, MoveId, OperationId, OperationState};
use berth_wire::{Abandon, CellCreate, Operation, TenantMove};
use berth_workload::{Amounts, Class, Ledger, Load, LoadConfig, Stock, Target, vehicle_ids};
use clap::Args;
use faults::{Able, Scene};
use jiff::Timestamp;
use judge::{Owner, Watched};
use plan::{Dice, From, Place, Way};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

#[derive(Args, Debug)]
pub struct Soak {
    /// Ends with the first move that begins after this time
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// So many moves at most; without --minutes 20
    #[arg(long, value_name = "N")]
    moves: Option<u32>,
    /// Decides who moves, what goes wrong and when
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// The move to begin with, where an earlier run of this seed ended
    #[arg(long, default_value_t = 0, value_name = "N")]
    from: u32,
    /// After the first move breaks what has to hold, to see whether the judge finds it
    #[arg(long, hide = true)]
    plant: bool,
    /// Requests a second, all tenants together
    #[arg(long, default_value_t = 300.0, value_name = "N")]
    rate: f64,
    /// Tenants, all under traffic
    #[arg(long, default_value_t = 12, value_name = "N")]
    tenants: usize,
    /// Positions of each when it is made
    #[arg(long, default_value_t = 3_000, value_name = "N")]
    rows: u64,
    /// Moves between two looks at every row
    #[arg(long, default_value_t = 10, value_name = "N")]
    check_every: u32,
}

/// A move under faults ends within its operation's own patience, or it never will.
const MOVE_LIMIT: Duration = Duration::from_mins(5);
/// How long the control plane may be away.
const API_LIMIT: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// Each is a Postgres and a member, about 100 MB.
const DEDICATED_MOST: usize = 4;
/// Makes the dice of an undo others than those of its move.
const UNDO: u64 = 0x5eed_bac4;
const SHARED: [&str; 2] = ["shared-1", "shared-2"];

/// The last line of `--json`.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    moves: u32,
    /// The number to give to `--from` to go on.
    next: u32,
    faults: u32,
    faults_in_window: u32,
    /// Moves that met two faults.
    pairs: u32,
    moved: u32,
    given_up: u32,
    /// Moves that were undone after they had succeeded, and undos that were given up.
    undone: u32,
    undo_given_up: u32,
    /// Undos that were drawn and refused, because the slot of the way back had been lost.
    no_way_back: u32,
    acknowledged: u64,
    missing: u64,
    duplicated: u64,
    /// Over all looks at every tenant and after each move at the one that moved: acknowledged writes, and rows from before
    /// the traffic.
    rows_checked: u64,
    /// Rows from before the traffic that were gone or others after a move.
    stock_damaged: u64,
    two_owners: u32,
    stuck: u32,
    /// At both fenced cells while a move ran, each with an open transaction in either.
    looks: u32,
    /// A cell's database, a member, the server or the edge stayed away, or nobody took a tenant's writes.
    not_back: u32,
    requests: u64,
    /// While something was down, or a move waited for it.
    failed_requests: u64,
    /// Those that succeeded, by where they went.
    ways: BTreeMap<&'static str, u32>,
    struck: BTreeMap<&'static str, u32>,
}

impl Outcome {
    fn is_green(&self) -> bool {
        self.missing + self.duplicated + self.stock_damaged == 0
            && self.two_owners + self.stuck + self.not_back == 0
            && self.moves > 0
    }
}

/// A tenant, and the shared cells in which rows of it lay.
struct Mover {
    tenant: Tenant,
    cell: CellName,
    been: BTreeSet<CellName>,
    /// The last shared cell that it left: every row there must be at its new place too.
    former: Option<CellName>,
    /// The shared cell that it left last can still be gone back to, so it cannot be moved there.
    way_back: bool,
    /// What it had before there was any traffic.
    stock: Stock,
}

impl Mover {
    fn in_shared(&self) -> bool {
        SHARED.contains(&self.cell.as_str())
    }

    /// The shared cell that it can be moved to.
    fn may_enter(&self) -> Option<CellName> {
        let closed = |shared: &CellName| self.way_back && self.former.as_ref() == Some(shared);
        SHARED.iter().map(|shared| cell_name(shared)).find(|shared| *shared != self.cell && !closed(shared))
    }
}

pub async fn run(options: &Soak, world: &World, json: bool) -> Result<bool, Failure> {
    let outcome = tokio::select! {
        outcome = soak(options, world) => outcome?,
        never = init::supervise(world) => match never {},
    };
    let text = if json {
        format!("{}\n", serde_json::to_string(&outcome).ours("the figures")?)
    } else {
        format!("{outcome:#?}\n")
    };
    std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes()).ours("stdout")?;
    Ok(outcome.is_green())
}

async fn soak(options: &Soak, world: &World) -> Result<Outcome, Failure> {
    let until = options.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let most = options.moves.unwrap_or(if until.is_some() { u32::MAX } else { 20 });
    let second = CellCreate {
        name: cell_name(SHARED[1]),
        class: CellClass::Shared,
        provider: None,
        region: None,
        // All but those with a cell of their own come to rest here.
        max_tenants: Some(100_000),
    };
    let made = world.client.cell_create(&second).await;
    let made = made.map_err(|error| refused(error, "making the second shared cell"))?;
    finished(&world.client, made.id, "making the second shared cell", |_| {}).await?;

    let able = Able::here(world);
    if let Some(lacks) = able.lacks() {
        say(lacks);
    }
    let mut outcome = Outcome { next: options.from, ..Outcome::default() };
    let mut movers: Vec<Mover> = Vec::new();
    let mut ledger = Ledger::in_memory();
    let over = |moves: u32| moves >= most || until.is_some_and(|until| Instant::now() > until);
    fresh(options, world, &mut movers).await?;
    for round in 0_u64.. {
        let load = Load::start(load_config(options, world, &movers, round)).ours("the load")?;
        let last = outcome.moves.saturating_add(options.check_every.max(1));
        let mut planted = None;
        while outcome.moves < last && !over(outcome.moves) && planted.is_none() {
            planted = one_move(options, world, &able, &mut movers, &mut outcome).await?;
        }
        let report = load.stop().await.ours("the load")?;
        outcome.requests += report.requests;
        outcome.failed_requests += report.failed;
        ledger.merge(&report.ledger);
        if let Some(who) = planted {
            plant::lost_and_doubled(world, &movers[who].cell, movers[who].tenant.key, &ledger).await?;
        }
        look::at_all(world, &movers, &ledger, &mut outcome).await?;
        if over(outcome.moves) || !outcome.is_green() {
            break;
        }
    }
    say(format!("go on with --seed {} --from {}", options.seed, outcome.next));
    Ok(outcome)
}

async fn fresh(options: &Soak, world: &World, movers: &mut Vec<Mover>) -> Result<(), Failure> {
    let mut fresh = Vec::new();
    for nth in 0..options.tenants.max(1) {
        fresh.push(tenant_in(&world.client, &format!("soak-{nth:03}"), "starter", SHARED[0]).await?);
    }
    filled(world, &fresh, |_| options.rows, options.seed).await?;
    let cell = cell_name(SHARED[0]);
    for tenant in fresh {
        let stock = look::stock(world, &tenant, &cell).await?;
        let (cell, been) = (cell.clone(), BTreeSet::from([cell.clone()]));
        movers.push(Mover { tenant, cell, been, former: None, way_back: false, stock });
    }
    Ok(())
}

fn load_config(options: &Soak, world: &World, movers: &[Mover], round: u64) -> LoadConfig {
    let target = |Mover { tenant, .. }: &Mover| Target {
        name: tenant.name.clone(),
        key: tenant.key,
        host: tenant.host.clone(),
        weight: 1.0,
        class: Class::Mover,
        vehicles: vehicle_ids(tenant.key, options.seed, Amounts::default().vehicles),
    };
    let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(round);
    LoadConfig::new(world.edge, options.rate, movers.iter().map(target).collect(), seed)
}

/// Answers who moved when something was planted.
async fn one_move(
    options: &Soak,
    world: &World,
    able: &Able,
    movers: &mut [Mover],
    outcome: &mut Outcome,
) -> Result<Option<usize>, Failure> {
    let client = &world.client;
    let nth = outcome.next;
    outcome.moves += 1;
    outcome.next += 1;
    let dice = Dice::of(options.seed, nth);
    let cells = patiently("looking at the cells", || client.cells()).await?;
    let dedicated = cells.iter().filter(|cell| cell.class == CellClass::Dedicated && lives(cell.state)).count();
    let place = |mover: &Mover| Place { shared: mover.in_shared(), may_enter: mover.may_enter().is_some() };
    let places: Vec<Place> = movers.iter().map(place).collect();
    let (who, way) = plan::choose(&dice, &places, dedicated, DEDICATED_MOST)
        .ok_or_else(|| Failure::request("no tenant can move any more", "more of them with --tenants"))?;
    let mover = &mut movers[who];
    let wanted = if way == Way::Up { None } else { mover.may_enter() };
    let name = mover.tenant.name.clone();
    let (id, target) = begun(client, &name, wanted).await?;
    let of = MoveId::new(id.uuid());
    let scene = Scene { world, able, source: mover.cell.clone(), target, of };

    let now = carried_out(options, (mover, &scene), (nth, way.as_str()), id, &dice, outcome).await?;
    let moved = now == scene.target;
    *outcome.ways.entry(way.as_str()).or_default() += u32::from(moved);
    let back = if moved && dice.undone && outcome.is_green() { undo(client, &name).await? } else { None };
    outcome.no_way_back += u32::from(moved && dice.undone && back.is_none() && outcome.is_green());
    let now = if let Some(id) = back {
        // Back again, under faults of its own.
        let again = Scene { world, able, source: scene.target.clone(), target: scene.source.clone(), of };
        let dice = Dice::of(options.seed ^ UNDO, nth);
        let now = carried_out(options, (mover, &again), (nth, "undo"), id, &dice, outcome).await?;
        if now == scene.source && !SHARED.contains(&scene.target.as_str()) {
            removed(client, &scene.target).await?;
        }
        now
    } else {
        now
    };
    let left = std::mem::replace(&mut mover.cell, now);
    if mover.in_shared() {
        mover.been.insert(mover.cell.clone());
    }
    if outcome.is_green() {
        look::at_one(world, mover, outcome).await?;
    }
    if left == mover.cell {
        return Ok(None);
    }
    if SHARED.contains(&left.as_str()) {
        mover.former = Some(left);
        mover.way_back = !dice.settled;
        if dice.settled {
            settled(client, &name).await?;
        }
    } else {
        mover.way_back = false;
        settled(client, &name).await?;
        removed(client, &left).await?;
    }
    Ok(options.plant.then_some(who))
}

/// Starts a move. What the tenant left there is being removed, or it would not have been chosen.
async fn begun(client: &Client, name: &str, to: Option<CellName>) -> Result<(OperationId, CellName), Failure> {
    let until = Instant::now() + MOVE_LIMIT;
    let wanted = TenantMove { to };
    let operation = loop {
        match client.tenant_move(name, &wanted).await {
            Err(ClientError::Refused(problem)) if problem.code == "rows_left_behind" && Instant::now() < until => {}
            Err(error) if error.fault() == Fault::Server && Instant::now() < until => {}
            answer => break answer.map_err(|error| refused(error, "starting a move"))?,
        }
        tokio::time::sleep(LOOK_EVERY * 4).await;
    };
    let moves = patiently("looking at the move", || client.moves(Some(name))).await?;
    let target = moves.into_iter().find(|one| one.operation == operation.id).map(|one| one.to);
    let target = target.ok_or_else(|| Failure::request(format!("the move of `{name}` is not listed"), ""))?;
    Ok((operation.id, target))
}

/// `None`: its slot was lost, and with it the way back.
async fn undo(client: &Client, name: &str) -> Result<Option<OperationId>, Failure> {
    let undo = async || match client.tenant_undo_move(name).await {
        Err(ClientError::Refused(problem)) if problem.code == "no_way_back" => Ok(None),
        answer => answer.map(|operation| Some(operation.id)),
    };
    patiently("undoing a move", undo).await
}

/// The move stays. Its way back may be closed already, when its slot was lost.
async fn settled(client: &Client, name: &str) -> Result<(), Failure> {
    let settle = async || match client.tenant_settle_move(name).await {
        Err(ClientError::Refused(problem)) if problem.code == "no_way_back" => Ok(()),
        answer => answer.map(drop),
    };
    patiently("settling a move", settle).await
}

/// Removes a cell of one tenant's own, when what the tenant left in it is gone.
async fn removed(client: &Client, cell: &CellName) -> Result<(), Failure> {
    let until = Instant::now() + MOVE_LIMIT;
    let removing = loop {
        match client.cell_remove(cell.as_str()).await {
            Err(ClientError::Refused(problem)) if problem.code == "cell_keeps_rows" && Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY * 4).await;
            }
            answer => break answer.map_err(|error| refused(error, "removing a cell"))?,
        }
    };
    finished(client, removing.id, "removing a cell", |_| {}).await
}

/// Follows an operation under the faults that are drawn for it, and judges what became of it. Answers where the tenant
/// is then.
async fn carried_out(
    options: &Soak,
    (mover, scene): (&Mover, &Scene<'_>),
    (nth, what): (u32, &str),
    id: OperationId,
    dice: &Dice,
    outcome: &mut Outcome,
) -> Result<CellName, Failure> {
    let (world, client) = (scene.world, &scene.world.client);
    let name = mover.tenant.name.clone();
    let begun = Instant::now();
    let (first, from, delay) = dice.first;
    // An undo has no copy to strike into.
    let from = if what == "undo" && from != From::Step("cut_over") { From::Step("begin_undo") } else { from };
    reached(client, id, from).await?;
    let mut strikers = vec![scene.send(first, delay)?];
    if let Some((fault, later)) = dice.second {
        strikers.push(scene.send(fault, delay + later)?);
    }
    let mut watched = Watched::default();
    let ended = tokio::select! {
        ended = ended(client, id, dice.given_up) => ended?,
        never = judge::watch(world, mover.tenant.key, (&scene.source, &scene.target), &mut watched) => match never {},
    };
    let took = begun.elapsed();
    let mut faults = Vec::new();
    let mut struck = 0;
    for striker in strikers {
        let (fault, at) = striker.struck().await?;
        let Some(at) = at else {
            faults.push(format!("{}: nothing there", fault.as_str()));
            continue;
        };
        let (step, inside) = step_at(&ended, at);
        struck += 1;
        outcome.faults += 1;
        outcome.faults_in_window += u32::from(inside);
        *outcome.struck.entry(fault.as_str()).or_default() += 1;
        faults.push(format!("{} in {step} at {at}", fault.as_str()));
    }
    outcome.pairs += u32::from(struck == 2);
    if dice.given_up.is_some() {
        faults.push("asked to give up".to_owned());
    }
    let away = judge::all_back(world).await?;
    let tenant = patiently("looking at the tenant", || client.tenant(&name)).await?;
    let now = tenant.cell.unwrap_or_else(|| scene.source.clone());
    let stuck = outcome.stuck;
    let mut told = ending(&ended, scene, what, &now, outcome);
    if outcome.stuck > stuck {
        stuck::tell(world, &ended, [&scene.source, &scene.target]).await;
    }
    if !away.is_empty() {
        outcome.not_back += 1;
        told = format!("{told}; NOT BACK: {}", away.join(", "));
    }
    outcome.looks += watched.looks;
    if watched.both_accepted > 0 {
        outcome.two_owners += 1;
        told = format!("{told}; TWO OWNERS at {} of {} looks", watched.both_accepted, watched.looks);
    }
    let cells = patiently("looking at the cells", || client.cells()).await?;
    let alive = |cell: &CellName| cells.iter().any(|known| known.name == *cell && lives(known.state));
    let mut asked = mover.been.clone();
    asked.extend([scene.source.clone(), scene.target.clone(), now.clone()]);
    asked.retain(alive);
    if options.plant && now == scene.target {
        plant::second_owner(world, &scene.source, mover.tenant.key).await?;
    }
    match judge::owner(world, mover.tenant.key, &now, &asked).await {
        Owner::One => {}
        Owner::Two(cells) => {
            outcome.two_owners += 1;
            told = format!("{told}; TWO OWNERS: {cells:?}");
        }
        Owner::Wrong(why) => {
            outcome.not_back += 1;
            told = format!("{told}; NO OWNER: {why}");
        }
    }
    say(format!(
        "seed {} {what} {nth}: {name} {} -> {}: {}: {told} after {:.1} s",
        options.seed,
        scene.source,
        scene.target,
        faults.join(", "),
        took.as_secs_f64()
    ));
    Ok(now)
}

const fn lives(state: CellState) -> bool {
    matches!(state, CellState::Ready | CellState::Draining | CellState::Creating)
}

/// Books how the move ended, in words too.
fn ending(ended: &Operation, scene: &Scene<'_>, what: &str, now: &CellName, outcome: &mut Outcome) -> String {
    let why =
        ended.fault.as_ref().map(|fault| format!(" ({}: {})", fault.code, one_line(&fault.detail))).unwrap_or_default();
    let count = |moves: &mut u32, undos: &mut u32| *(if what == "undo" { undos } else { moves }) += 1;
    match ended.state {
        OperationState::Succeeded if *now == scene.target => {
            count(&mut outcome.moved, &mut outcome.undone);
            "moved".to_owned()
        }
        OperationState::Stuck if moved_already(ended) && *now == scene.target => {
            count(&mut outcome.moved, &mut outcome.undone);
            "moved before it was given up".to_owned()
        }
        OperationState::Failed | OperationState::Abandoned if *now == scene.source => {
            count(&mut outcome.given_up, &mut outcome.undo_given_up);
            format!("given up, untouched{why}")
        }
        state => {
            outcome.stuck += 1;
            format!("STUCK: {state}, the tenant is in `{now}`{why}")
        }
    }
}

/// Databases answer in several.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The step that ran when it struck, and whether that was between *prepare* and *keep*.
fn step_at(operation: &Operation, at: Timestamp) -> (String, bool) {
    if operation.ended_at.is_some_and(|ended| ended < at) {
        return ("nothing any more".to_owned(), false);
    }
    let began = |name: &str| operation.steps.iter().find(|step| step.name == name).map(|step| step.started_at);
    let inside = began("prepare").or_else(|| began("begin_undo")).is_some_and(|begun| begun <= at)
        && began("retire").or_else(|| began("clear_new_side")).is_none_or(|keep| at < keep);
    let step = operation.steps.iter().rev().find(|step| step.started_at <= at);
    (step.map_or("the start", |step| &step.name).to_owned(), inside)
}

/// Waits for the moment from which the delay counts, or the end of the operation.
async fn reached(client: &Client, id: OperationId, from: From) -> Result<(), Failure> {
    let From::Step(name) = from else { return Ok(()) };
    let until = Instant::now() + MOVE_LIMIT;
    loop {
        let operation = patiently("following a move", || client.operation(id)).await?;
        if rests(&operation) || operation.steps.iter().any(|step| step.name == name) || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Gives the operation up where that is drawn, and waits for its end.
async fn ended(client: &Client, id: OperationId, given_up: Option<Duration>) -> Result<Operation, Failure> {
    if let Some(after) = given_up {
        tokio::time::sleep(after).await;
        let wanted = Abandon { reason: Some("drawn by the soak".to_owned()), force: false };
        let asked = patiently("giving a move up", || client.operation_abandon(id, &wanted)).await;
        // Refused where it is over, or past the point of no return.
        drop(asked);
    }
    let operation = rested(client, id).await?;
    if !moved_already(&operation) {
        return Ok(operation);
    }
    // The commit point was behind it. The tenant is served at its new cell, and what is left for a person to do is
    // to close the operation.
    let wanted = Abandon { reason: Some("it has moved".to_owned()), force: true };
    patiently("closing a move", || client.operation_abandon(id, &wanted)).await?;
    Ok(operation)
}

fn moved_already(operation: &Operation) -> bool {
    operation.fault.as_ref().is_some_and(|fault| fault.code == "moved_already")
}

/// Waits until nothing more happens by itself; a move that takes too long is handed over as it is.
async fn rested(client: &Client, id: OperationId) -> Result<Operation, Failure> {
    let until = Instant::now() + MOVE_LIMIT;
    loop {
        let operation = patiently("following a move", || client.operation(id)).await?;
        if rests(&operation) || Instant::now() > until {
            return Ok(operation);
        }
        tokio::time::sleep(LOOK_EVERY * 4).await;
    }
}

fn rests(operation: &Operation) -> bool {
    operation.state.is_final() || operation.state == OperationState::Stuck
}

/// Asks again while the server is away: that is what this is about.
async fn patiently<T>(what: &str, ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, Failure> {
    let until = Instant::now() + API_LIMIT;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.fault() == Fault::Server && Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY * 4).await;
            }
            Err(error) => return Err(refused(error, what)),
        }
    }
}
