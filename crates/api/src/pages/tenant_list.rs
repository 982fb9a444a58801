//! `/tenants`: who, on which plan, where, in which state; what each uses of its plan, costs and leaves. One question for the
//! figures of the whole list, however many there are.

use super::{
    failure::{Failure, html},
    session::Session,
    shown::{Frame, State, count, money, or_unknown, state, tenant_state},
};
use askama::Template;
use axum::{extract::Query, response::Response};
use berth_domain::Cents;
use berth_wire::{Page, PlanView, Tenant, TenantFigures};
use serde::Deserialize;
use std::collections::HashMap;

/// How many tenants a page lists; beyond that the filter finds them.
const SHOWN: usize = 2000;
/// From this share of a limit on it is said in words, as the triggers' usual threshold has it.
const NEARLY_PERCENT: u128 = 80;

struct TenantRow {
    name: String,
    plan: String,
    cell: Option<String>,
    state: State,
    usage: Usage,
    price: String,
    cost: String,
    margin: String,
    loss: bool,
    host: String,
    operation: Option<String>,
}

/// Of the quantity that is nearest to its limit.
struct Usage {
    /// `91 %`, `?` or empty where its plan limits nothing.
    share: String,
    /// `gps points per day`, and `45 678 of 50 000`.
    what: String,
    of: String,
    nearly: Option<State>,
}

impl Usage {
    fn of(figures: Option<&TenantFigures>) -> Self {
        let bare = |said: &str| Self { share: said.to_owned(), what: String::new(), of: String::new(), nearly: None };
        let Some(figures) = figures else { return bare("?") };
        let (Some(quantity), Some(limit)) = (&figures.quantity, figures.limit) else { return bare("no limit") };
        let Some(used) = figures.used else { return bare("?") };
        let percent = (u128::from(used) * 100).checked_div(u128::from(limit));
        let over = used > limit;
        Self {
            share: percent.map_or_else(|| count(used), |percent| format!("{percent}\u{a0}%")),
            what: quantity.replace('_', " "),
            of: format!("{} of {}", count(used), count(limit)),
            nearly: match percent {
                _ if over => Some(state("over", "bad")),
                Some(percent) if percent >= NEARLY_PERCENT => Some(state("nearly used up", "busy")),
                _ => None,
            },
        }
    }
}

#[derive(Template)]
#[template(path = "pages/tenants.html")]
struct TenantsPage {
    frame: Frame,
    filter: String,
    rows: Vec<TenantRow>,
    all: usize,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    #[serde(default)]
    filter: String,
}

/// `GET /tenants?filter=`: words that a tenant's name, plan, cell, state or host contains, all of them.
pub async fn page(session: Session, Query(query): Query<Filter>) -> Result<Response, Failure> {
    let tenants: Vec<Tenant> = session.list("/v1/tenants", SHOWN).await?;
    let plans: Vec<PlanView> = session.list("/v1/plans", SHOWN).await?;
    // Prices that nobody can reckon with are unknown here, and the page of costs says why.
    let figures: Page<TenantFigures> =
        session.get("/v1/costs/tenants").await.unwrap_or_else(|_| Page::whole(Vec::new()));
    let figures: HashMap<&str, &TenantFigures> = figures.items.iter().map(|of| (of.tenant.as_str(), of)).collect();
    let filter = query.filter.trim().to_lowercase();
    let rows = tenants.iter().filter(|tenant| fits(tenant, &filter)).map(|tenant| {
        let figures = figures.get(tenant.name.as_str()).copied();
        let margin = figures.and_then(|of| of.margin_cents);
        TenantRow {
            name: tenant.name.to_string(),
            plan: tenant.plan.to_string(),
            cell: tenant.cell.as_ref().map(ToString::to_string),
            state: tenant_state(tenant.state),
            usage: Usage::of(figures),
            price: or_unknown(plans.iter().find(|plan| plan.name == tenant.plan), |plan| money(plan.price_cents)),
            cost: or_unknown(figures.and_then(|of| of.cost_cents), money),
            margin: or_unknown(margin, money),
            loss: margin.is_some_and(|margin| margin < Cents::new(0)),
            host: tenant.routed().into_iter().next().unwrap_or_default(),
            operation: tenant.operation.map(|id| id.to_string()),
        }
    });
    html(&TenantsPage { frame: Frame::of(&session, "tenants"), rows: rows.collect(), all: tenants.len(), filter })
}

fn fits(tenant: &Tenant, filter: &str) -> bool {
    let cell = tenant.cell.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = format!("{} {} {cell} {} {}", tenant.name, tenant.plan, tenant.state, tenant.routed().join(" "));
    filter.split_whitespace().all(|word| text.contains(word))
}
