//! `berth fleet …`: all tenants to cells.

use super::{CliError, Context, table::Table, units};
use berth_wire::{FleetApplied, FleetApply, FleetMonth, FleetPlan, FleetSimulate};
use clap::{Args, Subcommand};

#[derive(Subcommand, Debug)]
pub enum Fleet {
    /// All tenants to cells at the least cost, in steps that each are an improvement
    Plan(Plan),
    /// Start the first moves of the plan
    Apply(Apply),
    /// Grow the fleet on paper: cost, margin, moves, cells
    Simulate(Simulate),
}

#[derive(Args, Debug)]
pub struct Plan {
    /// Only who lives in this cell is moved, and only such cells go; repeat it for more
    #[arg(long = "only", value_name = "CELL")]
    only: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    part: Plan,
    /// How many moves to start at most
    #[arg(long, default_value_t = 4)]
    moves: u32,
    /// Make the cells that the plan needs and remove those that it has emptied
    #[arg(long)]
    cells: bool,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct Simulate {
    /// Percent a month
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    growth: u32,
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=60))]
    months: u32,
}

impl Fleet {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::Plan(part) => {
                let plan = cx.client.fleet_plan_of(&part.only).await?;
                cx.show(&plan, plan_screen)
            }
            Self::Apply(apply) => {
                let plan = cx.client.fleet_plan_of(&apply.part.only).await?;
                if apply.dry_run || plan.steps.is_empty() {
                    return cx.show(&plan, plan_screen);
                }
                let cells = if apply.cells { ", and make and remove its cells" } else { "" };
                cx.agree(&plan_screen(&plan), &format!("Start up to {} of its moves{cells}?", apply.moves))?;
                let wanted = FleetApply { moves: Some(apply.moves), cells: apply.cells, only: apply.part.only };
                let done = cx.client.fleet_apply(&wanted).await?;
                cx.show(&done, applied)
            }
            Self::Simulate(simulate) => {
                let wanted = FleetSimulate { growth_percent: simulate.growth, months: simulate.months };
                let months = cx.client.fleet_simulate(&wanted).await?;
                cx.show(&months, |months| months_screen(months))
            }
        }
    }
}

/// More steps than anybody reads: the figures above say what they come to.
const STEPS_SHOWN: usize = 30;

fn plan_screen(plan: &FleetPlan) -> String {
    let known = plan.bound_cents.get() > 0;
    let gap = if known { format!(" (gap {:.1} %)", plan.gap_percent) } else { String::new() };
    let mut text = format!(
        "{} a month now, {} after {} moves in {} steps; no arrangement costs less than {}{}\n",
        plan.before_cents,
        plan.after_cents,
        units::count(plan.moves),
        plan.steps.len(),
        plan.bound_cents,
        gap
    );
    text.push_str(&format!("cells: {} now, {} after\n", plan.cells_before, plan.cells_after));
    if plan.wrong_before > 0 {
        let left = plan.wrong_after;
        text.push_str(&format!("tenants whose place breaks a constraint: {} now, {left} after\n", plan.wrong_before));
    }
    if !plan.nowhere.is_empty() {
        text.push_str(&format!("nothing is right for {}: `berth decide` says why\n", plan.nowhere.join(", ")));
    }
    let mut table = Table::new(&[">STEP", "WHY", "OPENS", ">MOVES", "FIRST", "CLOSES", ">SAVES/MONTH"]);
    for (n, step) in plan.steps.iter().take(STEPS_SHOWN).enumerate() {
        let first = step.moves.first().map(|m| format!("{} to {}", m.tenant, m.to)).unwrap_or_default();
        table.row([
            (n + 1).to_string(),
            step.why.clone(),
            step.opens.iter().map(|opened| opened.cell.as_str()).collect::<Vec<_>>().join(" "),
            step.moves.len().to_string(),
            first,
            step.closes.join(" "),
            step.saves_cents.to_string(),
        ]);
    }
    text.push_str(&table.or("Nothing to do: every tenant is where it belongs, and no cell is too many."));
    if plan.steps.len() > STEPS_SHOWN {
        text.push_str(&format!("and {} steps more; --json shows them\n", plan.steps.len() - STEPS_SHOWN));
    }
    text
}

fn applied(done: &FleetApplied) -> String {
    let mut text = String::new();
    for started in &done.started {
        let how = match (&started.operation, &started.trouble) {
            (Some(operation), _) => format!("operation {operation}"),
            (None, trouble) => format!("not started: {}", trouble.as_deref().unwrap_or("?")),
        };
        text.push_str(&format!("{} to {}: {how}\n", started.tenant, started.to));
    }
    for cell in &done.cells {
        let how = match (&cell.operation, &cell.trouble) {
            (Some(operation), _) => {
                format!("{}: operation {operation}", if cell.removed { "is removed" } else { "is made" })
            }
            (None, trouble) => format!(
                "cannot be {} now: {}",
                if cell.removed { "removed" } else { "made" },
                trouble.as_deref().unwrap_or("?")
            ),
        };
        text.push_str(&format!("cell {} {how}\n", cell.cell));
    }
    for needed in &done.needs {
        text.push_str(&format!(
            "needs a cell from the offer {}, {} a month: `--cells`, or `berth cell create`\n",
            needed.offer, needed.price_cents
        ));
    }
    for cell in &done.removable {
        text.push_str(&format!("cell {cell} is not needed: `--cells`, or `berth cell remove {cell}`\n"));
    }
    text.push_str(&format!("{} moves of the plan are left; run it again when these are done\n", done.left));
    text
}

fn months_screen(months: &[FleetMonth]) -> String {
    let heads = [">MONTH", ">TENANTS", ">CELLS", ">COST", ">REVENUE", ">MARGIN", ">MOVES", ">NOWHERE", ">GAP %"];
    let mut table = Table::new(&heads);
    for month in months {
        table.row([
            month.month.to_string(),
            units::count(month.tenants),
            units::count(month.cells),
            month.cost_cents.to_string(),
            month.revenue_cents.to_string(),
            month.margin_cents.to_string(),
            units::count(month.moves),
            units::count(month.nowhere),
            format!("{:.1}", month.gap_percent),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::plan_screen;

    #[test]
    fn a_plan_says_what_it_saves_and_how_much_better_it_could_be() {
        let plan = serde_json::from_value(serde_json::json!({
            "steps": [{ "why": "empty", "opens": [], "moves": [{ "tenant": "acme", "from": "b", "to": "a" }],
                        "closes": ["b"], "saves_cents": 9219 }],
            "before_cents": 18438, "after_cents": 9219, "bound_cents": 9219, "gap_percent": 0.0, "moves": 1,
            "cells_before": 2, "cells_after": 1, "wrong_before": 0, "wrong_after": 0, "nowhere": []
        }));
        let text = plan_screen(&plan.unwrap());
        for part in ["$184.38 a month now, $92.19 after 1 moves", "gap 0.0 %", "acme to a", "$92.19\n"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
