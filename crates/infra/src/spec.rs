//! What is asked of a provider and what it answers. Never a provider's own words: those stay in its adapter.

use crate::name::{DatabaseName, MemberName};
use berth_domain::{Artifact, CellName, ServiceName};
use berth_pg::Tls;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

/// The cpu, memory and disk that a member or database is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub cpu_millis: u32,
    pub memory_mb: u32,
    pub disk_gb: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { cpu_millis: 1000, memory_mb: 256, disk_gb: 10 }
    }
}

/// The writable Postgres of one cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellSpec {
    pub name: DatabaseName,
    /// The label under which a sweep finds it again.
    pub cell: CellName,
    pub shape: Shape,
    /// A Redis beside it.
    pub redis: Option<RedisUse>,
    /// A place for objects beside it.
    pub objects: bool,
}

/// What a cell's Redis is to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisUse {
    /// What is in it can be had again: the least used goes when it is full, and nothing outlives a restart.
    Cache,
    /// The only place of what is in it: nothing is evicted, every write is on disk before it is acknowledged.
    Store,
}

/// Who connects to a cell's Postgres, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Copies, follows and fences.
    Mover,
    /// Owns the application's schema; `migrate` runs as it.
    Owner,
    /// Owns nothing; the services run as it.
    App,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Mover, Self::Owner, Self::App];

    /// The role's name in Postgres.
    pub const fn user(self) -> &'static str {
        match self {
            Self::Mover => "berth_mover",
            Self::Owner => "berth_owner",
            Self::App => "berth_app",
        }
    }
}

/// How one role gets in.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: SecretString,
}

/// A cell's Postgres as it was last seen, running and accepting connections.
#[derive(Clone, Debug)]
pub struct CellDatabase {
    pub name: DatabaseName,
    pub host: String,
    pub port: u16,
    /// The folder of its Unix socket, where there is one on this machine.
    pub socket_dir: Option<PathBuf>,
    pub database: String,
    pub logins: BTreeMap<Role, Login>,
    /// `server_version_num`, such as 150014.
    pub version: u32,
    /// Free space where the data lies; `None` where the provider does not say.
    pub free_disk_bytes: Option<u64>,
    /// `redis://` address of the cell's Redis, its password in it, where there is one.
    pub redis: Option<SecretString>,
    /// Where the cell's objects lie, as a URL (`file:///…`), where there is such a place.
    pub objects: Option<String>,
    /// How it is come to over networks of others.
    pub tls: Option<Tls>,
}

impl CellDatabase {
    pub fn login(&self, role: Role) -> &Login {
        self.logins.get(&role).expect("an adapter answers with a login for every role")
    }

    /// `postgres://user:password@host:port/database` over TCP, as applications take it in `DATABASE_URL`.
    pub fn url(&self, role: Role) -> SecretString {
        self.url_of(role, &self.database)
    }

    /// The same for another database of the same server.
    pub fn url_of(&self, role: Role, database: &str) -> SecretString {
        let login = self.login(role);
        let tls = self.tls.as_ref().map_or_else(String::new, |tls| {
            let roots = tls.roots.as_ref().map_or("system".into(), |path| path.to_string_lossy());
            format!("?sslmode=verify-full&sslrootcert={}", percent(&roots))
        });
        format!(
            "postgres://{}:{}@{}:{}/{}{tls}",
            percent(&login.user),
            percent(login.password.expose_secret()),
            self.host,
            self.port,
            percent(database)
        )
        .into()
    }
}

/// Everything but unreserved characters, so that no password ends the part of the URL that it stands in.
fn percent(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

/// One variable of a process's environment. Secret or not, it is never logged and never in an argument list.
#[derive(Clone, Debug)]
pub struct EnvVar {
    pub name: String,
    pub value: SecretString,
}

impl EnvVar {
    pub fn new(name: impl Into<String>, value: impl Into<SecretString>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Who pulls from a registry.
#[derive(Clone, Debug)]
pub struct RegistryLogin {
    /// The registry's host, with its port.
    pub host: String,
    pub user: String,
    pub password: SecretString,
}

/// Where the program of a process comes from.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// The host of the cell: the command's first word, whatever lies there.
    #[default]
    Host,
    /// Exactly this. Of a program, the command's first word is its path. Of an image, the command is what is run in it,
    /// and an empty one is the image's own.
    Artifact { artifact: Artifact, login: Option<RegistryLogin> },
}

/// One running copy of one service.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    pub name: MemberName,
    pub cell: CellName,
    pub service: ServiceName,
    pub index: u16,
    pub source: Source,
    /// Program and arguments; no shell reads it.
    pub command: Vec<String>,
    /// Without `PORT`, which the adapter adds.
    pub env: Vec<EnvVar>,
    /// 0: the adapter chooses one and keeps it for as long as the member exists.
    pub port: u16,
    /// `None` for a service that listens on nothing: it is healthy while it runs.
    pub health_path: Option<String>,
    pub shape: Shape,
}

/// How a member is kept to its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// Memory and cpu are bounded by the kernel for the whole process tree.
    Cgroup,
    /// Only what one process may map and open is bounded.
    Rlimits,
    /// The provider sees to it.
    Provider,
}

/// What the last look at a member's health path said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It runs and has not answered its health path yet.
    Starting,
    Healthy,
    /// It runs, and its health path says otherwise or nothing.
    Unhealthy {
        reason: String,
    },
    /// It exists and does not run: it ended, was killed, or the machine came back.
    Stopped {
        reason: String,
    },
}

/// What a member has used. Both are of everything that it started as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberLoad {
    /// Processor time since the process began.
    pub cpu_ms: u64,
    /// Memory that it holds now.
    pub memory_bytes: u64,
}

/// A member as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: MemberName,
    pub cell: CellName,
    pub service: ServiceName,
    pub index: u16,
    /// An address or a name; `https://` before it where TLS is spoken.
    pub host: String,
    pub port: u16,
    pub health: Health,
    pub confinement: Confinement,
    /// Starts since it was made: above 1, something ended it.
    pub starts: u32,
    /// The process, where there is one on this machine.
    pub pid: Option<u32>,
}

/// The machine that a cell stands on, as it was last looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The distribution, as it names itself.
    pub system: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
    /// Where the cells' data lies.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    /// Processes that ran or waited to, on average over the last minute.
    pub load_1m: f64,
}

/// How another process of Berth gets into a cell without the control plane.
#[derive(Clone, Debug)]
pub struct Way {
    /// In the words of the adapter that made it; a key that opens nothing but the cell's ports is among them.
    pub settings: SecretString,
}

/// A command that runs to its end: `migrate`, a tenant hook.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// What it is, for messages: `migrate of cell fra-1`.
    pub what: String,
    pub cell: CellName,
    pub source: Source,
    pub command: Vec<String>,
    pub env: Vec<EnvVar>,
    pub time_limit: Duration,
    pub shape: Shape,
    /// Asked for again under the same key it is the same run: it is waited for, or its end is told again. Only where the
    /// one who ran it died in the middle is it ended and run anew. `None`: each is a run of its own.
    pub key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// `None`: ended by a signal, or by us at the time limit.
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    /// Standard output and error as they came, the last 64 KiB of them.
    pub output: String,
}

impl RunOutcome {
    pub fn succeeded(&self) -> bool {
        self.exit_code == Some(0) && !self.timed_out
    }
}

/// Something that carries our label, for the sweep that removes what no row claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed<N> {
    pub name: N,
    pub cell: CellName,
}

#[cfg(test)]
mod tests {
    use super::{CellDatabase, Login, Role, Tls};
    use crate::DatabaseName;
    use secrecy::ExposeSecret;

    #[test]
    fn a_password_cannot_end_its_part_of_the_url() {
        let login = |role: Role| (role, Login { user: role.user().into(), password: "p@/:?#%".into() });
        let database = CellDatabase {
            name: DatabaseName::new("a").unwrap(),
            host: "127.0.0.1".into(),
            port: 5432,
            socket_dir: None,
            database: "app".into(),
            logins: Role::ALL.map(login).into(),
            version: 150_000,
            free_disk_bytes: None,
            redis: None,
            objects: None,
            tls: None,
        };
        assert_eq!(
            database.url(Role::App).expose_secret(),
            "postgres://berth_app:p%40%2F%3A%3F%23%25@127.0.0.1:5432/app"
        );
        assert!(!format!("{database:?}").contains("p@/"), "a password shows in Debug");
        let over_tls = CellDatabase { tls: Some(Tls { roots: Some("/etc/a b".into()) }), ..database };
        assert!(
            over_tls.url(Role::App).expose_secret().ends_with("/app?sslmode=verify-full&sslrootcert=%2Fetc%2Fa%20b")
        );
    }
}
