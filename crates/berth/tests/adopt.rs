//! An application that knows nothing of Berth is taken in as it runs, and a tenant of it is moved and moved back under
//! load, with the commands that people type: no request fails, no row is lost, no job is done twice.
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_infra::Role;
use berth_testkit::{TestPg, free_port, wait_until};
use running::{BERTH, Place, ask};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const NORTH: &str = "north.desk.test";
const SOUTH: &str = "south.desk.test";
/// Two organizations, users who are members of both, 100,000 rows in all.
const ROWS: &str = "
    insert into organizations (subdomain, name) values ('north', 'N'), ('south', 'S');
    insert into users (email) select 'u' || n || '@example.com' from generate_series(1, 500) n;
    insert into memberships select 1 + n % 2, 1 + n / 2 from generate_series(0, 999) n;
    insert into tickets (organization_id, author_id, title)
        select 1 + n % 2, (select user_id from memberships m where m.organization_id = 1 + n % 2 order by user_id offset n % 400 limit 1), 'old ' || n
        from generate_series(1, 30000) n;
    insert into comments (ticket_id, body) select id, repeat('c', 20) from tickets, generate_series(1, 2);
    insert into jobs (organization_id, ticket_id, done_at) select organization_id, id, now() from tickets where id % 4 = 0;
    insert into deliveries (organization_id, ticket_id) select organization_id, ticket_id from jobs;
    analyze;";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The application's program; Cargo builds it beside the tests.
fn desk() -> PathBuf {
    Path::new(BERTH).with_file_name("examples").join("desk")
}

/// The application, and Berth beside it.
struct World {
    place: Place,
    pg: TestPg,
}

impl World {
    /// The foreign application, as it runs before anybody thinks of Berth.
    async fn new() -> (Self, u16) {
        let pg = TestPg::new().await;
        let mut world = Self { place: Place::new(), pg };
        let owner = world.pg.cell().url(Role::Owner);
        let migrated = Command::new(desk()).arg("migrate").env("DATABASE_URL", owner.expose_secret()).status().unwrap();
        assert!(migrated.success());
        world.pg.connect(Role::Mover).await.batch_execute(ROWS).await.unwrap();
        let port = free_port();
        let database = world.pg.cell().url(Role::App).expose_secret().to_owned();
        let port_text = port.to_string();
        let files = world.place.dir.join("files").to_string_lossy().into_owned();
        let env = [("DATABASE_URL", database.as_str()), ("PORT", &port_text), ("FILES_DIR", &files)];
        world.place.start("desk-serve", desk(), &["serve"], &env);
        world.place.start("desk-worker", desk(), &["worker"], &env);
        let look = async || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("the application listens", look, |up| *up).await;
        (world, port)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.place.berth(arguments).env("BERTH_FROM_PASSWORD", self.password()).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> Value {
        let whole: Vec<&str> = ["--json", "--yes"].iter().chain(arguments).copied().collect();
        let done = self.run(&whole);
        assert!(
            done.status.success(),
            "{arguments:?}: {}{}\n{}",
            text(&done.stdout),
            text(&done.stderr),
            self.place.log("serve")
        );
        serde_json::from_slice(done.stdout.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).unwrap()).unwrap()
    }

    fn password(&self) -> String {
        self.pg.cell().login(Role::Mover).password.expose_secret().to_owned()
    }

    async fn edge(&mut self) -> u16 {
        let port = self.place.edge("edge-1").port();
        let look = async || ask(port, NORTH, "GET", "/up", "").unwrap_or_default().0;
        wait_until("the edge routes to the application", look, |status| *status == 200).await;
        port
    }
}

/// Tickets opened until it is told to stop: what was acknowledged, by title, and what failed.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    opened: Arc<Mutex<BTreeMap<String, (String, i64)>>>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn start(edge: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, failed) = (Arc::new(Mutex::default()), Arc::new(Mutex::new(Vec::new())));
        let mut threads = Vec::new();
        for (host, who) in [(NORTH, "n1"), (NORTH, "n2"), (SOUTH, "s1"), (SOUTH, "s2")] {
            let (stop, opened, failed) = (stop.clone(), Arc::clone(&opened), Arc::clone(&failed));
            threads.push(thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let title = format!("{who} {n}");
                    let put = ask(edge, host, "POST", "/tickets", &title);
                    match put {
                        Some((200, id)) => {
                            let whose: &mut BTreeMap<String, (String, i64)> = &mut opened.lock().unwrap();
                            whose.insert(title.clone(), (host.to_owned(), id.parse().unwrap()));
                        }
                        other => failed.lock().unwrap().push(format!("POST {title}: {other:?}")),
                    }
                    match ask(edge, host, "GET", "/tickets", "") {
                        Some((200, _)) => {}
                        other => failed.lock().unwrap().push(format!("GET after {title}: {other:?}")),
                    }
                    thread::sleep(Duration::from_millis(15));
                }
            }));
        }
        Self { stop, threads, opened, failed }
    }

    fn count(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    fn end(self) -> (BTreeMap<String, (String, i64)>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (Arc::into_inner(self.opened).unwrap().into_inner().unwrap(), self.failed.lock().unwrap().clone())
    }
}

/// The stack file that `init` wrote, with its questions answered.
fn answered(file: &str, dir: &Path) -> String {
    let program = Value::from(desk().to_string_lossy()).to_string();
    let cells = Value::from(dir.join("cells").to_string_lossy()).to_string();
    let files = Value::from(dir.join("files").to_string_lossy()).to_string();
    let env = format!("env: {{ FILES_DIR: {files} }}");
    let mut file = file.to_owned();
    for (asked, answer) in [
        ("command: [./start-web]", format!("command: [{program}, serve]\n    {env}")),
        ("# migrate: [./migrate]", format!("migrate: [{program}, migrate]")),
        (
            "# worker: { command: [./start-worker], role: worker }",
            format!("worker: {{ command: [{program}, worker], role: worker, {env} }}"),
        ),
        ("# hooks:", "shared: [users]\n  leave_out: [schema_migrations]\n  # hooks:".to_owned()),
        ("local: { adapter: local }", format!("local: {{ adapter: local, root: {cells}, stop_grace_ms: 2000 }}")),
    ] {
        assert!(file.contains(asked), "{asked}\n{file}");
        file = file.replace(asked, &answer);
    }
    file
}

/// South leaves as a file, is erased, and comes in again with the same rows; north is not touched.
async fn leaves_and_comes_back(world: &mut World, client: &tokio_postgres::Client, edge: u16) {
    let of = async |organization: i32| -> Vec<String> {
        let sql = "select 'o' || o::text from organizations o where id = $1
             union all select 'm' || m::text from memberships m where organization_id = $1
             union all select 't' || t::text from tickets t where organization_id = $1
             union all select 'c' || c::text from comments c join tickets t on t.id = ticket_id where organization_id = $1
             union all select 'j' || j::text from jobs j where organization_id = $1
             union all select 'd' || d::text from deliveries d where organization_id = $1 order by 1";
        client.query(sql, &[&organization]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let (north, south) = (of(1).await, of(2).await);
    let brought = world.good(&["tenant", "export", "2", "--to", "south.tar"]);
    assert_eq!(brought["rows"].as_u64().unwrap() as usize, south.len());
    let packed = fs::read(world.place.dir.join("south.tar")).unwrap();
    no_secret_is_in_an_archive(world, "south.tar");
    // A disk that takes no byte more: nothing of the rows stays beside a file, and the next try is not in its own way.
    let like = world.place.berth(&[]);
    for (words, named) in [
        ("export 2 --to full.tar", "full.tar"),
        ("export 2 --to full", "full"),
        ("import south.tar --name south --plan standard --cell existing-1", "south.tar."),
    ] {
        let script = format!("ulimit -f 0; trap '' XFSZ; exec \"$0\" --yes tenant {words}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, BERTH]).current_dir(&world.place.dir);
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let full = command.output().unwrap();
        assert!(!full.status.success(), "{words}");
        for word in [named, "cannot be written", "is there room on its disk"] {
            assert!(text(&full.stderr).contains(word), "{words}: {}", text(&full.stderr));
        }
    }
    fs::remove_dir_all(world.place.dir.join("full")).unwrap();
    let left = fs::read_dir(&world.place.dir).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    let left: Vec<_> = left.iter().filter(|it| it.starts_with("full") || it.starts_with("south.tar.")).collect();
    assert!(left.is_empty(), "{left:?}");
    let again = world.run(&["tenant", "export", "2", "--to", "south.tar"]);
    assert!(text(&again.stderr).contains("is there already"), "{}", text(&again.stderr));
    let into = ["tenant", "import", "south.tar", "--name", "south", "--plan", "standard", "--cell", "existing-1"];
    let there = world.run(&into);
    assert!(text(&there.stderr).contains("belongs to another tenant"), "{}", text(&there.stderr));

    let nobody = world.run(&["tenant", "erase", "2"]);
    assert_eq!(nobody.status.code(), Some(1), "nobody typed its name");
    let planned = world.good(&["tenant", "erase", "2", "--dry-run"]);
    let erased = world.good(&["tenant", "erase", "2"]);
    assert_eq!(erased["erased"][0], planned["erased"][0], "{planned} {erased}");
    assert!(of(2).await.is_empty() && of(1).await == north);
    assert_ne!(ask(edge, SOUTH, "GET", "/tickets", "").unwrap().0, 200);
    assert!(world.good(&["tenant", "erasures"])[0]["operation"].is_string());

    fs::write(world.place.dir.join("cut.tar"), &packed[..packed.len() / 2]).unwrap();
    let cut = world.run(&["tenant", "import", "cut.tar", "--name", "south", "--plan", "standard"]);
    assert!(
        text(&cut.stderr).contains("cut off") && text(&cut.stderr).contains("bring it again"),
        "{}",
        text(&cut.stderr)
    );
    let whole: Vec<&str> = into.into_iter().chain(["--host", SOUTH]).collect();
    world.good(&whole);
    assert_eq!(of(2).await, south, "every row is back");
    let look = async || ask(edge, SOUTH, "GET", "/tickets", "").unwrap_or_default().0;
    wait_until("the edge routes to it again", look, |status| *status == 200).await;
    assert_eq!(ask(edge, SOUTH, "POST", "/tickets", "after").unwrap().0, 200, "numbers go on");
    let uploads = fs::read_dir(world.place.dir.join("serve/archives/uploads")).into_iter().flatten().flatten();
    let left = uploads.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().count();
    assert_eq!(left, 0, "what was uploaded is not kept");
}

/// Looked for in what is in the archive's files: compressed, no secret would be found in them.
fn no_secret_is_in_an_archive(world: &World, name: &str) {
    if Command::new("zstd").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("left out: secrets in an archive, since `zstd` is not installed to read it");
        return;
    }
    let script =
        "set -e; mkdir unpacked; tar -C unpacked -xf \"$0\"; cat unpacked/manifest.json; zstd -dcq unpacked/*.zst";
    let seen = Command::new("sh").args(["-c", script, name]).current_dir(&world.place.dir).output().unwrap();
    let said = text(&seen.stdout);
    assert!(seen.status.success() && said.contains("south"), "the tenant is in its archive: {}", text(&seen.stderr));
    for secret in [world.password(), world.place.key.clone()] {
        assert!(!said.contains(&secret), "a secret is in the archive");
    }
}

/// No process that runs now was started with a secret as an argument.
fn no_secret_is_in_a_process_list(world: &World) {
    let secrets = [world.password(), world.place.key.clone()];
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read_to_string(process.path().join("cmdline")) else { continue };
        assert!(
            secrets.iter().all(|secret| !line.contains(secret)),
            "a secret is an argument of {}",
            process.path().display()
        );
    }
}

/// The key comes from standard input, is tried at once, and is kept where nobody else reads it.
fn a_login_is_kept(world: &World) {
    let home = world.place.dir.join("home");
    let run = |arguments: &[&str], key: &str| {
        let mut command = Command::new(BERTH);
        command.args(arguments).env_remove("BERTH_URL").env_remove("BERTH_API_KEY").env_remove("XDG_CONFIG_HOME");
        command.env("HOME", &home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = run(&["login", &world.place.url], "bk_nobody");
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stderr));
    assert!(!home.join(".config/berth/contexts.json").exists(), "what is refused is not kept");
    let kept = run(&["login", &world.place.url, "--name", "here"], &format!("{}\n", world.place.key));
    assert!(kept.status.success() && !text(&kept.stdout).contains(&world.place.key), "{}", text(&kept.stderr));
    assert!(run(&["tenant", "list"], "").status.success());
    let listed = text(&run(&["context", "list", "--json"], "").stdout);
    assert!(listed.contains("here") && !listed.contains(&world.place.key), "{listed}");
    assert!(run(&["context", "remove", "here"], "").status.success());
    assert!(!fs::read_to_string(home.join(".config/berth/contexts.json")).unwrap().contains(&world.place.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_application_is_adopted_and_a_tenant_moves_and_comes_back_under_load() {
    let (mut world, port) = World::new().await;
    let app = format!("http://127.0.0.1:{port}");
    let whole = world.pg.cell().url(Role::Mover).expose_secret().to_owned();
    let from = whole.replacen(&format!(":{}@", world.password()), "@", 1);
    world.good(&["init", "--from", &from, "--app", &app]);
    let path = world.place.dir.join("berth.yaml");
    let file = answered(&fs::read_to_string(&path).unwrap(), &world.place.dir);
    fs::write(&path, &file).unwrap();

    world.place.serve().await;
    world.good(&["apply"]);
    let secret = world.place.dir.join("connection");
    fs::write(&secret, "postgres://nobody:wrong@127.0.0.1:1/app").unwrap();
    let refused = world.run(&["cell", "add", "existing-1", "--endpoint", &app, "--database-file", "connection"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("existing-1"), "{}", text(&refused.stderr));
    fs::write(&secret, format!("{whole}\n")).unwrap();
    world.good(&["cell", "add", "existing-1", "--endpoint", &app, "--database-file", "connection"]);
    let abilities = world.good(&["cell", "abilities", "existing-1"]);
    let can: BTreeMap<&str, bool> = abilities["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["ability"].as_str().unwrap(), item["can"].as_bool().unwrap()))
        .collect();
    assert!(can["reads_changes"] && can["makes_fences"] && can["serves"] && !can["is_run_by_berth"], "{can:?}");

    let report = world.good(&["tenant", "sync", "--cell", "existing-1", "--take-in", "standard"]);
    assert_eq!(report["taken_in"], 2, "{report}");
    world.good(&["tenant", "hosts", "1", "--add", NORTH]);
    world.good(&["tenant", "hosts", "2", "--add", SOUTH]);
    let edge = world.edge().await;
    assert_eq!(ask(edge, NORTH, "PUT", "/files/logo", "north's").unwrap().0, 200);

    let load = Load::start(edge);
    let more = async |than: usize| wait_until("traffic flows", async || load.count(), |n| *n > than + 100).await;
    more(0).await;
    world.good(&["cell", "create", "own-1", "--class", "shared", "--provider", "local"]);
    world.good(&["tenant", "move", "1", "--to", "own-1"]);
    let moved = world.good(&["tenant", "show", "1"]);
    assert_eq!(moved["cell"], "own-1", "{moved}");
    more(load.count()).await;
    assert_eq!(ask(edge, NORTH, "GET", "/files/logo", "").unwrap(), (200, "north's".to_owned()));
    world.good(&["tenant", "undo-move", "1"]);
    assert_eq!(world.good(&["tenant", "show", "1"])["cell"], "existing-1");
    more(load.count()).await;
    let (opened, failed) = load.end();
    assert!(failed.is_empty(), "{} failed, the first: {}", failed.len(), failed[0]);

    // Everything is back where it began: read there, past Berth and the application.
    let client = world.pg.connect(Role::Mover).await;
    let open = "select count(*) from jobs where done_at is null";
    let look = async || client.query_one(open, &[]).await.unwrap().get::<_, i64>(0);
    wait_until("the worker is through", look, |open| *open == 0).await;
    let sql = "select t.title, t.id, o.subdomain || '.desk.test',
                      (select count(*) from deliveries d where d.ticket_id = t.id and d.organization_id = t.organization_id),
                      (select count(*) from comments c where c.ticket_id = t.id)
               from tickets t join organizations o on o.id = t.organization_id where t.title not like 'old %'";
    let mut found = BTreeMap::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let title: String = row.get(0);
        assert_eq!(
            (row.get::<_, i64>(3), row.get::<_, i64>(4)),
            (1, 1),
            "`{title}` was delivered or commented more or less than once"
        );
        assert!(
            found.insert(title, (row.get::<_, String>(2), row.get::<_, i64>(1))).is_none(),
            "a ticket is there twice"
        );
    }
    assert_eq!(found.len(), opened.len());
    assert!(found == opened, "what was acknowledged is not what is there");
    let old: i64 = client.query_one("select count(*) from tickets where title like 'old %'", &[]).await.unwrap().get(0);
    assert_eq!(old, 30_000);

    no_secret_is_in_a_process_list(&world);
    leaves_and_comes_back(&mut world, &client, edge).await;
    a_login_is_kept(&world);

    for log in ["serve", "edge"] {
        assert!(!world.place.log(log).contains(&world.password()), "the password stands in the log of `{log}`");
    }
    assert!(!text(&world.run(&["audit"]).stdout).contains(&world.password()));
    // It is forgotten, not removed: whoever runs it notices nothing.
    let refused = world.run(&["--yes", "cell", "remove", "existing-1"]);
    assert_eq!(refused.status.code(), Some(1), "it still has tenants");
}
