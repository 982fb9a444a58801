//! The main job across two servers that the test makes: a tenant moves there and back under load, releases come and go, and
//! whatever carries a move or a release is killed midway: control, a server's Postgres, its SSH, the server itself. All of it
//! takes minutes: `scripts/soak servers` runs it and prints a line of figures. Releases that fail are tried by every run.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_domain::{CellName, Hostname, OperationState, PlanName, RollCellState, RollState, TenantName};
use berth_infra::Role;
use berth_providers::ssh::ADAPTER;
use berth_testkit::wait_until;
use berth_wire::{Move, Roll, StackApply, TenantCreate, TenantMove};
use berth_workload::{
    Amounts, Class, Load, LoadConfig, LoadHandle, Target, TenantPlace, Verdict, check, seed, vehicle_ids,
};
use machines::{
    Desk, Machine,
    control::Control,
    fleet, must,
    registry::{self, Images},
    text,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

const RATE: f64 = 60.0;
/// Between which the tenant moves, each on a server of its own.
const CELLS: [&str; 2] = ["one", "two"];
/// On the second server as well. By name the second of three: a release comes to `one` first, where the tenant lives.
const THIRD: &str = "three";
/// Migrates nothing and is never well: whoever is sent to it sees that.
const SICK: &str = r#"[ "$1" = migrate ] && exit 0
exec python3 -c '
import http.server, os
class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500)
        self.end_headers()
    do_POST = do_PUT = do_DELETE = do_GET
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()'"#;
/// Well where it comes to run, and its migration fails in the second cell.
const TORN: &str = r#"[ "$1" = migrate ] && [ "$BERTH_CELL" = three ] && { echo no such column; exit 3; }
exec /usr/local/bin/fleet "$@""#;
const GOOD: &str = r#"exec /usr/local/bin/fleet "$@""#;

/// A prepared server with the application's program on it, and its images.
fn server(desk: &Desk, fleet: &Path, images: Option<&Images>) -> Option<Machine> {
    let server = Machine::start(&desk.key())?;
    server.copy(fleet, "/usr/local/bin/fleet");
    let (at, key) = (format!("root@{}", server.ip), desk.key());
    let prepared =
        desk.berth(&["--yes", "server", "prepare", &at, "--key-file", key.to_str().unwrap()]).output().unwrap();
    assert!(prepared.status.success(), "{}", text(&prepared.stderr));
    if let Some(images) = images {
        images.bring(&server);
    }
    Some(server)
}

/// The cell's database as the checker reads it, found through the adapter and not through control.
async fn database(desk: &Desk, server: &Machine, host_key: &str, cell: &str) -> Config {
    // The one that control brought: this test is no `berth`.
    let program = server.sh("ls /usr/local/lib/berth/berth-*");
    let settings = json!({
        "host": server.ip, "user": "berth-ssh", "key_file": desk.key(), "host_key": host_key, "program": program.trim(),
    });
    let provider = (ADAPTER.build)(&json!({ "cells": { cell: settings } })).unwrap();
    let name = berth_infra::DatabaseName::new(cell).unwrap();
    let observe = provider.database.unwrap();
    let look = || async { observe.observe_database(&name).await.ok().and_then(berth_infra::Observed::present) };
    let found = wait_until("the cell's database answers", look, Option::is_some).await.unwrap();
    found.url(Role::Mover).expose_secret().parse().unwrap()
}

/// What all cells run, as [`World::runs`] says it.
fn everywhere(release: u64) -> String {
    format!("one:{release} three:{release} two:{release}")
}

/// Two servers with a cell each and a third on the second one, a tenant in the first, and what was seen so far.
struct World<'a> {
    desk: &'a Desk,
    control: Control<'a>,
    servers: [Machine; 2],
    databases: [Config; 2],
    tenant: Uuid,
    target: Target,
    phases: Vec<Value>,
}

/// What may happen to clients in a phase: nothing, or what is under way on a server that dies.
#[derive(Clone, Copy, PartialEq)]
enum Clients {
    NoticeNothing,
    SeeFailures,
}

impl<'a> World<'a> {
    async fn start(desk: &'a Desk, fleet: &Path, images: Option<&Images>) -> Option<Self> {
        let servers = [server(desk, fleet, images)?, server(desk, fleet, images)?];
        let control = Control::start(desk).await;
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet");
        let file = fs::read_to_string(examples.join("berth.yaml")).unwrap();
        let file = file.replace("local: { adapter: local }", "servers: { adapter: ssh }");
        // The plans' limits are tests of their own; here nothing but the move may refuse.
        let file =
            file.replace("{ api: 100, upload: 10, gps: 1000 }", "{ api: 10000000, upload: 10000000, gps: 10000000 }");
        let kept = file.lines().filter(|line| !line.contains("provider: local") && *line != "cells:");
        let file = kept.collect::<Vec<_>>().join("\n") + "\nreleases: { healthy_limit: 20s }\n";
        let mut files = BTreeMap::new();
        for hook in ["create", "suspend", "resume", "plan", "delete"] {
            let name = format!("../../apps/fleet/hooks/tenant_{hook}.sql");
            let text = fs::read_to_string(examples.join(&name)).unwrap();
            files.insert(name, text);
        }
        let client = control.client();
        client.stack_apply(&StackApply { file, files, dry_run: false }).await.unwrap();
        let key = desk.key().to_str().unwrap().to_owned();
        for (cell, server) in [(CELLS[0], &servers[0]), (CELLS[1], &servers[1]), (THIRD, &servers[1])] {
            control.run(&[
                "--yes",
                "cell",
                "add",
                cell,
                "--host",
                &server.ip,
                "--user",
                "berth-ssh",
                "--key-file",
                &key,
            ]);
        }
        let listed: Vec<Value> = serde_json::from_str(&control.run(&["server", "list", "--json"])).unwrap();
        let host_key = |cell: &str| {
            let found = listed.iter().find(|server| server["cell"] == cell).unwrap();
            found["host_key"].as_str().unwrap().to_owned()
        };
        let wanted = TenantCreate {
            name: TenantName::new("acme").unwrap(),
            plan: PlanName::new("hobby").unwrap(),
            hosts: vec![Hostname::new("acme.fleet.test").unwrap()],
            key: None,
            cell: Some(CellName::new("one").unwrap()),
            profile: None,
        };
        let begun = client.tenant_create(&wanted).await.unwrap();
        assert_eq!(control.ended(begun.id).await, OperationState::Succeeded);
        let tenant: Uuid = client.tenant("acme").await.unwrap().key.unwrap().as_str().parse().unwrap();
        let databases = [
            database(desk, &servers[0], &host_key("one"), "one").await,
            database(desk, &servers[1], &host_key("two"), "two").await,
        ];
        let (mut db, connection) = databases[0].connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        let amounts = Amounts { positions: 20_000, ..Amounts::default() };
        seed(&mut db, tenant, amounts, 1).await.unwrap();
        let target = Target {
            name: "acme".to_owned(),
            key: tenant,
            host: "acme.fleet.test".to_owned(),
            weight: 1.0,
            class: Class::Mover,
            vehicles: vehicle_ids(tenant, 1, Amounts::default().vehicles),
        };
        Some(Self { desk, control, servers, databases, tenant, target, phases: Vec::new() })
    }

    fn edge(&self) -> SocketAddr {
        format!("127.0.0.1:{}", self.control.edge_port).parse().unwrap()
    }

    async fn lives(&self) -> usize {
        let look = || async { self.control.client().tenant("acme").await.ok().and_then(|tenant| tenant.cell) };
        let cell = wait_until("control says where the tenant lives", look, Option::is_some).await.unwrap();
        CELLS.iter().position(|known| *known == cell.as_str()).unwrap()
    }

    /// The tenant's move to the other server; when it is at `step`, `midway` happens.
    async fn moves(&mut self, load: &LoadHandle, step: &str, midway: impl AsyncFnOnce(&mut Self, usize)) -> Value {
        let to = 1 - self.lives().await;
        let wanted = TenantMove { to: Some(CellName::new(CELLS[to]).unwrap()) };
        let client = self.control.client();
        // The move before stays: its way back is given up, and what it left in the old cell goes.
        self.control.try_run(&["--yes", "tenant", "settle-move", "acme"]);
        let begun = || async { client.tenant_move("acme", &wanted).await.map_err(|error| format!("{error:?}")) };
        let operation = wait_until("the move begins", begun, Result::is_ok).await.unwrap().id;
        load.move_begins("acme").unwrap();
        let this = async |client: &berth_client::Client| -> Option<Move> {
            let all = client.moves(Some("acme")).await.ok()?;
            all.into_iter().find(|one| one.operation == operation)
        };
        let mut at = None;
        for _ in 0..15_000 {
            let now = this(&client).await;
            if let Some(now) = now.filter(|now| now.state.is_final() || now.phase.as_deref() == Some(step)) {
                at = if now.state.is_final() { None } else { now.phase };
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        midway(self, to).await;
        let state = self.control.ended(operation).await;
        let stays = if state == OperationState::Succeeded { to } else { 1 - to };
        assert_eq!(self.lives().await, stays, "the move is {state}, and the tenant is elsewhere");
        let gap_ms = load.move_ends("acme").unwrap();
        let client = self.control.client();
        let done = this(&client).await.unwrap();
        json!({
            "to": CELLS[to], "at": at, "state": state.to_string(), "duration_s": done.duration_s, "rows": done.rows,
            "rows_verified": done.rows_verified, "pause_ms": done.pause_ms, "held": done.held_requests, "client_gap_ms": gap_ms,
        })
    }

    /// Load, what happens under it, and the check of every acknowledged write.
    async fn phase(
        &mut self,
        name: &str,
        clients: Clients,
        happens: impl AsyncFnOnce(&mut Self, &LoadHandle) -> Vec<Value>,
    ) {
        eprintln!("== {name}");
        // Events of a phase have ids of their own: those of the phases before are in the database still.
        let seed = 2 + self.phases.len() as u64;
        let load = Load::start(LoadConfig::new(self.edge(), RATE, vec![self.target.clone()], seed)).unwrap();
        let handle = load.handle();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let happened = happens(self, &handle).await;
        let before = handle.counts();
        let look = || async { handle.counts() };
        wait_until("requests are answered", look, |now: &(u64, u64, u64)| now.1 > before.1 + 100).await;
        let report = load.stop().await.unwrap();
        let owner = self.lives().await;
        for database in &self.databases {
            let look = || async { database.connect(NoTls).await.is_ok() };
            wait_until("both databases answer", look, |answers: &bool| *answers).await;
        }
        // What a move that was given up left in its target is nobody's.
        let moved = happened.last().is_some_and(|last| last["state"] == "succeeded");
        let place = TenantPlace {
            name: "acme".to_owned(),
            key: self.tenant,
            owner: self.databases[owner].clone(),
            former: moved.then(|| self.databases[1 - owner].clone()),
        };
        let findings = check(&report.ledger, &[place]).await.unwrap();
        let verdict = Verdict::new(&report, Vec::new(), Some(&findings));
        let figures = json!({
            "phase": name, "requests": verdict.requests, "failed": verdict.failed, "ledger": verdict.ledger,
            "latency": verdict.latency.movers, "happened": happened, "problems": verdict.problems,
        });
        eprintln!("{figures}");
        self.phases.push(figures);
        assert!(findings.is_clean(), "{name}: {:?}", findings.examples);
        if clients == Clients::NoticeNothing {
            assert_eq!(verdict.failed, 0, "{name}: {:?}", verdict.problems);
        }
    }

    /// In the phase that ended a move was at this step when something was killed. With one that was over by then nothing
    /// would be shown.
    fn was_at(&self, step: &str) {
        let phase = self.phases.last().unwrap();
        assert_eq!(phase["happened"][0]["at"], step, "{phase}");
    }

    /// A program of the application on both servers, as a release names it.
    fn program(&self, name: &str, script: &str) -> String {
        let (path, there) = (self.desk.dir.join(name), format!("/opt/{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        for server in &self.servers {
            server.copy(&path, &there);
            server.sh(&format!("chmod 755 {there}"));
        }
        let sum = must("sha256sum", &[path.to_str().unwrap()]);
        format!("{there}@sha256:{}", &sum[..64])
    }

    /// The number of the release that runs this.
    fn release(&self, artifact: &str) -> u64 {
        let made = self.control.run(&["release", "create", &format!("web={artifact}"), "--json"]);
        let made: Value = serde_json::from_str(&made).unwrap();
        made["number"].as_u64().unwrap()
    }

    /// What each cell runs: `one:0 three:0 two:0`.
    async fn runs(&self) -> String {
        let look = || async { self.control.client().rollout().await.ok() };
        let status = wait_until("control says what runs where", look, Option::is_some).await.unwrap();
        let mut all: Vec<_> = status.cells.iter().map(|cell| format!("{}:{}", cell.cell, cell.release)).collect();
        all.sort();
        all.join(" ")
    }

    /// Rolls a release that has to stop, and answers what is said then.
    fn stops(&self, release: u64) -> String {
        let out = self.control.try_run(&["--yes", "release", "roll", &format!("r{release}"), "--wait"]);
        assert_eq!(out.status.code(), Some(1), "{}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stderr)
    }

    async fn goes_back(&self) {
        self.control.run(&["--yes", "release", "back", "--wait"]);
        assert_eq!(self.runs().await, everywhere(0));
    }

    /// The last roll, when it satisfies. Each cell's old members have their grace, and control may be starting again.
    async fn roll_that(&self, good: impl Fn(&Roll) -> bool) -> Roll {
        let mut last = None;
        for _ in 0..6000 {
            if let Ok(status) = self.control.client().rollout().await {
                last = status.roll;
                if let Some(roll) = last.take_if(|roll| good(roll)) {
                    return roll;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("waited 10 minutes for a release; last seen: {last:?}");
    }

    /// Begins a release, and is back when the third cell, the second in turn, is getting it.
    async fn rolls_until_midway(&self, release: u64) {
        self.control.run(&["--yes", "release", "roll", &format!("r{release}")]);
        let getting = (THIRD, RollCellState::Rolling);
        self.roll_that(|roll| roll.cells.iter().any(|cell| (cell.cell.as_str(), cell.state) == getting)).await;
    }

    /// Release and way back, each in all cells.
    async fn releases(&mut self, artifact: &str) -> Vec<Value> {
        let (number, mut all) = (self.release(artifact), Vec::new());
        let roll = format!("r{number}");
        let roll = ["release", "roll", &roll, "--wait", "--yes"];
        for (words, runs) in [(&roll[..], number), (&["release", "back", "--wait", "--yes"][..], 0)] {
            let began = std::time::Instant::now();
            self.control.run(words);
            all.push(json!({ "release": words[1], "took_s": began.elapsed().as_secs_f64() }));
            assert_eq!(self.runs().await, everywhere(runs));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        all
    }

    /// One that is never well, and one whose migration fails in the second of three cells: each stops there.
    async fn releases_that_fail(&mut self) {
        let (sick, torn) = (self.program("sick", SICK), self.program("torn", TORN));
        let happens = async |world: &mut World<'_>, _: &LoadHandle| {
            let number = world.release(&sick);
            let said = world.stops(number);
            for word in ["cell `one`", "were not healthy within", "3 what they ran before"] {
                assert!(said.contains(word), "{said}");
            }
            assert_eq!(world.runs().await, everywhere(0));
            vec![json!({ "release": number, "stops": "one" })]
        };
        self.phase("a release that is never well", Clients::NoticeNothing, happens).await;
        let happens = async |world: &mut World<'_>, _: &LoadHandle| {
            let number = world.release(&torn);
            let said = world.stops(number);
            let has_it = format!("1 cells run r{number}, 2 what they ran before");
            for word in ["cell `three`", "ended with 3", "no such column", &has_it] {
                assert!(said.contains(word), "{said}");
            }
            assert_eq!(world.runs().await, format!("one:{number} three:0 two:0"));
            let roll = world.roll_that(|roll| roll.state == RollState::Stopped).await;
            let last = roll.cells.last().unwrap();
            let begun = (last.state, last.operation.is_some(), last.output.is_some());
            assert_eq!((last.cell.as_str(), begun), ("two", (RollCellState::Waiting, false, false)), "{roll:?}");
            world.goes_back().await;
            vec![json!({ "release": number, "stops": THIRD })]
        };
        self.phase("a migration that fails in the second of three cells", Clients::NoticeNothing, happens).await;
    }

    /// Whoever carries it dies while it rolls, then the server that is just getting it: where the tenant lives nobody notices.
    async fn releases_cut_off(&mut self) {
        let (control, power) = (self.program("after-control", GOOD), self.program("after-power", GOOD));
        let happens = async |world: &mut World<'_>, _: &LoadHandle| {
            let number = world.release(&control);
            world.rolls_until_midway(number).await;
            world.control.killed().await;
            let roll = world.roll_that(|roll| roll.state != RollState::Rolling).await;
            assert_eq!((roll.state, world.runs().await), (RollState::Done, everywhere(number)), "{roll:?}");
            world.goes_back().await;
            vec![json!({ "release": number, "ended": roll.state })]
        };
        self.phase("control killed while a release rolls", Clients::NoticeNothing, happens).await;
        let happens = async |world: &mut World<'_>, _: &LoadHandle| {
            let number = world.release(&power);
            world.rolls_until_midway(number).await;
            world.servers[1].power_cycle();
            world.servers[1].up();
            // Brought to its end or stopped, as far as it came: what each cell runs is what is said, and all go back.
            let roll = world.roll_that(|roll| roll.state != RollState::Rolling).await;
            let said = roll.cells.iter().map(|cell| {
                let has_it = cell.state == RollCellState::Done;
                format!("{}:{}", cell.cell, if has_it { number } else { 0 })
            });
            assert_eq!(said.collect::<Vec<_>>().join(" "), world.runs().await, "{roll:?}");
            world.goes_back().await;
            vec![json!({ "release": number, "ended": roll.state })]
        };
        self.phase("a server without power while a release rolls", Clients::NoticeNothing, happens).await;
    }
}

async fn nothing(_: &mut World<'_>, _: usize) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_two_servers_and_back_under_load() {
    if std::env::var_os("BERTH_SERVERS").is_none() {
        eprintln!("skipped: `scripts/soak servers` runs it, for minutes");
        return;
    }
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let images = Images::make(&desk.dir, &fleet, &["1"]);
    let Some(mut world) = World::start(&desk, &fleet, images.as_ref()).await else { return };

    world
        .phase("there and back", Clients::NoticeNothing, async |world: &mut World<'_>, load: &LoadHandle| {
            let mut all = Vec::new();
            for _ in CELLS {
                all.push(world.moves(load, "copy", nothing).await);
                assert_eq!(all.last().unwrap()["state"], "succeeded", "{all:?}");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            all
        })
        .await;
    if let Some(images) = &images {
        let (artifact, word) = (images.artifact(0), desk.dir.join("word"));
        fs::write(&word, registry::PASSWORD).unwrap();
        let word = word.to_str().unwrap();
        world.control.run(&["registry", "add", registry::HOST, "--user", registry::USER, "--password-file", word]);
        let happens = async |world: &mut World<'_>, _: &LoadHandle| world.releases(&artifact).await;
        world.phase("a release of images and its way back", Clients::NoticeNothing, happens).await;
    }
    world.releases_that_fail().await;
    world.releases_cut_off().await;
    for step in ["copy", "cut_over"] {
        let happens = async |world: &mut World<'_>, load: &LoadHandle| {
            vec![world.moves(load, step, async |world: &mut World<'_>, _| world.control.killed().await).await]
        };
        world.phase(&format!("control killed at {step}"), Clients::NoticeNothing, happens).await;
        world.was_at(step);
        // Of all that the move needs nothing was lost but who carried it.
        assert_eq!(world.phases.last().unwrap()["happened"][0]["state"], "succeeded");
    }
    // Who dies, and what of it: nobody notices what happens where the tenant does not live.
    for (what, script) in
        [("postgres", "pkill -KILL postgres; true"), ("sshd", "pkill -KILL sshd; systemctl restart ssh")]
    {
        for (whose, clients) in [("target", Clients::NoticeNothing), ("source", Clients::SeeFailures)] {
            let happens = async |world: &mut World<'_>, load: &LoadHandle| {
                let midway = async |world: &mut World<'_>, to: usize| {
                    let dies = if whose == "target" { to } else { 1 - to };
                    world.servers[dies].sh(script);
                };
                vec![world.moves(load, "copy", midway).await]
            };
            world.phase(&format!("{what} of the {whose} killed"), clients, happens).await;
            world.was_at("copy");
        }
    }
    for (whose, clients) in [("target", Clients::NoticeNothing), ("source", Clients::SeeFailures)] {
        let happens = async |world: &mut World<'_>, load: &LoadHandle| {
            let midway = async |world: &mut World<'_>, to: usize| {
                let dies = &world.servers[if whose == "target" { to } else { 1 - to }];
                dies.power_cycle();
                dies.up();
            };
            vec![world.moves(load, "copy", midway).await]
        };
        world.phase(&format!("the {whose} without power"), clients, happens).await;
        world.was_at("copy");
    }
    println!("{}", json!({ "soak": "servers", "phases": world.phases }));
}

/// The same servers without the minutes: what a release must not do to whoever is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_is_sick_or_cannot_migrate_stops_where_it_is() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(mut world) = World::start(&desk, &fleet, None).await else { return };
    world.releases_that_fail().await;
}
