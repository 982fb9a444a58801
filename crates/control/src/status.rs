//! Everything at a glance: is everybody served, what moves, what needs a person.

use crate::{
    App, ControlError, Permit, Read,
    costs::{self, prices},
    edges,
};
use berth_domain::{ApprovalState, CellState, Cents, MemberState, OperationState, OrderTrouble, TenantState, Version};
use berth_store::{ApprovalFilter, Store};
use berth_wire as wire;
use berth_workflow::{Filter, Journal};
use jiff::{SignedDuration, Timestamp};

const OPEN: &[OperationState] =
    &[OperationState::Queued, OperationState::Running, OperationState::Undoing, OperationState::Stuck];

/// Hosts without a certificate that are named.
const FAILED_SHOWN: i64 = 100;
/// Approvals that are named, of each state.
const APPROVALS_SHOWN: i64 = 100;

pub async fn overview(app: &App, _permit: &Permit<Read>) -> Result<wire::Overview, ControlError> {
    let store = app.store();
    let stack = store.stack_newest().await?;
    let plans = store.plan_list().await?;
    let counts = store.tenant_counts().await?;
    let count = |state: TenantState| {
        counts.iter().find(|(s, _)| *s == state).map_or(0, |(_, n)| u32::try_from(*n).unwrap_or(u32::MAX))
    };
    let cells = store.cell_list().await?;
    let members = store.member_list(None).await?;
    let wanted = members.iter().filter(|member| member.wanted);
    let open = store.list(&Filter { states: OPEN.to_vec(), limit: 1000, ..Filter::default() }).await?;
    let edges = edges::views(app).await?;
    let reads_only = store.world_ahead_any().await?;
    let revenue = plans.iter().map(|plan| Cents::new(plan.plan.price_cents.get() * plan.tenants)).sum();

    let prices = prices::of_cells(app).await?;
    // A sum that leaves some out would be a wrong number.
    let cost_month_cents = cells.iter().map(|cell| prices.get(&cell.name).copied()).sum::<Option<Cents>>();
    let mut attention = Vec::new();
    if reads_only {
        attention.push(wire::Attention {
            code: "world_ahead".to_owned(),
            subject: "control database".to_owned(),
            detail: ControlError::WorldAhead.to_string(),
            hint: ControlError::WorldAhead.hint(),
            operation: None,
        });
    }
    for stuck in open.iter().filter(|operation| operation.state == OperationState::Stuck) {
        attention.push(wire::Attention {
            code: "operation_stuck".to_owned(),
            subject: stuck.subject.clone().unwrap_or_else(|| stuck.workflow.clone()).replacen('/', " ", 1),
            detail: stuck.error.as_ref().map_or_else(|| "it is stuck".to_owned(), ToString::to_string),
            hint: stuck.error.as_ref().and_then(|error| error.hint.clone()),
            operation: Some(stuck.id),
        });
    }
    attention.extend(approvals(store).await?);
    attention.extend(unserved(app.store(), &cells).await?);
    attention.extend(match costs::budget(app).await {
        Ok(budget) => budget.and_then(|budget| spent(&budget)),
        // Whoever looks at everything sees the rest of it.
        Err(error @ (ControlError::BadPlacement { .. } | ControlError::BadInvoice(_))) => Some(wire::Attention {
            code: "budget_unknown".to_owned(),
            subject: "budget".to_owned(),
            detail: format!("where this month stands is not known: {error}"),
            hint: error.hint(),
            operation: None,
        }),
        Err(other) => return Err(other),
    });
    attention.extend(certificates(store).await?);
    attention.extend(edges.iter().filter(|edge| !edge.alive).map(|edge| wire::Attention {
        code: "edge_silent".to_owned(),
        subject: format!("edge {}", edge.name),
        detail: "it has not been heard of for a while; it serves on from its last snapshot if it runs".to_owned(),
        hint: Some("tenants cannot be moved while a registered edge is silent".to_owned()),
        operation: None,
    }));
    attention.extend(mixed(store, &edges).await?);
    Ok(wire::Overview {
        version: Version::own().to_string(),
        stack: stack.as_ref().map(|stack| stack.stack.clone()),
        stack_revision: stack.as_ref().and_then(|stack| u64::try_from(stack.revision).ok()),
        tenants: wire::TenantCounts {
            total: TenantState::ALL
                .iter()
                .filter(|s| !matches!(s, TenantState::Deleted | TenantState::Failed))
                .map(|s| count(*s))
                .sum(),
            active: count(TenantState::Active),
            moving: count(TenantState::Moving),
            provisioning: count(TenantState::Provisioning),
            suspended: count(TenantState::Suspended),
            failed: count(TenantState::Failed),
        },
        cells: wire::CellCounts {
            total: u32::try_from(cells.len()).unwrap_or(u32::MAX),
            ready: u32::try_from(cells.iter().filter(|cell| cell.state == CellState::Ready).count()).unwrap_or(0),
            members: u32::try_from(wanted.clone().count()).unwrap_or(0),
            members_healthy: u32::try_from(wanted.filter(|m| m.state == MemberState::Healthy).count()).unwrap_or(0),
        },
        operations_open: u32::try_from(open.len()).unwrap_or(u32::MAX),
        attention,
        edges,
        revenue_month_cents: revenue,
        cost_month_cents,
        reads_only,
        at: Timestamp::now(),
    })
}

/// Proposals that wait for an answer, and those that were agreed to and cannot be carried out yet.
async fn approvals(store: &Store) -> Result<Vec<wire::Attention>, ControlError> {
    let mut attention = Vec::new();
    for (state, code) in [(ApprovalState::Open, "approval_waits"), (ApprovalState::Approved, "approval_held")] {
        let filter = ApprovalFilter { state: Some(state), ..ApprovalFilter::default() };
        for approval in store.approval_list(&filter, APPROVALS_SHOWN).await? {
            let detail = match (state, &approval.reason) {
                (ApprovalState::Open, _) => {
                    format!("a proposal to put it elsewhere ({}) waits for an answer", approval.direction)
                }
                (_, Some(why)) => format!("what was agreed to ({}) is not carried out yet: {why}", approval.direction),
                // Its move begins this very moment.
                (_, None) => continue,
            };
            attention.push(wire::Attention {
                code: code.to_owned(),
                subject: format!("tenant {}", approval.tenant_name),
                detail,
                hint: Some(format!("`berth approval show {}`, or the page Approvals", approval.id)),
                operation: None,
            });
        }
    }
    Ok(attention)
}

/// A budget that the month is near, or over.
fn spent(budget: &wire::CostBudget) -> Option<wire::Attention> {
    let amount = |cents: i64| format!("{}.{:02} {}", cents / 100, cents.abs() % 100, budget.currency);
    (budget.level != "within").then(|| wire::Attention {
        code: format!("budget_{}", budget.level),
        subject: "budget".to_owned(),
        detail: format!(
            "by its end this month costs {} of {}: {}",
            amount(budget.forecast_cents),
            amount(budget.amount_cents),
            budget.level
        ),
        hint: Some(
            "`berth cost` says what costs it and what would be cheaper; the limits are `budget` in the stack file"
                .to_owned(),
        ),
        operation: None,
    })
}

/// Servers and edges of another version than this server: an upgrade that was begun and is not at its end.
async fn mixed(store: &Store, edges: &[wire::EdgeView]) -> Result<Vec<wire::Attention>, ControlError> {
    let own = Version::own();
    let servers = store
        .server_list()
        .await?
        .into_iter()
        .map(|server| (format!("serve on {}", server.name), Some(server.version)));
    let there = edges.iter().filter(|edge| edge.alive && !edge.leaving);
    let edges = there.map(|edge| (format!("edge {}", edge.name), edge.version.clone()));
    let others = servers.chain(edges).filter(|(_, version)| version.as_ref() != Some(&own));
    Ok(others
        .map(|(subject, version)| wire::Attention {
            code: "version_mixed".to_owned(),
            subject,
            // One that says nothing is of a version before the word.
            detail: format!(
                "it runs {}, and the server that says so {own}",
                version.map_or_else(|| "?".to_owned(), |version| version.to_string())
            ),
            hint: Some("`berth upgrade` goes on where an upgrade ended".to_owned()),
            operation: None,
        })
        .collect())
}

/// Certificates near their end that nothing follows, and hosts whose certificate cannot be had.
async fn certificates(store: &Store) -> Result<Vec<wire::Attention>, ControlError> {
    let now = Timestamp::now();
    let all = store.certificate_list().await?;
    let mut attention = Vec::new();
    for certificate in all.iter().filter(|certificate| is_near(certificate.not_before, certificate.not_after, now)) {
        // Names that another one covers for longer are taken care of.
        let alone: Vec<&str> = certificate
            .names
            .iter()
            .filter(|name| {
                !all.iter().any(|other| other.not_after > certificate.not_after && other.names.contains(name))
            })
            .map(String::as_str)
            .collect();
        if !alone.is_empty() {
            let day = certificate.not_after.strftime("%Y-%m-%d %H:%M UTC");
            let verb = if certificate.not_after <= now { "ended" } else { "ends" };
            attention.push(wire::Attention {
                code: "certificate_ends".to_owned(),
                subject: format!("certificate {}", alone.join(" ")),
                detail: format!("it {verb} on {day}, and none follows it"),
                hint: Some(
                    "`berth cert add` takes a new one; `berth cert list` says what is wrong with ordered ones"
                        .to_owned(),
                ),
                operation: None,
            });
        }
    }
    attention.extend(store.orders_failed(FAILED_SHOWN).await?.into_iter().map(|order| wire::Attention {
        code: "certificate_not_renewed".to_owned(),
        subject: format!("host {}", order.host),
        detail: format!(
            "no certificate could be had ({}): {}; next try {}",
            order.trouble.map_or("unknown", OrderTrouble::as_str),
            order.detail.unwrap_or_default(),
            order.next_at.strftime("%Y-%m-%d %H:%M UTC")
        ),
        hint: Some(format!("`berth cert renew {}` tries at once", order.host)),
        operation: None,
    }));
    Ok(attention)
}

/// Two weeks before the end, or when a fifth of a short life is left.
fn is_near(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    let fifth = not_after.duration_since(not_before) / 5;
    not_after.duration_since(now) < fifth.min(SignedDuration::from_hours(14 * 24))
}

/// Cells with tenants and no healthy member: those tenants are not served.
async fn unserved(store: &Store, cells: &[berth_store::Cell]) -> Result<Vec<wire::Attention>, ControlError> {
    let members = store.member_list(None).await?;
    let dark = cells.iter().filter(|cell| {
        let mut own = members.iter().filter(|member| member.cell == cell.id);
        cell.tenants > 0 && cell.state != CellState::Creating && !own.any(|m| m.state == MemberState::Healthy)
    });
    Ok(dark
        .map(|cell| wire::Attention {
            code: "cell_dark".to_owned(),
            subject: format!("cell {}", cell.name),
            detail: format!("none of its members is healthy; {} tenants are not served", cell.tenants),
            hint: Some("`berth logs` shows what its members wrote; they are started again by themselves".to_owned()),
            operation: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::is_near;

    #[test]
    fn a_certificate_is_near_its_end_in_its_last_two_weeks_or_last_fifth() {
        let at = |text: &str| text.parse().unwrap();
        let quarter = |now| is_near(at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z"), at(now));
        assert!(!quarter("2026-03-17T00:00:00Z") && quarter("2026-03-19T00:00:00Z") && quarter("2026-05-01T00:00:00Z"));
        let week = |now| is_near(at("2026-01-01T00:00:00Z"), at("2026-01-07T00:00:00Z"), at(now));
        assert!(!week("2026-01-05T00:00:00Z") && week("2026-01-06T00:00:00Z"));
    }
}
