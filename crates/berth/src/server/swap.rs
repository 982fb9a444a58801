//! One machine's programs: which one its units run, another one put beside it, units started with that, and the way back.
//! Knows the units that `berth up` makes. Never decides whether, or in which order.

use super::machine::Machine;
use crate::fail::Failure;
use berth_domain::Version;
use berth_wire::Program;
use sha2::{Digest as _, Sha256};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{process::Command, time::timeout};

/// What the units start.
const PROGRAM: &str = "/usr/local/bin/berth";
/// What they started before, for the way back.
const BEFORE: &str = "/usr/local/bin/berth.before";
const SAYS_LIMIT: Duration = Duration::from_secs(20);
/// An edge that follows says that it serves within two minutes, or is given up by the one before it.
const EDGE_LIMIT: Duration = Duration::from_secs(150);

/// The program that is brought.
pub struct Brought {
    pub about: Program,
    pub digest: String,
    bytes: Vec<u8>,
}

impl Brought {
    /// `None`: this very program.
    pub async fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let about = match path {
            None => berth_control::upgrade::program(),
            Some(path) => says(path).await?,
        };
        let file = path.unwrap_or_else(|| Path::new("/proc/self/exe"));
        let bytes = fs::read(file).map_err(|error| Failure::ours(error, format!("reading {}", file.display()), ""))?;
        let digest = format!("{:x}", Sha256::digest(&bytes));
        Ok(Self { about, digest, bytes })
    }
}

/// What a program says of itself.
async fn says(path: &Path) -> Result<Program, Failure> {
    let path: PathBuf =
        fs::canonicalize(path).map_err(|error| Failure::ours(error, format!("the program {}", path.display()), ""))?;
    let refused = |why: String| {
        let what = format!("{} does not say which version of Berth it is: {why}", path.display());
        Failure::request(what, "`--to` takes a program of this machine's kind; versions before 0.1 do not say it")
    };
    let mut command = Command::new(&path);
    command.args(["version", "--json"]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = match timeout(SAYS_LIMIT, command.output()).await {
        Ok(Ok(ended)) => ended,
        Ok(Err(error)) => return Err(refused(error.to_string())),
        Err(_) => return Err(refused("it does not end".to_owned())),
    };
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&ended.stderr);
        refused(said.lines().next().map_or_else(|| error.to_string(), str::to_owned))
    })
}

/// A unit that `berth up` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Serve,
    Edge,
}

impl Unit {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Edge => "edge",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "berth-{}", self.word())
    }
}

/// A unit as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pid: u32,
    /// Of the program that runs; `None`: none does.
    digest: Option<String>,
    /// An edge's name.
    pub name: Option<String>,
    /// What serve says of itself.
    pub version: Option<Version>,
}

/// What a machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub serve: Option<Found>,
    pub edge: Option<Found>,
    program: Option<String>,
    before: Option<String>,
}

pub async fn look(machine: &Machine) -> Result<Look, Failure> {
    // A unit that was never started, or was stopped by a person, is not there.
    let script = format!(
        "for unit in berth-serve berth-edge; do
           test \"$(systemctl show -p LoadState --value $unit 2>/dev/null)\" = loaded || continue
           test \"$(systemctl is-active $unit)\" = inactive && continue
           pid=$(systemctl show -p MainPID --value $unit); echo \"$unit ${{pid:-0}}\"
           test \"${{pid:-0}}\" = 0 && continue
           echo \"$unit.digest $(sha256sum </proc/$pid/exe | cut -d' ' -f1)\"
           name=$(tr '\\0' '\\n' </proc/$pid/cmdline | grep -A1 -x -e --name | tail -n1)
           test -n \"$name\" || name=$(tr '\\0' '\\n' </proc/$pid/environ | sed -n 's/^BERTH_EDGE_NAME=//p')
           echo \"$unit.name ${{name:-edge}}\"
         done
         echo \"version $(curl -s -m 5 -o /dev/null -D - http://127.0.0.1:7600/v1/status | tr -d '\\r' | sed -n 's/^berth-version: //Ip')\"
         for file in {PROGRAM} {BEFORE}; do test -f $file && echo \"$file $(sha256sum <$file | cut -d' ' -f1)\"; done; true"
    );
    Ok(read_look(&machine.must("looking at what runs", &script, b"").await?))
}

fn read_look(said: &str) -> Look {
    let fact = |name: &str| {
        let mut lines = said.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let unit = |unit: Unit| {
        let pid = fact(&unit.to_string())?.parse().ok()?;
        let digest = fact(&format!("{unit}.digest"));
        let name = fact(&format!("{unit}.name")).filter(|_| unit == Unit::Edge);
        let version = fact("version").filter(|_| unit == Unit::Serve).and_then(|text| text.parse().ok());
        Some(Found { pid, digest, name, version })
    };
    Look { serve: unit(Unit::Serve), edge: unit(Unit::Edge), program: fact(PROGRAM), before: fact(BEFORE) }
}

impl Look {
    pub const fn is_empty(&self) -> bool {
        self.serve.is_none() && self.edge.is_none()
    }

    pub const fn unit(&self, unit: Unit) -> Option<&Found> {
        match unit {
            Unit::Serve => self.serve.as_ref(),
            Unit::Edge => self.edge.as_ref(),
        }
    }

    /// In words, after something went wrong.
    pub fn told(&self, brought: &Brought) -> String {
        let unit = |unit: Unit| {
            let found = self.unit(unit)?;
            let what = match &found.digest {
                None => "does not run".to_owned(),
                Some(digest) if *digest == brought.digest => format!("runs {}", brought.about.version),
                Some(digest) if self.before.as_ref() == Some(digest) => "runs the program before".to_owned(),
                Some(_) => "runs another program".to_owned(),
            };
            Some(format!("{unit} {what}"))
        };
        [unit(Unit::Serve), unit(Unit::Edge)].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Brings the program and puts it in the place of the one that units start, which is kept. Whether anything was to do.
pub async fn put(machine: &Machine, look: &Look, brought: &Brought) -> Result<bool, Failure> {
    if look.program.as_ref() == Some(&brought.digest) {
        return Ok(false);
    }
    let digest = &brought.digest;
    // Moved into place: a program that runs cannot be written to.
    let script = format!(
        "set -e; umask 022; new=$(mktemp {PROGRAM}.XXXXXX); trap 'rm -f $new' EXIT; cat >$new
         test \"$(sha256sum <$new | cut -d' ' -f1)\" = {digest} || {{ echo 'it has another digest there' >&2; exit 1; }}
         chmod 755 $new; $new version --json; mv -f $new {PROGRAM}.next"
    );
    let said = machine.must("bringing the program", &script, &brought.bytes).await?;
    let there: Program = serde_json::from_str(&said).map_err(|error| {
        Failure::ours(error, format!("what the program says of itself on {}", machine.name()), "nothing was changed")
    })?;
    if there != brought.about {
        let what =
            format!("the program says {} here and {} on {}", brought.about.version, there.version, machine.name());
        return Err(Failure::request(what, "nothing was changed"));
    }
    let script = format!("set -e; test ! -f {PROGRAM} || ln -f {PROGRAM} {BEFORE}; mv -f {PROGRAM}.next {PROGRAM}");
    machine.must("putting the program in place", &script, b"").await?;
    Ok(true)
}

/// Starts the unit with the program that is in place: `serve` anew, an edge by handing its sockets over. Returns when it
/// serves.
pub async fn start(machine: &Machine, unit: Unit, before: &Found, brought: &Brought) -> Result<(), Failure> {
    match unit {
        Unit::Serve => {
            // It is ready when its API answers: the unit waits for that.
            let script = "systemctl reset-failed berth-serve; systemctl restart berth-serve";
            if !machine.is(script).await? {
                let logs = machine.run(&last_words(unit), b"").await?.out;
                return Err(Failure::request(format!("berth-serve does not start: {}", logs.trim()), ""));
            }
            let now = look(machine).await?.serve;
            let version = now.as_ref().and_then(|serve| serve.version.clone());
            if version.as_ref() != Some(&brought.about.version) {
                let says = version.map_or_else(|| "nothing".to_owned(), |version| version.to_string());
                return Err(Failure::request(format!("berth-serve answers, and says {says} of its version"), ""));
            }
            Ok(())
        }
        Unit::Edge => follow(machine, before, &brought.digest).await,
    }
}

/// What the unit's program wrote last, without what systemd says of it.
fn last_words(unit: Unit) -> String {
    format!(
        "journalctl -u {unit} -n 60 --no-pager -o cat | grep -v -e '^{unit}.service: ' -e ' {unit}.service - ' -e 'This usually indicates' | tail -n 8"
    )
}

/// Until another process is the edge's main one, runs that program, and serves.
async fn follow(machine: &Machine, before: &Found, digest: &str) -> Result<(), Failure> {
    machine.must("starting the edge that follows", "systemctl reload berth-edge", b"").await?;
    let until = Instant::now() + EDGE_LIMIT;
    let script = format!(
        "pid=$(systemctl show -p MainPID --value berth-edge); test $pid != {} || exit 1
         test \"$(sha256sum </proc/$pid/exe | cut -d' ' -f1)\" = {digest} || exit 1
         admin=$(tr '\\0' '\\n' </proc/$pid/cmdline | grep -A1 -x -e --admin | tail -n1)
         test -n \"$admin\" || admin=$(tr '\\0' '\\n' </proc/$pid/environ | sed -n 's/^BERTH_EDGE_ADMIN=//p')
         curl -fs -m 5 -o /dev/null http://${{admin:-127.0.0.1:7603}}/healthz",
        before.pid
    );
    while !machine.is(&script).await? {
        if Instant::now() > until {
            let logs = machine.run(&last_words(Unit::Edge), b"").await?.out;
            let what = format!("no edge of the new program serves after {} s: {}", EDGE_LIMIT.as_secs(), logs.trim());
            return Err(Failure::request(what, ""));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// The program before takes its place again, in the units that run the brought one or none. What the machine runs then.
pub async fn back(machine: &Machine, brought: &Brought) -> Result<Look, Failure> {
    let now = look(machine).await?;
    if now.program.as_ref() == Some(&brought.digest) {
        let script = format!(
            "set -e; test -f {BEFORE}; ln -f {PROGRAM} {PROGRAM}.failed; ln -f {BEFORE} {PROGRAM}.back; mv -f {PROGRAM}.back {PROGRAM}"
        );
        machine.must("putting the program before in its place", &script, b"").await?;
    }
    let before = now.before.clone().unwrap_or_default();
    for unit in [Unit::Edge, Unit::Serve] {
        let Some(found) = now.unit(unit).filter(|found| found.digest.as_ref() != Some(&before)) else { continue };
        match unit {
            Unit::Serve => {
                let script = "systemctl reset-failed berth-serve; systemctl restart berth-serve";
                machine.must("starting the program before", script, b"").await?;
            }
            Unit::Edge if found.digest.is_some() => follow(machine, found, &before).await?,
            Unit::Edge => {
                machine.must("starting the edge before", "systemctl restart berth-edge", b"").await?;
            }
        }
    }
    look(machine).await
}

#[cfg(test)]
mod tests {
    use super::{Brought, Unit, read_look};
    use berth_wire::Program;

    #[test]
    fn what_a_machine_says_is_read_and_told() {
        let look = read_look(
            "berth-serve 12\nberth-serve.digest aa\nberth-serve.name edge\nberth-edge 0\nversion 0.1.0\n\
             /usr/local/bin/berth bb\n/usr/local/bin/berth.before aa\n",
        );
        let serve = look.unit(Unit::Serve).unwrap();
        assert_eq!((serve.pid, serve.name.as_deref()), (12, None));
        assert_eq!(serve.version.as_ref().unwrap().to_string(), "0.1.0");
        let about = Program { version: "0.2.0".parse().unwrap(), migrations: Vec::new(), workflows: Vec::new() };
        let brought = Brought { about, digest: "bb".into(), bytes: Vec::new() };
        assert_eq!(look.told(&brought), "berth-serve runs the program before, berth-edge does not run");
        assert!(read_look("version \n").is_empty());
    }
}
