//! Where a tenant belongs: the placement engine over the stack, the cells and the profiles that there are.
//!
//! Never decides itself and never moves anybody: an answer is an answer until somebody acts on it.

use crate::{
    App, Change, ControlError, Permit, Read, app::StackInForce, audited, costs::prices, judge, tenants,
    workflows::measured,
};
use berth_config::{Shape, Stack};
use berth_domain::{CellClass, CellName, CellState, Cents};
use berth_placement::{Catalogue, CellFacts, Engine, Measured, Mistakes, PlanFacts, Policy, Profile, Size, TRAFFIC};
use berth_store::{Cell, CellFigure, Tenant};
use berth_wire as wire;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};
use tracing::warn;

/// Confidence is counted over neighbours drawn by it: a fixed one, so that the same question has the same answer.
pub(crate) const SEED: u64 = 1;

pub async fn decide(
    app: &App,
    _permit: &Permit<Read>,
    asked: &wire::DecisionAsk,
) -> Result<wire::Decision, ControlError> {
    let engine = engine(app).await?;
    let mut profile = asked.profile.clone().map(engine_profile).transpose()?.unwrap_or_default();
    let name = match &asked.tenant {
        Some(name) => {
            let tenant = tenants::known(app, name.as_str()).await?;
            profile = over(judge::profile(app, &engine, &tenant).await?, profile);
            tenant.name.to_string()
        }
        None => String::new(),
    };
    answer(&engine, &name, &profile)
}

/// Where a tenant that there is belongs, by the profile it has and by what it uses.
pub async fn of_tenant(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::Decision, ControlError> {
    let tenant = tenants::known(app, who).await?;
    let engine = engine(app).await?;
    answer(&engine, tenant.name.as_str(), &judge::profile(app, &engine, &tenant).await?)
}

pub async fn profile(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::Profile, ControlError> {
    let tenant = tenants::known(app, who).await?;
    Ok(serde_json::from_value(serde_json::to_value(profile_of(&tenant)?)?)?)
}

/// Replaces what a tenant needs. A profile that nobody could be placed by is refused, with everything wrong in it.
pub async fn set_profile(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    wanted: wire::Profile,
) -> Result<wire::Profile, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    let engine = engine(app).await?;
    let profile = checked(engine.catalogue(), wanted)?;
    let after = serde_json::to_value(&profile)?;
    let mut tx = app.store().begin().await?;
    tx.tenant_set_profile(tenant.id, &after).await?;
    let before = tenant.settings.get("profile").cloned();
    audited(&mut tx, permit, "tenant.profile", &format!("tenant/{}", tenant.name), before, Some(after.clone())).await?;
    tx.commit().await?;
    // A place that breaks it is said now and not by tomorrow's look. The profile is kept whatever comes of that.
    if let Err(error) = judge_now(app, &engine, &tenant).await {
        warn!(tenant = %tenant.name, error = error.full(), "tenant {} is judged later: {}", tenant.name, error.full());
    }
    Ok(serde_json::from_value(after)?)
}

async fn judge_now(app: &App, engine: &Engine, tenant: &Tenant) -> Result<(), ControlError> {
    let Some(tenant) = app.store().tenant_get(tenant.id).await?.filter(judge::is_judged) else { return Ok(()) };
    judge::judge(app, engine, &app.stack().await?.stack.usage, &tenant).await?;
    Ok(())
}

/// A profile that somebody can be placed by, or everything wrong in it.
pub(crate) fn checked(catalogue: &Catalogue, wanted: wire::Profile) -> Result<Profile, ControlError> {
    let profile = Profile { cell: None, ..engine_profile(wanted)? };
    let faults = profile.faults(catalogue);
    if faults.is_empty() { Ok(profile) } else { Err(ControlError::BadProfile(faults)) }
}

fn answer(engine: &Engine, tenant: &str, profile: &Profile) -> Result<wire::Decision, ControlError> {
    let decision = engine.decide(tenant, profile, SEED).map_err(ControlError::BadProfile)?;
    Ok(serde_json::from_value(serde_json::to_value(decision)?)?)
}

pub(crate) fn engine_profile(profile: wire::Profile) -> Result<Profile, ControlError> {
    Ok(serde_json::from_value(serde_json::to_value(profile)?)?)
}

/// What the tenant needs, and where it is.
pub(crate) fn profile_of(tenant: &Tenant) -> Result<Profile, ControlError> {
    let stored = tenant.settings.get("profile").cloned().unwrap_or_else(|| json!({}));
    let profile: Profile = serde_json::from_value(stored)?;
    Ok(Profile { cell: Some(tenant.cell_name.to_string()), ..profile })
}

/// The same with the region that the stack file binds the tenant to: what a decision about it has to keep.
pub(crate) fn needs_of(stack: &Stack, tenant: &Tenant) -> Result<Profile, ControlError> {
    let bound = stack.residence(&tenant.name).filter(|home| home.bound);
    Ok(Profile { region: bound.map(|home| home.region.to_owned()), ..profile_of(tenant)? })
}

/// What was said now stands before what is stored.
pub(crate) fn over(stored: Profile, now: Profile) -> Profile {
    let or = |now: Vec<String>, stored: Vec<String>| if now.is_empty() { stored } else { now };
    // What is said now counts, and not what was measured.
    let sent_bytes = if now.quantities.contains_key(TRAFFIC) { None } else { stored.sent_bytes };
    let mut quantities = stored.quantities;
    quantities.extend(now.quantities);
    let mut errors = stored.forecast_error_percent;
    errors.extend(now.forecast_error_percent);
    Profile {
        budget_cents: now.budget_cents.or(stored.budget_cents),
        quantities,
        locations: or(now.locations, stored.locations),
        regions: now.regions.or(stored.regions),
        compliance: or(now.compliance, stored.compliance),
        residency: now.residency.or(stored.residency),
        region: now.region.or(stored.region),
        sent_bytes,
        latency_ms: now.latency_ms.or(stored.latency_ms),
        throughput_per_s: now.throughput_per_s.or(stored.throughput_per_s),
        users: now.users.or(stored.users),
        upload_bytes: now.upload_bytes.or(stored.upload_bytes),
        growth_percent_per_month: now.growth_percent_per_month.or(stored.growth_percent_per_month),
        forecast_error_percent: errors,
        cell: now.cell.or(stored.cell),
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// What was read last, of which section and on which day.
type LastRead = (serde_json::Map<String, serde_json::Value>, Date, Catalogue, Policy);

/// What the stack file says of placing, checked. Mistakes are the stack file's.
///
/// Read once a day and stack file: every new tenant asks for it, and reading the catalogue is most of the answer's time.
pub(crate) fn settings(stack: &Stack) -> Result<(Catalogue, Policy), ControlError> {
    static KNOWN: Mutex<Option<Box<LastRead>>> = Mutex::new(None);
    let day = today();
    let known = |known: &Option<Box<LastRead>>| {
        let (section, of, catalogue, policy) = &**known.as_ref()?;
        (*section == stack.placement && *of == day).then(|| (catalogue.clone(), policy.clone()))
    };
    if let Some(settings) = known(&KNOWN.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(settings);
    }
    let (catalogue, policy) = read_settings(stack)?;
    let read = Box::new((stack.placement.clone(), day, catalogue.clone(), policy.clone()));
    *KNOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
    Ok((catalogue, policy))
}

fn read_settings(stack: &Stack) -> Result<(Catalogue, Policy), ControlError> {
    let bad = |key: &str, says: String| ControlError::BadPlacement { key: format!("placement.{key}"), says };
    let catalogue = catalogue(stack, today()).map_err(|mistakes| bad("catalogue", mistakes.to_string()))?;
    let policy = policy(stack).map_err(|says| bad("policy", says))?;
    Ok((catalogue, policy))
}

/// A budget that no cost could be held against, when it is applied; a rate may leave the catalogue later.
pub(crate) fn budget(stack: &Stack, catalogue: &Catalogue) -> Result<(), ControlError> {
    match wrong_budget(stack, catalogue) {
        Some((key, says)) => Err(ControlError::BadPlacement { key, says }),
        None => Ok(()),
    }
}

fn wrong_budget(stack: &Stack, catalogue: &Catalogue) -> Option<(String, String)> {
    let currency = &stack.budget.as_ref()?.currency;
    let says = || {
        let rate = format!("{{ as_of: DAY, source: WHO, usd: {{ {currency}: … }} }}");
        format!("the catalogue has no rate for {currency}: give one as `placement.catalogue.rates: {rate}`")
    };
    (!catalogue.rates.knows(currency)).then(|| ("budget.currency".to_owned(), says()))
}

fn catalogue(stack: &Stack, day: Date) -> Result<Catalogue, Mistakes> {
    Catalogue::over(stack.placement.get("catalogue").map(ToString::to_string).as_deref().unwrap_or("{}"), day)
}

fn policy(stack: &Stack) -> Result<Policy, String> {
    let policy = match stack.placement.get("policy") {
        Some(policy) => Policy::parse(&policy.to_string())?,
        None => Policy::default(),
    };
    policy.check().map_err(|fault| format!("{fault} ({})", fault.hint()))?;
    Ok(policy)
}

/// What is asked of a policy when it is applied, and not of one that is in force: that whoever lives alone has a class.
pub(crate) fn leaves_a_class(policy: &Policy) -> Result<(), ControlError> {
    alone(policy).map_err(|says| ControlError::BadPlacement { key: "placement.policy".to_owned(), says })
}

fn alone(policy: &Policy) -> Result<(), String> {
    policy.check_alone().map_err(|fault| format!("{fault} ({})", fault.hint()))
}

/// Every mistake in what the stack file says of placement, with its key.
pub(crate) fn wrong_settings(stack: &Stack, day: Date) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    match catalogue(stack, day) {
        Ok(catalogue) => wrong.extend(wrong_budget(stack, &catalogue)),
        Err(mistakes) => wrong.extend(mistakes.0.into_iter().map(|mistake| {
            let below = if mistake.key.is_empty() { String::new() } else { format!(".{}", mistake.key) };
            (format!("placement.catalogue{below}"), format!("{} ({})", mistake.fault, mistake.fault.hint()))
        })),
    }
    wrong.extend(
        policy(stack).and_then(|policy| alone(&policy)).err().map(|says| ("placement.policy".to_owned(), says)),
    );
    wrong
}

/// The engine over everything that is known now.
pub(crate) async fn engine(app: &App) -> Result<Engine, ControlError> {
    let in_force = app.stack().await?;
    let (catalogue, policy) = settings(&in_force.stack)?;
    let stored = app.store().plan_list().await?;
    let plans = stored.into_iter().filter(|plan| !plan.retired).map(|stored| {
        let shape = in_force.stack.plans.get(&stored.plan.name).map(|plan| plan.shape).unwrap_or_default();
        PlanFacts {
            name: stored.plan.name.to_string(),
            price_cents: stored.plan.price_cents,
            class: Some(stored.plan.class),
            quantities: stored.plan.limits.quantities,
            body_bytes: stored.plan.limits.body_bytes,
            cpu_millis: shape.cpu_millis.unwrap_or(0).into(),
            memory_mib: shape.memory_mib.unwrap_or(0).into(),
            disk_gib: shape.disk_gib.unwrap_or(0).into(),
        }
    });
    let cells = app.store().cell_list().await?;
    let figures = app.store().cell_figures(None).await?;
    let cells = cells.into_iter().map(|cell| facts(&in_force, &catalogue, &figures, cell)).collect();
    let adapters: BTreeSet<&String> = in_force.stack.providers.values().map(|provider| &provider.adapter).collect();
    let providers: Vec<String> = adapters.into_iter().cloned().collect();
    Engine::new(catalogue, plans.collect(), cells, policy, Some(&providers), today()).map_err(|fault| {
        ControlError::BadPlacement { key: "placement.policy".to_owned(), says: format!("{fault} ({})", fault.hint()) }
    })
}

/// A provider as the catalogue names it, and where it stands there.
pub(crate) fn place(
    stack: &Stack,
    catalogue: &Catalogue,
    provider: &str,
    region: Option<&str>,
) -> (String, Vec<String>) {
    let provider = match prices::adapter(stack, provider).as_str() {
        // An adapter that reaches anybody's machines: they stand at the provider that they are named by.
        "ssh" | "endpoint" if catalogue.providers.contains_key(provider) => provider.to_owned(),
        "ssh" => "host".to_owned(),
        adapter => adapter.to_owned(),
    };
    // A provider with one region needs none named.
    let only = catalogue.providers.get(&provider).filter(|known| known.sites.len() == 1);
    let site = region.map(str::to_owned).or_else(|| only.and_then(|known| known.sites.keys().next().cloned()));
    (provider, site.into_iter().collect())
}

/// What the stack file says that a cell costs.
pub(crate) fn declared_price(stack: &Stack, name: &CellName, class: CellClass) -> Option<Cents> {
    // A cell that was made for one tenant costs what its model in the stack file costs.
    let model = || stack.cells.values().find(|model| class == CellClass::Dedicated && model.class == class);
    stack.cells.get(name).or_else(model).and_then(|cell| cell.price)
}

fn facts(in_force: &StackInForce, catalogue: &Catalogue, figures: &[CellFigure], cell: Cell) -> CellFacts {
    let stack = &in_force.stack;
    let (provider, sites) = place(stack, catalogue, &cell.provider, cell.region.as_deref());
    let shape: Shape = serde_json::from_value(cell.shape).unwrap_or_default();
    let figure =
        |what: &str| figures.iter().find(|it| it.cell == cell.id && it.figure.what == what).map(|it| it.figure.value);
    CellFacts {
        measured: Measured::of(figure(measured::API), figure(measured::INGEST)),
        price_cents: declared_price(stack, &cell.name, cell.class),
        name: cell.name.to_string(),
        class: cell.class,
        provider,
        sites,
        tenants: u32::try_from(cell.tenants).unwrap_or(u32::MAX),
        max_tenants: u32::try_from(cell.max_tenants).unwrap_or(0),
        takes_tenants: cell.state == CellState::Ready,
        promises: None,
        size: size(shape),
    }
}

pub(crate) fn size(shape: Shape) -> Size {
    let amount = |amount: Option<u32>| amount.map(u64::from);
    Size {
        cpu_millis: amount(shape.cpu_millis),
        memory_mib: amount(shape.memory_mib),
        disk_gib: amount(shape.disk_gib),
    }
}

#[cfg(test)]
mod tests {
    use super::{place, settings};

    #[test]
    fn a_host_stands_at_the_provider_that_it_is_named_by() {
        let file = "stack: s\nservices: { web: { command: [web], health: / } }\nproviders:\n  hetzner-robot: { adapter: ssh }\n  \
                    desk: { adapter: ssh }\n  hetzner: { adapter: local }\n";
        let stack = berth_config::parse(file, None, &berth_config::no_files).unwrap();
        let (catalogue, _) = settings(&stack).unwrap();
        let of = |provider: &str, region: Option<&str>| place(&stack, &catalogue, provider, region);
        assert_eq!(of("hetzner-robot", Some("fsn1")), ("hetzner-robot".to_owned(), vec!["fsn1".to_owned()]));
        assert_eq!(of("hetzner-robot", None), ("hetzner-robot".to_owned(), Vec::new()));
        // One that nobody knows is a host of its own, and this machine stays this machine whatever it is called.
        assert_eq!(of("desk", None), ("host".to_owned(), vec!["host".to_owned()]));
        assert_eq!(of("hetzner", None), ("local".to_owned(), vec!["local".to_owned()]));
    }
}
