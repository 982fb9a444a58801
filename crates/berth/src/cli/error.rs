//! How a command can fail, and the exit status that says whose fault it was.

use berth_client::{ClientError, Fault};
use berth_domain::OperationId;
use std::{error::Error, io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{detail}")]
    Request { detail: String, hint: Option<String> },
    #[error("the file {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the file {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the file {} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a stack file:\n{mistakes}", path.display())]
    Stack { path: PathBuf, mistakes: berth_config::Mistakes },
    #[error("this changes more than one thing, and there is no terminal to ask at")]
    NobodyToAsk,
    #[error("nothing was changed")]
    Declined,
    /// Said by the report already.
    #[error("{errors} found")]
    Found { errors: usize },
    #[error("the terminal is gone")]
    Output {
        #[source]
        source: io::Error,
    },
    #[error("operation {operation} ended as {state}: {why}")]
    Ended { operation: OperationId, state: &'static str, why: String, hint: Option<String> },
    /// Left with Ctrl-C. Said on the way out, not as an error.
    #[error("operation {operation} goes on in the background")]
    StillRunning { operation: OperationId },
}

impl CliError {
    pub fn request(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request { detail: detail.into(), hint: Some(hint.into()) }
    }

    /// 1 your request, 2 our fault, 3 still running.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Client(error) => match error.fault() {
                Fault::Caller => 1,
                Fault::Server => 2,
            },
            Self::Request { .. }
            | Self::File { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Stack { .. }
            | Self::NobodyToAsk
            | Self::Declined
            | Self::Found { .. } => 1,
            Self::Output { .. } | Self::Ended { .. } => 2,
            Self::StillRunning { .. } => 3,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => match error.problem() {
                Some(problem) if problem.status == 401 => {
                    Some(problem.hint.clone().unwrap_or_else(|| "put a key into the variable BERTH_API_KEY".to_owned()))
                }
                _ => error.hint(),
            },
            Self::Request { hint, .. } | Self::Ended { hint, .. } => hint.clone(),
            Self::File { .. } => Some("is the name right, and may you read it?".to_owned()),
            Self::Stack { mistakes, .. } => mistakes.iter().find_map(|mistake| mistake.problem.hint()),
            Self::NobodyToAsk => Some("`--yes` goes on without asking, `--dry-run` only shows".to_owned()),
            Self::StillRunning { operation } => Some(format!(
                "watch it with `berth operation watch {operation}`, stop it with `berth operation abandon {operation}`"
            )),
            Self::Write { .. } => Some("is there room on its disk, and may you write there?".to_owned()),
            Self::Read { .. } | Self::Declined | Self::Found { .. } | Self::Output { .. } => None,
        }
    }

    /// `error: …` and `hint: …`, as stderr shows them.
    pub fn screen(&self) -> String {
        if matches!(self, Self::Found { .. }) {
            return String::new();
        }
        let word = if matches!(self, Self::StillRunning { .. } | Self::Declined) { "note" } else { "error" };
        let mut text = format!("{word}: {self}\n");
        let mut source = self.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(&format!("cause: {cause_text}\n"));
            }
            source = cause.source();
        }
        if let Some(hint) = self.hint() {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}
