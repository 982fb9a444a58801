//! `/tenants/{tenant}/decision`: where a tenant belongs and why, what was refused, what would change the answer; and the
//! same for what it does not need yet. `/tenants/{tenant}/profile`: what it needs, kept. Moves nobody.

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
    /// As it is kept.
    fn of(profile: &Profile) -> Self {
        let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
        let quantities: Vec<String> = profile.quantities.iter().map(|(name, n)| format!("{name}={n}")).collect();
        Self {
            quantities: quantities.join(", "),
            compliance: profile.compliance.join(", "),
            locations: profile.locations.join(", "),
            residency: profile.residency.clone().unwrap_or_default(),
            latency_ms: number(profile.latency_ms),
            regions: number(profile.regions.map(u64::from)),
            budget: profile.budget_cents.map(|n| format!("{}.{:02}", n / 100, n % 100)).unwrap_or_default(),
        }
    }

    /// Of a form's fields, by their names.
    pub fn typed(field: impl Fn(&str) -> String) -> Self {
        Self {
            quantities: field("quantities"),
            compliance: field("compliance"),
            locations: field("locations"),
            residency: field("residency"),
            latency_ms: field("latency_ms"),
            regions: field("regions"),
            budget: field("budget"),
        }
    }

    pub fn is_empty(&self) -> bool {
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

    pub fn profile(&self) -> Result<Profile, Failure> {
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
        let budget_cents = match self.budget.trim() {
            "" => None,
            text => Some(cents(text).ok_or_else(|| wrong("budget", "write dollars, as in `49` or `49.50`"))?),
        };
        let mut profile = Profile {
            compliance: words(&self.compliance),
            locations: words(&self.locations),
            residency: Some(self.residency.trim().to_owned()).filter(|word| !word.is_empty()),
            latency_ms: number("latency", &self.latency_ms)?,
            regions: number("regions", &self.regions)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            budget_cents,
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

/// Of dollars with two decimals at most.
fn cents(text: &str) -> Option<u64> {
    let (dollars, part) = text.split_once('.').unwrap_or((text, "00"));
    let part: u64 = match part.len() {
        1 => part.parse::<u64>().ok()? * 10,
        2 => part.parse().ok()?,
        _ => return None,
    };
    dollars.parse::<u64>().ok()?.checked_mul(100)?.checked_add(part)
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

#[derive(Template)]
#[template(path = "pages/profile.html")]
struct ProfilePage {
    frame: Frame,
    tenant: String,
    asked: Asked,
    /// What the form has no field for.
    others: Vec<String>,
}

/// `GET /tenants/{tenant}/profile`
pub async fn profile(session: Session, Path(name): Path<String>) -> Result<Response, Failure> {
    let profile: Profile = session.get(&format!("/v1/tenants/{}/profile", escaped(&name))).await?;
    html(&ProfilePage {
        frame: Frame::of(&session, "tenants"),
        tenant: name,
        asked: Asked::of(&profile),
        others: others(&profile),
    })
}

fn others(profile: &Profile) -> Vec<String> {
    let numbers = [
        ("throughput_per_s", profile.throughput_per_s),
        ("users", profile.users),
        ("upload_bytes", profile.upload_bytes),
        ("growth_percent_per_month", profile.growth_percent_per_month.map(u64::from)),
    ];
    let numbers = numbers.into_iter().filter_map(|(name, n)| Some(format!("{name}: {}", n?)));
    let errors = &profile.forecast_error_percent;
    numbers.chain(errors.iter().map(|(name, percent)| format!("forecast error of {name}: {percent} %"))).collect()
}

/// `POST /tenants/{tenant}/profile`: what the form has no field for stays as it is.
pub async fn keep(Path(name): Path<String>, change: Change) -> Result<Response, Failure> {
    let path = format!("/v1/tenants/{}/profile", escaped(&name));
    let said = Asked::typed(|field| change.whole(field).to_owned()).profile()?;
    let now: Profile = change.session.get(&path).await?;
    let wanted = Profile {
        throughput_per_s: now.throughput_per_s,
        users: now.users,
        upload_bytes: now.upload_bytes,
        growth_percent_per_month: now.growth_percent_per_month,
        forecast_error_percent: now.forecast_error_percent,
        ..said
    };
    let _kept: Profile = change.session.send(Method::PUT, &path, &wanted, &change.once()).await?;
    Ok(Redirect::to(&format!("/tenants/{}/decision", escaped(&name))).into_response())
}

#[cfg(test)]
mod tests {
    use super::cents;

    #[test]
    fn dollars_have_two_decimals_at_most() {
        let read = ["49", "49.5", "49.50", "0.05"].map(cents);
        assert_eq!(read, [Some(4900), Some(4950), Some(4950), Some(5)]);
        assert!(
            ["", "49.", "49.505", "-1", ".5", "1.-5", "99999999999999999999", "184467440737095517"]
                .iter()
                .all(|bad| cents(bad).is_none())
        );
    }
}
