//! What `berth render` writes for containers, under podman: the stack of the compose file runs and serves, and the
//! Dockerfile builds an image that runs as nobody in particular. Nothing is fetched but Debian's packages: base images
//! are made here under names of the tests' own.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use machines::{BERTH, IMAGE, fleet, image, must, registry, run, text};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use uuid::Uuid;

const POSTGRES: &str = "localhost/berth-test-postgres:1";
const BUILDER: &str = "localhost/berth-test-builder:3";

/// Does what the one of docker.io/library/postgres does of what the rendered stack asks of it.
const ENTRY: &str = r#"#!/bin/sh
set -e
[ "$1" = postgres ] || exec "$@"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
export PATH PGDATA=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    mkdir -p $PGDATA /var/run/postgresql
    chown postgres $PGDATA /var/run/postgresql
    chmod 700 $PGDATA
    exec setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"
fi
if [ ! -s $PGDATA/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    initdb -U "$POSTGRES_USER" --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256 >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>$PGDATA/pg_hba.conf
    pg_ctl -o "-c listen_addresses=" -w start >/dev/null
    createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -m fast -w stop >/dev/null
fi
exec "$@" -c listen_addresses='*'
"#;

fn there(program: &str, package: &str) -> Option<()> {
    if run("sh", &["-c", &format!("command -v {program}")]).status.success() {
        return Some(());
    }
    eprintln!("skipped: `{program}` is not installed (Debian: {package})");
    None
}

/// A folder of its own, a service of podman in it that `docker-compose` speaks to, and what was made gone with it.
struct Engine {
    dir: PathBuf,
    name: String,
    service: Child,
    images: Vec<String>,
}

impl Engine {
    fn start() -> Option<Self> {
        there("podman", "podman, runc")?;
        image()?;
        let name = format!("berth-render-{}", Uuid::new_v4().simple());
        let dir = PathBuf::from("/tmp").join(&name);
        fs::create_dir_all(&dir).unwrap();
        let limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";
        fs::write(dir.join("containers.conf"), format!("{limits}[engine]\nruntime = \"runc\"\n")).unwrap();
        let socket = dir.join("podman.sock");
        let service = Self::podman(&dir)
            .args(["system", "service", "--time", "0", &format!("unix://{}", socket.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let engine = Self { dir, name, service, images: Vec::new() };
        let until = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < until, "podman does not open its socket");
            thread::sleep(Duration::from_millis(20));
        }
        Some(engine)
    }

    /// The containers of a stack find each other by name, which podman's networks have by a package of its own.
    fn has_names(&self) -> bool {
        self.says(&["network", "create", &self.name]);
        let network = self.says(&["network", "inspect", &self.name]);
        self.says(&["network", "rm", &self.name]);
        let has = network.contains("\"dns_enabled\": true");
        if !has {
            eprintln!(
                "skipped: podman's networks have no names (Debian: golang-github-containernetworking-plugin-dnsname)"
            );
        }
        has
    }

    fn podman(dir: &Path) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", dir.join("containers.conf")).stdin(Stdio::null());
        command
    }

    fn says(&self, words: &[&str]) -> String {
        let out = Self::podman(&self.dir).args(words).output().unwrap();
        assert!(out.status.success(), "podman {words:?}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout).trim().to_owned()
    }

    /// An image that the tests need again and again, made once on a machine.
    fn base(&self, name: &str, files: &[(&str, &str)], dockerfile: &str) {
        if run("podman", &["image", "exists", name]).status.success() {
            return;
        }
        let folder = self.dir.join("base");
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        fs::write(folder.join("Dockerfile"), format!("FROM {IMAGE}\n{dockerfile}")).unwrap();
        self.says(&["build", "--quiet", "--network=host", "--tag", name, folder.to_str().unwrap()]);
        fs::remove_dir_all(folder).unwrap();
    }

    fn compose(&self, words: &[&str]) -> Output {
        Command::new("timeout")
            .args(["240", "docker-compose", "--project-name", &self.name])
            .args(words)
            .current_dir(&self.dir)
            .env("DOCKER_HOST", format!("unix://{}", self.dir.join("podman.sock").display()))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn up(&self) {
        let _well = Checked::begin(&self.dir, &format!("{}_postgres_1", self.name));
        let up = self.compose(&["up", "--detach"]);
        if !up.status.success() {
            let logs = text(&self.compose(&["logs", "--no-color"]).stdout);
            panic!("{}{}\n{logs}", text(&up.stdout), text(&up.stderr));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.dir.join("docker-compose.yml").exists() {
            self.compose(&["down", "--volumes", "--timeout", "1"]);
        }
        let left = text(&run("podman", &["ps", "--all", "--quiet", "--filter", &format!("name={}", self.name)]).stdout);
        for container in left.split_whitespace() {
            run("podman", &["rm", "--force", "--time", "0", container]);
        }
        for image in &self.images {
            run("podman", &["rmi", "--force", image]);
        }
        let _ = self.service.kill();
        let _ = self.service.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Health checks of a container, which timers of systemd start elsewhere: here there may be no systemd.
struct Checked {
    over: Arc<AtomicBool>,
    checks: Option<thread::JoinHandle<()>>,
}

impl Checked {
    fn begin(dir: &Path, container: &str) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (stop, dir, container) = (Arc::clone(&over), dir.to_owned(), container.to_owned());
        let checks = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = Engine::podman(&dir).args(["healthcheck", "run", &container]).output();
                thread::sleep(Duration::from_millis(500));
            }
        });
        Self { over, checks: Some(checks) }
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.checks.take().unwrap().join().unwrap();
    }
}

fn get(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The first good answer.
fn served(port: u16, path: &str) -> String {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = get(at, path);
        match answer {
            Some(answer) if answer.split(' ').nth(1) == Some("200") => return answer,
            _ if Instant::now() > until => panic!("{at}{path} answers {answer:?} after 30 s"),
            _ => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn free(port: u16) -> Option<()> {
    if TcpStream::connect(("127.0.0.1", port)).is_err() {
        return Some(());
    }
    eprintln!("skipped: port {port} of this machine is taken, and the rendered stack publishes it on loopback");
    None
}

fn render(folder: &Path, more: &[&str]) {
    let words = [&["render", "--host", "fleet.example.com"][..], more].concat();
    let out = Command::new(BERTH).args(words).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
}

async fn database(user: &str, password: &str) -> tokio_postgres::Client {
    let url = format!("postgres://{user}:{password}@127.0.0.1:15432/app");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rendered_stack_runs_under_podman_and_serves() {
    let (Some(fleet), Some(())) = (fleet(), there("docker-compose", "docker-compose")) else { return };
    if there("/usr/libexec/podman/catatonit", "catatonit").is_none() || free(18_000).is_none() || free(15_432).is_none()
    {
        return;
    }
    let Some(mut engine) = Engine::start() else { return };
    if !engine.has_names() {
        return;
    }
    let entry = "COPY entry /usr/local/bin/entry\nRUN chmod 755 /usr/local/bin/entry\n\
                 ENTRYPOINT [\"/usr/local/bin/entry\"]\nCMD [\"postgres\"]\n";
    engine.base(POSTGRES, &[("entry", ENTRY)], entry);

    // The application as an image, named by its digest.
    let (root, tar) = (engine.dir.join("root"), engine.dir.join("root.tar"));
    fs::create_dir_all(&root).unwrap();
    registry::fill(&root, &fleet);
    must("tar", &["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    fs::remove_dir_all(&root).unwrap();
    let name = format!("localhost/{}", engine.name);
    engine.says(&["import", "--quiet", tar.to_str().unwrap(), &format!("{name}:1")]);
    engine.images.push(format!("{name}:1"));
    fs::remove_file(tar).unwrap();
    let digest = engine.says(&["image", "inspect", "--format", "{{.Digest}}", &format!("{name}:1")]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let postgres = engine.says(&["image", "inspect", "--format", "{{.Digest}}", POSTGRES]);

    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet").canonicalize().unwrap();
    let stack = fs::read_to_string(examples.join("berth.yaml")).unwrap();
    let hooks = format!("{}/../../apps", examples.display());
    fs::write(engine.dir.join("berth.yaml"), stack.replace("../../apps", &hooks)).unwrap();
    render(&engine.dir, &["--language", "rust"]);
    let mut env = fs::read_to_string(engine.dir.join(".env.example")).unwrap();
    for (variable, value) in [
        ("POSTGRES_PASSWORD", "word-of-the-mover"),
        ("APP_PASSWORD", "word-of-the-application"),
        ("POSTGRES_IMAGE", &format!("localhost/berth-test-postgres@{postgres}")),
        ("WEB_IMAGE", &format!("{name}@{digest}")),
    ] {
        let line = format!("{variable}=\n");
        assert!(env.contains(&line), "{variable}");
        env = env.replace(&line, &format!("{variable}={value}\n"));
    }
    fs::write(engine.dir.join(".env"), env).unwrap();

    engine.up();
    let health = served(18_000, "/health");
    assert!(health.contains("\"ok\""), "{health}");

    // As `berth cell add --endpoint` needs it: changes can be followed out of it, and the application can be fenced.
    let mover = database("berth", "word-of-the-mover").await;
    let level: String = mover.query_one("select current_setting('wal_level')", &[]).await.unwrap().get(0);
    assert_eq!(level, "logical");
    let app = database("app", "word-of-the-application").await;
    let all: bool = app.query_one("select rolsuper from pg_roles where rolname = 'app'", &[]).await.unwrap().get(0);
    assert!(!all, "the application's login may do everything");
    let tables: i64 = app
        .query_one("select count(*) from pg_tables where schemaname = 'public' and tableowner = 'app'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(tables > 0, "nothing was migrated");
    app.execute("create table kept (word text)", &[]).await.unwrap();
    app.execute("insert into kept values ('still here')", &[]).await.unwrap();
    drop((mover, app));

    // Nobody but this machine reaches it.
    let way_out = UdpSocket::bind("0.0.0.0:0").unwrap();
    if way_out.connect("192.0.2.1:9").is_ok() {
        let own = way_out.local_addr().unwrap().ip();
        for port in [18_000, 15_432] {
            let other = SocketAddr::new(own, port);
            assert!(TcpStream::connect_timeout(&other, Duration::from_secs(2)).is_err(), "{other} answers");
        }
    }

    // Down and up again: what was written stays, and what was done once is done again without harm.
    let down = engine.compose(&["down", "--timeout", "5"]);
    assert!(down.status.success(), "{}", text(&down.stderr));
    assert!(free(18_000).is_some());
    engine.up();
    served(18_000, "/health");
    let app = database("app", "word-of-the-application").await;
    let word: String = app.query_one("select word from kept", &[]).await.unwrap().get(0);
    assert_eq!(word, "still here");
}

const RUST: &str = r#"use std::{io::{BufRead as _, BufReader, Write as _}, net::TcpListener};

fn main() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let head = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let wanted = head.collect::<Vec<_>>().join(" ");
        let status = if wanted.starts_with("GET /up ") { "200 OK" } else { "404 Not Found" };
        let _ = write!(stream, "HTTP/1.0 {status}\r\n\r\nserved\n");
    }
}
"#;
const PYTHON: &str = r#"import http.server, os

class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/up" else 404)
        self.end_headers()
        self.wfile.write(b"served\n")

http.server.HTTPServer(("0.0.0.0", int(os.environ["PORT"])), App).serve_forever()
"#;

const GO: &str = r#"package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "served") })
	panic(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"#;
const NODE: &str = r#"require("node:http").createServer((request, response) => {
  response.writeHead(request.url === "/up" ? 200 : 404).end("served\n");
}).listen(process.env.PORT);
"#;

/// A program in one language, and the names its Dockerfile fetches bases by, with what they are here.
struct Sample<'a> {
    language: &'a str,
    command: &'a str,
    files: &'a [(&'a str, &'a str)],
    bases: &'a [(&'a str, &'a str)],
    /// Tools of this machine that lie in the bases elsewhere.
    lent: Vec<String>,
}

/// Compilers are Debian's or this machine's.
#[test]
fn a_rendered_dockerfile_builds_an_image_that_serves_without_rights() {
    let Some(mut engine) = Engine::start() else { return };
    let packages = "RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
                    --no-install-recommends gcc libc6-dev libstdc++6 golang-go python3-venv >/dev/null\n\
                    ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/toolchain/bin:/usr/local/bin/node_modules/npm/bin\n\
                    RUN ln -sf python3 /usr/bin/python\n";
    engine.base(BUILDER, &[], packages);
    let mut samples = vec![
        Sample {
            language: "rust",
            command: "[desk]",
            files: &[
                ("Cargo.toml", "[package]\nname = \"desk\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
                ("Cargo.lock", "version = 3\n\n[[package]]\nname = \"desk\"\nversion = \"0.1.0\"\n"),
                ("src/main.rs", RUST),
            ],
            bases: &[("rust:1-bookworm", BUILDER), ("debian:12-slim", IMAGE)],
            lent: vec![format!("{}:/toolchain:ro", must("rustc", &["--print", "sysroot"]).trim())],
        },
        Sample {
            language: "python",
            command: "[python, app.py]",
            files: &[("requirements.txt", "\n"), ("app.py", PYTHON)],
            bases: &[("python:3.13-slim-bookworm", BUILDER)],
            lent: Vec::new(),
        },
        Sample {
            language: "go",
            command: "[desk]",
            files: &[("go.mod", "module desk\n\ngo 1.19\n"), ("main.go", GO)],
            bases: &[("golang:1.25-bookworm", BUILDER), ("debian:12-slim", IMAGE)],
            lent: Vec::new(),
        },
    ];
    let npm = Path::new("/usr/lib/node_modules/npm");
    if there("node", "nodejs, npm").is_some() && npm.exists() {
        let node = must("sh", &["-c", "command -v node"]);
        samples.push(Sample {
            language: "node",
            command: "[node, app.js]",
            files: &[
                ("package.json", r#"{"name": "desk", "version": "0.1.0", "scripts": {"build": "node -e 0"}}"#),
                (
                    "package-lock.json",
                    r#"{"name": "desk", "version": "0.1.0", "lockfileVersion": 3, "packages": {"": {"name": "desk", "version": "0.1.0"}}}"#,
                ),
                ("app.js", NODE),
            ],
            bases: &[("node:22-bookworm-slim", BUILDER)],
            lent: vec![
                format!("{}:/usr/local/bin/node:ro", node.trim()),
                "/usr/lib/node_modules:/usr/local/bin/node_modules:ro".to_owned(),
            ],
        });
    }
    for sample in samples {
        serves_without_rights(&mut engine, &sample);
    }
}

fn serves_without_rights(engine: &mut Engine, sample: &Sample) {
    let folder = engine.dir.join(sample.language);
    fs::create_dir_all(folder.join("src")).unwrap();
    for (file, text) in sample.files {
        fs::write(folder.join(file), text).unwrap();
    }
    let stack = format!(
        "stack: desk\nservices: {{ web: {{ command: {}, health: /up }} }}\nproviders: {{ local: {{ adapter: local }} }}\n",
        sample.command
    );
    fs::write(folder.join("berth.yaml"), stack).unwrap();
    // Which language it is shows in the folder.
    render(&folder, &[]);
    fs::write(folder.join(".env"), "APP_PASSWORD=planted-word-5d21\n").unwrap();
    let name = format!("localhost/{}-{}", engine.name, sample.language);
    let lent: Vec<&str> = sample.lent.iter().flat_map(|lent| ["--volume", lent]).collect();
    // The names that the file fetches its bases by are not given to anything on this machine.
    let bases: Vec<String> =
        sample.bases.iter().map(|(from, to)| format!("--build-context={from}=container-image://{to}")).collect();
    let mut words = vec!["build", "--quiet", "--format", "docker", "--network=host", "--pull=never", "--tag", &name];
    words.extend(&lent);
    words.extend(bases.iter().map(String::as_str));
    words.push(folder.to_str().unwrap());
    engine.says(&words);
    engine.images.push(name.clone());

    let container = format!("{}-{}", engine.name, sample.language);
    let mut words = vec!["run", "--detach", "--name", &container, "--publish", "127.0.0.1::8000", "--cap-drop=all"];
    words.extend(&lent);
    words.push(&name);
    engine.says(&words);
    let published = engine.says(&["port", &container, "8000"]);
    let port = published.rsplit(':').next().unwrap().parse().unwrap();
    assert!(served(port, "/up").ends_with("served\n"));
    assert_eq!(engine.says(&["exec", &container, "id", "-u"]), "10001", "{}", sample.language);
    engine.says(&["healthcheck", "run", &container]);
    let planted = engine.says(&["exec", &container, "sh", "-c", "grep -rls planted-word-5d21 /app /usr/local; true"]);
    assert_eq!(planted, "", "variables of the folder are in the image");
    engine.says(&["rm", "--force", "--time", "1", &container]);
}
