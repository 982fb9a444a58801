//! What people do on the dashboard, over the real `/v1` of a real control plane: each form does what it says, and no more.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use axum::http::{Method, StatusCode};
use berth_control::Scope;
use berth_domain::RollState;
use berth_infra::Role;
use berth_testkit::wait_until;
use berth_wire::{RegistryPut, ReleaseStatus};
use world::{
    World,
    pages::{Dashboard, form_of},
    refused,
};

const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    delete: { sql: 'DELETE FROM customers WHERE id = :id' }
plans:
  starter: { price: 49.00, class: shared }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 5 }
";

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_taken_in_exported_imported_and_erased_on_pages() {
    let world = World::of(STACK).await;
    let (client, pages) = (world.client(), Dashboard::of(&world));
    let owner = world.cells.connect(Role::Owner).await;
    let made = "create table customers (id text primary key, name text not null);
        create table positions (id bigint primary key, note text,
            customer_id text not null references customers on delete cascade);
        insert into customers values ('acme', 'Acme'), ('nova', 'Nova');
        insert into positions select n, 'of acme', 'acme' from generate_series(1, 300) n;
        insert into positions select n, 'of nova', 'nova' from generate_series(1001, 1100) n";
    owner.batch_execute(made).await.unwrap();
    let rows = async |of: &str| -> i64 {
        owner.query_one("select count(*) from positions where customer_id = $1", &[&of]).await.unwrap().get(0)
    };

    // Looking takes nobody in; the button does, each under its key.
    let sync = "/cells/shared-1/sync";
    pages.shows("/cells/shared-1", &["href=\"/cells/shared-1/sync\"", "href=\"/cells/shared-1/database\""]).await;
    pages.shows("/cells/shared-1", &["href=\"/cells/shared-1/abilities\""]).await;
    pages.shows(sync, &[">acme<", ">nova<", "not in Berth", "Take them in"]).await;
    assert!(client.tenants(None).await.unwrap().is_empty(), "a look takes nobody in");
    let (status, text) = pages.sends(sync, sync, &[("plan", "starter")]).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("Taken in now: 2.") && text.contains("/tenants/acme"), "{text}");
    assert_eq!(client.tenant("acme").await.unwrap().key.unwrap().as_str(), "acme");
    pages.shows(sync, &["Berth knows every row"]).await;
    pages.shows("/tenants/acme", &["href=\"/cells/shared-1/sync\"", "None yet."]).await;

    // Nobody has said what this cell costs: that is unknown, and not nothing.
    let figures = client.tenant_figures().await.unwrap();
    assert_eq!(figures.len(), 2);
    assert!(
        figures.iter().all(|of| (of.cost_cents, of.margin_cents, &of.quantity) == (None, None, &None)),
        "{figures:?}"
    );
    pages.shows("/tenants", &["<td class=\"number\">?</td>", "no limit"]).await;

    // Its rows as files, which the page hands out as they are.
    let export = "/tenants/acme/export";
    let archive = pages.begins(&world, export, export, &[]).await;
    let manifest = format!("/tenants/acme/archives/{archive}/manifest%2Ejson");
    pages.shows("/tenants/acme", &[&archive, &manifest, "301", "public.positions"]).await;
    let (status, text) = pages.ask(Method::GET, &manifest, "").await;
    assert!(status == StatusCode::OK && text.contains("\"acme\""), "{status}: {text}");
    let nothing = format!("/tenants/acme/archives/{archive}/..%2F..%2Fmanifest%2Ejson");
    assert!(!pages.ask(Method::GET, &nothing, "").await.0.is_success());

    // An archive is imported once its key is free, and what it would bring is shown before.
    let import = |name: &str| {
        let fields =
            [("archive", archive.as_str()), ("name", name), ("plan", "starter"), ("hosts", "back.test"), ("cell", "")];
        format!("/imports?{}", form_of(&fields))
    };
    pages.shows("/imports", &["berth tenant import acme.tar", "berth import shop.dump", "--plan starter"]).await;
    let (status, text) = pages.ask(Method::GET, &import("back"), "").await;
    assert_eq!(status, StatusCode::CONFLICT, "its key is a tenant's: {text}");
    let delete = "/tenants/acme/delete";
    let (status, text) = pages.sends(delete, delete, &[("typed", "nova")]).await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("is not acme"), "{status}: {text}");
    assert_eq!(rows("acme").await, 300, "another name deletes nobody");
    pages.begins(&world, delete, delete, &[("typed", "acme")]).await;
    assert_eq!((rows("acme").await, rows("nova").await), (0, 100));
    let (status, text) = pages.ask(Method::GET, &import("Not a name"), "").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("`name`"), "{status}: {text}");
    pages.shows(&import("back"), &["What it would bring", "301", "shared-1", "Nothing has been changed"]).await;
    assert_eq!(refused(client.tenant("back").await).status, 404, "a look imports nobody");
    // What it needs is asked for beside, since an archive does not say: nowhere but where that is kept, and kept then.
    let needs = |field: &str| format!("{}&{field}", import("back"));
    let (status, text) = pages.ask(Method::GET, &needs("quantities=vehicles"), "").await;
    assert!(status == StatusCode::UNPROCESSABLE_ENTITY && text.contains("`quantities`"), "{status}: {text}");
    let (status, text) = pages.ask(Method::GET, &needs("residency=sg"), "").await;
    assert!(status == StatusCode::CONFLICT && text.contains("residency"), "{status}: {text}");
    pages.begins(&world, &needs("quantities=vehicles%3D3&budget=49.50"), "/imports", &[]).await;
    let back = client.tenant("back").await.unwrap();
    assert_eq!((back.key.unwrap().as_str(), rows("acme").await), ("acme", 300));
    pages.shows("/tenants/back/profile", &["value=\"vehicles=3\"", "value=\"49.50\""]).await;

    // Erasing shows what would go, takes the name typed in and a key that may, and ends with its document.
    let erase = "/tenants/back/erase";
    pages.shows(erase, &["rows of ", "positions</th>", ">300<", "Kept: backups", "Type <strong>back</strong>"]).await;
    let reader = Dashboard::with(&world, &world.key(Scope::Read).await);
    assert_eq!(reader.sends(erase, erase, &[("typed", "back")]).await.0, StatusCode::FORBIDDEN);
    let (status, text) = pages.sends(erase, erase, &[("typed", "")]).await;
    assert_eq!((status, rows("acme").await), (StatusCode::UNPROCESSABLE_ENTITY, 300), "{text}");
    let operation = pages.begins(&world, erase, erase, &[("typed", "back")]).await;
    assert_eq!((rows("acme").await, rows("nova").await), (0, 100), "nobody else's");
    let said = ["What was erased", "positions</th>", ">300<", "Kept: backups"];
    let page = pages.shows(&format!("/operations/{operation}"), &said).await;
    assert!(!page.contains("&#34;erased&#34;"), "the document is a table, and no text of a machine: {page}");
    pages.shows("/erasures", &["positions</th>", &operation]).await;
    assert_eq!(refused(client.tenant("back").await).status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cells_database_is_looked_at_on_its_page_and_nothing_stays_of_it() {
    let world = World::of(STACK).await;
    let pages = Dashboard::of(&world);
    let owner = world.cells.connect(Role::Owner).await;
    owner.batch_execute("create table journeys (id int)").await.unwrap();
    // It only reads: a slot that is made waits for those that write.
    owner.batch_execute("begin; select count(*) from journeys").await.unwrap();
    let mover = world.cells.connect(Role::Mover).await;
    let slot = format!("kept_{}", world.cells.name());
    mover.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await.unwrap();
    let busy = ["idle in transaction", "count(*) from journeys", "The whole database: ", &slot, "read by nobody"];
    let page = pages.shows("/cells/shared-1/database", &busy).await;
    assert!(!page.contains("The whole database: ?"), "{page}");
    pages.shows("/cells/shared-1/abilities", &["Reads changes", "Moves as superuser", ">yes<"]).await;
    let schemas = "select count(*) from pg_namespace where nspname like 'berth_ability%'";
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    let count = async |sql: &str| -> i64 { mover.query_one(sql, &[]).await.unwrap().get(0) };
    assert_eq!((count(schemas).await, count(slots).await), (0, 1));
    mover.execute("select pg_drop_replication_slot($1)", &[&slot]).await.unwrap();
    let (status, _) = pages.ask(Method::GET, "/cells/moon/database", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // What the form for a new one is filled in from.
    pages.shows("/cells/new", &["What places cost", "hetzner", "value=\"here\"", "berth cell add"]).await;
    pages.shows("/cells/new?class=dedicated&region=fsn1", &["<option selected>dedicated", "value=\"fsn1\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_made_rolled_and_taken_back_on_pages() {
    let world = World::of(STACK).await;
    let (client, pages) = (world.client(), Dashboard::of(&world));
    let new = "/releases/new";
    pages.shows(new, &["a tag is refused", "Cells run web."]).await;
    for (services, says) in [
        ("web=registry.test/web:latest", "a tag can be moved"),
        ("api=registry.test/web@sha256:00", "the stack file has no service `api`"),
    ] {
        let (status, text) = pages.sends(new, "/releases", &[("services", services)]).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(client.releases().await.unwrap().is_empty());
    let line = format!("\r\n web=registry.test/web@sha256:{} \r\n", "a1".repeat(32));
    for _ in 0..2 {
        let (status, leads) = pages.sends(new, "/releases", &[("services", &line)]).await;
        assert_eq!(
            (status, leads.as_str()),
            (StatusCode::SEE_OTHER, "/releases/1"),
            "the same set is the same release"
        );
    }
    assert!(!pages.ask(Method::GET, "/releases/back", "").await.0.is_success(), "nothing was rolled yet");

    let over = async || {
        let done = |status: &ReleaseStatus| status.roll.as_ref().is_some_and(|roll| roll.state != RollState::Rolling);
        let look = async || client.rollout().await.unwrap();
        let status = wait_until("the roll is over", look, done).await;
        let roll = status.roll.unwrap();
        assert_eq!(roll.state, RollState::Done, "{roll:?}");
        status.cells[0].release
    };
    pages.shows("/releases/1", &["shared-1 (stack file now, then r1)", "Roll it"]).await;
    let (status, leads) = pages.sends("/releases/1", "/releases/1/roll", &[("only-moon", "yes")]).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "there is no such cell: {leads}");
    let (status, leads) = pages.sends("/releases/1", "/releases/1/roll", &[("only-shared-1", "yes")]).await;
    assert_eq!((status, leads.as_str()), (StatusCode::SEE_OTHER, "/releases"));
    assert_eq!(over().await, 1);
    pages.shows("/releases", &["What each cell runs", ">r1<", "href=\"/releases/back\""]).await;

    let back = "/releases/back";
    pages.shows(back, &["shared-1 (r1 now, then stack file)"]).await;
    assert_eq!(pages.sends(back, back, &[]).await.0, StatusCode::SEE_OTHER);
    assert_eq!(over().await, 0);

    // Accounts are names here.
    let account =
        RegistryPut { host: "registry.test".into(), user: "shop-bot".into(), password: "hunter2hunter2".into() };
    client.registry_put(&account).await.unwrap();
    for path in ["/releases", "/cells/shared-1"] {
        let page = pages.shows(path, &["registry.test"]).await;
        assert!(!page.contains("hunter2"), "{path} tells a password: {page}");
    }
}
