//! Plans of the stack file in force, and how many tenants are on each. Changed by `stack::apply` alone.

use crate::{App, ControlError, Permit, Read};
use berth_domain::PlanName;
use berth_store::StoredPlan;
use berth_wire as wire;

pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<wire::Page<wire::PlanView>, ControlError> {
    let plans = app.store().plan_list().await?;
    // A plan that left the file is shown as long as somebody is on it.
    Ok(wire::Page::whole(plans.into_iter().filter(|p| !p.retired || p.tenants > 0).map(view).collect()))
}

pub async fn show(app: &App, _permit: &Permit<Read>, name: &PlanName) -> Result<wire::PlanView, ControlError> {
    let plan = app.store().plan_get(name).await?;
    Ok(view(plan.ok_or_else(|| ControlError::NoPlan(name.clone()))?))
}

fn view(stored: StoredPlan) -> wire::PlanView {
    wire::PlanView {
        name: stored.plan.name,
        price_cents: stored.plan.price_cents,
        class: stored.plan.class,
        limits: stored.plan.limits,
        tenants: u64::try_from(stored.tenants).unwrap_or(0),
    }
}
