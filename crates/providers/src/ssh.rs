//! The `ssh` adapter: cells on hosts that are reached over SSH, made and run there by the adapter `local`.
//!
//! The host needs an SSH server and a user with root's rights, nothing of ours: this program brings itself and runs there
//! for as long as the connection lives (`agent.rs`); what it starts lives on. Nothing but SSH is published: databases
//! and members are reached through the connection (`ways.rs`). Never a second host key, and nobody's password.

mod agent;
mod calls;
mod connection;
mod error;
mod line;
mod separation;
mod ways;

pub use agent::run as run_agent;
pub use connection::{Connection, Proof, Said, Target, Trust, quoted, read_key};
pub use error::SshError;
pub use line::{bring, root};
pub use ways::{leave as leave_ways, listen, share as share_ways};

use async_trait::async_trait;
use berth_domain::{Artifact, CellName};
use berth_infra::{
    Adapter, CellDatabase, CellSpec, Compute, Database, DatabaseName, Listed, Machine, Member, MemberLoad, MemberName,
    MemberSpec, Observed, Provider, ProviderError, Reach, ReachTarget, RunOutcome, RunSpec, Source, Stream, Way,
};
use calls::{Answer, Call, DatabaseSaid, Home, MemberAsk, RunAsk, SourceSaid};
use line::Line;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub const ADAPTER: Adapter = Adapter { name: "ssh", build };

/// A look: longer than the host's own looks at Postgres and health path take.
const LOOK: Duration = Duration::from_secs(20);
/// Making or ending something, with everything that is waited for there.
const WORK: Duration = Duration::from_mins(5);
/// A pull, with the time that podman itself is given for it.
const PULL: Duration = Duration::from_mins(11);

/// The adapter's section of the stack file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshOptions {
    #[serde(default)]
    pub cells: BTreeMap<CellName, HostOptions>,
    /// Between SIGTERM and SIGKILL for a member.
    #[serde(default = "default_grace_ms")]
    pub stop_grace_ms: u64,
    /// Options of podman for every call, such as `[--runtime, runc]`. It runs services from images.
    #[serde(default)]
    pub podman: Vec<String>,
}

/// Where one cell is. `berth cell add --host` writes it, sealed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostOptions {
    pub host: String,
    #[serde(default = "default_port")]
    pub port: u16,
    #[serde(default = "default_user")]
    pub user: String,
    /// The private key itself; or a file of the server's machine that holds it.
    #[serde(default)]
    pub key: Option<SecretString>,
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The fingerprint of the host's key. Without one nothing but a first look is done.
    #[serde(default)]
    pub host_key: Option<String>,
    /// Where cells lie on the host.
    #[serde(default = "default_root")]
    pub root: PathBuf,
    /// Members of the cell are a user of their own, and the kernel keeps other cells' from its database.
    #[serde(default = "yes")]
    pub separate: bool,
    /// Berth's program on the host; absent: this one is brought.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// Where the host keeps the keys that let `user` in, if not in `.ssh/authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Option<PathBuf>,
    /// Off only in tests: a power cut may then lose what was acknowledged.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Only in tests, whose host is this very machine and is to be another one: ways to databases begin at this address, and
    /// not at the one where they listen.
    #[serde(default)]
    pub way_from: Option<Ipv4Addr>,
}

fn default_grace_ms() -> u64 {
    30_000
}
fn default_port() -> u16 {
    22
}
fn default_user() -> String {
    "berth-ssh".to_owned()
}
fn default_root() -> PathBuf {
    PathBuf::from("/var/lib/berth-cells")
}
const fn yes() -> bool {
    true
}

/// The address of loopback that a cell has, on its host and wherever a way to it begins. Of four million, by the name:
/// nobody has to remember it.
pub fn address(cell: &CellName) -> Ipv4Addr {
    let digest = Sha256::digest(cell.as_str());
    Ipv4Addr::new(127, 64 | (digest[0] & 63), digest[1], digest[2].clamp(1, 254))
}

/// A cell's host.
struct Host {
    line: Arc<Line>,
    home: Home,
    way_from: Option<Ipv4Addr>,
    way: Mutex<Option<Way>>,
}

#[derive(Clone)]
pub struct Ssh {
    hosts: Arc<BTreeMap<CellName, Host>>,
}

fn build(section: &serde_json::Value) -> Result<Provider, ProviderError> {
    let options = SshOptions::deserialize(section).map_err(|error| ProviderError::Refused {
        what: "the section of an `ssh` provider".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Ssh::new(options)?.provider())
}

/// What another process needs for a way of its own. Handed on sealed or over TLS, as its key is in it.
#[derive(Serialize, Deserialize)]
struct WaySettings {
    address: Ipv4Addr,
    host: String,
    port: u16,
    user: String,
    host_key: String,
    key: String,
}

/// Opens ways to these members of a cell, by what [`Reach::way`] said. Done again it is done once.
pub async fn open_ways(settings: &SecretString, ports: impl IntoIterator<Item = u16>) -> Result<(), ProviderError> {
    let known: WaySettings = serde_json::from_str(settings.expose_secret())
        .map_err(|error| ProviderError::Damaged { what: "a way into a cell".to_owned(), reason: error.to_string() })?;
    let target = Target {
        host: known.host,
        port: known.port,
        user: known.user,
        proof: Proof::Key(known.key.into()),
        trust: Trust::Pinned(known.host_key),
    };
    let line = line::line(&target, None, false);
    for port in ports {
        ways::open(&line, known.address, port, Ipv4Addr::LOCALHOST).await?;
    }
    Ok(())
}

impl Ssh {
    pub fn new(options: SshOptions) -> Result<Self, ProviderError> {
        let (stop_grace_ms, podman) = (options.stop_grace_ms, options.podman);
        let host = |(cell, options): (CellName, HostOptions)| {
            let refused =
                |reason: String| ProviderError::Refused { what: format!("the host of cell `{cell}`"), reason };
            let key = match (options.key, options.key_file) {
                (Some(key), None) => key,
                (None, Some(path)) => fs::read_to_string(&path)
                    .map_err(|error| refused(format!("its key file `{}`: {error}", path.display())))?
                    .into(),
                _ => return Err(refused("it needs exactly one of `key` and `key_file`".to_owned())),
            };
            read_key(&key).map_err(|error| refused(format!("{error}; {}", error.hint())))?;
            let target = Target {
                host: options.host,
                port: options.port,
                user: options.user,
                proof: Proof::Key(key),
                trust: options.host_key.map_or(Trust::Nobody, Trust::Pinned),
            };
            let home = Home {
                root: options.root.join(cell.as_str()),
                address: address(&cell),
                separate: options.separate,
                durable: options.durable,
                stop_grace_ms,
                authorized_keys: options.authorized_keys,
                podman: podman.clone(),
                cell: cell.clone(),
            };
            let way_from = options.way_from;
            let line = line::line(&target, options.program.as_deref(), way_from.is_some());
            Ok((cell, Host { line, home, way_from, way: Mutex::default() }))
        };
        let hosts = options.cells.into_iter().map(host).collect::<Result<_, _>>()?;
        Ok(Self { hosts: Arc::new(hosts) })
    }

    pub fn provider(&self) -> Provider {
        Provider {
            database: Some(Arc::new(self.clone())),
            compute: Some(Arc::new(self.clone())),
            reach: Some(Arc::new(self.clone())),
            foreign: false,
        }
    }

    fn known(&self, cell: &str) -> Option<&Host> {
        self.hosts.iter().find(|(name, _)| name.as_str() == cell).map(|(_, host)| host)
    }

    fn host(&self, cell: &str) -> Result<&Host, ProviderError> {
        self.known(cell).ok_or_else(|| ProviderError::Refused {
            what: format!("the cell `{cell}`"),
            reason: "nobody has said on which host it is: `berth cell add` does, or `cells` of its provider in the \
                     stack file"
                .to_owned(),
        })
    }
}

fn cell_of(name: &MemberName) -> &str {
    name.as_str().split('.').next().unwrap_or_default()
}

impl Host {
    async fn ask(&self, what: &str, call: Call, limit: Duration) -> Result<Answer, ProviderError> {
        self.line.ask(what, &self.home, call, limit).await
    }

    /// What it says of a database, with the address where a way to it begins.
    fn heard(&self, said: DatabaseSaid) -> CellDatabase {
        let database = said.heard();
        match self.way_from {
            Some(address) => CellDatabase { host: address.to_string(), ..database },
            None => database,
        }
    }

    async fn open_way(&self, database: &CellDatabase) -> Result<(), ProviderError> {
        if self.line.is_here() {
            return Ok(());
        }
        let from = self.way_from.unwrap_or(self.home.address);
        ways::open(&self.line, from, database.port, self.home.address).await?;
        // redis://:password@address:port/0
        let port = database
            .redis
            .as_ref()
            .and_then(|url| url.expose_secret().rsplit_once('@')?.1.split(['/', ':']).nth(1)?.parse::<u16>().ok());
        match port {
            Some(port) => ways::open(&self.line, from, port, self.home.address).await,
            None => Ok(()),
        }
    }
}

/// An answer to another question: the other half is not of this version.
fn odd(what: &str) -> ProviderError {
    ProviderError::Damaged { what: what.to_owned(), reason: "the host answered something else".to_owned() }
}

#[async_trait]
impl Database for Ssh {
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError> {
        let host = self.host(spec.cell.as_str())?;
        let what = format!("database {}", spec.name);
        match host.ask(&what, Call::EnsureDatabase(spec.clone()), WORK).await? {
            Answer::Database(said) => {
                let database = host.heard(*said);
                host.open_way(&database).await?;
                Ok(database)
            }
            _ => Err(odd(&what)),
        }
    }
    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        let Some(host) = self.known(name.as_str()) else { return Ok(Observed::Absent) };
        let what = format!("database {name}");
        match host.ask(&what, Call::ObserveDatabase(name.clone()), LOOK).await? {
            Answer::SeenDatabase(seen) => {
                let seen = seen.observed(|said| host.heard(*said));
                if let Observed::Present(database) = &seen {
                    host.open_way(database).await?;
                }
                Ok(seen)
            }
            _ => Err(odd(&what)),
        }
    }
    /// Refused where nobody says any more on which host it is: what lies there would stay, and no list names it.
    async fn remove_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let host = self.host(name.as_str())?;
        let what = format!("removing database {name}");
        host.ask(&what, Call::RemoveDatabase(name.clone()), WORK).await.map(drop)
    }
    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let Some(host) = self.known(name.as_str()) else { return Ok(()) };
        let what = format!("stopping database {name}");
        host.ask(&what, Call::StopDatabase(name.clone()), WORK).await.map(drop)
    }
    /// Of the declared cells' own folders only: what else is on a host may be another control plane's. A host that does
    /// not answer lists nothing, and the sweep comes by again.
    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError> {
        let mut all = Vec::new();
        for host in self.hosts.values() {
            if let Ok(Answer::Databases(listed)) = host.ask("its databases", Call::ListDatabases, LOOK).await {
                all.extend(listed);
            }
        }
        Ok(all)
    }
    async fn open_way(&self, database: &CellDatabase) -> Result<(), ProviderError> {
        match self.known(database.name.as_str()) {
            Some(host) => host.open_way(database).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Compute for Ssh {
    async fn ensure_source(&self, cell: &CellName, source: &Source) -> Result<(), ProviderError> {
        if let Source::Host = source {
            return Ok(());
        }
        let host = self.host(cell.as_str())?;
        let what = format!("what the release runs in cell {cell}");
        host.ask(&what, Call::EnsureSource(SourceSaid::of(source)), PULL).await.map(drop)
    }
    async fn remove_image(&self, cell: &CellName, image: &Artifact) -> Result<bool, ProviderError> {
        let host = self.host(cell.as_str())?;
        let what = format!("image `{image}` in cell {cell}");
        match host.ask(&what, Call::RemoveImage(image.clone()), WORK).await? {
            Answer::Gone(gone) => Ok(gone),
            _ => Err(odd(&what)),
        }
    }
    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        let host = self.host(spec.cell.as_str())?;
        let what = format!("member {}", spec.name);
        match host.ask(&what, Call::EnsureMember(MemberAsk::of(spec)), WORK).await? {
            Answer::Member(said) => Ok(said.heard(host.home.address)),
            _ => Err(odd(&what)),
        }
    }
    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        let Some(host) = self.known(cell_of(name)) else { return Ok(Observed::Absent) };
        let what = format!("member {name}");
        match host.ask(&what, Call::ObserveMember(name.clone()), LOOK).await? {
            Answer::SeenMember(seen) => Ok(seen.observed(|said| said.heard(host.home.address))),
            _ => Err(odd(&what)),
        }
    }
    async fn remove_member(&self, name: &MemberName) -> Result<(), ProviderError> {
        let host = self.host(cell_of(name))?;
        host.ask(&format!("removing member {name}"), Call::RemoveMember(name.clone()), WORK).await.map(drop)
    }
    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        let mut all = Vec::new();
        for host in self.hosts.values() {
            if let Ok(Answer::Members(listed)) = host.ask("its members", Call::ListMembers, LOOK).await {
                all.extend(listed);
            }
        }
        Ok(all)
    }
    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        let host = self.host(spec.cell.as_str())?;
        match host.ask(&spec.what, Call::RunOnce(RunAsk::of(spec)), spec.time_limit + WORK).await? {
            Answer::Outcome { exit_code, timed_out, output } => Ok(RunOutcome { exit_code, timed_out, output }),
            _ => Err(odd(&spec.what)),
        }
    }
    async fn member_logs(&self, name: &MemberName, lines: usize) -> Result<Vec<String>, ProviderError> {
        let what = format!("log of member {name}");
        let host = self.known(cell_of(name)).ok_or_else(|| ProviderError::Absent { what: what.clone() })?;
        match host.ask(&what, Call::MemberLogs(name.clone(), lines), LOOK).await? {
            Answer::Lines(lines) => Ok(lines),
            _ => Err(odd(&what)),
        }
    }
    async fn member_load(&self, name: &MemberName) -> Result<Option<MemberLoad>, ProviderError> {
        let Some(host) = self.known(cell_of(name)) else { return Ok(None) };
        let what = format!("load of member {name}");
        match host.ask(&what, Call::MemberLoad(name.clone()), LOOK).await? {
            Answer::Load(load) => Ok(load.map(|(cpu_ms, memory_bytes)| MemberLoad { cpu_ms, memory_bytes })),
            _ => Err(odd(&what)),
        }
    }
    async fn machine(&self, cell: &CellName) -> Result<Option<Machine>, ProviderError> {
        let host = self.host(cell.as_str())?;
        let what = format!("the host of cell {cell}");
        match host.ask(&what, Call::Machine, LOOK).await? {
            Answer::Machine(machine) => Ok(Some(machine)),
            _ => Err(odd(&what)),
        }
    }
    async fn identity(&self, cell: &CellName) -> Result<Option<String>, ProviderError> {
        let host = self.host(cell.as_str())?;
        let target = match &host.line.target.trust {
            Trust::Nobody => Target { trust: Trust::FirstSight, ..host.line.target.clone() },
            _ => host.line.target.clone(),
        };
        let connection = Connection::open(&target).await;
        let connection = connection.map_err(|error| error.about(&format!("the host of cell {cell}")))?;
        Ok(Some(connection.fingerprint().to_owned()))
    }
}

#[async_trait]
impl Reach for Ssh {
    async fn reach(&self, target: ReachTarget<'_>, port: u16) -> Result<Stream, ProviderError> {
        let (what, host, address, own) = match target {
            ReachTarget::Member(name) => {
                let what = format!("member {name}");
                let host = self.host(cell_of(name))?;
                let own = self.observe_member(name).await?.present().map(|member| member.port);
                (what, host, Ipv4Addr::LOCALHOST, own)
            }
            ReachTarget::Database(name) => {
                let what = format!("database {name}");
                let host = self.host(name.as_str())?;
                let own = self.observe_database(name).await?.present().map(|database| database.port);
                (what, host, host.home.address, own)
            }
        };
        let own = own.ok_or_else(|| ProviderError::Absent { what: what.clone() })?;
        let port = if port == 0 { own } else { port };
        let stream = host.line.forward(&address.to_string(), port).await.map_err(|error| error.about(&what))?;
        Ok(Box::new(stream))
    }

    async fn way(&self, cell: &CellName) -> Result<Option<Way>, ProviderError> {
        let Some(host) = self.known(cell.as_str()) else { return Ok(None) };
        if let Some(way) = &*host.way.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(way.clone()));
        }
        let what = format!("a way into cell {cell}");
        let Answer::ReachKey(key) = host.ask(&what, Call::ReachKey, LOOK).await? else { return Err(odd(&what)) };
        let target = &host.line.target;
        let Trust::Pinned(host_key) = target.trust.clone() else { return Err(odd(&what)) };
        let settings = WaySettings {
            address: host.home.address,
            host: target.host.clone(),
            port: target.port,
            user: target.user.clone(),
            host_key,
            key,
        };
        let way = Way { settings: serde_json::to_string(&settings).expect("it has text keys").into() };
        *host.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(way.clone());
        Ok(Some(way))
    }
}

#[cfg(test)]
mod tests {
    use super::build;
    use berth_domain::CellName;
    use berth_infra::{DatabaseName, MemberName, ProviderError};

    #[tokio::test]
    async fn what_lies_on_a_host_that_nobody_names_any_more_is_not_taken_for_removed() {
        let provider = build(&serde_json::json!({})).unwrap();
        let cell = CellName::new("fra-1").unwrap();
        let database = provider.database.unwrap().remove_database(&DatabaseName::of(&cell)).await;
        let member = provider.compute.unwrap().remove_member(&MemberName::new("fra-1.web.0").unwrap()).await;
        for removed in [database, member] {
            let refused =
                matches!(&removed, Err(ProviderError::Refused { reason, .. }) if reason.contains("which host"));
            assert!(refused, "{removed:?}");
        }
    }
}
