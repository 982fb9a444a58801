//! Whether a stack may meet its first users: the guides' lists from before and after a migration, each entry a question
//! with an answer. Pure: facts in, items out. What nobody can find out is said to be unknown, never taken for good.

mod list;

pub use list::{LIST, Task, When};

use crate::{
    Finding, Severity,
    live::{Host, Judge},
};
use berth_config::Stack;
use jiff::Timestamp;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Passed,
    Failed,
    /// Cannot be told from here.
    Unknown,
}

/// An entry with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub id: &'static str,
    pub when: When,
    pub what: &'static str,
    pub outcome: Outcome,
    /// What was seen, or why nothing could be.
    pub says: String,
    /// Only where it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

/// Something that was asked for: `Err` with the reason why it cannot be told.
pub type Told<T> = Result<T, String>;

pub struct Cell {
    pub name: String,
    /// `ready`, `creating`, …
    pub state: String,
    pub ready: bool,
    pub members: usize,
    pub healthy: usize,
    pub measured: bool,
    /// What its database does not let Berth do, each with the reason.
    pub lacks: Told<Vec<String>>,
    pub database: Told<Database>,
}

pub struct Database {
    /// Large tables and what part of their rows is dead, in percent.
    pub dead: Vec<(String, u64)>,
    /// The oldest transaction that does nothing, in seconds.
    pub idle_s: f64,
}

pub struct Edge {
    pub name: String,
    pub alive: bool,
    pub behind: u64,
}

pub struct Releases {
    pub current: u32,
    /// Name, release, fingerprint of its schema.
    pub cells: Vec<(String, u32, Option<String>)>,
    /// Why the last one stopped.
    pub stopped: Option<String>,
}

pub struct Server {
    pub cell: String,
    /// Bytes there are and bytes that are free.
    pub disk: Told<(u64, u64)>,
}

/// What was tried from outside.
pub struct Ports {
    pub tried: usize,
    /// `203.0.113.7:5432`.
    pub open: Vec<String>,
    /// Why some were not tried.
    pub left_out: Option<String>,
}

pub struct Budget {
    /// `within`, `warning`, `critical` or `over`; `None`: no budget is stated.
    pub level: Option<String>,
    /// Cells that nobody knows a price of.
    pub unpriced: usize,
}

/// Everything that the list is judged by.
pub struct Facts {
    /// What `berth check` found in how many files.
    pub findings: Vec<Finding>,
    pub looked_at: usize,
    /// In force; `Ok(None)` before the first one.
    pub stack: Told<Option<Box<Stack>>>,
    /// Whether the stack file here says something else; `None`: none is here.
    pub differs: Option<bool>,
    /// The API is reached over TLS, or within one network.
    pub private: bool,
    pub hosts: Told<Vec<Host>>,
    /// Hosts that were not asked, since there are many.
    pub hosts_more: usize,
    pub cells: Told<Vec<Cell>>,
    pub edges: Told<Vec<Edge>>,
    pub releases: Told<Releases>,
    pub servers: Told<Vec<Server>>,
    pub ports: Told<Ports>,
    pub budget: Told<Budget>,
    /// What `berth status` says waits for a person.
    pub attention: Told<Vec<String>>,
}

const SECRETS: &[&str] = &["secret-in-file", "secret-placeholder", "flag-without-effect"];
const LIMITS: &[&str] = &["limit-by-address", "limits-contradict", "plan-limits-off"];
const RETENTION: &[&str] = &["retention-below-plan"];
const BACKUPS: &[&str] = &["rpo-below-interval"];
const ALERTS: &[&str] = &["thresholds-contradict"];
const WOKEN_BY: &[&str] = &["cpu_percent", "memory_percent", "disk_percent", "down_s"];
const DEAD_PERCENT: u64 = 30;
const IDLE_S: f64 = 300.0;
const DISK_FREE_PERCENT: u64 = 10;

type Answer = (Outcome, String);

fn passed(says: impl Into<String>) -> Answer {
    (Outcome::Passed, says.into())
}

fn failed(says: impl Into<String>) -> Answer {
    (Outcome::Failed, says.into())
}

fn unknown(says: impl Into<String>) -> Answer {
    (Outcome::Unknown, says.into())
}

/// The first few, and how many more there are.
fn some(all: &[String]) -> String {
    const MOST: usize = 4;
    let text = all.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(MOST) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

/// Passed where nothing is wrong with any of them.
fn none_of(bad: &[String], good: impl Into<String>) -> Answer {
    if bad.is_empty() { passed(good) } else { failed(some(bad)) }
}

/// `done`: what somebody says to have looked at, of what cannot be told.
pub fn judge(facts: &Facts, done: &[String], now: Timestamp) -> Vec<Item> {
    LIST.iter()
        .map(|task| {
            let (mut outcome, mut says) = answer(task.id, facts, now);
            if outcome == Outcome::Unknown && done.iter().any(|id| id == task.id) {
                (outcome, says) = passed("somebody looked, and says so with `--done`");
            }
            let remedy = (outcome != Outcome::Passed).then_some(task.remedy);
            Item { id: task.id, when: task.when, what: task.what, outcome, says, remedy }
        })
        .collect()
}

fn answer(id: &str, facts: &Facts, now: Timestamp) -> Answer {
    match id {
        "files" => files(facts),
        "stack" => stack(facts),
        "secrets" => found(facts, SECRETS).unwrap_or_else(|| looked(facts)),
        "api" if facts.private => passed("over TLS, or within one network"),
        "api" => failed("keys travel in the open: its address is plain `http://` on a public network"),
        "limits" => in_force(facts, limits),
        "retention" => in_force(facts, retention),
        "backups" => in_force(facts, backups),
        "restore" => in_force(facts, restore),
        "alerts" => in_force(facts, alerts),
        "alert-arrives" => unknown("alerts are sent past Berth"),
        "monitoring" => unknown("who scrapes metrics is not seen from here"),
        "measured" => cells(facts, |cell| (!cell.measured).then(|| cell.name.clone()), "measured"),
        "movable" => movable(facts),
        "firewall" => firewall(facts),
        "audit" => unknown("only people can tell"),
        "dns" => hosts(facts, now, &["live-host-unresolved"]),
        "certificates" => hosts(facts, now, &["live-certificate", "live-certificate-ends"]),
        "https" => in_force(facts, |_, stack| {
            if stack.https.redirect {
                passed("hosts with a certificate are")
            } else {
                failed("requests without TLS are answered")
            }
        }),
        "health" => health(facts),
        "edges" => edges(facts),
        "releases" => releases(facts),
        "database" => database(facts),
        "disk" => disk(facts),
        "search-index" | "mail" => unknown("that is the application's own, which Berth does not know"),
        "cost" => cost(facts),
        "attention" => match &facts.attention {
            Ok(all) => none_of(all, "nothing does"),
            Err(why) => unknown(why),
        },
        other => unknown(format!("nobody answers for `{other}`")),
    }
}

/// What of these rules was found, if anything.
fn found(facts: &Facts, rules: &[&str]) -> Option<Answer> {
    let ours: Vec<String> = facts.findings.iter().filter(|it| rules.contains(&it.rule)).map(shown).collect();
    (!ours.is_empty()).then(|| failed(some(&ours)))
}

/// Where it is and what rule says so: a message may be long.
fn shown(finding: &Finding) -> String {
    let line = finding.line.map_or_else(String::new, |line| format!(":{line}"));
    format!("{}{line} [{}]", finding.file, finding.rule)
}

fn looked(facts: &Facts) -> Answer {
    match facts.looked_at {
        0 => unknown("no file of the stack lies here: start this in the folder of `berth.yaml`"),
        1 => passed("1 file looked at"),
        n => passed(format!("{n} files looked at")),
    }
}

fn files(facts: &Facts) -> Answer {
    let own: Vec<&str> = [SECRETS, LIMITS, RETENTION, BACKUPS, ALERTS].concat();
    let errors = facts.findings.iter().filter(|it| it.severity == Severity::Error && !own.contains(&it.rule));
    let errors: Vec<String> = errors.map(shown).collect();
    if errors.is_empty() { looked(facts) } else { failed(some(&errors)) }
}

fn stack(facts: &Facts) -> Answer {
    match (&facts.stack, facts.differs) {
        (Err(why), _) => unknown(why),
        (Ok(None), _) => failed("none is in force"),
        (Ok(Some(_)), Some(true)) => failed("`berth.yaml` here says something else than what is in force"),
        (Ok(Some(_)), Some(false)) => passed("they are the same"),
        (Ok(Some(_)), None) => unknown("no `berth.yaml` lies here to compare with"),
    }
}

fn in_force(facts: &Facts, judge: impl Fn(&Facts, &Stack) -> Answer) -> Answer {
    match &facts.stack {
        Ok(Some(stack)) => judge(facts, stack),
        Ok(None) => failed("no stack file is in force"),
        Err(why) => unknown(why),
    }
}

fn limits(facts: &Facts, stack: &Stack) -> Answer {
    if let Some(bad) = found(facts, LIMITS) {
        return bad;
    }
    if stack.plans.is_empty() {
        return failed("there are no plans");
    }
    let bare = stack.plans.iter().filter(|(_, plan)| {
        let limits = &plan.limits;
        limits.requests_per_minute.is_empty() && limits.body_bytes.is_none() && limits.quantities.is_empty()
    });
    let bare: Vec<String> = bare.map(|(name, _)| format!("plan `{name}` has none")).collect();
    // A class without a limit is not limited, and every request that is of no other class is of this one.
    let open = stack.plans.iter().filter(|(_, plan)| !plan.limits.requests_per_minute.contains_key("api"));
    let open: Vec<String> = open.map(|(name, _)| format!("`{name}`")).collect();
    let also = if open.is_empty() {
        String::new()
    } else {
        format!("; without `requests_per_minute.api`, so that hosts of their tenants take any number: {}", some(&open))
    };
    none_of(&bare, format!("{} plans, each with limits{also}", stack.plans.len()))
}

fn retention(facts: &Facts, stack: &Stack) -> Answer {
    if let Some(bad) = found(facts, RETENTION) {
        return bad;
    }
    let promised = stack.plans.values().any(|plan| plan.limits.retention_days.is_some());
    match (promised, stack.data.retention.is_empty(), stack.data.purge) {
        (false, ..) => passed("no plan ends a history"),
        (true, true, _) => unknown(
            "plans have `retention_days`, and no table is named that has a history: does the application delete?",
        ),
        (true, false, None) => unknown("nothing here deletes what is too old: does the application?"),
        (true, false, Some(_)) => passed(format!("{} tables are purged by plan", stack.data.retention.len())),
    }
}

fn backups(facts: &Facts, stack: &Stack) -> Answer {
    if let Some(bad) = found(facts, BACKUPS) {
        return bad;
    }
    match &stack.backups {
        Some(it) => {
            let kept = it.keep_days.map_or_else(String::new, |days| format!(", kept {days} days"));
            passed(format!("stated: by {}, every {}, to {}{kept}", it.by, it.every, it.to))
        }
        None => failed("none are stated"),
    }
}

fn restore(_: &Facts, stack: &Stack) -> Answer {
    let Some(backups) = &stack.backups else { return failed("there are no backups to restore") };
    match &backups.drill_every {
        Some(every) => {
            let within = backups.rto.map_or_else(String::new, |rto| format!(" and a restore within {rto}"));
            unknown(format!("a drill every {every}{within} is stated; Berth does not see it"))
        }
        None => failed("no drill is stated: a backup that nobody restored is a hope"),
    }
}

fn alerts(facts: &Facts, stack: &Stack) -> Answer {
    if let Some(bad) = found(facts, ALERTS) {
        return bad;
    }
    let Some(alerts) = &stack.alerts else { return failed("none are stated") };
    let missing: Vec<&str> = WOKEN_BY.iter().copied().filter(|on| !alerts.on.contains_key(*on)).collect();
    if missing.is_empty() {
        passed(format!("stated: sent by {}", alerts.by))
    } else {
        failed(format!("nothing is said of {}", missing.join(", ")))
    }
}

fn cells(facts: &Facts, bad: impl Fn(&Cell) -> Option<String>, word: &str) -> Answer {
    match &facts.cells {
        Err(why) => unknown(why),
        Ok(all) if all.is_empty() => failed("there are no cells"),
        Ok(all) => {
            let bad: Vec<String> = all.iter().filter_map(bad).collect();
            if bad.is_empty() {
                passed(format!("{} of {} cells {word}", all.len(), all.len()))
            } else {
                failed(format!("not {word}: {}", some(&bad)))
            }
        }
    }
}

fn movable(facts: &Facts) -> Answer {
    let Ok(all) = &facts.cells else { return cells(facts, |_| None, "movable") };
    let lacks = |cell: &Cell| {
        cell.lacks
            .as_ref()
            .ok()
            .filter(|lacks| !lacks.is_empty())
            .map(|lacks| format!("{}: {}", cell.name, lacks.join(", ")))
    };
    let (word, answer) = ("open for moves", cells(facts, lacks, "open for moves"));
    match all.iter().find_map(|cell| cell.lacks.as_ref().err().map(|why| (cell, why))) {
        Some((cell, why)) if answer.0 == Outcome::Passed => {
            unknown(format!("cell {} could not be asked whether it is {word}: {why}", cell.name))
        }
        _ => answer,
    }
}

fn health(facts: &Facts) -> Answer {
    let sick = |cell: &Cell| match (cell.ready, cell.members - cell.healthy) {
        (false, _) => Some(format!("{} is {}", cell.name, cell.state)),
        (true, 0) => None,
        (true, sick) => Some(format!("{sick} of {} members of {}", cell.members, cell.name)),
    };
    cells(facts, sick, "well")
}

fn database(facts: &Facts) -> Answer {
    let sick = |cell: &Cell| {
        let seen = cell.database.as_ref().ok()?;
        let mut says: Vec<String> = seen
            .dead
            .iter()
            .filter(|(_, percent)| *percent >= DEAD_PERCENT)
            .map(|(table, percent)| format!("{percent} % of `{table}` are dead rows"))
            .collect();
        if seen.idle_s >= IDLE_S {
            says.push(format!("a transaction does nothing for {:.0} min", seen.idle_s / 60.0));
        }
        (!says.is_empty()).then(|| format!("{}: {}", cell.name, says.join(", ")))
    };
    let answer = cells(facts, sick, "clean");
    let silent = facts.cells.iter().flatten().find_map(|cell| cell.database.as_ref().err().map(|why| (cell, why)));
    match silent {
        Some((cell, why)) => failed(format!("the database of cell {} does not answer: {why}", cell.name)),
        None => answer,
    }
}

fn hosts(facts: &Facts, now: Timestamp, rules: &[&str]) -> Answer {
    let all = match &facts.hosts {
        Err(why) => return unknown(why),
        Ok(all) if all.is_empty() => return failed("no host is served yet"),
        Ok(all) => all,
    };
    let mut bad = Vec::new();
    for host in all {
        let mut judge = Judge::of(&host.name);
        judge.host(host, now);
        // Without an address nothing else can be said.
        let ours = judge.found.iter().filter(|it| rules.contains(&it.rule) || it.rule == "live-host-unresolved");
        bad.extend(ours.map(|it| format!("{}: {}", host.name, it.message)));
    }
    let more = if facts.hosts_more > 0 { format!(", {} others not asked", facts.hosts_more) } else { String::new() };
    none_of(&bad, format!("{} hosts asked{more}", all.len()))
}

fn edges(facts: &Facts) -> Answer {
    let all = match &facts.edges {
        Err(why) => return unknown(why),
        Ok(all) if all.is_empty() => return failed("no edge has called yet"),
        Ok(all) => all,
    };
    let mut bad: Vec<String> = Vec::new();
    for edge in all {
        if !edge.alive {
            bad.push(format!("{} is silent", edge.name));
        } else if edge.behind > 0 {
            bad.push(format!("{} is {} revisions behind", edge.name, edge.behind));
        }
    }
    if let Ok(Some(stack)) = &facts.stack {
        let missing = stack.edges.iter().filter(|name| !all.iter().any(|edge| edge.name == name.as_str()));
        bad.extend(missing.map(|name| format!("{name} of the stack file has not called")));
    }
    none_of(&bad, format!("{} alive, none behind", all.len()))
}

fn releases(facts: &Facts) -> Answer {
    let seen = match &facts.releases {
        Err(why) => return unknown(why),
        Ok(seen) => seen,
    };
    let said = |release: u32| if release == 0 { "the stack file's".to_owned() } else { format!("r{release}") };
    let mut bad: Vec<String> = Vec::new();
    if let Some(why) = &seen.stopped {
        bad.push(format!("the last one stopped: {why}"));
    }
    let others = seen.cells.iter().filter(|(_, release, _)| *release != seen.current);
    bad.extend(
        others.map(|(cell, release, _)| format!("{cell} runs {}, new cells {}", said(*release), said(seen.current))),
    );
    let mut schemas: Vec<&String> = seen.cells.iter().filter_map(|(_, _, schema)| schema.as_ref()).collect();
    schemas.sort_unstable();
    schemas.dedup();
    if schemas.len() > 1 {
        bad.push(format!("{} different schemas", schemas.len()));
    }
    none_of(&bad, format!("{} cells run {}", seen.cells.len(), said(seen.current)))
}

fn disk(facts: &Facts) -> Answer {
    let all = match &facts.servers {
        Err(why) => return unknown(why),
        Ok(all) if all.is_empty() => return unknown("no cell stands on a server that Berth reaches over SSH"),
        Ok(all) => all,
    };
    let mut bad = Vec::new();
    for server in all {
        match &server.disk {
            Err(why) => bad.push(format!("the server of {} does not answer: {why}", server.cell)),
            Ok((bytes, free)) if free.saturating_mul(100) < bytes.saturating_mul(DISK_FREE_PERCENT) => {
                bad.push(format!("the server of {} has {} MiB free", server.cell, free / 1024 / 1024));
            }
            Ok(_) => {}
        }
    }
    none_of(&bad, format!("{} servers, a tenth and more is free", all.len()))
}

fn firewall(facts: &Facts) -> Answer {
    let tried = match &facts.ports {
        Err(why) => return unknown(why),
        Ok(tried) => tried,
    };
    match (&tried.open, &tried.left_out) {
        (open, _) if !open.is_empty() => failed(format!("from here answer {}", some(open))),
        (_, Some(why)) => unknown(why),
        (_, None) => passed(format!("none of {} ports of databases and of Berth's own answers from here", tried.tried)),
    }
}

fn cost(facts: &Facts) -> Answer {
    let Budget { level, unpriced } = match &facts.budget {
        Err(why) => return unknown(why),
        Ok(budget) => budget,
    };
    let Some(level) = level.as_deref() else { return failed("no budget is stated") };
    let also = if *unpriced > 0 { format!("nobody knows the price of {unpriced} cells") } else { String::new() };
    match (level, also.as_str()) {
        ("within" | "warning", "") => passed(format!("the forecast is {level}")),
        // What is not known may bring it beyond.
        ("within" | "warning", also) => unknown(also),
        (level, "") => failed(format!("the forecast is {level}")),
        (level, also) => failed(format!("the forecast is {level}, and {also}")),
    }
}

#[cfg(test)]
mod tests;
