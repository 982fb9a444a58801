//! `berth edge check`: what is wrong with what a stack file says to edges, all of it at once. Starts nothing and asks nobody.

use super::{CliError, Context, table::Table, text};
use clap::Args;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Args, Debug)]
pub struct EdgeCheck {
    /// The stack file
    #[arg(value_name = "FILE", default_value = "berth.yaml")]
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    /// Of what edges are told.
    mistakes: Vec<Shown>,
    /// In the rest of the file; `berth check` says them.
    elsewhere: usize,
}

#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    line: Option<u64>,
    problem: String,
    hint: Option<String>,
}

impl EdgeCheck {
    pub fn run(self, cx: &Context) -> Result<(), CliError> {
        let text = text::read(&self.file)?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let parsed = berth_config::parse(&text, None, &|name| fs::read_to_string(folder.join(name)));
        let (mut mistakes, mut elsewhere) = (Vec::new(), 0);
        for mistake in parsed.as_ref().err().into_iter().flat_map(berth_config::Mistakes::iter) {
            if is_edges(&mistake.key) {
                mistakes.push(Shown {
                    key: mistake.key.clone(),
                    line: mistake.line,
                    problem: mistake.problem.to_string(),
                    hint: mistake.problem.hint(),
                });
            } else {
                elsewhere += 1;
            }
        }
        let errors = mistakes.len();
        cx.show(&Report { file: self.file, mistakes, elsewhere }, screen)?;
        if errors == 0 { Ok(()) } else { Err(CliError::Found { errors }) }
    }
}

/// Whether a key is of something that edges are told. The empty one is the file as a whole.
fn is_edges(key: &str) -> bool {
    let parts: Vec<&str> = key.split(['.', '[']).collect();
    match parts[..] {
        ["" | "stack" | "edges" | "https" | "hosts" | "cluster" | "tenants" | "limits", ..]
        | ["usage", "stop", ..]
        | ["services"]
        | ["services", _]
        | ["plans", _, "limits", ..] => true,
        ["services", _, key, ..] => matches!(key, "edge" | "role" | "health" | "hold"),
        _ => false,
    }
}

fn screen(report: &Report) -> String {
    let mut text = if report.mistakes.is_empty() {
        format!("What {} says to edges is in order.\n", report.file.display())
    } else {
        let mut table = Table::new(&[">LINE", "KEY", "PROBLEM", "INSTEAD"]);
        for mistake in &report.mistakes {
            table.row([
                mistake.line.map(|line| line.to_string()).unwrap_or_default(),
                mistake.key.clone(),
                mistake.problem.clone(),
                mistake.hint.clone().unwrap_or_default(),
            ]);
        }
        table.text()
    };
    if report.elsewhere > 0 {
        text.push_str(&format!("Mistakes elsewhere in the file: {}. `berth check` says them.\n", report.elsewhere));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_that_edges_are_told_are_told_from_the_rest() {
        for key in
            ["", "edges[1]", "cluster.redis_address", "services.web.edge.balance", "plans.p.limits", "usage.stop.x"]
        {
            assert!(super::is_edges(key), "{key}");
        }
        for key in ["cells.a", "services.web.env.A", "plans.p.price", "usage.automatic", "data.hooks"] {
            assert!(!super::is_edges(key), "{key}");
        }
    }
}
