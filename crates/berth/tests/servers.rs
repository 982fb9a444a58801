//! The main job across two servers that the test makes: a tenant moves there and back under load, with a server that loses
//! its power and a control plane that is killed midway. Takes minutes: `scripts/soak servers` runs it.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_domain::{CellName, Hostname, OperationId, OperationState, PlanName, TenantName};
use berth_infra::Role;
use berth_providers::ssh::ADAPTER;
use berth_testkit::wait_until;
use berth_wire::{StackApply, TenantCreate, TenantMove};
use berth_workload::{
    Amounts, Class, Load, LoadConfig, LoadHandle, Target, TenantPlace, Verdict, check, seed, vehicle_ids,
};
use machines::{Desk, Machine, control::Control, fleet, text};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use uuid::Uuid;

const RATE: f64 = 60.0;

/// A prepared server with the application's program on it.
fn server(desk: &Desk, fleet: &Path) -> Option<Machine> {
    let server = Machine::start(&desk.key())?;
    server.copy(fleet, "/usr/local/bin/fleet");
    let (at, key) = (format!("root@{}", server.ip), desk.key());
    let prepared =
        desk.berth(&["--yes", "server", "prepare", &at, "--key-file", key.to_str().unwrap()]).output().unwrap();
    assert!(prepared.status.success(), "{}", text(&prepared.stderr));
    Some(server)
}

/// The cell's database as the checker reads it, found through the adapter and not through control.
async fn database(desk: &Desk, server: &Machine, host_key: &str, cell: &str) -> tokio_postgres::Config {
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

async fn move_to(control: &Control<'_>, load: &LoadHandle, to: &str) -> OperationId {
    load.move_begins("acme").unwrap();
    let wanted = TenantMove { to: Some(CellName::new(to).unwrap()) };
    control.client().tenant_move("acme", &wanted).await.unwrap().id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_moves_between_two_servers_and_back_under_load() {
    if std::env::var_os("BERTH_SERVERS").is_none() {
        eprintln!("skipped: `scripts/soak servers` runs it, for minutes");
        return;
    }
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let (Some(one), Some(two)) = (server(&desk, &fleet), server(&desk, &fleet)) else { return };
    let mut control = Control::start(&desk).await;
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet");
    let file = fs::read_to_string(examples.join("berth.yaml")).unwrap();
    let file = file.replace("local: { adapter: local }", "servers: { adapter: ssh }");
    // The plans' limits are tests of their own; here nothing but the move may refuse.
    let file =
        file.replace("{ api: 100, upload: 10, gps: 1000 }", "{ api: 10000000, upload: 10000000, gps: 10000000 }");
    let kept = file.lines().filter(|line| !line.contains("provider: local") && *line != "cells:");
    let file = kept.collect::<Vec<_>>().join("\n");
    let mut files = BTreeMap::new();
    for hook in ["create", "suspend", "resume", "plan", "delete"] {
        let name = format!("../../apps/fleet/hooks/tenant_{hook}.sql");
        let text = fs::read_to_string(examples.join(&name)).unwrap();
        files.insert(name, text);
    }
    let client = control.client();
    client.stack_apply(&StackApply { file, files, dry_run: false }).await.unwrap();
    let key = desk.key().to_str().unwrap().to_owned();
    for (cell, server) in [("one", &one), ("two", &two)] {
        control.run(&["--yes", "cell", "add", cell, "--host", &server.ip, "--user", "berth-ssh", "--key-file", &key]);
    }
    let servers: serde_json::Value = serde_json::from_str(&control.run(&["server", "list", "--json"])).unwrap();
    eprintln!("{servers:#}");
    let host_key = |nth: usize| servers[nth]["host_key"].as_str().unwrap().to_owned();

    let begun = client
        .tenant_create(&TenantCreate {
            name: TenantName::new("acme").unwrap(),
            plan: PlanName::new("hobby").unwrap(),
            hosts: vec![Hostname::new("acme.fleet.test").unwrap()],
            key: None,
            cell: Some(CellName::new("one").unwrap()),
        })
        .await
        .unwrap();
    assert_eq!(control.ended(begun.id).await, OperationState::Succeeded);
    let tenant: Uuid = client.tenant("acme").await.unwrap().key.unwrap().as_str().parse().unwrap();
    let (db_one, db_two) =
        (database(&desk, &one, &host_key(0), "one").await, database(&desk, &two, &host_key(1), "two").await);
    let (mut db, connection) = db_one.connect(tokio_postgres::NoTls).await.unwrap();
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
    let edge = format!("127.0.0.1:{}", control.edge_port).parse().unwrap();
    let config = || LoadConfig::new(edge, RATE, vec![target.clone()], 1);

    // There and back with nothing in the way: no request fails.
    let load = Load::start(config()).unwrap();
    let handle = load.handle();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for to in ["two", "one"] {
        let operation = move_to(&control, &handle, to).await;
        assert_eq!(control.ended(operation).await, OperationState::Succeeded);
        let gap_ms = handle.move_ends("acme").unwrap();
        let done = client.moves(Some("acme")).await.unwrap().into_iter().find(|it| it.operation == operation).unwrap();
        eprintln!("to {to}: {:?} s, pause {:?} ms, gap {gap_ms} ms", done.duration_s, done.pause_ms);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let report = load.stop().await.unwrap();
    let place = |owner: &tokio_postgres::Config, former: &tokio_postgres::Config| {
        vec![TenantPlace { name: "acme".to_owned(), key: tenant, owner: owner.clone(), former: Some(former.clone()) }]
    };
    let findings = check(&report.ledger, &place(&db_one, &db_two)).await.unwrap();
    let verdict = Verdict::new(&report, Vec::new(), Some(&findings));
    eprintln!("{}", verdict.table());
    assert!(findings.is_clean(), "{:?}", findings.examples);
    assert_eq!(verdict.failed, 0, "{:?}", verdict.problems);

    // Control killed midway, then a server: what was acknowledged is there, once, wherever the tenant lives then.
    let load = Load::start(config()).unwrap();
    let handle = load.handle();
    let operation = move_to(&control, &handle, "two").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    control.killed().await;
    eprintln!("control killed: the move is {:?}", control.ended(operation).await);
    handle.move_ends("acme").unwrap();
    let lives = client.tenant("acme").await.unwrap().cell.unwrap().to_string();
    let other = if lives == "one" { "two" } else { "one" };
    let operation = move_to(&control, &handle, other).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let dies = if other == "one" { &one } else { &two };
    dies.power_cycle();
    dies.up();
    eprintln!("server killed: the move is {:?}", control.ended(operation).await);
    handle.move_ends("acme").unwrap();
    let lives = client.tenant("acme").await.unwrap().cell.unwrap().to_string();
    let look = || async { handle.counts() };
    let before = handle.counts();
    wait_until("writes are acknowledged again", look, |now: &(u64, u64, u64)| now.1 > before.1 + 50).await;
    let report = load.stop().await.unwrap();
    let (owner, former) = if lives == "one" { (&db_one, &db_two) } else { (&db_two, &db_one) };
    let look = || async {
        owner.connect(tokio_postgres::NoTls).await.is_ok() && former.connect(tokio_postgres::NoTls).await.is_ok()
    };
    wait_until("both databases answer", look, |both: &bool| *both).await;
    let findings = check(&report.ledger, &place(owner, former)).await.unwrap();
    eprintln!("{}", Verdict::new(&report, Vec::new(), Some(&findings)).table());
    assert!(findings.is_clean(), "{:?}", findings.examples);
}
