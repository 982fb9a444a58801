//! Which versions of this program run, and whether another one may follow them: serve, then edges, two adjacent versions
//! side by side meanwhile. Never starts or ends a process: whoever brings the program to a machine does.

use crate::{App, Change, ControlError, Kind, Permit, Read, audited, edge_link::SILENT_MS, workflows};
use berth_domain::{OperationId, OperationState, RollState, Version};
use berth_store::{ProcessRole, Schema};
use berth_wire::{self as wire, Process, UpgradeKind, UpgradePlan, UpgradeRefusal, UpgradeStep};
use berth_workflow::{Filter, Journal as _};
use serde_json::json;
use std::time::Duration;
use tokio::sync::watch;
use tracing::warn;

/// How often a server says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(5);
const OPEN: &[OperationState] =
    &[OperationState::Queued, OperationState::Running, OperationState::Undoing, OperationState::Stuck];
/// More than anybody waits for.
const OPEN_MAX: u32 = 1000;
/// Bringing it a program does not make it go sooner.
const LEAVES: &str =
    "wait for its last connection: it goes with that, an hour after another process followed it at most";

#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("{role} `{name}` still runs {version}")]
    OlderRuns { role: &'static str, name: String, version: String },
}

impl UpgradeError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::OlderRuns { .. } => Kind::Conflict,
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::OlderRuns { .. } => "older_version_runs",
        }
    }

    pub(crate) fn hint(&self) -> String {
        match self {
            Self::OlderRuns { .. } => {
                "`berth upgrade` where it runs brings it here; until then the way back stays open".to_owned()
            }
        }
    }
}

/// What this program is.
pub fn program() -> wire::Program {
    let migrations = berth_store::migrations().into_iter();
    wire::Program {
        version: Version::own(),
        migrations: migrations
            .map(|known| wire::ProgramMigration { number: known.number, contracts: known.contracts.is_some() })
            .collect(),
        workflows: workflows::registry().names(),
    }
}

/// Says that this server is there and which version it is, until `shutdown` is true; then that it is gone. The first word
/// is said when this returns. `name`: its machine's.
pub async fn be_seen(
    app: &App,
    name: String,
    mut shutdown: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + Send + use<>, ControlError> {
    let (app, version) = (app.clone(), Version::own());
    app.store().process_seen(app.server(), ProcessRole::Serve, &name, &version).await?;
    Ok(async move {
        let mut failing = false;
        // A sender that is gone is a server that is gone: both end the wait.
        while tokio::time::timeout(SAY_EVERY, shutdown.wait_for(|stop| *stop)).await.is_err() {
            let said = app.store().process_seen(app.server(), ProcessRole::Serve, &name, &version).await;
            match said {
                Ok(()) => failing = false,
                // Once, not every time.
                Err(_) if failing => {}
                Err(error) => {
                    failing = true;
                    warn!(%error, "this server could not say that it is there");
                }
            }
        }
        // What is not said is found out by its silence.
        app.store().process_gone(app.server()).await.ok();
    })
}

pub async fn show(app: &App, _permit: &Permit<Read>) -> Result<wire::Upgrade, ControlError> {
    view(app).await
}

async fn view(app: &App) -> Result<wire::Upgrade, ControlError> {
    let schema = app.store().schema().await?;
    let waits =
        |known: &berth_store::KnownMigration| known.contracts.is_some() && !schema.applied.contains(&known.number);
    let waiting = berth_store::migrations().into_iter().filter(waits).map(|known| known.number).collect();
    let processes = processes(app).await?;
    Ok(wire::Upgrade { version: Version::own(), processes, migration: schema.newest(), floor: schema.floor, waiting })
}

async fn processes(app: &App) -> Result<Vec<Process>, ControlError> {
    let servers = app.store().server_list().await?.into_iter().map(|server| Process {
        role: wire::ProcessRole::Serve,
        name: server.name,
        version: Some(server.version),
        alive: true,
        leaving: false,
    });
    let edges = app.store().edge_list().await?.into_iter().map(|edge| Process {
        role: wire::ProcessRole::Edge,
        name: edge.name.to_string(),
        version: edge.version,
        alive: edge.silent_ms <= SILENT_MS,
        leaving: edge.leaving,
    });
    Ok(servers.chain(edges).collect())
}

/// What bringing this program would do, and what stands in the way. Changes nothing.
pub async fn plan(app: &App, _permit: &Permit<Read>, to: &wire::Program) -> Result<UpgradePlan, ControlError> {
    let open = Filter { states: OPEN.to_vec(), limit: OPEN_MAX, ..Filter::default() };
    let open = app.store().list(&open).await?;
    let rolling = app.store().roll_list(None).await?.into_iter().find(|roll| roll.state == RollState::Rolling);
    Ok(decide(
        &Facts {
            own: Version::own(),
            processes: processes(app).await?,
            schema: app.store().schema().await?,
            operations: open.into_iter().map(|operation| (operation.id, operation.workflow)).collect(),
            rolling: rolling.map(|roll| roll.release),
        },
        to,
    ))
}

/// The end of an upgrade: what the version before uses is taken away, and with it the way back. Edges that followed a
/// server of it had routes without the tenants' own limits, which it does not know, and are given those again.
pub async fn finish(app: &App, permit: &Permit<Change>) -> Result<wire::Upgrade, ControlError> {
    app.writable().await?;
    let before = view(app).await?;
    let own = &before.version;
    let older = older(&before.processes, own);
    if let Some(older) = older.filter(|_| !before.waiting.is_empty()) {
        let version =
            older.version.as_ref().map_or_else(|| "a version that it does not say".to_owned(), Version::to_string);
        return Err(UpgradeError::OlderRuns { role: word(older.role), name: older.name.clone(), version }.into());
    }
    if !before.waiting.is_empty() {
        app.store().schema_contract().await?;
    }
    let mut tx = app.store().begin().await?;
    if !before.waiting.is_empty() {
        let what = json!({ "version": own, "migrations": before.waiting });
        audited(&mut tx, permit, "upgrade.finish", "control database", Some(what), None).await?;
    }
    if older.is_none() {
        tx.routes_publish_own_limits().await?;
    }
    tx.commit().await?;
    view(app).await
}

/// Who keeps the way back open. Not an edge's process that is leaving: what is taken away is the control database's, on which
/// servers alone work, and what follows it has come.
fn older<'a>(processes: &'a [Process], own: &Version) -> Option<&'a Process> {
    processes.iter().find(|process| {
        // One that says no version is older than those that do.
        let older = process.version.as_ref().is_none_or(|version| version.is_of_earlier_minor_than(own));
        process.alive && !process.leaving && older
    })
}

fn word(role: wire::ProcessRole) -> &'static str {
    match role {
        wire::ProcessRole::Serve => "serve",
        wire::ProcessRole::Edge => "edge",
    }
}

/// What a decision rests on.
struct Facts {
    /// Of the server that decides.
    own: Version,
    processes: Vec<Process>,
    schema: Schema,
    /// Open ones, with their workflows.
    operations: Vec<(OperationId, String)>,
    /// A release on its way over the cells.
    rolling: Option<u32>,
}

fn decide(facts: &Facts, to: &wire::Program) -> UpgradePlan {
    let behind =
        |process: &&Process| !process.leaving && process.alive && process.version.as_ref() != Some(&to.version);
    let step = |process: &Process| UpgradeStep {
        kind: match process.role {
            wire::ProcessRole::Serve => UpgradeKind::Serve,
            wire::ProcessRole::Edge => UpgradeKind::Edge,
        },
        name: process.name.clone(),
        from: process.version.clone(),
    };
    let of = |kind: UpgradeKind, contracts: bool| {
        let missing = to.migrations.iter().filter(move |migration| {
            migration.contracts == contracts && !facts.schema.applied.contains(&migration.number)
        });
        missing.map(move |migration| UpgradeStep { kind, name: migration.number.to_string(), from: None })
    };
    let mut running: Vec<UpgradeStep> = facts.processes.iter().filter(behind).map(step).collect();
    // Who is asked understands the older ones that ask: up, serve goes first; down, last.
    running.sort_by_key(|step| (step.kind == UpgradeKind::Edge) == (facts.own <= to.version));
    let mut steps: Vec<UpgradeStep> = of(UpgradeKind::Expand, false).collect();
    steps.extend(running);
    steps.extend(of(UpgradeKind::Contract, true));
    let refused = if steps.is_empty() { Vec::new() } else { refusals(facts, to) };
    UpgradePlan { to: to.version.clone(), steps, refused }
}

fn refusals(facts: &Facts, to: &wire::Program) -> Vec<UpgradeRefusal> {
    let mut refused = Vec::new();
    let mut refuse = |code: &str, why: String, hint: String| {
        refused.push(UpgradeRefusal { code: code.to_owned(), why, hint });
    };
    for process in facts.processes.iter().filter(|process| process.alive) {
        let leaving = if process.leaving { ", which is leaving," } else { "" };
        let who = format!("{} `{}`{leaving}", word(process.role), process.name);
        let hint = |hint: String| if process.leaving { LEAVES.to_owned() } else { hint };
        let Some(version) = &process.version else {
            // It is older than the word; serve of this version takes it, and another one may not.
            if to.version != facts.own {
                refuse(
                    "version_unknown",
                    format!("{who} does not say its version, so it is older than {}", facts.own),
                    hint(format!("bring it to {} first", facts.own)),
                );
            }
            continue;
        };
        if let Err(error) = version.step(&to.version) {
            refuse("not_adjacent", format!("{who} runs {version}: {error}"), hint(error.hint()));
        }
    }
    // A server looks at this too before it starts. One that runs has said it already.
    let runs = |version: &&Version| facts.processes.iter().any(|it| it.alive && it.version.as_ref() == Some(*version));
    if let Some(program) = facts.schema.program.as_ref().filter(|program| !runs(program))
        && let Err(error) = program.step(&to.version)
    {
        // What it wrote stays, and only a version beside it has promised to understand that.
        let hint = if to.version < *program {
            "going back did not undo what it wrote; restore a backup of the control database from before it for that"
                .to_owned()
        } else {
            error.hint()
        };
        refuse("not_adjacent", format!("{program} has worked on this control database: {error}"), hint);
    }
    let knows = to.migrations.iter().map(|migration| migration.number).max().unwrap_or(0);
    if facts.schema.floor > knows {
        let floor = facts.schema.floor;
        refuse(
            "schema_narrowed",
            format!(
                "the control database serves programs from migration {floor} on, and {} knows none after {knows}",
                to.version
            ),
            "there is no way back behind a finished upgrade; restore a backup of the control database for that"
                .to_owned(),
        );
    }
    for (id, workflow) in facts.operations.iter().filter(|(_, workflow)| !to.workflows.contains(workflow)).take(10) {
        refuse(
            "operation_unknown",
            format!("operation {id} (`{workflow}`) is under way, and {} does not know it", to.version),
            format!("wait for its end: `berth operation watch {id}`; or `berth operation abandon {id}`"),
        );
    }
    if let Some(release) = facts.rolling {
        refuse(
            "release_rolling",
            format!("release r{release} is on its way over the cells"),
            "wait for its end: `berth release status`; or `berth release back`".to_owned(),
        );
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::{Facts, decide, older};
    use berth_domain::OperationId;
    use berth_store::Schema;
    use berth_wire::{Process, ProcessRole, Program, ProgramMigration};
    use std::fmt::Write as _;

    fn process(role: ProcessRole, name: &str, version: Option<&str>) -> Process {
        let version = version.map(|text| text.parse().unwrap());
        Process { role, name: name.into(), version, alive: true, leaving: false }
    }

    fn facts() -> Facts {
        Facts {
            own: "0.1.0".parse().unwrap(),
            processes: vec![
                process(ProcessRole::Edge, "fra", Some("0.1.0")),
                process(ProcessRole::Serve, "north", Some("0.1.0")),
            ],
            schema: Schema { applied: vec![1, 2], floor: 1, program: None },
            operations: Vec::new(),
            rolling: None,
        }
    }

    fn to(version: &str, migrations: &[(i64, bool)]) -> Program {
        let migrations =
            migrations.iter().map(|(number, contracts)| ProgramMigration { number: *number, contracts: *contracts });
        Program {
            version: version.parse().unwrap(),
            migrations: migrations.collect(),
            workflows: vec!["move_v1".into()],
        }
    }

    fn screen(facts: &Facts, to: &Program) -> String {
        let plan = decide(facts, to);
        let mut text = String::new();
        for step in &plan.steps {
            write!(text, "{:?} {}; ", step.kind, step.name).unwrap();
        }
        for refused in &plan.refused {
            write!(text, "refused {}: {} ({}); ", refused.code, refused.why, refused.hint).unwrap();
        }
        text
    }

    #[test]
    fn upwards_serve_goes_first_and_what_contracts_goes_last() {
        let wanted = to("0.2.0", &[(1, false), (2, false), (4, true), (3, false)]);
        assert_eq!(screen(&facts(), &wanted), "Expand 3; Serve north; Edge fra; Contract 4; ");
        // What was done already is not done again.
        let mut half = facts();
        half.own = "0.2.0".parse().unwrap();
        half.processes[1].version = Some("0.2.0".parse().unwrap());
        half.schema.applied.push(3);
        assert_eq!(screen(&half, &wanted), "Edge fra; Contract 4; ");
        half.processes[0].version = Some("0.2.0".parse().unwrap());
        half.schema.applied.push(4);
        assert_eq!(screen(&half, &wanted), "");
    }

    #[test]
    fn the_way_back_goes_the_other_way_round_and_ends_where_the_schema_was_narrowed() {
        let mut now = facts();
        now.own = "0.2.0".parse().unwrap();
        now.processes.iter_mut().for_each(|process| process.version = Some("0.2.0".parse().unwrap()));
        now.schema.applied.push(3);
        let back = to("0.1.0", &[(1, false), (2, false)]);
        assert_eq!(screen(&now, &back), "Edge fra; Serve north; ");
        now.schema.floor = 3;
        let refused = screen(&now, &back);
        assert!(refused.contains("refused schema_narrowed") && refused.contains("from migration 3 on"), "{refused}");
    }

    #[test]
    fn what_is_not_adjacent_under_way_or_unknown_is_refused_by_name() {
        let mut now = facts();
        let refused = screen(&now, &to("0.3.0", &[(1, false), (2, false)]));
        assert!(refused.contains("serve `north` runs 0.1.0") && refused.contains("edge `fra` runs 0.1.0"), "{refused}");
        assert!(refused.contains("(upgrade to 0.2 first)"), "{refused}");
        let next = to("0.2.0", &[(1, false), (2, false)]);
        now.processes.push(process(ProcessRole::Edge, "ams", None));
        now.operations.push((OperationId::new(uuid::Uuid::nil()), "old_v1".into()));
        now.operations.push((OperationId::new(uuid::Uuid::nil()), "move_v1".into()));
        now.rolling = Some(7);
        let plan = decide(&now, &next);
        let codes: Vec<&str> = plan.refused.iter().map(|refused| refused.code.as_str()).collect();
        assert_eq!(codes, ["version_unknown", "operation_unknown", "release_rolling"]);
        // One that says nothing is brought to the version that runs.
        now.operations.clear();
        now.rolling = None;
        assert_eq!(screen(&now, &to("0.1.0", &[(1, false), (2, false)])), "Edge ams; ");
        // Those who are silent, or go, are nobody's step.
        now.processes[2].alive = false;
        now.processes[0].leaving = true;
        assert_eq!(screen(&now, &next), "Serve north; ");
    }

    #[test]
    fn one_that_is_leaving_is_waited_for_and_does_not_keep_the_way_back_open() {
        let mut now = facts();
        now.own = "0.2.0".parse().unwrap();
        now.processes.iter_mut().for_each(|process| process.version = Some("0.2.0".parse().unwrap()));
        let mut gone = process(ProcessRole::Edge, "fra", Some("0.1.0"));
        assert_eq!(older(std::slice::from_ref(&gone), &now.own), Some(&gone));
        gone.leaving = true;
        assert_eq!(older(std::slice::from_ref(&gone), &now.own), None);
        now.processes.push(gone);
        let refused = screen(&now, &to("0.3.0", &[(1, false), (2, false)]));
        assert!(refused.contains("edge `fra`, which is leaving, runs 0.1.0: "), "{refused}");
        assert!(refused.contains("(wait for its last connection") && !refused.contains("upgrade to 0.2"), "{refused}");
        now.processes[2].version = None;
        let refused = screen(&now, &to("0.3.0", &[(1, false), (2, false)]));
        assert!(refused.contains("refused version_unknown") && refused.contains("(wait for its"), "{refused}");
        // One that says nothing is as old, while it stays.
        assert_eq!(older(&now.processes, &now.own), None);
        now.processes[2].leaving = false;
        assert_eq!(older(&now.processes, &now.own).unwrap().name, "fra");
    }

    #[test]
    fn what_has_worked_on_the_control_database_counts_after_it_is_gone() {
        let mut now = facts();
        now.own = "0.2.0".parse().unwrap();
        now.processes.iter_mut().for_each(|process| process.version = Some("0.2.0".parse().unwrap()));
        now.schema.program = Some("0.3.0".parse().unwrap());
        let refused = screen(&now, &to("0.1.0", &[(1, false), (2, false)]));
        assert!(refused.contains("refused not_adjacent: 0.3.0 has worked on this control database"), "{refused}");
        assert!(refused.contains("restore a backup"), "{refused}");
        assert_eq!(screen(&now, &to("0.3.0", &[(1, false), (2, false)])), "Serve north; Edge fra; ");
        // Of one that runs it is said once.
        now.schema.program = Some("0.2.0".parse().unwrap());
        assert_eq!(screen(&now, &to("0.4.0", &[(1, false), (2, false)])).matches("refused").count(), 2);
    }
}
