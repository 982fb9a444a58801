//! A tenant leaves as files, is erased everywhere, and comes in again from them; what is refused changes nothing.

use crate::try_move::{Moving, rows};
use crate::world::{change, read, read_tenant};
use berth_control::{App, archives, erasures, imports, moves, tenants};
use berth_domain::{OperationId, OperationState, TenantState};
use berth_infra::Role;
use berth_wire::TenantImport;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use std::io;
use uuid::Uuid;

type Files = Vec<(String, Vec<u8>)>;

/// Exports, and takes the files along as a person would.
async fn taken_along(moving: &Moving, name: &str) -> Files {
    let app = &moving.world.app;
    let exported = archives::export(app, &change(), name).await.unwrap();
    assert_eq!(moving.world.carry_out(exported.id).await, OperationState::Succeeded);
    let made = archives::list(app, &read_tenant(), name).await.unwrap().items.pop().unwrap();
    let mut files = Vec::new();
    for file in made.files {
        let (length, content) = archives::file(app, &read_tenant(), name, made.id, &file).await.unwrap();
        let content: Vec<Bytes> = content.try_collect().await.unwrap();
        assert_eq!(content.concat().len() as u64, length);
        files.push((file, content.concat()));
    }
    files
}

async fn brought(app: &App, files: &Files) -> OperationId {
    let id = OperationId::new(Uuid::now_v7());
    for (file, content) in files {
        let parts = content.chunks(100).map(|part| Ok::<_, io::Error>(Bytes::copy_from_slice(part)));
        imports::take_file(app, &change(), id, file, futures_util::stream::iter(parts)).await.unwrap();
    }
    id
}

fn wanted(archive: OperationId, name: &str) -> TenantImport {
    TenantImport {
        archive,
        name: name.parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec![format!("{name}.test").parse().unwrap()],
        cell: Some("shared-1".parse().unwrap()),
    }
}

/// Every place of the control database that has this text, but for those that are told.
async fn mentions(moving: &Moving, text: &str) -> Vec<String> {
    let control = moving.world.control.connect(Role::Owner).await;
    let tables = control
        .query("select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'", &[]);
    let mut found = Vec::new();
    for table in tables.await.unwrap() {
        let table: String = table.get(0);
        let sql = format!("select count(*) from {table} t where position($1 in t::text) > 0");
        let many: i64 = control.query_one(&sql, &[&text]).await.unwrap().get(0);
        if many > 0 {
            found.push(format!("{many} in {table}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_exported_erased_everywhere_and_imported_as_it_was() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    let (tenant, other) = (moving.tenant("leaves").await, moving.tenant("stays").await);
    let source = moving.world.tenants.connect(Role::Mover).await;
    let (whole, theirs) = (rows(&source, &tenant).await, rows(&source, &other).await);
    let files = taken_along(&moving, "leaves").await;
    // What a move left in the old cell goes too.
    let to = "shared-2".parse().unwrap();
    let moved = moves::start(app, &change(), "leaves", Some(&to)).await.unwrap();
    assert_eq!(moving.world.carry_out(moved.id).await, OperationState::Succeeded);

    let plan = erasures::plan(app, &read_tenant(), "leaves").await.unwrap();
    let begun = erasures::start(app, &change(), "leaves").await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    let done = erasures::list(app, &read()).await.unwrap().items.remove(0);
    assert_eq!((done.operation, done.tenant), (Some(begun.id), tenant.id));
    let of = |erasure: &berth_wire::Erasure, what: &str| -> u64 {
        erasure.erased.iter().filter(|line| line.what.contains(what)).map(|line| line.many).sum()
    };
    for what in ["rows of", "way back", "files of archives", "hosts"] {
        assert!(of(&done, what) > 0 && of(&done, what) == of(&plan, what), "{what}: {plan:?} {done:?}");
    }
    for database in [&moving.world.tenants, &moving.target] {
        assert!(rows(&database.connect(Role::Mover).await, &tenant).await.is_empty());
    }
    assert_eq!(rows(&source, &other).await, theirs, "nobody else's");
    assert!(mentions(&moving, "leaves").await.is_empty(), "{:?}", mentions(&moving, "leaves").await);
    assert_eq!(moving.world.store.tenant_get(tenant.id).await.unwrap().unwrap().state, TenantState::Deleted);
    assert!(tenants::show(app, &read_tenant(), "leaves").await.is_err());

    let id = brought(app, &files).await;
    let shown = imports::plan(app, &change(), &wanted(id, "back")).await.unwrap();
    assert_eq!((shown.rows as usize, shown.key.as_str(), shown.new_cell), (whole.len(), tenant.key.as_str(), false));
    let begun = imports::start(app, &change(), wanted(id, "back")).await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(rows(&source, &tenant).await, whole, "every row is back");
    let back = moving.known("back").await;
    assert_eq!((back.state, back.key, back.hosts[0].as_str()), (TenantState::Active, tenant.key, "back.test"));
    assert_eq!(imports::forget_files(app, &change(), id).await.unwrap(), 0, "what was brought is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_refused_or_fails_leaves_nothing() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    let tenant = moving.tenant("whole").await;
    let source = moving.world.tenants.connect(Role::Mover).await;
    let before = rows(&source, &tenant).await;
    let mut files = taken_along(&moving, "whole").await;
    let id = brought(app, &files).await;
    let refused = async |wanted: TenantImport| imports::plan(app, &change(), &wanted).await.unwrap_err();
    assert_eq!(refused(wanted(id, "whole")).await.code(), "tenant_exists");
    assert_eq!(refused(wanted(id, "twice")).await.code(), "key_taken");
    assert_eq!(refused(wanted(OperationId::new(Uuid::now_v7()), "none")).await.code(), "no_archive");
    let nowhere =
        imports::take_file(app, &change(), id, "../x.zst", futures_util::stream::empty::<io::Result<Bytes>>()).await;
    assert_eq!(nowhere.unwrap_err().code(), "bad_archive_file");

    // Known to Berth no more, and there all the same.
    let control = moving.world.control.connect(Role::Owner).await;
    let forget = "update tenants set state = 'deleted' where name = 'whole'";
    control.execute(forget, &[]).await.unwrap();
    control.execute("delete from hosts", &[]).await.unwrap();
    let there = refused(wanted(id, "again")).await;
    assert_eq!(there.code(), "move_refused", "{}", there.full());
    assert!(there.full().contains("already holds"), "{}", there.full());
    source.batch_execute("delete from vehicles; delete from customers").await.unwrap();

    // A byte of the rows is another one: the look does not see it, the trial does.
    let rows_of = files.iter_mut().find(|(file, _)| file.contains("vehicles")).unwrap();
    let middle = rows_of.1.len() / 2;
    rows_of.1[middle] ^= 1;
    let id = brought(app, &files).await;
    imports::plan(app, &change(), &wanted(id, "again")).await.unwrap();
    let begun = imports::start(app, &change(), wanted(id, "again")).await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Failed);
    let shown = berth_control::operations::show(app, &read_tenant(), begun.id).await.unwrap();
    let said = shown.fault.unwrap().detail;
    assert!(said.contains("vehicles") && said.contains("damaged or changed"), "{said}");
    assert!(rows(&source, &tenant).await.is_empty() && !before.is_empty(), "nothing of it stays");
    assert_eq!(imports::forget_files(app, &change(), id).await.unwrap(), 0, "what was brought is not kept");
    // Name and host are free again, and the whole one goes in under them.
    let rows_of = files.iter_mut().find(|(file, _)| file.contains("vehicles")).unwrap();
    rows_of.1[middle] ^= 1;
    let id = brought(app, &files).await;
    let begun = imports::start(app, &change(), wanted(id, "again")).await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(rows(&source, &tenant).await, before);
}
