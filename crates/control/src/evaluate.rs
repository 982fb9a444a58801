//! The WebHost guide's evaluation of one customer: the same engine, asked with the guide's usage metrics, those that
//! were measured where nobody says others.
//!
//! Changes nothing; what a judgement would do about it is `judge`'s business.

use crate::{
    App, ControlError, Permit, Read,
    decide::{self, engine_profile, over},
    judge, served, tenants, usage,
};
use berth_domain::UsagePeriod;
use berth_placement::{Engine, Leaving, Profile};
use berth_store::{Tenant, UsageRow};
use berth_usage::{Issue, Quota, Served, performance, period_start};
use berth_wire as wire;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// The guide's metrics. `None`: nobody measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    pub vehicles: Option<u64>,
    pub gps_points_today: Option<u64>,
    pub requests_today: Option<u64>,
    pub storage_mb: Option<u64>,
    pub peak_users: Option<u64>,
    pub response_ms: Option<f64>,
    pub error_share: Option<f64>,
    /// Percent a month.
    pub growth: Option<f64>,
    /// Shares of what its cell's members are promised.
    pub cpu_share: Option<f64>,
    pub memory_share: Option<f64>,
}

impl Metrics {
    /// What was said stands before what was measured.
    fn over(self, measured: Self) -> Self {
        Self {
            vehicles: self.vehicles.or(measured.vehicles),
            gps_points_today: self.gps_points_today.or(measured.gps_points_today),
            requests_today: self.requests_today.or(measured.requests_today),
            storage_mb: self.storage_mb.or(measured.storage_mb),
            peak_users: self.peak_users.or(measured.peak_users),
            response_ms: self.response_ms.or(measured.response_ms),
            error_share: self.error_share.or(measured.error_share),
            growth: self.growth.or(measured.growth),
            cpu_share: self.cpu_share.or(measured.cpu_share),
            memory_share: self.memory_share.or(measured.memory_share),
        }
    }

    fn fault(&self) -> Option<String> {
        // What shrinks is planned for as it is.
        let growth = self.growth.map(|growth| growth.max(0.0));
        let shares = [("error_rate", self.error_share), ("cpu", self.cpu_share), ("memory", self.memory_share)];
        let wrong = |most: f64| {
            move |(_, value): &(&str, Option<f64>)| value.is_some_and(|value| !(0.0..=most).contains(&value))
        };
        let others = [("average_response_time_ms", self.response_ms), ("growth_rate", growth)];
        let (name, value) = shares.into_iter().find(wrong(1.0)).or(others.into_iter().find(wrong(1e9)))?;
        Some(format!("`usage_metrics.{name}` is {}", value.unwrap_or_default()))
    }
}

/// What comes of it.
#[derive(Debug)]
pub struct Evaluation {
    /// Of a customer that there is.
    pub tenant: Option<wire::Tenant>,
    /// Where that one is: the provider of its cell.
    pub provider: Option<String>,
    pub decision: wire::Decision,
    pub metrics: Metrics,
    /// How it is served, where that is bad.
    pub issue: Option<String>,
}

/// `asked`: what is required now, before what is stored. `usual`: what holds where nobody says anything.
pub async fn evaluate(
    app: &App,
    permit: &Permit<Read>,
    who: &str,
    asked: wire::Profile,
    usual: wire::Profile,
    said: Metrics,
) -> Result<Evaluation, ControlError> {
    if let Some(fault) = said.fault() {
        return Err(ControlError::BadFigure(fault));
    }
    let engine = decide::engine(app).await?;
    let (asked, usual) = (engine_profile(asked)?, engine_profile(usual)?);
    let tenant = match tenants::known(app, who).await {
        Ok(tenant) => Some(tenant),
        // A customer that is not there yet is asked about all the same, as at the guide's sign-up.
        Err(ControlError::NoTenant(_)) => None,
        Err(other) => return Err(other),
    };
    let now = Timestamp::now();
    // Whoever says a mean has had its reasons.
    let said_how = said.response_ms.is_some() || said.error_share.is_some();
    let (stored, metrics, requests) = match &tenant {
        Some(tenant) => {
            let stored = judge::profile(app, &engine, tenant).await?;
            let (metrics, requests) = measured(app, tenant, &stored, now).await?;
            (stored, said.over(metrics), requests)
        }
        None => (Profile::default(), said, 0),
    };
    // The usual latency is of users who said nothing; answers are judged by what this tenant asked for.
    let own_ms = asked.latency_ms.or(stored.latency_ms);
    let mut profile = over(over(usual, stored), asked);
    need(app, &said, &mut profile).await?;
    let served = Served {
        requests: if said_how { u64::MAX } else { requests },
        response_ms: metrics.response_ms,
        error_share: metrics.error_share,
        cpu_share: metrics.cpu_share,
        wanted_ms: own_ms.map(|ms| ms as f64),
    };
    let issue = performance(&served).map(|(Issue::Performance { says } | Issue::Compliance { says })| says);
    let name = tenant.as_ref().map_or("", |tenant| tenant.name.as_str());
    let decision = match (&tenant, &issue) {
        (Some(tenant), Some(issue)) => elsewhere(app, &engine, tenant, &profile, issue).await?,
        _ => None,
    };
    let decision = match decision {
        Some(decision) => decision,
        None => engine.decide(name, &profile, decide::SEED).map_err(ControlError::BadProfile)?,
    };
    let provider = match &tenant {
        Some(tenant) => Some(app.cell(tenant.cell).await?.provider),
        None => None,
    };
    let shown = match &tenant {
        Some(tenant) => Some(tenants::show(app, &permit.caller().may(crate::ReadTenant)?, tenant.name.as_str()).await?),
        None => None,
    };
    Ok(Evaluation {
        tenant: shown,
        provider,
        decision: serde_json::from_value(serde_json::to_value(decision)?)?,
        metrics,
        issue,
    })
}

async fn elsewhere(
    app: &App,
    engine: &Engine,
    tenant: &Tenant,
    profile: &Profile,
    issue: &str,
) -> Result<Option<berth_placement::Decision>, ControlError> {
    let cells = served::no_answer(app, tenant, Timestamp::now()).await?;
    let leaving = Leaving { cells: &cells, plan: tenant.plan.as_str(), because: issue };
    let decision = engine.decide_elsewhere(tenant.name.as_str(), profile, &leaving, decide::SEED);
    Ok(Some(decision.map_err(ControlError::BadProfile)?).filter(|decision| decision.class.is_some()))
}

/// Metrics that somebody says, as needs: quantities with the same room as measured ones have.
async fn need(app: &App, said: &Metrics, profile: &mut Profile) -> Result<(), ControlError> {
    let at = judge::thresholds(&app.stack().await?.stack.usage);
    let mut amounts =
        vec![("vehicles".to_owned(), said.vehicles), ("gps_points_per_day".to_owned(), said.gps_points_today)];
    // Calls and storage under whatever name the plans limit them.
    let plans = app.store().plan_list().await?;
    let limited: BTreeSet<String> =
        plans.into_iter().flat_map(|plan| plan.plan.limits.quantities.into_keys()).collect();
    for quantity in limited {
        let quota = Quota::of(&quantity);
        let amount = match (quota.metric.as_str(), quota.period) {
            ("requests" | "api_calls", Some(UsagePeriod::Day)) => said.requests_today,
            ("storage_mb" | "storage_mib", None) => said.storage_mb,
            ("storage_bytes", None) => said.storage_mb.map(|mb| mb.saturating_mul(1 << 20)),
            _ => None,
        };
        amounts.push((quantity, amount));
    }
    for (name, amount) in amounts {
        if let Some(amount) = amount {
            let room = at.with_room(amount);
            let known = profile.quantities.entry(name).or_default();
            *known = room.max(*known);
        }
    }
    profile.users = profile.users.max(said.peak_users);
    if let Some(growth) = said.growth {
        profile.growth_percent_per_month = Some(growth.max(0.0).round() as u32);
    }
    Ok(())
}

async fn measured(
    app: &App,
    tenant: &Tenant,
    profile: &Profile,
    now: Timestamp,
) -> Result<(Metrics, u64), ControlError> {
    let days = usage::days_of(app, tenant.id, now).await?;
    let today = period_start(UsagePeriod::Day, now);
    let whole = |amount: i64| u64::try_from(amount).unwrap_or(0);
    let of = |metric: &str| days.iter().rev().find(|row| row.metric == metric);
    let since_morning = |metric: &str| {
        let ever = of(metric)?;
        Some(if ever.starts_at == today { whole(ever.total) } else { 0 })
    };
    let latest = |metric: &str| of(metric).map(|row: &UsageRow| whole(row.latest));
    let served = served::of(app, tenant, profile, now).await?;
    let units = app.store().usage_units().await?;
    let storage = latest("storage").map(|amount| match units.get("storage").map(String::as_str) {
        Some("bytes") => amount.div_ceil(1 << 20),
        _ => amount,
    });
    let growth = usage::line(&days, &Quota::of("vehicles"), now).and_then(|(_, line)| {
        let there = line.at(usage::day_number(now)).expected;
        (there > 0.0).then(|| (line.per_day() * 30.0 / there * 100.0).max(0.0))
    });
    let used = served::loads(app, Some(tenant.cell), now).await?.get(&tenant.cell).copied().unwrap_or_default();
    let metrics = Metrics {
        vehicles: latest("vehicles"),
        gps_points_today: since_morning("gps_points"),
        requests_today: since_morning("requests"),
        storage_mb: storage,
        peak_users: served::most_users(app, tenant.id, now).await?,
        response_ms: served.response_ms,
        error_share: served.error_share,
        growth,
        cpu_share: used.0,
        memory_share: used.1,
    };
    Ok((metrics, served.requests))
}
