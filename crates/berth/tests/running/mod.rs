//! The programs as people start them: a folder, what a test started in it, and the end of both, also when the test is
//! killed. Never asks a server anything but for the key of an edge.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "each test uses a part, ends where it is surprised, and shows what the programs wrote"
)]

use berth_client::Client;
use berth_domain::{OperationId, OperationState};
use berth_providers::local::{Afterwards, end_all};
use berth_testkit::{free_port, wait_until};
use berth_wire::{StackApply, TenantCreate};
use secrecy::SecretString;
use serde_json::Value;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

pub const BERTH: &str = env!("CARGO_BIN_EXE_berth");

/// Lines of each log, when the test fails.
const LOG_LINES: usize = 30;

pub struct Place {
    pub dir: PathBuf,
    pub children: Vec<Child>,
    /// The server's, once it is started.
    pub url: String,
    pub key: String,
}

impl Place {
    #[expect(clippy::zombie_processes, reason = "the janitor is there to outlive us")]
    pub fn new() -> Self {
        let dir = PathBuf::from(format!("/tmp/berth-test-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(dir.join("serve/postgres")).unwrap();
        fs::create_dir_all(dir.join("cells")).unwrap();
        let mut janitor = Command::new(BERTH);
        janitor.args(["janitor", "--delete", "--owner", &std::process::id().to_string()]);
        for root in ["cells", "serve/postgres", ""] {
            janitor.arg("--root").arg(dir.join(root));
        }
        janitor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { dir, children: Vec::new(), url: String::new(), key: String::new() }
    }

    /// Its words go to the log of this name.
    pub fn start(&mut self, name: &str, program: impl AsRef<Path>, arguments: &[&str], env: &[(&str, &str)]) {
        let log = fs::File::create(self.dir.join(name).with_extension("log")).unwrap();
        let child = Command::new(program.as_ref())
            .args(arguments)
            .env_remove("DATABASE_URL")
            .env_remove("BERTH_API_KEY")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name).with_extension("log")).unwrap_or_default()
    }

    /// A server with a Postgres of its own.
    pub async fn serve(&mut self) {
        self.url = self.server("serve", &[]).await;
        self.key = fs::read_to_string(self.dir.join("serve/admin.key")).unwrap().trim().into();
    }

    /// A server with a folder and a log of this name; all of them seal with the first one's key. Where it listens.
    pub async fn server(&mut self, name: &str, env: &[(&str, &str)]) -> String {
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let (data, seal) = (path(name), path("serve/seal.key"));
        let at = ["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data-dir", &data];
        self.start(name, BERTH, &[&at[..], &["--seal-key-file", &seal]].concat(), env);
        let look = async || self.log(name);
        let log = wait_until("the server listens", look, |log: &String| log.contains("serving on http://")).await;
        log.split("serving on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url, Some(SecretString::from(self.key.clone()))).unwrap()
    }

    /// The command line as the server's first administrator.
    pub fn berth(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BERTH);
        command.args(words).env_remove("DATABASE_URL").current_dir(&self.dir).stdin(Stdio::null());
        command.env("BERTH_URL", &self.url).env("BERTH_API_KEY", &self.key);
        command
    }

    pub fn new_key(&self, name: &str, scope: &str) -> String {
        let made = self.berth(&["key", "create", name, "--scope", scope]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// Puts a stack of the fleet application in force, with the hooks that its file names.
    pub async fn apply(&self, file: String) {
        let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/fleet/hooks");
        let hooks = fs::read_dir(hooks).unwrap().map(|entry| entry.unwrap());
        let named = hooks.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        let files = named.filter(|(name, _)| file.contains(name.as_str()));
        let files = files.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect();
        let client = self.client();
        let applied = client.stack_apply(&StackApply { file, files, dry_run: false }).await.unwrap();
        for operation in applied.operations {
            finishes(&client, operation).await;
        }
    }

    /// An edge of the server's, under this name. Where it listens.
    pub fn edge(&mut self, name: &str) -> SocketAddr {
        let key = self.new_key(name, "edge");
        let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (listen, data) = (at.to_string(), self.dir.join("edge").to_string_lossy().into_owned());
        let url = self.url.clone();
        let mut words = vec!["edge", "--name", name, "--listen", &listen, "--admin", "127.0.0.1:0"];
        words.extend(["--control", &url, "--data-dir", &data]);
        self.start("edge", BERTH, &words, &[("BERTH_API_KEY", &key)]);
        at
    }
}

/// A server, an edge, and a stack of the fleet application in force.
pub struct World {
    pub place: Place,
    pub client: Client,
    pub edge: SocketAddr,
}

impl World {
    /// `file`: the stack file. It names `edge-1`, which listens once it is in force.
    pub async fn start(file: impl FnOnce(&Place) -> String) -> Self {
        let mut place = Place::new();
        place.serve().await;
        let client = place.client();
        place.apply(file(&place)).await;
        let edge = place.edge("edge-1");
        Self { place, client, edge }
    }

    /// A tenant with one host, `NAME.test`. Edges may not have heard of it yet.
    pub async fn tenant(&self, name: &str, plan: &str) {
        let wanted = TenantCreate {
            name: name.parse().unwrap(),
            plan: plan.parse().unwrap(),
            hosts: vec![format!("{name}.test").parse().unwrap()],
            key: None,
            cell: None,
            profile: None,
        };
        finishes(&self.client, self.client.tenant_create(&wanted).await.unwrap().id).await;
    }

    /// What a command answers with `--json`, whether it succeeded or not.
    pub fn json(&self, words: &[&str]) -> Value {
        let (_, out, error) = self.berth(&[words, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{words:?}: {out}{error}"))
    }

    /// Exit status, standard output, standard error.
    pub fn berth(&self, words: &[&str]) -> (i32, String, String) {
        let done = self.place.berth(words).arg("--yes").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code().unwrap_or(-1), text(&done.stdout), text(&done.stderr))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended by itself is what this is for, too.
            let _ = child.kill();
            let _ = child.wait();
        }
        for root in ["cells", "serve/postgres"] {
            let _ = end_all(&self.dir.join(root), Afterwards::Delete);
        }
        if thread::panicking() {
            for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                    eprintln!("--- {}\n{last}", path.display());
                }
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The application is another package's program; `scripts/test` builds both.
pub fn fleet() -> PathBuf {
    let path = Path::new(BERTH).with_file_name("fleet");
    assert!(path.exists(), "{} is missing: cargo build -p fleet", path.display());
    path
}

pub async fn finishes(client: &Client, operation: OperationId) {
    let until = Instant::now() + Duration::from_mins(2);
    loop {
        let now = client.operation(operation).await.unwrap();
        if now.state.is_final() || now.state == OperationState::Stuck {
            assert_eq!(now.state, OperationState::Succeeded, "{:?}", now.fault);
            return;
        }
        assert!(Instant::now() < until, "operation {operation} is still {}", now.state);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One request on a connection of its own: status and body, `None` where there was no answer.
pub fn ask(port: u16, host: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
