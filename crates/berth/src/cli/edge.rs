//! `berth edge list`, `drain` and `drains`: edges as the control plane knows them, and what is drained; `berth edge check`: what a stack file
//! says to them. `berth edge` alone is one.

use super::{CliError, Context, drain::Drain, edge_check::EdgeCheck, table::Table, units};
use berth_client::Drainable;
use berth_domain::EdgeName;
use berth_wire::{Drained, DrainedKind, EdgeView};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Edge {
    /// Edges that ever called, and how far each is
    List,
    /// All that is wrong with what a stack file says to edges, and what they would not be told; nothing is started
    Check(EdgeCheck),
    /// All that is drained: tenants, members and edges, and how far each is
    Drains,
    /// Let an edge lose its connections one by one, before it is stopped; it goes on answering
    Drain {
        edge: EdgeName,
        #[command(flatten)]
        how: Drain,
    },
}

impl Edge {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List => {
                let edges = cx.client.edges().await?;
                cx.show(&edges, |edges| list(edges))
            }
            Self::Check(check) => check.run(cx),
            Self::Drains => {
                let drains = cx.client.drains().await?;
                cx.show(&drains, |drains| drained(drains))
            }
            Self::Drain { edge, how } => how.run(cx, Drainable::Edge(edge)).await,
        }
    }
}

fn drained(drains: &[Drained]) -> String {
    let mut table = Table::new(&["WHAT", "KIND", "STATE", "!TAKE IT BACK"]);
    for drained in drains {
        let (kind, back) = match (drained.kind, &drained.cell, drained.member) {
            (DrainedKind::Tenant, ..) => ("tenant".to_owned(), format!("tenant drain {} --undo", drained.name)),
            (DrainedKind::Member, Some(cell), Some(member)) => {
                (format!("member of {cell}"), format!("cell drain-member {cell} {member} --undo"))
            }
            (DrainedKind::Member, ..) => ("member".to_owned(), String::new()),
            (DrainedKind::Edge, ..) => ("edge".to_owned(), format!("edge drain {} --undo", drained.name)),
        };
        let state = if drained.drain.done {
            "done".to_owned()
        } else if drained.drain.waiting_for.is_empty() {
            "ending".to_owned()
        } else {
            let edges: Vec<String> = drained.drain.waiting_for.iter().map(ToString::to_string).collect();
            format!("waits for {}", edges.join(", "))
        };
        table.row([drained.name.clone(), kind, state, format!("berth {back}")]);
    }
    table.or("nothing is drained")
}

fn list(edges: &[EdgeView]) -> String {
    let mut table = Table::new(&["EDGE", "STATE", "VERSION", ">REVISION", ">BEHIND"]);
    for edge in edges {
        let state = match (edge.alive, edge.leaving) {
            (false, _) => "silent",
            (true, true) => "leaving",
            (true, false) => "alive",
        };
        let behind = edge.behind.to_string();
        let version = units::or_unknown(edge.version.as_ref());
        table.row([edge.name.to_string(), state.to_owned(), version, edge.revision.to_string(), behind]);
    }
    table.or("no edge has called yet: `berth edge` starts one")
}
