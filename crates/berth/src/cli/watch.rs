//! Following an operation: what happens now, how fast, how long still. Leaving it changes nothing.

use super::{CliError, Context, units};
use berth_client::ClientError;
use berth_domain::{OperationId, OperationState};
use berth_wire::{Operation, OperationEventKind};
use std::io::Write;
use std::time::Duration;

/// How often a lost stream is taken up again before giving up: a server may be restarted meanwhile.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Follows `operation` to its end. Ctrl-C leaves it running.
pub async fn to_its_end(cx: &Context, operation: OperationId) -> Result<Operation, CliError> {
    let followed = follow(cx, operation);
    tokio::select! {
        ended = followed => ended,
        // The signal's own failure to register is not worth ending the watch for.
        Ok(()) = tokio::signal::ctrl_c() => {
            Live::end(cx);
            Err(CliError::StillRunning { operation })
        }
    }
}

/// Follows an operation that a command began, and turns a bad end into the command's error.
pub async fn to_success(cx: &Context, begun: Operation) -> Result<Operation, CliError> {
    let ended = to_its_end(cx, begun.id).await?;
    success(ended)
}

/// A bad end is an error with the operation's own words.
pub fn success(ended: Operation) -> Result<Operation, CliError> {
    if ended.state == OperationState::Succeeded {
        return Ok(ended);
    }
    let stuck = ended.state == OperationState::Stuck;
    let hint = match &ended.fault {
        Some(fault) if fault.hint.is_some() => fault.hint.clone(),
        _ if stuck => Some(format!("`berth operation retry {0}` tries again, `abandon {0}` gives it up", ended.id)),
        _ => None,
    };
    Err(CliError::Ended {
        operation: ended.id,
        state: ended.state.as_str(),
        why: ended.fault.map_or_else(|| "no reason was recorded".to_owned(), |fault| fault.detail),
        hint,
    })
}

async fn follow(cx: &Context, operation: OperationId) -> Result<Operation, CliError> {
    let mut live = Live::default();
    let mut tries = 0;
    loop {
        let lost = match cx.client.operation_events(operation).await {
            Ok(mut events) => loop {
                match events.next().await {
                    Ok(Some(event)) => {
                        tries = 0;
                        live.show(cx, &event.operation);
                        let over = event.event == OperationEventKind::Ended || halted(event.operation.state);
                        if over {
                            Live::end(cx);
                            return Ok(event.operation);
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Broken { .. })) => Some(error),
            Err(error) => return Err(error.into()),
        };
        tries += 1;
        if tries > TRIES {
            Live::end(cx);
            return match lost {
                Some(error) => Err(error.into()),
                None => Err(CliError::StillRunning { operation }),
            };
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

/// Nothing more will happen without a person.
const fn halted(state: OperationState) -> bool {
    state.is_final() || matches!(state, OperationState::Stuck)
}

/// On a terminal one line that changes; elsewhere a line for each step, so that a log stays short.
#[derive(Default)]
struct Live {
    last: String,
}

impl Live {
    fn show(&mut self, cx: &Context, operation: &Operation) {
        if cx.is_live() {
            // A terminal that went away is no reason to stop watching.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{}", now_line(operation));
            return;
        }
        let step = step_line(operation);
        if step != self.last {
            cx.say(&step);
            self.last = step;
        }
    }

    fn end(cx: &Context) {
        if cx.is_live() {
            let _ = writeln!(std::io::stderr().lock());
        }
    }
}

fn step_line(operation: &Operation) -> String {
    let subject = operation
        .tenant
        .as_ref()
        .map(|tenant| format!(" {tenant}"))
        .or_else(|| operation.cell.as_ref().map(|cell| format!(" {cell}")))
        .unwrap_or_default();
    let step = operation.steps.last().map_or_else(String::new, |step| format!(", {}", words(&step.name)));
    format!("{}{subject}: {}{step}", words(&operation.kind), operation.state)
}

/// `move tenant acme: running, copy · 120,000 of 1,000,000 rows · 210,000 rows/s · 4.2 s left`.
pub fn now_line(operation: &Operation) -> String {
    let mut line = step_line(operation);
    let Some(progress) = &operation.progress else { return line };
    if !progress.phase.is_empty() && !line.ends_with(&words(&progress.phase)) {
        line.push_str(&format!(", {}", words(&progress.phase)));
    }
    match (progress.rows_done, progress.rows_total) {
        (Some(done), Some(total)) => {
            line.push_str(&format!(" · {} of {} rows", units::count(done), units::count(total)));
        }
        (Some(done), None) => line.push_str(&format!(" · {} rows", units::count(done))),
        _ => {}
    }
    if let Some(rate) = progress.rows_per_s {
        line.push_str(&format!(" · {} rows/s", units::count(rate as u64)));
    }
    if let Some(left) = progress.remaining_s {
        line.push_str(&format!(" · {} left", units::seconds(left)));
    }
    if let Some(lag) = progress.lag_bytes {
        line.push_str(&format!(" · {} behind", units::bytes(lag)));
    }
    line
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}
