//! `berth edge check`: what is wrong with what a stack file says to edges, all of it at once, and what an edge would not be
//! told. Starts nothing and asks nobody, but a name server where control is.

use super::{CliError, Context, table::Table, text};
use berth_config::{Provider, tree};
use berth_domain::{ProviderName, is_private};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
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
    /// The database of addresses that edges are given, where the file says `cluster.geo_routing`
    #[arg(long, env = "BERTH_EDGE_GEO_DATABASE", value_name = "FILE")]
    geo_database: Option<PathBuf>,
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
    /// Cells that edges would send to over a public network without TLS.
    in_the_open: Vec<Open>,
}

#[derive(Debug, Serialize)]
struct Open {
    key: String,
    url: String,
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
        // Read past all mistakes: one somewhere in the file hides nothing of this.
        let said = tree::parse(&text).map(|tree| berth_config::json(&tree)).ok();
        let mut in_the_open = Vec::new();
        if let Some(said) = &said {
            mistakes.extend(nearness(&said["cluster"], self.geo_database.as_deref()));
            let theirs = berth_control::in_the_open::endpoints(&providers(&said["providers"]), is_public);
            in_the_open.extend(theirs.into_iter().map(|(key, url)| Open { key, url }));
            if said["https"]["members_over_plain_http"] != true {
                mistakes.extend(in_the_open.iter().map(refused));
            }
        }
        let errors = mistakes.len();
        let open = said.is_some_and(|said| said["https"]["keys_over_plain_http"] != true);
        let controls = if self.control.is_empty() { vec![cx.client.url()] } else { self.control };
        let withheld = controls.into_iter().filter(|url| open && is_control_in_the_open(url));
        let withheld = withheld.map(|control| Withheld { control, what: SECRETS.to_vec() }).collect();
        cx.show(&Report { file: self.file, mistakes, elsewhere, withheld, in_the_open }, screen)?;
        if errors == 0 { Ok(()) } else { Err(CliError::Found { errors }) }
    }
}

/// What the file does not take on itself.
fn refused(open: &Open) -> Shown {
    let problem = berth_config::Problem::InTheOpen {
        what: format!("`{}`", open.url),
        remedy: berth_control::in_the_open::REMEDY,
    };
    Shown { key: open.key.clone(), line: None, problem: problem.to_string(), hint: problem.hint() }
}

/// What is told to no edge that others may read along with.
const SECRETS: [&str; 5] = [
    "certificates' keys",
    "the key of cookies",
    "the keys of signatures",
    "Redis' password",
    "the SSH keys of ways to servers",
];

/// Those that can be read.
fn providers(said: &Value) -> BTreeMap<ProviderName, Provider> {
    let all = said.as_object().into_iter().flatten();
    all.filter_map(|(name, own)| Some((name.parse().ok()?, serde_json::from_value(own.clone()).ok()?))).collect()
}

/// Where the file asks for nearness and nobody would know where clients are.
fn nearness(cluster: &Value, database: Option<&Path>) -> Option<Shown> {
    if cluster["geo_routing"] != true || cluster["enabled"] == false {
        return None;
    }
    let problem = match database {
        None => {
            "edges choose by nearness, and no database says where clients are: every region would be as near".to_owned()
        }
        Some(path) => {
            let error = berth_edge::check_geo_database(path).err()?;
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ")
        }
    };
    let hint = "name the file that edges have: `--geo-database FILE` here and at each edge, or take `geo_routing` out";
    Some(Shown { key: "cluster.geo_routing".to_owned(), line: None, problem, hint: Some(hint.to_owned()) })
}

/// Whether what control says passes a public network without TLS.
fn is_control_in_the_open(url: &str) -> bool {
    url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).is_some_and(is_public)
}

/// Whether strangers reach what is there. What leads nowhere is for the edge to say.
fn is_public(authority: &str) -> bool {
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
    let allowed = |open: &&Open| !report.mistakes.iter().any(|mistake| mistake.key == open.key);
    for open in report.in_the_open.iter().filter(allowed) {
        text.push_str(&format!(
            "warning: requests to {} (`{}`) pass a public network without TLS, as the file says\n",
            open.url, open.key
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_is_in_the_open_without_tls_at_an_address_that_is_not_private() {
        for open in ["http://203.0.113.9:7600", "http://203.0.113.9", "http://[2001:db8::1]:7600"] {
            assert!(super::is_control_in_the_open(open), "{open}");
        }
        for closed in ["https://203.0.113.9", "http://127.0.0.1:7600", "http://10.0.0.1", "http://[::1]:1", "nothing"] {
            assert!(!super::is_control_in_the_open(closed), "{closed}");
        }
    }

    #[test]
    fn nearness_without_a_database_of_addresses_is_a_mistake() {
        let cluster = |text: &str| berth_config::json(&berth_config::tree::parse(text).unwrap());
        let near = cluster("{ enabled: true, redis_address: 'r:6379', geo_routing: true }");
        assert!(super::nearness(&near, None).unwrap().problem.contains("no database says"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("geo.mmdb");
        assert!(super::nearness(&near, Some(&path)).unwrap().problem.contains("could not be read"));
        std::fs::write(&path, "no such thing").unwrap();
        assert!(super::nearness(&near, Some(&path)).unwrap().problem.contains("is no database of addresses"));
        for other in ["{ geo_routing: false }", "{ enabled: false, geo_routing: true }", "{ enabled: true }", "text"] {
            assert!(super::nearness(&cluster(other), None).is_none(), "{other}");
        }
        assert!(super::nearness(&cluster("{ geo_routing: true }"), None).is_some(), "a section is in force by itself");
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
