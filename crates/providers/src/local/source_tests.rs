//! Programs by their digest and images by theirs, the latter with a real podman and a real registry that asks for a
//! password. Skips with a word where they are not installed.

use super::tests::{Here, SERVER};
use berth_domain::{Artifact, CellName, Digest};
use berth_infra::{
    Compute, EnvVar, Health, MemberSpec, Observed, ProviderError, RegistryLogin, RunSpec, Shape, Source,
    conformance::member,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn digest(bytes: &[u8]) -> Digest {
    Digest::of_bytes(Sha256::digest(bytes).into())
}

fn program(path: &Path, text: &str) -> Artifact {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    Artifact::Program { path: path.to_str().unwrap().to_owned(), digest: digest(text.as_bytes()) }
}

fn source(artifact: &Artifact) -> Source {
    Source::Artifact { artifact: artifact.clone(), login: None }
}

async fn healthy(here: &Here, spec: &MemberSpec) -> berth_infra::Member {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match here.local.observe_member(&spec.name).await.unwrap() {
            Observed::Present(member) if member.health == Health::Healthy => return member,
            seen => assert!(Instant::now() < until, "not healthy; last seen: {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_the_one_that_was_named_ends_nothing_that_runs() {
    let here = Here::with_podman(Vec::new());
    let path = here.root.join("server");
    let first = program(&path, &format!("#!/usr/bin/perl\n{SERVER}"));
    let mut spec = member(&here, "named", 0);
    spec.source = source(&first);
    spec.command = vec![path.to_str().unwrap().to_owned()];
    here.local.ensure_member(&spec).await.unwrap();
    let before = healthy(&here, &spec).await;
    fs::write(&path, "something else").unwrap();
    spec.env = vec![EnvVar::new("GREETING", "changed")];
    let refused = here.local.ensure_member(&spec).await.unwrap_err();
    assert!(matches!(&refused, ProviderError::OtherDigest { .. }), "{refused}");
    assert!(refused.to_string().contains("has the digest sha256:") && !refused.retryable());
    assert_eq!(healthy(&here, &spec).await.pid, before.pid);
    here.local.remove_member(&spec.name).await.unwrap();
}

/// A registry of its own that lets in one account, and an image in it.
struct Registry {
    process: Child,
    dir: PathBuf,
    host: String,
    image: Artifact,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = podman().args(["rmi", "--force", &self.image.to_string()]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Debian's podman would take crun, which needs control groups of one version.
const PODMAN: [&str; 2] = ["--runtime", "runc"];
const PASSWORD: &str = "planted-registry-password";

fn podman() -> Command {
    let mut command = Command::new("podman");
    command.args(PODMAN).stdin(Stdio::null());
    command
}

fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `None`: not here, said on standard error.
fn registry() -> Option<Registry> {
    for (program, word) in [("podman", "--version"), ("docker-registry", "--version"), ("htpasswd", "-v")] {
        if Command::new(program).arg(word).output().is_err() {
            eprintln!("skipped: `{program}` is not installed");
            return None;
        }
    }
    let dir = PathBuf::from(format!("/tmp/berth-registry-{}", super::files::random_hex(6)));
    fs::create_dir_all(dir.join("rootfs")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let users = dir.join("users");
    ok(Command::new("htpasswd").args(["-Bbc", users.to_str().unwrap(), "puller", PASSWORD]));
    let config = format!(
        "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {}/store }} }}\nhttp: {{ addr: 127.0.0.1:{port} }}\n\
         auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n",
        dir.display(),
        users.display()
    );
    fs::write(dir.join("config.yml"), config).unwrap();
    let process = Command::new("docker-registry")
        .args(["serve", dir.join("config.yml").to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "the registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A root of perl and sh with what they load: nothing is fetched.
    let rootfs = dir.join("rootfs.tar");
    ok(Command::new("sh").args([
        "-c",
        "files=$(for p in /usr/bin/perl /bin/sh; do ldd $p | grep -o '/[^ ]*'; echo $p; done | sort -u) && \
         tar -chf \"$0\" $files $(perl -e 'print grep { m{/perl-base$} } @INC') /etc/passwd 2>/dev/null",
        rootfs.to_str().unwrap(),
    ]));
    let host = format!("127.0.0.1:{port}");
    let name = format!("{host}/shop/web");
    ok(podman().args(["import", "--quiet", rootfs.to_str().unwrap(), &format!("{name}:made")]));
    let digest_file = dir.join("digest");
    ok(podman().args(["push", "--quiet", "--tls-verify=false", "--creds", &format!("puller:{PASSWORD}")]).args([
        "--digestfile",
        digest_file.to_str().unwrap(),
        &format!("{name}:made"),
    ]));
    ok(podman().args(["rmi", "--force", &format!("{name}:made")]));
    let digest = fs::read_to_string(digest_file).unwrap();
    let image = format!("{name}@{}", digest.trim()).parse().unwrap();
    Some(Registry { process, dir, host, image })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_with_its_login_and_runs_like_any_member() {
    let Some(registry) = registry() else { return };
    let here = Here::with_podman(PODMAN.map(str::to_owned).into());
    let login = |password: &str| RegistryLogin {
        host: registry.host.clone(),
        user: "puller".to_owned(),
        password: password.into(),
    };
    let with = |artifact: &Artifact, password| Source::Artifact { artifact: artifact.clone(), login: password };

    let cell = CellName::new("boxed").unwrap();
    // Who may not, or what is not there: refused by name, and no account stays behind.
    let account = format!("registry add {}", registry.host);
    for (source, word, remedy) in [
        (with(&registry.image, None), "unauthorized", account.as_str()),
        (with(&registry.image, Some(login("wrong"))), "unauthorized", account.as_str()),
        (
            with(
                &format!("{}/shop/web@sha256:{}", registry.host, "0".repeat(64)).parse().unwrap(),
                Some(login(PASSWORD)),
            ),
            "unknown",
            "push it to",
        ),
    ] {
        let refused = here.local.ensure_source(&cell, &source).await.unwrap_err();
        assert!(matches!(&refused, ProviderError::NotPulled { .. }), "{refused}");
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(!refused.to_string().contains(PASSWORD), "a password shows");
        assert!(refused.hint().unwrap().contains(remedy), "{:?}", refused.hint());
    }

    let mut spec = member(&here, "boxed", 0);
    spec.source = with(&registry.image, Some(login(PASSWORD)));
    spec.command = ["/usr/bin/perl", "-e", SERVER].map(str::to_owned).into();
    spec.env = vec![EnvVar::new("GREETING", "two\nlines"), EnvVar::new("LATER", "x y=z")];
    let made = here.local.ensure_member(&spec).await.unwrap();
    let seen = healthy(&here, &spec).await;
    assert_eq!((made.pid, made.port, seen.starts), (seen.pid, seen.port, 1));
    assert_eq!(here.local.ensure_member(&spec).await.unwrap().pid, made.pid, "ensured again it is the same");
    assert!(here.local.member_load(&spec.name).await.unwrap().unwrap().memory_bytes > 0);
    let lines = here.local.member_logs(&spec.name, 10).await.unwrap();
    assert_eq!(lines, ["serving two", "lines"]);

    // What runs is not taken away; and what is not there is gone.
    assert!(!here.local.remove_image(&cell, &registry.image).await.unwrap());
    let absent = format!("{}/shop/web@sha256:{}", registry.host, "0".repeat(64)).parse().unwrap();
    assert!(here.local.remove_image(&cell, &absent).await.unwrap());

    // Its first process is killed: it has stopped, and comes back.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(made.pid.unwrap().cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = here.local.observe_member(&spec.name).await.unwrap().present().unwrap();
        if matches!(seen.health, Health::Stopped { .. }) {
            break;
        }
        assert!(Instant::now() < until, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(here.local.ensure_member(&spec).await.unwrap().starts, 2);
    healthy(&here, &spec).await;
    here.local.remove_member(&spec.name).await.unwrap();
    assert!(here.local.observe_member(&spec.name).await.unwrap().is_absent());

    // A run in it keeps its output and its time.
    let run = |script: &str, limit: u64| RunSpec {
        what: "migrate of cell boxed".to_owned(),
        cell: CellName::new("boxed").unwrap(),
        source: spec.source.clone(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        env: vec![EnvVar::new("GREETING", "hello")],
        time_limit: Duration::from_secs(limit),
        shape: Shape::default(),
        key: None,
    };
    let fine = here.local.run_once(&run("echo $GREETING; exit 3", 60)).await.unwrap();
    assert_eq!((fine.exit_code, fine.output.as_str()), (Some(3), "hello\n"));
    let slow = here.local.run_once(&run("echo begun; while :; do :; done", 3)).await.unwrap();
    assert!(slow.timed_out && slow.output == "begun\n", "{slow:?}");

    assert!(here.local.remove_image(&cell, &registry.image).await.unwrap(), "nothing runs from it any more");
    let there = podman().args(["image", "exists", &registry.image.to_string()]).status().unwrap();
    assert_eq!(there.code(), Some(1));

    // Nothing of it is left: no container, no file with a password or a variable in it.
    let mine = format!("berth-{}-", fs::read_to_string(here.root.join("id")).unwrap());
    assert!(!ok(podman().args(["ps", "--all", "--format", "{{.Names}}"])).contains(&mine));
    let found = Command::new("grep").args(["-rl", PASSWORD, here.root.to_str().unwrap()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one small file, which nobody else has: its manifest, its configuration, its layer.
fn by_hand(dir: &Path) -> [Vec<u8>; 3] {
    let tar = dir.join("layer.tar");
    fs::write(dir.join("word"), super::files::random_hex(8)).unwrap();
    ok(Command::new("tar").args(["-C", dir.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "word"]));
    let layer = fs::read(tar).unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer).to_string()] },
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, bytes: &[u8]| {
        let (kind, digest) = (format!("application/vnd.oci.image.{kind}"), digest(bytes).to_string());
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": part("config.v1+json", &config), "layers": [part("layer.v1.tar", &layer)],
    });
    [manifest.to_string().into_bytes(), config, layer]
}

/// What a registry gives, by path.
type Given = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A registry that never compares what it gives with the digest that it is asked for. Where it listens.
async fn careless(given: Given) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let given = given.clone();
            tokio::spawn(async move {
                let mut head = [0; 8192];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let mut words = head.split(' ');
                // Podman knocks with TLS first.
                let (Some(verb @ ("GET" | "HEAD")), Some(path)) = (words.next(), words.next()) else { return };
                let found = given.lock().unwrap().get(path).cloned();
                let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
                let kind = if path.contains("/manifests/") { MANIFEST } else { "application/octet-stream" };
                let bytes = found.unwrap_or_default();
                let length = bytes.len();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
                let _ = stream.write_all(format!("{answer}Connection: close\r\n\r\n").as_bytes()).await;
                if verb == "GET" {
                    let _ = stream.write_all(&bytes).await;
                }
            });
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_another_digest_is_refused_by_name_and_ends_nothing_that_runs() {
    if Command::new("podman").arg("--version").output().is_err() {
        eprintln!("skipped: `podman` is not installed");
        return;
    }
    let here = Here::with_podman(PODMAN.map(str::to_owned).into());
    let spec = member(&here, "kept", 0);
    here.local.ensure_member(&spec).await.unwrap();
    let before = healthy(&here, &spec).await;

    let given = Given::default();
    let host = careless(given.clone()).await;
    let parts = by_hand(&here.root);
    let [manifest, config, layer] = parts.each_ref().map(|bytes| digest(bytes));
    let image: Artifact = format!("{host}/shop/web@{manifest}").parse().unwrap();
    let path = |kind: &str, digest: &Digest| format!("/v2/shop/web/{kind}/{digest}");
    let paths = [path("manifests", &manifest), path("blobs", &config), path("blobs", &layer)];
    let gives = |altered: Option<usize>| {
        let mut parts = parts.clone();
        if let Some(nth) = altered {
            *parts[nth].last_mut().unwrap() ^= 1;
        }
        let all = paths.iter().cloned().zip(parts).chain([("/v2/".to_owned(), Vec::new())]);
        *given.lock().unwrap() = all.collect();
    };
    let mut next = spec.clone();
    next.source = source(&image);
    for altered in 0..paths.len() {
        gives(Some(altered));
        let refused = here.local.ensure_member(&next).await.unwrap_err();
        let hint = refused.hint().unwrap_or_default();
        assert!(matches!(&refused, ProviderError::NotPulled { .. }) && !refused.retryable(), "{refused}");
        assert!(refused.to_string().contains(&image.to_string()), "{refused}");
        assert!(hint.contains(&format!("`{host}` gave other bytes than the digest names")), "{refused}: {hint}");
        assert_eq!(healthy(&here, &spec).await.pid, before.pid);
        let there = podman().args(["image", "exists", &image.to_string()]).status().unwrap();
        assert_eq!(there.code(), Some(1), "it is kept");
    }
    // As they were made they are taken: it was the digest that was refused.
    gives(None);
    here.local.ensure_source(&spec.cell, &next.source).await.unwrap();
    assert!(here.local.remove_image(&spec.cell, &image).await.unwrap());
    here.local.remove_member(&spec.name).await.unwrap();
}
