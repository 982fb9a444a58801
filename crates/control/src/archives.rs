//! Archives: a tenant's rows as files, made by a move down or because somebody asked, listed and brought back.
//!
//! They lie under `tenants/TENANT/ARCHIVE`; an archive has the id of the operation that made it. What exists is asked
//! of the place itself, so that a copy of it can be used by another control plane.

use crate::{
    App, Change, ControlError, Permit, ReadTenant, audited, imports,
    operations::{self, Begun},
    tenants, views,
    workflows::{ArchiveInput, EXPORT_TENANT, RESTORE_ARCHIVE},
};
use berth_config::Stack;
use berth_domain::{MoveId, OperationId, TenantId, TenantKey, TenantState};
use berth_mover::{Archive, ArchivePath, Archives, Contents, MoveError, MovePlan, MoveSpec, Watcher};
use berth_store::Tenant;
use berth_wire as wire;
use bytes::Bytes;
use futures_util::Stream;
use serde_json::json;

/// Where a tenant's archives lie.
pub(crate) fn folder(tenant: TenantId) -> ArchivePath {
    ArchivePath::from_iter(["tenants".to_owned(), tenant.to_string()])
}

pub(crate) fn path(tenant: TenantId, archive: OperationId) -> ArchivePath {
    folder(tenant).join(archive.to_string())
}

/// Where archives lie that somebody brought, until they are imported.
pub(crate) fn uploaded(archive: OperationId) -> ArchivePath {
    ArchivePath::from_iter(["uploads".to_owned(), archive.to_string()])
}

/// Where anything of a tenant lies: its own folder, archives under other tenants' that it was imported from, and those of
/// its key that were brought. A key alone says nothing under `tenants/`: it may have been another's, who is deleted.
pub(crate) async fn places_of(app: &App, tenant: TenantId, key: &TenantKey) -> Result<Vec<ArchivePath>, ControlError> {
    let place = app.archives().await?;
    let own = folder(tenant);
    let from = imports::archives_of(app, tenant).await?;
    let mut all = vec![own.clone()];
    // Every manifest there is would be read.
    if !from.is_empty() {
        let found = berth_mover::find_archives_of(&place, &ArchivePath::from("tenants"), key.as_str()).await?;
        let imported =
            |at: &ArchivePath| at.filename().and_then(|name| name.parse().ok()).is_some_and(|id| from.contains(&id));
        all.extend(found.into_iter().filter(|at| !at.prefix_matches(&own) && imported(at)));
    }
    all.extend(berth_mover::find_archives_of(&place, &ArchivePath::from("uploads"), key.as_str()).await?);
    Ok(all)
}

pub(crate) async fn count_of(app: &App, tenant: TenantId, key: &TenantKey) -> Result<u64, ControlError> {
    let (place, mut files) = (app.archives().await?, 0);
    for at in places_of(app, tenant, key).await? {
        files += berth_mover::count_files(&place, &at).await?;
    }
    Ok(files)
}

/// The archive of this id: brought, or of any tenant, gone ones too.
pub(crate) async fn locate(app: &App, archive: OperationId) -> Result<ArchivePath, ControlError> {
    let place = app.archives().await?;
    let brought = uploaded(archive);
    if berth_mover::read_archive(&place, &brought).await?.is_some() {
        return Ok(brought);
    }
    let found = berth_mover::find_archive(&place, &ArchivePath::from("tenants"), &archive.to_string()).await?;
    found.ok_or(ControlError::NoUpload(archive))
}

/// The place, for people.
pub(crate) fn described(stack: &Stack) -> String {
    match &stack.archives {
        None => "the server's own folder".to_owned(),
        Some(berth_config::Archives::Directory(folder)) => folder.clone(),
        Some(berth_config::Archives::S3(place)) => format!("bucket {}", place.bucket),
    }
}

/// What a move left behind, from its closed source. Made once; without rows that stay behind there is nothing to do.
pub(crate) async fn left_behind(
    app: &App,
    id: MoveId,
    spec: &MoveSpec,
    plan: &MovePlan,
    watcher: &dyn Watcher,
) -> Result<(), ControlError> {
    if plan.tables.iter().all(|table| table.kept.is_none()) {
        return Ok(());
    }
    let Some(tenant) = app.store().move_get(id).await?.map(|known| known.tenant) else {
        return Err(ControlError::NoOperation(OperationId::new(id.uuid())));
    };
    let (place, at) = (app.archives().await?, path(tenant, OperationId::new(id.uuid())));
    let made = match berth_mover::archive(spec, plan, Contents::LeftBehind, &place, &at, watcher).await {
        // The move was undone: nothing stays behind.
        Err(MoveError::LivesThere) => return Ok(()),
        other => other?,
    };
    tracing::info!(tenant.id = %tenant, rows = made.rows(), "{} rows that move {id} left behind are archived", made.rows());
    Ok(())
}

/// Takes away what an archive that was given up has left. One that was finished stays, and so does one that cannot be
/// read: nobody knows that it is half.
pub(crate) async fn forget_unfinished(app: &App, tenant: TenantId, archive: OperationId) -> Result<(), ControlError> {
    // What cannot be opened, read or listed has failed the archive too: its operation must not wait for a place that may
    // never be back.
    let not_looked_for = |error: &ControlError| {
        let error = error.full();
        tracing::warn!(tenant.id = %tenant, error, "what archive {archive} may have left is not looked for");
    };
    let place = match app.archives().await {
        Ok(place) => place,
        Err(error) => {
            not_looked_for(&error);
            return Ok(());
        }
    };
    match remove_unfinished(&place, &path(tenant, archive)).await {
        Ok(0) => {}
        Ok(files) => {
            tracing::info!(tenant.id = %tenant, files, "{files} files of archive {archive}, which was given up, are removed");
        }
        Err(error @ MoveError::Archive { .. }) => not_looked_for(&error.into()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Returns how many files there were.
async fn remove_unfinished(place: &Archives, at: &ArchivePath) -> Result<u64, MoveError> {
    match berth_mover::read_archive(place, at).await {
        Ok(None) => berth_mover::remove_files(place, at).await,
        Ok(Some(_)) | Err(MoveError::ArchiveUnfit { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

/// A tenant's archives, oldest first.
pub async fn list(
    app: &App,
    permit: &Permit<ReadTenant>,
    who: &str,
) -> Result<wire::Page<wire::Archive>, ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let found = berth_mover::list_archives(&app.archives().await?, &folder(tenant.id)).await?;
    Ok(wire::Page::whole(found.into_iter().filter_map(|(name, archive)| shown(&tenant, &name, archive)).collect()))
}

/// What else lies there is not ours.
fn shown(tenant: &Tenant, name: &str, archive: Archive) -> Option<wire::Archive> {
    let tables = archive.tables.iter().map(|table| wire::ArchivedTable {
        table: table.table.to_string(),
        rows: table.rows,
        bytes: table.bytes,
        before: table.before.as_ref().map(|(column, day)| format!("{column} before {day}")),
    });
    Some(wire::Archive {
        id: name.parse().ok()?,
        tenant: tenant.name.clone(),
        contents: match archive.contents {
            Contents::LeftBehind => "left_behind",
            Contents::Everything => "everything",
        }
        .to_owned(),
        made_at: archive.made_at,
        rows: archive.rows(),
        tables: tables.collect(),
        files: archive.files(),
    })
}

/// One of its files, to be taken along: its length and content.
pub async fn file(
    app: &App,
    permit: &Permit<ReadTenant>,
    who: &str,
    archive: OperationId,
    file: &str,
) -> Result<(u64, impl Stream<Item = std::io::Result<Bytes>> + Send + use<>), ControlError> {
    let tenant = tenants::find(app, permit, who).await?;
    let missing = || ControlError::NoArchive { tenant: tenant.name.clone(), archive };
    let (place, at) = (app.archives().await?, path(tenant.id, archive));
    let known = berth_mover::read_archive(&place, &at).await?.ok_or_else(missing)?;
    if !known.files().iter().any(|name| name == file) {
        return Err(missing());
    }
    berth_mover::read_file(&place, &at, file).await?.ok_or_else(missing)
}

/// All of the tenant's rows, as they are at one moment, become an archive.
pub async fn export(app: &App, permit: &Permit<Change>, who: &str) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    let id = tenants::fresh();
    let input = ArchiveInput { tenant: tenant.id, archive: id, asked_by: permit.caller().name.clone() };
    let operation = EXPORT_TENANT.with(id, &input).about(operations::about_tenant(&tenant.name));
    let mut tx = app.store().begin().await?;
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "operation": started.id });
    audited(&mut tx, permit, "tenant.export", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// An archive's rows come back into the cell in which the tenant lives now.
pub async fn restore(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    archive: OperationId,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let tenant = tenants::known(app, who).await?;
    if !matches!(tenant.state, TenantState::Active | TenantState::Suspended) {
        return Err(ControlError::NotNow { tenant: tenant.name, state: tenant.state });
    }
    if berth_mover::read_archive(&app.archives().await?, &path(tenant.id, archive)).await?.is_none() {
        return Err(ControlError::NoArchive { tenant: tenant.name, archive });
    }
    let input = ArchiveInput { tenant: tenant.id, archive, asked_by: permit.caller().name.clone() };
    let operation = RESTORE_ARCHIVE.with(tenants::fresh(), &input).about(operations::about_tenant(&tenant.name));
    let mut tx = app.store().begin().await?;
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "archive": archive, "operation": started.id });
    audited(&mut tx, permit, "tenant.restore", &format!("tenant/{}", tenant.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}
