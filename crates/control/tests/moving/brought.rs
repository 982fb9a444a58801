//! A tenant leaves as files, is erased everywhere, and comes in again from them; what is refused changes nothing.

use crate::try_move::{Moving, rows};
use crate::world::{change, read, read_tenant};
use berth_control::{App, archives, certificates, erasures, imports, keys, moves, operations, tenants};
use berth_domain::{OperationId, OperationState, TenantState};
use berth_infra::{Call, Fault, Role};
use berth_wire::{CertificateAdd, KeyCreate, Profile, TenantImport};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use std::io;
use uuid::Uuid;

pub type Files = Vec<(String, Vec<u8>)>;

/// Exports, and takes the files along as a person would.
pub async fn taken_along(moving: &Moving, name: &str) -> Files {
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

pub async fn brought(app: &App, files: &Files) -> OperationId {
    let id = OperationId::new(Uuid::now_v7());
    for (file, content) in files {
        let parts = content.chunks(100).map(|part| Ok::<_, io::Error>(Bytes::copy_from_slice(part)));
        imports::take_file(app, &change(), id, file, futures_util::stream::iter(parts)).await.unwrap();
    }
    id
}

pub fn wanted(archive: OperationId, name: &str) -> TenantImport {
    TenantImport {
        archive,
        name: name.parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec![format!("{name}.test").parse().unwrap()],
        cell: Some("shared-1".parse().unwrap()),
        profile: None,
    }
}

/// Every place of the control database that has this text, but for those that are told.
pub async fn mentions(moving: &Moving, text: &str) -> Vec<String> {
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
    // What else names it: a certificate of its host, a key of its own, a word about one of its operations.
    let made = rcgen::generate_simple_self_signed(vec!["leaves.test".to_owned()]).unwrap();
    let pem = CertificateAdd { chain_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() };
    certificates::add(app, &change(), pem).await.unwrap();
    // A wildcard of its own with its certificate, one with another's name that has gone, a host that it had once, an order
    // that was left when the authority was taken out of the stack file, and a renewal as it used to be written down.
    let control = moving.world.control.connect(Role::Owner).await;
    let sql = format!(
        "insert into hosts (host, tenant_id) values ('*.leaves-corp.test', '{0}');
         insert into certificate_orders (host, id, state, next_at) values ('leaves.test', '{0}', 'failed', now());
         insert into audit (caller, action, target) values ('ann', 'certificate.renew', 'host/leaves.test');
         insert into audit (caller, action, target, after) values
             ('ann', 'host.add', 'tenant/leaves', '{{\"host\": \"leaves-once.test\"}}')",
        tenant.id
    );
    control.batch_execute(&sql).await.unwrap();
    for (names, goes) in [
        (&["*.leaves-corp.test", "a.leaves-corp.test"][..], false),
        (&["leaves.test", "stays.test"], true),
        (&["leaves-once.test", "stays.test"], true),
        (&["stays.test"], false),
    ] {
        let made =
            rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let pem = CertificateAdd { chain_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() };
        let added = certificates::add(app, &change(), pem).await.unwrap();
        if goes {
            certificates::remove(app, &change(), added.id).await.unwrap();
        }
    }
    let key = KeyCreate { name: "leaves-ci".into(), scope: format!("tenant:{}", tenant.id) };
    keys::create(app, &change(), &key).await.unwrap();
    let given_up = archives::export(app, &change(), "leaves").await.unwrap();
    operations::abandon(app, &change(), given_up.id, Some("leaves asked for it"), false).await.unwrap();
    assert_eq!(moving.world.carry_out(given_up.id).await, OperationState::Abandoned);
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
    let left = certificates::list(app, &read()).await.unwrap();
    assert_eq!(left.iter().flat_map(|one| &one.names).collect::<Vec<_>>(), ["stays.test"], "another's stays");
    let told = "select count(*) from audit where target like 'certificate/%' and after->'names' = '[\"stays.test\"]'";
    assert_eq!(control.query_one(told, &[]).await.unwrap().get::<_, i64>(0), 1, "and what is told of it");
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
    // What it needs comes along, and is kept as on a creation: nobody knows where that cell stands.
    let european = Profile { residency: Some("eu".to_owned()), ..Profile::default() };
    let kept = TenantImport { profile: Some(european), ..wanted(id, "again") };
    assert_eq!(refused(kept).await.code(), "constraint_broken");
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
    let shown = operations::show(app, &read_tenant(), begun.id).await.unwrap();
    let said = shown.fault.unwrap().detail;
    assert!(said.contains("vehicles") && said.contains("damaged or changed"), "{said}");
    assert!(rows(&source, &tenant).await.is_empty() && !before.is_empty(), "nothing of it stays");
    assert_eq!(imports::forget_files(app, &change(), id).await.unwrap(), 0, "what was brought is not kept");
    // Name and host are free again, and the whole one goes in under them.
    let rows_of = files.iter_mut().find(|(file, _)| file.contains("vehicles")).unwrap();
    rows_of.1[middle] ^= 1;
    let id = brought(app, &files).await;
    // A release is changing the cell: the schema that was compared is about to be another one.
    let rolling = "insert into rolls (number, release, before, back, whole, state, asked_by)
                       values (1, 0, 0, false, false, 'rolling', 'test');
                   insert into roll_cells (roll, cell_id, wave, state, before) select 1, id, 0, 'rolling', 0 from cells";
    control.batch_execute(rolling).await.unwrap();
    let changing = imports::start(app, &change(), wanted(id, "again")).await.unwrap_err();
    assert_eq!(changing.code(), "cell_has_release", "{changing}");
    control.batch_execute("delete from rolls").await.unwrap();
    let three = Profile { quantities: [("vehicles".to_owned(), 3)].into(), ..Profile::default() };
    let with = TenantImport { profile: Some(three.clone()), ..wanted(id, "again") };
    let begun = imports::start(app, &change(), with).await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(rows(&source, &tenant).await, before);
    let kept = berth_control::decide::profile(app, &read(), "again").await.unwrap();
    assert_eq!(kept.quantities, three.quantities);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_hold_on_to_is_refused_before_the_route_goes() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    let (tenant, other) = (moving.tenant("held").await, moving.tenant("other").await);
    let source = moving.world.tenants.connect(Role::Mover).await;
    let before = rows(&source, &tenant).await;
    let (key, others) = (&tenant.key, &other.key);
    let hold = format!(
        "CREATE TABLE held_on (id uuid PRIMARY KEY REFERENCES vehicles, customer_id text NOT NULL REFERENCES customers);
         INSERT INTO held_on SELECT id, '{others}' FROM vehicles WHERE customer_id = '{key}' LIMIT 1"
    );
    source.batch_execute(&hold).await.unwrap();
    for refused in [
        erasures::plan(app, &read_tenant(), "held").await.unwrap_err(),
        erasures::start(app, &change(), "held").await.unwrap_err(),
    ] {
        assert!(refused.full().contains("`held_on`"), "{}", refused.full());
    }
    assert_eq!(moving.known("held").await.state, TenantState::Active, "it is served on");
    assert_eq!(rows(&source, &tenant).await, before);
    source.batch_execute("DROP TABLE held_on").await.unwrap();
    let begun = erasures::start(app, &change(), "held").await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_the_same_customer_go_wherever_they_lie_and_an_import_under_way_keeps_its_own() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    moving.tenant("first").await;
    let files = taken_along(&moving, "first").await;
    let old = archives::list(app, &read_tenant(), "first").await.unwrap().items.pop().unwrap();
    let gone = tenants::delete(app, &change(), "first").await.unwrap();
    assert_eq!(moving.world.carry_out(gone.id).await, OperationState::Succeeded);
    // In again under another id, from the archive that stayed; and brought once more by somebody.
    let begun = imports::start(app, &change(), wanted(old.id, "second")).await.unwrap();
    assert_eq!(imports::forget_files(app, &change(), old.id).await.unwrap_err().code(), "upload_in_use");
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    let brought = brought(app, &files).await;
    let plan = erasures::plan(app, &read_tenant(), "second").await.unwrap();
    let begun = erasures::start(app, &change(), "second").await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    for archive in [old.id, brought] {
        let left = imports::plan(app, &change(), &wanted(archive, "third")).await.unwrap_err();
        assert_eq!(left.code(), "no_archive", "{}", left.full());
    }
    let line = plan.erased.iter().find(|line| line.what == "files of archives").unwrap();
    assert_eq!(line.many as usize, 2 * files.len(), "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_brought_goes_when_its_cell_cannot_be_made() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    moving.tenant("moves-in").await;
    let files = taken_along(&moving, "moves-in").await;
    let gone = tenants::delete(app, &change(), "moves-in").await.unwrap();
    assert_eq!(moving.world.carry_out(gone.id).await, OperationState::Succeeded);
    let id = brought(app, &files).await;
    let own = TenantImport { plan: "business".parse().unwrap(), cell: None, ..wanted(id, "moves-in") };
    // Of another schema than cells have: said before one is made.
    let shared = moving.world.tenants.connect(Role::Mover).await;
    shared.batch_execute("alter table vehicles add column extra int").await.unwrap();
    let other = imports::start(app, &change(), own.clone()).await.unwrap_err();
    assert!(other.code() == "move_refused" && other.full().contains("extra"), "{}", other.full());
    shared.batch_execute("alter table vehicles drop column extra").await.unwrap();
    let begun = imports::start(app, &change(), own).await.unwrap();
    // It began, and is given up while its cell is made.
    moving.world.fake.faults().next(Call::EnsureDatabase, Fault::LoseRequest);
    moving.world.turn().await;
    operations::abandon(app, &change(), begun.id, None, false).await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Abandoned);
    assert_eq!(imports::forget_files(app, &change(), id).await.unwrap(), 0, "what was brought is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_only_look_like_the_tenants_are_kept() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    moving.tenant("hobby").await;
    let control = moving.world.control.connect(Role::Owner).await;
    let keep =
        |key: &str, body: &str| format!("insert into idempotency_keys values ('c', '{key}', '', 200, '{body}');");
    let rows = [
        keep("plan", r#"{"name": "other", "plan": "hobby"}"#),
        keep("key", r#"{"name": "hobby", "scope": "admin"}"#),
        keep("own", r#"{"name": "hobby", "plan": "business"}"#),
        keep("operation", r#"{"tenant": "hobby", "state": "queued"}"#),
    ];
    control.batch_execute(&rows.concat()).await.unwrap();
    let begun = erasures::start(app, &change(), "hobby").await.unwrap();
    assert_eq!(moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    let left = control.query("select key from idempotency_keys order by key", &[]).await.unwrap();
    let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, ["key", "plan"]);
}
