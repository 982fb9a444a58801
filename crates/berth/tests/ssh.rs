//! The adapter `ssh` against a real SSH server: one of the test's own on a port of loopback, with keys of its own. Changes
//! nothing of the machine's SSH, users or firewall.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_domain::{CellName, OperationState};
use berth_infra::{
    Provider, ReachTarget, Role,
    conformance::{Subject, cell},
};
use berth_providers::{
    local::{Afterwards, end_all},
    ssh::{self, ADAPTER},
};
use berth_testkit::{free_port, wait_until};
use berth_wire::{StackApply, TenantCreate};
use machines::{
    BERTH, Desk,
    control::{Control, PLANTED},
    fleet,
    secrets::{Watched, files, none_of},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tokio_postgres::NoTls;
use uuid::Uuid;

const SSHD: &str = "/usr/sbin/sshd";
/// The cells of the conformance suite, all on one host.
const CELLS: &[&str] = &["ghost", "one", "lossy", "still", "changed", "two", "reached", "run"];

/// A web server in a language that every Debian has.
const SERVER: &str = r#"
use IO::Socket::INET;
$| = 1;
print "serving $ENV{GREETING}\n";
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1)
    or die "cannot listen: $!";
while (my $client = $server->accept) {
    while (my $line = <$client>) { last if $line =~ /^\r?\n/; }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    close $client;
}
"#;

/// An SSH server, and everything that was made through it.
struct Sshd {
    dir: PathBuf,
    port: u16,
    child: Child,
}

fn run(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn keygen(file: &Path) {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", file.to_str().unwrap()]);
}

impl Sshd {
    /// `None`, with a word: there is no SSH server on this machine.
    async fn start() -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("skipped: {SSHD} is not installed (Debian: openssh-server)");
            return None;
        }
        let dir = PathBuf::from(format!("/tmp/berth-ssh-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(&dir).unwrap();
        // The privilege separation of Debian's sshd wants it, and nothing else uses it.
        fs::create_dir_all("/run/sshd").unwrap();
        keygen(&dir.join("host"));
        keygen(&dir.join("key"));
        fs::copy(dir.join("key.pub"), dir.join("keys")).unwrap();
        let port = free_port();
        let at = dir.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nAuthorizedKeysFile {at}/keys\nPidFile none\n\
             UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        );
        fs::write(dir.join("config"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let config = dir.join("config");
        let child = Command::new(SSHD).args(["-D", "-e", "-f"]).arg(config).stderr(log).spawn().unwrap();
        let sshd = Self { dir, port, child };
        let look = || async { fs::read_to_string(sshd.dir.join("log")).unwrap_or_default() };
        wait_until("sshd listens", look, |log: &String| log.contains("Server listening")).await;
        Some(sshd)
    }

    fn fingerprint(&self) -> String {
        let said = run("ssh-keygen", &["-lf", self.dir.join("host.pub").to_str().unwrap()]);
        said.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn settings(&self) -> Value {
        json!({
            "host": "127.0.0.1",
            "port": self.port,
            "user": run("id", &["-un"]).trim(),
            "key_file": self.dir.join("key"),
            "host_key": self.fingerprint(),
            "root": self.dir.join("cells"),
            "separate": false,
            "durable": false,
            "program": BERTH,
            "authorized_keys": self.dir.join("keys"),
        })
    }

    fn provider_of(settings: &Value) -> Provider {
        let cells: serde_json::Map<_, _> = CELLS.iter().map(|cell| ((*cell).to_owned(), settings.clone())).collect();
        (ADAPTER.build)(&json!({ "cells": cells, "stop_grace_ms": 2_000 })).unwrap()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for cell in CELLS {
            let root = self.dir.join("cells").join(cell);
            if root.exists() {
                let _ = end_all(&root, Afterwards::Delete);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Subject for Sshd {
    fn provider(&self) -> Provider {
        Self::provider_of(&self.settings())
    }
    fn serving_command(&self) -> Vec<String> {
        ["perl", "-e", SERVER].map(str::to_owned).into()
    }
    fn runs_commands(&self) -> bool {
        true
    }
}

macro_rules! promises {
    ($($promise:ident)+) => {
        mod conformance {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(sshd) = super::Sshd::start().await {
                    berth_infra::conformance::$promise(sshd).await;
                }
            })+
        }
    };
}

promises! {
    what_was_never_made_is_absent_and_may_be_removed
    a_database_ensured_again_and_at_once_is_one
    a_database_whose_answer_was_lost_or_doubled_is_made_once
    a_stopped_database_is_unknown_and_comes_back_where_it_was
    a_member_ensured_again_and_at_once_is_one
    a_member_whose_answer_was_lost_or_doubled_is_made_once
    a_changed_member_is_replaced_on_its_port
    members_of_one_cell_have_ports_of_their_own
    reach_ends_inside_the_cell
    a_run_keeps_its_output_and_its_time_limit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_reached_by_the_address_that_it_has_on_its_host() {
    let Some(sshd) = Sshd::start().await else { return };
    let database = sshd.provider().database.unwrap().ensure_database(&cell("one")).await.unwrap();
    assert_eq!(database.host, ssh::address(&CellName::new("one").unwrap()).to_string());
    assert!(database.socket_dir.is_none(), "the host's disk is not ours");
    let url = database.url(Role::Mover);
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let settings = ["wal_level", "listen_addresses", "shared_buffers", "effective_cache_size", "max_connections"];
    let row =
        client.query_one("SELECT array(SELECT current_setting(n) FROM unnest($1::text[]) n)", &[&&settings[..]]).await;
    // Of 256 MB: a quarter, three quarters, and the least.
    assert_eq!(row.unwrap().get::<_, Vec<String>>(0), ["logical", &database.host, "64MB", "192MB", "120"]);
}

/// Where the host is this very machine, a way would hold the port that the database needs to start again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_this_machine_that_is_down_is_not_stood_in_for() {
    let Some(sshd) = Sshd::start().await else { return };
    let spec = cell("one");
    // Made over a line of its own: the other one has not met the host yet.
    let (mut apart, program) = (sshd.settings(), sshd.dir.join("berth"));
    std::os::unix::fs::symlink(BERTH, &program).unwrap();
    apart["program"] = json!(program);
    let maker = Sshd::provider_of(&apart).database.unwrap();
    let made = maker.ensure_database(&spec).await.unwrap();
    maker.stop_database(&made.name).await.unwrap();
    let listened_on = || std::net::TcpStream::connect((made.host.as_str(), made.port)).is_ok();

    // As whoever has its record alone opens a way: which machine it is, nobody has asked yet.
    let database = sshd.provider().database.unwrap();
    database.open_way(&made).await.unwrap();
    assert!(listened_on(), "this test shows nothing");
    assert_eq!(database.ensure_database(&spec).await.unwrap().port, made.port);
    database.stop_database(&made.name).await.unwrap();
    database.open_way(&made).await.unwrap();
    assert!(!listened_on(), "something else listens where the database does");
    assert_eq!(database.ensure_database(&spec).await.unwrap().port, made.port);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_reaches_members_by_a_key_that_opens_nothing_else() {
    let Some(sshd) = Sshd::start().await else { return };
    let provider = sshd.provider();
    let (compute, reach) = (provider.compute.unwrap(), provider.reach.unwrap());
    let mut spec = berth_infra::conformance::member(&sshd, "reached", 0);
    spec.port = free_port();
    compute.ensure_member(&spec).await.unwrap();
    let way = reach.way(&spec.cell).await.unwrap().unwrap();
    let settings: Value = serde_json::from_str(way.settings.expose_secret()).unwrap();
    // The same port on the cell's address, as routes name it; there the test's member does not listen.
    let (address, port) = (settings["address"].as_str().unwrap().to_owned(), spec.port);
    ssh::open_ways(&way.settings, [port]).await.unwrap();
    let ask = || async {
        let (address, port) = (address.clone(), port);
        tokio::task::spawn_blocking(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect((address.as_str(), port)).ok()?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
        .await
        .unwrap()
        .unwrap_or_default()
    };
    wait_until("the member answers through the way", ask, |answer: &String| answer.starts_with("HTTP/1.1 200")).await;
    // The key runs nothing.
    let key = sshd.dir.join("edge-key");
    fs::write(&key, settings["key"].as_str().unwrap()).unwrap();
    run("chmod", &["600", key.to_str().unwrap()]);
    let user = settings["user"].as_str().unwrap();
    let tried = Command::new("ssh")
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-i"])
        .arg(&key)
        .args(["-p", &sshd.port.to_string(), &format!("{user}@127.0.0.1"), "echo got-in"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!tried.status.success() && tried.stdout.is_empty(), "{}", String::from_utf8_lossy(&tried.stdout));
    assert!(reach.reach(ReachTarget::Member(&spec.name), 0).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_it_does_not_know_or_who_does_not_know_it_is_named_with_a_remedy() {
    let Some(sshd) = Sshd::start().await else { return };
    let name = cell("one").name;
    let ask = async |change: &dyn Fn(&mut Value)| {
        let mut settings = sshd.settings();
        change(&mut settings);
        let provider = Sshd::provider_of(&settings);
        let error = provider.database.unwrap().observe_database(&name).await.unwrap_err();
        (error.to_string(), error.retryable())
    };
    let seen = sshd.fingerprint();

    let (changed, again) = ask(&|it| it["host_key"] = "SHA256:somebodyelse".into()).await;
    assert!(
        changed.contains(&seen) && changed.contains("SHA256:somebodyelse") && changed.contains("--host-key"),
        "{changed}"
    );
    assert!(!again);

    let (unknown, _) = ask(&|it| it["host_key"] = Value::Null).await;
    assert!(unknown.contains("nobody has said") && unknown.contains(&seen), "{unknown}");

    keygen(&sshd.dir.join("stranger"));
    let (refused, again) = ask(&|it| it["key_file"] = json!(sshd.dir.join("stranger"))).await;
    assert!(refused.contains("does not let") && refused.contains("ssh-copy-id"), "{refused}");
    assert!(!again);

    let (silent, again) = ask(&|it| it["port"] = json!(free_port())).await;
    assert!(silent.contains("does not answer"), "{silent}");
    assert!(again, "an unreachable host may come back");

    let mut protected = sshd.settings();
    let file = sshd.dir.join("protected");
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "secret words", "-f", file.to_str().unwrap()]);
    protected["key_file"] = json!(file);
    let error = (ADAPTER.build)(&json!({ "cells": { "one": protected } })).unwrap_err().to_string();
    assert!(error.contains("passphrase") && error.contains("ssh-keygen -t ed25519"), "{error}");
}

/// What is on the line breaks, and comes back by itself. Over a way, as to a host that is not this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_made_anew() {
    let Some(sshd) = Sshd::start().await else { return };
    let (mut settings, way_from) = (sshd.settings(), "127.1.2.3");
    settings["way_from"] = json!(way_from);
    let (database, spec) = (Sshd::provider_of(&settings).database.unwrap(), cell("one"));
    let before = database.ensure_database(&spec).await.unwrap();
    assert_eq!(before.host, way_from);
    let url = before.url(Role::App);
    let connect = || async { tokio_postgres::connect(url.expose_secret(), NoTls).await.is_ok() };
    assert!(connect().await, "there is no way");
    // Every session of this sshd, and no other.
    let parent = sshd.child.id().to_string();
    run("pkill", &["-P", &parent]);
    let look = || async { database.observe_database(&spec.name).await.ok().and_then(berth_infra::Observed::present) };
    let after = wait_until("the host is reached again", look, Option::is_some).await.unwrap();
    assert_eq!((after.host, after.port), (before.host.clone(), before.port));
    wait_until("the way is open again", connect, |open: &bool| *open).await;
}

/// The whole way: control, a cell behind SSH, an edge, a request. On it no secret is seen where it should not be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_served_from_a_cell_behind_ssh() {
    let (Some(sshd), Some(fleet)) = (Sshd::start().await, fleet()) else { return };
    let (desk, watched) = (Desk::new(), Watched::begin());
    let control = Control::start(&desk).await;
    let client = control.client();
    let file = json!({
        "stack": "fleet",
        "services": { "web": {
            "command": [fleet, "serve"], "migrate": [fleet, "migrate"], "role": "web", "health": "/health",
            "env": { "PARTNER": "${PARTNER_TOKEN}" },
        } },
        "data": {
            "root": "public.customers", "key": "id", "tenant_column": "customer_id",
            "hooks": { "create": { "file": "create.sql" } },
        },
        "plans": { "hobby": { "price": 15, "class": "shared" } },
        "providers": { "servers": { "adapter": "ssh", "podman": ["--runtime", "runc"], "cells": { "one": sshd.settings() } } },
    });
    let hook = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../apps/fleet/hooks/tenant_create.sql");
    let files = [("create.sql".to_owned(), fs::read_to_string(hook).unwrap())].into();
    client.stack_apply(&StackApply { file: file.to_string(), files, dry_run: false }).await.unwrap();
    control.run(&["cell", "create", "one", "--class", "shared"]);
    let wanted = TenantCreate {
        name: "acme".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec!["acme.example.com".parse().unwrap()],
        key: None,
        cell: None,
        profile: None,
    };
    let begun = client.tenant_create(&wanted).await.unwrap();
    assert_eq!(control.ended(begun.id).await, OperationState::Succeeded);
    let port = control.edge_port;
    let ask = || async move {
        tokio::task::spawn_blocking(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: acme.example.com\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
        .await
        .unwrap()
        .unwrap_or_default()
    };
    wait_until("the tenant is served", ask, |answer: &String| answer.starts_with("HTTP/1.1 200")).await;
    let servers: Value = serde_json::from_str(&control.run(&["server", "list", "--json"])).unwrap();
    assert_eq!(servers[0]["host_key"], sshd.fingerprint());
    assert!(servers[0]["machine"]["memory_bytes"].as_u64().unwrap() > 0, "{servers}");
    assert!(!servers.to_string().contains("OPENSSH PRIVATE KEY"));
    no_secret_is_seen(&sshd, &desk, &control, &file.to_string(), watched);
    // The members first: a cell is removed when nobody lives in it, and with it everything on its host.
    let begun: Value = serde_json::from_str(&control.run(&["--yes", "tenant", "delete", "acme", "--json"])).unwrap();
    drop(begun);
    control.run(&["--yes", "cell", "remove", "one"]);
    assert!(!sshd.dir.join("cells/one").exists(), "something of the cell is left on its host");
}

/// Secrets of every kind, and the places where people or programs might find one: output and errors of commands, logs, the
/// audit trail, lists of processes, rendered files, archives, the control database's own files.
fn no_secret_is_seen(sshd: &Sshd, desk: &Desk, control: &Control<'_>, stack: &str, watched: Watched) {
    const REGISTRY: &str = "planted-registry-word-77c0";
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    // Of a key's five lines the first two are the public half's too.
    let body = |key: &str| key.lines().nth(4).unwrap().to_owned();
    keygen(&sshd.dir.join("stranger"));
    let record = files(&sshd.dir.join("cells/one/databases"), &|path| path.ends_with("record.json"));
    let record: Value = serde_json::from_slice(&record).unwrap();
    let mut secrets = vec![
        ("the key of the cell's host", body(&read(sshd.dir.join("key")))),
        ("the key of a host that was refused", body(&read(sshd.dir.join("stranger")))),
        ("the key of the edges", body(&read(sshd.dir.join("cells/one/reach")))),
        ("the administrator's key", control.key()),
        ("a registry's password", REGISTRY.to_owned()),
        ("a service's variable", PLANTED.to_owned()),
    ];
    for (role, password) in record["passwords"].as_object().unwrap() {
        secrets.push(("a password of the cell's database", password.as_str().unwrap().to_owned()));
        assert!(!role.is_empty());
    }
    assert!(secrets.len() >= 9);

    // Errors that have one of them at hand: a host that does not take the key, a registry that is not there.
    let word = sshd.dir.join("word");
    fs::write(&word, REGISTRY).unwrap();
    let nowhere = format!("127.0.0.1:{}", free_port());
    let engine = Command::new("podman").arg("--version").stdout(Stdio::null()).status().is_ok();
    let refusal = if engine { nowhere.as_str() } else { "podman" };
    let (word, stranger) = (word.to_str().unwrap().to_owned(), sshd.dir.join("stranger").to_str().unwrap().to_owned());
    let mut said = control.run(&["registry", "add", &nowhere, "--user", "bot", "--password-file", &word]);
    let image = format!("web={nowhere}/shop/web@sha256:{}", "ab".repeat(32));
    said.push_str(&control.run(&["release", "create", &image]));
    let (port, me) = (sshd.port.to_string(), run("id", &["-un"]));
    let add = ["--yes", "cell", "add", "two", "--host", "127.0.0.1", "--ssh-port", &port, "--user", me.trim()];
    let mut errors = Vec::new();
    for (words, word) in [
        (vec!["--yes", "release", "roll", "r1", "--wait"], refusal),
        ([&add[..], &["--host-key", &sshd.fingerprint(), "--key-file", &stranger]].concat(), "does not let"),
    ] {
        let out = control.try_run(&words);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(word), "{words:?}: {text}");
        errors.extend(out.stderr);
        errors.extend(out.stdout);
    }
    for words in [
        &["operation", "list", "--json"][..],
        &["release", "status", "--json"],
        &["release", "show", "r1", "--json"],
        &["registry", "list", "--json"],
        &["cell", "show", "one", "--json"],
        &["tenant", "show", "acme", "--json"],
        &["server", "list", "--json"],
        &["edge", "list", "--json"],
        &["logs", "--cell", "one"],
    ] {
        said.push_str(&control.run(words));
    }
    none_of(&secrets, "what commands print", said.as_bytes());
    none_of(&secrets, "errors", &errors);
    none_of(&secrets, "the audit trail", control.run(&["audit", "--json"]).as_bytes());

    let logs = |path: &Path| path.extension().is_some_and(|end| end == "log") || path.ends_with("log");
    none_of(&secrets, "logs of control and edge", &files(&desk.dir, &logs));
    none_of(&secrets, "logs of the host", &files(&sshd.dir, &logs));

    let (home, rendered) = (desk.dir.join("stack"), desk.dir.join("rendered"));
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("berth.yaml"), stack).unwrap();
    fs::write(home.join("create.sql"), "SELECT 1").unwrap();
    let (at, to) = (home.join("berth.yaml"), rendered.to_str().unwrap());
    let words = ["render", "-f", at.to_str().unwrap(), "--host", "a.example.com", "--language", "rust", "-o", to];
    control.run(&words);
    none_of(&secrets, "rendered files", &files(&rendered, &|_| true));

    if Command::new("zstd").arg("--version").stdout(Stdio::null()).status().is_ok() {
        let archive = desk.dir.join("acme");
        control.run(&["tenant", "export", "acme", "--to", archive.to_str().unwrap()]);
        let archived = files(&archive, &|_| true);
        assert!(String::from_utf8_lossy(&archived).contains("acme"), "the tenant is in its archive");
        none_of(&secrets, "an archive", &archived);
    } else {
        eprintln!("left out: archives, since `zstd` is not installed to read them");
    }
    none_of(&secrets, "the control database", &files(&desk.dir.join("serve/postgres"), &|_| true));
    none_of(&secrets, "lists of processes", &watched.end());
}
