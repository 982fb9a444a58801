//! What `berth up` and `berth server prepare` know before they change a server, on servers that the test makes: mistakes are
//! named with nothing done, what `berth init` writes is enough, more cells stand on the same server and on another, and SSH is
//! shut whatever its files said before.

#![cfg(feature = "ssh")]
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod machines;

use berth_infra::Role;
use berth_testkit::{TestDatabase, wait_until, wait_within};
use machines::{
    Desk, Machine, answer, fleet, keygen,
    registry::{self, Images},
    run, stack, text, went,
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{fs, path::Path, process::Command, time::Duration};

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

    // Nobody to ask, and nobody has said that this is the host; below, whether it may be changed.
    assert!(refused(&up).contains("--host-key"));
    let yes = [&["--yes"][..], &up].concat();

    server.sh("systemd-run --quiet --unit taken python3 -m http.server 80 --bind 0.0.0.0; sleep 1");
    let said = refused(&yes);
    assert!(said.contains("port 80") && said.contains("python3") && said.contains("nothing was changed"), "{said}");
    server.sh("systemctl stop taken");
    // Of the server's address alone, where nothing of this machine's loopback finds it.
    server.sh(&format!("systemd-run --quiet --unit one python3 -m http.server 80 --bind {}; sleep 1", server.ip));
    let said = refused(&yes);
    assert!(said.contains("port 80") && said.contains("python3") && said.contains("nothing was changed"), "{said}");
    server.sh("systemctl stop one");
    // A web server of somebody's, at both: each is named with its process.
    server.sh("for port in 80 443; do systemd-run --quiet --unit web-$port python3 -m http.server $port --bind 0.0.0.0; done; sleep 1");
    let said = refused(&[&yes[..], &["--tls"]].concat());
    for port in [80, 443] {
        let pid = server.sh(&format!("systemctl show -p MainPID --value web-{port}"));
        assert!(said.contains(&format!("port {port} is taken by `python3` (pid {})", pid.trim())), "{said}");
    }
    assert!(said.contains("systemctl status") && said.contains("nothing was changed"), "{said}");
    server.sh("systemctl stop web-80");
    // Without `--tls` nobody wants 443.
    let said = refused(&yes);
    assert!(!said.contains("port 443"), "{said}");
    server.sh("systemctl stop web-443");
    server.sh("systemd-run --quiet --unit inside python3 -m http.server 7603 --bind 127.0.0.1; sleep 1");
    let said = refused(&yes);
    assert!(said.contains("port 7603 is taken by `python3`") && said.contains("edge needs it"), "{said}");
    server.sh("systemctl stop inside");

    let said = refused(&yes);
    assert!(said.contains("programs are not on") && said.contains("`fleet`"), "{said}");
    server.sh("ln -s /bin/true /usr/local/bin/fleet");
    for words in [&up[..], &["server", "prepare", at.as_str(), "--key-file", key.as_str()]] {
        let said = refused(words);
        assert!(said.contains("no terminal to ask at") && said.contains("`--yes` goes on"), "{said}");
    }
    let tenant = ["--tenant", "acme", "--tenant-host", "acme.example.com"];
    let said = refused(&[&yes[..], &tenant, &["--plan", "gold"]].concat());
    assert!(said.contains("no plan `gold`") && said.contains("`hobby`"), "{said}");
    let other = desk.dir.join("other.yaml");
    let with = |more: &str| {
        let file = "stack: desk\nservices: { web: { command: [fleet], health: /health, env: { WORD: \"${PARTNER_WORD}\" } } }\n\
                    data: { root: public.customers }\nplans: { standard: { price: 0, class: shared } }\n\
                    providers: { local: { adapter: local } }\n";
        fs::write(&other, format!("{file}{more}\n")).unwrap();
        ["--yes", "up", at.as_str(), "--key-file", key.as_str(), "-f", other.to_str().unwrap()]
    };
    let said = refused(&with(""));
    assert!(
        said.contains("PARTNER_WORD") && said.contains("--env-file") && said.contains("nothing was changed"),
        "{said}"
    );
    let env = desk.dir.join("env");
    fs::write(&env, "PARTNER_WORD=\"x y\"\n").unwrap();
    let env = ["--env-file", env.to_str().unwrap()];
    let said = refused(&[&with("hosts: { proof: required }")[..], &env, &tenant].concat());
    assert!(said.contains("acme.example.com has to be proved") && said.contains("nothing was changed"), "{said}");
    let said = refused(&[&with("placement: { policy: { colour: red } }")[..], &env].concat());
    assert!(said.contains("placement.policy") && said.contains("nothing was changed"), "{said}");
    // With neither a plan named nor a word missing, nothing is in the way.
    let dry = desk.berth(&[&with("")[..], &env, &tenant, &["--dry-run"]].concat()).output().unwrap();
    assert!(dry.status.success(), "{}", text(&dry.stderr));

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

/// Nothing is added to what `init` wrote but the answers to its questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stack_file_that_init_writes_comes_to_its_first_cell_and_tenant() {
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let Some(server) = Machine::start(&desk.key()) else { return };
    server.copy(&fleet, "/usr/local/bin/fleet");
    let database = TestDatabase::new().await;
    let tables = "create table customers (id uuid primary key, slug text not null);
                  create table vehicles (id uuid primary key, customer_id uuid not null references customers);
                  create table trips (id uuid primary key, customer_id uuid not null references customers)";
    database.connect(Role::Owner).await.batch_execute(tables).await.unwrap();
    let url = database.url(Role::App);
    let password = url.expose_secret().split([':', '@']).nth(2).unwrap().to_owned();
    let from = url.expose_secret().replacen(&format!(":{password}@"), "@", 1);
    let file = desk.dir.join("berth.yaml").to_str().unwrap().to_owned();
    let mut init: Command = desk.berth(&["init", "--from", &from, "-o", &file]);
    let init = init.env("BERTH_FROM_PASSWORD", &password).output().unwrap();
    assert!(init.status.success(), "{}", text(&init.stderr));

    let mut answered = fs::read_to_string(&file).unwrap();
    let create = "select customer_create(cast(cast(:id as text) as uuid), cast(:slug as text), cast(:plan as text))";
    for (question, reply) in [
        ("    command: [./start-web]\n", "    command: [fleet, serve]\n".to_owned()),
        ("    # migrate: [./migrate]\n", "    migrate: [fleet, migrate]\n".to_owned()),
        (
            "  # hooks: { create: { sql: \"insert into … values (:slug) returning id\" } }\n",
            format!("  hooks: {{ create: {{ sql: \"{create}\" }} }}\n"),
        ),
    ] {
        assert!(answered.contains(question), "`{question}` is not in\n{answered}");
        answered = answered.replace(question, &reply);
    }
    fs::write(&file, &answered).unwrap();

    let (key, at) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let words = ["--json", "--yes", "up", &at, "--key-file", &key, "-f", &file, "--tenant", "acme", "--tenant-host"];
    let words = [&words[..], &["acme.example.com"]].concat();
    let first = answer(&desk.berth(&words).output().unwrap());
    for step in ["stack", "cell", "edge", "tenant"] {
        assert_eq!(went(&first, step), "done", "{step}");
    }
    let second = answer(&desk.berth(&words).output().unwrap());
    for row in second["steps"].as_array().unwrap() {
        assert_eq!(row["went"], "was", "{row}");
    }
    // Its own edge is in nobody's way; another program at the port that it would have besides is.
    server.sh("systemd-run --quiet --unit web python3 -m http.server 443 --bind 0.0.0.0; sleep 1");
    let tls = desk.berth(&[&words[..], &["--tls"]].concat()).output().unwrap();
    let said = text(&tls.stderr);
    assert!(
        !tls.status.success() && said.contains("port 443 is taken by `python3`") && !said.contains("port 80"),
        "{said}"
    );
    server.sh("systemctl stop web; curl -fs -o /dev/null http://127.0.0.1:7603/healthz");
    let admin = first["admin_key"].as_str().unwrap();
    let cells = server.sh(&format!("BERTH_API_KEY='{admin}' berth cell list --json"));
    let cells: Value = serde_json::from_str(&cells).unwrap();
    assert_eq!(
        (cells[0]["name"].as_str(), cells[0]["provider"].as_str()),
        (Some("shared-1"), Some("local")),
        "{cells}"
    );
    beside_the_first(&desk, &server, &fleet, admin, &answered).await;
}

/// More cells than the first: one on the server that `up` has made, whose images root's agent runs, and one on another
/// server. `serve` and the edge, who are not root and see little of the machine, reach both.
async fn beside_the_first(desk: &Desk, server: &Machine, fleet: &Path, admin: &str, stack: &str) {
    let command = |words: &str| format!("BERTH_API_KEY='{admin}' berth --yes {words}");
    let berth = |words: &str| server.sh(&command(words));
    let (local, ssh) = ("  local: { adapter: local }\n", "  servers: { adapter: ssh }\n");
    assert!(stack.contains(local), "{stack}");
    let file = desk.dir.join("more.yaml");
    let more = stack.replacen(local, &format!("{local}{ssh}"), 1) + "\nreleases: { healthy_limit: 20s }\n";
    fs::write(&file, more).unwrap();
    server.copy(&file, "/srv/berth.yaml");
    server.copy(&desk.key(), "/srv/cell.key");
    berth("apply -f /srv/berth.yaml");
    berth(&format!("cell add own --host {} --key-file /srv/cell.key", server.ip));
    let other = another(desk, fleet);
    if let Some(other) = &other {
        berth(&format!("cell add far --host {} --key-file /srv/cell.key", other.ip));
        berth("tenant create gamma --plan standard --cell far --host gamma.example.com");
    }
    let images = Images::make(&desk.dir, fleet, &["1", registry::SICK]);
    let release = |images: &Images, nth: usize| -> Value {
        let made = berth(&format!("release create web={} --json", images.artifact(nth)));
        serde_json::from_str::<Value>(&made).unwrap()["number"].clone()
    };
    let containers = || server.sh("podman ps --format '{{.ID}} {{.Names}}'");
    let mut good = Value::Null;
    if let Some(images) = &images {
        images.bring(server);
        server.sh(&format!("printf %s '{}' >/srv/word", registry::PASSWORD));
        berth(&format!("registry add {} --user {} --password-file /srv/word", registry::HOST, registry::USER));
        good = release(images, 0);
        berth(&format!("release roll r{good} --to own --wait"));
        let runs = containers();
        assert!(runs.contains("member-own.web"), "{runs}");
    }
    berth("tenant create beta --plan standard --cell own --host beta.example.com");
    let status = |host: &str| {
        let (asked, host) = (format!("http://{}/health", server.ip), format!("Host: {host}"));
        text(&run("curl", &["-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", "-H", &host, &asked]).stdout)
    };
    let beta = || async { status("beta.example.com") };
    wait_until("the tenant of the second cell is served", beta, |status: &String| status == "200").await;
    let gamma = || async { other.is_none() || status("gamma.example.com") == "200" };
    wait_until("the tenant on the other server is served", gamma, |served: &bool| *served).await;
    if let Some(images) = &images {
        // An image that is never well: the containers of the one before are the same ones, and go on serving.
        let before = containers();
        let sick = server.try_sh(&command(&format!("release roll r{} --to own --wait", release(images, 1))));
        let said = text(&sick.stderr);
        assert_eq!(sick.status.code(), Some(1), "{said}");
        for word in ["cell `own`", "were not healthy within 20 s", "`releases.healthy_limit`", "1 what they ran before"]
        {
            assert!(said.contains(word), "no `{word}` in: {said}");
        }
        assert_eq!(status("beta.example.com"), "200");
        let shown: Value = serde_json::from_str(&berth("release status --json")).unwrap();
        let own = shown["cells"].as_array().unwrap().iter().find(|cell| cell["cell"] == "own");
        assert_eq!(own.unwrap()["release"], good, "{shown}");
        let now = || async { containers() };
        wait_until("the new containers are gone, and the old ones stay", now, |now: &String| *now == before).await;
    }
    // Its Postgres is `postgres`'s, the first cell's is `berth`'s. With `serve` away nobody brings it back.
    server.sh("systemctl stop berth-serve; pkill -KILL -u postgres; systemctl start berth-serve");
    let beta = || async { (server.try_sh("pgrep -u postgres").status.success(), status("beta.example.com")) };
    let served = |(runs, status): &(bool, String)| *runs && status == "200";
    wait_within(Duration::from_mins(2), "it is served again", beta, served).await;
    wait_until("the other server's tenant still is", gamma, |served: &bool| *served).await;
}

/// A second server, prepared, with the application's program on it.
fn another(desk: &Desk, fleet: &Path) -> Option<Machine> {
    let server = Machine::start(&desk.key())?;
    server.copy(fleet, "/usr/local/bin/fleet");
    let (at, key) = (format!("root@{}", server.ip), desk.key());
    let prepare = ["--json", "--yes", "server", "prepare", &at, "--key-file", key.to_str().unwrap()];
    answer(&desk.berth(&prepare).output().unwrap());
    Some(server)
}

/// Of a setting that is there twice sshd takes the first, and a `Match` block counts more than either.
#[test]
fn passwords_and_root_are_shut_out_whatever_other_files_of_ssh_say() {
    let desk = Desk::new();
    let Some(server) = Machine::start(&desk.key()) else { return };
    let (key, root) = (desk.key().to_str().unwrap().to_owned(), format!("root@{}", server.ip));
    let prepare = ["--json", "--yes", "server", "prepare", root.as_str(), "--key-file", key.as_str()];
    let ssh = |options: &[&str], at: &str| {
        let words = ["10", "ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", &key];
        run("timeout", &[&words[..], options, &[at, "echo got-in"]].concat())
    };
    let keyless = ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=0"];
    server.sh(
        "cd /etc/ssh; { printf 'PasswordAuthentication yes\\nPermitRootLogin yes\\n'; cat sshd_config; } >own; cat own >sshd_config; \
         rm own; systemctl reload ssh; sleep 0.5",
    );
    let offered = text(&ssh(&keyless, &root).stderr);
    assert!(offered.contains("password"), "it was open before: {offered}");

    let own = "/etc/ssh/sshd_config.d/90-own.conf";
    server.sh(&format!("printf '# ours\\nMatch User backup\\n  PasswordAuthentication=yes\\n' >{own}"));
    let refused = desk.berth(&prepare).output().unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("{own}:3:  PasswordAuthentication=yes")) && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(!server.try_sh("id berth-ssh").status.success(), "something was changed");
    server.sh(&format!("rm {own}"));

    let first = answer(&desk.berth(&prepare).output().unwrap());
    assert_eq!(went(&first, "ssh"), "done");
    let effective = server.sh("/usr/sbin/sshd -T");
    for line in ["passwordauthentication no", "permitrootlogin no", "kbdinteractiveauthentication no"] {
        assert!(effective.lines().any(|it| it == line), "{line}");
    }
    let stays = format!("berth-ssh@{}", server.ip);
    let denied = text(&ssh(&keyless, &stays).stderr);
    assert!(denied.contains("Permission denied (publickey)"), "{denied}");
    assert!(text(&ssh(&[], &stays).stdout).contains("got-in"));
    assert!(!text(&ssh(&["-o", "BatchMode=yes"], &root).stdout).contains("got-in"), "root came in");
    server.sh("sleep 2; fail2ban-client unban --all");

    let second = answer(&desk.berth(&prepare).output().unwrap());
    assert_eq!(went(&second, "ssh"), "was");
    // What somebody writes there afterwards is found, and told by `check` with its line.
    server.sh(&format!("printf 'Match all\\nPermitRootLogin yes\\n' >{own}"));
    server.sh(
        "printf 'APT::Periodic::%s \"0\";\\n' Enable Update-Package-Lists Unattended-Upgrade >/etc/apt/apt.conf.d/99own",
    );
    let found = || {
        let check = desk.berth(&["--json", "server", "check", &stays, "--key-file", &key]).output().unwrap();
        let check: Value = serde_json::from_slice(&check.stdout).unwrap();
        let of = |what: &str| check["findings"].as_array().unwrap().iter().find(|it| it["what"] == what).cloned();
        (of("Match blocks").unwrap(), of("upgrades").unwrap())
    };
    let (finding, upgrades) = found();
    assert!(upgrades["good"] == false && upgrades["says"].as_str().unwrap().contains("are off"), "{upgrades}");
    assert!(finding["good"] == false && finding["says"].as_str().unwrap().contains("90-own.conf:2"), "{finding}");
    server.sh(&format!("rm {own}; fail2ban-client unban --all"));
    let third = answer(&desk.berth(&prepare).output().unwrap());
    assert_eq!(went(&third, "upgrades"), "done", "another file of apt switches them off");
    assert_eq!(found().1["good"], true);
}

/// On distributions that somebody names, since each needs an image of its own: `BERTH_TEST_SUITES="trixie noble"`.
#[test]
fn other_distributions_become_served_tenants_too() {
    let suites = std::env::var_os("BERTH_TEST_SUITES").and_then(|it| it.into_string().ok()).unwrap_or_default();
    if suites.is_empty() {
        eprintln!("skipped: BERTH_TEST_SUITES names no distribution");
    }
    let (Some(fleet), desk) = (fleet(), Desk::new()) else { return };
    let (key, stack) = (desk.key().to_str().unwrap().to_owned(), stack());
    for suite in suites.split_whitespace() {
        let server = Machine::start_of(suite, &desk.key()).unwrap_or_else(|| panic!("no server of {suite}"));
        server.copy(&fleet, "/usr/local/bin/fleet");
        let at = format!("root@{}", server.ip);
        let words = ["--json", "--yes", "up", &at, "--key-file", &key, "-f", &stack, "--tenant", "acme"];
        let words = [&words[..], &["--tenant-host", "acme.example.com"]].concat();
        assert_eq!(went(&answer(&desk.berth(&words).output().unwrap()), "tenant"), "done", "{suite}");
        let second = answer(&desk.berth(&words).output().unwrap());
        assert!(second["steps"].as_array().unwrap().iter().all(|row| row["went"] == "was"), "{suite}: {second}");
        let stays = format!("berth-ssh@{}", server.ip);
        let check = answer(&desk.berth(&["--json", "server", "check", &stays, "--key-file", &key]).output().unwrap());
        assert_eq!(check["bad"], 0, "{suite}: {check:#}");
    }
}
