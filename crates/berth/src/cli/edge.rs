//! `berth edge list` and `berth edge drain`: edges as the control plane knows them; `berth edge check`: what a stack file
//! says to them. `berth edge` alone is one.

use super::{CliError, Context, drain::Drain, edge_check::EdgeCheck, table::Table};
use berth_client::Drainable;
use berth_domain::EdgeName;
use berth_wire::EdgeView;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Edge {
    /// Edges that ever called, and how far each is
    List,
    /// All that is wrong with what a stack file says to edges; nothing is started and nobody asked
    Check(EdgeCheck),
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
            Self::Drain { edge, how } => how.run(cx, Drainable::Edge(edge)).await,
        }
    }
}

fn list(edges: &[EdgeView]) -> String {
    let mut table = Table::new(&["EDGE", "STATE", ">REVISION", ">BEHIND"]);
    for edge in edges {
        let state = match (edge.alive, edge.leaving) {
            (false, _) => "silent",
            (true, true) => "leaving",
            (true, false) => "alive",
        };
        let behind = edge.behind.to_string();
        table.row([edge.name.to_string(), state.to_owned(), edge.revision.to_string(), behind]);
    }
    table.or("no edge has called yet: `berth edge` starts one")
}
