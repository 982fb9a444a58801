//! The application as a real process beside a real Postgres, and a client that speaks plain HTTP to it.
//!
//! Never calls the application's code: what is not visible from outside is not tested here.

mod postgres;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
};

pub use postgres::{Postgres, signal};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_postgres::Client;
use uuid::Uuid;

/// Every table of the schema, with its tenant column.
pub const TABLES: [(&str, &str); 10] = [
    ("customers", "id"),
    ("customer_users", "customer_id"),
    ("api_keys", "customer_id"),
    ("drivers", "customer_id"),
    ("vehicles", "customer_id"),
    ("gps_positions", "customer_id"),
    ("geofences", "customer_id"),
    ("routes", "customer_id"),
    ("usage_metrics", "customer_id"),
    ("sync_updates", "customer_id"),
];

pub struct Fleet {
    pub postgres: Postgres,
    process: Child,
    address: String,
    /// Sees everything: a superuser is not under row security.
    pub admin: Client,
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

pub fn fleet(argument: &str, database: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_fleet"), argument]).env("DATABASE_URL", database);
    command
}

impl Fleet {
    pub async fn start() -> Self {
        Self::told(&[]).await
    }

    /// With these variables beside the usual ones.
    pub async fn told(variables: &[(&str, &str)]) -> Self {
        let postgres = Postgres::start().await;
        let admin = postgres.connect("postgres").await;
        let migrated = fleet("migrate", &postgres.url("berth_owner")).output().unwrap();
        assert!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        let mut process = fleet("serve", &postgres.url("berth_app"))
            .env("PORT", "0")
            .env("BERTH_CELL", "cell-1")
            .env("DEPLOYMENT_MODE", "single_tenant")
            .env("DEDICATED_DATABASE_POOL_SIZE", "2")
            .env("DATABASE_QUEUE_TARGET_MS", "400")
            .env("PGAPPNAME", "own_name")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log.next().expect("it says where it listens").unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.split_whitespace().next().unwrap().to_owned();
            }
        };
        // Read on, or the process would block when the pipe is full.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| eprintln!("fleet: {line}")));
        Self { postgres, process, address, admin }
    }

    /// A customer, made by the hook that the platform would run.
    pub async fn customer(&self, slug: &str) -> Uuid {
        let id = Uuid::new_v4();
        self.hook(include_str!("../../../hooks/tenant_create.sql"), id, slug).await;
        id
    }

    /// Runs a hook as the platform does: as the owner, its placeholders given as literals.
    pub async fn hook(&self, sql: &str, id: Uuid, slug: &str) {
        let owner = self.postgres.connect("berth_owner").await;
        let sql = sql
            .replace("(:id ", &format!("('{id}' "))
            .replace("(:slug ", &format!("('{slug}' "))
            .replace("(:plan ", "('starter' ");
        owner.batch_execute(&sql).await.unwrap();
    }

    pub async fn vehicle(&self, tenant: Uuid, identifier: &str) -> Uuid {
        let body = serde_json::json!({ "name": "Van", "vehicle_identifier": identifier, "vehicle_type": "van" });
        let made = self.post(tenant, "/api/v1/vehicles", &body.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.body);
        made.body["id"].as_str().unwrap().parse().unwrap()
    }

    pub async fn get(&self, tenant: Uuid, path: &str) -> Answer {
        self.request(&format!("GET {path} HTTP/1.1\r\nBerth-Tenant: {tenant}\r\n"), "").await
    }

    pub async fn post(&self, tenant: Uuid, path: &str, body: &str) -> Answer {
        self.request(&format!("POST {path} HTTP/1.1\r\nBerth-Tenant: {tenant}\r\n"), body).await
    }

    pub async fn put(&self, tenant: Uuid, path: &str, body: &str) -> Answer {
        self.request(&format!("PUT {path} HTTP/1.1\r\nBerth-Tenant: {tenant}\r\n"), body).await
    }

    pub async fn delete(&self, tenant: Uuid, path: &str) -> Answer {
        self.request(&format!("DELETE {path} HTTP/1.1\r\nBerth-Tenant: {tenant}\r\n"), "").await
    }

    /// A connection on which nothing was said yet.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// One request on a connection of its own. `head` ends with a line end.
    pub async fn request(&self, head: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let rest = format!("Host: fleet\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.into(), v.into())).collect();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect(body) };
        Answer { status, headers, body }
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.admin.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
    }

    /// Waits until so many of the application's sessions are in this state.
    pub async fn sessions(&self, condition: &str, wanted: i64) {
        let sql = format!("select count(*) from pg_stat_activity where application_name = 'own_name' and {condition}");
        let begun = std::time::Instant::now();
        loop {
            let now: i64 = self.admin.query_one(&sql, &[]).await.unwrap().get(0);
            if now == wanted {
                return;
            }
            assert!(begun.elapsed().as_secs() < 20, "{now} sessions, not {wanted}, are in: {condition}");
            tokio::task::yield_now().await;
        }
    }

    pub fn terminate(&self) {
        signal(&self.process, "TERM");
    }

    /// Waits until new connections are refused: the signal has been heard.
    pub async fn stops_listening(&self) {
        let begun = std::time::Instant::now();
        while TcpStream::connect(&self.address).await.is_ok() {
            assert!(begun.elapsed().as_secs() < 20, "still listening at {}", self.address);
            tokio::task::yield_now().await;
        }
    }

    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
