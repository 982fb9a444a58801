//! What a place costs: from the price that the stack file gives a cell, else from what the catalogue's offer of such a
//! place is made of.

use crate::{App, ControlError, Permit, ReadTenant, Scope, app::StackInForce, decide, placing, tenants};
use berth_config::Stack;
use berth_domain::{CellClass, CellName, Cents, PlanName, ProviderName};
use berth_placement::{Catalogue, Engine, PriceLine};
use berth_store::Cell;
use berth_wire as wire;
use std::collections::HashMap;

/// As far as a price goes by it. The cell need not exist.
pub(crate) struct Kind<'a> {
    pub name: &'a CellName,
    pub class: CellClass,
    pub provider: &'a str,
    pub region: Option<&'a str>,
}

impl<'a> From<&'a Cell> for Kind<'a> {
    fn from(cell: &'a Cell) -> Self {
        Self { name: &cell.name, class: cell.class, provider: &cell.provider, region: cell.region.as_deref() }
    }
}

/// A whole month, line by line. `None`: nobody knows.
pub(crate) fn lines(stack: &Stack, catalogue: &Catalogue, cell: &Kind<'_>) -> Option<Vec<PriceLine>> {
    if let Some(price) = decide::declared_price(stack, cell.name, cell.class) {
        let amount = berth_placement::Micros(price.get().saturating_mul(10_000));
        let part = "price of the stack file".to_owned();
        return Some(vec![PriceLine { part, count: 1, currency: "USD".to_owned(), amount }]);
    }
    let (provider, sites) = decide::place(stack, catalogue, cell.provider, cell.region);
    catalogue.lines_of_cell(cell.class, &provider, &sites)
}

/// The same in dollars, each currency rounded once.
pub(crate) fn month_price(stack: &Stack, catalogue: &Catalogue, cell: &Kind<'_>) -> Option<Cents> {
    let mut sums: HashMap<String, berth_placement::Micros> = HashMap::new();
    for line in lines(stack, catalogue, cell)? {
        let sum = sums.entry(line.currency).or_default();
        *sum = sum.plus(line.amount);
    }
    sums.iter().map(|(currency, sum)| catalogue.rates.usd_cents(*sum, currency)).sum()
}

/// Of every cell that stands and has a price. Without a usable catalogue nothing has: what is asked here must go on.
pub(crate) async fn of_cells(app: &App) -> Result<HashMap<CellName, Cents>, ControlError> {
    let in_force = match app.stack().await {
        Ok(in_force) => in_force,
        Err(ControlError::NoStack) => return Ok(HashMap::new()),
        Err(other) => return Err(other),
    };
    let Ok((catalogue, _)) = decide::settings(&in_force.stack) else { return Ok(HashMap::new()) };
    let cells = app.store().cell_list().await?;
    let priced = |cell: Cell| Some((cell.name.clone(), month_price(&in_force.stack, &catalogue, &Kind::from(&cell))?));
    Ok(cells.into_iter().filter_map(priced).collect())
}

/// What a tenant's place costs, there already or to be made.
pub(crate) fn of_place(
    in_force: &StackInForce,
    engine: &Engine,
    place: &placing::Place,
    standing: &HashMap<berth_domain::CellId, CellName>,
) -> Option<Cents> {
    match place {
        placing::Place::Existing(id) => engine.tenant_cost(standing.get(id)?.as_str()),
        placing::Place::New(new) => {
            let kind =
                Kind { name: &new.name, class: new.class, provider: &new.provider, region: new.region.as_deref() };
            month_price(&in_force.stack, engine.catalogue(), &kind)
        }
    }
}

/// What a tenant's place costs before a move and after it.
pub(crate) async fn before_and_after(
    app: &App,
    in_force: &StackInForce,
    source: &Cell,
    place: &placing::Place,
) -> Result<(Option<Cents>, Option<Cents>), ControlError> {
    let engine = decide::engine(app).await?;
    let standing = app.store().cell_list().await?.into_iter().map(|cell| (cell.id, cell.name)).collect();
    Ok((engine.tenant_cost(source.name.as_str()), of_place(in_force, &engine, place, &standing)))
}

/// What another plan would cost and bring. Changes nothing.
pub async fn plan_price(
    app: &App,
    permit: &Permit<ReadTenant>,
    who: &str,
    to: &PlanName,
) -> Result<wire::PlanPrice, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let in_force = app.stack().await?;
    let engine = decide::engine(app).await?;
    let plan = async |name: &PlanName| -> Result<berth_domain::Plan, ControlError> {
        let stored = app.store().plan_get(name).await?.ok_or_else(|| ControlError::NoPlan(name.clone()))?;
        Ok(stored.plan)
    };
    let (now, then) = (plan(&tenant.plan).await?, plan(to).await?);
    let source = app.cell(tenant.cell).await?;
    let cost = engine.tenant_cost(source.name.as_str());
    let side = |plan: berth_domain::Plan, cell: Option<CellName>, new_cell, cost: Option<Cents>| wire::PlanSide {
        plan: plan.name,
        class: plan.class,
        price_cents: plan.price_cents,
        cell,
        new_cell,
        cost_cents: cost,
        margin_cents: cost.map(|cost| plan.price_cents - cost),
    };
    let moves = then.class != source.class;
    // What it costs and where it would stand is the operator's: a cell may be called after another customer.
    let own = matches!(permit.caller().scope, Scope::Tenant(_));
    let told = |side: wire::PlanSide| {
        if own { wire::PlanSide { cell: None, cost_cents: None, margin_cents: None, ..side } } else { side }
    };
    let then = if moves {
        let profile = decide::profile_of(&tenant)?;
        let wanted = placing::Wanted {
            class: then.class,
            plan: &then.name,
            tenant: &tenant.name,
            profile: &profile,
            named: None,
            from: Some(&source),
            decided: None,
        };
        let place = placing::choose(app, &in_force, &wanted).await?;
        let standing: HashMap<_, _> = app.store().cell_list().await?.into_iter().map(|c| (c.id, c.name)).collect();
        let cost = of_place(&in_force, &engine, &place, &standing);
        match place {
            placing::Place::Existing(id) => side(then, standing.get(&id).cloned(), false, cost),
            placing::Place::New(new) => side(then, Some(new.name), true, cost),
        }
    } else {
        side(then, Some(source.name.clone()), false, cost)
    };
    let now = side(now, Some(source.name), false, cost);
    Ok(wire::PlanPrice { now: told(now), then: told(then), moves, tenant: tenant.name })
}

/// The catalogue's name of a provider of the stack file.
pub(crate) fn adapter(stack: &Stack, provider: &str) -> String {
    let section = ProviderName::new(provider).ok().and_then(|name| stack.providers.get(&name));
    section.map_or_else(|| provider.to_owned(), |section| section.adapter.clone())
}
