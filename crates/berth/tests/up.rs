//! `berth up` and `berth server` on servers that the test makes: from nothing to a served tenant, hardening proved by
//! trying, mistakes named before anything is changed, and secrets looked for where they must not be.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_infra::{CellDatabase, Role, RunSpec, Shape, Source, conformance::cell};
use machines::{Desk, Machine, fleet, keygen, run, text};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Output,
    time::Duration,
};

const PLANTED: &str = "planted-word-8f3a1c";

fn stack() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/fleet/berth.yaml");
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

fn answer(out: &Output) -> Value {
    assert!(out.status.success(), "{}\n{}", text(&out.stdout), text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn went(answer: &Value, step: &str) -> String {
    let rows = answer["steps"].as_array().unwrap();
    let row = rows.iter().find(|row| row["step"] == step).unwrap_or_else(|| panic!("no step `{step}` in {rows:?}"));
    row["went"].as_str().unwrap().to_owned()
}

fn answers(ip: &str, port: u16) -> bool {
    let at: SocketAddr = format!("{ip}:{port}").parse().unwrap();
    TcpStream::connect_timeout(&at, Duration::from_secs(2)).is_ok()
}

fn ssh(key: &str, options: &[&str], at: &str) -> Output {
    // A ban in the middle of a login leaves it without an answer for ever.
    let mut words = vec![
        "10",
        "ssh",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
    ];
    words.extend(["-o", "ConnectTimeout=5", "-i", key]);
    words.extend(options);
    words.extend([at, "echo got-in"]);
    run("timeout", &words)
}

#[test]
fn a_fresh_server_becomes_a_served_tenant_and_stays_closed() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(server) = Machine::start(&desk.key()) else { return };
    server.copy(&fleet, "/usr/local/bin/fleet");
    let (key, at) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let env = desk.dir.join("env");
    fs::write(&env, format!("PLANTED={PLANTED}\n")).unwrap();
    let words = ["--json", "--yes", "up", &at, "--key-file", &key, "-f", &stack(), "--tenant", "acme", "--tenant-host"];
    let words = [&words[..], &["acme.example.com", "--env-file", env.to_str().unwrap()]].concat();

    let dry = desk.berth(&[&words[..], &["--dry-run"]].concat()).output().unwrap();
    let dry = answer(&dry);
    assert_eq!(went(&dry, "tenant"), "would");
    assert!(!server.try_sh("id berth-ssh").status.success(), "a dry run changed something");

    let first = desk.berth(&words).output().unwrap();
    let said = text(&first.stderr);
    let first = answer(&first);
    for step in ["users", "ssh", "fail2ban", "firewall", "program", "serve", "cell", "edge", "tenant"] {
        let went = went(&first, step);
        assert!(went == "done" || step == "cell", "{step} was {went}\n{said}");
    }
    eprintln!("up after {} s", first["took_s"]);
    let admin = first["admin_key"].as_str().unwrap().to_owned();
    assert_eq!(first["next"].as_array().unwrap().len(), 3);

    // As the user that stays: root is not let in any more, and the same command finds nothing to do.
    let again = format!("berth-ssh@{}", server.ip);
    let mut second = words.clone();
    second[3] = &again;
    let second = answer(&desk.berth(&second).output().unwrap());
    for row in second["steps"].as_array().unwrap() {
        assert_eq!(row["went"], "was", "{row}");
    }
    assert!(second["admin_key"].is_null(), "the key is shown once");

    let check = answer(&desk.berth(&["--json", "server", "check", &again, "--key-file", &key]).output().unwrap());
    assert_eq!(check["bad"], 0, "{check:#}");

    closed(&server, &key, &again);
    secrets(&server, &admin);
    banned(&server, &key, &again);
}

/// Hardening, by trying.
fn closed(server: &Machine, key: &str, stays: &str) {
    let passwords =
        ssh(key, &["-o", "PubkeyAuthentication=no", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=0"], stays);
    assert!(text(&passwords.stderr).contains("Permission denied (publickey)"), "{}", text(&passwords.stderr));
    let root = ssh(key, &[], &format!("root@{}", server.ip));
    assert!(!root.status.success() && root.stdout.is_empty(), "root came in");
    assert!(text(&ssh(key, &[], stays).stdout).contains("got-in"));
    // The refused logins of this test so far are no reason to ban it yet.
    std::thread::sleep(Duration::from_secs(2));
    server.sh("fail2ban-client unban --all");
    // Something that listens everywhere, and is reached from the server itself.
    server.sh("systemd-run --quiet --unit open-port python3 -m http.server 8099 --bind 0.0.0.0");
    server.sh("for n in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:8099/ && exit 0; sleep 0.1; done; exit 1");
    for port in [8099, 5432, 7600, 7601, 7603] {
        assert!(!answers(&server.ip, port), "port {port} answers from outside");
    }
    assert!(answers(&server.ip, 80) && answers(&server.ip, 22));
}

/// Planted and made secrets: not in logs, lists of processes, other users' sight or the audit trail.
fn secrets(server: &Machine, admin: &str) {
    let edge = server.sh("cat /etc/berth/edge.key");
    let passwords = server.sh("cat /var/lib/berth/local/databases/*/record.json");
    let passwords: Value = serde_json::from_str(&passwords).unwrap();
    let passwords = passwords["passwords"].as_object().unwrap().values().map(|it| it.as_str().unwrap().to_owned());
    let all: Vec<String> =
        [PLANTED.to_owned(), admin.to_owned(), edge.trim().to_owned()].into_iter().chain(passwords).collect();
    assert!(all.len() >= 6 && all.iter().all(|secret| secret.len() > 8));
    let audit = format!("BERTH_API_KEY='{admin}' berth audit --json");
    for (place, script) in [
        ("the journal", "journalctl --no-pager -o cat | grep -v 'COMMAND=.*BERTH_API_KEY'"),
        ("log files", "cat /var/log/*.log /var/log/*/*.log 2>/dev/null; true"),
        ("the members' logs", "cat /var/lib/berth/local/members/*/log"),
        ("the list of processes", "ps axww -o args || cat /proc/*/cmdline | tr '\\0' ' '"),
        (
            "other users' environments",
            "setpriv --reuid nobody --clear-groups sh -c 'cat /proc/*/environ' 2>/dev/null; true",
        ),
        (
            "files that everybody reads",
            "setpriv --reuid nobody --clear-groups sh -c 'grep -rhs . /etc/berth /var/lib/berth /etc/systemd/system /home' ; true",
        ),
        ("the audit trail", audit.as_str()),
    ] {
        let seen = text(&server.try_sh(script).stdout);
        for (nth, secret) in all.iter().enumerate() {
            assert!(!seen.contains(secret.as_str()), "secret {nth} is in {place}");
        }
    }
}

/// Last, since it shuts this machine out.
fn banned(server: &Machine, key: &str, stays: &str) {
    for nth in 0..5 {
        assert!(!ssh(key, &[], &format!("stranger{nth}@{}", server.ip)).status.success());
    }
    let mut open = true;
    for _ in 0..50 {
        open = text(&ssh(key, &["-o", "ConnectTimeout=2"], stays).stdout).contains("got-in");
        if !open {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = server.sh("fail2ban-client status sshd");
    assert!(!open, "five bad logins are not banned:\n{status}");
    assert!(status.contains("Currently banned:\t1"), "{status}");
}

#[test]
fn what_is_wrong_with_a_server_is_named_before_anything_is_changed() {
    let desk = Desk::new();
    let Some(server) = Machine::start(&desk.key()) else { return };
    let (key, at) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let refused = |words: &[&str]| {
        let out = desk.berth(words).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        text(&out.stderr)
    };
    let up = ["up", at.as_str(), "--key-file", key.as_str(), "-f", &stack()];

    // Nobody to ask, and nobody has said that this is the host.
    assert!(refused(&up).contains("--host-key"));
    let yes = [&["--yes"][..], &up].concat();

    server.sh("systemd-run --quiet --unit taken python3 -m http.server 80 --bind 0.0.0.0; sleep 1");
    let said = refused(&yes);
    assert!(said.contains("port 80") && said.contains("python3") && said.contains("nothing was changed"), "{said}");
    server.sh("systemctl stop taken");

    server.sh("sed -i.bak 's/^ID=.*/ID=arch/; s/^PRETTY_NAME=.*/PRETTY_NAME=\"Arch Linux\"/' /etc/os-release");
    let said = refused(&yes);
    assert!(said.contains("Arch Linux") && said.contains("Debian 12"), "{said}");
    server.sh("cp /etc/os-release.bak /etc/os-release");

    server.sh("mount -t tmpfs -o size=64m tmpfs /var/lib && mount -t tmpfs -o size=64m tmpfs /var");
    let said = refused(&yes);
    assert!(said.contains("MiB of disk free") && said.contains("make room"), "{said}");
    server.sh("umount /var; umount /var/lib");

    let stranger = desk.dir.join("stranger");
    keygen(&stranger);
    let said = refused(&["up", &at, "--key-file", stranger.to_str().unwrap(), "-f", &stack()]);
    assert!(said.contains("does not let `root` in") && said.contains("ssh-copy-id"), "{said}");

    server.sh(
        "useradd --create-home plain && cp -r ~root/.ssh ~plain/ && chown -R plain ~plain/.ssh && chmod 755 ~plain",
    );
    let plain = format!("plain@{}", server.ip);
    let said = refused(&["up", &plain, "--key-file", &key, "-f", &stack()]);
    assert!(said.contains("sudo") && said.contains("/etc/sudoers.d"), "{said}");

    server.sh("rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh");
    let said = refused(&yes);
    assert!(said.contains("was expected") && said.contains("set up anew"), "{said}");

    let said = refused(&["--yes", "up", "root@127.0.0.1", "--ssh-port", "1", "--key-file", &key, "-f", &stack()]);
    assert!(said.contains("does not answer"), "{said}");
    assert!(!server.try_sh("id berth-ssh").status.success(), "something was changed");
}

/// Two tenants' cells on one server, each with the rights that the adapter gives it and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_one_cell_cannot_reach_the_database_of_another() {
    let desk = Desk::new();
    let Some(server) = Machine::start(&desk.key()) else { return };
    server.copy(&desk.dir.join("berth"), "/usr/local/bin/berth");
    let host_key = server.sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2");
    let settings = json!({
        "host": server.ip, "user": "root", "key_file": desk.key(), "host_key": host_key.trim(),
        "program": "/usr/local/bin/berth", "durable": false,
    });
    let cells = json!({ "cells": { "one": settings.clone(), "two": settings } });
    let provider = (berth_providers::ssh::ADAPTER.build)(&cells).unwrap();
    let (database, compute) = (provider.database.unwrap(), provider.compute.unwrap());
    let one = database.ensure_database(&cell("one")).await.unwrap();
    let two = database.ensure_database(&cell("two")).await.unwrap();
    assert_ne!(one.host, two.host);
    let reaches = async |from: &str, to: &CellDatabase| {
        let run = RunSpec {
            what: format!("a service of {from}"),
            cell: from.parse().unwrap(),
            source: Source::Host,
            command: ["bash", "-c", &format!("id -un; exec 3<>/dev/tcp/{}/{}", to.host, to.port)]
                .map(Into::into)
                .into(),
            env: Vec::new(),
            time_limit: Duration::from_secs(10),
            shape: Shape::default(),
        };
        let outcome = compute.run_once(&run).await.unwrap();
        assert!(outcome.output.starts_with("cell-"), "it runs as a user of its own: {}", outcome.output);
        (outcome.succeeded(), outcome.output)
    };
    for (cell, own, other) in [("one", &one, &two), ("two", &two, &one)] {
        let (reached, said) = reaches(cell, own).await;
        assert!(reached, "{cell} does not reach its own database: {said}");
        let (reached, said) = reaches(cell, other).await;
        assert!(!reached && said.contains("refused"), "{cell} reaches the other one's database: {said}");
    }
    // From here both are reached, through SSH; and what is removed leaves nothing.
    for found in [&one, &two] {
        let url = found.url(Role::App);
        let connected = tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await;
        assert!(connected.is_ok(), "{:?}", connected.err());
    }
    database.remove_database(&one.name).await.unwrap();
    let left = server.sh("ls /var/lib/berth-cells; grep -c ^cell- /etc/passwd; nft list set inet berth_cells members");
    assert!(left.starts_with("two\n1\n") && !left.contains(&one.host), "{left}");
}
