//! Which host, as whom, under which key: what every command takes that goes to a host itself. Host keys that were taken
//! once are remembered in a file, and another one is refused.

use super::{
    prepare::USER,
    steps::{failed, say},
    told,
};
use crate::{
    cli::CliError,
    fail::{Failure, FailureExt as _},
};
use berth_providers::ssh::{Connection, Proof, SshError, Target, Trust};
use clap::Args;
use secrecy::SecretString;
use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

/// The file of host keys, where nobody names one.
const KNOWN_HOSTS: &str = "berth.hosts";

#[derive(Args, Clone, Debug)]
pub struct Host {
    /// The host, as NAME or USER@NAME
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    by: By,
}

/// How it is come to.
#[derive(Args, Clone, Debug)]
pub struct By {
    /// The port of its SSH
    #[arg(long, value_name = "PORT", default_value_t = 22)]
    ssh_port: u16,
    /// A private key in OpenSSH's form. Default: the keys of your SSH agent
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The fingerprint of its host key. Default: the one taken earlier, else the one it shows is asked about
    #[arg(long, value_name = "SHA256:…")]
    host_key: Option<String>,
    /// Where host keys are remembered: fingerprints only, fit for version control. Default: `berth.hosts` beside the stack
    /// file that the command takes, else in this folder
    #[arg(long, env = "BERTH_KNOWN_HOSTS", value_name = "FILE")]
    known_hosts: Option<PathBuf>,
}

impl Host {
    pub const fn new(host: String, by: By) -> Self {
        Self { host, by }
    }

    pub const fn key_file(&self) -> Option<&PathBuf> {
        self.by.key_file.as_ref()
    }

    pub fn name(&self) -> &str {
        self.host.rsplit_once('@').map_or(self.host.as_str(), |(_, name)| name)
    }

    /// Host keys are remembered beside this stack file, where nobody named a file for them.
    pub fn beside(&mut self, stack_file: &Path) {
        self.by.known_hosts.get_or_insert_with(|| stack_file.with_file_name(KNOWN_HOSTS));
    }

    fn known_hosts(&self) -> &Path {
        self.by.known_hosts.as_deref().unwrap_or(Path::new(KNOWN_HOSTS))
    }

    fn user(&self) -> &str {
        self.host.rsplit_once('@').map_or("root", |(user, _)| user)
    }

    pub const fn port(&self) -> u16 {
        self.by.ssh_port
    }

    /// The key of `--key-file`; `None`: the agent's are used.
    pub fn key(&self) -> Result<Option<SecretString>, Failure> {
        let Some(path) = self.key_file() else { return Ok(None) };
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::ours(error, format!("the key file {}", path.display()), ""))?;
        Ok(Some(text.into()))
    }

    fn target(&self, user: &str, trust: Trust) -> Result<Target, Failure> {
        let proof = self.key()?.map_or(Proof::Agent, Proof::Key);
        Ok(Target { host: self.name().to_owned(), port: self.port(), user: user.to_owned(), proof, trust })
    }

    /// The first connection of a command: the host key is settled by it. `yes`: one that was never seen is taken.
    pub async fn open(&self, yes: bool) -> Result<Connection, Failure> {
        let known = match &self.by.host_key {
            Some(named) => Some(named.clone()),
            None => remembered(self.known_hosts(), &self.line_name()),
        };
        let door = remembered(self.known_hosts(), &self.door_name());
        if let (Some(known), "root") = (&known, self.user())
            && door.as_ref() == Some(known)
        {
            // Root's door is closed since, or will be, and `fail2ban` counts one knock at it as three bad logins: the one
            // that stays is asked for first. But not before it has let us in once: a knock where no door is counts as much,
            // also of the minutes before `fail2ban` came, and runs that were broken off early would end in a ban.
            match Connection::open(&self.target(USER, Trust::Pinned(known.clone()))?).await {
                Ok(connection) => {
                    say(&format!("going on as `{USER}`, whom `{}` lets in", self.name()));
                    return Ok(connection);
                }
                Err(SshError::KeyRefused { .. }) => {}
                Err(other) => return Err(failed(other)),
            }
        }
        let trust = known.clone().map_or(Trust::Nobody, Trust::Pinned);
        match Connection::open(&self.target(self.user(), trust)?).await {
            Err(SshError::HostKeyUnknown { seen, .. }) => {
                say(&format!("`{}` shows the host key {seen}", self.name()));
                say("`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it on the host itself.");
                agree(yes)?;
                let target = self.target(self.user(), Trust::Pinned(seen.clone()))?;
                let connection = Connection::open(&target).await.map_err(failed)?;
                remember(self.known_hosts(), &self.line_name(), &seen)?;
                Ok(connection)
            }
            Err(refused @ SshError::KeyRefused { .. }) if self.user() == "root" && door.is_none() => {
                // Perhaps it was prepared from somewhere else.
                let Some(known) = known else { return Err(failed(refused)) };
                let Ok(connection) = Connection::open(&self.target(USER, Trust::Pinned(known))?).await else {
                    return Err(failed(refused));
                };
                say(&format!("going on as `{USER}`, whom `{}` lets in", self.name()));
                self.remember_door(&connection);
                Ok(connection)
            }
            other => other.map_err(failed),
        }
    }

    /// The door that stays has let us in: it is the first that is tried from now on.
    pub fn remember_door(&self, connection: &Connection) {
        let (file, name, key) = (self.known_hosts(), self.door_name(), connection.fingerprint());
        if remembered(file, &name).as_deref() != Some(key) {
            // Not kept, it costs a knock at root's door the next time; that is no reason to stop.
            drop(remember(file, &name, key));
        }
    }

    /// One more, under the same host key.
    pub async fn again(&self, first: &Connection, user: &str) -> Result<Connection, SshError> {
        let target = Target { user: user.to_owned(), ..first.target().clone() };
        Connection::open(&target).await
    }

    fn line_name(&self) -> String {
        format!("{}:{}", self.name(), self.port())
    }

    fn door_name(&self) -> String {
        format!("{USER}@{}", self.line_name())
    }
}

fn agree(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !can_be_asked() {
        return Err(Failure::request(
            "nobody has said that this is the host",
            "name its key with `--host-key`, or `--yes`",
        ));
    }
    ask("Is this the host?")
}

fn can_be_asked() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// After what would be changed was shown, and unless somebody has said yes beforehand. As every command: without a terminal
/// there is nobody to ask, and nothing happens.
pub async fn agree_to_changes(name: &str) -> Result<(), Failure> {
    if !can_be_asked() {
        return Err(told(CliError::NobodyToAsk));
    }
    let question = format!("Do this on `{name}`?");
    // Beside the connection, which would be taken for dead by the time that somebody has read it all.
    tokio::task::spawn_blocking(move || ask(&question)).await.ours("the terminal")?
}

fn ask(question: &str) -> Result<(), Failure> {
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ours("the terminal")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::request("nothing was changed", "")),
    }
}

/// Lines of `host:port fingerprint`, and of `user@host:port fingerprint` where that user was let in; the last one counts.
fn remembered(file: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|key| key.trim().to_owned())
}

fn remember(file: &Path, name: &str, key: &str) -> Result<(), Failure> {
    let mut open = fs::OpenOptions::new();
    let written = open.create(true).append(true).open(file).and_then(|mut file| writeln!(file, "{name} {key}"));
    written.map_err(|error| {
        let hint = "name another with `--known-hosts`, or the key with `--host-key`";
        Failure::ours(error, format!("remembering the host key in {}", file.display()), hint)
    })
}

#[cfg(test)]
mod tests {
    use super::{Host, remember, remembered};
    use clap::{Args as _, FromArgMatches as _};
    use std::path::Path;

    #[test]
    fn host_keys_lie_beside_the_stack_file_where_nobody_names_another() {
        let host = |words: &[&str]| {
            let words = ["berth", "a"].iter().chain(words);
            let matches = Host::augment_args(clap::Command::new("berth")).try_get_matches_from(words).unwrap();
            Host::from_arg_matches(&matches).unwrap()
        };
        let mut here = host(&[]);
        assert_eq!(here.known_hosts(), Path::new("berth.hosts"));
        here.beside(Path::new("deploy/berth.yaml"));
        assert_eq!(here.known_hosts(), Path::new("deploy/berth.hosts"));
        let mut named = host(&["--known-hosts", "keys"]);
        named.beside(Path::new("deploy/berth.yaml"));
        assert_eq!(named.known_hosts(), Path::new("keys"));
    }

    #[test]
    fn a_host_key_is_remembered_for_its_host_and_port_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        assert_eq!(remembered(&file, "a:22"), None);
        remember(&file, "a:22", "SHA256:one").unwrap();
        remember(&file, "a:2222", "SHA256:two").unwrap();
        assert_eq!(remembered(&file, "a:22").as_deref(), Some("SHA256:one"));
        assert_eq!(remembered(&file, "a:2222").as_deref(), Some("SHA256:two"));
        assert_eq!(remembered(&file, "b:22"), None);
        assert_eq!(remembered(&file, "berth-ssh@a:22"), None);
        remember(&file, "berth-ssh@a:22", "SHA256:three").unwrap();
        assert_eq!(remembered(&file, "berth-ssh@a:22").as_deref(), Some("SHA256:three"));
        assert_eq!(remembered(&file, "a:22").as_deref(), Some("SHA256:one"));
    }
}
