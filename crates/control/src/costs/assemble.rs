//! Everything that a month's costs are reckoned from, read once.

use super::prices::{self, Kind};
use crate::{App, ControlError, app::StackInForce, decide, usage};
use berth_domain::UsagePeriod;
use berth_placement::{Catalogue, PriceLine};
use berth_store::{CellSpan, Invoice, InvoiceLine, InvoiceSource, Stay};
use berth_usage::cost::{self, Allocation, CellTime, Charge, Month, Span};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A month's books.
pub(super) struct Books {
    pub month: Month,
    pub now: Timestamp,
    pub in_force: Arc<StackInForce>,
    pub catalogue: Catalogue,
    pub cells: Vec<CellSpan>,
    pub stays: Vec<Stay>,
    /// Stored ones; of one provider an imported one goes before a computed one.
    pub stored: Vec<Invoice>,
    pub closed: bool,
    pub plans: Vec<berth_store::StoredPlan>,
    /// What each tenant did in the month, where the stack file says by which metric costs are shared.
    pub work: BTreeMap<String, u64>,
}

impl Books {
    pub async fn open(app: &App, month: Month, now: Timestamp) -> Result<Self, ControlError> {
        let in_force = app.stack().await?;
        let Span { from, until } = month.span();
        let stays = app.store().stays_between(from, until.min(now).max(from)).await?;
        let work = match &in_force.stack.usage.costs_by {
            Some(metric) => work(app, metric, from, &stays).await?,
            None => BTreeMap::new(),
        };
        let plans = app.store().plan_list().await?;
        Ok(Self { stays, plans, work, ..Self::of_cells(app, in_force, month, now).await? })
    }

    /// Without tenants and plans: what the month costs, and not who bears it.
    pub async fn of_cells(
        app: &App,
        in_force: Arc<StackInForce>,
        month: Month,
        now: Timestamp,
    ) -> Result<Self, ControlError> {
        let (catalogue, _) = decide::settings(&in_force.stack)?;
        let Span { from, until } = month.span();
        let name = month.to_string();
        Ok(Self {
            work: BTreeMap::new(),
            cells: app.store().cells_between(from, until.min(now).max(from)).await?,
            stays: Vec::new(),
            stored: app.store().invoice_list(&name).await?,
            closed: app.store().month_is_closed(&name).await?,
            plans: Vec::new(),
            month,
            now,
            in_force,
            catalogue,
        })
    }

    pub fn span_of(&self, cell: &CellSpan, until: Timestamp) -> Span {
        let all = Span { from: cell.cell.created_at, until: cell.until.unwrap_or(Timestamp::MAX).min(until) };
        all.within(self.month.span())
    }

    /// What a whole month of a cell is made of. A price in a currency whose rate nobody knows is none.
    pub fn lines(&self, cell: &CellSpan) -> Option<Vec<PriceLine>> {
        prices::lines(&self.in_force.stack, &self.catalogue, &Kind::from(&cell.cell)).filter(|it| self.has_rates(it))
    }

    fn has_rates(&self, lines: &[PriceLine]) -> bool {
        lines.iter().all(|line| self.catalogue.rates.knows(&line.currency))
    }

    /// Whether what this month cost is only missing a rate: what is stored is stored for good. A provider that billed is
    /// asked for no rate.
    pub fn waits_for_rates(&self) -> bool {
        let billed = |cell: &CellSpan| {
            let of = |invoice: &Invoice| invoice.provider.as_str() == cell.cell.provider.as_str();
            self.stored.iter().any(|invoice| invoice.source == InvoiceSource::Imported && of(invoice))
        };
        self.cells.iter().any(|cell| self.lacks_rate(cell) && !billed(cell))
    }

    /// Whether the price of a cell is only missing a rate.
    pub fn lacks_rates(&self) -> bool {
        self.cells.iter().any(|cell| self.lacks_rate(cell))
    }

    fn lacks_rate(&self, cell: &CellSpan) -> bool {
        let lines = prices::lines(&self.in_force.stack, &self.catalogue, &Kind::from(&cell.cell));
        lines.is_some_and(|lines| !self.has_rates(&lines))
    }

    /// From prices and the hours that were begun until a moment, one invoice a provider.
    fn computed_until(&self, until: Timestamp) -> Vec<Invoice> {
        let mut by_provider: BTreeMap<&str, Vec<InvoiceLine>> = BTreeMap::new();
        let hours = self.month.hours();
        for cell in &self.cells {
            let lines = by_provider.entry(&cell.cell.provider).or_default();
            let begun = self.span_of(cell, until).hours_begun();
            for line in self.lines(cell).unwrap_or_default() {
                let micros = i128::from(line.amount.0) * i128::from(begun) / i128::from(hours);
                let micros = i64::try_from(micros).unwrap_or(i64::MAX);
                let cell = Some(cell.cell.id.to_string());
                lines.push(InvoiceLine { cell, part: line.part, currency: line.currency, micros });
            }
        }
        let rates: BTreeMap<String, i64> =
            self.catalogue.rates.usd.iter().map(|(currency, rate)| (currency.clone(), rate.0)).collect();
        let invoice = |(provider, lines): (&str, Vec<InvoiceLine>)| Invoice {
            month: self.month.to_string(),
            provider: provider.to_owned(),
            source: InvoiceSource::Computed,
            lines,
            rates: rates.clone(),
            rates_of: self.catalogue.rates.as_of.to_string(),
            stored_by: "berth".to_owned(),
        };
        by_provider.into_iter().map(invoice).collect()
    }

    /// The month as it stands, to be stored when it is over.
    pub fn computed(&self) -> Vec<Invoice> {
        self.computed_until(self.now)
    }

    /// What counts: imported before stored before computed now, provider by provider.
    pub fn invoices(&self, until: Timestamp) -> Vec<Invoice> {
        let mut counted: BTreeMap<String, Invoice> = BTreeMap::new();
        if !self.closed {
            counted.extend(self.computed_until(until).into_iter().map(|invoice| (invoice.provider.clone(), invoice)));
        }
        for invoice in &self.stored {
            let kept = counted.get(&invoice.provider).is_some_and(|known| known.source > invoice.source);
            if !kept {
                counted.insert(invoice.provider.clone(), invoice.clone());
            }
        }
        counted.into_values().collect()
    }

    /// Cells in no sum, since nobody knows their price. Of a provider that billed, everything is known.
    pub fn unknown(&self, invoices: &[Invoice]) -> Vec<&CellSpan> {
        let billed: BTreeSet<&str> = invoices
            .iter()
            .filter(|invoice| invoice.source == InvoiceSource::Imported)
            .map(|invoice| invoice.provider.as_str())
            .collect();
        let named = |cell: &CellSpan| {
            let id = cell.cell.id.to_string();
            invoices.iter().flat_map(|invoice| &invoice.lines).any(|line| line.cell.as_ref() == Some(&id))
        };
        let unknown = |cell: &&CellSpan| !billed.contains(cell.cell.provider.as_str()) && !named(cell);
        self.cells.iter().filter(unknown).collect()
    }

    /// The invoices spread over who lived where. The second are the invoices' own lines, in the same order as the
    /// allocation's.
    pub fn allocate(&self, invoices: &[Invoice], until: Timestamp) -> Result<(Allocation, Vec<Charge>), ControlError> {
        let mut charges = Vec::new();
        // Rates are those of the invoice's own day: one currency under two rates is two currencies here.
        let mut rates: BTreeMap<String, i64> = BTreeMap::new();
        for invoice in invoices {
            for line in &invoice.lines {
                let rate = invoice.rates.get(&line.currency);
                let currency = match line.currency.as_str() {
                    "USD" => "USD".to_owned(),
                    // A catalogue may be corrected under the same day.
                    other => format!("{other} of {} at {}", invoice.rates_of, rate.copied().unwrap_or_default()),
                };
                if let Some(rate) = rate {
                    rates.insert(currency.clone(), *rate);
                }
                charges.push(Charge {
                    provider: invoice.provider.clone(),
                    cell: line.cell.as_deref().map(|cell| self.id_of(cell)),
                    part: line.part.clone(),
                    currency,
                    micros: line.micros,
                });
            }
        }
        let cells: Vec<CellTime> = self
            .cells
            .iter()
            .map(|cell| CellTime {
                cell: cell.cell.id.to_string(),
                rooms: u32::try_from(cell.cell.max_tenants).unwrap_or(0),
                span: self.span_of(cell, until),
            })
            .collect();
        let spread = cost::allocate(self.month.span(), until, &charges, &cells, &self.lived(), &self.work, &rates);
        Ok((spread.map_err(|unknown| ControlError::BadInvoice(unknown.to_string()))?, charges))
    }

    /// Lines of a person's invoice name cells, those of Berth's own have their id: of two cells with one name, one after
    /// the other, the later is meant.
    fn id_of(&self, cell: &str) -> String {
        let named = self.cells.iter().rev().find(|known| known.cell.name.as_str() == cell);
        named.map_or_else(|| cell.to_owned(), |known| known.cell.id.to_string())
    }

    fn lived(&self) -> Vec<cost::Stay> {
        let stay = |stay: &Stay| cost::Stay {
            tenant: stay.tenant.to_string(),
            cell: stay.cell.to_string(),
            plan: stay.plan.clone(),
            span: Span { from: stay.since, until: stay.until.unwrap_or(Timestamp::MAX) },
        };
        self.stays.iter().map(stay).collect()
    }

    /// What each stay brought until a moment, in the order of the stays: its price for its part of the month, a
    /// tenant's parts rounded together.
    pub fn revenue(&self, until: Timestamp) -> Vec<i64> {
        let month = self.month.span();
        let so_far = Span { until: until.clamp(month.from, month.until), ..month };
        let exact = |stay: &Stay| {
            let lived = Span { from: stay.since, until: stay.until.unwrap_or(Timestamp::MAX) }.within(so_far);
            i128::from(stay.price_cents.get()) * i128::from(lived.seconds())
        };
        let mut brought = Vec::with_capacity(self.stays.len());
        // Stays come ordered by tenant.
        for of_one in self.stays.chunk_by(|a, b| a.tenant == b.tenant) {
            let parts: Vec<i128> = of_one.iter().map(exact).collect();
            brought.extend(cost::rounded_together(&parts, i128::from(month.seconds().max(1))));
        }
        brought
    }
}

/// The total of a metric by tenant. Edges count everything that passes: of their metrics a tenant without a figure has 0, as
/// soon as anybody has one. Of other metrics it is unknown, and its cell is shared by places.
async fn work(
    app: &App,
    metric: &str,
    month: Timestamp,
    stays: &[Stay],
) -> Result<BTreeMap<String, u64>, ControlError> {
    let rows = app.store().usage_of_all(UsagePeriod::Month, month).await?;
    let total: BTreeMap<_, i64> =
        rows.into_iter().filter(|row| row.metric == metric).map(|row| (row.tenant, row.total)).collect();
    let zero = usage::is_counted_by_edges(metric) && !total.is_empty();
    let of = |stay: &Stay| {
        let known = total.get(&stay.id).copied().or(zero.then_some(0))?;
        Some((stay.tenant.to_string(), u64::try_from(known).unwrap_or(0)))
    };
    Ok(stays.iter().filter_map(of).collect())
}
