//! A control plane and an edge on the machine of the test; only cells are elsewhere.

use super::{Desk, text};
use berth_client::Client;
use berth_domain::{OperationId, OperationState};
use berth_testkit::{free_port, wait_until};
use std::{
    fs,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// A variable of the control plane's, for services that name it.
pub const PLANTED: &str = "planted-partner-token-5b1e";

/// `serve` and `edge` on this machine; only the cells are elsewhere.
pub struct Control<'a> {
    desk: &'a Desk,
    port: u16,
    metrics: u16,
    pub edge_port: u16,
    serve: Child,
    edge: Option<Child>,
}

impl<'a> Control<'a> {
    pub async fn start(desk: &'a Desk) -> Self {
        let (port, metrics, edge_port) = (free_port(), free_port(), free_port());
        let serve = Self::serving(desk, port, metrics);
        let mut control = Self { desk, port, metrics, edge_port, serve, edge: None };
        control.listens().await;
        let key = control.run(&["key", "create", "edge-1", "--scope", "edge", "--json"]);
        let key: serde_json::Value = serde_json::from_str(&key).unwrap();
        let data = desk.dir.join("edge");
        let edge = desk
            .berth(&[
                "edge",
                "--name",
                "edge-1",
                "--workers",
                "1",
                "--listen",
                &format!("127.0.0.1:{edge_port}"),
                "--admin",
            ])
            .arg(format!("127.0.0.1:{}", free_port()))
            .args(["--control", &control.url(), "--data-dir"])
            .arg(data)
            .env("BERTH_API_KEY", key["secret"].as_str().unwrap())
            .stderr(fs::File::create(desk.dir.join("edge.log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        control.edge = Some(edge);
        control
    }

    fn serving(desk: &Desk, port: u16, metrics: u16) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(desk.dir.join("serve.log")).unwrap();
        desk.berth(&["serve", "--listen", &format!("127.0.0.1:{port}"), "--metrics", &format!("127.0.0.1:{metrics}")])
            .arg("--data-dir")
            .arg(desk.dir.join("serve"))
            .env("PARTNER_TOKEN", PLANTED)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn key(&self) -> String {
        fs::read_to_string(self.desk.dir.join("serve/admin.key")).unwrap_or_default().trim().to_owned()
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url(), Some(self.key().into())).unwrap().with_answer_limit(Duration::from_mins(1))
    }

    pub async fn listens(&self) {
        let look =
            || async { std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() && !self.key().is_empty() };
        wait_until("the control plane listens", look, |open: &bool| *open).await;
    }

    pub fn try_run(&self, words: &[&str]) -> Output {
        self.desk.berth(words).env("BERTH_URL", self.url()).env("BERTH_API_KEY", self.key()).output().unwrap()
    }

    pub fn run(&self, words: &[&str]) -> String {
        let out = self.try_run(words);
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// `kill -9`, and another one in its folder.
    pub async fn killed(&mut self) {
        self.serve.kill().unwrap();
        self.serve.wait().unwrap();
        self.serve = Self::serving(self.desk, self.port, self.metrics);
        self.listens().await;
    }

    pub async fn ended(&self, operation: OperationId) -> OperationState {
        let client = self.client();
        for _ in 0..6000 {
            if let Ok(now) = client.operation(operation).await {
                match now.state {
                    OperationState::Succeeded | OperationState::Failed | OperationState::Abandoned => return now.state,
                    OperationState::Stuck => panic!("the operation is stuck: {:?}", now.fault),
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("operation {operation} did not end within 10 minutes");
    }
}

impl Drop for Control<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["serve.log", "edge.log"] {
                let text = fs::read_to_string(self.desk.dir.join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("== {log}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
        for child in std::iter::once(&mut self.serve).chain(self.edge.as_mut()) {
            let _ = Command::new("kill").arg(child.id().to_string()).status();
            let _ = child.wait();
        }
        let _ = berth_providers::local::end_all(
            &self.desk.dir.join("serve/postgres"),
            berth_providers::local::Afterwards::Delete,
        );
    }
}
