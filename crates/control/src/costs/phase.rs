//! The growth phases by what was measured: of each trigger the figure that somebody says, else the one that is known
//! here, with where it comes from. What nobody measured stays unknown.

use super::{assemble::Books, screen};
use crate::{App, ControlError, Permit, Read};
use berth_domain::{CellId, UsagePeriod};
use berth_usage::cost::{self, Month, PhaseAdvice, Trigger, Used};
use berth_wire as wire;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap};

/// The guide's averages are of seven days.
const DAYS: i64 = 7;

/// What is known of a trigger.
struct Figure {
    has: f64,
    from: String,
}

/// Whether it is time for the next phase.
pub async fn phase(
    app: &App,
    _permit: &Permit<Read>,
    asked: &wire::PhaseAsk,
) -> Result<wire::PhaseAnswer, ControlError> {
    let now = Timestamp::now();
    let books = Books::open(app, Month::of(now), now).await?;
    let mut figures = known(app, &books, now).await?;
    for (name, has) in &asked.figures {
        let trigger: Trigger = name.parse().map_err(ControlError::BadFigure)?;
        if !has.is_finite() || *has < 0.0 {
            return Err(ControlError::BadFigure(format!("`{name}` is {has}")));
        }
        figures.insert(trigger, Figure { has: *has, from: "said".to_owned() });
    }
    let (at, at_from) = match asked.phase {
        Some(phase) => (phase, "said".to_owned()),
        None => by_cost(&books)?,
    };
    let has = figures.iter().map(|(trigger, figure)| (*trigger, figure.has)).collect();
    let bad = || ControlError::BadFigure(format!("there is no phase {at}: they are 1 to 5"));
    let advice = cost::next_phase(at, &has).ok_or_else(bad)?;
    Ok(shown(&advice, &figures, at_from))
}

/// The advice to go on, if it is time.
pub(super) async fn advice(app: &App, books: &Books) -> Result<Option<wire::CostAdvice>, ControlError> {
    let figures = known(app, books, books.now).await?;
    let has = figures.iter().map(|(trigger, figure)| (*trigger, figure.has)).collect();
    let (at, _) = by_cost(books)?;
    let Some(advice) = cost::next_phase(at, &has).filter(|advice| advice.go) else { return Ok(None) };
    let Some(next) = advice.next else { return Ok(None) };
    let held = advice.triggers.iter().filter(|t| t.holds == Some(true));
    let held: Vec<String> = held.map(|t| format!("{} {}", t.trigger, rounded(t.has.unwrap_or_default()))).collect();
    Ok(Some(wire::CostAdvice {
        code: "growth_phase".to_owned(),
        about: "growth".to_owned(),
        says: format!(
            "it is time for phase {}: {}, about EUR {}.{:02} a month ({})",
            next.number,
            next.infrastructure,
            next.euro_cents / 100,
            next.euro_cents % 100,
            held.join(", ")
        ),
        saves_cents: None,
        command: Some("berth cost phase".to_owned()),
    }))
}

fn rounded(figure: f64) -> String {
    let text = format!("{figure:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn by_cost(books: &Books) -> Result<(u8, String), ControlError> {
    let euro = screen::forecast(books)?.cost_in("EUR", &books.catalogue.rates).unwrap_or(0);
    let cents = euro.max(0);
    Ok((cost::phase_by_cost(cents), format!("by the month's cost, EUR {}.{:02}", cents / 100, cents % 100)))
}

/// What cells used in the days before, by cell.
pub(super) async fn uses(app: &App, now: Timestamp) -> Result<HashMap<CellId, Used>, ControlError> {
    let since = now.checked_sub(SignedDuration::from_hours(24 * DAYS)).unwrap_or(now);
    let whole = |n: i64| u64::try_from(n).unwrap_or(0);
    let sizes: HashMap<CellId, u64> =
        app.store().cell_sizes().await?.into_iter().map(|size| (size.cell, whole(size.database_bytes))).collect();
    let used = app.store().cell_use(None, since).await?.into_iter().map(|used| {
        let of = Used {
            hours: u32::try_from(used.hours).unwrap_or(u32::MAX),
            cpu_millis: whole(used.cpu_millis),
            cpu_most: whole(used.cpu_most),
            memory_mib: whole(used.memory_bytes) >> 20,
            memory_most: whole(used.memory_most) >> 20,
            disk_gib: sizes.get(&used.cell).map(|bytes| bytes.div_ceil(1 << 30)),
        };
        (used.cell, of)
    });
    Ok(used.collect())
}

async fn known(app: &App, books: &Books, now: Timestamp) -> Result<BTreeMap<Trigger, Figure>, ControlError> {
    let mut figures = BTreeMap::new();
    let mut put = |trigger, has: Option<f64>, from: &str| {
        if let Some(has) = has.filter(|has| has.is_finite()) {
            figures.insert(trigger, Figure { has, from: from.to_owned() });
        }
    };
    let since = now.checked_sub(SignedDuration::from_hours(24 * DAYS)).unwrap_or(now);
    let cells = app.store().cell_use(None, since).await?;
    let part = |used: i64, of: i64| (of > 0).then(|| used as f64 / of as f64 * 100.0);
    let most = |of: &mut dyn Iterator<Item = f64>| of.reduce(f64::max);
    let cpu = most(&mut cells.iter().filter_map(|cell| part(cell.cpu_millis, cell.cpu_promised)));
    put(Trigger::CpuPercent, cpu, "the busiest cell's mean of 7 days, of what its members are promised");
    let memory = most(&mut cells.iter().filter_map(|cell| part(cell.memory_bytes, cell.memory_promised)));
    put(Trigger::MemoryPercent, memory, "the fullest cell's mean of 7 days, of what its members are promised");
    let sizes = app.store().cell_sizes().await?;
    let largest = most(&mut sizes.iter().map(|size| size.database_bytes as f64 / f64::from(1 << 30)));
    put(Trigger::DatabaseGib, largest, "the largest cell's database");
    let api = app.store().cell_figures(None).await?;
    let api = api.iter().filter(|it| it.figure.what == crate::workflows::measured::API);
    put(
        Trigger::P95Seconds,
        most(&mut api.map(|it| it.figure.value / 1000.0)),
        "the slowest cell, by `berth cell measure`",
    );
    let totals = app.store().usage_totals(UsagePeriod::Hour, since).await?;
    let sum = |metric: &'static str| totals.iter().filter(move |total| total.metric == metric);
    let busiest = most(&mut sum("requests").map(|total| total.total as f64 / 60.0));
    put(Trigger::RequestsPerMinute, busiest, "the busiest hour of 7 days, by the edges");
    let all = |metric: &'static str| sum(metric).map(|total| total.total).sum::<i64>();
    let requests = all("requests");
    let failed = (requests > 0).then(|| all("failed_requests") as f64 / requests as f64 * 100.0);
    put(Trigger::ErrorPercent, failed, "7 days, by the edges");
    for (trigger, metric) in [(Trigger::ActiveUsers, "active_users"), (Trigger::ConcurrentJobs, "concurrent_jobs")] {
        let reported = most(&mut sum(metric).map(|total| total.greatest as f64));
        put(trigger, reported, &format!("all tenants in the busiest hour, as applications report `{metric}`"));
    }
    let revenue = screen::forecast(books)?.revenue_in("EUR", &books.catalogue.rates);
    put(Trigger::RevenueEuro, revenue.map(|cents| cents as f64 / 100.0), "the month's end, if everything stays");
    Ok(figures)
}

fn shown(advice: &PhaseAdvice, figures: &BTreeMap<Trigger, Figure>, phase_from: String) -> wire::PhaseAnswer {
    wire::PhaseAnswer {
        phase: advice.now.number,
        phase_from,
        infrastructure: advice.now.infrastructure.to_owned(),
        euro_cents: advice.now.euro_cents,
        next: advice.next.map(|next| next.number),
        next_infrastructure: advice.next.map(|next| next.infrastructure.to_owned()),
        next_euro_cents: advice.next.map(|next| next.euro_cents),
        triggers: advice
            .triggers
            .iter()
            .map(|t| wire::PhaseTrigger {
                trigger: t.trigger.to_string(),
                threshold: t.threshold,
                has: t.has,
                holds: t.holds,
                from: figures.get(&t.trigger).map(|figure| figure.from.clone()),
            })
            .collect(),
        held: advice.held as u64,
        unknown: advice.unknown as u64,
        go: advice.go,
    }
}
