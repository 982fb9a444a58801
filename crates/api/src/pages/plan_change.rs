//! `/tenants/{tenant}/plan`: another plan with what it costs and brings, before it is made. Changes nothing until a person
//! says so.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session},
    shown::{Frame, money, or_unknown},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::PlanName;
use berth_wire::{PlanPrice, PlanSide, PlanView, Tenant, TenantChange};
use serde::Deserialize;

const PLANS_MOST: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    plan: String,
}

struct Side {
    when: &'static str,
    plan: String,
    class: String,
    cell: String,
    price: String,
    cost: String,
    margin: String,
}

impl Side {
    fn of(when: &'static str, side: &PlanSide) -> Self {
        let cell = or_unknown(side.cell.as_ref(), ToString::to_string);
        Self {
            when,
            plan: side.plan.to_string(),
            class: side.class.to_string(),
            cell: if side.new_cell { format!("{cell} (new)") } else { cell },
            price: money(side.price_cents),
            cost: or_unknown(side.cost_cents, money),
            margin: or_unknown(side.margin_cents, money),
        }
    }
}

#[derive(Template)]
#[template(path = "pages/plan_change.html")]
struct PlanPage {
    frame: Frame,
    tenant: String,
    plan: String,
    /// Others that are sold, with their prices.
    plans: Vec<(String, String)>,
    wanted: String,
    sides: Vec<Side>,
    /// What its customer pays more or less a month.
    more: String,
    moves: bool,
}

/// `GET /tenants/{tenant}/plan?plan=`
pub async fn page(
    session: Session,
    Path(name): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}", escaped(&name));
    let tenant: Tenant = session.get(&path).await?;
    let plans: Vec<PlanView> = session.list("/v1/plans", PLANS_MOST).await?;
    let sold = plans.iter().filter(|plan| plan.name != tenant.plan);
    let plans: Vec<(String, String)> = sold.map(|plan| (plan.name.to_string(), money(plan.price_cents))).collect();
    let to = wanted.plan.trim();
    let price: Option<PlanPrice> = match to {
        "" => None,
        to => Some(session.get(&format!("{path}/plan-price?plan={}", escaped(to))).await?),
    };
    let sides = price.iter().flat_map(|price| [Side::of("now", &price.now), Side::of("then", &price.then)]);
    let change = price.as_ref().map(|price| price.then.price_cents - price.now.price_cents);
    html(&PlanPage {
        frame: Frame::of(&session, "tenants"),
        tenant: tenant.name.to_string(),
        plan: tenant.plan.to_string(),
        sides: sides.collect(),
        more: change.map_or_else(String::new, |change| match change.get() {
            0 => "the same".to_owned(),
            cents if cents < 0 => format!("{} less", money(berth_domain::Cents::new(-cents))),
            _ => format!("{} more", money(change)),
        }),
        moves: price.as_ref().is_some_and(|price| price.moves),
        plans,
        wanted: to.to_owned(),
    })
}

/// `POST /tenants/{tenant}/plan`: puts it on the plan that was priced.
pub async fn make(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let plan = PlanName::new(change.field("plan").unwrap_or_default())
        .map_err(|bad| Failure::Field { detail: bad.to_string(), hint: "choose a plan of the list".to_owned() })?;
    let path = format!("/v1/tenants/{}", escaped(&name));
    let _: Tenant = change.session.send(Method::PATCH, &path, &TenantChange { plan }, &change.once()).await?;
    // Where its plan asks for another class, the next page says what the move would be.
    let next = if change.field("moves").is_some() {
        format!("/tenants/{}/move", escaped(&name))
    } else {
        format!("/tenants/{}", escaped(&name))
    };
    Ok(Redirect::to(&next).into_response())
}
