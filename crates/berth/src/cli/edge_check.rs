//! `berth edge check`: what is wrong with what a stack file says to edges, all of it at once, and what an edge would not be
//! told. Starts nothing and asks nobody, but a name server where control is.

use super::{CliError, Context, table::Table, text};
use berth_domain::is_private;
use clap::Args;
use serde::Serialize;
use std::{
    fs,
    net::ToSocketAddrs as _,
    path::{Path, PathBuf},
};

#[derive(Args, Debug)]
pub struct EdgeCheck {
    /// The stack file
    #[arg(value_name = "FILE", default_value = "berth.yaml")]
    file: PathBuf,
    /// Where edges reach control, as `berth edge --control`. Default: BERTH_URL
    #[arg(long, value_name = "URL")]
    control: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    /// Of what edges are told.
    mistakes: Vec<Shown>,
    /// In the rest of the file; `berth check` says them.
    elsewhere: usize,
    /// What edges are not told that reach control there, though nothing is wrong with the file.
    withheld: Vec<Withheld>,
}

#[derive(Debug, Serialize)]
struct Withheld {
    control: String,
    what: Vec<&'static str>,
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
        let open = parsed.as_ref().is_ok_and(|stack| !stack.https.keys_over_plain_http);
        let controls = if self.control.is_empty() { vec![cx.client.url()] } else { self.control };
        let withheld = controls.into_iter().filter(|url| open && in_the_open(url));
        let withheld = withheld.map(|control| Withheld { control, what: SECRETS.to_vec() }).collect();
        cx.show(&Report { file: self.file, mistakes, elsewhere, withheld }, screen)?;
        if errors == 0 { Ok(()) } else { Err(CliError::Found { errors }) }
    }
}

/// What is told to no edge that others may read along with.
const SECRETS: [&str; 4] =
    ["certificates' keys", "the key of cookies", "Redis' password", "the SSH keys of ways to servers"];

/// Whether what control says passes a public network without TLS. What leads nowhere is for the edge to say.
fn in_the_open(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()) else { return false };
    let at = authority.to_socket_addrs().or_else(|_| format!("{authority}:80").to_socket_addrs());
    at.is_ok_and(|mut at| at.any(|at| !is_private(at.ip())))
}

/// Whether a key is of something that edges are told. The empty one is the file as a whole.
fn is_edges(key: &str) -> bool {
    let parts: Vec<&str> = key.split(['.', '[']).collect();
    match parts[..] {
        [
            "" | "stack" | "edges" | "https" | "hosts" | "cluster" | "tenants" | "limits" | "headers" | "compression",
            ..,
        ]
        | ["usage", "stop", ..]
        | ["services"]
        | ["services", _]
        | ["plans", _, "limits", ..] => true,
        ["services", _, key, ..] => matches!(key, "edge" | "role" | "health" | "hold"),
        // A section that nothing is called: it may have been meant for them.
        [section] => !berth_config::is_section(section),
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
    for withheld in &report.withheld {
        text.push_str(&format!(
            "An edge that reaches control at {} is not told {}: others could read along. Give control as https://, or say \
             `https.keys_over_plain_http: true`.\n",
            withheld.control,
            withheld.what.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_is_in_the_open_without_tls_at_an_address_that_is_not_private() {
        for open in ["http://203.0.113.9:7600", "http://203.0.113.9", "http://[2001:db8::1]:7600"] {
            assert!(super::in_the_open(open), "{open}");
        }
        for closed in ["https://203.0.113.9", "http://127.0.0.1:7600", "http://10.0.0.1", "http://[::1]:1", "nothing"] {
            assert!(!super::in_the_open(closed), "{closed}");
        }
    }

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
