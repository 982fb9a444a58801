//! Imports: an archive of everything becomes a tenant. Files are taken in one by one, the manifest last; what they hold is
//! looked at when the import is asked for, and tried before anything stays.

use crate::{
    App, Change, ControlError, Permit, StackInForce, archives, audited, decide, moves,
    operations::{self, Begun},
    placing::{self, Place, Wanted},
    releases, tenants, views,
    workflows::{IMPORT_TENANT, ImportTenant, reserved},
};
use berth_domain::{CellState, MoveId, OperationId, OperationState, Plan, TenantId, TenantKey};
use berth_mover::{Archive, ArchivePath, Archives, IdleFolder, MoveError, Obstacle};
use berth_placement::Profile;
use berth_store::NewTenant;
use berth_wire as wire;
use berth_workflow::{Filter, Journal as _};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

/// Operations that are looked through for one that reads an archive.
const OPEN_MOST: u32 = 10_000;

/// Takes one file of an archive that somebody brings. Returns its length.
pub async fn take_file<E: std::error::Error + Send + Sync + 'static>(
    app: &App,
    _permit: &Permit<Change>,
    archive: OperationId,
    file: &str,
    content: impl Stream<Item = Result<Bytes, E>> + Send,
) -> Result<u64, ControlError> {
    if !may_be_brought(file) {
        return Err(ControlError::BadArchiveFile(file.to_owned()));
    }
    let place = app.archives().await?;
    Ok(berth_mover::write_file(&place, &archives::uploaded(archive), file, content).await?)
}

/// Whether a file of an archive may be called so.
fn may_be_brought(file: &str) -> bool {
    let plain = |c: char| !c.is_control() && c != '/' && c != '\\';
    let known = file == "manifest.json" || file.strip_suffix(".zst").is_some();
    known && !file.starts_with('.') && file.len() <= 200 && file.chars().all(plain)
}

/// Forgets what was brought under this id. Returns how many files there were. An import that is under way keeps its own.
pub async fn forget_files(app: &App, _permit: &Permit<Change>, archive: OperationId) -> Result<u64, ControlError> {
    if in_use(app).await?.contains(&archive) {
        return Err(ControlError::UploadInUse(archive));
    }
    Ok(berth_mover::remove_files(&app.archives().await?, &archives::uploaded(archive)).await?)
}

/// Archives that a tenant was imported from.
pub(crate) async fn archives_of(app: &App, tenant: TenantId) -> Result<Vec<OperationId>, ControlError> {
    let Some(known) = app.store().tenant_get(tenant).await? else { return Ok(Vec::new()) };
    let subject = Some(operations::about_tenant(&known.name));
    let filter = Filter { subject, limit: OPEN_MOST, ..Filter::default() };
    let imports = app.store().list(&filter).await?.into_iter().filter(|it| it.workflow.starts_with("import_tenant"));
    let inputs = imports.filter_map(|it| serde_json::from_value::<ImportTenant>(it.input).ok());
    Ok(inputs.filter(|input| input.tenant == tenant).map(|input| input.archive).collect())
}

/// Archives that imports under way read from.
async fn in_use(app: &App) -> Result<Vec<OperationId>, ControlError> {
    let open = [OperationState::Queued, OperationState::Running, OperationState::Undoing, OperationState::Stuck];
    let filter = Filter { states: open.to_vec(), limit: OPEN_MOST, ..Filter::default() };
    let open = app.store().list(&filter).await?.into_iter();
    let imports = open.filter(|operation| operation.workflow.starts_with("import_tenant"));
    Ok(imports.filter_map(|it| serde_json::from_value::<ImportTenant>(it.input).ok()).map(|it| it.archive).collect())
}

/// What was brought and never imported goes a day after its last file. Returns how many archives went.
///
/// The place may be a folder or a bucket that others use too, with an `uploads` of their own: whatever else lies there
/// is left alone.
pub(crate) async fn sweep(app: &App, idle: Duration) -> Result<usize, ControlError> {
    let (place, mut gone) = (app.archives().await?, 0);
    for folder in berth_mover::idle_folders(&place, &ArchivePath::from("uploads"), idle).await? {
        let Some(id) = brought_as(&folder) else { continue };
        // As late as can be: an import may have begun since the last one.
        if !in_use(app).await?.contains(&id) {
            berth_mover::remove_files(&place, &folder.at).await?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Under which id somebody brought what lies there. `None`: it is not ours.
fn brought_as(folder: &IdleFolder) -> Option<OperationId> {
    let name = folder.at.filename()?;
    let id: OperationId = name.parse().ok().filter(|id: &OperationId| id.to_string() == name)?;
    folder.files.iter().all(|file| may_be_brought(file)).then_some(id)
}

/// What an import needs, looked up once.
struct Looked {
    archive: Archive,
    key: TenantKey,
    plan: Plan,
    profile: Profile,
    place: Place,
    in_force: std::sync::Arc<StackInForce>,
}

async fn look(app: &App, wanted: &wire::TenantImport) -> Result<Looked, ControlError> {
    let in_force = app.stack().await?;
    let plan = tenants::usable_plan(app, &wanted.plan).await?;
    let at = archives::locate(app, wanted.archive).await?;
    let store = app.archives().await?;
    let found = berth_mover::read_archive(&store, &at).await.map_err(ControlError::Import)?;
    let archive = found.ok_or(ControlError::NoUpload(wanted.archive))?;
    let key = TenantKey::new(archive.tenant.clone())?;
    if app.store().tenant_by_name(&wanted.name).await?.is_some() {
        return Err(ControlError::TenantExists(wanted.name.clone()));
    }
    let called = format!("key:{key}");
    if !app.store().tenants_called(std::slice::from_ref(&called)).await?.is_empty() {
        return Err(ControlError::KeyTaken(key.to_string()));
    }
    let profile = match wanted.profile.clone() {
        Some(profile) => decide::checked(&decide::settings(&in_force.stack)?.0, profile)?,
        None => Profile::default(),
    };
    let place = placing::choose(app, &in_force, &place_for(wanted, &plan, &profile)).await?;
    match &place {
        Place::Existing(cell) => {
            let cell = app.cell(*cell).await?;
            let spec = moves::spec_in(app, MoveId::new(wanted.archive.uuid()), &key, &cell).await?;
            berth_mover::look_import(&spec, &store, &at).await.map_err(ControlError::Import)?;
        }
        Place::New(_) => look_elsewhere(app, wanted.archive, &key, (&store, &at)).await?,
    }
    Ok(Looked { archive, key, plan, profile, place, in_force })
}

/// A cell that is made gets the schema of those that run the present release: one of them tells now what the new one would
/// tell when it stands. What else it lacks is its own.
async fn look_elsewhere(
    app: &App,
    archive: OperationId,
    key: &TenantKey,
    (store, at): (&Archives, &ArchivePath),
) -> Result<(), ControlError> {
    let release = app.store().release_current().await?;
    for cell in app.store().cell_list().await? {
        if cell.state != CellState::Ready || cell.release != release || app.is_foreign(&cell).await? {
            continue;
        }
        let Ok(spec) = moves::spec_in(app, MoveId::new(archive.uuid()), key, &cell).await else { continue };
        return match berth_mover::look_import(&spec, store, at).await {
            Err(MoveError::Obstacles(mut found)) => {
                found.retain(|obstacle| matches!(obstacle, Obstacle::SchemaDiffers { .. }));
                if found.is_empty() { Ok(()) } else { Err(ControlError::Import(MoveError::Obstacles(found))) }
            }
            Err(unfit @ MoveError::ArchiveUnfit { .. }) => Err(ControlError::Import(unfit)),
            Ok(_) | Err(_) => Ok(()),
        };
    }
    Ok(())
}

fn place_for<'w>(wanted: &'w wire::TenantImport, plan: &Plan, profile: &'w Profile) -> Wanted<'w> {
    let (plan_name, tenant, named) = (&wanted.plan, &wanted.name, wanted.cell.as_ref());
    Wanted { class: plan.class, plan: plan_name, tenant, profile, named, from: None, decided: None }
}

/// What it would bring, and where. Changes nothing.
pub async fn plan(
    app: &App,
    _permit: &Permit<Change>,
    wanted: &wire::TenantImport,
) -> Result<wire::ImportPlan, ControlError> {
    let found = look(app, wanted).await?;
    let (cell, new_cell) = match &found.place {
        Place::Existing(id) => (app.cell(*id).await?.name, false),
        Place::New(new) => (new.name.clone(), true),
    };
    let many = |pack: &Option<berth_mover::ArchivedBeside>| pack.as_ref().map_or(0, |pack| pack.many);
    Ok(wire::ImportPlan {
        name: wanted.name.clone(),
        key: found.key,
        cell,
        new_cell,
        made_at: found.archive.made_at,
        rows: found.archive.rows(),
        bytes: found.archive.bytes(),
        keys: many(&found.archive.keys),
        objects: many(&found.archive.objects),
    })
}

/// Reserves name, key, hosts and a place, and starts the operation that imports the tenant.
pub async fn start(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::TenantImport,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let found = look(app, &wanted).await?;
    let place = place_for(&wanted, &found.plan, &found.profile);
    let id = TenantId::new(Uuid::now_v7());
    let settings = if wanted.profile.is_some() { json!({ "profile": found.profile }) } else { json!({}) };
    let new = NewTenant { id, name: wanted.name.clone(), key: found.key, plan: wanted.plan.clone(), settings };
    let mut tx = app.store().begin().await?;
    if let Place::Existing(cell) = &found.place {
        // The schema that was compared above is about to be another one.
        releases::must_not_roll(&mut tx, &[*cell]).await?;
    }
    let cell = placing::take(&mut tx, &found.place, &place).await?;
    tenants::reserve(&mut tx, &found.in_force, &new, cell, &wanted.hosts).await?;
    let input = ImportTenant {
        tenant: id,
        archive: wanted.archive,
        new_cell: matches!(found.place, Place::New(_)).then_some(cell),
        asked_by: permit.caller().name.clone(),
    };
    let operation = IMPORT_TENANT.with(tenants::fresh(), &input).about(operations::about_tenant(&wanted.name));
    let mut rows = vec![reserved::tenant(id), reserved::upload(wanted.archive)];
    rows.extend(input.new_cell.map(reserved::cell));
    let started = operations::start(app, &mut tx, operation, Begun::Reserved(rows)).await?;
    let after =
        json!({ "plan": wanted.plan, "hosts": wanted.hosts, "archive": wanted.archive, "operation": started.id });
    audited(&mut tx, permit, "tenant.import", &format!("tenant/{}", wanted.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

/// The archive on its way in: where it lies, and whether it goes when the import is over.
pub(crate) async fn lies(app: &App, archive: OperationId) -> Result<(ArchivePath, bool), ControlError> {
    let at = archives::locate(app, archive).await?;
    let brought = at == archives::uploaded(archive);
    Ok((at, brought))
}

#[cfg(test)]
mod tests {
    use super::{brought_as, sweep};
    use crate::{App, Caller, Change, stack};
    use berth_config::Environment;
    use berth_infra::{ProviderError, Role};
    use berth_mover::{ArchivePath, Archives, IdleFolder};
    use berth_store::{Sealer, Store};
    use berth_testkit::TestDatabase;
    use berth_wire::StackApply;
    use object_store::{ObjectStoreExt as _, memory::InMemory};
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn only_a_folder_that_is_an_archive_somebody_brought_is_one() {
        let at = |name: &str, files: &[&str]| {
            let files = files.iter().map(ToString::to_string).collect();
            brought_as(&IdleFolder { at: ArchivePath::from(format!("uploads/{name}")), files })
        };
        assert!(at(ID, &["manifest.json", "public.customers.zst"]).is_some());
        assert!(at(ID, &["0.zst"]).is_some(), "the manifest comes last, or never");
        for (name, files) in [
            ("7", vec!["manifest.json"]),
            ("01890a5dac96774bbcceb302099a8057", vec!["manifest.json"]),
            (ID, vec!["manifest.json", "photo.jpg"]),
            (ID, vec!["sub/manifest.json"]),
            (ID, vec![".hidden.zst"]),
        ] {
            assert_eq!(at(name, &files), None, "{name} {files:?}");
        }
    }

    #[tokio::test]
    async fn what_others_keep_under_uploads_is_left_alone() {
        let control = TestDatabase::new().await;
        let store = Store::open(&control.url(Role::Owner), Sealer::ephemeral(), 4).await.unwrap();
        let place: Archives = Arc::new(InMemory::new());
        let opened = Arc::clone(&place);
        let open =
            move |_: Option<&berth_config::Archives>, _: &Environment| Ok::<_, ProviderError>(Arc::clone(&opened));
        let app = App::new(store, Environment::default(), Box::new(|_, _| None), Box::new(open));
        let file = "stack: parcels\nservices:\n  web: { command: [web], role: web, health: /health }\ndata: { root: public.customers }\n";
        let wanted = StackApply { file: file.to_owned(), files: BTreeMap::new(), dry_run: false };
        stack::apply(&app, &Caller::berth().may(Change).unwrap(), &wanted).await.unwrap();
        let ours = format!("uploads/{ID}/manifest.json");
        let theirs =
            ["uploads/7/photo.jpg".to_owned(), "uploads/01890a5d-ac96-774b-bcce-b302099a8058/avatar.png".to_owned()];
        for path in theirs.iter().chain([&ours]) {
            place.put(&ArchivePath::from(path.as_str()), "x".into()).await.unwrap();
        }
        assert_eq!(sweep(&app, Duration::from_hours(1)).await.unwrap(), 0, "somebody may bring more of it");
        assert_eq!(sweep(&app, Duration::ZERO).await.unwrap(), 1);
        for path in &theirs {
            place.head(&ArchivePath::from(path.as_str())).await.unwrap();
        }
        assert!(place.head(&ArchivePath::from(ours.as_str())).await.is_err(), "ours goes");
    }
}
