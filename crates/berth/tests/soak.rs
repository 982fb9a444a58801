//! The demo and the soak as a user starts them: the built programs, real servers, real kills.
//!
//! Never looks inside: what counts is the verdict, the exit status, and that nothing stays behind.
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// The application is another package's program; `scripts/test` builds both.
fn fleet() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_berth")).with_file_name("fleet");
    assert!(path.exists(), "{} is missing: cargo build -p fleet", path.display());
    path
}

/// A folder of the test's own for the demo's folder, open for the `postgres` user.
struct Under(PathBuf);

impl Under {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn demo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["--json", "demo", "--fleet"]).arg(fleet()).arg("--under").arg(&self.0).args(arguments);
        command
    }

    /// Processes whose command line names the folder. Postgres' own children do not, and end with their postmaster.
    fn processes(&self) -> Vec<String> {
        let folder = self.0.to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&folder))
            .collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.0).unwrap().flatten().map(|entry| entry.path()).collect()
    }

    /// Logs of a run that went wrong stay for who reads the failure.
    fn is_left_clean(&self) {
        let clean = || self.processes().is_empty() && self.folders().is_empty();
        wait_for(clean, || format!("{:?} {:?}", self.processes(), self.folders()));
        fs::remove_dir(&self.0).unwrap();
    }
}

fn wait_for(done: impl Fn() -> bool, state: impl Fn() -> String) {
    let until = Instant::now() + Duration::from_mins(2);
    while !done() {
        assert!(Instant::now() < until, "still {}", state());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The last line of stdout.
fn verdict(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{talk}\n{said}", output.status);
    serde_json::from_str(said.lines().last().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}\n{talk}\n{said}"))
}

#[test]
fn twenty_moves_under_faults_have_one_owner_and_lose_and_double_nothing() {
    let under = Under::new("soak");
    let arguments = ["soak", "--moves", "20", "--seed", "1", "--rate", "60", "--tenants", "8", "--rows", "300"];
    let output = under.demo(&arguments).output().unwrap();
    let outcome = verdict(&output);
    let figure = |name: &str| outcome[name].as_u64().unwrap_or_else(|| panic!("no `{name}` in {outcome}"));
    assert_eq!(figure("moves"), 20);
    assert_eq!(figure("moved") + figure("given_up"), 20, "{outcome}");
    for name in ["missing", "duplicated", "stock_damaged", "two_owners", "stuck", "not_back"] {
        assert_eq!(figure(name), 0, "{name} in {outcome}");
    }
    assert!(figure("acknowledged") > 0, "{outcome}");
    // All of 300 positions and more, after each move and of each tenant at each look.
    assert!(figure("rows_checked") > 20 * 300 + 2 * 8 * 300, "{outcome}");
    assert!(figure("faults") >= 18, "{outcome}");
    // How many fall between prepare and keep depends on how fast this machine moves; the soak prints the share.
    assert!(figure("faults_in_window") >= 5, "{outcome}");
    assert!(figure("moved") > 0, "{outcome}");
    under.is_left_clean();
}

/// What the soak looks for, put there on purpose: a judge that cannot fail proves nothing.
#[test]
fn a_planted_violation_of_each_kind_is_found() {
    let under = Under::new("planted");
    let arguments =
        ["soak", "--moves", "3", "--seed", "3", "--rate", "60", "--tenants", "4", "--rows", "300", "--plant"];
    let output = under.demo(&arguments).output().unwrap();
    let (said, talk) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{talk}");
    let outcome: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    for name in ["two_owners", "missing", "duplicated"] {
        assert!(outcome[name].as_u64() > Some(0), "{name} in {outcome}\n{talk}");
    }
    wait_for(|| under.processes().is_empty(), || format!("{:?}", under.processes()));
    fs::remove_dir_all(&under.0).unwrap();
}

#[test]
fn a_quick_demo_is_green_and_leaves_nothing_behind() {
    let under = Under::new("demo");
    let output = under.demo(&["--quick", "--rate", "100"]).output().unwrap();
    let verdict = verdict(&output);
    assert_eq!(verdict["failed"], 0, "{verdict}");
    assert_eq!(verdict["moves"].as_array().map(Vec::len), Some(5), "{verdict}");
    assert_eq!((&verdict["ledger"]["missing"], &verdict["ledger"]["duplicated"]), (&0.into(), &0.into()), "{verdict}");
    under.is_left_clean();
}

#[test]
fn a_demo_that_is_killed_is_cleared_away_by_its_janitor() {
    let under = Under::new("killed");
    let mut demo = Ended(under.demo(&["--quick"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let runs = |name: &str| under.processes().iter().any(|line| line.contains(name));
    wait_for(|| runs(" edge ") && runs("postgres -D"), || format!("{:?}", under.processes()));
    demo.0.kill().unwrap();
    demo.0.wait().unwrap();
    under.is_left_clean();
}

/// A failing test leaves no demo running.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Gone already is what one hopes for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
