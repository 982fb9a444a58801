//! `berth operation …`.

use super::{
    CliError, Context,
    table::{Table, facts},
    units, watch,
};
use berth_client::OperationFilter;
use berth_domain::OperationId;
use berth_wire::{Abandon, Operation as Shown, StepState};
use clap::Subcommand;
use jiff::Timestamp;

#[derive(Subcommand, Debug)]
pub enum Operation {
    /// Operations, newest first
    List {
        /// Only of this tenant
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Only those that are not at their end
        #[arg(long)]
        open: bool,
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// One operation with its steps
    Show { operation: OperationId },
    /// Follow an operation to its end; Ctrl-C leaves it running
    Watch { operation: OperationId },
    /// Try a stuck operation again
    Retry { operation: OperationId },
    /// Give an operation up: what was done is undone, as far as it can be
    Abandon {
        operation: OperationId,
        /// Why, for the audit trail
        #[arg(long)]
        reason: Option<String>,
        /// Leave the world as it is, for what cannot be undone any more
        #[arg(long)]
        force: bool,
    },
}

impl Operation {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List { tenant, open, limit } => {
                let filter = OperationFilter { tenant, open, limit: Some(limit), state: None };
                let operations = cx.client.operations(&filter).await?;
                cx.show(&operations, |operations| list(operations, cx.now))
            }
            Self::Show { operation } => {
                let operation = cx.client.operation(operation).await?;
                cx.show(&operation, |operation| one(operation, cx.now))
            }
            Self::Watch { operation } => {
                let ended = watch::to_its_end(cx, operation).await?;
                cx.show(&ended, |ended| one(ended, cx.now))?;
                watch::success(ended).map(drop)
            }
            Self::Retry { operation } => {
                let operation = cx.client.operation_retry(operation).await?;
                cx.show(&operation, |operation| one(operation, cx.now))
            }
            Self::Abandon { operation, reason, force } => {
                let operation = cx.client.operation_abandon(operation, &Abandon { reason, force }).await?;
                cx.show(&operation, |operation| one(operation, cx.now))
            }
        }
    }
}

pub fn list(operations: &[Shown], now: Timestamp) -> String {
    let mut table = Table::new(&["WHAT", "ABOUT", "STATE", "BEGUN", "TOOK", "OPERATION"]);
    for operation in operations {
        table.row([
            operation.kind.clone(),
            about(operation),
            operation.state.to_string(),
            units::ago(operation.created_at, now),
            took(operation),
            operation.id.to_string(),
        ]);
    }
    table.or("No operations yet.")
}

pub fn one(operation: &Shown, now: Timestamp) -> String {
    let mut lines = vec![
        ("operation", operation.id.to_string()),
        ("what", operation.kind.clone()),
        ("about", about(operation)),
        ("state", operation.state.to_string()),
        ("begun", units::ago(operation.created_at, now)),
        ("took", took(operation)),
    ];
    if let Some(fault) = &operation.fault {
        lines.push(("why", fault.detail.clone()));
        if let Some(hint) = &fault.hint {
            lines.push(("hint", hint.clone()));
        }
    }
    if let Some(result) = &operation.result {
        if let Some(summary) = &result.summary {
            lines.push(("result", summary.clone()));
        }
        for (name, value) in &result.figures {
            lines.push((name, figure(value)));
        }
    }
    let mut text = facts(&lines);
    if !operation.steps.is_empty() {
        let mut table = Table::new(&["STEP", "STATE", ">TRIES", ">TOOK", "FAULT"]);
        for step in &operation.steps {
            let took = step.ended_at.map(|ended| seconds_between(step.started_at, ended));
            table.row([
                step.name.clone(),
                step_state(step.state).to_owned(),
                step.attempts.to_string(),
                units::seconds_or_unknown(took),
                step.fault.clone().unwrap_or_default(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}

fn figure(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => units::UNKNOWN.to_owned(),
        serde_json::Value::Number(n) if n.is_u64() => units::count_or_unknown(n.as_u64()),
        serde_json::Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |n| format!("{n:.1}")),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn about(operation: &Shown) -> String {
    match (&operation.tenant, &operation.cell) {
        (Some(tenant), Some(cell)) => format!("{tenant} in {cell}"),
        (Some(tenant), None) => tenant.to_string(),
        (None, Some(cell)) => cell.to_string(),
        (None, None) => String::new(),
    }
}

fn took(operation: &Shown) -> String {
    match operation.ended_at {
        Some(ended) => units::seconds(seconds_between(operation.created_at, ended)),
        None => "not ended".to_owned(),
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}

const fn step_state(state: StepState) -> &'static str {
    match state {
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Undoing => "undoing",
        StepState::Undone => "undone",
    }
}

#[cfg(test)]
mod tests {
    use super::{list, one};
    use crate::cli::{CliError, watch};
    use berth_domain::OperationState;
    use berth_wire::{Fault, Operation, OperationResult, Progress, StepState, StepView};
    use jiff::Timestamp;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn moving() -> Operation {
        Operation {
            id: "0197a000-0000-7000-8000-00000000000f".parse().unwrap(),
            kind: "move_tenant".into(),
            state: OperationState::Running,
            tenant: Some("acme".parse().unwrap()),
            cell: None,
            steps: vec![
                StepView {
                    name: "prepare".into(),
                    state: StepState::Done,
                    attempts: 1,
                    started_at: "2026-11-21T11:59:50Z".parse().unwrap(),
                    ended_at: Some("2026-11-21T11:59:50.850Z".parse().unwrap()),
                    fault: None,
                },
                StepView {
                    name: "copy".into(),
                    state: StepState::Running,
                    attempts: 2,
                    started_at: "2026-11-21T11:59:51Z".parse().unwrap(),
                    ended_at: None,
                    fault: None,
                },
            ],
            progress: Some(Progress {
                phase: "copy".into(),
                rows_done: Some(120_000),
                rows_total: Some(1_000_000),
                bytes_done: None,
                rows_per_s: Some(210_000.4),
                remaining_s: Some(4.19),
                lag_bytes: None,
            }),
            past_return: false,
            fault: None,
            result: None,
            asked_by: Some("demo".into()),
            created_at: "2026-11-21T11:59:50Z".parse().unwrap(),
            updated_at: now(),
            ended_at: None,
        }
    }

    #[test]
    fn a_running_move_says_what_how_fast_and_how_long_still() {
        assert_eq!(
            watch::now_line(&moving()),
            "move tenant acme: running, copy · 120,000 of 1,000,000 rows · 210,000 rows/s · 4.2 s left"
        );
    }

    #[test]
    fn what_is_not_known_is_left_out_of_the_line() {
        let quiet = Operation { progress: None, steps: vec![], ..moving() };
        assert_eq!(watch::now_line(&quiet), "move tenant acme: running");
    }

    #[test]
    fn an_operation_shows_its_steps() {
        assert_eq!(
            one(&moving(), now()),
            "\
operation  0197a000-0000-7000-8000-00000000000f
what       move_tenant
about      acme
state      running
begun      10 s ago
took       not ended

STEP     STATE    TRIES    TOOK  FAULT
prepare  done         1  850 ms
copy     running      2       ?
"
        );
        assert_eq!(
            list(&[moving()], now()),
            "\
WHAT         ABOUT  STATE    BEGUN     TOOK       OPERATION
move_tenant  acme   running  10 s ago  not ended  0197a000-0000-7000-8000-00000000000f
"
        );
    }

    #[test]
    fn an_ended_operation_shows_its_figures() {
        let mut figures = serde_json::Map::new();
        figures.insert("pause_ms".into(), 14.25.into());
        figures.insert("rows".into(), 1_000_020.into());
        let ended = Operation {
            state: OperationState::Succeeded,
            steps: vec![],
            result: Some(OperationResult { summary: Some("acme lives in acme-own".into()), figures }),
            ended_at: Some("2026-11-21T12:00:02.5Z".parse().unwrap()),
            ..moving()
        };
        assert!(
            one(&ended, now()).ends_with(
                "took       12.5 s\nresult     acme lives in acme-own\npause_ms   14.2\nrows       1,000,020\n"
            ),
            "{}",
            one(&ended, now())
        );
    }

    #[test]
    fn a_stuck_operation_is_our_fault_and_says_what_to_do() {
        let stuck = Operation {
            state: OperationState::Stuck,
            fault: Some(Fault {
                code: "cell_unreachable".into(),
                detail: "the database of cell `shared-1` does not answer".into(),
                hint: None,
                retryable: true,
            }),
            ..moving()
        };
        let error = watch::success(stuck).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert_eq!(
            error.screen(),
            "\
error: operation 0197a000-0000-7000-8000-00000000000f ended as stuck: the database of cell `shared-1` does not answer
hint: `berth operation retry 0197a000-0000-7000-8000-00000000000f` tries again, `abandon 0197a000-0000-7000-8000-00000000000f` gives it up
"
        );
    }

    #[test]
    fn leaving_says_how_to_watch_and_how_to_stop() {
        let left = CliError::StillRunning { operation: moving().id };
        assert_eq!(left.exit_status(), 3);
        assert_eq!(
            left.screen(),
            "\
note: operation 0197a000-0000-7000-8000-00000000000f goes on in the background
hint: watch it with `berth operation watch 0197a000-0000-7000-8000-00000000000f`, stop it with `berth operation abandon 0197a000-0000-7000-8000-00000000000f`
"
        );
    }
}
