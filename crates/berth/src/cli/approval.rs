//! `berth approval …`: proposals that wait for a person.

use super::{
    CliError, Context,
    table::{Table, facts},
    units,
};
use berth_domain::{ApprovalId, ApprovalState};
use berth_wire::{Approval as Shown, ApprovalPlace, ApprovalReject};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use std::fmt::Write as _;

#[derive(Subcommand, Debug)]
pub enum Approval {
    /// Proposals to put tenants elsewhere; those that wait, unless another state is asked for
    List {
        #[arg(long, default_value = "open")]
        state: ApprovalState,
        /// In whatever state
        #[arg(long, conflicts_with = "state")]
        all: bool,
        #[arg(long)]
        tenant: Option<String>,
    },
    /// One proposal, with everything that speaks for it
    Show { approval: ApprovalId },
    /// Agree: the plan is changed, and the tenant moves where that takes a move
    Approve(Approve),
    /// Do not agree; the same is not proposed again for a month, unless its place breaks a standard, its residency or its number of regions
    Reject {
        approval: ApprovalId,
        /// For those who read the list later
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  berth approval approve 0193f0c2-…        shows the proposal, asks, and carries it out
  berth approval list --json | jq -r '.[].id' | xargs -n1 berth approval approve --yes")]
pub struct Approve {
    approval: ApprovalId,
    /// Show what would happen and stop
    #[arg(long)]
    dry_run: bool,
}

impl Approval {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List { state, all, tenant } => {
                let found = cx.client.approvals(tenant.as_deref(), (!all).then_some(state)).await?;
                cx.show(&found, |found| list(found, cx.now))
            }
            Self::Show { approval } => {
                let found = cx.client.approval(approval).await?;
                cx.show(&found, |found| one(found, cx.now))
            }
            Self::Approve(Approve { approval, dry_run }) => {
                let found = cx.client.approval(approval).await?;
                if dry_run {
                    return cx.show(&found, |found| one(found, cx.now));
                }
                cx.agree(&one(&found, cx.now), "Agree?")?;
                let done = cx.client.approval_approve(approval).await?;
                cx.show(&done, carried_out)
            }
            Self::Reject { approval, reason } => {
                let done = cx.client.approval_reject(approval, &ApprovalReject { reason }).await?;
                cx.show(&done, |done| format!("approval for tenant {} is {}\n", done.tenant, done.state))
            }
        }
    }
}

fn place(place: &ApprovalPlace) -> String {
    let cell = place.cell.as_deref().unwrap_or("a new cell");
    format!("plan {} ({} a month) in {cell} ({})", place.plan, place.price_cents, place.class)
}

fn list(found: &[Shown], now: Timestamp) -> String {
    let mut table = Table::new(&["TENANT", "WHAT", "TO", "STATE", ">SURE", "MADE", "ID"]);
    for approval in found {
        table.row([
            approval.tenant.to_string(),
            approval.direction.clone(),
            format!("{} ({})", approval.then.plan, approval.then.class),
            approval.state.to_string(),
            format!("{:.0} %", approval.decision.confidence * 100.0),
            units::ago(approval.made_at, now),
            approval.id.to_string(),
        ]);
    }
    table.or("Nothing waits for anybody.")
}

fn one(approval: &Shown, now: Timestamp) -> String {
    let mut lines = vec![
        ("tenant", approval.tenant.to_string()),
        ("what", approval.direction.clone()),
        ("now", place(&approval.now)),
        ("then", place(&approval.then)),
        ("confidence", format!("{:.0} %", approval.decision.confidence * 100.0)),
        ("state", approval.state.to_string()),
        ("made", units::ago(approval.made_at, now)),
    ];
    if approval.state == ApprovalState::Open {
        lines.push(("ends", approval.expires_at.strftime("%Y-%m-%d %H:%M").to_string()));
    }
    if let Some(by) = &approval.decided_by {
        let how = if approval.unattended { " (nobody was asked)" } else { "" };
        lines.push(("decided by", format!("{by}{how}, {}", units::ago_or(approval.decided_at, now, "?"))));
    }
    lines.extend(approval.reason.clone().map(|reason| ("reason", reason)));
    lines.extend(approval.operation.map(|operation| ("operation", operation.to_string())));
    let mut text = facts(&lines);
    text.push_str("\nbecause\n");
    for reason in approval.because.iter().chain(&approval.decision.reasons) {
        let _ = writeln!(text, "  {reason}");
    }
    text
}

fn carried_out(done: &Shown) -> String {
    match (&done.operation, &done.reason) {
        (Some(operation), _) => format!(
            "tenant {} is on plan {} and moves: `berth operation watch {operation}` follows it\n",
            done.tenant, done.then.plan
        ),
        (None, Some(reason)) if done.state == ApprovalState::Approved => {
            format!("agreed; it is carried out as soon as that is possible: {reason}\n")
        }
        (None, _) => format!("tenant {} is on plan {}; it stays where it is\n", done.tenant, done.then.plan),
    }
}

#[cfg(test)]
mod tests {
    use super::{list, one};
    use jiff::Timestamp;

    #[test]
    fn a_proposal_is_shown_with_both_places_and_its_reasons() {
        let approval: berth_wire::Approval = serde_json::from_value(serde_json::json!({
            "id": "0193f0c2-0000-7000-8000-000000000001", "tenant": "acme", "state": "open", "direction": "upgrade",
            "now": { "plan": "hobby", "class": "shared", "cell": "shared-1", "price_cents": 1500 },
            "then": { "plan": "starter", "class": "dedicated", "cell": null, "price_cents": 4900 },
            "because": ["vehicles stands at 5, 100 % of 5"],
            "decision": { "tenant": "acme", "mode": null, "class": "dedicated", "provider": "local", "regions": [],
                          "plan": "starter", "cell": null, "monthly_cost_cents": null, "currency": "USD",
                          "margin_cents": null, "confidence": 0.98, "reasons": [], "refused": [], "flip": null },
            "unattended": false, "made_at": "2026-11-21T12:00:00Z", "expires_at": "2026-12-05T12:00:00Z",
            "decided_at": null, "decided_by": null, "reason": null, "operation": null
        }))
        .unwrap();
        let now: Timestamp = "2026-11-21T12:05:00Z".parse().unwrap();
        let text = one(&approval, now);
        for part in [
            "plan starter ($49.00 a month) in a new cell (dedicated)",
            "98 %",
            "vehicles stands at 5",
            "2026-12-05 12:00",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let text = list(&[approval], now);
        assert!(text.contains("starter (dedicated)") && text.contains("5 min ago"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(list(&[], now), "Nothing waits for anybody.\n");
    }
}
