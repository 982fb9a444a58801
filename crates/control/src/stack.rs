//! The stack file: applied as a numbered revision, and shown. The only way by which plans, services, providers and
//! declared cells change.

use crate::{App, Change, ControlError, Permit, Read, app::StackInForce, audited, cells, in_the_open};
use berth_config::{Difference, Stack, diff, parse};
use berth_domain::CellState;
use berth_store::{Member, NewStackRevision};
use berth_wire as wire;
use serde_json::json;
use std::io;

/// Compares the file with what is in force, and unless `dry_run`, puts it in force: plans at once, cells that it
/// declares and that do not exist yet as operations. Cells that it no longer declares stay until they are removed.
pub async fn apply(
    app: &App,
    permit: &Permit<Change>,
    wanted: &wire::StackApply,
) -> Result<wire::StackApplied, ControlError> {
    let absent = |path: &str| io::Error::new(io::ErrorKind::NotFound, format!("`{path}` was not sent along"));
    let files = |path: &str| wanted.files.get(path).cloned().ok_or_else(|| absent(path));
    let mut new = parse(&wanted.file, Some(app.environment()), &files).map_err(ControlError::BadStackFile)?;
    // Written down, since files that were applied before this was asked say nothing and go on as they were.
    new.https.members_over_plain_http.get_or_insert(false);
    let before = match app.stack().await {
        Ok(in_force) => Some(in_force),
        Err(ControlError::NoStack) => None,
        Err(error) => return Err(error),
    };
    let differences = diff(before.as_ref().map(|in_force| &in_force.stack), &new);
    let revision = before.as_ref().map_or(0, |in_force| in_force.revision);
    check(app, before.as_deref(), &new).await?;
    // A policy or catalogue with mistakes would be found by whoever asks next, and not by who wrote it.
    let (catalogue, policy) = crate::decide::settings(&new)?;
    crate::decide::leaves_a_class(&policy)?;
    crate::decide::budget(&new, &catalogue)?;
    let shown = || differences.iter().map(difference).collect();
    let (cells, members) = (app.store().cell_list().await?, app.store().member_list(None).await?);
    let placed = |member: &Member| cells.iter().find(|cell| cell.id == member.cell).map(|cell| &cell.name);
    let public = in_the_open::public_ones(&new).await;
    let placed = members.iter().filter_map(|member| Some((placed(member)?, member)));
    let warnings = in_the_open::warnings(&new, |authority| public.contains(authority), placed)
        .map_err(ControlError::BadStackFile)?;
    if wanted.dry_run || (differences.is_empty() && before.is_some()) {
        return Ok(wire::StackApplied {
            revision: u64::try_from(revision).unwrap_or(0),
            dry_run: wanted.dry_run,
            differences: shown(),
            operations: Vec::new(),
            warnings,
        });
    }
    app.writable().await?;
    let in_force = StackInForce { revision: revision + 1, stack: new };
    let stored = NewStackRevision {
        revision: in_force.revision,
        stack: in_force.stack.stack.to_string(),
        source: wanted.file.clone(),
        document: serde_json::to_value(&in_force.stack)?,
        applied_by: permit.caller().name.clone(),
    };
    let known = app.store().cell_list().await?;
    let mut operations = Vec::new();
    let mut tx = app.store().begin().await?;
    // Two who apply at once: the second one's number is taken, and its difference was never shown to anybody.
    tx.stack_insert(&stored).await?;
    let plans: Vec<_> = in_force.stack.plans.iter().map(|(name, plan)| plan.named(name)).collect();
    tx.plans_replace(in_force.revision, &plans).await?;
    for (name, declared) in &in_force.stack.cells {
        match known.iter().find(|cell| cell.name == *name) {
            Some(cell) => {
                let most = i32::try_from(declared.max_tenants).unwrap_or(i32::MAX);
                tx.cell_set_room(cell.id, most, in_force.revision).await?;
            }
            None => {
                let new = cells::declared(&in_force, name, declared)?;
                operations.push(cells::reserve(app, &mut tx, permit, &new).await?.id);
            }
        }
    }
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    let after = json!({ "revision": in_force.revision, "differences": lines, "operations": operations });
    audited(&mut tx, permit, "stack.apply", &format!("stack/{}", in_force.stack.stack), None, Some(after)).await?;
    // Limits are part of what edges see: every route of a plan that changed is published again.
    let moved = changed_plans(before.as_deref(), &in_force.stack);
    tx.routes_publish_plans(&moved).await?;
    tx.settings_publish().await?;
    tx.commit().await?;
    Ok(wire::StackApplied {
        revision: u64::try_from(in_force.revision).unwrap_or(0),
        dry_run: false,
        differences: shown(),
        operations,
        warnings,
    })
}

fn changed_plans(before: Option<&StackInForce>, new: &Stack) -> Vec<String> {
    let old = |name| before.and_then(|in_force| in_force.stack.plans.get(name));
    new.plans.iter().filter(|(name, plan)| old(name) != Some(plan)).map(|(name, _)| name.to_string()).collect()
}

/// What a file may not change: another stack, or where an existing cell stands.
async fn check(app: &App, before: Option<&StackInForce>, new: &Stack) -> Result<(), ControlError> {
    if let Some(in_force) = before
        && in_force.stack.stack != new.stack
    {
        let (runs, given) = (in_force.stack.stack.to_string(), new.stack.to_string());
        return Err(ControlError::OtherStack { runs, given });
    }
    for name in new.providers.keys() {
        app.provider_of(new, name.as_str()).await?;
    }
    let cells = app.store().cell_list().await?;
    let store = |stack: &Stack| stack.data.redis.as_ref().map(|redis| redis.store);
    if before.and_then(|before| store(&before.stack)) == Some(false) && store(new) == Some(true) && !cells.is_empty() {
        return Err(ControlError::CacheBecomesStore);
    }
    for cell in cells {
        let Some(declared) = new.cells.get(&cell.name) else { continue };
        let is = format!("{} at {}", cell.class, cell.provider);
        let wanted = format!("{} at {}", declared.class, declared.provider);
        if is != wanted && cell.state != CellState::Removing {
            return Err(ControlError::CellFixed { cell: cell.name, what: is, wanted });
        }
    }
    Ok(())
}

fn difference(found: &Difference) -> wire::Difference {
    let (kind, before, after) = match &found.change {
        berth_config::Change::Added(value) => (wire::DifferenceKind::Added, None, Some(value.clone())),
        berth_config::Change::Removed(value) => (wire::DifferenceKind::Removed, Some(value.clone()), None),
        berth_config::Change::Changed { from, to } => {
            (wire::DifferenceKind::Changed, Some(from.clone()), Some(to.clone()))
        }
    };
    wire::Difference { kind, path: found.key.clone(), before, after }
}

/// The stack file in force, as it was written.
pub async fn show(app: &App, _permit: &Permit<Read>) -> Result<wire::Stack, ControlError> {
    let newest = app.store().stack_newest().await?.ok_or(ControlError::NoStack)?;
    Ok(wire::Stack {
        name: newest.stack,
        revision: u64::try_from(newest.revision).unwrap_or(0),
        file: newest.source,
        applied_at: newest.applied_at,
        applied_by: Some(newest.applied_by),
    })
}
