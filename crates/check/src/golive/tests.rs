//! Each entry is found wrong for what it is for, and for nothing else.

use super::{Budget, Cell, Database, Edge, Facts, Host, LIST, Outcome, Ports, Releases, Server, judge};
use crate::{Options, Source, check};

const STACK: &str = "stack: s
services:
  web: { command: [./web], health: /health }
plans:
  hobby: { price: 15, class: shared, limits: { requests_per_minute: { api: 100 }, retention_days: 30 } }
data:
  retention: { positions: at }
  purge: delete
https: { redirect: true }
edges: [fra]
alerts:
  by: Alertmanager
  cpu_percent: { warning: 80, critical: 95 }
  memory_percent: { warning: 85, critical: 95 }
  disk_percent: { warning: 85, critical: 95 }
  down_s: { critical: 300 }
backups: { by: pgbackrest, every: 1h, to: another region, rpo: 2h, drill_every: 30d }
";

fn at(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn good() -> Facts {
    let stack = berth_config::parse(STACK, None, &berth_config::no_files).unwrap();
    Facts {
        findings: Vec::new(),
        looked_at: 2,
        stack: Ok(Some(Box::new(stack))),
        differs: Some(false),
        private: true,
        hosts: Ok(vec![Host {
            name: "a.example.com".into(),
            addresses: 1,
            certificate: Ok(at("2027-01-01T00:00:00Z")),
            doubt: None,
        }]),
        hosts_more: 0,
        cells: Ok(vec![cell()]),
        edges: Ok(vec![Edge { name: "fra".into(), alive: true, behind: 0 }]),
        releases: Ok(Releases { current: 3, cells: vec![("a".into(), 3, Some("x".into()))], stopped: None }),
        servers: Ok(vec![Server { cell: "a".into(), disk: Ok((100, 50)) }]),
        ports: Ok(Ports { tried: 5, open: Vec::new(), left_out: None }),
        budget: Ok(Budget { level: Some("within".into()), unpriced: 0 }),
        attention: Ok(Vec::new()),
    }
}

fn cell() -> Cell {
    let database = Ok(Database { dead: vec![("t".into(), 3)], idle_s: 0.0 });
    Cell {
        name: "a".into(),
        state: "ready".into(),
        ready: true,
        members: 2,
        healthy: 2,
        measured: true,
        lacks: Ok(Vec::new()),
        database,
    }
}

const BY_HAND: &[&str] = &["restore", "alert-arrives", "monitoring", "audit", "search-index", "mail"];

fn of(facts: &Facts, outcome: Outcome) -> Vec<&'static str> {
    judge(facts, &[], at("2026-11-21T12:00:00Z")).iter().filter(|it| it.outcome == outcome).map(|it| it.id).collect()
}

#[test]
fn a_stack_in_order_leaves_only_what_people_look_at_and_they_may_say_so() {
    assert_eq!(of(&good(), Outcome::Failed), [""; 0]);
    assert_eq!(of(&good(), Outcome::Unknown), BY_HAND);
    let done: Vec<String> = BY_HAND.iter().map(|id| (*id).to_owned()).collect();
    let all = judge(&good(), &done, at("2026-11-21T12:00:00Z"));
    assert!(all.iter().all(|it| it.outcome == Outcome::Passed && it.remedy.is_none()), "{all:?}");
}

#[test]
fn nobody_can_say_that_what_failed_is_done() {
    let facts = Facts { edges: Ok(Vec::new()), ..good() };
    let edges = judge(&facts, &["edges".to_owned()], at("2026-11-21T12:00:00Z"));
    let edges = edges.iter().find(|it| it.id == "edges").unwrap();
    assert!(edges.outcome == Outcome::Failed && edges.remedy.is_some());
}

#[test]
fn a_month_known_to_be_over_stays_so_whatever_is_not_known() {
    let said = |level: Option<&str>, unpriced| {
        let facts = Facts { budget: Ok(Budget { level: level.map(str::to_owned), unpriced }), ..good() };
        let all = judge(&facts, &["cost".to_owned()], at("2026-11-21T12:00:00Z"));
        let cost = all.iter().find(|it| it.id == "cost").unwrap();
        (cost.outcome, cost.says.clone())
    };
    assert_eq!(
        said(Some("over"), 1),
        (Outcome::Failed, "the forecast is over, and nobody knows the price of 1 cells".into())
    );
    assert_eq!(said(Some("critical"), 2).0, Outcome::Failed);
    assert_eq!(said(Some("over"), 0).1, "the forecast is over");
    assert_eq!(said(None, 1).0, Outcome::Failed);
    let facts = Facts { budget: Ok(Budget { level: Some("within".into()), unpriced: 1 }), ..good() };
    assert!(of(&facts, Outcome::Unknown).contains(&"cost"));
    assert_eq!(said(Some("warning"), 1).0, Outcome::Passed, "somebody looked");
}

/// Each entry fails, or is said to be unknown, for what is wrong with it alone.
#[test]
fn every_entry_finds_what_it_is_for() {
    let files = "services:\n  db: { image: \"postgres:15.8\", ports: [\"5432:5432\"] }\n  web: { image: \"a@sha256:1\", environment: { SECRET_KEY_BASE: changeme } }\n";
    let now = at("2026-11-21T12:00:00Z");
    let findings = check(&[Source::new("compose.yaml", files)], &Options { now, only: Vec::new() }).findings;
    let without = |key: &str| {
        let lines: Vec<&str> = STACK.lines().filter(|line| !line.starts_with(key)).collect();
        berth_config::parse(&lines.join("\n"), None, &berth_config::no_files).unwrap()
    };
    let stack = |key: &str| Facts { stack: Ok(Some(Box::new(without(key)))), ..good() };
    let no_alerts = {
        let text = STACK.split("alerts:").next().unwrap();
        let stack = berth_config::parse(text, None, &berth_config::no_files).unwrap();
        Facts { stack: Ok(Some(Box::new(stack))), ..good() }
    };
    let cells = |change: fn(&mut Cell)| {
        let mut cell = cell();
        change(&mut cell);
        Facts { cells: Ok(vec![cell]), ..good() }
    };
    let host = |addresses, end: &str| Facts {
        hosts: Ok(vec![Host { name: "a.example.com".into(), addresses, certificate: Ok(at(end)), doubt: None }]),
        ..good()
    };
    let wrong: Vec<(&[&str], Facts)> = vec![
        (&["files", "secrets"], Facts { findings, ..good() }),
        (&["stack"], Facts { differs: Some(true), ..good() }),
        (&["api"], Facts { private: false, ..good() }),
        (&["backups", "restore"], stack("backups")),
        (&["https"], stack("https")),
        (&["backups", "restore", "alerts"], no_alerts),
        (&["measured"], cells(|cell| cell.measured = false)),
        (&["movable"], cells(|cell| cell.lacks = Ok(vec!["reads_changes".into()]))),
        (&["health"], cells(|cell| cell.healthy = 1)),
        (&["database"], cells(|cell| cell.database = Ok(Database { dead: vec![("t".into(), 40)], idle_s: 0.0 }))),
        (
            &["firewall"],
            Facts { ports: Ok(Ports { tried: 5, open: vec!["203.0.113.7:5432".into()], left_out: None }), ..good() },
        ),
        (&["dns", "certificates"], host(0, "2027-01-01T00:00:00Z")),
        (&["certificates"], host(1, "2026-11-30T00:00:00Z")),
        (&["edges"], Facts { edges: Ok(vec![Edge { name: "fra".into(), alive: false, behind: 0 }]), ..good() }),
        (
            &["releases"],
            Facts {
                releases: Ok(Releases { current: 3, cells: vec![("a".into(), 2, None)], stopped: None }),
                ..good()
            },
        ),
        (&["disk"], Facts { servers: Ok(vec![Server { cell: "a".into(), disk: Ok((100, 5)) }]), ..good() }),
        (&["cost"], Facts { budget: Ok(Budget { level: None, unpriced: 0 }), ..good() }),
        (&["attention"], Facts { attention: Ok(vec!["operation 7 is stuck".into()]), ..good() }),
    ];
    let mut seen: Vec<&str> = BY_HAND.to_vec();
    for (ids, facts) in &wrong {
        assert_eq!(of(facts, Outcome::Failed), *ids);
        seen.extend(*ids);
    }
    let mut plain = good();
    let text = STACK
        .replace("limits: { requests_per_minute: { api: 100 }, retention_days: 30 }", "limits: { retention_days: 30 }")
        .replace("  purge: delete\n", "");
    plain.stack = Ok(Some(Box::new(berth_config::parse(&text, None, &berth_config::no_files).unwrap())));
    assert_eq!(of(&plain, Outcome::Failed), ["limits"]);
    assert!(of(&plain, Outcome::Unknown).contains(&"retention"));
    seen.extend(["limits", "retention"]);
    // One class alone leaves all other requests without a limit, which is said.
    let text = STACK.replace("{ api: 100 }", "{ gps: 100 }");
    plain.stack = Ok(Some(Box::new(berth_config::parse(&text, None, &berth_config::no_files).unwrap())));
    let items = judge(&plain, &[], now);
    let limits = items.iter().find(|item| item.id == "limits").unwrap();
    let says = limits.says.contains("requests_per_minute.api") && limits.says.ends_with("`hobby`");
    assert!(limits.outcome == Outcome::Passed && says, "{limits:?}");
    assert!(LIST.iter().all(|task| seen.contains(&task.id)), "{seen:?}");
}

#[test]
fn the_page_has_every_entry_with_its_remedy() {
    let page = include_str!("../../../../docs/go-live.md");
    for task in LIST {
        let row = format!("| {} | {} | {} |", task.id, task.what, task.remedy);
        assert!(page.contains(&row), "docs/go-live.md lacks:\n{row}");
    }
}
