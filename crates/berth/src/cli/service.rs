//! `berth service …`: what runs in the cells.

use super::{CliError, Context, tenant::Wait, watch};
use berth_domain::{CellName, CellState, ServiceName};
use berth_wire::{Cell, Operation, RestartPlan};
use clap::{Args, Subcommand};
use std::fmt::Write as _;

#[derive(Subcommand, Debug)]
pub enum Service {
    /// Start its members again, one by one behind their health path; nobody outside notices
    Restart(Restart),
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth service restart web --dry-run\n  berth service restart worker --cell fra-1 --yes"
)]
pub struct Restart {
    service: ServiceName,
    /// In this cell; may be given more than once. Otherwise in every cell that runs it, one cell after the other
    #[arg(long, value_name = "CELL")]
    cell: Vec<CellName>,
    /// Show what would be restarted and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Service {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let Self::Restart(restart) = self;
        restart.run(cx).await
    }
}

impl Restart {
    async fn run(self, cx: &Context) -> Result<(), CliError> {
        let plans = self.plans(cx).await?;
        if self.dry_run {
            return cx.show(&plans, |plans| screen(plans));
        }
        if self.wait.detach && plans.len() > 1 {
            let hint = "name one cell with `--cell`, or stay and watch them go one after the other";
            return Err(CliError::request("several cells are restarted one after the other", hint));
        }
        cx.agree(&screen(&plans), "Restart them?")?;
        let mut ended = Vec::new();
        for plan in &plans {
            let begun = cx.client.service_restart(plan.cell.as_str(), self.service.as_str()).await?;
            if self.wait.detach {
                return self.wait.finish(cx, begun).await;
            }
            // A cell in which it goes wrong is the last one that is touched.
            ended.push(watch::to_success(cx, begun).await?);
        }
        cx.show(&ended, |ended| done(ended))
    }

    async fn plans(&self, cx: &Context) -> Result<Vec<RestartPlan>, CliError> {
        let named = !self.cell.is_empty();
        let cells: Vec<CellName> = if named {
            self.cell.clone()
        } else {
            let (cells, left_out) = of_all(cx.client.cells().await?, &self.service);
            for note in left_out {
                cx.say(&note);
            }
            cells
        };
        let mut plans = Vec::new();
        for cell in cells {
            match cx.client.service_plan_restart(cell.as_str(), self.service.as_str()).await {
                Ok(plan) => plans.push(plan),
                // Whoever asks for all means those that Berth runs.
                Err(error) if !named && error.problem().is_some_and(|it| it.code == "foreign_cell") => {
                    cx.say(&format!("note: left out: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if plans.is_empty() {
            let detail = format!("no cell that Berth runs has a member of service `{}`", self.service);
            return Err(CliError::request(detail, "`berth cell show CELL` lists what runs there"));
        }
        Ok(plans)
    }
}

/// Those that run a service, and a note about each that cannot be touched now: it is being made, or goes.
fn of_all(cells: Vec<Cell>, service: &ServiceName) -> (Vec<CellName>, Vec<String>) {
    let (mut names, mut notes) = (Vec::new(), Vec::new());
    for cell in cells.into_iter().filter(|cell| cell.members.iter().any(|member| member.service == *service)) {
        if matches!(cell.state, CellState::Ready | CellState::Draining) {
            names.push(cell.name);
        } else {
            notes.push(format!("note: left out: cell `{}` is {}", cell.name, cell.state));
        }
    }
    (names, notes)
}

fn screen(plans: &[RestartPlan]) -> String {
    let mut text = String::new();
    for plan in plans {
        let copies = if plan.members == 1 { "1 copy".to_owned() } else { format!("{} copies", plan.members) };
        let one_by_one = if plan.members > 1 { ", one by one" } else { "" };
        let spare = if plan.spare { "; one more serves beside meanwhile" } else { "" };
        let _ = writeln!(text, "{}: {copies} of {}{one_by_one}{spare}", plan.cell, plan.service);
    }
    text
}

fn done(ended: &[Operation]) -> String {
    let mut text = String::new();
    for operation in ended {
        let cell = operation.cell.as_ref().map(ToString::to_string).unwrap_or_default();
        let summary = operation.result.as_ref().and_then(|result| result.summary.clone());
        let _ = writeln!(text, "{cell}: {}", summary.unwrap_or_else(|| "done".to_owned()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{of_all, screen};
    use berth_wire::{Cell, RestartPlan};
    use serde_json::json;

    fn cell(name: &str, state: &str, service: &str) -> Cell {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let member = json!({ "id": id, "service": service, "service_role": "web", "role": "active", "state": "healthy",
            "address": null, "seen_at": null });
        let cell = json!({ "id": id, "name": name, "class": "shared", "state": state, "provider": "local", "region": null,
            "tenants": 0, "max_tenants": 1, "price_cents": null, "database_bytes": null, "operation": null,
            "members": [member], "created_at": "2026-01-01T00:00:00Z" });
        serde_json::from_value(cell).unwrap()
    }

    #[test]
    fn a_cell_that_is_made_or_goes_is_left_out_of_all() {
        let cells = vec![
            cell("fra-1", "ready", "web"),
            cell("fra-2", "creating", "web"),
            cell("fra-3", "draining", "web"),
            cell("fra-4", "removing", "worker"),
        ];
        let (names, notes) = of_all(cells, &"web".parse().unwrap());
        assert_eq!(names, ["fra-1".parse().unwrap(), "fra-3".parse().unwrap()]);
        assert_eq!(notes, ["note: left out: cell `fra-2` is creating"]);
    }

    #[test]
    fn a_plan_says_what_serves_meanwhile() {
        let plan = |cell: &str, members, spare| RestartPlan {
            cell: cell.parse().unwrap(),
            service: "web".parse().unwrap(),
            members,
            spare,
        };
        assert_eq!(
            screen(&[plan("fra-1", 2, true), plan("fra-2", 1, false)]),
            "fra-1: 2 copies of web, one by one; one more serves beside meanwhile\nfra-2: 1 copy of web\n"
        );
    }
}
