//! Ends whatever runs under a folder once nobody needs it. Never ends a process that no record there names.

use super::{
    cgroup::Groups,
    files::{self, Root},
    process::{self, Kind, Launch, Process},
};
use berth_infra::{EnvVar, ProviderError};
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// What becomes of the folder once everything in it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    Keep,
    Delete,
}

/// Blocks until the owner is gone, by whatever death, and then ends everything under `root`.
///
/// Runs in a process of its own and in a session of its own, so that neither a kill of the owner nor Ctrl-C reaches it.
pub fn run_janitor(root: &Path, owner_pid: u32, afterwards: Afterwards) -> Result<(), ProviderError> {
    // Taken at once: a pid alone could be somebody else's by the time we look again.
    if let Some(owner) = Process::of_pid(owner_pid, Kind::Program) {
        while owner.alive() {
            thread::sleep(Duration::from_millis(100));
        }
    }
    end_all(root, afterwards)
}

/// Ends every process recorded under `root`, without ceremony: data stays whole (Postgres replays its log), open
/// requests do not. For an orderly end, stop members and databases first.
pub fn end_all(root: &Path, afterwards: Afterwards) -> Result<(), ProviderError> {
    if !root.is_dir() {
        return Ok(());
    }
    let folder = Root::open(root)?;
    let runs = folder.path().join("run");
    let until = Instant::now() + Duration::from_mins(1);
    // Again until nothing is found: a program that was just ended may have started one more before it heard of it.
    loop {
        let mut left: Vec<Process> =
            files::names_in(&runs)?.iter().filter_map(|name| Process::read(&runs.join(name))).collect();
        left.retain(Process::anything_left);
        left.sort_unstable_by_key(|process| process.kind);
        let Some(first) = left.first().copied() else { break };
        if Instant::now() > until {
            return Err(ProviderError::Busy { what: format!("process {} under `{}`", first.pid, root.display()) });
        }
        for process in left.iter().filter(|process| process.kind == first.kind) {
            match process.kind {
                // Immediate shutdown: the postmaster takes its sessions with it. A second look finds it gone.
                Kind::Database if process.alive() => process.signal(Signal::QUIT),
                _ => process.signal_all(Signal::KILL),
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    for name in files::names_in(&runs)? {
        files::forget(&runs.join(name))?;
    }
    Groups::of(folder.id()).remove();
    if afterwards == Afterwards::Delete {
        for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let name = entry.file_name();
            // Socket folders that were too deep for a socket's address.
            if name.to_string_lossy().starts_with(&format!("berth-{}-", folder.id())) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        fs::remove_dir_all(folder.path())
            .map_err(ProviderError::io(format!("deleting `{}`", folder.path().display())))?;
    }
    Ok(())
}

/// Starts a program of Berth's own (a demo's `serve` and `edge`) so that [`end_all`] ends it too, and answers with its
/// pid. Written down before it runs, in a session of its own, with this environment and a `PATH` and nothing else.
pub async fn start_program(
    root: &Path,
    name: &str,
    command: &[String],
    env: &[EnvVar],
    log: &Path,
) -> Result<u32, ProviderError> {
    let folder = Root::open(root)?;
    let (_child, process, _) = process::launch(Launch {
        what: format!("program {name}"),
        kind: Kind::Program,
        record: folder.run("program", name),
        command,
        env,
        dir: Path::new("/"),
        log,
        user: None,
        confine: None,
    })
    .await?;
    Ok(process.pid)
}

/// Writes down a process that runs already, for [`end_all`]. [`start_program`] leaves no gap and is the better way.
///
/// It has to lead a session of its own (`setsid`), because all of its session is ended with it.
pub fn record_program(root: &Path, name: &str, pid: u32) -> Result<(), ProviderError> {
    let folder = Root::open(root)?;
    let process = Process::of_pid(pid, Kind::Program)
        .ok_or_else(|| ProviderError::Absent { what: format!("process {pid} ({name})") })?;
    files::write(&folder.run("program", name), process.to_string().as_bytes())
}
