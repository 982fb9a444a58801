//! Costs as their callers meet them: real sockets, real control, real Postgres.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use berth_domain::Cents;
use berth_wire::{Costs, InvoiceImport, InvoiceLine, PhaseAsk, TenantChange, TenantMove};
use jiff::Timestamp;
use world::{World, apply, refused};

const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health, shape: { cpu_millis: 500, memory_mib: 512 } }
plans:
  hobby: { price: 15.00, class: shared }
  starter: { price: 49.00, class: dedicated }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3, price: 90.00 }
  shared-2: { class: shared, max_tenants: 150, price: 6000.00 }
  own: { class: dedicated, price: 400.00 }
budget: { amount: 50, currency: EUR, warning: 40, critical: 45 }
";

async fn world() -> World {
    World::of(STACK).await
}

async fn tenant(world: &World, name: &str, cell: &str) {
    world.tenant(name, "hobby", &format!("{name}.test"), Some(cell)).await;
}

/// What stands in every answer, whoever asks and however the month is broken down.
fn adds_up(costs: &Costs) {
    let sum = |it: &mut dyn Iterator<Item = Cents>| it.sum::<Cents>();
    let tenants = sum(&mut costs.tenants.iter().map(|row| row.cost_cents));
    assert_eq!(tenants + costs.idle_cents, costs.cost_cents, "{costs:#?}");
    assert_eq!(sum(&mut costs.plans.iter().map(|row| row.cost_cents)), tenants, "{costs:#?}");
    assert_eq!(sum(&mut costs.providers.iter().map(|row| row.cost_cents)), costs.cost_cents, "{costs:#?}");
    assert_eq!(sum(&mut costs.invoices.iter().map(|it| it.cost_cents)), costs.cost_cents, "{costs:#?}");
    assert_eq!(sum(&mut costs.tenants.iter().map(|row| row.revenue_cents)), costs.revenue_cents);
    assert_eq!(costs.revenue_cents - costs.cost_cents, costs.margin_cents);
}

fn line(cell: Option<&str>, amount: &str, currency: &str) -> InvoiceLine {
    InvoiceLine {
        cell: cell.map(|cell| cell.parse().unwrap()),
        part: "server".to_owned(),
        amount: amount.to_owned(),
        currency: currency.to_owned(),
    }
}

fn this_month() -> String {
    Timestamp::now().strftime("%Y-%m").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_adds_up_and_an_imported_invoice_stands_in_place_of_the_computed_one() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-1").await;
    tenant(&world, "beta", "shared-1").await;
    let costs = client.costs(None).await.unwrap();
    adds_up(&costs);
    // An hour was begun in each cell: 90, 6000 and 400 dollars over the hours of the month.
    assert!(costs.cost_cents > Cents::new(800) && costs.cost_cents < Cents::new(1000), "{costs:#?}");
    assert_eq!(costs.invoices[0].source, "computed");
    assert_eq!(costs.budget.as_ref().unwrap().level, "over", "6490 dollars are more than 50 euro");
    assert!(costs.advice.iter().any(|advice| advice.code == "cell_empty" && advice.about == "cell own"), "{costs:#?}");
    let cell = costs.cells.iter().find(|cell| cell.name.as_str() == "shared-1").unwrap();
    assert_eq!((cell.month_cents, cell.break_even, cell.places), (Some(Cents::new(9000)), Some(6), 3));

    let month = this_month();
    let mut invoice = InvoiceImport {
        month: month.clone(),
        provider: "here".parse().unwrap(),
        lines: vec![line(Some("shared-1"), "100.00", "EUR"), line(None, "10.01", "USD")],
    };
    let taken = client.invoice_import(&invoice).await.unwrap();
    assert_eq!((taken.cost_cents, taken.amounts.join(" ")), (Cents::new(12_001), "100.00 EUR 10.01 USD".to_owned()));
    let costs = client.costs(Some(&month)).await.unwrap();
    adds_up(&costs);
    assert_eq!((costs.cost_cents, costs.common_cents), (Cents::new(12_001), Cents::new(1001)));
    assert_eq!(costs.invoices[0].source, "imported");
    let months = client.cost_months(12).await.unwrap();
    assert_eq!((months.len(), months[0].cost_cents), (1, Cents::new(12_001)), "nothing is from before the first cell");
    // The same again replaces it.
    invoice.lines.pop();
    client.invoice_import(&invoice).await.unwrap();
    assert_eq!(client.costs(None).await.unwrap().cost_cents, Cents::new(11_000));
    // Whoever looks at everything is told where the month stands against the budget: 40 is a warning, 45 critical, 50 all.
    for (amount, told) in [
        ("100.00", Some(("budget_over", "costs 100.00 EUR of 50.00 EUR: over"))),
        ("46.00", Some(("budget_critical", "46.00 EUR"))),
        ("42.00", Some(("budget_warning", "42.00 EUR"))),
        ("39.00", None),
    ] {
        invoice.lines = vec![line(Some("shared-1"), amount, "EUR")];
        client.invoice_import(&invoice).await.unwrap();
        let attention = client.status().await.unwrap().attention;
        let found = attention.iter().find(|it| it.subject == "budget");
        assert_eq!(found.map(|it| it.code.as_str()), told.map(|(code, _)| code), "{amount}: {attention:?}");
        let words = told.map_or("", |(_, words)| words);
        assert!(found.is_none_or(|it| it.detail.contains(words) && it.hint.is_some()), "{amount}: {attention:?}");
    }
    let costs = client.invoice_forget(&month, "here").await.unwrap();
    assert_eq!(costs.invoices[0].source, "computed");
    assert_eq!(refused(client.invoice_forget(&month, "here").await).code, "no_invoice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_corrected_under_the_same_day_changes_later_invoices_and_no_earlier_one() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-1").await;
    let stack = STACK
        .replace("  here: { adapter: fake }", "  here: { adapter: fake }\n  there: { adapter: fake }")
        .replace("class: shared, max", "class: shared, provider: here, max")
        .replace("class: dedicated, price: 400", "class: dedicated, provider: here, price: 400");
    let corrected =
        |rate: &str| format!("{stack}placement: {{ catalogue: {{ rates: {{ usd: {{ EUR: {rate} }} }} }} }}\n");
    for (provider, rate) in [("here", "1.10"), ("there", "1.20")] {
        client.stack_apply(&apply(&corrected(rate))).await.unwrap();
        let invoice = InvoiceImport {
            month: this_month(),
            provider: provider.parse().unwrap(),
            lines: vec![line(None, "100.00", "EUR")],
        };
        client.invoice_import(&invoice).await.unwrap();
    }
    let costs = client.costs(None).await.unwrap();
    adds_up(&costs);
    assert_eq!(costs.cost_cents, Cents::new(11_000 + 12_000), "each at the rate that it was brought under");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_cannot_be_right_is_refused_with_its_line() {
    let world = world().await;
    let client = world.client();
    let month = this_month();
    let import = |month: &str, provider: &str, lines: Vec<InvoiceLine>| InvoiceImport {
        month: month.to_owned(),
        provider: provider.parse().unwrap(),
        lines,
    };
    for (invoice, code, detail) in [
        (import(&month, "here", vec![]), "bad_invoice", "1 to 10000 lines"),
        (
            import(&month, "here", vec![line(None, "1.00", "XYZ")]),
            "bad_invoice",
            "line 1: there is no exchange rate for XYZ",
        ),
        (
            import(&month, "here", vec![line(None, "1", "USD"), line(None, "1e9", "USD")]),
            "bad_invoice",
            "line 2: `1e9`",
        ),
        (import(&month, "here", vec![line(Some("gone"), "1", "USD")]), "bad_invoice", "there was no cell `gone`"),
        (import(&month, "elsewhere", vec![line(None, "1", "USD")]), "no_provider", "elsewhere"),
        (import("2026-13", "here", vec![line(None, "1", "USD")]), "bad_month", "2026-13"),
        (import("2999-01", "here", vec![line(None, "1", "USD")]), "bad_invoice", "has not begun"),
    ] {
        let problem = refused(client.invoice_import(&invoice).await);
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(code != "bad_invoice" || (problem.status, problem.retryable) == (422, false), "{problem:?}");
        assert!(problem.detail.contains(detail), "{detail}: {problem:?}");
        assert!(problem.hint.is_some(), "{problem:?}");
    }
    assert_eq!(refused(client.costs(Some("yesterday")).await).code, "bad_month");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_price_of_another_plan_and_of_a_move_is_known_before_either() {
    let world = world().await;
    let client = world.client();
    tenant(&world, "acme", "shared-1").await;
    let price = client.tenant_plan_price("acme", "starter").await.unwrap();
    assert!(price.moves);
    // A third of 90 dollars at four fifths of its places, which are two; 400 for the whole cell.
    assert_eq!((price.now.cost_cents, price.then.cost_cents), (Some(Cents::new(4500)), Some(Cents::new(40_000))));
    assert_eq!((price.now.margin_cents, price.then.margin_cents), (Some(Cents::new(-3000)), Some(Cents::new(-35_100))));
    assert_eq!((price.then.cell.as_ref().unwrap().as_str(), price.then.new_cell), ("own", false));
    assert_eq!(refused(client.tenant_plan_price("acme", "gold").await).code, "no_plan");

    let plan = client.tenant_plan_move("acme", &TenantMove { to: Some("shared-2".parse().unwrap()) }).await.unwrap();
    let shown = (plan.price_before_cents, plan.price_after_cents);
    assert_eq!(shown, (Some(Cents::new(4500)), Some(Cents::new(5000))), "6000 dollars over 120 tenants");

    // On another plan it brings another price from then on, and the month still adds up.
    let change = TenantChange { plan: "starter".parse().unwrap() };
    client.tenant_change("acme", &change, None).await.unwrap();
    let costs = client.costs(None).await.unwrap();
    adds_up(&costs);
    assert_eq!(costs.tenants[0].plan.as_deref(), Some("starter"));
    assert_eq!(costs.plans.len(), 2, "it was on both: {costs:#?}");
    let status = client.status().await.unwrap();
    assert_eq!(status.cost_month_cents, Some(Cents::new(649_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_triggers_of_nine_mean_the_next_phase() {
    let world = world().await;
    let client = world.client();
    let figures = [("cpu_percent".to_owned(), 71.0), ("memory_percent".to_owned(), 80.0), ("p95_s".to_owned(), 2.5)];
    let mut asked = PhaseAsk { phase: Some(1), figures: figures.into() };
    let answer = client.growth_phase(&asked).await.unwrap();
    assert!(answer.go && answer.held == 3 && answer.unknown <= 5, "the revenue is known here: {answer:?}");
    assert!(answer.triggers.iter().all(|t| t.has.is_some() == t.from.is_some()), "{answer:?}");
    asked.figures.remove("p95_s");
    assert!(!client.growth_phase(&asked).await.unwrap().go);
    asked.figures.insert("moon_phase".to_owned(), 1.0);
    assert_eq!(refused(client.growth_phase(&asked).await).code, "bad_figure");

    // Nobody says anything: the phase is that of the month's cost, and the figures those that were measured.
    let event = |tenant: &str, amount| berth_wire::UsageEvent {
        key: format!("{tenant}-{amount}"),
        tenant: tenant.to_owned(),
        metric: "active_users".to_owned(),
        amount,
        unit: None,
        at: None,
    };
    tenant(&world, "acme", "shared-1").await;
    tenant(&world, "beta", "shared-1").await;
    client.usage_record(&[event("acme", 300), event("beta", 900)]).await.unwrap();
    let first = PhaseAsk { phase: Some(1), ..PhaseAsk::default() };
    let look = async || client.growth_phase(&first).await.unwrap();
    let has = |answer: &berth_wire::PhaseAnswer, name: &str| {
        let found = answer.triggers.iter().find(|t| t.trigger == name).unwrap();
        (found.has, found.from.clone().unwrap_or_default())
    };
    let sized = |answer: &berth_wire::PhaseAnswer| has(answer, "database_gib").0.is_some();
    let answer = berth_testkit::wait_until("the database's size is known", look, sized).await;
    assert_eq!(answer.phase_from, "said");
    let by_cost = client.growth_phase(&PhaseAsk::default()).await.unwrap();
    assert!(by_cost.phase_from.starts_with("by the month's cost, EUR "), "{by_cost:?}");
    assert_eq!(has(&answer, "active_users").0, Some(1200.0), "of both together: {answer:?}");
    assert_eq!(has(&answer, "database_gib").1, "the largest cell's database");
    assert_eq!(has(&answer, "p95_s"), (None, String::new()), "a mean is no 95th percentile: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_a_cell_by_what_they_did_where_the_stack_file_says_so() {
    let world = World::empty().await;
    let client = world.client();
    let file = format!("{STACK}usage: {{ costs_by: gps_points }}\n");
    for operation in client.stack_apply(&apply(&file)).await.unwrap().operations {
        world.finishes(operation).await;
    }
    tenant(&world, "acme", "shared-1").await;
    tenant(&world, "beta", "shared-1").await;
    // So dear that the seconds which both have lived there are seen.
    let lines = vec![line(Some("shared-1"), "10000000.00", "USD")];
    let invoice = InvoiceImport { month: this_month(), provider: "here".parse().unwrap(), lines };
    client.invoice_import(&invoice).await.unwrap();
    let shown = async || {
        let costs = client.costs(None).await.unwrap();
        adds_up(&costs);
        let cell = costs.cells.iter().find(|cell| cell.name.as_str() == "shared-1").unwrap();
        let of = |name: &str| costs.tenants.iter().find(|row| row.name == name).map_or(0, |row| row.cost_cents.get());
        (cell.shared_by.clone(), of("acme"), of("beta"))
    };
    let did = async |tenant: &str, amount| {
        let event = berth_wire::UsageEvent {
            key: tenant.to_owned(),
            tenant: tenant.to_owned(),
            metric: "gps_points".to_owned(),
            amount,
            unit: None,
            at: Some(Timestamp::now()),
        };
        client.usage_record(&[event]).await.unwrap();
    };
    // Who has not lived there for a second yet bears nothing.
    let both = |(_, acme, beta): &(String, i64, i64)| *acme > 0 && *beta > 0;
    assert_eq!(berth_testkit::wait_until("both bear something", shown, both).await.0, "places");
    did("acme", 100_000_000).await;
    assert_eq!(shown().await.0, "places", "what beta did is not known");
    did("beta", 1_000_000).await;
    let (by, acme, beta) = shown().await;
    assert_eq!(by, "usage");
    assert!(acme > beta * 20 && beta > 0, "a hundred times the work: {acme} and {beta}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_in_a_currency_without_a_rate_is_refused_with_the_rate_to_give() {
    let world = World::empty().await;
    let pounds = STACK.replace("currency: EUR", "currency: GBP");
    let problem = refused(world.client().stack_apply(&apply(&pounds)).await);
    assert_eq!((problem.status, problem.code.as_str()), (422, "bad_placement"));
    assert!(problem.detail.contains("no rate for GBP") && problem.detail.contains("usd: { GBP"), "{}", problem.detail);
    let rate = "placement: { catalogue: { rates: { as_of: TODAY, source: bank, usd: { EUR: 1.1, GBP: 1.3 } } } }\n";
    let with_rate = format!("{pounds}{}", rate.replace("TODAY", &Timestamp::now().strftime("%Y-%m-%d").to_string()));
    for operation in world.client().stack_apply(&apply(&with_rate)).await.unwrap().operations {
        world.finishes(operation).await;
    }
    assert_eq!(world.client().costs(None).await.unwrap().budget.unwrap().currency, "GBP");
}
