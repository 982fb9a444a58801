//! What tenants bear and what stood idle add up to the invoices, to the cent, whatever the fleet.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_usage::cost::{Allocation, Basis, CellTime, Charge, Month, Span, Stay, allocate};
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn november() -> Span {
    "2026-11".parse::<Month>().unwrap().span()
}

fn rates() -> BTreeMap<String, i64> {
    BTreeMap::from([("EUR".to_owned(), 1_100_000), ("BRL".to_owned(), 183_457), ("JPY".to_owned(), 6_431)])
}

fn charge(cell: Option<&str>, currency: &str, micros: i64) -> Charge {
    Charge {
        provider: "p".to_owned(),
        cell: cell.map(str::to_owned),
        part: "server".to_owned(),
        currency: currency.to_owned(),
        micros,
    }
}

fn stay(tenant: &str, cell: &str, plan: &str, span: Span) -> Stay {
    Stay { tenant: tenant.to_owned(), cell: cell.to_owned(), plan: plan.to_owned(), span }
}

fn of<'a>(spread: &'a Allocation, tenant: &str) -> Vec<&'a berth_usage::cost::Share> {
    spread.shares.iter().filter(|share| share.tenant == tenant).collect()
}

#[test]
fn a_shared_cell_is_borne_by_its_tenants_and_its_empty_rooms_by_nobody() {
    let month = november();
    let cells = [CellTime { cell: "a".to_owned(), rooms: 4, span: month }];
    let half = Span { from: at("2026-11-16T00:00:00Z"), ..month };
    let stays = [stay("acme", "a", "hobby", month), stay("beta", "a", "hobby", half)];
    let spread = allocate(
        month,
        month.until,
        &[charge(Some("a"), "EUR", 80_000_000)],
        &cells,
        &stays,
        &BTreeMap::new(),
        &rates(),
    )
    .unwrap();
    assert_eq!(
        (spread.total_cents, spread.idle_cents),
        (8800, 5500),
        "80 EUR at 1.10; two and a half of four rooms are idle"
    );
    assert_eq!((of(&spread, "acme")[0].cents, of(&spread, "beta")[0].cents), (2200, 1100));
    assert_eq!(spread.cells[0].taken_permille, 375);
}

#[test]
fn a_tenant_that_moved_bears_each_place_for_its_time_there() {
    let month = november();
    let moved = at("2026-11-11T00:00:00Z");
    let cells = [
        CellTime { cell: "a".to_owned(), rooms: 1, span: month },
        CellTime { cell: "own".to_owned(), rooms: 1, span: Span { from: moved, ..month } },
    ];
    let stays = [
        stay("acme", "a", "hobby", Span { until: moved, ..month }),
        stay("acme", "own", "starter", Span { from: moved, ..month }),
    ];
    let bills = [charge(Some("a"), "USD", 30_000_000), charge(Some("own"), "USD", 400_000_000)];
    let spread = allocate(month, month.until, &bills, &cells, &stays, &BTreeMap::new(), &rates()).unwrap();
    let shares: Vec<(&str, i64)> = of(&spread, "acme").iter().map(|s| (s.plan.as_str(), s.cents)).collect();
    assert_eq!(shares, [("hobby", 1000), ("starter", 40_000)]);
    assert_eq!(spread.idle_cents, 2000, "the room that it left");
}

#[test]
fn measured_work_shares_the_rooms_that_are_taken_and_never_the_empty_ones() {
    let month = november();
    let cells = [CellTime { cell: "a".to_owned(), rooms: 4, span: month }];
    let stays = [stay("acme", "a", "hobby", month), stay("beta", "a", "hobby", month)];
    let bills = [charge(Some("a"), "USD", 40_000_000)];
    let known = BTreeMap::from([("acme".to_owned(), 900), ("beta".to_owned(), 100)]);
    let spread = allocate(month, month.until, &bills, &cells, &stays, &known, &rates()).unwrap();
    assert_eq!((of(&spread, "acme")[0].cents, of(&spread, "beta")[0].cents, spread.idle_cents), (1800, 200, 2000));
    assert_eq!(spread.cells[0].basis, Basis::Usage);
    // Where one of them was not measured, nobody knows who did how much.
    let part = BTreeMap::from([("acme".to_owned(), 900)]);
    let spread = allocate(month, month.until, &bills, &cells, &stays, &part, &rates()).unwrap();
    assert_eq!((of(&spread, "acme")[0].cents, spread.cells[0].basis), (1000, Basis::Rooms));
}

#[test]
fn what_belongs_to_no_cell_is_borne_by_all_and_idle_where_nobody_lives() {
    let month = november();
    let bills = [charge(None, "USD", 12_340_000), charge(Some("gone"), "USD", 10_000)];
    let cells = [CellTime { cell: "a".to_owned(), rooms: 2, span: month }];
    let stays = [stay("acme", "a", "hobby", month)];
    let spread = allocate(month, month.until, &bills, &cells, &stays, &BTreeMap::new(), &rates()).unwrap();
    assert_eq!((of(&spread, "acme")[0].cents, spread.idle_cents), (1235, 0));
    let spread = allocate(month, month.until, &bills, &cells, &[], &BTreeMap::new(), &rates()).unwrap();
    assert_eq!((spread.shares.len(), spread.idle_cents), (0, 1235));
}

#[test]
fn a_month_that_still_runs_counts_what_was_lived_until_now() {
    let month = november();
    let now = at("2026-11-02T00:00:00Z");
    let cells = [CellTime { cell: "a".to_owned(), rooms: 1, span: month }];
    let spread = allocate(
        month,
        now,
        &[charge(Some("a"), "USD", 1_000_000)],
        &cells,
        &[stay("acme", "a", "hobby", month)],
        &BTreeMap::new(),
        &rates(),
    )
    .unwrap();
    assert_eq!((of(&spread, "acme")[0].seconds, of(&spread, "acme")[0].cents), (86_400, 100));
}

#[test]
fn a_currency_without_a_rate_is_refused_and_not_taken_for_dollars() {
    let month = november();
    let error =
        allocate(month, month.until, &[charge(None, "XYZ", 1)], &[], &[], &BTreeMap::new(), &rates()).unwrap_err();
    assert_eq!(error.to_string(), "there is no exchange rate for XYZ");
}

/// Any fleet: cells that come and go, tenants that move, credits, currencies, with and without measured work.
type Fleet = (Vec<Charge>, Vec<CellTime>, Vec<Stay>, BTreeMap<String, u64>, u64);

fn spans(hours: u64) -> impl Strategy<Value = Span> {
    // From before the month to after it.
    (0u64..hours, 0u64..hours).prop_map(|(a, b)| {
        let start = at("2026-10-25T00:17:03Z");
        let moment = |s: u64| start + jiff::SignedDuration::from_secs(i64::try_from(s * 3600 + s % 977).unwrap());
        Span { from: moment(a.min(b)), until: moment(a.max(b)) }
    })
}

fn fleets() -> impl Strategy<Value = Fleet> {
    let cells = prop::collection::vec((1u32..200, spans(1000)), 1..6);
    let charges = prop::collection::vec((0usize..8, 0usize..4, -5_000_000i64..900_000_000), 0..12);
    let stays = prop::collection::vec((0usize..20, 0usize..6, 0usize..3, spans(1000)), 0..25);
    let work = prop::collection::btree_map(0usize..20, 0u64..1_000_000_000, 0..20);
    (cells, charges, stays, work, 0u64..1000).prop_map(|(cells, charges, stays, work, now)| {
        let cell = |n: usize| format!("cell-{n}");
        let currency = |n: usize| ["USD", "EUR", "BRL", "JPY"][n];
        let charges = charges
            .into_iter()
            .map(|(at, c, micros)| charge((at < 7).then(|| cell(at)).as_deref(), currency(c), micros));
        let cells = cells.into_iter().enumerate().map(|(n, (rooms, span))| CellTime { cell: cell(n), rooms, span });
        let stays = stays.into_iter().map(|(t, c, p, span)| stay(&format!("t{t}"), &cell(c), &format!("p{p}"), span));
        let work = work.into_iter().map(|(t, n)| (format!("t{t}"), n));
        (charges.collect(), cells.collect(), stays.collect(), work.collect(), now)
    })
}

/// The invoices in cents of dollars, by nothing that the allocation uses.
fn invoiced(charges: &[Charge]) -> i64 {
    let mut by_currency: BTreeMap<&str, i128> = BTreeMap::new();
    for charge in charges {
        *by_currency.entry(&charge.currency).or_default() += i128::from(charge.micros);
    }
    let rates = rates();
    let cents = |(currency, micros): (&&str, &i128)| {
        let rate = if *currency == "USD" { 1_000_000 } else { i128::from(rates[*currency]) };
        let exact = micros * rate;
        // Half up, also below zero.
        (exact + 5_000_000_000).div_euclid(10_000_000_000)
    };
    i64::try_from(by_currency.iter().map(cents).sum::<i128>()).unwrap()
}

/// A cent, in the millionths of millionths that a rate times an amount is.
const CENT: i128 = 10_000_000_000;

/// What one cell was charged, unrounded, and in how many lines.
fn charged(charges: &[Charge], cell: &str) -> (i128, i128) {
    let rates = rates();
    let own = charges.iter().filter(|charge| charge.cell.as_deref() == Some(cell));
    let exact = own.map(|charge| {
        let rate = if charge.currency == "USD" { 1_000_000 } else { i128::from(rates[&charge.currency]) };
        i128::from(charge.micros) * rate
    });
    exact.fold((0, 0), |(sum, lines), line| (sum + line, lines + 1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn tenants_and_idle_add_up_to_the_invoice_to_the_cent((charges, cells, stays, work, now) in fleets()) {
        let month = november();
        let now = month.from + jiff::SignedDuration::from_hours(i64::try_from(now).unwrap());
        let spread = allocate(month, now, &charges, &cells, &stays, &work, &rates()).unwrap();
        let borne: i64 = spread.shares.iter().map(|share| share.cents).sum();
        prop_assert_eq!(borne + spread.idle_cents, spread.total_cents);
        prop_assert_eq!(spread.total_cents, invoiced(&charges));
        prop_assert_eq!(spread.charges_cents.iter().sum::<i64>(), spread.total_cents);
        prop_assert_eq!(spread.cells.iter().map(|cell| cell.cents).sum::<i64>() + spread.common_cents, spread.total_cents);
        // What is charged to cells alone is borne by who lived in each, and idle there: nobody pays for another cell.
        let known = |charge: &&Charge| cells.iter().any(|cell| charge.cell.as_deref() == Some(cell.cell.as_str()));
        let of_cells: Vec<Charge> = charges.iter().filter(known).cloned().collect();
        let own = allocate(month, now, &of_cells, &cells, &stays, &work, &rates()).unwrap();
        prop_assert_eq!(own.common_cents, 0);
        for cell in &own.cells {
            let in_it: i64 = own.shares.iter().filter(|share| share.cell == cell.cell).map(|share| share.cents).sum();
            prop_assert_eq!(in_it + cell.idle_cents, cell.cents);
            let (exact, lines) = charged(&of_cells, &cell.cell);
            // Each line is rounded to a cent beside it at most.
            prop_assert!((i128::from(cell.cents) * CENT - exact).abs() <= lines * CENT, "{:?} of {}", cell, exact);
        }
        for cell in &spread.cells {
            prop_assert!(cell.cents < 0 || (0..=cell.cents).contains(&cell.idle_cents));
        }
        // Without credits nobody is paid for living somewhere.
        if charges.iter().all(|charge| charge.micros >= 0) {
            prop_assert!(spread.shares.iter().all(|share| share.cents >= 0));
        }
        prop_assert_eq!(allocate(month, now, &charges, &cells, &stays, &work, &rates()).unwrap(), spread);
    }
}
