//! `berth upgrade`: what is refused and planned, against a real server and edge; and both brought to another program, and
//! back, on a server that the test makes, while it is asked all the time.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;
mod running;

use berth_domain::Version;
#[cfg(debug_assertions)]
use berth_infra::Role;
#[cfg(debug_assertions)]
use berth_testkit::TestDatabase;
use berth_testkit::wait_until;
#[cfg(debug_assertions)]
use berth_wire::ProcessRole;
use machines::{Desk, Machine, fleet, text};
use running::Place;
#[cfg(debug_assertions)]
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

fn answer(out: &Output) -> Value {
    let said = format!("{}\n{}", text(&out.stdout), text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// A program that says this of itself, and can do nothing else.
fn claiming(path: &Path, about: &Value) -> PathBuf {
    let script =
        format!("#!/bin/sh\ncase \"$1\" in version) echo '{about}';; *) echo broken-on-purpose >&2; exit 7;; esac\n");
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// Status and head of one answer, on a connection of its own.
fn head(at: &str, host: &str, path: &str) -> Option<(u16, String)> {
    let address = at.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, _) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, head.to_ascii_lowercase()))
}

/// The version with another minor number.
fn later(by: u32) -> String {
    let own = Version::own().to_string();
    let parts: Vec<u32> = own.split('.').map(|part| part.split('-').next().unwrap().parse().unwrap()).collect();
    format!("{}.{}.0", parts[0], parts[1] + by)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_names_what_runs_and_refuses_what_is_not_adjacent() {
    let mut place = Place::new();
    place.serve().await;
    place.edge("fra-1");
    let own = Version::own().to_string();
    let client = place.client();
    let look = async || client.edges().await.unwrap();
    // What it acknowledges may be heard before it has opened the stream on which it says its version.
    let said = |edges: &Vec<berth_wire::EdgeView>| edges.iter().any(|edge| edge.version == Some(Version::own()));
    wait_until("the edge says its version", look, said).await;
    let at = place.url.trim_start_matches("http://").to_owned();
    // Also to who has no key.
    let (status, said) = head(&at, &at, "/v1/status").unwrap();
    assert!(status == 401 && said.contains(&format!("\r\nberth-version: {own}\r\n")), "{said}");
    let now = client.upgrade().await.unwrap();
    assert_eq!(now.processes.len(), 2, "{now:?}");
    assert!(now.processes.iter().all(|it| it.alive && it.version == Some(Version::own())) && now.waiting.is_empty());
    assert_eq!(client.upgrade_finish().await.unwrap(), now, "there is nothing to finish");

    let upgrade = |words: &[&str]| place.berth(&[&["upgrade"], words].concat()).output().unwrap();
    let same = upgrade(&["--dry-run"]);
    assert!(same.status.success(), "{}", text(&same.stderr));
    assert_eq!(text(&same.stdout), format!("everything runs {own}; `--again` brings this very program all the same\n"));

    let mut about = answer(&place.berth(&["version", "--json"]).output().unwrap());
    assert_eq!(about["version"], own);
    about["version"] = json!(later(2));
    let far = claiming(&place.dir.join("far"), &about);
    let refused = upgrade(&["--to", far.to_str().unwrap()]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("runs {own}: {own} and {} do not work side by side", later(2))), "{said}");
    assert!(said.contains(&format!("upgrade to {} first", later(1).trim_end_matches(".0"))), "{said}");
    let dry = upgrade(&["--to", far.to_str().unwrap(), "--dry-run", "--json"]);
    assert_eq!((dry.status.code(), answer(&dry)["refused"].as_array().unwrap().len()), (Some(1), 2));

    about["version"] = json!(later(1));
    about["migrations"]
        .as_array_mut()
        .unwrap()
        .extend([json!({"number": 9998, "contracts": true}), json!({"number": 9999})]);
    about["of_a_later_version"] = json!("is passed over");
    let next = claiming(&place.dir.join("next"), &about);
    let dry = upgrade(&["--to", next.to_str().unwrap(), "--dry-run", "--json"]);
    let plan = answer(&dry);
    let steps: Vec<&str> = plan["left"].as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(steps, ["expand", "serve", "edge", "contract"], "{plan}");
    assert_eq!((dry.status.code(), plan["refused"].as_array().unwrap().len()), (Some(0), 0));
    // Of the version that runs, and another build: it is not what runs.
    let mut build = about.clone();
    build["version"] = json!(own);
    let build = claiming(&place.dir.join("build"), &build);
    let other = upgrade(&["--to", build.to_str().unwrap(), "--yes"]);
    let said = text(&other.stderr);
    assert!(other.status.code() == Some(1) && said.contains("as another build, without migration 9999"), "{said}");
    assert!(said.contains("`--again`"), "{said}");
    // Nothing that systemd started: nothing is touched.
    let begun = upgrade(&["--to", next.to_str().unwrap(), "--yes"]);
    assert_eq!(begun.status.code(), Some(1));
    assert!(
        text(&begun.stderr).contains("neither berth-serve nor berth-edge runs as a unit"),
        "{}",
        text(&begun.stderr)
    );

    let none = upgrade(&["--to", "/bin/true", "--dry-run"]);
    assert!(text(&none.stderr).contains("does not say which version of Berth it is"), "{}", text(&none.stderr));
    let shown = text(&place.berth(&["status"]).output().unwrap().stdout);
    assert!(shown.contains(&format!("version     {own}")) && !shown.contains("attention: serve"), "{shown}");
}

/// The second program is this one under the next version's name, with a migration that adds and one that takes away:
/// what builds for tests can be told.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_adjacent_versions_work_side_by_side_until_the_upgrade_is_finished() {
    let control = TestDatabase::new().await;
    let sql = control.connect(Role::Owner).await;
    let database = control.url(Role::Owner);
    let database = database.expose_secret();
    let mut place = Place::new();
    let own = Version::own();
    let next: Version = later(1).parse().unwrap();
    let before = ("9997.sql", "CREATE TABLE used_before (x int)".to_owned());
    let narrower =
        format!("-- berth: contract {next}\nDROP TABLE used_before; UPDATE schema_floor SET migration = 9998;");
    let after = ("9999.sql", "-- berth: expand\nCREATE TABLE used_after (x int)".to_owned());
    let carried = |name: &str, migrations: &[&(&str, String)]| {
        let folder = place.dir.join(name);
        fs::create_dir(&folder).unwrap();
        for (file, text) in migrations {
            fs::write(folder.join(file), text).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    };
    let old_ones = carried("old-migrations", &[&before]);
    let new_ones = carried("new-migrations", &[&before, &("9998.sql", narrower), &after]);
    let said = next.to_string();
    let old_env = [("DATABASE_URL", database), ("BERTH_TEST_MIGRATIONS", old_ones.as_str())];
    let new_env = [
        ("DATABASE_URL", database),
        ("BERTH_TEST_MIGRATIONS", new_ones.as_str()),
        ("BERTH_TEST_VERSION", said.as_str()),
    ];
    let has = async |table: &str| -> bool {
        sql.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await.unwrap().get(0)
    };

    place.url = place.server("serve", &old_env).await;
    place.key = fs::read_to_string(place.dir.join("serve/admin.key")).unwrap().trim().into();
    let old = place.client();
    assert!(has("used_before").await && !has("used_after").await);
    place.url = place.server("next", &new_env).await;
    let new = place.client();
    assert!(has("used_before").await && has("used_after").await, "the new one only adds at its start");

    // Each says its own version, sees both, and an edge of the old version works under the new server.
    place.edge("fra-1");
    for client in [&old, &new] {
        let look = async || {
            let mut seen = client.upgrade().await.unwrap().processes;
            seen.retain(|it| it.alive && it.version.is_some());
            seen.iter().map(|it| (it.role, it.version.clone().unwrap())).collect::<Vec<_>>()
        };
        let all = |seen: &Vec<(ProcessRole, Version)>| {
            let count = |role, version: &Version| seen.iter().filter(|it| it.0 == role && it.1 == *version).count();
            seen.len() == 3
                && count(ProcessRole::Serve, &own) == 1
                && count(ProcessRole::Serve, &next) == 1
                && count(ProcessRole::Edge, &own) == 1
        };
        wait_until("both servers and the edge are seen", look, all).await;
    }
    let (was, is) = (old.upgrade().await.unwrap(), new.upgrade().await.unwrap());
    assert_eq!((was.version, is.version), (own.clone(), next));
    assert_eq!((was.waiting, is.waiting), (Vec::new(), vec![9998]));

    // What one writes the other reads, on the schema that was widened under the old one.
    let file = "stack: shop\nservices:\n  web: { command: [web], role: web, health: /health }\n\
                data: { root: public.customers }\n";
    let apply =
        |file: String| berth_wire::StackApply { file, files: std::collections::BTreeMap::new(), dry_run: false };
    old.stack_apply(&apply(file.to_owned())).await.unwrap();
    assert_eq!(new.status().await.unwrap().stack_revision, Some(1));
    new.stack_apply(&apply(file.replace("/health", "/ready"))).await.unwrap();
    assert_eq!(old.status().await.unwrap().stack_revision, Some(2));

    // The way back is open while anything old runs: the server, then the edge alone.
    let refused = async || format!("{:?}", new.upgrade_finish().await.unwrap_err());
    assert!(refused().await.contains("older_version_runs"));
    assert!(has("used_before").await);
    let mut end = |at: usize| {
        let child = &mut place.children[at];
        assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        child.wait().unwrap();
    };
    end(0);
    let look = async || refused().await;
    wait_until("only the edge is old", look, |said: &String| said.contains("edge `fra-1` still runs")).await;
    end(2);
    let look = async || new.upgrade_finish().await.map_err(|error| error.to_string());
    let finished = wait_until("the upgrade is finished", look, Result::is_ok).await.unwrap();
    assert!(finished.waiting.is_empty() && finished.floor == 9998, "{finished:?}");
    assert!(!has("used_before").await && has("used_after").await);

    // The old program does not start any more, and says from where on it could.
    let data = place.dir.join("serve").to_string_lossy().into_owned();
    let words = ["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir", &data];
    let again = place.berth(&words).envs(old_env).output().unwrap();
    assert!(!again.status.success() && text(&again.stderr).contains("9998"), "{}", text(&again.stderr));
}

/// Asks until told to stop, each time on a connection of its own; counts those that were not served.
struct Asking {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Asking {
    fn start(ip: &str) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = || {
            let (stop, asked, at) = (stop.clone(), asked.clone(), format!("{ip}:80"));
            thread::spawn(move || {
                let mut bad = Vec::new();
                while !stop.load(SeqCst) {
                    match head(&at, "acme.example.com", "/health") {
                        Some((200, _)) => {}
                        other => bad.push(format!("{other:?}")),
                    }
                    asked.fetch_add(1, SeqCst);
                    thread::sleep(Duration::from_millis(5));
                }
                bad
            })
        };
        let threads = vec![one(), one(), one()];
        Self { stop, asked, threads }
    }

    fn ends_well(self) -> u64 {
        self.stop.store(true, SeqCst);
        let bad: Vec<String> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let asked = self.asked.load(SeqCst);
        assert!(bad.is_empty() && asked > 100, "{} of {asked} were not served: {:?}", bad.len(), bad.first());
        asked
    }
}

/// The digest of what a unit runs.
fn runs(server: &Machine, unit: &str) -> String {
    let script = format!("sha256sum </proc/$(systemctl show -p MainPID --value {unit})/exe | cut -d' ' -f1");
    server.sh(&script).trim().to_owned()
}

#[test]
fn serve_and_edge_follow_another_program_while_every_request_is_served_and_go_back_when_it_fails() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(server) = Machine::start(&desk.key()) else { return };
    server.copy(&fleet, "/usr/local/bin/fleet");
    let key = desk.key().to_str().unwrap().to_owned();
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let file = fs::read_to_string(repository.join("examples/fleet/berth.yaml")).unwrap();
    // From another folder, and with room for more requests than a plan gives.
    let file = file.replace("../../apps", &format!("{}/apps", repository.display()));
    let file = file.replace("api: 100,", "api: 1000000,");
    let stack = desk.dir.join("berth.yaml").to_str().unwrap().to_owned();
    fs::write(&stack, file).unwrap();
    let root = format!("root@{}", server.ip);
    let words = ["--json", "--yes", "up", &root, "--key-file", &key, "-f", &stack, "--tenant", "acme"];
    let up = desk.berth(&[&words[..], &["--tenant-host", "acme.example.com"]].concat()).output().unwrap();
    assert!(up.status.success(), "{}", text(&up.stderr));
    let old = runs(&server, "berth-serve");
    assert_eq!(runs(&server, "berth-edge"), old);

    // The same program, but for its digest.
    let mut other = fs::read(desk.dir.join("berth")).unwrap();
    other.extend(b"another build");
    let program = desk.dir.join("another");
    fs::write(&program, other).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (at, program) = (format!("berth-ssh@{}", server.ip), program.to_str().unwrap().to_owned());
    let upgrade = |to: &str, more: &[&str]| {
        let words = ["--yes", "upgrade", &at, "--key-file", &key, "--to", to];
        desk.berth(&[&words[..], more].concat()).output().unwrap()
    };
    let level = upgrade(&program, &[]);
    assert!(level.status.success() && text(&level.stdout).contains("`--again`"), "{}", text(&level.stderr));
    assert_eq!(runs(&server, "berth-serve"), old, "the version runs already");
    let dry = upgrade(&program, &["--again", "--dry-run"]);
    assert!(text(&dry.stdout).contains("berth-serve, then berth-edge"), "{}", text(&dry.stderr));
    assert_eq!(runs(&server, "berth-serve"), old, "a dry run changed something");

    let asking = Asking::start(&server.ip);
    let done = upgrade(&program, &["--again", "--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let new = answer(&done)["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    assert_ne!(new, old);
    assert_eq!((runs(&server, "berth-serve"), runs(&server, "berth-edge")), (new.clone(), new.clone()));
    assert_eq!(server.sh("sha256sum </usr/local/bin/berth.before").split_whitespace().next().unwrap(), old);
    let asked = asking.ends_well();
    eprintln!("{asked} requests while serve and edge followed: {}", text(&done.stderr));

    // One that is of the version, and does not start.
    let about = answer(&desk.berth(&["version", "--json"]).output().unwrap());
    let broken = claiming(&desk.dir.join("broken"), &about);
    let asking = Asking::start(&server.ip);
    let failed = upgrade(broken.to_str().unwrap(), &["--again"]);
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("berth-serve does not start") && said.contains("broken-on-purpose"), "{said}");
    assert!(
        said.contains("is back: berth-serve runs the program before, berth-edge runs the program before"),
        "{said}"
    );
    assert_eq!((runs(&server, "berth-serve"), runs(&server, "berth-edge")), (new.clone(), new.clone()));
    let asked = asking.ends_well();
    eprintln!("{asked} requests while serve failed and came back: {said}");
    let status = server.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:7600/v1/status");
    assert_eq!(status, "401", "the control plane answers");

    // A run that was cut off with that one in place, from which neither unit starts: no control plane can be asked.
    server.copy(&broken, "/opt/broken");
    server.sh(
        "cd /usr/local/bin; sha256sum <berth | cut -d' ' -f1 >berth.begun; install -m 755 /opt/broken berth.next
         ln -f berth berth.before; mv -f berth.next berth; systemctl restart berth-serve; systemctl kill -s KILL berth-edge
         for n in $(seq 300); do systemctl is-failed -q berth-edge && exit 0; sleep 0.1; done; exit 1",
    );
    let other = upgrade(&program, &[]);
    assert!(text(&other.stderr).contains("an upgrade was cut off there"), "{}", text(&other.stderr));
    let dry = upgrade(broken.to_str().unwrap(), &["--dry-run"]);
    assert!(dry.status.success() && text(&dry.stdout).contains("answers nobody"), "{}", text(&dry.stderr));
    let said = text(&upgrade(broken.to_str().unwrap(), &[]).stderr);
    assert!(
        said.contains("does not start: broken-on-purpose")
            && said.contains("is back: berth-serve runs the program before, berth-edge runs the program before"),
        "{said}"
    );
    assert_eq!((runs(&server, "berth-serve"), runs(&server, "berth-edge")), (new.clone(), new));
    server.sh("test ! -e /usr/local/bin/berth.begun");

    server.sh("mv /var/lib/berth/serve/admin.key /opt/");
    let keyless = upgrade(&program, &["--dry-run"]);
    assert_eq!(keyless.status.code(), Some(1));
    assert!(text(&keyless.stderr).contains("hint: set `BERTH_API_KEY`"), "{}", text(&keyless.stderr));
    server.sh("mv /opt/admin.key /var/lib/berth/serve/");

    // And on the server itself, as root; what `berth login` keeps there is of another one.
    server.copy(&desk.dir.join("berth"), "/opt/berth-next");
    let kept = r#"{"current":"far","contexts":{"far":{"url":"http://127.0.0.1:1","key":"bk_none"}}}"#;
    server.sh(&format!("umask 077; mkdir -p /opt/kept/berth; echo '{kept}' >/opt/kept/berth/contexts.json"));
    server.sh("XDG_CONFIG_HOME=/opt/kept /opt/berth-next upgrade --again --yes");
    assert_eq!((runs(&server, "berth-serve"), runs(&server, "berth-edge")), (old.clone(), old));
}
