//! A cell that is made for one tenant: where, and how large. Like a dedicated cell of the stack file, else at the only
//! provider, else from an offer of the catalogue; the first of these that breaks nothing of what the tenant needs.
//!
//! Never makes one: the workflow does.

use super::{Wanted, unfit};
use crate::{ControlError, app::StackInForce, cells::larger, costs::prices, decide};
use berth_config::Shape;
use berth_domain::{CellClass, CellId, CellName, Cents, ProviderName};
use berth_placement::{CellFacts, Engine, Measured, Profile};
use berth_store::{Cell, NewCell};
use uuid::Uuid;

/// Where one could be made.
struct Site {
    provider: ProviderName,
    region: Option<String>,
    /// What it would be promised.
    shape: Shape,
}

pub(super) fn dedicated(
    in_force: &StackInForce,
    engine: &Engine,
    cells: &[Cell],
    wanted: &Wanted<'_>,
) -> Result<NewCell, ControlError> {
    let sites = sites(in_force, engine, wanted);
    if sites.is_empty() {
        return Err(ControlError::WhichProvider(in_force.stack.providers.len()));
    }
    // One that keeps all of it goes before one that is no worse than the cell it leaves.
    let whole = Profile { cell: None, ..wanted.profile.clone() };
    let mut lacks = None;
    for (profile, site) in [&whole, wanted.profile].into_iter().flat_map(|of| sites.iter().map(move |site| (of, site)))
    {
        let facts = facts(in_force, engine, site);
        let refused = engine.new_lacks(&facts, wanted.plan.as_str(), profile);
        match refused.map_err(ControlError::BadProfile)? {
            None => return new_cell(in_force, cells, wanted, site),
            // What is in the way is said of what has to be kept, not of all that was hoped for.
            Some(refused) if std::ptr::eq(profile, wanted.profile) => _ = lacks.get_or_insert((site, refused)),
            Some(_) => {}
        }
    }
    let (site, refused) = lacks.expect("there is a site, and it was refused");
    let region = site.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
    Err(unfit(wanted, format!("a dedicated cell made at provider `{}`{region}", site.provider), refused))
}

/// The best first. Where a decision was agreed to, what it says comes before the rest; a region that the tenant is bound to
/// is left by none.
fn sites(in_force: &StackInForce, engine: &Engine, wanted: &Wanted<'_>) -> Vec<Site> {
    let stack = &in_force.stack;
    let home = stack.residence(wanted.tenant);
    let region = home.map(|home| home.region);
    let bound = home.is_some_and(|home| home.bound);
    let promised = stack.plans.get(wanted.plan).map(|plan| plan.shape).unwrap_or_default();
    let mut models: Vec<_> = stack.cells.values().filter(|cell| cell.class == CellClass::Dedicated).collect();
    models.sort_by_key(|model| region.is_some() && model.region.as_deref() != region);
    let site = |provider: &ProviderName, region: Option<&str>, shape| Site {
        provider: provider.clone(),
        region: region.map(str::to_owned),
        shape,
    };
    let mut found: Vec<Site> = models
        .iter()
        .map(|model| site(&model.provider, region.or(model.region.as_deref()), larger(model.shape, promised)))
        .collect();
    if models.is_empty() && stack.providers.len() == 1 {
        found.extend(stack.providers.keys().map(|provider| site(provider, region, promised)));
    }
    if region.is_some() && !bound {
        let own = models.iter().map(|m| site(&m.provider, m.region.as_deref(), larger(m.shape, promised)));
        found.extend(own);
    }
    // Which of several providers is paid is nobody's guess, unless somebody agreed to one.
    if !found.is_empty() || wanted.decided.is_some() {
        found.extend(
            offered(in_force, engine, promised)
                .into_iter()
                .filter(|offered| !bound || offered.region.as_deref() == region),
        );
    }
    if let Some(decided) = wanted.decided {
        found.sort_by_cached_key(|site| {
            let (provider, at) =
                decide::place(stack, engine.catalogue(), site.provider.as_str(), site.region.as_deref());
            let there = at.first().is_some_and(|at| at == decided.region);
            (provider != decided.provider, !there)
        });
    }
    found
}

/// What the catalogue offers at the stack file's providers, the cheapest first. A cell that stands in several regions is
/// made by hand.
fn offered(in_force: &StackInForce, engine: &Engine, promised: Shape) -> Vec<Site> {
    let stack = &in_force.stack;
    let mut found: Vec<(i64, Site)> = Vec::new();
    for (_, place) in engine.catalogue().places() {
        let sells = |name: &&ProviderName| prices::adapter(stack, name.as_str()) == place.provider;
        let ([region], Some(provider)) = (place.sites.as_slice(), stack.providers.keys().find(sells)) else { continue };
        let large = has(promised.cpu_millis, place.cpu_millis)
            && has(promised.memory_mib, place.memory_mib)
            && has(promised.disk_gib, place.disk_gib);
        if place.class == CellClass::Dedicated && large {
            let price = place.price_cents.map_or(i64::MAX, Cents::get);
            found.push((price, Site { provider: provider.clone(), region: Some(region.clone()), shape: promised }));
        }
    }
    found.sort_by_key(|(price, _)| *price);
    found.into_iter().map(|(_, site)| site).collect()
}

fn has(promised: Option<u32>, there: u64) -> bool {
    promised.is_none_or(|promised| u64::from(promised) <= there)
}

fn facts(in_force: &StackInForce, engine: &Engine, site: &Site) -> CellFacts {
    let region = site.region.as_deref();
    let (provider, sites) = decide::place(&in_force.stack, engine.catalogue(), site.provider.as_str(), region);
    CellFacts {
        name: String::new(),
        class: CellClass::Dedicated,
        provider,
        sites,
        tenants: 0,
        max_tenants: 1,
        takes_tenants: true,
        price_cents: None,
        promises: None,
        measured: Measured::default(),
        size: decide::size(site.shape),
    }
}

fn new_cell(
    in_force: &StackInForce,
    cells: &[Cell],
    wanted: &Wanted<'_>,
    site: &Site,
) -> Result<NewCell, ControlError> {
    // `acme-1`, `acme-2`: a name that people connect with the tenant. Cells of the stack file keep theirs.
    let stem: String = wanted.tenant.as_str().chars().take(34).collect();
    let taken = |name: &CellName| cells.iter().any(|c| c.name == *name) || in_force.stack.cells.contains_key(name);
    let name = (1..10_000)
        .filter_map(|n| CellName::new(format!("{}-{n}", stem.trim_end_matches('-'))).ok())
        .find(|name| !taken(name))
        .ok_or(ControlError::NoRoom { class: CellClass::Dedicated, already_in: None })?;
    Ok(NewCell {
        id: CellId::new(Uuid::now_v7()),
        name,
        class: CellClass::Dedicated,
        provider: site.provider.to_string(),
        region: site.region.clone(),
        max_tenants: 1,
        shape: serde_json::to_value(site.shape)?,
        stack_revision: in_force.revision,
    })
}
