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
/// While a swap is under way: the digest of the one that ran before it. A run that is cut off leaves it.
const BEGUN: &str = "/usr/local/bin/berth.begun";
const RESTART_SERVE: &str = "systemctl reset-failed berth-serve; systemctl restart berth-serve";
/// One that does not run has no sockets to hand over.
const FOLLOW_EDGE: &str = "if systemctl is-active -q berth-edge; then systemctl reload berth-edge; else \
                           systemctl reset-failed berth-edge; systemctl restart berth-edge; fi";
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
    /// It said that it serves, and does since.
    active: bool,
    /// Of the program that runs; `None`: none does.
    digest: Option<String>,
    /// An edge's name.
    pub name: Option<String>,
    /// What serve says of itself.
    pub version: Option<Version>,
}

impl Found {
    /// Not one that has failed, or that systemd starts again and again.
    pub const fn runs(&self) -> bool {
        self.active
    }
}

/// What a machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub serve: Option<Found>,
    pub edge: Option<Found>,
    /// Something answers where serve does.
    answers: bool,
    program: Option<String>,
    before: Option<String>,
    begun: Option<String>,
}

/// For `sh`: what process `$pid` was given as an option, else in a variable. Its user, who is not root, writes both, so that
/// the word is one line, and nothing of it is ever run.
fn given(option: &str, variable: &str) -> String {
    format!(
        "{{ tr '\\0' '\\n' <\"/proc/$pid/cmdline\" | sed -n -e '/^{option}$/{{n;p;}}' -e 's/^{option}=//p'
            tr '\\0' '\\n' <\"/proc/$pid/environ\" | sed -n 's/^{variable}=//p'; }} 2>/dev/null | head -n 1"
    )
}

/// For `sh`: where process `$pid`, an edge, says that it serves. Of the characters of addresses alone.
fn admin() -> String {
    format!("{} | tr -cd '0-9a-fA-F.:[]'", given("--admin", "BERTH_EDGE_ADMIN"))
}

pub async fn look(machine: &Machine) -> Result<Look, Failure> {
    // A unit that was never started, or was stopped by a person, is not there. `echo` would make lines of `\n` in a name.
    let script = format!(
        "say() {{ printf '%s %s\\n' \"$1\" \"$2\"; }}
         for unit in berth-serve berth-edge; do
           test \"$(systemctl show -p LoadState --value $unit 2>/dev/null)\" = loaded || continue
           state=$(systemctl is-active $unit); test \"$state\" = inactive && continue
           case \"$state\" in active|reloading) say $unit.active yes;; esac
           pid=$(systemctl show -p MainPID --value $unit); say $unit \"${{pid:-0}}\"
           test \"${{pid:-0}}\" = 0 && continue
           say $unit.digest \"$(sha256sum <\"/proc/$pid/exe\" | cut -d' ' -f1)\"
           name=$({}); say $unit.name \"${{name:-edge}}\"
         done
         head=$(curl -s -m 5 -o /dev/null -D - http://127.0.0.1:7600/v1/status | tr -d '\\r')
         test -n \"$head\" && say answers yes
         say version \"$(printf '%s\\n' \"$head\" | sed -n 's/^berth-version: //Ip' | head -n 1)\"
         for file in {PROGRAM} {BEFORE}; do test -f $file && say $file \"$(sha256sum <$file | cut -d' ' -f1)\"; done
         test -f {BEGUN} && say begun \"$(head -n 1 {BEGUN})\"; true",
        given("--name", "BERTH_EDGE_NAME")
    );
    let hint = "it has to be a Linux with systemd, sha256sum and curl, as `berth up` makes one; nothing was changed";
    Ok(read_look(&machine.must("looking at what runs", &script, b"", hint).await?))
}

fn read_look(said: &str) -> Look {
    let fact = |name: &str| {
        let mut lines = said.lines().filter_map(|line| line.trim().split_once(' '));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let unit = |unit: Unit| {
        let pid = fact(&unit.to_string())?.parse().ok()?;
        let active = fact(&format!("{unit}.active")).is_some();
        let digest = fact(&format!("{unit}.digest"));
        let name = fact(&format!("{unit}.name")).filter(|_| unit == Unit::Edge);
        let version = fact("version").filter(|_| unit == Unit::Serve).and_then(|text| text.parse().ok());
        Some(Found { pid, active, digest, name, version })
    };
    Look {
        serve: unit(Unit::Serve),
        edge: unit(Unit::Edge),
        answers: fact("answers").is_some(),
        program: fact(PROGRAM),
        before: fact(BEFORE),
        begun: fact("begun"),
    }
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

    /// Its unit is there, and nothing answers in its place.
    pub const fn is_silent(&self) -> bool {
        self.serve.is_some() && !self.answers
    }

    /// Units start it, whether they run it or not.
    pub fn is_in_place(&self, brought: &Brought) -> bool {
        self.program.as_ref() == Some(&brought.digest)
    }

    /// A swap was begun and is not at its end.
    pub const fn is_begun(&self) -> bool {
        self.begun.is_some()
    }

    fn ran(&self, digest: &str) -> bool {
        let mut units = [&self.serve, &self.edge].into_iter().flatten();
        units.any(|found| found.runs() && found.digest.as_deref() == Some(digest))
    }

    /// It ran when this was seen, or when the swap was begun that is under way.
    fn is_known_good(&self, digest: &str) -> bool {
        self.ran(digest) || self.begun.as_deref() == Some(digest)
    }

    /// In words, after something went wrong.
    pub fn told(&self, brought: &Brought) -> String {
        let unit = |unit: Unit| {
            let found = self.unit(unit)?;
            let what = match found.digest.as_ref().filter(|_| found.runs()) {
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

/// What is kept as the program before, when another one takes the place of the one that units start.
#[derive(Debug, PartialEq, Eq)]
enum Kept<'a> {
    /// The one in place.
    Program(Option<&'a str>),
    /// The one that is kept already: the one in place never ran.
    Before(&'a str),
}

fn kept(look: &Look) -> Kept<'_> {
    let (program, before) = (look.program.as_deref(), look.before.as_deref());
    match before.filter(|before| look.is_known_good(before)) {
        Some(before) if !program.is_some_and(|program| look.ran(program)) => Kept::Before(before),
        _ => Kept::Program(program.filter(|program| look.is_known_good(program))),
    }
}

/// Brings the program and puts it in the place of the one that units start, which is kept. Whether anything was to do.
pub async fn put(machine: &Machine, look: &Look, brought: &Brought) -> Result<bool, Failure> {
    if look.is_in_place(brought) {
        return Ok(false);
    }
    let digest = &brought.digest;
    // Moved into place: a program that runs cannot be written to.
    let script = format!(
        "set -e; umask 022; new=$(mktemp {PROGRAM}.XXXXXX); trap 'rm -f $new' EXIT; cat >$new
         test \"$(sha256sum <$new | cut -d' ' -f1)\" = {digest} || {{ echo 'it has another digest there' >&2; exit 1; }}
         chmod 755 $new; $new version --json; mv -f $new {PROGRAM}.next"
    );
    let said = machine.must("bringing the program", &script, &brought.bytes, "nothing was changed").await?;
    let there: Program = serde_json::from_str(&said).map_err(|error| {
        Failure::ours(error, format!("what the program says of itself on {}", machine.name()), "nothing was changed")
    })?;
    if there != brought.about {
        let what =
            format!("the program says {} here and {} on {}", brought.about.version, there.version, machine.name());
        return Err(Failure::request(what, "nothing was changed"));
    }
    // Said first: a run that is cut off here is known by it.
    let (keeps, good) = match kept(look) {
        Kept::Program(good) => {
            (format!("test ! -f {PROGRAM} || test {PROGRAM} -ef {BEFORE} || ln -f {PROGRAM} {BEFORE}; "), good)
        }
        Kept::Before(good) => (String::new(), Some(good)),
    };
    let begun = good.map_or_else(
        || format!("rm -f {BEGUN}; "),
        |good| format!("echo {good} >{BEGUN}.next; mv -f {BEGUN}.next {BEGUN}; "),
    );
    let script = format!("set -e; umask 022; {begun}{keeps}mv -f {PROGRAM}.next {PROGRAM}");
    let hint = "its units run what they ran; the same command goes on";
    machine.must("putting the program in place", &script, b"", hint).await?;
    Ok(true)
}

/// The swap is at its end: what is kept as the program before is from then on an earlier one.
pub async fn settle(machine: &Machine) -> Result<(), Failure> {
    let hint = "remove that file there";
    machine.must("ending the swap", &format!("rm -f {BEGUN}"), b"", hint).await?;
    Ok(())
}

/// Starts the unit with the program that is in place: `serve` anew, an edge by handing its sockets over where it runs.
/// Returns when it serves, as it is then.
pub async fn start(machine: &Machine, unit: Unit, before: &Found, brought: &Brought) -> Result<Found, Failure> {
    // A unit is ready when it answers, and systemd waits for that.
    let script = match unit {
        Unit::Serve => RESTART_SERVE,
        Unit::Edge => FOLLOW_EDGE,
    };
    if !machine.is(script).await? {
        return Err(Failure::request(format!("{unit} does not start: {}", last_words(machine, unit).await?), ""));
    }
    if unit == Unit::Edge {
        follow(machine, before, &brought.digest).await?;
    }
    let now = look(machine).await?;
    let found = now.unit(unit).cloned();
    let found = found.ok_or_else(|| Failure::request(format!("{unit} was started, and is stopped again"), ""))?;
    if unit == Unit::Serve && found.version.as_ref() != Some(&brought.about.version) {
        let says = found.version.map_or_else(|| "nothing".to_owned(), |version| version.to_string());
        return Err(Failure::request(format!("berth-serve answers, and says {says} of its version"), ""));
    }
    Ok(found)
}

/// What the unit's program wrote last, without what systemd says of it.
async fn last_words(machine: &Machine, unit: Unit) -> Result<String, Failure> {
    let script = format!(
        "journalctl -u {unit} -n 60 --no-pager -o cat | grep -v -e '^{unit}.service: ' -e ' {unit}.service - ' -e 'This usually indicates' | tail -n 8"
    );
    Ok(machine.run(&script, b"").await?.out.trim().to_owned())
}

/// Until another process is the edge's main one, runs that program, and serves.
async fn follow(machine: &Machine, before: &Found, digest: &str) -> Result<(), Failure> {
    let until = Instant::now() + EDGE_LIMIT;
    let script = format!(
        "pid=$(systemctl show -p MainPID --value berth-edge)
         test \"${{pid:-0}}\" != 0 && test \"$pid\" != {} || exit 1
         test \"$(sha256sum <\"/proc/$pid/exe\" | cut -d' ' -f1)\" = {digest} || exit 1
         admin=$({}); curl -gfs -m 5 -o /dev/null \"http://${{admin:-127.0.0.1:7603}}/healthz\"",
        before.pid,
        admin()
    );
    while !machine.is(&script).await? {
        if Instant::now() > until {
            let logs = last_words(machine, Unit::Edge).await?;
            let what = format!("no edge of the new program serves after {} s: {logs}", EDGE_LIMIT.as_secs());
            return Err(Failure::request(what, ""));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// Where a failed step leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// The program that ran before takes its place again. Its digest.
    Back(String),
    /// None is known that did: what is in place stays there, and what does not run is started again.
    Stay,
}

/// `then`: before this run did anything.
fn way(then: &Look, now: &Look, brought: &Brought) -> Way {
    let good =
        |before: &&String| **before != brought.digest && (then.is_known_good(before) || now.is_known_good(before));
    match now.before.as_ref().filter(good) {
        Some(before) if now.is_in_place(brought) => Way::Back(before.clone()),
        _ => Way::Stay,
    }
}

/// After a step that failed: the program before takes its place again, in the units that run the brought one or none. What
/// the machine runs then.
pub async fn back(machine: &Machine, then: &Look, brought: &Brought) -> Result<(Way, Look), Failure> {
    let hint = "`systemctl status berth-serve berth-edge` there says more";
    let now = look(machine).await?;
    let way = way(then, &now, brought);
    if let Way::Back(before) = &way {
        // Two names of one file are not moved onto each other.
        let script = format!(
            "set -e; test \"$(sha256sum <{BEFORE} | cut -d' ' -f1)\" = {before}; ln -f {PROGRAM} {PROGRAM}.failed
             test {PROGRAM} -ef {BEFORE} || {{ ln -f {BEFORE} {PROGRAM}.back; mv -f {PROGRAM}.back {PROGRAM}; }}"
        );
        machine.must("putting the program before in its place", &script, b"", hint).await?;
    }
    for unit in [Unit::Edge, Unit::Serve] {
        let brought_runs =
            |found: &Found| matches!(way, Way::Back(_)) && found.digest.as_ref() == Some(&brought.digest);
        let due = |found: &&Found| !found.runs() || brought_runs(found);
        let Some(found) = now.unit(unit).filter(due) else { continue };
        let (script, doing) = match unit {
            Unit::Serve => (RESTART_SERVE, "starting berth-serve"),
            Unit::Edge => (FOLLOW_EDGE, "starting berth-edge"),
        };
        machine.must(doing, script, b"", hint).await?;
        if let (Unit::Edge, Way::Back(before)) = (unit, &way) {
            follow(machine, found, before).await?;
        }
    }
    if matches!(way, Way::Back(_)) {
        settle(machine).await?;
    }
    Ok((way, look(machine).await?))
}

#[cfg(test)]
mod tests {
    use super::{Brought, Found, Kept, Look, Unit, Way, admin, given, kept, read_look, way};
    use crate::server::machine::Machine;
    use berth_wire::Program;
    use std::process::{Command, Stdio};

    fn brought(digest: &str) -> Brought {
        let about = Program { version: "0.2.0".parse().unwrap(), migrations: Vec::new(), workflows: Vec::new() };
        Brought { about, digest: digest.into(), bytes: Vec::new() }
    }

    /// Digests: what serve and the edge run, what is in place, kept, and said to be under way.
    fn looked(serve: &str, edge: &str, program: &str, before: &str, begun: &str) -> Look {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let found = |digest: &str| {
            let active = !digest.is_empty();
            Some(Found { pid: u32::from(active), active, digest: some(digest), name: None, version: None })
        };
        Look {
            serve: found(serve),
            edge: found(edge),
            answers: !serve.is_empty(),
            program: some(program),
            before: some(before),
            begun: some(begun),
        }
    }

    #[test]
    fn what_a_machine_says_is_read_and_told() {
        let look = read_look(
            "berth-serve.active yes\nberth-serve 12\nberth-serve.digest aa\nberth-serve.name edge\nberth-edge 0\nversion 0.1.0\n\
             /usr/local/bin/berth bb\n/usr/local/bin/berth.before aa\n",
        );
        let serve = look.unit(Unit::Serve).unwrap();
        assert_eq!((serve.pid, serve.name.as_deref()), (12, None));
        assert_eq!(serve.version.as_ref().unwrap().to_string(), "0.1.0");
        assert!(serve.runs() && !look.unit(Unit::Edge).unwrap().runs());
        assert!(look.is_silent() && !look.is_begun() && look.is_in_place(&brought("bb")));
        assert_eq!(look.told(&brought("bb")), "berth-serve runs the program before, berth-edge does not run");
        let look = read_look("berth-serve 0\nanswers yes\nversion \nbegun aa\n");
        assert!(!look.is_silent() && look.is_begun());
        assert!(read_look("version \n").is_empty());
    }

    #[test]
    fn the_way_back_leads_only_to_what_ran_before() {
        let back = |digest: &str| Way::Back(digest.into());
        let new = brought("new");
        // A first upgrade; one that was cut off, with an edge that still runs the one before, and with nothing that runs.
        let then = looked("old", "old", "old", "older", "");
        assert_eq!(way(&then, &looked("", "old", "new", "old", "old"), &new), back("old"));
        assert_eq!(way(&looked("", "old", "new", "old", ""), &looked("", "old", "new", "old", ""), &new), back("old"));
        assert_eq!(way(&looked("", "", "new", "old", "old"), &looked("", "", "new", "old", "old"), &new), back("old"));
        // `--again` of what runs: what is kept is of an upgrade that ended.
        let then = looked("new", "new", "new", "old", "");
        assert_eq!(way(&then, &looked("", "new", "new", "old", ""), &new), Way::Stay);
        // Nothing is kept; what is kept is the same; it was not put in place yet.
        assert_eq!(way(&then, &looked("", "new", "new", "", ""), &new), Way::Stay);
        assert_eq!(way(&then, &looked("", "new", "new", "new", "new"), &new), Way::Stay);
        let then = looked("old", "old", "old", "older", "");
        assert_eq!(way(&then, &then, &new), Way::Stay);
    }

    #[test]
    fn what_never_ran_does_not_displace_the_program_before() {
        assert_eq!(kept(&looked("old", "old", "old", "older", "")), Kept::Program(Some("old")));
        // One was put in place, and the run was cut off before it started: the one before is still the one that runs.
        assert_eq!(kept(&looked("old", "old", "broken", "old", "old")), Kept::Before("old"));
        assert_eq!(kept(&looked("", "", "broken", "old", "old")), Kept::Before("old"));
        // Half of it ran the one in place.
        assert_eq!(kept(&looked("new", "old", "new", "old", "old")), Kept::Program(Some("new")));
        // One that is started again and again is not one that ran.
        let mut looping = looked("old", "broken", "broken", "old", "");
        looping.edge.as_mut().unwrap().active = false;
        assert_eq!(kept(&looping), Kept::Before("old"));
        // Nobody knows which of them runs.
        assert_eq!(kept(&looked("", "", "new", "old", "")), Kept::Program(None));
        assert_eq!(kept(&looked("", "", "", "", "")), Kept::Program(None));
    }

    #[tokio::test]
    async fn what_a_process_says_of_itself_is_one_word_that_nothing_runs() {
        let asked = async |words: &[&str], variable: Option<(&str, &str)>, script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", "read line", "edge"]).args(words).stdin(Stdio::piped()).env_clear();
            command.envs(variable);
            let mut child = command.spawn().unwrap();
            let script = format!("pid={}; said=$({script}); printf '%s %s\\n' said \"$said\"", child.id());
            let said = Machine::Here(None).must("asking", &script, b"", "").await.unwrap();
            drop(child.stdin.take());
            child.wait().unwrap();
            said
        };
        let (name, at) = (given("--name", "BERTH_EDGE_NAME"), admin());
        let forged = r"a\nberth-serve 1";
        assert_eq!(asked(&["--name", forged], None, &name).await, format!("said {forged}\n"));
        assert_eq!(asked(&["--name", "a\nberth-serve 1"], None, &name).await, "said a\n");
        assert_eq!(asked(&["--name=b"], Some(("BERTH_EDGE_NAME", "c")), &name).await, "said b\n");
        assert_eq!(asked(&[], Some(("BERTH_EDGE_NAME", "c")), &name).await, "said c\n");
        assert_eq!(asked(&["--admin", "[::1]:7603"], None, &at).await, "said [::1]:7603\n");
        assert_eq!(asked(&["--admin", "-o /etc/x $(id) 10.0.0.1:80"], None, &at).await, "said ecd10.0.0.1:80\n");
        assert_eq!(asked(&[], None, &at).await, "said \n");
    }
}
