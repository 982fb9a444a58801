//! `berth upgrade`: another version of this program, on the machines that `berth up` made: serve, then edges, two adjacent
//! versions side by side meanwhile. The control plane decides whether and in which order; this does it on one machine, goes
//! back when a step fails, and goes on where it was cut off.

use super::{
    Answer,
    host::{By, Host},
    machine::Machine,
    steps::{Row, Went, noted},
    swap::{self, Brought, Found, Look, Unit},
    told,
};
use crate::{
    cli::{Common, Connection as Api, Context},
    fail::{Failure, FailureExt as _},
};
use berth_client::{Client, ClientError};
use berth_domain::Version;
use berth_providers::ssh::listen;
use berth_wire::{ProcessRole, UpgradeKind, UpgradePlan, UpgradeStep};
use clap::Args;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// An edge says its version when it connects, which it does at once.
const HEARD_LIMIT: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth upgrade root@203.0.113.7 --key-file ~/.ssh/id_ed25519 --dry-run\n  berth upgrade --to ./berth-0.2.0    as root on the server itself"
)]
pub struct Upgrade {
    /// The machine, as NAME or USER@NAME. Default: this one
    #[arg(value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    by: By,
    /// The program to bring. Default: this one
    #[arg(long, value_name = "PROGRAM")]
    to: Option<PathBuf>,
    /// Bring it also where its version runs already
    #[arg(long)]
    again: bool,
    /// Show the steps and what stands in the way, and stop
    #[arg(long)]
    dry_run: bool,
}

/// The machine, the control plane, and what is brought.
struct Work {
    machine: Machine,
    cx: Context,
    brought: Brought,
    again: bool,
    rows: Vec<Row>,
}

impl Upgrade {
    /// `resolved`: the server that flags, variables and contexts name. `key`: of the environment alone.
    pub(super) async fn run(
        self,
        common: &Common,
        resolved: Api,
        key: Option<SecretString>,
    ) -> Result<Answer, Failure> {
        let brought = Brought::read(self.to.as_deref()).await?;
        let machine = match self.host {
            None => Machine::here(self.dry_run).await?,
            Some(host) => Machine::there(Host::new(host, self.by).open(common.yes).await?).await?,
        };
        let look = swap::look(&machine).await?;
        let named = common.url.is_some() || common.context.is_some();
        let api = reach(&machine, &look, resolved, key, named).await?;
        let cx = Context::new(api, common.json, common.yes, Timestamp::now()).map_err(told)?;
        let work = Work { machine, cx, brought, again: self.again, rows: Vec::new() };
        let plan = work.plan().await?;
        let todo = work.todo(&look, &plan).await?;
        let text = screen(&plan, &todo, &work.machine);
        if self.dry_run {
            let status = u8::from(!plan.refused.is_empty());
            return Ok(work.answer(text, &plan, true, status));
        }
        if !plan.refused.is_empty() {
            let why: Vec<String> = plan.refused.iter().map(|it| it.why.clone()).collect();
            let mut hints: Vec<&str> = plan.refused.iter().map(|it| it.hint.as_str()).collect();
            hints.dedup();
            return Err(Failure::request(why.join("; "), hints.join("; ")));
        }
        if look.is_empty() && !is_level(&plan) {
            return Err(no_units(&work.machine));
        }
        let to_finish = is_level(&plan) && !plan.steps.is_empty();
        if todo.is_empty() && !to_finish {
            return Ok(work.answer(text, &plan, false, 0));
        }
        work.cx.agree(&text, "Upgrade?").map_err(told)?;
        work.carry_out(&look, &todo).await
    }
}

/// The control plane: the one that was named, else the one on the machine itself.
async fn reach(
    machine: &Machine,
    look: &Look,
    resolved: Api,
    key: Option<SecretString>,
    named: bool,
) -> Result<Api, Failure> {
    let own = look.serve.is_some() && !named;
    let (url, key) = match machine {
        Machine::There(connection, _) if own => {
            let at = listen(connection.clone(), 7600).await.ours("a port of this machine")?;
            // A context's key is for its own server.
            (format!("http://{at}"), key)
        }
        _ => (resolved.url, resolved.key),
    };
    let key = match key {
        None if own => {
            let read = "cat /var/lib/berth/serve/admin.key";
            let read = machine.must("reading the administrator's key", read, b"").await?;
            Some(SecretString::from(read.trim()))
        }
        key => key,
    };
    Ok(Api { url, key })
}

fn no_units(machine: &Machine) -> Failure {
    let what = format!("neither berth-serve nor berth-edge runs as a unit on {}", machine.name());
    Failure::request(
        what,
        "`berth upgrade HOST` names the machine; where something else starts them, bring the program there yourself, in the \
         order that `--dry-run` shows",
    )
}

/// Every server and edge has it.
fn is_level(plan: &UpgradePlan) -> bool {
    processes(plan).next().is_none()
}

fn processes(plan: &UpgradePlan) -> impl Iterator<Item = &UpgradeStep> {
    plan.steps.iter().filter(|step| matches!(step.kind, UpgradeKind::Serve | UpgradeKind::Edge))
}

/// A unit that is to be started anew.
struct Todo {
    unit: Unit,
    /// It does not run this version yet, so that it has its turn in the plan.
    due: bool,
}

impl Work {
    async fn plan(&self) -> Result<UpgradePlan, Failure> {
        let asked = self.cx.client.upgrade_plan(&self.brought.about).await;
        asked.map_err(|error| match &error {
            ClientError::Refused(problem) if matches!(problem.status, 404 | 405) => Failure::request(
                "the server that runs is of a version that knows no upgrades",
                "`berth up` with this program starts it anew, without handing over",
            ),
            _ => told(error.into()),
        })
    }

    /// Which units of this machine are started anew, in the plan's order.
    async fn todo(&self, look: &Look, plan: &UpgradePlan) -> Result<Vec<Todo>, Failure> {
        let to = &self.brought.about.version;
        let mut todo = Vec::new();
        if let Some(serve) = &look.serve {
            todo.push(Todo { unit: Unit::Serve, due: serve.version.as_ref() != Some(to) });
        }
        if let Some(edge) = &look.edge {
            let version = edge_version(&self.cx.client, edge).await?;
            todo.push(Todo { unit: Unit::Edge, due: version.as_ref() != Some(to) });
        }
        todo.retain(|it| it.due || self.again);
        if todo.iter().all(|it| it.due) && processes(plan).next().is_some_and(|step| step.kind == UpgradeKind::Edge) {
            // On the way down edges go first.
            todo.reverse();
        }
        Ok(todo)
    }

    async fn carry_out(mut self, look: &Look, todo: &[Todo]) -> Result<Answer, Failure> {
        let version = self.brought.about.version.clone();
        if !todo.is_empty() {
            let begun = Instant::now();
            let new = swap::put(&self.machine, look, &self.brought).await?;
            let went = if new { Went::Done } else { Went::Was };
            self.note("program", &format!("{version} is in place, the one before is kept beside it"), went, begun);
        }
        for Todo { unit, due } in todo {
            let plan = self.plan().await?;
            let kind = kind(*unit);
            // Those of this machine whose turn is earlier are done by now.
            if let Some(first) = processes(&plan).next().filter(|first| *due && first.kind != kind) {
                let first = named(first);
                let text = format!("{unit} waits: {first} goes first. Then run this again.\n");
                return Ok(self.answer(text, &plan, false, 0));
            }
            let begun = Instant::now();
            let before = look.unit(*unit).expect("what is to do was found");
            let started = match swap::start(&self.machine, *unit, before, &self.brought).await {
                Ok(()) if *unit == Unit::Edge => self.heard(before).await,
                started => started,
            };
            if let Err(failure) = started {
                return Err(self.give_up(&failure).await);
            }
            let how = if *unit == Unit::Edge { "was handed the sockets and serves" } else { "answers" };
            self.note(unit.word(), &format!("{unit} of {version} {how}"), Went::Done, begun);
        }
        let plan = self.plan().await?;
        if !is_level(&plan) {
            let left: Vec<String> = processes(&plan).map(named).collect();
            let text = format!("done here; {} to go: `berth upgrade` where it runs\n", left.join(", "));
            return Ok(self.answer(text, &plan, false, 0));
        }
        if !plan.steps.is_empty() {
            let begun = Instant::now();
            self.cx.client.upgrade_finish().await.map_err(|error| told(error.into()))?;
            self.note("finish", "the control database keeps nothing for the version before", Went::Done, begun);
        }
        let plan = self.plan().await?;
        Ok(self.answer(format!("everything runs {version}\n"), &plan, false, 0))
    }

    /// Until the control plane has heard of the edge's new process.
    async fn heard(&self, edge: &Found) -> Result<(), Failure> {
        let until = Instant::now() + HEARD_LIMIT;
        let to = &self.brought.about.version;
        loop {
            let seen = edge_version(&self.cx.client, edge).await;
            match seen {
                Ok(seen) if seen.as_ref() == Some(to) => return Ok(()),
                _ if Instant::now() < until => tokio::time::sleep(Duration::from_millis(300)).await,
                Err(failure) => return Err(failure),
                Ok(seen) => {
                    let seen = seen.map_or_else(|| "nothing".to_owned(), |version| version.to_string());
                    let what = format!("the edge serves, and the control plane hears {seen} of its version, not {to}");
                    return Err(Failure::request(what, ""));
                }
            }
        }
    }

    /// The program before takes its place again; what is where is said in any case.
    async fn give_up(&self, failure: &Failure) -> Failure {
        match swap::back(&self.machine, &self.brought).await {
            Ok(now) => Failure::request(
                format!("{}; the program before is back: {}", failure.what(), now.told(&self.brought)),
                "the program that failed is kept as /usr/local/bin/berth.failed; run it again when it can start",
            ),
            Err(second) => {
                let now = swap::look(&self.machine).await.map(|now| now.told(&self.brought));
                let now = now.unwrap_or_else(|_| "what runs is not known".to_owned());
                Failure::request(
                    format!("{}; going back failed too: {}; {now}", failure.what(), second.what()),
                    "`systemctl status berth-serve berth-edge` there says more; the program before is /usr/local/bin/berth.before",
                )
            }
        }
    }

    fn note(&mut self, step: &'static str, says: &str, went: Went, begun: Instant) {
        self.rows.push(noted(step, says, went, begun.elapsed()));
    }

    fn answer(self, text: String, plan: &UpgradePlan, dry_run: bool, status: u8) -> Answer {
        let json = json!({
            "to": self.brought.about.version, "digest": format!("sha256:{}", self.brought.digest), "dry_run": dry_run,
            "steps": self.rows, "left": plan.steps, "refused": plan.refused,
        });
        Answer { text, json, status }
    }
}

/// What the control plane heard of it last.
async fn edge_version(client: &Client, edge: &Found) -> Result<Option<Version>, Failure> {
    let name = edge.name.as_deref().unwrap_or_default();
    let now = client.upgrade().await.map_err(|error| told(error.into()))?;
    let edge = now.processes.into_iter().find(|it| it.role == ProcessRole::Edge && it.name == name && !it.leaving);
    Ok(edge.and_then(|edge| edge.version))
}

const fn word(kind: UpgradeKind) -> &'static str {
    match kind {
        UpgradeKind::Expand => "migration",
        UpgradeKind::Serve => "serve",
        UpgradeKind::Edge => "edge",
        UpgradeKind::Contract => "last migration",
    }
}

const fn kind(unit: Unit) -> UpgradeKind {
    match unit {
        Unit::Serve => UpgradeKind::Serve,
        Unit::Edge => UpgradeKind::Edge,
    }
}

fn named(step: &UpgradeStep) -> String {
    format!("{} `{}`", word(step.kind), step.name)
}

fn screen(plan: &UpgradePlan, todo: &[Todo], machine: &Machine) -> String {
    let to = &plan.to;
    let mut text = String::new();
    for step in &plan.steps {
        let how = match (step.kind, &step.from) {
            (UpgradeKind::Expand, _) => "by the new server, at its start".to_owned(),
            (UpgradeKind::Contract, _) => "when nothing older runs; then there is no way back".to_owned(),
            (_, Some(from)) => format!("{from} to {to}"),
            (_, None) => format!("from a version that it does not say to {to}"),
        };
        text.push_str(&format!("{:<14}  {:<12}  {how}\n", word(step.kind), step.name));
    }
    if plan.steps.is_empty() && todo.is_empty() {
        text.push_str(&format!("everything runs {to}; `--again` brings this very program all the same\n"));
    } else {
        let units: Vec<String> = todo.iter().map(|it| it.unit.to_string()).collect();
        let units = if units.is_empty() { "nothing".to_owned() } else { units.join(", then ") };
        text.push_str(&format!("on {}: {units}\n", machine.name()));
    }
    for refused in &plan.refused {
        text.push_str(&format!("refused: {}\nhint: {}\n", refused.why, refused.hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Todo, screen};
    use crate::server::{machine::Machine, swap::Unit};
    use berth_wire::{UpgradeKind, UpgradePlan, UpgradeRefusal, UpgradeStep};

    #[test]
    fn a_plan_says_the_order_and_what_stands_in_the_way() {
        let step = |kind, name: &str, from: Option<&str>| UpgradeStep {
            kind,
            name: name.into(),
            from: from.map(|version| version.parse().unwrap()),
        };
        let mut plan = UpgradePlan {
            to: "0.2.0".parse().unwrap(),
            steps: vec![
                step(UpgradeKind::Expand, "20", None),
                step(UpgradeKind::Serve, "north", Some("0.1.0")),
                step(UpgradeKind::Edge, "fra-1", None),
                step(UpgradeKind::Contract, "21", None),
            ],
            refused: vec![UpgradeRefusal {
                code: "release_rolling".into(),
                why: "release r7 is on its way over the cells".into(),
                hint: "wait for its end".into(),
            }],
        };
        assert_eq!(
            screen(&plan, &[Unit::Serve, Unit::Edge].map(|unit| Todo { unit, due: true }), &Machine::Here(None)),
            "\
migration       20            by the new server, at its start
serve           north         0.1.0 to 0.2.0
edge            fra-1         from a version that it does not say to 0.2.0
last migration  21            when nothing older runs; then there is no way back
on this machine: berth-serve, then berth-edge
refused: release r7 is on its way over the cells
hint: wait for its end
"
        );
        plan.steps.clear();
        plan.refused.clear();
        let level = screen(&plan, &[], &Machine::Here(None));
        assert_eq!(level, "everything runs 0.2.0; `--again` brings this very program all the same\n");
    }
}
