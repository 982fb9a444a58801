//! A tenant becomes an archive, is erased, and becomes a tenant again: every row as it was, here and elsewhere, and
//! nobody else's touched. What does not fit is refused by name, and nothing is changed.

use crate::common::zoo::{ZOO, ZOO_TABLES, rows, zoo_rows, zoo_writes};
use crate::common::{Two, Watch};
use berth_infra::Role;
use berth_mover::{Archive, Archives, Beside, KeysBeside, MoveError, MoveSpec, ObjectsBeside, Obstacle};
use berth_testkit::TestRedis;
use object_store::{ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use redis::AsyncCommands;
use std::collections::BTreeSet;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio_postgres::Client;
use uuid::Uuid;

/// As the control plane asks for it: the cell is both sides.
fn in_cell(two: &Two, database: &str) -> MoveSpec {
    MoveSpec { source: two.endpoint(database), target: two.endpoint(database), alone: false, ..two.spec() }
}

fn store() -> (Archives, Path) {
    (Arc::new(InMemory::new()), Path::from("tenants/acme/one"))
}

async fn exported(spec: &MoveSpec, store: &Archives, at: &Path) -> Archive {
    berth_mover::export(spec, store, at, &Watch::default()).await.unwrap()
}

async fn imported(spec: &MoveSpec, store: &Archives, at: &Path) -> Result<u64, MoveError> {
    berth_mover::try_import(spec, store, at, &Watch::default()).await?;
    let mark = Uuid::now_v7();
    berth_mover::import_beside(spec, store, at).await?;
    let rows = berth_mover::import_rows(spec, store, at, mark, &Watch::default()).await?;
    // An answer that was lost is asked for again.
    assert_eq!(berth_mover::import_rows(spec, store, at, mark, &Watch::default()).await?, rows);
    for _ in 0..2 {
        berth_mover::forget_import(spec, mark).await?;
    }
    Ok(rows)
}

async fn erased(spec: &MoveSpec) -> u64 {
    let gone = berth_mover::erase_rows(spec, &Watch::default()).await.unwrap();
    assert!(berth_mover::count_rows(spec).await.unwrap().is_empty());
    gone.iter().map(|table| table.rows).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zoo_is_exported_erased_and_imported_with_every_value_as_it_was() {
    let two = Two::shared(ZOO).await;
    let here = two.client(&two.source, Role::Mover).await;
    for tenant in [two.tenant, two.neighbour] {
        here.batch_execute(&zoo_rows(tenant)).await.unwrap();
    }
    let (before, theirs) = (rows(&here, ZOO_TABLES, two.tenant).await, rows(&here, ZOO_TABLES, two.neighbour).await);
    let (store, at) = store();
    let spec = in_cell(&two, &two.source);
    let made = exported(&spec, &store, &at).await;
    assert_eq!(made.rows() as usize, before.len());

    // A neighbour's rows are what its own triggers make of deletions: none of them.
    assert_eq!(erased(&spec).await, made.rows());
    assert!(rows(&here, ZOO_TABLES, two.tenant).await.is_empty());
    assert_eq!(rows(&here, ZOO_TABLES, two.neighbour).await, theirs);

    assert_eq!(imported(&spec, &store, &at).await.unwrap(), made.rows());
    assert_eq!(rows(&here, ZOO_TABLES, two.tenant).await, before, "in the cell where it was");
    let there = two.client(&two.target, Role::Mover).await;
    assert_eq!(imported(&in_cell(&two, &two.target), &store, &at).await.unwrap(), made.rows());
    assert_eq!(rows(&there, ZOO_TABLES, two.tenant).await, before, "in another cell");
    assert_eq!(rows(&here, ZOO_TABLES, two.neighbour).await, theirs);
    // It goes on writing, with triggers, identities and keys as they are.
    for database in [&two.source, &two.target] {
        let app = two.client(database, Role::App).await;
        app.batch_execute(&format!("set app.tenant = '{}'", two.tenant)).await.unwrap();
        for sql in zoo_writes(two.tenant, 2_000_000) {
            app.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
    let refused = imported(&spec, &store, &at).await.unwrap_err();
    let MoveError::Obstacles(all) = &refused else { panic!("{refused}") };
    assert!(all.iter().all(|o| matches!(o, Obstacle::RowsInTarget { .. })), "{refused}");
}

/// Integer keys, rows of nobody, and rows that belong to the tenant only through others.
const NUMBERED: &str = "
    create table customers (id int primary key, name text not null);
    create table currencies (code text primary key, digits int not null);
    create table invoices (id serial primary key, customer_id int not null references customers, number text not null,
        currency text references currencies, email text, gross int generated always as (id * 2) stored);
    create unique index on invoices (lower(email)); create unique index on invoices (gross);
    create table lines (id bigserial primary key, invoice_id int not null references invoices, text text);";

async fn numbered() -> (Two, MoveSpec) {
    let two = Two::shared(NUMBERED).await;
    let here = two.client(&two.source, Role::Mover).await;
    here.batch_execute(
        "insert into currencies values ('EUR', 2), ('JPY', 0), ('XAU', 4);
         insert into customers values (1, 'C'), (2, 'N');
         insert into invoices (customer_id, number, currency, email)
             select n % 2 + 1, n, case n % 4 when 0 then 'EUR' when 1 then 'JPY' end, 'a' || n from generate_series(1, 20) n;
         insert into lines (invoice_id, text) select n % 20 + 1, n || E'\\\\N,\"\\n' from generate_series(1, 60) n",
    )
    .await
    .unwrap();
    let mut spec = in_cell(&two, &two.source);
    spec.tenant = berth_domain::TenantKey::new("1").unwrap();
    spec.rules.shared = vec![berth_mover::TableName::parse("currencies")];
    (two, spec)
}

const ALL_OF_IT: &str = "select 'c' || c::text from customers c where id = 1 union all select 'i' || i::text from invoices i where customer_id = 1
    union all select 'l' || l::text from lines l where invoice_id in (select id from invoices where customer_id = 1) order by 1";

async fn all_of_it(client: &Client) -> Vec<String> {
    client.query(ALL_OF_IT, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_others_have_are_refused_by_name_and_handed_out_by_nobody_twice() {
    let (two, spec) = numbered().await;
    let here = two.client(&two.source, Role::Mover).await;
    let before = all_of_it(&here).await;
    let (store, at) = store();
    let made = exported(&spec, &store, &at).await;
    assert_eq!((made.rows() as usize, made.shared[0].rows), (before.len(), 1), "XAU and JPY are nobody's business");
    let there = two.client(&two.target, Role::Mover).await;
    let to = MoveSpec { target: two.endpoint(&two.target), source: two.endpoint(&two.target), ..spec.clone() };

    // Others came first, with the same numbers, addresses and another idea of the euro.
    there
        .batch_execute(
            "insert into currencies values ('EUR', 3); insert into customers values (9, 'O');
             insert into invoices (id, customer_id, number, email) values (4, 9, 'x', 'o'), (101, 9, 'y', 'A6')",
        )
        .await
        .unwrap();
    let refused = imported(&to, &store, &at).await.unwrap_err();
    assert!(refused.to_string().contains("1 rows of nobody in `currencies` are others"), "{refused}");
    there.batch_execute("update currencies set digits = 2").await.unwrap();
    let refused = imported(&to, &store, &at).await.unwrap_err().to_string();
    assert!(refused.contains("1 keys (id) of the tenant's rows in `invoices` are taken"), "{refused}");
    assert!(refused.contains("1 keys (lower(email)) of the tenant's rows in `invoices` are taken"), "{refused}");
    there.batch_execute("delete from invoices where id = 4; update invoices set email = 'b', id = 10").await.unwrap();
    let refused = imported(&to, &store, &at).await.unwrap_err().to_string();
    assert!(refused.contains("1 keys (id) of the tenant's rows in `invoices` are taken by other rows"), "{refused}");
    assert!(all_of_it(&there).await.is_empty(), "nothing of a refused import stays");

    there.batch_execute("delete from invoices").await.unwrap();
    imported(&to, &store, &at).await.unwrap();
    assert_eq!(all_of_it(&there).await, before);
    let app = two.client(&two.target, Role::App).await;
    app.batch_execute(
        "insert into invoices (customer_id, number) values (9, 'z'); insert into lines (invoice_id) values (2)",
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_cut_or_changed_or_of_another_schema_changes_nothing() {
    let (two, spec) = numbered().await;
    let here = two.client(&two.source, Role::Mover).await;
    let (store, at) = store();
    let made = exported(&spec, &store, &at).await;
    erased(&spec).await;
    let refused = async || imported(&spec, &store, &at).await.unwrap_err();
    for file in made.files() {
        let path = at.clone().join(file.clone());
        let whole = store.get(&path).await.unwrap().bytes().await.unwrap();
        for nth in [0, whole.len() / 2, whole.len() - 2] {
            let mut changed = whole.to_vec();
            changed[nth] ^= 1;
            store.put(&path, changed.into()).await.unwrap();
            let error = refused().await;
            assert_eq!(error.code(), "archive_unfit", "byte {nth} of {file}: {error}");
            assert!(error.hint().contains("bring it again"), "{}", error.hint());
            assert!(error.to_string().contains(file.as_str()), "byte {nth} of {file}: {error}");
        }
        store.put(&path, whole.slice(..whole.len() - 3).into()).await.unwrap();
        assert_eq!(refused().await.code(), "archive_unfit", "{file} is cut");
        store.delete(&path).await.unwrap();
        let error = refused().await.to_string();
        assert!(error.contains(file.as_str()) || error.contains("no manifest"), "{file} is missing: {error}");
        store.put(&path, whole.into()).await.unwrap();
    }
    let owner = two.client(&two.source, Role::Owner).await;
    for (change, back, says) in [
        ("add column paid date", "drop column paid", "the cell has column `paid` (date), the archive has not"),
        (
            "alter email set not null",
            "alter email drop not null",
            "column `email` is text in the archive and text not null",
        ),
        (
            "rename number to nr",
            "rename nr to number",
            "the archive has column `number` (text not null), the cell has not",
        ),
    ] {
        owner
            .batch_execute(&format!("delete from lines; delete from invoices; alter table invoices {change}"))
            .await
            .unwrap();
        let error = refused().await;
        assert!(error.hint().contains("run the missing release's migration"), "{}", error.hint());
        let error = error.to_string();
        assert!(error.contains("table `invoices` differs") && error.contains(says), "{error}");
        owner.batch_execute(&format!("alter table invoices {back}")).await.unwrap();
    }
    let other = MoveSpec { tenant: berth_domain::TenantKey::new("2").unwrap(), ..spec.clone() };
    assert!(imported(&other, &store, &at).await.unwrap_err().to_string().contains("it is of the tenant with key 1"));
    assert!(all_of_it(&here).await.is_empty());
    imported(&spec, &store, &at).await.unwrap();
    assert_eq!(all_of_it(&here).await.len() as u64, made.rows());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_refer_to_is_not_erased_and_is_named() {
    let (two, spec) = numbered().await;
    let here = two.client(&two.source, Role::Mover).await;
    here.batch_execute(
        "create table notes (id int, invoice int references invoices (id)); alter table notes add primary key (id)",
    )
    .await
    .unwrap();
    let mut spec = spec;
    spec.rules.leave_out.push(berth_mover::TableName::parse("notes"));
    here.batch_execute("insert into notes select 1, min(id) from invoices where customer_id = 1").await.unwrap();
    let before = all_of_it(&here).await;
    let refused = berth_mover::erase_rows(&spec, &Watch::default()).await.unwrap_err();
    assert_eq!(refused.code(), "referred_to", "{refused}");
    assert!(refused.to_string().contains("`notes`"), "{refused}");
    assert_eq!(all_of_it(&here).await, before, "nothing went");
    here.batch_execute("delete from notes").await.unwrap();
    assert_eq!(erased(&spec).await as usize, before.len());
}

/// A neighbour takes numbers while the tenant's rows are looked through: what was read a moment ago is old.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_is_handed_no_number_twice_while_a_tenant_comes_in() {
    let (two, spec) = numbered().await;
    let here = two.client(&two.source, Role::Mover).await;
    here.batch_execute(
        "create sequence labels;
         create table codes (id smallserial primary key, customer_id int not null references customers,
             label text not null default 'L-' || nextval('labels'));
         insert into codes values (20000, 1);
         insert into lines (invoice_id, text) select 2, 'x' from generate_series(1, 60000)",
    )
    .await
    .unwrap();
    let (store, at) = store();
    exported(&spec, &store, &at).await;
    erased(&spec).await;
    // Beyond everything that comes in: there is nothing to be raised.
    here.batch_execute("select nextval('lines_id_seq') from generate_series(1, 100)").await.unwrap();
    let app = two.client(&two.source, Role::App).await;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let taken = tokio::spawn(async move {
        let mut taken: Vec<i64> = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            taken.push(app.query_one("select nextval('lines_id_seq')", &[]).await.unwrap().get(0));
        }
        taken
    });
    imported(&spec, &store, &at).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let taken = taken.await.unwrap();
    let different = taken.iter().collect::<BTreeSet<_>>().len();
    assert!(taken.len() > 50, "{}", taken.len());
    assert_eq!(different, taken.len(), "a number was handed out twice");
    // Where it is behind, it goes beyond what anybody takes meanwhile; a small one is not used up.
    let next: i64 = here.query_one("select nextval('codes_id_seq')", &[]).await.unwrap().get(0);
    assert!((20_001..21_000).contains(&next), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_says_otherwise_whose_rows_are_whose_changes_nothing() {
    let (two, spec) = numbered().await;
    let here = two.client(&two.source, Role::Mover).await;
    let (store, at) = store();
    exported(&spec, &store, &at).await;
    erased(&spec).await;
    // Its rows of that table would be left out without a word.
    let mut fewer = spec.clone();
    fewer.rules.leave_out.push(berth_mover::TableName::parse("lines"));
    let refused = imported(&fewer, &store, &at).await.unwrap_err();
    assert_eq!(refused.code(), "archive_unfit", "{refused}");
    assert!(refused.to_string().contains("rows of `lines` belong to no tenant here"), "{refused}");
    // Its rows of nobody would come in past every fence.
    let mut nobodys = spec.clone();
    nobodys.rules.shared.clear();
    let refused = imported(&nobodys, &store, &at).await.unwrap_err();
    assert_eq!(refused.code(), "archive_unfit", "{refused}");
    assert!(refused.to_string().contains("rows of nobody for `currencies`"), "{refused}");
    assert!(all_of_it(&here).await.is_empty());
    imported(&spec, &store, &at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_objects_are_in_the_archive_and_come_back_with_their_time() {
    let Some(server) = TestRedis::start(&[]).await else { return };
    let two = Two::shared("create table customers (id uuid primary key)").await;
    let here = two.client(&two.source, Role::Mover).await;
    let (tenant, neighbour) = (two.tenant.to_string(), two.neighbour.to_string());
    for tenant in [&tenant, &neighbour] {
        here.batch_execute(&format!("insert into customers values ('{tenant}')")).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let objects: Archives = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let mut keys = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for owner in [&tenant, &neighbour] {
        for n in 0..50 {
            let () = keys.set(format!("t:{owner}:{n}"), n).await.unwrap();
        }
        let () = keys.set_ex(format!("t:{owner}:session"), "\0\u{1F6A2}", 3_600).await.unwrap();
        objects.put(&Path::from(format!("files/{owner}/a b")), vec![7; 700_000].into()).await.unwrap();
        objects.put(&Path::from(format!("files/{owner}/empty")), object_store::PutPayload::new()).await.unwrap();
    }
    let beside = Beside {
        keys: Some(KeysBeside {
            source: server.url().into(),
            target: server.url().into(),
            prefixes: vec!["t:{tenant}:".into()],
            store: false,
            alone: false,
        }),
        objects: Some(ObjectsBeside {
            source: objects.clone(),
            target: objects.clone(),
            prefixes: vec!["files/{tenant}/".into()],
        }),
    };
    let spec = MoveSpec { beside, ..in_cell(&two, &two.source) };
    let (store, at) = store();
    let made = exported(&spec, &store, &at).await;
    assert_eq!((made.keys.as_ref().unwrap().many, made.objects.as_ref().unwrap().many), (51, 2));
    let gone = berth_mover::remove_all(&spec.source, &spec.rules, &spec.beside, &spec.tenant).await.unwrap();
    assert_eq!(gone, (51, 2));
    erased(&spec).await;
    imported(&spec, &store, &at).await.unwrap();
    let value: Vec<u8> = keys.get(format!("t:{tenant}:session")).await.unwrap();
    let left: i64 = keys.ttl(format!("t:{tenant}:session")).await.unwrap();
    assert!(value == "\0\u{1F6A2}".as_bytes() && (3_000..=3_600).contains(&left), "{left} s");
    assert_eq!(keys.get::<_, i64>(format!("t:{tenant}:49")).await.unwrap(), 49);
    let back = objects.get(&Path::from(format!("files/{tenant}/a b"))).await.unwrap().bytes().await.unwrap();
    assert!(back.len() == 700_000 && back.iter().all(|byte| *byte == 7));
    objects.head(&Path::from(format!("files/{tenant}/empty"))).await.unwrap();
    // What is there already is in the way, named by its prefix.
    berth_mover::erase_rows(&spec, &Watch::default()).await.unwrap();
    let refused = imported(&spec, &store, &at).await.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("51 keys or objects of this tenant under the prefix `t:{tenant}:`")),
        "{refused}"
    );
    assert_eq!(keys.get::<_, i64>(format!("t:{neighbour}:49")).await.unwrap(), 49);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_import_would_need_or_would_find_is_refused_by_name() {
    let (two, mut spec) = numbered().await;
    let (store, at) = store();
    // Every cell is to have the currencies; the other one has not.
    spec.rules.shared.clear();
    spec.rules.leave_out = vec![berth_mover::TableName::parse("currencies")];
    let folder = tempfile::tempdir().unwrap();
    let objects: Archives = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    exported(&spec, &store, &at).await;
    let to = MoveSpec { target: two.endpoint(&two.target), source: two.endpoint(&two.target), ..spec.clone() };
    let refused = imported(&to, &store, &at).await.unwrap_err();
    let MoveError::Obstacles(all) = &refused else { panic!("{refused}") };
    let [Obstacle::ReferenceMissing { table, columns, to: missing, rows }] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (table.name.as_str(), columns.as_str(), missing.name.as_str(), *rows),
        ("invoices", "currency", "currencies", 5)
    );
    assert!(all[0].hint().contains("put those rows of `currencies` into the cell first"), "{}", all[0].hint());

    let there = two.client(&two.target, Role::Mover).await;
    there.batch_execute("insert into currencies values ('EUR', 2), ('JPY', 0)").await.unwrap();
    objects.put(&Path::from("files/1/old.txt"), "left".into()).await.unwrap();
    let prefixes = vec!["files/{tenant}/".into()];
    let beside = ObjectsBeside { source: objects.clone(), target: objects.clone(), prefixes };
    let to = MoveSpec { beside: Beside { objects: Some(beside), ..Beside::default() }, ..to };
    let refused = imported(&to, &store, &at).await.unwrap_err();
    let MoveError::Obstacles(all) = &refused else { panic!("{refused}") };
    assert_eq!(all[..], [Obstacle::BesideInTarget { prefix: "files/1/".into(), found: 1 }]);
    assert!(all_of_it(&there).await.is_empty(), "nothing of a refused import stays");
}
