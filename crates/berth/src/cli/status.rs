//! `berth status`.

use super::{CliError, Context, table::Table, units};
use berth_wire::Overview;
use jiff::Timestamp;

pub async fn run(cx: &Context) -> Result<(), CliError> {
    let overview = cx.client.status().await?;
    cx.show(&overview, |overview| screen(overview, cx.now))
}

fn screen(overview: &Overview, now: Timestamp) -> String {
    let tenants = overview.tenants;
    let cells = overview.cells;
    let stack = match (&overview.stack, overview.stack_revision) {
        (Some(name), Some(revision)) => format!("stack {name}, revision {revision}"),
        _ => "no stack yet: `berth apply` brings one".to_owned(),
    };
    let mut text = format!("{stack}\n\n");
    text.push_str(&super::table::facts(&[
        (
            "tenants",
            format!(
                "{} of {} active, {} moving, {} provisioning, {} suspended, {} failed",
                tenants.active, tenants.total, tenants.moving, tenants.provisioning, tenants.suspended, tenants.failed
            ),
        ),
        ("cells", format!("{} of {} ready", cells.ready, cells.total)),
        ("members", format!("{} of {} healthy", cells.members_healthy, cells.members)),
        ("operations", format!("{} open", overview.operations_open)),
        (
            "month",
            format!(
                "plans bring {}, cells cost {}",
                overview.revenue_month_cents,
                units::or_unknown(overview.cost_month_cents)
            ),
        ),
        ("version", overview.version.clone()),
    ]));
    if overview.reads_only {
        text.push_str("\nThe control database is behind the world: only reads are answered until `berth recover`.\n");
    }
    text.push('\n');
    if overview.edges.is_empty() {
        text.push_str("No edge has called yet: start one with `berth edge`.\n");
    } else {
        let mut table = Table::new(&["EDGE", "STATE", "VERSION", ">REVISIONS BEHIND", "SEEN"]);
        for edge in &overview.edges {
            let state = if edge.alive { "alive" } else { "silent" };
            table.row([
                edge.name.to_string(),
                state.to_owned(),
                units::or_unknown(edge.version.as_ref()),
                units::count(edge.behind),
                units::ago_or(edge.seen_at, now, "never"),
            ]);
        }
        text.push_str(&table.text());
    }
    text.push('\n');
    if overview.attention.is_empty() {
        text.push_str("Nothing waits for a person.\n");
    }
    for item in &overview.attention {
        text.push_str(&format!("attention: {}: {}\n", item.subject, item.detail));
        if let Some(hint) = &item.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::screen;
    use berth_domain::Cents;
    use berth_wire::{Attention, CellCounts, EdgeView, Overview, TenantCounts};

    #[test]
    fn status_says_what_needs_a_person_last() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let overview = Overview {
            version: "0.1.0".into(),
            stack: Some("fleet".into()),
            stack_revision: Some(3),
            tenants: TenantCounts { total: 20, active: 19, moving: 1, ..TenantCounts::default() },
            cells: CellCounts { total: 2, ready: 2, members: 3, members_healthy: 2 },
            operations_open: 1,
            attention: vec![Attention {
                code: "member_unhealthy".into(),
                subject: "cell shared-1".into(),
                detail: "member web of it does not answer".into(),
                hint: Some("`berth logs --cell shared-1`".into()),
                operation: None,
            }],
            edges: vec![EdgeView {
                name: "fra".parse().unwrap(),
                instance: None,
                revision: berth_domain::Revision::new(7),
                behind: 0,
                leaving: false,
                version: Some("0.1.0".parse().unwrap()),
                alive: true,
                seen_at: Some("2026-11-21T11:59:57Z".parse().unwrap()),
            }],
            revenue_month_cents: Cents::new(149_900),
            cost_month_cents: None,
            reads_only: false,
            at: now,
        };
        assert_eq!(
            screen(&overview, now),
            "\
stack fleet, revision 3

tenants     19 of 20 active, 1 moving, 0 provisioning, 0 suspended, 0 failed
cells       2 of 2 ready
members     2 of 3 healthy
operations  1 open
month       plans bring $1499.00, cells cost ?
version     0.1.0

EDGE  STATE  VERSION  REVISIONS BEHIND  SEEN
fra   alive  0.1.0                   0  3 s ago

attention: cell shared-1: member web of it does not answer
hint: `berth logs --cell shared-1`
"
        );
    }
}
