//! What `berth cost` shows. Never decides anything.

use super::By;
use crate::cli::{
    table::{Table, facts},
    units,
};
use berth_wire::{CostInvoice, CostMonth, CostRow, Costs, InvoiceImport, PhaseAnswer};

/// More rows than anybody reads: the dearest are first.
const ROWS_SHOWN: usize = 40;

pub fn month(costs: &Costs, by: By) -> String {
    let until =
        if costs.over { "whole".to_owned() } else { format!("until {}", costs.until.strftime("%m-%d %H:%M UTC")) };
    let mut lines = vec![
        ("month", format!("{}, {until}", costs.month)),
        ("cost", format!("{}, of it {} idle", costs.cost_cents, costs.idle_cents)),
        ("revenue", costs.revenue_cents.to_string()),
        ("margin", costs.margin_cents.to_string()),
    ];
    if !costs.over {
        let f = &costs.forecast;
        let end = format!("cost {}, revenue {}, margin {}", f.cost_cents, f.revenue_cents, f.margin_cents);
        lines.push(("month's end", end));
    }
    if let Some(budget) = &costs.budget {
        let amount = |cents: i64| berth_domain::Cents::new(cents).to_string().replace('$', "");
        let said = format!(
            "{}: {} of {} {}",
            budget.level,
            amount(budget.forecast_cents),
            amount(budget.amount_cents),
            budget.currency
        );
        lines.push(("budget", said));
    }
    for invoice in &costs.invoices {
        lines.push(("invoice", invoice_line(invoice)));
    }
    let mut text = facts(&lines);
    if !costs.unknown.is_empty() {
        let names: Vec<&str> = costs.unknown.iter().map(AsRef::as_ref).take(10).collect();
        text.push_str(&format!(
            "in no sum, since nobody knows a price of them: {} ({} cells)\n",
            names.join(", "),
            costs.unknown.len()
        ));
    }
    text.push('\n');
    text.push_str(&match by {
        By::Tenant => rows("TENANT", &costs.tenants, false),
        By::Provider => rows("PROVIDER", &costs.providers, true),
        By::Plan => rows("PLAN", &costs.plans, false),
        By::Cell => cells(costs),
    });
    if !costs.advice.is_empty() {
        text.push_str("\nadvice\n");
    }
    for advice in costs.advice.iter().take(10) {
        let saves = advice.saves_cents.map(|cents| format!(" (saves {cents} a month)")).unwrap_or_default();
        let command = advice.command.as_ref().map(|command| format!(": `{command}`")).unwrap_or_default();
        text.push_str(&format!("  {}: {}{saves}{command}\n", advice.about, advice.says));
    }
    text
}

fn invoice_line(invoice: &CostInvoice) -> String {
    format!(
        "{} {}: {} ({}), rates of {}",
        invoice.provider,
        invoice.source,
        invoice.cost_cents,
        invoice.amounts.join(" + "),
        invoice.rates_of
    )
}

fn more(shown: usize, all: usize) -> String {
    if all > shown { format!("and {} more; --json shows them\n", all - shown) } else { String::new() }
}

fn rows(head: &'static str, rows: &[CostRow], idle: bool) -> String {
    let mut table = if idle {
        Table::new(&[head, ">TENANTS", ">COST", ">IDLE", ">REVENUE", ">MARGIN"])
    } else {
        Table::new(&[head, "PLAN", "CELL", ">COST", ">REVENUE", ">MARGIN"])
    };
    for row in rows.iter().take(ROWS_SHOWN) {
        let [cost, revenue, margin] = [row.cost_cents, row.revenue_cents, row.margin_cents].map(|c| c.to_string());
        if idle {
            let name = if row.name.is_empty() { "-".to_owned() } else { row.name.clone() };
            table.row([name, units::count(row.tenants), cost, row.idle_cents.to_string(), revenue, margin]);
        } else {
            let plan = row.plan.clone().unwrap_or_else(|| format!("{} tenants", row.tenants));
            let cell = row.cell.as_ref().map(ToString::to_string).unwrap_or_default();
            table.row([row.name.clone(), plan, cell, cost, revenue, margin]);
        }
    }
    table.or("Nobody lived anywhere in this month.") + &more(ROWS_SHOWN, rows.len())
}

fn cells(costs: &Costs) -> String {
    let heads = ["CELL", "AT", ">FILL %", ">COST", ">IDLE", ">REVENUE", ">MARGIN", ">A MONTH", ">PAID BY"];
    let mut table = Table::new(&heads);
    for cell in costs.cells.iter().take(ROWS_SHOWN) {
        table.row([
            cell.name.to_string(),
            cell.provider.clone(),
            format!("{:.1}", cell.taken_percent),
            cell.cost_cents.to_string(),
            cell.idle_cents.to_string(),
            cell.revenue_cents.to_string(),
            cell.margin_cents.to_string(),
            units::or_unknown(cell.month_cents),
            cell.break_even.map_or_else(|| "?".to_owned(), |n| format!("{n} tenants")),
        ]);
    }
    table.or("No cell stood in this month.") + &more(ROWS_SHOWN, costs.cells.len())
}

pub fn months(months: &[CostMonth]) -> String {
    let mut table = Table::new(&["MONTH", ">TENANTS", ">COST", ">IDLE", ">REVENUE", ">MARGIN", ">NO PRICE"]);
    for month in months {
        table.row([
            if month.over { month.month.clone() } else { format!("{} so far", month.month) },
            units::count(month.tenants),
            month.cost_cents.to_string(),
            month.idle_cents.to_string(),
            month.revenue_cents.to_string(),
            month.margin_cents.to_string(),
            units::count(month.unknown),
        ]);
    }
    table.or("No cell was made yet, so nothing has cost anything.")
}

pub fn import(invoice: &InvoiceImport) -> String {
    let mut table = Table::new(&["CELL", "PART", ">AMOUNT", "CURRENCY"]);
    for line in invoice.lines.iter().take(ROWS_SHOWN) {
        let cell = line.cell.as_ref().map_or_else(|| "(all)".to_owned(), ToString::to_string);
        table.row([cell, line.part.clone(), line.amount.clone(), line.currency.clone()]);
    }
    format!("{} of {}\n", invoice.provider, invoice.month) + &table.text() + &more(ROWS_SHOWN, invoice.lines.len())
}

pub fn taken(invoice: &CostInvoice) -> String {
    format!("{}\n", invoice_line(invoice))
}

pub fn phase(answer: &PhaseAnswer) -> String {
    let euro = |cents: i64| berth_domain::Cents::new(cents).to_string().replace('$', "EUR ");
    let by = if answer.phase_from.is_empty() { String::new() } else { format!(" ({})", answer.phase_from) };
    let mut text =
        format!("phase {}{by}: {}, {} a month\n", answer.phase, answer.infrastructure, euro(answer.euro_cents));
    let Some((next, what, cents)) = answer
        .next
        .zip(answer.next_infrastructure.as_ref())
        .zip(answer.next_euro_cents)
        .map(|((next, what), cents)| (next, what, cents))
    else {
        return text + "there is no later one\n";
    };
    text.push_str(&format!(
        "phase {next}: {what}, {} a month: {} ({} of 9 triggers hold, {} unknown, 3 are needed)\n\n",
        euro(cents),
        if answer.go { "it is time" } else { "not yet" },
        answer.held,
        answer.unknown
    ));
    let mut table = Table::new(&["TRIGGER", ">FROM", ">HAS", "HOLDS", "BY"]);
    for t in &answer.triggers {
        table.row([
            t.trigger.clone(),
            t.threshold.to_string(),
            t.has.map_or_else(|| "?".to_owned(), |has| format!("{has:.2}").trim_end_matches(".00").to_owned()),
            t.holds.map_or("?", |holds| if holds { "yes" } else { "no" }).to_owned(),
            t.from.clone().unwrap_or_else(|| "nobody measured it".to_owned()),
        ]);
    }
    text + &table.text()
}

#[cfg(test)]
mod tests {
    use super::{By, month};

    fn costs() -> berth_wire::Costs {
        let row = |name: &str, cost: i64, idle: i64| {
            serde_json::json!({ "name": name, "cost_cents": cost, "revenue_cents": 1500, "margin_cents": 1500 - cost,
                                "idle_cents": idle, "tenants": 1, "plan": "hobby", "cell": "fra-1" })
        };
        serde_json::from_value(serde_json::json!({
            "month": "2026-11", "until": "2026-11-21T12:00:00Z", "over": false,
            "cost_cents": 8800, "revenue_cents": 1500, "margin_cents": -7300, "idle_cents": 8700, "common_cents": 0,
            "unknown": ["own-1"],
            "invoices": [{ "provider": "hetzner", "source": "imported", "cost_cents": 8800, "amounts": ["80.00 EUR"],
                           "lines": 1, "rates_of": "2026-11-21" }],
            "tenants": [row("acme", 100, 0)], "plans": [row("hobby", 100, 0)], "providers": [row("hetzner", 8800, 8700)],
            "cells": [{ "name": "fra-1", "class": "shared", "provider": "hetzner", "cost_cents": 8800, "idle_cents": 8700,
                        "revenue_cents": 1500, "margin_cents": -7300, "taken_percent": 1.1, "tenants": 1, "places": 150,
                        "shared_by": "places", "month_cents": 9219, "break_even": 7 }],
            "forecast": { "cost_cents": 9219, "revenue_cents": 1500, "margin_cents": -7719 },
            "budget": { "currency": "EUR", "amount_cents": 5000, "forecast_cents": 8381, "left_cents": -3381, "level": "over" },
            "advice": [{ "code": "cell_thin", "about": "cell fra-1", "says": "1 of 150 places are taken", "saves_cents": null,
                         "command": "berth fleet plan" }],
            "assumptions": []
        }))
        .unwrap()
    }

    #[test]
    fn a_month_says_whose_figures_they_are_what_stood_idle_and_who_is_in_no_sum() {
        let text = month(&costs(), By::Cell);
        for part in [
            "$88.00, of it $87.00 idle",
            "hetzner imported: $88.00 (80.00 EUR), rates of 2026-11-21",
            "over: 83.81 of 50.00 EUR",
            "own-1 (1 cells)",
            "7 tenants",
            "cell fra-1: 1 of 150 places are taken: `berth fleet plan`",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(month(&costs(), By::Tenant).contains("acme    hobby  fra-1  $1.00   $15.00  $14.00"));
        assert!(month(&costs(), By::Provider).contains("$87.00"));
    }
}
