//! A month's books as the API shows them. Never reads the store.

use super::{assemble::Books, prices};
use crate::{ControlError, decide};
use berth_domain::{CellClass, CellId, CellName, CellState, Cents};
use berth_placement::{Arch, Catalogue, Micros, Place, Rates};
use berth_store::{CellSpan, Invoice};
use berth_usage::cost::{self, Advice, Allocation, Basis, Limits, Machine, ServerShape, Used};
use berth_wire as wire;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The end of the month, if everything stays.
pub(super) struct Forecast {
    cost: i64,
    revenue: i64,
}

impl Forecast {
    pub fn cost_in(&self, currency: &str, rates: &Rates) -> Option<i64> {
        in_currency(self.cost, currency, rates)
    }

    pub fn revenue_in(&self, currency: &str, rates: &Rates) -> Option<i64> {
        in_currency(self.revenue, currency, rates)
    }
}

pub(super) fn forecast(books: &Books) -> Result<Forecast, ControlError> {
    let end = books.month.span().until;
    let (spread, _) = books.allocate(&books.invoices(end), end)?;
    Ok(Forecast { cost: spread.total_cents, revenue: books.revenue(end).iter().sum() })
}

/// Cents of a dollar in cents of another currency, rounded half up.
fn in_currency(cents: i64, currency: &str, rates: &Rates) -> Option<i64> {
    let rate = if currency == "USD" { 1_000_000 } else { rates.usd.get(currency)?.0 };
    let (exact, rate) = (i128::from(cents) * 1_000_000, i128::from(rate));
    i64::try_from((exact * 2 + rate).div_euclid(rate * 2)).ok()
}

fn until(books: &Books) -> Timestamp {
    let month = books.month.span();
    books.now.clamp(month.from, month.until)
}

pub(super) fn month(books: &Books) -> Result<wire::CostMonth, ControlError> {
    let until = until(books);
    let invoices = books.invoices(until);
    let (spread, _) = books.allocate(&invoices, until)?;
    let revenue: i64 = books.revenue(until).iter().sum();
    let tenants: BTreeSet<&str> = spread.shares.iter().map(|share| share.tenant.as_str()).collect();
    Ok(wire::CostMonth {
        month: books.month.to_string(),
        over: books.month.span().until <= books.now,
        cost_cents: Cents::new(spread.total_cents),
        revenue_cents: Cents::new(revenue),
        margin_cents: Cents::new(revenue - spread.total_cents),
        idle_cents: Cents::new(spread.idle_cents),
        tenants: tenants.len() as u64,
        unknown: books.unknown(&invoices).len() as u64,
    })
}

pub(super) fn invoice(invoice: &Invoice) -> Result<wire::CostInvoice, ControlError> {
    let mut sums: BTreeMap<&str, Micros> = BTreeMap::new();
    for line in &invoice.lines {
        let sum = sums.entry(&line.currency).or_default();
        *sum = sum.plus(Micros(line.micros));
    }
    let mut cents = 0;
    for (currency, sum) in &sums {
        let rate = if *currency == "USD" { Some(&1_000_000) } else { invoice.rates.get(*currency) };
        let rate = rate.ok_or_else(|| ControlError::BadInvoice(format!("there is no exchange rate for {currency}")))?;
        cents += cost::rounded_together(&[i128::from(sum.0) * i128::from(*rate)], 10_000_000_000)[0];
    }
    let amount = |(currency, sum): (&&str, &Micros)| {
        let cents = sum.cents();
        let sign = if cents < 0 { "-" } else { "" };
        format!("{sign}{}.{:02} {currency}", cents.unsigned_abs() / 100, cents.unsigned_abs() % 100)
    };
    Ok(wire::CostInvoice {
        provider: invoice.provider.clone(),
        source: invoice.source.as_str().to_owned(),
        cost_cents: Cents::new(cents),
        amounts: sums.iter().map(amount).collect(),
        lines: invoice.lines.len() as u64,
        rates_of: invoice.rates_of.clone(),
    })
}

/// Sums by whatever name.
#[derive(Default)]
struct Sum {
    cost: i64,
    revenue: i64,
    idle: i64,
    tenants: BTreeSet<String>,
    plan: Option<String>,
    cell: Option<CellName>,
}

fn rows(sums: BTreeMap<String, Sum>) -> Vec<wire::CostRow> {
    let row = |(name, sum): (String, Sum)| wire::CostRow {
        name,
        cost_cents: Cents::new(sum.cost),
        revenue_cents: Cents::new(sum.revenue),
        margin_cents: Cents::new(sum.revenue - sum.cost),
        idle_cents: Cents::new(sum.idle),
        tenants: sum.tenants.len() as u64,
        plan: sum.plan,
        cell: sum.cell,
    };
    let mut rows: Vec<wire::CostRow> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.cost_cents.cmp(&a.cost_cents).then_with(|| a.name.cmp(&b.name)));
    rows
}

pub(super) fn costs(books: &Books) -> Result<wire::Costs, ControlError> {
    let until = until(books);
    let invoices = books.invoices(until);
    let (spread, charges) = books.allocate(&invoices, until)?;
    let brought = books.revenue(until);
    let cells: BTreeMap<String, &CellSpan> = books.cells.iter().map(|c| (c.cell.id.to_string(), c)).collect();
    let (mut tenants, mut plans, mut providers, mut in_cells) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::<String, Sum>::new(), BTreeMap::<String, Sum>::new());
    let mut add = |tenant: &str, plan: &str, cell: &str, cost: i64, revenue: i64| {
        let known = cells.get(cell).map(|cell| &cell.cell);
        let provider = known.map(|cell| cell.provider.clone()).unwrap_or_default();
        let sums = [
            tenants.entry(tenant.to_owned()).or_insert_with(Sum::default),
            plans.entry(plan.to_owned()).or_default(),
            in_cells.entry(cell.to_owned()).or_default(),
            providers.entry(provider).or_default(),
        ];
        for sum in sums {
            sum.cost += cost;
            sum.revenue += revenue;
            sum.tenants.insert(tenant.to_owned());
        }
        if let Some(sum) = tenants.get_mut(tenant) {
            sum.plan = Some(plan.to_owned());
            sum.cell = known.map(|cell| cell.name.clone());
        }
    };
    for share in &spread.shares {
        add(&share.tenant, &share.plan, &share.cell, share.cents, 0);
    }
    for (stay, cents) in books.stays.iter().zip(&brought) {
        add(stay.tenant.as_str(), &stay.plan, &stay.cell.to_string(), 0, *cents);
    }
    // A provider's costs are what it billed, idle places included; what its tenants bear of others' is not its.
    for sum in providers.values_mut() {
        sum.cost = 0;
    }
    for (charge, cents) in charges.iter().zip(&spread.charges_cents) {
        providers.entry(charge.provider.clone()).or_default().cost += cents;
    }
    for cell in &spread.cells {
        if let Some(known) = cells.get(&cell.cell) {
            providers.entry(known.cell.provider.clone()).or_default().idle += cell.idle_cents;
        }
    }
    let revenue: i64 = brought.iter().sum();
    let forecast = forecast(books)?;
    Ok(wire::Costs {
        month: books.month.to_string(),
        until,
        over: books.month.span().until <= books.now,
        cost_cents: Cents::new(spread.total_cents),
        revenue_cents: Cents::new(revenue),
        margin_cents: Cents::new(revenue - spread.total_cents),
        idle_cents: Cents::new(spread.idle_cents),
        common_cents: Cents::new(spread.common_cents),
        unknown: books.unknown(&invoices).iter().map(|cell| cell.cell.name.clone()).collect(),
        cells: cell_rows(books, &spread, &cells, &in_cells),
        tenants: rows(tenants),
        providers: rows(providers),
        plans: rows(plans),
        budget: budget(books, &forecast),
        forecast: wire::CostForecast {
            cost_cents: Cents::new(forecast.cost),
            revenue_cents: Cents::new(forecast.revenue),
            margin_cents: Cents::new(forecast.revenue - forecast.cost),
        },
        advice: Vec::new(),
        assumptions: assumptions(books, &invoices),
        invoices: invoices.iter().map(invoice).collect::<Result<_, _>>()?,
    })
}

/// By tenant: what it cost so far, and what it brought. Who lived in a cell that nobody knows a price of is left out:
/// what it cost is unknown, and not nothing.
pub(super) fn borne(books: &Books) -> Result<BTreeMap<String, (i64, i64)>, ControlError> {
    let until = until(books);
    let invoices = books.invoices(until);
    let (spread, _) = books.allocate(&invoices, until)?;
    let unknown: BTreeSet<CellId> = books.unknown(&invoices).iter().map(|cell| cell.cell.id).collect();
    let mut borne = BTreeMap::<String, (i64, i64)>::new();
    for (stay, cents) in books.stays.iter().zip(books.revenue(until)) {
        borne.entry(stay.tenant.to_string()).or_default().1 += cents;
    }
    for share in spread.shares {
        borne.entry(share.tenant).or_default().0 += share.cents;
    }
    for stay in books.stays.iter().filter(|stay| unknown.contains(&stay.cell)) {
        borne.remove(stay.tenant.as_str());
    }
    Ok(borne)
}

/// The cheapest plan of a class that is still sold.
fn cheapest(books: &Books, class: CellClass) -> Option<i64> {
    let sold = books.plans.iter().filter(|plan| !plan.retired && plan.plan.class == class);
    sold.map(|plan| plan.plan.price_cents.get()).min()
}

/// By cell: how many live in it now, and what they pay a month.
type Standing = HashMap<CellId, (u32, i64)>;

fn standing(books: &Books) -> Standing {
    let mut standing = Standing::new();
    for stay in books.stays.iter().filter(|stay| stay.until.is_none()) {
        let (tenants, paid) = standing.entry(stay.cell).or_default();
        *tenants += 1;
        *paid += stay.price_cents.get();
    }
    standing
}

fn month_cents(books: &Books, cell: &CellSpan) -> Option<i64> {
    let price = prices::month_price(&books.in_force.stack, &books.catalogue, &prices::Kind::from(&cell.cell));
    price.map(Cents::get)
}

fn cell_rows(
    books: &Books,
    spread: &Allocation,
    cells: &BTreeMap<String, &CellSpan>,
    sums: &BTreeMap<String, Sum>,
) -> Vec<wire::CostCell> {
    let standing = standing(books);
    let of = |cost: &cost::CellCost| {
        let cell = cells.get(&cost.cell)?;
        let revenue = sums.get(&cost.cell).map_or(0, |sum| sum.revenue);
        let month = month_cents(books, cell);
        let (tenants, paid) = standing.get(&cell.cell.id).copied().unwrap_or_default();
        let break_even =
            month.and_then(|month| cost::break_even(month, paid, tenants, cheapest(books, cell.cell.class)));
        Some(wire::CostCell {
            name: cell.cell.name.clone(),
            class: cell.cell.class,
            provider: cell.cell.provider.clone(),
            cost_cents: Cents::new(cost.cents),
            idle_cents: Cents::new(cost.idle_cents),
            revenue_cents: Cents::new(revenue),
            margin_cents: Cents::new(revenue - cost.cents),
            taken_percent: cost.taken_permille as f64 / 10.0,
            tenants: sums.get(&cost.cell).map_or(0, |sum| sum.tenants.len() as u64),
            places: u64::try_from(cell.cell.max_tenants).unwrap_or(0),
            shared_by: if cost.basis == Basis::Usage { "usage" } else { "places" }.to_owned(),
            month_cents: month.map(Cents::new),
            break_even,
        })
    };
    let mut rows: Vec<wire::CostCell> = spread.cells.iter().filter_map(of).collect();
    rows.sort_by(|a, b| b.cost_cents.cmp(&a.cost_cents).then_with(|| a.name.cmp(&b.name)));
    rows
}

pub(super) fn budget(books: &Books, forecast: &Forecast) -> Option<wire::CostBudget> {
    let budget = books.in_force.stack.budget.as_ref()?;
    // Without a rate nothing is compared, which stands among the assumptions.
    let forecast_cents = in_currency(forecast.cost, &budget.currency, &books.catalogue.rates)?;
    let limits = Limits {
        amount: budget.amount.get(),
        warning: budget.warning.map(Cents::get),
        critical: budget.critical.map(Cents::get),
    };
    Some(wire::CostBudget {
        currency: budget.currency.clone(),
        amount_cents: limits.amount,
        forecast_cents,
        left_cents: limits.amount - forecast_cents,
        level: cost::level(forecast_cents, &limits).as_str().to_owned(),
    })
}

fn assumptions(books: &Books, invoices: &[Invoice]) -> Vec<String> {
    let today = books.now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let mut said = books.catalogue.assumptions(today);
    let currency = books.in_force.stack.budget.as_ref().map(|budget| &budget.currency);
    if let Some(currency) = currency.filter(|currency| !books.catalogue.rates.knows(currency)) {
        said.push(format!("the budget is compared with nothing: there is no rate for {currency}"));
    }
    let unknown = books.unknown(invoices).len();
    if unknown > 0 {
        said.push(format!(
            "{unknown} cells have no known price and are in no sum: give them `price` in the stack file"
        ));
    }
    said.push("a tenant's share is its time in one of the cell's places; places that nobody had are idle".to_owned());
    said.push("revenue is the plans' prices by the time on them; what was paid is not known here".to_owned());
    said
}

pub(super) fn advice(books: &Books, used: &HashMap<CellId, Used>) -> Vec<wire::CostAdvice> {
    let standing = books.cells.iter().filter(|cell| cell.until.is_none() && cell.cell.state != CellState::Creating);
    let lives = self::standing(books);
    let cells: Vec<cost::CellFacts> =
        standing.map(|cell| cell_facts(books, cell, &lives, used.get(&cell.cell.id))).collect();
    let until = until(books);
    let invoices = books.invoices(until);
    let (mut costs, mut brought) = (BTreeMap::<String, i64>::new(), BTreeMap::<String, i64>::new());
    if let Ok((spread, _)) = books.allocate(&invoices, until) {
        for share in spread.shares {
            *costs.entry(share.tenant).or_default() += share.cents;
        }
    }
    for (stay, cents) in books.stays.iter().zip(books.revenue(until)) {
        *brought.entry(stay.tenant.to_string()).or_default() += cents;
    }
    let tenants: Vec<cost::TenantFacts> = costs
        .into_iter()
        .map(|(tenant, cost_cents)| {
            let revenue_cents = brought.get(&tenant).copied().unwrap_or(0);
            cost::TenantFacts { tenant, cost_cents, revenue_cents }
        })
        .collect();
    let shown = |advice: Advice| wire::CostAdvice {
        code: advice.code.to_owned(),
        about: advice.about,
        says: advice.says,
        saves_cents: advice.saves_cents.map(Cents::new),
        command: advice.command,
    };
    cost::advise(&cells, &tenants).into_iter().map(shown).collect()
}

fn shape(shape: berth_config::Shape) -> ServerShape {
    ServerShape {
        cpu_millis: shape.cpu_millis.unwrap_or(0).into(),
        memory_mib: shape.memory_mib.unwrap_or(0).into(),
        disk_gib: shape.disk_gib.unwrap_or(0).into(),
    }
}

fn cell_facts(books: &Books, cell: &CellSpan, standing: &Standing, used: Option<&Used>) -> cost::CellFacts {
    let stack = &books.in_force.stack;
    let declared = stack.cells.get(&cell.cell.name);
    let database = declared.map(|declared| shape(declared.shape)).unwrap_or_default();
    let mut promised = database;
    for service in stack.services.values() {
        let (one, copies) = (shape(service.shape), u64::from(service.copies));
        promised.cpu_millis += one.cpu_millis * copies;
        promised.memory_mib += one.memory_mib * copies;
        promised.disk_gib += one.disk_gib * copies;
    }
    let (provider, sites) = decide::place(stack, &books.catalogue, &cell.cell.provider, cell.cell.region.as_deref());
    let alike = |(_, place): &(String, Place)| {
        place.provider == provider && place.class == cell.cell.class && place.sites == sites
    };
    let place = books.catalogue.places().into_iter().find(alike).map(|(_, place)| place);
    let offered = place.as_ref().filter(|place| place.cpu_millis > 0).map(|place| ServerShape {
        cpu_millis: place.cpu_millis,
        memory_mib: place.memory_mib,
        disk_gib: place.disk_gib,
    });
    let stated = declared.map(|declared| declared.server.shape).filter(|stated| !stated.is_empty()).map(shape);
    let server = stated.or(offered);
    let arch = arch(declared, place.as_ref());
    let (tenants, revenue_cents) = standing.get(&cell.cell.id).copied().unwrap_or_default();
    let mut facts = cost::CellFacts {
        cell: cell.cell.name.to_string(),
        shared: cell.cell.class != CellClass::Dedicated,
        tenants,
        rooms: u32::try_from(cell.cell.max_tenants).unwrap_or(0),
        month_cents: month_cents(books, cell),
        revenue_cents,
        promised,
        database,
        server,
        used: used.copied(),
        fitting: None,
    };
    facts.fitting =
        server.and_then(|server| machine(&books.catalogue, (&provider, &sites, arch), server, cost::needed(&facts)?));
    facts
}

/// What the programs of a cell run on: what the stack file says, else what is offered there.
fn arch(declared: Option<&berth_config::Cell>, place: Option<&Place>) -> Arch {
    match declared.and_then(|declared| declared.server.arch) {
        Some(berth_config::Arch::X86_64) => Arch::X86_64,
        Some(berth_config::Arch::Aarch64) => Arch::Aarch64,
        None => place.map(|place| place.arch).unwrap_or_default(),
    }
}

/// The cheapest machine that the provider sells there, that runs the same programs and has what is needed, if it is another
/// than the cheapest like the one there is.
fn machine(
    catalogue: &Catalogue,
    (provider, sites, arch): (&str, &[String], Arch),
    there: ServerShape,
    needed: ServerShape,
) -> Option<Machine> {
    let cheapest =
        |it: ServerShape| catalogue.cheapest_server(provider, sites, arch, it.cpu_millis, it.memory_mib, it.disk_gib);
    let ((same, now), (name, then)) = (cheapest(there)?, cheapest(needed)?);
    let shape = catalogue.providers.get(provider)?.shapes.get(name)?;
    let has = ServerShape { cpu_millis: shape.cpu_millis, memory_mib: shape.memory_mib, disk_gib: shape.disk_gib };
    (same != name).then(|| Machine { name: name.to_owned(), more_cents: (then - now).get(), has })
}

#[cfg(test)]
mod tests {
    use super::arch;
    use berth_config::Stack;
    use berth_domain::CellName;
    use berth_placement::Arch;

    #[test]
    fn programs_run_on_what_the_stack_file_says() {
        let file = "stack: s
services: { web: { command: [a], health: /h } }
providers: { fake: { adapter: fake } }
cells:
  arm: { server: { memory_mib: 8192, arch: aarch64 } }
  said: { server: { arch: x86_64 } }
  silent: {}
";
        let stack = berth_config::parse(file, None, &berth_config::no_files).unwrap();
        let stored: Stack = serde_json::from_value(serde_json::to_value(&stack).unwrap()).unwrap();
        assert_eq!(stack, stored, "a stored revision reads like the file");
        let on = |cell: &str| arch(stack.cells.get(&CellName::new(cell).unwrap()), None);
        assert_eq!(["arm", "said", "silent"].map(on), [Arch::Aarch64, Arch::X86_64, Arch::X86_64]);
        assert_eq!(arch(None, None), Arch::X86_64);
    }
}
