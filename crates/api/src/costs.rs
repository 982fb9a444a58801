//! `/v1/costs`: what a month cost, who bore it, what is left; and what another plan would cost a tenant.

use crate::{
    Api,
    auth::By,
    extract::{Body, Path, Query},
    problem::{ApiResult, Problems},
};
use axum::{Json, extract::State};
use berth_control::{Change, Read, ReadTenant, costs};
use berth_domain::PlanName;
use berth_wire::{CostInvoice, CostMonth, Costs, InvoiceImport, Page, PhaseAnswer, PhaseAsk, PlanPrice, TenantFigures};
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct OfMonth {
    /// `2026-11`; absent: this month.
    #[param(pattern = "^[0-9]{4}-[0-9]{2}$")]
    month: Option<String>,
}

/// One month: by tenant, cell, provider and plan, with idle places shown, budget, forecast and advice.
#[utoipa::path(get, path = "/v1/costs", tag = "costs", params(OfMonth),
    responses((status = 200, body = Costs), Problems))]
pub async fn show(State(api): State<Api>, By(caller): By, Query(of): Query<OfMonth>) -> ApiResult<Json<Costs>> {
    let permit = caller.may(Read)?;
    Ok(Json(costs::show(&api.app, &permit, of.month.as_deref()).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LastMonths {
    /// How many months, this one included; 12 otherwise.
    #[param(minimum = 1, maximum = 60)]
    last: Option<u32>,
}

/// The last months, the oldest first.
#[utoipa::path(get, path = "/v1/costs/months", tag = "costs", params(LastMonths),
    responses((status = 200, body = Page<CostMonth>), Problems))]
pub async fn months(
    State(api): State<Api>,
    By(caller): By,
    Query(asked): Query<LastMonths>,
) -> ApiResult<Json<Page<CostMonth>>> {
    let permit = caller.may(Read)?;
    Ok(Json(costs::months(&api.app, &permit, asked.last.unwrap_or(12)).await?))
}

/// Every tenant with what it uses of its plan, and what it cost and left of this month so far. Always the whole list.
#[utoipa::path(get, path = "/v1/costs/tenants", tag = "costs",
    responses((status = 200, body = Page<TenantFigures>), Problems))]
pub async fn tenants(State(api): State<Api>, By(caller): By) -> ApiResult<Json<Page<TenantFigures>>> {
    let permit = caller.may(Read)?;
    Ok(Json(costs::tenants(&api.app, &permit).await?))
}

/// Takes in what a provider billed. It stands in place of what Berth computes.
#[utoipa::path(put, path = "/v1/costs/invoices", tag = "costs", request_body = InvoiceImport,
    responses((status = 200, body = CostInvoice), Problems))]
pub async fn import(
    State(api): State<Api>,
    By(caller): By,
    Body(invoice): Body<InvoiceImport>,
) -> ApiResult<Json<CostInvoice>> {
    let permit = caller.may(Change)?;
    Ok(Json(costs::import(&api.app, &permit, &invoice).await?))
}

/// Forgets an imported invoice: the month is computed again.
#[utoipa::path(delete, path = "/v1/costs/invoices/{month}/{provider}", tag = "costs",
    params(("month" = String, Path), ("provider" = String, Path)), responses((status = 200, body = Costs), Problems))]
pub async fn forget(
    State(api): State<Api>,
    By(caller): By,
    Path((month, provider)): Path<(String, String)>,
) -> ApiResult<Json<Costs>> {
    let permit = caller.may(Change)?;
    costs::forget(&api.app, &permit, &month, &provider).await?;
    Ok(Json(costs::show(&api.app, &caller.may(Read)?, Some(&month)).await?))
}

/// Whether it is time for the next growth phase: three of nine triggers. Changes nothing.
#[utoipa::path(post, path = "/v1/costs/phase", tag = "costs", request_body = PhaseAsk,
    responses((status = 200, body = PhaseAnswer), Problems))]
pub async fn phase(
    State(api): State<Api>,
    By(caller): By,
    Body(asked): Body<PhaseAsk>,
) -> ApiResult<Json<PhaseAnswer>> {
    let permit = caller.may(Read)?;
    Ok(Json(costs::phase(&api.app, &permit, &asked).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct WantedPlan {
    #[param(value_type = String)]
    plan: PlanName,
}

/// What another plan would cost and bring, before anything is changed.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/plan-price", tag = "costs",
    params(("tenant" = String, Path), WantedPlan), responses((status = 200, body = PlanPrice), Problems))]
pub async fn plan_price(
    State(api): State<Api>,
    By(caller): By,
    Path(who): Path<String>,
    Query(wanted): Query<WantedPlan>,
) -> ApiResult<Json<PlanPrice>> {
    let permit = caller.may(ReadTenant)?;
    Ok(Json(costs::plan_price(&api.app, &permit, &who, &wanted.plan).await?))
}
