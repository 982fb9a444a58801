//! What is done on a host, as steps: each looks first, does only what is missing, and looks again. Never decides what a
//! host needs, and never shows what a step is given on standard input.

use crate::fail::Failure;
use berth_providers::ssh::{Connection, SshError, quoted};
use serde::Serialize;
use std::{
    io::Write as _,
    time::{Duration, Instant},
};

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

    /// Runs a script as root that must succeed. Answers what it wrote.
    pub async fn must(&self, doing: &str, script: &str, input: &[u8]) -> Result<String, Failure> {
        self.connection.must(doing, &self.command(script), input).await.map_err(failed)
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
