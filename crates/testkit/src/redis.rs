//! A private Redis on a free port, gone with its test. Where the machine has none, the test says so and ends.

use crate::{free_port, wait_until};
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One server, without a disk of its own.
#[derive(Debug)]
pub struct TestRedis {
    server: Child,
    port: u16,
}

impl TestRedis {
    /// `None` where `redis-server` is not installed; that is said on stderr.
    pub async fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), arguments).await
    }

    /// The same at a port that is known beforehand.
    pub async fn start_at(port: u16, arguments: &[&str]) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = started else {
            eprintln!("skipped: `redis-server` is not installed here");
            return None;
        };
        let redis = Self { server, port };
        wait_until("Redis answers", async || redis.answers().await, |answers| *answers).await;
        Some(redis)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Gone at once, as by a power cut.
    pub fn kill(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// One command, as `redis-cli` prints its answer.
    pub fn ask(&self, command: &[&str]) -> String {
        ask(self.port, command)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut answer = [0; 5];
        stream.write_all(b"PING\r\n").await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            // Or that it wants a password first.
            && (&answer == b"+PONG" || &answer == b"-NOAU")
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn ask(port: u16, command: &[&str]) -> String {
    let asked = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output();
    asked.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default()
}
