//! Postgres clusters of our own: made, started, asked, ended, deleted. Never touches a server that it did not start.
//!
//! Each cluster comes from its own `initdb`. Copying one prepared data folder would save about half a second per cell
//! and give all cells one system identifier, by which backups and standbys tell clusters apart.

use super::{
    beside::RedisRecord,
    binaries,
    files::{self, Root},
    process::{self, Kind, Launch, Process, User},
};
use berth_infra::{CellDatabase, DatabaseName, EnvVar, Login, Observed, ProviderError, RedisUse, Role, Shape};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio_postgres::NoTls;

/// Crash recovery of a large cluster may take minutes; one that is silent for longer is somebody's to look at.
const START_LIMIT: Duration = Duration::from_secs(150);
/// A fast shutdown ends sessions and writes a checkpoint.
const STOP_GRACE: Duration = Duration::from_mins(1);

/// What we know of a cluster. Written before anything of it exists.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The sweep's label: the cell it belongs to.
    label: String,
    database: String,
    port: u16,
    socket_dir: PathBuf,
    bin_dir: PathBuf,
    passwords: Passwords,
    shape: Shape,
    /// Its data folder is whole.
    initialised: bool,
    /// It has accepted us once; its roles and database stand.
    configured: bool,
    #[serde(default)]
    pub(super) redis: Option<RedisRecord>,
    #[serde(default)]
    pub(super) objects: bool,
}

/// In clear, in a file that only we can read: the cluster must start again when the control plane's database, which
/// holds them sealed, is itself one of ours and down.
#[derive(Clone, Serialize, Deserialize)]
struct Passwords {
    mover: String,
    owner: String,
    app: String,
}

impl Passwords {
    fn fresh() -> Self {
        let one = || files::random_hex(24);
        Self { mover: one(), owner: one(), app: one() }
    }
    fn of(&self, role: Role) -> &str {
        match role {
            Role::Mover => &self.mover,
            Role::Owner => &self.owner,
            Role::App => &self.app,
        }
    }
}

/// What is asked for; the caller's names for it.
pub(super) struct Wanted<'a> {
    pub name: &'a DatabaseName,
    pub label: &'a str,
    /// The application's database in the cluster.
    pub database: &'a str,
    pub shape: Shape,
    pub redis: Option<RedisUse>,
    pub objects: bool,
}

#[derive(Clone)]
pub(super) struct Clusters {
    pub root: Root,
    pub bin_dir: Option<PathBuf>,
    /// Off only for tests' throw-away clusters: a power cut may then lose what was acknowledged.
    pub durable: bool,
    /// Who members are, and so who writes objects.
    pub member_user: Option<User>,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Whether its socket is told of.
    pub unix_sockets: bool,
}

impl Clusters {
    fn record_file(&self, name: &DatabaseName) -> PathBuf {
        self.root.database(name.as_str()).join("record.json")
    }
    fn run_file(&self, name: &DatabaseName) -> PathBuf {
        self.root.run("database", name.as_str())
    }
    fn record(&self, name: &DatabaseName) -> Result<Option<Record>, ProviderError> {
        files::read_record(&self.record_file(name), &format!("database {name}"))
    }

    pub(super) fn write_record(&self, name: &DatabaseName, record: &Record) -> Result<(), ProviderError> {
        files::write_record(&self.record_file(name), record)
    }

    pub async fn ensure(&self, wanted: Wanted<'_>) -> Result<CellDatabase, ProviderError> {
        let name = wanted.name;
        let _lock = self.root.lock(&format!("database.{name}")).await?;
        let dir = self.root.database(name.as_str());
        let mut record = match self.record(name)? {
            Some(record) => record,
            None => self.new_record(&wanted)?,
        };
        record.shape = wanted.shape;
        wanted.label.clone_into(&mut record.label);
        files::folder(&dir, 0o755)?;
        files::write_record(&self.record_file(name), &record)?;
        if !record.initialised {
            self.initialise(name, &record).await?;
            record.initialised = true;
            files::write_record(&self.record_file(name), &record)?;
        }
        // One that is found running may be about to die: then it is started here as if it had been dead already.
        let log_from = match self.running(name) {
            Some(_) => None,
            None => Some(self.start(name, &mut record).await?),
        };
        let version = self.wait_ready(name, &mut record, log_from).await?;
        if !record.configured {
            configure(self.address, &record).await.map_err(|error| ProviderError::DidNotStart {
                what: format!("database {name}"),
                reason: error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string),
                log: String::new(),
            })?;
            record.configured = true;
        }
        self.ensure_beside(name, &mut record, wanted.redis, wanted.objects, wanted.shape.memory_mb).await?;
        files::write_record(&self.record_file(name), &record)?;
        Ok(self.describe(name, &record, version))
    }

    fn new_record(&self, wanted: &Wanted<'_>) -> Result<Record, ProviderError> {
        if let Some(user) = postgres_user()?
            && let Some(closed) = self.root.path().ancestors().find(|dir| !user.may_enter(dir))
        {
            return Err(ProviderError::Refused {
                what: format!("a database under `{}`", self.root.path().display()),
                reason: format!(
                    "the user `postgres` may not enter `{}`; `/var/lib/berth` is a good place",
                    closed.display()
                ),
            });
        }
        let bin_dir = match &self.bin_dir {
            Some(dir) if binaries::complete(dir) => dir.clone(),
            Some(_) => return Err(binaries::missing(None)),
            None => binaries::newest()?,
        };
        let near = self.root.path().join("s").join(files::random_hex(4));
        // `.s.PGSQL.` and a port, in the 107 bytes that a socket's address has.
        let socket_dir = if near.as_os_str().len() + 16 <= 107 {
            near
        } else {
            PathBuf::from(format!("/tmp/berth-{}-{}", self.root.id(), files::random_hex(4)))
        };
        Ok(Record {
            label: wanted.label.to_owned(),
            database: wanted.database.to_owned(),
            port: self.root.choose_port(&format!("database {}", wanted.name))?,
            socket_dir,
            bin_dir,
            passwords: Passwords::fresh(),
            shape: wanted.shape,
            initialised: false,
            configured: false,
            redis: None,
            objects: false,
        })
    }

    /// An earlier try may have left half a data folder, so this begins by taking it away.
    async fn initialise(&self, name: &DatabaseName, record: &Record) -> Result<(), ProviderError> {
        let what = format!("initdb of database {name}");
        let dir = self.root.database(name.as_str());
        let data = dir.join("data");
        let user = postgres_user()?;
        let run = self.root.run("initdb", name.as_str());
        if let Some(orphan) = Process::read(&run) {
            // Its caller gave up, and it would go on writing into the folder that we are about to make.
            orphan.end(Signal::KILL, Duration::ZERO).await;
        }
        files::remove_folder(&data).await?;
        files::folder(&data, 0o700)?;
        if let Some(user) = user {
            chown(&data, Some(user.uid), Some(user.gid)).map_err(ProviderError::io(format!("giving away {what}")))?;
        }
        let password_file = dir.join("initdb.password");
        files::write(&password_file, record.passwords.mover.as_bytes())?;
        if let Some(user) = user {
            chown(&password_file, Some(user.uid), Some(user.gid))
                .map_err(ProviderError::io(format!("giving away {what}")))?;
        }
        let log = dir.join("initdb.log");
        let mut command: Vec<String> = vec![
            record.bin_dir.join("initdb").display().to_string(),
            format!("--pgdata={}", data.display()),
            // The mover is a superuser of our own clusters, so the one that initdb makes may as well be it.
            format!("--username={}", Role::Mover.user()),
            format!("--pwfile={}", password_file.display()),
            "--encoding=UTF8".into(),
            // The same in every cell, or one tenant's rows would sort differently after a move.
            "--locale=C.UTF-8".into(),
            "--auth=scram-sha-256".into(),
            "--data-checksums".into(),
        ];
        if !self.durable {
            command.push("--no-sync".into());
        }
        let (mut child, process, _) = process::launch(Launch {
            what: what.clone(),
            kind: Kind::Run,
            record: run.clone(),
            command: &command,
            env: &[],
            dir: Path::new("/"),
            log: &log,
            user,
            confine: None,
        })
        .await?;
        let Ok(ended) = tokio::time::timeout(START_LIMIT, child.wait()).await else {
            process.end(Signal::KILL, Duration::from_secs(1)).await;
            return Err(ProviderError::Busy { what });
        };
        files::forget(&run)?;
        files::forget(&password_file)?;
        let status = ended.map_err(ProviderError::io(format!("waiting for {what}")))?;
        if !status.success() {
            let log = files::last_lines(&log, 0, 20).join("\n");
            return Err(ProviderError::DidNotStart { what, reason: status.to_string(), log });
        }
        // The data folder belongs to the postgres user; its settings do not.
        let file = data.join("postgresql.conf");
        fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"\ninclude '../berth.conf'\n"))
            .map_err(ProviderError::io(format!("writing `{}`", file.display())))
    }

    /// Returns where in its log this start begins.
    async fn start(&self, name: &DatabaseName, record: &mut Record) -> Result<u64, ProviderError> {
        let what = format!("database {name}");
        let dir = self.root.database(name.as_str());
        let data = dir.join("data");
        if !binaries::complete(&record.bin_dir) {
            let major = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
            return Err(binaries::missing(Some(major.trim())));
        }
        let user = postgres_user()?;
        if !files::port_is_free(record.port) {
            // Until it has run once nobody has been told the port; afterwards members have it in their environment.
            if record.configured {
                let reason = format!("port {} is taken by another process", record.port);
                return Err(ProviderError::DidNotStart { what, reason, log: String::new() });
            }
            self.root.release_port(record.port);
            record.port = self.root.choose_port(&what)?;
            files::write_record(&self.record_file(name), record)?;
        }
        self.write_settings(&dir, record)?;
        files::folder(&record.socket_dir, 0o755)?;
        if let Some(user) = user {
            chown(&record.socket_dir, Some(user.uid), Some(user.gid))
                .map_err(ProviderError::io("giving the socket folder to postgres"))?;
        }
        forget_dead_postmaster(&data, record, &what)?;
        let log = dir.join("log");
        files::cap_log(&log);
        let log_from = files::len(&log);
        process::launch(Launch {
            what,
            kind: Kind::Database,
            record: self.run_file(name),
            command: &[record.bin_dir.join("postgres").display().to_string(), "-D".into(), data.display().to_string()],
            env: &[EnvVar::new("PGDATA", data.display().to_string())],
            dir: Path::new("/"),
            log: &log,
            user,
            confine: None,
        })
        .await?;
        Ok(log_from)
    }

    fn write_settings(&self, dir: &Path, record: &Record) -> Result<(), ProviderError> {
        let memory_mb = record.shape.memory_mb;
        let buffers_mb = (memory_mb / 4).clamp(16, 8192);
        // What the kernel keeps of its files, in the planner's eyes; and a session for every 8 MB.
        let (cache_mb, sessions) = ((memory_mb / 4 * 3).max(64), (memory_mb / 8).clamp(120, 500));
        let address = self.address;
        let durable = if self.durable { "on" } else { "off" };
        let (hba, port, socket) = (dir.join("hba.conf"), record.port, record.socket_dir.display());
        let settings = format!(
            "# Written at every start. Settings of your own belong into data/postgresql.conf, below the include.\n\
             listen_addresses = '{address}'\nport = {port}\n\
             unix_socket_directories = '{socket}'\nunix_socket_permissions = 0777\n\
             hba_file = '{}'\npassword_encryption = 'scram-sha-256'\n\
             max_connections = {sessions}\nsuperuser_reserved_connections = 5\n\
             shared_buffers = {buffers_mb}MB\neffective_cache_size = {cache_mb}MB\n\
             fsync = {durable}\nsynchronous_commit = on\nfull_page_writes = {durable}\n\
             # A move reads one slot per tenant in flight and must never hold the disk hostage.\n\
             wal_level = logical\nmax_wal_senders = 30\nmax_replication_slots = 30\nmax_worker_processes = 16\n\
             max_slot_wal_keep_size = 8GB\nlogical_decoding_work_mem = 1MB\nwal_sender_timeout = 30s\n\
             min_wal_size = 64MB\nmax_wal_size = 1GB\nmax_prepared_transactions = 10\n\
             track_commit_timestamp = on\n\
             log_line_prefix = '%m [%p] %q%u@%d '\nlog_timezone = 'UTC'\ntimezone = 'UTC'\n",
            hba.display()
        );
        files::write_mode(&dir.join("berth.conf"), settings.as_bytes(), 0o644)?;
        // Passwords also over the socket: its folder is ours, but a member is not to become the mover by its user id.
        let rules = "local all,replication all scram-sha-256\nhost all,replication all 127.0.0.0/8 scram-sha-256\n";
        files::write_mode(&hba, rules.as_bytes(), 0o644)
    }

    /// Returns the version once it lets the mover in. `log_from`: where in its log this start begins, if we started it.
    async fn wait_ready(
        &self,
        name: &DatabaseName,
        record: &mut Record,
        mut log_from: Option<u64>,
    ) -> Result<u32, ProviderError> {
        let what = format!("database {name}");
        let log_file = self.root.database(name.as_str()).join("log");
        let until = Instant::now() + START_LIMIT;
        loop {
            let running = self.running(name).is_some();
            // Read after the look at the process: what it wrote last is then there.
            let log = || files::last_lines(&log_file, log_from.unwrap_or(0), 15).join("\n");
            if !running {
                if log_from.is_none() {
                    log_from = Some(self.start(name, record).await?);
                    continue;
                }
                let log = log();
                // Sessions of a server that was killed hold its memory for a moment; they notice and go.
                let dying = log.contains("pre-existing shared memory block");
                // Somebody took the port after we had looked; `start` chooses another for a server nobody knows yet.
                let beaten = !record.configured && log.contains("could not create any TCP/IP sockets");
                if (dying || beaten) && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    log_from = Some(self.start(name, record).await?);
                    continue;
                }
                return Err(ProviderError::DidNotStart { what, reason: "it ended".into(), log });
            }
            match self.version_of(record).await {
                Ok(version) => return Ok(version),
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(15)).await,
                Err(error) => return Err(ProviderError::DidNotStart { what, reason: error.to_string(), log: log() }),
            }
        }
    }

    pub fn running(&self, name: &DatabaseName) -> Option<Process> {
        Process::read(&self.run_file(name)).filter(Process::alive)
    }

    async fn version_of(&self, record: &Record) -> Result<u32, tokio_postgres::Error> {
        let (client, connection) = config(self.address, record, Role::Mover, "postgres").connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await;
        drop(client);
        let _ = connection.await;
        Ok(row?.get::<_, i32>(0).unsigned_abs())
    }

    fn describe(&self, name: &DatabaseName, record: &Record, version: u32) -> CellDatabase {
        let login = |role: Role| {
            (role, Login { user: role.user().to_owned(), password: record.passwords.of(role).to_owned().into() })
        };
        let space = rustix::fs::statvfs(self.root.database(name.as_str())).ok();
        CellDatabase {
            name: name.clone(),
            host: self.address.to_string(),
            port: record.port,
            socket_dir: self.unix_sockets.then(|| record.socket_dir.clone()),
            database: record.database.clone(),
            logins: Role::ALL.map(login).into(),
            version,
            free_disk_bytes: space.map(|space| space.f_bavail * space.f_frsize),
            redis: record.redis.as_ref().map(|redis| redis.url(self.address)),
            objects: record.objects.then(|| format!("file://{}", self.objects(name).display())),
            tls: None,
        }
    }

    pub async fn observe(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        let unknown = |reason: String| Ok(Observed::Unknown { reason });
        let Some(record) = self.record(name)? else { return Ok(Observed::Absent) };
        if !record.configured {
            return unknown("it is not set up to its end".to_owned());
        }
        if self.running(name).is_none() {
            return unknown("it does not run".to_owned());
        }
        if record.redis.is_some() && !self.redis_runs(name) {
            return unknown("its Redis does not run".to_owned());
        }
        match tokio::time::timeout(Duration::from_secs(5), self.version_of(&record)).await {
            Ok(Ok(version)) => Ok(Observed::Present(self.describe(name, &record, version))),
            Ok(Err(error)) => unknown(format!("it does not let us in: {error}")),
            Err(_) => unknown("it did not answer within 5 s".to_owned()),
        }
    }

    /// Where it listens, without asking whether it does.
    pub fn port(&self, name: &DatabaseName) -> Result<Option<u16>, ProviderError> {
        Ok(self.record(name)?.map(|record| record.port))
    }

    pub async fn stop(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let _lock = self.root.lock(&format!("database.{name}")).await?;
        self.end(name).await
    }

    /// SIGINT is Postgres' fast shutdown: sessions end, a checkpoint is written, nothing is replayed at the next start.
    async fn end(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let file = self.run_file(name);
        if let Some(process) = Process::read(&file) {
            process.end(Signal::INT, STOP_GRACE).await;
        }
        files::forget(&file)?;
        self.end_redis(name).await
    }

    pub async fn remove(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        let _lock = self.root.lock(&format!("database.{name}")).await?;
        let record = self.record(name).ok().flatten();
        self.end(name).await?;
        if let Some(record) = &record {
            files::remove_folder(&record.socket_dir).await?;
        }
        let dir = self.root.database(name.as_str());
        // The record goes last: while anything is left, a list still names it.
        for part in ["data", "redis", "objects"] {
            files::remove_folder(&dir.join(part)).await?;
        }
        files::remove_folder(&dir).await?;
        if let Some(record) = record {
            self.forget_redis(&record);
            self.root.release_port(record.port);
        }
        Ok(())
    }

    /// Name and label of everything here, running or not.
    pub fn list(&self) -> Result<Vec<(DatabaseName, String)>, ProviderError> {
        let mut all = Vec::new();
        for name in self.root.names_in("databases")? {
            let Ok(name) = DatabaseName::new(name) else { continue };
            if let Some(record) = self.record(&name)? {
                all.push((name, record.label));
            }
        }
        Ok(all)
    }
}

/// Roles and the application's database, as if they had never been there: a crash may have left any part of them.
async fn configure(address: Ipv4Addr, record: &Record) -> Result<(), tokio_postgres::Error> {
    let database = &record.database;
    let (mover, connection) = config(address, record, Role::Mover, "postgres").connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    for role in [Role::Owner, Role::App] {
        let (user, password) = (role.user(), record.passwords.of(role));
        let known = !mover.query("SELECT FROM pg_roles WHERE rolname = $1", &[&user]).await?.is_empty();
        let verb = if known { "ALTER" } else { "CREATE" };
        let rights = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
        // The password is of hex digits, the name is a constant: nothing here needs quoting.
        mover.batch_execute(&format!("{verb} ROLE {user} {rights} PASSWORD '{password}'")).await?;
    }
    if mover.query("SELECT FROM pg_database WHERE datname = $1", &[database]).await?.is_empty() {
        mover.batch_execute(&format!("CREATE DATABASE \"{database}\" OWNER {}", Role::Owner.user())).await?;
    }
    drop(mover);
    let _ = connection.await;
    let (mover, connection) = config(address, record, Role::Mover, database).connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let rights = mover
        .batch_execute(
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             GRANT ALL ON SCHEMA public TO berth_owner;
             GRANT USAGE ON SCHEMA public TO berth_app;
             ALTER DEFAULT PRIVILEGES FOR ROLE berth_owner GRANT USAGE ON SCHEMAS TO berth_app;
             ALTER DEFAULT PRIVILEGES FOR ROLE berth_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO berth_app;
             ALTER DEFAULT PRIVILEGES FOR ROLE berth_owner GRANT USAGE, SELECT ON SEQUENCES TO berth_app",
        )
        .await;
    drop(mover);
    let _ = connection.await;
    rights
}

fn config(address: Ipv4Addr, record: &Record, role: Role, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address.to_string())
        .port(record.port)
        .user(role.user())
        .password(record.passwords.of(role))
        .dbname(database)
        .application_name("berth-local")
        .connect_timeout(Duration::from_secs(5));
    config
}

/// `None` when we may run Postgres as ourselves. It refuses to run as root, so then it runs as its package's user.
pub(super) fn postgres_user() -> Result<Option<User>, ProviderError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    User::named("postgres").map(Some).ok_or_else(|| ProviderError::NotInstalled {
        program: "postgres".to_owned(),
        remedy: "there is no user `postgres`; the Debian package `postgresql-common` makes it".to_owned(),
    })
}

/// After a kill its `postmaster.pid` and its socket's lock stay, and Postgres takes whatever has that pid for itself: a
/// stranger, or the dead one as long as nobody has collected it. We know better: we hold the lock, the socket's folder is
/// this cluster's alone, and a postmaster stands in its data folder.
fn forget_dead_postmaster(data: &Path, record: &Record, what: &str) -> Result<(), ProviderError> {
    let file = data.join("postmaster.pid");
    if let Ok(text) = fs::read_to_string(&file) {
        let pid = text.lines().next().unwrap_or_default().trim();
        if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data) {
            return Err(ProviderError::Busy { what: format!("{what} (a server that is not ours runs on its data)") });
        }
    }
    for left in [format!(".s.PGSQL.{}.lock", record.port), format!(".s.PGSQL.{}", record.port)] {
        files::forget(&record.socket_dir.join(left))?;
    }
    files::forget(&file)
}
