//! `berth mover`: moves one tenant between two Postgres databases, with no control plane behind it.
//!
//! The commit point is a row in the source database, the journal a folder. Nobody holds requests: writers that come in
//! the pause, and those that come to the old side afterwards, are refused by the fence with `BF001`.

mod journal;
mod options;
mod screens;

pub use options::{From, Variables};

use crate::fail::{Failure, FailureExt as _};
use berth_domain::{MoveId, TenantKey};
use berth_mover::{
    ControlTable, CutOver, DataRules, Endpoint, Fault, MoveError, MoveSpec, NoEdges, Ownership as _, Phase, Progress,
    ReadAhead, Side, Tuning, Watcher, Way,
};
use clap::Subcommand;
use journal::{Journal, Reached, Record};
use options::{BothSides, JournalAt, Rules, Sides, Whose, address};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

#[derive(Subcommand, Debug)]
pub enum Mover {
    /// What belongs to a tenant of a database: the tables as a tree, and what is not sure
    Discover {
        #[command(flatten)]
        from: From,
        #[command(flatten)]
        rules: Rules,
    },
    /// The statements that give both sides what a move needs
    Rights {
        #[command(flatten)]
        sides: Sides,
    },
    /// What a move would take along, and everything that stands in its way
    Plan {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        whose: Whose,
    },
    /// Move the tenant; the same command goes on where an earlier one stopped
    Run {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        journal: JournalAt,
        /// Do not prepare for `undo`
        #[arg(long)]
        no_way_back: bool,
        /// Nobody else has rows in the target or writes there meanwhile: large tables get their keys after the load,
        /// which is quicker
        #[arg(long)]
        alone: bool,
    },
    /// Keep the old side up to date until Ctrl-C, so that the move can be undone
    Keep {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        journal: JournalAt,
    },
    /// Read every row of the tenant on both sides as it is now
    Compare {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        whose: Whose,
    },
    /// Move the tenant back, with everything written since
    Undo {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        journal: JournalAt,
    },
    /// Give up a move that has not changed the owner: nothing of it stays
    GiveUp {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        journal: JournalAt,
    },
    /// The move stays: what it left behind in both databases goes
    Settle {
        #[command(flatten)]
        sides: Sides,
        #[command(flatten)]
        journal: JournalAt,
    },
}

pub fn run(command: Mover, json: bool, variables: &Variables) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(&Failure::ours(error, "threads could not be started", "")),
    };
    match runtime.block_on(command.run(variables)) {
        Ok((screen, value, good)) => {
            let text = if json { format!("{value}\n") } else { screen };
            // Without a terminal the exit status has to do.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::from(u8::from(!good))
        }
        Err(failure) => ended(&failure),
    }
}

fn ended(failure: &Failure) -> ExitCode {
    let _ = std::io::stderr().lock().write_all(failure.screen().as_bytes());
    ExitCode::from(failure.status)
}

/// For people, for programs, and whether the answer is a good one.
type Answer = Result<(String, Value, bool), Failure>;

impl Mover {
    async fn run(self, variables: &Variables) -> Answer {
        match self {
            Self::Discover { from, rules } => discover(&from.endpoint(variables)?, &rules).await,
            Self::Rights { sides } => rights(sides.endpoints(variables)?).await,
            Self::Plan { sides, whose } => plan(sides.endpoints(variables)?, &whose).await,
            Self::Run { sides, whose, journal, no_way_back, alone } => {
                let how = How { way_back: !no_way_back, alone };
                move_there(sides.endpoints(variables)?, &whose, &journal, how).await
            }
            Self::Keep { sides, journal } => keep(sides.endpoints(variables)?, &journal).await,
            Self::Compare { sides, whose } => compare(sides.endpoints(variables)?, &whose).await,
            Self::Undo { sides, journal } => undo(sides.endpoints(variables)?, &journal).await,
            Self::GiveUp { sides, journal } => give_up(sides.endpoints(variables)?, &journal).await,
            Self::Settle { sides, journal } => settle(sides.endpoints(variables)?, &journal).await,
        }
    }
}

pub fn stopped(error: MoveError) -> Failure {
    let hint = error.hint();
    match error.fault() {
        Fault::Caller => Failure::request(causes(&error), hint),
        Fault::Passing | Fault::Ours => Failure::ours(error, "the move stopped", hint),
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn spec(id: Uuid, tenant: &str, rules: DataRules, sides: BothSides, how: How) -> Result<MoveSpec, Failure> {
    let (source, target) = sides;
    let (source_cell, target_cell) = (berth_mover::place(&source), berth_mover::place(&target));
    Ok(MoveSpec {
        id: MoveId::new(id),
        tenant: TenantKey::new(tenant).map_err(|bad| Failure::request(bad, "it is the root table's key, as text"))?,
        rules,
        source,
        target,
        source_cell,
        target_cell,
        target_free_bytes: None,
        keep_from: None,
        alone: how.alone,
        way_back: how.way_back,
        way: Way::There,
        tuning: Tuning::default(),
        beside: berth_mover::Beside::default(),
        ahead: ReadAhead::default(),
    })
}

async fn discover(from: &Endpoint, rules: &Rules) -> Answer {
    let rules = rules.read()?;
    let found = berth_mover::discover(from, &rules).await.map_err(stopped)?;
    let value = serde_json::to_value(&found).ours("the answer")?;
    Ok((screens::discovery(&found, &rules.root), value, found.obstacles.is_empty()))
}

async fn rights(sides: BothSides) -> Answer {
    let spec = spec(Uuid::now_v7(), "-", DataRules::of("-", "-", "-"), sides, LOOKING)?;
    let lacking = berth_mover::lacks(&spec).await.map_err(stopped)?;
    let is_statement =
        |hint: &str| ["ALTER", "GRANT", "CREATE", "REVOKE", "DROP"].iter().any(|word| hint.starts_with(word));
    let statement = |hint: String| match (is_statement(&hint), hint.contains("; --")) {
        (true, true) => hint,
        (true, false) => format!("{hint};"),
        (false, _) => format!("-- {hint}"),
    };
    let lines: Vec<String> = lacking.iter().map(|o| format!("-- {o}\n{}", statement(o.hint()))).collect();
    let whole = "-- Asked of every table there is, as nobody said whose they are: a move may need less, and `berth mover plan` asks of its own.\n";
    let screen =
        if lines.is_empty() { "Nothing is missing.\n".to_owned() } else { format!("{whole}{}\n", lines.join("\n")) };
    Ok((
        screen,
        json!({ "lacking": lacking, "remedies": lacking.iter().map(berth_mover::Obstacle::hint).collect::<Vec<_>>() }),
        lacking.is_empty(),
    ))
}

async fn plan(sides: BothSides, whose: &Whose) -> Answer {
    let spec = spec(Uuid::now_v7(), &whose.tenant, whose.rules.read_for_a_move()?, sides, LOOKING)?;
    match berth_mover::plan(&spec).await {
        Ok(plan) => Ok((screens::plan(&plan), json!({ "plan": plan, "obstacles": [] }), true)),
        Err(MoveError::Obstacles(all)) => {
            let text = screens::obstacles(&all).trim_start().to_owned();
            Ok((text, json!({ "plan": null, "obstacles": all }), false))
        }
        Err(error) => Err(stopped(error)),
    }
}

async fn compare(sides: BothSides, whose: &Whose) -> Answer {
    let spec = spec(Uuid::now_v7(), &whose.tenant, whose.rules.read()?, sides, LOOKING)?;
    let compared = berth_mover::compare(&spec).await.map_err(stopped)?;
    let same = compared.iter().all(|table| table.differing == 0);
    Ok((screens::comparison(&compared), json!({ "tables": compared, "same": same }), same))
}

/// Says on stderr what happens, once a phase; Ctrl-C asks it to stop where that is still possible.
#[derive(Default)]
struct Teller {
    last: Mutex<Option<Phase>>,
    cancelled: AtomicBool,
}

impl Watcher for Teller {
    fn progress(&self, progress: Progress) {
        let Ok(mut last) = self.last.lock() else { return };
        if *last != Some(progress.phase) || progress.note.is_some() {
            *last = Some(progress.phase);
            let note = progress.note.map(|note| format!(": {note}")).unwrap_or_default();
            // Without a terminal nobody misses it.
            let _ = writeln!(std::io::stderr().lock(), "{}{note}", progress.phase.as_str());
        }
    }
    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

impl Teller {
    /// Runs `work` to its end, or until one of the two servers answers nobody; Ctrl-C is passed on to it, and not waited for
    /// twice.
    async fn heed<T, E: std::convert::From<MoveError>>(
        &self,
        spec: &MoveSpec,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut silent = Box::pin(berth_mover::silence(spec, berth_mover::Patience::default()));
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            error = &mut silent => return Err(error.into()),
            _ = tokio::signal::ctrl_c() => self.cancelled.store(true, Ordering::SeqCst),
        }
        tokio::select! {
            done = work => done,
            error = silent => Err(error.into()),
        }
    }
}

fn known(record: &Record, spec: &MoveSpec) -> Result<(), Failure> {
    let same = (&record.from, &record.to) == (&address(&spec.source), &address(&spec.target))
        && record.tenant == spec.tenant.as_str();
    if same {
        return Ok(());
    }
    let (from, to, tenant) = (&record.from, &record.to, &record.tenant);
    Err(Failure::request(
        format!("this journal is of another move: `{tenant}` from {from} to {to}"),
        "name a folder of its own for each move",
    ))
}

/// For what only looks.
const LOOKING: How = How { way_back: true, alone: false };

/// How a move is made, besides whose and where.
#[derive(Clone, Copy)]
struct How {
    way_back: bool,
    alone: bool,
}

async fn move_there(sides: BothSides, whose: &Whose, at: &JournalAt, how: How) -> Answer {
    let journal = Journal::open(&at.journal)?;
    let teller = Teller::default();
    let mut spec = spec(Uuid::now_v7(), &whose.tenant, whose.rules.read_for_a_move()?, sides, how)?;
    let mut record = match journal.read()? {
        Some(record) => {
            known(&record, &spec)?;
            if record.reached >= Reached::Moved {
                return Err(over(record.reached));
            }
            (spec.id, spec.rules) = (MoveId::new(record.id), record.rules.clone());
            (spec.way_back, spec.alone) = (record.way_back, record.alone);
            record
        }
        None => {
            let plan = berth_mover::plan(&spec).await.map_err(stopped)?;
            let record = Record {
                id: spec.id.uuid(),
                tenant: spec.tenant.to_string(),
                rules: spec.rules.clone(),
                from: address(&spec.source),
                to: address(&spec.target),
                way_back: how.way_back,
                way_back_ended: None,
                alone: how.alone,
                plan,
                reached: Reached::Planned,
            };
            journal.write(&record)?;
            record
        }
    };
    let control = ControlTable::open(&spec).await.map_err(stopped)?;
    let moved = teller.heed(&spec, Box::pin(steps(&spec, &control, &journal, &mut record, &teller))).await;
    let cut = match moved {
        Ok(cut) => cut,
        Err(StepFailure::Journal(failure)) => return Err(failure),
        // What passes, the same command tries again; what does not is given up: the tenant stays where it is.
        Err(StepFailure::Move(error)) if error.fault() == Fault::Passing => return Err(stopped(error)),
        Err(StepFailure::Move(error)) => {
            given_up(&spec, control, &journal, record).await?;
            return Err(stopped(error));
        }
    };
    let then = if record.way_back {
        "`berth mover keep` keeps the old side up to date, `undo` moves back, `settle` removes what is left there."
    } else {
        "`berth mover settle` removes what is left in the old side."
    };
    Ok((outcome(&cut, then), json!({ "cut_over": cut, "rows": record.plan.rows }), true))
}

/// Everything of a move goes that has not changed the owner. Safe to run again, wherever it was stopped.
async fn given_up(
    spec: &MoveSpec,
    control: ControlTable,
    journal: &Journal,
    mut record: Record,
) -> Result<(), Failure> {
    let token = berth_mover::give_up(spec, &control).await.map_err(stopped)?;
    // Not before it is sure that the owner has not changed.
    record.reached = Reached::GivingUp;
    journal.write(&record)?;
    berth_mover::retire(spec, &record.plan, false, token).await.map_err(stopped)?;
    berth_mover::forget(spec).await.map_err(stopped)?;
    control.remove().await.map_err(stopped)?;
    record.reached = Reached::GivenUp;
    journal.write(&record)
}

async fn give_up(sides: BothSides, at: &JournalAt) -> Answer {
    let (journal, record, spec) = taken_up(sides, at)?;
    if record.reached >= Reached::Moved && record.reached != Reached::GivingUp {
        return Err(over(record.reached));
    }
    let control = ControlTable::open(&spec).await.map_err(stopped)?;
    given_up(&spec, control, &journal, record).await?;
    Ok(("Given up: the tenant is where it was, and nothing of the move is left.\n".into(), json!({}), true))
}

enum StepFailure {
    Move(MoveError),
    Journal(Failure),
}

impl std::convert::From<MoveError> for StepFailure {
    fn from(error: MoveError) -> Self {
        Self::Move(error)
    }
}

/// Every step that is not over yet, each noted before the next begins.
async fn steps(
    spec: &MoveSpec,
    control: &ControlTable,
    journal: &Journal,
    record: &mut Record,
    teller: &Teller,
) -> Result<CutOver, StepFailure> {
    let note = |record: &mut Record, reached: Reached| {
        record.reached = reached;
        journal.write(record).map_err(StepFailure::Journal)
    };
    if record.reached < Reached::Prepared {
        teller.progress(Progress::of(Phase::Prepare));
        let row = berth_mover::begin(spec, control).await?;
        berth_mover::prepare(spec, &record.plan, row, control).await?;
        note(record, Reached::Prepared)?;
    }
    if record.reached < Reached::Copied {
        teller.progress(Progress::of(Phase::Copy));
        let row = berth_mover::begin(spec, control).await?;
        berth_mover::copy(spec, &record.plan, row.token, teller).await?;
        note(record, Reached::Copied)?;
    }
    if record.reached < Reached::Built {
        let row = berth_mover::begin(spec, control).await?;
        berth_mover::build(spec, &record.plan, row.token, teller).await?;
        note(record, Reached::Built)?;
    }
    let cut = berth_mover::cut_over(spec, &record.plan, control, &NoEdges, teller).await?;
    let row = berth_mover::take(control).await?;
    berth_mover::retire(spec, &record.plan, true, row.token).await?;
    note(record, Reached::Moved)?;
    Ok(cut)
}

fn over(reached: Reached) -> Failure {
    let what = match reached {
        Reached::Undone => "this move has been undone",
        Reached::GivingUp => "this move is being given up: `berth mover give-up` ends that",
        Reached::GivenUp => "this move was given up",
        Reached::Settled => "this move is settled",
        Reached::Planned | Reached::Prepared | Reached::Copied | Reached::Built => "this move is not over yet",
        Reached::Moved => "this move is over",
    };
    Failure::request(what, "name another folder for another move")
}

fn outcome(cut: &CutOver, then: &str) -> String {
    let closed = cut.closed_ms.map(|ms| format!("; writers were refused for {ms:.0} ms")).unwrap_or_default();
    format!("Moved: {} rows compared, generation {}{closed}.\n{then}\n", cut.rows_verified, cut.generation)
}

/// The journal's move.
fn taken_up(sides: BothSides, at: &JournalAt) -> Result<(Journal, Record, MoveSpec), Failure> {
    let journal = Journal::open(&at.journal)?;
    let record = journal.read()?.ok_or_else(|| {
        Failure::request("there is no move in this journal", "name the folder that `berth mover run` was given")
    })?;
    let how = How { way_back: record.way_back, alone: record.alone };
    let spec = spec(record.id, &record.tenant, record.rules.clone(), sides, how)?;
    known(&record, &spec)?;
    Ok((journal, record, spec))
}

fn can_go_back(record: &Record) -> Result<(), Failure> {
    if record.reached != Reached::Moved {
        return Err(over(record.reached));
    }
    if !record.way_back {
        let hint = "move the tenant there as any other, in a journal of its own, after `settle`";
        let why = match &record.way_back_ended {
            None => "this move was made without a way back".to_owned(),
            Some(why) => format!("this move cannot be undone any more: {why}"),
        };
        return Err(Failure::request(why, hint));
    }
    Ok(())
}

async fn keep(sides: BothSides, at: &JournalAt) -> Answer {
    let (journal, mut record, spec) = taken_up(sides, at)?;
    can_go_back(&record)?;
    let control = ControlTable::existing(&spec);
    let teller = Teller::default();
    let kept = teller.heed(&spec, Box::pin(berth_mover::keep(&spec, &record.plan, &control, &teller))).await;
    if let Err(error) = &kept {
        close_if_over(&journal, &mut record, &spec, error).await?;
    }
    kept.map_err(stopped)?;
    Ok(("The old side is not kept up to date any more; the same command goes on.\n".into(), json!({}), true))
}

/// A way back that cannot be gone any more holds nothing back either.
async fn close_if_over(
    journal: &Journal,
    record: &mut Record,
    spec: &MoveSpec,
    error: &MoveError,
) -> Result<(), Failure> {
    if error.ends_the_way_back() {
        berth_mover::close_way_back(spec).await.map_err(stopped)?;
        (record.way_back, record.way_back_ended) = (false, Some(error.to_string()));
        journal.write(record)?;
    }
    Ok(())
}

async fn undo(sides: BothSides, at: &JournalAt) -> Answer {
    let (journal, mut record, spec) = taken_up(sides, at)?;
    can_go_back(&record)?;
    let control = ControlTable::existing(&spec);
    let (back, teller) = (spec.back(), Teller::default());
    let cut =
        teller.heed(&back, Box::pin(berth_mover::cut_over(&back, &record.plan, &control, &NoEdges, &teller))).await;
    let cut = match cut {
        Ok(cut) => cut,
        Err(error) if error.fault() == Fault::Passing => return Err(stopped(error)),
        Err(error) => {
            // The tenant stays in its new side; the way back is as it was, where there still is one.
            berth_mover::give_up(&back, &control).await.map_err(stopped)?;
            // A table that was rewritten meanwhile ends this try alone. What the stream says of the schema ends the next `keep`.
            if !matches!(error, MoveError::SchemaChanged { .. }) {
                close_if_over(&journal, &mut record, &spec, &error).await?;
            }
            return Err(stopped(error));
        }
    };
    let row = berth_mover::take(&control).await.map_err(stopped)?;
    berth_mover::retire(&back, &record.plan, true, row.token).await.map_err(stopped)?;
    record.reached = Reached::Undone;
    journal.write(&record)?;
    Ok((
        outcome(&cut, "`berth mover settle` removes what is left in the side that it came back from."),
        json!({ "cut_over": cut }),
        true,
    ))
}

async fn settle(sides: BothSides, at: &JournalAt) -> Answer {
    let (journal, mut record, spec) = taken_up(sides, at)?;
    let (control, teller) = (ControlTable::existing(&spec), Teller::default());
    // The side that the tenant has left is the source of what was last done.
    let last = match record.reached {
        Reached::Moved => spec,
        Reached::Undone => spec.back(),
        // Stopped just before its end.
        Reached::Settled => {
            control.remove().await.map_err(stopped)?;
            return Ok(("Nothing of the move is left.\n".into(), json!({ "removed": 0 }), true));
        }
        other => return Err(over(other)),
    };
    let idle = control.read().await.is_some_and(|row| row.target.is_none());
    if !idle {
        return Err(Failure::request("the move is not over", "`berth mover run` or `undo` brings it to its end"));
    }
    if record.reached == Reached::Moved {
        berth_mover::close_way_back(&last).await.map_err(stopped)?;
    }
    let work = Box::pin(berth_mover::release(&last, &record.plan, &control, &teller));
    let gone = teller.heed(&last, work).await.map_err(stopped)?;
    berth_mover::unfence(&last, Side::Target, &control).await.map_err(stopped)?;
    // Before the row goes: without it nobody can say any more who owns the tenant.
    record.reached = Reached::Settled;
    journal.write(&record)?;
    control.remove().await.map_err(stopped)?;
    let screen = format!("{gone} rows are gone from the side that it left; nothing else of the move is there.\n");
    Ok((screen, json!({ "removed": gone }), true))
}
