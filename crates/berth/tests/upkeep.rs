//! What is done to a stack that runs, with the programs as people start them: a service restarted under traffic, databases
//! maintained beside somebody who waits, the list before going live, and a tenant out of a dump.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends where it is surprised, and shows what was answered"
)]

mod running;

use berth_infra::{DatabaseName, Role};
use berth_providers::local::{Local, LocalOptions};
use berth_testkit::wait_until;
use running::{Place, World, ask, fleet};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio_postgres::NoTls;

fn stack(place: &Place) -> String {
    let (program, root) = (json!(fleet()), json!(place.dir.join("cells")));
    format!(
        "stack: fleet
services:
  web:
    command: [{program}, serve]
    migrate: [{program}, migrate]
    health: /health
    copies: 2
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    create: {{ file: tenant_create.sql }}
    delete: {{ file: tenant_delete.sql }}
plans:
  hobby: {{ price: 15, class: shared }}
providers:
  local: {{ adapter: local, root: {root} }}
cells:
  shared-1: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
"
    )
}

impl World {
    async fn served(&self, name: &str) {
        self.tenant(name, "hobby").await;
        let host = format!("{name}.test");
        let served = || async { ask(self.edge.port(), &host, "GET", "/api/v1/vehicles", "").map(|(status, _)| status) };
        wait_until("the edge serves the tenant", served, |status| *status == Some(200)).await;
    }

    async fn database(&self, role: Role) -> (tokio_postgres::Client, tokio_postgres::Config) {
        let options = json!({ "root": self.place.dir.join("cells") });
        let options: LocalOptions = serde_json::from_value(options).unwrap();
        let databases = Local::new(options).unwrap().provider().database.unwrap();
        let cell = "shared-1".parse().unwrap();
        let found = databases.observe_database(&DatabaseName::of(&cell)).await.unwrap().present().unwrap();
        let config: tokio_postgres::Config = found.url(role).expose_secret().parse().unwrap();
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        (client, config)
    }
}

/// Requests one after the other until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Traffic {
    fn begin(port: u16, host: &'static str) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let threads = (0..4).map(|_| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(port, host, "GET", "/api/v1/vehicles", "");
                    counts[0].fetch_add(1, Ordering::Relaxed);
                    if answer.as_ref().is_none_or(|(status, _)| *status != 200) {
                        counts[1].fetch_add(1, Ordering::Relaxed);
                        eprintln!("answered {answer:?}");
                    }
                }
            })
        });
        Self { threads: threads.collect(), stop, counts }
    }

    fn ends_without_a_failure(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let (asked, failed) = (self.counts[0].load(Ordering::Relaxed), self.counts[1].load(Ordering::Relaxed));
        println!("{asked} requests, {failed} failed");
        assert!(asked > 100 && failed == 0, "{failed} of {asked} requests failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_do_not_notice_a_restart_and_the_list_says_what_is_missing() {
    let world = World::start(stack).await;
    world.served("acme").await;
    a_member_is_drained_by_its_address_and_taken_back(&world).await;
    let addresses = async || -> Vec<String> {
        let cell = world.client.cell("shared-1").await.unwrap();
        cell.members.into_iter().filter_map(|member| member.address).collect()
    };
    let before = addresses().await;
    let (code, out, _) = world.berth(&["service", "restart", "web", "--dry-run"]);
    assert_eq!((code, out.as_str()), (0, "shared-1: 2 copies of web, one by one; one more serves beside meanwhile\n"));
    let traffic = Traffic::begin(world.edge.port(), "acme.test");
    for round in 0..2 {
        let (code, out, error) = world.berth(&["service", "restart", "web", "--cell", "shared-1"]);
        assert_eq!(code, 0, "round {round}: {out}{error}");
        assert!(out.contains("2 of service `web` were started again"), "{out}");
    }
    traffic.ends_without_a_failure();
    let after = addresses().await;
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(after.iter().all(|one| !before.contains(one)), "each listens anew: {before:?}, {after:?}");
    let (code, _, error) = world.berth(&["service", "restart", "wbe", "--cell", "shared-1"]);
    assert!(code == 1 && error.contains("no service `wbe`"), "{error}");

    let (code, out, error) = world.berth(&["check", "--go-live"]);
    assert_eq!(code, 1, "{out}{error}");
    assert!(out.contains("FAILED   backups: ") && out.contains("cannot be told from here."), "{out}");
    let list = world.json(&["check", "--go-live", "--done", "mail,audit"]);
    let outcome = |id: &str| {
        let items = list["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["id"] == id).unwrap_or_else(|| panic!("{id} is missing"));
        item["outcome"].as_str().unwrap().to_owned()
    };
    for (wanted, ids) in [
        ("passed", &["health", "edges", "releases", "movable", "database", "api", "mail", "audit", "attention"][..]),
        ("failed", &["backups", "restore", "alerts", "limits", "measured", "https", "certificates", "cost"][..]),
        ("unknown", &["files", "monitoring", "search-index", "firewall"][..]),
    ] {
        for id in ids {
            assert_eq!(outcome(id), wanted, "{id}: {list}");
        }
    }
    let (code, _, error) = world.berth(&["check", "--go-live", "--done", "nonsense"]);
    assert!(code == 1 && error.contains("the list has no `nonsense`"), "{error}");
    let mut nobody = world.place.berth(&["check", "--go-live"]);
    let nobody = nobody.env("BERTH_URL", "http://127.0.0.1:9").output().unwrap();
    assert_eq!(nobody.status.code(), Some(2));

    let (_, _, error) = world.berth(&["rollback"]);
    assert!(error.contains("hint: `berth release back`"), "{error}");
}

/// One of the two copies, and never both.
async fn a_member_is_drained_by_its_address_and_taken_back(world: &World) {
    let members = world.client.cell("shared-1").await.unwrap().members;
    let named: Vec<_> = members.into_iter().filter_map(|it| Some((it.id.to_string(), it.address?))).collect();
    let [(id, address), (_, other)] = &named[..] else { panic!("{named:?}") };
    let drain = |member: &str, more: &[&str]| {
        let words = ["cell", "drain-member", "shared-1", member];
        world.berth(&[&words[..], more].concat())
    };
    let (code, out, error) = drain(address, &["--grace", "0"]);
    let said = format!("member {id} of cell shared-1 is drained: new requests go to other members\n");
    assert!(code == 0 && out.starts_with(&said), "{out}{error}");
    let state = async || world.json(&["cell", "drain-member", "shared-1", id, "--state"]);
    wait_until("the edge knows of it", state, |drain: &Value| drain["done"] == true).await;
    let (_, list, _) = world.berth(&["edge", "drains"]);
    assert!(list.contains(&format!("berth cell drain-member shared-1 {id} --undo")), "{list}");
    let (code, _, error) = drain(other, &[]);
    assert!(code == 1 && error.contains("the last member of cell `shared-1`") && error.contains("hint: "), "{error}");
    let answer = ask(world.edge.port(), "acme.test", "GET", "/api/v1/vehicles", "");
    assert_eq!(answer.map(|(status, _)| status), Some(200));
    let (code, out, error) = drain(id, &["--undo"]);
    assert_eq!((code, out), (0, format!("member {id} of cell shared-1 is not drained\n")), "{error}");
    let (code, _, error) = drain("10.9.9.9:1", &[]);
    assert!(code == 1 && error.contains("has no member `10.9.9.9:1`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_lets_go_of_what_somebody_waits_for_and_does_the_rest() {
    let world = World::start(stack).await;
    let (owner, config) = world.database(Role::Owner).await;
    owner
        .batch_execute(
            "create table big (id int primary key, body text) with (autovacuum_enabled = false);
             insert into big select n, repeat('x', 200) from generate_series(1, 300000) n;
             create table small (id int primary key, body text) with (autovacuum_enabled = false);
             insert into small select n, 'x' from generate_series(1, 20000) n;
             delete from small where id % 2 = 0; delete from big where id % 3 = 0;
             create table held (id int primary key) with (autovacuum_enabled = false);
             insert into held select generate_series(1, 20000); delete from held where id % 2 = 0;
             create table airy (id int primary key) with (autovacuum_enabled = false);
             insert into airy select generate_series(1, 200000); delete from airy where id > 1000",
        )
        .await
        .unwrap();
    let (mover, _) = world.database(Role::Mover).await;
    mover.batch_execute("select pg_create_logical_replication_slot('forgotten', 'pgoutput')").await.unwrap();
    let plan = async || world.json(&["db", "maintain", "--cell", "shared-1", "--dry-run"])[0].clone();
    let named = |plan: &Value| -> Vec<String> {
        let tables = plan["tables"].as_array().unwrap();
        tables.iter().map(|it| it["table"].as_str().unwrap().to_owned()).collect()
    };
    wait_until("the figures are there", plan, |plan| named(plan).len() == 4).await;
    let seen = plan().await;
    let slots = seen["slots"].as_array().unwrap();
    // Whose it is only people know: a reader that is away for a moment would lose its place.
    assert!(slots.iter().any(|it| it["slot"] == "forgotten" && it["remedy"].is_null()), "{seen}");
    mover.batch_execute("select pg_drop_replication_slot('forgotten')").await.unwrap();

    // One table is held by somebody, and one is wanted by somebody while it is worked on.
    let holder = config.connect(NoTls).await.unwrap();
    tokio::spawn(holder.1);
    holder.0.batch_execute("begin; lock table held in share update exclusive mode").await.unwrap();
    let wanting = {
        let (watcher, altering) = (config.connect(NoTls).await.unwrap(), config.connect(NoTls).await.unwrap());
        tokio::spawn(watcher.1);
        tokio::spawn(altering.1);
        tokio::spawn(async move {
            let at_work = "select exists (select from pg_stat_progress_vacuum where relid = 'big'::regclass)";
            let until = Instant::now() + Duration::from_mins(1);
            while !watcher.0.query_one(at_work, &[]).await.unwrap().get::<_, bool>(0) {
                assert!(Instant::now() < until, "nobody vacuums it");
            }
            let begun = Instant::now();
            altering.0.batch_execute("alter table big add column more int").await.unwrap();
            begun.elapsed()
        })
    };
    let (code, out, error) = world.berth(&["db", "maintain", "--cell", "shared-1", "--reindex"]);
    assert_eq!(code, 0, "{out}{error}");
    let waited = wanting.await.unwrap();
    assert!(waited < Duration::from_secs(2), "a neighbour waited for {waited:?}");
    assert!(out.contains("big: somebody waited for the table"), "{out}");
    assert!(out.contains("held: others did not let go of the table in time"), "{out}");
    assert!(out.contains("2 tables vacuumed and analysed"), "{out}");
    let index: i64 = owner.query_one("select pg_relation_size('airy_pkey')", &[]).await.unwrap().get(0);
    assert!(index < 1 << 20, "airy_pkey still has {index} bytes");

    a_session_that_waits_is_shown(&world, &config, &holder.0).await;
    holder.0.batch_execute("rollback").await.unwrap();
    wait_until("the figures are there", plan, |plan| named(plan).len() == 2).await;
    let (code, out, error) = world.berth(&["db", "maintain"]);
    assert!(code == 0 && out.contains("2 tables vacuumed and analysed"), "{out}{error}");
    wait_until("nothing needs it any more", plan, |plan| named(plan).is_empty()).await;
    let left = "select count(*) from pg_index where not indisvalid";
    assert_eq!(owner.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Somebody waits for what `holder` holds: both are shown, and nothing of the values in a statement.
async fn a_session_that_waits_is_shown(
    world: &World,
    config: &tokio_postgres::Config,
    holder: &tokio_postgres::Client,
) {
    const VALUE: &str = "planted-in-a-statement";
    let (waiter, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let pid = async |client: &tokio_postgres::Client| -> i32 {
        client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let (holds, waits) = (pid(holder).await, pid(&waiter).await);
    let cancel = waiter.cancel_token();
    let statement = format!("comment on table held is '{VALUE}'");
    let waiting = tokio::spawn(async move { waiter.batch_execute(&statement).await });
    let top = async || world.json(&["db", "top", "shared-1"]);
    let of = |top: &Value, pid: i32| {
        let sessions = top["statements"].as_array().unwrap();
        sessions.iter().find(|one| one["pid"] == pid).cloned().unwrap_or_default()
    };
    let is_blocked = |top: &Value| of(top, waits)["blocked_by"] == json!([holds]);
    let seen = wait_until("it is shown who waits for whom", top, is_blocked).await;
    assert_eq!(of(&seen, holds)["state"], "idle in transaction", "{seen}");
    assert_eq!(of(&seen, waits)["statement"], "comment on table held is ?", "{seen}");
    assert!(!seen.to_string().contains(VALUE), "{seen}");
    let (code, out, error) = world.berth(&["db", "top", "shared-1"]);
    assert_eq!(code, 0, "{error}");
    let line = out.lines().find(|line| line.starts_with(&format!("{waits} "))).unwrap_or_default();
    assert!(line.contains(&format!("locks of {holds}")) && !out.contains(VALUE), "{out}");
    cancel.cancel_query(NoTls).await.unwrap();
    assert!(waiting.await.unwrap().is_err(), "it waited for nobody");
}

/// What `pg_dump` writes of the cell's database, in a format.
fn dumped(config: &tokio_postgres::Config, format: &str, to: &Path) {
    let Some(tokio_postgres::config::Host::Tcp(host)) = config.get_hosts().first() else { panic!("a TCP host") };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let done = Command::new("pg_dump")
        .args(["--format", format, "--exclude-schema", "berth*", "--file"])
        .arg(to)
        .env("PGHOST", host)
        .env("PGPORT", config.get_ports()[0].to_string())
        .env("PGUSER", config.get_user().unwrap())
        .env("PGPASSWORD", text(config.get_password().unwrap()))
        .env("PGDATABASE", config.get_dbname().unwrap())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_comes_out_of_a_dump_whole_or_not_at_all() {
    let world = World::start(stack).await;
    for name in ["acme", "nova"] {
        world.served(name).await;
    }
    let (owner, _) = world.database(Role::Mover).await;
    owner
        .batch_execute(
            "insert into vehicles (customer_id, name, vehicle_identifier)
             select c.id, 'v' || n, c.slug || n from customers c, generate_series(1, 500) n",
        )
        .await
        .unwrap();
    let (_, config) = world.database(Role::Mover).await;
    let at = |name: &str| world.place.dir.join(name);
    for (format, name) in [("custom", "all.dump"), ("directory", "all.d"), ("plain", "all.sql")] {
        dumped(&config, format, &at(name));
    }
    let key: String = owner.query_one("select id::text from customers where slug = 'acme'", &[]).await.unwrap().get(0);
    let work = at("work");
    fs::create_dir(&work).unwrap();
    let import = |dump: &PathBuf, more: &[&str]| {
        let words =
            ["import", dump.to_str().unwrap(), "--name", "acme-2", "--plan", "hobby", "--work", work.to_str().unwrap()];
        let done = world.berth(&[&words[..], more].concat());
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "something stayed of the scratch database");
        done
    };

    let (code, _, error) = import(&at("all.dump"), &[]);
    assert!(code == 1 && error.contains("more than one tenant") && error.contains(&key), "{error}");
    let (code, _, error) = import(&at("all.dump"), &["--tenant", "nobody"]);
    assert!(code == 1 && error.contains("no row of"), "{error}");
    let (code, _, error) = import(&at("all.dump"), &["--tenant", &key]);
    assert!(code == 1 && error.contains(&key), "the tenant is there already: {error}");

    let erased = world.berth(&["tenant", "erase", "acme"]);
    assert_eq!(erased.0, 0, "{}{}", erased.1, erased.2);
    let whole = fs::read(at("all.dump")).unwrap();
    fs::write(at("cut.dump"), &whole[..whole.len() * 2 / 3]).unwrap();
    let (code, _, error) = import(&at("cut.dump"), &["--tenant", &key]);
    assert!(code == 1 && error.contains("the dump"), "{error}");
    let script = fs::read_to_string(at("all.sql")).unwrap();
    fs::write(at("cut.sql"), &script[..script.len() / 2]).unwrap();
    let (code, _, error) = import(&at("cut.sql"), &["--tenant", &key]);
    assert!(code == 1 && error.contains("was cut off"), "{error}");
    let other = script.replace(
        "-- PostgreSQL database dump complete",
        "ALTER TABLE public.vehicles ADD COLUMN colour text;\n-- PostgreSQL database dump complete",
    );
    fs::write(at("other.sql"), other).unwrap();
    let (code, _, error) = import(&at("other.sql"), &["--tenant", &key]);
    for word in ["table `vehicles` differs", "`colour`", "run the missing release's migration"] {
        assert!(code == 1 && error.contains(word), "{word}: {error}");
    }

    let marker = at("marker");
    let command = format!("  select 1; \\! touch {}\n-- PostgreSQL database dump complete", marker.display());
    fs::write(at("hostile.sql"), script.replace("-- PostgreSQL database dump complete", &command)).unwrap();
    let (code, _, error) = import(&at("hostile.sql"), &["--tenant", &key]);
    assert!(code == 1 && error.contains("has a command for `psql`") && error.contains("select 1; \\!"), "{error}");
    assert!(!marker.exists(), "a command of the dump was run");

    for dump in ["all.dump", "all.d", "all.sql"] {
        let (code, out, error) = import(&at(dump), &["--tenant", &key, "--dry-run"]);
        assert!(code == 0 && out.contains(&key) && out.contains("shared-1"), "{dump}: {out}{error}");
    }
    let tenants = async || {
        world.client.tenants(None).await.unwrap().into_iter().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(tenants().await, ["nova"]);
    let (code, out, error) = import(&at("all.dump"), &["--tenant", &key, "--host", "acme-2.test"]);
    assert_eq!(code, 0, "{out}{error}");
    let count = "select count(*) from vehicles where customer_id::text = $1";
    assert_eq!(owner.query_one(count, &[&key]).await.unwrap().get::<_, i64>(0), 500);
    let served =
        || async { ask(world.edge.port(), "acme-2.test", "GET", "/api/v1/vehicles", "").map(|(status, _)| status) };
    wait_until("the edge serves the tenant", served, |status| *status == Some(200)).await;
    let (code, _, error) = import(&at("all.dump"), &["--tenant", &key]);
    assert!(code == 1 && error.contains("acme-2"), "a second time it is there: {error}");
}
