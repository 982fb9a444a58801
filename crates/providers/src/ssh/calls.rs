//! What the server and its half on a host say to each other: one JSON object a line, each answer under its question's
//! number. Goes over SSH's own input and output, so that nothing of it is in a list of processes or on a disk.

use berth_domain::{Artifact, CellName, ServiceName};
use berth_infra::{
    CellDatabase, CellSpec, Confinement, DatabaseName, EnvVar, Health, Listed, Login, Machine, Member, MemberLoad,
    MemberName, MemberSpec, Observed, ProviderError, RegistryLogin, Role, RunOutcome, RunSpec, Shape, Source,
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

/// Where on the host a cell lives, and under whom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Home {
    pub cell: CellName,
    /// Of this cell alone.
    pub root: PathBuf,
    /// Where its databases listen: an address of the host's loopback that no other cell has.
    pub address: Ipv4Addr,
    /// Its members are a user of their own, and no other cell's user gets to its databases.
    pub separate: bool,
    pub durable: bool,
    pub stop_grace_ms: u64,
    /// Who may log in, and with which keys.
    pub authorized_keys: Option<PathBuf>,
    /// Its options for every call.
    pub podman: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    pub id: u64,
    pub home: Home,
    pub call: Call,
}

#[derive(Serialize, Deserialize)]
pub enum Call {
    Machine,
    ReachKey,
    EnsureDatabase(CellSpec),
    ObserveDatabase(DatabaseName),
    RemoveDatabase(DatabaseName),
    StopDatabase(DatabaseName),
    ListDatabases,
    EnsureSource(SourceSaid),
    RemoveImage(Artifact),
    EnsureMember(MemberAsk),
    ObserveMember(MemberName),
    RemoveMember(MemberName),
    ListMembers,
    RunOnce(RunAsk),
    MemberLogs(MemberName, usize),
    MemberLoad(MemberName),
}

/// Environments are in it.
impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

#[derive(Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    pub answer: Result<Answer, Fault>,
    /// What went wrong beside it, and takes nothing from the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub enum Answer {
    Done,
    Machine(Machine),
    ReachKey(String),
    Database(Box<DatabaseSaid>),
    SeenDatabase(Seen<Box<DatabaseSaid>>),
    Databases(Vec<Listed<DatabaseName>>),
    Member(Box<MemberSaid>),
    SeenMember(Seen<Box<MemberSaid>>),
    Members(Vec<Listed<MemberName>>),
    Outcome {
        exit_code: Option<i32>,
        timed_out: bool,
        output: String,
    },
    Lines(Vec<String>),
    Load(Option<(u64, u64)>),
    /// Whether it is gone.
    Gone(bool),
}

#[derive(Serialize, Deserialize)]
pub enum Seen<T> {
    Present(T),
    Absent,
    Unknown(String),
}

impl<T> Seen<T> {
    pub fn of<U>(observed: Observed<U>, said: impl FnOnce(U) -> T) -> Self {
        match observed {
            Observed::Present(it) => Self::Present(said(it)),
            Observed::Absent => Self::Absent,
            Observed::Unknown { reason } => Self::Unknown(reason),
        }
    }
    pub fn observed<U>(self, heard: impl FnOnce(T) -> U) -> Observed<U> {
        match self {
            Self::Present(it) => Observed::Present(heard(it)),
            Self::Absent => Observed::Absent,
            Self::Unknown(reason) => Observed::Unknown { reason },
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct DatabaseSaid {
    name: DatabaseName,
    host: String,
    port: u16,
    database: String,
    logins: BTreeMap<Role, (String, String)>,
    version: u32,
    free_disk_bytes: Option<u64>,
    redis: Option<String>,
}

impl DatabaseSaid {
    pub fn of(database: CellDatabase) -> Self {
        let login = |(role, login): (Role, Login)| (role, (login.user, login.password.expose_secret().to_owned()));
        Self {
            name: database.name,
            host: database.host,
            port: database.port,
            database: database.database,
            logins: database.logins.into_iter().map(login).collect(),
            version: database.version,
            free_disk_bytes: database.free_disk_bytes,
            redis: database.redis.map(|url| url.expose_secret().to_owned()),
        }
    }

    pub fn heard(self) -> CellDatabase {
        let login =
            |(role, (user, password)): (Role, (String, String))| (role, Login { user, password: password.into() });
        CellDatabase {
            name: self.name,
            host: self.host,
            port: self.port,
            // It is on the host's disk, and so are objects.
            socket_dir: None,
            objects: None,
            // Through a tunnel.
            tls: None,
            database: self.database,
            logins: self.logins.into_iter().map(login).collect(),
            version: self.version,
            free_disk_bytes: self.free_disk_bytes,
            redis: self.redis.map(Into::into),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct MemberAsk {
    name: MemberName,
    cell: CellName,
    service: ServiceName,
    index: u16,
    source: SourceSaid,
    command: Vec<String>,
    env: Vec<(String, String)>,
    port: u16,
    health_path: Option<String>,
    shape: Shape,
}

/// A `Source` on its way; with the account that pulls: host, user, password.
#[derive(Serialize, Deserialize)]
pub enum SourceSaid {
    Host,
    Artifact(Artifact, Option<(String, String, String)>),
}

impl SourceSaid {
    pub fn of(source: &Source) -> Self {
        match source {
            Source::Host => Self::Host,
            Source::Artifact { artifact, login } => {
                let login = login.as_ref();
                let login = login.map(|it| (it.host.clone(), it.user.clone(), it.password.expose_secret().to_owned()));
                Self::Artifact(artifact.clone(), login)
            }
        }
    }
    pub fn heard(self) -> Source {
        match self {
            Self::Host => Source::Host,
            Self::Artifact(artifact, login) => {
                let login = login.map(|(host, user, password)| RegistryLogin { host, user, password: password.into() });
                Source::Artifact { artifact, login }
            }
        }
    }
}

fn said(env: &[EnvVar]) -> Vec<(String, String)> {
    env.iter().map(|var| (var.name.clone(), var.value.expose_secret().to_owned())).collect()
}

fn heard(env: Vec<(String, String)>) -> Vec<EnvVar> {
    env.into_iter().map(|(name, value)| EnvVar::new(name, value)).collect()
}

impl MemberAsk {
    pub fn of(spec: &MemberSpec) -> Self {
        Self {
            name: spec.name.clone(),
            cell: spec.cell.clone(),
            service: spec.service.clone(),
            index: spec.index,
            source: SourceSaid::of(&spec.source),
            command: spec.command.clone(),
            env: said(&spec.env),
            port: spec.port,
            health_path: spec.health_path.clone(),
            shape: spec.shape,
        }
    }
    pub fn heard(self) -> MemberSpec {
        MemberSpec {
            name: self.name,
            cell: self.cell,
            service: self.service,
            index: self.index,
            source: self.source.heard(),
            command: self.command,
            env: heard(self.env),
            port: self.port,
            health_path: self.health_path,
            shape: self.shape,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct MemberSaid {
    name: MemberName,
    cell: CellName,
    service: ServiceName,
    index: u16,
    port: u16,
    health: HealthSaid,
    confinement: Confinement,
    starts: u32,
    pid: Option<u32>,
}

#[derive(Serialize, Deserialize)]
enum HealthSaid {
    Starting,
    Healthy,
    Unhealthy(String),
    Stopped(String),
}

impl MemberSaid {
    pub fn of(member: Member) -> Self {
        let health = match member.health {
            Health::Starting => HealthSaid::Starting,
            Health::Healthy => HealthSaid::Healthy,
            Health::Unhealthy { reason } => HealthSaid::Unhealthy(reason),
            Health::Stopped { reason } => HealthSaid::Stopped(reason),
        };
        Self {
            name: member.name,
            cell: member.cell,
            service: member.service,
            index: member.index,
            port: member.port,
            health,
            confinement: member.confinement,
            starts: member.starts,
            pid: member.pid,
        }
    }

    /// `address`: where whoever is not on the host finds it, once a way is open.
    pub fn heard(self, address: Ipv4Addr) -> Member {
        let health = match self.health {
            HealthSaid::Starting => Health::Starting,
            HealthSaid::Healthy => Health::Healthy,
            HealthSaid::Unhealthy(reason) => Health::Unhealthy { reason },
            HealthSaid::Stopped(reason) => Health::Stopped { reason },
        };
        Member {
            name: self.name,
            cell: self.cell,
            service: self.service,
            index: self.index,
            host: address.to_string(),
            port: self.port,
            health,
            confinement: self.confinement,
            starts: self.starts,
            pid: self.pid,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub struct RunAsk {
    what: String,
    cell: CellName,
    source: SourceSaid,
    command: Vec<String>,
    env: Vec<(String, String)>,
    time_limit_ms: u64,
    shape: Shape,
    key: Option<String>,
}

impl RunAsk {
    pub fn of(spec: &RunSpec) -> Self {
        Self {
            what: spec.what.clone(),
            cell: spec.cell.clone(),
            source: SourceSaid::of(&spec.source),
            command: spec.command.clone(),
            env: said(&spec.env),
            time_limit_ms: u64::try_from(spec.time_limit.as_millis()).unwrap_or(u64::MAX),
            shape: spec.shape,
            key: spec.key.clone(),
        }
    }
    pub fn heard(self) -> RunSpec {
        RunSpec {
            what: self.what,
            cell: self.cell,
            source: self.source.heard(),
            command: self.command,
            env: heard(self.env),
            time_limit: Duration::from_millis(self.time_limit_ms),
            shape: self.shape,
            key: self.key,
        }
    }
}

pub fn outcome(outcome: RunOutcome) -> Answer {
    Answer::Outcome { exit_code: outcome.exit_code, timed_out: outcome.timed_out, output: outcome.output }
}

pub fn load(load: Option<MemberLoad>) -> Answer {
    Answer::Load(load.map(|load| (load.cpu_ms, load.memory_bytes)))
}

/// A `ProviderError` on its way.
#[derive(Serialize, Deserialize)]
pub enum Fault {
    Refused {
        what: String,
        reason: String,
    },
    NoAnswer {
        what: String,
    },
    Busy {
        what: String,
    },
    Quota {
        what: String,
        limit: String,
    },
    Absent {
        what: String,
    },
    DidNotStart {
        what: String,
        reason: String,
        log: String,
    },
    OtherDigest {
        what: String,
        wanted: String,
        found: String,
    },
    NotPulled {
        image: String,
        reason: String,
        /// Older halves say none.
        #[serde(default)]
        remedy: String,
    },
    NotInstalled {
        program: String,
        remedy: String,
    },
    Io {
        doing: String,
        said: String,
    },
    Damaged {
        what: String,
        reason: String,
    },
}

impl From<ProviderError> for Fault {
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Refused { what, reason } => Self::Refused { what, reason },
            ProviderError::NoAnswer { what } => Self::NoAnswer { what },
            ProviderError::Busy { what } => Self::Busy { what },
            ProviderError::Quota { what, limit } => Self::Quota { what, limit },
            ProviderError::Absent { what } => Self::Absent { what },
            ProviderError::DidNotStart { what, reason, log } => Self::DidNotStart { what, reason, log },
            ProviderError::OtherDigest { what, wanted, found } => Self::OtherDigest { what, wanted, found },
            ProviderError::NotPulled { image, reason, remedy } => Self::NotPulled { image, reason, remedy },
            ProviderError::NotInstalled { program, remedy } => Self::NotInstalled { program, remedy },
            ProviderError::Io { doing, source } => Self::Io { doing, said: source.to_string() },
            ProviderError::Damaged { what, reason } => Self::Damaged { what, reason },
        }
    }
}

impl From<Fault> for ProviderError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused { what, reason } => Self::Refused { what, reason },
            Fault::NoAnswer { what } => Self::NoAnswer { what },
            Fault::Busy { what } => Self::Busy { what },
            Fault::Quota { what, limit } => Self::Quota { what, limit },
            Fault::Absent { what } => Self::Absent { what },
            Fault::DidNotStart { what, reason, log } => Self::DidNotStart { what, reason, log },
            Fault::OtherDigest { what, wanted, found } => Self::OtherDigest { what, wanted, found },
            Fault::NotPulled { image, reason, remedy } => Self::NotPulled { image, reason, remedy },
            Fault::NotInstalled { program, remedy } => Self::NotInstalled { program, remedy },
            Fault::Io { doing, said } => Self::Io { doing, source: std::io::Error::other(said) },
            Fault::Damaged { what, reason } => Self::Damaged { what, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;
    use berth_infra::ProviderError;

    #[test]
    fn a_half_that_says_no_remedy_gives_no_hint() {
        let said = r#"{"NotPulled":{"image":"shop/web","reason":"denied"}}"#;
        let error = ProviderError::from(serde_json::from_str::<Fault>(said).unwrap());
        assert!(error.to_string().contains("denied") && error.hint().is_none(), "{error:?}");
    }
}
