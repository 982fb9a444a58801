//! `berth upgrade`: another version of this program, on the machines that `berth up` made: serve, then edges, two adjacent
//! versions side by side meanwhile. The control plane decides whether and in which order; this does it on one machine, goes
//! back when a step fails, and goes on where it was cut off.

use super::{
    Answer,
    host::{By, Host},
    machine::Machine,
    steps::{Row, Went, noted},
    swap::{self, Brought, Found, Look, Unit, Way},
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
/// Where the serve of the machine that this runs on listens.
const HERE: &str = "http://127.0.0.1:7600";
const ADMIN_KEY: &str = "/var/lib/berth/serve/admin.key";

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
        let mut look = swap::look(&machine).await?;
        let own = look.serve.is_some() && common.url.is_none() && common.context.is_none();
        let api = if own { own_api(&machine, key).await? } else { resolved };
        let cx = Context::new(api, common.json, common.yes, Timestamp::now()).map_err(told)?;
        let mut work = Work { machine, cx, brought, again: self.again, rows: Vec::new() };
        if look.is_silent() && (own || work.is_alone().await) {
            let text = work.may_wake(&look)?;
            if self.dry_run {
                return Ok(work.would_wake(text));
            }
            work.cx.agree(&text, "Start it?").map_err(told)?;
            look = work.wake(&look).await?;
        }
        let plan = work.plan().await?;
        let todo = work.todo(&look, &plan).await?;
        let stops = stops(&plan, &todo);
        let mut text = screen(&plan, &todo, &work.machine);
        if self.dry_run {
            if let Some(stop) = stops.as_ref().filter(|_| plan.refused.is_empty()) {
                text.push_str(&format!("refused: {}\nhint: {}\n", stop.what, stop.hint));
            }
            return Ok(work.answer(text, &plan, true, u8::from(stops.is_some())));
        }
        if let Some(stop) = stops {
            return Err(stop.failure());
        }
        if look.is_empty() && !is_level(&plan) {
            return Err(no_units(&work.machine));
        }
        if todo.is_empty() {
            if look.is_begun() {
                swap::settle(&work.machine).await?;
                // One that was killed before its end has left this, which may be done twice.
                if is_level(&plan) && plan.steps.is_empty() {
                    work.cx.client.upgrade_finish().await.map_err(|error| told(error.into()))?;
                }
            }
            // Steps that are left when all have the version are those of its end.
            if plan.steps.is_empty() || !is_level(&plan) {
                return Ok(work.answer(text, &plan, false, 0));
            }
        }
        work.cx.agree(&text, "Upgrade?").map_err(told)?;
        work.carry_out(&look, &todo).await
    }
}

/// The control plane on the machine itself. `key`: of the environment; a context's is for that context's server.
async fn own_api(machine: &Machine, key: Option<SecretString>) -> Result<Api, Failure> {
    let url = match machine {
        Machine::There(connection, _) => {
            let at = listen(connection.clone(), 7600).await.ours("a port of this machine")?;
            format!("http://{at}")
        }
        Machine::Here(_) => HERE.to_owned(),
    };
    let key = match key {
        Some(key) => key,
        None => {
            let said = machine.run(&format!("cat {ADMIN_KEY}"), b"").await?;
            let key = Some(said.out.trim()).filter(|key| said.good && !key.is_empty());
            SecretString::from(key.ok_or_else(|| no_key(machine, &said.err))?)
        }
    };
    Ok(Api { url, key: Some(key) })
}

fn no_key(machine: &Machine, said: &str) -> Failure {
    let why = said.lines().next().unwrap_or("the file is empty");
    let what = format!("the first administrator's key on {} cannot be read: {why}", machine.name());
    Failure::request(
        what,
        "set `BERTH_API_KEY` to an administrator's key: `berth key create NAME --scope admin` makes one",
    )
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

/// Why a step is not taken.
#[derive(Debug, PartialEq, Eq)]
struct Stop {
    what: String,
    hint: String,
    /// Others go first, and then this goes on.
    waits: bool,
}

impl Stop {
    fn failure(self) -> Failure {
        Failure::request(self.what, self.hint)
    }
}

/// What stands in the way of the first of these, or of the end where there is none. Looked at anew before each.
fn stops(plan: &UpgradePlan, todo: &[Todo]) -> Option<Stop> {
    if !plan.refused.is_empty() {
        let why: Vec<&str> = plan.refused.iter().map(|it| it.why.as_str()).collect();
        let mut hints: Vec<&str> = plan.refused.iter().map(|it| it.hint.as_str()).collect();
        hints.dedup();
        return Some(Stop { what: why.join("; "), hint: hints.join("; "), waits: false });
    }
    if let Some((next, first)) = todo.first().and_then(|next| Some((next, earlier(plan, next)?))) {
        return Some(Stop {
            what: format!("{} waits: {} goes first", next.unit, named(first)),
            hint: "`berth upgrade` where that runs, then this again".to_owned(),
            waits: true,
        });
    }
    // New servers apply what expands. Where none is to come, those that run are of the version and another build.
    let server = todo.iter().any(|it| it.unit == Unit::Serve);
    if server || processes(plan).any(|step| step.kind == UpgradeKind::Serve) {
        return None;
    }
    other_build(plan, UpgradeKind::Expand)
}

/// Servers have the version, and do not carry this program's migrations of that kind.
fn other_build(plan: &UpgradePlan, kind: UpgradeKind) -> Option<Stop> {
    let missing: Vec<&str> = plan.steps.iter().filter(|it| it.kind == kind).map(|it| it.name.as_str()).collect();
    (!missing.is_empty()).then(|| Stop {
        what: format!("serve runs {} as another build, without migration {}", plan.to, missing.join(", ")),
        hint: "`--again` brings this very program where serve runs".to_owned(),
        waits: false,
    })
}

/// Whose turn is before this one's. Those of the same kind go in any order.
fn earlier<'a>(plan: &'a UpgradePlan, next: &Todo) -> Option<&'a UpgradeStep> {
    processes(plan).next().filter(|first| next.due && first.kind != kind(next.unit))
}

impl Work {
    /// What is done about a control plane that answers nobody, and so cannot say what may be done. `Err`: nothing.
    fn may_wake(&self, look: &Look) -> Result<String, Failure> {
        let (name, to) = (self.machine.name(), &self.brought.about.version);
        if look.is_in_place(&self.brought) {
            return Ok(format!(
                "berth-serve on {name} answers nobody, and this program is in its place: it is started again; when that \
                 fails, the program that ran before is\n"
            ));
        }
        let hint = if look.is_begun() {
            "an upgrade was cut off there: `berth upgrade` with the program that it brought goes on, or back"
        } else {
            "`systemctl status berth-serve` there says why; `systemctl restart berth-serve` starts it"
        };
        let what = format!("berth-serve on {name} answers nobody, so that nobody says whether {to} may follow it");
        Err(Failure::request(what, hint))
    }

    /// Nobody answers for the control plane that was named either: it may be this very one.
    async fn is_alone(&self) -> bool {
        use ClientError as E;
        let asked = self.cx.client.upgrade().await;
        matches!(asked, Err(E::Unreachable { .. } | E::TooSlow { .. } | E::Broken { .. } | E::NotBerth { .. }))
    }

    fn would_wake(self, text: String) -> Answer {
        let step = UpgradeStep { kind: UpgradeKind::Serve, name: self.machine.name(), from: None };
        let to = self.brought.about.version.clone();
        self.answer(text, &UpgradePlan { to, steps: vec![step], refused: Vec::new() }, true, 0)
    }

    /// Starts serve without a plan, of the program that is in its place already.
    async fn wake(&mut self, look: &Look) -> Result<Look, Failure> {
        let begun = Instant::now();
        let serve = look.unit(Unit::Serve).expect("it was found silent");
        if let Err(failure) = swap::start(&self.machine, Unit::Serve, serve, &self.brought).await {
            return Err(self.give_up(look, &failure).await);
        }
        let says = format!("berth-serve of {} answers", self.brought.about.version);
        self.note("serve", &says, Went::Done, begun);
        swap::look(&self.machine).await
    }

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
            todo.push(Todo { unit: Unit::Serve, due: !serve.runs() || serve.version.as_ref() != Some(to) });
        }
        if let Some(edge) = &look.edge {
            let version = edge_version(&self.cx.client, edge).await?;
            todo.push(Todo { unit: Unit::Edge, due: !edge.runs() || version.as_ref() != Some(to) });
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
        let mut done: Vec<String> = Vec::new();
        for (nth, Todo { unit, .. }) in todo.iter().enumerate() {
            let plan = self.plan().await?;
            // Those of this machine whose turn is earlier are done by now.
            if let Some(stop) = stops(&plan, &todo[nth..]) {
                return self.stopped(&plan, &done, stop);
            }
            if done.is_empty() {
                let begun = Instant::now();
                let new = swap::put(&self.machine, look, &self.brought).await?;
                let went = if new { Went::Done } else { Went::Was };
                self.note("program", &format!("{version} is in place, the one before is kept beside it"), went, begun);
            }
            let begun = Instant::now();
            let before = look.unit(*unit).expect("what is to do was found");
            let started = match swap::start(&self.machine, *unit, before, &self.brought).await {
                Ok(now) if *unit == Unit::Edge => self.heard(&now).await,
                started => started.map(|_| ()),
            };
            if let Err(failure) = started {
                return Err(self.give_up(look, &failure).await);
            }
            let how = match unit {
                Unit::Edge if before.runs() => "was handed the sockets and serves",
                Unit::Edge => "serves",
                Unit::Serve => "answers",
            };
            self.note(unit.word(), &format!("{unit} of {version} {how}"), Went::Done, begun);
            done.push(unit.to_string());
        }
        swap::settle(&self.machine).await?;
        let plan = self.plan().await?;
        if !is_level(&plan) {
            let left: Vec<String> = processes(&plan).map(named).collect();
            let text = format!("done here; {} to go: `berth upgrade` where it runs\n", left.join(", "));
            return Ok(self.answer(text, &plan, false, 0));
        }
        if let Some(stop) = stops(&plan, &[]) {
            return self.stopped(&plan, &done, stop);
        }
        if !plan.steps.is_empty() || !done.is_empty() {
            let begun = Instant::now();
            self.cx.client.upgrade_finish().await.map_err(|error| told(error.into()))?;
            self.note("finish", "the control database keeps nothing for the version before", Went::Done, begun);
        }
        let plan = self.plan().await?;
        if let Some(stop) = other_build(&plan, UpgradeKind::Contract) {
            return self.stopped(&plan, &done, stop);
        }
        Ok(self.answer(format!("everything runs {version}\n"), &plan, false, 0))
    }

    /// What was done before stays done: the versions work side by side.
    fn stopped(self, plan: &UpgradePlan, done: &[String], stop: Stop) -> Result<Answer, Failure> {
        if done.is_empty() {
            return Err(stop.failure());
        }
        if stop.waits {
            let text = format!("{} runs {}; {}: {}\n", done.join(", "), plan.to, stop.what, stop.hint);
            return Ok(self.answer(text, plan, false, 0));
        }
        let what = format!("{} runs {}, and no more was done: {}", done.join(" and "), plan.to, stop.what);
        Err(Failure::request(what, stop.hint))
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

    /// The program before takes its place again, where one ran; what is where is said in any case. `then`: before this run.
    async fn give_up(&self, then: &Look, failure: &Failure) -> Failure {
        let what = failure.what();
        match swap::back(&self.machine, then, &self.brought).await {
            Ok((Way::Back(_), now)) => Failure::request(
                format!("{what}; the program before is back: {}", now.told(&self.brought)),
                "the program that failed is kept as /usr/local/bin/berth.failed; run it again when it can start",
            ),
            Ok((Way::Stay, now)) => Failure::request(
                format!(
                    "{what}; nothing else is known to have run before, so it stays in place: {}",
                    now.told(&self.brought)
                ),
                in_doubt(""),
            ),
            Err(second) => {
                let now = swap::look(&self.machine).await.map(|now| now.told(&self.brought));
                let now = now.unwrap_or_else(|_| "what runs is not known".to_owned());
                Failure::request(
                    format!("{what}; going back failed too: {}; {now}", second.what()),
                    in_doubt("; the one that was in place before may be /usr/local/bin/berth.before"),
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

fn in_doubt(more: &str) -> String {
    format!("`systemctl status berth-serve berth-edge` there says more{more}")
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
    use super::{Stop, Todo, no_key, other_build, screen, stops};
    use crate::server::{machine::Machine, swap::Unit};
    use berth_wire::{UpgradeKind, UpgradePlan, UpgradeRefusal, UpgradeStep};

    fn step(kind: UpgradeKind, name: &str, from: Option<&str>) -> UpgradeStep {
        UpgradeStep { kind, name: name.into(), from: from.map(|version| version.parse().unwrap()) }
    }

    fn plan(steps: Vec<UpgradeStep>) -> UpgradePlan {
        UpgradePlan { to: "0.2.0".parse().unwrap(), steps, refused: Vec::new() }
    }

    const fn due(unit: Unit) -> Todo {
        Todo { unit, due: true }
    }

    #[test]
    fn an_edge_waits_for_servers_elsewhere_before_anything_is_brought() {
        let both = plan(vec![
            step(UpgradeKind::Expand, "20", None),
            step(UpgradeKind::Serve, "north", Some("0.1.0")),
            step(UpgradeKind::Edge, "fra-1", Some("0.1.0")),
        ]);
        assert_eq!(
            stops(&both, &[due(Unit::Edge)]),
            Some(Stop {
                what: "berth-edge waits: serve `north` goes first".into(),
                hint: "`berth upgrade` where that runs, then this again".into(),
                waits: true,
            })
        );
        assert_eq!(stops(&both, &[due(Unit::Serve), due(Unit::Edge)]), None);
        // Another build of its version has no turn.
        assert_eq!(stops(&both, &[Todo { unit: Unit::Edge, due: false }]), None);
        assert_eq!(stops(&plan(vec![step(UpgradeKind::Edge, "fra-1", None)]), &[due(Unit::Edge)]), None);
    }

    #[test]
    fn what_is_refused_later_stops_the_unit_that_is_next() {
        let mut late = plan(vec![step(UpgradeKind::Edge, "fra-1", None)]);
        late.refused =
            ["one", "two"].map(|why| UpgradeRefusal { code: why.into(), why: why.into(), hint: "wait".into() }).into();
        let stop = stops(&late, &[due(Unit::Edge)]).unwrap();
        assert_eq!((stop.what.as_str(), stop.hint.as_str(), stop.waits), ("one; two", "wait", false));
    }

    #[test]
    fn another_build_of_the_version_that_runs_is_not_taken_for_this_one() {
        let other = plan(vec![step(UpgradeKind::Expand, "20", None), step(UpgradeKind::Contract, "21", None)]);
        let stop = stops(&other, &[]).unwrap();
        assert_eq!(stop.what, "serve runs 0.2.0 as another build, without migration 20");
        assert!(stop.hint.contains("`--again`") && !stop.waits);
        assert_eq!(stops(&other, &[Todo { unit: Unit::Edge, due: false }]), Some(stop));
        // It is brought; and nothing but the end is left.
        assert_eq!(stops(&other, &[Todo { unit: Unit::Serve, due: false }]), None);
        let end = plan(vec![step(UpgradeKind::Contract, "21", None)]);
        assert_eq!(stops(&end, &[]), None);
        // When that was asked for and is still there, nobody had it.
        assert!(other_build(&end, UpgradeKind::Contract).is_some());
    }

    #[test]
    fn who_has_no_key_is_told_what_to_set() {
        let said = no_key(&Machine::Here(None), "cat: admin.key: No such file\n").screen();
        assert!(said.contains("on this machine cannot be read: cat: admin.key: No such file\nhint: "), "{said}");
        assert!(said.contains("BERTH_API_KEY"), "{said}");
    }

    #[test]
    fn a_plan_says_the_order_and_what_stands_in_the_way() {
        let mut plan = plan(vec![
            step(UpgradeKind::Expand, "20", None),
            step(UpgradeKind::Serve, "north", Some("0.1.0")),
            step(UpgradeKind::Edge, "fra-1", None),
            step(UpgradeKind::Contract, "21", None),
        ]);
        plan.refused = vec![UpgradeRefusal {
            code: "release_rolling".into(),
            why: "release r7 is on its way over the cells".into(),
            hint: "wait for its end".into(),
        }];
        assert_eq!(
            screen(&plan, &[Unit::Serve, Unit::Edge].map(due), &Machine::Here(None)),
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
