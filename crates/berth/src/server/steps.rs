//! What is done on a host, as steps: each looks first, does only what is missing, and looks again. Never decides what a
//! host needs, and never shows what a step is given on standard input.

use crate::fail::Failure;
use berth_providers::ssh::{Connection, SshError, quoted};
use serde::Serialize;
use std::{
    io::Write as _,
    time::{Duration, Instant},
};

/// A step that changes nothing.
pub const SECOND_DOOR: &str = "second door";
/// Held on the host by whoever changes it: of a client that was killed the script goes on there to its end, and the next
/// client waits for it. In memory, so a restart of the host lets go of it.
const LOCK: &str = "/run/berth-server.lock";
const LOCK_WAIT_S: u32 = 900;
/// Statuses that no script of ours has.
const BUSY: u32 = 190;
const CUT_OFF: u32 = 191;

/// One change of a host, as scripts for its shell, run as root.
pub struct Step {
    pub name: &'static str,
    /// What it comes to, for people.
    pub says: String,
    /// Succeeds when there is nothing to do, before and after.
    pub look: String,
    pub act: String,
    /// For `act`: secrets come here, where no list of processes shows them.
    pub input: Vec<u8>,
}

impl Step {
    pub fn new(name: &'static str, says: impl Into<String>, look: impl Into<String>, act: impl Into<String>) -> Self {
        Self { name, says: says.into(), look: look.into(), act: act.into(), input: Vec::new() }
    }

    pub fn with(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Went {
    /// It was so already.
    Was,
    Done,
    /// It would be done.
    Would,
}

#[derive(Debug, Serialize)]
pub struct Row {
    pub step: &'static str,
    pub says: String,
    pub went: Went,
    pub took_ms: u64,
}

/// The steps so far, on one host.
pub struct Walk<'a> {
    pub connection: &'a Connection,
    /// Before every script: `sudo -n `, or nothing for root.
    pub sudo: &'static str,
    pub dry_run: bool,
    pub rows: Vec<Row>,
}

impl<'a> Walk<'a> {
    pub fn new(connection: &'a Connection, sudo: &'static str, dry_run: bool) -> Self {
        Self { connection, sudo, dry_run, rows: Vec::new() }
    }

    fn command(&self, script: &str) -> String {
        format!("{}sh -c {}", self.sudo, quoted(script))
    }

    /// Runs a script as root; whether it succeeded.
    pub async fn is(&self, script: &str) -> Result<bool, Failure> {
        Ok(self.connection.run(&self.command(script), b"").await.map_err(failed)?.status == 0)
    }

    /// Runs a script as root that only looks. Answers what it wrote.
    pub async fn asks(&self, script: &str) -> Result<String, Failure> {
        Ok(self.connection.run(&self.command(script), b"").await.map_err(failed)?.out)
    }

    /// Runs a script as root that must succeed, one at a time on the host. Answers what it wrote.
    pub async fn must(&self, doing: &str, script: &str, input: &[u8]) -> Result<String, Failure> {
        let script = if input.is_empty() { script.to_owned() } else { with_whole_input(script, input.len()) };
        let command = format!("{}{}", self.sudo, alone(&script));
        match self.connection.must(doing, &command, input).await {
            Err(SshError::Failed { host, status: BUSY, .. }) => {
                let what = format!("somebody else has been changing `{host}` for {} min", LOCK_WAIT_S / 60);
                Err(Failure::request(what, "another `berth` is at work there; `lslocks` there names it"))
            }
            other => other.map_err(failed),
        }
    }

    /// Of a dry run: something would be changed.
    pub fn would_change(&self) -> bool {
        self.rows.iter().any(|row| row.went == Went::Would && row.step != SECOND_DOOR)
    }

    pub async fn step(&mut self, step: &Step) -> Result<Went, Failure> {
        let begun = Instant::now();
        let went = if self.is(&step.look).await? {
            Went::Was
        } else if self.dry_run {
            Went::Would
        } else {
            self.must(step.name, &step.act, &step.input).await?;
            if !self.is(&step.look).await? {
                let what = format!("step `{}` was done on the host, and a look says otherwise", step.name);
                return Err(Failure::request(what, format!("there: `{}`", step.look)));
            }
            Went::Done
        };
        self.note(step.name, &step.says, went, begun.elapsed());
        Ok(went)
    }

    pub fn note(&mut self, step: &'static str, says: &str, went: Went, took: Duration) {
        self.rows.push(noted(step, says, went, took));
    }
}

/// The lock is this command's own: what it leaves running in the background does not hold it.
fn alone(script: &str) -> String {
    format!("flock --close --conflict-exit-code {BUSY} --wait {LOCK_WAIT_S} {LOCK} sh -c {}", quoted(script))
}

/// A client that is killed closes the input where it was: half a file would be put in place of a whole one. In memory and
/// root's alone, for there are secrets in it.
fn with_whole_input(script: &str, bytes: usize) -> String {
    format!(
        "given=$(mktemp -p /run) || exit 1; trap 'rm -f \"$given\"' EXIT; cat >\"$given\"; \
         test \"$(wc -c <\"$given\")\" -eq {bytes} || \
         {{ rm -f \"$given\"; echo 'the connection broke' >&2; exit {CUT_OFF}; }}; \
         ( {script}\n) <\"$given\""
    )
}

/// Says how a step went.
pub fn noted(step: &'static str, says: &str, went: Went, took: Duration) -> Row {
    let word = match went {
        Went::Was => "is so",
        Went::Done => "done ",
        Went::Would => "would",
    };
    say(&format!("{word}  {step:<12}  {says}  ({:.1} s)", took.as_secs_f64()));
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Row { step, says: says.to_owned(), went, took_ms }
}

/// Talk: for people, never for programs.
pub fn say(text: &str) {
    // When nobody can be talked to, the work goes on all the same.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub fn failed(error: SshError) -> Failure {
    let hint = error.hint();
    Failure::request(error, hint)
}

#[cfg(test)]
mod tests {
    use super::{CUT_OFF, alone, with_whole_input};
    use crate::server::machine::Machine;
    use std::{fs, process::Command, time::Instant};

    /// The lock itself needs root's folder, so that part is tried with another file.
    fn locked(file: &std::path::Path, script: &str) -> String {
        alone(script).replace(super::LOCK, file.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_script_gets_its_input_whole_or_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (here, kept) = (Machine::Here(None), dir.path().join("kept"));
        let script = |bytes| {
            let script = format!("set -e; cat >{}; false || exit 7", kept.display());
            with_whole_input(&script, bytes).replace("-p /run", &format!("-p {}", dir.path().display()))
        };
        fs::write(&kept, "before").unwrap();
        let status = |bytes: usize| {
            let mut child = Command::new("sh").args(["-c", &script(bytes)]).stdin(std::process::Stdio::piped()).spawn();
            std::io::Write::write_all(&mut child.as_mut().unwrap().stdin.take().unwrap(), b"seven b").unwrap();
            child.unwrap().wait().unwrap().code().unwrap()
        };
        assert_eq!((status(8), fs::read_to_string(&kept).unwrap().as_str()), (CUT_OFF as i32, "before"));
        assert_eq!((status(7), fs::read_to_string(&kept).unwrap().as_str()), (7, "seven b"), "the script's own status");
        let left = here.must("looking", &format!("ls {}", dir.path().display()), b"", "").await.unwrap();
        assert_eq!(left.trim(), "kept", "what was given lies nowhere");
    }

    #[test]
    fn two_scripts_on_one_host_follow_each_other_and_what_one_leaves_running_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, log) = (dir.path().join("lock"), dir.path().join("log"));
        let run = |script: &str| Command::new("sh").args(["-c", &locked(&lock, script)]).spawn().unwrap();
        let log = log.display();
        let mut first = run(&format!("echo a >>{log}; (setsid sleep 20 >/dev/null 2>&1 &); sleep 0.5; echo b >>{log}"));
        let begun = Instant::now();
        while !fs::read_to_string(dir.path().join("log")).is_ok_and(|text| text.contains('a')) {
            assert!(begun.elapsed().as_secs() < 10, "the first script did not begin");
            std::thread::yield_now();
        }
        assert!(run(&format!("echo c >>{log}")).wait().unwrap().success());
        assert!(first.wait().unwrap().success() && begun.elapsed().as_secs() < 15);
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "a\nb\nc\n");
    }
}
