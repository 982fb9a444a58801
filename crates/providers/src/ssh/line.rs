//! The line to a host: its half of the adapter, started over SSH and asked by number; and the forwards of ports. One of
//! each per host and process, opened when it is needed and opened anew when it broke.

use super::{
    calls::{Answer, Ask, Call, Home, Reply},
    connection::{Connection, Proof, Target, quoted},
    error::SshError,
    ways,
};
use berth_infra::ProviderError;
use russh::{ChannelStream, client::Msg};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, WriteHalf},
    sync::{Mutex as Turn, oneshot},
};

/// What goes wrong with every answer is written down this often at most.
const SAY_EVERY: Duration = Duration::from_mins(10);
/// A host that did not answer is tried again beside those who ask, and this often: a round over many cells must not wait
/// for the dead ones.
const REST: Duration = Duration::from_secs(1);
/// Where the program lies that root starts there: in a folder of root's alone, up to the top.
const PROGRAMS: &str = "/usr/local/lib/berth";
/// What tells one loopback from another: the machine since its start, and the network that whoever asks is in there.
const LOOPBACK: &str = "cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/net";

/// A host as this process talks to it.
pub struct Line {
    pub target: Target,
    /// A program that is there already; otherwise our own is brought.
    program: Option<PathBuf>,
    elsewhere: bool,
    /// The host's loopback is our own, as far as it is known: what listens there is reached without a way.
    here: AtomicBool,
    half: Turn<Option<Arc<Half>>>,
    forwards: Turn<Option<Arc<Connection>>>,
    failed: Mutex<Option<(Instant, SshError)>>,
}

/// The other half, running.
struct Half {
    /// Keeps the connection, and with it the other half.
    connection: Connection,
    writer: Turn<WriteHalf<ChannelStream<Msg>>>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>>,
    ended: Arc<AtomicBool>,
    next: AtomicU64,
}

/// The same host and login is one line, whichever cell asks. `elsewhere`: its loopback is not our own, whatever it says.
pub fn line(target: &Target, program: Option<&Path>, elsewhere: bool) -> Arc<Line> {
    static LINES: OnceLock<Mutex<HashMap<String, Arc<Line>>>> = OnceLock::new();
    let mut digest = Sha256::new();
    digest.update(format!("{target:?} {:?} {program:?} {elsewhere} ", target.trust));
    if let Proof::Key(key) = &target.proof {
        digest.update(key.expose_secret());
    }
    let key = format!("{:x}", digest.finalize());
    let mut lines = LINES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let new = || Line {
        target: target.clone(),
        program: program.map(Path::to_owned),
        elsewhere,
        here: AtomicBool::default(),
        half: Turn::default(),
        forwards: Turn::default(),
        failed: Mutex::default(),
    };
    lines.entry(key).or_insert_with(|| Arc::new(new())).clone()
}

impl Line {
    /// Asks the other half, for at most `limit`.
    pub async fn ask(
        self: &Arc<Self>,
        what: &str,
        home: &Home,
        call: Call,
        limit: Duration,
    ) -> Result<Answer, ProviderError> {
        let asked = async {
            let half = self.half().await.map_err(|error| error.about(what))?;
            if self.is_here() {
                // Opened before that was known, it holds the very port that the cell's database needs to start again.
                ways::close(self, home.address);
            }
            half.ask(home, call).await.map_err(|error| error.about(what))
        };
        let late = || ProviderError::NoAnswer { what: format!("{what} on `{}`", self.target.name()) };
        let reply = tokio::time::timeout(limit, asked).await.map_err(|_| late())??;
        reply.answer.map_err(Into::into)
    }

    /// Whether the host is known to be this machine.
    pub fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire)
    }

    /// A stream to a port of the host's.
    pub async fn forward(self: &Arc<Self>, address: &str, port: u16) -> Result<ChannelStream<Msg>, SshError> {
        for last in [false, true] {
            let connection = self.forwards().await?;
            match connection.forward(address, port).await {
                // It broke between two uses.
                Err(SshError::Lost { .. }) if !last => {}
                done => return done,
            }
        }
        Err(self.target.lost())
    }

    async fn forwards(self: &Arc<Self>) -> Result<Arc<Connection>, SshError> {
        let mut kept = self.forwards.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self.open().await?);
        // An SSH server sends small pieces at once only after a command was asked for, whatever that says; before, each
        // waits up to 40 ms for the one before it, and a move never comes close enough to cut over.
        let _ = connection.run("true", b"").await;
        *kept = Some(connection.clone());
        Ok(connection)
    }

    async fn open(self: &Arc<Self>) -> Result<Connection, SshError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, error)) = failed {
            if at.elapsed() >= REST {
                // Whoever asks meanwhile has the old answer at once.
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.clone()));
                let line = self.clone();
                tokio::spawn(async move {
                    let failed = Connection::open(&line.target).await.err().map(|error| (Instant::now(), error));
                    *line.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
                });
            }
            return Err(error);
        }
        let opened = Connection::open(&self.target).await;
        let failed = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        opened
    }

    async fn half(self: &Arc<Self>) -> Result<Arc<Half>, SshError> {
        let mut kept = self.half.lock().await;
        if let Some(half) = kept.as_ref().filter(|half| half.works()) {
            return Ok(half.clone());
        }
        let half = Arc::new(self.start().await?);
        *kept = Some(half.clone());
        Ok(half)
    }

    async fn start(self: &Arc<Self>) -> Result<Half, SshError> {
        let connection = self.open().await?;
        let loopback = connection.run(LOOPBACK, b"").await?;
        let here = !self.elsewhere && own_loopback().is_some_and(|own| own == loopback.out.trim());
        self.here.store(here, Ordering::Release);
        let command = agent_command(&connection, self.program.as_deref()).await?;
        let stream = connection.start(&command).await?;
        let (reader, writer) = tokio::io::split(stream);
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let gone = Gone { waiting: waiting.clone(), ended: ended.clone() };
        let host = self.target.host.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            let mut said: HashMap<String, Instant> = HashMap::new();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(reply) = serde_json::from_str::<Reply>(&line) else { continue };
                if let Some(beside) = &reply.beside {
                    said.retain(|_, at| at.elapsed() < SAY_EVERY);
                    if said.insert(beside.clone(), Instant::now()).is_none() {
                        tracing::warn!(host, "on {host}: {beside}");
                    }
                }
                let asked = gone.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&reply.id);
                // Whoever asked may have given up.
                if let Some(asked) = asked {
                    let _ = asked.send(reply);
                }
            }
            drop(gone);
        });
        Ok(Half { connection, writer: Turn::new(writer), waiting, ended, next: AtomicU64::new(1) })
    }
}

/// Lets everybody go who waits for an answer, however the reading ends.
struct Gone {
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Reply>>>>,
    ended: Arc<AtomicBool>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Half {
    fn works(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && !self.connection.is_closed()
    }

    async fn ask(&self, home: &Home, call: Call) -> Result<Reply, SshError> {
        let lost = || self.connection.target().lost();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = serde_json::to_vec(&Ask { id, home: home.clone(), call }).expect("calls have text keys");
        text.push(b'\n');
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        // Looked at after it is written down: the reader clears what it finds when it ends.
        if !self.works() {
            return Err(lost());
        }
        let written = {
            let mut writer = self.writer.lock().await;
            match writer.write_all(&text).await {
                Ok(()) => writer.flush().await,
                Err(error) => Err(error),
            }
        };
        if written.is_err() {
            self.ended.store(true, Ordering::Release);
            return Err(lost());
        }
        answer.await.map_err(|_| lost())
    }
}

/// What starts the other half: our own program, brought there if it is not, under root's rights.
async fn agent_command(connection: &Connection, program: Option<&Path>) -> Result<String, SshError> {
    let sudo = root(connection).await?;
    let program = match program {
        Some(program) => program.display().to_string(),
        None => bring(connection, sudo).await?,
    };
    // Under systemd it gets a scope of its own: what it starts is then no part of anybody's login, and Postgres is
    // stopped by the signal that it takes for a fast shutdown when the host goes down.
    let scope = "systemd-run --scope --quiet --collect --slice=berth.slice -p KillSignal=SIGINT -p TimeoutStopSec=60";
    let systemd = connection.run("test -d /run/systemd/system", b"").await?.status == 0;
    let scope = if systemd { format!("{scope} -- ") } else { String::new() };
    Ok(format!("exec {sudo}{scope}{} agent", quoted(&program)))
}

/// What makes a command root's: nothing for root.
pub async fn root(connection: &Connection) -> Result<&'static str, SshError> {
    if connection.run("test \"$(id -u)\" = 0", b"").await?.status == 0 {
        return Ok("");
    }
    if connection.run("sudo -n true", b"").await?.status == 0 {
        return Ok("sudo -n ");
    }
    let target = connection.target();
    Err(SshError::NoSudo { host: target.name(), user: target.user.clone() })
}

/// Our own program on the host, under a name that its content gives it. Answers its path.
pub async fn bring(connection: &Connection, sudo: &str) -> Result<String, SshError> {
    let host = connection.target().name();
    let said = connection.must("asking what it is", "uname -sm", b"").await?;
    let own = format!("Linux {}", std::env::consts::ARCH);
    if said.trim() != own {
        return Err(SshError::Unsupported { host, what: format!("is {}, and this program is for {own}", said.trim()) });
    }
    let (text, digest) = own_program().map_err(|reason| SshError::BadKey { reason })?;
    let path = format!("{PROGRAMS}/berth-{}", &digest[..16]);
    if connection.run(&format!("test -x {path}"), b"").await?.status != 0 {
        let script = format!(
            "set -e; umask 022; mkdir -p {PROGRAMS}; new=$(mktemp {path}.XXXXXX); trap 'rm -f $new' EXIT; cat >$new; \
             test \"$(sha256sum <$new | cut -d' ' -f1)\" = {digest}; chmod 755 $new; mv $new {path}"
        );
        connection.must("bringing this program", &format!("{sudo}sh -c {}", quoted(&script)), text).await?;
    }
    let runs = connection.run(&format!("{path} --version"), b"").await?;
    if runs.status != 0 {
        let what = format!("cannot run this program: {}", runs.err.lines().next().unwrap_or("it ended at once"));
        return Err(SshError::Unsupported { host, what });
    }
    // Each version leaves one. What could not be tidied up is no reason not to work.
    let tidied = connection.run(&format!("{sudo}sh -c {}", quoted(&tidy(PROGRAMS, &path))), b"").await?;
    if tidied.status != 0 {
        tracing::warn!(host, "old programs of Berth stay in {PROGRAMS} of {host}: {}", tidied.err.trim());
    }
    Ok(path)
}

/// Leaves this program, the newest beside it, and every one that runs: those are what somebody may go back to.
fn tidy(programs: &str, path: &str) -> String {
    let name = "????????????????"; // by their content: nothing else that lies there is ours to delete
    format!(
        "cd {programs} && touch -c {path} && ls -t berth-{name} | tail -n +3 | while read -r old; do \
         readlink /proc/[0-9]*/exe 2>/dev/null | grep -qxF \"{programs}/$old\" || rm -f \"$old\"; done"
    )
}

/// Ours, as [`LOOPBACK`] prints it.
fn own_loopback() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let network = fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{}\n{}", boot.trim(), network.display()))
}

/// The program that runs, and its digest.
fn own_program() -> Result<(&'static [u8], &'static str), String> {
    static OWN: OnceLock<Result<(Vec<u8>, String), String>> = OnceLock::new();
    let own = OWN.get_or_init(|| {
        let text = fs::read("/proc/self/exe").map_err(|error| format!("this program cannot be read: {error}"))?;
        let digest = format!("{:x}", Sha256::digest(&text));
        Ok((text, digest))
    });
    own.as_ref().map(|(text, digest)| (text.as_slice(), digest.as_str())).map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::tidy;
    use std::{fs, process::Command};

    #[test]
    fn old_programs_go_but_the_newest_two_and_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let programs = dir.path().canonicalize().unwrap();
        let at = |n: u32| programs.join(format!("berth-{n:016x}"));
        for n in 1..=5 {
            fs::copy("/bin/sleep", at(n)).unwrap();
            let minute = format!("2026010100{n:02}");
            assert!(Command::new("touch").arg("-t").arg(minute).arg(at(n)).status().unwrap().success());
        }
        fs::write(programs.join("berth-notes"), "not ours").unwrap();
        let mut running = Command::new(at(1)).arg("60").spawn().unwrap();
        // An older one than the newest is what this server brought last: `berth upgrade --back`.
        let script = tidy(programs.to_str().unwrap(), at(3).to_str().unwrap());
        let tidied = Command::new("sh").arg("-c").arg(script).output().unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        assert!(tidied.status.success(), "{}", String::from_utf8_lossy(&tidied.stderr));
        let mut left: Vec<_> =
            fs::read_dir(&programs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort_unstable();
        let name = |n: u32| format!("berth-{n:016x}");
        assert_eq!(left, [name(1), name(3), name(5), "berth-notes".to_owned()]);
    }
}
