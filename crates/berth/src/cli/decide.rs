//! `berth decide`: where a tenant belongs, and why.

use super::{
    CliError, Context,
    table::{Table, facts},
    text,
};
use berth_domain::{Cents, TenantName};
use berth_placement::{Catalogue, Engine, PlanFacts, Policy, Profile};
use berth_wire::{Decision, DecisionAsk};
use clap::Args;
use jiff::tz::TimeZone;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  berth decide acme\n  berth decide --profile profile.yaml --offline berth.yaml")]
pub struct Decide {
    /// A tenant that there is, by its profile
    tenant: Option<TenantName>,
    /// What is needed, as YAML or JSON; with a tenant, in place of what its profile says
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Keep the profile as the tenant's own
    #[arg(long, requires = "profile", requires = "tenant", conflicts_with = "offline")]
    keep: bool,
    /// Ask no server: the plans of this stack file, every offer of the catalogue, no cells
    #[arg(long, value_name = "STACK", conflicts_with = "tenant", requires = "profile")]
    offline: Option<PathBuf>,
}

impl Decide {
    pub async fn run(self, cx: &Context) -> Result<(), CliError> {
        let profile = self.profile.as_deref().map(read_profile).transpose()?;
        if self.tenant.is_none() && profile.is_none() {
            return Err(CliError::request("nobody to decide about", "name a tenant, or give `--profile FILE`"));
        }
        let decision = match &self.offline {
            Some(stack) => offline(stack, &profile.unwrap_or_default(), cx)?,
            None => {
                let profile = profile.map(over_the_wire);
                if let (true, Some(tenant), Some(profile)) = (self.keep, &self.tenant, &profile) {
                    cx.client.tenant_set_profile(tenant.as_str(), profile).await?;
                }
                cx.client.decide(&DecisionAsk { tenant: self.tenant, profile }).await?
            }
        };
        cx.show(&decision, screen)
    }
}

pub(super) fn read_profile(path: &Path) -> Result<Profile, CliError> {
    let bad = |says| {
        CliError::request(format!("{} is not a profile: {says}", path.display()), "docs/decide.md lists its fields")
    };
    Profile::parse(&text::read(path)?).map_err(bad)
}

pub(super) fn over_the_wire(profile: Profile) -> berth_wire::Profile {
    let value = serde_json::to_value(profile).expect("a profile has text keys and whole numbers");
    serde_json::from_value(value).expect("both profiles have the same fields")
}

fn offline(path: &Path, profile: &Profile, cx: &Context) -> Result<Decision, CliError> {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let files = |name: &str| std::fs::read_to_string(folder.join(name));
    let stack = berth_config::parse(&text::read(path)?, None, &files)
        .map_err(|mistakes| CliError::Stack { path: path.to_owned(), mistakes })?;
    let today = cx.now.to_zoned(TimeZone::UTC).date();
    let section = |key: &str| stack.placement.get(key).map(ToString::to_string);
    let wrong = |key: &str, says: String| {
        CliError::request(format!("`placement.{key}` is not right:\n{says}"), "docs/decide.md describes it")
    };
    let catalogue = Catalogue::over(section("catalogue").as_deref().unwrap_or("{}"), today)
        .map_err(|mistakes| wrong("catalogue", mistakes.to_string()))?;
    let policy = match section("policy") {
        Some(text) => Policy::parse(&text).map_err(|says| wrong("policy", says))?,
        None => Policy::default(),
    };
    let plans = stack.plans.iter().map(|(name, plan)| PlanFacts {
        name: name.to_string(),
        price_cents: plan.price,
        class: Some(plan.class),
        quantities: plan.limits.quantities.clone(),
        body_bytes: plan.limits.body_bytes,
        cpu_millis: plan.shape.cpu_millis.unwrap_or(0).into(),
        memory_mib: plan.shape.memory_mib.unwrap_or(0).into(),
        disk_gib: plan.shape.disk_gib.unwrap_or(0).into(),
    });
    // Not this machine: whoever asks on paper asks what could be bought.
    let providers: Vec<String> = catalogue.providers.keys().filter(|name| *name != "local").cloned().collect();
    let engine = Engine::new(catalogue, plans.collect(), Vec::new(), policy, Some(&providers), today)
        .map_err(|fault| wrong("policy", format!("{fault} ({})", fault.hint())))?;
    let decision = engine.decide("", profile, 1).map_err(|faults| {
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        CliError::request(all.join("\n"), faults.first().map_or("", |fault| fault.hint()))
    })?;
    let value = serde_json::to_value(decision).expect("a decision has finite numbers");
    Ok(serde_json::from_value(value).expect("both decisions have the same fields"))
}

fn screen(decision: &Decision) -> String {
    let unknown = || "?".to_owned();
    let money = |cents: Option<Cents>| cents.map_or_else(unknown, |cents| format!("{cents} a month"));
    let mut text = match (&decision.class, &decision.plan) {
        (Some(class), Some(plan)) => facts(&[
            ("class", format!("{class} ({})", decision.mode.map(|mode| mode.to_string()).unwrap_or_default())),
            ("plan", plan.clone()),
            ("provider", decision.provider.clone().unwrap_or_else(unknown)),
            ("regions", decision.regions.join(", ")),
            ("cell", decision.cell.clone().unwrap_or_else(|| "a new one".to_owned())),
            ("cost", money(decision.monthly_cost_cents)),
            ("margin", money(decision.margin_cents)),
            ("confidence", format!("{:.0} %", decision.confidence * 100.0)),
        ]),
        _ => "nothing fits\n".to_owned(),
    };
    text.push_str("\nbecause\n");
    for reason in &decision.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    if let Some(flip) = &decision.flip {
        text.push_str(&format!("\nwith {} {} instead of {}: {}\n", flip.field, flip.to, flip.from, flip.then));
    }
    if !decision.alternatives.is_empty() {
        let mut table = Table::new(&["INSTEAD", "CLASS", ">PRICE/MONTH", ">COST", "WHERE"]);
        for other in &decision.alternatives {
            let place = other.cell.clone().unwrap_or_else(|| format!("new, {}", other.provider));
            let cost = other.monthly_cost_cents.map_or_else(unknown, |cents| cents.to_string());
            table.row([other.plan.clone(), other.class.to_string(), other.price_cents.to_string(), cost, place]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    if !decision.refused.is_empty() {
        let mut table = Table::new(&["REFUSED", "CONSTRAINT", "WANTED", "HAS"]);
        for r in &decision.refused {
            let place = r.cell.as_ref().or(r.class.as_ref()).cloned().unwrap_or_else(unknown);
            table.row([place, r.constraint.clone(), r.wanted.clone(), r.has.clone()]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::screen;

    #[test]
    fn a_decision_is_shown_with_its_reasons_and_what_would_change_it() {
        let decision = serde_json::from_value(serde_json::json!({
            "tenant": "acme", "mode": "multi_tenant", "class": "shared", "provider": "hetzner", "regions": ["ash"],
            "plan": "hobby", "cell": null, "monthly_cost_cents": 92, "currency": "USD", "margin_cents": 1408,
            "confidence": 1.0, "reasons": ["a new cell from the offer x"],
            "refused": [{ "class": "dedicated", "constraint": "plan", "wanted": "a", "has": "b" }],
            "flip": { "field": "vehicles", "from": 3, "to": 6, "then": "dedicated on plan starter" },
            "alternatives": [{ "mode": "single_tenant", "class": "dedicated", "plan": "starter", "provider": "fly", "regions": ["iad"],
                "cell": null, "price_cents": 4900, "monthly_cost_cents": 3100, "cost_change_cents": 3008, "reason": "x" }]
        }));
        let text = screen(&decision.unwrap());
        for part in [
            "cost        $0.92 a month",
            "cell        a new one",
            "with vehicles 6 instead of 3",
            "REFUSED",
            "new, fly",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
