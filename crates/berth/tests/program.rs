//! The program as a person starts it: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_testkit::wait_until;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};
use uuid::Uuid;

const BERTH: &str = env!("CARGO_BIN_EXE_berth");

fn berth(words: &[&str]) -> Command {
    let mut command = Command::new(BERTH);
    command.args(words).env_remove("BERTH_API_KEY").env_remove("DATABASE_URL").stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server with a private Postgres, gone with this, also when the test is killed.
struct Served {
    dir: PathBuf,
    child: Child,
    url: String,
    key: String,
}

impl Served {
    #[expect(clippy::zombie_processes, reason = "the janitor is there to outlive us")]
    async fn start() -> Self {
        let dir = PathBuf::from(format!("/tmp/berth-test-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(dir.join("postgres")).unwrap();
        let own = std::process::id().to_string();
        berth(&["janitor", "--delete", "--owner", &own, "--root"])
            .arg(dir.join("postgres"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = berth(&["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .stderr(log)
            .spawn()
            .unwrap();
        let look = || async { fs::read_to_string(dir.join("log")).unwrap_or_default() };
        let log = wait_until("the server listens", look, |log: &String| log.contains("serving on http://")).await;
        let url = log.split("serving on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let key = fs::read_to_string(dir.join("admin.key")).unwrap().trim().to_owned();
        Self { dir, child, url, key }
    }

    fn run(&self, words: &[&str]) -> Output {
        berth(words).env("BERTH_URL", &self.url).env("BERTH_API_KEY", &self.key).output().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already, as one test asks it to.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = berth_providers::local::end_all(&self.dir.join("postgres"), berth_providers::local::Afterwards::Delete);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn alone_it_prints_what_it_can_do() {
    let done = berth(&[]).output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty());
    assert!(text(&done.stdout).starts_with("berth: runs one SaaS"));
}

#[test]
fn a_typing_mistake_is_the_callers_and_goes_to_stderr() {
    let done = berth(&["tenant", "mvoe"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty() && !done.stderr.is_empty());
}

#[test]
fn no_server_is_not_the_callers_fault() {
    let done = berth(&["status", "--url", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(done.status.code(), Some(2), "{}", text(&done.stderr));
    assert!(text(&done.stderr).starts_with("error: no server answers at http://127.0.0.1:1\n"));
    assert!(text(&done.stderr).contains("hint: start one with `berth serve`"));
}

#[test]
fn completions_name_the_commands() {
    let done = berth(&["completions", "bash"]).output().unwrap();
    assert!(done.status.success());
    assert!(text(&done.stdout).contains("plan-move"));
}

#[tokio::test]
async fn a_server_starts_with_nothing_set_up_and_stops_when_told() {
    let mut served = Served::start().await;
    assert!(served.log().contains(&served.key), "the first key is shown where it is made");
    let mode = fs::metadata(served.dir.join("admin.key")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "and only its owner reads it afterwards");

    let status = served.run(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stderr));
    let overview: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(overview["tenants"]["total"], 0);
    let empty = served.run(&["tenant", "list"]);
    assert!(text(&empty.stdout).starts_with("No tenants yet: `berth tenant create"));
    let nobody = served.run(&["tenant", "show", "nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).starts_with("error: there is no tenant `nobody`\nhint: "), "{}", text(&nobody.stderr));
    let made = served.run(&["key", "create", "ci", "--scope", "read"]);
    assert!(text(&made.stdout).starts_with("bk_"), "the key alone is data");
    assert!(text(&made.stderr).contains("only time"), "what is said about it is talk");

    // Another server in the same folder would stop this one's Postgres under it.
    let second = berth(&["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir"])
        .arg(&served.dir)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another `berth serve` uses"), "{}", text(&second.stderr));

    let pid = rustix::process::Pid::from_child(&served.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = served.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", served.log());
    assert!(served.log().contains("stopped"), "{}", served.log());
    assert!(!served.log().contains("ERROR") && !served.log().contains("WARN"), "{}", served.log());
}

#[tokio::test]
async fn a_stack_with_mistakes_is_refused_with_all_of_them_and_a_change_asks_first() {
    let served = Served::start().await;
    let file = served.dir.join("berth.yaml");
    fs::write(&file, "stack: Fleet\nservces: {}\n").unwrap();
    let path = file.to_str().unwrap();
    let wrong = served.run(&["apply", "--file", path]);
    assert_eq!(wrong.status.code(), Some(1));
    for mistake in ["servces", "Fleet", "services"] {
        assert!(text(&wrong.stderr).contains(mistake), "{mistake}: {}", text(&wrong.stderr));
    }

    let good = "stack: fleet\nservices: { web: { command: [./web], health: /health } }\n\
                plans: { starter: { price: 49.00, class: shared } }\nproviders: { here: { adapter: local, root: ROOT } }\n";
    fs::write(&file, good.replace("ROOT", served.dir.join("cells").to_str().unwrap())).unwrap();
    let asked = served.run(&["apply", "--file", path]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(text(&asked.stderr).contains("no terminal to ask at"), "{}", text(&asked.stderr));
    let shown = served.run(&["apply", "--file", path, "--dry-run"]);
    assert!(text(&shown.stdout).contains("+ plans.starter"), "{}", text(&shown.stdout));
    assert!(text(&served.run(&["plan", "list"]).stdout).starts_with("No plans yet"), "nothing was changed so far");

    let applied = served.run(&["apply", "--file", path, "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied.stderr));
    assert!(text(&applied.stdout).contains("Revision 1 is in force"), "{}", text(&applied.stdout));
    assert!(text(&served.run(&["plan", "list"]).stdout).contains("starter"));
    let again = served.run(&["apply", "--file", path, "--yes"]);
    assert!(text(&again.stdout).contains("Nothing differs from revision 1."), "{}", text(&again.stdout));
    assert!(text(&served.run(&["audit"]).stdout).contains("stack.apply"));
}
