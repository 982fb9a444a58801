//! What a month cost, who bore it, and what is left: invoices joined with who lived where.
//!
//! How costs are spread is a rule of `berth-usage`, what places cost one of `berth-placement`; here both meet the store.
//! Where a provider's invoice was imported it stands; else the month is computed from prices and hours. A month that is
//! over is closed once: its computed invoices are stored, so that later prices change no past month.

mod assemble;
mod import;
mod phase;
pub(crate) mod prices;
mod screen;

pub use import::{forget, import};
pub use phase::phase;
pub use prices::plan_price;

use crate::{App, ControlError, Permit, Read, app::KeptAdvice, fleet, tenant_figures};
use assemble::Books;
use berth_domain::Cents;
use berth_usage::cost::{self, Month};
use berth_wire as wire;
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Months that one answer goes back at most.
const MONTHS_MOST: u32 = 60;
/// Beyond this many tenants the plan of the whole fleet is asked for by itself, and not for every look at the costs.
const FLEET_MOST: usize = 20_000;
/// Advice that took longer is kept this many times as long, so that looking often costs a sixtieth of one processor.
const ADVICE_SLOW: Duration = Duration::from_millis(500);
const ADVICE_KEPT_TIMES: u32 = 60;
const ADVICE_KEPT_MOST: Duration = Duration::from_mins(10);

pub async fn show(app: &App, permit: &Permit<Read>, month: Option<&str>) -> Result<wire::Costs, ControlError> {
    let now = Timestamp::now();
    let month = wanted(month, now)?;
    let books = Books::open(app, month, now).await?;
    let mut costs = screen::costs(&books)?;
    // What would be cheaper is a question of now.
    if month == Month::of(now) {
        costs.advice = advice(app, permit, &books, now).await?;
    }
    Ok(costs)
}

/// Where the month stands against the stack file's budget, if it has one. Asks nothing of tenants, however many there are.
pub(crate) async fn budget(app: &App) -> Result<Option<wire::CostBudget>, ControlError> {
    let now = Timestamp::now();
    let in_force = match app.stack().await {
        Ok(in_force) => in_force,
        Err(ControlError::NoStack) => return Ok(None),
        Err(other) => return Err(other),
    };
    if in_force.stack.budget.is_none() {
        return Ok(None);
    }
    let books = Books::of_cells(app, in_force, Month::of(now), now).await?;
    Ok(screen::budget(&books, &screen::forecast(&books)?))
}

/// Made from the usage of all tenants: what took long to make is shown for a while.
async fn advice(
    app: &App,
    permit: &Permit<Read>,
    books: &Books,
    now: Timestamp,
) -> Result<Vec<wire::CostAdvice>, ControlError> {
    let of = (books.in_force.revision, books.cells.len(), books.stays.len(), books.stored.len());
    let begun = Instant::now();
    if let Some(kept) = app.kept_advice().as_ref().filter(|kept| kept.until > begun && kept.of == of) {
        return Ok(kept.advice.clone());
    }
    let mut advice = screen::advice(books, &phase::uses(app, now).await?);
    advice.extend(phase::advice(app, books).await?);
    // Of two arrangements neither has a sum while a price is only missing its rate.
    if books.stays.len() <= FLEET_MOST && !books.lacks_rates() {
        advice.extend(cheaper_fleet(app, permit).await?);
    }
    let took = begun.elapsed();
    if took > ADVICE_SLOW {
        let until = Instant::now() + (took * ADVICE_KEPT_TIMES).min(ADVICE_KEPT_MOST);
        *app.kept_advice() = Some(KeptAdvice { until, of, advice: advice.clone() });
    }
    Ok(advice)
}

/// The last months, the oldest first; none from before the first cell.
pub async fn months(app: &App, _permit: &Permit<Read>, last: u32) -> Result<wire::Page<wire::CostMonth>, ControlError> {
    let now = Timestamp::now();
    let Some(first) = app.store().cells_since().await? else { return Ok(wire::Page::whole(Vec::new())) };
    let (first, mut month) = (Month::of(first), Month::of(now));
    let mut shown = Vec::new();
    for _ in 0..last.clamp(1, MONTHS_MOST) {
        let books = Books::open(app, month, now).await?;
        shown.push(screen::month(&books)?);
        if month <= first {
            break;
        }
        month = month.before();
    }
    shown.reverse();
    Ok(wire::Page::whole(shown))
}

/// What each tenant uses of its plan, what it cost this month so far and what it left, by name. A handful of statements
/// however many tenants there are, and none of the advice: a list of all of them is made of it.
pub async fn tenants(app: &App, permit: &Permit<Read>) -> Result<wire::Page<wire::TenantFigures>, ControlError> {
    let now = Timestamp::now();
    let books = match Books::open(app, Month::of(now), now).await {
        Ok(books) => books,
        // Without a stack nobody has a plan or a place.
        Err(ControlError::NoStack) => return Ok(wire::Page::whole(Vec::new())),
        Err(other) => return Err(other),
    };
    let borne = screen::borne(&books)?;
    let figures = tenant_figures::list(app, permit).await?.into_iter().map(|of| {
        let nearest = of.nearest().cloned();
        let money = borne.get(of.name.as_str());
        wire::TenantFigures {
            tenant: of.name,
            used: nearest.as_ref().and_then(|quota| quota.used),
            limit: nearest.as_ref().map(|quota| quota.limit),
            quantity: nearest.map(|quota| quota.quantity),
            cost_cents: money.map(|(cost, _)| Cents::new(*cost)),
            margin_cents: money.map(|(cost, revenue)| Cents::new(revenue - cost)),
        }
    });
    Ok(wire::Page::whole(figures.collect()))
}

/// Stores the computed invoices of the months that are over and not closed yet, the oldest first. Says how many.
pub(crate) async fn close_months(app: &App, now: Timestamp) -> Result<u32, ControlError> {
    let Some(first) = app.store().cells_since().await? else { return Ok(0) };
    let (first, mut month, mut open) = (Month::of(first), Month::of(now).before(), Vec::new());
    while month >= first && open.len() < MONTHS_MOST as usize {
        if app.store().month_is_closed(&month.to_string()).await? {
            break;
        }
        open.push(month);
        month = month.before();
    }
    let mut closed = 0;
    for month in open.into_iter().rev() {
        let books = Books::open(app, month, now).await?;
        // It and those after it are closed when somebody has given the day's rates; the cost page says so.
        if books.waits_for_rates() {
            break;
        }
        let mut tx = app.store().begin().await?;
        for invoice in books.computed() {
            tx.invoice_put(&invoice).await?;
        }
        tx.month_close(&month.to_string()).await?;
        tx.commit().await?;
        closed += 1;
    }
    Ok(closed)
}

/// A cheaper arrangement of all tenants, if there is one.
async fn cheaper_fleet(app: &App, permit: &Permit<Read>) -> Result<Option<wire::CostAdvice>, ControlError> {
    let plan = match fleet::plan(app, permit).await {
        Ok(plan) => plan,
        // A profile that cannot be placed by is its own trouble, and `berth decide` says it.
        Err(ControlError::BadProfile(_)) => return Ok(None),
        Err(other) => return Err(other),
    };
    let saves = plan.before_cents - plan.after_cents;
    Ok((saves > Cents::new(0)).then(|| wire::CostAdvice {
        code: "cheaper_fleet".to_owned(),
        about: "fleet".to_owned(),
        says: format!(
            "{} moves and {} cells instead of {} cost {} a month instead of {}",
            plan.moves, plan.cells_after, plan.cells_before, plan.after_cents, plan.before_cents
        ),
        saves_cents: Some(saves),
        command: Some("berth fleet plan".to_owned()),
    }))
}

pub(crate) fn wanted(month: Option<&str>, now: Timestamp) -> Result<Month, ControlError> {
    let Some(text) = month else { return Ok(Month::of(now)) };
    text.parse().map_err(|error: cost::BadMonth| ControlError::BadMonth(error.to_string()))
}
