//! `/costs`: a month by tenant, cell, provider and plan; the months before it as a picture with its table.

use super::{
    failure::{Failure, html},
    inner::escaped,
    session::{Session, once},
    shown::{Frame, State, money, or_unknown, state},
};
use askama::Template;
use axum::{extract::Query, http::Method, response::Response};
use berth_domain::Cents;
use berth_wire::{CostMonth, CostRow, Costs, Page, PhaseAnswer, PhaseAsk};
use serde::Deserialize;

/// Rows of one table; the dearest are first.
const SHOWN: usize = 100;
/// The picture, in units of its own.
const HEIGHT: i64 = 160;
pub(super) const SLOT: i64 = 56;
const BAR: i64 = 18;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    month: Option<String>,
}

pub(super) struct Bar {
    pub(super) month: String,
    /// The month in words, for who cannot see the bars.
    pub(super) title: String,
    pub(super) x: i64,
    pub(super) middle: i64,
    pub(super) used_y: i64,
    pub(super) used_h: i64,
    pub(super) idle_y: i64,
    pub(super) idle_h: i64,
    pub(super) revenue_x: i64,
    pub(super) revenue_y: i64,
    pub(super) revenue_h: i64,
    pub(super) cost: String,
    pub(super) idle: String,
    pub(super) revenue: String,
    pub(super) margin: String,
    /// Under the bars, where cents have no room.
    pub(super) margin_short: String,
    pub(super) tenants: u64,
    pub(super) here: bool,
}

struct Row {
    name: String,
    note: String,
    cost: String,
    idle: String,
    revenue: String,
    margin: String,
    loss: bool,
}

struct CellRow {
    name: String,
    provider: String,
    taken: String,
    places: String,
    cost: String,
    idle: String,
    margin: String,
    loss: bool,
    month: String,
    break_even: String,
}

#[derive(Template)]
#[template(path = "pages/costs.html")]
struct CostsPage {
    frame: Frame,
    month: String,
    until: String,
    over: bool,
    cost: String,
    revenue: String,
    margin: String,
    idle: String,
    end: String,
    budget: Option<(State, String)>,
    unknown: Vec<String>,
    invoices: Vec<String>,
    bars: Vec<Bar>,
    /// Nothing was spent or earned in any of them: there is nothing to draw.
    flat: bool,
    width: i64,
    most: String,
    half: String,
    advice: Vec<(String, String, String, String)>,
    tenants: Vec<Row>,
    tenants_more: usize,
    cells: Vec<CellRow>,
    cells_more: usize,
    providers: Vec<Row>,
    plans: Vec<Row>,
    assumptions: Vec<String>,
    /// Of the running month only.
    growth: Option<Growth>,
}

/// The growth phase that the stack is in, and what speaks for the next.
struct Growth {
    here: String,
    next: String,
    verdict: State,
    says: String,
    triggers: Vec<Trigger>,
}

struct Trigger {
    name: String,
    from: String,
    has: String,
    holds: State,
    source: String,
}

fn growth(answer: &PhaseAnswer) -> Growth {
    let euro = |cents: i64| money(Cents::new(cents)).replace('$', "EUR ");
    let next = answer.next.zip(answer.next_infrastructure.as_ref()).zip(answer.next_euro_cents);
    let figure = |figure: f64| format!("{figure:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    let trigger = |t: &berth_wire::PhaseTrigger| Trigger {
        name: t.trigger.replace('_', " "),
        from: figure(t.threshold),
        has: t.has.map_or_else(|| "?".to_owned(), figure),
        holds: match t.holds {
            Some(true) => state("holds", "busy"),
            Some(false) => state("not yet", "good"),
            None => state("unknown", ""),
        },
        source: t.from.clone().unwrap_or_else(|| "nobody measured it".to_owned()),
    };
    Growth {
        here: format!(
            "{}: {}, {} a month ({})",
            answer.phase,
            answer.infrastructure,
            euro(answer.euro_cents),
            answer.phase_from
        ),
        next: next.map_or_else(
            || "there is no later one".to_owned(),
            |((number, what), cents)| format!("{number}: {what}, {} a month", euro(cents)),
        ),
        verdict: if answer.go { state("it is time", "busy") } else { state("not yet", "good") },
        says: format!("{} of 9 triggers hold, {} are unknown; 3 are needed", answer.held, answer.unknown),
        triggers: answer.triggers.iter().map(trigger).collect(),
    }
}

/// `GET /costs`
pub async fn page(session: Session, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let path = match asked.month.as_deref().filter(|month| !month.is_empty()) {
        Some(month) => format!("/v1/costs?month={}", escaped(month)),
        None => "/v1/costs".to_owned(),
    };
    let costs: Costs = session.get(&path).await?;
    let months = session.get::<Page<CostMonth>>("/v1/costs/months?last=12").await?.items;
    let (bars, most) = bars(&months, &costs.month);
    let advice = costs.advice.iter().map(|advice| {
        let saves = advice.saves_cents.map(money).unwrap_or_default();
        (advice.about.clone(), advice.says.clone(), saves, advice.command.clone().unwrap_or_default())
    });
    let growth = if costs.over {
        None
    } else {
        let answer: PhaseAnswer = session.send(Method::POST, "/v1/costs/phase", &PhaseAsk::default(), &once()).await?;
        Some(growth(&answer))
    };
    html(&CostsPage {
        growth,
        frame: Frame::of(&session, "costs"),
        until: costs.until.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        over: costs.over,
        cost: money(costs.cost_cents),
        revenue: money(costs.revenue_cents),
        margin: money(costs.margin_cents),
        idle: money(costs.idle_cents),
        end: format!(
            "costs {}, revenue {}, leaves {}",
            money(costs.forecast.cost_cents),
            money(costs.forecast.revenue_cents),
            money(costs.forecast.margin_cents)
        ),
        budget: costs.budget.as_ref().map(|budget| {
            let look = match budget.level.as_str() {
                "within" => state("within", "good"),
                "warning" => state("warning", "busy"),
                "critical" => state("critical", "bad"),
                _ => state("over", "bad"),
            };
            let amount = |cents: i64| money(Cents::new(cents)).replace('$', "");
            let words =
                format!("{} of {} {}", amount(budget.forecast_cents), amount(budget.amount_cents), budget.currency);
            (look, words)
        }),
        unknown: costs.unknown.iter().map(ToString::to_string).collect(),
        invoices: costs
            .invoices
            .iter()
            .map(|i| {
                let amounts = i.amounts.join(" + ");
                format!("{}: {} ({amounts}), {}, rates of {}", i.provider, money(i.cost_cents), i.source, i.rates_of)
            })
            .collect(),
        width: SLOT * i64::try_from(bars.len()).unwrap_or(12) + 70,
        flat: months.iter().all(|m| m.cost_cents.get() == 0 && m.revenue_cents.get() == 0),
        bars,
        most: money(Cents::new(most)),
        half: money(Cents::new(most / 2)),
        advice: advice.collect(),
        tenants: costs.tenants.iter().take(SHOWN).map(row).collect(),
        tenants_more: costs.tenants.len().saturating_sub(SHOWN),
        cells: costs.cells.iter().take(SHOWN).map(cell_row).collect(),
        cells_more: costs.cells.len().saturating_sub(SHOWN),
        providers: costs.providers.iter().map(row).collect(),
        plans: costs.plans.iter().map(row).collect(),
        assumptions: costs.assumptions,
        month: costs.month,
    })
}

fn row(row: &CostRow) -> Row {
    let cell = row.cell.as_ref().map(ToString::to_string);
    let note = match (&row.plan, cell) {
        (Some(plan), Some(cell)) => format!("{plan}, {cell}"),
        (Some(plan), None) => plan.clone(),
        _ => format!("{} tenants", row.tenants),
    };
    Row {
        name: if row.name.is_empty() { "no cell".to_owned() } else { row.name.clone() },
        note,
        cost: money(row.cost_cents),
        idle: money(row.idle_cents),
        revenue: money(row.revenue_cents),
        margin: money(row.margin_cents),
        loss: row.margin_cents < Cents::new(0),
    }
}

fn cell_row(cell: &berth_wire::CostCell) -> CellRow {
    CellRow {
        name: cell.name.to_string(),
        provider: cell.provider.clone(),
        taken: format!("{:.1}", cell.taken_percent),
        places: format!("{} of {}", cell.tenants, cell.places),
        cost: money(cell.cost_cents),
        idle: money(cell.idle_cents),
        margin: money(cell.margin_cents),
        loss: cell.margin_cents < Cents::new(0),
        month: or_unknown(cell.month_cents, money),
        break_even: or_unknown(cell.break_even, |n| n.to_string()),
    }
}

/// `$42`, `-$1.5k`, `$12k`: as exact as a picture is.
fn short(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let dollars = cents.unsigned_abs() as f64 / 100.0;
    match dollars {
        ..0.005 => "$0".to_owned(),
        ..10.0 => format!("{sign}${dollars:.2}"),
        ..999.5 => format!("{sign}${dollars:.0}"),
        ..9_950.0 => format!("{sign}${:.1}k", dollars / 1e3),
        ..999_500.0 => format!("{sign}${:.0}k", dollars / 1e3),
        _ => format!("{sign}${:.1}M", dollars / 1e6),
    }
}

/// Bars and the amount that the highest stands for.
pub(super) fn bars(months: &[CostMonth], here: &str) -> (Vec<Bar>, i64) {
    let most = months.iter().flat_map(|m| [m.cost_cents.get(), m.revenue_cents.get()]).max().unwrap_or(0).max(1);
    // Credits can make a month negative; a bar cannot be.
    let high =
        |cents: i64| i64::try_from(i128::from(cents.max(0)) * i128::from(HEIGHT) / i128::from(most)).unwrap_or(0);
    let bar = |(n, month): (usize, &CostMonth)| {
        let x = 60 + SLOT * i64::try_from(n).unwrap_or(0);
        let (cost, idle, revenue) = (month.cost_cents, month.idle_cents, month.revenue_cents);
        let cost_h = high(cost.get());
        let idle_h = high(idle.get()).min(cost_h);
        let so_far = if month.over { "" } else { " so far" };
        Bar {
            title: format!(
                "{}{so_far}: cost {}, of it {} idle, revenue {}, margin {}",
                month.month,
                money(cost),
                money(idle),
                money(revenue),
                money(month.margin_cents)
            ),
            month: month.month.clone(),
            x,
            middle: x + BAR,
            used_y: HEIGHT - (cost_h - idle_h),
            used_h: cost_h - idle_h,
            idle_y: HEIGHT - cost_h,
            idle_h,
            revenue_x: x + BAR + 2,
            revenue_y: HEIGHT - high(revenue.get()),
            revenue_h: high(revenue.get()),
            cost: money(cost),
            idle: money(idle),
            revenue: money(revenue),
            margin: money(month.margin_cents),
            margin_short: short(month.margin_cents.get()),
            tenants: month.tenants,
            here: month.month == here,
        }
    };
    (months.iter().enumerate().map(bar).collect(), most)
}

#[cfg(test)]
mod tests {
    use super::{HEIGHT, bars};
    use berth_domain::Cents;
    use berth_wire::CostMonth;

    fn month(name: &str, cost: i64, idle: i64, revenue: i64) -> CostMonth {
        CostMonth {
            month: name.to_owned(),
            over: true,
            cost_cents: Cents::new(cost),
            revenue_cents: Cents::new(revenue),
            margin_cents: Cents::new(revenue - cost),
            idle_cents: Cents::new(idle),
            tenants: 1,
            unknown: 0,
        }
    }

    #[test]
    fn bars_stand_on_the_ground_and_none_is_higher_than_the_picture() {
        let months =
            [month("2026-09", 5000, 5000, 0), month("2026-10", -100, 0, 10_000), month("2026-11", 2500, 500, 1)];
        let (bars, most) = bars(&months, "2026-11");
        assert_eq!(most, 10_000);
        for bar in &bars {
            assert_eq!(bar.used_y + bar.used_h, HEIGHT);
            assert_eq!(bar.idle_y + bar.idle_h, bar.used_y, "idle stands on used");
            assert_eq!(bar.revenue_y + bar.revenue_h, HEIGHT);
            assert!(bar.idle_y >= 0 && bar.revenue_y >= 0 && bar.used_h >= 0 && bar.idle_h >= 0);
        }
        assert_eq!((bars[2].used_h, bars[2].idle_h, bars[1].revenue_h), (32, 8, HEIGHT));
        assert!(bars[2].here && bars.windows(2).all(|pair| pair[0].revenue_x < pair[1].x));
        assert_eq!(super::bars(&[], "2026-11").1, 1, "no month, and nothing is divided by nothing");
    }

    #[test]
    fn a_margin_under_its_bars_is_as_exact_as_there_is_room() {
        for (cents, says) in [
            (0, "$0"),
            (1, "$0.01"),
            (-999, "-$9.99"),
            (4_250, "$42"),
            (-99_940, "-$999"),
            (99_960, "$1.0k"),
            (1_234_567, "$12k"),
            (-123_456_789, "-$1.2M"),
        ] {
            assert_eq!(super::short(cents), says);
        }
    }
}
