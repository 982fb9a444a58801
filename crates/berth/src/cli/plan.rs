//! `berth plan …`.

use super::{
    CliError, Context,
    table::{Table, facts},
    units,
};
use berth_wire::PlanView;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub enum Plan {
    /// All plans of the stack file
    List,
    /// One plan with its limits
    Show { plan: String },
}

impl Plan {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        match self {
            Self::List => {
                let plans = cx.client.plans().await?;
                cx.show(&plans, |plans| list(plans))
            }
            Self::Show { plan } => {
                let plan = cx.client.plan(&plan).await?;
                cx.show(&plan, one)
            }
        }
    }
}

fn list(plans: &[PlanView]) -> String {
    let mut table = Table::new(&["PLAN", "CLASS", ">PRICE/MONTH", ">TENANTS"]);
    for plan in plans {
        table.row([
            plan.name.to_string(),
            plan.class.to_string(),
            plan.price_cents.to_string(),
            units::count(plan.tenants),
        ]);
    }
    table.or("No plans yet: write them into berth.yaml and `berth apply`.")
}

fn one(plan: &PlanView) -> String {
    let unlimited = || "not limited".to_owned();
    let mut lines = vec![
        ("plan", plan.name.to_string()),
        ("class", plan.class.to_string()),
        ("price", format!("{} a month", plan.price_cents)),
        ("tenants", units::count(plan.tenants)),
        ("request body", plan.limits.body_bytes.map_or_else(unlimited, units::bytes)),
        ("history", plan.limits.retention_days.map_or_else(unlimited, |days| format!("{days} d"))),
    ];
    for (class, n) in &plan.limits.requests_per_minute {
        lines.push((class, format!("{} requests/min", units::count(*n))));
    }
    for (what, n) in &plan.limits.quantities {
        lines.push((what, units::count(*n)));
    }
    facts(&lines)
}
