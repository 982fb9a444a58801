//! `berth service …`: what runs in the cells.

use super::{CliError, Context, tenant::Wait, watch};
use berth_domain::{CellName, ServiceName};
use berth_wire::{Operation, RestartPlan};
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
            let runs = |cell: &berth_wire::Cell| cell.members.iter().any(|member| member.service == self.service);
            cx.client.cells().await?.into_iter().filter(runs).map(|cell| cell.name).collect()
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
    use super::screen;
    use berth_wire::RestartPlan;

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
