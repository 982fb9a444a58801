//! `kill -9`, sent by a process of its own, and the supervisor that starts again what a machine's init would.
//!
//! Never starts a cell's database or member: bringing those back is Berth's own work, and is what is tested.

use super::super::{say, world::World};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::CellName;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

use super::plan::Victim;

/// Reads the record at the last moment and looks at the start time, so that no stranger under an old pid is hit. Says
/// the moment before the signal, in milliseconds.
const SCRIPT: &str = r#"sleep "$1"; read -r pid start kind < "$2"; [ -n "$kind" ] || exit 3
stat=$(cat "/proc/$pid/stat") || exit 3
set -- ${stat##*) }; [ "${20}" = "$start" ] || exit 3
at=$(date +%s%3N); kill -9 "$pid" && echo "$at""#;

/// How soon init starts again what ended.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// The cells of the move that is under way.
pub struct Scene<'w> {
    pub world: &'w World,
    pub source: CellName,
    pub target: CellName,
}

impl Scene<'_> {
    /// Where the victim's process is written down.
    fn record(&self, victim: Victim) -> PathBuf {
        let dir = &self.world.dir;
        let cells = dir.join("cells/run");
        match victim {
            Victim::Control => dir.join("run/program.serve"),
            Victim::ControlPostgres => dir.join("serve/postgres/run/database.control"),
            Victim::Edge => dir.join("run/program.edge"),
            Victim::SourcePostgres => cells.join(format!("database.{}", self.source)),
            Victim::TargetPostgres => cells.join(format!("database.{}", self.target)),
            Victim::SourceMember => cells.join(format!("member.{}.web.0", self.source)),
            Victim::TargetMember => cells.join(format!("member.{}.web.0", self.target)),
        }
    }

    /// Sends the killer off; it strikes after the delay whatever becomes of us meanwhile.
    pub fn send(&self, victim: Victim, delay: Duration) -> Result<Killer, Failure> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "killer", &format!("{:.3}", delay.as_secs_f64())])
            .arg(self.record(victim))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ours("the killer could not be started")?;
        Ok(Killer { victim, child })
    }
}

pub struct Killer {
    victim: Victim,
    child: Child,
}

impl Killer {
    /// When it struck; `None` where its victim did not run.
    pub async fn struck(self) -> Result<(Victim, Option<Timestamp>), Failure> {
        let output = self.child.wait_with_output().await.ours("waiting for the killer")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let at = said.trim().parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Ok((self.victim, at))
    }
}

/// Starts `serve` and `edge` again whenever they end, until it is dropped with the future.
pub async fn supervise(world: &World) -> Failure {
    loop {
        tokio::time::sleep(RESTART_AFTER).await;
        for name in ["serve", "edge"] {
            if !runs(&world.dir.join(format!("run/program.{name}")))
                && let Err(failure) = world.start_again(name).await
            {
                say(format!("`berth {name}` could not be started again"));
                return failure;
            }
        }
    }
}

/// Whether the process of a record is alive, by its number and the moment it started.
pub fn runs(record: &Path) -> bool {
    let alive = || {
        let text = std::fs::read_to_string(record).ok()?;
        let mut words = text.split_whitespace();
        let (pid, start) = (words.next()?, words.next()?);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        Some(*fields.get(19)? == start && !matches!(*fields.first()?, "Z" | "X"))
    };
    alive().unwrap_or(false)
}
