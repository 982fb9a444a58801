//! The `endpoint` adapter: a cell that exists already. Its application is a URL, its Postgres a connection string.
//!
//! Never creates, changes, stops or deletes anything there: what is asked for is looked for, and what is to be removed
//! is forgotten. What its Postgres lets Berth do is found out by trying, by whoever needs it.

#[cfg(test)]
mod tests;

use crate::http;
use async_trait::async_trait;
use berth_domain::{CellName, ServiceName};
use berth_infra::{
    Adapter, CellDatabase, CellSpec, Compute, Confinement, Database, DatabaseName, Health, Listed, Login, Member,
    MemberName, MemberSpec, Observed, Origin, Provider, ProviderError, Reach, ReachTarget, Role, RunOutcome, RunSpec,
    Stream,
};
use berth_pg::Tls;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_postgres::{Config, config::Host};

pub const ADAPTER: Adapter = Adapter { name: "endpoint", build };

/// A server that is silent for longer does not answer.
const LIMIT: Duration = Duration::from_secs(5);
/// A database that was found is not asked again before: it is somebody else's, and every look is a new session there.
const SEEN_FOR: Duration = Duration::from_secs(10);

/// The adapter's section of the stack file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointOptions {
    /// What exists, by the name of the cell that it is.
    #[serde(default)]
    pub cells: BTreeMap<CellName, Existing>,
}

/// One application with its database, run by somebody else.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Existing {
    /// Where the application answers: scheme, host and port.
    pub url: String,
    /// The path that proves that it is well.
    #[serde(default = "default_health")]
    pub health: String,
    /// `postgres://user:password@host:port/database`, of the server itself and not of a pooler before it.
    #[serde(default)]
    pub database: Option<SecretString>,
    /// A file with the same, read again for every connection: a password that is changed there is taken up.
    #[serde(default)]
    pub database_file: Option<PathBuf>,
}

fn default_health() -> String {
    "/health".to_owned()
}

/// A cell as its section says it, checked.
struct Known {
    origin: Origin,
    existing: Existing,
    /// The last look that found its database, and under which connection string.
    seen: Mutex<Option<(Instant, SecretString, CellDatabase)>>,
}

#[derive(Clone)]
pub struct Endpoints {
    cells: Arc<BTreeMap<CellName, Known>>,
}

fn build(section: &serde_json::Value) -> Result<Provider, ProviderError> {
    let options = EndpointOptions::deserialize(section).map_err(|error| ProviderError::Refused {
        what: "the section of an `endpoint` provider".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Endpoints::new(options)?.provider())
}

impl Endpoints {
    pub fn new(options: EndpointOptions) -> Result<Self, ProviderError> {
        let mut cells = BTreeMap::new();
        for (name, existing) in options.cells {
            let refused = |reason: String| ProviderError::Refused { what: format!("the endpoint `{name}`"), reason };
            let origin =
                Origin::parse(&existing.url).map_err(|why| refused(format!("its `url` is unusable: {why}")))?;
            if !existing.health.starts_with('/') || existing.health.contains(char::is_whitespace) {
                return Err(refused("its `health` is not a path".to_owned()));
            }
            match (&existing.database, &existing.database_file) {
                (Some(url), None) => parse(url).map_err(refused).map(drop)?,
                // Looked at when it is needed: a server without the file still serves its other cells.
                (None, Some(_)) => {}
                _ => return Err(refused("it needs exactly one of `database` and `database_file`".to_owned())),
            }
            cells.insert(name, Known { origin, existing, seen: Mutex::new(None) });
        }
        Ok(Self { cells: Arc::new(cells) })
    }

    pub fn provider(&self) -> Provider {
        Provider {
            database: Some(Arc::new(self.clone())),
            compute: Some(Arc::new(self.clone())),
            reach: Some(Arc::new(self.clone())),
            foreign: true,
        }
    }

    fn known(&self, cell: &str) -> Option<&Known> {
        self.cells.iter().find(|(name, _)| name.as_str() == cell).map(|(_, known)| known)
    }

    fn undeclared(cell: &str) -> ProviderError {
        ProviderError::Refused {
            what: format!("the endpoint `{cell}`"),
            reason: "nobody has said where it is: `berth cell add` does, or `cells` of its provider in the stack file"
                .to_owned(),
        }
    }
}

/// A connection string, taken apart. Its password is in no error.
fn parse(url: &SecretString) -> Result<(Config, Option<Tls>), String> {
    let parsed = berth_pg::parse(url.expose_secret());
    let (config, tls) = parsed.map_err(|why| {
        format!("its connection string cannot be used: {why}; one is postgres://user:password@host:5432/name")
    })?;
    for (there, what) in [
        (!config.get_hosts().is_empty(), "host"),
        (config.get_dbname().is_some(), "database"),
        (config.get_user().is_some(), "user"),
    ] {
        if !there {
            return Err(format!("its connection string names no {what}"));
        }
    }
    if config.get_hosts().len() > 1 || !config.get_hostaddrs().is_empty() {
        return Err("its connection string names more than one host".to_owned());
    }
    Ok((config, tls))
}

impl Known {
    /// The connection string as it is now.
    fn url(&self) -> Result<SecretString, String> {
        match (&self.existing.database, &self.existing.database_file) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
                Ok(text.into())
            }
            (None, None) => Err("it has no database".to_owned()),
        }
    }

    /// The database as it answers, now or [`SEEN_FOR`] ago at most; or why it does not.
    async fn look(&self, name: &DatabaseName) -> Result<CellDatabase, String> {
        let url = self.url()?;
        if let Some((at, under, database)) = &*self.seen.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < SEEN_FOR
            && under.expose_secret() == url.expose_secret()
        {
            return Ok(database.clone());
        }
        let database = self.ask(name, &url).await?;
        let seen = (Instant::now(), url, database.clone());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(database)
    }

    async fn ask(&self, name: &DatabaseName, url: &SecretString) -> Result<CellDatabase, String> {
        let (mut config, tls) = parse(url)?;
        config.application_name("berth-look");
        let asked = async {
            let client = berth_pg::connect(&config, tls.as_ref()).await.map_err(|error| whole(&error))?;
            let sql = "select current_setting('server_version_num')::int, pg_is_in_recovery()";
            let row = client.query_one(sql, &[]).await.map_err(|error| whole(&error))?;
            Ok::<(i32, bool), String>((row.get(0), row.get(1)))
        };
        let answered = tokio::time::timeout(LIMIT, asked).await;
        let (version, standby) = answered.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))??;
        if standby {
            return Err("it is a standby that takes no writes; name the primary".to_owned());
        }
        let (host, socket_dir) = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => (host.clone(), None),
            Some(Host::Unix(dir)) => (dir.to_string_lossy().into_owned(), Some(dir.clone())),
            None => return Err("its connection string names no host".to_owned()),
        };
        let user = config.get_user().unwrap_or_default().to_owned();
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
        // One login for all: who runs the database decides what Berth may do there.
        let login = |role: Role| (role, Login { user: user.clone(), password: password.clone().into() });
        Ok(CellDatabase {
            name: name.clone(),
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            socket_dir,
            database: config.get_dbname().unwrap_or_default().to_owned(),
            logins: Role::ALL.map(login).into(),
            version: version.cast_unsigned(),
            free_disk_bytes: None,
            // Of what else stands beside it nothing is known: a move that would have to take that along says so.
            redis: None,
            objects: None,
            tls,
        })
    }

    /// An address that edges connect to. Names are looked up here, so that a change shows as a change.
    ///
    /// Over TLS it is the name that counts, which the certificate bears: edges look it up by themselves.
    async fn address(&self) -> Result<(String, u16), String> {
        if self.origin.https {
            return Ok((format!("https://{}", self.origin.host), self.origin.port));
        }
        self.socket().await
    }

    /// Where a stream is opened, TLS or none.
    async fn socket(&self) -> Result<(String, u16), String> {
        let host = self.origin.host.trim_start_matches('[').trim_end_matches(']');
        let found = lookup_host((host, self.origin.port)).await.map_err(|error| format!("`{host}`: {error}"))?;
        // The first in order, and not the first that came: two looks have one answer.
        let first = found.min().ok_or_else(|| format!("`{host}` has no address"))?;
        let host = if first.is_ipv6() { format!("[{}]", first.ip()) } else { first.ip().to_string() };
        Ok((host, first.port()))
    }
}

fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[async_trait]
impl Database for Endpoints {
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError> {
        let known = self.known(spec.name.as_str()).ok_or_else(|| Self::undeclared(spec.name.as_str()))?;
        known.look(&spec.name).await.map_err(|why| ProviderError::NoAnswer {
            what: format!("the database of the endpoint `{}` ({why})", spec.name),
        })
    }
    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        let Some(known) = self.known(name.as_str()) else { return Ok(Observed::Absent) };
        Ok(match known.look(name).await {
            Ok(database) => Observed::Present(database),
            Err(reason) => Observed::Unknown { reason },
        })
    }
    /// It is not ours: forgetting it is all there is to do.
    async fn remove_database(&self, _name: &DatabaseName) -> Result<(), ProviderError> {
        Ok(())
    }
    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        match self.known(name.as_str()) {
            None => Ok(()),
            Some(_) => Err(not_ours(format!("stopping the database of `{name}`"))),
        }
    }
    /// Nothing there carries a label of ours, so that no sweep ever finds anything to remove.
    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError> {
        Ok(Vec::new())
    }
}

fn not_ours(what: String) -> ProviderError {
    ProviderError::Refused { what, reason: "it is run by somebody else, and Berth changes nothing there".to_owned() }
}

/// `cell.service.copy`, as `MemberName::of` makes it.
fn parts(name: &MemberName) -> Option<(CellName, ServiceName, u16)> {
    let mut parts = name.as_str().split('.');
    let (cell, service, copy) = (parts.next()?, parts.next()?, parts.next()?);
    Some((CellName::new(cell).ok()?, ServiceName::new(service).ok()?, copy.parse().ok()?))
}

#[async_trait]
impl Compute for Endpoints {
    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        match self.observe_member(&spec.name).await? {
            Observed::Present(member) => Ok(member),
            Observed::Absent => Err(Self::undeclared(spec.cell.as_str())),
            Observed::Unknown { reason } => Err(ProviderError::NoAnswer {
                what: format!("the application of the endpoint `{}` ({reason})", spec.cell),
            }),
        }
    }

    /// Every member of the cell is its one URL.
    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        let Some((cell, service, index)) = parts(name) else { return Ok(Observed::Absent) };
        let Some(known) = self.cells.get(&cell) else { return Ok(Observed::Absent) };
        let (host, port) = match known.address().await {
            Ok(address) => address,
            Err(reason) => return Ok(Observed::Unknown { reason }),
        };
        let health = match http::get(&known.origin, &known.existing.health, LIMIT).await {
            Ok(status) if (200..400).contains(&status) => Health::Healthy,
            Ok(status) => Health::Unhealthy { reason: format!("`{}` answered {status}", known.existing.health) },
            Err(reason) => Health::Unhealthy { reason },
        };
        let confinement = Confinement::Provider;
        Ok(Observed::Present(Member {
            name: name.clone(),
            cell,
            service,
            index,
            host,
            port,
            health,
            confinement,
            starts: 1,
            pid: None,
        }))
    }

    async fn remove_member(&self, _name: &MemberName) -> Result<(), ProviderError> {
        Ok(())
    }
    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        Ok(Vec::new())
    }
    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        Err(not_ours(spec.what.clone()))
    }
    /// What it writes, it writes where we cannot read.
    async fn member_logs(&self, name: &MemberName, _lines: usize) -> Result<Vec<String>, ProviderError> {
        Err(ProviderError::Absent { what: format!("log of member {name}") })
    }
}

#[async_trait]
impl Reach for Endpoints {
    async fn reach(&self, target: ReachTarget<'_>, port: u16) -> Result<Stream, ProviderError> {
        let failed = |what: &str, why: String| ProviderError::NoAnswer { what: format!("{what} ({why})") };
        match target {
            ReachTarget::Member(name) => {
                let what = format!("member {name}");
                let known = parts(name).and_then(|(cell, _, _)| self.cells.get(&cell));
                let known = known.ok_or_else(|| ProviderError::Absent { what: what.clone() })?;
                let (host, own) = known.socket().await.map_err(|why| failed(&what, why))?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                connect(&what, &bare, if port == 0 { own } else { port }).await
            }
            ReachTarget::Database(name) => {
                let what = format!("database {name}");
                let known = self.known(name.as_str()).ok_or_else(|| ProviderError::Absent { what: what.clone() })?;
                let (config, _) = known.url().and_then(|url| parse(&url)).map_err(|why| failed(&what, why))?;
                let own = config.get_ports().first().copied().unwrap_or(5432);
                match config.get_hosts().first() {
                    Some(Host::Unix(dir)) => {
                        let stream = UnixStream::connect(dir.join(format!(".s.PGSQL.{own}"))).await;
                        Ok(Box::new(stream.map_err(ProviderError::io(format!("connecting to {what}")))?))
                    }
                    Some(Host::Tcp(host)) => connect(&what, host, if port == 0 { own } else { port }).await,
                    None => Err(ProviderError::Absent { what }),
                }
            }
        }
    }
}

async fn connect(what: &str, host: &str, port: u16) -> Result<Stream, ProviderError> {
    let stream = TcpStream::connect((host, port)).await;
    let stream = stream.map_err(ProviderError::io(format!("connecting to {what} on port {port}")))?;
    stream.set_nodelay(true).map_err(ProviderError::io(format!("connecting to {what}")))?;
    Ok(Box::new(stream))
}
