//! `berth server …`, `berth up` and `berth upgrade`: hosts, by their own SSH. Wiring of steps; what a host promises a cell is
//! said in `prepare.rs`. Never touches the machine that it runs on, but where `berth upgrade` is run there without a host.

#![expect(clippy::format_push_string, reason = "screens are small and built once")]

mod ahead;
mod beside;
mod check;
mod host;
mod list;
mod machine;
mod ports;
mod prepare;
mod steps;
mod swap;
mod up;
mod upgrade;

pub use up::Up;
pub use upgrade::Upgrade;

use crate::{
    cli::{CliError, Common, Connection as Api, Context},
    fail::{Failure, FailureExt as _},
};
use clap::{Args, Subcommand};
use host::Host;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Instant,
};
use steps::{Walk, say};

#[derive(Subcommand, Debug)]
pub enum Server {
    /// Make a fresh Debian or Ubuntu a host for cells: users, keys only, firewall, bans, upgrades, Postgres, podman
    Prepare(Prepare),
    /// What `prepare` promises, found out by trying
    Check(CheckHost),
    /// The servers that cells stand on: system, room, load
    List,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  berth server prepare root@203.0.113.7 --key-file ~/.ssh/id_ed25519 --dry-run\n  berth server prepare root@203.0.113.7 --key-file ~/.ssh/id_ed25519"
)]
pub struct Prepare {
    #[command(flatten)]
    host: Host,
    /// Show the steps and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub struct CheckHost {
    #[command(flatten)]
    host: Host,
}

/// What a command prints: for people, or for programs.
struct Answer {
    text: String,
    json: serde_json::Value,
    status: u8,
}

impl Server {
    pub fn run(self, common: &Common, api: Api) -> ExitCode {
        match self {
            Self::Prepare(options) => finish(common.json, options.run(common.yes)),
            Self::Check(options) => finish(common.json, options.run(common.yes)),
            Self::List => finish(common.json, list(common, api)),
        }
    }
}

impl Up {
    pub fn start(self, common: &Common) -> ExitCode {
        finish(common.json, self.run(common))
    }
}

impl Upgrade {
    /// `key`: of the environment alone.
    pub fn start(self, common: &Common, resolved: Api, key: Option<SecretString>) -> ExitCode {
        finish(common.json, self.run(common, resolved, key))
    }
}

fn finish(as_json: bool, work: impl Future<Output = Result<Answer, Failure>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.ours("threads could not be started").and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(answer) => {
            let text = if as_json { format!("{}\n", answer.json) } else { answer.text };
            // Without a terminal the exit status has to do.
            let _ = io::stdout().lock().write_all(text.as_bytes());
            ExitCode::from(answer.status)
        }
        Err(failure) => {
            let _ = io::stderr().lock().write_all(failure.screen().as_bytes());
            ExitCode::from(failure.status)
        }
    }
}

/// An error of a call of the API, told as one of ours.
fn told(error: CliError) -> Failure {
    let status = error.exit_status();
    let hint = error.hint().unwrap_or_default();
    let mut what = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        what = format!("{what}: {cause}");
        source = cause.source();
    }
    let mut failure = Failure::request(what, hint);
    failure.status = status;
    failure
}

impl Prepare {
    async fn run(self, yes: bool) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let connection = self.host.open(yes).await?;
        let found = prepare::look(&connection).await?;
        say(&format!("`{}` runs {}", self.host.name(), found.system));
        beside::tell(&found.beside);
        if !self.dry_run && !yes {
            let mut plan = Walk::new(&connection, found.sudo, true);
            prepare::prepare(&mut plan, &self.host).await?;
            if plan.would_change() {
                host::agree_to_changes(self.host.name()).await?;
            }
        }
        let mut walk = Walk::new(&connection, found.sudo, self.dry_run);
        prepare::prepare(&mut walk, &self.host).await?;
        let took_s = begun.elapsed().as_secs_f64();
        let name = self.host.name();
        let text = if self.dry_run {
            "nothing was changed\n".to_owned()
        } else {
            format!("prepared in {took_s:.0} s; next:\n  berth cell add NAME --host {name} --key-file FILE\n")
        };
        let json = json!({ "host": name, "system": found.system, "beside": found.beside, "dry_run": self.dry_run, "took_s": took_s, "steps": walk.rows });
        Ok(Answer { text, json, status: 0 })
    }
}

impl CheckHost {
    async fn run(self, yes: bool) -> Result<Answer, Failure> {
        let connection = self.host.open(yes).await?;
        let findings = check::check(&connection, &self.host).await?;
        let bad = findings.iter().filter(|finding| !finding.good).count();
        let mut text = String::new();
        for finding in &findings {
            text.push_str(&format!(
                "{}  {:<12}  {}\n",
                if finding.good { "ok " } else { "bad" },
                finding.what,
                finding.says
            ));
        }
        if bad > 0 {
            text.push_str("`berth server prepare` does what is missing\n");
        }
        let json = json!({ "host": self.host.name(), "bad": bad, "findings": findings });
        Ok(Answer { text, json, status: u8::from(bad > 0) })
    }
}

async fn list(common: &Common, api: Api) -> Result<Answer, Failure> {
    let cx = Context::new(api, common.json, common.yes, Timestamp::now()).map_err(told)?;
    let servers = cx.client.servers().await.map_err(|error| told(error.into()))?;
    let text = list::screen(&servers);
    Ok(Answer { text, json: json!(servers), status: 0 })
}
