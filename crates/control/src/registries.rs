//! Accounts that may pull images. A password goes in and is told to nobody but the adapter that pulls.

use crate::{App, Change, ControlError, Permit, Read, ReleaseError, audited};
use berth_wire as wire;
use serde_json::json;

/// Given again it replaces the one before.
pub async fn put(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::RegistryPut,
) -> Result<wire::Registry, ControlError> {
    app.writable().await?;
    let wire::RegistryPut { host, user, password } = wanted;
    // What an image of this registry would be called says whether the host is one.
    let known = format!("{host}/a@sha256:{}", "0".repeat(64)).parse::<berth_domain::Artifact>();
    let fits = known.is_ok_and(|image| image.registry() == Some(host.as_str()));
    let plain = !user.is_empty() && !user.contains(|c: char| c == ':' || c.is_control()) && !password.is_empty();
    if !fits || !plain {
        return Err(ReleaseError::BadRegistry(host).into());
    }
    let by = permit.caller().name.clone();
    let mut tx = app.store().begin().await?;
    app.store().registry_put(&mut tx, &host, &user, &password.into(), &by).await?;
    let after = json!({ "user": user });
    audited(&mut tx, permit, "registry.put", &format!("registry/{host}"), None, Some(after)).await?;
    tx.commit().await?;
    shown(app, &host).await
}

/// Those of the stack file go before those that were added, also here.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<Vec<wire::Registry>, ControlError> {
    let view = |known: berth_store::Registry| wire::Registry {
        host: known.host,
        user: known.user,
        changed_by: known.changed_by,
        changed_at: known.changed_at,
    };
    let mut all: Vec<wire::Registry> = app.store().registry_list().await?.into_iter().map(view).collect();
    let Some(newest) = app.store().stack_newest().await? else { return Ok(all) };
    let in_force = app.stack().await?;
    for (host, account) in &in_force.stack.registries {
        all.retain(|known| known.host != *host);
        all.push(wire::Registry {
            host: host.clone(),
            user: account.user.clone(),
            changed_by: "stack file".to_owned(),
            changed_at: newest.applied_at,
        });
    }
    all.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(all)
}

async fn shown(app: &App, host: &str) -> Result<wire::Registry, ControlError> {
    let known = app.store().registry_list().await?.into_iter().find(|known| known.host == host);
    let known = known.ok_or_else(|| ReleaseError::NoRegistry(host.to_owned()))?;
    Ok(wire::Registry {
        host: known.host,
        user: known.user,
        changed_by: known.changed_by,
        changed_at: known.changed_at,
    })
}

/// Images of it are pulled without an account from then on.
pub async fn remove(app: &App, permit: &Permit<Change>, host: &str) -> Result<wire::Registry, ControlError> {
    app.writable().await?;
    let gone = shown(app, host).await?;
    let mut tx = app.store().begin().await?;
    tx.registry_remove(host).await?;
    let before = json!({ "user": gone.user });
    audited(&mut tx, permit, "registry.remove", &format!("registry/{host}"), Some(before), None).await?;
    tx.commit().await?;
    Ok(gone)
}
