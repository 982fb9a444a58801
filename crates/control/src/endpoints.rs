//! Cells that exist already: taken in, and asked what they let Berth do. Never made, changed or removed there.

use crate::{App, Change, ControlError, Permit, Read, cell_access, cells, views};
use berth_config::Stack;
use berth_domain::{CellClass, CellId, CellName, MemberState, ProviderName, ServiceRole};
use berth_infra::{CellSpec, DatabaseName, MemberName, ProviderError, Shape};
use berth_store::NewCell;
use berth_wire as wire;
use serde_json::json;
use uuid::Uuid;

/// The adapter whose cells exist already.
const ADAPTER: &str = "endpoint";

/// Looks whether application and database answer, and only then takes them in as a cell.
pub async fn add(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::EndpointAdd,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let in_force = app.stack().await?;
    let stack = &in_force.stack;
    let provider = provider(stack, ADAPTER, wanted.provider.as_ref(), ControlError::NoEndpoints)?;
    if app.store().cell_by_name(&wanted.name).await?.is_some() {
        return Err(ControlError::CellExists(wanted.name));
    }
    let web = stack.services.iter().find(|(_, service)| service.role == ServiceRole::Web);
    let health = wanted.health.clone().or_else(|| web.and_then(|(_, service)| service.health.clone()));
    let mut settings = json!({ "url": wanted.url, "database": wanted.database });
    if let Some(health) = health {
        settings["health"] = health.into();
    }
    look(app, stack, &provider, &wanted.name, &settings).await?;
    let most = if wanted.class == CellClass::Dedicated { 1 } else { cells::MAX_CUSTOMERS_PER_SERVER };
    let new = NewCell {
        id: CellId::new(Uuid::now_v7()),
        name: wanted.name,
        class: wanted.class,
        provider: provider.to_string(),
        region: wanted.region,
        max_tenants: i32::try_from(wanted.max_tenants.unwrap_or(most)).unwrap_or(i32::MAX),
        shape: json!({}),
        stack_revision: in_force.revision,
    };
    let mut tx = app.store().begin().await?;
    let started = cells::reserve(app, &mut tx, permit, &new).await?;
    tx.cell_set_settings(app.store(), new.id, &settings.to_string().into()).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The provider that is named, or the only one with this adapter.
pub(crate) fn provider(
    stack: &Stack,
    adapter: &str,
    named: Option<&ProviderName>,
    none: ControlError,
) -> Result<ProviderName, ControlError> {
    let mut all = stack.providers.iter().filter(|(_, provider)| provider.adapter == adapter).map(|(name, _)| name);
    match (named, all.next(), all.next()) {
        (Some(named), ..) => match stack.providers.get(named) {
            Some(provider) if provider.adapter == adapter => Ok(named.clone()),
            Some(_) => {
                Err(ControlError::NotOffered { provider: named.to_string(), what: "cells taken in over this call" })
            }
            None => Err(ControlError::NoProvider(named.to_string())),
        },
        (None, Some(only), None) => Ok(only.clone()),
        (None, None, _) => Err(none),
        (None, Some(_), Some(_)) => Err(ControlError::WhichProvider(stack.providers.len())),
    }
}

/// Before anything is stored: a cell that does not answer would be an operation that fails after its retries.
async fn look(
    app: &App,
    stack: &Stack,
    provider: &ProviderName,
    cell: &CellName,
    settings: &serde_json::Value,
) -> Result<(), ControlError> {
    let failed = |source: ProviderError| ControlError::Provider { cell: cell.clone(), source };
    let there = app.with_cell(stack, provider, cell, settings).map_err(failed)?;
    let missing = |what| ControlError::NotOffered { provider: provider.to_string(), what };
    let database = there.database.ok_or_else(|| missing("database"))?;
    let name = DatabaseName::of(cell);
    let spec = CellSpec { name, cell: cell.clone(), shape: Shape::default(), redis: None, objects: false };
    database.ensure_database(&spec).await.map_err(failed)?;
    let compute = there.compute.ok_or_else(|| missing("compute"))?;
    for (service, _) in stack.services.iter().filter(|(_, service)| service.role == ServiceRole::Web) {
        let observed = compute.observe_member(&MemberName::of(cell, service, 0)).await.map_err(failed)?;
        let seen = crate::reconcile::seen(&observed, false);
        if seen.state != MemberState::Healthy {
            let reason = seen.detail.unwrap_or_else(|| "it is not healthy".to_owned());
            return Err(failed(ProviderError::Refused {
                what: format!("its application at {}", settings["url"]),
                reason,
            }));
        }
    }
    Ok(())
}

/// What a cell's database lets Berth do, tried now.
pub async fn abilities(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::CellAbilities, ControlError> {
    let cell = cells::known(app, who).await?;
    let database = app.cell_database(&cell).await?;
    let tried = berth_mover::abilities(&cell_access::endpoint(&database)).await?;
    let foreign = app.is_foreign(&cell).await?;
    let yes = |ability: &str, means: &str, without: &str, lacks: Option<&str>| wire::CellAbility {
        ability: ability.to_owned(),
        means: means.to_owned(),
        can: lacks.is_none(),
        without: lacks.map(|_| without.to_owned()),
        because: lacks.map(ToOwned::to_owned),
        remedy: None,
    };
    let healthy = app.store().member_list(Some(cell.id)).await?;
    let healthy = healthy.iter().any(|m| m.service_role == ServiceRole::Web && m.state == MemberState::Healthy);
    let mut items = vec![yes(
        "serves",
        "edges can send requests to it",
        "requests for its tenants are answered with an error until one is",
        (!healthy).then_some("no web member is healthy"),
    )];
    items.extend(tried.into_iter().map(|tried| wire::CellAbility {
        ability: tried.ability.to_owned(),
        means: tried.means.to_owned(),
        can: tried.can,
        without: (!tried.can).then(|| tried.without.to_owned()),
        because: tried.because,
        remedy: tried.remedy,
    }));
    let theirs = foreign.then_some("somebody else runs it: Berth starts, migrates and removes nothing there");
    let follows = "its releases, restarts and number of copies are left to whoever runs it";
    items.push(yes("is_run_by_berth", "its members are started, migrated and kept up", follows, theirs));
    Ok(wire::CellAbilities { cell: cell.name, items })
}
