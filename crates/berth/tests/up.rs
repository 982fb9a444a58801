//! `berth up` and `berth server` on servers that the test makes: from nothing to a served tenant, hardening proved by
//! trying, and secrets looked for where they must not be.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_domain::CellName;
use berth_infra::{
    CellDatabase, Health, MemberName, MemberSpec, Observed, ProviderError, RegistryLogin, Role, RunSpec, Shape, Source,
    conformance::cell,
};
use berth_wire::StackApply;
use machines::{
    Desk, Machine, answer,
    control::Control,
    fleet,
    registry::{self, Images},
    run, stack, text, tls, went,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Output, Stdio},
    time::Duration,
};

const PLANTED: &str = "planted-word-8f3a1c";

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
    let words = [&words[..], &["acme.example.com", "--tls", "--env-file", env.to_str().unwrap()]].concat();

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
    assert!(first["took_s"].as_f64().is_some_and(|took| took > 0.0), "how long it took is not said: {first}");
    eprintln!("up after {} s", first["took_s"]);
    let admin = first["admin_key"].as_str().unwrap().to_owned();
    assert_eq!(first["next"].as_array().unwrap().len(), 3);

    let bad_logins = || server.sh("fail2ban-client status sshd | grep 'Total failed'");
    let before = bad_logins();
    // Root is not let in any more: the same command goes on as the user that stays, and finds nothing to do.
    let again = format!("berth-ssh@{}", server.ip);
    let second = answer(&desk.berth(&words).output().unwrap());
    for row in second["steps"].as_array().unwrap() {
        assert_eq!(row["went"], "was", "{row}");
    }
    assert!(second["admin_key"].is_null(), "the key is shown once");

    let check = answer(&desk.berth(&["--json", "server", "check", &again, "--key-file", &key]).output().unwrap());
    assert_eq!(check["bad"], 0, "{check:#}");
    assert_eq!(bad_logins(), before, "berth is on its way to be banned");

    let answered = tls::answer(&desk, &server, &admin, "acme.example.com", "/health");
    assert!(answered.as_ref().is_none_or(|body| body.contains("ok")), "{answered:?}");
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
    // Something that is sent on to another network, as a port that a container publishes.
    server.sh("set -e; ip netns add inside; ip link add out0 type veth peer name in0 netns inside; ip addr add 10.99.0.1/24 dev out0; \
               ip link set out0 up; ip -n inside addr add 10.99.0.2/24 dev in0; ip -n inside link set in0 up; \
               ip -n inside route add default via 10.99.0.1; echo 1 >/proc/sys/net/ipv4/ip_forward; nft add table ip published; \
               nft 'add chain ip published before { type nat hook prerouting priority -100; }'; \
               nft 'add rule ip published before tcp dport 8097 dnat to 10.99.0.2:8097'; \
               systemd-run --quiet --unit published ip netns exec inside python3 -m http.server 8097");
    server.sh("for n in $(seq 50); do curl -s -o /dev/null http://10.99.0.2:8097/ && exit 0; sleep 0.1; done; exit 1");
    assert!(!answers(&server.ip, 8097), "a published port answers from outside");
    server.sh("nft delete chain inet berth published");
    assert!(answers(&server.ip, 8097), "nothing but the firewall was in the way");
    server.sh("nft -f /etc/nftables.d/berth.nft");
    for port in [8097, 8099, 5432, 7600, 7601, 7603] {
        assert!(!answers(&server.ip, port), "port {port} answers from outside");
    }
    assert!([22, 80, 443].iter().all(|port| answers(&server.ip, *port)));
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
        ("the journal", "journalctl --no-pager -o cat"),
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

/// Starts it, and kills it so long after a step was said to be done.
fn killed_after(desk: &Desk, words: &[&str], step: &str, later: Duration) {
    let mut child = desk.berth(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, mut there) = (Vec::new(), false);
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        there = line.contains(&format!("  {step:<12}  "));
        said.push(line);
        if there {
            break;
        }
    }
    std::thread::sleep(later);
    let _ = child.kill();
    child.wait().unwrap();
    assert!(there, "what a run before had begun was in the way of this one, before `{step}`:\n{}", said.join("\n"));
}

/// The client is killed in the midst of one step after the other; what it had begun on the server goes on there beside the next.
#[test]
fn a_run_that_is_killed_anywhere_is_made_whole_by_the_next() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(server) = Machine::start(&desk.key()) else { return };
    server.copy(&fleet, "/usr/local/bin/fleet");
    let (key, at) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let stack = stack();
    let words = ["--json", "--yes", "up", &at, "--key-file", &key, "-f", &stack, "--tenant", "acme", "--tenant-host"];
    let words = [&words[..], &["acme.example.com"]].concat();
    // The first has nothing but the look behind it; the others are killed as the step after this one begins, or in it.
    for (step, later_ms) in [
        ("packages", 0),
        ("packages", 60),
        ("users", 0),
        ("second door", 100),
        ("ssh", 0),
        ("fail2ban", 50),
        ("upgrades", 150),
        ("upgrades", 700),
        ("firewall", 100),
        ("program", 0),
        ("program", 400),
        ("serve", 20),
        ("stack", 200),
        ("cell", 60),
        ("edge", 0),
        ("edge", 30),
    ] {
        killed_after(&desk, &words, step, Duration::from_millis(later_ms));
    }
    let whole = desk.berth(&words).output().unwrap();
    let said = text(&whole.stderr);
    assert!(went(&answer(&whole), "tenant") != "would" && said.contains("its first answer was"), "{said}");
    let admin = server.sh("cat /var/lib/berth/serve/admin.key").trim().to_owned();

    // Nothing is there twice or half.
    let second = answer(&desk.berth(&words).output().unwrap());
    for row in second["steps"].as_array().unwrap() {
        assert_eq!(row["went"], "was", "{row}");
    }
    let there = |words: &str| -> Value {
        serde_json::from_str(&server.sh(&format!("BERTH_API_KEY='{admin}' berth {words} --json"))).unwrap()
    };
    let keys = there("key list");
    let in_force = keys.as_array().unwrap().iter().filter(|key| key["scope"] == "edge" && key["revoked_at"].is_null());
    let names: Vec<&str> = in_force.map(|key| key["name"].as_str().unwrap()).collect();
    assert!(matches!(names[..], [name] if name.starts_with("edge-1 of ")), "{keys}");
    assert_eq!(there("cell list").as_array().unwrap().len(), 1);
    assert_eq!(there("tenant list").as_array().unwrap().len(), 1);
    let left = "ls /etc/berth /run/tmp.* /etc/sudoers.d /etc/nftables.d 2>&- | grep -E '[.]new$|^/run/tmp' ; true";
    assert_eq!(server.sh(left), "");
    let check =
        desk.berth(&["--json", "server", "check", &format!("berth-ssh@{}", server.ip), "--key-file", &key]).output();
    assert_eq!(answer(&check.unwrap())["bad"], 0);
    // And after its power was cut everything is there by itself.
    server.power_cycle();
    server.up();
    let again = desk.berth(&words).output().unwrap();
    let why = || text(&server.try_sh("fail2ban-client status sshd; journalctl --no-pager -b -n 60").stdout);
    assert!(again.status.success(), "{}\n{}", text(&again.stderr), why());
    let again = answer(&again);
    assert_eq!(went(&again, "tenant"), "was");
    assert_eq!(went(&again, "firewall"), "was", "{again}");
}

/// What somebody at a terminal sees and is asked. `says`: what is typed there.
fn at_a_terminal(desk: &Desk, words: &[&str], says: &str) -> (bool, String) {
    let program = desk.dir.join("berth");
    let line = std::iter::once(program.to_str().unwrap()).chain(words.iter().copied());
    let line = line.collect::<Vec<_>>().join(" ");
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("BERTH_KNOWN_HOSTS", desk.dir.join("hosts"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(says.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), text(&out.stdout))
}

#[test]
fn somebody_at_a_terminal_sees_what_would_be_changed_and_is_asked_first() {
    let desk = Desk::new();
    let Some(server) = Machine::start(&desk.key()) else { return };
    let (key, at) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let host_key = server.sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2");
    let named = ["--key-file", key.as_str(), "--host-key", host_key.trim()];
    let stack = stack();
    // The service's program is asked for before anything is shown.
    server.sh("ln -s /bin/true /usr/local/bin/fleet");
    let prepare = [&["server", "prepare", at.as_str()][..], &named].concat();
    let up = [&["up", at.as_str(), "-f", &stack][..], &named].concat();
    for words in [&prepare, &up] {
        for says in ["n\n", "\n"] {
            let (good, said) = at_a_terminal(&desk, words, says);
            assert!(!good && said.contains("nothing was changed"), "{said}");
            assert!(said.contains(&format!("Do this on `{}`? [y/N]", server.ip)), "{said}");
            for word in ["would  users", "would  firewall"] {
                assert!(said.contains(word), "{said}");
            }
        }
    }
    assert!(!server.try_sh("id berth-ssh").status.success(), "something was changed");

    // A firewall of somebody's is named, where a mirror of the distribution's can be reached.
    let ufw = server.try_sh("apt-get update -qq && apt-get install -y -qq ufw && ufw allow 22 && ufw --force enable");
    if ufw.status.success() {
        let (good, said) = at_a_terminal(&desk, &prepare, "n\n");
        assert!(!good && said.contains("found  ufw") && said.contains("`ufw allow 80,443/tcp`"), "{said}");
        let dry = desk.berth(&[&["--json"][..], &prepare[..], &["--dry-run"]].concat()).output().unwrap();
        assert_eq!(answer(&dry)["beside"][0]["name"], "ufw");
        server.sh("ufw disable");
    } else {
        eprintln!("skipped: ufw cannot be installed here: {}", text(&ufw.stderr));
    }

    let (good, said) = at_a_terminal(&desk, &prepare, "y\n");
    assert!(good && said.contains("done   users") && said.contains("prepared in"), "{said}");
    // With nothing left to do there is nothing to ask; and whoever said yes beforehand is not asked.
    let (good, said) = at_a_terminal(&desk, &prepare, "");
    assert!(good && !said.contains("[y/N]"), "{said}");
    server.sh("rm /etc/fail2ban/jail.d/berth.local");
    let (good, said) = at_a_terminal(&desk, &[&["--yes"][..], &prepare[..]].concat(), "");
    assert!(good && !said.contains("[y/N]") && said.contains("done   fail2ban"), "{said}");
}

/// What `berth up` refuses (`up_ahead.rs`), `berth cell add --host` does, which asks the control plane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_hold_a_cell_is_refused_by_name() {
    let desk = Desk::new();
    let Some(server) = Machine::start(&desk.key()) else { return };
    let control = Control::start(&desk).await;
    let file = "stack: desk\nservices: { web: { command: [web], health: /health } }\nproviders: { servers: { adapter: ssh } }\n\
                plans: { hobby: { price: 15, class: shared } }\ndata: { root: public.customers }\n";
    let applied = StackApply { file: file.to_owned(), files: std::collections::BTreeMap::new(), dry_run: false };
    control.client().stack_apply(&applied).await.unwrap();
    server.sh(
        "useradd --create-home plain && cp -r ~root/.ssh ~plain/ && chown -R plain ~plain/.ssh && chmod 755 ~plain",
    );
    let (key, other) = (desk.key().to_str().unwrap().to_owned(), format!("SHA256:{}", "A".repeat(43)));
    let add = |more: &[&str]| {
        let words = ["--yes", "cell", "add", "fra-1", "--host", &server.ip, "--key-file", &key];
        let out = control.try_run(&[&words[..], more].concat());
        assert!(!out.status.success(), "{}", text(&out.stdout));
        text(&out.stderr)
    };
    let said = add(&["--user", "plain"]);
    assert!(said.contains("without being asked for a password") && said.contains("/etc/sudoers.d"), "{said}");
    let said = add(&["--user", "root", "--host-key", &other]);
    assert!(said.contains("was expected") && said.contains(&other) && said.contains("set up anew"), "{said}");
    let said = add(&["--user", "nobody-there"]);
    assert!(said.contains("does not let `nobody-there` in") && said.contains("ssh-copy-id"), "{said}");
    server.sh("mount -t tmpfs -o size=64m tmpfs /var/lib");
    let said = add(&["--user", "root"]);
    assert!(said.contains("MiB of its disk are free") && said.contains("make room"), "{said}");
    server.sh("umount /var/lib; sed -i 's/^PRETTY_NAME=.*/PRETTY_NAME=\"Arch Linux\"/' /etc/os-release");
    let said = add(&["--user", "root"]);
    assert!(said.contains("runs Arch Linux") && said.contains("Debian 12"), "{said}");
    assert_eq!(control.client().cells().await.unwrap().len(), 0, "a cell was begun");
    let left = server
        .sh("ls -d /var/lib/berth-cells 2>/dev/null; grep ^cell- /etc/passwd; nft list tables | grep berth; true");
    assert_eq!(left, "", "something was changed on the server");
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
    let images = fleet().and_then(|fleet| Images::make(&desk.dir, &fleet, &["1"]));
    let mut sources = vec![Source::Host];
    if let Some(images) = &images {
        images.bring(&server);
        sources.push(pulled(&images.artifact(0), Some(registry::PASSWORD)));
    }
    let reaches = async |source: &Source, from: &str, to: &CellDatabase| {
        let run = RunSpec {
            what: format!("a service of {from}"),
            cell: from.parse().unwrap(),
            source: source.clone(),
            command: ["bash", "-c", &format!("id -u; exec 3<>/dev/tcp/{}/{}", to.host, to.port)].map(Into::into).into(),
            env: Vec::new(),
            time_limit: Duration::from_mins(1),
            shape: Shape::default(),
            key: None,
        };
        let outcome = compute.run_once(&run).await.unwrap();
        let user = server.sh(&format!("getent passwd {} | cut -d: -f1", outcome.output.lines().next().unwrap()));
        assert!(user.starts_with("cell-"), "it runs as a user of its own: {}", outcome.output);
        (outcome.succeeded(), outcome.output)
    };
    for (source, (cell, own, other)) in
        sources.iter().flat_map(|source| [("one", &one, &two), ("two", &two, &one)].map(|cells| (source, cells)))
    {
        let (reached, said) = reaches(source, cell, own).await;
        assert!(reached, "{cell} does not reach its own database: {said}");
        let (reached, said) = reaches(source, cell, other).await;
        assert!(!reached && said.contains("refused"), "{cell} reaches the other one's database: {said}");
    }
    // Whoever starts the server's own firewall anew flushes every table: the next looks bring the rules back.
    server.sh("nft flush ruleset");
    let look = || async {
        for found in [&one, &two] {
            let _ = database.observe_database(&found.name).await;
        }
        text(&server.try_sh("nft list set inet berth_cells members").stdout)
    };
    let both = |rules: &String| rules.contains(&one.host) && rules.contains(&two.host);
    berth_testkit::wait_until("both cells are apart again", look, both).await;
    let (reached, said) = reaches(&Source::Host, "one", &two).await;
    assert!(!reached && said.contains("refused"), "one reaches the other one's database: {said}");
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

fn pulled(artifact: &str, password: Option<&str>) -> Source {
    let login = |password: &str| RegistryLogin {
        host: registry::HOST.to_owned(),
        user: registry::USER.to_owned(),
        password: password.into(),
    };
    Source::Artifact { artifact: artifact.parse().unwrap(), login: password.map(login) }
}

/// What a release names is at hand on the server before anything is changed there, or the reason is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_has_images_and_programs_at_hand_or_says_why_not() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(server) = Machine::start(&desk.key()) else { return };
    let Some(images) = Images::make(&desk.dir, &fleet, &["1"]) else { return };
    images.bring(&server);
    server.copy(&desk.dir.join("berth"), "/usr/local/bin/berth");
    server.copy(&fleet, "/opt/fleet");
    let host_key = server.sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2");
    let settings = json!({
        "host": server.ip, "user": "root", "key_file": desk.key(), "host_key": host_key.trim(),
        "program": "/usr/local/bin/berth", "durable": false,
    });
    let section = json!({ "cells": { "one": settings }, "stop_grace_ms": 2_000 });
    let provider = (berth_providers::ssh::ADAPTER.build)(&section).unwrap();
    let (database, compute) = (provider.database.unwrap(), provider.compute.unwrap());
    let there = database.ensure_database(&cell("one")).await.unwrap();
    let name: CellName = "one".parse().unwrap();

    let absent = format!("{}/shop/web@sha256:{}", registry::HOST, "0".repeat(64));
    let account = "registry add 127.0.0.1:5000";
    for (source, word, remedy) in [
        (pulled(&images.artifact(0), None), "unauthorized", account),
        (pulled(&images.artifact(0), Some("wrong-registry-word")), "unauthorized", account),
        (pulled(&absent, Some(registry::PASSWORD)), "unknown", "push it to `127.0.0.1:5000`"),
    ] {
        let refused = compute.ensure_source(&name, &source).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, ProviderError::NotPulled { .. }) && said.contains(word), "{said}");
        assert!(refused.hint().unwrap().contains(remedy), "{:?}", refused.hint());
        assert!(!said.contains(registry::PASSWORD) && !said.contains("wrong-registry-word"), "a password shows");
    }
    let other = compute.ensure_source(&name, &pulled(&format!("/opt/fleet@sha256:{}", "1".repeat(64)), None)).await;
    let other = other.unwrap_err();
    assert!(matches!(other, ProviderError::OtherDigest { .. }), "{other}");
    assert!(other.to_string().contains("has the digest sha256:") && other.hint().unwrap().contains("sha256sum"));
    assert!(compute.list_members().await.unwrap().is_empty(), "something was begun");

    let source = pulled(&images.artifact(0), Some(registry::PASSWORD));
    compute.ensure_source(&name, &source).await.unwrap();
    // Pulled, it is there without its registry.
    server.sh("systemctl stop registry");
    let env = |role| vec![berth_infra::EnvVar::new("DATABASE_URL", there.url(role))];
    let migrate = RunSpec {
        what: "migrate".to_owned(),
        cell: name.clone(),
        source: source.clone(),
        command: ["fleet", "migrate"].map(Into::into).into(),
        env: env(Role::Owner),
        time_limit: Duration::from_mins(1),
        shape: Shape::default(),
        key: None,
    };
    let outcome = compute.run_once(&migrate).await.unwrap();
    assert!(outcome.succeeded(), "{}", outcome.output);
    let spec = MemberSpec {
        name: MemberName::new("one.web.0").unwrap(),
        cell: name.clone(),
        service: "web".parse().unwrap(),
        index: 0,
        source,
        command: ["fleet", "serve"].map(Into::into).into(),
        env: env(Role::App),
        port: 0,
        health_path: Some("/health".to_owned()),
        shape: Shape::default(),
    };
    let made = compute.ensure_member(&spec).await.unwrap();
    let look = || async { compute.observe_member(&spec.name).await.ok().and_then(Observed::present) };
    let well = |seen: &Option<berth_infra::Member>| seen.as_ref().is_some_and(|it| it.health == Health::Healthy);
    let seen = berth_testkit::wait_until("the member answers its health path", look, well).await.unwrap();
    assert_eq!((seen.pid, seen.starts), (made.pid, 1));
    let user = server.sh(&format!("ps -o user:32= -p {}", seen.pid.unwrap()));
    assert!(user.trim().starts_with("cell-"), "the container runs as `{user}`");
    // Nobody but root finds an account or a variable of the container, neither in lists nor in what others may read.
    for secret in [registry::PASSWORD.to_owned(), there.login(Role::App).password.expose_secret().to_owned()] {
        let seen = server.sh(
            "cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' '; journalctl --no-pager -o cat; \
             setpriv --reuid nobody --clear-groups sh -c 'cat /proc/*/environ; grep -rhs . /var/lib/berth-cells /tmp /run/containers' 2>/dev/null; true",
        );
        assert!(!seen.contains(&secret), "a secret is seen on the server");
    }
    assert_eq!(server.sh(&format!("grep -rl {} /var/lib/berth-cells; true", registry::PASSWORD)), "");
    compute.remove_member(&spec.name).await.unwrap();
    let left = server.sh("podman ps --all --format '{{.Names}}'");
    assert_eq!(left.trim(), "");
}
