//! Members as processes of this machine. Never restarts one by itself: a look tells that it ended, and the next
//! `ensure` starts it again, on the port it had unless a stranger took it.

use super::{
    cgroup::Groups,
    container::{Containers, Wanted, plain_line},
    files::{self, LOCK_LIMIT, Root},
    health,
    process::{self, Kind, Launch, PATH, Process, User},
};
use berth_domain::{Artifact, CellName, Digest, ServiceName};
use berth_infra::{
    Confinement, EnvVar, Health, Listed, Member, MemberLoad, MemberName, MemberSpec, Observed, ProviderError,
    RunOutcome, RunSpec, Shape, Source,
};
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// How long a fresh member may leave its health path unanswered and still counts as starting.
const WARM_UP: Duration = Duration::from_secs(30);
/// How long `ensure` watches a new process for an end at once: a wrong option, a taken port, a missing library.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const OUTPUT_LIMIT: u64 = 64 * 1024;
/// Of a cell's last runs it is known how they ended: those of one operation, each service's.
const RUNS_KNOWN: usize = 32;

/// A member as it is written down. Its environment is in clear, in a file that only we can read: it must start again
/// without anybody to ask.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    cell: CellName,
    service: ServiceName,
    index: u16,
    /// What its program has to be, where that was said.
    #[serde(default)]
    artifact: Option<Artifact>,
    command: Vec<String>,
    env: Vec<(String, String)>,
    port: u16,
    /// We chose the port and let go of it with the member.
    port_is_ours: bool,
    health_path: Option<String>,
    shape: Shape,
    confinement: Confinement,
    starts: u32,
}

impl Record {
    fn of(spec: &MemberSpec, command: Vec<String>, port: u16, starts: u32) -> Self {
        let env = spec.env.iter().map(|var| (var.name.clone(), var.value.expose_secret().to_owned())).collect();
        Self {
            cell: spec.cell.clone(),
            service: spec.service.clone(),
            index: spec.index,
            artifact: artifact(&spec.source).cloned(),
            command,
            env,
            port,
            port_is_ours: spec.port == 0,
            health_path: spec.health_path.clone(),
            shape: spec.shape,
            confinement: Confinement::Rlimits,
            starts,
        }
    }

    fn image(&self) -> Option<&Artifact> {
        self.artifact.as_ref().filter(|artifact| matches!(artifact, Artifact::Image { .. }))
    }

    /// Whether the process that this record started already is what is asked for.
    fn serves(&self, wanted: &Self) -> bool {
        let plain = |record: &Self| Self { confinement: Confinement::Rlimits, starts: 0, ..record.clone() };
        plain(self) == plain(wanted)
    }

    fn environment(&self) -> Vec<EnvVar> {
        let own = self.env.iter().map(|(name, value)| EnvVar::new(name.clone(), value.clone()));
        own.chain([EnvVar::new("PORT", self.port.to_string())]).collect()
    }
}

#[derive(Clone)]
pub(super) struct Members {
    pub root: Root,
    pub groups: Groups,
    pub containers: Containers,
    /// Between asking a member to end and making it.
    pub stop_grace: Duration,
    /// `None`: as ourselves.
    pub user: Option<User>,
}

impl Members {
    fn record_file(&self, name: &MemberName) -> PathBuf {
        self.root.member(name.as_str()).join("record.json")
    }
    fn run_file(&self, name: &MemberName) -> PathBuf {
        self.root.run("member", name.as_str())
    }
    fn log(&self, name: &MemberName) -> PathBuf {
        self.root.member(name.as_str()).join("log")
    }
    fn record(&self, name: &MemberName) -> Result<Option<Record>, ProviderError> {
        files::read_record(&self.record_file(name), &format!("member {name}"))
    }
    fn running(&self, name: &MemberName) -> Option<Process> {
        Process::read(&self.run_file(name)).filter(Process::alive)
    }

    /// An image is pulled, a program read: before anything that runs is touched.
    pub async fn ensure_source(&self, source: &Source) -> Result<(), ProviderError> {
        match source {
            Source::Host => Ok(()),
            Source::Artifact { artifact: image @ Artifact::Image { .. }, login } => {
                self.containers.ensure_image(image, login.as_ref()).await
            }
            Source::Artifact { artifact: Artifact::Program { path, digest }, .. } => {
                let (path, digest) = (path.clone(), digest.clone());
                let read = tokio::task::spawn_blocking(move || compare(&path, &digest)).await;
                read.unwrap_or_else(|_| Err(ProviderError::Busy { what: "reading a program".to_owned() }))
            }
        }
    }

    pub async fn ensure(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        let name = &spec.name;
        let what = format!("member {name}");
        self.ensure_source(&spec.source).await?;
        let command = Self::command(&what, &spec.source, &spec.command)?;
        let _lock = self.root.lock(&format!("member.{name}")).await?;
        let old = self.record(name)?;
        let port = match (spec.port, &old) {
            (0, Some(old)) if old.port_is_ours => old.port,
            (0, _) => self.root.choose_port(&what)?,
            (port, _) => port,
        };
        let mut record = Record::of(spec, command, port, old.as_ref().map_or(0, |old| old.starts));
        if self.running(name).is_some() && old.as_ref().is_some_and(|old| old.serves(&record)) {
            return self.look(name, &old.expect("it was compared in the line above")).await;
        }
        self.end(name).await?;
        if let Some(old) = old.filter(|old| old.port_is_ours && old.port != port) {
            self.root.release_port(old.port);
        }
        files::folder(&self.root.member(name.as_str()), 0o755)?;
        if !files::port_is_free(record.port) {
            if !record.port_is_ours {
                let reason = format!("port {} is taken by another process", record.port);
                return Err(ProviderError::DidNotStart { what, reason, log: String::new() });
            }
            // A stranger got it while the member was down. Waiting for the stranger would keep the member down, and
            // the answer tells the new port to whoever publishes routes.
            self.root.release_port(record.port);
            record.port = self.root.choose_port(&what)?;
        }
        record.starts += 1;
        files::write_record(&self.record_file(name), &record)?;
        self.start(name, &what, &mut record).await?;
        self.look(name, &record).await
    }

    async fn start(&self, name: &MemberName, what: &str, record: &mut Record) -> Result<(), ProviderError> {
        let log = self.log(name);
        files::cap_log(&log);
        let log_from = files::len(&log);
        if let Some(image) = record.image() {
            let image = image.to_string();
            return self.start_container(name, what, record, &image, (&log, log_from)).await;
        }
        let (mut child, process, confinement) = process::launch(Launch {
            what: what.to_owned(),
            kind: Kind::Member,
            record: self.run_file(name),
            command: &record.command,
            env: &record.environment(),
            dir: &self.root.member(name.as_str()),
            log: &log,
            user: self.user,
            confine: Some((&self.groups, record.shape)),
        })
        .await?;
        record.confinement = confinement;
        files::write_record(&self.record_file(name), record)?;
        let until = Instant::now() + FIRST_LOOK;
        // A service without a health path listens on nothing that we could look for.
        // Asked by a connection: a try to bind the port would be in the way of the service's own.
        let listens =
            async || record.health_path.is_some() && TcpStream::connect(("127.0.0.1", record.port)).await.is_ok();
        while Instant::now() < until && !listens().await {
            let ended = child.try_wait().map_err(ProviderError::io(format!("watching {what}")))?;
            if let Some(status) = ended {
                process.end(Signal::KILL, Duration::ZERO).await; // what it may have left in its session
                self.end(name).await?;
                return Err(ProviderError::DidNotStart {
                    what: what.to_owned(),
                    reason: status.to_string(),
                    log: files::read_tail(&log, log_from, 4096).trim_end().to_owned(),
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn start_container(
        &self,
        name: &MemberName,
        what: &str,
        record: &mut Record,
        image: &str,
        (log, log_from): (&Path, u64),
    ) -> Result<(), ProviderError> {
        let (env, shape) = (record.environment(), record.shape);
        let wanted = Wanted { what, image, command: &record.command, env: &env, shape };
        let process = self.containers.start(name.as_str(), &wanted, log, &self.run_file(name)).await?;
        record.confinement = Confinement::Cgroup;
        files::write_record(&self.record_file(name), record)?;
        let until = Instant::now() + FIRST_LOOK;
        while Instant::now() < until && TcpStream::connect(("127.0.0.1", record.port)).await.is_err() {
            if !process.alive() {
                let log = files::read_tail(log, log_from, 4096);
                let log = log.lines().map(plain_line).collect::<Vec<_>>().join("\n");
                self.end(name).await?;
                let reason = "it ended at once".to_owned();
                return Err(ProviderError::DidNotStart { what: what.to_owned(), reason, log });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What is started: of a program its full path first, of an image what is run in it.
    fn command(what: &str, source: &Source, command: &[String]) -> Result<Vec<String>, ProviderError> {
        match artifact(source) {
            Some(Artifact::Image { .. }) => Ok(command.to_vec()),
            Some(Artifact::Program { .. }) | None => resolve(what, command),
        }
    }

    /// `None`: no such member. Reads only what is written down.
    pub fn port(&self, name: &MemberName) -> Result<Option<u16>, ProviderError> {
        Ok(self.record(name)?.map(|record| record.port))
    }

    pub fn load(&self, name: &MemberName) -> Option<MemberLoad> {
        self.running(name)?.load()
    }

    pub async fn observe(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        let Some(record) = self.record(name)? else { return Ok(Observed::Absent) };
        files::cap_log(&self.log(name));
        self.look(name, &record).await.map(Observed::Present)
    }

    async fn look(&self, name: &MemberName, record: &Record) -> Result<Member, ProviderError> {
        let process = self.running(name);
        let health = match (&process, &record.health_path) {
            (None, _) => {
                let last = self.lines(name, record, 1).pop();
                Health::Stopped {
                    reason: last.map_or("it ended".into(), |line| format!("it ended; last line: {line}")),
                }
            }
            (Some(_), None) => Health::Healthy,
            (Some(_), Some(path)) => match health::probe(record.port, path).await {
                Ok(()) => Health::Healthy,
                Err(_) if self.age(name).is_some_and(|age| age < WARM_UP) => Health::Starting,
                Err(reason) => Health::Unhealthy { reason },
            },
        };
        Ok(Member {
            name: name.clone(),
            cell: record.cell.clone(),
            service: record.service.clone(),
            index: record.index,
            host: "127.0.0.1".to_owned(),
            port: record.port,
            health,
            confinement: record.confinement,
            starts: record.starts,
            pid: process.map(|process| process.pid),
        })
    }

    /// Since the running process was written down.
    fn age(&self, name: &MemberName) -> Option<Duration> {
        fs::metadata(self.run_file(name)).ok()?.modified().ok()?.elapsed().ok()
    }

    async fn end(&self, name: &MemberName) -> Result<(), ProviderError> {
        let file = self.run_file(name);
        if self.record(name).ok().flatten().is_some_and(|record| record.image().is_some()) {
            self.containers.remove("member", name.as_str(), self.stop_grace).await?;
        }
        if let Some(process) = Process::read(&file) {
            process.end(Signal::TERM, self.stop_grace).await;
            self.groups.leave(&format!("member.{name}"));
        }
        files::forget(&file)
    }

    pub async fn remove(&self, name: &MemberName) -> Result<(), ProviderError> {
        let _lock = self.root.lock(&format!("member.{name}")).await?;
        let record = self.record(name).ok().flatten();
        self.end(name).await?;
        files::remove_folder(&self.root.member(name.as_str())).await?;
        if let Some(record) = record.filter(|record| record.port_is_ours) {
            self.root.release_port(record.port);
        }
        Ok(())
    }

    pub fn list(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        let mut all = Vec::new();
        for name in self.root.names_in("members")? {
            let Ok(name) = MemberName::new(name) else { continue };
            if let Some(record) = self.record(&name)? {
                all.push(Listed { name, cell: record.cell });
            }
        }
        Ok(all)
    }

    pub fn logs(&self, name: &MemberName, lines: usize) -> Result<Vec<String>, ProviderError> {
        let record = self.record(name)?.ok_or_else(|| ProviderError::Absent { what: format!("member {name}") })?;
        Ok(self.lines(name, &record, lines))
    }

    fn lines(&self, name: &MemberName, record: &Record, lines: usize) -> Vec<String> {
        let mut last = files::last_lines(&self.log(name), 0, lines);
        if record.image().is_some() {
            for line in &mut last {
                *line = plain_line(line).to_owned();
            }
        }
        last
    }

    /// With a cell goes what its runs wrote.
    pub fn forget_runs(&self, cell: &str) -> Result<(), ProviderError> {
        files::forget(&self.root.run_ends(cell))
    }

    /// One run per cell at a time: two migrations of one cell must not meet. One whose caller died is ended first,
    /// since nobody is left to hear what became of it; one that is under way is waited for, and what it answered under
    /// this key is answered again.
    pub async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        let cell = &spec.cell;
        self.ensure_source(&spec.source).await?;
        let mut command = Self::command(&spec.what, &spec.source, &spec.command)?;
        let _lock = self.root.lock_within(&format!("run.{cell}"), spec.time_limit + LOCK_LIMIT).await?;
        let ends = self.root.run_ends(cell.as_str());
        let mut ended: Vec<Ended> = files::read_record(&ends, &format!("the runs of cell {cell}"))?.unwrap_or_default();
        if let Some(known) = ended.iter().find(|run| spec.key.as_ref() == Some(&run.key)) {
            let (exit_code, timed_out, output) = (known.exit_code, known.timed_out, known.output.clone());
            return Ok(RunOutcome { exit_code, timed_out, output });
        }
        let file = self.root.run("run", cell.as_str());
        if let Some(orphan) = Process::read(&file) {
            orphan.end(Signal::TERM, Duration::from_secs(5)).await;
        }
        let output = self.root.path().join("runs").join(cell.as_str());
        files::forget(&output)?;
        let mut env = spec.env.clone();
        let mut variables = None;
        let image = artifact(&spec.source).filter(|artifact| matches!(artifact, Artifact::Image { .. }));
        if let Some(image) = image {
            self.containers.remove("run", cell.as_str(), Duration::ZERO).await?;
            let image = image.to_string();
            let wanted = Wanted { what: &spec.what, image: &image, command: &command, env: &env, shape: spec.shape };
            let (words, file, lines) = self.containers.run_command(cell.as_str(), &wanted)?;
            command = resolve(&spec.what, &words)?;
            env = lines;
            variables = Some(file);
        }
        let launched = process::launch(Launch {
            what: spec.what.clone(),
            kind: Kind::Run,
            record: file.clone(),
            command: &command,
            env: &env,
            dir: Path::new("/"),
            log: &output,
            user: self.user.filter(|_| image.is_none()),
            confine: image.is_none().then_some((&self.groups, spec.shape)),
        })
        .await;
        let (mut child, process, _) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                if let Some(file) = &variables {
                    files::forget(file)?;
                }
                return Err(error);
            }
        };
        let waited = tokio::time::timeout(spec.time_limit, child.wait()).await;
        let (exit_code, timed_out) = match waited {
            Ok(status) => (status.map_err(ProviderError::io(format!("waiting for {}", spec.what)))?.code(), false),
            Err(_) => (None, true),
        };
        // Also after an end by itself: what it left running in the background would write on unseen.
        process.end(Signal::TERM, Duration::from_secs(5)).await;
        if let Some(file) = variables {
            self.containers.remove("run", cell.as_str(), Duration::from_secs(5)).await?;
            files::forget(&file)?;
        }
        self.groups.leave(&format!("run.{cell}"));
        let text = files::read_tail(&output, 0, OUTPUT_LIMIT);
        // Before its process is forgotten: whoever finds neither would run it again.
        if let Some(key) = spec.key.clone() {
            ended.insert(0, Ended { key, exit_code, timed_out, output: text.clone() });
            ended.truncate(RUNS_KNOWN);
            files::write_record(&ends, &ended)?;
        }
        files::forget(&file)?;
        files::forget(&output)?;
        Ok(RunOutcome { exit_code, timed_out, output: text })
    }
}

/// How a run that had a key ended.
#[derive(Serialize, Deserialize)]
struct Ended {
    key: String,
    exit_code: Option<i32>,
    timed_out: bool,
    output: String,
}

fn artifact(source: &Source) -> Option<&Artifact> {
    match source {
        Source::Host => None,
        Source::Artifact { artifact, .. } => Some(artifact),
    }
}

/// Whether the file under this path is the one that was named. Read whole: a date or a size proves nothing.
fn compare(path: &str, wanted: &Digest) -> Result<(), ProviderError> {
    let mut file = fs::File::open(path)
        .map_err(|error| ProviderError::Refused { what: format!("program `{path}`"), reason: error.to_string() })?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(ProviderError::io(format!("reading `{path}`")))?;
    let found = Digest::of_bytes(hash.finalize().into());
    if found == *wanted {
        return Ok(());
    }
    Err(ProviderError::OtherDigest { what: path.to_owned(), wanted: wanted.to_string(), found: found.to_string() })
}

/// The command with its program's full path, or why it cannot be started. Before anything is changed: a typing error
/// in the stack file must not end the member that runs.
fn resolve(what: &str, command: &[String]) -> Result<Vec<String>, ProviderError> {
    let refused = |reason: String| ProviderError::Refused { what: what.to_owned(), reason };
    let Some((program, arguments)) = command.split_first() else {
        return Err(refused("its command is empty".to_owned()));
    };
    let runs =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let found = if program.contains('/') {
        std::path::absolute(program).ok().filter(runs)
    } else {
        PATH.split(':').map(|dir| Path::new(dir).join(program)).find(runs)
    };
    let found = found.ok_or_else(|| {
        let place = if program.contains('/') { "" } else { " in the system's program folders" };
        refused(format!("there is no program `{program}`{place} that may be run"))
    })?;
    let found = found.to_str().ok_or_else(|| refused("the program's path is not UTF-8".to_owned()))?;
    Ok([found.to_owned()].into_iter().chain(arguments.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn a_command_that_cannot_start_says_which_program_is_missing() {
        let argv = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let resolved = resolve("m", &argv(&["sh", "-c", "x"])).unwrap();
        assert!(resolved[0].ends_with("/sh") && resolved[1..] == argv(&["-c", "x"]), "{resolved:?}");
        for (command, word) in [
            (argv(&[]), "empty"),
            (argv(&["no-such-program"]), "`no-such-program` in the system's"),
            (argv(&["./no/such"]), "`./no/such` that"),
            (argv(&["/etc/passwd"]), "may be run"),
        ] {
            let error = resolve("m", &command).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(!error.retryable());
        }
    }
}
