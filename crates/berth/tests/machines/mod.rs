//! Servers for tests: privileged containers with systemd and an SSH server, each with an address of its own. Whatever a
//! test hardens, bans or kills is one of these, never the machine that it runs on.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod control;
pub mod registry;
pub mod secrets;
pub mod tls;

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

pub const BERTH: &str = env!("CARGO_BIN_EXE_berth");
pub const IMAGE: &str = "localhost/berth-test-host:1";
/// What `berth server prepare` installs, so that a test need not wait for a mirror.
const PACKAGES: &str = "openssh-server,systemd,systemd-sysv,dbus,postgresql,sudo,nftables,fail2ban,python3-systemd,\
                        unattended-upgrades,ca-certificates,curl,iproute2,podman";

pub fn run(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).stdin(Stdio::null()).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn must(program: &str, words: &[&str]) -> String {
    let out = run(program, words);
    assert!(out.status.success(), "{program} {words:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// The stack file that servers are set up with.
pub fn stack() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet/berth.yaml");
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

/// What a command printed that went well.
pub fn answer(out: &Output) -> Value {
    assert!(out.status.success(), "{}\n{}", text(&out.stdout), text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// What became of a step of `up` or `prepare`.
pub fn went(answer: &Value, step: &str) -> String {
    let rows = answer["steps"].as_array().unwrap();
    let row = rows.iter().find(|row| row["step"] == step).unwrap_or_else(|| panic!("no step `{step}` in {rows:?}"));
    row["went"].as_str().unwrap().to_owned()
}

/// Those that have packages we want in a part of their own.
const UBUNTU: [&str; 3] = ["jammy", "noble", "resolute"];

/// The base of all servers, made once on a machine. `None`, with a word, where none can be made.
pub fn image() -> Option<()> {
    image_of("bookworm", IMAGE)
}

/// The same of another distribution.
fn image_of(suite: &str, image: &str) -> Option<()> {
    let skipped = |why: &str| {
        eprintln!("skipped: {why}");
        None
    };
    if !Command::new("podman").arg("--version").output().is_ok_and(|out| out.status.success()) {
        return skipped("podman is not installed (Debian: podman, runc)");
    }
    if text(&run("id", &["-u"]).stdout).trim() != "0" {
        return skipped("servers of tests are privileged containers, and this is not root");
    }
    if run("podman", &["image", "exists", image]).status.success() {
        return Some(());
    }
    let tar = format!("/tmp/berth-test-host-{}.tar", Uuid::new_v4().simple());
    let hook = "--essential-hook=mkdir -p \"$1/etc/postgresql-common/createcluster.d\" && \
                echo 'create_main_cluster = false' >\"$1/etc/postgresql-common/createcluster.d/berth.conf\"";
    let include = format!("--include={PACKAGES}");
    let parts = if UBUNTU.contains(&suite) { "--components=main,universe" } else { "--components=main" };
    let made = Command::new("mmdebstrap").args(["--variant=minbase", parts, hook, &include, suite, &tar]).output();
    let made = made.is_ok_and(|out| out.status.success()) && run("podman", &["import", &tar, image]).status.success();
    let _ = fs::remove_file(&tar);
    if made { Some(()) } else { skipped("no Debian could be made for a container (Debian: mmdebstrap, and a mirror)") }
}

/// A server, gone with this.
pub struct Machine {
    pub name: String,
    pub ip: String,
}

impl Machine {
    /// A fresh one that lets root in with this key.
    pub fn start(key: &Path) -> Option<Self> {
        image()?;
        Self::start_from(IMAGE, key)
    }

    /// The same of another distribution, by its name of one word.
    pub fn start_of(suite: &str, key: &Path) -> Option<Self> {
        let image = format!("localhost/berth-test-host-{suite}:1");
        image_of(suite, &image)?;
        Self::start_from(&image, key)
    }

    fn start_from(image: &str, key: &Path) -> Option<Self> {
        let name = format!("berth-test-{}", Uuid::new_v4().simple());
        // As many as most machines let root ask for.
        let limits = "--ulimit nofile=20000:20000 --ulimit nproc=20000:20000";
        // Its own containers lie on a disk of their own: an overlay cannot lie on an overlay.
        let disk = "--volume /var/lib/containers";
        let flags = format!("run --detach --privileged --runtime runc --systemd=always {limits} {disk} --name");
        let mut words: Vec<&str> = flags.split_whitespace().collect();
        // Of its own also after its power was cut.
        let [a, b, ..] = *Uuid::new_v4().as_bytes();
        let (c, d) = (128 + a % 120, 1 + b % 250);
        let ip = format!("10.88.{c}.{d}");
        // With another address on the wire than before, nobody who knows the old one reaches it for ten seconds.
        let mac = format!("02:42:0a:58:{c:02x}:{d:02x}");
        words.extend([name.as_str(), "--ip", &ip, "--mac-address", &mac, image, "/sbin/init"]);
        let started = run("podman", &words);
        if !started.status.success() {
            eprintln!("skipped: podman does not run a privileged container here: {}", text(&started.stderr));
            run("podman", &["rm", "--force", &name]);
            return None;
        }
        let machine = Self { name, ip };
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        machine.sh(&format!("mkdir -p ~root/.ssh && echo '{}' >~root/.ssh/authorized_keys", public.trim()));
        machine.booted();
        machine.sh("rm -f /etc/ssh/ssh_host_* /etc/fail2ban/jail.d/berth.local; ssh-keygen -A; systemctl restart ssh");
        machine.up();
        Some(machine)
    }

    /// Waits until systemd has started what it starts.
    fn booted(&self) {
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            let state = text(&run("podman", &["exec", &self.name, "systemctl", "is-system-running"]).stdout);
            if matches!(state.trim(), "running" | "degraded") {
                return;
            }
            assert!(Instant::now() < until, "the container is {state} after 60 s");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The same, and SSH answers.
    pub fn up(&self) {
        self.booted();
        let until = Instant::now() + Duration::from_secs(30);
        // In some it is started by the first who knocks.
        while !self.try_sh("systemctl is-active -q ssh || systemctl is-active -q ssh.socket").status.success() {
            assert!(Instant::now() < until, "SSH does not run after 30 s");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// As root on the server, past SSH. What it wrote.
    pub fn sh(&self, script: &str) -> String {
        must("podman", &["exec", &self.name, "sh", "-c", script])
    }

    /// The same, where failing is an answer.
    pub fn try_sh(&self, script: &str) -> Output {
        run("podman", &["exec", &self.name, "sh", "-c", script])
    }

    pub fn copy(&self, from: &Path, to: &str) {
        must("podman", &["cp", from.to_str().unwrap(), &format!("{}:{to}", self.name)]);
    }

    /// A server that loses its power, and gets it back.
    pub fn power_cycle(&self) {
        must("podman", &["kill", "--signal", "KILL", &self.name]);
        must("podman", &["start", &self.name]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        run("podman", &["rm", "--force", "--volumes", "--time", "0", &self.name]);
    }
}

/// A folder with a key, and a `berth` small enough to be brought to servers quickly.
pub struct Desk {
    pub dir: PathBuf,
}

impl Desk {
    pub fn new() -> Self {
        let dir = PathBuf::from(format!("/tmp/berth-desk-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(&dir).unwrap();
        keygen(&dir.join("key"));
        let (from, to) = (PathBuf::from(BERTH), dir.join("berth"));
        let stripped = Command::new("strip").arg("-o").arg(&to).arg(&from).output();
        if !stripped.is_ok_and(|out| out.status.success()) {
            fs::copy(&from, &to).unwrap();
        }
        Self { dir }
    }

    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    pub fn berth(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join("berth"));
        command.args(words).env_remove("BERTH_API_KEY").env_remove("DATABASE_URL").env_remove("BERTH_URL");
        command.env("BERTH_KNOWN_HOSTS", self.dir.join("hosts")).stdin(Stdio::null());
        command
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn keygen(file: &Path) {
    must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()]);
}

/// The fleet application's program, which `scripts/test` builds first.
pub fn fleet() -> Option<PathBuf> {
    let fleet = Path::new(BERTH).with_file_name("fleet");
    if fleet.exists() {
        return Some(fleet);
    }
    eprintln!("skipped: {} is not built (`cargo build -p fleet`)", fleet.display());
    None
}
