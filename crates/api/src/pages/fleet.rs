//! `/fleet`: the plan of the whole fleet or of some cells, before and after as a picture, its price and its order; and the
//! fleet grown on paper.

use super::{
    costs::{Bar, SLOT, bars},
    failure::{Failure, html},
    inner::escaped,
    session::{Change, Session, once},
    shown::{Frame, money},
};
use askama::Template;
use axum::{
    extract::Query,
    http::Method,
    response::{IntoResponse as _, Redirect, Response},
};
use berth_domain::Cents;
use berth_wire::{Cell, CostMonth, FleetApplied, FleetApply, FleetCell, FleetMonth, FleetPlan, FleetSimulate, Page};
use serde::Deserialize;
use std::collections::BTreeMap;

const CELLS_MOST: usize = 5000;
/// Cells that one side of the picture shows; beyond them only those that the plan changes, and of these the first.
const DRAWN: usize = 48;
const STEPS_SHOWN: usize = 50;
const ACROSS: usize = 8;
const WIDTH: usize = 92;
const HEIGHT: usize = 74;
/// The inside of a box.
const BOX: u64 = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Drawn {
    name: String,
    label: String,
    x: usize,
    y: usize,
    fill_y: u64,
    fill_h: u64,
    count: String,
    /// `same`, `changed`, `new` or `gone`.
    kind: &'static str,
}

struct Side {
    title: &'static str,
    cells: Vec<Drawn>,
    height: usize,
    left_out: usize,
}

struct StepRow {
    number: usize,
    why: &'static str,
    does: String,
    saves: String,
}

#[derive(Template)]
#[template(path = "pages/fleet.html")]
struct FleetPage {
    frame: Frame,
    before: String,
    after: String,
    bound: String,
    /// None where the bound says nothing.
    gap: Option<String>,
    moves: u64,
    wrong: Option<(u64, u64)>,
    nowhere: Vec<String>,
    sides: Vec<Side>,
    steps: Vec<StepRow>,
    more: usize,
    any_move: bool,
    /// The cells that are planned alone; empty: all.
    only: String,
    growth: u32,
    months: u32,
    grown: Option<Grown>,
}

/// What a page is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    only: String,
    growth: String,
    months: String,
}

/// The fleet month by month, on paper.
struct Grown {
    bars: Vec<Bar>,
    width: i64,
    most: String,
    half: String,
    rows: Vec<GrownRow>,
}

struct GrownRow {
    month: u32,
    tenants: u64,
    cells: u64,
    cost: String,
    revenue: String,
    margin: String,
    moves: u64,
    nowhere: u64,
}

impl Grown {
    fn of(months: &[FleetMonth]) -> Self {
        let as_costs = |month: &FleetMonth| CostMonth {
            month: format!("+{}", month.month),
            over: true,
            cost_cents: month.cost_cents,
            revenue_cents: month.revenue_cents,
            margin_cents: month.margin_cents,
            idle_cents: Cents::new(0),
            tenants: month.tenants,
            unknown: 0,
        };
        let costs: Vec<CostMonth> = months.iter().map(as_costs).collect();
        let (bars, most) = bars(&costs, "");
        let rows = months.iter().map(|month| GrownRow {
            month: month.month,
            tenants: month.tenants,
            cells: month.cells,
            cost: money(month.cost_cents),
            revenue: money(month.revenue_cents),
            margin: money(month.margin_cents),
            moves: month.moves,
            nowhere: month.nowhere,
        });
        Self {
            width: SLOT * i64::try_from(bars.len()).unwrap_or(60) + 70,
            bars,
            most: money(Cents::new(most)),
            half: money(Cents::new(most / 2)),
            rows: rows.collect(),
        }
    }
}

/// Names with commas or spaces between.
fn names(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn whole(text: &str, usual: u32, what: &str, most: u32) -> Result<u32, Failure> {
    match text.trim() {
        "" => Ok(usual),
        text => text.parse().ok().filter(|n| *n <= most).ok_or_else(|| Failure::Field {
            detail: format!("{what} is `{text}`"),
            hint: format!("write a whole number up to {most}"),
        }),
    }
}

/// `GET /fleet`
pub async fn page(session: Session, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let only = names(&asked.only);
    let query: Vec<String> = only.iter().map(|name| escaped(name)).collect();
    let path = if query.is_empty() { String::new() } else { format!("?cells={}", query.join(",")) };
    let plan: FleetPlan = session.get(&format!("/v1/fleet/plan{path}")).await?;
    let (growth, months) =
        (whole(&asked.growth, 10, "the growth", 100)?, whole(&asked.months, 12, "the number of months", 60)?.max(1));
    let grown = if asked.growth.trim().is_empty() && asked.months.trim().is_empty() {
        None
    } else {
        let wanted = FleetSimulate { growth_percent: growth, months };
        let grown: Page<FleetMonth> = session.send(Method::POST, "/v1/fleet/simulate", &wanted, &once()).await?;
        Some(Grown::of(&grown.items))
    };
    let cells: Vec<Cell> = session.list("/v1/cells", CELLS_MOST).await?;
    let standing =
        cells.iter().map(|cell| (cell.name.to_string(), u64::from(cell.tenants), u64::from(cell.max_tenants)));
    let steps = plan.steps.iter().take(STEPS_SHOWN).enumerate().map(|(n, step)| {
        let mut does: Vec<String> = step.opens.iter().map(|o| format!("opens {} ({})", o.cell, o.offer)).collect();
        match step.moves.as_slice() {
            [] => {}
            [one] => does.push(format!("moves {} to {}", one.tenant, one.to)),
            [first, rest @ ..] => {
                does.push(format!("moves {} to {} and {} more", first.tenant, first.to, rest.len()));
            }
        }
        does.extend(step.closes.iter().map(|cell| format!("closes {cell}")));
        StepRow { number: n + 1, why: why(&step.why), does: does.join(", "), saves: money(step.saves_cents) }
    });
    html(&FleetPage {
        frame: Frame::of(&session, "fleet"),
        before: money(plan.before_cents),
        after: money(plan.after_cents),
        bound: money(plan.bound_cents),
        gap: (plan.bound_cents.get() > 0).then(|| format!("{:.1} %", plan.gap_percent)),
        moves: plan.moves,
        wrong: (plan.wrong_before > 0).then_some((plan.wrong_before, plan.wrong_after)),
        sides: picture(standing.collect(), &plan).into(),
        steps: steps.collect(),
        more: plan.steps.len().saturating_sub(STEPS_SHOWN),
        any_move: plan.steps.iter().any(|step| !step.moves.is_empty()),
        nowhere: plan.nowhere,
        only: only.join(", "),
        growth,
        months,
        grown,
    })
}

fn why(word: &str) -> &'static str {
    match word {
        "constraint" => "a constraint is broken",
        "empty" => "a cell can go",
        "replace" => "a new cell is cheaper",
        _ => "other",
    }
}

/// What was begun, where not all of it went by itself.
#[derive(Template)]
#[template(path = "pages/fleet_begun.html")]
struct BegunPage {
    frame: Frame,
    /// Tenant, cell, operation, or why it did not start.
    moves: Vec<(String, String, Option<String>, String)>,
    troubles: Vec<String>,
    /// Offer and price a month.
    needs: Vec<(String, String)>,
    removable: Vec<String>,
    left: u64,
}

/// `POST /fleet`: starts the first moves. What could not be started is said, and what a person has to do for the rest.
pub async fn apply(change: Change) -> Result<Response, Failure> {
    let only = names(change.field("only").unwrap_or_default());
    let body = FleetApply { moves: None, cells: false, only };
    let done: FleetApplied = change.session.send(Method::POST, "/v1/fleet/apply", &body, &change.once()).await?;
    let all_began = !done.started.is_empty() && done.started.iter().all(|it| it.operation.is_some());
    if all_began && done.needs.is_empty() && done.removable.is_empty() && done.cells.is_empty() {
        return Ok(Redirect::to("/operations?open=true").into_response());
    }
    let moves = done.started.into_iter().map(|it| {
        let operation = it.operation.map(|id| id.to_string());
        (it.tenant, it.to, operation, it.trouble.unwrap_or_else(|| "?".to_owned()))
    });
    let trouble = |it: FleetCell| {
        let what = if it.removed { "removed" } else { "made" };
        Some(format!("cell {} cannot be {what} now: {}", it.cell, it.trouble?))
    };
    html(&BegunPage {
        frame: Frame::of(&change.session, "fleet"),
        moves: moves.collect(),
        troubles: done.cells.into_iter().filter_map(trouble).collect(),
        needs: done.needs.into_iter().map(|it| (it.offer, money(it.price_cents))).collect(),
        removable: done.removable,
        left: done.left,
    })
}

/// Cells with tenants and places now, and what the plan makes of them.
fn picture(standing: Vec<(String, u64, u64)>, plan: &FleetPlan) -> [Side; 2] {
    let before: BTreeMap<String, (u64, u64)> =
        standing.into_iter().map(|(name, tenants, places)| (name, (tenants, places))).collect();
    let mut after: BTreeMap<String, (u64, u64)> = before.clone();
    let mut gone: Vec<&str> = Vec::new();
    for step in &plan.steps {
        for opened in &step.opens {
            // How many places it has is its offer's business, and not part of the plan: the fill is by tenants.
            after.insert(opened.cell.clone(), (0, 0));
        }
        for moved in &step.moves {
            if let Some(left) = moved.from.as_ref().and_then(|from| after.get_mut(from)) {
                left.0 = left.0.saturating_sub(1);
            }
            after.entry(moved.to.clone()).or_default().0 += 1;
        }
        gone.extend(step.closes.iter().map(String::as_str));
    }
    after.retain(|name, _| !gone.contains(&name.as_str()));
    let kind_before = |name: &str, now: (u64, u64)| match after.get(name) {
        None => "gone",
        Some(then) if then.0 == now.0 => "same",
        Some(_) => "changed",
    };
    let kind_after = |name: &str, then: (u64, u64)| match before.get(name) {
        None => "new",
        Some(now) if now.0 == then.0 => "same",
        Some(_) => "changed",
    };
    [side("Before", &before, kind_before), side("After", &after, kind_after)]
}

fn side(
    title: &'static str,
    cells: &BTreeMap<String, (u64, u64)>,
    kind: impl Fn(&str, (u64, u64)) -> &'static str,
) -> Side {
    let mut shown: Vec<(&String, (u64, u64), &'static str)> =
        cells.iter().map(|(name, fill)| (name, *fill, kind(name, *fill))).collect();
    if shown.len() > DRAWN {
        // What changes first; the order of names is kept within.
        shown.sort_by_key(|(_, _, kind)| *kind == "same");
        shown.truncate(DRAWN);
    }
    let drawn = shown.iter().enumerate().map(|(n, (name, (tenants, places), kind))| {
        let fill_h = if *places == 0 { BOX / 2 * u64::from(*tenants > 0) } else { BOX * tenants.min(places) / places };
        // Whoever lives there is seen, however large the cell is.
        let fill_h = if *tenants > 0 { fill_h.max(2) } else { 0 };
        let short: String = name.chars().take(12).collect();
        Drawn {
            label: if name.chars().count() > 12 { format!("{short}\u{2026}") } else { short },
            name: (*name).clone(),
            x: n % ACROSS * WIDTH,
            y: n / ACROSS * HEIGHT,
            fill_y: BOX - fill_h,
            fill_h,
            count: if *places == 0 { tenants.to_string() } else { format!("{tenants} of {places}") },
            kind,
        }
    });
    let drawn: Vec<Drawn> = drawn.collect();
    Side {
        title,
        height: drawn.len().div_ceil(ACROSS).max(1) * HEIGHT,
        left_out: cells.len() - drawn.len(),
        cells: drawn,
    }
}

#[cfg(test)]
mod tests {
    use super::{BOX, picture};

    #[test]
    fn the_picture_shows_where_everybody_ends_and_which_cells_come_and_go() {
        let plan = serde_json::json!({
            "steps": [
                { "why": "empty", "opens": [], "closes": ["b"], "saves_cents": 5,
                  "moves": [{ "tenant": "t1", "from": "b", "to": "a" }, { "tenant": "t2", "from": "b", "to": "a" }] },
                { "why": "constraint", "opens": [{ "cell": "new-1", "offer": "fly-own", "price_cents": 1 }], "closes": [],
                  "moves": [{ "tenant": "t3", "from": "a", "to": "new-1" }], "saves_cents": 0 }
            ],
            "before_cents": 2, "after_cents": 1, "bound_cents": 1, "gap_percent": 0.0, "moves": 3, "cells_before": 3,
            "cells_after": 3, "wrong_before": 1, "wrong_after": 0, "nowhere": []
        });
        let standing = vec![("a".into(), 3, 10), ("b".into(), 2, 10), ("c".into(), 10, 10)];
        let [before, after] = picture(standing, &serde_json::from_value(plan).unwrap());
        let of = |side: &super::Side| -> Vec<(String, String, &'static str)> {
            side.cells.iter().map(|c| (c.name.clone(), c.count.clone(), c.kind)).collect()
        };
        let named = |n: &str, c: &str, k: &'static str| (n.to_owned(), c.to_owned(), k);
        assert_eq!(
            of(&before),
            [named("a", "3 of 10", "changed"), named("b", "2 of 10", "gone"), named("c", "10 of 10", "same")]
        );
        assert_eq!(
            of(&after),
            [named("a", "4 of 10", "changed"), named("c", "10 of 10", "same"), named("new-1", "1", "new")]
        );
        assert!(after.cells.iter().all(|c| c.fill_y + c.fill_h == BOX));
    }

    #[test]
    fn of_many_cells_those_that_change_are_drawn() {
        let plan = serde_json::json!({
            "steps": [{ "why": "empty", "opens": [], "closes": ["c-0999"], "moves": [], "saves_cents": 5 }],
            "before_cents": 2, "after_cents": 1, "bound_cents": 1, "gap_percent": 0.0, "moves": 0, "cells_before": 1000,
            "cells_after": 999, "wrong_before": 0, "wrong_after": 0, "nowhere": []
        });
        let standing = (0..1000).map(|n| (format!("c-{n:04}"), 0, 10)).collect();
        let [before, _] = picture(standing, &serde_json::from_value(plan).unwrap());
        assert_eq!((before.cells[0].name.as_str(), before.cells[0].kind, before.left_out), ("c-0999", "gone", 952));
    }
}
