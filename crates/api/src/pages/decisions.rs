//! `/tenants/{tenant}/decision`: where a tenant belongs and why, what was refused, what would change the answer; and the
//! same for what it does not need yet. Moves nobody.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::Session,
    shown::{Frame, money, or_unknown},
};
use askama::Template;
use axum::{
    extract::{Path, Query},
    http::Method,
    response::Response,
};
use berth_wire::{Decision, DecisionAsk, Profile, Tenant};
use serde::Deserialize;

/// Where the placement engine would put it.
pub struct DecisionShown {
    pub place: String,
    pub money: String,
    pub confidence: String,
    pub reasons: Vec<String>,
    pub flip: String,
    pub refused: Vec<berth_wire::Refusal>,
    pub others: Vec<OtherShown>,
}

/// Another plan that would hold it.
pub struct OtherShown {
    pub plan: String,
    pub class: String,
    pub price: String,
    pub cost: String,
    pub place: String,
}

impl DecisionShown {
    pub fn of(decision: &Decision) -> Self {
        let place = match (&decision.class, &decision.plan, &decision.provider) {
            (Some(class), Some(plan), Some(provider)) => {
                let cell = decision.cell.clone().unwrap_or_else(|| "a new cell".to_owned());
                format!("{cell}: {class}, plan {plan}, at {provider} ({})", decision.regions.join(", "))
            }
            _ => "nothing fits".to_owned(),
        };
        let flip = decision.flip.as_ref();
        Self {
            place,
            money: format!(
                "costs {}, leaves {}",
                or_unknown(decision.monthly_cost_cents, money),
                or_unknown(decision.margin_cents, money)
            ),
            confidence: format!("{:.0} %", decision.confidence * 100.0),
            reasons: decision.reasons.clone(),
            flip: flip.map(|f| format!("{} {} instead of {}: {}", f.field, f.to, f.from, f.then)).unwrap_or_default(),
            refused: decision.refused.clone(),
            others: decision.alternatives.iter().map(other).collect(),
        }
    }
}

fn other(other: &berth_wire::Alternative) -> OtherShown {
    OtherShown {
        plan: other.plan.clone(),
        class: other.class.to_string(),
        price: money(other.price_cents),
        cost: or_unknown(other.monthly_cost_cents, money),
        place: other.cell.clone().unwrap_or_else(|| format!("a new cell at {}", other.provider)),
    }
}

/// What a person tries out; empty fields are the tenant's own.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// `vehicles=12, users=3`
    quantities: String,
    compliance: String,
    locations: String,
    residency: String,
    latency_ms: String,
    regions: String,
    budget: String,
}

impl Asked {
    fn is_empty(&self) -> bool {
        let all = [
            &self.quantities,
            &self.compliance,
            &self.locations,
            &self.residency,
            &self.latency_ms,
            &self.regions,
            &self.budget,
        ];
        all.iter().all(|field| field.trim().is_empty())
    }

    fn profile(&self) -> Result<Profile, Failure> {
        let wrong = |what: &str, hint: &str| Failure::Field {
            detail: format!("`{what}` cannot be read"),
            hint: hint.to_owned(),
        };
        let words = |text: &str| {
            text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<String>>()
        };
        let number = |what: &str, text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse::<u64>().map(Some).map_err(|_| wrong(what, "write a whole number")),
        };
        let mut profile = Profile {
            compliance: words(&self.compliance),
            locations: words(&self.locations),
            residency: Some(self.residency.trim().to_owned()).filter(|word| !word.is_empty()),
            latency_ms: number("latency", &self.latency_ms)?,
            regions: number("regions", &self.regions)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            budget_cents: number("budget", &self.budget)?.map(|dollars| dollars.saturating_mul(100)),
            ..Profile::default()
        };
        for pair in words(&self.quantities) {
            let parsed = pair.split_once('=').and_then(|(name, amount)| Some((name.to_owned(), amount.parse().ok()?)));
            let (name, amount) = parsed.ok_or_else(|| wrong("quantities", "write them like `vehicles=12, users=3`"))?;
            profile.quantities.insert(name, amount);
        }
        Ok(profile)
    }
}

#[derive(Template)]
#[template(path = "pages/decision.html")]
struct DecisionPage {
    frame: Frame,
    tenant: String,
    cell: String,
    decision: DecisionShown,
    asked: Asked,
    what_if: bool,
}

/// `GET /tenants/{tenant}/decision`
pub async fn page(session: Session, Path(name): Path<String>, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}", escaped(&name));
    let tenant: Tenant = session.get(&path).await?;
    let what_if = !asked.is_empty();
    let decision: Decision = if what_if {
        let wanted = DecisionAsk { tenant: Some(tenant.name.clone()), profile: Some(asked.profile()?) };
        session.send(Method::POST, "/v1/decisions", &wanted, &super::session::once()).await?
    } else {
        session.get(&format!("{path}/decision")).await?
    };
    html(&DecisionPage {
        frame: Frame::of(&session, "tenants"),
        tenant: tenant.name.to_string(),
        cell: or_unknown(tenant.cell.as_ref(), ToString::to_string),
        decision: DecisionShown::of(&decision),
        asked,
        what_if,
    })
}
