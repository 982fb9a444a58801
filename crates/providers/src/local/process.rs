//! Processes that live on without us: started, written down, recognised, ended. Never restarts one: that is a decision.
//!
//! A process is known by its pid and the moment it started, because pids come round again. It is written down *before*
//! it runs: the new process waits at a gate (a shell reading one line) until its record lies on disk, and goes away
//! when we die before that. So there is no instant in which something runs that no record names.

use super::{cgroup, files};
use berth_infra::{Confinement, EnvVar, MemberLoad, ProviderError, Shape};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use secrecy::ExposeSecret;
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, process::Child, time::sleep};

/// `exec` keeps the pid, so the record stays right. The gate's line comes from [`launch`].
const GATE: &str = r#"IFS= read -r go && [ "$go" = go ] && exec "$@" </dev/null"#;

/// What our children find programs with. Not inherited: the environment of `berth serve` holds its own secrets.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process is, which decides how it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A program of Berth's own that a demo started. Ended first, so that it starts nothing new.
    Program,
    Member,
    Run,
    /// Last: whoever writes to it should be gone.
    Database,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Member => "member",
            Self::Run => "run",
            Self::Database => "database",
        }
    }
}

/// A process as it is written down: `pid start kind`, plain enough for a shell to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks between boot and its start.
    pub start: u64,
    pub kind: Kind,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.start, self.kind.as_str())
    }
}

impl FromStr for Process {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let pid = words.next().and_then(|w| w.parse().ok()).ok_or(())?;
        let start = words.next().and_then(|w| w.parse().ok()).ok_or(())?;
        let kind = match words.next() {
            Some("program") => Kind::Program,
            Some("member") => Kind::Member,
            Some("run") => Kind::Run,
            Some("database") => Kind::Database,
            _ => return Err(()),
        };
        Ok(Self { pid, start, kind })
    }
}

/// The part of `/proc/PID/stat` that we go by.
struct Stat {
    state: char,
    session: u32,
    start: u64,
    /// Clock ticks of it and of those it waited for.
    cpu: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything, brackets and spaces too.
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        cpu: (11..=14).map(|at| fields.get(at)?.parse::<u64>().ok()).sum::<Option<u64>>()?,
    })
}

/// What Linux tells programs as a clock tick, whatever its own is.
const TICK_MS: u64 = 10;

/// Pages that several processes share count for each.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

impl Process {
    /// Writes down a process that runs already, such as ourselves.
    pub fn of_pid(pid: u32, kind: Kind) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, start: stat.start, kind })
    }

    /// A zombie is not alive: it does nothing any more and waits for its parent.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && !matches!(stat.state, 'Z' | 'X'))
    }

    pub fn read(file: &Path) -> Option<Self> {
        fs::read_to_string(file).ok()?.parse().ok()
    }

    /// To the process alone. Gone is success.
    pub fn signal(&self, signal: Signal) {
        if self.alive()
            && let Some(pid) = pid(self.pid)
        {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// To everything it started as well, as long as that stayed in its session.
    pub fn signal_all(&self, signal: Signal) {
        for member in self.session() {
            if let Some(pid) = pid(member) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// What it and everything of its session have used.
    pub fn load(&self) -> Option<MemberLoad> {
        let pids = self.session();
        if pids.is_empty() {
            return None;
        }
        let ticks: u64 = pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.cpu).sum();
        let memory_bytes = pids.iter().filter_map(|pid| resident_bytes(*pid)).sum();
        Some(MemberLoad { cpu_ms: ticks * TICK_MS, memory_bytes })
    }

    /// Whether it or anything of its session still runs.
    pub fn anything_left(&self) -> bool {
        !self.session().is_empty()
    }

    /// Every live process of its session, itself included. Each process we launch leads a session of its own, and
    /// a session's number is not given out again while anything lives in it.
    fn session(&self) -> Vec<u32> {
        if stat(self.pid).is_some_and(|stat| stat.start != self.start) {
            return Vec::new(); // the number is somebody else's now, so nothing of ours can be left
        }
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                stat(*pid).is_some_and(|stat| {
                    stat.session == self.pid && stat.start >= self.start && !matches!(stat.state, 'Z' | 'X')
                })
            })
            .collect()
    }

    /// Asks with `signal`, waits for `grace`, then insists with SIGKILL, and returns when nothing of it is left.
    pub async fn end(&self, signal: Signal, grace: Duration) {
        match self.kind {
            // A postmaster tells its own children; a signal to each of them would cut transactions short.
            Kind::Database => self.signal(signal),
            Kind::Program | Kind::Member | Kind::Run => self.signal_all(signal),
        }
        if !self.gone_within(grace).await {
            self.signal_all(Signal::KILL);
            // A process in an uninterruptible system call takes the signal when it returns.
            self.gone_within(Duration::from_secs(30)).await;
        }
    }

    async fn gone_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(2);
        while self.anything_left() {
            if Instant::now() >= until {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        true
    }
}

fn pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// By `/etc/passwd`: system users stand there.
    pub fn named(name: &str) -> Option<Self> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.first() == Some(&name))
                .then(|| Some(Self { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? }))?
        })
    }

    /// Whether this user gets past a folder on the way to something below it.
    pub fn may_enter(self, folder: &Path) -> bool {
        let Ok(meta) = fs::metadata(folder) else { return false };
        let bit = if meta.uid() == self.uid {
            0o100
        } else if meta.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        meta.mode() & bit != 0
    }
}

/// What to start, and where it is written down.
pub(super) struct Launch<'a> {
    pub what: String,
    pub kind: Kind,
    /// Where its record goes; its file name also names its control group.
    pub record: PathBuf,
    pub command: &'a [String],
    pub env: &'a [EnvVar],
    pub dir: &'a Path,
    /// Takes standard output and error.
    pub log: &'a Path,
    pub user: Option<User>,
    /// Bounds for it and all it starts. `None`: as ourselves.
    pub confine: Option<(&'a cgroup::Groups, Shape)>,
}

/// Starts it in a session of its own and returns when it is past the gate. The [`Child`] may be dropped: the process
/// lives on, and the runtime reaps it should it end before us.
pub(super) async fn launch(launch: Launch<'_>) -> Result<(Child, Process, Confinement), ProviderError> {
    let what = &launch.what;
    let fail = |doing: &str| ProviderError::io(format!("{doing} {what}"));
    let mut command = tokio::process::Command::new("setsid");
    command.args(["sh", "-c", GATE, "sh"]).args(launch.command);
    command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8");
    for var in launch.env {
        command.env(&var.name, var.value.expose_secret());
    }
    command
        .current_dir(launch.dir)
        .stdin(Stdio::piped())
        .stdout(files::open_log(launch.log)?)
        .stderr(files::open_log(launch.log)?);
    if let Some(user) = launch.user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(fail("starting"))?;
    let process = child
        .id()
        .and_then(|pid| Process::of_pid(pid, launch.kind))
        .ok_or_else(|| std::io::Error::other("it ended at once"))
        .map_err(fail("starting"))?;
    let confinement = bound(&launch, process);
    // From here on somebody else can find it and end it. Before, it ends by itself when we do.
    files::write(&launch.record, process.to_string().as_bytes())?;
    let mut gate = child.stdin.take().expect("stdin was set to a pipe above");
    gate.write_all(b"go\n").await.map_err(fail("starting"))?;
    Ok((child, process, confinement))
}

/// Control groups where the kernel lets us, rlimits otherwise. A bound that cannot be set is no reason not to run.
fn bound(launch: &Launch<'_>, process: Process) -> Confinement {
    let Some(pid) = pid(process.pid) else { return Confinement::Rlimits };
    let set = |resource, value: u64| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        let _ = rustix::process::prlimit(Some(pid), resource, limit);
    };
    set(Resource::Core, 0);
    let open = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(65_536).min(65_536);
    set(Resource::Nofile, open);
    let Some((groups, shape)) = launch.confine else { return Confinement::Rlimits };
    let name = launch.record.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if groups.enter(&name, shape, process.pid) {
        return Confinement::Cgroup;
    }
    // Not the address space: runtimes reserve far more of it than they touch. Four times the promise stops only
    // what has run away.
    set(Resource::Data, u64::from(shape.memory_mb) * 4 * 1024 * 1024);
    Confinement::Rlimits
}

#[cfg(test)]
mod tests {
    use super::{Kind, Process};

    #[test]
    fn a_reused_pid_is_not_taken_for_the_process_that_had_it() {
        let me = Process::of_pid(std::process::id(), Kind::Program).unwrap();
        assert!(me.alive());
        let before_me = Process { start: me.start - 1, ..me };
        assert!(!before_me.alive());
        assert!(!before_me.anything_left());
    }

    #[test]
    fn a_record_survives_its_text_form() {
        for kind in [Kind::Program, Kind::Member, Kind::Run, Kind::Database] {
            let process = Process { pid: 7, start: 99, kind };
            assert_eq!(process.to_string().parse(), Ok(process));
        }
        assert!("7".parse::<Process>().is_err());
        assert!("7 8 cat".parse::<Process>().is_err());
    }
}
