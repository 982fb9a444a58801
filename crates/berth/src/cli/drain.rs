//! `… drain` of tenants, members and edges: the same three questions about each.

use super::{CliError, Context};
use berth_client::Drainable;
use berth_wire::{Drain as Shown, DrainAsk};
use clap::Args;

#[derive(Args, Debug)]
// The commands that take these options are called `Drain` too, and a group of a name may be there once.
#[group(skip)]
pub struct Drain {
    /// Open WebSockets and event streams are closed one by one over this many seconds. Default: 30
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600))]
    grace: Option<u32>,
    /// Take it back
    #[arg(long, conflicts_with = "grace")]
    undo: bool,
    /// Only say how far it is
    #[arg(long, conflicts_with_all = ["grace", "undo"])]
    state: bool,
}

impl Drain {
    pub async fn run(&self, cx: &Context, what: Drainable) -> Result<(), CliError> {
        let drain = if self.undo {
            cx.client.drain_undo(&what).await?
        } else if self.state {
            cx.client.drain_show(&what).await?
        } else {
            cx.client.drain(&what, &DrainAsk { grace_s: self.grace }).await?
        };
        cx.show(&drain, |drain| screen(&what, drain))
    }
}

fn screen(what: &Drainable, drain: &Shown) -> String {
    let name = match what {
        Drainable::Tenant(tenant) => format!("tenant {tenant}"),
        Drainable::Member { cell, member } => format!("member {member} of cell {cell}"),
        Drainable::Edge(edge) => format!("edge {edge}"),
    };
    if !drain.draining {
        return format!("{name} is not drained\n");
    }
    let gets = match what {
        Drainable::Tenant(_) => "new requests are answered 503",
        Drainable::Member { .. } => "new requests go to other members",
        Drainable::Edge(_) => "it answers, and keeps no connection after an answer",
    };
    let mut text = format!("{name} is drained: {gets}\n");
    if drain.done {
        text.push_str("open WebSockets and event streams have been closed\n");
    } else {
        let grace = drain.grace_s.unwrap_or_default();
        text.push_str(&format!("open WebSockets and event streams are closed over {grace} s\n"));
    }
    if !drain.waiting_for.is_empty() {
        let edges: Vec<String> = drain.waiting_for.iter().map(ToString::to_string).collect();
        text.push_str(&format!("not acknowledged yet by {}\n", edges.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Drainable, Shown, screen};

    #[test]
    fn a_drain_says_what_happens_and_whom_it_waits_for() {
        let nothing = Shown { draining: false, since: None, grace_s: None, done: false, waiting_for: Vec::new() };
        let tenant = Drainable::Tenant("acme".into());
        assert_eq!(screen(&tenant, &nothing), "tenant acme is not drained\n");
        let begun = Shown { draining: true, grace_s: Some(30), waiting_for: vec!["fra".parse().unwrap()], ..nothing };
        assert_eq!(
            screen(&tenant, &begun),
            "tenant acme is drained: new requests are answered 503\n\
             open WebSockets and event streams are closed over 30 s\n\
             not acknowledged yet by fra\n"
        );
        let done = Shown { done: true, waiting_for: Vec::new(), ..begun };
        assert_eq!(
            screen(&Drainable::Edge("fra".parse().unwrap()), &done),
            "edge fra is drained: it answers, and keeps no connection after an answer\n\
             open WebSockets and event streams have been closed\n"
        );
    }
}
