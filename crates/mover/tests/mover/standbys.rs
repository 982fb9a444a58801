//! A server that follows the source and may be promoted: it has the closed fence before the tenant lives elsewhere.

use crate::common::{MemoryOwnership, Two, cut_over, rows_of, until_built};
use berth_infra::Role;
use berth_mover::{MoveError, MoveSpec, Tuning};
use berth_testkit::{free_port, wait_until};
use secrecy::ExposeSecret as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio_postgres::Client;

/// A hot standby of the test's server, made by `pg_basebackup`.
struct Standby {
    process: Child,
    folder: PathBuf,
    port: u16,
}

/// A program of the server's own version, under the user that the server runs as. `data`: its folder, whose
/// `postmaster.pid` says in its first line which process it is.
fn program(data: &Path, name: &str) -> Command {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let process = Path::new("/proc").join(file.lines().next().unwrap()).join("exe");
    let program = std::fs::read_link(process).unwrap().with_file_name(name);
    let owner = std::fs::metadata(data).unwrap().uid();
    if std::fs::metadata("/proc/self").unwrap().uid() == owner {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={owner}"), "--clear-groups"]).arg(program);
    command
}

impl Standby {
    async fn start(two: &Two) -> Self {
        let admin = two.client(&two.source, Role::Mover).await;
        let data: String = admin.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
        let data = Path::new(&data);
        let (cell, port) = (two.pg.cell(), free_port());
        let login = cell.login(Role::Mover);
        // Beside the other one: its settings are read from a file there.
        let folder = data.with_file_name(format!("standby-{port}"));
        std::fs::create_dir(&folder).unwrap();
        let owner = std::fs::metadata(data).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
        let made = program(data, "pg_basebackup")
            .args(["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync", "-D"])
            .arg(&folder)
            .args(["-h", &cell.host, "-p", &cell.port.to_string(), "-U", &login.user])
            .env("PGPASSWORD", login.password.expose_secret())
            .status();
        assert!(made.unwrap().success());
        let process = program(data, "postgres")
            .arg("-D")
            .arg(&folder)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "logging_collector=off", "-k"])
            .arg(&folder)
            .env("PGPASSWORD", login.password.expose_secret())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self { process: process.unwrap(), folder, port }
    }

    async fn connect(&self, two: &Two) -> Client {
        let login = two.pg.cell().login(Role::Mover);
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).dbname(&two.source).application_name("berth-test");
        config.user(&login.user).password(login.password.expose_secret());
        let answers = async || {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        };
        wait_until("the standby", answers, Option::is_some).await.unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.receiver().unwrap();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
    }

    /// The process that takes the log in.
    fn receiver(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(children).ok()?;
        let title = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|pid| title(pid).contains("walreceiver"))
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(pid) = self.receiver() {
            let _gone = Command::new("kill").args(["-CONT", &pid.to_string()]).status();
        }
        let _ended = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let _ended = self.process.wait();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_waits_until_a_standby_has_the_closed_fence() {
    let two = Two::filled(300).await;
    let standby = Standby::start(&two).await;
    let there = standby.connect(&two).await;
    let follows = "select count(*) from pg_stat_replication where state = 'streaming'";
    let source = two.client(&two.source, Role::Mover).await;
    wait_until("it follows", async || source.query_one(follows, &[]).await.unwrap().get::<_, i64>(0), |n| *n == 1)
        .await;

    let spec = two.spec();
    let spec = MoveSpec { tuning: Tuning { attempts: 2, ..spec.tuning.clone() }, ..spec };
    let ownership = MemoryOwnership::new();
    let (plan, _) = until_built(&spec, &ownership).await;
    standby.signal("-STOP");
    let error = cut_over(&spec, &plan, &ownership).await.unwrap_err();
    let MoveError::NoMoment { last, .. } = &error else { panic!("{error:?}") };
    assert_eq!(last, "a standby of the source (`walreceiver`) is behind");
    // Nobody is kept waiting for it.
    let app = two.client(&two.source, Role::App).await;
    app.execute("update customers set name = 'later' where id = $1", &[&two.tenant]).await.unwrap();

    standby.signal("-CONT");
    let spec = MoveSpec { tuning: Tuning { attempts: 200, ..spec.tuning.clone() }, ..spec };
    cut_over(&spec, &plan, &ownership).await.unwrap();
    // Flushed there before the owner changed; it reads it a moment later.
    let closed = "select state = 'closed' from berth.fence";
    let state = async || there.query_one(closed, &[]).await.unwrap().get::<_, bool>(0);
    wait_until("the fence is closed there", state, |closed| *closed).await;
    let target = two.client(&two.target, Role::Mover).await;
    assert_eq!(rows_of(&source, two.tenant).await, rows_of(&target, two.tenant).await);
}
