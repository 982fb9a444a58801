//! What tenants use: reported by applications and edges, compared with their plans, shown.
//!
//! Events are counted once by their keys, edges' counters by how far they rose; `berth_usage` says what they come to.
//! Never decides what follows: `judge` does.

use crate::{App, ControlError, Follow, Permit, Read, ReadEntitlements, ReadTenant, Report, tenants};
use berth_domain::{EdgeName, PlanLimits, TenantId, TenantName, UsagePeriod};
use berth_store::{EdgeMeter, NewUsageEvent, Tenant, UsageRow};
use berth_usage::{BadEvent, DAYS_MAX, Event, Forecast, Quota, Rollup, RollupKey, left, period_end, period_start};
use berth_wire::{self as wire, edge::EdgeMeters};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// Events of one request.
const EVENTS_MAX: usize = 10_000;
/// A metric's name, its unit, and where it stands among an edge's counters.
type EdgeMetric = (&'static str, &'static str, fn(&EdgeMeter) -> i64);

/// What edges count, with its unit. Nobody else reports under these names, or an amount would be counted twice.
const EDGE_METRICS: [EdgeMetric; 6] = [
    ("requests", "requests", |m| m.requests),
    ("failed_requests", "requests", |m| m.failed_requests),
    ("limited_requests", "requests", |m| m.limited_requests),
    ("received_bytes", "bytes", |m| m.received_bytes),
    ("sent_bytes", "bytes", |m| m.sent_bytes),
    ("request_time_us", "microseconds", |m| m.request_time_us),
];

pub(crate) fn is_counted_by_edges(metric: &str) -> bool {
    EDGE_METRICS.iter().any(|(known, ..)| *known == metric)
}

/// Why a line of a report was not taken; the first line is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    pub line: usize,
    pub says: String,
}

/// Counts events: all of them or, with the mistakes of every line, none.
pub async fn record(
    app: &App,
    _permit: &Permit<Report>,
    said: Vec<wire::UsageEvent>,
) -> Result<wire::UsageCounted, ControlError> {
    app.writable().await?;
    if said.len() > EVENTS_MAX {
        let says = format!("a report has at most {EVENTS_MAX} events, this one {}", said.len());
        return Err(ControlError::BadUsage(vec![BadLine { line: EVENTS_MAX + 1, says }]));
    }
    let now = Timestamp::now();
    let called: BTreeSet<String> = said.iter().map(|event| event.tenant.clone()).collect();
    let known = app.store().tenants_called(&called.into_iter().collect::<Vec<_>>()).await?;
    let mut bad: Vec<BadLine> = Vec::new();
    let wrong = |line: usize, fault: &BadEvent| BadLine { line: line + 1, says: fault.to_string() };
    let mut events = Vec::with_capacity(said.len());
    let mut lines = Vec::with_capacity(said.len());
    // Without a time of its own an event has that of its arrival, which differs each time that it is said.
    let mut undated: BTreeSet<(TenantId, String)> = BTreeSet::new();
    for (line, event) in said.into_iter().enumerate() {
        let Some(tenant) = known.get(&event.tenant) else {
            bad.push(wrong(line, &BadEvent::NoTenant(event.tenant)));
            continue;
        };
        if is_counted_by_edges(&event.metric) {
            bad.push(BadLine { line: line + 1, says: format!("`{}` is counted by the edges", event.metric) });
            continue;
        }
        lines.push(line);
        let unit = event.unit.unwrap_or_default();
        if event.at.is_none() {
            undated.insert((*tenant, event.key.clone()));
        }
        // As the database keeps it.
        let at = event.at.unwrap_or(now);
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        events.push(Event { key: event.key, tenant: *tenant, metric: event.metric, amount: event.amount, unit, at });
    }
    bad.extend(berth_usage::faults(&events, now).iter().map(|(nth, fault)| wrong(lines[*nth], fault)));
    if !bad.is_empty() {
        bad.sort_by_key(|line| line.line);
        return Err(ControlError::BadUsage(bad));
    }
    let mut counted = count(app, events, &lines, &undated).await?;
    counted.differing.dedup();
    Ok(counted)
}

async fn count(
    app: &App,
    events: Vec<Event>,
    lines: &[usize],
    undated: &BTreeSet<(TenantId, String)>,
) -> Result<wire::UsageCounted, ControlError> {
    if events.is_empty() {
        return Ok(wire::UsageCounted::default());
    }
    let mut units: BTreeMap<String, String> = BTreeMap::new();
    for event in events.iter().filter(|event| !event.unit.is_empty()) {
        units.entry(event.metric.clone()).or_insert_with(|| event.unit.clone());
    }
    let mut tx = app.store().begin().await?;
    let fixed = tx.usage_units_fix(&units).await?;
    let other = events.iter().zip(lines).filter_map(|(event, line)| {
        let known = fixed.get(&event.metric).filter(|known| !event.unit.is_empty() && **known != event.unit)?;
        let fault = BadEvent::OtherUnit { known: known.clone(), said: event.unit.clone() };
        Some(BadLine { line: line + 1, says: fault.to_string() })
    });
    let other: Vec<BadLine> = other.collect();
    if !other.is_empty() {
        return Err(ControlError::BadUsage(other));
    }
    let total = events.len() as u64;
    let by_key: BTreeMap<(TenantId, String), Event> =
        events.into_iter().map(|event| ((event.tenant, event.key.clone()), event)).collect();
    let rows: Vec<NewUsageEvent> = by_key
        .values()
        .map(|event| NewUsageEvent {
            tenant: event.tenant,
            key: event.key.clone(),
            metric: event.metric.clone(),
            amount: i64::try_from(event.amount).unwrap_or(i64::MAX),
            at: event.at,
            dated: !undated.contains(&(event.tenant, event.key.clone())),
        })
        .collect();
    let fresh = tx.usage_events_insert(&rows).await?;
    let differing = if fresh.len() < rows.len() { tx.usage_events_differing(&rows).await? } else { Vec::new() };
    let new = fresh.iter().filter_map(|key| by_key.get(key));
    tx.usage_add(&rows_of(&berth_usage::rolled_up(new))).await?;
    tx.commit().await?;
    let counted = fresh.len() as u64;
    Ok(wire::UsageCounted { counted, known: total - counted, differing })
}

fn rows_of(rolled: &BTreeMap<RollupKey, Rollup>) -> Vec<UsageRow> {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let row = |(key, rollup): (&RollupKey, &Rollup)| UsageRow {
        tenant: key.tenant,
        metric: key.metric.clone(),
        period: key.period,
        starts_at: key.starts_at,
        total: whole(rollup.total),
        greatest: whole(rollup.greatest),
        latest: whole(rollup.latest),
        latest_at: rollup.latest_at,
        events: whole(rollup.events),
    };
    rolled.iter().map(row).collect()
}

/// Counts what an edge's counters rose by since it said them last. Said twice, they count once.
pub async fn edge_meters(
    app: &App,
    _permit: &Permit<Follow>,
    edge: &EdgeName,
    said: EdgeMeters,
) -> Result<wire::edge::EdgeMetersAnswer, ControlError> {
    app.writable().await?;
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let meters: Vec<(TenantId, EdgeMeter)> = said
        .tenants
        .iter()
        .map(|m| {
            let meter = EdgeMeter {
                requests: whole(m.requests),
                failed_requests: whole(m.failed_requests),
                limited_requests: whole(m.limited_requests),
                received_bytes: whole(m.received_bytes),
                sent_bytes: whole(m.sent_bytes),
                request_time_us: whole(m.request_time_us),
            };
            (m.tenant, meter)
        })
        .collect();
    let now = Timestamp::now();
    let mut tx = app.store().begin().await?;
    let Some(rose) = tx.edge_meters_advance(edge, said.instance, &meters).await? else {
        tracing::warn!(edge = %edge, instance = %said.instance, "edge {edge} said counters of a life that is long over; they are left out");
        return Ok(wire::edge::EdgeMetersAnswer { counted: 0 });
    };
    let units = EDGE_METRICS.iter().map(|(metric, unit, _)| ((*metric).to_owned(), (*unit).to_owned())).collect();
    tx.usage_units_fix(&units).await?;
    let mut events = Vec::new();
    for (tenant, meter) in &rose {
        for (metric, unit, of) in EDGE_METRICS {
            let amount = u64::try_from(of(meter)).unwrap_or(0);
            if amount > 0 {
                let (metric, unit) = (metric.to_owned(), unit.to_owned());
                events.push(Event { key: String::new(), tenant: *tenant, metric, amount, unit, at: now });
            }
        }
    }
    tx.usage_add(&rows_of(&berth_usage::rolled_up(&events))).await?;
    tx.commit().await?;
    Ok(wire::edge::EdgeMetersAnswer { counted: rose.len() as u64 })
}

/// What one tenant used and where that is going. `from`: otherwise the last 31 days.
pub async fn of_tenant(
    app: &App,
    permit: &Permit<ReadTenant>,
    who: &str,
    period: UsagePeriod,
    from: Option<Timestamp>,
) -> Result<wire::TenantUsage, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let now = Timestamp::now();
    let month_ago = SignedDuration::from_hours(31 * 24);
    let from = from.unwrap_or_else(|| now.checked_sub(month_ago).unwrap_or(now));
    let units = app.store().usage_units().await?;
    let rows = app.store().usage_list(tenant.id, period, period_start(period, from), later(now)).await?;
    let judged = app.store().judgement(tenant.id).await?;
    let said = |of: &str| judged.as_ref().and_then(|judged| judged.judgement.get(of)).cloned();
    let limits = limits_of(app, &tenant).await?;
    let days = days_of(app, tenant.id, now).await?;
    let mut quotas = Vec::new();
    for quota in quotas_of(app, tenant.id, &limits, now).await? {
        let signal =
            judged.as_ref().and_then(|judged| judged.signals.get(&quota.quantity)?.as_str().map(str::to_owned));
        let forecast = forecast(&days, &Quota::of(&quota.quantity), quota.limit, now);
        quotas.push(wire::QuotaOutlook { quota, signal: signal.unwrap_or_else(|| "calm".to_owned()), forecast });
    }
    let issues = said("issues").map(serde_json::from_value).transpose()?.unwrap_or_default();
    Ok(wire::TenantUsage {
        quotas,
        usage: rows.into_iter().map(|row| shown(tenant.name.clone(), row, &units)).collect(),
        issues,
        says: said("says").and_then(|says| says.as_str().map(str::to_owned)),
        judged_at: judged.map(|judged| judged.judged_at),
        tenant: tenant.name,
        plan: tenant.plan,
    })
}

/// What all tenants used in the running period.
pub async fn list(
    app: &App,
    _permit: &Permit<Read>,
    period: UsagePeriod,
) -> Result<wire::Page<wire::Usage>, ControlError> {
    let units = app.store().usage_units().await?;
    let names: BTreeMap<TenantId, TenantName> = app.store().tenant_ids_by_key().await?.into_values().collect();
    let rows = app.store().usage_of_all(period, period_start(period, Timestamp::now())).await?;
    let items = rows.into_iter().filter_map(|row| Some(shown(names.get(&row.tenant)?.clone(), row, &units)));
    let mut items: Vec<wire::Usage> = items.collect();
    items.sort_by(|a, b| (&a.tenant, &a.metric).cmp(&(&b.tenant, &b.metric)));
    Ok(wire::Page::whole(items))
}

/// What the tenant's plan lets it have, and what of it is left.
pub async fn entitlements(
    app: &App,
    permit: &Permit<ReadEntitlements>,
    who: &str,
) -> Result<wire::Entitlements, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let limits = limits_of(app, &tenant).await?;
    let quotas = quotas_of(app, tenant.id, &limits, Timestamp::now()).await?;
    Ok(wire::Entitlements { tenant: tenant.name, plan: tenant.plan, limits, quotas })
}

/// What it has: its plan's, and its own at the edges.
pub(crate) async fn limits_of(app: &App, tenant: &Tenant) -> Result<PlanLimits, ControlError> {
    Ok(limits_of_plan(app, tenant).await?.with(&tenant.limits))
}

pub(crate) async fn limits_of_plan(app: &App, tenant: &Tenant) -> Result<PlanLimits, ControlError> {
    let plan = app.store().plan_get(&tenant.plan).await?;
    Ok(plan.ok_or_else(|| ControlError::NoPlan(tenant.plan.clone()))?.plan.limits)
}

/// A moment's day among days.
pub(crate) fn day_number(at: Timestamp) -> i32 {
    i32::try_from(at.as_second().div_euclid(86_400)).unwrap_or(i32::MAX)
}

fn later(now: Timestamp) -> Timestamp {
    // Events of a clock that is ahead are shown too.
    now.checked_add(SignedDuration::from_hours(24)).unwrap_or(now)
}

pub(crate) fn rollup(row: &UsageRow) -> Rollup {
    let whole = |n: i64| u64::try_from(n).unwrap_or(0);
    Rollup {
        total: whole(row.total),
        greatest: whole(row.greatest),
        latest: whole(row.latest),
        latest_at: row.latest_at,
        events: whole(row.events),
    }
}

/// Each quantity of a plan with what of it is used now.
pub(crate) async fn quotas_of(
    app: &App,
    tenant: TenantId,
    limits: &PlanLimits,
    now: Timestamp,
) -> Result<Vec<wire::Quota>, ControlError> {
    let newest = app.store().usage_newest(tenant, UsagePeriod::Day).await?;
    let mut running: BTreeMap<UsagePeriod, Vec<UsageRow>> = BTreeMap::new();
    let mut quotas = Vec::new();
    for (quantity, limit) in &limits.quantities {
        let quota = Quota::of(quantity);
        let last = newest.iter().find(|row| row.metric == quota.metric);
        let used = match quota.period {
            None => quota.used(last.map(rollup).as_ref(), last.is_some()),
            Some(period) => {
                let rows = match running.entry(period) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(free) => {
                        let (from, to) = (period_start(period, now), period_end(period, now));
                        free.insert(app.store().usage_list(tenant, period, from, to).await?)
                    }
                };
                let row = rows.iter().find(|row| row.metric == quota.metric);
                quota.used(row.map(rollup).as_ref(), last.is_some())
            }
        };
        quotas.push(wire::Quota {
            left: left(*limit, used),
            resets_at: quota.resets_at(now),
            quantity: quota.quantity,
            metric: quota.metric,
            limit: *limit,
            used,
        });
    }
    Ok(quotas)
}

/// The days that forecasts are made from.
pub(crate) async fn days_of(app: &App, tenant: TenantId, now: Timestamp) -> Result<Vec<UsageRow>, ControlError> {
    let back = SignedDuration::from_hours(24 * i64::try_from(DAYS_MAX).unwrap_or(0));
    let from = now.checked_sub(back).unwrap_or(now);
    Ok(app.store().usage_list(tenant, UsagePeriod::Day, from, later(now)).await?)
}

/// The line through a quantity's days. The running day of a flow is not over, so it says nothing yet.
pub(crate) fn line(days: &[UsageRow], quota: &Quota, now: Timestamp) -> Option<(usize, Forecast)> {
    let today = day_number(now);
    let points: Vec<(i32, f64)> = days
        .iter()
        .filter(|row| row.metric == quota.metric)
        .filter_map(|row| {
            let day = day_number(row.starts_at);
            match quota.period {
                Some(_) if day >= today => None,
                Some(_) => Some((day, row.total as f64)),
                None => Some((day, row.latest as f64)),
            }
        })
        .collect();
    Some((points.len(), Forecast::of(&points)?))
}

fn forecast(days: &[UsageRow], quota: &Quota, limit: u64, now: Timestamp) -> Option<wire::UsageForecast> {
    // Days are what is known: a limit an hour is none of a day's, and one a month is as many days as it has.
    let limit = match quota.period {
        Some(UsagePeriod::Hour) => return None,
        Some(UsagePeriod::Month) => limit / u64::try_from(now.to_zoned(TimeZone::UTC).days_in_month()).unwrap_or(30),
        Some(UsagePeriod::Day) | None => limit,
    };
    let (days_known, line) = line(days, quota, now)?;
    let today = day_number(now);
    let until = line.until(limit, today);
    Some(wire::UsageForecast {
        days_known: days_known as u64,
        per_day: line.per_day(),
        error_percent: line.error_percent(today),
        over_in_days: until.expected_days,
        over_earliest_days: until.earliest_days,
        over_latest_days: until.latest_days,
    })
}

fn shown(tenant: TenantName, row: UsageRow, units: &BTreeMap<String, String>) -> wire::Usage {
    let whole = |n: i64| u64::try_from(n).unwrap_or(0);
    wire::Usage {
        tenant,
        unit: units.get(&row.metric).cloned().unwrap_or_default(),
        metric: row.metric,
        period: row.period,
        starts_at: row.starts_at,
        total: whole(row.total),
        greatest: whole(row.greatest),
        latest: whole(row.latest),
        events: whole(row.events),
    }
}
