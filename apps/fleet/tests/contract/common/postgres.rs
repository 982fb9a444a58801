//! A private Postgres for one test: its own cluster, a free port on loopback, gone when dropped.
//!
//! Never uses a server that was there before. Postgres refuses to run as root, so it runs as `postgres` then;
//! the kernel ends it when this process dies, by whatever cause.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};

pub struct Postgres {
    server: Child,
    port: u16,
    /// Last, so that it is removed after the server has ended.
    _folder: tempfile::TempDir,
}

impl Postgres {
    /// Starts a cluster with the roles that every cell has, and the database `app` of `berth_owner`.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("berth-test-").tempdir_in("/tmp").unwrap();
        give_to_postgres(folder.path());
        let data = folder.path().join("data");
        let made = as_postgres(&binary("initdb"))
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let server = as_postgres(&binary("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-p", &port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "wal_level=logical"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let postgres = Self { server, port, _folder: folder };
        let admin = postgres.connect_when_up().await;
        for statement in [
            "create role berth_owner login",
            "create role berth_app login nosuperuser nobypassrls",
            "create database app owner berth_owner",
        ] {
            admin.batch_execute(statement).await.unwrap();
        }
        let app = postgres.connect("postgres").await;
        app.batch_execute(
            "alter default privileges for role berth_owner grant select, insert, update, delete on tables to berth_app",
        )
        .await
        .unwrap();
        postgres
    }

    pub fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/app", self.port)
    }

    pub async fn connect(&self, role: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(role), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Ends the server at once, as a crash would.
    pub fn crash(&mut self) {
        signal(&self.server, "QUIT");
        self.server.wait().unwrap();
    }

    async fn connect_when_up(&self) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        let begun = Instant::now();
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "Postgres is not up: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Ok(None) = self.server.try_wait() {
            signal(&self.server, "QUIT");
            drop(self.server.wait());
        }
    }
}

pub fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status().unwrap();
    assert!(sent.success());
}

fn binary(name: &str) -> PathBuf {
    let mut versions: Vec<_> =
        std::fs::read_dir("/usr/lib/postgresql").unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    versions.last().expect("Postgres is installed").join("bin").join(name)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn give_to_postgres(folder: &Path) {
    if is_root() {
        assert!(Command::new("chown").arg("postgres:").arg(folder).status().unwrap().success());
    }
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--").arg(program).current_dir("/");
    command
}
