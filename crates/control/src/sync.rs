//! Compares the application's root table with what Berth knows of a cell, and takes in what it does not know.
//!
//! Never deletes: a row that is missing on one side is shown, and a person decides.

use crate::{
    App, Change, ControlError, Permit, audited,
    cell_access::{connect, failed},
    cells,
};
use berth_domain::{TenantEvent, TenantId, TenantKey, TenantName};
use berth_infra::Role;
use berth_store::{NewTenant, StoreError, Taken};
use berth_wire as wire;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

pub async fn run(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::TenantSync,
) -> Result<wire::SyncReport, ControlError> {
    app.writable().await?;
    let cell = cells::known(app, wanted.cell.as_str()).await?;
    let in_force = app.stack().await?;
    let data = &in_force.stack.data;
    let client = connect(&cell.name, &app.cell_database(&cell).await?, Role::Mover).await?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let root = format!("{}.{}", quoted(&data.root.schema), quoted(&data.root.table));
    let sql = format!("SELECT {key}::text FROM {root} WHERE {key} IS NOT NULL ORDER BY 1", key = quoted(&data.key));
    let rows = client.query(&sql, &[]).await.map_err(|error| match error.code() {
        // What the stack file says is not what is there: nothing that another try would mend.
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN | &SqlState::INVALID_SCHEMA_NAME) => {
            let (root, key) = (data.root.to_string(), data.key.clone());
            ControlError::NoRootTable { cell: cell.name.clone(), root, key }
        }
        _ => failed(&cell.name)(error),
    })?;
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let here = app.store().tenant_keys_in(cell.id).await?;
    let known: BTreeSet<&str> = here.iter().map(|(_, key)| key.as_str()).collect();

    let unknown_there = here
        .iter()
        .filter(|(_, key)| !there.contains(key.as_str()))
        .map(|(name, key)| wire::SyncTenant { key: key.clone(), name: Some(name.clone()), why: None })
        .collect();
    // All of them first: one that is no key ends this before anybody is taken in.
    let unknown = there.iter().filter(|key| !known.contains(key.as_str()));
    let unknown = unknown.map(|key| TenantKey::new(key.clone())).collect::<Result<Vec<_>, _>>()?;
    let holders = if unknown.is_empty() { BTreeMap::new() } else { app.store().tenant_ids_by_key().await? };
    let mut unknown_here = Vec::new();
    let mut taken_in = 0;
    for key in unknown {
        let mut why = holders.get(key.as_str()).map(|(_, holder)| elsewhere(&format!("tenant `{holder}`")));
        let mut name = None;
        if let (Some(plan), None) = (&wanted.take_in, &why) {
            // Its rows are here already, so it is placed here whatever class its plan asks for; a move can follow.
            name = take_in(app, permit, &cell, &key, plan).await?;
            taken_in += u32::from(name.is_some());
            why = name.is_none().then(|| elsewhere("a tenant"));
        }
        unknown_here.push(wire::SyncTenant { key, name, why });
    }
    Ok(wire::SyncReport { unknown_here, unknown_there, taken_in })
}

fn elsewhere(who: &str) -> String {
    format!("{who} of another cell has this key, and a key is of one tenant over all cells")
}

/// `None`: its key has become a tenant's of another cell since we looked.
async fn take_in(
    app: &App,
    permit: &Permit<Change>,
    cell: &berth_store::Cell,
    key: &TenantKey,
    plan: &berth_domain::PlanName,
) -> Result<Option<TenantName>, ControlError> {
    app.store().plan_get(plan).await?.ok_or_else(|| ControlError::NoPlan(plan.clone()))?;
    let id = TenantId::new(Uuid::now_v7());
    for name in [name_for(key, id)?, name_of(id)?] {
        let new = NewTenant { id, name, key: key.clone(), plan: plan.clone(), settings: json!({}) };
        let mut tx = app.store().begin().await?;
        match tx.tenant_insert(&new).await {
            Ok(()) => {}
            // As `acme` is beside `ACME`.
            Err(StoreError::Taken(Taken::TenantName)) => continue,
            Err(StoreError::Taken(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        tx.placement_insert(id, cell.id).await?;
        let published = tx.tenant_apply(id, TenantEvent::RoutePublished).await?;
        published.map_err(|_| ControlError::Stale("tenant"))?;
        let after = json!({ "key": key, "cell": cell.name, "plan": plan });
        audited(&mut tx, permit, "tenant.take_in", &format!("tenant/{}", new.name), None, Some(after)).await?;
        tx.routes_publish(&[id]).await?;
        tx.commit().await?;
        return Ok(Some(new.name));
    }
    Ok(None)
}

/// The key itself where it is a name; else one that nobody else has.
fn name_for(key: &TenantKey, id: TenantId) -> Result<TenantName, ControlError> {
    if let Ok(name) = TenantName::new(key.as_str().to_ascii_lowercase()) {
        return Ok(name);
    }
    name_of(id)
}

/// One that nobody else has.
fn name_of(id: TenantId) -> Result<TenantName, ControlError> {
    Ok(TenantName::new(format!("t-{}", id.uuid().simple()))?)
}

#[cfg(test)]
mod tests {
    use super::name_for;
    use berth_domain::{TenantId, TenantKey};

    #[test]
    fn a_tenant_that_is_taken_in_gets_a_name_that_is_one() {
        let id = TenantId::new(uuid::Uuid::from_u128(7));
        for (key, name) in [
            ("acme", "acme"),
            ("ACME", "acme"),
            ("018f4a3e-0000-7000-8000-000000000001", "018f4a3e-0000-7000-8000-000000000001"),
            ("a key", "t-00000000000000000000000000000007"),
        ] {
            assert_eq!(name_for(&TenantKey::new(key).unwrap(), id).unwrap().as_str(), name);
        }
    }
}
